//! What a step wrote: whether it is what the stage declares, and into the store with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bstar_cache::{Artifact, Store, TRANSFERS};
use bstar_stages::config::Command;
use bstar_stages::kind::{self, Kind};
use bstar_stages::protocol::StageError;
use bstar_stages::{Output, StageConfig};
use futures::{StreamExt, TryStreamExt, stream};

use super::content::files_below;
use super::{Shared, Trouble};
use crate::event::Event;

/// The input whose rows the rewards that a program writes must cover, each once.
pub(super) const RESPONSES: &str = "responses";

/// Files by their path in the manifest.
pub(super) type Files = Vec<(String, PathBuf)>;

/// The files of a declared output below `folder`.
///
/// # Errors
/// When it is missing or something else than declared: what is wrong, to be put after the step's name.
pub(super) fn files_of(folder: &Path, output: &Output) -> Result<Files, String> {
    let path = folder.join(&output.path);
    let name = &output.path;
    let Ok(metadata) = std::fs::metadata(&path) else {
        let what = if output.folder { "the folder " } else { "" };
        return Err(format!("did not write {what}`{name}`"));
    };
    match (output.folder, metadata.is_dir()) {
        (_, false) if !metadata.is_file() => {
            Err(format!("wrote `{name}`, which is neither a file nor a folder"))
        }
        (false, false) => Ok(vec![(name.clone(), path)]),
        (false, true) => Err(format!("wrote a folder where the file `{name}` is declared")),
        (true, false) => Err(format!("wrote a file where the folder `{name}` is declared")),
        (true, true) => {
            let files = files_below(&path).map_err(|error| format!("cannot list `{name}`: {error}"))?;
            if files.is_empty() {
                return Err(format!("did not write the folder `{name}`: it is empty"));
            }
            Ok(files.into_iter().map(|(below, path)| (format!("{name}/{below}"), path)).collect())
        }
    }
}

/// Moves the declared outputs of a step into the store. What a program wrote is checked before.
pub(super) async fn store_outputs(
    shared: &Shared,
    name: &str,
    stage: &StageConfig,
    folder: &Path,
    responses: Option<PathBuf>,
) -> Result<BTreeMap<String, Artifact>, Trouble> {
    let outputs = stage.stage().outputs();
    let files = if let StageConfig::Command(command) = stage {
        let (command, folder) = (command.clone(), folder.to_owned());
        let task =
            tokio::task::spawn_blocking(move || checked(&command, &outputs, &folder, responses.as_deref()));
        let broken = |error| StageError::failed(format!("checking the outputs broke off: {error}"));
        let (files, undeclared) = task.await.map_err(broken)??;
        if let Some(message) = note(name, &undeclared) {
            (shared.events)(Event::Note { level: "info", message });
        }
        files
    } else {
        let found: Result<Vec<Files>, String> =
            outputs.iter().map(|output| files_of(folder, output)).collect();
        found.map_err(StageError::failed)?.concat()
    };
    let store = async |(name, path): (String, PathBuf)| {
        Ok::<_, Trouble>((name, shared.store.adopt_file(&path).await?))
    };
    let stored = stream::iter(files).map(store).buffer_unordered(TRANSFERS).boxed();
    Ok(stored.try_collect::<Vec<_>>().await?.into_iter().collect())
}

/// The files of all outputs of a program, each what it is declared to be, and what it wrote besides.
fn checked(
    command: &Command,
    outputs: &[Output],
    folder: &Path,
    responses: Option<&Path>,
) -> Result<(Files, Vec<String>), StageError> {
    let mut all = Vec::new();
    for (output, declared) in outputs.iter().zip(&command.outputs) {
        let files = files_of(folder, output).map_err(StageError::failed)?;
        for (name, path) in &files {
            stays_inside(folder, name, path)?;
        }
        if let Some(kind) = declared.kind {
            check_kind(kind, &files)?;
            if let (Kind::Rewards, Some(responses)) = (kind, responses) {
                kind::covers(&folder.join(&output.path), &output.path, responses)?;
            }
        }
        all.extend(files);
    }
    let mut undeclared = Vec::new();
    list_undeclared(folder, "", outputs, &mut undeclared)
        .map_err(|error| StageError::io(format_args!("list {}", folder.display()), &error))?;
    Ok((all, undeclared))
}

/// Refuses files that are not of a kind.
///
/// # Errors
/// The first row that does not fit.
pub(super) fn check_kind(kind: Kind, files: &Files) -> Result<(), StageError> {
    files.iter().try_for_each(|(name, path)| kind.check(path, name))
}

/// An output that is a link to elsewhere may change or vanish there, and hides what it was made from.
fn stays_inside(folder: &Path, name: &str, path: &Path) -> Result<(), StageError> {
    let target = || {
        let link = std::fs::symlink_metadata(path)?.is_symlink();
        // Most outputs are plain files right in the folder: nothing to resolve.
        if !link && path.parent() == Some(folder) {
            return Ok(None);
        }
        let real = path.canonicalize()?;
        Ok((!real.starts_with(folder.canonicalize()?)).then_some(real))
    };
    match target() {
        Ok(None) => Ok(()),
        Ok(Some(real)) => {
            let message =
                format!("wrote `{name}` as a link that leaves the output folder, to {}", real.display());
            Err(StageError::failed(message).hint("write a copy of the file, or a hard link"))
        }
        Err(error) => Err(StageError::io(format_args!("read `{name}`"), &error)),
    }
}

/// Files and folders that are no outputs and hold none.
fn list_undeclared(
    folder: &Path,
    prefix: &str,
    outputs: &[Output],
    found: &mut Vec<String>,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if outputs.iter().any(|output| output.path == name) {
            continue;
        }
        let inner = format!("{name}/");
        if outputs.iter().any(|output| output.path.starts_with(&inner)) {
            list_undeclared(&entry.path(), &inner, outputs, found)?;
        } else {
            found.push(name);
        }
    }
    Ok(())
}

fn note(step: &str, undeclared: &[String]) -> Option<String> {
    let mut names: Vec<&str> = undeclared.iter().map(String::as_str).collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(3);
    names.truncate(3);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| {
        format!("{step} also wrote {}{rest}: not kept, for `outputs` does not list it", names.join(", "))
    })
}

/// Copies files into the store.
pub(super) async fn copy(store: &Store, files: &Files) -> Result<BTreeMap<String, Artifact>, Trouble> {
    let mut artifacts = BTreeMap::new();
    for (name, path) in files {
        artifacts.insert(name.clone(), store.put_file(path).await?);
    }
    Ok(artifacts)
}
