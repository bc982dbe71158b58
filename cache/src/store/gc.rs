//! Deleting results that nobody needs any more.
//!
//! [`Store::inventory`] lists the store once, [`Inventory::plan`] decides by a set of keys, and
//! [`Store::collect`] deletes: manifests first, so that no manifest names a blob that is gone, then the blobs
//! that no remaining manifest names.
//!
//! Writers need not stop. What is younger than the grace period stays, a result that a run finds becomes young
//! again, and so does a blob that a writer finds in a local store. In an object store a blob does not: there
//! a result published at this very moment may lose a blob that it shares with a deleted one, which makes it
//! a miss, and it is computed again.

mod tier;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStoreExt};

pub use tier::Shrunk;
use tier::TierFiles;
pub(super) use tier::each;

use super::retire::Retired;
use super::{CONCURRENCY, Store, StoreError, layout};
use crate::action::ActionKey;
use crate::digest::Digest;
use crate::manifest::Manifest;

/// An object of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: SystemTime,
}

/// What is in a store, as it was listed.
#[derive(Debug)]
pub struct Inventory {
    manifests: Vec<(Manifest, Object)>,
    unreadable: Vec<Object>,
    retired: BTreeMap<ActionKey, Retired>,
    notes: Vec<(ActionKey, Object)>,
    blobs: BTreeMap<Digest, Object>,
    /// Quarantine and temporary files.
    debris: Vec<Object>,
    /// By key.
    leases: BTreeMap<String, Vec<Object>>,
    tier: TierFiles,
}

/// A result that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unneeded {
    /// Its key.
    pub key: ActionKey,
    /// The stage.
    pub stage: String,
    /// The step, in the run that made it.
    pub step: String,
    /// The run that made it.
    pub run: String,
    /// Bytes of its outputs that go with it; what several results share counts for the first.
    pub bytes: u64,
}

/// What is to be deleted, and how much stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collection {
    /// Results.
    pub results: Vec<Unneeded>,
    /// Blobs.
    pub blobs: Vec<Object>,
    /// Bytes of `blobs` that no result named.
    pub orphaned: u64,
    /// Manifests that cannot be read and are old.
    pub unreadable: Vec<Object>,
    /// Set-aside, temporary and forgotten objects.
    pub debris: Vec<Object>,
    /// Manifests that cannot be read and are young: they stay.
    pub unreadable_kept: Vec<String>,
    /// Results that stay because they are needed.
    pub needed: u64,
    /// Results that stay because they are young.
    pub young: u64,
    /// Results that stay because all their outputs do.
    pub free: u64,
    /// Bytes of the blobs that stay.
    pub kept_bytes: u64,
    /// What goes from the folder in front of a bucket.
    pub tier: Vec<Object>,
    before: Option<SystemTime>,
}

impl Collection {
    /// Bytes that are freed in the store.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().chain(&self.unreadable).chain(&self.debris).map(|object| object.size).sum()
    }

    /// Whether there is nothing to delete.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
            && self.blobs.is_empty()
            && self.unreadable.is_empty()
            && self.debris.is_empty()
            && self.tier.is_empty()
    }
}

/// What [`Store::collect`] has deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Results.
    pub results: u64,
    /// Blobs.
    pub blobs: u64,
    /// All bytes, of other objects too.
    pub bytes: u64,
    /// Blobs that were needed again by the time their turn came.
    pub spared: u64,
    /// Bytes in the folder in front of a bucket.
    pub tier_bytes: u64,
}

impl Store {
    /// The time by the clock of the store, or by that of this machine if that is earlier: the age of
    /// an object must not be overestimated.
    ///
    /// # Errors
    /// When the store cannot be written to.
    pub async fn now(&self) -> Result<SystemTime, StoreError> {
        let here = SystemTime::now();
        let name = format!("{}/clock-{}", layout::TEMPORARY, super::lease::token());
        let path = ObjectPath::from(name.as_str());
        let attempt = || format!("write {name}");
        self.objects().put(&path, Vec::new().into()).await.map_err(StoreError::objects(attempt))?;
        let meta = self.objects().head(&path).await.map_err(StoreError::objects(attempt))?;
        self.remove(&path).await?;
        Ok(here.min(meta.last_modified.into()))
    }

    /// The objects below a folder of the caller's, sorted by name.
    ///
    /// # Errors
    /// When the name cannot be one of [`Store::put_object`], or when reading fails.
    pub async fn list_times(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        self.listing(layout::named(prefix.trim_end_matches('/'))?.as_ref()).await
    }

    /// Deletes an object of the caller's; it need not be there.
    ///
    /// # Errors
    /// When the name cannot be one of [`Store::put_object`], or when deleting fails.
    pub async fn delete_object(&self, path: &str) -> Result<(), StoreError> {
        self.remove(&layout::named(path)?).await
    }

    async fn listing(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let prefix = ObjectPath::from(folder);
        let listed = self.objects().list(Some(&prefix)).map_ok(|meta| Object {
            name: meta.location.as_ref().to_owned(),
            size: meta.size,
            modified: meta.last_modified.into(),
        });
        let mut listed: Vec<Object> =
            listed.try_collect().await.map_err(StoreError::objects(|| format!("list {folder}")))?;
        listed.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        Ok(listed)
    }

    /// Lists everything and reads the manifests.
    ///
    /// # Errors
    /// When anything cannot be listed or read: nothing may be deleted then.
    pub async fn inventory(&self) -> Result<Inventory, StoreError> {
        // Blobs first: a manifest listed later may name a blob that is not in this list, which then
        // stays; the other way round, a blob might be listed whose manifest was not.
        let blobs = self.listing(layout::BLOBS).await?;
        let blobs = blobs.into_iter().filter_map(|object| Some((layout::parse_blob(&object.name)?, object)));
        let blobs = blobs.collect();
        let mut debris = self.listing(layout::QUARANTINE).await?;
        debris.extend(self.listing(layout::TEMPORARY).await?);
        let mut leases: BTreeMap<String, Vec<Object>> = BTreeMap::new();
        for object in self.listing(layout::LEASES).await? {
            let key = object.name.split('/').nth(1).unwrap_or_default().to_owned();
            leases.entry(key).or_default().push(object);
        }
        let notes = self.listing(layout::RETIRED).await?;
        let notes =
            notes.into_iter().filter_map(|object| Some((layout::parse_retired(&object.name)?, object)));
        let notes = notes.collect();
        let retired = self.retired().await?;
        let listed = self.listing(layout::MANIFESTS).await?;
        let (manifests, unreadable) = self.read_listed(listed).await?;
        // Last: what is in the folder and not in the lists above has left the bucket, or is young.
        let tier = self.tier_files().await?;
        Ok(Inventory { manifests, unreadable, retired, notes, blobs, debris, leases, tier })
    }

    /// The manifests among some objects; those that are gone by now are left out.
    async fn read_listed(
        &self,
        listed: Vec<Object>,
    ) -> Result<(Vec<(Manifest, Object)>, Vec<Object>), StoreError> {
        let listed =
            listed.into_iter().filter_map(|object| Some((layout::parse_manifest(&object.name)?, object)));
        let mut read = stream::iter(listed)
            .map(async |(key, object)| {
                let stored = self.fetch(&ObjectPath::from(object.name.as_str())).await?;
                Ok::<_, StoreError>((object, stored.map(|stored| Manifest::from_stored(&stored, &key))))
            })
            .buffered(CONCURRENCY);
        let (mut manifests, mut unreadable) = (Vec::new(), Vec::new());
        while let Some((object, manifest)) = read.try_next().await? {
            match manifest {
                None => {}
                Some(Ok(manifest)) => manifests.push((manifest, object)),
                Some(Err(_)) => unreadable.push(object),
            }
        }
        Ok((manifests, unreadable))
    }

    /// Deletes what was planned, and gives what was really deleted. A process that is killed here leaves a
    /// sound store: the next collection goes on.
    ///
    /// # Errors
    /// When something cannot be read or deleted; what was deleted before is gone.
    pub async fn collect(
        &self,
        inventory: &Inventory,
        collection: &Collection,
    ) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        let before = collection.before.unwrap_or(SystemTime::UNIX_EPOCH);
        // A run may have found one since.
        let results: Vec<&Unneeded> = self
            .delete_all_older(&collection.results, |result| layout::manifest(&result.key), before)
            .await?;
        let unreadable: Vec<&Object> =
            self.delete_all_older(&collection.unreadable, |object| object.name.clone(), before).await?;
        collected.results = results.len() as u64;
        let notes = results.iter().filter(|result| inventory.retired.contains_key(&result.key));
        self.delete_all(notes.map(|result| layout::retired(&result.key)).collect()).await?;
        let wanted = self.named_since(inventory).await?;
        let mut deletions = stream::iter(&collection.blobs)
            .map(async |object| {
                let named = layout::parse_blob(&object.name).is_none_or(|digest| wanted.contains(&digest));
                let gone = !named && self.delete_older(&object.name, before).await?;
                Ok::<_, StoreError>((object.size, gone))
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((size, gone)) = deletions.try_next().await? {
            if gone {
                collected.blobs += 1;
                collected.bytes += size;
            } else {
                collected.spared += 1;
            }
        }
        self.delete_all(collection.debris.iter().map(|object| object.name.clone()).collect()).await?;
        (_, collected.tier_bytes) = self.clear_tier(&collection.tier, &wanted, before).await?;
        let others = unreadable.into_iter().chain(&collection.debris);
        collected.bytes += others.map(|object| object.size).sum::<u64>();
        Ok(collected)
    }

    /// The blobs named by manifests that were published since the inventory.
    async fn named_since(&self, inventory: &Inventory) -> Result<BTreeSet<Digest>, StoreError> {
        let known: BTreeMap<&str, SystemTime> = inventory
            .manifests
            .iter()
            .map(|(_, object)| object)
            .chain(&inventory.unreadable)
            .map(|object| (object.name.as_str(), object.modified))
            .collect();
        let mut listed = self.listing(layout::MANIFESTS).await?;
        listed.retain(|object| known.get(object.name.as_str()) != Some(&object.modified));
        let (manifests, _) = self.read_listed(listed).await?;
        Ok(manifests.iter().flat_map(|(manifest, _)| manifest.blobs()).map(|blob| blob.digest).collect())
    }

    async fn delete_all(&self, names: Vec<String>) -> Result<(), StoreError> {
        let paths = stream::iter(names).map(ObjectPath::from);
        paths.map(Ok).try_for_each_concurrent(CONCURRENCY, async |path| self.remove(&path).await).await
    }

    /// Deletes objects that were not written since; gives those that it did.
    async fn delete_all_older<'a, T: Sync>(
        &self,
        all: &'a [T],
        name: impl Fn(&T) -> String,
        before: SystemTime,
    ) -> Result<Vec<&'a T>, StoreError> {
        let mut deleted = Vec::new();
        let named = all.iter().map(|one| (one, name(one)));
        let mut deletions = stream::iter(named)
            .map(async |(one, name)| Ok::<_, StoreError>((one, self.delete_older(&name, before).await?)))
            .buffer_unordered(CONCURRENCY);
        while let Some((one, gone)) = deletions.try_next().await? {
            if gone {
                deleted.push(one);
            }
        }
        Ok(deleted)
    }

    /// Deletes an object unless it was written since; whether it did.
    async fn delete_older(&self, name: &str, before: SystemTime) -> Result<bool, StoreError> {
        let path = ObjectPath::from(name);
        match self.objects().head(&path).await {
            Ok(meta) if SystemTime::from(meta.last_modified) >= before => Ok(false),
            Ok(_) => self.remove(&path).await.map(|()| true),
            Err(ObjectError::NotFound { .. }) => Ok(false),
            Err(error) => Err(StoreError::objects(|| format!("look for {name}"))(error)),
        }
    }
}

impl Inventory {
    /// What can go when the results of `needed` stay, and everything that was written within `grace`
    /// of `now`.
    #[must_use]
    pub fn plan(&self, needed: &BTreeSet<ActionKey>, now: SystemTime, grace: Duration) -> Collection {
        let before = now.checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH);
        let young = |object: &Object| object.modified >= before;
        let mut plan = Collection { before: Some(before), ..Collection::default() };
        let mut named: BTreeSet<Digest> = BTreeSet::new();
        let mut rest = Vec::new();
        for (manifest, object) in &self.manifests {
            if needed.contains(&manifest.key) {
                plan.needed += 1;
            } else if young(object) {
                plan.young += 1;
            } else {
                rest.push(manifest);
                continue;
            }
            named.extend(self.present(manifest));
            // Small, and worth having to look at.
            named.extend(manifest.action.inputs.values());
        }
        let stays = |digest: &Digest, named: &BTreeSet<Digest>| {
            named.contains(digest) || self.blobs.get(digest).is_some_and(young)
        };
        let mut counted = BTreeSet::new();
        for manifest in rest {
            let outputs = self.present(manifest);
            // A shard of a result that stays costs nothing, and more samples can begin with it.
            if !outputs.is_empty() && outputs.iter().all(|digest| named.contains(digest)) {
                plan.free += 1;
                continue;
            }
            let mut bytes = 0;
            for digest in outputs {
                if !stays(&digest, &named) && counted.insert(digest) {
                    bytes += self.blobs.get(&digest).map_or(0, |object| object.size);
                }
            }
            plan.results.push(Unneeded {
                key: manifest.key,
                stage: manifest.action.stage.clone(),
                step: manifest.provenance.step.clone(),
                run: manifest.provenance.run.clone(),
                bytes,
            });
        }
        for (digest, object) in &self.blobs {
            if stays(digest, &named) {
                plan.kept_bytes += object.size;
            } else {
                plan.orphaned += if counted.contains(digest) { 0 } else { object.size };
                plan.blobs.push(object.clone());
            }
        }
        for object in &self.unreadable {
            if young(object) {
                plan.unreadable_kept.push(object.name.clone());
            } else {
                plan.unreadable.push(object.clone());
            }
        }
        let keys: BTreeSet<&ActionKey> = self.manifests.iter().map(|(manifest, _)| &manifest.key).collect();
        let lost = self.notes.iter().filter(|(key, _)| !keys.contains(key)).map(|(_, object)| object);
        plan.debris.extend(self.debris.iter().chain(lost).filter(|object| !young(object)).cloned());
        // A lease that is held for long is young by its last sign of life.
        let forgotten = self.leases.values().filter(|objects| !objects.iter().any(young));
        plan.debris.extend(forgotten.flatten().cloned());
        let gone: BTreeSet<&ActionKey> = plan.results.iter().map(|result| &result.key).collect();
        let kept = |key: &ActionKey| keys.contains(key) && !gone.contains(key);
        plan.tier = self.tier.unneeded(|digest| stays(digest, &named), kept, before);
        plan
    }

    /// The contents of a result's outputs that are not retired.
    fn present(&self, manifest: &Manifest) -> BTreeSet<Digest> {
        let retired = self.retired.get(&manifest.key);
        let outputs = manifest.outputs.iter();
        outputs
            .filter(|(path, _)| retired.is_none_or(|retired| !retired.outputs.contains_key(*path)))
            .map(|(_, artifact)| artifact.digest)
            .collect()
    }

    /// All readable manifests.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests.iter().map(|(manifest, _)| manifest)
    }
}
