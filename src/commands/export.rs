//! `bstar run export`.

use std::io::ErrorKind;
use std::path::Path;

use bstar_cache::{Artifact, Digest, Manifest, Store, StoreError, tree_digest};

use super::runs::find_run;
use crate::cli::{Format, Global, existing_store};
use crate::commands::{answer, answer_json};
use crate::failure::Failure;
use crate::pipeline::nearest;
use crate::report::{count, size};
use crate::run_record::{self, RunInfo};

/// Files by their path below the place they are copied to; a lone file has the empty path.
pub(super) type Files = Vec<(String, Artifact)>;

/// Copies a result of a run to `to`: a file, or a folder of files, that belongs to the user.
///
/// # Errors
/// When there is no such run or result, `to` exists, or something cannot be read or written.
pub async fn run_export(global: &Global, run: &str, result: &str, to: &Path) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let run = find_run(&store, run).await?;
    let digest = digest_of(&run, result)?;
    if to.symlink_metadata().is_ok() {
        return Err(Failure::Usage {
            message: format!("{} exists", to.display()),
            hint: Some("name a place that does not exist yet".to_owned()),
        });
    }
    let files = files_of(&store, &run, result, &digest).await?;
    let files = files.ok_or_else(|| gone(&store, &run, result))?;
    copy(&store, &files, to).await?;
    let bytes = files.iter().map(|(_, artifact)| artifact.size).sum::<u64>();
    match global.format {
        Format::Json => answer_json(&serde_json::json!({
            "run": run.start.id, "result": result, "digest": digest, "path": to, "files": files.len(), "bytes": bytes,
        }))?,
        Format::Text => {
            answer(&format!("wrote {} ({}, {})", to.display(), count(files.len(), "file"), size(bytes)))?;
        }
    }
    Ok(0)
}

fn digest_of(run: &RunInfo, result: &str) -> Result<Digest, Failure> {
    let id = &run.start.id;
    let Some(summary) = &run.summary else {
        return Err(Failure::Usage {
            message: format!("the run {id} has not ended"),
            hint: Some(format!("finish it: {}", run.start.typed())),
        });
    };
    summary.results.get(result).and_then(|digest| digest.parse().ok()).ok_or_else(|| {
        let meant = nearest(result, summary.results.keys().map(String::as_str));
        Failure::Usage {
            message: format!("the run {id} has no result `{result}`"),
            hint: Some(meant.map_or_else(
                || format!("`bstar run show {id} --format json` has all results"),
                |meant| format!("did you mean `{meant}`?"),
            )),
        }
    })
}

/// A result of a run that the store does not have any more.
pub(super) fn gone(store: &Store, run: &RunInfo, result: &str) -> Failure {
    Failure::Usage {
        message: format!("`{result}` is no longer in {}", store.location()),
        hint: Some(format!("compute it again: {}", run.start.typed())),
    }
}

/// Where in the store a result lies: the step with its name is asked first, then all that the run needed.
pub(super) async fn files_of(
    store: &Store,
    run: &RunInfo,
    result: &str,
    digest: &Digest,
) -> Result<Option<Files>, StoreError> {
    let mut needed = run_record::needed(store, &run.start.id).await?;
    needed.retain(|needed| !needed.step.is_empty());
    needed.sort_by_key(|needed| !result.starts_with(&needed.step));
    for needed in needed {
        let manifest = store.lookup(&needed.key).await?;
        if let Some(files) = manifest.and_then(|manifest| output(&manifest, digest)) {
            return Ok(Some(files));
        }
    }
    Ok(None)
}

/// The output of a step that has this digest.
fn output(manifest: &Manifest, digest: &Digest) -> Option<Files> {
    let file = manifest.outputs.values().find(|artifact| artifact.digest == *digest);
    if let Some(artifact) = file {
        return Some(vec![(String::new(), *artifact)]);
    }
    folders(manifest).map(|(_, files)| files).find(|files| tree_digest(files) == *digest)
}

/// The folders at the top of a result's outputs, and their files.
pub(super) fn folders(manifest: &Manifest) -> impl Iterator<Item = (&str, Files)> {
    let mut names: Vec<&str> =
        manifest.outputs.keys().filter_map(|path| Some(path.split_once('/')?.0)).collect();
    names.dedup();
    names.into_iter().map(|folder| (folder, manifest.files(folder, true)))
}

/// Copies files beside `to`, and when all are there gives them that name.
async fn copy(store: &Store, files: &Files, to: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, error: &std::io::Error| {
        let hint =
            (error.kind() == ErrorKind::NotFound).then(|| "make the folder around it first".to_owned());
        Failure::Usage { message: format!("cannot write {}: {error}", path.display()), hint }
    };
    let beside = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = tempfile::Builder::new().prefix(".bstar-export-").tempdir_in(beside);
    let place = place.map_err(|error| failed(to, &error))?;
    // What the store gives is read-only, and may be the stored file itself.
    let (given, made) = (place.path().join("given"), place.path().join("made"));
    store.materialise_all(files, &given).await?;
    for (name, _) in files {
        let [from, path] =
            [&given, &made].map(|place| if name.is_empty() { place.clone() } else { place.join(name) });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        }
        let mut from = std::fs::File::open(&from).map_err(|error| failed(&from, &error))?;
        let copied =
            std::fs::File::create_new(&path).and_then(|mut file| std::io::copy(&mut from, &mut file));
        copied.map_err(|error| failed(&path, &error))?;
    }
    std::fs::rename(&made, to).map_err(|error| failed(to, &error))
}
