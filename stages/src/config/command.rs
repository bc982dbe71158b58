//! Any program as a stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::reference::Reference;

/// Runs a program. In `argv`, `{in.NAME}`, `{out}`, `{scratch}` and `{params}` are replaced by paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its inputs.
    #[serde(default)]
    pub inputs: BTreeMap<String, Reference>,
    /// Programs and other files whose content is part of the identity, relative to the pipeline file.
    #[serde(default)]
    pub files: Vec<String>,
    /// Paths below `{out}` that it must write.
    pub outputs: Vec<String>,
    /// Its environment, added to a fixed small one.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Written as JSON to `{params}`.
    #[serde(default)]
    pub params: BTreeMap<String, Value>,
    /// Most time it may take, for example `10m` (not part of the result).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// CPU cores it uses.
    #[serde(default = "one")]
    pub cpu: usize,
    /// GPUs it uses.
    #[serde(default)]
    pub gpu: usize,
}

fn one() -> usize {
    1
}
