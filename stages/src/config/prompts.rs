//! Rendering prompts.

use std::collections::BTreeMap;

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::Checks;
use super::command::ingredient;
use crate::reference::Reference;
use crate::stage::{Input, Output, Problem, Runner, Stage};

/// Renders the `prompt` of every row by a template, as the policy is to read it. Output: `rows` (the file
/// `rows.jsonl`), the same rows in the same order with their new prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// Queries or examples: rows with a `prompt`.
    pub rows: Reference,
    /// The policy whose chat template and special tokens are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Reference>,
    /// A Jinja template in place of the policy's own. It is given `prompt`, `messages`,
    /// `add_generation_prompt` (true), and the special tokens by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// What the system says before the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// More that the template is given, by name: `{enable_thinking: false}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Value>,
}

impl Stage for Prompts {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    /// 2: line breaks in templates are all of one kind; a date that is given is today's. 3: templates are told that
    /// there are no tools and documents; all files that name special tokens are read; more is as in Jinja.
    fn version(&self) -> u32 {
        3
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![Input::required("rows", &self.rows)];
        inputs.extend(self.policy.iter().map(|policy| Input::required("policy", policy)));
        inputs
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::file("rows", "rows.jsonl")]
    }

    fn identity(&self) -> Ingredient {
        let Self { rows: _, policy: _, template, system, variables } = self;
        let variables = variables.iter().map(|(name, value)| (name.clone(), ingredient(value))).collect();
        Ingredient::map([
            ("template", template.clone().into()),
            ("system", system.clone().into()),
            ("variables", Ingredient::Map(variables)),
        ])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if self.policy.is_none() && self.template.is_none() {
            checks.refuse(
                "template",
                "there is no template",
                "give `policy` for the chat template of a model, or `template` for one of your own",
            );
        }
        checks.0
    }
}
