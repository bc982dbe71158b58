//! Manifests by action key: looked up before an execution, published after it.

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, PutMode};

use super::local::{Local, absent};
use super::{CONCURRENCY, Store, StoreError, blocking, layout};
use crate::action::ActionKey;
use crate::digest::Digest;
use crate::manifest::{Artifact, Manifest, Unusable};

/// How often a publisher that meets an unusable manifest in its place tries again.
const ATTEMPTS: usize = 4;

/// The outcome of [`Store::publish`].
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// What is in the store under the key.
    pub manifest: Manifest,
    /// Whether that is the work of another publisher, who was first.
    pub adopted: bool,
}

/// What is stored under a key.
enum Found {
    Nothing,
    Usable(Box<Manifest>),
    Unusable(Unusable),
}

impl Store {
    /// The manifest stored under `key`, if it is whole and all its blobs are there. An unusable manifest
    /// is a miss: it is reported and moved aside, so that another can take its place. The content
    /// of the blobs is verified when it is used.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn lookup(&self, key: &ActionKey) -> Result<Option<Manifest>, StoreError> {
        let found = match self.inner.local.clone() {
            Some(local) => {
                let key = *key;
                blocking(move || find(&local, &key)).await?
            }
            None => self.find_object(key).await?,
        };
        match found {
            Found::Nothing => Ok(None),
            Found::Usable(manifest) => Ok(Some(*manifest)),
            Found::Unusable(reason) => {
                tracing::warn!(%key, %reason, "a stored result cannot be used");
                self.set_aside(layout::manifest(key)).await?;
                Ok(None)
            }
        }
    }

    /// Stores a manifest whose blobs are already in the store. Whoever is first wins; the others adopt
    /// what is stored.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when a blob is not in the store, [`StoreError::Unpublishable`] when the
    /// manifest could not be read back, and when writing fails.
    pub async fn publish(&self, manifest: Manifest) -> Result<Published, StoreError> {
        let key = manifest.key;
        let unpublishable =
            |reason| StoreError::Unpublishable { step: manifest.provenance.step.clone(), reason };
        let text = manifest.to_stored().map_err(unpublishable)?;
        Manifest::from_stored(text.as_bytes(), &key).map_err(unpublishable)?;
        if let Some(digest) = self.first_absent(&manifest).await? {
            return Err(StoreError::Missing { digest });
        }
        let attempt = || format!("publish the manifest of `{}` ({key})", manifest.provenance.step);
        let path = ObjectPath::from(layout::manifest(&key));
        let mut remaining = ATTEMPTS;
        loop {
            remaining -= 1;
            let put = self.inner.durable.put_opts(&path, text.clone().into(), PutMode::Create.into()).await;
            match put {
                Ok(_) => return Ok(Published { manifest, adopted: false }),
                Err(error @ ObjectError::AlreadyExists { .. }) => {
                    if let Some(manifest) = self.lookup(&key).await? {
                        return Ok(Published { manifest, adopted: true });
                    }
                    if remaining == 0 {
                        return Err(StoreError::objects(attempt)(error));
                    }
                }
                Err(error) => return Err(StoreError::objects(attempt)(error)),
            }
        }
    }

    /// All manifests that can be read, by key. Whether their blobs are there is not checked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        Ok(self.all_manifests().await?.0)
    }

    /// All manifests that can be read, and the names of those that cannot.
    pub(super) async fn all_manifests(&self) -> Result<(Vec<Manifest>, Vec<String>), StoreError> {
        let listed = self.list(layout::MANIFESTS).await?;
        let read = stream::iter(listed)
            .filter_map(async |(object, _)| Some((layout::parse_manifest(&object)?, object)))
            .map(async |(key, object)| {
                let stored = self.fetch(&ObjectPath::from(object.as_str())).await?;
                Ok((object, stored.map(|stored| Manifest::from_stored(&stored, &key))))
            })
            .buffered(CONCURRENCY)
            .try_collect::<Vec<_>>()
            .await?;
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

    async fn find_object(&self, key: &ActionKey) -> Result<Found, StoreError> {
        let Some(stored) = self.fetch(&ObjectPath::from(layout::manifest(key))).await? else {
            return Ok(Found::Nothing);
        };
        let manifest = match Manifest::from_stored(&stored, key) {
            Ok(manifest) => manifest,
            Err(reason) => return Ok(Found::Unusable(reason)),
        };
        Ok(match self.first_absent(&manifest).await? {
            None => Found::Usable(Box::new(manifest)),
            Some(digest) => Found::Unusable(incomplete(&manifest, digest)),
        })
    }

    /// The first blob of a manifest that is missing or has the wrong size.
    async fn first_absent(&self, manifest: &Manifest) -> Result<Option<Digest>, StoreError> {
        let blobs = manifest.blobs();
        if let Some(local) = self.inner.local.clone() {
            return blocking(move || first_absent(&local, &blobs)).await;
        }
        let mut checked = stream::iter(blobs)
            .map(async |blob| Ok::<_, StoreError>((blob.digest, self.has_object(&blob).await?)))
            .buffered(CONCURRENCY);
        while let Some((digest, present)) = checked.try_next().await? {
            if !present {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }
}

/// [`Store::lookup`] without a detour: a run in which nothing is left to do is nothing but lookups.
fn find(local: &Local, key: &ActionKey) -> Result<Found, StoreError> {
    let object = layout::manifest(key);
    let stored = match std::fs::read(local.path(&object)) {
        Ok(stored) => stored,
        Err(error) if absent(&error) => return Ok(Found::Nothing),
        Err(error) => return Err(StoreError::io(|| format!("read {object}"))(error)),
    };
    let manifest = match Manifest::from_stored(&stored, key) {
        Ok(manifest) => manifest,
        Err(reason) => return Ok(Found::Unusable(reason)),
    };
    Ok(match first_absent(local, &manifest.blobs())? {
        None => Found::Usable(Box::new(manifest)),
        Some(digest) => Found::Unusable(incomplete(&manifest, digest)),
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

fn incomplete(manifest: &Manifest, digest: Digest) -> Unusable {
    let output = manifest.outputs.iter().find(|(_, artifact)| artifact.digest == digest);
    Unusable::Incomplete { output: output.map(|(path, _)| path.clone()).unwrap_or_default(), digest }
}
