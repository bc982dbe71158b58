//! How weights are updated: the settings that all training stages share.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use super::lora::Lora;
use super::precision::Precision;

/// How weights are updated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Decoupled weight decay (matrices only).
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW's decay rates.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// Rows longer than this many tokens lose the beginning of their prompt.
    #[serde(default = "default_length")]
    pub max_length: usize,
    /// Low-rank adapters instead of the weights themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// Weights that stay as they are; the new head of a reward model is learnt in any case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Frozen>,
    /// The numbers in which the optimizer's running averages are kept. Those of squares stay in 32 bits where
    /// `betas[1]` is above 0.996: what such an average forgets in an update is less than half of what the last of 16
    /// bits is worth, so it would never fall.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub moments: Precision,
    /// The numbers that the model computes with. Weights are updated and written in 32 bits.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// Tokens whose gradients are computed at a time: the rows of an update are cut into pieces of at
    /// most so many (a longer row is a piece of its own), and their gradients added. Default: 2,048 on a CPU, 16,384 on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Whether only the inputs of blocks are kept for the way back and the rest is computed again (not
    /// part of the result, which has the same bits).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub activation_checkpointing: bool,
    /// Updates between checkpoints in the scratch folder (not part of the result).
    #[serde(default = "default_checkpoint")]
    pub checkpoint_every: usize,
}

/// Weights that can be left out of training. The official code freezes all three (paper.md §1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Frozen {
    /// The embedding matrix; with it the output matrix, where they are one.
    Embeddings,
    /// The output matrix; with it the embedding, where they are one.
    Head,
    /// All norms.
    Norms,
}

impl Frozen {
    fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Head => "head",
            Self::Norms => "norms",
        }
    }
}

/// Beyond any training run: a slip of the pen.
const MOST: usize = 1_000_000_000;

fn default_muon_rate() -> f64 {
    0.02
}
fn one() -> f64 {
    1.0
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.95]
}
pub(super) fn default_length() -> usize {
    1024
}
fn default_checkpoint() -> usize {
    100
}

/// The optimizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the field's names")]
pub enum Optimizer {
    #[default]
    Adamw,
    Muon,
}

/// Learning rate as a share of its peak: linear warm-up, then `shape` down to `floor` at `total`.
///
/// After the warm-up these are the schedules of transformers. Update `i` (from 0) of a warm-up of `n` has `(i + 1) / n`
/// of the peak, where transformers has `i / n`: its first update changes nothing.
///
/// The position is the number of updates in the optimizer state, so an inherited optimizer inherits
/// the schedule (paper.md §1.7), and a fresh one starts anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The decay.
    #[serde(default)]
    pub shape: ScheduleShape,
    /// Updates of linear warm-up.
    #[serde(default)]
    pub warmup: usize,
    /// The last share of the peak. Without influence on `constant`, as `total` is.
    #[serde(default)]
    pub floor: f64,
    /// The update at which `floor` is reached, counted from the first one of an optimizer that is inherited. Default: the
    /// stage's own `updates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<usize>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { shape: ScheduleShape::Cosine, warmup: 0, floor: 0.0, total: None }
    }
}

/// The decay of a learning rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the field's names")]
pub enum ScheduleShape {
    Constant,
    Linear,
    #[default]
    Cosine,
}

impl Training {
    /// Updates after which the schedule has reached its floor.
    #[must_use]
    pub fn schedule_total(&self) -> usize {
        self.schedule.total.unwrap_or(self.updates)
    }

    /// Whether a running average of squares that is kept in 16 bits can fall: they tell numbers apart by a 256th to
    /// a 128th of them.
    #[must_use]
    pub fn squares_fit_16_bits(&self) -> bool {
        1.0 - self.betas[1] >= 1.0 / 256.0
    }

    pub(super) fn identity(&self) -> Ingredient {
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
            lora,
            freeze,
            moments,
            precision,
            micro_batch,
            activation_checkpointing: _,
            checkpoint_every: _,
        } = self;
        let falls = *shape != ScheduleShape::Constant;
        let muon = (*optimizer == Optimizer::Muon).then_some(*muon_learning_rate);
        let mut frozen: Vec<String> = freeze.iter().map(|part| part.name().to_owned()).collect();
        frozen.sort_unstable();
        let always = [
            ("updates", (*updates).into()),
            ("batch", (*batch).into()),
            ("learning_rate", (*learning_rate).into()),
            ("optimizer", optimizer.name().into()),
            ("muon_learning_rate", muon.into()),
            ("schedule", shape.name().into()),
            ("schedule_warmup", (*warmup).into()),
            ("schedule_floor", falls.then_some(*floor).into()),
            ("schedule_total", falls.then_some(self.schedule_total()).into()),
            ("clip", (*clip).into()),
            ("weight_decay", (*weight_decay).into()),
            ("betas", betas.to_vec().into()),
            ("max_length", (*max_length).into()),
        ];
        let chosen = [
            lora.as_ref().map(|lora| ("lora", lora.identity())),
            (!frozen.is_empty()).then(|| ("freeze", frozen.into())),
            moments.identity().map(|numbers| ("moments", numbers)),
            precision.identity().map(|numbers| ("precision", numbers)),
            micro_batch.map(|tokens| ("micro_batch", tokens.into())),
        ];
        let parts = always.into_iter().chain(chosen.into_iter().flatten());
        Ingredient::Map(parts.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        let rate = "write for example 0.003 (small models) or 5e-6 (billions of parameters)";
        checks.count("training.updates", self.updates);
        checks.count("training.batch", self.batch);
        checks.at_most("training.updates", self.updates, MOST);
        checks.at_most("training.batch", self.batch, MOST);
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
        if let Some(tokens) = self.micro_batch {
            checks.count("training.micro_batch", tokens);
        }
        for (index, part) in self.freeze.iter().enumerate() {
            if self.freeze[..index].contains(part) {
                let message = format!("{} is listed twice", part.name());
                checks.refuse(&format!("training.freeze[{index}]"), message, "remove one");
            }
        }
        if let Some(lora) = &self.lora {
            lora.check(checks);
            if !self.freeze.is_empty() {
                let message = "with adapters all weights of the model stay as they are";
                checks.refuse("training.freeze", message, "leave it out");
            }
            if self.optimizer == Optimizer::Muon {
                let message = "muon is made for whole matrices, not for their low-rank changes";
                checks.refuse("training.optimizer", message, "train adapters with adamw");
            }
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
