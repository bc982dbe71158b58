//! Stages that make data.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::holds::Holds;
use crate::reference::Reference;
use crate::stage::{Input, Output, Problem, Runner, Stage};

/// Generates the built-in task: arithmetic word problems with exact reference solutions.
///
/// Outputs: `pretrain` and `flawed` ([`Example`](crate::record::Example) rows), `sft` (examples),
/// `train`, `validation`, `test` ([`Query`](crate::record::Query) rows). No two sets share a problem,
/// nor a renaming of one with `validation` or `test`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// A word with the space before it.
    Words,
    /// Byte pairs.
    Bpe,
}

impl Stage for Problems {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn seeded(&self) -> bool {
        true
    }

    fn inputs(&self) -> Vec<Input> {
        Vec::new()
    }

    fn outputs(&self) -> Vec<Output> {
        let file = |name: &str, holds| Output::file(name, &format!("{name}.jsonl")).holding(holds);
        let examples = ["pretrain", "flawed", "sft"].map(|name| file(name, Holds::Dataset));
        let queries = ["train", "validation", "test"].map(|name| file(name, Holds::Queries));
        [examples, queries].concat()
    }

    fn identity(&self) -> Ingredient {
        let Self { pretrain, flawed, sft, train, validation, test, steps } = self;
        Ingredient::map([
            ("pretrain", (*pretrain).into()),
            ("flawed", (*flawed).into()),
            ("sft", (*sft).into()),
            ("train", (*train).into()),
            ("validation", (*validation).into()),
            ("test", (*test).into()),
            ("steps", steps.clone().into()),
        ])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if self.steps.is_empty() {
            checks.refuse("steps", "steps lists no values", "write for example [3, 4]");
        }
        for (index, steps) in self.steps.iter().enumerate() {
            if !(1..=4).contains(steps) {
                checks.refuse(
                    &format!("steps[{index}]"),
                    format!("a solution has 1 to 4 steps, not {steps}"),
                    "write for example [3, 4]",
                );
            }
        }
        checks.0
    }
}

impl Stage for Draw {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("queries", &self.queries)]
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output { holds: None, ..Output::file("queries", "queries.jsonl") }]
    }

    fn identity(&self) -> Ingredient {
        let Self { queries: _, count, iteration } = self;
        Ingredient::map([("count", (*count).into()), ("iteration", iteration.unwrap_or(0).into())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.count("count", self.count);
        checks.0
    }

    fn bind_iteration(&mut self, iteration: usize) {
        self.iteration = Some(iteration);
    }
}

impl TokenizerKind {
    fn name(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Bpe => "bpe",
        }
    }
}

impl Stage for Tokenizer {
    fn runner(&self) -> Runner {
        Runner::Worker
    }

    /// `corpus0`, `corpus1`, …
    fn inputs(&self) -> Vec<Input> {
        self.corpus
            .iter()
            .enumerate()
            .map(|(index, reference)| Input::required(&format!("corpus{index}"), reference))
            .collect()
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::folder("tokenizer")]
    }

    fn identity(&self) -> Ingredient {
        let Self { corpus: _, kind, vocab_size, markers } = self;
        Ingredient::map([
            ("kind", kind.name().into()),
            ("vocab_size", (*vocab_size).into()),
            ("markers", markers.clone().into()),
        ])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if self.corpus.is_empty() {
            checks.refuse("corpus", "corpus lists no files", "write for example [problems.pretrain]");
        }
        checks.count("vocab_size", self.vocab_size);
        for (index, marker) in self.markers.iter().enumerate() {
            let field = format!("markers[{index}]");
            if marker.is_empty() {
                checks.refuse(&field, "a marker is empty", "remove it");
            } else if self.markers[..index].contains(marker) {
                checks.refuse(&field, format!("marker {marker:?} is listed twice"), "remove one");
            }
        }
        checks.0
    }
}
