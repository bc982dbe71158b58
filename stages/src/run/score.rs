//! Judging responses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bstar_cache::Digest;
use serde_json::{Map, Value};

use super::{Work, metrics};
use crate::code::{Judge, Rules, extract};
use crate::config::{Aggregate, CodeRules, Grader, Scale, ScoreShard};
use crate::files;
use crate::grade as grading;
use crate::protocol::StageError;
use crate::record::{Query, Response, Reward};
use crate::sandbox::{Limits, Python, Sandbox};

/// Judges a response by its answer: the reward is 1 when it is right and 0 otherwise.
///
/// # Errors
/// When its query lacks what the grader needs.
pub fn grade(query: &Query, response: &Response, settings: &ScoreShard) -> Result<Reward, StageError> {
    let ScoreShard { grader, answer, conventions, .. } = settings;
    let extracted = match grader {
        Grader::Choice => chosen(query, response)?.map(Cow::Owned),
        _ => grading::find(&response.text, *answer),
    };
    let correct = extracted
        .as_deref()
        .is_some_and(|answer| grading::equal(answer, &query.answer, *grader, conventions));
    let equations = grading::equations(&response.text);
    Ok(Reward { equations, ..judged(response, correct, extracted.map(Cow::into_owned)) })
}

/// The letter of the choice that a response makes.
fn chosen(query: &Query, response: &Response) -> Result<Option<String>, StageError> {
    let choices = query.choices.as_ref().filter(|choices| !choices.is_empty()).ok_or_else(|| {
        StageError::invalid(format!("the query `{}` has no choices", query.id)).hint(
            "with `grader: choice` every row of `queries` needs `choices`, a list of texts, as `dataset` makes \
             with `format: arc`",
        )
    })?;
    let position = grading::choice(choices, &response.text);
    Ok(position.and_then(grading::choice_letter).map(String::from))
}

/// The judgement of a response, of which nothing but its answer was looked at.
fn judged(response: &Response, correct: bool, extracted: Option<String>) -> Reward {
    Reward {
        query_id: response.query_id.clone(),
        sample_index: response.sample_index,
        temperature: response.temperature,
        text_id: text_id(&response.text),
        correct,
        extracted,
        equations: Vec::new(),
        reward: f64::from(u8::from(correct)),
        step_scores: None,
    }
}

/// Judges responses that are programs.
#[derive(Debug)]
struct Programs {
    judge: Judge,
    /// Query and text → whether it is right: many responses are the same.
    known: HashMap<(String, String), bool>,
}

impl Programs {
    fn new(rules: &CodeRules) -> Result<Self, StageError> {
        let CodeRules { comparison, seconds, memory_mb, python, unsafe_no_sandbox } = *rules;
        let sandbox = python.map_or_else(Python::here, Ok).and_then(|python| match unsafe_no_sandbox {
            true => Sandbox::nothing_of(python),
            false => Sandbox::of(python),
        });
        let sandbox = sandbox.map_err(|error| StageError::invalid(error.to_string()).hint(error.hint))?;
        let limits = Limits { memory: u64::from(memory_mb) << 20, ..Limits::default() };
        Ok(Self { judge: Judge::new(sandbox, Rules { comparison, seconds, limits }), known: HashMap::new() })
    }

    fn grade(&mut self, query: &Query, response: &Response) -> Result<Reward, StageError> {
        let tests = query.tests.as_ref().ok_or_else(|| {
            StageError::invalid(format!("the query `{}` has no tests", query.id))
                .hint("with `grader: code` every row of `queries` needs `tests`")
        })?;
        let code = extract(&response.text);
        let correct = match self.known.entry((query.id.clone(), text_id(&response.text))) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let verdict = self.judge.judge(&code, tests);
                let failed = |error| StageError::failed(format!("the sandbox failed: {error}"));
                *unknown.insert(verdict.map_err(failed)?.correct)
            }
        };
        Ok(judged(response, correct, Some(code)))
    }
}

/// Judges responses, one after the other, as a [`ScoreShard`] says.
#[derive(Debug)]
pub struct Grading {
    config: ScoreShard,
    programs: Option<Programs>,
}

impl Grading {
    /// A judge by these settings.
    ///
    /// # Errors
    /// When programs are to be judged, and cannot be run safely here.
    pub fn new(config: &ScoreShard) -> Result<Self, StageError> {
        let programs = (config.grader == Grader::Code).then(|| Programs::new(&config.code)).transpose()?;
        Ok(Self { config: config.clone(), programs })
    }

    /// The judgement of a response: the reward is 1 when it is right and 0 otherwise.
    ///
    /// # Errors
    /// When its query lacks what the grader needs, or the sandbox fails.
    pub fn judge(&mut self, query: &Query, response: &Response) -> Result<Reward, StageError> {
        match &mut self.programs {
            Some(programs) => programs.grade(query, response),
            None => grade(query, response, &self.config),
        }
    }
}

/// Adds a reward model's scores of a response's steps to its judgement.
///
/// # Errors
/// When a score is no finite number.
pub fn add_model_scores(
    reward: &mut Reward,
    step_scores: Vec<f64>,
    aggregate: Aggregate,
) -> Result<(), StageError> {
    if let Some((step, score)) = step_scores.iter().enumerate().find(|(_, score)| !score.is_finite()) {
        let Reward { query_id, sample_index, .. } = reward;
        return Err(StageError::invalid(format!(
            "the reward model's score of step {} of query `{query_id}`, sample {sample_index}, is {score}",
            step + 1
        ))
        .hint("look at `reward_model`: its weights may be damaged, or its training may have diverged"));
    }
    reward.reward = f64::from(u8::from(reward.correct)) + aggregate.of(&step_scores);
    reward.step_scores = Some(step_scores);
    Ok(())
}

impl Aggregate {
    /// One score of several; the lowest that a share can have (-1) for a response without steps.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a number of steps")]
    pub fn of(self, scores: &[f64]) -> f64 {
        let Some(last) = scores.last() else { return -1.0 };
        match self {
            Self::Min => scores.iter().copied().fold(f64::INFINITY, f64::min),
            Self::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
            Self::Last => *last,
            Self::Product => {
                2.0 * scores.iter().map(|score| f64::midpoint(*score, 1.0)).product::<f64>() - 1.0
            }
        }
    }
}

impl Scale {
    /// The score of an output.
    #[must_use]
    pub fn of(self, output: f64) -> f64 {
        match self {
            Self::Share => 2.0 / (1.0 + (-output).exp()) - 1.0,
            Self::Clamp => output.clamp(-1.0, 1.0),
            Self::Fifth => output / 5.0,
        }
    }
}

/// First 16 hexadecimal digits of the text's digest.
pub(super) fn text_id(text: &str) -> String {
    let mut digits = Digest::of(text.as_bytes()).to_string();
    digits.truncate(16);
    digits
}

pub(super) fn score(config: &ScoreShard, work: &Work) -> Result<Map<String, Value>, StageError> {
    if config.aggregate.is_some() {
        return Err(StageError::failed("scoring with a reward model does not run in this process"));
    }
    let queries: Vec<Query> = work.rows("queries")?;
    let responses: Vec<Response> = work.rows("responses")?;
    let by_id: HashMap<&str, &Query> = queries.iter().map(|query| (query.id.as_str(), query)).collect();
    let mut grading = Grading::new(config)?;
    let mut rewards = Vec::with_capacity(responses.len());
    for response in &responses {
        let query = by_id.get(response.query_id.as_str()).ok_or_else(|| {
            StageError::invalid(format!(
                "a response answers query `{}`, which is not given",
                response.query_id
            ))
            .hint("`queries` must be those that were sampled, in the same order")
        })?;
        rewards.push(grading.judge(query, response)?);
    }
    files::write_rows(&work.path("rewards.jsonl"), &rewards)?;
    let correct = rewards.iter().filter(|reward| reward.correct).count();
    Ok(metrics([("responses", rewards.len().into()), ("correct", correct.into())]))
}
