//! Choosing a configuration, and choosing responses.

use serde::{Deserialize, Serialize};

use crate::reference::{Reference, Setting};

/// Chooses temperature and threshold by the balance score (paper.md §1).
/// Outputs: `temperature` and `threshold` (a JSON number each), `surface` (JSON lines: the balance score
/// of every configuration).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Rewards of responses sampled at the temperatures to compare.
    pub rewards: Reference,
    /// The thresholds to compare.
    pub thresholds: Thresholds,
    /// n*: unique correct responses a query wanted. Default: `keep_per_query`, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_star: Option<usize>,
    /// Responses to keep, a query on average (N / M). Default: all above the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_per_query: Option<f64>,
}

/// A grid: numbers, or an evenly spaced range with both ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// First value.
    pub from: f64,
    /// Last value.
    pub to: f64,
    /// Distance; values are `from + i × by`, computed without accumulating.
    pub by: f64,
}

/// Keeps the best responses: per query the top k above the threshold, with the smallest k at which
/// enough are kept in all, duplicates dropped (paper.md §1.4). Output: `dataset` (example rows).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The queries.
    pub queries: Reference,
    /// Their responses.
    pub responses: Reference,
    /// The responses' rewards.
    pub rewards: Reference,
    /// A response must exceed it.
    pub threshold: Setting,
    /// Responses to keep, a query on average. Default: all above the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_per_query: Option<f64>,
}
