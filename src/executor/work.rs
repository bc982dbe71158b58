//! Folders that steps work in, and the locks that keep concurrent runs out of each other's way.
//!
//! | below the work root | what | until |
//! |---|---|---|
//! | `steps/RUN/KEY-*` | inputs and outputs of one attempt | its end; a dead run's by the next run |
//! | `scratch/KEY` | checkpoints of one execution | its result is published |
//! | `logs/KEY.log` | what a program printed | overwritten by its next execution |
//!
//! Locks are the kernel's: they end with the process that holds them, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bstar_cache::{ActionKey, Store};
use rustix::process::{Pid, Signal, kill_process};

/// The folder that holds all of the above.
#[derive(Debug, Clone)]
pub struct WorkRoot(PathBuf);

impl WorkRoot {
    /// The work root of a store: inside it when it is a folder, so that files need not be copied, and
    /// in the user's cache folder otherwise.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        if let Some(root) = store.local_root() {
            return Self(root.join("work"));
        }
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Self(cache.or_else(home).unwrap_or_else(std::env::temp_dir).join("bstar/work"))
    }

    /// A work root of one's own.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
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

    /// Where the output of a program is kept, for the execution with that key.
    #[must_use]
    pub fn log(&self, key: &ActionKey) -> PathBuf {
        self.0.join("logs").join(format!("{key}.log"))
    }

    /// Makes the right to execute that key exclusive on this machine; `None` while a living process
    /// has it.
    pub(super) fn claim(&self, key: &ActionKey) -> io::Result<Option<Lock>> {
        Lock::acquire(&self.0.join("scratch").join(format!("{key}.lock")))
    }

    /// Makes the folder for the attempts of a run, and removes those of runs that died.
    pub(super) fn open_run(&self, run: &str) -> io::Result<RunFolder> {
        let steps = self.0.join("steps");
        for folder in ["steps", "scratch", "logs"] {
            std::fs::create_dir_all(self.0.join(folder))?;
        }
        for entry in std::fs::read_dir(&steps)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "lock") {
                // Someone else may be cleaning at the same time: what is gone is gone.
                if let Ok(Some(lock)) = Lock::acquire(&path) {
                    let dead = path.with_extension("");
                    end_orphans(&dead);
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
        Ok(RunFolder { path, _lock: lock })
    }
}

/// Ends programs that a dead run left behind, so that their step is not executed twice at a time. They
/// are known by their environment, which names the run's folder; without `/proc` they go on.
fn end_orphans(folder: &Path) {
    let mine = |environment: &[u8]| {
        let output = [b"BSTAR_OUT=", folder.as_os_str().as_encoded_bytes(), b"/"].concat();
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(&output))
    };
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        if std::fs::read(entry.path().join("environ")).is_ok_and(|environment| mine(&environment)) {
            let _may_be_gone = kill_process(pid, Signal::KILL);
        }
    }
}

/// The folder for the attempts of a living run; removed in the end.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    _lock: Lock,
}

impl RunFolder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// An exclusive lock on a file that exists only while it is locked.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
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
                    return Ok(Some(Self { path: path.to_owned(), _file: file }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
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
