//! How much a run would do: [`preview`](super::preview), for counting, down to the shards.

use bstar_cache::{Action, ActionKey, Manifest, Provenance, Store};
use bstar_stages::ShardInput;

use super::Trouble;
use super::prepare::{Keep, action, cut};
use super::preview::{Fate, Preview, PreviewError, levels, look_up};
use crate::plan::{Plan, Source, Step};

/// How a step stands before a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its result is stored, or that of each of its shards.
    Stored,
    /// It has no result.
    Missing {
        /// Its key.
        key: ActionKey,
        /// For a sharded step its shards, and whether each has a result; `None` when they cannot be known.
        shards: Option<Vec<(ActionKey, bool)>>,
    },
    /// Its key is not known before others have run.
    Unknown,
}

/// How every step of a plan stands, in the plan's order.
///
/// # Errors
/// When a file of the user or the store cannot be read.
pub async fn survey(store: &Store, plan: &Plan) -> Result<Vec<Standing>, PreviewError> {
    let mut preview = Preview::new(store, plan);
    let mut standings = vec![Standing::Unknown; plan.len()];
    for level in levels(plan) {
        for (id, action, found) in preview.look_up(level).await? {
            let (key, step) = (action.key(), plan.step(id));
            let pieces = match &found {
                Some(_) => None,
                None => shards(store, &preview, step).await?,
            };
            let manifest = found.or_else(|| gathered(action, pieces.as_deref()?));
            standings[id.index()] = match manifest {
                Some(manifest) => {
                    preview.fates.insert(id, Fate::Cached(Box::new(manifest)));
                    Standing::Stored
                }
                None => {
                    let brief = |shard: &KnownShard| (shard.key, shard.manifest.is_some());
                    Standing::Missing { key, shards: pieces.map(|pieces| pieces.iter().map(brief).collect()) }
                }
            };
        }
    }
    Ok(standings)
}

/// A shard of a step that has no result itself.
struct KnownShard {
    key: ActionKey,
    /// Where its file goes in the step's output folder.
    path: String,
    manifest: Option<Manifest>,
}

/// The result of a step all of whose shards are stored: a run executes nothing for it.
fn gathered(action: Action, shards: &[KnownShard]) -> Option<Manifest> {
    let file = |shard: &KnownShard| {
        Some((shard.path.clone(), shard.manifest.as_ref()?.outputs.values().next().copied()?))
    };
    let outputs = shards.iter().map(file).collect::<Option<_>>()?;
    Some(Manifest::new(action, outputs, serde_json::Map::new(), Provenance::default()))
}

/// The shards of a step without a result; `None` for one that has none, or whose rows are not stored yet.
async fn shards(
    store: &Store,
    preview: &Preview<'_>,
    step: &Step,
) -> Result<Option<Vec<KnownShard>>, PreviewError> {
    let of_user = |source: &Source| matches!(source, Source::File(_));
    if !step.stage.stage().sharded() || step.inputs.values().any(of_user) {
        return Ok(None);
    }
    let (stage, _, inputs) = preview.resolve(step).await?;
    let (shards, pieces) = match cut(store, &stage, &inputs, Keep::No).await {
        Ok(cut) => cut,
        // The run will say what is wrong, or make what is lost again.
        Err(Trouble::Step(_) | Trouble::Stopped) => return Ok(None),
        Err(Trouble::Store(error)) if error.lost_blob().is_some() => return Ok(None),
        Err(Trouble::Store(error)) => return Err(error.into()),
    };
    let digest = |input: &ShardInput| match input {
        ShardInput::Whole(name) => inputs.get(name).map(super::content::Content::digest),
        ShardInput::Part(piece) => pieces.get(piece).map(|artifact| artifact.digest),
    };
    let key = |shard: &bstar_stages::Shard| {
        let inputs = shard.inputs.iter().filter_map(|(name, input)| Some((name.clone(), digest(input)?)));
        action(&shard.stage, step.seed, inputs.collect()).key()
    };
    let keys: Vec<ActionKey> = shards.iter().map(key).collect();
    let found = look_up(store, &keys).await?;
    let known = |(key, shard): (ActionKey, bstar_stages::Shard)| KnownShard {
        key,
        path: shard.path,
        manifest: found.get(&key).cloned(),
    };
    Ok(Some(keys.into_iter().zip(shards).map(known).collect()))
}
