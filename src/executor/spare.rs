//! Files and folders that a run uses again instead of making and deleting one for every step.
//!
//! Making and deleting files is dear where names are cheap. The worst is ext4 without a journal: it does not
//! use the number of a deleted file again for minutes, and looks at each of those whenever a file is made. So
//! what a step has done with is emptied, and renamed for the next one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What a run has to spare; nothing before it has a folder.
#[derive(Debug, Default)]
pub(super) struct Spares {
    home: OnceLock<PathBuf>,
    made: AtomicU64,
    /// Locked files.
    locks: Mutex<Vec<(PathBuf, File)>>,
    /// Empty files.
    logs: Mutex<Vec<PathBuf>>,
    /// Empty folders.
    scratches: Mutex<Vec<PathBuf>>,
    /// Folders that hold an empty folder `in`.
    attempts: Mutex<Vec<PathBuf>>,
}

impl Spares {
    /// From now on spares are kept in that folder.
    pub(super) fn keep_in(&self, home: &Path) {
        // A second run in one process keeps them where the first one did, or does without.
        let _already = self.home.set(home.to_owned());
    }

    /// A name for a new spare.
    fn name(&self) -> Option<PathBuf> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.home.get().map(|home| home.join(format!("spare-{number}")))
    }

    /// Gives a spare file, which this process has locked, that name, unless the name is taken.
    pub(super) fn take_lock(&self, path: &Path) -> Option<File> {
        let (spare, file) = pop(&self.locks)?;
        if rename_new(&spare, path).is_ok() {
            return Some(file);
        }
        push(&self.locks, (spare, file));
        None
    }

    /// Takes the name from a locked file and keeps the file.
    pub(super) fn keep_lock(&self, path: &Path, file: File) {
        match self.name().filter(|spare| std::fs::rename(path, spare).is_ok()) {
            Some(spare) => push(&self.locks, (spare, file)),
            None => drop(std::fs::remove_file(path)),
        }
    }

    /// Puts an empty file there, replacing what was there, if there is one to spare.
    pub(super) fn take_log(&self, path: &Path) {
        if let Some(spare) = pop(&self.logs)
            && std::fs::rename(&spare, path).is_err()
        {
            push(&self.logs, spare);
        }
    }

    /// Takes a file away again that nothing was written to.
    pub(super) fn keep_log(&self, path: &Path) {
        let empty = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0);
        if empty && let Some(spare) = self.name().filter(|spare| std::fs::rename(path, spare).is_ok()) {
            push(&self.logs, spare);
        }
    }

    /// Makes a folder, unless there is one with something in it.
    pub(super) fn take_scratch(&self, path: &Path) -> io::Result<()> {
        let Some(spare) = pop(&self.scratches) else { return std::fs::create_dir_all(path) };
        if std::fs::rename(&spare, path).is_ok() {
            return Ok(());
        }
        push(&self.scratches, spare);
        std::fs::create_dir_all(path)
    }

    /// Removes a folder with all it holds.
    pub(super) fn keep_scratch(&self, path: &Path) {
        let empty = is_empty(path);
        match self.name().filter(|spare| empty && std::fs::rename(path, spare).is_ok()) {
            Some(spare) => push(&self.scratches, spare),
            None => drop(std::fs::remove_dir_all(path)),
        }
    }

    /// A new folder at `path` for one attempt.
    pub(super) fn attempt(self: &Arc<Self>, path: PathBuf) -> io::Result<AttemptFolder> {
        let spare = pop(&self.attempts).filter(|spare| std::fs::rename(spare, &path).is_ok());
        let folder = AttemptFolder { path, inputs: Vec::new(), plain: true, spares: Arc::clone(self) };
        if spare.is_none() {
            std::fs::create_dir_all(folder.path.join("in"))?;
        }
        // Always a new one: whatever an earlier step left running has no way into it.
        std::fs::create_dir(folder.output())?;
        Ok(folder)
    }
}

/// The folder of one attempt; removed in the end.
#[derive(Debug)]
pub(super) struct AttemptFolder {
    path: PathBuf,
    inputs: Vec<PathBuf>,
    /// Whether all inputs are files.
    plain: bool,
    spares: Arc<Spares>,
}

impl AttemptFolder {
    /// Where the step writes its outputs.
    pub(super) fn output(&self) -> PathBuf {
        self.path.join("out")
    }

    /// Where the parameters of a program go.
    pub(super) fn params(&self) -> PathBuf {
        self.path.join("params.json")
    }

    /// The place of an input, a file or a folder; what is around it is there.
    pub(super) fn input(&mut self, name: &str, folder: bool) -> io::Result<PathBuf> {
        let path = self.place(name);
        if let (true, Some(parent)) = (name.contains('/'), path.parent()) {
            std::fs::create_dir_all(parent)?;
        }
        self.plain &= !folder && !name.contains('/');
        self.inputs.push(path.clone());
        Ok(path)
    }

    /// The path of an input.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.path.join("in").join(name)
    }

    /// Empties the folder; whether that was possible.
    fn clear(&self) -> bool {
        // Parameters, if there were any.
        drop(std::fs::remove_file(self.params()));
        std::fs::remove_dir(self.output()).is_ok()
            && self.plain
            && self.inputs.iter().all(|input| std::fs::remove_file(input).is_ok())
            && is_empty(&self.path.join("in"))
    }
}

impl Drop for AttemptFolder {
    fn drop(&mut self) {
        match self.spares.name().filter(|spare| self.clear() && std::fs::rename(&self.path, spare).is_ok()) {
            Some(spare) => push(&self.spares.attempts, spare),
            None => drop(std::fs::remove_dir_all(&self.path)),
        }
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Renames unless the new name is taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        std::fs::hard_link(from, to)?;
        std::fs::remove_file(from)
    }
}

fn pop<T>(spares: &Mutex<Vec<T>>) -> Option<T> {
    spares.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn push<T>(spares: &Mutex<Vec<T>>, spare: T) {
    spares.lock().unwrap_or_else(PoisonError::into_inner).push(spare);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_used_again_is_empty_and_has_a_new_output_folder() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let spares = Arc::new(Spares::default());
        spares.keep_in(home.path());
        let mut first = spares.attempt(path("a")).unwrap();
        std::fs::write(first.input("x", false).unwrap(), "x").unwrap();
        std::fs::write(first.params(), "{}").unwrap();
        drop(first);
        assert!(!path("a").exists());
        let second = spares.attempt(path("b")).unwrap();
        assert!(pop(&spares.attempts).is_none(), "it is used again");
        assert!(is_empty(&path("b/in")) && is_empty(&second.output()) && !second.params().exists());
        // Something that nobody expects: nothing of it is kept.
        std::fs::write(second.output().join("more"), "").unwrap();
        drop(second);
        assert!(!path("b").exists() && pop(&spares.attempts).is_none());
        let third = spares.attempt(path("c")).unwrap();
        std::fs::write(path("c/in/unexpected"), "").unwrap();
        drop(third);
        assert!(!path("c").exists() && pop(&spares.attempts).is_none());
    }

    #[test]
    fn a_scratch_folder_with_something_in_it_is_never_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let spares = Spares::default();
        spares.keep_in(home.path());
        spares.take_scratch(&path("one")).unwrap();
        spares.keep_scratch(&path("one"));
        assert!(!path("one").exists());
        std::fs::create_dir(path("two")).unwrap();
        std::fs::write(path("two/checkpoint"), "half").unwrap();
        spares.take_scratch(&path("two")).unwrap();
        assert!(path("two/checkpoint").exists());
        spares.keep_scratch(&path("two"));
        assert!(!path("two").exists());
        spares.take_scratch(&path("three")).unwrap();
        assert!(is_empty(&path("three")) && pop(&spares.scratches).is_none());
    }

    #[test]
    fn a_log_that_holds_something_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let spares = Spares::default();
        spares.keep_in(home.path());
        for (log, text) in [("silent", ""), ("loud", "words")] {
            spares.take_log(&path(log));
            std::fs::write(path(log), text).unwrap();
            spares.keep_log(&path(log));
        }
        assert!(!path("silent").exists());
        assert_eq!(std::fs::read_to_string(path("loud")).unwrap(), "words");
    }
}
