//! What the engine needs to know of a stage.

use std::collections::BTreeSet;

use bstar_cache::Ingredient;
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::{
    Allocate, Command, Dataset, Draw, Evaluate, Filter, Halve, Halving, LabelSteps, Measure, Merge, Prefixes,
    Pretrain, Problems, Prompts, RewardModel, Sample, SampleShard, Score, ScoreShard, Search, Sft,
    StepLabels, Tokenizer,
};
use crate::holds::Holds;
use crate::reference::{Reference, Setting};

/// Where a stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// In the engine's process: milliseconds of CPU.
    InProcess,
    /// In a `bstar-lm` worker.
    Worker,
    /// Any program.
    Command,
    /// Nowhere: the stage is cut into shards, or stands for several steps.
    None,
}

/// A named input of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The name the stage finds it under.
    pub name: String,
    /// What the pipeline wrote.
    pub reference: Reference,
    /// Whether the stage can run without it (a carried value that does not exist yet).
    pub optional: bool,
}

impl Input {
    /// An input that must be there.
    #[must_use]
    pub fn required(name: &str, reference: &Reference) -> Self {
        Self { name: name.to_owned(), reference: reference.clone(), optional: false }
    }

    /// An input that may be absent.
    #[must_use]
    pub fn optional(name: &str, reference: &Reference) -> Self {
        Self { optional: true, ..Self::required(name, reference) }
    }
}

/// A named output of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Output {
    /// The name references use.
    pub name: String,
    /// Where the stage writes it, relative to its output folder.
    pub path: String,
    /// Whether `path` is a folder.
    pub folder: bool,
    /// What it is, where that is known.
    pub holds: Option<Holds>,
}

impl Output {
    /// A file of a built-in stage.
    #[must_use]
    pub fn file(name: &str, path: &str) -> Self {
        Self { name: name.to_owned(), path: path.to_owned(), folder: false, holds: Holds::by_name(name) }
    }

    /// A folder of a built-in stage.
    #[must_use]
    pub fn folder(name: &str) -> Self {
        Self { name: name.to_owned(), path: name.to_owned(), folder: true, holds: Holds::by_name(name) }
    }

    /// The same output, with a name that does not tell what it is.
    #[must_use]
    pub fn holding(self, holds: Holds) -> Self {
        Self { holds: Some(holds), ..self }
    }
}

/// A setting outside its range, or settings that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as a path below `with`, for example `temperature` or `thresholds.by`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without advice.
    #[must_use]
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into(), hint: None }
    }

    /// The same problem with advice.
    #[must_use]
    pub fn advise(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What the shards of a step depend on, known once its inputs are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardSource {
    /// Number of rows of the input `queries`.
    pub queries: usize,
    /// Relative paths of the files in the input folder `responses`, sorted; that of a lone file is empty.
    pub responses: Vec<String>,
}

/// One piece of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    /// Where its only output file goes in the output folder of the whole step: within one of the step's outputs.
    pub path: String,
    /// The piece's own configuration.
    pub stage: StageConfig,
    /// Its inputs, by the names of its own configuration.
    pub inputs: Vec<(String, ShardInput)>,
}

/// An input of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardInput {
    /// The whole input of that name of the sharded step; absent when that is absent.
    Whole(String),
    /// Part of an input of the sharded step.
    Part(Piece),
}

/// Part of an input of a sharded step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Piece {
    /// Rows `start..end` of a JSON lines input.
    Rows {
        /// The sharded step's input.
        input: String,
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
    },
    /// One file of an input folder, or an input that is a file.
    File {
        /// The sharded step's input.
        input: String,
        /// Path in the folder; empty for a lone file.
        path: String,
    },
}

impl Piece {
    /// All pieces that some shards read, each once.
    #[must_use]
    pub fn of_shards(shards: &[Shard]) -> BTreeSet<&Self> {
        let parts = shards.iter().flat_map(|shard| &shard.inputs).filter_map(|(_, input)| match input {
            ShardInput::Whole(_) => None,
            ShardInput::Part(piece) => Some(piece),
        });
        parts.collect()
    }
}

/// The settings of one stage.
pub trait Stage {
    /// Where it runs.
    fn runner(&self) -> Runner;
    /// What it reads.
    fn inputs(&self) -> Vec<Input>;
    /// What it writes.
    fn outputs(&self) -> Vec<Output>;
    /// The settings that matter to the result: not references, not throughput settings.
    fn identity(&self) -> Ingredient;
    /// The names of the items of a list in [`Stage::identity`], where the pipeline file has names for them.
    fn items(&self, ingredient: &str) -> &'static [&'static str] {
        let _ = ingredient;
        &[]
    }
    /// Settings out of range.
    fn check(&self) -> Vec<Problem>;

    /// Overridden by a higher number when the code changes its results; the changelog says which.
    fn version(&self) -> u32 {
        1
    }
    /// Whether it draws random numbers, so that the pipeline's seed is part of its key.
    fn seeded(&self) -> bool {
        false
    }
    /// Settings that may refer to a value made by another stage, by field name.
    fn settings(&mut self) -> Vec<(&'static str, &mut Setting)> {
        Vec::new()
    }
    /// Whether [`Stage::settings`] are any.
    fn has_settings(&self) -> bool {
        false
    }
    /// The pieces it is cut into, for stages that are; sorted by `path`.
    fn shards(&self, source: &ShardSource) -> Option<Vec<Shard>> {
        let _ = source;
        None
    }
    /// Whether [`Stage::shards`] answers.
    fn sharded(&self) -> bool {
        false
    }
    /// The steps it stands for, named below `name`; the last has the stage's own name and outputs.
    fn lower(&self, name: &str) -> Option<Vec<(String, StageConfig)>> {
        let _ = name;
        None
    }
    /// Tells the stage which iteration (0-based) it is used in.
    fn bind_iteration(&mut self, iteration: usize) {
        let _ = iteration;
    }
    /// CPU cores it can use.
    fn cpu(&self) -> usize {
        1
    }
    /// Bytes of memory to keep for it; 0 when it takes little, or nobody knows.
    fn memory(&self) -> u64 {
        0
    }
}

macro_rules! stages {
    ($($name:literal $variant:ident,)*) => {
        /// A stage by its name in the pipeline file.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "uses", content = "with")]
        #[expect(missing_docs, reason = "each is documented at its configuration")]
        pub enum StageConfig {
            $(#[serde(rename = $name)] $variant($variant),)*
        }

        impl StageConfig {
            /// The names that `uses` accepts, in the order of the documentation.
            pub const NAMES: &[&str] = &[$($name),*];

            /// Reads the settings of the stage called `uses` from a JSON value (or a reference to one);
            /// `None` when there is no such stage.
            ///
            /// # Errors
            /// The path below `with` that does not fit, and why (serde's words).
            pub fn parse<'de>(
                uses: &str,
                with: impl Deserializer<'de, Error = serde_json::Error>,
            ) -> Option<Result<Self, serde_path_to_error::Error<serde_json::Error>>> {
                match uses {
                    $($name => Some(serde_path_to_error::deserialize(with).map(Self::$variant)),)*
                    _ => None,
                }
            }

            /// The JSON Schema of the settings of the stage called `uses`; `None` when there is no such stage.
            pub fn schema(uses: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
                match uses {
                    $($name => Some(generator.subschema_for::<$variant>()),)*
                    _ => None,
                }
            }

            /// The name in `uses`.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// The stage behind the name.
            #[must_use]
            pub fn stage(&self) -> &dyn Stage {
                match self { $(Self::$variant(stage) => stage,)* }
            }

            /// The stage behind the name, to bind settings.
            pub fn stage_mut(&mut self) -> &mut dyn Stage {
                match self { $(Self::$variant(stage) => stage,)* }
            }
        }
    };
}

stages! {
    "problems" Problems,
    "dataset" Dataset,
    "draw" Draw,
    "prompts" Prompts,
    "tokenizer" Tokenizer,
    "pretrain" Pretrain,
    "sft" Sft,
    "sample" Sample,
    "sample_shard" SampleShard,
    "score" Score,
    "score_shard" ScoreShard,
    "search" Search,
    "filter" Filter,
    "halving" Halving,
    "halve" Halve,
    "allocate" Allocate,
    "merge" Merge,
    "evaluate" Evaluate,
    "measure" Measure,
    "step_labels" StepLabels,
    "prefixes" Prefixes,
    "label_steps" LabelSteps,
    "reward_model" RewardModel,
    "command" Command,
}

impl StageConfig {
    /// The names that `uses` accepts in a file: shards are the engine's.
    pub fn usable() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().copied().filter(|name| !name.ends_with("_shard"))
    }

    /// The name under which executions are counted and keyed: a shard counts as its whole.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.name().trim_end_matches("_shard")
    }
}

/// Whether stages of this kind train: they save their progress on request, and tell of every update.
#[must_use]
pub fn trains(kind: &str) -> bool {
    matches!(kind, "pretrain" | "sft" | "reward_model")
}
