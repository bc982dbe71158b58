//! Stages that make data.

use serde::{Deserialize, Serialize};

use crate::reference::Reference;

/// Generates the built-in task: arithmetic word problems with exact reference solutions.
///
/// Outputs: `pretrain` and `flawed` ([`Example`](crate::record::Example) rows), `sft` (examples),
/// `train`, `validation`, `test` ([`Query`](crate::record::Query) rows). No two sets share a problem,
/// nor a renaming of one with `validation` or `test`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problems {
    /// Clean documents to pretrain on.
    pub pretrain: usize,
    /// Documents with believable misreadings.
    pub flawed: usize,
    /// Problems with a reference solution.
    pub sft: usize,
    /// Queries to improve on.
    pub train: usize,
    /// Queries to choose settings by.
    pub validation: usize,
    /// Held-out queries.
    pub test: usize,
    /// Steps of the queries' solutions, drawn uniformly from this list (each 1 to 4).
    #[serde(default = "default_steps")]
    pub steps: Vec<usize>,
}

fn default_steps() -> Vec<usize> {
    vec![3, 4]
}

/// Takes the queries of one iteration from a pool: `count` in a row, going on where the last
/// iteration ended, and round the end of the pool. Output: `queries`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// The pool.
    pub queries: Reference,
    /// How many to take.
    pub count: usize,
    /// Set by the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iteration: Option<usize>,
}

/// Trains a tokenizer. Output: the folder `tokenizer` (`tokenizer.json`, `tokenizer_config.json`,
/// `special_tokens_map.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// Example files to learn from.
    pub corpus: Vec<Reference>,
    /// What a token is.
    pub kind: TokenizerKind,
    /// Most tokens it may have.
    pub vocab_size: usize,
    /// Texts that are always one token, for example `"\n\n# Solution\n\n"`.
    #[serde(default)]
    pub markers: Vec<String>,
}

/// What a token is. Digits are always single.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// A word with the space before it.
    Words,
    /// Byte pairs.
    Bpe,
}
