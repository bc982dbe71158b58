//! The record of runs in the store: what was asked for, what happened, and how it ended.
//!
//! | object | what | written |
//! |---|---|---|
//! | `runs/ID/run.json` | [`RunStart`] | when the run starts |
//! | `runs/ID/events.jsonl` | all events | soon after they happen in a local store, else with the keys |
//! | `runs/ID/keys` | the results it needs: a key and a step's name a line | every few seconds (local), every 30 seconds |
//! | `runs/ID/released` | outputs that it needs no more ([`Retirees`]), though other runs may | when it retires outputs beside another run |
//! | `runs/ID/live` | nothing: its time is a sign of life | every two minutes without other news, until the end |
//! | `runs/ID/summary.json` | [`Summary`] | in the end: without it, the run was cut off |
//! | `pins/ID.json` | [`Pin`] | on request: the run's results are kept |

mod pins;
mod pulse;
mod released;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bstar_cache::{Digest, Store, StoreError, timestamp};
use bstar_stages::protocol::FailureKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Event, Recorded, Summary};
use crate::executor::work::WorkRoot;
use crate::sweep::SweepRecord;

pub use pins::{Pin, pin, pins, unpin};
use pulse::Pulse;
pub use pulse::{Needed, needed};
pub use released::{Retirees, release, released};

/// Records that are read at once.
const AT_ONCE: usize = 32;

/// What a run was asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStart {
    /// Eight hexadecimal digits.
    pub id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline file, as given.
    pub file: String,
    /// What the command line changed.
    pub overrides: Vec<String>,
    /// The pipeline's seed.
    pub seed: u64,
    /// RFC 3339, UTC, with milliseconds: the latest run is the last to have started.
    pub started: String,
    /// The command line.
    pub command: Vec<String>,
    /// The folder it was typed in, which relative paths of the command start from.
    #[serde(default)]
    pub folder: PathBuf,
    /// The version of bstar.
    pub version: String,
    /// The machine's name.
    pub host: String,
    /// The process on that machine.
    pub pid: u32,
    /// The pipeline with everything resolved.
    pub resolved: Value,
    /// The variants and seeds of a sweep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<SweepRecord>,
}

impl RunStart {
    /// The record of a run that this process starts now.
    #[must_use]
    pub fn now(pipeline: &str, file: &str, overrides: Vec<String>, seed: u64, resolved: Value) -> Self {
        let now = SystemTime::now();
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let pid = std::process::id();
        let host = host();
        Self {
            id: Digest::of(format!("{nanos} {pid} {host}").as_bytes()).short(),
            pipeline: pipeline.to_owned(),
            file: file.to_owned(),
            overrides,
            seed,
            started: to_the_millisecond(now),
            command: std::env::args().collect(),
            folder: std::env::current_dir().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host,
            pid,
            resolved,
            sweep: None,
        }
    }

    /// Its command line, to be typed again.
    #[must_use]
    pub fn typed(&self) -> String {
        typed(self.command.iter().cloned())
    }
}

/// A command line of bstar, the program first, to be typed again.
pub(crate) fn typed(words: impl Iterator<Item = String>) -> String {
    let quote = |word: String| {
        let plain =
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/=:,+@".contains(c));
        if plain { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    std::iter::once("bstar".to_owned()).chain(words.skip(1).map(quote)).collect::<Vec<_>>().join(" ")
}

/// RFC 3339, UTC, with milliseconds.
fn to_the_millisecond(time: SystemTime) -> String {
    let millis = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
    format!("{}.{millis:03}Z", timestamp(time).trim_end_matches('Z'))
}

/// How a run ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// Every step is done.
    Done,
    /// A step failed.
    Failed,
    /// Asked to stop.
    Stopped,
    /// Cut off: its process is gone without a word.
    Interrupted,
    /// Its process lives (or is on another machine).
    Running,
}

/// A run as recorded.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// What it was asked to do.
    pub start: RunStart,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Its figures, once it has ended.
    pub summary: Option<Summary>,
}

/// Why a run cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No run has such an id.
    #[error("no run begins with `{0}`")]
    Unknown(String),
    /// There is no run at all.
    #[error("the store has no runs")]
    None,
    /// Several runs have such an id.
    #[error("several runs begin with `{prefix}`: {}", .found.join(", "))]
    Ambiguous {
        /// As given.
        prefix: String,
        /// Their ids.
        found: Vec<String>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes the record of one run.
#[derive(Debug)]
pub struct RunRecord {
    store: Store,
    id: String,
    events: Mutex<BufWriter<File>>,
    path: PathBuf,
    /// The file is the object itself.
    in_store: bool,
    pulse: Pulse,
}

impl RunRecord {
    /// Begins the record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn begin(store: &Store, start: &RunStart) -> Result<Self, StoreError> {
        let object = |name: &str| format!("runs/{}/{name}", start.id);
        put(store, &object("run.json"), start).await?;
        let in_store = store.local_root().is_some();
        let root =
            store.local_root().map_or_else(|| WorkRoot::of(store).path().to_owned(), ToOwned::to_owned);
        let path = root.join(object("events.jsonl"));
        let open = || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            File::create(&path)
        };
        let events = open()
            .map_err(|source| StoreError::Io { attempt: format!("write {}", path.display()), source })?;
        let pulse = Pulse::begin(store, &start.id, (!in_store).then(|| path.clone()));
        let (store, id) = (store.clone(), start.id.clone());
        Ok(Self { store, id, events: Mutex::new(BufWriter::new(events)), path, in_store, pulse })
    }

    /// Adds an event; [`RunRecord::flush`] writes it. The record is for people: a disk that is full must not end the
    /// run here.
    pub fn event(&self, event: &Event) {
        if let Event::Done { key, step, shard, .. } = event {
            self.pulse.needs(key, if *shard { "" } else { step });
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let Ok(mut line) = serde_json::to_vec(&Recorded { time, event }) else { return };
        line.push(b'\n');
        let mut file = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(&line) {
            tracing::debug!(%error, "cannot write an event");
        }
    }

    /// Writes the events that were held back.
    pub fn flush(&self) {
        let mut file = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.flush() {
            tracing::debug!(%error, "cannot write events");
        }
    }

    /// Completes the record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn end(&self, summary: &Summary) -> Result<(), StoreError> {
        self.flush();
        if !self.in_store {
            let read = std::fs::read(&self.path);
            let bytes = read.map_err(|source| StoreError::Io {
                attempt: format!("read {}", self.path.display()),
                source,
            })?;
            self.store.put_object(&format!("runs/{}/events.jsonl", self.id), bytes).await?;
            drop(std::fs::remove_file(&self.path));
            // Empty by now.
            drop(self.path.parent().map(std::fs::remove_dir));
        }
        self.pulse.end().await?;
        put(&self.store, &format!("runs/{}/summary.json", self.id), summary).await
    }
}

/// All runs, the newest first. Records that cannot be read are left out.
///
/// # Errors
/// When the store cannot be read.
pub async fn list(store: &Store) -> Result<Vec<RunInfo>, StoreError> {
    let objects = store.list_objects("runs").await?;
    let ids = objects.iter().filter_map(|name| name.strip_prefix("runs/")?.strip_suffix("/run.json"));
    let ids: Vec<String> = ids.map(str::to_owned).collect();
    let mut runs = Vec::new();
    for some in ids.chunks(AT_ONCE) {
        let mut reading = tokio::task::JoinSet::new();
        for id in some {
            let (store, id) = (store.clone(), id.clone());
            reading.spawn(async move { read(&store, &id).await });
        }
        for run in reading.join_all().await {
            runs.extend(run?);
        }
    }
    runs.sort_by(|left, right| {
        (&right.start.started, &right.start.id).cmp(&(&left.start.started, &left.start.id))
    });
    Ok(runs)
}

/// The record of a run, if it can be read.
///
/// # Errors
/// When the store cannot be read.
pub async fn read(store: &Store, id: &str) -> Result<Option<RunInfo>, StoreError> {
    let Some(start) = get::<RunStart>(store, &format!("runs/{id}/run.json")).await? else { return Ok(None) };
    // Asked first: a process that was gone by then had written its summary, if it ever did.
    let gone = start.host == host() && !alive(start.pid);
    let summary: Option<Summary> = get(store, &format!("runs/{id}/summary.json")).await?;
    let outcome = outcome(gone, summary.as_ref());
    Ok(Some(RunInfo { start, outcome, summary }))
}

/// The run that `name` means: the shortest unique beginning of an id, the name it is pinned as, or `latest`.
///
/// # Errors
/// When no run, or more than one, is meant, and when the store cannot be read.
pub async fn find(store: &Store, name: &str) -> Result<RunInfo, FindError> {
    let runs = list(store).await?;
    if name == "latest" {
        return runs.into_iter().next().ok_or(FindError::None);
    }
    let pinned = pins(store).await?.into_values().find(|pin| pin.name.as_deref() == Some(name));
    let name = pinned.as_ref().map_or(name, |pin| pin.run.as_str());
    let mut found: Vec<RunInfo> = runs.into_iter().filter(|run| run.start.id.starts_with(name)).collect();
    match (found.len(), found.pop()) {
        (1, Some(run)) => Ok(run),
        (_, None) => Err(FindError::Unknown(name.to_owned())),
        (_, Some(last)) => {
            let found = found.into_iter().chain([last]).map(|run| run.start.id).collect();
            Err(FindError::Ambiguous { prefix: name.to_owned(), found })
        }
    }
}

/// The events of a run that were recorded so far, one JSON object ([`Recorded`]) a line.
///
/// # Errors
/// When the store cannot be read.
pub async fn events(store: &Store, id: &str) -> Result<Vec<u8>, StoreError> {
    Ok(store.get_object(&format!("runs/{id}/events.jsonl")).await?.unwrap_or_default())
}

/// A step that failed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepFailure {
    /// The step.
    pub step: String,
    /// What went wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The steps of a run that failed for good, as far as its events were recorded.
///
/// # Errors
/// When the store cannot be read.
pub async fn failures(store: &Store, id: &str) -> Result<Vec<StepFailure>, StoreError> {
    let mut failures: Vec<StepFailure> = Vec::new();
    for line in events(store, id).await?.split(|byte| *byte == b'\n') {
        let Ok(Recorded { event, .. }) = serde_json::from_slice::<Recorded<Event>>(line) else { continue };
        if let Event::Done { step, .. } | Event::Failed { step, .. } = &event {
            failures.retain(|failure| failure.step != *step);
        }
        if let Event::Failed { step, message, hint, retry_in: None, kind, .. } = event
            && kind != FailureKind::Interrupted
        {
            failures.push(StepFailure { step, message, hint });
        }
    }
    Ok(failures)
}

fn outcome(gone: bool, summary: Option<&Summary>) -> RunOutcome {
    match summary.map(|summary| summary.outcome.as_str()) {
        Some("done") => RunOutcome::Done,
        Some("stopped") => RunOutcome::Stopped,
        Some(_) => RunOutcome::Failed,
        None if gone => RunOutcome::Interrupted,
        None => RunOutcome::Running,
    }
}

/// Whether a process of that number lives on this machine.
fn alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let asked = pid.map(rustix::process::test_kill_process);
    // A process of another user may not be asked, but is there.
    matches!(asked, Some(Ok(()) | Err(rustix::io::Errno::PERM)))
}

/// This machine's name.
#[must_use]
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn put(store: &Store, object: &str, value: &impl Serialize) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| StoreError::Io { attempt: format!("write {object}"), source: error.into() })?;
    store.put_object(object, bytes).await
}

async fn get<T: for<'de> Deserialize<'de>>(store: &Store, object: &str) -> Result<Option<T>, StoreError> {
    let bytes = store.get_object(object).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(id: &str, started: &str, pid: u32) -> RunStart {
        let mut start = RunStart::now("toy", "toy.yaml", vec!["seed=2".to_owned()], 2, Value::Null);
        start.id = id.to_owned();
        start.started = started.to_owned();
        start.pid = pid;
        start
    }

    async fn round_trip(store: Store) {
        let old = start("ab000000", "2026-01-01T00:00:00Z", std::process::id());
        let record = RunRecord::begin(&store, &old).await.unwrap();
        record.event(&Event::Stopping);
        assert_eq!(find(&store, "latest").await.unwrap().outcome, RunOutcome::Running);
        let summary = Summary { run: old.id.clone(), outcome: "stopped".to_owned(), ..Summary::default() };
        record.end(&summary).await.unwrap();
        let recorded: Recorded<Event> =
            serde_json::from_slice(&events(&store, &old.id).await.unwrap()).unwrap();
        assert!(matches!(recorded.event, Event::Stopping) && recorded.time > 1.7e9, "{recorded:?}");

        // No process has the largest number.
        let new = start("ac000000", "2026-01-02T00:00:00Z", i32::MAX as u32);
        drop(RunRecord::begin(&store, &new).await.unwrap());
        let runs = list(&store).await.unwrap();
        let outcomes: Vec<_> = runs.iter().map(|run| (run.start.id.as_str(), run.outcome)).collect();
        assert_eq!(outcomes, [("ac000000", RunOutcome::Interrupted), ("ab000000", RunOutcome::Stopped)]);
        assert_eq!(find(&store, "ab").await.unwrap().start, old);
        assert_eq!(find(&store, "latest").await.unwrap().start, new);
        assert!(matches!(find(&store, "a").await, Err(FindError::Ambiguous { .. })));
        assert!(matches!(find(&store, "x").await, Err(FindError::Unknown(_))));
    }

    #[tokio::test]
    async fn runs_are_recorded_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        round_trip(Store::open(folder.path().to_str().unwrap()).await.unwrap()).await;
        round_trip(Store::open("memory://").await.unwrap()).await;
    }

    #[tokio::test]
    async fn what_failed_for_good_is_known_afterwards() {
        let store = Store::open("memory://").await.unwrap();
        let failed = |step: &str, rest: &str| {
            format!(
                "{{\"event\":\"failed\",\"step\":\"{step}\",\"stage\":\"sft\",\"message\":\"no\"{rest}}}\n"
            )
        };
        let events = failed("a", ",\"kind\":\"transient\",\"retry_in\":1.0")
            + &failed("b", ",\"kind\":\"failed\",\"hint\":\"yes\"")
            + &failed("c", ",\"kind\":\"interrupted\"")
            + "{\"torn";
        store.put_object("runs/1/events.jsonl", events.into()).await.unwrap();
        let expected =
            StepFailure { step: "b".to_owned(), message: "no".to_owned(), hint: Some("yes".to_owned()) };
        assert_eq!(failures(&store, "1").await.unwrap(), [expected]);
    }

    #[tokio::test]
    async fn a_store_without_runs_has_no_latest() {
        let store = Store::open("memory://").await.unwrap();
        assert!(matches!(find(&store, "latest").await, Err(FindError::None)));
    }
}
