//! Stages that train.

use bstar_cache::Ingredient;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use super::reading::Reading;
use crate::reference::Reference;
use crate::stage::{Input, Output, Problem, Runner, Stage};

/// Shape of a Llama-style decoder, in the field names of `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "Hugging Face's names, explained there")]
pub struct Architecture {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Default: as many as attention heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    pub max_position_embeddings: usize,
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
}

fn yes() -> bool {
    true
}

/// How weights are updated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Number of optimizer updates.
    pub updates: usize,
    /// Rows an update. Rows are visited in a seeded shuffle, epoch after epoch.
    pub batch: usize,
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// The optimizer; `muon` treats hidden matrices by Muon and the rest by AdamW.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Peak learning rate of Muon's matrices, where it is used.
    #[serde(default = "default_muon_rate")]
    pub muon_learning_rate: f64,
    /// The learning rate over time.
    #[serde(default)]
    pub schedule: Schedule,
    /// Largest global gradient norm.
    #[serde(default = "one")]
    pub clip: f64,
    /// AdamW's decoupled weight decay (matrices only).
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW's decay rates.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// Rows longer than this many tokens lose the beginning of their prompt.
    #[serde(default = "default_length")]
    pub max_length: usize,
    /// Updates between checkpoints in the scratch folder (not part of the result).
    #[serde(default = "default_checkpoint")]
    pub checkpoint_every: usize,
}

fn default_muon_rate() -> f64 {
    0.02
}
fn one() -> f64 {
    1.0
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.95]
}
fn default_length() -> usize {
    1024
}
fn default_checkpoint() -> usize {
    100
}

/// The optimizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the field's names")]
pub enum Optimizer {
    #[default]
    Adamw,
    Muon,
}

/// Learning rate as a share of its peak: linear warm-up, then `shape` down to `floor` at `total`.
///
/// The position is the number of updates in the optimizer state, so an inherited optimizer inherits
/// the schedule (paper.md §1.7), and a fresh one starts anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The decay.
    #[serde(default)]
    pub shape: ScheduleShape,
    /// Updates of linear warm-up.
    #[serde(default)]
    pub warmup: usize,
    /// The last share of the peak.
    #[serde(default)]
    pub floor: f64,
    /// The update at which `floor` is reached. Default: the stage's own `updates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<usize>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { shape: ScheduleShape::Cosine, warmup: 0, floor: 0.0, total: None }
    }
}

/// The decay of a learning rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the field's names")]
pub enum ScheduleShape {
    Constant,
    Linear,
    #[default]
    Cosine,
}

/// Trains a language model from random weights on examples (loss on completions).
/// Outputs: `policy` (a Hugging Face folder), `optimizer` (its state), `log` (a row an update).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// A tokenizer folder.
    pub tokenizer: Reference,
    /// Example rows.
    pub dataset: Reference,
    /// The model.
    pub model: Architecture,
    /// The updates.
    pub training: Training,
}

/// Fine-tunes a policy on examples (loss on completions).
/// Outputs: `policy`, `optimizer`, `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sft {
    /// Where to start.
    pub policy: Reference,
    /// Example rows.
    pub dataset: Reference,
    /// The optimizer state to inherit; absent: a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<Reference>,
    /// The updates.
    pub training: Training,
}

/// Trains a process reward model: a policy with a scalar head, read at the last token of every step
/// and trained by binary cross-entropy on the steps' labels. Outputs: `reward_model`, `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardModel {
    /// The policy whose weights it starts from.
    pub policy: Reference,
    /// Labelled steps.
    pub labels: Reference,
    /// The updates.
    pub training: Training,
    /// How it is read; `score` must read it in the same way.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    /// Learns a step's label at every token of the step and not only where it is read, as the published code
    /// does (`--train_on_every_token`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub every_token: bool,
}

impl Architecture {
    /// Key and value heads in effect.
    #[must_use]
    pub fn key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn identity(&self) -> Ingredient {
        let Self {
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: _,
            max_position_embeddings,
            tie_word_embeddings,
        } = self;
        Ingredient::map([
            ("hidden_size", (*hidden_size).into()),
            ("intermediate_size", (*intermediate_size).into()),
            ("num_hidden_layers", (*num_hidden_layers).into()),
            ("num_attention_heads", (*num_attention_heads).into()),
            ("num_key_value_heads", self.key_value_heads().into()),
            ("max_position_embeddings", (*max_position_embeddings).into()),
            ("tie_word_embeddings", (*tie_word_embeddings).into()),
        ])
    }

    fn check(&self, checks: &mut Checks) {
        let sizes = [
            ("model.hidden_size", self.hidden_size),
            ("model.intermediate_size", self.intermediate_size),
            ("model.num_hidden_layers", self.num_hidden_layers),
            ("model.num_attention_heads", self.num_attention_heads),
            ("model.num_key_value_heads", self.key_value_heads()),
            ("model.max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, value) in sizes {
            checks.count(field, value);
        }
        if sizes.iter().any(|(_, value)| *value == 0) {
            return;
        }
        let (width, heads, groups) = (self.hidden_size, self.num_attention_heads, self.key_value_heads());
        if width % heads != 0 {
            checks.refuse(
                "model.num_attention_heads",
                format!("{heads} heads do not divide a hidden size of {width}"),
                "choose a hidden size that is a multiple of the number of heads",
            );
        } else if (width / heads) % 2 != 0 {
            checks.refuse(
                "model.num_attention_heads",
                format!("a head of {} dimensions cannot be rotated in pairs", width / heads),
                "choose an even number of dimensions a head",
            );
        }
        if heads % groups != 0 {
            checks.refuse(
                "model.num_key_value_heads",
                format!("{groups} key-value heads do not divide {heads} attention heads"),
                "leave it out for as many as attention heads",
            );
        }
    }
}

impl Training {
    /// Updates after which the schedule has reached its floor.
    #[must_use]
    pub fn schedule_total(&self) -> usize {
        self.schedule.total.unwrap_or(self.updates)
    }

    fn identity(&self) -> Ingredient {
        let Self {
            updates,
            batch,
            learning_rate,
            optimizer,
            muon_learning_rate,
            schedule: Schedule { shape, warmup, floor, total: _ },
            clip,
            weight_decay,
            betas,
            max_length,
            checkpoint_every: _,
        } = self;
        let muon = (*optimizer == Optimizer::Muon).then_some(*muon_learning_rate);
        Ingredient::map([
            ("updates", (*updates).into()),
            ("batch", (*batch).into()),
            ("learning_rate", (*learning_rate).into()),
            ("optimizer", optimizer.name().into()),
            ("muon_learning_rate", muon.into()),
            ("schedule", shape.name().into()),
            ("schedule_warmup", (*warmup).into()),
            ("schedule_floor", (*floor).into()),
            ("schedule_total", self.schedule_total().into()),
            ("clip", (*clip).into()),
            ("weight_decay", (*weight_decay).into()),
            ("betas", betas.to_vec().into()),
            ("max_length", (*max_length).into()),
        ])
    }

    fn check(&self, checks: &mut Checks) {
        let rate = "write for example 0.003 (small models) or 5e-6 (billions of parameters)";
        checks.count("training.updates", self.updates);
        checks.count("training.batch", self.batch);
        checks.count("training.checkpoint_every", self.checkpoint_every);
        checks.positive("training.learning_rate", self.learning_rate, rate);
        checks.positive("training.muon_learning_rate", self.muon_learning_rate, rate);
        checks.positive("training.clip", self.clip, "1 is usual; a large number means no clipping");
        checks.within("training.weight_decay", self.weight_decay, 0.0, 1.0, "0 is none; 0.1 is usual");
        checks.within("training.schedule.floor", self.schedule.floor, 0.0, 1.0, "a share of the peak rate");
        for (index, beta) in self.betas.iter().enumerate() {
            if !(0.0..1.0).contains(beta) {
                checks.refuse(
                    &format!("training.betas[{index}]"),
                    format!("a decay rate must be at least 0 and below 1, not {beta}"),
                    "[0.9, 0.95] is usual",
                );
            }
        }
        if self.max_length < 2 {
            let message = format!("max_length must be at least 2 tokens, not {}", self.max_length);
            checks.refuse("training.max_length", message, "one token to read and one to predict");
        }
        if self.schedule.total == Some(0) {
            checks.count("training.schedule.total", 0);
        } else if self.schedule.warmup > self.schedule_total() {
            checks.refuse(
                "training.schedule.warmup",
                format!(
                    "{} updates of warm-up do not end before update {}",
                    self.schedule.warmup,
                    self.schedule_total()
                ),
                "lower it, or raise schedule.total",
            );
        }
    }
}

impl Optimizer {
    fn name(self) -> &'static str {
        match self {
            Self::Adamw => "adamw",
            Self::Muon => "muon",
        }
    }
}

impl ScheduleShape {
    fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

fn trained_policy() -> Vec<Output> {
    vec![Output::folder("policy"), Output::folder("optimizer"), Output::file("log", "log.jsonl")]
}

impl Stage for Pretrain {
    fn runner(&self) -> Runner {
        Runner::Worker
    }

    fn seeded(&self) -> bool {
        true
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("tokenizer", &self.tokenizer), Input::required("dataset", &self.dataset)]
    }

    fn outputs(&self) -> Vec<Output> {
        trained_policy()
    }

    fn identity(&self) -> Ingredient {
        let Self { tokenizer: _, dataset: _, model, training } = self;
        Ingredient::map([("model", model.identity()), ("training", training.identity())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        self.model.check(&mut checks);
        self.training.check(&mut checks);
        if self.training.max_length > self.model.max_position_embeddings
            && self.training.max_length != default_length()
        {
            checks.refuse(
                "training.max_length",
                format!("rows of {} tokens are longer than the model's positions", self.training.max_length),
                "raise model.max_position_embeddings",
            );
        }
        checks.0
    }

    fn cpu(&self) -> usize {
        TRAINING_CORES
    }
}

/// Training adds two halves of a batch in a fixed order, so a second core changes no result.
const TRAINING_CORES: usize = 2;

impl Stage for Sft {
    fn runner(&self) -> Runner {
        Runner::Worker
    }

    /// 2: which of several end tokens ends a completion, and those of `generation_config.json`.
    fn version(&self) -> u32 {
        2
    }

    fn seeded(&self) -> bool {
        true
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs =
            vec![Input::required("policy", &self.policy), Input::required("dataset", &self.dataset)];
        inputs.extend(self.optimizer.iter().map(|optimizer| Input::optional("optimizer", optimizer)));
        inputs
    }

    fn outputs(&self) -> Vec<Output> {
        trained_policy()
    }

    fn identity(&self) -> Ingredient {
        let Self { policy: _, dataset: _, optimizer: _, training } = self;
        Ingredient::map([("training", training.identity())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        self.training.check(&mut checks);
        checks.0
    }

    fn cpu(&self) -> usize {
        TRAINING_CORES
    }
}

impl Stage for RewardModel {
    fn runner(&self) -> Runner {
        Runner::Worker
    }

    /// 2: its `config.json` has the end tokens of `generation_config.json`.
    fn version(&self) -> u32 {
        2
    }

    fn seeded(&self) -> bool {
        true
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("policy", &self.policy), Input::required("labels", &self.labels)]
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::folder("reward_model"), Output::file("log", "log.jsonl")]
    }

    fn identity(&self) -> Ingredient {
        let Self { policy: _, labels: _, training, reading, every_token } = self;
        let training = [("training".to_owned(), training.identity())];
        let reading = reading.identity().map(|reading| ("reading".to_owned(), reading));
        let every = every_token.then(|| ("every_token".to_owned(), true.into()));
        Ingredient::Map(training.into_iter().chain(reading).chain(every).collect())
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        self.training.check(&mut checks);
        self.reading.check(&mut checks);
        checks.0
    }

    fn cpu(&self) -> usize {
        TRAINING_CORES
    }
}
