//! Stages that train.

use serde::{Deserialize, Serialize};

use crate::reference::Reference;

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
}
