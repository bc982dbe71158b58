//! Labels for the steps of solutions, from rollouts (Math-Shepherd, arXiv 2312.08935).

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::config::judge::{AnswerStyle, Grader};
use crate::config::sample::Sample;
use crate::config::score::Score;
use crate::grade::Conventions;
use crate::reference::{OneOrMany, Reference, Setting};
use crate::stage::{Input, Output, Problem, Runner, Stage, StageConfig};

/// Labels steps: samples solutions, lets a policy continue from every step, and labels a step by the
/// share of continuations that reach the reference answer. Stands for four steps and a
/// [`LabelSteps`] (`NAME.solutions`, `NAME.prefixes`, `NAME.continuations`, `NAME.rewards`, `NAME`), of which
/// the middle three are repeated for every `shard_solutions` solutions (`NAME.prefixes_16`, …).
/// Output: `labels` ([`LabelledSteps`](crate::record::LabelledSteps) rows, by query, then solution).
///
/// More queries, more completions and more solutions keep what is stored: solutions and continuations are sampled in
/// shards, of which only new ones are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// What counts as equal, with `grader: math`.
    #[serde(default, skip_serializing_if = "Conventions::is_default")]
    pub conventions: Conventions,
    /// What a step's label is.
    #[serde(default, skip_serializing_if = "StepEstimate::is_default")]
    pub estimate: StepEstimate,
    /// Solutions a query in a shard (no influence on labels).
    #[serde(default = "default_shard_solutions")]
    pub shard_solutions: u32,
    /// Continuations a step in a shard (no influence on labels).
    #[serde(default = "default_shard_completions")]
    pub shard_completions: u32,
}

/// How continuations become a label (Math-Shepherd, §3.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepEstimate {
    /// The share that reaches the reference answer.
    #[default]
    Soft,
    /// 1 when any of them reaches it, else 0.
    Hard,
}

impl StepEstimate {
    /// Whether it is the one that a pipeline need not name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
        }
    }

    /// An ingredient where it is not the usual one.
    fn ingredient(self) -> Option<(String, Ingredient)> {
        (!self.is_default()).then(|| ("estimate".to_owned(), self.name().into()))
    }
}

fn one() -> f64 {
    1.0
}
fn default_shard_solutions() -> u32 {
    16
}
fn default_shard_completions() -> u32 {
    4
}

/// Cuts responses into steps and makes a query of every beginning. Output: `queries`, whose ids are
/// `QUERY/SAMPLE/STEP` and whose `prefix` is the response up to and including that step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prefixes {
    /// The queries answered.
    pub queries: Reference,
    /// Their responses.
    pub responses: Reference,
    /// Only the responses with these sample indices, the first and one past the last; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<[u32; 2]>,
}

/// Joins solutions and the rewards of their continuations. Output: `labels`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelSteps {
    /// The queries made by [`Prefixes`].
    pub prefixes: Reference,
    /// The rewards of their continuations.
    pub rewards: Reference,
    /// More of both, where the solutions were cut into several sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<LabelledPart>,
    /// The queries, whose order the labels take where there is more than one set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<Reference>,
    /// What a step's label is.
    #[serde(default, skip_serializing_if = "StepEstimate::is_default")]
    pub estimate: StepEstimate,
}

/// A set of beginnings and the rewards of their continuations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as in `LabelSteps`")]
pub struct LabelledPart {
    pub prefixes: Reference,
    pub rewards: Reference,
}

/// The names of the inputs of a set: the first, or one of [`LabelSteps::more`].
pub(crate) fn part_inputs(more: Option<usize>) -> [String; 2] {
    let number = more.map(|number| (number + 1).to_string()).unwrap_or_default();
    ["prefixes", "rewards"].map(|name| format!("{name}{number}"))
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
            estimate,
            shard_solutions: _,
            shard_completions: _,
            conventions: _,
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
            ("estimate", estimate.name().into()),
        ])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if self.grader == Grader::Code {
            let hint = "label steps of problems with an answer: `grader: math`";
            checks.refuse("grader", "steps of programs cannot be labelled", hint);
        }
        self.grader.check(&self.conventions, &mut checks);
        checks.count("solutions", self.solutions as usize);
        checks.count("completions", self.completions as usize);
        checks.count("max_tokens", self.max_tokens);
        checks.count("shard_solutions", self.shard_solutions as usize);
        checks.count("shard_completions", self.shard_completions as usize);
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
        let sample = |policy: &Reference, queries: &Reference, samples, shard_samples| {
            let temperature = OneOrMany::One(Setting::Value(self.temperature));
            let sample = Sample::new(policy, queries, temperature, samples, self.max_tokens);
            Sample { min_p: self.min_p, shard_samples, ..sample }
        };
        let completer = self.completer.as_ref().unwrap_or(&self.policy);
        let solve = Sample {
            limit: self.limit,
            ..sample(&self.policy, &self.queries, self.solutions, self.shard_solutions)
        };
        let mut steps = vec![(step("solutions"), StageConfig::Sample(solve))];

        // Sets of solutions are continued apart: how many there are moves no query of another set, so that all
        // shards of its continuations stay what they are.
        let size = self.shard_solutions.max(1);
        let whole = self.solutions <= size;
        let mut parts = Vec::new();
        for start in (0..self.solutions).step_by(size as usize) {
            let named = |word: &str| if start == 0 { step(word) } else { step(&format!("{word}_{start}")) };
            let prefixes = Reference(named("prefixes"));
            let end = start.saturating_add(size).min(self.solutions);
            let cut = Prefixes {
                queries: self.queries.clone(),
                responses: reference("solutions"),
                samples: (!whole).then_some([start, end]),
            };
            let proceed = sample(completer, &prefixes, self.completions, self.shard_completions);
            let continuations = Reference(named("continuations"));
            let score = Score {
                answer: self.answer,
                conventions: self.conventions,
                ..Score::new(&continuations, &prefixes, self.grader)
            };
            let rewards = Reference(named("rewards"));
            steps.push((named("prefixes"), StageConfig::Prefixes(cut)));
            steps.push((named("continuations"), StageConfig::Sample(proceed)));
            steps.push((named("rewards"), StageConfig::Score(score)));
            parts.push(LabelledPart { prefixes, rewards });
        }
        let mut parts = parts.into_iter();
        let LabelledPart { prefixes, rewards } = parts.next()?;
        let label = LabelSteps {
            prefixes,
            rewards,
            more: parts.collect(),
            queries: (!whole).then(|| self.queries.clone()),
            estimate: self.estimate,
        };
        steps.push((name.to_owned(), StageConfig::LabelSteps(label)));
        Some(steps)
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
        let Self { queries: _, responses: _, samples } = self;
        let samples = samples.map(|samples| ("samples".to_owned(), samples.to_vec().into()));
        Ingredient::Map(samples.into_iter().collect())
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if let Some([start, end]) = self.samples.filter(|[start, end]| start >= end) {
            let hint = "write the first index and one past the last, for example [0, 16]";
            checks.refuse("samples", format!("there is no sample from {start} to {end}"), hint);
        }
        checks.0
    }
}

impl Stage for LabelSteps {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        let part = |number: Option<usize>, prefixes: &Reference, rewards: &Reference| {
            let [prefixes_name, rewards_name] = part_inputs(number);
            [Input::required(&prefixes_name, prefixes), Input::required(&rewards_name, rewards)]
        };
        let first = part(None, &self.prefixes, &self.rewards);
        let more = self.more.iter().enumerate();
        let more = more.flat_map(|(number, more)| part(Some(number), &more.prefixes, &more.rewards));
        let queries = self.queries.iter().map(|queries| Input::required("queries", queries));
        first.into_iter().chain(more).chain(queries).collect()
    }

    fn outputs(&self) -> Vec<Output> {
        labels()
    }

    fn identity(&self) -> Ingredient {
        let Self { prefixes: _, rewards: _, more: _, queries: _, estimate } = self;
        Ingredient::Map(estimate.ingredient().into_iter().collect())
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if !self.more.is_empty() && self.queries.is_none() {
            let hint = "write `queries: …`, those that were sampled";
            checks.refuse("queries", "with `more` it is not known in which order the labels go", hint);
        }
        checks.0
    }
}
