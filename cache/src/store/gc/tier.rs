//! The folder in front of a bucket, which becomes smaller too.
//!
//! A collection of the bucket also deletes what is in the folder and belongs to no result that stays: what
//! goes from the bucket, what other machines have deleted there, and what killed steps left. The folder
//! alone is made smaller by [`Store::shrink`]: the copies used least lately go, and nothing that only the folder has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::local::{Local, absent};
use super::super::{Place, Store, StoreError, blocking, layout};
use super::Object;
use crate::action::ActionKey;
use crate::digest::Digest;
use crate::manifest::Manifest;

/// What is in the folder in front of a bucket.
#[derive(Debug, Default)]
pub(super) struct TierFiles {
    blobs: BTreeMap<Digest, Used>,
    manifests: Vec<(ActionKey, Object)>,
    /// Damaged copies.
    debris: Vec<Object>,
    /// Contents of results that are on their way to the bucket.
    pending: BTreeSet<Digest>,
}

/// A file, and when it was last used.
#[derive(Debug)]
pub(crate) struct Used {
    pub(crate) object: Object,
    used: SystemTime,
}

/// What [`Store::shrink`] has done, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shrunk {
    /// Copies that are deleted.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// The size of the blobs that stay.
    pub kept_bytes: u64,
}

impl TierFiles {
    fn list(local: &Local) -> std::io::Result<Self> {
        let mut files = Self::default();
        each(local, layout::BLOBS, &mut |file| {
            if let Some(digest) = layout::parse_blob(&file.object.name) {
                files.blobs.insert(digest, file);
            }
        })?;
        each(local, layout::MANIFESTS, &mut |file| {
            let key = layout::parse_manifest(&file.object.name);
            files.manifests.extend(key.map(|key| (key, file.object)));
        })?;
        each(local, layout::QUARANTINE, &mut |file| files.debris.push(file.object))?;
        let mut pending = Vec::new();
        each(local, layout::PENDING, &mut |file| pending.push(file.object.name))?;
        for name in pending {
            let key = name.split('/').next_back().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            // It may have arrived since.
            let (Some(key), Ok(text)) = (key, std::fs::read(local.path(&name))) else { continue };
            let blobs = Manifest::from_stored(&text, &key).map(|manifest| manifest.blobs());
            files.pending.extend(blobs.into_iter().flatten().map(|blob| blob.digest));
        }
        Ok(files)
    }

    /// What goes when the results of `gone` do, and the contents stay that `stays` says.
    pub(super) fn unneeded(
        &self,
        stays: impl Fn(&Digest) -> bool,
        kept: impl Fn(&ActionKey) -> bool,
        before: SystemTime,
    ) -> Vec<Object> {
        let blobs = self.blobs.iter().filter(|(digest, _)| !self.pending.contains(digest) && !stays(digest));
        let blobs = blobs.map(|(_, file)| &file.object);
        let manifests = self.manifests.iter().filter(|(key, _)| !kept(key)).map(|(_, object)| object);
        let all = manifests.chain(blobs).chain(&self.debris);
        all.filter(|object| object.modified < before).cloned().collect()
    }
}

/// Calls `take` with every file below a folder.
pub(crate) fn each(local: &Local, folder: &str, take: &mut impl FnMut(Used)) -> std::io::Result<()> {
    let gone = |error: std::io::Error| if absent(&error) { Ok(()) } else { Err(error) };
    let entries = match std::fs::read_dir(local.path(folder)) {
        Ok(entries) => entries,
        Err(error) => return gone(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = format!("{folder}/{}", entry.file_name().display());
        let file = entry.metadata().and_then(|metadata| Ok((metadata.modified()?, metadata)));
        match file {
            Ok((_, metadata)) if metadata.is_dir() => each(local, &name, take)?,
            Ok((modified, metadata)) => {
                let object = Object { name, size: metadata.len(), modified };
                // Some disks do not note when a file was read.
                take(Used { used: metadata.accessed().unwrap_or(modified).max(modified), object });
            }
            Err(error) => gone(error)?,
        }
    }
    Ok(())
}

/// Deletes a file unless it was written since; whether it did.
fn delete_older(path: &Path, before: SystemTime) -> std::io::Result<bool> {
    let deleted = path
        .metadata()
        .and_then(|metadata| Ok(metadata.modified()? < before && std::fs::remove_file(path).map(|()| true)?));
    match deleted {
        Err(error) if absent(&error) => Ok(false),
        deleted => deleted,
    }
}

impl Store {
    /// The folder in front of the bucket, if there is one.
    fn tier(&self) -> Option<Arc<Local>> {
        let Place::There(remote) = &self.inner.place else { return None };
        remote.tier.as_ref().map(|tier| Arc::clone(tier.local()))
    }

    pub(super) async fn tier_files(&self) -> Result<TierFiles, StoreError> {
        let Some(local) = self.tier() else { return Ok(TierFiles::default()) };
        let attempt = format!("list {}", local.root().display());
        blocking(move || TierFiles::list(&local).map_err(StoreError::io(|| attempt))).await
    }

    /// Deletes files in front of the bucket that are older than `before`, but for the `wanted` contents; gives
    /// their number and size.
    pub(in super::super) async fn clear_tier(
        &self,
        files: &[Object],
        wanted: &BTreeSet<Digest>,
        before: SystemTime,
    ) -> Result<(u64, u64), StoreError> {
        let Some(local) = self.tier() else { return Ok((0, 0)) };
        let named =
            |object: &Object| layout::parse_blob(&object.name).is_some_and(|blob| wanted.contains(&blob));
        let files: Vec<Object> = files.iter().filter(|object| !named(object)).cloned().collect();
        blocking(move || {
            let mut deleted = (0, 0);
            for object in files {
                let attempt = || format!("delete {}", object.name);
                if delete_older(&local.path(&object.name), before).map_err(StoreError::io(attempt))? {
                    deleted = (deleted.0 + 1, deleted.1 + object.size);
                }
            }
            Ok(deleted)
        })
        .await
    }

    /// Makes the folder in front of the bucket `bound` bytes small, or with `plan` only says what that takes: the
    /// copies go first that were used least lately. What the bucket does not have stays, so nothing is
    /// lost: what is needed again is fetched again. `None` for a store without such a folder.
    ///
    /// # Errors
    /// When the bucket or the folder cannot be read, or a file cannot be deleted.
    pub async fn shrink(&self, bound: u64, plan: bool) -> Result<Option<Shrunk>, StoreError> {
        if self.tier().is_none() {
            return Ok(None);
        }
        let there: BTreeMap<Digest, u64> = self.blobs().await?.into_iter().collect();
        let files = self.tier_files().await?;
        let mut shrunk = Shrunk {
            kept_bytes: files.blobs.values().map(|file| file.object.size).sum(),
            ..Shrunk::default()
        };
        let mut copies: Vec<Used> = files
            .blobs
            .into_iter()
            .filter(|(digest, file)| there.get(digest) == Some(&file.object.size))
            .map(|(_, file)| file)
            .collect();
        copies.sort_by_key(|file| file.used);
        let mut going = Vec::new();
        for Used { object, .. } in copies {
            if shrunk.kept_bytes <= bound {
                break;
            }
            shrunk.kept_bytes -= object.size;
            shrunk.files += 1;
            shrunk.bytes += object.size;
            going.push(object);
        }
        if !plan {
            self.clear_tier(&going, &BTreeSet::new(), SystemTime::now()).await?;
        }
        Ok(Some(shrunk))
    }
}
