//! Outputs that are deleted while their result stays.
//!
//! The state of an optimizer is large, and read by the next iteration only. A retired output is noted in
//! `retired/KEY.json`, and its blobs are deleted unless another result names them. Its result is still
//! found: what it was is known by digest. When a step needs the content after all, the note is
//! removed ([`Store::recall`]), and the result becomes a miss that is computed again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};

use super::gc::Object;
use super::{CONCURRENCY, Store, StoreError, layout};
use crate::action::ActionKey;
use crate::digest::Digest;
use crate::manifest::{Artifact, Manifest, timestamp};

/// What was retired of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Paths of outputs, and what they were.
    pub outputs: BTreeMap<String, Artifact>,
    /// The run, or the command, that did it.
    pub by: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// What [`Store::retire`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Results of which something was retired.
    pub results: u64,
    /// Blobs deleted.
    pub blobs: u64,
    /// Their size.
    pub bytes: u64,
}

impl Store {
    /// What was retired, by key. A note that cannot be read says that nothing was.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn retired(&self) -> Result<BTreeMap<ActionKey, Retired>, StoreError> {
        let listed = self.list(layout::RETIRED).await?;
        let keys = listed.into_iter().filter_map(|(name, _)| layout::parse_retired(&name));
        stream::iter(keys)
            .map(async |key| Ok((key, self.retired_of(&key).await?.unwrap_or_default())))
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }

    pub(super) async fn retired_of(&self, key: &ActionKey) -> Result<Option<Retired>, StoreError> {
        let stored = self.fetch(&ObjectPath::from(layout::retired(key))).await?;
        Ok(stored.and_then(|stored| serde_json::from_slice(&stored).ok()))
    }

    /// Retires outputs of results, by their paths, in the name of `by`. Content that another result, or
    /// another output of the same, also names stays.
    ///
    /// # Errors
    /// When the store cannot be used. What was noted before is retired, and deleted by the next
    /// collection at the latest.
    pub async fn retire(
        &self,
        outputs: &BTreeMap<ActionKey, BTreeSet<String>>,
        by: &str,
    ) -> Result<Freed, StoreError> {
        let mut retired = self.retired().await?;
        let (manifests, _) = self.all_manifests().await?;
        let mut freed = Freed::default();
        let mut gone = BTreeMap::new();
        for manifest in &manifests {
            let Some(paths) = outputs.get(&manifest.key) else { continue };
            let note = retired.entry(manifest.key).or_default();
            let new: BTreeMap<String, Artifact> = manifest
                .outputs
                .iter()
                .filter(|(path, _)| paths.contains(*path) && !note.outputs.contains_key(*path))
                .map(|(path, artifact)| (path.clone(), *artifact))
                .collect();
            if new.is_empty() {
                continue;
            }
            gone.extend(new.values().map(|artifact| (artifact.digest, artifact.size)));
            note.outputs.extend(new);
            (note.by, note.at) = (by.to_owned(), timestamp(SystemTime::now()));
            self.note(&manifest.key, note).await?;
            freed.results += 1;
        }
        for manifest in &manifests {
            let note = retired.get(&manifest.key);
            for (path, artifact) in &manifest.outputs {
                if note.is_none_or(|note| !note.outputs.contains_key(path)) {
                    gone.remove(&artifact.digest);
                }
            }
        }
        let mut copies = Vec::new();
        for (digest, size) in gone {
            let name = layout::blob(&digest);
            self.remove(&ObjectPath::from(name.as_str())).await?;
            freed.blobs += 1;
            freed.bytes += size;
            copies.push(Object { name, size, modified: SystemTime::UNIX_EPOCH });
        }
        self.clear_tier(&copies, &BTreeSet::new(), SystemTime::now()).await?;
        Ok(freed)
    }

    async fn note(&self, key: &ActionKey, note: &Retired) -> Result<(), StoreError> {
        let name = layout::retired(key);
        let attempt = || format!("write {name}");
        let bytes = serde_json::to_vec_pretty(note)
            .map_err(|error| StoreError::Io { attempt: attempt(), source: error.into() })?;
        let path = ObjectPath::from(name.as_str());
        self.objects().put(&path, bytes.into()).await.map_err(StoreError::objects(attempt))?;
        Ok(())
    }

    /// Takes back that content was retired: results that miss it are misses from now on, and are
    /// computed again. Gives the keys of those results.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn recall(&self, digest: &Digest) -> Result<Vec<ActionKey>, StoreError> {
        let mut recalled = Vec::new();
        for (key, note) in self.retired().await? {
            if note.outputs.values().any(|artifact| artifact.digest == *digest) {
                self.remove(&ObjectPath::from(layout::retired(&key))).await?;
                recalled.push(key);
            }
        }
        Ok(recalled)
    }

    /// Whether nothing but retired outputs of a result is missing.
    pub(super) async fn misses_only_retired(&self, manifest: &Manifest) -> Result<bool, StoreError> {
        let Some(note) = self.retired_of(&manifest.key).await? else { return Ok(false) };
        let mut rest = manifest.clone();
        rest.outputs.retain(|path, artifact| note.outputs.get(path) != Some(artifact));
        Ok(self.first_absent(&rest).await?.is_none())
    }
}
