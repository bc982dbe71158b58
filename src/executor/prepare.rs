//! From a step whose inputs are known to its key, and to what the store has under it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use bstar_cache::{Action, ActionKey, Artifact, Digest, Manifest, Store};
use bstar_stages::protocol::StageError;
use bstar_stages::{Piece, Setting, Shard, ShardSource, StageConfig};

use super::content::Content;
use super::{Shared, Trouble};
use crate::plan::Step;

/// Inputs whose name begins so are part of the key, and found by the program where they are.
pub(super) const IN_PLACE: &str = "file:";

/// What decides the result of a use of `stage`: `inputs` and settings are resolved.
#[must_use]
pub fn action(stage: &StageConfig, seed: u64, inputs: BTreeMap<String, Digest>) -> Action {
    let config = stage.stage();
    Action {
        stage: stage.kind().to_owned(),
        version: config.version(),
        config: config.identity(),
        seed: config.seeded().then_some(seed),
        inputs,
    }
}

/// An input before the user's files are read.
#[derive(Debug, Clone)]
pub(super) enum Given {
    Content(Content),
    File(PathBuf),
}

/// The settings of a step: those of the plan, or a copy in which references are replaced by values.
#[derive(Debug, Clone)]
pub(super) enum Settled {
    Planned(Arc<Step>),
    Own(Arc<StageConfig>),
}

impl Deref for Settled {
    type Target = StageConfig;

    fn deref(&self) -> &StageConfig {
        match self {
            Self::Planned(step) => &step.stage,
            Self::Own(stage) => stage,
        }
    }
}

/// A step whose inputs are done.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) step: Arc<Step>,
    pub(super) inputs: BTreeMap<String, Given>,
    pub(super) settings: BTreeMap<String, Given>,
    /// Whether it is to execute whatever the store has.
    pub(super) forced: bool,
}

/// A step with everything that decides its result.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) stage: Settled,
    pub(super) seed: u64,
    pub(super) action: Action,
    pub(super) key: ActionKey,
    /// Inputs that are written into the work folder.
    pub(super) inputs: BTreeMap<String, Content>,
    /// Inputs that the program finds where they are.
    pub(super) files: Vec<(String, PathBuf)>,
}

/// What the store says of a step.
#[derive(Debug)]
pub(super) enum Answer {
    Hit(Box<Resolved>, Box<Manifest>),
    Miss(Box<Resolved>),
    /// Not there, and cut into shards.
    Unfold(Box<Resolved>, Vec<Shard>, BTreeMap<Piece, Artifact>),
}

/// Resolves a step and asks the store for its result.
pub(super) async fn prepare(shared: &Shared, pending: Pending) -> Result<Answer, Trouble> {
    let forced = pending.forced.then(|| Arc::clone(&pending.step));
    let resolved = Box::new(resolve(shared, pending).await?);
    let forced = forced.is_some_and(|step| shared.forced.wants(&step.name, &resolved.key));
    if !forced && let Some(manifest) = shared.store.lookup(&resolved.key).await? {
        return Ok(Answer::Hit(resolved, Box::new(manifest)));
    }
    if !resolved.stage.stage().sharded() {
        return Ok(Answer::Miss(resolved));
    }
    let (shards, pieces) = cut(&shared.store, &resolved.stage, &resolved.inputs, Keep::Yes).await?;
    Ok(Answer::Unfold(resolved, shards, pieces))
}

async fn resolve(shared: &Shared, pending: Pending) -> Result<Resolved, Trouble> {
    let Pending { step, inputs, settings, forced: _ } = pending;
    let mut values = BTreeMap::new();
    for (name, given) in settings {
        let content = read_given(shared, &given).await?;
        values.insert(name, number(&shared.store, &content).await?);
    }
    let seed = step.seed;
    let stage = if step.stage.stage().has_settings() {
        Settled::Own(Arc::new(settle(&step.stage, &values)?))
    } else {
        Settled::Planned(step)
    };
    let mut digests = BTreeMap::new();
    let mut contents = BTreeMap::new();
    let mut files = Vec::new();
    for (name, given) in inputs {
        if let (true, Given::File(path)) = (name.starts_with(IN_PLACE), &given) {
            let content = shared.imports.digest(path).await?;
            digests.insert(name.clone(), content.digest());
            files.push((name, path.clone()));
            continue;
        }
        let content = read_given(shared, &given).await?;
        digests.insert(name.clone(), content.digest());
        contents.insert(name, content);
    }
    let action = action(&stage, seed, digests);
    Ok(Resolved { key: action.key(), stage, seed, action, inputs: contents, files })
}

/// The stage with its references replaced.
fn settle(stage: &StageConfig, values: &BTreeMap<String, f64>) -> Result<StageConfig, StageError> {
    let mut stage = stage.clone();
    for (name, setting) in stage.stage_mut().settings() {
        if let Some(value) = values.get(name) {
            *setting = Setting::Value(*value);
        }
        if let Setting::Reference(reference) = setting {
            return Err(StageError::invalid(format!("the setting {name}: {reference} has no source")));
        }
    }
    Ok(stage)
}

async fn read_given(shared: &Shared, given: &Given) -> Result<Content, Trouble> {
    match given {
        Given::Content(content) => Ok(content.clone()),
        Given::File(path) => shared.imports.import(&shared.store, path).await,
    }
}

/// Reads a one-number artifact.
pub(super) async fn number(store: &Store, content: &Content) -> Result<f64, Trouble> {
    let Content::File(artifact) = content else {
        return Err(StageError::invalid("a setting refers to a folder, which is not a number").into());
    };
    let bytes = store.read(&artifact.digest).await?;
    let value: Option<f64> = serde_json::from_slice(&bytes).ok();
    value.filter(|value| value.is_finite()).ok_or_else(|| {
        let text: String = String::from_utf8_lossy(&bytes).trim().chars().take(40).collect();
        StageError::invalid(format!("a setting refers to `{text}`, which is not a number")).into()
    })
}

/// Whether the chunks of rows that shards read are put into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Yes,
    No,
}

/// Cuts a step into shards, and finds the pieces of inputs that they read.
pub(super) async fn cut(
    store: &Store,
    stage: &StageConfig,
    inputs: &BTreeMap<String, Content>,
    keep: Keep,
) -> Result<(Vec<Shard>, BTreeMap<Piece, Artifact>), Trouble> {
    let mut rows: BTreeMap<&str, Rows> = BTreeMap::new();
    if let Some(content) = inputs.get("queries") {
        rows.insert("queries", Rows::new(store.read(&content.digest()).await?));
    }
    let source = ShardSource {
        queries: rows.get("queries").map_or(0, Rows::len),
        responses: inputs.get("responses").map(file_names).unwrap_or_default(),
    };
    let Some(shards) = stage.stage().shards(&source).filter(|shards| !shards.is_empty()) else {
        return Err(StageError::invalid("there is nothing to do: `queries` has no rows").into());
    };
    let mut pieces: BTreeMap<Piece, Artifact> = BTreeMap::new();
    let invalid = |text: String| Trouble::from(StageError::invalid(text));
    for piece in Piece::of_shards(&shards) {
        let artifact = match piece {
            Piece::Rows { input, start, end } => {
                let chunk = rows.get(input.as_str()).and_then(|rows| rows.chunk(*start, *end));
                let missing = || invalid(format!("`{input}` has no rows {start} to {end}"));
                let chunk = chunk.ok_or_else(missing)?;
                match keep {
                    Keep::Yes => store.put_bytes(chunk.to_vec()).await?,
                    Keep::No => Artifact { digest: Digest::of(chunk), size: chunk.len() as u64 },
                }
            }
            Piece::File { input, path } => {
                let content = inputs.get(input);
                let found = content.and_then(|content| file(content, path));
                found.ok_or_else(|| invalid(format!("`{input}` has no file {path}")))?
            }
        };
        pieces.insert(piece.clone(), artifact);
    }
    Ok((shards, pieces))
}

fn file_names(content: &Content) -> Vec<String> {
    content.files().into_iter().map(|(name, _)| name).collect()
}

fn file(content: &Content, path: &str) -> Option<Artifact> {
    match content {
        Content::File(artifact) => path.is_empty().then_some(*artifact),
        Content::Folder { files, .. } => {
            let index = files.binary_search_by(|(name, _)| name.as_str().cmp(path)).ok()?;
            Some(files[index].1)
        }
    }
}

/// JSON lines, and where each row begins.
struct Rows {
    bytes: Vec<u8>,
    /// Start of every row, and the end of the last.
    bounds: Vec<usize>,
}

impl Rows {
    fn new(bytes: Vec<u8>) -> Self {
        let mut bounds = vec![0];
        bounds
            .extend(bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(index, _)| index + 1));
        if bounds.last() != Some(&bytes.len()) {
            bounds.push(bytes.len());
        }
        Self { bytes, bounds }
    }

    fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The exact text of rows `start..end`.
    fn chunk(&self, start: usize, end: usize) -> Option<&[u8]> {
        self.bytes.get(*self.bounds.get(start)?..*self.bounds.get(end)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_rows_are_the_exact_lines() {
        let rows = Rows::new(b"{}\n{\"a\":1}\n[]".to_vec());
        assert_eq!(rows.len(), 3);
        assert_eq!(rows.chunk(0, 2).unwrap(), b"{}\n{\"a\":1}\n");
        assert_eq!(rows.chunk(2, 3).unwrap(), b"[]");
        assert_eq!(rows.chunk(2, 4), None);
        assert_eq!(Rows::new(Vec::new()).len(), 0);
        assert_eq!(Rows::new(b"{}\n".to_vec()).len(), 1);
    }
}
