//! Measuring a policy.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::config::judge::{AnswerStyle, CodeRules, Grader};
use crate::config::precision::Precision;
use crate::config::reading::Reading;
use crate::config::sample::Sample;
use crate::config::score::{Aggregate, Scale, Score};
use crate::grade::Conventions;
use crate::metrics::MOST_SAMPLES;
use crate::reference::{OneOrMany, Reference, Setting};
use crate::stage::{Input, Output, Problem, Runner, Stage, StageConfig};

/// Measures a policy. Stands for four steps and a [`Measure`]: greedy responses to all queries, sampled
/// responses to the first `sampled_queries`, and the rewards of both (`NAME.greedy`,
/// `NAME.greedy_rewards`, `NAME.samples` and `NAME.rewards` unless `samples` is 0, `NAME`); two more steps
/// for every other temperature (`NAME.at0`, `NAME.at0_rewards`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The policy.
    pub policy: Reference,
    /// Held-out queries.
    pub queries: Reference,
    /// Responses a query for Pass@K and the like, at most 1000; 0 = greedy only.
    pub samples: u32,
    /// Queries to sample; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_queries: Option<usize>,
    /// Their temperature.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Other temperatures at which everything but Pass@1 is measured too, so that exploration and
    /// exploitation can be followed over iterations: fixed ones, or the one an iteration chose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<Setting>,
    /// Keep the tokens that are at least this share as likely as the most likely one, of the sampled
    /// responses; 0 = all.
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
    /// How programs are judged, with `grader: code`.
    #[serde(default, skip_serializing_if = "CodeRules::is_default")]
    pub code: CodeRules,
    /// What counts as equal, with `grader: math`.
    #[serde(default, skip_serializing_if = "Conventions::is_default")]
    pub conventions: Conventions,
    /// Ranks responses for Best-of-K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<Reference>,
    /// How a response's step scores become one.
    #[serde(default)]
    pub aggregate: Aggregate,
    /// How the reward model is read.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    /// How the reward model's output becomes a score.
    #[serde(default, skip_serializing_if = "Scale::is_default")]
    pub scale: Scale,
    /// The output that a response gets which the token limit cut off, before it is scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<f64>,
    /// In which numbers the models compute.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Rewards of greedy responses.
    pub greedy: Reference,
    /// Rewards of sampled responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Reference>,
    /// The sampled responses, for their entropy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<Reference>,
    /// Rewards of responses at other temperatures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<Reference>,
    /// Those responses, in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_responses: Vec<Reference>,
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
    fn sample(&self, temperature: Setting, samples: u32, limit: Option<usize>) -> StageConfig {
        StageConfig::Sample(Sample {
            limit,
            precision: self.precision,
            // Greedy responses have no use for it.
            min_p: if temperature.value() == Some(0.0) { 0.0 } else { self.min_p },
            ..Sample::new(&self.policy, &self.queries, OneOrMany::One(temperature), samples, self.max_tokens)
        })
    }

    /// Judging by the answer alone.
    fn judge(&self, responses: &Reference) -> Score {
        Score {
            answer: self.answer,
            code: self.code,
            conventions: self.conventions,
            ..Score::new(responses, &self.queries, self.grader)
        }
    }

    /// Judging, and scoring by the reward model if there is one.
    fn score(&self, responses: &Reference) -> Score {
        Score {
            reward_model: self.reward_model.clone(),
            aggregate: self.aggregate,
            reading: self.reading.clone(),
            scale: self.scale,
            unfinished: self.unfinished,
            // Without one, it is only the policy's.
            precision: if self.reward_model.is_some() { self.precision } else { Precision::default() },
            ..self.judge(responses)
        }
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
            at,
            min_p,
            max_tokens,
            grader,
            answer,
            code: _,
            conventions: _,
            reward_model: _,
            aggregate: _,
            reading: _,
            scale: _,
            unfinished: _,
            precision: _,
            k,
            s,
        } = self;
        Ingredient::map([
            ("samples", (*samples).into()),
            ("sampled_queries", (*sampled_queries).into()),
            ("temperature", (*temperature).into()),
            ("at", at.iter().filter_map(Setting::value).collect::<Vec<_>>().into()),
            ("min_p", (*min_p).into()),
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
        checks.within("min_p", self.min_p, 0.0, 1.0, "0 keeps all tokens; 0.05 is usual");
        checks.greedy_is_single("temperature", &[self.temperature], self.samples);
        for (index, temperature) in self.at.iter().enumerate() {
            let field = format!("at[{index}]");
            if let Some(value) = temperature.value() {
                checks.temperature(&field, value);
                checks.greedy_is_single(&field, &[value], self.samples);
            }
            if self.at[..index].contains(temperature) {
                checks.refuse(&field, "this temperature is listed twice", "remove one of the two");
            }
        }
        if self.samples as usize > MOST_SAMPLES {
            let message = format!("{} samples a query are more than can be measured", self.samples);
            checks.refuse("samples", message, &format!("sample at most {MOST_SAMPLES}"));
        }
        if self.samples == 0 && !self.at.is_empty() {
            checks.refuse("at", "with `samples: 0` nothing is sampled", "raise samples, or leave `at` out");
        }
        checks.pass_at(&self.k, &self.s);
        checks.0.extend(self.score(&self.queries).check());
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
            (step("greedy"), self.sample(Setting::Value(0.0), 1, None)),
            (step("greedy_rewards"), StageConfig::Score(self.judge(&reference("greedy")))),
        ];
        if self.samples > 0 {
            let temperature = Setting::Value(self.temperature);
            steps.push((step("samples"), self.sample(temperature, self.samples, self.sampled_queries)));
            steps.push((step("rewards"), StageConfig::Score(self.score(&reference("samples")))));
        }
        let (mut at, mut at_responses) = (Vec::new(), Vec::new());
        for (index, temperature) in self.at.iter().enumerate() {
            let (sampled, judged) = (format!("at{index}"), format!("at{index}_rewards"));
            let sample = self.sample(temperature.clone(), self.samples, self.sampled_queries);
            steps.push((step(&sampled), sample));
            steps.push((step(&judged), StageConfig::Score(self.score(&reference(&sampled)))));
            at.push(reference(&judged));
            at_responses.push(reference(&sampled));
        }
        let k = if self.k.is_empty() && self.samples > 0 { vec![self.samples] } else { self.k.clone() };
        let measure = Measure {
            greedy: reference("greedy_rewards"),
            rewards: (self.samples > 0).then(|| reference("rewards")),
            responses: (self.samples > 0).then(|| reference("samples")),
            at,
            at_responses,
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
        inputs.extend(self.responses.iter().map(|responses| Input::required("responses", responses)));
        for (name, references) in [("at", &self.at), ("at_responses", &self.at_responses)] {
            let input =
                |(index, reference): (usize, _)| Input::required(&format!("{name}{index}"), reference);
            inputs.extend(references.iter().enumerate().map(input));
        }
        inputs
    }

    /// 2: entropy, distinct correct responses, Reward-Pass@K-S and the verdicts on single problems. 3: a mean of
    /// nothing is 0, not -0. 4: equal scores of a reward model are equal whether the response is right or wrong.
    fn version(&self) -> u32 {
        4
    }

    fn outputs(&self) -> Vec<Output> {
        metrics()
    }

    fn identity(&self) -> Ingredient {
        let Self { greedy: _, rewards: _, responses: _, at: _, at_responses: _, k, s } = self;
        Ingredient::map([("k", k.clone().into()), ("s", s.clone().into())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.pass_at(&self.k, &self.s);
        if self.at.len() != self.at_responses.len() {
            let hint = "list the responses of every item of `at`";
            checks.refuse("at_responses", "`at` and `at_responses` differ in length", hint);
        }
        checks.0
    }
}
