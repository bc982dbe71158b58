//! Choosing a configuration, and choosing responses.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bstar_cache::Digest;
use serde_json::{Map, Value, json};

use super::candidates::{Groups, References, Source, candidates, id_of, pooled, sample_id};
use super::measure::ranked;
use super::{Work, metrics};
use crate::balance::{self, Candidate, Choice, Pool};
use crate::config::{Filter, Objective, Rules, Search};
use crate::files;
use crate::metrics::reward_pass_at_k_s;
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

/// All configurations of a search, by temperature, then threshold; and the number of queries.
pub(super) fn configurations(config: &Search, work: &Work) -> Result<(Vec<Choice>, usize), StageError> {
    let Search { rewards: _, thresholds, n_star: _, keep_per_query, objective, s, rules, references: _ } =
        config;
    let references = References::read(work)?;
    let rewards: Vec<Reward> = pooled(work, "rewards", id_of)?;
    // A query counts at every temperature, also where it has no response.
    let queries: BTreeSet<&str> = rewards.iter().map(|reward| reward.query_id.as_str()).collect();
    let mut groups: BTreeMap<Temperature, BTreeMap<&str, Vec<&Reward>>> = BTreeMap::new();
    for reward in &rewards {
        let group = groups
            .entry(Temperature(reward.temperature))
            .or_insert_with(|| queries.iter().map(|query| (*query, Vec::new())).collect());
        group.entry(reward.query_id.as_str()).or_default().push(reward);
    }
    let mut pools = Vec::with_capacity(groups.len());
    for (temperature, group) in &groups {
        let of_query = |(query, rewards): (&&str, &Vec<&Reward>)| {
            let found = candidates(query, rewards, rules, &references)?;
            Ok(found.into_iter().map(|(candidate, _)| candidate).collect())
        };
        let found: Vec<Vec<Candidate>> = group.iter().map(of_query).collect::<Result<_, StageError>>()?;
        pools.push((temperature.0, Pool::by(*rules, found.iter().map(Vec::as_slice))));
    }
    let mut surface =
        balance::surface(&pools, &thresholds.values(), *keep_per_query, config.effective_n_star());
    if *objective == Objective::RewardPass {
        for choice in &mut surface {
            let group = groups.get(&Temperature(choice.temperature));
            choice.value = reward_pass(group.into_iter().flat_map(BTreeMap::values), *s)?;
        }
    }
    Ok((surface, queries.len()))
}

/// The mean over queries of Reward-Pass@S; a query without responses counts 0.
#[expect(clippy::cast_precision_loss, reason = "a number of queries")]
fn reward_pass<'a>(queries: impl Iterator<Item = &'a Vec<&'a Reward>>, s: usize) -> Result<f64, StageError> {
    let (mut sum, mut count) = (0.0, 0_usize);
    for rewards in queries {
        if rewards.iter().any(|reward| reward.step_scores.is_none()) {
            return Err(StageError::invalid("Reward-Pass@S needs the scores of a reward model")
                .hint("give the `score` stage a reward_model, or search by `objective: balance`"));
        }
        count += 1;
        if !rewards.is_empty() {
            sum += reward_pass_at_k_s(&ranked(rewards), rewards.len(), s.min(rewards.len()));
        }
    }
    Ok(sum / count.max(1) as f64)
}

/// Writes what became of every configuration.
pub(super) fn write_surface(config: &Search, surface: &[Choice], work: &Work) -> Result<(), StageError> {
    let by_reward = config.objective == Objective::RewardPass;
    let rows: Vec<Value> = surface
        .iter()
        .map(|choice| {
            let mut row = json!({
                "temperature": choice.temperature,
                "threshold": choice.threshold,
                "balance_score": choice.outcome.balance_score,
                "kept": choice.outcome.kept,
                "correct": choice.outcome.correct,
                "covered": choice.outcome.covered,
                "k": choice.outcome.k,
            });
            if by_reward {
                row["reward_pass"] = choice.value.into();
            }
            row
        })
        .collect();
    files::write_rows(&work.path("surface.jsonl"), &rows)
}

pub(super) fn search(config: &Search, work: &Work) -> Result<Map<String, Value>, StageError> {
    let (surface, queries) = configurations(config, work)?;
    let best = balance::best(&surface, config.rules.ties).ok_or_else(|| {
        StageError::invalid("there is no threshold to compare").hint("look at `thresholds`")
    })?;
    write_surface(config, &surface, work)?;
    files::write_json(&work.path("temperature.json"), &best.temperature)?;
    files::write_json(&work.path("threshold.json"), &best.threshold)?;
    let mut metrics = metrics([
        ("temperature", best.temperature.into()),
        ("threshold", best.threshold.into()),
        ("balance_score", best.outcome.balance_score.into()),
        ("kept", best.outcome.kept.into()),
        ("k", best.outcome.k.into()),
        ("queries", queries.into()),
    ]);
    if config.objective == Objective::RewardPass {
        metrics.insert("reward_pass".to_owned(), best.value.into());
    }
    Ok(metrics)
}

/// What is selected of one query, and where it came from.
struct Selected<'a> {
    query: &'a Query,
    rewards: &'a [&'a Reward],
    kept: Vec<Source>,
}

/// Rewards by query, in the order of the queries.
fn grouped<'a>(queries: &[Query], rewards: &'a [Reward]) -> Result<Groups<'a>, StageError> {
    let positions: HashMap<&str, usize> =
        queries.iter().enumerate().map(|(position, query)| (query.id.as_str(), position)).collect();
    let mut groups = Groups::new();
    for reward in rewards {
        let position = positions.get(reward.query_id.as_str()).ok_or_else(|| {
            StageError::invalid(format!(
                "a reward belongs to query `{}`, which is not given",
                reward.query_id
            ))
            .hint("`queries` must be those that were sampled")
        })?;
        groups.entry(*position).or_default().push(reward);
    }
    Ok(groups)
}

pub(super) fn filter(config: &Filter, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Filter { threshold, keep_per_query, rules, replay_ratio, .. } = config;
    let Setting::Value(threshold) = threshold else {
        return Err(StageError::failed("the threshold was not resolved to a number"));
    };
    let queries: Vec<Query> = work.rows("queries")?;
    let of_response = |row: &Response| sample_id(&row.query_id, row.sample_index, row.temperature);
    let responses: Vec<Response> = pooled(work, "responses", of_response)?;
    let rewards: Vec<Reward> = pooled(work, "rewards", id_of)?;
    let texts: HashMap<_, &str> = responses.iter().map(|row| (of_response(row), row.text.as_str())).collect();
    let references = References::read(work)?;
    let groups = grouped(&queries, &rewards)?;
    let (pool, found) = pool(&queries, &groups, rules, &references)?;
    let target = pool.target(*keep_per_query);
    let outcome = pool.outcome(*threshold, target, 1);
    if outcome.kept == 0 {
        return Err(StageError::invalid(format!(
            "none of the {} responses has a reward above {threshold}: there is nothing to train on",
            rewards.len()
        ))
        .hint("lower the threshold, or sample more responses or more queries"));
    }

    let mut dataset = Vec::with_capacity(outcome.kept);
    let kept = pool.kept(*threshold, target);
    for (((position, rewards), candidates), kept) in groups.iter().zip(&found).zip(kept) {
        let kept = kept.into_iter().map(|index| candidates[index].1).collect();
        write_selected(
            &Selected { query: &queries[*position], rewards, kept },
            &texts,
            &references,
            &mut dataset,
        )?;
    }
    let mut metrics = metrics([
        ("sampled", rewards.len().into()),
        ("kept", outcome.kept.into()),
        ("queries", pool.queries().into()),
        ("covered", outcome.covered.into()),
        ("k", outcome.k.into()),
        ("correct", share(outcome.correct, outcome.kept).into()),
    ]);
    if work.inputs.contains_key("replay") {
        let replayed = replay(work.rows("replay")?, &dataset, *replay_ratio);
        metrics.insert("replayed".to_owned(), replayed.len().into());
        dataset.extend(replayed);
    }
    files::write_rows(&work.path("dataset.jsonl"), &dataset)?;
    Ok(metrics)
}

#[expect(clippy::cast_precision_loss, reason = "counts of responses")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

type Found = Vec<Vec<(Candidate, Source)>>;

fn pool(
    queries: &[Query],
    groups: &Groups<'_>,
    rules: &Rules,
    references: &References,
) -> Result<(Pool, Found), StageError> {
    let of_query = |(position, rewards): (&usize, &Vec<&Reward>)| {
        candidates(&queries[*position].id, rewards, rules, references)
    };
    let found: Found = groups.iter().map(of_query).collect::<Result<_, _>>()?;
    let bare: Vec<Vec<Candidate>> =
        found.iter().map(|of_query| of_query.iter().map(|(candidate, _)| *candidate).collect()).collect();
    Ok((Pool::by(*rules, bare.iter().map(Vec::as_slice)), found))
}

fn write_selected(
    selected: &Selected<'_>,
    texts: &HashMap<(String, u32, u64), &str>,
    references: &References,
    dataset: &mut Vec<Example>,
) -> Result<(), StageError> {
    let Selected { query, rewards, kept } = selected;
    for source in kept {
        let (completion, sample_index, reward) = match source {
            Source::Reference(index) => (references.row(*index).completion.as_str(), None, 1.0),
            Source::Reward(index) => {
                let reward = rewards[*index];
                let text = texts.get(&id_of(reward)).ok_or_else(|| {
                    StageError::invalid(format!(
                        "the reward of query `{}`, sample {}, has no response",
                        reward.query_id, reward.sample_index
                    ))
                    .hint("`rewards` must be made from `responses`")
                })?;
                (*text, Some(reward.sample_index), reward.reward)
            }
        };
        dataset.push(Example {
            prompt: query.prompt.clone(),
            completion: completion.to_owned(),
            query_id: Some(query.id.clone()),
            sample_index,
            reward: Some(reward),
        });
    }
    Ok(())
}

/// Earlier rows that are not among the new ones; with a ratio, no more than so many for a new one, drawn
/// evenly by their digests. They stay in their order.
fn replay(earlier: Vec<Example>, new: &[Example], ratio: Option<f64>) -> Vec<Example> {
    let row = |row: &Example| (row.prompt.clone(), row.completion.clone());
    let mut seen: HashSet<(String, String)> = new.iter().map(row).collect();
    let mut rows: Vec<Example> = earlier.into_iter().filter(|example| seen.insert(row(example))).collect();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a number of rows"
    )]
    let most = ratio.map_or(rows.len(), |ratio| (ratio * new.len() as f64).round() as usize);
    if most < rows.len() {
        let digest =
            |row: &Example| Digest::of(format!("{}\0{}", row.prompt, row.completion).as_bytes()).to_string();
        let mut order: Vec<(String, usize)> =
            rows.iter().enumerate().map(|(index, row)| (digest(row), index)).collect();
        order.sort_unstable();
        let drawn: HashSet<usize> = order.into_iter().take(most).map(|(_, index)| index).collect();
        let mut index = 0;
        rows.retain(|_| {
            index += 1;
            drawn.contains(&(index - 1))
        });
    }
    rows
}
