//! How responses are selected and a selection is judged: what the paper and the published code do
//! differently, and options of later work. The defaults are this project's (paper.md §1.9).

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;

/// Rules of a selection, the same for `search` and `filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Which responses above the threshold are kept.
    pub select: Select,
    /// Most ranks of a query that are looked at (published code: 64). Without `keep_per_query` this is
    /// selection by rank alone: the best `k_max` of each query (M-STaR, arXiv 2412.17451: 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_max: Option<usize>,
    /// Drops the lowest rewards of the last rank, so that exactly the target is kept (the paper: N "set to").
    pub trim: bool,
    /// Counts ranks without duplicates: an equal text takes no place (published code: it does).
    pub distinct_ranks: bool,
    /// Only responses in which an answer was found (published code: those with the marker).
    pub answered_only: bool,
    /// Only correct responses: the reward ranks them and no threshold lets a wrong one in (M-STaR).
    pub correct_only: bool,
    /// Leaves out queries whose responses are all right or all wrong (Reinforce-Rej, arXiv 2504.11343).
    pub mixed_only: bool,
    /// What n_i of the balance score counts.
    pub n_i: Counted,
    /// The queries over which balance scores are averaged.
    pub average: Average,
    /// Which of several equally good configurations is chosen.
    pub ties: Ties,
}

/// Which responses above the threshold are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The best k of each query, with the smallest k at which `keep_per_query` is reached (published code).
    #[default]
    TopK,
    /// All (the paper); `keep_per_query` only says what n* is.
    All,
}

/// What n_i counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Distinct kept responses (published code).
    #[default]
    Unique,
    /// All kept responses, duplicates included (the paper). What is kept has no duplicates in any case.
    Total,
}

/// The queries over which balance scores are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// All sampled queries; one with nothing kept counts 0 (the paper).
    #[default]
    All,
    /// Queries with at least one kept response (published code).
    Selected,
}

/// Which of several equally good configurations is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// The one that keeps more; then the lower temperature, then the higher threshold.
    #[default]
    Kept,
    /// The first: the lowest temperature, then the lowest threshold (published code).
    First,
}

impl Rules {
    /// Whether all are the usual ones.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Their share of a key: only what is not usual, so that keys from before there were rules stay valid.
    pub(super) fn identity(&self) -> Option<Ingredient> {
        let Self {
            select,
            k_max,
            trim,
            distinct_ranks,
            answered_only,
            correct_only,
            mixed_only,
            n_i,
            average,
            ties,
        } = self;
        let flags = [
            ("trim", *trim),
            ("distinct_ranks", *distinct_ranks),
            ("answered_only", *answered_only),
            ("correct_only", *correct_only),
            ("mixed_only", *mixed_only),
        ];
        let mut parts: Vec<(&str, Ingredient)> =
            flags.into_iter().filter(|(_, set)| *set).map(|(name, set)| (name, set.into())).collect();
        if *select == Select::All {
            parts.push(("select", "all".into()));
        }
        parts.extend(k_max.map(|k_max| ("k_max", k_max.into())));
        if *n_i == Counted::Total {
            parts.push(("n_i", "total".into()));
        }
        if *average == Average::Selected {
            parts.push(("average", "selected".into()));
        }
        if *ties == Ties::First {
            parts.push(("ties", "first".into()));
        }
        let named = || parts.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        (!parts.is_empty()).then(|| Ingredient::Map(named().collect()))
    }

    /// What is wrong with them beside this `keep_per_query`.
    pub(super) fn check(&self, checks: &mut Checks, keep_per_query: Option<f64>) {
        if let Some(k_max) = self.k_max {
            checks.count("rules.k_max", k_max);
        }
        if self.trim && (self.select == Select::All || keep_per_query.is_none()) {
            let hint = "write `keep_per_query`, and `select: top_k`";
            checks.refuse("rules.trim", "there is no number of responses to trim to", hint);
        }
    }
}
