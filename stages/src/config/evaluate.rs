//! Measuring a policy.

use bstar_cache::Ingredient;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::config::judge::{AnswerStyle, CodeRules, Grader};
use crate::config::sample::{Sample, Score};
use crate::reference::{OneOrMany, Reference, Setting};
use crate::stage::{Input, Output, Problem, Runner, Stage, StageConfig};

/// Measures a policy. Stands for four steps and a [`Measure`]: greedy responses to all queries, sampled
/// responses to the first `sampled_queries`, and the rewards of both (`NAME.greedy`,
/// `NAME.greedy_rewards`, `NAME.samples` and `NAME.rewards` unless `samples` is 0, `NAME`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The policy.
    pub policy: Reference,
    /// Held-out queries.
    pub queries: Reference,
    /// Responses a query for Pass@K and the like; 0 = greedy only.
    pub samples: u32,
    /// Queries to sample; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_queries: Option<usize>,
    /// Their temperature.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Most tokens a response.
    pub max_tokens: usize,
    /// How answers are compared.
    #[serde(default)]
    pub grader: Grader,
    /// Where a response's answer stands.
    #[serde(default)]
    pub answer: AnswerStyle,
    /// How programs are judged, with `grader: code`.
    #[serde(default, skip_serializing_if = "CodeRules::is_default")]
    pub code: CodeRules,
    /// Ranks responses for Best-of-K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<Reference>,
    /// The Ks of Pass@K; default: `samples`.
    #[serde(default)]
    pub k: Vec<u32>,
    /// The Ss of Pass@K-S.
    #[serde(default = "default_s")]
    pub s: Vec<u32>,
}

fn one() -> f64 {
    1.0
}
fn default_s() -> Vec<u32> {
    vec![4]
}

/// Computes the measures of paper.md §2. Output: `metrics` (one JSON object).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Rewards of greedy responses.
    pub greedy: Reference,
    /// Rewards of sampled responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Reference>,
    /// The Ks of Pass@K.
    #[serde(default)]
    pub k: Vec<u32>,
    /// The Ss of Pass@K-S.
    #[serde(default = "default_s")]
    pub s: Vec<u32>,
}

fn metrics() -> Vec<Output> {
    vec![Output::file("metrics", "metrics.json")]
}

impl Evaluate {
    fn sample(&self, temperature: f64, samples: u32, limit: Option<usize>) -> StageConfig {
        StageConfig::Sample(Sample {
            limit,
            ..Sample::new(
                &self.policy,
                &self.queries,
                OneOrMany::One(Setting::Value(temperature)),
                samples,
                self.max_tokens,
            )
        })
    }

    fn score(&self, responses: &Reference, reward_model: Option<Reference>) -> StageConfig {
        StageConfig::Score(Score {
            reward_model,
            answer: self.answer,
            code: self.code,
            ..Score::new(responses, &self.queries, self.grader)
        })
    }
}

impl Stage for Evaluate {
    fn runner(&self) -> Runner {
        Runner::None
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs =
            vec![Input::required("policy", &self.policy), Input::required("queries", &self.queries)];
        inputs.extend(self.reward_model.iter().map(|model| Input::required("reward_model", model)));
        inputs
    }

    fn outputs(&self) -> Vec<Output> {
        metrics()
    }

    /// Of no use to a key: the steps it stands for have their own.
    fn identity(&self) -> Ingredient {
        let Self {
            policy: _,
            queries: _,
            samples,
            sampled_queries,
            temperature,
            max_tokens,
            grader,
            answer,
            code: _,
            reward_model: _,
            k,
            s,
        } = self;
        Ingredient::map([
            ("samples", (*samples).into()),
            ("sampled_queries", (*sampled_queries).into()),
            ("temperature", (*temperature).into()),
            ("max_tokens", (*max_tokens).into()),
            ("grader", grader.name().into()),
            ("answer", answer.name().into()),
            ("k", k.clone().into()),
            ("s", s.clone().into()),
        ])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.count("max_tokens", self.max_tokens);
        checks.temperature("temperature", self.temperature);
        checks.greedy_is_single("temperature", &[self.temperature], self.samples);
        checks.pass_at(&self.k, &self.s);
        self.code.check(&mut checks, self.grader);
        if let Some(count) = self.sampled_queries {
            checks.count("sampled_queries", count);
        }
        for (index, k) in self.k.iter().enumerate().filter(|(_, k)| **k > self.samples) {
            checks.refuse(
                &format!("k[{index}]"),
                format!("Pass@{k} needs {k} samples a query, not {}", self.samples),
                "raise samples or lower k",
            );
        }
        checks.0
    }

    fn lower(&self, name: &str) -> Option<Vec<(String, StageConfig)>> {
        let step = |suffix: &str| format!("{name}.{suffix}");
        let reference = |suffix: &str| Reference(step(suffix));
        let mut steps = vec![
            (step("greedy"), self.sample(0.0, 1, None)),
            (step("greedy_rewards"), self.score(&reference("greedy"), None)),
        ];
        if self.samples > 0 {
            steps.push((step("samples"), self.sample(self.temperature, self.samples, self.sampled_queries)));
            steps.push((step("rewards"), self.score(&reference("samples"), self.reward_model.clone())));
        }
        let k = if self.k.is_empty() && self.samples > 0 { vec![self.samples] } else { self.k.clone() };
        let measure = Measure {
            greedy: reference("greedy_rewards"),
            rewards: (self.samples > 0).then(|| reference("rewards")),
            k,
            s: self.s.clone(),
        };
        steps.push((name.to_owned(), StageConfig::Measure(measure)));
        Some(steps)
    }
}

impl Stage for Measure {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![Input::required("greedy", &self.greedy)];
        inputs.extend(self.rewards.iter().map(|rewards| Input::required("rewards", rewards)));
        inputs
    }

    fn outputs(&self) -> Vec<Output> {
        metrics()
    }

    fn identity(&self) -> Ingredient {
        let Self { greedy: _, rewards: _, k, s } = self;
        Ingredient::map([("k", k.clone().into()), ("s", s.clone().into())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.pass_at(&self.k, &self.s);
        checks.0
    }
}
