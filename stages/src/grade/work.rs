//! How much work a comparison may do: counted, so that it is the same on every machine.

use std::cell::Cell;

/// Steps of evaluation that a comparison may take; some ten milliseconds.
const STEPS: u32 = 200_000;

/// What is left of the allowance.
#[derive(Debug)]
pub(super) struct Work(Cell<u32>);

impl Work {
    pub(super) fn new() -> Self {
        Self(Cell::new(STEPS))
    }

    /// Takes steps off the allowance; `None` when it is used up.
    pub(super) fn spend(&self, steps: u32) -> Option<()> {
        let left = self.0.get().checked_sub(steps);
        self.0.set(left.unwrap_or(0));
        left.map(|_| ())
    }

    pub(super) fn exhausted(&self) -> bool {
        self.0.get() == 0
    }

    #[cfg(test)]
    pub(super) fn spent(&self) -> u32 {
        STEPS - self.0.get()
    }
}
