//! Growing a plan: a sharded step, whose inputs are known by now, is cut into its shards.

use std::collections::BTreeMap;

use bstar_cache::Artifact;
use bstar_stages::{Piece, Shard, ShardInput};

use crate::plan::{Plan, Source, Step, StepId};

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
        if let Some(piece) = missing.cloned() {
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
            ShardInput::Part(piece) => content.get(piece).copied().map(Source::Content),
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
