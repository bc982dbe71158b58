//! Group commit: many results reach the disk together.
//!
//! A sync for every result would cost more than most results. So whatever was published is synced by a
//! thread of its own, [`PERIOD`] after the first of it, and by [`Committer::commit`] at the end of a run.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// The most that a power cut takes away of what was published, apart from the time that the sync needs.
const PERIOD: Duration = Duration::from_millis(1500);

pub(crate) struct Committer {
    root: PathBuf,
    state: Mutex<State>,
    /// Held during a sync, so that whoever asks for one meanwhile waits for it.
    syncing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// How much was published, and how much of that is on the disk.
    published: u64,
    synced: u64,
    /// Whether there is a thread that will sync.
    waiting: bool,
}

impl Committer {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, state: Mutex::default(), syncing: Mutex::default() }
    }

    /// Something was published.
    pub(crate) fn published(self: &Arc<Self>) {
        let mut state = self.state();
        state.published += 1;
        if !state.waiting {
            let committer = Arc::downgrade(self);
            let thread = std::thread::Builder::new().name("bstar-commit".to_owned());
            // Without a thread the end of the run syncs everything.
            state.waiting = thread.spawn(move || run(&committer)).is_ok();
        }
    }

    /// Returns when everything that was published before the call is on the disk.
    pub(crate) fn commit(&self) -> io::Result<()> {
        let _one_at_a_time = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let published = {
            let state = self.state();
            if state.synced == state.published {
                return Ok(());
            }
            state.published
        };
        sync(&File::open(&self.root)?)?;
        self.state().synced = published;
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn pending(&self) -> u64 {
        let state = self.state();
        state.published - state.synced
    }
}

/// Syncs as long as something new comes. Keeps nothing alive that nobody else uses.
fn run(committer: &Weak<Committer>) {
    loop {
        std::thread::sleep(PERIOD);
        let Some(committer) = committer.upgrade() else { return };
        if let Err(error) = committer.commit() {
            tracing::warn!(%error, "cannot flush the store: a power cut may take recent results away");
        }
        let mut state = committer.state();
        if state.synced == state.published {
            state.waiting = false;
            return;
        }
    }
}

/// Everything that was written to the file system of the folder, with all its names.
#[cfg(target_os = "linux")]
fn sync(folder: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(folder)?)
}

#[cfg(not(target_os = "linux"))]
fn sync(_folder: &File) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_is_committed_once_and_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let committer = Arc::new(Committer::new(folder.path().to_owned()));
        committer.published();
        committer.published();
        assert_eq!(committer.pending(), 2);
        committer.commit().unwrap();
        assert_eq!(committer.pending(), 0);
        committer.published();
        while committer.pending() > 0 {
            std::thread::yield_now();
        }
    }
}
