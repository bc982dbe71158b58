//! How a run is asked to end early.

use std::sync::Arc;

use tokio::sync::watch;

/// How urgently a run shall end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Not at all.
    #[default]
    Go,
    /// Nothing new starts; running steps save their progress and end.
    Stop,
    /// Everything is killed.
    Kill,
}

/// A handle to end a run: clones share the level, which only rises.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<Level>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Level::Go)))
    }
}

impl Stop {
    /// Asks the run to save what it has and end. Asked again, it is killed.
    pub fn stop(&self) {
        self.0.send_modify(|level| {
            *level = match level {
                Level::Go => Level::Stop,
                Level::Stop | Level::Kill => Level::Kill,
            }
        });
    }

    /// Ends everything at once.
    pub fn kill(&self) {
        self.0.send_replace(Level::Kill);
    }

    /// The level.
    #[must_use]
    pub fn level(&self) -> Level {
        *self.0.borrow()
    }

    /// Waits until the level is at least `level`.
    pub async fn reached(&self, level: Level) {
        let mut receiver = self.0.subscribe();
        // The sender lives as long as `self`.
        drop(receiver.wait_for(|now| *now >= level).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn asking_twice_kills() {
        let stop = Stop::default();
        assert_eq!(stop.level(), Level::Go);
        stop.clone().stop();
        stop.reached(Level::Stop).await;
        assert_eq!(stop.level(), Level::Stop);
        stop.stop();
        stop.reached(Level::Kill).await;
    }
}
