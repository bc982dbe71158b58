//! What an execution produced: the files by digest, what was measured, and where it ran.
//!
//! A manifest is stored as indented JSON. Its first field, `seal`, is the digest of the rest of the
//! text, so a manifest with one changed byte is recognised and never used. Fields that a later
//! version adds are ignored when read.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::action::{Action, ActionKey};
use crate::digest::Digest;

/// Changing what is hashed for a folder means a new context, which changes every folder's digest.
const TREE_CONTEXT: &str = "bstar 2026-11-22 tree v1";

const SEAL_OPEN: &str = "{\n  \"seal\": \"";
const SEAL_CLOSE: &str = "\",\n";

/// Content in the store: one file, or the listing of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Artifact {
    /// The identity of the content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// Where and when an execution took place. Never part of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The step's name in the pipeline that executed it first.
    pub step: String,
    /// The run that executed it.
    pub run: String,
    /// The version of bstar.
    pub version: String,
    /// The machine's name.
    pub host: String,
    /// The device, for example `cpu` or `cuda:0`.
    pub device: String,
    /// When it started: RFC 3339, UTC (see [`timestamp`]).
    pub started: String,
    /// Seconds from start to end.
    pub wall_s: f64,
    /// The file or folder that was taken for the result; absent for a result of an execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted_from: Option<String>,
}

impl Provenance {
    /// Who made it, for people: `setup.sft of run 3f9c21ab`.
    #[must_use]
    pub fn maker(&self) -> String {
        match &self.adopted_from {
            Some(path) => format!("{}, adopted from {path} on {}", self.step, self.host),
            None => format!("{} of run {}", self.step, self.run),
        }
    }
}

/// The record of one execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of this record: [`Manifest::FORMAT`].
    pub format: u32,
    /// The key under which the record is stored: always that of `action`.
    pub key: ActionKey,
    /// What the key was made of, readable.
    pub action: Action,
    /// File path relative to the step's output folder (with `/`) → content.
    pub outputs: BTreeMap<String, Artifact>,
    /// What the stage measured.
    pub metrics: Map<String, Value>,
    /// Where and when.
    pub provenance: Provenance,
}

impl Manifest {
    /// The format that this version writes and reads.
    pub const FORMAT: u32 = 1;

    /// The record of an execution of `action`.
    #[must_use]
    pub fn new(
        action: Action,
        outputs: BTreeMap<String, Artifact>,
        metrics: Map<String, Value>,
        provenance: Provenance,
    ) -> Self {
        Self { format: Self::FORMAT, key: action.key(), action, outputs, metrics, provenance }
    }

    /// The artifact of an output: the file at exactly `path`, or, for a `folder`, the tree of all
    /// files below it (the empty path means all outputs). `None` when there is no such file, or none
    /// below.
    #[must_use]
    pub fn under(&self, path: &str, folder: bool) -> Option<Artifact> {
        if !folder {
            return self.outputs.get(path).copied();
        }
        let files = self.files(path, true);
        let size = files.iter().map(|(_, artifact)| artifact.size).sum();
        (!files.is_empty()).then(|| Artifact { digest: tree_digest(&files), size })
    }

    /// The files of an output: for a `folder` all files below `path`, named relative to it; else the
    /// one file at `path`, with an empty name.
    #[must_use]
    pub fn files(&self, path: &str, folder: bool) -> Vec<(String, Artifact)> {
        if !folder {
            return self.outputs.get(path).map(|artifact| (String::new(), *artifact)).into_iter().collect();
        }
        let folder = path.trim_end_matches('/');
        let below = |name: &str| match folder {
            "" => Some(name.to_owned()),
            _ => Some(name.strip_prefix(folder)?.strip_prefix('/')?.to_owned()),
        };
        self.outputs.iter().filter_map(|(name, artifact)| Some((below(name)?, *artifact))).collect()
    }

    /// The total size of the outputs; content that several outputs share counts once.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs().iter().map(|artifact| artifact.size).sum()
    }

    /// The distinct contents that the outputs refer to.
    pub(crate) fn blobs(&self) -> Vec<Artifact> {
        let mut blobs: Vec<_> = self.outputs.values().copied().collect();
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }

    /// The text that is stored.
    pub(crate) fn to_stored(&self) -> Result<String, Unusable> {
        let body = serde_json::to_string_pretty(self)? + "\n";
        let fields = body.strip_prefix("{\n").unwrap_or(&body);
        Ok(format!("{SEAL_OPEN}{}{SEAL_CLOSE}{fields}", Digest::of(body.as_bytes())))
    }

    /// Reads what [`Manifest::to_stored`] wrote under the key `expected`.
    pub(crate) fn from_stored(stored: &[u8], expected: &ActionKey) -> Result<Self, Unusable> {
        let text = str::from_utf8(stored).map_err(|_| Unusable::Damaged)?;
        let sealed = text.strip_prefix(SEAL_OPEN).and_then(|text| text.split_once(SEAL_CLOSE));
        let (seal, fields) = sealed.ok_or(Unusable::Damaged)?;
        let body = format!("{{\n{fields}");
        if seal != Digest::of(body.as_bytes()).to_string() {
            return Err(Unusable::Damaged);
        }
        let manifest: Self = serde_json::from_str(&body)?;
        if manifest.format != Self::FORMAT {
            return Err(Unusable::Format(manifest.format));
        }
        manifest.check_key()?;
        if manifest.key != *expected {
            return Err(Unusable::Misfiled(manifest.key));
        }
        Ok(manifest)
    }

    /// The key must be that of the action, or the record would answer another question.
    pub(crate) fn check_key(&self) -> Result<(), Unusable> {
        let made = self.action.key();
        if made == self.key { Ok(()) } else { Err(Unusable::Key { stated: self.key, made }) }
    }
}

/// Why a stored manifest is not used, or why one cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The text is cut off or was changed after it was written.
    #[error("its text is cut off or was changed")]
    Damaged,
    /// The text is whole, but not a manifest of this version.
    #[error("it is not a manifest that this version can read")]
    Json(#[from] serde_json::Error),
    /// Another format.
    #[error("it has format {0}, and this version reads format {format}", format = Manifest::FORMAT)]
    Format(u32),
    /// The stated key is not that of the action.
    #[error("it states the key {stated}, and its action has the key {made}")]
    Key {
        /// In the field `key`.
        stated: ActionKey,
        /// Of the field `action`.
        made: ActionKey,
    },
    /// Stored under another key than its own.
    #[error("it belongs to the key {0}")]
    Misfiled(ActionKey),
    /// A blob that it refers to is not in the store.
    #[error("its output {output} (blob {digest}) is missing or has the wrong size")]
    Incomplete {
        /// The output's path.
        output: String,
        /// Its content.
        digest: Digest,
    },
}

/// The digest of a folder: of its files' relative paths and digests, in the order of the paths.
#[must_use]
pub fn tree_digest(files: &[(String, Artifact)]) -> Digest {
    let mut files: Vec<_> = files.iter().map(|(path, artifact)| (path, artifact.digest)).collect();
    files.sort_unstable();
    let mut hasher = blake3::Hasher::new_derive_key(TREE_CONTEXT);
    hasher.update(&(files.len() as u64).to_le_bytes());
    for (path, digest) in files {
        hasher.update(&(path.len() as u64).to_le_bytes()).update(path.as_bytes()).update(digest.as_bytes());
    }
    Digest::from_hasher(&hasher)
}

/// A time as RFC 3339 in UTC with whole seconds, for example `2026-11-22T18:04:05Z`.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of the year 0, so that a leap day ends its year and the lengths of
    // the months follow one linear rule. One era is 400 years: 146 097 days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests;
