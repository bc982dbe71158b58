//! Results from one store to another.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::manifests::readable;
use super::remote::Remote;
use super::{CONCURRENCY, Place, Store, StoreError, blocking, layout};
use crate::digest::Digest;
use crate::manifest::{Artifact, Manifest};

/// What [`Store::copy_to`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Results that the other store has now.
    pub results: u64,
    /// Results that it had before.
    pub skipped: u64,
    /// Results of which a blob is missing or damaged here.
    pub incomplete: u64,
    /// Contents that were sent.
    pub blobs: u64,
    /// Their size.
    pub bytes: u64,
}

impl Store {
    /// Copies the results that `wanted` accepts, with their blobs, to another store. What is there is left
    /// as it is. Everything is verified on the way, and a result shows only when it is whole:
    /// cut off at any point, the same copy goes on. Outputs that are retired here and gone are retired there too.
    ///
    /// # Errors
    /// When a store cannot be read or written.
    pub async fn copy_to(
        &self,
        other: &Self,
        wanted: impl Fn(&Manifest) -> bool,
    ) -> Result<Copied, StoreError> {
        let manifests = self.manifests().await?.into_iter().filter(|manifest| wanted(manifest));
        let copied: Vec<Copied> = stream::iter(manifests)
            .map(|manifest| self.copy_result(other, manifest))
            .buffer_unordered(CONCURRENCY / 4)
            .try_collect()
            .await?;
        Ok(copied.into_iter().fold(Copied::default(), |sum, next| Copied {
            results: sum.results + next.results,
            skipped: sum.skipped + next.skipped,
            incomplete: sum.incomplete + next.incomplete,
            blobs: sum.blobs + next.blobs,
            bytes: sum.bytes + next.bytes,
        }))
    }

    async fn copy_result(&self, other: &Self, manifest: Manifest) -> Result<Copied, StoreError> {
        if other.has_result(&manifest).await? {
            return Ok(Copied { skipped: 1, ..Copied::default() });
        }
        let note = self.retired_of(&manifest.key).await?.unwrap_or_default();
        let may_miss = note.may_miss(&manifest);
        let copy = async |blob: Artifact| match self.copy_blob(other, blob).await {
            Err(error) if error.lost_blob().is_some() && may_miss.contains(&blob.digest) => {
                Ok(Sent::Retired(blob.digest))
            }
            sent => sent.map(|sent| sent.map_or(Sent::Before, Sent::Now)),
        };
        let sent: Result<Vec<Sent>, StoreError> =
            stream::iter(manifest.blobs()).map(copy).buffer_unordered(CONCURRENCY / 4).try_collect().await;
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) if error.lost_blob().is_some() => {
                let step = &manifest.provenance.step;
                tracing::warn!(step, key = %manifest.key, "not copied: {error}");
                return Ok(Copied { incomplete: 1, ..Copied::default() });
            }
            Err(error) => return Err(error),
        };
        let (mut copied, mut missing) = (Copied { results: 1, ..Copied::default() }, BTreeSet::new());
        for sent in sent {
            match sent {
                Sent::Before => {}
                Sent::Now(size) => (copied.blobs, copied.bytes) = (copied.blobs + 1, copied.bytes + size),
                Sent::Retired(digest) => drop(missing.insert(digest)),
            }
        }
        if !missing.is_empty() {
            // Before the result: it is never there without what says why it is not whole.
            other.copy_note(&manifest.key, &note, &missing).await?;
        }
        match &other.inner.place {
            Place::Here(_) => drop(other.publish(manifest).await?),
            // The blobs are in the bucket, and need not be in the folder in front of it.
            Place::There(remote) => {
                let text = readable(&manifest)?;
                remote.put_manifest(manifest, &text).await?;
            }
        }
        Ok(copied)
    }

    /// Whether others who use the store find a result; one that is only in front of its bucket is not there.
    async fn has_result(&self, manifest: &Manifest) -> Result<bool, StoreError> {
        match &self.inner.place {
            Place::Here(_) => Ok(self.lookup(&manifest.key).await?.is_some()),
            Place::There(remote) => remote.has_result(&manifest.key).await,
        }
    }

    /// Sends a blob that the other store lacks; gives its size.
    async fn copy_blob(&self, other: &Self, blob: Artifact) -> Result<Option<u64>, StoreError> {
        let digest = blob.digest;
        let there = match other.inner.place.clone() {
            Place::Here(local) => blocking(move || local.has(&blob)).await?,
            Place::There(remote) => remote.has(&blob).await?,
        };
        if there {
            return Ok(None);
        }
        let object = layout::blob(&digest);
        let in_tier = |remote: &Remote| {
            let local = remote.tier.as_ref()?.local();
            local.path(&object).exists().then(|| Arc::clone(local))
        };
        let kept = match &self.inner.place {
            Place::Here(local) => Ok(Arc::clone(local)),
            Place::There(remote) => in_tier(remote).ok_or(remote),
        };
        let file = match kept {
            Ok(local) => {
                let path = local.path(&object);
                // What is sent is compared with its digest; what is damaged here must be known as such.
                blocking(move || local.verify(&digest, true)).await?;
                File::Stored(path)
            }
            Err(remote) => {
                let folder = other.folder().map(|folder| folder.join(layout::TEMPORARY));
                let folder = folder.unwrap_or_else(std::env::temp_dir);
                File::Fetched(remote.download(&digest, Some(blob.size), &folder).await?)
            }
        };
        match other.inner.place.clone() {
            Place::There(remote) => remote.upload_file(file.path(), &blob).await?,
            Place::Here(local) => {
                let attempt = move || format!("store blob {digest}");
                match file {
                    File::Fetched(file) => {
                        blocking(move || local.keep_verified(file, &digest).map_err(StoreError::io(attempt)))
                            .await?;
                    }
                    File::Stored(path) => {
                        other.put_file(&path).await?;
                    }
                }
            }
        }
        Ok(Some(blob.size))
    }
}

/// What became of a blob.
enum Sent {
    /// The other store had it.
    Before,
    /// It has it now; the size.
    Now(u64),
    /// Nobody has it: it was retired.
    Retired(Digest),
}

/// A blob's content, verified.
enum File {
    /// The blob of a store on disk.
    Stored(std::path::PathBuf),
    /// Fetched for this.
    Fetched(tempfile::NamedTempFile),
}

impl File {
    fn path(&self) -> &std::path::Path {
        match self {
            Self::Stored(path) => path,
            Self::Fetched(file) => file.path(),
        }
    }
}
