//! Whether the disk answers at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Handing work to another thread and waiting for it costs about a twentieth of this.
const QUICK: Duration = Duration::from_millis(1);
/// Content that is read or hashed in that time.
pub(super) const SMALL: u64 = 1 << 18;

/// How long short operations took of late: their moving average in nanoseconds.
///
/// On a local disk they are done before another thread would have begun, so they are carried out where
/// they are asked for. On a network file system each waits for an answer: there they get threads of
/// their own, and many wait at the same time.
#[derive(Debug, Default)]
pub(crate) struct Pace(AtomicU64);

impl Pace {
    pub(super) fn is_quick(&self) -> bool {
        u128::from(self.0.load(Ordering::Relaxed)) < QUICK.as_nanos()
    }

    /// Does the work, and remembers how long it took.
    pub(super) fn measure<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX / 8);
        // Threads that write at the same time may lose a figure: it is an average.
        let average = self.0.load(Ordering::Relaxed);
        self.0.store(average - average / 8 + took / 8, Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_operations_are_noticed_and_forgotten() {
        let pace = Pace::default();
        assert!(pace.is_quick());
        pace.measure(|| std::thread::sleep(Duration::from_millis(10)));
        assert!(!pace.is_quick());
        for _ in 0..1000 {
            pace.measure(|| ());
        }
        assert!(pace.is_quick());
    }
}
