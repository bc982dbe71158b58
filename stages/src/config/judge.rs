//! How responses are judged: by which grader, and where their answer stands.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::code::{CODE_VERSION, Comparison};
use crate::grade::{
    CHOICE_VERSION, Conventions, EQUATIONS_VERSION, GRADER_VERSION, OFFICIAL_VERSION, style_version,
};
use crate::sandbox::Python;

/// How answers are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grader {
    /// By value: numbers, expressions, sets and so on (see [`grade`](crate::grade)).
    #[default]
    Math,
    /// As the published B-STaR code evaluates: two normal forms of the text.
    Official,
    /// Character by character.
    Exact,
    /// The response chooses one of the choices of its query: by the letter of its position, or in its words
    /// (see [`choose`](crate::grade::choose)).
    Choice,
    /// The response is a program, run against the tests of its query (see [`code`](crate::code)).
    Code,
}

/// Where a response's answer stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// How programs are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CodeRules {
    /// How their outputs are compared.
    pub comparison: Comparison,
    /// Processor seconds a test.
    pub seconds: u32,
    /// Memory of a program, in MiB.
    pub memory_mb: u32,
    /// The Python that runs them; default: the one of the machine that plans. It is part of the key either way: what
    /// one version accepts another may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub python: Option<Python>,
    /// Runs programs without a sandbox, with the rights of this user.
    pub unsafe_no_sandbox: bool,
}

impl Default for CodeRules {
    fn default() -> Self {
        Self {
            comparison: Comparison::Official,
            seconds: 4,
            memory_mb: 1024,
            python: None,
            unsafe_no_sandbox: false,
        }
    }
}

impl CodeRules {
    /// Whether all are the usual ones.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn identity(&self) -> Ingredient {
        // Where programs run decides how safe it is, not what is right.
        let Self { comparison, seconds, memory_mb, python, unsafe_no_sandbox: _ } = self;
        let python = python.or_else(|| Python::here().ok()).map(|python| python.to_string());
        Ingredient::map([
            ("version", CODE_VERSION.into()),
            ("comparison", comparison.name().into()),
            ("seconds", (*seconds).into()),
            ("memory_mb", (*memory_mb).into()),
            ("python", python.into()),
        ])
    }

    /// The same, with the Python named that would be used, where programs run and there is one.
    pub(super) fn settled(self, grader: Grader) -> Self {
        let here = || (grader == Grader::Code).then(Python::here).and_then(Result::ok);
        Self { python: self.python.or_else(here), ..self }
    }

    /// What is wrong with using them.
    pub(super) fn check(&self, checks: &mut Checks, grader: Grader) {
        if grader == Grader::Code
            && self.python.is_none()
            && let Err(error) = Python::here()
        {
            let hint =
                "install it, or name the version of the machines that judge: `code: {python: \"3.11\"}`";
            let message = format!("it is not known which Python judges: {}", error.reason);
            checks.refuse("code.python", message, hint);
        }
        if grader != Grader::Code && !self.is_default() {
            let hint = "add `grader: code`, or leave `code` out";
            checks.refuse("code", format!("the grader `{}` runs no programs", grader.name()), hint);
        }
        checks.count("code.seconds", self.seconds as usize);
        if self.memory_mb < 64 {
            let hint = "Python alone needs about 20 MiB";
            checks.refuse("code.memory_mb", format!("must be at least 64, not {}", self.memory_mb), hint);
        }
    }
}

/// What of judging is in a key. What is as usual leaves no trace, so that keys from before it could be otherwise
/// stay valid.
pub(super) fn judging(
    grader: Grader,
    answer: AnswerStyle,
    code: &CodeRules,
    conventions: &Conventions,
) -> Vec<(&'static str, Ingredient)> {
    let version = grader.version().map(|version| ("grader_version", version.into()));
    let style = (!answer.is_default()).then(|| ("answer", answer.name().into()));
    // Programs have neither an answer nor equations; a choice is not looked for by style.
    let equations = (grader != Grader::Code).then(|| later(EQUATIONS_VERSION)).flatten();
    let equations = equations.map(|version| ("equations_version", version.into()));
    let found = (!matches!(grader, Grader::Code | Grader::Choice)).then(|| later(style_version(answer)));
    let found = found.flatten().map(|version| ("answer_version", version.into()));
    let rules = (grader == Grader::Code).then(|| ("code", code.identity()));
    let agreed = grader == Grader::Math && !conventions.is_default();
    let agreed = agreed.then(|| ("conventions", identity(conventions)));
    [("grader", grader.name().into())]
        .into_iter()
        .chain(version)
        .chain(equations)
        .chain(style)
        .chain(found)
        .chain(rules)
        .chain(agreed)
        .collect()
}

/// A version that leaves a trace in keys: the first one has none.
fn later(version: u32) -> Option<u32> {
    (version > 1).then_some(version)
}

/// What of conventions is in a key.
fn identity(conventions: &Conventions) -> Ingredient {
    let Conventions {
        percent,
        list_order,
        brackets,
        rounding,
        units_ignored,
        unevaluated,
        names_ignored,
        base_optional,
    } = conventions;
    let rounding =
        Ingredient::map([("digits", rounding.digits.into()), ("relative", rounding.relative.into())]);
    Ingredient::map([
        ("percent", percent.name().into()),
        ("list_order", (*list_order).into()),
        ("brackets", (*brackets).into()),
        ("rounding", rounding),
        ("units_ignored", (*units_ignored).into()),
        ("unevaluated", (*unevaluated).into()),
        ("names_ignored", (*names_ignored).into()),
        ("base_optional", (*base_optional).into()),
    ])
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
        match self {
            Self::Math => Some(GRADER_VERSION),
            Self::Official => later(OFFICIAL_VERSION),
            Self::Choice => later(CHOICE_VERSION),
            Self::Exact | Self::Code => None,
        }
    }

    /// What is wrong with these conventions.
    pub(super) fn check(self, conventions: &Conventions, checks: &mut Checks) {
        if self != Self::Math && !conventions.is_default() {
            let hint = "add `grader: math`, or leave `conventions` out";
            checks.refuse("conventions", format!("the grader `{}` has none", self.name()), hint);
        }
    }

    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Math => "math",
            Self::Official => "official",
            Self::Exact => "exact",
            Self::Choice => "choice",
            Self::Code => "code",
        }
    }
}
