//! Folders that steps work in, and the locks that keep concurrent runs out of each other's way.
//!
//! | below the work root | what | until |
//! |---|---|---|
//! | `steps/RUN/KEY-*` | inputs and outputs of one attempt | its end; a dead run's by the next run |
//! | `scratch/KEY` | checkpoints of one execution | its result is published |
//! | `logs/KEY.log` | what a program printed, if anything; a line for every update of a training | overwritten by its next execution |
//! | `stamps.json` | the user's files that were read before | they change |
//! | `id` | a random name | for ever |
//!
//! Locks are the kernel's: they end with the process that holds them, however it ends. On NFS (version 4)
//! they hold across machines.

use std::collections::hash_map::RandomState;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bstar_cache::placement::create_spread_folder;
use bstar_cache::{ActionKey, Store};

use super::programs::end_programs;
use super::spare::Spares;

/// The folder that holds all of the above.
#[derive(Debug, Clone)]
pub struct WorkRoot(PathBuf, Arc<Spares>);

impl WorkRoot {
    /// The work root of a store: inside it when it is a folder, or in the folder in front of its bucket, so that
    /// files need not be copied, and in the user's cache folder otherwise.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        if let Some(root) = store.folder() {
            return Self::at(root.join("work"));
        }
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Self::at(cache.or_else(home).unwrap_or_else(std::env::temp_dir).join("bstar/work"))
    }

    /// A work root of one's own.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path, Arc::default())
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the execution with that key keeps its progress.
    #[must_use]
    pub fn scratch(&self, key: &ActionKey) -> PathBuf {
        self.0.join("scratch").join(key.to_string())
    }

    /// Where the output of a program, or what training says, is kept, for the execution with that key.
    #[must_use]
    pub fn log(&self, key: &ActionKey) -> PathBuf {
        self.0.join("logs").join(format!("{key}.log"))
    }

    /// A name that no other work root has: whoever reads the same one sees the same locks.
    pub(super) fn identity(&self) -> io::Result<String> {
        let path = self.0.join("id");
        loop {
            match std::fs::read_to_string(&path) {
                Ok(identity) => return Ok(identity.trim().to_owned()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let random = RandomState::new().hash_one((SystemTime::now(), std::process::id()));
            let file = tempfile::NamedTempFile::new_in(&self.0)?;
            std::fs::write(file.path(), format!("{random:016x}\n"))?;
            // Whoever is first names it.
            match file.persist_noclobber(&path) {
                Ok(_) => {}
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.error),
            }
        }
    }

    /// Makes the right to execute that key exclusive on this machine; `None` while a living process
    /// has it.
    pub(super) fn claim(&self, key: &ActionKey) -> io::Result<Option<Lock>> {
        let path = self.0.join("scratch").join(format!("{key}.lock"));
        let lock = |file| Lock { path: path.clone(), file: Some(file), spares: Some(Arc::clone(&self.1)) };
        if let Some(file) = self.1.take_lock(&path) {
            return Ok(Some(lock(file)));
        }
        Ok(Lock::acquire(&path)?.and_then(Lock::into_file).map(lock))
    }

    /// What the run in this folder has to spare.
    pub(super) fn spares(&self) -> &Arc<Spares> {
        &self.1
    }

    /// Ends the programs of an execution of that key that was cut off: whoever has the claim is the only
    /// one to use its scratch folder, which exists only in this case.
    pub(super) fn end_orphans(&self, key: &ActionKey) {
        let scratch = self.scratch(key);
        if scratch.exists() {
            end_programs("BSTAR_SCRATCH", &scratch);
        }
    }

    /// Makes the folder for the attempts of a run, and removes those of runs that died.
    pub(super) fn open_run(&self, run: &str) -> io::Result<RunFolder> {
        let steps = self.0.join("steps");
        create_spread_folder(&steps)?;
        for folder in ["scratch", "logs"] {
            std::fs::create_dir_all(self.0.join(folder))?;
        }
        for entry in std::fs::read_dir(&steps)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "lock") {
                // Someone else may be cleaning at the same time: what is gone is gone.
                if let Ok(Some(lock)) = Lock::acquire(&path) {
                    let dead = path.with_extension("");
                    end_programs("BSTAR_OUT", &dead);
                    drop(std::fs::remove_dir_all(dead));
                    drop(lock);
                }
            }
        }
        let lock = loop {
            // Taken only for the moment in which another run looks whether this one is dead.
            match Lock::acquire(&steps.join(format!("{run}.lock")))? {
                Some(lock) => break lock,
                None => std::thread::yield_now(),
            }
        };
        let path = steps.join(run);
        std::fs::create_dir_all(&path)?;
        let no_params = path.join("no-params.json");
        std::fs::write(&no_params, "{}")?;
        std::fs::set_permissions(&no_params, Permissions::from_mode(0o444))?;
        self.1.keep_in(&path);
        Ok(RunFolder { path, no_params, _lock: lock })
    }
}

/// The folder for the attempts of a living run; removed in the end.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    no_params: PathBuf,
    _lock: Lock,
}

impl RunFolder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What all steps without parameters are given for them.
    pub(super) fn no_params(&self) -> &Path {
        &self.no_params
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// An exclusive lock on a file that has its name only while it is locked.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: Option<File>,
    /// Who keeps the file in the end.
    spares: Option<Arc<Spares>>,
}

impl Lock {
    /// Locks the file, unless a living process has it locked.
    fn acquire(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The last holder may have removed the file between opening and locking it: a lock on
            // a file without a name keeps nobody out.
            match std::fs::metadata(path) {
                Ok(named) if named.ino() == file.metadata()?.ino() => {
                    return Ok(Some(Self { path: path.to_owned(), file: Some(file), spares: None }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Lock {
    /// The file, locked, under its name.
    fn into_file(mut self) -> Option<File> {
        self.file.take()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        match (self.file.take(), &self.spares) {
            (Some(file), Some(spares)) => spares.keep_lock(&self.path, file),
            (Some(_locked), None) => drop(std::fs::remove_file(&self.path)),
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let lock = Lock::acquire(&path).unwrap().unwrap();
        assert!(Lock::acquire(&path).unwrap().is_none());
        drop(lock);
        assert!(!path.exists());
        assert!(Lock::acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_on_a_file_used_again_keeps_others_out_too() {
        let folder = tempfile::tempdir().unwrap();
        let key = |digit: &str| digit.repeat(64).parse::<ActionKey>().unwrap();
        let (one, other) = (WorkRoot::at(folder.path().to_owned()), WorkRoot::at(folder.path().to_owned()));
        let _runs = (one.open_run("one").unwrap(), other.open_run("other").unwrap());
        drop(one.claim(&key("a")).unwrap().unwrap());
        let again = one.claim(&key("b")).unwrap().unwrap();
        assert!(other.claim(&key("b")).unwrap().is_none());
        drop(other.claim(&key("a")).unwrap().unwrap());
        assert!(other.claim(&key("b")).unwrap().is_none(), "a spare file does not replace a name");
        drop(again);
        assert!(other.claim(&key("b")).unwrap().is_some());
        // What a killed process leaves behind: a name without a lock.
        std::fs::write(folder.path().join(format!("scratch/{}.lock", key("c"))), "").unwrap();
        assert!(one.claim(&key("c")).unwrap().is_some());
        assert_eq!(std::fs::read_dir(folder.path().join("scratch")).unwrap().count(), 0);
    }

    #[test]
    fn a_work_root_keeps_its_name() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let name = |index: usize| WorkRoot::at(folders[index].path().to_owned()).identity().unwrap();
        assert_eq!(name(0), name(0));
        assert_ne!(name(0), name(1));
    }

    #[test]
    fn folders_of_dead_runs_are_removed_and_those_of_living_ones_kept() {
        let folder = tempfile::tempdir().unwrap();
        let root = WorkRoot::at(folder.path().to_owned());
        let living = root.open_run("living").unwrap();
        let dead = folder.path().join("steps/dead");
        std::fs::create_dir_all(dead.join("abc-1/out")).unwrap();
        let mut orphan = std::process::Command::new("sleep")
            .arg("60")
            .env("BSTAR_OUT", dead.join("abc-1/out"))
            .spawn()
            .unwrap();
        std::fs::write(folder.path().join("steps/dead.lock"), "").unwrap();
        let new = root.open_run("new").unwrap();
        assert!(!dead.exists());
        if !Path::new("/proc/self/environ").exists() {
            orphan.kill().unwrap();
        }
        assert!(!orphan.wait().unwrap().success(), "the orphan was killed");
        assert!(living.path().exists());
        let path = new.path().to_owned();
        drop(new);
        assert!(!path.exists());
    }
}
