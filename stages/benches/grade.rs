//! How fast the `math` grader is: judges every row of the given files ({gold, pred} in JSON lines) again and
//! again, on one core.
//!
//! ```sh
//! cargo bench -p bstar-stages --bench grade -- FILE…
//! ```
//!
//! The speed is the median of rounds, by the processor time of this thread where the system tells it, so that
//! other work on the machine counts little. The slowest row is the one whose median time is the longest.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bstar_stages::grade::{Conventions, math};
use serde_json::Value;

/// Measured rounds, after one that warms up.
const ROUNDS: usize = 9;
/// Processor time of a round.
const ROUND: Duration = Duration::from_millis(300);

#[expect(clippy::print_stdout, reason = "the answer of the benchmark")]
fn main() {
    for path in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
        let rows: Vec<(String, String)> = match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().filter_map(row).collect(),
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        if rows.is_empty() {
            println!("{path}: no rows with gold and pred");
            continue;
        }
        let speeds = speeds(&rows);
        let (time, line) = slowest(&rows);
        println!(
            "{path}: {:.0} grades/s (median of {ROUNDS}, {:.0} to {:.0}), slowest row {line}: {:.3} ms",
            speeds[ROUNDS / 2],
            speeds[0],
            speeds[ROUNDS - 1],
            time.as_secs_f64() * 1000.0
        );
    }
}

fn row(line: &str) -> Option<(String, String)> {
    let row: Value = serde_json::from_str(line).ok()?;
    Some((row.get("gold")?.as_str()?.to_owned(), row.get("pred")?.as_str()?.to_owned()))
}

fn judge((gold, pred): &(String, String)) {
    black_box(math(black_box(gold), black_box(pred), &Conventions::default()));
}

/// What this thread has had of a processor; the clock's time where nobody says.
fn processor_time(start: Instant) -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = spent.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Grades a second, of every round, in order.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn speeds(rows: &[(String, String)]) -> Vec<f64> {
    let start = Instant::now();
    let round = || {
        let begin = processor_time(start);
        let mut grades = 0;
        loop {
            rows.iter().for_each(judge);
            grades += rows.len();
            let spent = processor_time(start).saturating_sub(begin);
            if spent >= ROUND {
                return grades as f64 / spent.as_secs_f64();
            }
        }
    };
    round();
    let mut speeds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    speeds.sort_by(f64::total_cmp);
    speeds
}

/// The longest median time of a row, and its line.
fn slowest(rows: &[(String, String)]) -> (Duration, usize) {
    let time = |row| {
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let begin = Instant::now();
                judge(row);
                begin.elapsed()
            })
            .collect();
        times.sort();
        times[ROUNDS / 2]
    };
    rows.iter().zip(1..).map(|(row, line)| (time(row), line)).max().unwrap_or_default()
}
