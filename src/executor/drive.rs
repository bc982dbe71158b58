//! The loop of a run: one task owns the plan and all states; other tasks report to it.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

use bstar_cache::{ActionKey, Digest, Manifest, StoreError};
use bstar_stages::protocol::StageError;
use tokio::task::JoinSet;

use super::claim::{Claims, wait};
use super::content::{Content, Imports};
use super::execute::{Executed, execute, provenance, publish};
use super::force::Forced;
use super::gather::{joined, sum};
use super::guard::Guard;
use super::prepare::{Answer, Given, Pending, Resolved, prepare};
use super::retention::Retirement;
use super::summary::{self, Count, Made, PartSummary};
use super::work::WorkRoot;
use super::{Executor, Failure, Finished, Level, Outcome, Shared, Trouble, survived};
use crate::event::Event;
use crate::plan::{Plan, Source, StepId};
use crate::run_record::host;
use crate::scheduler::{Scheduler, State};
use crate::worker::WorkerPool;

/// Lookups at a time: enough to hide the latency of a remote store.
const LOOKUPS: usize = 64;
/// How often a run starts over because the same content is damaged or missing.
const HEALS: usize = 3;

/// Carries out a plan, starting over where damaged blobs must be made again.
pub(super) async fn run(executor: Executor, plan: &Plan) -> Finished {
    let clock = Instant::now();
    let Executor { store, mut options, stop, events } = executor;
    // Programs run in that folder, so paths that contain it must not depend on where they start.
    let base = if options.base.as_os_str().is_empty() { ".".into() } else { options.base };
    options.base = std::path::absolute(&base).unwrap_or(base);
    let work = options.work.clone().map_or_else(|| WorkRoot::of(&store), WorkRoot::at);
    let host = host();
    let opened = work
        .open_run(&options.run)
        .and_then(|folder| Ok((folder, Claims::new(&options.run, &host, &work, options.lease_ttl)?)));
    let (folder, claims) = match opened {
        Ok(opened) => opened,
        Err(source) => {
            let attempt = format!("use the work folder {}", work.path().display());
            let outcome = Outcome::Store(StoreError::Io { attempt, source });
            let summary = summary::empty(&options.run, plan);
            return finish(&*events, clock, outcome, summary, Vec::new());
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
        no_params: folder.no_params().to_owned(),
        guard: Guard::default(),
        imports: Imports::of(&work),
        forced: Forced::new(options.force.clone()),
        host,
        claims,
        requests: AtomicU64::new(1),
        store: store.renewing(),
        options,
        stop,
        events,
        work,
    });
    let mut count = Count::default();
    let mut lost: BTreeMap<Digest, usize> = BTreeMap::new();
    // Content that was retired and then needed is not retired again while others may need it too.
    let mut recalls = false;
    let (mut pass, outcome) = loop {
        let mut pass = Pass::new(Arc::clone(&shared), plan.clone(), std::mem::take(&mut count));
        pass.retires = !recalls;
        let outcome = pass.run().await;
        let digest = if let Outcome::Store(error) = &outcome { error.lost_blob().copied() } else { None };
        let times = digest.map(|digest| lost.entry(digest).or_default());
        match (outcome, digest, times) {
            (Outcome::Store(error), Some(digest), Some(times)) if *times < HEALS => {
                *times += 1;
                // Retired content that is needed after all is not a reason to worry.
                let recalled = match shared.store.recall(&digest).await {
                    Ok(recalled) => !recalled.is_empty(),
                    Err(error) => break (pass, Outcome::Store(error)),
                };
                recalls |= recalled;
                let what = if recalled { "was retired" } else { "is lost" };
                let level = if recalled { "info" } else { "warn" };
                let message = format!("{error}: what made it runs again, for it {what} and is needed");
                (shared.events)(Event::Note { level, message });
                shared.imports.clear();
                count = pass.count.start_over();
            }
            (outcome, _, _) => break (pass, outcome),
        }
    };
    if recalls && matches!(outcome, Outcome::Done) {
        pass.retire_all().await;
    }
    shared.imports.save();
    // What earlier runs could not send to a bucket is there, or the run has not succeeded.
    let outcome = match (outcome, shared.store.flush().await) {
        (Outcome::Done | Outcome::Stopped, Err(error)) => Outcome::Store(error),
        (outcome, _) => outcome,
    };
    if let Err(error) = shared.store.commit().await {
        let message = format!("{error}: a power cut may take the results of this run away");
        (shared.events)(Event::Note { level: "warn", message });
    }
    let parts = summary::parts(&pass.plan, &pass.made, pass.scheduler.states());
    let made = summary::summary(&shared.options.run, &parts, pass.scheduler.states(), &pass.count);
    let events = |event| (shared.events)(event);
    let finished = finish(&events, clock, outcome, made, parts);
    drop(pass);
    drop(folder);
    finished
}

fn finish(
    events: &dyn Fn(Event),
    clock: Instant,
    outcome: Outcome,
    mut summary: crate::event::Summary,
    parts: Vec<PartSummary>,
) -> Finished {
    summary.outcome = match &outcome {
        Outcome::Done => "done",
        Outcome::Failed(_) | Outcome::Store(_) => "failed",
        Outcome::Stopped => "stopped",
    }
    .to_owned();
    summary.exit_code = outcome.exit_code();
    summary.wall_s = clock.elapsed().as_secs_f64();
    events(Event::Summary(Box::new(summary.clone())));
    Finished { outcome, summary, parts }
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
    retirement: Retirement,
    /// Whether outputs are retired as soon as an iteration is complete.
    retires: bool,
    /// Results, by step.
    made: Vec<Option<Made>>,
    /// Folders that steps have read: their digest is that of all their files.
    folders: BTreeMap<(StepId, String), Content>,
    /// Steps that the store does not know, ready to execute or to be gathered.
    resolved: BTreeMap<StepId, Box<Resolved>>,
    /// Keys being executed, and the steps that wait for the same result.
    followers: BTreeMap<ActionKey, Vec<StepId>>,
    shards: BTreeMap<StepId, Vec<StepId>>,
    tasks: JoinSet<Message>,
    /// Steps that another run executes, and their keys, when it is worth asking again.
    waits: JoinSet<(StepId, ActionKey)>,
    lookups: usize,
    failures: Vec<Failure>,
    stopped: bool,
    broken: Option<StoreError>,
    count: Count,
}

impl Pass {
    fn new(shared: Arc<Shared>, plan: Plan, count: Count) -> Self {
        let mut scheduler = Scheduler::new(shared.options.capacity(), shared.options.keep_going);
        scheduler.grow(&plan, |step| shared.options.needs(step));
        Self {
            retirement: Retirement::of(&plan, &shared.options.retain),
            retires: true,
            shared,
            plan,
            scheduler,
            made: Vec::new(),
            folders: BTreeMap::new(),
            resolved: BTreeMap::new(),
            followers: BTreeMap::new(),
            shards: BTreeMap::new(),
            tasks: JoinSet::new(),
            waits: JoinSet::new(),
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
            let more = self.advance();
            if self.retires && !self.stopped {
                self.retire();
            }
            // When nothing more starts, there is nothing to wait for others for.
            let idle = self.tasks.is_empty() && !more && (self.waits.is_empty() || self.scheduler.halted());
            if idle && (self.stopped || !self.retirement.goes_on()) {
                break;
            }
            tokio::select! {
                Some(ended) = self.waits.join_next() => {
                    if let Ok((id, key)) = ended {
                        self.scheduler.ask_again(id);
                        self.ask_followers_again(&key);
                    }
                }
                message = self.tasks.join_next(), if !self.tasks.is_empty() => match message {
                    Some(Ok(message)) => self.take(message),
                    // The work for a step reports its panics itself; what is left belongs to none.
                    Some(Err(error)) => {
                        self.scheduler.halt();
                        let error = StageError::failed(format!("the engine broke off: {error}"));
                        self.tell(Event::Note { level: "warn", message: error.message.clone() });
                        self.failures.push(Failure { step: "?".to_owned(), error });
                    }
                    None => {}
                },
                Some(()) = self.retirement.over() => {}
                () = tokio::task::yield_now(), if more => {}
                () = stop.reached(Level::Stop), if !self.stopped => {}
                () = stop.reached(Level::Kill) => {
                    self.tasks.shutdown().await;
                    self.stopped = true;
                    break;
                }
            }
        }
        self.retirement.end(&self.shared.stop, self.shared.options.grace).await;
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

    /// Starts all that can start; whether there may be more to look up at once.
    fn advance(&mut self) -> bool {
        let mut asked = 0;
        while self.lookups < LOOKUPS
            && asked < LOOKUPS
            && let Some(id) = self.scheduler.next_ready()
        {
            asked += 1;
            self.look_up(id);
        }
        while let Some(id) = self.scheduler.next_gathered() {
            self.gather(id);
        }
        while let Some(id) = self.scheduler.start() {
            let Some(resolved) = self.resolved.remove(&id) else { continue };
            let (shared, name) = (Arc::clone(&self.shared), self.plan.step(id).name.clone());
            let policy = self.plan.step(id).policy;
            self.tasks.spawn(async move {
                let outcome = survived(execute(&shared, &name, policy, &resolved)).await;
                Message::Executed(id, resolved, outcome)
            });
        }
        asked == LOOKUPS
    }

    fn look_up(&mut self, id: StepId) {
        match self.pending(id) {
            Ok(pending) => {
                let shared = Arc::clone(&self.shared);
                self.lookups += 1;
                let mut answer = Box::pin(async move { survived(prepare(&shared, pending)).await });
                // A store on a local disk answers at once: a task would cost more than that. One that has
                // to wait is asked again by a task.
                match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(answer) => self.take(Message::Prepared(id, answer)),
                    Poll::Pending => {
                        self.tasks.spawn(async move { Message::Prepared(id, answer.await) });
                    }
                }
            }
            Err(error) => self.trouble(id, error.into()),
        }
    }

    fn pending(&mut self, id: StepId) -> Result<Pending, StageError> {
        let step = self.plan.shared(id);
        let forced = self.shared.forced.names(&step.name);
        let mut given = |sources: &BTreeMap<String, Source>| -> Result<BTreeMap<String, Given>, StageError> {
            sources.iter().map(|(name, source)| Ok((name.clone(), self.given(source)?))).collect()
        };
        let (inputs, settings) = (given(&step.inputs)?, given(&step.settings)?);
        Ok(Pending { step, inputs, settings, forced })
    }

    fn given(&mut self, source: &Source) -> Result<Given, StageError> {
        let (step, output) = match source {
            Source::File(path) => return Ok(Given::File(path.clone())),
            Source::Content(artifact) => return Ok(Given::Content(Content::File(*artifact))),
            Source::Output { step, output } => (*step, output),
        };
        let made = self.made.get(step.index()).and_then(Option::as_ref);
        let find = || {
            made.and_then(|made| Content::of_output(&made.manifest, output)).ok_or_else(|| {
                let step = &self.plan.step(step).name;
                StageError::failed(format!("the stored result of {step} has no output `{}`", output.path))
            })
        };
        if !output.folder {
            return Ok(Given::Content(find()?));
        }
        let place = (step, output.name.clone());
        if let Some(content) = self.folders.get(&place) {
            return Ok(Given::Content(content.clone()));
        }
        let content = find()?;
        self.folders.insert(place, content.clone());
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
            let gathered = async {
                let outputs = joined(&shards, &resolved.stage.stage().outputs())?;
                let wall_s = shards.iter().map(|(_, manifest)| manifest.provenance.wall_s).sum();
                let metrics = sum(shards.iter().map(|(_, manifest)| &manifest.metrics));
                let provenance = provenance(&shared, &name, SystemTime::now(), wall_s);
                let manifest = Manifest::new(resolved.action, outputs, metrics, provenance);
                let forced = shared.forced.wants(&name, &resolved.key);
                Ok(publish(&shared, manifest, forced).await?)
            };
            Message::Gathered(id, survived(gathered).await)
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
                    Ok(Executed::Here(manifest)) => self.done(id, *resolved, manifest, false),
                    Ok(Executed::Found(manifest)) => self.done(id, *resolved, manifest, true),
                    Ok(Executed::Elsewhere) => return self.elsewhere(id, key),
                    Err(trouble) => self.trouble(id, trouble),
                }
                self.ask_followers_again(&key);
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
        self.scheduler.unfolded(id, &self.plan, |step| shared.options.needs(step));
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

    /// Another run executes the step: waits for it without keeping others from running.
    fn elsewhere(&mut self, id: StepId, key: ActionKey) {
        self.scheduler.elsewhere(id);
        let shared = Arc::clone(&self.shared);
        self.waits.spawn(async move {
            wait(&shared, &key).await;
            (id, key)
        });
    }

    fn ask_followers_again(&mut self, key: &ActionKey) {
        for follower in self.followers.remove(key).into_iter().flatten() {
            self.scheduler.ask_again(follower);
        }
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
        self.retirement.done(self.plan.step(id), id);
    }

    /// Begins to retire what nobody needs any more.
    fn retire(&mut self) {
        self.retirement.begin(&self.shared, &self.plan, self.scheduler.states(), &self.made);
    }

    /// Retires what nobody needs at the end of a run.
    async fn retire_all(&mut self) {
        self.retire();
        self.retirement.end(&self.shared.stop, self.shared.options.grace).await;
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
