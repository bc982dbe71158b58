//! Measuring a policy.

use serde::{Deserialize, Serialize};

use crate::config::sample::Grader;
use crate::reference::Reference;

/// Measures a policy. Stands for four steps and a [`Measure`]: greedy responses to all queries, sampled
/// responses to the first `sampled_queries`, and the rewards of both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The policy.
    pub policy: Reference,
    /// Held-out queries.
    pub queries: Reference,
    /// Responses a query for Pass@K and the like; 0 = greedy only.
    pub samples: u32,
    /// Queries to sample; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_queries: Option<usize>,
    /// Their temperature.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Most tokens a response.
    pub max_tokens: usize,
    /// How answers are compared.
    #[serde(default)]
    pub grader: Grader,
    /// Ranks responses for Best-of-K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<Reference>,
    /// The Ks of Pass@K; default: `samples`.
    #[serde(default)]
    pub k: Vec<u32>,
    /// The Ss of Pass@K-S.
    #[serde(default = "default_s")]
    pub s: Vec<u32>,
}

fn one() -> f64 {
    1.0
}
fn default_s() -> Vec<u32> {
    vec![4]
}

/// Computes the measures of paper.md §2. Output: `metrics` (one JSON object).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Rewards of greedy responses.
    pub greedy: Reference,
    /// Rewards of sampled responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Reference>,
    /// The Ks of Pass@K.
    #[serde(default)]
    pub k: Vec<u32>,
    /// The Ss of Pass@K-S.
    #[serde(default = "default_s")]
    pub s: Vec<u32>,
}
