//! The content-addressed store: blobs by digest, manifests by action key.
//!
//! ```text
//! bstar-store.json          the format of the store
//! blobs/ab/cdef…            content, named by its digest; read-only files on a disk
//! manifests/ab/cdef….json   results, named by their action key
//! runs/…                    records of runs
//! pins/RUN.json             runs whose results are kept
//! leases/KEY/…              who executes which key, where the store is not a folder
//! retired/KEY.json          outputs that were deleted on purpose
//! quarantine/…              damaged objects, kept for inspection
//! tmp/…                     blobs being written, on a disk
//! pending/…                 results on their way to a bucket, in the folder in front of it
//! ```
//!
//! # What survives
//!
//! Blobs are written before the manifest that refers to them, and everything gets its final name in one
//! step, with its whole content. So a process that is killed at any point leaves either a whole result
//! or none, and temporary files, which nothing looks at; those in `tmp/` are deleted a day later.
//!
//! After a power cut, recent results can be gone: those of the last two seconds or so, as a store in a
//! folder is synced as a whole, in the background, while results come in ([`Store::commit`] does it at
//! once; a run does so before its last word). What the power cut left behind of the others may be a
//! manifest that is empty or torn, which fails its seal, or one whose blob is missing or shorter: both make
//! [`Store::lookup`] miss. A blob with wrong content is found when it is used: all reading compares the
//! digest, moves the damaged blob aside, and fails with [`StoreError::Corrupt`], and the next lookup
//! misses. In all cases the step is executed again, and a wrong result is never used.
//!
//! # Buckets
//!
//! A store may be a prefix in a bucket: `s3://bucket/prefix`. What is published is in the bucket, as durable as
//! that is; a folder on this machine stands in front of it ([`StoreOptions::tier`]). What fails for
//! the moment is tried again for some minutes.

mod audit;
mod commit;
mod copy;
mod error;
mod gc;
mod known;
mod layout;
mod lease;
mod local;
mod manifests;
mod objects;
mod pace;
mod remote;
mod retire;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStore, PutMode};
use serde::Deserialize;

pub use audit::{StageStat, Stat, Verification};
pub use copy::Copied;
pub use error::StoreError;
pub use gc::{Collected, Collection, Inventory, Object, Shrunk, Unneeded};
pub use lease::{Holder, Lease, LeaseOptions, LeaseRequest, Standing};
pub use manifests::Published;
pub use remote::failure::{Endpoint, Problem, RemoteFailure};
pub use remote::retry::Retries;
pub use retire::{Freed, Retired};

use crate::digest::Digest;
use crate::manifest::Artifact;
use crate::placement::create_spread_folder;
use known::Known;
use local::Local;
use remote::Remote;
use remote::retry::{Objects, Patient};
use remote::tier::Tier;

/// The format of stores that this version makes, and the latest it reads.
const FORMAT: u64 = 1;
/// Files of one folder that are moved at a time: enough to hide the latency of a remote store.
pub const TRANSFERS: usize = 8;

/// How many small objects are asked for at once.
const CONCURRENCY: usize = 16;

/// A content-addressed store. Clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// Whether results that are found become young again.
    renews: bool,
}

struct Inner {
    location: String,
    objects: Arc<dyn ObjectStore>,
    place: Place,
    /// The outputs of all results, and what was retired, once somebody has asked.
    outputs: Known<BTreeMap<String, Artifact>>,
    notes: Known<Retired>,
}

/// Where the objects are, and what can be done with them there.
#[derive(Clone)]
enum Place {
    /// Files of this machine.
    Here(Arc<Local>),
    /// Elsewhere: on a server, or in memory.
    There(Arc<Remote>),
}

#[derive(Deserialize)]
struct Marker {
    format: u64,
}

impl Marker {
    fn text(format: u64) -> Vec<u8> {
        format!("{{\"format\":{format}}}\n").into_bytes()
    }
}

/// How a store is opened.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// The folder in front of a bucket.
    pub tier: TierFolder,
    /// How long failing operations on a bucket are tried again.
    pub retries: Retries,
    /// The `AWS_…` variables; `None`: those of the environment.
    pub variables: Option<Vec<(String, String)>>,
}

/// Where a bucket's content is kept on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TierFolder {
    /// Below the folder that `BSTAR_TIER` names, or the user's cache folder; `BSTAR_TIER=off` is [`TierFolder::Off`].
    #[default]
    Default,
    /// Below this folder, in one of its own for each bucket, prefix and server.
    Below(PathBuf),
    /// Nowhere: everything is read from the bucket each time.
    Off,
}

impl Store {
    /// Opens the store at `location`, and makes it if there is none: a path, a `file://` address,
    /// `s3://bucket/prefix`, or `memory://` for a new store that ends with its last clone.
    ///
    /// # Errors
    /// When the location is not understood or cannot be used, or the store has a later format.
    pub async fn open(location: &str) -> Result<Self, StoreError> {
        let retries = Retries::of_environment();
        Self::open_with(location, StoreOptions { retries, ..StoreOptions::default() }).await
    }

    /// As [`Store::open`], with options.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with(location: &str, options: StoreOptions) -> Result<Self, StoreError> {
        let inner = match location.split_once("://") {
            None => Inner::on_disk(location, Path::new(location))?,
            Some(("file", _)) => {
                let path = url::Url::parse(location).ok().and_then(|url| url.to_file_path().ok());
                let invalid = || StoreError::InvalidLocation { location: location.to_owned() };
                Inner::on_disk(location, &path.ok_or_else(invalid)?)?
            }
            Some(("memory", _)) => {
                let endpoint = Endpoint { address: location.to_owned(), variable: None };
                let objects = Patient::new(Arc::new(InMemory::new()), options.retries, endpoint);
                Inner::remote(location, objects, None)
            }
            Some(("s3", _)) => {
                let variables = options.variables.unwrap_or_else(remote::s3::environment);
                let bucket = remote::s3::bucket(location, &variables)?;
                return Self::open_remote(
                    location,
                    bucket.objects,
                    bucket.endpoint,
                    options.retries,
                    &options.tier,
                )
                .await;
            }
            Some((scheme, _)) => {
                let (location, scheme) = (location.to_owned(), scheme.to_owned());
                return Err(StoreError::Unsupported { location, scheme });
            }
        };
        let store = Self { inner: Arc::new(inner), renews: false };
        store.check_format().await?;
        Ok(store)
    }

    /// Opens a store on a server.
    async fn open_remote(
        location: &str,
        objects: Arc<dyn Objects>,
        endpoint: Endpoint,
        retries: Retries,
        tier: &TierFolder,
    ) -> Result<Self, StoreError> {
        let folder = match tier {
            TierFolder::Default => remote::tier::default_folder(),
            TierFolder::Below(folder) => Some(folder.clone()),
            TierFolder::Off => None,
        };
        let tier = match folder {
            Some(folder) => {
                let place = format!("{} {}", endpoint.address, location.trim_end_matches('/'));
                Some(Tier::open(&folder.join(Digest::of(place.as_bytes()).short())).await?)
            }
            None => None,
        };
        let objects = Patient::new(objects, retries, endpoint);
        remote::probe(location, &objects).await?;
        let store = Self { inner: Arc::new(Inner::remote(location, objects, tier)), renews: false };
        if let Place::There(remote) = &store.inner.place {
            remote.begin_sending().await;
        }
        Ok(store)
    }

    /// The same store, for a run, which relies on what it finds: an old result that [`Store::lookup`] finds
    /// becomes young again, so that a collection leaves it. Whoever only looks has no need of that.
    #[must_use]
    pub fn renewing(&self) -> Self {
        Self { renews: true, ..self.clone() }
    }

    async fn check_format(&self) -> Result<(), StoreError> {
        let path = ObjectPath::from(layout::MARKER);
        let stored = match self.fetch(&path).await? {
            Some(stored) => stored,
            None => {
                let text = Marker::text(FORMAT);
                if self.make_marker(&path, &text).await? {
                    text
                } else {
                    self.fetch(&path).await?.unwrap_or_default()
                }
            }
        };
        check_marker(&self.inner.location, &stored)
    }

    /// Makes the marker unless there is one; whether it did.
    async fn make_marker(&self, path: &ObjectPath, text: &[u8]) -> Result<bool, StoreError> {
        let attempt = format!("make a store at `{}`", self.inner.location);
        match self.inner.place.clone() {
            Place::Here(local) => {
                let text = text.to_owned();
                blocking(move || local.make_marker(&text).map_err(StoreError::io(|| attempt))).await
            }
            Place::There(_) => {
                let bytes = text.to_owned().into();
                match self.objects().put_opts(path, bytes, PutMode::Create.into()).await {
                    Ok(_) => Ok(true),
                    Err(ObjectError::AlreadyExists { .. }) => Ok(false),
                    Err(error) => Err(StoreError::objects(|| attempt)(error)),
                }
            }
        }
    }

    /// Waits until results of earlier runs that this process has begun to send to the bucket are there.
    /// What [`Store::publish`] has published needs no waiting.
    ///
    /// # Errors
    /// When one could not be sent. It is kept in the folder in front of the bucket, and sent when the
    /// store is opened again.
    pub async fn flush(&self) -> Result<(), StoreError> {
        match &self.inner.place {
            Place::Here(_) => Ok(()),
            Place::There(remote) => remote.flush().await,
        }
    }

    /// The location, as given to [`Store::open`].
    #[must_use]
    pub fn location(&self) -> &str {
        &self.inner.location
    }

    /// The absolute path of the folder, for a store on this machine's disks.
    #[must_use]
    pub fn local_root(&self) -> Option<&Path> {
        match &self.inner.place {
            Place::Here(local) => Some(local.root()),
            Place::There(_) => None,
        }
    }

    /// The absolute path of the folder in which the store keeps files on this machine: its own, or the one in
    /// front of its bucket. Files next to it can be moved into the store.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match &self.inner.place {
            Place::Here(local) => Some(local.root()),
            Place::There(remote) => remote.tier.as_ref().map(|tier| tier.local().root()),
        }
    }

    fn objects(&self) -> &dyn ObjectStore {
        self.inner.objects.as_ref()
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// When writing fails.
    pub async fn put_bytes(&self, bytes: Vec<u8>) -> Result<Artifact, StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => {
                let size = bytes.len() as u64;
                short(&local.clone(), size, move || local.put_bytes(&bytes)).await
            }
            Place::There(remote) => remote.store_bytes(bytes).await,
        }
    }

    /// Stores a copy of a file's content.
    ///
    /// # Errors
    /// When the file cannot be read, or writing fails.
    pub async fn put_file(&self, path: &Path) -> Result<Artifact, StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => {
                let path = path.to_owned();
                short(&local.clone(), size_of(&path), move || local.put_file(&path)).await
            }
            Place::There(remote) => remote.store_file(path, false).await,
        }
    }

    /// Stores a file's content and may take the file itself for it: afterwards the file may be gone, and
    /// nobody may write to it. This is how a step's large outputs get into a store on the same
    /// file system without being copied.
    ///
    /// # Errors
    /// When the file cannot be read, or writing fails.
    pub async fn adopt_file(&self, path: &Path) -> Result<Artifact, StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => {
                let path = path.to_owned();
                short(&local.clone(), size_of(&path), move || local.adopt_file(&path)).await
            }
            Place::There(remote) => remote.store_file(path, true).await,
        }
    }

    /// The content of a blob, verified.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; [`StoreError::Corrupt`], after which the blob has been moved aside; and when
    /// reading fails.
    pub async fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => {
                let digest = *digest;
                blocking(move || local.read(&digest)).await
            }
            Place::There(remote) => remote.content(digest).await,
        }
    }

    /// Makes the file `target` with the content of a blob, verified, replacing what was there. The
    /// file is read-only and may share its storage with the blob.
    ///
    /// # Errors
    /// As [`Store::read`], and when writing fails; then `target` is as it was.
    pub async fn materialise(&self, artifact: &Artifact, target: &Path) -> Result<(), StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => {
                let (artifact, target) = (*artifact, target.to_owned());
                short(&local.clone(), artifact.size, move || local.materialise(&artifact.digest, &target))
                    .await
            }
            Place::There(remote) => remote.materialise(artifact, target).await,
        }
    }

    /// Makes files below `target` as [`Store::materialise`] does, with the folders they need; a lone file without a
    /// name is `target` itself.
    ///
    /// # Errors
    /// As [`Store::materialise`]; then some of the files may be there.
    pub async fn materialise_all(
        &self,
        files: &[(String, Artifact)],
        target: &Path,
    ) -> Result<(), StoreError> {
        let make = |(name, artifact): &(String, Artifact)| {
            let path = if name.is_empty() { target.to_owned() } else { target.join(name) };
            let (folder, artifact) =
                (path.parent().filter(|_| !name.is_empty()).map(Path::to_owned), *artifact);
            async move {
                if let Some(folder) = folder {
                    std::fs::create_dir_all(&folder).map_err(|source| StoreError::Io {
                        attempt: format!("create {}", folder.display()),
                        source,
                    })?;
                }
                self.materialise(&artifact, &path).await
            }
        };
        stream::iter(files.iter().map(make)).buffer_unordered(TRANSFERS).try_collect().await
    }

    /// Whether the store holds a blob of this digest and size; its content is verified when it is used.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn contains(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => {
                let artifact = *artifact;
                short(&local.clone(), 0, move || local.has(&artifact)).await
            }
            Place::There(remote) => remote.holds(artifact).await,
        }
    }

    /// Returns when everything that was published through this store survives a power cut.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn commit(&self) -> Result<(), StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => blocking(move || local.commit()).await,
            Place::There(_) => Ok(()),
        }
    }

    async fn set_aside(&self, object: String) -> Result<(), StoreError> {
        match self.inner.place.clone() {
            Place::Here(local) => {
                blocking(move || {
                    local.quarantine(&object);
                    Ok(())
                })
                .await
            }
            Place::There(remote) => {
                remote.quarantine(&object).await;
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Store").field(&self.inner.location).finish()
    }
}

impl Inner {
    fn on_disk(location: &str, folder: &Path) -> Result<Self, StoreError> {
        let attempt = || format!("make the folder of the store `{location}`");
        let is_file = || folder.metadata().is_ok_and(|metadata| !metadata.is_dir());
        let root = match create_spread_folder(folder).and_then(|()| folder.canonicalize()) {
            Ok(root) => root,
            Err(_) if is_file() => return Err(StoreError::NotAFolder { location: location.to_owned() }),
            Err(error) => return Err(StoreError::io(attempt)(error)),
        };
        let objects = LocalFileSystem::new_with_prefix(&root).map_err(StoreError::objects(attempt))?;
        Ok(Self {
            location: location.to_owned(),
            objects: Arc::new(objects),
            place: Place::Here(Arc::new(Local::new(root))),
            outputs: Known::default(),
            notes: Known::default(),
        })
    }

    fn remote(location: &str, objects: Patient, tier: Option<Tier>) -> Self {
        Self {
            location: location.to_owned(),
            objects: Arc::new(objects.clone()),
            place: Place::There(Arc::new(Remote::new(objects, tier))),
            outputs: Known::default(),
            notes: Known::default(),
        }
    }
}

/// Whether this version reads the store with that marker.
fn check_marker(location: &str, stored: &[u8]) -> Result<(), StoreError> {
    let location = location.to_owned();
    match serde_json::from_slice::<Marker>(stored) {
        Ok(Marker { format: 1..=FORMAT }) => Ok(()),
        Ok(Marker { format: found }) if found > FORMAT => {
            Err(StoreError::NewerFormat { location, found, known: FORMAT })
        }
        _ => Err(StoreError::DamagedMarker { location, marker: layout::MARKER }),
    }
}

/// Carries out file operations that read or write `size` bytes: at once, while they are short.
async fn short<T: Send + 'static>(
    local: &Arc<Local>,
    size: u64,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if size > pace::SMALL {
        blocking(work).await
    } else if local.pace.is_quick() {
        local.pace.measure(work)
    } else {
        let local = Arc::clone(local);
        blocking(move || local.pace.measure(work)).await
    }
}

/// The size of a file; of one that cannot be read, what is soon said of it.
fn size_of(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { u64::MAX })
}

/// Carries out file operations off the threads that drive other tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(stopped) => Err(StoreError::io(|| "use the store")(stopped.into())),
        },
    }
}

#[cfg(test)]
mod tests;
