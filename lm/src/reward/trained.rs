//! With which reading a reward model was trained: a file beside its weights that other software leaves alone.

use std::path::Path;

use bstar_stages::config::{Reading, RewardModel};
use bstar_stages::protocol::StageError;
use serde::{Deserialize, Serialize};

use crate::checkpoint::write_json;
use crate::error::{Result, io};

/// The file in the model's folder.
const FILE: &str = "bstar_reading.json";

/// What it holds.
#[derive(Debug, Serialize, Deserialize)]
struct Trained {
    reading: Reading,
    every_token: bool,
}

/// Notes in the folder of a reward model with which reading it was trained.
///
/// # Errors
/// When the file cannot be written.
pub fn note_reading(folder: &Path, settings: &RewardModel) -> Result<()> {
    let trained = Trained { reading: settings.reading.clone(), every_token: settings.every_token };
    let value = serde_json::to_value(trained)
        .map_err(|error| StageError::failed(format!("cannot write `{FILE}`: {error}")))?;
    write_json(&folder.join(FILE), &value)
}

/// Refuses to read a reward model otherwise than it was trained. Nothing is known of models from elsewhere.
///
/// # Errors
/// The first setting that differs, or that the file cannot be read.
pub fn check_reading(folder: &Path, reading: &Reading) -> Result<()> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(());
    }
    let bytes = std::fs::read(&path).map_err(io("read", &path))?;
    let trained: Trained = serde_json::from_slice(&bytes).map_err(|error| {
        StageError::invalid(format!("`{}`: {error}", path.display()))
            .hint("without the file, the model is read as `reading` says")
    })?;
    match trained.reading.conflict(reading, trained.every_token) {
        Some((name, [own, other])) => Err(StageError::invalid(format!(
            "the reward model was trained with `reading: {{{name}: {own}}}`, and is to be read with `{name}: {other}`"
        ))
        .hint(format!("give the step that scores `reading: {{{name}: {own}}}`, or train another reward model"))),
        None => Ok(()),
    }
}
