//! What is in the store, and whether it is still what it was.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Place, Store, StoreError, blocking, layout};
use serde::Serialize;

use crate::action::ActionKey;
use crate::digest::Digest;

/// The contents of a store in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stat {
    /// Results that can be read.
    pub manifests: u64,
    /// Distinct contents.
    pub blobs: u64,
    /// The size of all blobs.
    pub bytes: u64,
    /// By stage.
    pub stages: BTreeMap<String, StageStat>,
    /// Records of runs.
    pub runs: u64,
    /// The size of outputs that were retired.
    pub retired: u64,
}

/// The results of one stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StageStat {
    /// Results.
    pub manifests: u64,
    /// The size of their distinct outputs; stages that share outputs each count them.
    pub bytes: u64,
}

/// The outcome of [`Store::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Blobs whose content was read, damaged ones included.
    pub blobs: u64,
    /// The size of the sound blobs.
    pub bytes: u64,
    /// Damaged blobs, now moved aside.
    pub corrupt: Vec<Digest>,
    /// Damaged or missing blobs of a bucket that were sent again from the folder in front of it.
    pub repaired: Vec<Digest>,
    /// Damaged copies in that folder, now moved aside: they are fetched again when they are needed.
    pub copies: Vec<Digest>,
    /// Results of which a blob is missing, with the name of the step that made them. They are looked
    /// up as misses.
    pub incomplete: Vec<(ActionKey, String)>,
    /// The names of manifests that cannot be read. They too are misses.
    pub unreadable: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong, or wrong no more.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.corrupt.is_empty() && self.incomplete.is_empty() && self.unreadable.is_empty()
    }
}

impl Store {
    /// Counts what is in the store; reads the manifests, not the blobs.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stat(&self) -> Result<Stat, StoreError> {
        let mut stat = Stat::default();
        for (_, size) in self.blobs().await? {
            stat.blobs += 1;
            stat.bytes += size;
        }
        let mut contents: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
        for manifest in self.manifests().await? {
            stat.manifests += 1;
            stat.stages.entry(manifest.action.stage.clone()).or_default().manifests += 1;
            contents.entry(manifest.action.stage.clone()).or_default().extend(manifest.blobs());
        }
        for (stage, blobs) in contents {
            stat.stages.entry(stage).or_default().bytes = blobs.iter().map(|blob| blob.size).sum();
        }
        let objects = self.list(layout::RUNS).await?;
        let runs: BTreeSet<_> = objects.iter().filter_map(|(name, _)| name.split('/').nth(1)).collect();
        stat.runs = runs.len() as u64;
        let retired = self.retired().await?;
        let retired: BTreeSet<_> = retired.values().flat_map(|retired| retired.outputs.values()).collect();
        stat.retired = retired.iter().map(|artifact| artifact.size).sum();
        Ok(stat)
    }

    /// Reads all blobs and compares their digests, then looks for results whose blobs are missing.
    /// Damaged blobs are moved aside; in the folder in front of a bucket too, where they are no loss. What is lost
    /// in the bucket and sound in the folder is sent again.
    ///
    /// # Errors
    /// When the store cannot be read. Damage is not an error but part of the outcome.
    pub async fn verify(&self) -> Result<Verification, StoreError> {
        let parallel = std::thread::available_parallelism().map_or(1, usize::from);
        let mut outcome = Verification::default();
        let remote = match &self.inner.place {
            Place::There(remote) => Some(remote),
            Place::Here(_) => None,
        };
        if let Some(tier) = remote.and_then(|remote| remote.tier.as_ref()) {
            outcome.copies = tier.verify().await?;
        }
        let mut sound = BTreeMap::new();
        let checked = stream::iter(self.blobs().await?)
            .map(async |(digest, _)| Ok::<_, StoreError>((digest, self.verify_blob(digest).await)))
            .buffered(parallel)
            .try_collect::<Vec<_>>()
            .await?;
        for (digest, size) in checked {
            match size {
                Ok(size) => {
                    outcome.blobs += 1;
                    outcome.bytes += size;
                    sound.insert(digest, size);
                }
                Err(StoreError::Corrupt { .. }) => {
                    outcome.blobs += 1;
                    outcome.corrupt.push(digest);
                }
                // Deleted or moved aside by another process since it was listed.
                Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let (manifests, unreadable) = self.all_manifests().await?;
        outcome.unreadable = unreadable;
        let retired = self.retired().await?;
        for manifest in manifests {
            let gone = |path: &String| {
                retired.get(&manifest.key).is_some_and(|retired| retired.outputs.contains_key(path))
            };
            let mut whole = true;
            for (path, blob) in &manifest.outputs {
                if sound.get(&blob.digest) == Some(&blob.size) || gone(path) {
                    continue;
                }
                match remote {
                    Some(remote) if remote.mend(blob).await? => {
                        sound.insert(blob.digest, blob.size);
                        outcome.repaired.push(blob.digest);
                    }
                    _ => whole = false,
                }
            }
            if !whole {
                outcome.incomplete.push((manifest.key, manifest.provenance.step));
            }
        }
        outcome.corrupt.retain(|digest| !outcome.repaired.contains(digest));
        Ok(outcome)
    }

    pub(super) async fn blobs(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let listed = self.list(layout::BLOBS).await?;
        Ok(listed.into_iter().filter_map(|(name, size)| Some((layout::parse_blob(&name)?, size))).collect())
    }

    async fn verify_blob(&self, digest: Digest) -> Result<u64, StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => blocking(move || local.verify(&digest, false)).await,
            Place::There(remote) => remote.verify(&digest).await,
        }
    }
}
