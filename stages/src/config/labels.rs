//! Labels for the steps of solutions, from rollouts (Math-Shepherd, arXiv 2312.08935).

use bstar_cache::Ingredient;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::config::judge::{AnswerStyle, Grader};
use crate::config::sample::{Sample, Score};
use crate::reference::{OneOrMany, Reference, Setting};
use crate::stage::{Input, Output, Problem, Runner, Stage, StageConfig};

/// Labels steps: samples solutions, lets a policy continue from every step, and labels a step by the
/// share of continuations that reach the reference answer. Stands for four steps and a
/// [`LabelSteps`] (`NAME.solutions`, `NAME.prefixes`, `NAME.continuations`, `NAME.rewards`, `NAME`).
/// Output: `labels` ([`LabelledSteps`](crate::record::LabelledSteps) rows).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepLabels {
    /// Samples the solutions.
    pub policy: Reference,
    /// Continues them; default: the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completer: Option<Reference>,
    /// The queries.
    pub queries: Reference,
    /// Only the first queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Solutions a query.
    pub solutions: u32,
    /// Continuations a step.
    pub completions: u32,
    /// The temperature of both.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Keep the tokens that are at least this share as likely as the most likely one, in both; 0 = all.
    #[serde(default)]
    pub min_p: f64,
    /// Most tokens a response.
    pub max_tokens: usize,
    /// How answers are compared.
    #[serde(default)]
    pub grader: Grader,
    /// Where a response's answer stands.
    #[serde(default)]
    pub answer: AnswerStyle,
}

fn one() -> f64 {
    1.0
}

/// Cuts responses into steps and makes a query of every beginning. Output: `queries`, whose ids are
/// `QUERY/SAMPLE/STEP` and whose `prefix` is the response up to and including that step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefixes {
    /// The queries answered.
    pub queries: Reference,
    /// Their responses.
    pub responses: Reference,
}

/// Joins solutions and the rewards of their continuations. Output: `labels`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSteps {
    /// The queries made by [`Prefixes`].
    pub prefixes: Reference,
    /// The rewards of their continuations.
    pub rewards: Reference,
}

fn labels() -> Vec<Output> {
    vec![Output::file("labels", "labels.jsonl")]
}

impl Stage for StepLabels {
    fn runner(&self) -> Runner {
        Runner::None
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs =
            vec![Input::required("policy", &self.policy), Input::required("queries", &self.queries)];
        inputs.extend(self.completer.iter().map(|completer| Input::required("completer", completer)));
        inputs
    }

    fn outputs(&self) -> Vec<Output> {
        labels()
    }

    /// Of no use to a key: the steps it stands for have their own.
    fn identity(&self) -> Ingredient {
        let Self {
            policy: _,
            completer: _,
            queries: _,
            limit,
            solutions,
            completions,
            temperature,
            min_p,
            max_tokens,
            grader,
            answer,
        } = self;
        Ingredient::map([
            ("limit", (*limit).into()),
            ("solutions", (*solutions).into()),
            ("completions", (*completions).into()),
            ("temperature", (*temperature).into()),
            ("min_p", (*min_p).into()),
            ("max_tokens", (*max_tokens).into()),
            ("grader", grader.name().into()),
            ("answer", answer.name().into()),
        ])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if self.grader == Grader::Code {
            let hint = "label steps of problems with an answer: `grader: math`";
            checks.refuse("grader", "steps of programs cannot be labelled", hint);
        }
        checks.count("solutions", self.solutions as usize);
        checks.count("completions", self.completions as usize);
        checks.count("max_tokens", self.max_tokens);
        checks.temperature("temperature", self.temperature);
        checks.within("min_p", self.min_p, 0.0, 1.0, "0 keeps all tokens; 0.05 is usual");
        checks.greedy_is_single("temperature", &[self.temperature], self.solutions.max(self.completions));
        if let Some(limit) = self.limit {
            checks.count("limit", limit);
        }
        checks.0
    }

    fn lower(&self, name: &str) -> Option<Vec<(String, StageConfig)>> {
        let step = |suffix: &str| format!("{name}.{suffix}");
        let reference = |suffix: &str| Reference(step(suffix));
        let sample = |policy: &Reference, queries: &Reference, samples| {
            let temperature = OneOrMany::One(Setting::Value(self.temperature));
            Sample {
                min_p: self.min_p,
                ..Sample::new(policy, queries, temperature, samples, self.max_tokens)
            }
        };
        let (solutions, prefixes) = (reference("solutions"), reference("prefixes"));
        let continuations = reference("continuations");
        let completer = self.completer.as_ref().unwrap_or(&self.policy);
        let solve = Sample { limit: self.limit, ..sample(&self.policy, &self.queries, self.solutions) };
        let cut = Prefixes { queries: self.queries.clone(), responses: solutions };
        let proceed = sample(completer, &prefixes, self.completions);
        let score = Score { answer: self.answer, ..Score::new(&continuations, &prefixes, self.grader) };
        Some(vec![
            (step("solutions"), StageConfig::Sample(solve)),
            (step("prefixes"), StageConfig::Prefixes(cut)),
            (step("continuations"), StageConfig::Sample(proceed)),
            (step("rewards"), StageConfig::Score(score)),
            (
                name.to_owned(),
                StageConfig::LabelSteps(LabelSteps { prefixes, rewards: reference("rewards") }),
            ),
        ])
    }
}

impl Stage for Prefixes {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("queries", &self.queries), Input::required("responses", &self.responses)]
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::file("queries", "queries.jsonl")]
    }

    fn identity(&self) -> Ingredient {
        let Self { queries: _, responses: _ } = self;
        Ingredient::map([])
    }

    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }
}

impl Stage for LabelSteps {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("prefixes", &self.prefixes), Input::required("rewards", &self.rewards)]
    }

    fn outputs(&self) -> Vec<Output> {
        labels()
    }

    fn identity(&self) -> Ingredient {
        let Self { prefixes: _, rewards: _ } = self;
        Ingredient::map([])
    }

    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }
}
