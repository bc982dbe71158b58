//! The rows that stages exchange: JSON lines, one record a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::code::Tests;

/// One problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// Unique within a set; part of the random stream of its responses.
    pub id: String,
    /// The text given to the policy, rendered.
    pub prompt: String,
    /// The reference answer.
    pub answer: String,
    /// The beginning of a response that the policy continues (for step labels).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What there is to choose from, in the order of their letters, where the answer is one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
    /// The tests that a program has to pass, where the response is a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<Tests>,
    /// Facts about the problem (family, number of steps, level), for reports only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// A training row, with TRL's column names. Loss is taken on `completion` (and the end token) only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The rendered prompt.
    pub prompt: String,
    /// The text to learn, without the end token.
    pub completion: String,
    /// The query it answers, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_id: Option<String>,
    /// Which of the query's samples it was, where it was sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_index: Option<u32>,
    /// Its reward, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
}

/// Why a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The end token or a stop string.
    Stop,
    /// The token limit.
    Length,
}

/// One sampled completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The query it answers.
    pub query_id: String,
    /// Its position among the query's samples; with the seed and the query, its random stream.
    pub sample_index: u32,
    /// The temperature it was drawn at (0 = greedy).
    pub temperature: f64,
    /// The decoded text, without the end token; includes the query's prefix, if any.
    pub text: String,
    /// Number of tokens drawn, the end token included.
    pub tokens: u32,
    /// Sum of the drawn tokens' log-probabilities under the sampling distribution at temperature 1.
    pub logprob: f64,
    /// That of each, where `sample` was asked to keep them (`logprobs: true`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f64>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// The judgement of one response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// The query of the response.
    pub query_id: String,
    /// The sample index of the response.
    pub sample_index: u32,
    /// The temperature of the response.
    pub temperature: f64,
    /// First 16 hexadecimal digits of the text's digest: what "unique" and ties go by.
    pub text_id: String,
    /// Whether the extracted answer equals the reference answer.
    pub correct: bool,
    /// The answer found in the response, if any.
    pub extracted: Option<String>,
    /// The distinct equations of the response, without spaces, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub equations: Vec<String>,
    /// The reward: 1 when correct, plus the aggregate of the reward model's scores where one is used.
    pub reward: f64,
    /// The reward model's score of each step, as the stage scaled it (in [-1, 1] unless `scale: fifth`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_scores: Option<Vec<f64>>,
}

/// A solution with a label for each of its steps (Math-Shepherd, arXiv 2312.08935).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelledSteps {
    /// The query answered.
    pub query_id: String,
    /// The rendered prompt.
    pub prompt: String,
    /// The steps, whose concatenation is the response (separators included).
    pub steps: Vec<String>,
    /// For each step, the share of continuations that reach the reference answer, in [0, 1].
    pub labels: Vec<f64>,
}
