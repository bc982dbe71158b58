//! Measuring a policy from the rewards of its responses.

use std::collections::{BTreeMap, HashSet};

use bstar_cache::Digest;
use serde_json::{Map, Value};

use super::{Work, metrics};
use crate::config::Measure;
use crate::files;
use crate::metrics::{self as estimators, Estimate};
use crate::protocol::StageError;
use crate::record::{Response, Reward};

/// The sampled responses of one query.
struct Rollout<'a> {
    rewards: Vec<&'a Reward>,
}

impl Rollout<'_> {
    fn samples(&self) -> usize {
        self.rewards.len()
    }

    fn correct(&self) -> usize {
        self.rewards.iter().filter(|reward| reward.correct).count()
    }

    /// Numbers of samples of each correct text.
    fn groups(&self) -> Vec<usize> {
        let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
        for reward in self.rewards.iter().filter(|reward| reward.correct) {
            *groups.entry(reward.text_id.as_str()).or_default() += 1;
        }
        groups.into_values().collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of responses")]
    fn unique_share(&self) -> f64 {
        let texts: HashSet<&str> = self.rewards.iter().map(|reward| reward.text_id.as_str()).collect();
        texts.len() as f64 / self.samples() as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "a number of equations")]
    fn distinct_equations(&self, among: impl Fn(&Reward) -> bool) -> f64 {
        let chosen = self.rewards.iter().filter(|reward| among(reward));
        let equations: HashSet<&str> =
            chosen.flat_map(|reward| &reward.equations).map(String::as_str).collect();
        equations.len() as f64
    }

    /// Different correct texts.
    #[expect(clippy::cast_precision_loss, reason = "a number of texts")]
    fn distinct_correct(&self) -> f64 {
        self.groups().len() as f64
    }

    /// Different equations of the correct responses, as a share of all of theirs; `None` without any.
    #[expect(clippy::cast_precision_loss, reason = "a number of equations")]
    fn equation_share(&self) -> Option<f64> {
        let correct = self.rewards.iter().filter(|reward| reward.correct);
        let all: usize = correct.map(|reward| reward.equations.len()).sum();
        (all > 0).then(|| self.distinct_equations(|reward| reward.correct) / all as f64)
    }

    /// The reward model's scores, where all responses have one.
    fn model_scores(&self) -> Option<Vec<(f64, bool)>> {
        self.rewards
            .iter()
            .map(|reward| {
                reward.step_scores.as_ref()?;
                Some((model_score(reward), reward.correct))
            })
            .collect()
    }

    fn ranked(&self) -> Vec<bool> {
        ranked(&self.rewards)
    }
}

/// Whether each response is correct, by the reward model's score, then by text and sample.
pub(super) fn ranked(rewards: &[&Reward]) -> Vec<bool> {
    let mut rewards = rewards.to_vec();
    rewards.sort_by(|a, b| {
        model_score(b)
            .total_cmp(&model_score(a))
            .then_with(|| a.text_id.cmp(&b.text_id))
            .then(a.sample_index.cmp(&b.sample_index))
    });
    rewards.into_iter().map(|reward| reward.correct).collect()
}

/// The part of a reward that does not know the reference answer. Adding correctness has rounded it where the response
/// is right, so it is rounded in the same way where it is wrong: equal scores stay equal.
fn model_score(reward: &Reward) -> f64 {
    let right = if reward.correct { reward.reward } else { reward.reward + 1.0 };
    right - 1.0
}

/// Rewards by query, in the order of the queries' first rewards.
fn rollouts(rewards: &[Reward]) -> Result<Vec<Rollout<'_>>, StageError> {
    let temperature = rewards.first().map_or(0.0, |reward| reward.temperature);
    let mut positions: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rollouts: Vec<Rollout<'_>> = Vec::new();
    let mut seen = HashSet::new();
    for reward in rewards {
        let Reward { query_id, sample_index, .. } = reward;
        if reward.temperature.total_cmp(&temperature).is_ne() {
            return Err(StageError::invalid("the rewards to measure are of several temperatures")
                .hint("measure one temperature at a time"));
        }
        if !seen.insert((query_id.as_str(), *sample_index)) {
            return Err(StageError::invalid(format!(
                "sample {sample_index} of query `{query_id}` occurs twice"
            )));
        }
        let position = *positions.entry(query_id).or_insert_with(|| {
            rollouts.push(Rollout { rewards: Vec::new() });
            rollouts.len() - 1
        });
        rollouts[position].rewards.push(reward);
    }
    Ok(rollouts)
}

pub(super) fn measure(config: &Measure, work: &Work) -> Result<Map<String, Value>, StageError> {
    let greedy: Vec<Reward> = work.rows("greedy")?;
    let greedy = rollouts(&greedy)?;
    if let Some(rollout) = greedy.iter().find(|rollout| rollout.samples() != 1) {
        let query = rollout.rewards.first().map_or("", |reward| reward.query_id.as_str());
        return Err(StageError::invalid(format!(
            "query `{query}` has {} greedy responses",
            rollout.samples()
        ))
        .hint("`greedy` must be the rewards of one response a query, sampled at temperature 0"));
    }
    let correct = greedy.iter().map(Rollout::correct).sum();
    let pass_at_1 = Estimate::share(correct, greedy.len());
    let mut measures = metrics([
        ("pass_at_1", pass_at_1.mean.into()),
        ("pass_at_1_se", pass_at_1.error.into()),
        ("queries", greedy.len().into()),
        ("verdicts", verdicts(&greedy).into()),
    ]);
    if config.rewards.is_some() {
        let rewards: Vec<Reward> = work.rows("rewards")?;
        measures.append(&mut sampled(config, &rollouts(&rewards)?)?);
        if config.responses.is_some() {
            measures.append(&mut entropy(&work.rows("responses")?));
        }
    }
    let mut at = Map::new();
    for index in 0..config.at.len() {
        let rewards: Vec<Reward> = work.rows(&format!("at{index}"))?;
        let mut there = sampled(config, &rollouts(&rewards)?)?;
        there.append(&mut entropy(&work.rows(&format!("at_responses{index}"))?));
        let temperature = rewards.first().map_or(0.0, |reward| reward.temperature);
        at.insert(temperature.to_string(), there.into());
    }
    if !at.is_empty() {
        measures.insert("at".to_owned(), at.into());
    }
    files::write_json(&work.path("metrics.json"), &measures)?;
    Ok(measures)
}

/// Which greedy responses are right, for tests that pair problems: the first 8 digits of the digest of the
/// queries' ids, a colon, and a bit a query, in their order, as hexadecimal digits.
fn verdicts(greedy: &[Rollout<'_>]) -> String {
    let mut ids = String::new();
    let mut digits = String::new();
    for four in greedy.chunks(4) {
        let mut digit = 0;
        for (bit, rollout) in four.iter().enumerate() {
            ids.extend(rollout.rewards.first().map(|reward| format!("{}\n", reward.query_id)));
            digit |= u32::from(rollout.correct() > 0) << (3 - bit);
        }
        digits.extend(char::from_digit(digit, 16));
    }
    format!("{}:{digits}", Digest::of(ids.as_bytes()).short())
}

/// An estimate of the policy's entropy: the mean of −ln p over drawn tokens, in nats a token. p is the
/// probability at temperature 1 without truncation, so elsewhere it is a cross-entropy.
fn entropy(responses: &[Response]) -> Map<String, Value> {
    let tokens: f64 = responses.iter().map(|response| f64::from(response.tokens)).sum();
    let nats: f64 = responses.iter().map(|response| -response.logprob).sum();
    #[expect(clippy::cast_precision_loss, reason = "a number of responses")]
    let count = responses.len() as f64;
    metrics([
        ("entropy", (nats / tokens.max(1.0)).into()),
        ("entropy_per_response", (nats / count.max(1.0)).into()),
        ("tokens_per_response", (tokens / count.max(1.0)).into()),
    ])
}

fn sampled(config: &Measure, rollouts: &[Rollout<'_>]) -> Result<Map<String, Value>, StageError> {
    let samples = rollouts.iter().map(Rollout::samples).min().unwrap_or(0);
    if let Some(most) =
        rollouts.iter().map(Rollout::samples).max().filter(|most| *most > estimators::MOST_SAMPLES)
    {
        return Err(StageError::invalid(format!("{most} samples a query are more than can be measured"))
            .hint(format!("sample at most {}", estimators::MOST_SAMPLES)));
    }
    let ks: Vec<usize> = match config.k.as_slice() {
        [] => vec![samples],
        ks => ks.iter().map(|k| *k as usize).collect(),
    };
    if let Some(k) = ks.iter().find(|k| **k > samples) {
        return Err(StageError::invalid(format!("Pass@{k} needs {k} samples a query; some have {samples}"))
            .hint("sample more, or lower k"));
    }
    let mean =
        |value: &dyn Fn(&Rollout<'_>) -> f64| Estimate::of(&rollouts.iter().map(value).collect::<Vec<_>>());
    #[expect(clippy::cast_precision_loss, reason = "counts of responses")]
    let accuracy = mean(&|rollout| rollout.correct() as f64 / rollout.samples() as f64);
    let with_model = rollouts.iter().all(|rollout| rollout.model_scores().is_some());

    let [mut pass, mut pass_errors, mut pass_s, mut pass_s_errors, mut best, mut reward_s, mut reward_pass] =
        [(); 7].map(|()| Map::new());
    for k in ks {
        let value = mean(&|rollout| estimators::pass_at_k(rollout.samples(), rollout.correct(), k));
        pass.insert(k.to_string(), value.mean.into());
        pass_errors.insert(k.to_string(), value.error.into());
        if with_model {
            let value = mean(&|rollout| estimators::best_of_k(&rollout.ranked(), k));
            best.insert(k.to_string(), value.mean.into());
        }
        for s in config.s.iter().map(|s| *s as usize).filter(|s| *s <= k) {
            let name = format!("{k}-{s}");
            let value = mean(&|rollout| estimators::pass_at_k_s(rollout.samples(), &rollout.groups(), k, s));
            pass_s.insert(name.clone(), value.mean.into());
            pass_s_errors.insert(name.clone(), value.error.into());
            if with_model {
                let value = mean(&|rollout| estimators::reward_at_k_s(&rollout.ranked(), k, s));
                reward_s.insert(name.clone(), value.mean.into());
                let value = mean(&|rollout| estimators::reward_pass_at_k_s(&rollout.ranked(), k, s));
                reward_pass.insert(name, value.mean.into());
            }
        }
    }

    let solved: Vec<f64> = rollouts
        .iter()
        .filter(|rollout| rollout.correct() > 0)
        .map(|rollout| rollout.distinct_equations(|reward| reward.correct))
        .collect();
    let aucs: Vec<f64> = rollouts
        .iter()
        .filter_map(|rollout| rollout.model_scores())
        .filter_map(|scores| estimators::auc(&scores))
        .collect();
    let shares: Vec<f64> = rollouts.iter().filter_map(Rollout::equation_share).collect();
    let auc = if aucs.is_empty() { Value::Null } else { Estimate::of(&aucs).mean.into() };
    Ok(metrics([
        ("sampled_queries", rollouts.len().into()),
        ("samples", samples.into()),
        ("mean_accuracy", accuracy.mean.into()),
        ("mean_accuracy_se", accuracy.error.into()),
        ("pass_at_k", pass.into()),
        ("pass_at_k_se", pass_errors.into()),
        ("pass_at_k_s", pass_s.into()),
        ("pass_at_k_s_se", pass_s_errors.into()),
        ("best_of_k", best.into()),
        ("reward_at_k_s", reward_s.into()),
        ("reward_pass_at_k_s", reward_pass.into()),
        ("unique_share", mean(&|rollout| rollout.unique_share()).mean.into()),
        ("distinct_correct", mean(&|rollout| rollout.distinct_correct()).mean.into()),
        ("distinct_equations", Estimate::of(&solved).mean.into()),
        ("distinct_equations_share", Estimate::of(&shares).mean.into()),
        ("distinct_equations_all", mean(&|rollout| rollout.distinct_equations(|_| true)).mean.into()),
        ("within_query_auc", auc),
    ]))
}
