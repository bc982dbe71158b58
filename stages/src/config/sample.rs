//! Sampling responses.

use std::ffi::OsStr;

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use super::ingredients::ingredients;
use super::precision::Precision;
use crate::reference::{OneOrMany, Reference, Setting};
use crate::stage::{
    Input, Output, Piece, Problem, Runner, Shard, ShardInput, ShardSource, Stage, StageConfig,
};
use crate::units::parse_size;

/// Samples responses. Output: the folder `responses`, a file `t=T/qFIRST-LAST.sSTART-END.jsonl` for each
/// temperature, range of queries (by position) and range of sample indices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Keep the tokens that are at least this share as likely as the most likely one; 0 = all.
    #[serde(default)]
    pub min_p: f64,
    /// Texts that end a response (and are cut from it).
    #[serde(default)]
    pub stop: Vec<String>,
    /// Only the first queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// In which numbers the policy computes.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// Keep the log-probability of every token drawn, beside their sum.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logprobs: bool,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    #[serde(default)]
    pub min_p: f64,
    pub stop: Vec<String>,
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logprobs: bool,
}

/// What is in the key only where it is asked for.
fn unusual(precision: Precision, logprobs: bool) -> [(&'static str, Option<Ingredient>); 2] {
    [("precision", precision.identity()), ("logprobs", logprobs.then(|| true.into()))]
}

impl Sample {
    /// Plain sampling: no truncation, no stop texts, all queries.
    #[must_use]
    pub fn new(
        policy: &Reference,
        queries: &Reference,
        temperature: OneOrMany,
        samples: u32,
        max_tokens: usize,
    ) -> Self {
        Self {
            policy: policy.clone(),
            queries: queries.clone(),
            temperature,
            samples,
            max_tokens,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            stop: Vec::new(),
            limit: None,
            precision: Precision::default(),
            logprobs: false,
            shard_queries: default_shard_queries(),
            shard_samples: default_shard_samples(),
        }
    }
}

/// 2: the end tokens of `generation_config.json` end responses. 3: how a response attends to its own tokens has
/// other last bits. 4: so have norms, gates and draws. 5: so have products. 6: texts are never cut or filled up as a tokenizer's
/// file says; stop texts are found among bytes; a continuation keeps the space it begins with.
const VERSION: u32 = 6;

impl Stage for Sample {
    fn runner(&self) -> Runner {
        Runner::None
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn seeded(&self) -> bool {
        true
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("policy", &self.policy), Input::required("queries", &self.queries)]
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::folder("responses")]
    }

    fn identity(&self) -> Ingredient {
        let Self {
            policy: _,
            queries: _,
            temperature,
            samples,
            max_tokens,
            top_p,
            top_k,
            min_p,
            stop,
            limit,
            precision,
            logprobs,
            shard_queries: _,
            shard_samples: _,
        } = self;
        let temperature = match temperature {
            OneOrMany::One(Setting::Reference(reference)) => reference.0.as_str().into(),
            OneOrMany::One(Setting::Value(value)) => vec![*value].into(),
            OneOrMany::Many(values) => {
                // The order decides nothing but the order of work.
                let mut values = values.clone();
                values.sort_by(f64::total_cmp);
                values.into()
            }
        };
        let always = [
            ("temperature", temperature),
            ("samples", (*samples).into()),
            ("max_tokens", (*max_tokens).into()),
            ("top_p", (*top_p).into()),
            ("top_k", (*top_k).into()),
            ("min_p", (*min_p).into()),
            ("stop", stop.clone().into()),
            ("limit", (*limit).into()),
        ];
        ingredients(always, unusual(*precision, *logprobs))
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.temperatures("temperature", &self.temperature);
        checks.greedy_is_single("temperature", &self.temperature.values().unwrap_or_default(), self.samples);
        checks.count("samples", self.samples as usize);
        checks.count("max_tokens", self.max_tokens);
        checks.count("shard_queries", self.shard_queries);
        checks.count("shard_samples", self.shard_samples as usize);
        if let Some(limit) = self.limit {
            checks.count("limit", limit);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let message = format!("top_p must be above 0 and at most 1, not {}", self.top_p);
            checks.refuse("top_p", message, "1 keeps all tokens");
        }
        checks.within("min_p", self.min_p, 0.0, 1.0, "0 keeps all tokens; 0.05 is usual");
        if self.stop.iter().any(String::is_empty) {
            checks.refuse("stop", "a stop text is empty", "remove it: it would end every response at once");
        }
        checks.0
    }

    fn has_settings(&self) -> bool {
        true
    }

    fn settings(&mut self) -> Vec<(&'static str, &mut Setting)> {
        match &mut self.temperature {
            OneOrMany::One(setting) => vec![("temperature", setting)],
            OneOrMany::Many(_) => Vec::new(),
        }
    }

    fn sharded(&self) -> bool {
        true
    }

    /// `None` while the temperature is a reference that is not resolved.
    fn shards(&self, source: &ShardSource) -> Option<Vec<Shard>> {
        let queries = self.limit.map_or(source.queries, |limit| limit.min(source.queries));
        let (chunk_size, range_size) = (self.shard_queries.max(1), self.shard_samples.max(1));
        let mut shards = Vec::new();
        for temperature in self.temperature.values()? {
            let samples = if temperature == 0.0 { self.samples.min(1) } else { self.samples };
            for first in (0..queries).step_by(chunk_size) {
                let last = (first + chunk_size).min(queries);
                let mut start = 0;
                while start < samples {
                    let end = start.saturating_add(range_size).min(samples);
                    shards.push(Shard {
                        path: format!(
                            "responses/t={temperature}/q{first:05}-{last:05}.s{start:04}-{end:04}.jsonl"
                        ),
                        stage: StageConfig::SampleShard(SampleShard {
                            temperature,
                            start,
                            end,
                            max_tokens: self.max_tokens,
                            top_p: self.top_p,
                            top_k: self.top_k,
                            min_p: self.min_p,
                            stop: self.stop.clone(),
                            precision: self.precision,
                            logprobs: self.logprobs,
                        }),
                        inputs: vec![
                            ("policy".to_owned(), ShardInput::Whole("policy".to_owned())),
                            ("queries".to_owned(), rows(first, last)),
                        ],
                    });
                    start = end;
                }
            }
        }
        shards.sort_by(|a, b| a.path.cmp(&b.path));
        Some(shards)
    }
}

/// These rows of `queries`.
pub(super) fn rows(start: usize, end: usize) -> ShardInput {
    ShardInput::Part(Piece::Rows { input: "queries".to_owned(), start, end })
}

/// Says how much memory to plan with: `4GB`.
const VARIABLE: &str = "BSTAR_SAMPLE_MEMORY";
/// Bytes for waves, at most, where the variable does not say.
const WAVES: u64 = 1 << 30;

impl SampleShard {
    /// Bytes for the waves of a worker, where `$BSTAR_SAMPLE_MEMORY` says how many. Not in a key: no result depends on it.
    ///
    /// # Errors
    /// When the variable holds no size: what it holds.
    pub fn memory_asked_for() -> Result<Option<u64>, String> {
        std::env::var_os(VARIABLE).map(|text| size(&text)).transpose()
    }
}

fn size(text: &OsStr) -> Result<u64, String> {
    let size = text.to_str().and_then(|text| parse_size(text).ok());
    size.ok_or_else(|| format!("${VARIABLE} is `{}`, not a size", text.display()))
}

impl Stage for SampleShard {
    fn runner(&self) -> Runner {
        Runner::Worker
    }

    fn version(&self) -> u32 {
        VERSION
    }

    /// What the sampler plans its keys and values for, at most, and prompts kept for the next step.
    fn memory(&self) -> u64 {
        // A worker refuses a variable that is wrong.
        let waves = Self::memory_asked_for().ok().flatten().unwrap_or(WAVES);
        waves.saturating_add(waves / 4)
    }

    fn seeded(&self) -> bool {
        true
    }

    /// None that the pipeline names: a shard's inputs (`policy`, `queries`) are in its [`Shard`].
    fn inputs(&self) -> Vec<Input> {
        Vec::new()
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::file("responses", "responses.jsonl")]
    }

    fn identity(&self) -> Ingredient {
        let Self { temperature, start, end, max_tokens, top_p, top_k, min_p, stop, precision, logprobs } =
            self;
        let always = [
            ("temperature", (*temperature).into()),
            ("start", (*start).into()),
            ("end", (*end).into()),
            ("max_tokens", (*max_tokens).into()),
            ("top_p", (*top_p).into()),
            ("top_k", (*top_k).into()),
            ("min_p", (*min_p).into()),
            ("stop", stop.clone().into()),
        ];
        ingredients(always, unusual(*precision, *logprobs))
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.temperature("temperature", self.temperature);
        checks.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_follows_the_variable() {
        assert_eq!(size(OsStr::new("4GB")), Ok(4_000_000_000));
        assert_eq!(size(OsStr::new("much")), Err("$BSTAR_SAMPLE_MEMORY is `much`, not a size".to_owned()));
        let shard = SampleShard {
            temperature: 1.0,
            start: 0,
            end: 1,
            max_tokens: 1,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            stop: Vec::new(),
            precision: Precision::default(),
            logprobs: false,
        };
        let waves = SampleShard::memory_asked_for().unwrap().unwrap_or(1 << 30);
        assert_eq!(shard.memory(), waves + waves / 4);
    }
}
