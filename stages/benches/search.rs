//! The balance-score search at the paper's fine grid: 600 queries × 64 responses × 15 temperatures ×
//! 201 thresholds, after loading. Prints the median of seven runs.
//!
//! ```sh
//! cargo bench -p bstar-stages
//! ```

use std::time::Instant;

use bstar_stages::balance::{Candidate, Pool, best, surface};
use bstar_stages::config::Ties;

#[expect(clippy::print_stdout, reason = "the answer of the benchmark")]
fn main() {
    let pools: Vec<(f64, Pool)> = (0..15).map(|step| (0.5 + f64::from(step) * 0.05, pool(step))).collect();
    let thresholds: Vec<f64> = (0..=200).map(|step| f64::from(step) / 100.0 - 1.0).collect();
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            let found = best(&surface(&pools, &thresholds, Some(5.87), 8), Ties::Kept);
            assert!(found.is_some());
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("search: median {:.1} ms of {}", 1000.0 * times[times.len() / 2], times.len());
}

/// Rewards as a reward model and an answer check give them, from a fixed sequence of numbers.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn pool(temperature: u32) -> Pool {
    let mut state = u64::from(temperature) + 1;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut query = || -> Vec<Candidate> {
        let draw = |sample| {
            let correct = random() % 3 == 0;
            let model = (random() % 2001) as f64 / 1000.0 - 1.0;
            Candidate { score: model + f64::from(u8::from(correct)), text: random() % 200, sample, correct }
        };
        (0..64).map(draw).collect()
    };
    let queries: Vec<Vec<Candidate>> = (0..600).map(|_| query()).collect();
    Pool::new(queries.iter().map(Vec::as_slice))
}
