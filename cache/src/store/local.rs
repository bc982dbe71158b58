//! Blobs in a folder on this machine, with plain file operations.
//!
//! A blob is written below `tmp/` and renamed, so that its final name never shows a part of it.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::{StoreError, layout};
use crate::digest::Digest;
use crate::manifest::Artifact;

/// Temporary files of this age were left behind by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A file changed again within this time may keep its modification time: it is not remembered.
const RACY: Duration = Duration::from_secs(1);

/// The blobs of a local store.
pub(crate) struct Local {
    root: PathBuf,
    /// Blobs whose content was verified by this process, as they were then.
    verified: Mutex<HashMap<Digest, Stamp>>,
}

/// What changes when a file's content does.
#[derive(PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: SystemTime,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> io::Result<Self> {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { size: metadata.len(), modified: metadata.modified()?, inode })
    }
}

impl Local {
    /// The blobs below `root`, an absolute path.
    pub(crate) fn new(root: PathBuf) -> Self {
        let local = Self { root, verified: Mutex::default() };
        local.sweep();
        local
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The file of an object.
    pub(crate) fn path(&self, object: &str) -> PathBuf {
        self.root.join(object)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path(&layout::blob(digest))
    }

    /// Whether there is a blob of this digest and size; its content is not read.
    pub(crate) fn has(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        match fs::metadata(self.blob(&artifact.digest)) {
            Ok(metadata) => Ok(metadata.is_file() && metadata.len() == artifact.size),
            Err(error) if absent(&error) => Ok(false),
            Err(error) => Err(StoreError::io(|| format!("look for blob {}", artifact.digest))(error)),
        }
    }

    pub(crate) fn put_bytes(&self, bytes: &[u8]) -> Result<Artifact, StoreError> {
        let artifact = Artifact { digest: Digest::of(bytes), size: bytes.len() as u64 };
        if self.has(&artifact)? {
            return Ok(artifact);
        }
        self.store(&mut io::Cursor::new(bytes))
            .map_err(StoreError::io(|| format!("store blob {}", artifact.digest)))
    }

    pub(crate) fn put_file(&self, source: &Path) -> Result<Artifact, StoreError> {
        let artifact = hash(source).map_err(StoreError::io(|| format!("read {}", source.display())))?;
        if self.has(&artifact)? {
            return Ok(artifact);
        }
        // The copy is hashed again: the name is that of what was copied, whatever happens to the source.
        File::open(source)
            .and_then(|mut file| self.store(&mut file))
            .map_err(StoreError::io(|| format!("store {} as blob {}", source.display(), artifact.digest)))
    }

    pub(crate) fn adopt_file(&self, source: &Path) -> Result<Artifact, StoreError> {
        if !movable(source) {
            return self.put_file(source);
        }
        let artifact = hash(source).map_err(StoreError::io(|| format!("read {}", source.display())))?;
        if self.has(&artifact)? {
            return Ok(artifact);
        }
        let blob = self.blob(&artifact.digest);
        match in_folder_of(&blob, || fs::rename(source, &blob)) {
            Ok(()) => {
                if let Err(error) = make_read_only(&blob) {
                    tracing::warn!(blob = %artifact.digest, %error, "cannot make a blob read-only");
                }
                Ok(artifact)
            }
            // Another file system, or a folder that must not change.
            Err(_) => self.put_file(source),
        }
    }

    fn store(&self, reader: &mut impl io::Read) -> io::Result<Artifact> {
        let folder = self.path(layout::TEMPORARY);
        fs::create_dir_all(&folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        let (digest, size) = Digest::of_copy(reader, file.as_file_mut())?;
        make_read_only(file.path())?;
        let blob = self.blob(&digest);
        let path = file.into_temp_path();
        in_folder_of(&blob, || fs::rename(&path, &blob))?;
        // Renamed: there is nothing left to delete.
        let _gone = path.keep();
        Ok(Artifact { digest, size })
    }

    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let bytes = fs::read(self.blob(digest)).map_err(|error| self.unreadable(digest, error))?;
        let found = Digest::of(&bytes);
        if found == *digest { Ok(bytes) } else { Err(self.corrupt(digest, found)) }
    }

    /// Reads the blob and compares its digest; gives its size. With `remember`, a blob that this
    /// process has verified and that has not been touched since is not read again.
    pub(crate) fn verify(&self, digest: &Digest, remember: bool) -> Result<u64, StoreError> {
        let blob = self.blob(digest);
        let stamp = || fs::metadata(&blob).and_then(|metadata| Stamp::of(&metadata));
        let before = stamp().map_err(|error| self.unreadable(digest, error))?;
        if remember && self.verified().get(digest) == Some(&before) {
            return Ok(before.size);
        }
        let found = Digest::of_file(&blob).map_err(|error| self.unreadable(digest, error))?;
        if found != *digest {
            return Err(self.corrupt(digest, found));
        }
        let size = before.size;
        if before.modified.elapsed().is_ok_and(|age| age > RACY) {
            self.verified().insert(*digest, before);
        }
        Ok(size)
    }

    #[cfg(test)]
    pub(crate) fn remembers(&self, digest: &Digest) -> bool {
        self.verified().contains_key(digest)
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Stamp>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn materialise(&self, digest: &Digest, target: &Path) -> Result<(), StoreError> {
        self.verify(digest, true)?;
        let attempt = || format!("write blob {digest} to {}", target.display());
        let folder = target.parent().unwrap_or(Path::new(""));
        let mut temporary = tempfile::Builder::new();
        temporary.prefix(".bstar-").suffix(".tmp");
        // A new name each time: writing to an old one that is a link to another blob would change that.
        // The name is deleted at the end if it is still there: renaming one link of a file over another
        // link of it does nothing, and leaves the first.
        in_folder_of(target, || temporary.make_in(folder, |path| place(&self.blob(digest), path)))
            .and_then(|file| fs::rename(file.path(), target))
            .map_err(StoreError::io(attempt))
    }

    /// Moves an object to where it is never looked for. Failing to do so is only reported: the caller
    /// is already on its way to report the damage.
    pub(crate) fn quarantine(&self, object: &str) {
        let aside = layout::quarantined(object);
        let target = self.path(&aside);
        match in_folder_of(&target, || fs::rename(self.path(object), &target)) {
            Ok(()) => tracing::warn!(object, aside, "moved a damaged object aside"),
            Err(error) if absent(&error) => {}
            Err(error) => tracing::warn!(object, %error, "cannot move a damaged object aside"),
        }
    }

    fn corrupt(&self, digest: &Digest, found: Digest) -> StoreError {
        self.verified().remove(digest);
        self.quarantine(&layout::blob(digest));
        StoreError::Corrupt { digest: *digest, found }
    }

    fn unreadable(&self, digest: &Digest, error: io::Error) -> StoreError {
        if absent(&error) {
            return StoreError::Missing { digest: *digest };
        }
        StoreError::io(|| format!("read blob {digest}"))(error)
    }

    /// Deletes what killed processes left behind. Failures are of no consequence.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.path(layout::TEMPORARY)) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
            if let Ok(Ok(age)) = age
                && age > ABANDONED
                && fs::remove_file(entry.path()).is_ok()
            {
                tracing::debug!(file = %entry.path().display(), "deleted an abandoned temporary file");
            }
        }
    }
}

/// Whether an error means that there is nothing of that name.
pub(crate) fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The digest and the size of a file.
pub(crate) fn hash(path: &Path) -> io::Result<Artifact> {
    let (digest, size) = Digest::of_copy(&mut File::open(path)?, &mut io::sink())?;
    Ok(Artifact { digest, size })
}

/// Whether moving the file away takes nothing from anybody: a plain file with this one name. A file
/// with further names could be changed under one of those.
fn movable(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| {
        #[cfg(unix)]
        let links = std::os::unix::fs::MetadataExt::nlink(&metadata);
        #[cfg(not(unix))]
        let links = 1;
        metadata.is_file() && links == 1
    })
}

/// Tries again after creating the folder of `path`, when that was what was missing.
fn in_folder_of<T>(path: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match work() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            work()
        }
        result => result,
    }
}

/// Gives the content of `blob` a second name, which must be new, in the cheapest way the file
/// system knows.
fn place(blob: &Path, target: &Path) -> io::Result<()> {
    if reflink_copy::reflink(blob, target).is_ok() {
        return make_read_only(target);
    }
    match fs::hard_link(blob, target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
        result => return result,
    }
    let mut copy = File::options().write(true).create_new(true).open(target)?;
    let done = io::copy(&mut File::open(blob)?, &mut copy).and_then(|_| make_read_only(target));
    if done.is_err() {
        // The error at hand says more than one about the rest of a copy.
        let _ignored = fs::remove_file(target);
    }
    done
}

/// Blobs and what is made of them are not for writing: with hard links they are the same file.
pub(crate) fn make_read_only(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    #[cfg(not(unix))]
    let permissions = {
        let mut permissions = fs::metadata(path)?.permissions();
        permissions.set_readonly(true);
        permissions
    };
    fs::set_permissions(path, permissions)
}
