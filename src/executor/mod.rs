//! Carries out a [`Plan`]: looks results up, runs what is missing, publishes.
//!
//! - `drive`: the loop that owns all state; everything else is a task that reports to it.
//! - [`preview`]: what a run would do, without doing it; [`survey`]: how much.
//! - [`prepare`]: from known inputs to the key, the lookup, and the shards of a sharded step.
//! - `execute`: one step from a miss to a published manifest; `command`: any program as a stage;
//!   `programs`: all that one has started; [`adopt`]: results made elsewhere.
//! - `unchanged`: what a step reads is what its key says until it has ended.
//! - `outputs`: what a step wrote, checked and stored; `force`: steps that execute in any case.
//! - `claim`: who may execute a key, of all who want to; `guard`: no program outlives its engine.
//! - `retention`: outputs that are deleted when later iterations no longer need them.
//! - `content`: what inputs consist of; [`work`]: folders and locks; [`abandoned`]: what is left in them;
//!   `summary`: the figures of a run.
//!
//! Only this module, the workers and the store are async. No option here changes a result or a key.

pub mod abandoned;
pub mod adopt;
mod claim;
mod command;
mod content;
mod drive;
mod execute;
mod force;
mod gather;
mod guard;
mod outputs;
pub mod prepare;
pub mod preview;
mod programs;
mod retention;
mod spare;
mod stamps;
mod stop;
mod summary;
pub mod survey;
#[cfg(test)]
mod tests;
mod unchanged;
pub mod work;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bstar_cache::{LeaseOptions, Store, StoreError};
use bstar_stages::protocol::{FailureKind, StageError};
use bstar_stages::units::memory_of_machine;
use bstar_stages::{Device, Runner, StageConfig};
use futures::FutureExt;

pub use self::force::{UnknownStep, steps_named};
pub use self::stop::{Level, Stop};
pub use self::summary::PartSummary;
use self::work::WorkRoot;
use crate::event::{Event, Summary};
use crate::gc::Retention;
use crate::plan::{Plan, Step};
use crate::scheduler::Resources;
use crate::worker::{Launch, WorkerPool};

/// How a run is carried out.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's id.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The folder of the pipeline file, in which programs run.
    pub base: PathBuf,
    /// CPU cores to use at a time.
    pub jobs: usize,
    /// Bytes of memory that steps which say what they need may take at a time.
    pub memory: u64,
    /// Where language models run.
    pub device: Device,
    /// Whether steps that do not need a failed one go on.
    pub keep_going: bool,
    /// Where steps work; default: [`WorkRoot::of`] the store.
    pub work: Option<PathBuf>,
    /// How workers are started; default: [`Launch::find`].
    pub worker: Option<Launch>,
    /// How long a step may take to end on request before it is killed.
    pub grace: Duration,
    /// Names of steps that execute although their results are stored (see [`steps_named`]).
    pub force: BTreeSet<String>,
    /// Where the store is no folder: how long another machine may be silent before it counts as dead and
    /// its steps are executed here; also what this run promises to others.
    pub lease_ttl: Duration,
    /// Outputs that are kept of the last iterations only.
    pub retain: Retention,
}

impl Options {
    /// The defaults: one core a job for every core of the machine, on the CPU.
    #[must_use]
    pub fn new(run: impl Into<String>, pipeline: impl Into<String>, base: PathBuf) -> Self {
        Self {
            run: run.into(),
            pipeline: pipeline.into(),
            base,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            // Where it cannot be known, as much as anyone asks for.
            memory: memory_of_machine("MemTotal").unwrap_or(u64::MAX),
            device: Device::Cpu,
            keep_going: false,
            work: None,
            worker: None,
            grace: Duration::from_secs(10),
            force: BTreeSet::new(),
            lease_ttl: LeaseOptions::default().ttl,
            retain: Retention::default(),
        }
    }

    /// What there is to take.
    #[must_use]
    pub fn capacity(&self) -> Resources {
        Resources { cpu: self.jobs, gpu: self.device.gpus(), memory: self.memory }
    }

    /// What a step takes while it runs.
    #[must_use]
    pub fn needs(&self, step: &Step) -> Resources {
        let stage = step.stage.stage();
        let gpu = match (&step.stage, stage.runner()) {
            (StageConfig::Command(command), _) => command.gpu,
            (_, Runner::Worker) => self.device.gpus(),
            _ => 0,
        };
        Resources { cpu: stage.cpu().max(1), gpu, memory: stage.memory() }
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// Every step is done.
    Done,
    /// Steps failed: the first to fail comes first.
    Failed(Vec<Failure>),
    /// Asked to stop; the same command goes on from here.
    Stopped,
    /// The store or the work folder could not be used. What was published before is kept.
    Store(StoreError),
}

impl Outcome {
    /// The exit code of the command line (a run killed by a second signal is the caller's matter).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed(failures) => {
                let invalid =
                    failures.first().is_some_and(|failure| failure.error.kind == FailureKind::Invalid);
                if invalid { 2 } else { 1 }
            }
            Self::Store(_) => 3,
            Self::Stopped => 75,
        }
    }
}

/// A step that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The step's name.
    pub step: String,
    /// Why.
    pub error: StageError,
}

/// What a run came to.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// Its figures; also sent as the last event.
    pub summary: Summary,
    /// The figures of each pipeline that the plan was laid out for.
    pub parts: Vec<PartSummary>,
}

/// Carries out plans with one store.
pub struct Executor {
    store: Store,
    options: Options,
    stop: Stop,
    events: Box<dyn Fn(Event) + Send + Sync>,
}

impl Executor {
    /// An executor that tells `events` what happens and ends early when `stop` says so.
    pub fn new(
        store: Store,
        options: Options,
        stop: Stop,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Self {
        Self { store, options, stop, events: Box::new(events) }
    }

    /// Carries out the plan. Failures are part of the outcome, never a panic or an early return.
    pub async fn run(self, plan: &Plan) -> Finished {
        drive::run(self, plan).await
    }
}

/// What the tasks of a run share.
struct Shared {
    store: Store,
    options: Options,
    stop: Stop,
    events: Box<dyn Fn(Event) + Send + Sync>,
    work: WorkRoot,
    claims: claim::Claims,
    /// Where this run's attempts work.
    folder: PathBuf,
    /// A JSON file of no parameters.
    no_params: PathBuf,
    guard: guard::Guard,
    pool: WorkerPool,
    imports: content::Imports,
    forced: force::Forced,
    host: String,
    requests: AtomicU64,
}

impl Shared {
    fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }
}

/// What the work for a step comes to; a panic in it is the step's failure, so that somebody hears of it.
async fn survived<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    // Nothing of what was in the middle of its work is used again.
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        let error = StageError::failed(format!("the engine broke off: {text}"));
        Err(error.hint("this is a defect of bstar: please report it with what is above").into())
    })
}

/// Why a step has no result.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The step's own failure.
    Step(StageError),
    /// The run is to stop.
    Stopped,
    /// The store or the work folder.
    Store(StoreError),
}

impl Trouble {
    fn io(attempt: String, source: std::io::Error) -> Self {
        Self::Store(StoreError::Io { attempt, source })
    }
}

impl From<StageError> for Trouble {
    fn from(error: StageError) -> Self {
        if error.kind == FailureKind::DiskFull {
            let attempt = error.message.trim_start_matches("cannot ").to_owned();
            return Self::io(attempt, std::io::ErrorKind::StorageFull.into());
        }
        Self::Step(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
