//! Judging responses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bstar_cache::Digest;
use serde_json::{Map, Value};

use super::{Work, metrics};
use crate::code::{Judge, Rules, extract};
use crate::config::{Aggregate, AnswerStyle, CodeRules, Grader, ScoreShard};
use crate::files;
use crate::grade as grading;
use crate::protocol::StageError;
use crate::record::{Query, Response, Reward};
use crate::sandbox::{Limits, Python, Sandbox};

/// Judges a response by its answer: the reward is 1 when it is right and 0 otherwise.
#[must_use]
pub fn grade(query: &Query, response: &Response, grader: Grader, style: AnswerStyle) -> Reward {
    let extracted = grading::find(&response.text, style);
    let correct = extracted.as_deref().is_some_and(|answer| grading::equal(answer, &query.answer, grader));
    let equations = grading::equations(&response.text);
    Reward { equations, ..judged(response, correct, extracted.map(Cow::into_owned)) }
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
    grader: Grader,
    answer: AnswerStyle,
    programs: Option<Programs>,
}

impl Grading {
    /// A judge by these settings.
    ///
    /// # Errors
    /// When programs are to be judged, and cannot be run safely here.
    pub fn new(config: &ScoreShard) -> Result<Self, StageError> {
        let ScoreShard { grader, answer, code, aggregate: _ } = config;
        let programs = (*grader == Grader::Code).then(|| Programs::new(code)).transpose()?;
        Ok(Self { grader: *grader, answer: *answer, programs })
    }

    /// The judgement of a response: the reward is 1 when it is right and 0 otherwise.
    ///
    /// # Errors
    /// When its query has no tests for a program, or the sandbox fails.
    pub fn judge(&mut self, query: &Query, response: &Response) -> Result<Reward, StageError> {
        match &mut self.programs {
            Some(programs) => programs.grade(query, response),
            None => Ok(grade(query, response, self.grader, self.answer)),
        }
    }
}

/// Adds a reward model's scores of a response's steps, each in [-1, 1], to its judgement.
pub fn add_model_scores(reward: &mut Reward, step_scores: Vec<f64>, aggregate: Aggregate) {
    reward.reward = f64::from(u8::from(reward.correct)) + aggregate.of(&step_scores);
    reward.step_scores = Some(step_scores);
}

impl Aggregate {
    /// One score of several; the lowest possible (-1) for a response without steps.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a number of steps")]
    pub fn of(self, scores: &[f64]) -> f64 {
        let Some(last) = scores.last() else { return -1.0 };
        match self {
            Self::Min => scores.iter().copied().fold(f64::INFINITY, f64::min),
            Self::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
            Self::Last => *last,
        }
    }
}

/// First 16 hexadecimal digits of the text's digest.
fn text_id(text: &str) -> String {
    let mut digits = Digest::of(text.as_bytes()).to_string();
    digits.truncate(16);
    digits
}

pub(super) fn score(config: &ScoreShard, work: &Work) -> Result<Map<String, Value>, StageError> {
    let ScoreShard { grader: _, answer: _, code: _, aggregate } = config;
    if aggregate.is_some() {
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
            .hint("`queries` must be those that were sampled")
        })?;
        rewards.push(grading.judge(query, response)?);
    }
    files::write_rows(&work.path("rewards.jsonl"), &rewards)?;
    let correct = rewards.iter().filter(|reward| reward.correct).count();
    Ok(metrics([("responses", rewards.len().into()), ("correct", correct.into())]))
}
