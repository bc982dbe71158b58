//! Checkpoints in the scratch folder: a killed training run goes on where it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use bstar_cache::Digest;
use bstar_stages::config::Training;
use bstar_stages::protocol::StageError;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind as Number, Tensor};

use crate::error::{Result, io};
use crate::optim::Optimizer;
use crate::tensors::{Tensors, read_tensors, write_tensors};
use crate::train::LogRow;

/// What the names of checkpoints begin and end with; between is the update, and the digest of the content. One file
/// holds all, and gets its name when it is complete and on the disk: a checkpoint is whole, or there is none.
const NAME: [&str; 2] = ["training-", ".safetensors"];

/// Where a training run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// A row for every update made.
    pub(crate) log: Vec<LogRow>,
    /// Updates of the optimizer, those it inherited included.
    #[serde(default)]
    pub(crate) optimizer_updates: usize,
    /// What the updates took, in seconds.
    #[serde(default)]
    pub(crate) seconds: f64,
}

/// A checkpoint's file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Checkpoint {
    update: usize,
    path: PathBuf,
    digest: String,
}

/// The last checkpoint.
pub(crate) fn checkpoint(scratch: &Path) -> Option<PathBuf> {
    checkpoints(scratch).pop().map(|last| last.path)
}

/// All that have a checkpoint's name, the last one last.
fn checkpoints(scratch: &Path) -> Vec<Checkpoint> {
    let entries = std::fs::read_dir(scratch).into_iter().flatten().flatten();
    let mut found: Vec<Checkpoint> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (update, digest) = name.strip_prefix(NAME[0])?.strip_suffix(NAME[1])?.split_once('-')?;
            Some(Checkpoint { update: update.parse().ok()?, path: entry.path(), digest: digest.to_owned() })
        })
        .collect();
    found.sort_unstable();
    found
}

/// Writes a checkpoint beside the last one, then removes that.
pub(crate) fn save(
    scratch: &Path,
    position: &Position,
    optimizer: &Optimizer,
    parameters: &Tensors,
) -> Result<()> {
    std::fs::create_dir_all(scratch).map_err(io("create", scratch))?;
    let position = Position { optimizer_updates: optimizer.updates(), ..position.clone() };
    let text = serde_json::to_string(&position)
        .map_err(|error| StageError::failed(format!("cannot write a checkpoint: {error}")))?;
    let weights = parameters.iter().map(|(name, tensor)| (format!("weight.{name}"), tensor));
    let temporary = scratch.join("training.new");
    write_tensors(&temporary, weights.chain(optimizer.tensors()), Number::Float, Some(("position", text)))?;
    let written = || {
        File::open(&temporary)?.sync_all()?;
        let digest = Digest::of_file(&temporary)?;
        let name = format!("{}{}-{}{}", NAME[0], position.log.len(), digest, NAME[1]);
        let earlier = checkpoints(scratch);
        let target = scratch.join(name);
        std::fs::rename(&temporary, &target)?;
        File::open(scratch)?.sync_all()?;
        earlier
            .into_iter()
            .filter(|earlier| earlier.path != target)
            .try_for_each(|earlier| std::fs::remove_file(earlier.path))
    };
    written().map_err(io("write", &temporary))
}

/// The last checkpoint that is whole, if there is one: its weights go into the parameters. Says besides how many are
/// damaged.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn resume(
    scratch: &Path,
    settings: &Training,
    parameters: &mut Tensors,
) -> Result<(Option<(Position, Optimizer)>, usize)> {
    let mut damaged = 0;
    for Checkpoint { path, digest, .. } in checkpoints(scratch).into_iter().rev() {
        if Digest::of_file(&path).map_err(io("read", &path))?.to_string() == digest {
            return Ok((Some(read(&path, settings, parameters)?), damaged));
        }
        damaged += 1;
    }
    Ok((None, damaged))
}

fn read(path: &Path, settings: &Training, parameters: &mut Tensors) -> Result<(Position, Optimizer)> {
    let device = parameters.values().next().map_or(Device::Cpu, Tensor::device);
    let (tensors, metadata) = read_tensors(path, device)?;
    let position: Position =
        metadata.get("position").and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
            StageError::failed(format!("the checkpoint `{}` is another version's", path.display()))
                .hint("remove it to start the step from its beginning")
        })?;
    let mut moments = Tensors::new();
    let mut weights = BTreeMap::new();
    for (name, tensor) in tensors {
        match name.strip_prefix("weight.") {
            Some(name) => drop(weights.insert(name.to_owned(), tensor)),
            None => drop(moments.insert(name, tensor)),
        }
    }
    for (name, tensor) in parameters {
        if let Some(weight) = weights.remove(name) {
            tensor.copy_(&weight);
        }
    }
    let optimizer = Optimizer::restored(settings, moments, position.optimizer_updates);
    Ok((position, optimizer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::tests::training;
    use bstar_stages::config::Optimizer as Kind;

    fn parameters(value: f64) -> Tensors {
        [("w".to_owned(), Tensor::full([3, 2], value, (Number::Float, Device::Cpu)))].into()
    }

    fn row(update: usize) -> LogRow {
        LogRow { update, loss: 0.5, grad_norm: 1.0, learning_rate: 0.1, tokens: 7, entropy: 0.1 }
    }

    /// A folder with a checkpoint after update 2, and its file.
    fn saved() -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let settings = training(4, 1, 0.1, Kind::Adamw);
        for updates in 1..3 {
            let position = Position { log: (1..=updates).map(row).collect(), ..Position::default() };
            let weights = parameters(updates as f64);
            save(scratch.path(), &position, &Optimizer::new(&settings), &weights).unwrap();
        }
        let file = checkpoint(scratch.path()).unwrap();
        (scratch, file)
    }

    #[test]
    fn the_last_checkpoint_is_the_only_one_and_is_found_again() {
        let (scratch, file) = saved();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
        assert!(file.file_name().unwrap().to_str().unwrap().starts_with("training-2-"));
        let mut weights = parameters(0.0);
        let settings = training(4, 1, 0.1, Kind::Adamw);
        let (found, damaged) = resume(scratch.path(), &settings, &mut weights).unwrap();
        assert_eq!((found.unwrap().0.log.len(), damaged), (2, 0));
        assert!(weights["w"].equal(&parameters(2.0)["w"]));
    }

    #[test]
    fn a_damaged_checkpoint_is_not_gone_on_with() {
        let settings = training(4, 1, 0.1, Kind::Adamw);
        let whole = std::fs::read(saved().1).unwrap();
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        for bytes in [&whole[..whole.len() / 2], &[], &changed] {
            let (scratch, file) = saved();
            std::fs::write(file, bytes).unwrap();
            let mut weights = parameters(0.0);
            let (found, damaged) = resume(scratch.path(), &settings, &mut weights).unwrap();
            assert!(found.is_none() && damaged == 1);
            assert!(weights["w"].equal(&parameters(0.0)["w"]));
        }
    }
}
