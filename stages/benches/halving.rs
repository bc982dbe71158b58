//! Successive halving against the whole search, on recorded rewards.
//!
//! Each folder is what the `score` step of one search wrote (`rewards/t=0.5/q00000-00064.s0000-0016.jsonl`, …).
//! The whole search sees all temperatures on all queries; halving sees all on the first share of them, the
//! better half on more, and so on. Queries are rotated, so that every part of them comes first once. At first it
//! says how often the whole search chooses the same when it is repeated with queries drawn anew from the same ones:
//! no search with fewer samples can be expected to agree more often.
//!
//! ```sh
//! cargo bench -p bstar-stages --bench halving -- [--keep 3] [--n-star 6] [--step 100] FOLDER…
//! ```
//!
//! `--keep` and `--n-star` are the settings of the search; `--step` is the distance of temperatures that count, in
//! thousandths, so that one recording of a fine grid serves a coarse one too.

use std::collections::BTreeMap;
use std::path::Path;

use bstar_stages::balance::{Candidate, Choice, Pool, best, surface};
use bstar_stages::config::{Thresholds, Ties};
use bstar_stages::files::read_rows;
use bstar_stages::record::Reward;

const ROTATIONS: usize = 5;
/// Repetitions of the whole search, for each recording.
const AGAIN: usize = 50;

/// Temperature (in thousandths) → the candidates of each query, in the order of the queries.
type Recording = BTreeMap<i64, Vec<Vec<Candidate>>>;

/// Settings of the search.
struct Rules {
    keep: f64,
    n_star: usize,
    grid: Vec<f64>,
}

#[expect(clippy::print_stdout, reason = "the answer of the benchmark")]
fn main() {
    let grid = Thresholds { from: -1.0, to: 1.0, by: 0.1 }.values();
    let (mut rules, mut step, mut folders) = (Rules { keep: 3.0, n_star: 6, grid }, 100, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().and_then(|value| value.parse::<u16>().ok()).expect("a whole number");
        match word.as_str() {
            "--keep" => rules.keep = value().into(),
            "--n-star" => rules.n_star = value().into(),
            "--step" => step = value().into(),
            "--bench" => {}
            _ => folders.push(word),
        }
    }
    if folders.is_empty() {
        println!("halving: no recorded rewards are given; see the top of benches/halving.rs");
        return;
    }
    let recordings: Vec<Recording> = folders.iter().map(|folder| read(Path::new(folder), step)).collect();
    report_noise(&rules, &recordings);
    for shares in [
        vec![0.07, 0.14, 0.22],
        vec![0.12, 0.25, 0.5],
        vec![0.2, 0.5, 1.0],
        vec![0.25, 0.5, 1.0],
        vec![0.1, 0.3, 1.0],
        vec![0.5, 1.0],
    ] {
        report(&rules, &recordings, &shares);
    }
}

#[expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "the answer of the benchmark")]
fn report(rules: &Rules, recordings: &[Recording], shares: &[f64]) {
    let (mut same, mut close, mut trials, mut lost, mut cost) = (0, 0, 0, 0.0, 0.0);
    for recording in recordings {
        let all: Vec<i64> = recording.keys().copied().collect();
        let queries = recording.values().map(Vec::len).min().unwrap_or(0);
        let whole = ranked(rules, recording, &all, &places(0, queries, queries));
        for rotation in 0..ROTATIONS {
            let first = queries * rotation / ROTATIONS;
            let (mut left, mut drawn, mut before) = (all.clone(), 0.0, 0.0);
            for (rung, share) in shares.iter().enumerate() {
                drawn += (share - before) * left.len() as f64 / all.len() as f64;
                before = *share;
                let chosen = places(first, number(queries, *share), queries);
                let order = ranked(rules, recording, &left, &chosen);
                let keep = if rung + 1 == shares.len() { 1 } else { left.len().div_ceil(2) };
                left = order.into_iter().take(keep).map(|(temperature, _)| temperature).collect();
            }
            let value = |temperature: i64| {
                whole.iter().find(|(own, _)| *own == temperature).map_or(0.0, |(_, value)| *value)
            };
            trials += 1;
            same += usize::from(left[0] == whole[0].0);
            close += usize::from((left[0] - whole[0].0).abs() <= 100);
            lost += value(whole[0].0) - value(left[0]);
            cost += drawn;
        }
    }
    let share = |count: usize| 100.0 * count as f64 / trials as f64;
    println!(
        "halving {shares:?}: {:.0} % of the samples; the same temperature in {:.0} % of {trials}, at most 0.1 away in \
         {:.0} %; balance score lower by {:.4}",
        100.0 * cost / trials as f64,
        share(same),
        share(close),
        lost / trials as f64
    );
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a number of queries"
)]
fn number(queries: usize, share: f64) -> usize {
    (queries as f64 * share).round() as usize
}

/// The whole search against itself, on queries drawn with replacement.
#[expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "the answer of the benchmark")]
fn report_noise(rules: &Rules, recordings: &[Recording]) {
    let mut state = 1_u64;
    let mut draw = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0) % most
    };
    let (mut same, mut close, mut trials) = (0, 0, 0);
    for recording in recordings {
        let all: Vec<i64> = recording.keys().copied().collect();
        let queries = recording.values().map(Vec::len).min().unwrap_or(0);
        let whole = ranked(rules, recording, &all, &places(0, queries, queries))[0].0;
        for _ in 0..AGAIN {
            let chosen: Vec<usize> = (0..queries).map(|_| draw(queries)).collect();
            let found = ranked(rules, recording, &all, &chosen)[0].0;
            trials += 1;
            same += usize::from(found == whole);
            close += usize::from((found - whole).abs() <= 100);
        }
    }
    let share = |count: usize| 100.0 * count as f64 / trials as f64;
    println!(
        "whole search again: the same temperature in {:.0} % of {trials}, at most 0.1 away in {:.0} %",
        share(same),
        share(close)
    );
}

/// So many queries from `first` on, around the end.
fn places(first: usize, count: usize, queries: usize) -> Vec<usize> {
    (first..first + count).map(|place| place % queries).collect()
}

/// Temperatures by their best balance score on these queries; best first.
fn ranked(rules: &Rules, recording: &Recording, temperatures: &[i64], chosen: &[usize]) -> Vec<(i64, f64)> {
    let mut order = Vec::new();
    for temperature in temperatures {
        let queries = &recording[temperature];
        let pools = [(0.0, Pool::new(chosen.iter().map(|place| queries[*place].as_slice())))];
        let found: Option<Choice> =
            best(&surface(&pools, &rules.grid, Some(rules.keep), rules.n_star), Ties::Kept);
        order.push((*temperature, found.map_or(0.0, |choice| choice.outcome.balance_score)));
    }
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order
}

#[expect(clippy::cast_possible_truncation, reason = "a temperature in thousandths")]
fn read(folder: &Path, step: i64) -> Recording {
    let rewards: Vec<Reward> = read_rows(folder).unwrap_or_else(|error| panic!("{error}"));
    let mut positions: BTreeMap<String, usize> = BTreeMap::new();
    let mut recording = Recording::new();
    for reward in rewards {
        let next = positions.len();
        let position = *positions.entry(reward.query_id).or_insert(next);
        let temperature = (reward.temperature * 1000.0).round() as i64;
        if temperature % step != 0 {
            continue;
        }
        let queries = recording.entry(temperature).or_default();
        if queries.len() <= position {
            queries.resize(position + 1, Vec::new());
        }
        let text = u64::from_str_radix(&reward.text_id, 16).unwrap_or_default();
        queries[position].push(Candidate {
            score: reward.reward,
            text,
            sample: reward.sample_index,
            correct: reward.correct,
        });
    }
    recording
}
