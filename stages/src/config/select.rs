//! Choosing a configuration, and choosing responses.

use bstar_cache::Ingredient;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::reference::{Reference, Setting};
use crate::stage::{Input, Output, Problem, Runner, Stage};

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

/// More thresholds than anyone means: a slip in `by`.
const MOST_THRESHOLDS: f64 = 1e5;

impl Thresholds {
    /// The grid, ascending. Values are rounded to 12 decimals, so that `-1 + 9 × 0.1` is the number
    /// written `-0.1`.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        let Self { from, to, by } = self;
        let last = ((to - from) / by + 1e-9).floor();
        if !(0.0..MOST_THRESHOLDS).contains(&last) {
            return Vec::new();
        }
        let mut values = Vec::new();
        let mut index = 0.0;
        while index <= last {
            values.push(((from + index * by) * 1e12).round() / 1e12 + 0.0);
            index += 1.0;
        }
        values
    }
}

impl Search {
    /// n* in effect; at least 1.
    #[must_use]
    pub fn effective_n_star(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let default = || self.keep_per_query.map_or(1, |keep| keep.ceil() as usize);
        self.n_star.unwrap_or_else(default).max(1)
    }
}

impl Stage for Search {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("rewards", &self.rewards)]
    }

    fn outputs(&self) -> Vec<Output> {
        vec![
            Output::file("temperature", "temperature.json"),
            Output::file("threshold", "threshold.json"),
            Output::file("surface", "surface.jsonl"),
        ]
    }

    fn identity(&self) -> Ingredient {
        let Self { rewards: _, thresholds: Thresholds { from, to, by }, n_star: _, keep_per_query } = self;
        Ingredient::map([
            ("thresholds", vec![*from, *to, *by].into()),
            ("n_star", self.effective_n_star().into()),
            ("keep_per_query", (*keep_per_query).into()),
        ])
    }

    fn items(&self, ingredient: &str) -> &'static [&'static str] {
        if ingredient == "thresholds" { &["from", "to", "by"] } else { &[] }
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        let Thresholds { from, to, by } = self.thresholds;
        for (field, value) in [("thresholds.from", from), ("thresholds.to", to)] {
            if !value.is_finite() {
                checks.refuse(
                    field,
                    format!("{field} must be a number, not {value}"),
                    "write for example -1.0",
                );
            }
        }
        checks.positive("thresholds.by", by, "write for example 0.1");
        if from > to {
            checks.refuse(
                "thresholds.from",
                format!("thresholds.from ({from}) is above thresholds.to ({to})"),
                "swap them; for a single threshold write the same number twice",
            );
        } else if by > 0.0 && (to - from) / by >= MOST_THRESHOLDS {
            checks.refuse("thresholds.by", format!("{by} gives more than 100,000 thresholds"), "raise it");
        }
        checks.keep_per_query(self.keep_per_query);
        match (self.n_star, self.keep_per_query) {
            (Some(n_star), _) => checks.count("n_star", n_star),
            (None, Some(_)) => {}
            (None, None) => checks.refuse(
                "n_star",
                "neither n_star nor keep_per_query is given",
                "write n_star: the unique correct responses a query you want (the paper: 6)",
            ),
        }
        checks.0
    }
}

impl Stage for Filter {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            Input::required("queries", &self.queries),
            Input::required("responses", &self.responses),
            Input::required("rewards", &self.rewards),
        ]
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::file("dataset", "dataset.jsonl")]
    }

    fn identity(&self) -> Ingredient {
        let Self { queries: _, responses: _, rewards: _, threshold, keep_per_query } = self;
        let threshold = match threshold {
            Setting::Value(value) => (*value).into(),
            Setting::Reference(reference) => reference.0.as_str().into(),
        };
        Ingredient::map([("threshold", threshold), ("keep_per_query", (*keep_per_query).into())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if self.threshold.value().is_some_and(|value| !value.is_finite()) {
            checks.refuse("threshold", "threshold must be a finite number", "0 keeps what is correct");
        }
        checks.keep_per_query(self.keep_per_query);
        checks.0
    }

    fn has_settings(&self) -> bool {
        true
    }

    fn settings(&mut self) -> Vec<(&'static str, &mut Setting)> {
        vec![("threshold", &mut self.threshold)]
    }
}
