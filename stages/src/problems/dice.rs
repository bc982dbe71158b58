//! Random choices from a stream of their own.

use std::ops::RangeInclusive;

use bstar_cache::Digest;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// A random stream.
#[derive(Debug, Clone)]
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of one purpose under a seed.
    pub(super) fn new(seed: u64, purpose: &str) -> Self {
        let digest = Digest::of(format!("bstar problems {seed} {purpose}").as_bytes());
        Self(ChaCha8Rng::from_seed(*digest.as_bytes()))
    }

    /// A number below `bound`, which is above 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        // The high half of a product: the bias is below 2^-50 for the small bounds used here.
        let product = u128::from(self.0.next_u64()) * bound as u128;
        usize::try_from(product >> 64).expect("below a usize")
    }

    /// A whole number of a range.
    pub(super) fn number(&mut self, range: RangeInclusive<i64>) -> i64 {
        let span = usize::try_from(range.end() - range.start() + 1).expect("a range that is not empty");
        range.start() + i64::try_from(self.below(span)).expect("a small range")
    }

    /// True with probability `p`.
    pub(super) fn chance(&mut self, p: f64) -> bool {
        let threshold = (p * f64::from(u32::MAX)).round();
        f64::from(self.0.next_u32()) < threshold
    }

    /// One of `items`, which are not empty.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Puts `items` in random order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_have_different_streams() {
        let draw = |purpose| {
            let mut dice = Dice::new(17, purpose);
            (0..8).map(|_| dice.below(100)).collect::<Vec<_>>()
        };
        assert_eq!(draw("test"), draw("test"));
        assert_ne!(draw("test"), draw("train"));
    }

    #[test]
    fn numbers_cover_their_range_evenly() {
        let mut dice = Dice::new(0, "range");
        let mut counts = [0; 4];
        for _ in 0..8000 {
            counts[usize::try_from(dice.number(2..=5) - 2).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (1800..2200).contains(count)), "{counts:?}");
    }

    #[test]
    fn chances_are_as_asked() {
        let mut dice = Dice::new(0, "chance");
        let hits = (0..10_000).filter(|_| dice.chance(0.3)).count();
        assert!((2850..3150).contains(&hits), "{hits}");
        assert!(!(0..1000).any(|_| dice.chance(0.0)));
    }
}
