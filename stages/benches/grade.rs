//! How fast the `math` grader is: judges every row of the given files ({gold, pred} in JSON lines) again
//! and again for a second each, on one core.
//!
//! ```sh
//! cargo bench -p bstar-stages --bench grade -- FILE…
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use bstar_stages::grade::{Conventions, math};
use serde_json::Value;

#[expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "the answer of the benchmark")]
fn main() {
    let conventions = Conventions::default();
    for path in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let rows: Vec<(String, String)> = text.lines().filter_map(row).collect();
        let (mut grades, mut slowest) = (0_u64, (Duration::ZERO, 0));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) && !rows.is_empty() {
            for (at, (gold, pred)) in rows.iter().enumerate() {
                let begin = Instant::now();
                black_box(math(black_box(gold), black_box(pred), &conventions));
                // The first round warms up.
                if grades >= rows.len() as u64 {
                    slowest = slowest.max((begin.elapsed(), at + 1));
                }
                grades += 1;
            }
        }
        let speed = grades as f64 / start.elapsed().as_secs_f64();
        let (time, line) = slowest;
        println!("{path}: {speed:.0} grades/s, slowest row {line}: {:.3} ms", time.as_secs_f64() * 1000.0);
    }
}

fn row(line: &str) -> Option<(String, String)> {
    let row: Value = serde_json::from_str(line).ok()?;
    Some((row.get("gold")?.as_str()?.to_owned(), row.get("pred")?.as_str()?.to_owned()))
}
