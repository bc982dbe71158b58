//! How a reward model is read: what its output is, and where in a response.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;

/// How a reward model is read, in training and in scoring alike. The paper does not say; `answer: true` and
/// `separator: ["\n", "\n"]` with `output: logits` are what the published code does for Mistral (paper.md §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reading {
    /// What of the model is its output.
    pub output: Readout,
    /// Where the output of a step is read.
    pub at: Place,
    /// Whether that of the last step is read at the end of the answer, wherever the others are read
    /// (`--process_reward_with_answer` of the published code).
    pub answer: bool,
    /// What is turned into tokens at a time.
    pub encode: Encode,
    /// Texts that stand in place of every blank line, each turned into tokens on its own; none: the blank line
    /// as it is.
    pub separator: Vec<String>,
}

/// What of a model is its output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readout {
    /// A head of one number (`score.weight`).
    #[default]
    Head,
    /// The mean of the logits of the whole vocabulary: a reward model is then a policy in form
    /// (paper.md §1.9, 17).
    Logits,
}

/// Where the output of a step is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At the last token of the blank line that ends the step.
    #[default]
    BlankLine,
    /// At the last token of the step's own text.
    Step,
}

/// What is turned into tokens at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encode {
    /// Each step on its own: no token spans two.
    #[default]
    Steps,
    /// The whole response, as most software does. The output of a step is read at the token that holds its
    /// last character.
    Response,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            output: Readout::Head,
            at: Place::BlankLine,
            answer: true,
            encode: Encode::Steps,
            separator: Vec::new(),
        }
    }
}

impl Reading {
    /// Whether all is as usual.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What a key holds of it: nothing where all is as usual, so that keys from before there was a choice stay
    /// valid.
    pub(super) fn identity(&self) -> Option<Ingredient> {
        let Self { output, at, answer, encode, separator } = self;
        (!self.is_default()).then(|| {
            Ingredient::map([
                ("output", output.name().into()),
                ("at", at.name().into()),
                ("answer", (*answer).into()),
                ("encode", encode.name().into()),
                ("separator", separator.clone().into()),
            ])
        })
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        if let Some(at) = self.separator.iter().position(String::is_empty) {
            let hint = "write `separator: [\"\\n\", \"\\n\"]`, or leave it out";
            checks.refuse(&format!("reading.separator[{at}]"), "a part of the separator is empty", hint);
        }
        if self.encode == Encode::Response && !self.separator.is_empty() {
            let hint = "write `encode: steps`, or leave `separator` out";
            checks.refuse(
                "reading.separator",
                "a response that is encoded whole has its own blank lines",
                hint,
            );
        }
    }
}

impl Readout {
    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Logits => "logits",
        }
    }
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::BlankLine => "blank_line",
            Self::Step => "step",
        }
    }
}

impl Encode {
    fn name(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Response => "response",
        }
    }
}
