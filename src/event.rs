//! What happens during a run, as data: the executor sends events, reports show or store them.

use bstar_cache::ActionKey;
use bstar_stages::StageConfig;
use bstar_stages::protocol::FailureKind;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use crate::sweep::forecast::Forecast;

/// One of a few words. By another name, for serde takes a reference to be into what it reads.
type Word = &'static str;

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began.
    Started {
        /// Its id.
        run: String,
        /// The pipeline's name.
        pipeline: String,
        /// Where results are stored.
        store: String,
        /// Steps known so far.
        steps: usize,
    },
    /// What a sweep is going to do.
    Forecast(Box<Forecast>),
    /// A sharded step was cut.
    Unfolded {
        /// The step.
        step: String,
        /// Its pieces.
        shards: usize,
    },
    /// A step began to execute.
    Running {
        /// The step.
        step: String,
        /// Its kind of work.
        #[serde(deserialize_with = "stage")]
        stage: Word,
        /// 1-based.
        attempt: u32,
    },
    /// A running step got on.
    Progress {
        /// The step.
        step: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted.
        unit: String,
        /// One short figure for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A step is done.
    Done {
        /// The step.
        step: String,
        /// Its kind of work.
        #[serde(deserialize_with = "stage")]
        stage: Word,
        /// Whether its result was in the store. A sharded step whose pieces ran is not `cached`.
        cached: bool,
        /// Whether the step is one shard of another.
        shard: bool,
        /// Number of shards, for a sharded step that was unfolded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shards: Option<usize>,
        /// Its key.
        key: ActionKey,
        /// Seconds it took (the time it once took, when cached; the sum over shards).
        seconds: f64,
        /// The stage's figures.
        metrics: Map<String, Value>,
    },
    /// A step failed, for the last time or not.
    Failed {
        /// The step.
        step: String,
        /// Its kind of work.
        #[serde(deserialize_with = "stage")]
        stage: Word,
        /// What it means.
        kind: FailureKind,
        /// What went wrong.
        message: String,
        /// What to do.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        /// Seconds until it is tried again, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_in: Option<f64>,
    },
    /// A step will not run because a step it needs failed.
    Skipped {
        /// The step.
        step: String,
        /// The step that failed.
        because: String,
    },
    /// Something people should know.
    Note {
        /// `info` or `warn`.
        #[serde(deserialize_with = "level")]
        level: Word,
        /// The message.
        message: String,
    },
    /// A signal asked the run to stop.
    Stopping,
    /// The run ended; always the last event.
    Summary(Box<Summary>),
}

/// An event as the record of a run has it, on a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recorded<E> {
    /// When it happened: seconds since 1970.
    #[serde(default)]
    pub time: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: E,
}

fn stage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    one_of(StageConfig::NAMES, deserializer)
}

fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    one_of(&["info", "warn"], deserializer)
}

/// A text that is one of these.
fn one_of<'de, D: Deserializer<'de>>(
    names: &'static [&'static str],
    deserializer: D,
) -> Result<Word, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = names.iter().copied().find(|name| *name == text);
    known.ok_or_else(|| de::Error::unknown_variant(&text, names))
}

/// How a run ended (design: fields may be added, none renamed).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// The run.
    pub run: String,
    /// `done`, `failed` or `stopped`.
    pub outcome: String,
    /// What the command that ran it ends with.
    #[serde(default)]
    pub exit_code: u8,
    /// Steps that executed (a sharded step counts by its shards).
    pub executed: usize,
    /// Steps whose result was in the store.
    pub cached: usize,
    /// Steps that failed.
    pub failed: usize,
    /// Steps not reached because of a failure or a stop.
    pub skipped: usize,
    /// Wall time in seconds.
    pub wall_s: f64,
    /// Seconds the cached steps once took.
    pub saved_s: f64,
    /// Stage → executed steps.
    pub executed_by_stage: std::collections::BTreeMap<String, usize>,
    /// `setup.sft.policy` → digest, for every output of every step that is no shard.
    pub results: std::collections::BTreeMap<String, String>,
    /// One row an iteration.
    pub iterations: Vec<Map<String, Value>>,
    /// Figures of the policy before the first iteration.
    pub start: Map<String, Value>,
    /// The variants of a sweep, the baseline first; then `results` are named
    /// `VARIANT/seed=1/setup.sft.policy`, and `iterations` and `start` are empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<VariantSummary>,
}

/// What a variant of a sweep came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VariantSummary {
    /// Its name.
    pub name: String,
    /// How it differs from the file, as `key.path=value`.
    pub overrides: Vec<String>,
    /// Steps that executed for it (a sharded step counts by its shards); steps it shares count for the
    /// first variant that has them.
    pub executed: usize,
    /// Its other steps.
    pub cached: usize,
    /// Its figures with every seed.
    pub seeds: Vec<SeedSummary>,
    /// The mean of the final figures over the seeds that are complete.
    pub mean: Map<String, Value>,
    /// The standard error of `mean`: sample standard deviation / √n; empty with one seed.
    pub se: Map<String, Value>,
    /// The mean difference to the baseline, seed by seed; empty for the baseline.
    pub difference: Map<String, Value>,
    /// The standard error of `difference`.
    pub difference_se: Map<String, Value>,
    /// The paired test of its final Pass@1 against that of the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paired: Option<Paired>,
}

/// Problem by problem, over all seeds that both completed: McNemar's exact test of greedy answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Problems compared.
    pub problems: usize,
    /// Problems that only this variant solves.
    pub better: usize,
    /// Problems that only the baseline solves.
    pub worse: usize,
    /// The chance of a split at least as uneven if both were equally good (two-sided).
    pub p: f64,
}

/// What a variant came to with one seed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SeedSummary {
    /// The seed.
    pub seed: u64,
    /// Whether all its steps are done.
    pub complete: bool,
    /// One row an iteration.
    pub iterations: Vec<Map<String, Value>>,
    /// Figures of the policy before the first iteration.
    pub start: Map<String, Value>,
    /// `setup.sft.policy` → digest.
    pub results: std::collections::BTreeMap<String, String>,
}
