//! Files of the user that were read before: as long as nothing about them changes, they are not read again.
//!
//! Where a run of yesterday imported a model of many gigabytes, the one of today only asks the file system
//! whether it is still that file: by device, inode, size, and the times of the last change of content and
//! of anything else, the latter of which no program can set. A file that was changed within two seconds
//! before it was read is not remembered, as a second change might have left no trace.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bstar_cache::{Artifact, Digest};
use serde::{Deserialize, Serialize};

use super::work::WorkRoot;

/// File systems keep times in steps of up to two seconds.
const RACY: Duration = Duration::from_secs(2);

/// What was true of a file when it had a certain content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970.
    modified: i64,
    changed: i64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the last change is long enough ago.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = u64::try_from(self.modified.max(self.changed)).unwrap_or(u64::MAX);
        now.saturating_sub(RACY) > Duration::from_nanos(last)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    stamp: Stamp,
    digest: Digest,
}

/// The digests of files, by path; kept in a file of the work root, if there is one.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<PathBuf, Known>,
    changed: bool,
}

impl Stamps {
    /// Those of a work root. A file of them that cannot be read is none.
    pub(super) fn of(work: &WorkRoot) -> Self {
        let file = work.path().join("stamps.json");
        let known = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let state = State { known: known.unwrap_or_default(), changed: false };
        Self { file: Some(file), state: Mutex::new(state) }
    }

    /// The content of a file that is as it was when that content was read.
    pub(super) fn recall(&self, path: &Path, metadata: &Metadata) -> Option<Artifact> {
        let stamp = Stamp::of(metadata);
        let state = self.state();
        let known = state.known.get(path).filter(|known| known.stamp == stamp)?;
        Some(Artifact { digest: known.digest, size: stamp.size })
    }

    /// Whether a file of that name was of that size: its content may be the same.
    pub(super) fn resembles(&self, path: &Path, metadata: &Metadata) -> bool {
        self.state().known.get(path).is_some_and(|known| known.stamp.size == metadata.len())
    }

    /// Remembers what a file holds that was `before` when reading it began.
    pub(super) fn remember(&self, path: &Path, before: &Metadata, artifact: Artifact) {
        let stamp = Stamp::of(before);
        let unchanged = std::fs::metadata(path).is_ok_and(|after| Stamp::of(&after) == stamp);
        if unchanged && stamp.is_settled() && stamp.size == artifact.size {
            let mut state = self.state();
            state.known.insert(path.to_owned(), Known { stamp, digest: artifact.digest });
            state.changed = true;
        }
    }

    /// Writes the file anew, if there is something new. Of two runs at once, the last one is kept: what is
    /// forgotten is read again.
    pub(super) fn save(&self) {
        let mut state = self.state();
        let Some(file) = self.file.as_ref().filter(|_| std::mem::take(&mut state.changed)) else { return };
        let there = |path: &Path, known: &Known| {
            std::fs::metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == known.stamp)
        };
        state.known.retain(|path, known| there(path, known));
        let write = || {
            let folder = file.parent().unwrap_or(Path::new(""));
            let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer(&mut temporary, &state.known)?;
            temporary.persist(file)?;
            std::io::Result::Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "cannot write down which files were read");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Artifact = Artifact { digest: Digest::from_bytes([7; 32]), size: 7 };

    /// A file whose last change seems to be long ago, as far as a program can make it seem so.
    fn stamped(path: &Path, stamps: &Stamps) {
        std::fs::write(path, "content").unwrap();
        let metadata = std::fs::metadata(path).unwrap();
        let known = Known { stamp: Stamp::of(&metadata), digest: CONTENT.digest };
        let mut state = stamps.state();
        state.known.insert(path.to_owned(), known);
        state.changed = true;
    }

    fn recall(path: &Path, stamps: &Stamps) -> Option<Artifact> {
        stamps.recall(path, &std::fs::metadata(path).unwrap())
    }

    #[test]
    fn any_change_of_a_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let stamps = Stamps::default();
        stamped(&path, &stamps);
        assert_eq!(recall(&path, &stamps), Some(CONTENT));
        // The same size and the same time of change, as tools that copy files leave them.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let wait_for_the_clock = || std::thread::sleep(Duration::from_millis(20));
        wait_for_the_clock();
        std::fs::write(&path, "CONTENT").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(recall(&path, &stamps), None, "changed");
        stamped(&path, &stamps);
        wait_for_the_clock();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
        assert_eq!(recall(&path, &stamps), None, "touched");
        stamped(&path, &stamps);
        std::fs::write(folder.path().join("other"), "content").unwrap();
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        assert_eq!(recall(&path, &stamps), None, "replaced");
    }

    #[test]
    fn a_file_that_has_just_been_changed_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let stamps = Stamps::default();
        stamps.remember(&path, &metadata, CONTENT);
        assert_eq!(recall(&path, &stamps), None);
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
        let at =
            |seconds_ago: i64| Stamp { changed: now - seconds_ago * 1_000_000_000, ..Stamp::of(&metadata) };
        let old = Stamp { modified: 0, ..at(3) };
        assert!(old.is_settled() && !at(3).is_settled() && !Stamp { modified: 0, ..at(1) }.is_settled());
    }

    #[test]
    fn what_is_known_is_kept_without_what_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkRoot::at(folder.path().to_owned());
        let (kept, gone) = (folder.path().join("kept"), folder.path().join("gone"));
        let stamps = Stamps::of(&work);
        stamped(&kept, &stamps);
        stamped(&gone, &stamps);
        std::fs::remove_file(&gone).unwrap();
        stamps.save();
        let again = Stamps::of(&work);
        assert_eq!(recall(&kept, &again), Some(CONTENT));
        assert_eq!(again.state().known.len(), 1);
        std::fs::write(folder.path().join("stamps.json"), "{\"torn").unwrap();
        assert!(Stamps::of(&work).state().known.is_empty());
    }
}
