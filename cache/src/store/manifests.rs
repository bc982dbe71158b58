//! Manifests by action key: looked up before an execution, published after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;

use super::local::{Local, absent, make_young};
use super::remote::tier::Tier;
use super::{CONCURRENCY, Place, Store, StoreError, blocking, layout, short};
use crate::action::ActionKey;
use crate::digest::Digest;
use crate::manifest::{Artifact, Manifest, Unusable};

/// How often a publisher that meets an unusable manifest in its place tries again.
pub(super) const ATTEMPTS: usize = 4;
/// Manifests that one thread reads.
const RUN: usize = 512;

/// The outcome of [`Store::publish`].
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// What is in the store under the key.
    pub manifest: Manifest,
    /// Whether that is the work of another publisher, who was first.
    pub adopted: bool,
}

/// What is stored under a key.
pub(super) enum Found {
    Nothing,
    Usable(Box<Manifest>),
    Unusable(Unusable),
    /// A blob is missing.
    Incomplete(Box<Manifest>, Digest),
}

impl Store {
    /// The manifest stored under `key`, if it is whole and all its blobs are there, but for those of
    /// retired outputs. An unusable manifest
    /// is a miss: it is reported and moved aside, so that another can take its place. The content
    /// of the blobs is verified when it is used.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn lookup(&self, key: &ActionKey) -> Result<Option<Manifest>, StoreError> {
        let found = match self.inner.place.clone() {
            Place::Here(local) => {
                let key = *key;
                let renews = self.renews;
                short(&local.clone(), 0, move || find(&local, &key, renews)).await?
            }
            Place::There(remote) => remote.find(key, self.renews).await?,
        };
        match found {
            Found::Nothing => Ok(None),
            Found::Usable(manifest) => Ok(Some(*manifest)),
            Found::Unusable(reason) => self.unusable(key, &reason).await.map(|()| None),
            Found::Incomplete(manifest, _) if self.misses_only_retired(&manifest).await? => {
                Ok(Some(*manifest))
            }
            Found::Incomplete(manifest, digest) => {
                self.unusable(key, &incomplete(&manifest, digest)).await.map(|()| None)
            }
        }
    }

    async fn unusable(&self, key: &ActionKey, reason: &Unusable) -> Result<(), StoreError> {
        tracing::warn!(%key, %reason, "a stored result cannot be used");
        self.set_aside(layout::manifest(key)).await
    }

    /// Stores a manifest whose blobs are already in the store. Whoever is first wins; the others adopt
    /// what is stored. When this returns, every host that shares the store finds the result.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when a blob is not in the store, [`StoreError::Unpublishable`] when the
    /// manifest could not be read back, and when writing fails.
    pub async fn publish(&self, manifest: Manifest) -> Result<Published, StoreError> {
        let key = manifest.key;
        let local = match &self.inner.place {
            Place::Here(local) => local,
            Place::There(remote) => {
                let text = readable(&manifest)?;
                return remote.publish(manifest, &text).await;
            }
        };
        let text = self.publishable(&manifest).await?;
        for _ in 0..ATTEMPTS {
            if create(local, &manifest, &text).await? {
                return Ok(Published { manifest, adopted: false });
            }
            if let Some(manifest) = self.lookup(&key).await? {
                return Ok(Published { manifest, adopted: true });
            }
        }
        let source = std::io::Error::other("what is stored in its place cannot be used and comes again");
        Err(StoreError::Io { attempt: publishing(&manifest), source })
    }

    /// Stores a manifest in the place of the one under its key. That one is kept under
    /// `quarantine/superseded/`; at no moment is there none.
    ///
    /// # Errors
    /// As [`Store::publish`].
    pub async fn replace(&self, manifest: Manifest) -> Result<Manifest, StoreError> {
        let text = match &self.inner.place {
            Place::Here(_) => self.publishable(&manifest).await?,
            Place::There(_) => readable(&manifest)?,
        };
        let object = layout::manifest(&manifest.key);
        let path = ObjectPath::from(object.as_str());
        if let Some(old) = self.fetch(&path).await? {
            let aside = ObjectPath::from(layout::superseded(&object));
            let failed = StoreError::objects(|| format!("write {aside}"));
            self.objects().put(&aside, old.into()).await.map_err(failed)?;
        }
        let local = match &self.inner.place {
            Place::Here(local) => local,
            Place::There(remote) => return remote.replace(manifest, &text).await,
        };
        let attempt = format!("replace the manifest of `{}` ({})", manifest.provenance.step, manifest.key);
        let folder = Arc::clone(local);
        let replace = move || folder.replace(&object, text.as_bytes()).map_err(StoreError::io(|| attempt));
        short(local, 0, replace).await?;
        Ok(manifest)
    }

    /// The text of a manifest that can be read back and whose blobs are there, or retired.
    async fn publishable(&self, manifest: &Manifest) -> Result<String, StoreError> {
        let text = readable(manifest)?;
        match self.first_absent(manifest).await? {
            Some(digest) if !self.misses_only_retired(manifest).await? => Err(StoreError::Missing { digest }),
            _ => Ok(text),
        }
    }

    /// All manifests that can be read, by key. Whether their blobs are there is not checked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        let tier = match &self.inner.place {
            Place::Here(_) => None,
            Place::There(remote) => remote.tier.as_ref(),
        };
        Ok(self.read_manifests(tier).await?.0)
    }

    /// All manifests that can be read, and the names of those that cannot.
    pub(super) async fn all_manifests(&self) -> Result<(Vec<Manifest>, Vec<String>), StoreError> {
        self.read_manifests(None).await
    }

    /// Reads the manifests that are listed; with a `tier`, those that it has are read there. A manifest is
    /// replaced when its result is made again after its deletion: what is to be deleted is decided without.
    async fn read_manifests(&self, tier: Option<&Tier>) -> Result<(Vec<Manifest>, Vec<String>), StoreError> {
        let listed = self.list(layout::MANIFESTS).await?.into_iter();
        let listed = listed.filter_map(|(object, _)| Some((layout::parse_manifest(&object)?, object)));
        let read = match &self.inner.place {
            Place::Here(local) => read_runs(local, &listed.collect::<Vec<_>>()).await?,
            Place::There(_) => {
                let read = async |(key, object): (ActionKey, String)| {
                    if let Some(tier) = tier
                        && let Some((manifest, _)) = tier.manifest(&key, false).await?
                    {
                        return Ok((object, Some(Ok(manifest))));
                    }
                    let manifest = self.read_manifest(&key).await?;
                    if let (Some(tier), Some(Ok(manifest))) = (tier, &manifest) {
                        tier.keep(manifest).await?;
                    }
                    Ok::<_, StoreError>((object, manifest))
                };
                stream::iter(listed).map(read).buffered(CONCURRENCY).boxed().try_collect::<Vec<_>>().await?
            }
        };
        let (mut manifests, mut unreadable) = (Vec::with_capacity(read.len()), Vec::new());
        for (object, manifest) in read {
            match manifest {
                None => {}
                Some(Ok(manifest)) => manifests.push(manifest),
                Some(Err(reason)) => {
                    tracing::warn!(object, %reason, "a manifest cannot be read");
                    unreadable.push(object);
                }
            }
        }
        Ok((manifests, unreadable))
    }

    pub(super) async fn read_manifest(
        &self,
        key: &ActionKey,
    ) -> Result<Option<Result<Manifest, Unusable>>, StoreError> {
        match &self.inner.place {
            Place::There(remote) => remote.read_manifest(key, false).await,
            Place::Here(local) => {
                let (folder, key) = (Arc::clone(local), *key);
                short(local, 0, move || read(&folder, &key, false)).await
            }
        }
    }

    /// The outputs of all results whose manifests can be read, by key.
    pub(super) async fn all_outputs(
        &self,
    ) -> Result<Vec<(ActionKey, Arc<BTreeMap<String, Artifact>>)>, StoreError> {
        let read = |object: String| async move {
            let Some(key) = layout::parse_manifest(&object) else { return Ok(None) };
            let manifest = self.read_manifest(&key).await?;
            Ok(manifest.and_then(Result::ok).map(|manifest| manifest.outputs))
        };
        let all = self.read_known(layout::MANIFESTS, &self.inner.outputs, read).await?;
        Ok(all
            .into_iter()
            .filter_map(|(name, outputs)| Some((layout::parse_manifest(&name)?, outputs)))
            .collect())
    }

    /// The first blob of a manifest that is missing or has the wrong size.
    pub(super) async fn first_absent(&self, manifest: &Manifest) -> Result<Option<Digest>, StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => {
                let blobs = manifest.blobs();
                short(&local.clone(), 0, move || first_absent(&local, &blobs)).await
            }
            Place::There(remote) => remote.first_lost(manifest, remote.tier.as_ref()).await,
        }
    }
}

/// The name of a manifest and what is read under it: nothing where it is gone.
type Read = (String, Option<Result<Manifest, Unusable>>);

/// Reads manifests in runs: one by one, to go to another thread and back would take longer than reading.
async fn read_runs(local: &Arc<Local>, listed: &[(ActionKey, String)]) -> Result<Vec<Read>, StoreError> {
    let runs = listed.chunks(RUN).map(|run| {
        let (local, run) = (Arc::clone(local), run.to_vec());
        blocking(move || {
            run.into_iter().map(|(key, object)| Ok((object, read(&local, &key, false)?))).collect()
        })
    });
    let read: Vec<Vec<Read>> = stream::iter(runs).buffered(CONCURRENCY).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

/// What is stored under a key, if anything is; with `renews`, it becomes young again.
fn read(
    local: &Local,
    key: &ActionKey,
    renews: bool,
) -> Result<Option<Result<Manifest, Unusable>>, StoreError> {
    let object = layout::manifest(key);
    let read = local.with_short(&object, |stored, file| {
        if renews && let Err(error) = make_young(file) {
            tracing::debug!(object, %error, "cannot renew a manifest");
        }
        Manifest::from_stored(stored, key)
    });
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(StoreError::io(|| format!("read {object}"))(error)),
    }
}

/// [`Store::lookup`] without a detour: a run in which nothing is left to do is nothing but lookups.
fn find(local: &Local, key: &ActionKey, renews: bool) -> Result<Found, StoreError> {
    let manifest = match read(local, key, renews)? {
        Some(Ok(manifest)) => manifest,
        Some(Err(reason)) => return Ok(Found::Unusable(reason)),
        None => return Ok(Found::Nothing),
    };
    Ok(match first_absent(local, &manifest.blobs())? {
        None => Found::Usable(Box::new(manifest)),
        Some(digest) => Found::Incomplete(Box::new(manifest), digest),
    })
}

fn first_absent(local: &Local, blobs: &[Artifact]) -> Result<Option<Digest>, StoreError> {
    for blob in blobs {
        if !local.has(blob)? {
            return Ok(Some(blob.digest));
        }
    }
    Ok(None)
}

/// The text of a manifest that can be read back.
pub(super) fn readable(manifest: &Manifest) -> Result<String, StoreError> {
    let unpublishable = |reason| StoreError::Unpublishable { step: manifest.provenance.step.clone(), reason };
    let text = manifest.to_stored().map_err(unpublishable)?;
    Manifest::from_stored(text.as_bytes(), &manifest.key).map_err(unpublishable)?;
    Ok(text)
}

/// Puts a manifest in its place unless there is one; whether it did.
async fn create(local: &Arc<Local>, manifest: &Manifest, text: &str) -> Result<bool, StoreError> {
    let (object, attempt) = (layout::manifest(&manifest.key), publishing(manifest));
    let (text, folder) = (text.to_owned(), Arc::clone(local));
    let create = move || folder.create(&object, text.as_bytes()).map_err(StoreError::io(|| attempt));
    short(local, 0, create).await
}

fn publishing(manifest: &Manifest) -> String {
    format!("publish the manifest of `{}` ({})", manifest.provenance.step, manifest.key)
}

pub(super) fn incomplete(manifest: &Manifest, digest: Digest) -> Unusable {
    let output = manifest.outputs.iter().find(|(_, artifact)| artifact.digest == digest);
    Unusable::Incomplete { output: output.map(|(path, _)| path.clone()).unwrap_or_default(), digest }
}
