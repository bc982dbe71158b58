//! Files and folders made elsewhere as the result of a step.

use std::path::Path;
use std::time::SystemTime;

use bstar_cache::{Action, Manifest, Provenance, Store, StoreError, timestamp};
use bstar_stages::{Output, StageConfig};
use serde_json::{Map, Value};

use super::Trouble;
use super::content::files_below;
use super::outputs::{Files, check_kind, copy, files_of};
use crate::run_record::host;

/// What is to be taken for the result of which step.
#[derive(Debug)]
pub struct Adoption<'a> {
    /// The step's name.
    pub step: &'a str,
    /// Its stage.
    pub stage: &'a StageConfig,
    /// What decides its result.
    pub action: &'a Action,
    /// The outputs under the paths that the stage declares, or the only output itself. A `metrics.json` beside them holds
    /// the step's figures.
    pub from: &'a Path,
    /// Whether a result that is stored is replaced.
    pub replace: bool,
}

/// Why nothing was adopted.
#[derive(Debug)]
pub enum Refused {
    /// What is wrong with the folder, and what to do.
    Folder {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A result is stored: that of this maker.
    Stored(String),
    /// The store.
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Step(error) => Self::Folder { message: error.message, hint: error.hint },
            Trouble::Store(error) => Self::Store(error),
            Trouble::Stopped => Self::Folder { message: "stopped".to_owned(), hint: None },
        }
    }
}

/// Copies the outputs into the store and publishes them as the result of the step.
///
/// # Errors
/// When an output is missing or not what it is declared to be, or a result is stored already.
pub async fn adopt(store: &Store, adoption: &Adoption<'_>) -> Result<Manifest, Refused> {
    let Adoption { step, stage, action, from, replace } = *adoption;
    if !replace && let Some(stored) = store.lookup(&action.key()).await? {
        return Err(Refused::Stored(stored.provenance.maker()));
    }
    let files = found(step, stage, from)?;
    let metrics = metrics(from)?;
    let outputs = copy(store, &files).await?;
    let provenance = Provenance {
        step: step.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host(),
        started: timestamp(SystemTime::now()),
        adopted_from: Some(
            std::path::absolute(from).unwrap_or_else(|_| from.to_owned()).display().to_string(),
        ),
        ..Provenance::default()
    };
    let manifest = Manifest::new(action.clone(), outputs, metrics, provenance);
    if replace {
        return Ok(store.replace(manifest).await?);
    }
    let published = store.publish(manifest).await?;
    if published.adopted {
        Err(Refused::Stored(published.manifest.provenance.maker()))
    } else {
        Ok(published.manifest)
    }
}

/// The files of all outputs.
fn found(step: &str, stage: &StageConfig, from: &Path) -> Result<Files, Refused> {
    let refuse = |message: String, hint: String| Refused::Folder { message, hint: Some(hint) };
    let outputs = stage.stage().outputs();
    let written = |output: &Output| format!("`{}{}`", output.path, if output.folder { "/" } else { "" });
    let wanted = outputs.iter().map(written).collect::<Vec<_>>().join(", ");
    if !from.exists() {
        let hint = format!("give the folder that holds the outputs of {step}: {wanted}");
        return Err(refuse(format!("{} does not exist", from.display()), hint));
    }
    if let [only] = outputs.as_slice()
        && let Some(files) = itself(from, only)
    {
        check(stage, 0, &files)?;
        return Ok(files);
    }
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    for (index, output) in outputs.iter().enumerate() {
        match files_of(from, output) {
            Ok(files) => {
                check(stage, index, &files)?;
                all.extend(files);
            }
            Err(_) => missing.push(written(output)),
        }
    }
    if missing.is_empty() {
        return Ok(all);
    }
    let message = format!("{} does not hold {}", from.display(), missing.join(", "));
    Err(refuse(
        message,
        format!("the outputs of {step} are {wanted}, each to be found there under that path"),
    ))
}

/// The only output of a step may be given itself, whatever it is called.
fn itself(from: &Path, output: &Output) -> Option<Files> {
    if !output.folder {
        return from.is_file().then(|| vec![(output.path.clone(), from.to_owned())]);
    }
    if from.join(&output.path).exists() {
        return None;
    }
    let files = files_below(from).ok().filter(|files| !files.is_empty())?;
    Some(files.into_iter().map(|(name, path)| (format!("{}/{name}", output.path), path)).collect())
}

fn check(stage: &StageConfig, index: usize, files: &Files) -> Result<(), Refused> {
    let StageConfig::Command(command) = stage else { return Ok(()) };
    let kind = command.outputs.get(index).and_then(|declared| declared.kind);
    kind.map_or(Ok(()), |kind| check_kind(kind, files)).map_err(|error| Trouble::Step(error).into())
}

fn metrics(from: &Path) -> Result<Map<String, Value>, Refused> {
    let path = from.join("metrics.json");
    let Ok(text) = std::fs::read(&path) else { return Ok(Map::new()) };
    serde_json::from_slice(&text).map_err(|error| Refused::Folder {
        message: format!("{} is not one JSON object: {error}", path.display()),
        hint: Some("write {\"name\": value, …}, or remove it".to_owned()),
    })
}
