//! The loop of a run: one task owns the plan and all states; other tasks report to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Instant, SystemTime};

use bstar_cache::{ActionKey, Manifest, StoreError};
use bstar_stages::Runner;
use bstar_stages::protocol::StageError;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::content::{Content, Imports};
use super::execute::{Executed, execute, provenance};
use super::prepare::{Answer, Given, Pending, Resolved, prepare};
use super::summary::{self, Count, Made};
use super::work::WorkRoot;
use super::{Executor, Failure, Finished, Level, Outcome, Shared, Trouble};
use crate::event::Event;
use crate::plan::{Plan, Source, Step, StepId};
use crate::run_record::host;
use crate::scheduler::{Resources, Scheduler, State};
use crate::worker::WorkerPool;

/// Lookups at a time: enough to hide the latency of a remote store.
const LOOKUPS: usize = 64;
/// How often a run starts over because a blob was damaged.
const HEALS: usize = 3;

/// Carries out a plan, starting over where damaged blobs must be made again.
pub(super) async fn run(executor: Executor, plan: &Plan) -> Finished {
    let clock = Instant::now();
    let Executor { store, mut options, stop, events } = executor;
    // Programs run in that folder, so paths that contain it must not depend on where they start.
    let base = if options.base.as_os_str().is_empty() { ".".into() } else { options.base };
    options.base = std::path::absolute(&base).unwrap_or(base);
    let work = options.work.clone().map_or_else(|| WorkRoot::of(&store), WorkRoot::at);
    let folder = match work.open_run(&options.run) {
        Ok(folder) => folder,
        Err(source) => {
            let attempt = format!("use the work folder {}", work.path().display());
            let outcome = Outcome::Store(StoreError::Io { attempt, source });
            return finish(&*events, clock, outcome, summary::empty(&options.run, plan));
        }
    };
    events(Event::Started {
        run: options.run.clone(),
        pipeline: options.pipeline.clone(),
        store: store.location().to_string(),
        steps: plan.len(),
    });
    let shared = Arc::new(Shared {
        pool: WorkerPool::new(options.worker.clone(), options.grace),
        folder: folder.path().to_owned(),
        imports: Imports::default(),
        host: host(),
        requests: AtomicU64::new(1),
        store,
        options,
        stop,
        events,
        work,
    });
    let mut count = Count::default();
    let mut heals = 0;
    let (pass, outcome) = loop {
        let mut pass = Pass::new(Arc::clone(&shared), plan.clone(), std::mem::take(&mut count));
        let outcome = pass.run().await;
        match outcome {
            Outcome::Store(error) if error.lost_blob().is_some() && heals < HEALS => {
                heals += 1;
                (shared.events)(Event::Note {
                    level: "warn",
                    message: format!("{error}: the step that made it runs again"),
                });
                shared.imports.clear();
                count = pass.count.start_over();
            }
            outcome => break (pass, outcome),
        }
    };
    let made =
        summary::summary(&shared.options.run, &pass.plan, &pass.made, pass.scheduler.states(), &pass.count);
    let events = |event| (shared.events)(event);
    let finished = finish(&events, clock, outcome, made);
    drop(pass);
    drop(folder);
    finished
}

fn finish(
    events: &dyn Fn(Event),
    clock: Instant,
    outcome: Outcome,
    mut summary: crate::event::Summary,
) -> Finished {
    summary.outcome = match &outcome {
        Outcome::Done => "done",
        Outcome::Failed(_) | Outcome::Store(_) => "failed",
        Outcome::Stopped => "stopped",
    }
    .to_owned();
    summary.wall_s = clock.elapsed().as_secs_f64();
    events(Event::Summary(Box::new(summary.clone())));
    Finished { outcome, summary }
}

/// A task's report.
enum Message {
    Prepared(StepId, Result<Answer, Trouble>),
    Executed(StepId, Box<Resolved>, Result<Executed, Trouble>),
    Gathered(StepId, Result<Manifest, Trouble>),
}

/// One walk through the plan.
struct Pass {
    shared: Arc<Shared>,
    plan: Plan,
    scheduler: Scheduler,
    /// Results, by step.
    made: Vec<Option<Made>>,
    /// Content of outputs that steps have read.
    contents: BTreeMap<(StepId, String), Content>,
    /// Steps that the store does not know, ready to execute or to be gathered.
    resolved: BTreeMap<StepId, Box<Resolved>>,
    /// Keys being executed, and the steps that wait for the same result.
    followers: BTreeMap<ActionKey, Vec<StepId>>,
    shards: BTreeMap<StepId, Vec<StepId>>,
    tasks: JoinSet<Message>,
    lookups: usize,
    failures: Vec<Failure>,
    stopped: bool,
    broken: Option<StoreError>,
    count: Count,
}

impl Pass {
    fn new(shared: Arc<Shared>, plan: Plan, count: Count) -> Self {
        let device = usize::from(shared.options.device != "cpu");
        let options = &shared.options;
        let capacity = Resources { cpu: options.jobs, gpu: options.gpus.max(device), memory: options.memory };
        let mut scheduler = Scheduler::new(capacity, shared.options.keep_going);
        scheduler.grow(&plan, |step| needs(&shared, step));
        Self {
            shared,
            plan,
            scheduler,
            made: Vec::new(),
            contents: BTreeMap::new(),
            resolved: BTreeMap::new(),
            followers: BTreeMap::new(),
            shards: BTreeMap::new(),
            tasks: JoinSet::new(),
            lookups: 0,
            failures: Vec::new(),
            stopped: false,
            broken: None,
            count,
        }
    }

    async fn run(&mut self) -> Outcome {
        let stop = self.shared.stop.clone();
        loop {
            if !self.stopped && stop.level() >= Level::Stop {
                self.stopped = true;
                self.scheduler.halt();
                self.tell(Event::Stopping);
            }
            self.advance();
            if self.tasks.is_empty() {
                break;
            }
            tokio::select! {
                message = self.tasks.join_next() => match message {
                    Some(Ok(message)) => self.take(message),
                    // A task never panics on its own account; one that did has lost its step.
                    Some(Err(error)) => {
                        self.scheduler.halt();
                        let error = StageError::failed(format!("the engine broke off: {error}"));
                        self.failures.push(Failure { step: "?".to_owned(), error });
                    }
                    None => {}
                },
                () = stop.reached(Level::Stop), if !self.stopped => {}
                () = stop.reached(Level::Kill) => {
                    self.tasks.shutdown().await;
                    self.stopped = true;
                    break;
                }
            }
        }
        if let Some(error) = self.broken.take() {
            return Outcome::Store(error);
        }
        if !self.failures.is_empty() {
            return Outcome::Failed(std::mem::take(&mut self.failures));
        }
        let unfinished = |state: &State| !matches!(state, State::Done { .. });
        if self.stopped && self.scheduler.states().iter().any(unfinished) {
            Outcome::Stopped
        } else {
            Outcome::Done
        }
    }

    /// Starts all that can start.
    fn advance(&mut self) {
        while self.lookups < LOOKUPS
            && let Some(id) = self.scheduler.next_ready()
        {
            self.look_up(id);
        }
        while let Some(id) = self.scheduler.next_gathered() {
            self.gather(id);
        }
        while let Some(id) = self.scheduler.start() {
            let Some(resolved) = self.resolved.remove(&id) else { continue };
            let (shared, name) = (Arc::clone(&self.shared), self.plan.step(id).name.clone());
            let retries = self.plan.step(id).retries;
            self.tasks.spawn(async move {
                let outcome = execute(&shared, &name, retries, &resolved).await;
                Message::Executed(id, resolved, outcome)
            });
        }
    }

    fn look_up(&mut self, id: StepId) {
        match self.pending(id) {
            Ok(pending) => {
                let shared = Arc::clone(&self.shared);
                self.lookups += 1;
                self.tasks.spawn(async move { Message::Prepared(id, prepare(&shared, pending).await) });
            }
            Err(error) => self.trouble(id, error.into()),
        }
    }

    fn pending(&mut self, id: StepId) -> Result<Pending, StageError> {
        let Step { stage, seed, inputs, settings, .. } = self.plan.step(id).clone();
        let mut given = |sources: BTreeMap<String, Source>| -> Result<BTreeMap<String, Given>, StageError> {
            sources.into_iter().map(|(name, source)| Ok((name, self.given(source)?))).collect()
        };
        Ok(Pending { stage, seed, inputs: given(inputs)?, settings: given(settings)? })
    }

    fn given(&mut self, source: Source) -> Result<Given, StageError> {
        let (step, output) = match source {
            Source::File(path) => return Ok(Given::File(path)),
            Source::Content(artifact) => return Ok(Given::Content(Content::File(artifact))),
            Source::Output { step, output } => (step, output),
        };
        let place = (step, output.name.clone());
        if let Some(content) = self.contents.get(&place) {
            return Ok(Given::Content(content.clone()));
        }
        let made = self.made.get(step.index()).and_then(Option::as_ref);
        let content = made.and_then(|made| Content::of_output(&made.manifest, &output)).ok_or_else(|| {
            let step = &self.plan.step(step).name;
            StageError::failed(format!("the stored result of {step} has no output `{}`", output.path))
        })?;
        self.contents.insert(place, content.clone());
        Ok(Given::Content(content))
    }

    /// Joins the results of a step's shards.
    fn gather(&mut self, id: StepId) {
        let Some(resolved) = self.resolved.get(&id).cloned() else { return };
        let name = self.plan.step(id).name.clone();
        let shards = self.shards.get(&id).into_iter().flatten().filter_map(|shard| {
            let (_, path) = self.plan.step(*shard).parent.clone()?;
            let made = self.made.get(shard.index())?.as_ref()?;
            Some((path, Arc::clone(&made.manifest)))
        });
        let shards: Vec<(String, Arc<Manifest>)> = shards.collect();
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let wall_s = shards.iter().map(|(_, manifest)| manifest.provenance.wall_s).sum();
            let metrics = sum(shards.iter().map(|(_, manifest)| &manifest.metrics));
            let file = |(path, manifest): &(String, Arc<Manifest>)| {
                Some((path.clone(), manifest.outputs.values().next().copied()?))
            };
            let outputs = shards.iter().filter_map(file).collect();
            let provenance = provenance(&shared, &name, SystemTime::now(), wall_s);
            let manifest = Manifest::new(resolved.action, outputs, metrics, provenance);
            let published = shared.store.publish(manifest).await;
            Message::Gathered(id, published.map(|published| published.manifest).map_err(Trouble::from))
        });
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Prepared(id, answer) => {
                self.lookups -= 1;
                match answer {
                    Ok(Answer::Hit(resolved, manifest)) => self.done(id, *resolved, *manifest, true),
                    Ok(Answer::Miss(resolved)) => self.missed(id, resolved),
                    Ok(Answer::Unfold(resolved, shards, pieces)) => {
                        match self.plan.unfold(id, shards, &pieces) {
                            Ok(shards) => self.unfolded(id, resolved, shards),
                            Err(error) => self.failed(id, StageError::failed(error.to_string())),
                        }
                    }
                    Err(trouble) => self.trouble(id, trouble),
                }
            }
            Message::Executed(id, resolved, outcome) => {
                let key = resolved.key;
                match outcome {
                    Ok(Executed { manifest, cached }) => self.done(id, *resolved, manifest, cached),
                    Err(trouble) => self.trouble(id, trouble),
                }
                for follower in self.followers.remove(&key).into_iter().flatten() {
                    self.scheduler.ask_again(follower);
                }
            }
            Message::Gathered(id, outcome) => match (outcome, self.resolved.remove(&id)) {
                (Ok(manifest), Some(resolved)) => self.done(id, *resolved, manifest, false),
                (Ok(_), None) => {}
                (Err(trouble), _) => self.trouble(id, trouble),
            },
        }
    }

    fn unfolded(&mut self, id: StepId, resolved: Box<Resolved>, shards: Vec<StepId>) {
        self.tell(Event::Unfolded { step: self.plan.step(id).name.clone(), shards: shards.len() });
        self.resolved.insert(id, resolved);
        self.shards.insert(id, shards);
        let shared = Arc::clone(&self.shared);
        self.scheduler.unfolded(id, &self.plan, |step| needs(&shared, step));
    }

    /// Queues a step, unless the same work is already queued or running.
    fn missed(&mut self, id: StepId, resolved: Box<Resolved>) {
        if let Some(followers) = self.followers.get_mut(&resolved.key) {
            followers.push(id);
            return;
        }
        self.followers.insert(resolved.key, Vec::new());
        self.resolved.insert(id, resolved);
        self.scheduler.missed(id);
    }

    fn done(&mut self, id: StepId, resolved: Resolved, manifest: Manifest, cached: bool) {
        let shards = self.shards.get(&id);
        let step = self.plan.step(id);
        let of_shard = |shard: &StepId| self.scheduler.state(*shard) == State::Done { cached: true };
        let all_cached = shards.is_some_and(|shards| shards.iter().all(of_shard));
        let stage = resolved.stage.kind();
        let event = Event::Done {
            step: step.name.clone(),
            stage,
            cached: cached || all_cached,
            shard: step.parent.is_some(),
            shards: shards.map(Vec::len),
            key: resolved.key,
            seconds: manifest.provenance.wall_s,
            metrics: manifest.metrics.clone(),
        };
        match (cached, shards) {
            (true, _) => self.count.cached(resolved.key, manifest.provenance.wall_s),
            (false, None) => self.count.executed(resolved.key, stage),
            (false, Some(_)) => {}
        }
        self.tell(event);
        if self.made.len() <= id.index() {
            self.made.resize_with(id.index() + 1, || None);
        }
        self.made[id.index()] = Some(Made { stage: resolved.stage, manifest: Arc::new(manifest) });
        self.scheduler.finished(id, cached);
    }

    fn trouble(&mut self, id: StepId, trouble: Trouble) {
        match trouble {
            Trouble::Stopped => self.scheduler.halt(),
            Trouble::Store(error) => {
                self.scheduler.halt();
                // A broken store matters more than a damaged blob, which starting over can mend.
                if self.broken.as_ref().is_none_or(|first| first.lost_blob().is_some()) {
                    self.broken = Some(error);
                }
            }
            Trouble::Step(error) => self.failed(id, error),
        }
    }

    fn failed(&mut self, id: StepId, error: StageError) {
        let step = self.plan.step(id);
        let name = step.name.clone();
        self.tell(Event::Failed {
            step: name.clone(),
            stage: step.stage.kind(),
            kind: error.kind,
            message: error.message.clone(),
            hint: error.hint.clone(),
            retry_in: None,
        });
        for skipped in self.scheduler.failed(id) {
            let step = self.plan.step(skipped).name.clone();
            self.tell(Event::Skipped { step, because: name.clone() });
        }
        self.failures.push(Failure { step: name, error });
    }

    fn tell(&self, event: Event) {
        (self.shared.events)(event);
    }
}

/// What a step takes while it runs.
fn needs(shared: &Shared, step: &Step) -> Resources {
    let stage = step.stage.stage();
    let device = usize::from(stage.runner() == Runner::Worker && shared.options.device != "cpu");
    let gpu =
        if let bstar_stages::StageConfig::Command(command) = &step.stage { command.gpu } else { device };
    Resources { cpu: stage.cpu().max(1), gpu, memory: stage.memory() }
}

/// The figures of a whole from those of its shards: counts and seconds add up; averages do not, and
/// are left out.
fn sum<'a>(metrics: impl Iterator<Item = &'a Map<String, Value>>) -> Map<String, Value> {
    let mut sums: Map<String, Value> = Map::new();
    for (name, value) in metrics.flatten() {
        let before = sums.get(name);
        let sum = match (value.as_u64(), value.as_f64()) {
            (Some(value), _) => Value::from(before.and_then(Value::as_u64).unwrap_or(0) + value),
            (None, Some(value)) if name.ends_with("_s") && !name.ends_with("_per_s") => {
                Value::from(before.and_then(Value::as_f64).unwrap_or(0.0) + value)
            }
            _ => continue,
        };
        sums.insert(name.clone(), sum);
    }
    sums
}
