//! Checkpoints in the scratch folder: a killed training run goes on where it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bstar_stages::config::Training;
use bstar_stages::protocol::StageError;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind as Number, Tensor};

use crate::error::{Result, io};
use crate::optim::Optimizer;
use crate::tensors::{Tensors, read_tensors, write_tensors};
use crate::train::LogRow;

/// The checkpoint: one file, so that renaming it is all or nothing.
const FILE: &str = "training.safetensors";

/// Where a training run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// A row for every update made.
    pub(crate) log: Vec<LogRow>,
    /// Updates of the optimizer, those it inherited included.
    #[serde(default)]
    pub(crate) optimizer_updates: usize,
}

/// Where the checkpoint is.
pub(crate) fn checkpoint(scratch: &Path) -> PathBuf {
    scratch.join(FILE)
}

/// Writes a checkpoint beside the last one, then replaces that.
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
    let (target, temporary) = (checkpoint(scratch), scratch.join(format!("{FILE}.new")));
    write_tensors(&temporary, weights.chain(optimizer.tensors()), Number::Float, Some(("position", text)))?;
    std::fs::rename(&temporary, &target).map_err(io("write", &target))
}

/// The last checkpoint, if there is one: its weights go into the parameters.
pub(crate) fn resume(
    scratch: &Path,
    settings: &Training,
    parameters: &mut Tensors,
) -> Result<Option<(Position, Optimizer)>> {
    let path = checkpoint(scratch);
    if !path.exists() {
        return Ok(None);
    }
    let device = parameters.values().next().map_or(Device::Cpu, Tensor::device);
    let (tensors, metadata) = read_tensors(&path, device)?;
    let position: Position =
        metadata.get("position").and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
            StageError::failed(format!("the checkpoint `{}` is damaged", path.display()))
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
    Ok(Some((position, optimizer)))
}
