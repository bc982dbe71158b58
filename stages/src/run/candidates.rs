//! From rewards to the candidates of a selection.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Work;
use super::score::text_id;
use crate::balance::Candidate;
use crate::config::Rules;
use crate::protocol::StageError;
use crate::record::{Example, Reward};

/// What a reference solution is worth in the published code.
const REFERENCE_SCORE: f64 = 1.0;

/// Rows of an input that may be given as a list; of a sample that several items hold, the first counts.
///
/// # Errors
/// When an input is missing or empty, or one item holds a sample twice.
pub(super) fn pooled<T: serde::de::DeserializeOwned>(
    work: &Work,
    name: &str,
    identity: impl Fn(&T) -> SampleId,
) -> Result<Vec<T>, StageError> {
    if work.inputs.contains_key(name) {
        return items(work.rows(name)?, name, &identity, &mut HashSet::new());
    }
    let (mut rows, mut seen) = (Vec::new(), HashSet::new());
    for index in 0.. {
        let item = format!("{name}{index}");
        if index > 0 && !work.inputs.contains_key(&item) {
            break;
        }
        rows.extend(items(work.rows(&item)?, &item, &identity, &mut seen)?);
    }
    Ok(rows)
}

/// What tells a response from all others.
pub(super) type SampleId = (String, u32, u64);

pub(super) fn sample_id(query_id: &str, sample_index: u32, temperature: f64) -> SampleId {
    (query_id.to_owned(), sample_index, temperature.to_bits())
}

pub(super) fn id_of(reward: &Reward) -> SampleId {
    sample_id(&reward.query_id, reward.sample_index, reward.temperature)
}

fn items<T>(
    rows: Vec<T>,
    name: &str,
    identity: impl Fn(&T) -> SampleId,
    seen: &mut HashSet<SampleId>,
) -> Result<Vec<T>, StageError> {
    let mut own = HashSet::with_capacity(rows.len());
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let id = identity(&row);
        if !own.insert(id.clone()) {
            return Err(StageError::invalid(format!("`{name}` holds the same sample of a query twice")));
        }
        if seen.insert(id) {
            kept.push(row);
        }
    }
    Ok(kept)
}

/// Reference solutions by query.
pub(super) struct References {
    rows: Vec<Example>,
    by_query: HashMap<String, Vec<usize>>,
}

impl References {
    /// Those of the input `references`, or none.
    ///
    /// # Errors
    /// When the rows cannot be read, or say nothing of their query.
    pub(super) fn read(work: &Work) -> Result<Self, StageError> {
        let mut references = Self { rows: Vec::new(), by_query: HashMap::new() };
        if !work.inputs.contains_key("references") {
            return Ok(references);
        }
        references.rows = work.rows("references")?;
        for (index, row) in references.rows.iter().enumerate() {
            let Some(query) = &row.query_id else {
                return Err(StageError::invalid(format!(
                    "row {} of `references` has no query_id",
                    index + 1
                ))
                .hint(
                    "a reference solution joins the candidates of its query; the stage `dataset` writes it",
                ));
            };
            references.by_query.entry(query.clone()).or_default().push(index);
        }
        Ok(references)
    }

    pub(super) fn row(&self, index: usize) -> &Example {
        &self.rows[index]
    }
}

/// Where a candidate came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Position in the rewards of the query.
    Reward(usize),
    /// Position among all reference solutions.
    Reference(usize),
}

/// The candidates of one query, as the rules admit them.
///
/// # Errors
/// When a reward's text id is no such id.
pub(super) fn candidates(
    query: &str,
    rewards: &[&Reward],
    rules: &Rules,
    references: &References,
) -> Result<Vec<(Candidate, Source)>, StageError> {
    let right = rewards.iter().filter(|reward| reward.correct).count();
    if rules.mixed_only && (right == 0 || right == rewards.len()) {
        return Ok(Vec::new());
    }
    let mut found = Vec::with_capacity(rewards.len());
    for (index, reward) in rewards.iter().enumerate() {
        let admitted =
            (reward.extracted.is_some() || !rules.answered_only) && (reward.correct || !rules.correct_only);
        if admitted {
            found.push((candidate(reward)?, Source::Reward(index)));
        }
    }
    // In the published code a query without any candidate is lost, and its reference solution with it.
    let of_query = references.by_query.get(query).filter(|_| !found.is_empty() || !rules.answered_only);
    for index in of_query.into_iter().flatten() {
        let text = text_number(&text_id(&references.rows[*index].completion)).unwrap_or_default();
        let reference = Candidate { score: REFERENCE_SCORE, text, sample: u32::MAX, correct: true };
        found.push((reference, Source::Reference(*index)));
    }
    Ok(found)
}

/// Rewards by the position of their query.
pub(super) type Groups<'a> = BTreeMap<usize, Vec<&'a Reward>>;

fn text_number(text_id: &str) -> Option<u64> {
    u64::from_str_radix(text_id, 16).ok()
}

fn candidate(reward: &Reward) -> Result<Candidate, StageError> {
    let text = text_number(&reward.text_id).ok_or_else(|| {
        StageError::invalid(format!(
            "the reward of query `{}`, sample {}, has the text id `{}`",
            reward.query_id, reward.sample_index, reward.text_id
        ))
        .hint("a text id is 16 hexadecimal digits")
    })?;
    let Reward { reward: score, sample_index, correct, .. } = reward;
    Ok(Candidate { score: *score, text, sample: *sample_index, correct: *correct })
}
