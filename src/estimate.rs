//! How long a run will take and how much it will store, from what past runs took.
//!
//! [`Past`] finds the stored result that a step is most like; [`estimate`] plays the steps that are to
//! run through the [`Scheduler`], with the durations of their likes and the resources of the run, on a
//! clock that is only counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bstar_cache::{Action, ActionKey, Ingredient, Manifest, Store, StoreError};
use bstar_stages::{Setting, ShardSource};
use serde::Serialize;

use crate::executor::Options;
use crate::executor::prepare::action;
use crate::executor::preview::Fate;
use crate::plan::{Plan, Source, Step, StepId};
use crate::scheduler::Scheduler;

/// What the most similar stored result took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Expected {
    /// Seconds, for a sharded step the sum over its shards.
    pub seconds: f64,
    /// Bytes of all outputs.
    pub bytes: u64,
    /// Number of shards; 1 for a step that has none.
    pub shards: usize,
}

/// What running some steps of a plan is expected to take.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    /// The steps that are to run, with what is left of them to do; `None` where nothing like it is stored.
    pub steps: BTreeMap<StepId, Option<Expected>>,
    /// Seconds from start to end, with the run's resources; steps without a past count as nothing.
    pub makespan_s: f64,
    /// Seconds of all steps together.
    pub work_s: f64,
    /// Bytes of all outputs together.
    pub bytes: u64,
    /// How many of the steps have no past.
    pub without_past: usize,
}

/// Stored results, ordered for finding the one a step is most like.
#[derive(Debug, Default)]
pub struct Past {
    stages: BTreeMap<String, Vec<Record>>,
}

/// One stored result.
#[derive(Debug)]
struct Record {
    /// Only what the pipeline file says: without inputs and seed.
    settings: Action,
    key: ActionKey,
    place: String,
    started: String,
    expected: Expected,
}

impl Past {
    /// Everything the store has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read(store: &Store) -> Result<Self, StoreError> {
        Ok(Self::of(&store.manifests().await?))
    }

    /// These results. Shards are left out: the step they are pieces of speaks for them. So are results that
    /// were adopted: nobody knows what they took.
    #[must_use]
    pub fn of(manifests: &[Manifest]) -> Self {
        let mut past = Self::default();
        let executed = |manifest: &&Manifest| {
            !manifest.provenance.step.contains('/') && manifest.provenance.adopted_from.is_none()
        };
        for manifest in manifests.iter().filter(executed) {
            let settings = Action { seed: None, inputs: BTreeMap::new(), ..manifest.action.clone() };
            let record = Record {
                key: settings.key(),
                place: place(&manifest.provenance.step),
                started: manifest.provenance.started.clone(),
                expected: Expected {
                    seconds: manifest.provenance.wall_s,
                    bytes: manifest.size(),
                    shards: manifest.outputs.len().max(1),
                },
                settings,
            };
            past.stages.entry(manifest.action.stage.clone()).or_default().push(record);
        }
        past
    }

    /// The result of the same stage that is most like a step: at the same place of the pipeline first
    /// (in any iteration), then with the fewest different settings, then the youngest. And how many times as many
    /// responses, and as much work, the step has.
    fn like(&self, place: &str, settings: &Action) -> Option<(Expected, Growth)> {
        let key = settings.key();
        let rank = |record: &&Record| {
            let differences =
                if record.key == key { 0 } else { settings.differences(&record.settings).len().max(1) };
            (record.place != place, differences, Reverse(record.started.clone()))
        };
        let records = self.stages.get(&settings.stage)?.iter();
        let here = records.clone().any(|record| record.place == place);
        let nearest = records.filter(|record| !here || record.place == place).min_by_key(rank)?;
        Some((nearest.expected, Growth::between(&nearest.settings.config, &settings.config)))
    }
}

/// How many times as much a step has to do as the one it is like.
#[derive(Debug, Clone, Copy)]
struct Growth {
    rows: f64,
    work: f64,
}

impl Growth {
    fn between(before: &Ingredient, now: &Ingredient) -> Self {
        let ratio = |name: &str| match (amount(before, name), amount(now, name)) {
            (Some(before), Some(now)) if before > 0.0 => now / before,
            _ => 1.0,
        };
        let rows = ratio("samples");
        Self { rows, work: rows * ratio("updates") * ratio("batch") }
    }

    /// For a step that has so many times the rows to read.
    fn of_rows(self, times: f64) -> Self {
        Self { rows: self.rows * times, work: self.work * times }
    }
}

/// The whole number of that name in a step's settings.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn amount(settings: &Ingredient, name: &str) -> Option<f64> {
    let Ingredient::Map(fields) = settings else { return None };
    match fields.get(name) {
        Some(Ingredient::Int(value)) => Some(*value as f64),
        _ => fields.values().find_map(|field| amount(field, name)),
    }
}

/// A step's place in the pipeline file: its name without iteration and variant.
fn place(name: &str) -> String {
    let name = name.split('@').next().unwrap_or(name);
    match name.strip_prefix("iteration[").and_then(|rest| rest.split_once(']')) {
        Some((_, rest)) => format!("iteration{rest}"),
        None => name.to_owned(),
    }
}

/// The steps that will run or may, for [`estimate`]: all whose result is not known to be stored.
#[must_use]
pub fn not_stored(fates: &[(StepId, Fate)]) -> BTreeMap<StepId, f64> {
    let missing = fates.iter().filter(|(_, fate)| !matches!(fate, Fate::Cached(_)));
    missing.map(|(id, _)| (*id, 1.0)).collect()
}

/// What running the steps in `shares` is expected to take: step → the share of it that is left to do (1
/// for a whole step, less for a sharded one of which some shards are stored). All others are stored.
#[must_use]
pub fn estimate(plan: &Plan, shares: &BTreeMap<StepId, f64>, past: &Past, options: &Options) -> Estimate {
    let mut known: BTreeMap<(String, ActionKey), Option<(Expected, Growth)>> = BTreeMap::new();
    let mut steps = BTreeMap::new();
    let mut rows: BTreeMap<StepId, f64> = BTreeMap::new();
    for (id, share) in shares {
        let step = plan.step(*id);
        let (place, settings) = (place(&step.name), action(&step.stage, 0, BTreeMap::new()));
        let settings = Action { seed: None, ..settings };
        let whole =
            *known.entry((place.clone(), settings.key())).or_insert_with(|| past.like(&place, &settings));
        let whole = whole.map(|(expected, growth)| {
            // Whoever reads responses has as many of them to read.
            let read = match step.inputs.get("responses") {
                Some(Source::Output { step, .. }) => rows.get(step).copied().unwrap_or(1.0),
                _ => 1.0,
            };
            let growth = growth.of_rows(read);
            rows.insert(*id, growth.rows);
            grown(expected, growth)
        });
        let sharded = step.stage.stage().sharded();
        steps.insert(*id, whole.map(|whole| left(whole, *share, sharded)));
    }
    let total = || steps.values().flatten();
    Estimate {
        makespan_s: makespan(plan, &steps, options).as_secs_f64(),
        work_s: total().map(|expected| expected.seconds).sum(),
        bytes: total().map(|expected| expected.bytes).sum(),
        without_past: steps.values().filter(|expected| expected.is_none()).count(),
        steps,
    }
}

fn left(whole: Expected, share: f64, sharded: bool) -> Expected {
    let part = grown(whole, Growth { rows: share, work: share });
    Expected { shards: if sharded { part.shards } else { 1 }, ..part }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
fn grown(whole: Expected, growth: Growth) -> Expected {
    Expected {
        seconds: whole.seconds * growth.work,
        bytes: (whole.bytes as f64 * growth.rows) as u64,
        // More of them would tell nothing, and take long to play through.
        shards: ((whole.shards as f64 * growth.rows).ceil() as usize).clamp(1, whole.shards.max(1_000)),
    }
}

/// The time at which the last step ends when these steps take these times.
fn makespan(plan: &Plan, steps: &BTreeMap<StepId, Option<Expected>>, options: &Options) -> Duration {
    let mut plan = plan.clone();
    let needs = |step: &Step| options.needs(step);
    let mut scheduler = Scheduler::new(options.capacity(), true);
    scheduler.grow(&plan, needs);
    let mut now = Duration::ZERO;
    let mut ends: BinaryHeap<Reverse<(Duration, StepId)>> = BinaryHeap::new();
    let mut pieces: BTreeMap<StepId, Duration> = BTreeMap::new();
    loop {
        while let Some(id) = scheduler.next_ready() {
            match steps.get(&id) {
                _ if pieces.contains_key(&id) => scheduler.missed(id),
                None => scheduler.finished(id, true),
                Some(Some(expected)) if plan.step(id).stage.stage().sharded() => {
                    let each = seconds(expected.seconds) / u32::try_from(expected.shards).unwrap_or(u32::MAX);
                    for piece in unfold(&mut plan, id, expected.shards) {
                        pieces.insert(piece, each);
                    }
                    scheduler.unfolded(id, &plan, needs);
                }
                Some(_) => scheduler.missed(id),
            }
        }
        if let Some(id) = scheduler.next_gathered() {
            scheduler.finished(id, false);
            continue;
        }
        while let Some(id) = scheduler.start() {
            let expected = steps.get(&id).copied().flatten();
            let takes = pieces.get(&id).copied().or(expected.map(|expected| seconds(expected.seconds)));
            ends.push(Reverse((now + takes.unwrap_or_default(), id)));
        }
        let Some(Reverse((end, id))) = ends.pop() else { return now };
        now = end;
        scheduler.finished(id, false);
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

/// Cuts a step of a plan that is only played through into pieces that need what its shards need.
fn unfold(plan: &mut Plan, id: StepId, count: usize) -> Vec<StepId> {
    let whole = plan.step(id).clone();
    let source = ShardSource { queries: 1, responses: vec!["responses.jsonl".to_owned()] };
    let mut known = whole.stage.clone();
    for (_, setting) in known.stage_mut().settings() {
        // Any value will do for what a shard needs.
        *setting = Setting::Value(1.0);
    }
    let shard = known.stage().shards(&source).and_then(|shards| shards.into_iter().next());
    let stage = shard.map_or_else(|| whole.stage.clone(), |shard| shard.stage);
    let mut piece = |index: usize| {
        plan.add(Step {
            name: format!("{}/{index}", whole.name),
            stage: stage.clone(),
            parent: Some((id, index.to_string())),
            ..whole.clone()
        })
    };
    (0..count).map(&mut piece).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bstar_cache::{Artifact, Digest, Provenance};
    use bstar_stages::Device;
    use serde_json::Map;

    use super::*;
    use crate::pipeline::Pipeline;

    /// `a` and `b` need nothing, `c` needs both.
    fn diamond() -> Plan {
        let text = "name: d\nsetup:\n  a: {uses: command, with: {argv: [a], outputs: [o]}}\n  \
                    b: {uses: command, with: {argv: [b], outputs: [o]}}\n  \
                    c: {uses: command, with: {argv: [c], inputs: {a: a.o, b: b.o}, outputs: [o]}}\n";
        Plan::new(&Pipeline::parse(text, Path::new("d.yaml"), &[]).expect("a pipeline"))
    }

    fn manifest(plan: &Plan, step: &str, wall_s: f64, outputs: usize, size: u64) -> Manifest {
        let stage = &plan.step(plan.find(step).expect("a step")).stage;
        let artifact = |index: usize| Artifact { digest: Digest::of(&[u8::try_from(index).unwrap()]), size };
        let outputs = (0..outputs).map(|index| (index.to_string(), artifact(index))).collect();
        let provenance = Provenance { step: step.to_owned(), wall_s, ..Provenance::default() };
        Manifest::new(action(stage, 7, BTreeMap::new()), outputs, Map::new(), provenance)
    }

    fn options(jobs: usize) -> Options {
        Options { jobs, ..Options::new("r", "p", ".".into()) }
    }

    fn all(plan: &Plan) -> BTreeMap<StepId, f64> {
        plan.ids().map(|id| (id, 1.0)).collect()
    }

    #[test]
    fn steps_that_do_not_need_each_other_overlap_as_far_as_there_are_slots() {
        let plan = diamond();
        let times = [("setup.a", 3.0), ("setup.b", 2.0), ("setup.c", 1.0)];
        let past = Past::of(&times.map(|(step, wall_s)| manifest(&plan, step, wall_s, 1, 10)));
        let both = estimate(&plan, &all(&plan), &past, &options(2));
        assert_eq!((both.makespan_s, both.work_s, both.bytes, both.without_past), (4.0, 6.0, 30, 0));
        assert_eq!(estimate(&plan, &all(&plan), &past, &options(1)).makespan_s, 6.0);
    }

    #[test]
    fn stored_steps_take_no_time_and_those_without_a_past_are_counted() {
        let plan = diamond();
        let past = Past::of(&[manifest(&plan, "setup.b", 2.0, 1, 10)]);
        let only_c = BTreeMap::from([(plan.find("setup.c").unwrap(), 1.0)]);
        // Nothing at its place: the most similar program speaks for it.
        assert_eq!(estimate(&plan, &only_c, &past, &options(1)).makespan_s, 2.0);
        let nothing = estimate(&plan, &all(&plan), &Past::default(), &options(1));
        assert_eq!((nothing.makespan_s, nothing.without_past), (0.0, 3));
        assert_eq!(estimate(&plan, &BTreeMap::new(), &past, &options(1)), Estimate::default());
    }

    #[test]
    fn more_work_than_was_done_before_takes_longer() {
        let text = include_str!("pipeline/testdata/loop.yaml");
        let plan = |overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
            Plan::new(&Pipeline::parse(text, Path::new("l.yaml"), &overrides).expect("a pipeline"))
        };
        let before = plan(&[]);
        let steps = ["iteration[0].explore", "iteration[0].explored", "iteration[0].train", "setup.sft"];
        let past = Past::of(&steps.map(|step| manifest(&before, step, 2.0, 1, 10)));
        let expected = |overrides: &[&str], step: &str| {
            let plan = plan(overrides);
            let id = plan.find(step).expect("a step");
            let found = estimate(&plan, &all(&plan), &past, &options(1)).steps[&id].expect("a past");
            (found.seconds, found.bytes)
        };
        let more = ["iteration.explore.samples=80", "iteration.train.training.updates=200"];
        assert_eq!(steps.map(|step| expected(&[], step)), [(2.0, 10); 4]);
        let grown = [(20.0, 100), (20.0, 100), (20.0, 10), (2.0, 10)];
        assert_eq!(steps.map(|step| expected(&more, step)), grown, "scores are as many as responses");
    }

    #[test]
    fn the_same_place_in_another_iteration_or_variant_is_nearest() {
        assert_eq!(place("iteration[3].evaluate.greedy@n_star=2,seed=1"), "iteration.evaluate.greedy");
        assert_eq!(place("setup.sft"), "setup.sft");
    }

    #[test]
    fn shards_run_side_by_side() {
        let text = include_str!("pipeline/testdata/loop.yaml");
        let plan = Plan::new(&Pipeline::parse(text, Path::new("loop.yaml"), &[]).expect("a pipeline"));
        let id = plan.find("iteration[0].explore").unwrap();
        let past = Past::of(&[manifest(&plan, "iteration[0].explore", 8.0, 4, 10)]);
        let whole = BTreeMap::from([(id, 1.0)]);
        assert_eq!(estimate(&plan, &whole, &past, &options(2)).makespan_s, 4.0);
        assert_eq!(estimate(&plan, &whole, &past, &options(4)).makespan_s, 2.0);
        let half = estimate(&plan, &BTreeMap::from([(id, 0.5)]), &past, &options(4));
        assert_eq!((half.makespan_s, half.steps[&id].unwrap().shards), (2.0, 2));
        let gpu = Options { device: Device::Cuda(0), ..options(4) };
        assert_eq!(estimate(&plan, &whole, &past, &gpu).makespan_s, 8.0, "one GPU takes one shard at a time");
    }
}
