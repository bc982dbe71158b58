//! Choosing a configuration, and choosing responses.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::{Work, metrics};
use crate::balance::{self, Candidate, Pool};
use crate::config::{Filter, Search};
use crate::files;
use crate::protocol::StageError;
use crate::record::{Example, Query, Response, Reward};
use crate::reference::Setting;

/// A temperature that can be ordered.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Temperature(f64);

impl Eq for Temperature {}

impl Ord for Temperature {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Temperature {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn candidate(reward: &Reward) -> Result<Candidate, StageError> {
    let text = u64::from_str_radix(&reward.text_id, 16).map_err(|_| {
        StageError::invalid(format!(
            "the reward of query `{}`, sample {}, has the text id `{}`",
            reward.query_id, reward.sample_index, reward.text_id
        ))
        .hint("a text id is 16 hexadecimal digits")
    })?;
    let Reward { reward: score, sample_index, correct, .. } = reward;
    Ok(Candidate { score: *score, text, sample: *sample_index, correct: *correct })
}

pub(super) fn search(config: &Search, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Search { rewards: _, thresholds, n_star: _, keep_per_query } = config;
    let rewards: Vec<Reward> = work.rows("rewards")?;
    // A query counts at every temperature, also where it has no response.
    let queries: BTreeSet<&str> = rewards.iter().map(|reward| reward.query_id.as_str()).collect();
    let mut groups: BTreeMap<Temperature, BTreeMap<&str, Vec<Candidate>>> = BTreeMap::new();
    for reward in &rewards {
        let group = groups
            .entry(Temperature(reward.temperature))
            .or_insert_with(|| queries.iter().map(|query| (*query, Vec::new())).collect());
        group.entry(reward.query_id.as_str()).or_default().push(candidate(reward)?);
    }
    let pools: Vec<(f64, Pool)> = groups
        .iter()
        .map(|(temperature, group)| (temperature.0, Pool::new(group.values().map(Vec::as_slice))))
        .collect();
    let surface = balance::surface(&pools, &thresholds.values(), *keep_per_query, config.effective_n_star());
    let best = balance::best(&surface).ok_or_else(|| {
        StageError::invalid("there is no threshold to compare").hint("look at `thresholds`")
    })?;
    let rows: Vec<Value> = surface
        .iter()
        .map(|choice| {
            json!({
                "temperature": choice.temperature,
                "threshold": choice.threshold,
                "balance_score": choice.outcome.balance_score,
                "kept": choice.outcome.kept,
                "correct": choice.outcome.correct,
                "covered": choice.outcome.covered,
                "k": choice.outcome.k,
            })
        })
        .collect();
    files::write_rows(&work.path("surface.jsonl"), &rows)?;
    files::write_json(&work.path("temperature.json"), &best.temperature)?;
    files::write_json(&work.path("threshold.json"), &best.threshold)?;
    Ok(metrics([
        ("temperature", best.temperature.into()),
        ("threshold", best.threshold.into()),
        ("balance_score", best.outcome.balance_score.into()),
        ("kept", best.outcome.kept.into()),
        ("k", best.outcome.k.into()),
        ("queries", queries.len().into()),
    ]))
}

/// What tells a response from all others.
fn identity(query_id: &str, sample_index: u32, temperature: f64) -> (String, u32, u64) {
    (query_id.to_owned(), sample_index, temperature.to_bits())
}

pub(super) fn filter(config: &Filter, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Filter { queries: _, responses: _, rewards: _, threshold, keep_per_query } = config;
    let Setting::Value(threshold) = threshold else {
        return Err(StageError::failed("the threshold was not resolved to a number"));
    };
    let queries: Vec<Query> = work.rows("queries")?;
    let responses: Vec<Response> = work.rows("responses")?;
    let rewards: Vec<Reward> = work.rows("rewards")?;
    let texts: HashMap<_, &str> = responses
        .iter()
        .map(|row| (identity(&row.query_id, row.sample_index, row.temperature), row.text.as_str()))
        .collect();
    if texts.len() != responses.len() {
        return Err(StageError::invalid("`responses` holds the same sample of a query twice"));
    }

    let positions: HashMap<&str, usize> =
        queries.iter().enumerate().map(|(position, query)| (query.id.as_str(), position)).collect();
    let mut groups: BTreeMap<usize, Vec<&Reward>> = BTreeMap::new();
    for reward in &rewards {
        let position = positions.get(reward.query_id.as_str()).ok_or_else(|| {
            StageError::invalid(format!(
                "a reward belongs to query `{}`, which is not given",
                reward.query_id
            ))
            .hint("`queries` must be those that were sampled")
        })?;
        groups.entry(*position).or_default().push(reward);
    }
    let candidates: Vec<Vec<Candidate>> = groups
        .values()
        .map(|rewards| rewards.iter().map(|reward| candidate(reward)).collect())
        .collect::<Result<_, _>>()?;
    let pool = Pool::new(candidates.iter().map(Vec::as_slice));
    let target = keep_per_query.map(|keep| balance::target(keep, pool.queries()));
    let outcome = pool.outcome(*threshold, target, 1);
    if outcome.kept == 0 {
        return Err(StageError::invalid(format!(
            "none of the {} responses has a reward above {threshold}: there is nothing to train on",
            rewards.len()
        ))
        .hint("lower the threshold, or sample more responses or more queries"));
    }

    let mut dataset = Vec::with_capacity(outcome.kept);
    for ((position, rewards), kept) in groups.iter().zip(pool.kept(*threshold, target)) {
        for reward in kept.into_iter().map(|index| rewards[index]) {
            let key = identity(&reward.query_id, reward.sample_index, reward.temperature);
            let text = texts.get(&key).ok_or_else(|| {
                StageError::invalid(format!(
                    "the reward of query `{}`, sample {}, has no response",
                    reward.query_id, reward.sample_index
                ))
                .hint("`rewards` must be made from `responses`")
            })?;
            dataset.push(Example {
                prompt: queries[*position].prompt.clone(),
                completion: (*text).to_owned(),
                query_id: Some(reward.query_id.clone()),
                sample_index: Some(reward.sample_index),
                reward: Some(reward.reward),
            });
        }
    }
    files::write_rows(&work.path("dataset.jsonl"), &dataset)?;
    #[expect(clippy::cast_precision_loss, reason = "counts of responses")]
    let correct = outcome.correct as f64 / outcome.kept as f64;
    Ok(metrics([
        ("sampled", rewards.len().into()),
        ("kept", outcome.kept.into()),
        ("queries", pool.queries().into()),
        ("covered", outcome.covered.into()),
        ("k", outcome.k.into()),
        ("correct", correct.into()),
    ]))
}
