//! One step from a miss to a published manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bstar_cache::{Manifest, Provenance, StoreError, timestamp};
use bstar_stages::protocol::{FailureKind, InputPath, Report, Request, StageError};
use bstar_stages::run::{self, Work};
use bstar_stages::units::show_duration;
use bstar_stages::{Runner, StageConfig};
use serde_json::{Map, Value};

use super::command::{self, Patience, Places};
use super::content::create_folder;
use super::outputs::{RESPONSES, store_outputs};
use super::prepare::Resolved;
use super::spare::AttemptFolder;
use super::unchanged::{Inputs, files_unchanged};
use super::{Level, Shared, Trouble, claim};
use crate::event::Event;
use crate::pipeline::Policy;

/// Wait before the second attempt; doubled for every further one.
const BACKOFF: Duration = Duration::from_millis(500);
/// What became of a step.
#[derive(Debug)]
pub(super) enum Executed {
    /// Its result is now in the store.
    Here(Manifest),
    /// Another process did the work meanwhile.
    Found(Manifest),
    /// Another process is doing the work.
    Elsewhere,
}

/// Carries out a step, unless another process does, and publishes the result.
pub(super) async fn execute(
    shared: &Arc<Shared>,
    name: &str,
    policy: Policy,
    resolved: &Resolved,
) -> Result<Executed, Trouble> {
    let Some(claim) = claim::claim(shared, name, &resolved.key).await? else {
        return Ok(Executed::Elsewhere);
    };
    let forced = shared.forced.wants(name, &resolved.key);
    // Another process may have published between this one's lookup and its claim.
    let stored = if forced { Ok(None) } else { shared.store.lookup(&resolved.key).await };
    let outcome = match stored {
        Ok(Some(manifest)) => Ok(Executed::Found(manifest)),
        Ok(None) => carry_out(shared, name, policy, resolved, forced).await.map(Executed::Here),
        Err(error) => Err(error.into()),
    };
    claim.release().await;
    outcome
}

/// Carries out a step, as often as its retries allow, and publishes the result.
async fn carry_out(
    shared: &Arc<Shared>,
    name: &str,
    policy: Policy,
    resolved: &Resolved,
    forced: bool,
) -> Result<Manifest, Trouble> {
    shared.work.end_orphans(&resolved.key);
    let stage = resolved.stage.kind();
    let mut attempt = 1;
    loop {
        (shared.events)(Event::Running { step: name.to_owned(), stage, attempt });
        let outcome = tokio::select! {
            outcome = self::attempt(shared, name, policy, resolved, attempt) => outcome,
            () = shared.stop.reached(Level::Kill) => Err(Trouble::Stopped),
        };
        let error = match outcome {
            Ok(manifest) => {
                let manifest = publish(shared, manifest, forced).await?;
                shared.work.spares().keep_scratch(&shared.work.scratch(&resolved.key));
                return Ok(manifest);
            }
            Err(Trouble::Step(error)) => error,
            Err(trouble) => return Err(trouble),
        };
        if error.kind == FailureKind::Interrupted && shared.stop.level() >= Level::Stop {
            return Err(Trouble::Stopped);
        }
        if error.kind != FailureKind::Transient || attempt > policy.retries {
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

/// Publishes what this run made; a forced step's takes the place of what was stored.
pub(super) async fn publish(
    shared: &Shared,
    manifest: Manifest,
    forced: bool,
) -> Result<Manifest, StoreError> {
    let key = manifest.key;
    let manifest = if forced {
        shared.store.replace(manifest).await?
    } else {
        shared.store.publish(manifest).await?.manifest
    };
    shared.forced.executed(key);
    Ok(manifest)
}

async fn attempt(
    shared: &Arc<Shared>,
    name: &str,
    policy: Policy,
    resolved: &Resolved,
    attempt: u32,
) -> Result<Manifest, Trouble> {
    let path = shared.folder.join(format!("{}-{}", resolved.key.short(), shared.next_request()));
    let failed = |error| Trouble::io(format!("create a folder in {}", shared.folder.display()), error);
    let mut folder = shared.work.spares().attempt(path).map_err(failed)?;
    let output = folder.output();
    let scratch = shared.work.scratch(&resolved.key);
    shared.work.spares().take_scratch(&scratch).map_err(failed)?;
    files_unchanged(&shared.imports, resolved).await?;
    let mut inputs = BTreeMap::new();
    let mut seen = Inputs::below(folder.place(""));
    for (input, content) in &resolved.inputs {
        let path = folder.input(input, content.is_folder()).map_err(failed)?;
        content.materialise(&shared.store, &path).await?;
        seen.look_at(&path, content)?;
        inputs.insert(input.clone(), InputPath { path, digest: content.digest() });
    }
    let outputs = resolved.stage.stage().outputs();
    for path in outputs.iter().filter_map(|declared| Path::new(&declared.path).parent()) {
        if !path.as_os_str().is_empty() {
            create_folder(&output.join(path))?;
        }
    }
    let responses = inputs.get(RESPONSES).map(|input| input.path.clone());
    let started = SystemTime::now();
    let clock = Instant::now();
    let task = Task { name, resolved, inputs, output: &output, scratch, attempt, limit: policy.timeout };
    let metrics = match resolved.stage.stage().runner() {
        Runner::InProcess => task.in_process(shared).await,
        Runner::Worker => task.by_worker(shared).await,
        Runner::Command => task.by_command(shared, &folder.params()).await,
        Runner::None => {
            Err(StageError::failed(format!("`{}` is not a stage that runs", resolved.stage.name())).into())
        }
    };
    let metrics = metrics.map_err(|trouble| in_the_users_words(trouble, shared, resolved, &folder))?;
    let wall_s = clock.elapsed().as_secs_f64();
    seen.unchanged().await?;
    files_unchanged(&shared.imports, resolved).await?;
    let outputs = store_outputs(shared, name, &resolved.stage, &output, responses).await?;
    let provenance = provenance(shared, name, started, wall_s);
    Ok(Manifest::new(resolved.action.clone(), outputs, metrics, provenance))
}

/// An error that calls an input what the user does, by its path or its name in the step: the work folder is gone by
/// the time it is read.
fn in_the_users_words(
    trouble: Trouble,
    shared: &Shared,
    resolved: &Resolved,
    folder: &AttemptFolder,
) -> Trouble {
    let Trouble::Step(error) = trouble else { return trouble };
    // A name may begin with another one: the longer comes first.
    let names = resolved.inputs.iter().rev().map(|(name, content)| {
        let origin = shared.imports.origin(&content.digest());
        let called = origin.map_or_else(|| name.clone(), |path| path.display().to_string());
        (folder.place(name).display().to_string(), called)
    });
    Trouble::Step(renamed(error, names))
}

/// The error with the second of each pair in place of the first.
fn renamed(mut error: StageError, names: impl Iterator<Item = (String, String)>) -> StageError {
    for (place, called) in names {
        error.message = error.message.replace(&place, &called);
        error.hint = error.hint.map(|hint| hint.replace(&place, &called));
    }
    error
}

/// Who made a result, where and when.
pub(super) fn provenance(shared: &Shared, name: &str, started: SystemTime, wall_s: f64) -> Provenance {
    Provenance {
        step: name.to_owned(),
        run: shared.options.run.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: shared.host.clone(),
        device: shared.options.device.to_string(),
        started: timestamp(started),
        wall_s,
        adopted_from: None,
    }
}

/// One attempt, ready to be carried out.
struct Task<'a> {
    name: &'a str,
    resolved: &'a Resolved,
    inputs: BTreeMap<String, InputPath>,
    output: &'a Path,
    scratch: PathBuf,
    attempt: u32,
    /// Most time it may take.
    limit: Option<Duration>,
}

impl Task<'_> {
    fn request(self, shared: &Shared) -> Request {
        let stage = StageConfig::clone(&self.resolved.stage);
        let threads = stage.stage().cpu().clamp(1, shared.options.jobs.max(1));
        Request {
            id: shared.next_request(),
            stage,
            inputs: self.inputs,
            output: self.output.to_owned(),
            scratch: self.scratch,
            log: shared.work.log(&self.resolved.key),
            seed: self.resolved.seed,
            threads,
            device: shared.options.device,
        }
    }

    async fn in_process(self, shared: &Arc<Shared>) -> Result<Map<String, Value>, Trouble> {
        let stage = StageConfig::clone(&self.resolved.stage);
        let inputs = self.inputs.into_iter().map(|(name, input)| (name, input.path)).collect();
        let work = Work { inputs, output: self.output.to_owned(), seed: self.resolved.seed };
        let task = tokio::task::spawn_blocking(move || run::run(&stage, &work));
        let late = async {
            shared.stop.reached(Level::Stop).await;
            tokio::time::sleep(shared.options.grace).await;
        };
        let passed = async {
            match self.limit {
                Some(limit) => {
                    tokio::time::sleep(limit).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = task => match outcome {
                Ok(outcome) => Ok(outcome?),
                Err(error) => Err(StageError::failed(format!("the stage broke off: {error}")).into()),
            },
            () = late => Err(Trouble::Stopped),
            // The thread computes on, into a folder that nobody looks at any more.
            limit = passed => {
                Err(StageError::failed(format!("took longer than {}", show_duration(limit))).into())
            }
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
        let limit = self.limit;
        Ok(shared.pool.run(self.request(shared), limit, &shared.stop, on_report).await?)
    }

    async fn by_command(self, shared: &Arc<Shared>, params: &Path) -> Result<Map<String, Value>, Trouble> {
        let StageConfig::Command(command) = &*self.resolved.stage else {
            return Err(StageError::failed("only `command` stages run programs").into());
        };
        let inputs = self.inputs.into_iter().map(|(name, input)| (name, input.path)).collect();
        let log = shared.work.log(&self.resolved.key);
        let params = if command.params.is_empty() { &shared.no_params } else { params };
        let places = Places {
            base: &shared.options.base,
            inputs: &inputs,
            output: self.output,
            scratch: &self.scratch,
            params,
            log: &log,
        };
        if self.attempt == 1 {
            shared.work.spares().take_log(&log);
        }
        shared.guard.watch(&shared.folder);
        let limit = self.limit.into_iter().chain(command.time_limit()).min();
        let patience = Patience { limit, grace: shared.options.grace };
        command::run(command, &places, self.attempt, &shared.stop, patience).await?;
        shared.work.spares().keep_log(&log);
        Ok(Map::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_call_inputs_by_their_own_names() {
        let error =
            StageError::invalid("/w/in/corpus10/a.jsonl:3 and /w/in/corpus1 differ").hint("/w/in/corpus1");
        let names = [("/w/in/corpus10", "data/ten"), ("/w/in/corpus1", "data/one.jsonl")];
        let error =
            renamed(error, names.map(|(place, called)| (place.to_owned(), called.to_owned())).into_iter());
        assert_eq!(error.message, "data/ten/a.jsonl:3 and data/one.jsonl differ");
        assert_eq!(error.hint.unwrap(), "data/one.jsonl");
    }
}
