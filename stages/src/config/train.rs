//! Stages that train.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::architecture::Architecture;
use super::check::Checks;
use super::reading::Reading;
use super::training::{Training, default_length};
use crate::reference::Reference;
use crate::stage::{Input, Output, Problem, Runner, Stage};

/// Trains a language model from random weights on examples (loss on completions).
/// Outputs: `policy` (a Hugging Face folder), `optimizer` (its state), `log` (a row an update).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
/// Outputs: `policy`, `optimizer`, `log`; with `training.lora` also `adapter`, a folder in PEFT's format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// What training writes: with adapters their folder too, and the policy only if they are merged.
fn trained_policy(training: &Training) -> Vec<Output> {
    let adapter = training.lora.as_ref().map(|_| Output::folder("adapter"));
    let merged = training.lora.as_ref().is_none_or(|lora| lora.merge);
    let policy = merged.then(|| Output::folder("policy"));
    let rest = [Output::folder("optimizer"), Output::file("log", "log.jsonl")];
    policy.into_iter().chain(adapter).chain(rest).collect()
}

/// Adapters change a policy that has learnt something.
fn no_adapters(training: &Training, checks: &mut Checks) {
    if training.lora.is_some() {
        let message = "adapters are trained by `sft` only";
        checks.refuse("training.lora", message, "leave it out: all weights are trained");
    }
}

impl Stage for Pretrain {
    fn runner(&self) -> Runner {
        Runner::Worker
    }

    /// 2: gradients are computed and added in another order; the log has entropies.
    /// 3: norms, gates, losses and AdamW have other last bits.
    /// 4: so have products.
    /// 5: gradients of 16-bit losses are rounded once; averages of squares may stay in 32 bits; texts are
    /// never cut or filled up as a tokenizer's file says.
    fn version(&self) -> u32 {
        5
    }

    fn seeded(&self) -> bool {
        true
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("tokenizer", &self.tokenizer), Input::required("dataset", &self.dataset)]
    }

    fn outputs(&self) -> Vec<Output> {
        trained_policy(&self.training)
    }

    fn identity(&self) -> Ingredient {
        let Self { tokenizer: _, dataset: _, model, training } = self;
        Ingredient::map([("model", model.identity()), ("training", training.identity())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        self.model.check(&mut checks);
        self.training.check(&mut checks);
        no_adapters(&self.training, &mut checks);
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
    /// 3: gradients are computed and added in another order; the log has entropies.
    /// 4: norms, gates, losses and AdamW have other last bits.
    /// 5: so have products.
    /// 6: gradients of 16-bit losses are rounded once; averages of squares may stay in 32 bits; texts are
    /// never cut or filled up as a tokenizer's file says.
    fn version(&self) -> u32 {
        6
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
        trained_policy(&self.training)
    }

    fn identity(&self) -> Ingredient {
        let Self { policy: _, dataset: _, optimizer: _, training } = self;
        Ingredient::map([("training", training.identity())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        self.training.check(&mut checks);
        if self.training.lora.is_some() && self.optimizer.is_some() {
            let message = "adapters begin anew in every stage: an earlier one's optimizer is not theirs";
            checks.refuse("optimizer", message, "leave it out: on the command line `STAGE.optimizer=null`");
        }
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
    /// 3: gradients are computed and added in another order; the log has entropies.
    /// 4: norms, gates, losses and AdamW have other last bits.
    /// 5: so have products.
    /// 6: its head is never frozen; steps that are read at the same token all count; averages of squares may stay in
    /// 32 bits; texts are never cut or filled up as a tokenizer's file says.
    fn version(&self) -> u32 {
        6
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
        no_adapters(&self.training, &mut checks);
        checks.0
    }

    fn cpu(&self) -> usize {
        TRAINING_CORES
    }
}
