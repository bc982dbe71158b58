//! How much a run would do: [`preview`](super::preview), for counting, down to the shards.

use std::collections::{BTreeMap, BTreeSet};

use bstar_cache::{ActionKey, Manifest, Provenance, Store, StoreError};
use bstar_stages::ShardInput;
use tokio::task::JoinSet;

use super::Trouble;
use super::prepare::{Keep, action, cut};
use super::preview::{Fate, Preview, PreviewError};
use crate::plan::{Plan, Source, Step, StepId};

/// Lookups at a time.
const LOOKUPS: usize = 64;

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
    let none = BTreeSet::new();
    let mut preview = Preview::new(store, plan, &none);
    let mut standings = vec![Standing::Unknown; plan.len()];
    for level in levels(plan) {
        let mut keys = Vec::new();
        for id in level {
            let stored = |id: StepId| matches!(standings[id.index()], Standing::Stored);
            if plan.dependencies(id).into_iter().all(stored) {
                let (_, action, _) = preview.resolve(plan.step(id)).await?;
                keys.push((id, action.key()));
            }
        }
        let wanted: Vec<ActionKey> = keys.iter().map(|(_, key)| *key).collect();
        let found = look_up(store, &wanted).await?;
        for (id, key) in keys {
            let pieces = match found.get(&key) {
                Some(_) => None,
                None => shards(store, &preview, plan.step(id)).await?,
            };
            let manifest = match (found.get(&key), &pieces) {
                (Some(manifest), _) => Some(manifest.clone()),
                (None, Some(pieces)) => gathered(&preview, plan.step(id), pieces).await?,
                (None, None) => None,
            };
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

/// The steps in groups: each reads only from groups before its own.
fn levels(plan: &Plan) -> Vec<Vec<StepId>> {
    let mut depth: Vec<usize> = Vec::new();
    let mut levels: Vec<Vec<StepId>> = Vec::new();
    for id in plan.ids() {
        let before = plan.dependencies(id).into_iter().map(|needed| depth[needed.index()] + 1);
        let own = before.max().unwrap_or(0);
        depth.push(own);
        if levels.len() <= own {
            levels.push(Vec::new());
        }
        levels[own].push(id);
    }
    levels
}

async fn look_up(store: &Store, keys: &[ActionKey]) -> Result<BTreeMap<ActionKey, Manifest>, StoreError> {
    let mut found = BTreeMap::new();
    let mut lookups = JoinSet::new();
    let mut keys = keys.iter();
    loop {
        while lookups.len() < LOOKUPS
            && let Some(key) = keys.next().copied()
        {
            let store = store.clone();
            lookups.spawn(async move { (key, store.lookup(&key).await) });
        }
        let Some(answer) = lookups.join_next().await else { return Ok(found) };
        // A task that broke off has found nothing.
        let Ok((key, manifest)) = answer else { continue };
        if let Some(manifest) = manifest? {
            found.insert(key, manifest);
        }
    }
}

/// A shard of a step that has no result itself.
struct KnownShard {
    key: ActionKey,
    /// Where its file goes in the step's output folder.
    path: String,
    manifest: Option<Manifest>,
}

/// The result of a step all of whose shards are stored: a run executes nothing for it.
async fn gathered(
    preview: &Preview<'_>,
    step: &Step,
    shards: &[KnownShard],
) -> Result<Option<Manifest>, PreviewError> {
    let file = |shard: &KnownShard| {
        Some((shard.path.clone(), shard.manifest.as_ref()?.outputs.values().next().copied()?))
    };
    let Some(outputs) = shards.iter().map(file).collect::<Option<_>>() else { return Ok(None) };
    let (_, action, _) = preview.resolve(step).await?;
    Ok(Some(Manifest::new(action, outputs, serde_json::Map::new(), Provenance::default())))
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
