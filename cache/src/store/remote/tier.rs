//! The folder in front of a bucket: a store on disk that holds what was read and what was made.
//!
//! Reading asks the folder first, and keeps what it fetches. Outputs are moved into the folder, and
//! [`Remote::publish`] sends them: all blobs side by side, and then the manifest, and returns when the
//! bucket has them. Other hosts rely on that, and other steps run meanwhile, so nothing is gained by
//! letting a step end before. While a result is on its way, `pending/KEY.json` holds its
//! manifest, locked by the process that sends it: a result whose process was killed, or whose bucket was
//! out of reach, is not lost, but sent by whoever opens or looks it up next. So a manifest in the folder's
//! `manifests/` is in the bucket, or was.
//!
//! What another machine deletes from the bucket stays in the folder until a collection on this machine, which
//! makes the folder smaller too. The folder can be deleted at any time when nothing is pending in it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStore, PutMode};
use tokio::task::JoinHandle;

use super::super::gc::each;
use super::super::local::{Local, absent, in_folder_of, make_young};
use super::super::manifests::{ATTEMPTS, Found, Published, incomplete};
use super::super::{CONCURRENCY, Place, Store, StoreError, blocking, layout, short};
use super::Remote;
use crate::action::ActionKey;
use crate::digest::Digest;
use crate::manifest::{Artifact, Manifest};

/// Sending a blob of at most this size costs no more than asking whether it is there.
const SMALL: u64 = 256 << 10;

/// The folder in front of a bucket.
pub(crate) struct Tier {
    local: Arc<Local>,
    /// Blobs that are being fetched: a second step that needs one waits for it.
    fetching: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Sends what an earlier process could not.
    sending: tokio::sync::Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
}

/// The default folder for tiers, or the one that `BSTAR_TIER` names.
pub(crate) fn default_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match set("BSTAR_TIER") {
        Some(folder) if folder.as_os_str() == "off" => None,
        Some(folder) => Some(folder),
        None => {
            let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
            Some(cache.unwrap_or_else(std::env::temp_dir).join("bstar/tiers"))
        }
    }
}

/// A manifest on its way, and the lock that says that somebody takes care of it.
struct Pending {
    path: PathBuf,
    _locked: File,
}

impl Pending {
    /// Notes a manifest that is about to be sent.
    fn note(local: &Local, key: &ActionKey, text: &str) -> std::io::Result<Self> {
        let mut file = local.temporary_file()?;
        file.as_file().lock()?;
        file.write_all(text.as_bytes())?;
        let path = local.path(&layout::pending(key));
        let (kept, temporary) = file.into_parts();
        in_folder_of(&path, || std::fs::rename(&temporary, &path))?;
        let _gone = temporary.keep();
        Ok(Self { path, _locked: kept })
    }

    /// Takes over a manifest that nobody is sending; with its text.
    fn take_over(path: PathBuf) -> std::io::Result<Option<(Self, Vec<u8>)>> {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        file.rewind()?;
        // Its last owner may have finished between opening and locking it.
        Ok(path.exists().then_some((Self { path, _locked: file }, text)))
    }

    /// The manifest is in the bucket, or of no use.
    fn done(self) {
        drop(std::fs::remove_file(&self.path));
    }
}

impl Tier {
    /// Opens the folder, and makes it if there is none.
    pub(crate) async fn open(folder: &Path) -> Result<Self, StoreError> {
        let location = folder.to_string_lossy();
        let store = Box::pin(Store::open(&location)).await?;
        let invalid = || StoreError::InvalidLocation { location: location.clone().into_owned() };
        let Place::Here(local) = store.inner.place.clone() else { return Err(invalid()) };
        Ok(Self { local, fetching: Mutex::default(), sending: tokio::sync::Mutex::default() })
    }

    pub(crate) fn local(&self) -> &Arc<Local> {
        &self.local
    }

    /// The manifest in the folder, if there is one that can be read; with `renews`, it becomes young again. With it,
    /// whether it was old.
    pub(crate) async fn manifest(
        &self,
        key: &ActionKey,
        renews: bool,
    ) -> Result<Option<(Manifest, bool)>, StoreError> {
        let (local, key) = (Arc::clone(&self.local), *key);
        short(&self.local, 0, move || {
            let object = layout::manifest(&key);
            let read = local.with_short(&object, |stored, file| {
                (Manifest::from_stored(stored, &key).ok(), renews && make_young(file).unwrap_or(false))
            });
            match read {
                Ok((Some(manifest), old)) => Ok(Some((manifest, old))),
                Ok((None, _)) => {
                    // It is a copy: the bucket is asked instead.
                    drop(std::fs::remove_file(local.path(&object)));
                    Ok(None)
                }
                Err(error) if absent(&error) => Ok(None),
                Err(error) => Err(StoreError::io(|| format!("read {object}"))(error)),
            }
        })
        .await
    }

    pub(crate) async fn keep(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let attempt = format!("keep the manifest of `{}`", manifest.provenance.step);
        let (local, object) = (Arc::clone(&self.local), layout::manifest(&manifest.key));
        let text = manifest
            .to_stored()
            .map_err(|reason| StoreError::Unpublishable { step: manifest.provenance.step.clone(), reason })?;
        blocking(move || local.replace(&object, text.as_bytes()).map_err(StoreError::io(|| attempt))).await
    }

    async fn forget(&self, key: &ActionKey) -> Result<(), StoreError> {
        let path = self.local.path(&layout::manifest(key));
        blocking(move || match std::fs::remove_file(&path) {
            Err(error) if !absent(&error) => {
                Err(StoreError::io(|| format!("delete {}", path.display()))(error))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn has(&self, artifact: Artifact) -> Result<bool, StoreError> {
        let local = Arc::clone(&self.local);
        short(&self.local, 0, move || local.has(&artifact)).await
    }

    async fn lacks(&self, blobs: Vec<Artifact>) -> Result<Vec<Artifact>, StoreError> {
        let local = Arc::clone(&self.local);
        short(&self.local, 0, move || {
            let mut lacking = Vec::new();
            for blob in blobs {
                if !local.has(&blob)? {
                    lacking.push(blob);
                }
            }
            Ok(lacking)
        })
        .await
    }

    /// Keys of results that are not known to be in the bucket.
    fn pending(&self) -> Vec<ActionKey> {
        let entries = std::fs::read_dir(self.local.path(layout::PENDING)).into_iter().flatten().flatten();
        let key = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok();
        entries.filter_map(key).collect()
    }

    /// Reads all blobs in the folder; gives those that were damaged, which are moved aside, and fetched again when
    /// needed.
    pub(crate) async fn verify(&self) -> Result<Vec<Digest>, StoreError> {
        let local = Arc::clone(&self.local);
        blocking(move || {
            let (mut blobs, mut damaged) = (Vec::new(), Vec::new());
            each(&local, layout::BLOBS, &mut |file| blobs.extend(layout::parse_blob(&file.object.name)))
                .map_err(StoreError::io(|| format!("list {}", local.root().display())))?;
            for digest in blobs {
                match local.verify(&digest, false) {
                    Err(error) if error.lost_blob().is_none() => return Err(error),
                    Err(error) => damaged.extend(error.is_corrupt()),
                    Ok(_) => {}
                }
            }
            damaged.sort_unstable();
            Ok(damaged)
        })
        .await
    }

    async fn take_over(&self, key: &ActionKey) -> Result<Option<(Pending, Vec<u8>)>, StoreError> {
        let path = self.local.path(&layout::pending(key));
        let attempt = format!("read {}", path.display());
        blocking(move || Pending::take_over(path).map_err(StoreError::io(|| attempt))).await
    }
}

impl Remote {
    /// Makes sure that a blob is in the tier.
    pub(crate) async fn fetch_into(
        &self,
        tier: &Tier,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<(), StoreError> {
        let turn = {
            let mut fetching = tier.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            fetching.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(fetching.entry(*digest).or_default())
        };
        let _turn = turn.lock().await;
        if tier.local.path(&layout::blob(digest)).exists() {
            return Ok(());
        }
        let file = self.download(digest, size, &tier.local.path(layout::TEMPORARY)).await?;
        self.saw(digest);
        let (local, digest) = (Arc::clone(&tier.local), *digest);
        let attempt = move || format!("store blob {digest}");
        blocking(move || local.keep_verified(file, &digest).map_err(StoreError::io(attempt))).await
    }

    /// Sends a blob to the bucket that is lost there, if the tier has it; whether it did.
    pub(crate) async fn mend(&self, blob: &Artifact) -> Result<bool, StoreError> {
        let Some(tier) = &self.tier else { return Ok(false) };
        let copy = tier.local.path(&layout::blob(&blob.digest));
        if !tier.has(*blob).await? {
            return Ok(false);
        }
        self.upload_file(&copy, blob).await.map(|()| true)
    }

    /// Whether a blob is in the tier or in the bucket.
    pub(crate) async fn holds(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        if let Some(tier) = &self.tier
            && tier.has(*artifact).await?
        {
            return Ok(true);
        }
        self.has(artifact).await
    }

    /// The first blob of a manifest that is neither in the tier, if that counts, nor in the bucket.
    pub(crate) async fn first_lost(
        &self,
        manifest: &Manifest,
        tier: Option<&Tier>,
    ) -> Result<Option<Digest>, StoreError> {
        let mut blobs = manifest.blobs();
        if let Some(tier) = tier {
            blobs = tier.lacks(blobs).await?;
        }
        let mut checked = stream::iter(blobs)
            .map(|blob| async move { Ok::<_, StoreError>((blob.digest, self.has(&blob).await?)) })
            .buffered(CONCURRENCY)
            .boxed();
        while let Some((digest, present)) = checked.try_next().await? {
            if !present {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// What is stored under a key, in the tier or in the bucket; with `renews`, what is old becomes young again.
    pub(crate) async fn find(&self, key: &ActionKey, renews: bool) -> Result<Found, StoreError> {
        let Some(tier) = &self.tier else { return self.find_settled(key, None, renews).await };
        if let Some((manifest, old)) = tier.manifest(key, renews).await? {
            if self.first_missed(&manifest, Some(tier)).await?.is_none() {
                if old {
                    // What is in the folder is found, whatever becomes of what the bucket has.
                    drop(self.read_manifest(key, true).await);
                }
                return Ok(Found::Usable(Box::new(manifest)));
            }
            tier.forget(key).await?;
        }
        if let Some(manifest) = self.send_pending(tier, key).await? {
            return Ok(Found::Usable(Box::new(manifest)));
        }
        let found = self.find_settled(key, Some(tier), renews).await?;
        if let Found::Usable(manifest) = &found {
            tier.keep(manifest).await?;
        }
        Ok(found)
    }

    /// What the bucket has under a key. Blobs that a manifest names are there before it is, but some
    /// servers show new objects late: a manifest without them gets a second look.
    async fn find_settled(
        &self,
        key: &ActionKey,
        tier: Option<&Tier>,
        renews: bool,
    ) -> Result<Found, StoreError> {
        match self.find_object(key, tier, renews).await? {
            Found::Unusable(_) | Found::Incomplete(..) => {
                tokio::time::sleep(self.objects.retries().pause * 2).await;
                self.find_object(key, tier, renews).await
            }
            found => Ok(found),
        }
    }

    /// Whether the bucket has a usable result.
    pub(crate) async fn has_result(&self, key: &ActionKey) -> Result<bool, StoreError> {
        Ok(matches!(self.find_object(key, None, false).await?, Found::Usable(_)))
    }

    async fn find_object(
        &self,
        key: &ActionKey,
        tier: Option<&Tier>,
        renews: bool,
    ) -> Result<Found, StoreError> {
        let manifest = match self.read_manifest(key, renews).await? {
            None => return Ok(Found::Nothing),
            Some(Err(reason)) => return Ok(Found::Unusable(reason)),
            Some(Ok(manifest)) => manifest,
        };
        Ok(match self.first_missed(&manifest, tier).await? {
            None => Found::Usable(Box::new(manifest)),
            Some(digest) => Found::Incomplete(Box::new(manifest), digest),
        })
    }

    /// Publishes a manifest whose text is `text`: when this returns, it and all its blobs are in the bucket.
    pub(crate) async fn publish(&self, manifest: Manifest, text: &str) -> Result<Published, StoreError> {
        let Some(tier) = &self.tier else {
            let lost = stream::iter(manifest.blobs())
                .map(|blob| async move { Ok::<_, StoreError>((blob.digest, self.has_lately(&blob).await?)) })
                .buffered(CONCURRENCY)
                .boxed()
                .try_collect::<Vec<_>>()
                .await?;
            if let Some((digest, _)) = lost.into_iter().find(|(_, present)| !present) {
                return Err(StoreError::Missing { digest });
            }
            return self.put_manifest(manifest, text).await;
        };
        if let Some(digest) = self.first_lost(&manifest, Some(tier)).await? {
            return Err(StoreError::Missing { digest });
        }
        let (local, key, noted) = (Arc::clone(&tier.local), manifest.key, text.to_owned());
        let attempt = format!("note that `{}` is to be published", manifest.provenance.step);
        let pending = move || Pending::note(&local, &key, &noted).map_err(StoreError::io(|| attempt));
        let pending = blocking(pending).await?;
        let published = self.send(tier, manifest, text).await?;
        pending.done();
        Ok(published)
    }

    /// Sends the blobs of a manifest, and then the manifest.
    async fn send(&self, tier: &Tier, manifest: Manifest, text: &str) -> Result<Published, StoreError> {
        self.send_blobs(tier, &manifest).await?;
        let published = self.put_manifest(manifest, text).await?;
        tier.keep(&published.manifest).await?;
        Ok(published)
    }

    /// Publishes a manifest in the place of the one under its key.
    pub(crate) async fn replace(&self, manifest: Manifest, text: &str) -> Result<Manifest, StoreError> {
        if let Some(digest) = self.first_lost(&manifest, self.tier.as_ref()).await? {
            return Err(StoreError::Missing { digest });
        }
        if let Some(tier) = &self.tier {
            self.send_blobs(tier, &manifest).await?;
        }
        let attempt = || format!("replace the manifest of `{}` ({})", manifest.provenance.step, manifest.key);
        let path = ObjectPath::from(layout::manifest(&manifest.key));
        let put = self.objects.put_opts(&path, text.to_owned().into(), PutMode::Overwrite.into()).await;
        put.map_err(StoreError::objects(attempt))?;
        if let Some(tier) = &self.tier {
            tier.keep(&manifest).await?;
        }
        Ok(manifest)
    }

    async fn send_blobs(&self, tier: &Tier, manifest: &Manifest) -> Result<(), StoreError> {
        stream::iter(manifest.blobs())
            .map(|blob| self.send_blob(tier, blob))
            .buffer_unordered(CONCURRENCY)
            .boxed()
            .try_collect::<()>()
            .await
    }

    async fn send_blob(&self, tier: &Tier, blob: Artifact) -> Result<(), StoreError> {
        if self.has_seen(&blob.digest) {
            return Ok(());
        }
        let here = tier.has(blob).await?;
        if !(here && blob.size <= SMALL) && self.has(&blob).await? {
            return Ok(());
        }
        if !here {
            return Err(StoreError::Missing { digest: blob.digest });
        }
        let sent = self.upload_file(&tier.local.path(&layout::blob(&blob.digest)), &blob).await;
        if sent.is_err() {
            // A blob that was damaged in the folder is moved aside, and made again.
            let local = Arc::clone(&tier.local);
            blocking(move || local.verify(&blob.digest, false)).await?;
        }
        sent
    }

    /// Puts a manifest where it belongs, unless there is one that can be used.
    pub(crate) async fn put_manifest(&self, manifest: Manifest, text: &str) -> Result<Published, StoreError> {
        let key = manifest.key;
        let attempt = || format!("publish the manifest of `{}` ({key})", manifest.provenance.step);
        let object = layout::manifest(&key);
        let path = ObjectPath::from(object.as_str());
        let mut remaining = ATTEMPTS;
        loop {
            remaining -= 1;
            match self.objects.put_opts(&path, text.to_owned().into(), PutMode::Create.into()).await {
                Ok(_) => return Ok(Published { manifest, adopted: false }),
                Err(error @ ObjectError::AlreadyExists { .. }) => {
                    match self.find_settled(&key, None, false).await? {
                        Found::Usable(manifest) => {
                            return Ok(Published { manifest: *manifest, adopted: true });
                        }
                        _ if remaining == 0 => return Err(StoreError::objects(attempt)(error)),
                        Found::Nothing => {}
                        Found::Unusable(reason) => {
                            tracing::warn!(%key, %reason, "a stored result cannot be used");
                            self.quarantine(&object).await;
                        }
                        Found::Incomplete(stored, digest) => {
                            let reason = incomplete(&stored, digest);
                            tracing::warn!(%key, %reason, "a stored result cannot be used");
                            self.quarantine(&object).await;
                        }
                    }
                }
                Err(error) => return Err(StoreError::objects(attempt)(error)),
            }
        }
    }

    /// Sends a result that was made and not sent, unless somebody is at it.
    async fn send_pending(&self, tier: &Tier, key: &ActionKey) -> Result<Option<Manifest>, StoreError> {
        let Some((pending, text)) = tier.take_over(key).await? else { return Ok(None) };
        let manifest = Manifest::from_stored(&text, key).ok();
        let whole = match &manifest {
            Some(manifest) => self.first_lost(manifest, Some(tier)).await?.is_none(),
            None => false,
        };
        let (Some(manifest), true, Ok(text)) = (manifest, whole, str::from_utf8(&text)) else {
            pending.done();
            return Ok(None);
        };
        let step = manifest.provenance.step.clone();
        match self.send(tier, manifest, text).await {
            Ok(published) => {
                pending.done();
                tracing::info!(step, "published a result of an earlier run");
                Ok(Some(published.manifest))
            }
            Err(error) if error.lost_blob().is_some() => {
                pending.done();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends all results that an earlier process could not send.
    async fn send_all_pending(&self) -> Result<(), StoreError> {
        let Some(tier) = &self.tier else { return Ok(()) };
        stream::iter(tier.pending())
            .map(|key| async move { self.send_pending(tier, &key).await.map(|_| ()) })
            .buffer_unordered(4)
            .boxed()
            .try_collect()
            .await
    }

    /// Begins to send what an earlier process could not, while others go on.
    pub(crate) async fn begin_sending(self: &Arc<Self>) {
        let Some(tier) = &self.tier else { return };
        if tier.pending().is_empty() {
            return;
        }
        let remote = Arc::clone(self);
        *tier.sending.lock().await = Some(tokio::spawn(async move { remote.send_all_pending().await }));
    }

    /// Waits until everything that is on its way has arrived.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let Some(tier) = &self.tier else { return Ok(()) };
        match tier.sending.lock().await.take() {
            None => Ok(()),
            Some(sending) => match sending.await {
                Ok(sent) => sent,
                Err(error) => Err(StoreError::io(|| "publish earlier results")(error.into())),
            },
        }
    }
}
