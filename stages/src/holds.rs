//! What results are, as far as it is known before anything runs: a dataset in the place of a policy is found then.

use std::fmt;

use crate::kind::Kind;

/// What a result holds, or what an input or a setting needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holds {
    /// A model that predicts tokens.
    Policy,
    /// A model that scores responses.
    RewardModel,
    /// The files of a tokenizer.
    Tokenizer,
    /// The state of an optimizer.
    Optimizer,
    /// Queries.
    Queries,
    /// Responses.
    Responses,
    /// Rewards.
    Rewards,
    /// Prompts with completions.
    Dataset,
    /// Solutions with labelled steps.
    Labels,
    /// One temperature.
    Temperature,
    /// One reward threshold.
    Threshold,
    /// One number.
    Number,
    /// Nothing that a built-in stage reads.
    Else,
}

impl Holds {
    /// What is called so, by inputs, outputs and settings of the built-in stages; lists number their inputs.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "policy" | "other" | "completer" => Self::Policy,
            "reward_model" => Self::RewardModel,
            "tokenizer" => Self::Tokenizer,
            "optimizer" => Self::Optimizer,
            "queries" => Self::Queries,
            "responses" => Self::Responses,
            "rewards" => Self::Rewards,
            "dataset" | "examples" | "corpus" | "replay" => Self::Dataset,
            "labels" => Self::Labels,
            "temperature" => Self::Temperature,
            "threshold" => Self::Threshold,
            "log" | "metrics" | "surface" | "adapter" => Self::Else,
            _ => return None,
        })
    }

    /// What a program's output of this kind is.
    pub(crate) fn of_kind(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Queries => Self::Queries,
            Kind::Responses => Self::Responses,
            Kind::Rewards => Self::Rewards,
            Kind::Dataset => Self::Dataset,
            Kind::Labels => Self::Labels,
            Kind::Number => Self::Number,
            Kind::Jsonl | Kind::Json => return None,
        })
    }

    /// Whether a result that holds `found` serves where this is needed.
    #[must_use]
    pub fn accepts(self, found: Self) -> bool {
        match (self, found) {
            // The mean of a policy's logits is a reward too.
            (Self::RewardModel, Self::Policy) | (Self::Temperature | Self::Threshold, Self::Number) => true,
            (needed, found) => needed == found,
        }
    }
}

impl fmt::Display for Holds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Policy => "a policy",
            Self::RewardModel => "a reward model",
            Self::Tokenizer => "a tokenizer",
            Self::Optimizer => "the state of an optimizer",
            Self::Queries => "queries",
            Self::Responses => "responses",
            Self::Rewards => "rewards",
            Self::Dataset => "prompts with completions",
            Self::Labels => "labelled steps",
            Self::Temperature => "a temperature",
            Self::Threshold => "a threshold",
            Self::Number => "a number",
            Self::Else => "something else",
        })
    }
}
