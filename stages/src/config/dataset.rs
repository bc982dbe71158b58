//! Public data sets, as they are published.

use std::collections::BTreeMap;

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::reference::Reference;
use crate::stage::{Input, Output, Problem, Runner, Stage};

/// Reads a public data set (JSON lines): one query a row and, of rows with a reference solution, examples to train
/// on. Outputs: `queries` ([`Query`](crate::record::Query) rows), `examples`
/// ([`Example`](crate::record::Example) rows).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The file.
    pub file: Reference,
    /// How its rows are laid out.
    pub format: Format,
    /// The prompt, in which `{question}` stands for the question; default: that of the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What a policy learns to answer, with `{solution}` or `{steps}` (the solution with a blank line after each of
    /// its steps) and `{answer}`; default: that of the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// Name of a column in the format → its name in the file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Rows to leave out at the beginning.
    #[serde(default)]
    pub skip: usize,
    /// Most rows; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Most solutions of a row that become examples, where it has several; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solutions: Option<usize>,
    /// Characters of a solution beyond which it becomes no example; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_solution: Option<usize>,
}

/// How rows are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `question`, `answer` (a solution that ends with `#### 72`).
    Gsm8k,
    /// `problem`, `solution`, and `answer` unless the solution has it in `\boxed{}`.
    Math,
    /// `question`, `choices` (`text`, `label`), `answerKey`; or, as AI2 has it, `question` (`stem`, `choices`),
    /// `answerKey`.
    Arc,
    /// `prompt`, `test`, `entry_point`, and maybe `canonical_solution`.
    Humaneval,
    /// `text` (or `prompt`), `test_list`, and maybe `test_setup_code` and `code`.
    Mbpp,
    /// `question`, `input_output`, and maybe `solutions` and `starter_code`.
    Apps,
}

impl Format {
    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gsm8k => "gsm8k",
            Self::Math => "math",
            Self::Arc => "arc",
            Self::Humaneval => "humaneval",
            Self::Mbpp => "mbpp",
            Self::Apps => "apps",
        }
    }

    /// Its columns; all but the first may be absent in some rows.
    #[must_use]
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Gsm8k => &["question", "answer", "id"],
            Self::Math => &["problem", "solution", "answer", "id"],
            Self::Arc => &["question", "choices", "answerKey", "id"],
            Self::Humaneval => &["prompt", "test", "entry_point", "canonical_solution", "id"],
            Self::Mbpp => &["text", "test_list", "test_setup_code", "code", "id"],
            Self::Apps => &["question", "input_output", "solutions", "starter_code", "id"],
        }
    }

    /// The usual prompt; that of the paper (its appendix B) for mathematics.
    #[must_use]
    pub fn prompt(self) -> &'static str {
        match self {
            Self::Gsm8k | Self::Math => "# Question\n\n{question}\n\n# Solution\n\n",
            Self::Arc => "{question}",
            Self::Humaneval => {
                "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n\
                 {question}```\n"
            }
            Self::Mbpp | Self::Apps => "{question}\n\nAnswer with a Python program in one code block.\n",
        }
    }

    /// The usual completion.
    #[must_use]
    pub fn completion(self) -> &'static str {
        match self {
            Self::Gsm8k | Self::Math => "{solution}\n\n# Answer\n\n{answer}",
            Self::Arc => " Final answer: ({answer})",
            Self::Humaneval | Self::Mbpp | Self::Apps => "```python\n{solution}\n```\n",
        }
    }
}

impl Stage for Dataset {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    /// 2: queries of ARC have their choices.
    fn version(&self) -> u32 {
        if self.format == Format::Arc { 2 } else { 1 }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("file", &self.file)]
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::file("queries", "queries.jsonl"), Output::file("examples", "examples.jsonl")]
    }

    fn identity(&self) -> Ingredient {
        let Self { file: _, format, prompt, completion, columns, skip, limit, solutions, longest_solution } =
            self;
        let columns = columns.iter().map(|(name, column)| (name.clone(), column.as_str().into()));
        let always = [
            ("format", format.name().into()),
            ("prompt", prompt.as_deref().unwrap_or(format.prompt()).into()),
            ("completion", completion.as_deref().unwrap_or(format.completion()).into()),
            ("columns", Ingredient::Map(columns.collect())),
            ("skip", (*skip).into()),
            ("limit", (*limit).into()),
        ];
        let several = solutions.filter(|most| *most != 1).map(|most| ("solutions", most.into()));
        let longest = longest_solution.map(|most| ("longest_solution", most.into()));
        let parts = always.into_iter().chain(several).chain(longest);
        Ingredient::Map(parts.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if let Some(limit) = self.limit {
            checks.count("limit", limit);
        }
        if let Some(solutions) = self.solutions {
            checks.count("solutions", solutions);
        }
        if let Some(longest) = self.longest_solution {
            checks.count("longest_solution", longest);
        }
        if self.prompt.as_ref().is_some_and(|prompt| !prompt.contains("{question}")) {
            checks.refuse(
                "prompt",
                "the prompt does not hold the question",
                "write `{question}` where it goes",
            );
        }
        for name in self.columns.keys().filter(|name| !self.format.columns().contains(&name.as_str())) {
            let known = self.format.columns().join(", ");
            checks.refuse(
                &format!("columns.{name}"),
                format!("the format {} has no column `{name}`", self.format.name()),
                &format!("it has {known}"),
            );
        }
        checks.0
    }
}
