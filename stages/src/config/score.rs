//! Scoring responses.

use std::collections::BTreeMap;

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use super::ingredients::ingredients;
use super::judge::{AnswerStyle, CodeRules, Grader, judging};
use super::precision::Precision;
use super::reading::Reading;
use super::sample::rows;
use crate::grade::Conventions;
use crate::reference::Reference;
use crate::stage::{
    Input, Output, Piece, Problem, Runner, Shard, ShardInput, ShardSource, Stage, StageConfig,
};

/// Judges responses: extracts and compares the answer, and adds a reward model's score where one is
/// given. Output: the folder `rewards`, with a file for each file of `responses`, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The responses.
    pub responses: Reference,
    /// The queries they answer.
    pub queries: Reference,
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
    /// What counts as equal, with `grader: math`.
    #[serde(default, skip_serializing_if = "Conventions::is_default")]
    pub conventions: Conventions,
    /// How a response's step scores become one.
    #[serde(default)]
    pub aggregate: Aggregate,
    /// How the reward model is read.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    /// How the reward model's output becomes a score.
    #[serde(default, skip_serializing_if = "Scale::is_default")]
    pub scale: Scale,
    /// The output that a response gets which the token limit cut off, before it is scaled; default: the reward
    /// model's. The published code gives -5 (paper.md §1.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<f64>,
    /// In which numbers the reward model computes.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
}

/// One shard of [`Score`]. Output: `rewards` (the file `rewards.jsonl`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as in `Score`")]
pub struct ScoreShard {
    pub grader: Grader,
    #[serde(default, skip_serializing_if = "AnswerStyle::is_default")]
    pub answer: AnswerStyle,
    #[serde(default, skip_serializing_if = "CodeRules::is_default")]
    pub code: CodeRules,
    #[serde(default, skip_serializing_if = "Conventions::is_default")]
    pub conventions: Conventions,
    /// `None` without a reward model.
    pub aggregate: Option<Aggregate>,
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    #[serde(default, skip_serializing_if = "Scale::is_default")]
    pub scale: Scale,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<f64>,
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
}

/// How a response's step scores become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The weakest step (paper.md §2.3).
    #[default]
    Min,
    /// The mean.
    Mean,
    /// The last step.
    Last,
    /// The share that all steps together stand for: the product of the shares of the steps (arXiv 2305.20050,
    /// §2.6), mapped to [-1, 1] as they are. Needs `scale: share`.
    Product,
}

/// How a reward model's output x, of a step, becomes a score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// x is the logit of a share, as `reward_model` trains it: the share, mapped to [-1, 1], 2 σ(x) - 1.
    #[default]
    Share,
    /// x, and -1 or 1 where it is beyond them (the paper's "normalised to [-1, 1]", paper.md §1.9, 2).
    Clamp,
    /// x / 5, without limits, as the published code has it (paper.md §1.9, 2).
    Fifth,
}

impl Score {
    /// Scoring by the answer alone.
    #[must_use]
    pub fn new(responses: &Reference, queries: &Reference, grader: Grader) -> Self {
        Self {
            responses: responses.clone(),
            queries: queries.clone(),
            reward_model: None,
            grader,
            answer: AnswerStyle::default(),
            code: CodeRules::default(),
            conventions: Conventions::default(),
            aggregate: Aggregate::default(),
            reading: Reading::default(),
            scale: Scale::default(),
            unfinished: None,
            precision: Precision::default(),
        }
    }

    /// What every shard of it does.
    fn shard(&self) -> ScoreShard {
        let Self {
            responses: _,
            queries: _,
            reward_model,
            grader,
            answer,
            code,
            conventions,
            aggregate,
            reading,
            scale,
            unfinished,
            precision,
        } = self;
        let (grader, answer, conventions) = (*grader, *answer, *conventions);
        let code = code.settled(grader);
        // What is said of a reward model that is not there means nothing.
        let aggregate = reward_model.as_ref().map(|_| *aggregate);
        match aggregate {
            None => ScoreShard { grader, answer, code, conventions, ..ScoreShard::new(None) },
            Some(_) => ScoreShard {
                grader,
                answer,
                code,
                conventions,
                aggregate,
                reading: reading.clone(),
                scale: *scale,
                unfinished: *unfinished,
                precision: *precision,
            },
        }
    }

    fn check_model(&self, checks: &mut Checks) {
        self.reading.check(checks);
        if self.aggregate == Aggregate::Product && self.scale != Scale::Share {
            let hint = "write `scale: share`, or `aggregate: min`";
            checks.refuse("aggregate", "only shares can be multiplied", hint);
        }
        if self.unfinished.is_some_and(|score| !score.is_finite()) {
            checks.refuse("unfinished", "unfinished must be a finite number", "the published code has -5");
        }
    }
}

impl ScoreShard {
    /// Judging by the `math` grader, with everything as usual; `aggregate` is `None` without a reward model.
    #[must_use]
    pub fn new(aggregate: Option<Aggregate>) -> Self {
        Self {
            grader: Grader::default(),
            answer: AnswerStyle::default(),
            code: CodeRules::default(),
            conventions: Conventions::default(),
            aggregate,
            reading: Reading::default(),
            scale: Scale::default(),
            unfinished: None,
            precision: Precision::default(),
        }
    }

    /// A reward model computes the prompts of a query's responses once (2), and norms and gates in one pass (3): each rounds
    /// otherwise. So do products (4). Texts are never cut or filled up as a tokenizer's file says (5).
    fn version_of(&self) -> u32 {
        if self.aggregate.is_some() { 5 } else { 1 }
    }
}

/// What the rewards of responses are called that are a file and not a folder: their path in it is empty.
const LONE_FILE: &str = "responses.jsonl";

/// The rows of `queries` that a file of [`Sample`](super::Sample)'s output answers.
fn rows_of(path: &str) -> Option<(usize, usize)> {
    let name = path.rsplit('/').next()?.strip_prefix('q')?;
    let (first, last) = name.split_once('.')?.0.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

impl Stage for Score {
    fn runner(&self) -> Runner {
        Runner::None
    }

    fn version(&self) -> u32 {
        self.shard().version_of()
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs =
            vec![Input::required("responses", &self.responses), Input::required("queries", &self.queries)];
        inputs.extend(self.reward_model.iter().map(|model| Input::required("reward_model", model)));
        inputs
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::folder("rewards")]
    }

    /// Not that of its shards: the only shard of a file of responses has the same inputs, and must not have the same key.
    fn identity(&self) -> Ingredient {
        let mut parts = BTreeMap::from([("gathered".to_owned(), true.into())]);
        if let Ingredient::Map(of_shard) = self.shard().identity() {
            parts.extend(of_shard);
        }
        Ingredient::Map(parts)
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        self.code.check(&mut checks, self.grader);
        self.grader.check(&self.conventions, &mut checks);
        self.check_model(&mut checks);
        checks.0
    }

    fn sharded(&self) -> bool {
        true
    }

    /// A file whose name does not say which queries it answers is given all of them.
    fn shards(&self, source: &ShardSource) -> Option<Vec<Shard>> {
        let shard = |path: &String| {
            let range = match rows_of(path) {
                Some((first, last)) => rows(first.min(source.queries), last.min(source.queries)),
                None => rows(0, source.queries),
            };
            let file = ShardInput::Part(Piece::File { input: "responses".to_owned(), path: path.clone() });
            let mut inputs = vec![("responses".to_owned(), file), ("queries".to_owned(), range)];
            if self.reward_model.is_some() {
                let name = "reward_model".to_owned();
                inputs.push((name.clone(), ShardInput::Whole(name)));
            }
            let name = if path.is_empty() { LONE_FILE } else { path };
            Shard { path: format!("rewards/{name}"), stage: StageConfig::ScoreShard(self.shard()), inputs }
        };
        let mut shards: Vec<Shard> = source.responses.iter().map(shard).collect();
        shards.sort_by(|a, b| a.path.cmp(&b.path));
        Some(shards)
    }
}

impl Stage for ScoreShard {
    fn runner(&self) -> Runner {
        if self.aggregate.is_some() { Runner::Worker } else { Runner::InProcess }
    }

    fn version(&self) -> u32 {
        self.version_of()
    }

    /// None that the pipeline names: a shard's inputs (`responses`, `queries` and, with an aggregate,
    /// `reward_model`) are in its [`Shard`].
    fn inputs(&self) -> Vec<Input> {
        Vec::new()
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::file("rewards", "rewards.jsonl")]
    }

    /// What is as usual leaves no trace, so that keys from before it could be otherwise stay valid.
    fn identity(&self) -> Ingredient {
        let Self { grader, answer, code, conventions, aggregate, reading, scale, unfinished, precision } =
            self;
        let mut judging = judging(*grader, *answer, code, conventions);
        judging.push(("aggregate", aggregate.map(Aggregate::name).into()));
        if aggregate.is_some() {
            judging.extend(reading.identity().map(|reading| ("reading", reading)));
            judging.extend((!scale.is_default()).then(|| ("scale", scale.name().into())));
            judging.extend(unfinished.map(|score| ("unfinished", score.into())));
        }
        ingredients(judging, [("precision", precision.identity())])
    }

    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }
}

impl Aggregate {
    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Mean => "mean",
            Self::Last => "last",
            Self::Product => "product",
        }
    }
}

impl Scale {
    /// Whether it is the one that a pipeline need not name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Clamp => "clamp",
            Self::Fifth => "fifth",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::{Value, json};

    use super::*;

    fn score(settings: Value) -> Score {
        let Value::Object(mut with) = settings else { panic!("an object") };
        with.extend([("responses".to_owned(), json!("r")), ("queries".to_owned(), json!("q"))]);
        let Ok(StageConfig::Score(score)) =
            StageConfig::parse("score", Value::Object(with)).expect("a stage")
        else {
            panic!("its settings")
        };
        score
    }

    #[test]
    fn what_is_as_usual_leaves_no_trace_in_the_key() {
        let fields = |settings| match score(settings).shard().identity() {
            Ingredient::Map(fields) => fields.into_keys().collect::<Vec<_>>(),
            _ => panic!("a map"),
        };
        assert_eq!(fields(json!({})), ["aggregate", "equations_version", "grader", "grader_version"]);
        let usual = json!({
            "reward_model": "m", "reading": {"answer": true}, "scale": "share", "precision": "float32",
            "conventions": {"rounding": 4},
        });
        assert_eq!(fields(usual), ["aggregate", "equations_version", "grader", "grader_version"]);
        let unused =
            json!({"reading": {"at": "step"}, "scale": "fifth", "unfinished": -5, "precision": "bfloat16"});
        assert_eq!(score(unused).identity(), score(json!({})).identity(), "there is no reward model");
    }

    #[test]
    fn versions_are_in_the_key_of_what_they_change() {
        let fields = |settings| match score(settings).shard().identity() {
            Ingredient::Map(fields) => fields.into_keys().collect::<Vec<_>>(),
            _ => panic!("a map"),
        };
        for grader in ["official", "exact"] {
            assert_eq!(fields(json!({"grader": grader})), ["aggregate", "equations_version", "grader"]);
        }
        let choice = fields(json!({"grader": "choice"}));
        assert_eq!(choice, ["aggregate", "equations_version", "grader", "grader_version"]);
        assert_eq!(
            fields(json!({"grader": "official", "answer": "any"})),
            ["aggregate", "answer", "answer_version", "equations_version", "grader"]
        );
        assert_eq!(
            fields(json!({"grader": "official", "answer": "boxed"})),
            ["aggregate", "answer", "equations_version", "grader"]
        );
        let code = fields(json!({"grader": "code", "code": {"python": "3.11"}}));
        assert_eq!(code, ["aggregate", "code", "grader"]);
    }

    #[test]
    fn whatever_changes_a_reward_is_in_the_key() {
        let changes = [
            json!({}),
            json!({"aggregate": "product"}),
            json!({"reading": {"output": "logits"}}),
            json!({"reading": {"at": "step"}}),
            json!({"reading": {"answer": false}}),
            json!({"reading": {"encode": "response"}}),
            json!({"reading": {"separator": ["\n", "\n"]}}),
            json!({"scale": "clamp"}),
            json!({"scale": "fifth"}),
            json!({"unfinished": -5}),
            json!({"precision": "bfloat16"}),
            json!({"grader": "choice"}),
            json!({"conventions": {"percent": "sign"}}),
            json!({"conventions": {"percent": "hundredth"}}),
            json!({"conventions": {"rounding": "none"}}),
            json!({"conventions": {"rounding": 5}}),
            json!({"conventions": {"brackets": false}}),
            json!({"conventions": {"list_order": true}}),
        ];
        let keys: HashSet<String> = changes
            .iter()
            .map(|changes| {
                let mut settings = changes.clone();
                settings["reward_model"] = json!("m");
                let score = score(settings);
                assert!(score.check().is_empty() && score.version() == 5, "{changes}");
                let text = serde_json::to_string(&score.shard()).expect("JSON");
                assert_eq!(serde_json::from_str::<ScoreShard>(&text).expect("a shard"), score.shard());
                format!("{:?}", score.identity())
            })
            .collect();
        assert_eq!(keys.len(), changes.len());
    }

    #[test]
    fn the_rewards_of_a_lone_file_have_a_name_and_its_shard_a_key_of_its_own() {
        for settings in [json!({}), json!({"reward_model": "m"})] {
            let score = score(settings);
            let paths = |responses: &[&str]| {
                let responses = responses.iter().map(ToString::to_string).collect();
                let shards = score.shards(&ShardSource { queries: 3, responses }).expect("shards");
                shards.into_iter().map(|shard| shard.path).collect::<Vec<_>>()
            };
            assert_eq!(paths(&[""]), ["rewards/responses.jsonl"]);
            assert_eq!(
                paths(&["t=1/q00000-00002.s0000-0004.jsonl"]),
                ["rewards/t=1/q00000-00002.s0000-0004.jsonl"]
            );
            assert_ne!(score.identity(), score.shard().identity());
        }
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        for (settings, field) in [
            (json!({"aggregate": "product", "scale": "clamp"}), "aggregate"),
            (json!({"reading": {"encode": "response", "separator": ["\n"]}}), "reading.separator"),
            (json!({"reading": {"separator": ["\n", ""]}}), "reading.separator[1]"),
            (json!({"grader": "official", "conventions": {"percent": "sign"}}), "conventions"),
        ] {
            let problems = score(settings).check();
            assert!(
                problems.len() == 1 && problems[0].field == field && problems[0].hint.is_some(),
                "{problems:?}"
            );
        }
    }
}
