//! Labels for the steps of solutions, from rollouts (Math-Shepherd, arXiv 2312.08935).

use serde::{Deserialize, Serialize};

use crate::config::sample::Grader;
use crate::reference::Reference;

/// Labels steps: samples solutions, lets a policy continue from every step, and labels a step by the
/// share of continuations that reach the reference answer. Stands for four steps and a
/// [`LabelSteps`]. Output: `labels` ([`LabelledSteps`](crate::record::LabelledSteps) rows).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepLabels {
    /// Samples the solutions.
    pub policy: Reference,
    /// Continues them; default: the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completer: Option<Reference>,
    /// The queries.
    pub queries: Reference,
    /// Only the first queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Solutions a query.
    pub solutions: u32,
    /// Continuations a step.
    pub completions: u32,
    /// The temperature of both.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Most tokens a response.
    pub max_tokens: usize,
    /// How answers are compared.
    #[serde(default)]
    pub grader: Grader,
}

fn one() -> f64 {
    1.0
}

/// Cuts responses into steps and makes a query of every beginning. Output: `queries`, whose ids are
/// `QUERY/SAMPLE/STEP` and whose `prefix` is the response up to and including that step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefixes {
    /// The queries answered.
    pub queries: Reference,
    /// Their responses.
    pub responses: Reference,
}

/// Joins solutions and the rewards of their continuations. Output: `labels`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSteps {
    /// The queries made by [`Prefixes`].
    pub prefixes: Reference,
    /// The rewards of their continuations.
    pub rewards: Reference,
}
