//! Labels for the steps of solutions.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{Work, metrics};
use crate::config::{LabelSteps, Prefixes, StepEstimate, part_inputs};
use crate::files;
use crate::grade;
use crate::metrics::Estimate;
use crate::protocol::StageError;
use crate::record::{LabelledSteps, Query, Response, Reward};

pub(super) fn prefixes(config: &Prefixes, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Prefixes { queries: _, responses: _, samples } = config;
    let [start, end] = samples.unwrap_or([0, u32::MAX]);
    let queries: Vec<Query> = work.rows("queries")?;
    let mut responses: Vec<Response> = work.rows("responses")?;
    responses.retain(|response| (start..end).contains(&response.sample_index));
    let by_id: HashMap<&str, (usize, &Query)> =
        queries.iter().enumerate().map(|(rank, query)| (query.id.as_str(), (rank, query))).collect();
    // How sampling was cut into files must not show in the order.
    responses.sort_by_key(|response| {
        (by_id.get(response.query_id.as_str()).map(|(rank, _)| *rank), response.sample_index)
    });
    let mut beginnings = Vec::new();
    let mut seen = HashSet::new();
    for response in &responses {
        let Response { query_id, sample_index, text, .. } = response;
        let (_, query) = by_id.get(query_id.as_str()).ok_or_else(|| {
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
    let LabelSteps { prefixes: _, rewards: _, more, queries, estimate } = config;
    let mut solutions = Vec::new();
    for part in std::iter::once(None).chain((0..more.len()).map(Some)) {
        let [prefixes, rewards] = part_inputs(part);
        solutions.extend(labelled(&work.rows(&prefixes)?, &work.rows(&rewards)?, *estimate)?);
    }
    if queries.is_some() {
        let queries: Vec<Query> = work.rows("queries")?;
        let ranks: HashMap<&str, usize> =
            queries.iter().enumerate().map(|(rank, query)| (query.id.as_str(), rank)).collect();
        if let Some(solution) = solutions.iter().find(|solution| !ranks.contains_key(solution.query())) {
            let message = format!("a solution answers query `{}`, which is not given", solution.query());
            return Err(StageError::invalid(message).hint("`queries` must be those that were sampled"));
        }
        solutions.sort_by_key(|solution| (ranks.get(solution.query()).copied(), solution.sample));
    }
    let labels: Vec<f64> =
        solutions.iter().flat_map(|solution| solution.row.labels.iter().copied()).collect();
    files::write_rows(&work.path("labels.jsonl"), solutions.iter().map(|solution| &solution.row))?;
    Ok(metrics([
        ("solutions", solutions.len().into()),
        ("steps", labels.len().into()),
        ("mean_label", Estimate::of(&labels).mean.into()),
    ]))
}

/// A labelled solution.
struct Solution {
    /// The id of its beginnings without the step.
    id: String,
    sample: u32,
    row: LabelledSteps,
}

impl Solution {
    fn query(&self) -> &str {
        &self.row.query_id
    }
}

/// Labels the solutions of one set of beginnings, in their order.
fn labelled(
    prefixes: &[Query],
    rewards: &[Reward],
    estimate: StepEstimate,
) -> Result<Vec<Solution>, StageError> {
    let mut counts: HashMap<&str, (usize, usize)> =
        prefixes.iter().map(|prefix| (prefix.id.as_str(), (0, 0))).collect();
    for reward in rewards {
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

    let mut solutions: Vec<Solution> = Vec::new();
    for prefix in prefixes {
        let malformed = || {
            StageError::invalid(format!("`{}` is not the beginning of a solution", prefix.id))
                .hint("`prefixes` must come from a `prefixes` stage")
        };
        let text = prefix.prefix.as_deref().ok_or_else(malformed)?;
        let (id, step) = prefix.id.rsplit_once('/').ok_or_else(malformed)?;
        let (query_id, sample) = id.rsplit_once('/').ok_or_else(malformed)?;
        if solutions.last().is_none_or(|current| current.id != id) {
            let row = LabelledSteps {
                query_id: query_id.to_owned(),
                prompt: prefix.prompt.clone(),
                steps: Vec::new(),
                labels: Vec::new(),
            };
            let sample = sample.parse().map_err(|_| malformed())?;
            solutions.push(Solution { id: id.to_owned(), sample, row });
        }
        let Solution { row, .. } = solutions.last_mut().ok_or_else(malformed)?;
        let before = row.steps.concat();
        let piece = text.strip_prefix(before.as_str()).ok_or_else(malformed)?;
        if step != row.steps.len().to_string() || piece.is_empty() {
            return Err(malformed());
        }
        let label = match (counts.get(prefix.id.as_str()), estimate) {
            #[expect(clippy::cast_precision_loss, reason = "counts of continuations")]
            (Some((correct, all)), StepEstimate::Soft) if *all > 0 => *correct as f64 / *all as f64,
            (Some((correct, all)), StepEstimate::Hard) if *all > 0 => f64::from(u8::from(*correct > 0)),
            _ => {
                return Err(StageError::invalid(format!("`{}` has no continuation", prefix.id))
                    .hint("every prefix must be sampled and scored: leave out `limit`"));
            }
        };
        row.steps.push(piece.to_owned());
        row.labels.push(label);
    }
    Ok(solutions)
}
