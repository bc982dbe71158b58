//! Sampling and scoring responses.

use serde::{Deserialize, Serialize};

use crate::reference::{OneOrMany, Reference};

/// Samples responses. Output: the folder `responses`, a file `t=T/CHUNK-START-END.jsonl` for each
/// temperature, chunk of queries and range of sample indices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The policy.
    pub policy: Reference,
    /// The queries.
    pub queries: Reference,
    /// Temperature, or several; 0 is greedy.
    pub temperature: OneOrMany,
    /// Responses a query (K).
    pub samples: u32,
    /// Most tokens a response.
    pub max_tokens: usize,
    /// Nucleus: keep the most likely tokens that hold this share of probability; 1 = all.
    #[serde(default = "one")]
    pub top_p: f64,
    /// Keep this many of the most likely tokens; 0 = all.
    #[serde(default)]
    pub top_k: usize,
    /// Texts that end a response (and are cut from it).
    #[serde(default)]
    pub stop: Vec<String>,
    /// Only the first queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Queries a shard (no influence on responses).
    #[serde(default = "default_shard_queries")]
    pub shard_queries: usize,
    /// Sample indices a shard (no influence on responses).
    #[serde(default = "default_shard_samples")]
    pub shard_samples: u32,
}

fn one() -> f64 {
    1.0
}
fn default_shard_queries() -> usize {
    64
}
fn default_shard_samples() -> u32 {
    16
}

/// One shard of [`Sample`]. Output: `responses` (the file `responses.jsonl`), ordered by query, then
/// sample index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as in `Sample`")]
pub struct SampleShard {
    pub temperature: f64,
    /// First sample index.
    pub start: u32,
    /// One past the last sample index.
    pub end: u32,
    pub max_tokens: usize,
    pub top_p: f64,
    pub top_k: usize,
    pub stop: Vec<String>,
}

/// Judges responses: extracts and compares the answer, and adds a reward model's score where one is
/// given. Output: the folder `rewards`, with a file for each file of `responses`, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The responses.
    pub responses: Reference,
    /// The queries they answer.
    pub queries: Reference,
    /// A reward model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<Reference>,
    /// How answers are compared.
    #[serde(default)]
    pub grader: Grader,
    /// How a response's step scores become one.
    #[serde(default)]
    pub aggregate: Aggregate,
    /// Must equal the sampler's.
    #[serde(default = "default_shard_queries")]
    pub shard_queries: usize,
}

/// One shard of [`Score`]. Output: `rewards` (the file `rewards.jsonl`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreShard {
    /// How answers are compared.
    pub grader: Grader,
    /// How a response's step scores become one; `None` without a reward model.
    pub aggregate: Option<Aggregate>,
}

/// How answers are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grader {
    /// Numbers by value, the rest as normalised text.
    #[default]
    Math,
    /// Character by character.
    Exact,
}

/// How a response's step scores become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The weakest step (paper.md §2.3).
    #[default]
    Min,
    /// The mean.
    Mean,
    /// The last step.
    Last,
}
