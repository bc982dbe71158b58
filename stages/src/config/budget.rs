//! Spending samples where they tell most: on temperatures that may win, on queries of the right difficulty.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use super::judge::{AnswerStyle, CodeRules, Grader};
use super::precision::Precision;
use super::reading::Reading;
use super::rules::Rules;
use super::sample::Sample;
use super::score::{Aggregate, Scale, Score};
use super::select::{Objective, Search};
use super::thresholds::Grid;
use crate::grade::Conventions;
use crate::holds::Holds;
use crate::reference::{OneOrMany, Reference, References, Setting};
use crate::stage::{Input, Output, Problem, Runner, Stage, StageConfig};

/// Chooses temperature and threshold as [`Search`] does, by successive halving: all temperatures on the
/// first queries, the better half of them on more, until the last are compared on all. A temperature's
/// responses to the first queries are used again. Stands for rungs of `NAME.sample1`, `NAME.rewards1`,
/// `NAME.halve1`, `NAME.sample2_1`, …, and the [`Search`] `NAME`. Outputs: those of `search`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Halving {
    /// The policy.
    pub policy: Reference,
    /// The queries.
    pub queries: Reference,
    /// The temperatures to compare.
    pub temperature: Vec<f64>,
    /// How many of the first queries each rung samples, ascending: `[32, 64, 128]`.
    pub limits: Vec<usize>,
    /// Responses a query.
    pub samples: u32,
    /// Most tokens a response.
    pub max_tokens: usize,
    /// As in `sample`.
    #[serde(default = "one")]
    pub top_p: f64,
    /// As in `sample`.
    #[serde(default)]
    pub top_k: usize,
    /// As in `sample`.
    #[serde(default)]
    pub min_p: f64,
    /// As in `sample`.
    #[serde(default)]
    pub stop: Vec<String>,
    /// A reward model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<Reference>,
    /// How answers are compared.
    #[serde(default)]
    pub grader: Grader,
    /// Where a response's answer stands.
    #[serde(default)]
    pub answer: AnswerStyle,
    /// How programs are judged, with `grader: code`.
    #[serde(default, skip_serializing_if = "CodeRules::is_default")]
    pub code: CodeRules,
    /// How a response's step scores become one.
    #[serde(default)]
    pub aggregate: Aggregate,
    /// What counts as equal, with `grader: math`.
    #[serde(default, skip_serializing_if = "Conventions::is_default")]
    pub conventions: Conventions,
    /// How the reward model is read.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    /// How the reward model's output becomes a score.
    #[serde(default, skip_serializing_if = "Scale::is_default")]
    pub scale: Scale,
    /// The output that a response gets which the token limit cut off, before it is scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<f64>,
    /// In which numbers the policy and the reward model compute.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// As in `search`.
    pub thresholds: Grid,
    /// As in `search`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_star: Option<usize>,
    /// As in `search`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_per_query: Option<f64>,
    /// As in `search`.
    #[serde(default, skip_serializing_if = "Objective::is_default")]
    pub objective: Objective,
    /// As in `search`.
    #[serde(default = "two")]
    pub s: usize,
    /// As in `search`.
    #[serde(default, skip_serializing_if = "Rules::is_default")]
    pub rules: Rules,
}

fn one() -> f64 {
    1.0
}
fn two() -> usize {
    2
}

/// Keeps the temperatures that are best in a search. Outputs: `t1`, `t2`, … (a JSON number each, ascending), and the
/// `surface` that [`Search`] writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Halve {
    /// How they are compared.
    pub search: Search,
    /// How many stay.
    pub keep: usize,
}

/// Chooses the queries that are worth more samples: those answered rightly now and then, as HS-STaR (arXiv
/// 2505.19866) spends its budget at the boundary of what a policy can do. Output: `queries`, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allocate {
    /// The queries.
    pub queries: Reference,
    /// Rewards of a first few responses to them.
    pub rewards: References,
    /// Only responses at this temperature count. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Setting>,
    /// The share of right responses must be above this.
    #[serde(default)]
    pub above: f64,
    /// The share of right responses must be below this.
    #[serde(default = "one")]
    pub below: f64,
    /// At most so many queries: those with a share nearest to the middle. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
}

impl Halving {
    fn search(&self, rewards: References) -> Search {
        Search {
            rewards,
            thresholds: self.thresholds.clone(),
            n_star: self.n_star,
            keep_per_query: self.keep_per_query,
            objective: self.objective,
            s: self.s,
            rules: self.rules,
            references: None,
        }
    }

    fn sample(&self, temperature: OneOrMany, limit: usize) -> StageConfig {
        let shards = self.limits.iter().copied().reduce(greatest_common_divisor).unwrap_or(1).max(1);
        StageConfig::Sample(Sample {
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            stop: self.stop.clone(),
            precision: self.precision,
            limit: Some(limit),
            // So that the first queries of a later rung are whole shards of the one before.
            shard_queries: shards,
            ..Sample::new(&self.policy, &self.queries, temperature, self.samples, self.max_tokens)
        })
    }

    fn score(&self, responses: &Reference) -> Score {
        Score {
            reward_model: self.reward_model.clone(),
            answer: self.answer,
            code: self.code,
            conventions: self.conventions,
            aggregate: self.aggregate,
            reading: self.reading.clone(),
            scale: self.scale,
            unfinished: self.unfinished,
            // Without a reward model, it is only the policy's.
            precision: if self.reward_model.is_some() { self.precision } else { Precision::default() },
            ..Score::new(responses, &self.queries, self.grader)
        }
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl Stage for Halving {
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
        self.search(References::Many(Vec::new())).outputs()
    }

    /// Of no use to a key: the steps it stands for have their own.
    fn identity(&self) -> Ingredient {
        self.search(References::Many(Vec::new())).identity()
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.temperatures("temperature", &OneOrMany::Many(self.temperature.clone()));
        checks.greedy_is_single("temperature", &self.temperature, self.samples);
        checks.count("samples", self.samples as usize);
        checks.count("max_tokens", self.max_tokens);
        checks.0.extend(self.score(&self.queries).check());
        if self.limits.is_empty() || self.limits.contains(&0) {
            checks.refuse("limits", "limits must list numbers of queries", "for example [32, 64, 128]");
        } else if !self.limits.is_sorted_by(|a, b| a < b) {
            checks.refuse(
                "limits",
                "limits must ascend",
                "each rung samples more queries than the one before",
            );
        }
        // A rung for every halving, and one in which the last two meet.
        let halvings = self.temperature.len().next_power_of_two().ilog2().max(1) as usize;
        if self.limits.len() > halvings {
            let message = format!("{} rungs are more than {halvings}", self.limits.len());
            checks.refuse("limits", message, "each rung halves the temperatures, and the last compares two");
        }
        let search =
            Search { rewards: Reference::from("rewards").into(), ..self.search(References::Many(vec![])) };
        checks.0.extend(search.check());
        checks.0
    }

    fn lower(&self, name: &str) -> Option<Vec<(String, StageConfig)>> {
        let step = |suffix: &str| format!("{name}.{suffix}");
        let reference = |suffix: &str| Reference(step(suffix));
        let mut steps = Vec::new();
        let mut temperatures = vec![("1".to_owned(), OneOrMany::Many(self.temperature.clone()))];
        let mut left = self.temperature.len();
        let last = self.limits.len().saturating_sub(1);
        for (rung, limit) in self.limits.iter().enumerate() {
            let mut judged = Vec::new();
            for (suffix, temperature) in &temperatures {
                let (sampled, rewards) = (format!("sample{suffix}"), format!("rewards{suffix}"));
                steps.push((step(&sampled), self.sample(temperature.clone(), *limit)));
                steps.push((step(&rewards), StageConfig::Score(self.score(&reference(&sampled)))));
                judged.push(reference(&rewards));
            }
            let search = self.search(match <[Reference; 1]>::try_from(judged) {
                Ok([only]) => References::One(only),
                Err(judged) => References::Many(judged),
            });
            if rung == last {
                steps.push((name.to_owned(), StageConfig::Search(search)));
                break;
            }
            left = left.div_ceil(2);
            let halve = format!("halve{}", rung + 1);
            steps.push((step(&halve), StageConfig::Halve(Halve { search, keep: left })));
            let next = |index: usize| {
                let temperature = reference(&format!("{halve}.t{index}"));
                (format!("{}_{index}", rung + 2), OneOrMany::One(Setting::Reference(temperature)))
            };
            temperatures = (1..=left).map(next).collect();
        }
        Some(steps)
    }
}

impl Stage for Halve {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        self.search.inputs()
    }

    fn outputs(&self) -> Vec<Output> {
        let temperature =
            |index| Output::file(&format!("t{index}"), &format!("t{index}.json")).holding(Holds::Temperature);
        (1..=self.keep).map(temperature).chain([Output::file("surface", "surface.jsonl")]).collect()
    }

    /// The first one wrote no surface. The search's own is a part of it.
    fn version(&self) -> u32 {
        1 + self.search.version()
    }

    fn identity(&self) -> Ingredient {
        let Self { search, keep } = self;
        Ingredient::map([("search", search.identity()), ("keep", (*keep).into())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.count("keep", self.keep);
        let below = |problem: Problem| Problem { field: format!("search.{}", problem.field), ..problem };
        checks.0.extend(self.search.check().into_iter().map(below));
        checks.0
    }
}

impl Stage for Allocate {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![Input::required("queries", &self.queries)];
        inputs.extend(self.rewards.inputs("rewards"));
        inputs
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::file("queries", "queries.jsonl")]
    }

    fn identity(&self) -> Ingredient {
        let Self { queries: _, rewards: _, temperature, above, below, count } = self;
        let temperature = temperature.as_ref().map(|temperature| match temperature {
            Setting::Value(value) => (*value).into(),
            Setting::Reference(reference) => reference.0.as_str().into(),
        });
        Ingredient::map([
            ("temperature", temperature.unwrap_or_else(|| Option::<f64>::None.into())),
            ("above", (*above).into()),
            ("below", (*below).into()),
            ("count", (*count).into()),
        ])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        for (field, value) in [("above", self.above), ("below", self.below)] {
            checks.within(field, value, 0.0, 1.0, "a share of a query's responses");
        }
        if self.above >= self.below {
            let message = format!("no share is above {} and below {}", self.above, self.below);
            checks.refuse("above", message, "0 and 1 leave out queries that are all wrong or all right");
        }
        if self.rewards.count() == 0 {
            checks.refuse("rewards", "rewards lists nothing", "write at least one");
        }
        if let Some(count) = self.count {
            checks.count("count", count);
        }
        if let Some(Setting::Value(value)) = &self.temperature {
            checks.temperature("temperature", *value);
        }
        checks.0
    }

    fn has_settings(&self) -> bool {
        true
    }

    fn settings(&mut self) -> Vec<(&'static str, &mut Setting)> {
        self.temperature.iter_mut().map(|setting| ("temperature", setting)).collect()
    }
}
