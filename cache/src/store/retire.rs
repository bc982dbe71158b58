//! Outputs that are deleted while their result stays.
//!
//! The state of an optimizer is large, and read by the next iteration only. A retired output is noted in
//! `retired/KEY.json`, and its blobs are deleted unless another result names them. Its result is still
//! found: what it was is known by digest. When a step needs the content after all, the note is
//! removed ([`Store::recall`]), and the result becomes a miss that is computed again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};

use super::gc::Object;
use super::remote::Remote;
use super::remote::tier::Tier;
use super::remote::transfer::fetch;
use super::{Store, StoreError, layout};
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
        let read = |object: String| async move {
            let Some(key) = layout::parse_retired(&object) else { return Ok(None) };
            Ok(Some(self.retired_of(&key).await?.unwrap_or_default()))
        };
        let notes = self.read_known(layout::RETIRED, &self.inner.notes, read).await?;
        let notes = notes
            .into_iter()
            .filter_map(|(name, note)| Some((layout::parse_retired(&name)?, Retired::clone(&note))));
        Ok(notes.collect())
    }

    pub(super) async fn retired_of(&self, key: &ActionKey) -> Result<Option<Retired>, StoreError> {
        let stored = self.fetch(&ObjectPath::from(layout::retired(key))).await?;
        Ok(stored.and_then(|stored| serde_json::from_slice(&stored).ok()))
    }

    /// Retires outputs of results, by their paths, in the name of `by`. Content that another result, or
    /// another output of the same, also names stays. To know what others name, all manifests are read the first
    /// time, and later only those that are new.
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
        let results = self.all_outputs().await?;
        let mut freed = Freed::default();
        let mut gone = BTreeMap::new();
        for (key, all) in &results {
            let Some(paths) = outputs.get(key) else { continue };
            let note = retired.entry(*key).or_default();
            let new: BTreeMap<String, Artifact> = all
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
            self.note(key, note).await?;
            freed.results += 1;
        }
        for (key, all) in &results {
            let note = retired.get(key);
            for (path, artifact) in all.iter() {
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

    /// Takes back that content was retired: results that miss it are deleted, and computed again. Gives the keys
    /// of those results.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn recall(&self, digest: &Digest) -> Result<Vec<ActionKey>, StoreError> {
        let mut recalled = Vec::new();
        for (key, note) in self.retired().await? {
            if note.outputs.values().any(|artifact| artifact.digest == *digest) {
                self.remove(&ObjectPath::from(layout::retired(&key))).await?;
                // Not left for the next lookup, which would take it for damaged. Another process may have recalled
                // the result before, and computed it again.
                if let Some(Ok(manifest)) = self.read_manifest(&key).await?
                    && self.first_absent(&manifest).await?.is_some()
                {
                    self.remove(&ObjectPath::from(layout::manifest(&key))).await?;
                }
                recalled.push(key);
            }
        }
        Ok(recalled)
    }

    /// Whether nothing but retired outputs of a result is missing.
    pub(super) async fn misses_only_retired(&self, manifest: &Manifest) -> Result<bool, StoreError> {
        let Some(note) = self.retired_of(&manifest.key).await? else { return Ok(false) };
        Ok(self.first_absent(&note.rest(manifest)).await?.is_none())
    }

    /// Notes that outputs of a result that is copied here were retired where it comes from: all of them
    /// whose content is one of `missing`.
    pub(super) async fn copy_note(
        &self,
        key: &ActionKey,
        note: &Retired,
        missing: &BTreeSet<Digest>,
    ) -> Result<(), StoreError> {
        let mut copy = self.retired_of(key).await?.unwrap_or_default();
        let outputs = note.outputs.iter().filter(|(_, artifact)| missing.contains(&artifact.digest));
        copy.outputs.extend(outputs.map(|(path, artifact)| (path.clone(), *artifact)));
        (copy.by, copy.at) = (note.by.clone(), note.at.clone());
        self.note(key, &copy).await
    }
}

impl Retired {
    /// A result without its retired outputs.
    fn rest(&self, manifest: &Manifest) -> Manifest {
        let mut rest = manifest.clone();
        rest.outputs.retain(|path, artifact| self.outputs.get(path) != Some(artifact));
        rest
    }

    /// The contents of a result that may be missing: all its outputs that have them are retired.
    pub(super) fn may_miss(&self, manifest: &Manifest) -> BTreeSet<Digest> {
        let rest: BTreeSet<Artifact> = self.rest(manifest).blobs().into_iter().collect();
        let missing = manifest.blobs().into_iter().filter(|blob| !rest.contains(blob));
        missing.map(|blob| blob.digest).collect()
    }
}

impl Remote {
    /// The first blob of a result that is lost: neither in the tier, if that counts, nor in the bucket, nor retired.
    pub(super) async fn first_missed(
        &self,
        manifest: &Manifest,
        tier: Option<&Tier>,
    ) -> Result<Option<Digest>, StoreError> {
        let Some(lost) = self.first_lost(manifest, tier).await? else { return Ok(None) };
        let object = layout::retired(&manifest.key);
        let note = fetch(&self.objects, &ObjectPath::from(object.as_str())).await;
        let note = note.map_err(StoreError::objects(|| format!("read {object}")))?;
        match note.and_then(|note| serde_json::from_slice::<Retired>(&note).ok()) {
            Some(note) => self.first_lost(&note.rest(manifest), tier).await,
            None => Ok(Some(lost)),
        }
    }
}
