//! Choosing a configuration, and choosing responses.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use super::ingredients::ingredients;
use super::rules::Rules;
use super::thresholds::Grid;
use crate::reference::{Reference, References, Setting};
use crate::stage::{Input, Output, Problem, Runner, Stage, StageConfig};

/// Chooses temperature and threshold by the balance score (paper.md §1).
/// Outputs: `temperature` and `threshold` (a JSON number each), `surface` (JSON lines: the balance score
/// of every configuration).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Rewards of responses sampled at the temperatures to compare.
    pub rewards: References,
    /// The thresholds to compare.
    pub thresholds: Grid,
    /// n*: unique correct responses a query wanted. Default: `keep_per_query`, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_star: Option<usize>,
    /// Responses to keep, a query on average (N / M). Default: all above the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_per_query: Option<f64>,
    /// What a configuration is chosen by.
    #[serde(default, skip_serializing_if = "Objective::is_default")]
    pub objective: Objective,
    /// The S of Reward-Pass@S, where that is the objective.
    #[serde(default = "two", skip_serializing_if = "is_two")]
    pub s: usize,
    /// How responses are selected.
    #[serde(default, skip_serializing_if = "Rules::is_default")]
    pub rules: Rules,
    /// Reference solutions (example rows with a `query_id`), which join the candidates of their query with
    /// a reward of 1, as in the published code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<Reference>,
}

/// What a configuration is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The balance score.
    #[default]
    Balance,
    /// Reward-Pass@S: whether one of the S responses that the reward model ranks best is correct (M-STaR,
    /// arXiv 2412.17451). It does not depend on the threshold.
    RewardPass,
}

impl Objective {
    /// Whether it is the usual one.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn two() -> usize {
    2
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_two(s: &usize) -> bool {
    *s == two()
}

/// Keeps the best responses: per query the top k above the threshold, with the smallest k at which
/// enough are kept in all, duplicates dropped (paper.md §1.4). Output: `dataset` (example rows).
///
/// Several `responses` with their `rewards` are pooled, for example those of the search at all
/// temperatures (different temperatures solve different problems: arXiv 2510.02611); a sample that is in
/// two of them counts once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The queries.
    pub queries: Reference,
    /// Their responses.
    pub responses: References,
    /// The responses' rewards.
    pub rewards: References,
    /// A response must exceed it.
    pub threshold: Setting,
    /// Responses to keep, a query on average. Default: all above the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_per_query: Option<f64>,
    /// Thresholds to compare on these rewards by the balance score, in place of `threshold`: the published
    /// code searches the threshold again on all queries. The step `NAME.search` does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<Grid>,
    /// n* of that search. Default: `keep_per_query`, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_star: Option<usize>,
    /// How responses are selected.
    #[serde(default, skip_serializing_if = "Rules::is_default")]
    pub rules: Rules,
    /// Reference solutions (example rows with a `query_id`), which join the candidates of their query with
    /// a reward of 1, as in the published code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<Reference>,
    /// Rows kept earlier, which follow the new ones unless they are among them (RLEP, arXiv 2507.07451;
    /// DIVE, arXiv 2501.00747). With `carry: {replay: filter}` those of all iterations before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Reference>,
    /// Most replayed rows for every new one; they are drawn evenly. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_ratio: Option<f64>,
}

impl Search {
    /// n* in effect; at least 1.
    #[must_use]
    pub fn effective_n_star(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let default = || self.keep_per_query.map_or(1, |keep| keep.ceil() as usize);
        self.n_star.unwrap_or_else(default).max(1)
    }
}

pub(super) fn check_n_star(checks: &mut Checks, n_star: Option<usize>, keep_per_query: Option<f64>) {
    match (n_star, keep_per_query) {
        (Some(n_star), _) => checks.count("n_star", n_star),
        (None, Some(_)) => {}
        (None, None) => checks.refuse(
            "n_star",
            "neither n_star nor keep_per_query is given",
            "write n_star: the unique correct responses a query you want (the paper: 6)",
        ),
    }
}

impl Stage for Search {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = self.rewards.inputs("rewards");
        inputs.extend(self.references.iter().map(|rows| Input::required("references", rows)));
        inputs
    }

    /// 2, by Reward-Pass@S: equal scores of a reward model are equal whether the response is right or wrong.
    fn version(&self) -> u32 {
        match self.objective {
            Objective::Balance => 1,
            Objective::RewardPass => 2,
        }
    }

    fn outputs(&self) -> Vec<Output> {
        vec![
            Output::file("temperature", "temperature.json"),
            Output::file("threshold", "threshold.json"),
            Output::file("surface", "surface.jsonl"),
        ]
    }

    fn identity(&self) -> Ingredient {
        let Self { rewards: _, thresholds, n_star: _, keep_per_query, objective, s, rules, references: _ } =
            self;
        let reward_pass = (*objective == Objective::RewardPass).then(|| (*s).into());
        ingredients(
            [
                ("thresholds", thresholds.identity()),
                ("n_star", self.effective_n_star().into()),
                ("keep_per_query", (*keep_per_query).into()),
            ],
            [("reward_pass", reward_pass), ("rules", rules.identity())],
        )
    }

    fn items(&self, ingredient: &str) -> &'static [&'static str] {
        if ingredient == "thresholds" { &["from", "to", "by"] } else { &[] }
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        self.thresholds.check(&mut checks);
        checks.keep_per_query(self.keep_per_query);
        check_n_star(&mut checks, self.n_star, self.keep_per_query);
        self.rules.check(&mut checks, self.keep_per_query);
        checks.count("s", self.s);
        if self.rewards.count() == 0 {
            checks.refuse("rewards", "rewards lists nothing", "write at least one");
        }
        if self.objective == Objective::RewardPass && self.thresholds.values().len() > 1 {
            let hint = "give one threshold, for example [0]";
            checks.refuse("thresholds", "Reward-Pass@S does not depend on the threshold", hint);
        }
        checks.0
    }
}

impl Stage for Filter {
    fn runner(&self) -> Runner {
        Runner::InProcess
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![Input::required("queries", &self.queries)];
        inputs.extend(self.responses.inputs("responses"));
        inputs.extend(self.rewards.inputs("rewards"));
        inputs.extend(self.references.iter().map(|rows| Input::required("references", rows)));
        inputs.extend(self.replay.iter().map(|rows| Input::optional("replay", rows)));
        inputs
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::file("dataset", "dataset.jsonl")]
    }

    fn identity(&self) -> Ingredient {
        let Self {
            queries: _,
            responses: _,
            rewards: _,
            threshold,
            keep_per_query,
            // Of the step that searches again.
            thresholds: _,
            n_star: _,
            rules,
            references: _,
            replay: _,
            replay_ratio,
        } = self;
        let threshold = match threshold {
            Setting::Value(value) => (*value).into(),
            Setting::Reference(reference) => reference.0.as_str().into(),
        };
        ingredients(
            [("threshold", threshold), ("keep_per_query", (*keep_per_query).into())],
            [("rules", rules.identity()), ("replay_ratio", replay_ratio.map(Into::into))],
        )
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if self.threshold.value().is_some_and(|value| !value.is_finite()) {
            checks.refuse("threshold", "threshold must be a finite number", "0 keeps what is correct");
        }
        checks.keep_per_query(self.keep_per_query);
        self.rules.check(&mut checks, self.keep_per_query);
        let (responses, rewards) = (self.responses.count(), self.rewards.count());
        if responses != rewards || responses == 0 {
            let message = format!("{responses} responses have {rewards} rewards");
            checks.refuse("rewards", message, "list the rewards of every item of `responses`, in its order");
        }
        match &self.thresholds {
            Some(thresholds) => {
                thresholds.check(&mut checks);
                check_n_star(&mut checks, self.n_star, self.keep_per_query);
                if responses > 1 {
                    let hint = "leave `thresholds` out, or pool nothing";
                    checks.refuse("thresholds", "the threshold of pooled responses is not searched", hint);
                }
            }
            None if self.n_star.is_some() => {
                let hint = "add `thresholds`, or leave n_star out";
                checks.refuse("n_star", "n_star says how thresholds are compared; there are none", hint);
            }
            None => {}
        }
        match (self.replay_ratio, &self.replay) {
            (Some(_), None) => {
                checks.refuse("replay_ratio", "there is nothing to replay", "add `replay`");
            }
            (Some(ratio), Some(_)) => {
                checks.positive("replay_ratio", ratio, "1 replays as many rows as are new");
            }
            (None, _) => {}
        }
        checks.0
    }

    fn has_settings(&self) -> bool {
        true
    }

    fn settings(&mut self) -> Vec<(&'static str, &mut Setting)> {
        vec![("threshold", &mut self.threshold)]
    }

    fn lower(&self, name: &str) -> Option<Vec<(String, StageConfig)>> {
        let thresholds = self.thresholds.clone()?;
        let search = Search {
            rewards: self.rewards.clone(),
            thresholds,
            n_star: self.n_star,
            keep_per_query: self.keep_per_query,
            objective: Objective::Balance,
            s: two(),
            rules: self.rules,
            references: self.references.clone(),
        };
        let searching = format!("{name}.search");
        let threshold = Setting::Reference(Reference(format!("{searching}.threshold")));
        let filter = Self { threshold, thresholds: None, n_star: None, ..self.clone() };
        Some(vec![(searching, StageConfig::Search(search)), (name.to_owned(), StageConfig::Filter(filter))])
    }
}
