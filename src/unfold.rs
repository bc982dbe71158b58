//! Growing a plan: a sharded step, whose inputs are known by now, is cut into its shards.

use std::collections::{BTreeMap, BTreeSet};

use bstar_cache::Artifact;
use bstar_stages::{Shard, ShardInput};

use crate::plan::{Plan, Source, Step, StepId};

/// Part of an input of a sharded step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Piece {
    /// Rows `start..end` of a JSON lines input.
    Rows {
        /// The sharded step's input.
        input: String,
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
    },
    /// One file of an input folder.
    File {
        /// The sharded step's input.
        input: String,
        /// Path in the folder.
        path: String,
    },
}

impl Piece {
    /// The piece that a shard reads; `None` for a whole input.
    #[must_use]
    pub fn of(input: &ShardInput) -> Option<Self> {
        match input {
            ShardInput::Whole(_) => None,
            ShardInput::Rows { input, start, end } => {
                Some(Self::Rows { input: input.clone(), start: *start, end: *end })
            }
            ShardInput::File { input, path } => Some(Self::File { input: input.clone(), path: path.clone() }),
        }
    }

    /// All pieces that some shards read, each once: what [`Plan::unfold`] wants to know the content of.
    #[must_use]
    pub fn of_shards(shards: &[Shard]) -> BTreeSet<Self> {
        shards.iter().flat_map(|shard| &shard.inputs).filter_map(|(_, input)| Self::of(input)).collect()
    }
}

/// The content of a piece was not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot cut {step} into shards: the content of {piece:?} is not known")]
pub struct UnknownPiece {
    /// The sharded step.
    pub step: String,
    /// What is missing.
    pub piece: Piece,
}

impl Plan {
    /// Adds the shards of `parent` and returns them in the order given. The one function that grows a
    /// plan: it depends on its arguments only, so a resumed run grows the same plan. A step that is
    /// unfolded already is left as it is.
    ///
    /// Shards depend on what their parent depends on. That the parent is complete when all of
    /// [`Plan::shards_of`] are is the caller's to know: edges only lead from older steps to newer.
    ///
    /// # Errors
    /// When `content` lacks one of [`Piece::of_shards`]; nothing is added then.
    pub fn unfold(
        &mut self,
        parent: StepId,
        shards: Vec<Shard>,
        content: &BTreeMap<Piece, Artifact>,
    ) -> Result<Vec<StepId>, UnknownPiece> {
        let whole = self.step(parent).clone();
        let missing = Piece::of_shards(&shards).into_iter().find(|piece| !content.contains_key(piece));
        if let Some(piece) = missing {
            return Err(UnknownPiece { step: whole.name, piece });
        }
        Ok(shards.into_iter().map(|shard| self.add_shard(parent, &whole, shard, content)).collect())
    }

    fn add_shard(
        &mut self,
        parent: StepId,
        whole: &Step,
        shard: Shard,
        content: &BTreeMap<Piece, Artifact>,
    ) -> StepId {
        let name = format!("{}/{}", whole.name, short_path(whole, &shard.path));
        if let Some(known) = self.find(&name) {
            return known;
        }
        let source = |input: &ShardInput| match input {
            ShardInput::Whole(name) => whole.inputs.get(name).cloned(),
            part => content.get(&Piece::of(part)?).copied().map(Source::Content),
        };
        let inputs = shard.inputs.iter().filter_map(|(name, input)| Some((name.clone(), source(input)?)));
        self.add(Step {
            name,
            entry: whole.entry.clone(),
            section: whole.section,
            stage: shard.stage,
            inputs: inputs.collect(),
            settings: BTreeMap::new(),
            seed: whole.seed,
            policy: whole.policy,
            parent: Some((parent, shard.path)),
        })
    }
}

/// A shard's path without its ending, and without the output folder where the step has no other.
fn short_path<'a>(whole: &Step, path: &'a str) -> &'a str {
    let path = path.strip_suffix(".jsonl").unwrap_or(path);
    let outputs = whole.stage.stage().outputs();
    let folder = match outputs.as_slice() {
        [only] if only.folder => only.path.as_str(),
        _ => return path,
    };
    path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path)
}
