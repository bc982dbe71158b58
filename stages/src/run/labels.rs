//! Labels for the steps of solutions.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{Work, metrics};
use crate::config::{LabelSteps, Prefixes};
use crate::files;
use crate::grade;
use crate::metrics::Estimate;
use crate::protocol::StageError;
use crate::record::{LabelledSteps, Query, Response, Reward};

pub(super) fn prefixes(config: &Prefixes, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Prefixes { queries: _, responses: _ } = config;
    let queries: Vec<Query> = work.rows("queries")?;
    let responses: Vec<Response> = work.rows("responses")?;
    let by_id: HashMap<&str, &Query> = queries.iter().map(|query| (query.id.as_str(), query)).collect();
    let mut beginnings = Vec::new();
    let mut seen = HashSet::new();
    for response in &responses {
        let Response { query_id, sample_index, text, .. } = response;
        let query = by_id.get(query_id.as_str()).ok_or_else(|| {
            StageError::invalid(format!("a response answers query `{query_id}`, which is not given"))
                .hint("`queries` must be those that were sampled")
        })?;
        if !seen.insert((query_id, sample_index)) {
            return Err(StageError::invalid(format!(
                "sample {sample_index} of query `{query_id}` occurs twice"
            ))
            .hint("sample the solutions at one temperature"));
        }
        let mut prefix = String::with_capacity(text.len());
        for (step, piece) in grade::steps(text).into_iter().enumerate() {
            prefix.push_str(piece);
            beginnings.push(Query {
                id: format!("{query_id}/{sample_index}/{step}"),
                prompt: query.prompt.clone(),
                answer: query.answer.clone(),
                prefix: Some(prefix.clone()),
                choices: query.choices.clone(),
                tests: None,
                tags: query.tags.clone(),
            });
        }
    }
    if beginnings.is_empty() {
        return Err(StageError::invalid(format!(
            "all {} responses are empty: no step to label",
            responses.len()
        ))
        .hint("look at the policy that sampled them"));
    }
    files::write_rows(&work.path("queries.jsonl"), &beginnings)?;
    Ok(metrics([("responses", responses.len().into()), ("queries", beginnings.len().into())]))
}

pub(super) fn label_steps(config: &LabelSteps, work: &Work) -> Result<Map<String, Value>, StageError> {
    let LabelSteps { prefixes: _, rewards: _ } = config;
    let prefixes: Vec<Query> = work.rows("prefixes")?;
    let rewards: Vec<Reward> = work.rows("rewards")?;
    let mut counts: HashMap<&str, (usize, usize)> =
        prefixes.iter().map(|prefix| (prefix.id.as_str(), (0, 0))).collect();
    for reward in &rewards {
        let (correct, all) = counts.get_mut(reward.query_id.as_str()).ok_or_else(|| {
            StageError::invalid(format!(
                "a reward belongs to `{}`, which is no prefix given",
                reward.query_id
            ))
            .hint("`rewards` must be those of the continuations of `prefixes`")
        })?;
        *correct += usize::from(reward.correct);
        *all += 1;
    }

    let mut solutions: Vec<(&str, LabelledSteps)> = Vec::new();
    let mut labels = Vec::with_capacity(prefixes.len());
    for prefix in &prefixes {
        let malformed = || {
            StageError::invalid(format!("`{}` is not the beginning of a solution", prefix.id))
                .hint("`prefixes` must come from a `prefixes` stage")
        };
        let text = prefix.prefix.as_deref().ok_or_else(malformed)?;
        let (solution, step) = prefix.id.rsplit_once('/').ok_or_else(malformed)?;
        let (query_id, _) = solution.rsplit_once('/').ok_or_else(malformed)?;
        if solutions.last().is_none_or(|(current, _)| *current != solution) {
            let empty = LabelledSteps {
                query_id: query_id.to_owned(),
                prompt: prefix.prompt.clone(),
                steps: Vec::new(),
                labels: Vec::new(),
            };
            solutions.push((solution, empty));
        }
        let (_, labelled) = solutions.last_mut().ok_or_else(malformed)?;
        let before = labelled.steps.concat();
        let piece = text.strip_prefix(before.as_str()).ok_or_else(malformed)?;
        if step != labelled.steps.len().to_string() || piece.is_empty() {
            return Err(malformed());
        }
        let label = match counts.get(prefix.id.as_str()) {
            #[expect(clippy::cast_precision_loss, reason = "counts of continuations")]
            Some((correct, all)) if *all > 0 => *correct as f64 / *all as f64,
            _ => {
                return Err(StageError::invalid(format!("`{}` has no continuation", prefix.id))
                    .hint("every prefix must be sampled and scored: leave out `limit`"));
            }
        };
        labelled.steps.push(piece.to_owned());
        labelled.labels.push(label);
        labels.push(label);
    }
    files::write_rows(&work.path("labels.jsonl"), solutions.iter().map(|(_, solution)| solution))?;
    Ok(metrics([
        ("solutions", solutions.len().into()),
        ("steps", labels.len().into()),
        ("mean_label", Estimate::of(&labels).mean.into()),
    ]))
}
