//! How a reward model is read: what its output is, and where in a response.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::Checks;

/// How a reward model is read, in training and in scoring alike. The paper does not say; `answer: true` and
/// `separator: ["\n", "\n"]` with `output: logits` are what the published code does for Mistral (paper.md §5).
/// A response, its steps and the parts of a separator go on from other text: a tokenizer that puts a space before
/// what it is given puts none before them.
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

    /// The setting by which a model that was trained with this reading would be read otherwise, and its two values:
    /// that of this one, and that of `other`. With `every_token` the model has learnt to be read at all tokens of a
    /// step. Where the last step is read (`answer`) is a choice of whoever scores.
    #[must_use]
    pub fn conflict(&self, other: &Self, every_token: bool) -> Option<(&'static str, [String; 2])> {
        let values = |reading: &Self| {
            let Self { output, at, answer: _, encode, separator } = reading;
            // At a blank line everything before it in the step has been learnt too.
            let at = if every_token && self.at == Place::BlankLine { self.at } else { *at };
            let separator = Value::from(separator.clone()).to_string();
            [
                ("output", output.name().to_owned()),
                ("at", at.name().to_owned()),
                ("encode", encode.name().to_owned()),
                ("separator", separator),
            ]
        };
        let pairs = values(self).into_iter().zip(values(other));
        pairs.filter(|(own, other)| own != other).map(|((name, own), (_, other))| (name, [own, other])).next()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_read_as_it_was_trained() {
        let usual = Reading::default();
        let step = Reading { at: Place::Step, ..usual.clone() };
        let two = Reading { separator: vec!["\n".into(), "\n".into()], ..Reading::default() };
        let whole = Reading { encode: Encode::Response, ..usual.clone() };
        let no_answer = Reading { answer: false, ..usual.clone() };
        let conflict = |trained: &Reading, other: &Reading, every_token| {
            let (name, [own, other]) = trained.conflict(other, every_token)?;
            Some(format!("{name}: {own}, not {other}"))
        };
        for every_token in [false, true] {
            assert_eq!(conflict(&usual, &usual, every_token), None);
            assert_eq!(conflict(&usual, &no_answer, every_token), None);
            let found = conflict(&usual, &whole, every_token);
            assert_eq!(found.as_deref(), Some("encode: steps, not response"));
            let found = conflict(&two, &usual, every_token);
            assert_eq!(found.as_deref(), Some(r#"separator: ["\n","\n"], not []"#));
            // A blank line is then a token of the step after it.
            assert!(conflict(&step, &usual, every_token).is_some());
        }
        assert_eq!(conflict(&usual, &step, false).as_deref(), Some("at: blank_line, not step"));
        assert_eq!(conflict(&usual, &step, true), None);
    }
}
