//! What steps left behind in a work root of this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bstar_cache::ActionKey;

use super::work::WorkRoot;

/// A scratch folder or a log that nobody will come back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub bytes: u64,
    key: ActionKey,
}

/// Scratch folders of results that are in the store or that nobody worked on since `before`, and logs
/// of that age. What cannot be read is left out.
#[must_use]
pub fn abandoned(work: &WorkRoot, published: &BTreeSet<ActionKey>, before: SystemTime) -> Vec<Abandoned> {
    let mut found = Vec::new();
    for (folder, suffix) in [("scratch", ""), ("logs", ".log")] {
        let entries = std::fs::read_dir(work.path().join(folder)).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(suffix));
            let Some(key) = name.and_then(|name| name.parse::<ActionKey>().ok()) else { continue };
            let Some((bytes, modified)) = measure(&path) else { continue };
            if modified < before || (folder == "scratch" && published.contains(&key)) {
                found.push(Abandoned { path, bytes, key });
            }
        }
    }
    found
}

/// Removes it, unless a step is at work with that key; whether it did.
#[must_use]
pub fn remove(work: &WorkRoot, abandoned: &Abandoned) -> bool {
    let Ok(Some(_lock)) = work.claim(&abandoned.key) else { return false };
    let path = &abandoned.path;
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    removed.is_ok()
}

/// The size of a file or folder, and when something in it last changed.
fn measure(path: &Path) -> Option<(u64, SystemTime)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    let mut total = (metadata.len(), metadata.modified().ok()?);
    if metadata.is_dir() {
        total.0 = 0;
        for entry in std::fs::read_dir(path).ok()?.flatten() {
            let (bytes, modified) = measure(&entry.path())?;
            total = (total.0 + bytes, total.1.max(modified));
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn scratch_of_published_or_old_work_is_removed_unless_somebody_works_there() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkRoot::at(folder.path().to_owned());
        drop(work.open_run("run").unwrap());
        let key = |digit: &str| digit.repeat(64).parse::<ActionKey>().unwrap();
        let (published, going_on) = (key("a"), key("b"));
        for key in [&published, &going_on] {
            std::fs::create_dir(work.scratch(key)).unwrap();
            std::fs::write(work.scratch(key).join("saved"), "12345").unwrap();
            std::fs::write(work.log(key), "log").unwrap();
        }
        let known = BTreeSet::from([published]);
        let now = SystemTime::now();
        let young = abandoned(&work, &known, now - Duration::from_secs(3600));
        assert_eq!(
            young.iter().map(|found| (&found.path, found.bytes)).collect::<Vec<_>>(),
            [(&work.scratch(&published), 5)]
        );
        let lock = work.claim(&published).unwrap();
        assert!(!remove(&work, &young[0]), "locked");
        drop(lock);
        assert!(remove(&work, &young[0]));
        let old = abandoned(&work, &known, now + Duration::from_secs(3600));
        assert_eq!(old.len(), 3, "the other scratch folder, and both logs");
        assert!(old.iter().all(|found| remove(&work, found)));
        assert!(!work.scratch(&going_on).exists() && !work.log(&published).exists());
    }
}
