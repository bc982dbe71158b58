//! What the commands about one step share, `bstar step log` and `bstar step adopt`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bstar_cache::{ActionKey, Manifest, Store};
use bstar_stages::stage::trains;
use serde_json::json;

use crate::cli::{Format, Global, open_store, store_or_none};
use crate::commands::pipeline::{load, preview_failure};
use crate::commands::{answer, answer_json};
use crate::executor::adopt::{Adoption, Refused, adopt};
use crate::executor::preview::{Fate, preview};
use crate::executor::work::WorkRoot;
use crate::executor::{UnknownStep, steps_named};
use crate::failure::Failure;
use crate::pipeline::{Pipeline, locate};
use crate::plan::{Part, Plan, StepId};
use crate::report::{count, size};
use crate::run_record::{self, RunStart};
use crate::sweep::Sweep;

/// Fewer digits are not taken for the beginning of a key.
const PREFIX: usize = 6;

/// The steps of these names, and all below them.
pub(crate) fn forced(plan: &Plan, names: &[String]) -> Result<BTreeSet<String>, Failure> {
    let mut steps = BTreeSet::new();
    for name in names {
        let named = steps_named(plan, name).map_err(|error| {
            let UnknownStep { meant, .. } = &error;
            let hint = meant.as_ref().map(|meant| format!("did you mean `{meant}`?"));
            Failure::Usage { message: format!("--force: {error}"), hint }
        })?;
        steps.extend(named);
    }
    Ok(steps)
}

/// What a name on the command line means.
pub(crate) enum Found {
    /// A step of the pipeline.
    Step(Box<Pipeline>, Plan, StepId),
    /// A stored result: one of an executed shard, or that of a key.
    Stored(Box<Manifest>),
}

/// Finds the step or stored result that `name` means: the beginning of a key, a step of the pipeline (by
/// default that of the latest run), or a step or shard that was executed.
pub(crate) async fn find(
    store: &Store,
    name: &str,
    file: Option<&Path>,
    overrides: &[String],
) -> Result<Found, Failure> {
    if name.len() >= PREFIX && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return by_key(store, name).await.map(Found::Stored);
    }
    let newest = |mut manifests: Vec<Manifest>| {
        manifests.retain(|manifest| manifest.provenance.step == name);
        let newest = manifests.into_iter().max_by(|a, b| a.provenance.started.cmp(&b.provenance.started));
        newest.map(|manifest| Found::Stored(Box::new(manifest)))
    };
    let (path, mut pipelines) = match pipelines_of(store, file, overrides).await {
        Ok(found) => found,
        // What was executed is known without the file.
        Err(failure) if file.is_none() => return newest(store.manifests().await?).ok_or(failure),
        Err(failure) => return Err(failure),
    };
    let plan = Plan::of(&pipelines);
    if let Some(id) = plan.find(name) {
        let of_part = |part: &Part| part.steps.iter().any(|(_, step)| *step == id);
        let part = plan.parts().iter().position(of_part).unwrap_or(0);
        return Ok(Found::Step(Box::new(pipelines.swap_remove(part).1), plan, id));
    }
    if let Some(found) = newest(store.manifests().await?) {
        return Ok(found);
    }
    let whole = name.split_once('/').and_then(|(whole, _)| plan.find(whole)).is_some();
    if !whole {
        return Err(no_step(&plan, &path, name));
    }
    let hint = "shards are named by the events of a run: runs/ID/events.jsonl in the store".to_owned();
    Err(Failure::Usage { message: format!("no shard `{name}` was executed"), hint: Some(hint) })
}

/// The pipeline file has no such step; perhaps one with a similar name is meant.
fn no_step(plan: &Plan, path: &Path, name: &str) -> Failure {
    let names = plan.ids().map(|id| &plan.step(id).name);
    let meant = names.min_by_key(|candidate| strsim::damerau_levenshtein(candidate, name));
    Failure::Usage {
        message: format!("{} has no step `{name}`", path.display()),
        hint: meant.map(|meant| format!("did you mean `{meant}`?")),
    }
}

async fn by_key(store: &Store, prefix: &str) -> Result<Box<Manifest>, Failure> {
    if let Ok(key) = prefix.parse::<ActionKey>()
        && let Some(manifest) = store.lookup(&key).await?
    {
        return Ok(Box::new(manifest));
    }
    let prefix = prefix.to_ascii_lowercase();
    let mut found: Vec<Manifest> = store.manifests().await?;
    found.retain(|manifest| manifest.key.to_string().starts_with(&prefix));
    match (found.pop(), found.len()) {
        (Some(manifest), 0) => Ok(Box::new(manifest)),
        (Some(last), _) => {
            let keys: Vec<String> =
                found.iter().chain([&last]).map(|manifest| manifest.key.to_string()).collect();
            Err(Failure::Usage {
                message: format!("{} stored keys begin with `{prefix}`", keys.len()),
                hint: Some(format!("give more digits: {}", keys.join(", "))),
            })
        }
        (None, _) => {
            Err(Failure::usage(format!("no result is stored under a key that begins with `{prefix}`")))
        }
    }
}

/// The pipelines that a command about a step means: the file, or those of the latest run, which are several
/// when it was a sweep. A `KEY=VALUE` in the place of the file is a change to the latter.
async fn pipelines_of(
    store: &Store,
    file: Option<&Path>,
    overrides: &[String],
) -> Result<(PathBuf, Vec<(String, Pipeline)>), Failure> {
    let change = file.and_then(Path::to_str).filter(|text| text.contains('=') && !Path::new(text).exists());
    let (file, overrides) = match (file, change) {
        (Some(file), None) => (file.to_path_buf(), overrides.to_vec()),
        (_, change) => {
            let run = run_record::find(store, "latest").await.map_err(|_| Failure::Usage {
                message: "no pipeline file is given, and there is no run to take it from".to_owned(),
                hint: Some("name it after the step, for example math.yaml".to_owned()),
            })?;
            let changes = change.into_iter().map(str::to_owned).chain(overrides.iter().cloned());
            let file = file_of(&run.start)?;
            if let Some(sweep) = run.start.sweep {
                let mut request = sweep.request;
                request.arguments.extend(changes);
                let sweep = Sweep::load(&file, &request)?;
                return Ok((file, sweep.pipelines()));
            }
            (file, run.start.overrides.into_iter().chain(changes).collect())
        }
    };
    let pipeline = load(&file, &overrides)?;
    Ok((file, vec![(String::new(), pipeline)]))
}

/// The pipeline file of a run, from here or from the folder that the run was started in.
fn file_of(start: &RunStart) -> Result<PathBuf, Failure> {
    let file = Path::new(&start.file);
    locate(Path::new(""), file).or_else(|_| locate(&start.folder, file)).map_err(|_| Failure::Usage {
        message: format!("{}, the pipeline file of the latest run ({}), is not here", start.file, start.id),
        hint: Some("name the file after the step".to_owned()),
    })
}

/// What running would do with the steps of a plan.
pub(crate) async fn fates(store: &Store, plan: &Plan) -> Result<Vec<(StepId, Fate)>, Failure> {
    preview(store, plan).await.map_err(preview_failure)
}

/// What running would do with one of them.
pub(crate) fn fate<'a>(fates: &'a [(StepId, Fate)], id: StepId, name: &str) -> Result<&'a Fate, Failure> {
    let found = fates.iter().find(|(other, _)| *other == id).map(|(_, fate)| fate);
    found.ok_or_else(|| Failure::usage(format!("{name} is not in the plan")))
}

/// Prints what a program printed, or what training said of its updates, when the step was last executed.
///
/// # Errors
/// When there is no log: then why.
pub async fn step_log(
    global: &Global,
    name: &str,
    file: Option<&Path>,
    overrides: &[String],
) -> Result<u8, Failure> {
    let store = store_or_none(global).await?;
    let made = |manifest: &Manifest| {
        format!("it was made by {} on {}", manifest.provenance.maker(), manifest.provenance.host)
    };
    let (step, stage, key, why) = match find(&store, name, file, overrides).await? {
        Found::Stored(manifest) => {
            let why = made(&manifest);
            (manifest.provenance.step.clone(), manifest.action.stage.clone(), manifest.key, why)
        }
        Found::Step(_, plan, id) => {
            let step = plan.step(id);
            let (key, why) = match fate(&fates(&store, &plan).await?, id, name)? {
                Fate::Cached(manifest) => (manifest.key, made(manifest)),
                Fate::WillRun(miss) => (miss.key, "it was not executed yet".to_owned()),
                Fate::Unknown(waits) => {
                    let message = format!("{name} has no key, and so no log, until {} ran", waits.join(", "));
                    let hint = "earlier executions are found by their key: `bstar step log KEY`".to_owned();
                    return Err(Failure::Usage { message, hint: Some(hint) });
                }
            };
            (step.name.clone(), step.stage.kind().to_owned(), key, why)
        }
    };
    let path = WorkRoot::of(&store).log(&key);
    let Ok(bytes) = std::fs::read(&path) else {
        let message = if stage == "command" || trains(&stage) {
            format!("there is no log of {step} at {}: {why}", path.display())
        } else {
            format!(
                "{step} has no log: it is a `{stage}` stage, and only programs (`command`) and training have one"
            )
        };
        return Err(Failure::usage(message));
    };
    let text = String::from_utf8_lossy(&bytes);
    if global.format == Format::Json {
        answer_json(&json!({"step": step, "key": key, "path": path, "log": text}))?;
    } else {
        answer(&text)?;
    }
    Ok(0)
}

/// A step, and what is to be its result.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The step's name.
    pub step: &'a str,
    /// The folder or file.
    pub from: &'a Path,
    /// The pipeline; default: that of the latest run.
    pub file: Option<&'a Path>,
    /// What differs from it.
    pub overrides: &'a [String],
    /// Whether a stored result is replaced.
    pub force: bool,
}

/// Publishes a folder or file as the result of a step.
///
/// # Errors
/// When the step has no key yet, the folder does not hold its outputs, or a result is stored.
pub async fn step_adopt(global: &Global, wanted: Wanted<'_>) -> Result<u8, Failure> {
    let store = open_store(global).await?;
    let (path, pipelines) = pipelines_of(&store, wanted.file, wanted.overrides).await?;
    let plan = Plan::of(&pipelines);
    let name = wanted.step;
    let Some(id) = plan.find(name) else { return Err(no_step(&plan, &path, name)) };
    let fates = fates(&store, &plan).await?;
    let action = match fate(&fates, id, name)? {
        Fate::Cached(manifest) => &manifest.action,
        Fate::WillRun(miss) => &miss.action,
        Fate::Unknown(waits) => {
            return Err(Failure::Usage {
                message: format!("{name} has no key yet: it is made of the results of {}", waits.join(", ")),
                hint: Some(format!(
                    "run these first (or adopt their results), for example by `bstar pipeline run {}`",
                    path.display()
                )),
            });
        }
    };
    let stage = &plan.step(id).stage;
    let adoption = Adoption { step: name, stage, action, from: wanted.from, replace: wanted.force };
    let manifest = adopt(&store, &adoption).await.map_err(|refused| match refused {
        Refused::Folder { message, hint } => Failure::Usage { message, hint },
        Refused::Stored(maker) => Failure::Usage {
            message: format!("a result of {name} is stored: made by {maker}"),
            hint: Some("--force replaces it; the old one is kept under quarantine/superseded/".to_owned()),
        },
        Refused::Store(error) => Failure::Store(error),
    })?;
    if global.format == Format::Json {
        answer_json(&json!({"step": name, "key": manifest.key, "manifest": manifest}))?;
    } else {
        answer(&format!(
            "{name} is stored: {}, {} from {} (key {})",
            count(manifest.outputs.len(), "file"),
            size(manifest.size()),
            wanted.from.display(),
            manifest.key.short()
        ))?;
    }
    Ok(0)
}
