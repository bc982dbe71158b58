//! How responses are judged: by which grader, and where their answer stands.

use bstar_cache::Ingredient;
use serde::{Deserialize, Serialize};

use super::sample::Aggregate;
use crate::grade::GRADER_VERSION;

/// How answers are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grader {
    /// By value: numbers, expressions, sets and so on (see [`grade`](crate::grade)).
    #[default]
    Math,
    /// As the published B-STaR code evaluates: two normal forms of the text.
    Official,
    /// Character by character.
    Exact,
}

/// Where a response's answer stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerStyle {
    /// After the last `# Answer` and a blank line, as the paper has it.
    #[default]
    Section,
    /// After the last `####`, as GSM8K has it.
    Hashes,
    /// In the last `\boxed{}`, as MATH has it.
    Boxed,
    /// Any of these, what follows "the answer is", or the last formula or number.
    Any,
}

/// The identity of judging. A default style leaves no trace in it, so that keys from before there were
/// styles stay valid.
pub(super) fn judging(grader: Grader, answer: AnswerStyle, aggregate: Option<Aggregate>) -> Ingredient {
    let version = grader.version().map(|version| ("grader_version", version.into()));
    let style = (!answer.is_default()).then(|| ("answer", answer.name().into()));
    let always = [("grader", grader.name().into()), ("aggregate", aggregate.map(Aggregate::name).into())];
    let parts = always.into_iter().chain(version).chain(style);
    Ingredient::Map(parts.map(|(name, value)| (name.to_owned(), value)).collect())
}

impl AnswerStyle {
    /// Whether it is the one that a pipeline need not name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Section => "section",
            Self::Hashes => "hashes",
            Self::Boxed => "boxed",
            Self::Any => "any",
        }
    }
}

impl Grader {
    /// The version of the code that judges, where it has had more than one.
    #[must_use]
    pub fn version(self) -> Option<u32> {
        (self == Self::Math).then_some(GRADER_VERSION)
    }

    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Math => "math",
            Self::Official => "official",
            Self::Exact => "exact",
        }
    }
}
