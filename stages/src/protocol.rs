//! What the engine and a worker process say to each other: one JSON object a line.
//!
//! The engine writes [`Order`]s to the worker's standard input; the worker writes [`Report`]s to its
//! standard output. Standard error is free text, kept for error messages. A worker ends when its
//! standard input ends, whatever it is doing: a killed engine leaves nothing running.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bstar_cache::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::device::Device;
use crate::stage::StageConfig;

/// From the engine to the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Carry out a step. One at a time.
    Run(Box<Request>),
    /// Checkpoint the running step into its scratch folder and fail it with `interrupted`.
    Stop,
}

/// A step to carry out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the engine; repeated in every report about this step.
    pub id: u64,
    /// What to do: settings are numbers, references have become `inputs`.
    pub stage: StageConfig,
    /// Input name → file or folder, read-only.
    pub inputs: BTreeMap<String, InputPath>,
    /// An empty folder; the outputs go to the paths the stage declares.
    pub output: PathBuf,
    /// A folder that survives crashes, private to this action key.
    pub scratch: PathBuf,
    /// Where training says what every update was like, for people: no result depends on it.
    pub log: PathBuf,
    /// The pipeline's seed.
    pub seed: u64,
    /// CPU threads granted. No result may depend on it.
    pub threads: usize,
    /// What to compute on.
    pub device: Device,
}

/// An input in the file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPath {
    /// The file or folder.
    pub path: PathBuf,
    /// The digest of its content: lets a worker keep a policy in memory.
    pub digest: Digest,
}

/// From the worker to the engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// Said once, when the worker can take orders.
    Ready {
        /// The worker's version: must equal the engine's.
        version: String,
        /// The library it computes with, for people. Workers of other versions may not say it, and are told by their version.
        #[serde(default)]
        library: String,
    },
    /// How far the step is.
    Progress {
        /// The step.
        id: u64,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted: `updates`, `responses`, …
        unit: String,
        /// One short figure for people, for example `loss 0.412`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A message for people.
    Log {
        /// `info` or `warn`.
        level: String,
        /// The message.
        message: String,
    },
    /// The step is done; its outputs are complete.
    Finished {
        /// The step.
        id: u64,
        /// Figures for the manifest; deterministic but for keys ending in `_s` (seconds).
        metrics: Map<String, Value>,
    },
    /// The step failed.
    Failed {
        /// The step.
        id: u64,
        /// What the engine should do about it.
        kind: FailureKind,
        /// What was attempted and what went wrong.
        message: String,
        /// What the user can do.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The pipeline or its data are wrong: trying again is useless (exit code 2).
    Invalid,
    /// May succeed when tried again.
    Transient,
    /// The disk that holds the outputs is full (exit code 3): what was published is kept.
    DiskFull,
    /// Stopped on request; the scratch folder holds the progress.
    Interrupted,
    /// Anything else (exit code 1).
    Failed,
}

/// Why a stage could not produce its outputs.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct StageError {
    /// What the engine should do about it.
    pub kind: FailureKind,
    /// What was attempted and what went wrong: a lower-case fragment.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
}

impl StageError {
    /// An error in the pipeline or its data.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Invalid, message: message.into(), hint: None }
    }

    /// A file that could not be used: `attempt` names it.
    #[must_use]
    pub fn io(attempt: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        let kind = if full { FailureKind::DiskFull } else { FailureKind::Failed };
        Self { kind, ..Self::failed(format!("cannot {attempt}: {error}")) }
    }

    /// Any other failure.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Failed, message: message.into(), hint: None }
    }

    /// The same error with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
