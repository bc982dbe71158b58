//! The figures of a run, and of each pipeline in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bstar_cache::{ActionKey, Digest, Manifest};
use bstar_stages::{OneOrMany, StageConfig};
use serde_json::{Map, Value};

use super::prepare::Settled;
use crate::event::Summary;
use crate::plan::{Part, Plan, Section, Source, StepId};
use crate::scheduler::State;

/// A step's result.
#[derive(Debug)]
pub(super) struct Made {
    /// Its settings, references resolved.
    pub(super) stage: Settled,
    pub(super) manifest: Arc<Manifest>,
}

/// What was executed and what was found, counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Count {
    executed: usize,
    executed_by_stage: BTreeMap<String, usize>,
    cached: usize,
    saved_s: f64,
    /// Keys executed in this walk through the plan, and in those before.
    now: BTreeSet<ActionKey>,
    before: BTreeSet<ActionKey>,
}

impl Count {
    pub(super) fn executed(&mut self, key: ActionKey, stage: &str) {
        self.executed += 1;
        *self.executed_by_stage.entry(stage.to_owned()).or_default() += 1;
        self.now.insert(key);
    }

    pub(super) fn cached(&mut self, key: ActionKey, wall_s: f64) {
        // Executed by this very run, before it started over: counted as that.
        if !self.before.contains(&key) {
            self.cached += 1;
            self.saved_s += wall_s;
        }
    }

    /// The count for a new walk through the plan: what was executed stays so.
    pub(super) fn start_over(&mut self) -> Self {
        let mut count = std::mem::take(self);
        count.cached = 0;
        count.saved_s = 0.0;
        let now = std::mem::take(&mut count.now);
        count.before.extend(now);
        count
    }
}

/// The summary of a run that did not begin.
pub(super) fn empty(run: &str, plan: &Plan) -> Summary {
    Summary { run: run.to_owned(), skipped: plan.len(), ..Summary::default() }
}

/// The figures of one pipeline of a run.
#[derive(Debug, Clone, Default)]
pub struct PartSummary {
    /// Its steps that executed (a sharded step counts by its shards), shared ones with the first
    /// pipeline that has them.
    pub executed: usize,
    /// Its other steps that are done.
    pub cached: usize,
    /// Whether all its steps are done.
    pub complete: bool,
    /// As in [`Summary`], by the pipeline's own names.
    pub results: BTreeMap<String, String>,
    /// One row an iteration.
    pub iterations: Vec<Map<String, Value>>,
    /// Figures of the policy before the first iteration.
    pub start: Map<String, Value>,
}

/// The figures of every pipeline of a run.
pub(super) fn parts(plan: &Plan, made: &[Option<Made>], states: &[State]) -> Vec<PartSummary> {
    let mut seen = BTreeSet::new();
    let part = |part: &Part| {
        let figures = Figures { plan, part, made };
        let done =
            |id: &StepId| states.get(id.index()).copied().filter(|state| matches!(state, State::Done { .. }));
        let mut summary = PartSummary {
            complete: part.steps.iter().all(|(_, id)| done(id).is_some()),
            results: figures.results(),
            iterations: figures.iterations(),
            start: figures.start(),
            ..PartSummary::default()
        };
        for (_, id) in &part.steps {
            let executed = |id: &StepId| done(id) == Some(State::Done { cached: false });
            let executions = match plan.shards_of(*id) {
                [] => usize::from(executed(id)),
                shards => shards.iter().filter(|shard| executed(shard)).count(),
            };
            if seen.insert(*id) && executions > 0 {
                summary.executed += executions;
            } else if done(id).is_some() {
                summary.cached += 1;
            }
        }
        summary
    };
    plan.parts().iter().map(part).collect()
}

/// The figures of a run, all but its outcome and its time; with those of its pipeline where it
/// has only one.
pub(super) fn summary(run: &str, parts: &[PartSummary], states: &[State], count: &Count) -> Summary {
    let state = |wanted: fn(&State) -> bool| states.iter().filter(|state| wanted(state)).count();
    let done = state(|state| matches!(state, State::Done { .. }));
    let failed = state(|state| *state == State::Failed);
    let only = match parts {
        [only] => only.clone(),
        _ => PartSummary::default(),
    };
    Summary {
        run: run.to_owned(),
        executed: count.executed,
        cached: count.cached,
        failed,
        skipped: states.len() - done - failed,
        saved_s: count.saved_s,
        executed_by_stage: count.executed_by_stage.clone(),
        results: only.results,
        iterations: only.iterations,
        start: only.start,
        ..Summary::default()
    }
}

/// What a method samples in an iteration, its search included. Files that two steps have in common were
/// drawn once and are charged once, in proportion to their size.
#[derive(Debug, Default)]
struct Cost {
    tokens: f64,
    responses: f64,
    /// Responses that `max_tokens` or the context cut short, and of how many that is known.
    truncated: [f64; 2],
    charged: BTreeSet<Digest>,
}

impl Cost {
    #[expect(clippy::cast_precision_loss, reason = "sizes of files")]
    fn add(&mut self, manifest: &Manifest) {
        let (mut all, mut new) = (0, 0);
        for artifact in manifest.outputs.values() {
            all += artifact.size;
            if self.charged.insert(artifact.digest) {
                new += artifact.size;
            }
        }
        let figure = |name: &str| manifest.metrics.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let share = new as f64 / all.max(1) as f64;
        self.tokens += share * figure("tokens");
        self.responses += share * figure("responses");
        if manifest.metrics.contains_key("truncated") {
            self.truncated[0] += share * figure("truncated");
            self.truncated[1] += share * figure("responses");
        }
    }
}

/// The steps of a pipeline with their results.
struct Figures<'a> {
    plan: &'a Plan,
    part: &'a Part,
    made: &'a [Option<Made>],
}

impl<'a> Figures<'a> {
    fn steps(&self) -> impl Iterator<Item = (StepId, Section, &'a Made)> {
        let (plan, made) = (self.plan, self.made);
        self.part
            .steps
            .iter()
            .filter_map(move |(_, id)| Some((*id, plan.step(*id).section, made.get(id.index())?.as_ref()?)))
    }

    fn results(&self) -> BTreeMap<String, String> {
        let digest = |source: &Source| {
            let Source::Output { step, output } = source else { return None };
            let made = self.made.get(step.index())?.as_ref()?;
            Some(made.manifest.under(&output.path, output.folder)?.digest.to_string())
        };
        let results = self.plan.results(self.part).into_iter();
        results.filter_map(|(name, source)| Some((name, digest(&source)?))).collect()
    }

    /// The measures of the policy that the iterations start from.
    fn start(&self) -> Map<String, Value> {
        let measures = |(_, section, made): &(StepId, Section, &Made)| {
            *section == Section::Setup && made.stage.kind() == "measure"
        };
        self.steps()
            .filter(measures)
            .last()
            .map(|(_, _, made)| made.manifest.metrics.clone())
            .unwrap_or_default()
    }

    fn iterations(&self) -> Vec<Map<String, Value>> {
        let mut rows: BTreeMap<usize, Vec<(StepId, &Made)>> = BTreeMap::new();
        for (id, section, made) in self.steps() {
            if let Section::Iteration(iteration) = section {
                rows.entry(iteration).or_default().push((id, made));
            }
        }
        rows.into_iter().map(|(iteration, steps)| self.row(iteration, &steps)).collect()
    }

    fn row(&self, iteration: usize, steps: &[(StepId, &Made)]) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("iteration".to_owned(), iteration.into());
        let (mut tokens, mut sampling_s, mut seconds) = (0, 0.0, 0.0);
        let mut cost = Cost::default();
        // What an evaluation samples is no cost of a method.
        let measuring: BTreeSet<&str> = steps
            .iter()
            .filter(|(_, made)| made.stage.kind() == "measure")
            .map(|(id, _)| self.plan.step(*id).entry.as_str())
            .collect();
        for (id, made) in steps {
            let metrics = &made.manifest.metrics;
            let wall_s = made.manifest.provenance.wall_s;
            seconds += wall_s;
            match made.stage.kind() {
                "search" => copy(&mut row, metrics, &["temperature", "threshold", "balance_score"]),
                "filter" => {
                    copy(&mut row, metrics, &["sampled", "kept", "covered", "replayed"]);
                    // The share of what was kept that is right.
                    row.extend(metrics.get("correct").map(|share| ("precision".to_owned(), share.clone())));
                    self.configuration(&mut row, *id, &made.stage);
                }
                "measure" => row.extend(metrics.clone()),
                "sample" => {
                    tokens += metrics.get("tokens").and_then(Value::as_u64).unwrap_or(0);
                    sampling_s += wall_s;
                    if !measuring.contains(self.plan.step(*id).entry.as_str()) {
                        cost.add(&made.manifest);
                    }
                }
                _ => {}
            }
        }
        if tokens > 0 {
            row.insert("tokens".to_owned(), tokens.into());
        }
        if tokens > 0 && sampling_s > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            row.insert("tokens_per_s".to_owned(), (tokens as f64 / sampling_s).into());
        }
        if cost.tokens > 0.0 {
            row.insert("charged_tokens".to_owned(), cost.tokens.into());
            row.insert("charged_responses".to_owned(), cost.responses.into());
        }
        let [cut, told] = cost.truncated;
        if told > 0.0 {
            row.insert("truncated".to_owned(), (cut / told).into());
        }
        row.insert("seconds".to_owned(), seconds.into());
        row
    }

    /// The temperature and threshold that a filter's responses were made and chosen by, where no
    /// search has said so.
    fn configuration(&self, row: &mut Map<String, Value>, id: StepId, stage: &StageConfig) {
        let StageConfig::Filter(filter) = stage else { return };
        if let (false, Some(threshold)) = (row.contains_key("threshold"), filter.threshold.value()) {
            row.insert("threshold".to_owned(), threshold.into());
        }
        let Some(Source::Output { step, .. }) = self.plan.step(id).inputs.get("responses") else { return };
        let sampled = self.made.get(step.index()).and_then(Option::as_ref).map(|made| &made.stage);
        if let Some(StageConfig::Sample(sample)) = sampled.map(|stage| &**stage)
            && let OneOrMany::One(setting) = &sample.temperature
            && let (false, Some(temperature)) = (row.contains_key("temperature"), setting.value())
        {
            row.insert("temperature".to_owned(), temperature.into());
        }
    }
}

fn copy(row: &mut Map<String, Value>, metrics: &Map<String, Value>, names: &[&str]) {
    for name in names {
        if let Some(value) = metrics.get(*name) {
            row.insert((*name).to_owned(), value.clone());
        }
    }
}
