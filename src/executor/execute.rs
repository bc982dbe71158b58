//! One step from a miss to a published manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bstar_cache::{Artifact, Manifest, Provenance, timestamp};
use bstar_stages::protocol::{FailureKind, InputPath, Report, Request, StageError};
use bstar_stages::run::{self, Work};
use bstar_stages::{Output, Runner, StageConfig};
use serde_json::{Map, Value};

use super::command::{self, Places};
use super::content::{create_folder, files_below};
use super::prepare::Resolved;
use super::work::Lock;
use super::{Level, Shared, Trouble};
use crate::event::Event;

/// Wait before the second attempt; doubled for every further one.
const BACKOFF: Duration = Duration::from_millis(500);
/// How often a run looks whether another process has finished the same work.
const POLL: Duration = Duration::from_millis(100);

/// A result that is now in the store.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) manifest: Manifest,
    /// Another process did the work meanwhile.
    pub(super) cached: bool,
}

/// Carries out a step, as often as its retries allow, and publishes the result.
pub(super) async fn execute(
    shared: &Arc<Shared>,
    name: &str,
    retries: u32,
    resolved: &Resolved,
) -> Result<Executed, Trouble> {
    let Some(_claim) = claim(shared, name, resolved).await? else {
        return Err(Trouble::Stopped);
    };
    // Another process may have published between this one's lookup and its claim.
    if let Some(manifest) = shared.store.lookup(&resolved.key).await? {
        return Ok(Executed { manifest, cached: true });
    }
    let stage = resolved.stage.kind();
    let mut attempt = 1;
    loop {
        (shared.events)(Event::Running { step: name.to_owned(), stage, attempt });
        let outcome = tokio::select! {
            outcome = self::attempt(shared, name, resolved, attempt) => outcome,
            () = shared.stop.reached(Level::Kill) => Err(Trouble::Stopped),
        };
        let error = match outcome {
            Ok(manifest) => {
                let published = shared.store.publish(manifest).await?;
                drop(std::fs::remove_dir_all(shared.work.scratch(&resolved.key)));
                return Ok(Executed { manifest: published.manifest, cached: false });
            }
            Err(Trouble::Step(error)) => error,
            Err(trouble) => return Err(trouble),
        };
        if error.kind == FailureKind::Interrupted && shared.stop.level() >= Level::Stop {
            return Err(Trouble::Stopped);
        }
        if error.kind != FailureKind::Transient || attempt > retries {
            return Err(Trouble::Step(error));
        }
        let wait = BACKOFF * 2_u32.saturating_pow(attempt - 1);
        (shared.events)(Event::Failed {
            step: name.to_owned(),
            stage,
            kind: error.kind,
            message: error.message,
            hint: error.hint,
            retry_in: Some(wait.as_secs_f64()),
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.stop.reached(Level::Stop) => return Err(Trouble::Stopped),
        }
        attempt += 1;
    }
}

/// Waits for the exclusive right to execute the key on this machine; `None` when the run is to stop.
async fn claim(shared: &Shared, name: &str, resolved: &Resolved) -> Result<Option<Lock>, Trouble> {
    let mut told = false;
    loop {
        let lock = shared.work.claim(&resolved.key);
        if let Some(lock) = lock.map_err(|error| Trouble::io("lock a scratch folder".to_owned(), error))? {
            return Ok(Some(lock));
        }
        if !std::mem::replace(&mut told, true) {
            let message = format!("{name}: another run is executing the same step; waiting for its result");
            (shared.events)(Event::Note { level: "info", message });
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = shared.stop.reached(Level::Stop) => return Ok(None),
        }
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    name: &str,
    resolved: &Resolved,
    attempt: u32,
) -> Result<Manifest, Trouble> {
    let folder = tempfile::Builder::new()
        .prefix(&format!("{}-", resolved.key.short()))
        .tempdir_in(&shared.folder)
        .map_err(|error| Trouble::io(format!("create a folder in {}", shared.folder.display()), error))?;
    let output = folder.path().join("out");
    let scratch = shared.work.scratch(&resolved.key);
    create_folder(&output)?;
    create_folder(&scratch)?;
    let mut inputs = BTreeMap::new();
    for (input, content) in &resolved.inputs {
        let path = folder.path().join("in").join(input);
        create_folder(path.parent().unwrap_or(folder.path()))?;
        content.materialise(&shared.store, &path).await?;
        inputs.insert(input.clone(), InputPath { path, digest: content.digest() });
    }
    let outputs = resolved.stage.stage().outputs();
    for path in outputs.iter().filter_map(|declared| Path::new(&declared.path).parent()) {
        create_folder(&output.join(path))?;
    }
    let started = SystemTime::now();
    let clock = Instant::now();
    let task = Task { name, resolved, inputs, output: &output, scratch, attempt };
    let metrics = match resolved.stage.stage().runner() {
        Runner::InProcess => task.in_process(shared).await?,
        Runner::Worker => task.by_worker(shared).await?,
        Runner::Command => task.by_command(shared, &folder.path().join("params.json")).await?,
        Runner::None => {
            return Err(
                StageError::failed(format!("`{}` is not a stage that runs", resolved.stage.name())).into()
            );
        }
    };
    let wall_s = clock.elapsed().as_secs_f64();
    let outputs = store_outputs(shared, &output, &outputs).await?;
    let provenance = provenance(shared, name, started, wall_s);
    Ok(Manifest::new(resolved.action.clone(), outputs, metrics, provenance))
}

/// Who made a result, where and when.
pub(super) fn provenance(shared: &Shared, name: &str, started: SystemTime, wall_s: f64) -> Provenance {
    Provenance {
        step: name.to_owned(),
        run: shared.options.run.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: shared.host.clone(),
        device: shared.options.device.clone(),
        started: timestamp(started),
        wall_s,
    }
}

/// Moves the declared outputs into the store.
async fn store_outputs(
    shared: &Shared,
    folder: &Path,
    outputs: &[Output],
) -> Result<BTreeMap<String, Artifact>, Trouble> {
    let mut artifacts = BTreeMap::new();
    for output in outputs {
        let path = folder.join(&output.path);
        let missing = || {
            let what = if output.folder { "the folder " } else { "" };
            Trouble::from(StageError::failed(format!("did not write {what}`{}`", output.path)))
        };
        let files = if output.folder {
            let files = files_below(&path).map_err(|_| missing())?;
            files.into_iter().map(|(name, path)| (format!("{}/{name}", output.path), path)).collect()
        } else if path.is_file() {
            vec![(output.path.clone(), path)]
        } else {
            Vec::new()
        };
        if files.is_empty() {
            return Err(missing());
        }
        for (name, path) in files {
            artifacts.insert(name, shared.store.adopt_file(&path).await?);
        }
    }
    Ok(artifacts)
}

/// One attempt, ready to be carried out.
struct Task<'a> {
    name: &'a str,
    resolved: &'a Resolved,
    inputs: BTreeMap<String, InputPath>,
    output: &'a Path,
    scratch: PathBuf,
    attempt: u32,
}

impl Task<'_> {
    fn request(self, shared: &Shared) -> Request {
        let stage = self.resolved.stage.clone();
        let threads = stage.stage().cpu().clamp(1, shared.options.jobs.max(1));
        Request {
            id: shared.next_request(),
            stage,
            inputs: self.inputs,
            output: self.output.to_owned(),
            scratch: self.scratch,
            seed: self.resolved.seed,
            threads,
            device: shared.options.device.clone(),
        }
    }

    async fn in_process(self, shared: &Arc<Shared>) -> Result<Map<String, Value>, Trouble> {
        let stage = self.resolved.stage.clone();
        let inputs = self.inputs.into_iter().map(|(name, input)| (name, input.path)).collect();
        let work = Work { inputs, output: self.output.to_owned(), seed: self.resolved.seed };
        let task = tokio::task::spawn_blocking(move || run::run(&stage, &work));
        let late = async {
            shared.stop.reached(Level::Stop).await;
            tokio::time::sleep(shared.options.grace).await;
        };
        tokio::select! {
            outcome = task => match outcome {
                Ok(outcome) => Ok(outcome?),
                Err(error) => Err(StageError::failed(format!("the stage broke off: {error}")).into()),
            },
            () = late => Err(Trouble::Stopped),
        }
    }

    async fn by_worker(self, shared: &Arc<Shared>) -> Result<Map<String, Value>, Trouble> {
        let name = self.name.to_owned();
        let on_report = |report| match report {
            Report::Progress { done, total, unit, note, .. } => {
                (shared.events)(Event::Progress { step: name.clone(), done, total, unit, note });
            }
            Report::Log { level, message } => {
                let level = if level == "warn" { "warn" } else { "info" };
                (shared.events)(Event::Note { level, message: format!("{name}: {message}") });
            }
            Report::Ready { .. } | Report::Finished { .. } | Report::Failed { .. } => {}
        };
        Ok(shared.pool.run(self.request(shared), &shared.stop, on_report).await?)
    }

    async fn by_command(self, shared: &Arc<Shared>, params: &Path) -> Result<Map<String, Value>, Trouble> {
        let StageConfig::Command(command) = &self.resolved.stage else {
            return Err(StageError::failed("only `command` stages run programs").into());
        };
        let inputs = self.inputs.into_iter().map(|(name, input)| (name, input.path)).collect();
        let log = shared.work.log(&self.resolved.key);
        let places = Places {
            base: &shared.options.base,
            inputs: &inputs,
            output: self.output,
            scratch: &self.scratch,
            params,
            log: &log,
        };
        command::run(command, &places, self.attempt, &shared.stop, shared.options.grace).await?;
        Ok(Map::new())
    }
}
