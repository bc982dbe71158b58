//! The content-addressed store: blobs by digest, manifests by action key.
//!
//! ```text
//! bstar-store.json          the format of the store
//! blobs/ab/cdef…            content, named by its digest; read-only files on a disk
//! manifests/ab/cdef….json   results, named by their action key
//! runs/…                    records of runs
//! quarantine/…              damaged objects, kept for inspection
//! tmp/…                     blobs being written, on a disk
//! ```
//!
//! # What survives
//!
//! Blobs are written before the manifest that refers to them, and everything gets its final name in one
//! step, with its whole content. So a process that is killed at any point leaves either a whole result
//! or none, and temporary files, which nothing looks at; those in `tmp/` are deleted a day later.
//!
//! Manifests are flushed to the disk before they get their name; blobs are not, because training and
//! sampling write many gigabytes. After a power cut a manifest can therefore refer to a blob that is
//! missing, cut off, or full of zeros. A missing or shorter blob makes [`Store::lookup`] miss.
//! One with wrong content is found when it is used: all reading compares the digest, moves the damaged
//! blob aside, and fails with [`StoreError::Corrupt`], and the next lookup misses. In all cases the step is
//! executed again, and a wrong result is never used.

mod audit;
mod error;
mod layout;
mod local;
mod manifests;
mod objects;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStore, PutMode};
use serde::Deserialize;

pub use audit::{StageStat, Stat, Verification};
pub use error::StoreError;
pub use manifests::Published;

use crate::digest::Digest;
use crate::manifest::Artifact;
use local::Local;

/// The format of stores that this version makes, and the latest it reads.
const FORMAT: u64 = 1;

/// How many small objects are asked for at once.
const CONCURRENCY: usize = 16;

/// A content-addressed store. Clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    location: String,
    objects: Arc<dyn ObjectStore>,
    /// The same objects; what is written through here survives a power cut.
    durable: Arc<dyn ObjectStore>,
    /// The same objects as files, where they are files of this machine.
    local: Option<Arc<Local>>,
}

#[derive(Deserialize)]
struct Marker {
    format: u64,
}

impl Store {
    /// Opens the store at `location`, and makes it if there is none: a path, a `file://` address, or
    /// `memory://` for a new store that ends with its last clone.
    ///
    /// # Errors
    /// When the location is not understood or cannot be used, or the store has a later format.
    pub async fn open(location: &str) -> Result<Self, StoreError> {
        let inner = match location.split_once("://") {
            None => Inner::on_disk(location, Path::new(location))?,
            Some(("file", _)) => {
                let path = url::Url::parse(location).ok().and_then(|url| url.to_file_path().ok());
                let invalid = || StoreError::InvalidLocation { location: location.to_owned() };
                Inner::on_disk(location, &path.ok_or_else(invalid)?)?
            }
            Some(("memory", _)) => {
                let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
                Inner { location: location.to_owned(), durable: objects.clone(), objects, local: None }
            }
            Some((scheme, _)) => {
                let (location, scheme) = (location.to_owned(), scheme.to_owned());
                return Err(StoreError::Unsupported { location, scheme });
            }
        };
        let store = Self { inner: Arc::new(inner) };
        store.check_format().await?;
        Ok(store)
    }

    async fn check_format(&self) -> Result<(), StoreError> {
        let path = ObjectPath::from(layout::MARKER);
        let stored = match self.fetch(&path).await? {
            Some(stored) => stored,
            None => {
                let text = format!("{{\"format\":{FORMAT}}}\n").into_bytes();
                match self.inner.durable.put_opts(&path, text.clone().into(), PutMode::Create.into()).await {
                    Ok(_) => text,
                    Err(ObjectError::AlreadyExists { .. }) => self.fetch(&path).await?.unwrap_or_default(),
                    Err(error) => {
                        let attempt = || format!("make a store at `{}`", self.inner.location);
                        return Err(StoreError::objects(attempt)(error));
                    }
                }
            }
        };
        let location = self.inner.location.clone();
        match serde_json::from_slice::<Marker>(&stored) {
            Ok(Marker { format: 1..=FORMAT }) => Ok(()),
            Ok(Marker { format: found }) if found > FORMAT => {
                Err(StoreError::NewerFormat { location, found, known: FORMAT })
            }
            _ => Err(StoreError::DamagedMarker { location, marker: layout::MARKER }),
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
        self.inner.local.as_ref().map(|local| local.root())
    }

    fn objects(&self) -> &dyn ObjectStore {
        self.inner.objects.as_ref()
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// When writing fails.
    pub async fn put_bytes(&self, bytes: Vec<u8>) -> Result<Artifact, StoreError> {
        match self.inner.local.clone() {
            Some(local) => blocking(move || local.put_bytes(&bytes)).await,
            None => self.upload_bytes(bytes).await,
        }
    }

    /// Stores a copy of a file's content.
    ///
    /// # Errors
    /// When the file cannot be read, or writing fails.
    pub async fn put_file(&self, path: &Path) -> Result<Artifact, StoreError> {
        match self.inner.local.clone() {
            Some(local) => {
                let path = path.to_owned();
                blocking(move || local.put_file(&path)).await
            }
            None => self.upload_file(path).await,
        }
    }

    /// Stores a file's content and may take the file itself for it: afterwards the file may be gone, and
    /// nobody may write to it. This is how a step's large outputs get into a store on the same
    /// file system without being copied.
    ///
    /// # Errors
    /// When the file cannot be read, or writing fails.
    pub async fn adopt_file(&self, path: &Path) -> Result<Artifact, StoreError> {
        match self.inner.local.clone() {
            Some(local) => {
                let path = path.to_owned();
                blocking(move || local.adopt_file(&path)).await
            }
            None => self.upload_file(path).await,
        }
    }

    /// The content of a blob, verified.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; [`StoreError::Corrupt`], after which the blob has been moved aside; and when
    /// reading fails.
    pub async fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        match self.inner.local.clone() {
            Some(local) => {
                let digest = *digest;
                blocking(move || local.read(&digest)).await
            }
            None => self.download_bytes(digest).await,
        }
    }

    /// Makes the file `target` with the content of a blob, verified, replacing what was there. The
    /// file is read-only and may share its storage with the blob.
    ///
    /// # Errors
    /// As [`Store::read`], and when writing fails; then `target` is as it was.
    pub async fn materialise(&self, artifact: &Artifact, target: &Path) -> Result<(), StoreError> {
        match self.inner.local.clone() {
            Some(local) => {
                let (digest, target) = (artifact.digest, target.to_owned());
                blocking(move || local.materialise(&digest, &target)).await
            }
            None => self.download_file(&artifact.digest, target).await,
        }
    }

    async fn set_aside(&self, object: String) -> Result<(), StoreError> {
        match self.inner.local.clone() {
            Some(local) => {
                blocking(move || {
                    local.quarantine(&object);
                    Ok(())
                })
                .await
            }
            None => {
                self.quarantine(&object).await;
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
        let root = match std::fs::create_dir_all(folder).and_then(|()| folder.canonicalize()) {
            Ok(root) => root,
            Err(_) if is_file() => return Err(StoreError::NotAFolder { location: location.to_owned() }),
            Err(error) => return Err(StoreError::io(attempt)(error)),
        };
        let objects = || LocalFileSystem::new_with_prefix(&root).map_err(StoreError::objects(attempt));
        Ok(Self {
            location: location.to_owned(),
            objects: Arc::new(objects()?),
            durable: Arc::new(objects()?.with_fsync(true)),
            local: Some(Arc::new(Local::new(root))),
        })
    }
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
