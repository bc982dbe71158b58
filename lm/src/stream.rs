//! Random streams that depend on what they are for and on nothing else.

use bstar_cache::Digest;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream for a purpose: the same parts always give the same numbers.
    #[must_use]
    pub fn new(purpose: &str, seed: u64, name: &str, index: u64) -> Self {
        let mut key = Vec::with_capacity(64);
        for part in [purpose.as_bytes(), &seed.to_le_bytes(), name.as_bytes(), &index.to_le_bytes()] {
            key.extend((part.len() as u64).to_le_bytes());
            key.extend(part);
        }
        Self(ChaCha8Rng::from_seed(*Digest::of(&key).as_bytes()))
    }

    /// Uniform in [0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A permutation of `0..length` (Fisher and Yates).
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below `length`")]
    pub fn permutation(&mut self, length: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..length).collect();
        for last in (1..length).rev() {
            // The bias of the remainder is below 2^-40 for any realistic length.
            order.swap(last, (self.0.next_u64() % (last as u64 + 1)) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_every_part() {
        let first = |purpose, seed, name, index| Stream::new(purpose, seed, name, index).uniform().to_bits();
        let base = first("sample", 1, "q1", 2);
        assert_eq!(base, first("sample", 1, "q1", 2));
        for other in [
            first("init", 1, "q1", 2),
            first("sample", 2, "q1", 2),
            first("sample", 1, "q", 2),
            first("sample", 1, "q1", 3),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn numbers_have_the_right_moments() {
        let mut stream = Stream::new("test", 0, "", 0);
        let uniform: Vec<f64> = (0..20_000).map(|_| stream.uniform()).collect();
        let normal: Vec<f64> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / 20_000.0;
        let squares: Vec<f64> = normal.iter().map(|value| value * value).collect();
        assert!((mean(&uniform) - 0.5).abs() < 0.01 && uniform.iter().all(|u| (0.0..1.0).contains(u)));
        assert!(mean(&normal).abs() < 0.03 && (mean(&squares) - 1.0).abs() < 0.05);
    }

    #[test]
    fn permutations_hold_every_index() {
        let mut order = Stream::new("test", 0, "", 0).permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
