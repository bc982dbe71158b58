//! Blobs to and from a server: in parts, several at a time, and verified on the way.
//!
//! Parts are 8 MiB, and at most [`ROOM`] MiB of them are in memory at a time, whatever the number and
//! the size of the blobs.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tempfile::NamedTempFile;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::super::local::YOUNG;
use super::super::{StoreError, blocking, layout};
use super::Remote;
use crate::action::ActionKey;
use crate::digest::Digest;
use crate::manifest::{Artifact, Manifest, Unusable};

const MIB: u64 = 1 << 20;
/// The size of parts; a larger blob is sent in parts, a smaller one in one piece.
const PART: u64 = 8 * MIB;
/// The most parts that S3 takes.
const PARTS: u64 = 10_000;
/// Parts of one blob in flight.
const IN_FLIGHT: usize = 4;
/// The memory that all parts may take together, in MiB.
pub(crate) const ROOM: usize = 64;
/// How often a blob is read whose content is wrong in a different way each time.
const READINGS: usize = 4;
/// How long an old manifest is tried to be written again.
const RENEWAL: Duration = Duration::from_secs(5);

/// The object at `path`, if there is one.
pub(crate) async fn fetch(
    objects: &dyn ObjectStore,
    path: &ObjectPath,
) -> Result<Option<Vec<u8>>, ObjectError> {
    Ok(fetch_dated(objects, path).await?.map(|(bytes, _)| bytes))
}

/// The object at `path`, if there is one, and when it was written.
async fn fetch_dated(
    objects: &dyn ObjectStore,
    path: &ObjectPath,
) -> Result<Option<(Vec<u8>, SystemTime)>, ObjectError> {
    match objects.get_opts(path, GetOptions::default()).await {
        Ok(object) => {
            let written = object.meta.last_modified.into();
            Ok(Some((object.bytes().await?.into(), written)))
        }
        Err(ObjectError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn blob_path(digest: &Digest) -> ObjectPath {
    ObjectPath::from(layout::blob(digest))
}

/// A file that is read in parts, one after the other.
#[derive(Clone)]
struct Parts(Arc<Mutex<Reading>>);

struct Reading {
    file: File,
    size: u64,
    hasher: blake3::Hasher,
}

impl Parts {
    fn open(path: &Path, size: u64) -> std::io::Result<Self> {
        let reading = Reading { file: File::open(path)?, size, hasher: blake3::Hasher::new() };
        Ok(Self(Arc::new(Mutex::new(reading))))
    }

    /// The next part; empty at the end.
    async fn next(&self) -> Result<Vec<u8>, StoreError> {
        let parts = self.clone();
        let read = move || {
            let mut reading = parts.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Reading { file, size, hasher } = &mut *reading;
            let mut part = Vec::with_capacity(usize::try_from(*size).unwrap_or(usize::MAX));
            Read::take(file, *size).read_to_end(&mut part)?;
            hasher.update(&part);
            Ok(part)
        };
        blocking(move || read().map_err(StoreError::io(|| "read a part of a file"))).await
    }

    /// The digest of what was read so far.
    fn digest(&self) -> Digest {
        Digest::from_hasher(&self.0.lock().unwrap_or_else(PoisonError::into_inner).hasher)
    }
}

/// A piece of a blob, and the right to have it in memory.
type Block = (Bytes, Option<OwnedSemaphorePermit>);

/// Hashes and writes blocks while the next ones arrive.
struct Sink {
    /// Blocks that are not worth a thread yet.
    waiting: Vec<Block>,
    bytes: usize,
    writing: JoinHandle<std::io::Result<Written>>,
}

struct Written {
    hasher: blake3::Hasher,
    file: Option<NamedTempFile>,
}

impl Sink {
    fn new(file: Option<NamedTempFile>) -> Self {
        let written = Written { hasher: blake3::Hasher::new(), file };
        Self { waiting: Vec::new(), bytes: 0, writing: tokio::spawn(async { Ok(written) }) }
    }

    async fn take(&mut self, block: Bytes, room: Option<OwnedSemaphorePermit>) -> std::io::Result<()> {
        self.bytes += block.len();
        self.waiting.push((block, room));
        if self.bytes as u64 >= MIB { self.write().await } else { Ok(()) }
    }

    /// Begins to write what waits, once what was begun before is written.
    async fn write(&mut self) -> std::io::Result<()> {
        let mut written = (&mut self.writing).await??;
        let blocks = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        self.writing = tokio::task::spawn_blocking(move || {
            for (block, _room) in blocks {
                written.hasher.update(&block);
                if let Some(file) = &mut written.file {
                    file.write_all(&block)?;
                }
            }
            Ok(written)
        });
        Ok(())
    }

    async fn end(mut self) -> std::io::Result<(Digest, u64, Option<NamedTempFile>)> {
        self.write().await?;
        let Written { hasher, file } = self.writing.await??;
        Ok((Digest::from_hasher(&hasher), hasher.count(), file))
    }
}

impl Remote {
    /// Whether there is a blob of this digest and size on the server; its content is not read.
    pub(crate) async fn has(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        let found = match self.objects.head(&blob_path(&artifact.digest)).await {
            Ok(meta) => meta.size == artifact.size,
            Err(ObjectError::NotFound { .. }) => false,
            Err(error) => {
                return Err(StoreError::objects(|| format!("look for blob {}", artifact.digest))(error));
            }
        };
        if found {
            self.saw(&artifact.digest);
        } else {
            self.forget(&artifact.digest);
        }
        Ok(found)
    }

    /// As [`Remote::has`], without asking for what this process has seen or sent lately.
    pub(crate) async fn has_lately(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        if self.has_seen(&artifact.digest) { Ok(true) } else { self.has(artifact).await }
    }

    async fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = bytes.div_ceil(MIB).clamp(1, ROOM as u64);
        // It is never closed.
        Arc::clone(&self.room).acquire_many_owned(u32::try_from(permits).unwrap_or(1)).await.ok()
    }

    /// Reads a manifest. One that cannot be used is believed to be so once two readings gave the same. With
    /// `renews`, an old one is written again, as it is, so that a collection takes it for young.
    pub(crate) async fn read_manifest(
        &self,
        key: &ActionKey,
        renews: bool,
    ) -> Result<Option<Result<Manifest, Unusable>>, StoreError> {
        let object = layout::manifest(key);
        let path = ObjectPath::from(object.as_str());
        let mut before = None;
        for _ in 0..READINGS {
            let read = fetch_dated(&self.objects, &path).await;
            let Some((text, written)) = read.map_err(StoreError::objects(|| format!("read {object}")))?
            else {
                return Ok(None);
            };
            let found = Digest::of(&text);
            match Manifest::from_stored(&text, key) {
                Err(_) if before.replace(found) != Some(found) => {}
                manifest => {
                    if renews && manifest.is_ok() && written.elapsed().is_ok_and(|age| age > YOUNG) {
                        self.write_again(&path, text).await;
                    }
                    return Ok(Some(manifest));
                }
            }
        }
        Err(unsteady(&object))
    }

    /// Writes an object again. Who may only read, or is in a hurry, does without.
    async fn write_again(&self, path: &ObjectPath, bytes: Vec<u8>) {
        if let Err(error) = self.objects.for_at_most(RENEWAL).put(path, bytes.into()).await {
            tracing::debug!(%path, %error, "cannot renew a manifest");
        }
    }

    /// Sends a blob.
    pub(crate) async fn upload_bytes(&self, bytes: Vec<u8>) -> Result<Artifact, StoreError> {
        let artifact = Artifact { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        let attempt = || format!("store blob {}", artifact.digest);
        self.objects
            .put(&blob_path(&artifact.digest), bytes.into())
            .await
            .map_err(StoreError::objects(attempt))?;
        self.saw(&artifact.digest);
        Ok(artifact)
    }

    /// Sends a file, which must have the content of `artifact`: nothing else becomes visible.
    pub(crate) async fn upload_file(&self, source: &Path, artifact: &Artifact) -> Result<(), StoreError> {
        let size = part_size(artifact.size);
        // A little more than a small file, so that one that has grown does not pass for it.
        let parts = Parts::open(source, size.min(artifact.size + 1))
            .map_err(StoreError::io(|| format!("read {}", source.display())))?;
        let attempt = || format!("store {} as blob {}", source.display(), artifact.digest);
        if artifact.size > size {
            self.upload_parts(&parts, size, artifact).await?;
        } else {
            let _room = self.room(artifact.size).await;
            let content = parts.next().await?;
            unchanged(&parts, artifact).map_err(StoreError::io(attempt))?;
            let path = blob_path(&artifact.digest);
            self.objects.put(&path, content.into()).await.map_err(StoreError::objects(attempt))?;
        }
        self.saw(&artifact.digest);
        Ok(())
    }

    async fn upload_parts(&self, parts: &Parts, size: u64, artifact: &Artifact) -> Result<(), StoreError> {
        let attempt = || format!("store blob {}", artifact.digest);
        let path = &blob_path(&artifact.digest);
        let id = &self.objects.create_multipart(path).await.map_err(StoreError::objects(attempt))?;
        let numbered = stream::try_unfold(0, async |number| {
            let room = self.room(size).await;
            let part = parts.next().await?;
            Ok::<_, StoreError>((!part.is_empty()).then_some(((number, part, room), number + 1)))
        })
        .boxed();
        let sent = numbered
            .map_ok(async |(number, part, room)| {
                let sent = self.objects.put_part(path, id, number, part.into()).await;
                drop(room);
                sent.map_err(StoreError::objects(attempt))
            })
            .try_buffered(IN_FLIGHT)
            .boxed()
            .try_collect::<Vec<PartId>>()
            .await;
        let sent = sent.and_then(|sent| {
            unchanged(parts, artifact).map_err(StoreError::io(attempt))?;
            Ok(sent)
        });
        let done = match sent {
            Ok(sent) => match self.objects.complete_multipart(path, id, sent).await {
                // When only the answer was lost, the upload is gone and the blob is there.
                Err(error) if !self.objects.holds(path, artifact.size).await => {
                    Err(StoreError::objects(attempt)(error))
                }
                _ => Ok(()),
            },
            Err(error) => Err(error),
        };
        if done.is_err() {
            // Nothing is visible under the final name; a failed abort leaves only parts behind.
            let objects = self.objects.for_at_most(self.objects.retries().stall);
            let _parts = objects.abort_multipart(path, id).await;
        }
        done
    }

    /// The content of a blob, verified.
    pub(crate) async fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut wrong = None;
        for _ in 0..READINGS {
            let read = fetch(&self.objects, &blob_path(digest)).await;
            let bytes = read.map_err(StoreError::objects(|| format!("read blob {digest}")))?;
            let bytes = bytes.ok_or(StoreError::Missing { digest: *digest })?;
            let found = Digest::of(&bytes);
            if found == *digest {
                return Ok(bytes);
            }
            self.believe(digest, found, &mut wrong).await?;
        }
        Err(unsteady(&format!("blob {digest}")))
    }

    /// Writes a blob to a new file in `folder`, verified. Where the size is known, the parts of a big one
    /// are asked for side by side.
    pub(crate) async fn download(
        &self,
        digest: &Digest,
        size: Option<u64>,
        folder: &Path,
    ) -> Result<NamedTempFile, StoreError> {
        let mut wrong = None;
        for _ in 0..READINGS {
            let file = std::fs::create_dir_all(folder)
                .and_then(|()| tempfile::Builder::new().prefix(".bstar-").suffix(".tmp").tempfile_in(folder))
                .map_err(StoreError::io(|| format!("write blob {digest} to {}", folder.display())))?;
            let (found, _, file) = self.transfer(digest, size, Some(file)).await?;
            match file {
                Some(file) if found == *digest => return Ok(file),
                _ => self.believe(digest, found, &mut wrong).await?,
            }
        }
        Err(unsteady(&format!("blob {digest}")))
    }

    /// Reads a blob and compares its digest; gives its size.
    pub(crate) async fn verify(&self, digest: &Digest) -> Result<u64, StoreError> {
        let mut wrong = None;
        for _ in 0..READINGS {
            let (found, size, _) = self.transfer(digest, None, None).await?;
            if found == *digest {
                return Ok(size);
            }
            self.believe(digest, found, &mut wrong).await?;
        }
        Err(unsteady(&format!("blob {digest}")))
    }

    /// A content is only believed to be wrong once it was wrong in the same way twice: what was changed
    /// on the way is right the next time.
    async fn believe(
        &self,
        digest: &Digest,
        found: Digest,
        wrong: &mut Option<Digest>,
    ) -> Result<(), StoreError> {
        if wrong.replace(found) != Some(found) {
            tracing::debug!(%digest, %found, "reading a blob again");
            return Ok(());
        }
        self.forget(digest);
        self.quarantine(&layout::blob(digest)).await;
        Err(StoreError::Corrupt { digest: *digest, found })
    }

    /// Moves a blob's content into `file`, if there is one; gives what it hashes to and its size.
    async fn transfer(
        &self,
        digest: &Digest,
        size: Option<u64>,
        file: Option<NamedTempFile>,
    ) -> Result<(Digest, u64, Option<NamedTempFile>), StoreError> {
        let mut blocks = self.blocks(digest, size).await?;
        // Not before: what is missing leaves no file behind that is deleted a moment later.
        let mut sink = Sink::new(file);
        let attempt = || format!("write blob {digest}");
        let taken = async {
            while let Some((block, room)) = blocks.try_next().await? {
                sink.take(block, room).await.map_err(StoreError::io(attempt))?;
            }
            Ok(())
        };
        let taken = taken.await;
        // What was begun ends first, whatever happened: then nothing is left over.
        let written = sink.end().await;
        taken?;
        written.map_err(StoreError::io(attempt))
    }

    /// The blocks of a blob in order.
    async fn blocks(
        &self,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<BoxStream<'_, Result<Block, StoreError>>, StoreError> {
        let digest = *digest;
        let failed = move |error| match error {
            ObjectError::NotFound { .. } => StoreError::Missing { digest },
            error => StoreError::objects(|| format!("read blob {digest}"))(error),
        };
        let path = blob_path(&digest);
        if let Some(size) = size.filter(|size| *size > 2 * PART)
            // A blob that was cut off is read to its end, and its wrong content is found.
            && self.objects.head(&path).await.map_err(failed)?.size == size
        {
            let parts = stream::iter((0..size).step_by(PART as usize)).map(move |start| {
                let path = path.clone();
                async move {
                    let room = self.room(PART).await;
                    let range = Some(GetRange::Bounded(start..size.min(start + PART)));
                    let options = GetOptions { range, ..GetOptions::default() };
                    let part = self.objects.get_opts(&path, options).await?;
                    Ok((part.bytes().await?, room))
                }
            });
            return Ok(parts.buffered(IN_FLIGHT).map_err(failed).boxed());
        }
        let body = self.objects.get(&path).await.map_err(failed)?.into_stream();
        Ok(body.map_ok(|block| (block, None)).map_err(failed).boxed())
    }

    /// Moves an object to where it is never looked for. Failing to do so is only reported: the caller
    /// is already on its way to report the damage.
    pub(crate) async fn quarantine(&self, object: &str) {
        let aside = layout::quarantined(object);
        let path = ObjectPath::from(object);
        let objects = self.objects.for_at_most(self.objects.retries().stall);
        let moved = match objects.rename(&path, &ObjectPath::from(aside.as_str())).await {
            // Some servers do not copy what is large. Out of the way matters more than kept.
            Err(error) if !matches!(error, ObjectError::NotFound { .. }) => objects.delete(&path).await,
            result => result,
        };
        match moved {
            Ok(()) => tracing::warn!(object, aside, "moved a damaged object aside"),
            Err(ObjectError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(object, %error, "cannot move a damaged object aside"),
        }
    }
}

fn unchanged(parts: &Parts, artifact: &Artifact) -> std::io::Result<()> {
    let changed = || std::io::Error::other("the file changed while it was stored");
    if parts.digest() == artifact.digest { Ok(()) } else { Err(changed()) }
}

fn unsteady(what: &str) -> StoreError {
    let differs = std::io::Error::new(std::io::ErrorKind::InvalidData, "every reading gives another content");
    StoreError::io(|| format!("read {what}"))(differs)
}

/// At least [`PART`], and so large that [`PARTS`] of them are enough.
fn part_size(size: u64) -> u64 {
    PART.max(size.div_ceil(PARTS).div_ceil(MIB) * MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_large_enough_for_the_largest_file() {
        for (size, part) in [(0, PART), (1 << 30, PART), (80 << 30, 9 * MIB), (5 << 40, 525 * MIB)] {
            assert_eq!(part_size(size), part, "{size}");
            assert!(size.div_ceil(part) <= PARTS);
        }
    }
}
