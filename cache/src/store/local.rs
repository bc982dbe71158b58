//! Blobs in a folder on this machine, with plain file operations.
//!
//! Blobs and manifests are written below `tmp/` and renamed, so that a final name never shows a part.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::commit::Committer;
use super::pace::Pace;
use super::{StoreError, layout};
use crate::digest::Digest;
use crate::manifest::Artifact;
use crate::placement::create_spread_folder;

/// Temporary files of this age were left behind by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A file changed again within this time may keep its modification time: it is not remembered.
const RACY: Duration = Duration::from_secs(1);

/// A blob of this age is renewed when it is stored again, and a manifest when a run finds it.
pub(crate) const YOUNG: Duration = Duration::from_secs(3600);
/// Most manifests are shorter.
const SHORT: usize = 1 << 13;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The blobs of a local store.
pub(crate) struct Local {
    root: PathBuf,
    /// Blobs whose content was verified by this process, as they were then.
    verified: Mutex<HashMap<Digest, Stamp>>,
    /// The file system of the store cannot share the storage of files.
    no_reflink: AtomicBool,
    committer: Arc<Committer>,
    pub(super) pace: Pace,
    /// Where this process makes files that are to be renamed: a folder of its own, made with the first.
    workshop: PathBuf,
    has_workshop: AtomicBool,
    temporaries: AtomicU64,
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
        // A random name: the machine that shares the folder may have a process of the same number.
        let session = RandomState::new().build_hasher().finish();
        let local = Self {
            workshop: root.join(layout::TEMPORARY).join(format!("{session:016x}")),
            has_workshop: AtomicBool::new(false),
            committer: Arc::new(Committer::new(root.clone())),
            root,
            verified: Mutex::default(),
            no_reflink: AtomicBool::new(false),
            pace: Pace::default(),
            temporaries: AtomicU64::new(0),
        };
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

    /// As [`Local::has`], for a writer: a blob that it will rely on becomes young again, so that a
    /// collection does not take it away.
    fn renew(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        if !self.has(artifact)? {
            return Ok(false);
        }
        match File::open(self.blob(&artifact.digest)).and_then(|blob| make_young(&blob)) {
            // Gone since: it is stored again.
            Err(error) if absent(&error) => Ok(false),
            Err(error) => {
                tracing::debug!(blob = %artifact.digest, %error, "cannot renew a blob");
                Ok(true)
            }
            Ok(_) => Ok(true),
        }
    }

    pub(crate) fn put_bytes(&self, bytes: &[u8]) -> Result<Artifact, StoreError> {
        let artifact = Artifact { digest: Digest::of(bytes), size: bytes.len() as u64 };
        if self.renew(&artifact)? {
            return Ok(artifact);
        }
        self.store(|file| file.write_all(bytes).map(|()| (artifact.digest, artifact.size)))
            .map_err(StoreError::io(|| format!("store blob {}", artifact.digest)))
    }

    pub(crate) fn put_file(&self, source: &Path) -> Result<Artifact, StoreError> {
        let open = || {
            let file = File::open(source)?;
            if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
        };
        let mut file = open().map_err(StoreError::io(|| format!("read {}", source.display())))?;
        // Hashed as it is copied: the name is that of what was copied, whatever happens to the source.
        self.store(|target| Digest::of_file_copy(&mut file, target))
            .map_err(StoreError::io(|| format!("store {}", source.display())))
    }

    pub(crate) fn adopt_file(&self, source: &Path) -> Result<Artifact, StoreError> {
        if !movable(source) {
            return self.put_file(source);
        }
        let artifact = hash(source).map_err(StoreError::io(|| format!("read {}", source.display())))?;
        if self.renew(&artifact)? {
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

    /// Stores what `write` writes, under the digest that it gives.
    fn store(&self, write: impl FnOnce(&mut File) -> io::Result<(Digest, u64)>) -> io::Result<Artifact> {
        let temporary = self.temporary()?;
        let done = in_folder_of(&temporary, || {
            File::options().write(true).create_new(true).mode(0o444).open(&temporary)
        })
        .and_then(|mut file| write(&mut file))
        .and_then(|(digest, size)| {
            let (blob, artifact) = (self.blob(&digest), Artifact { digest, size });
            // Also where there is one already: this one is young, and known to be sound.
            in_folder_of(&blob, || fs::rename(&temporary, &blob))?;
            Ok(artifact)
        });
        if done.is_err() {
            // The error at hand says more than one about a file that is swept later.
            let _ignored = fs::remove_file(&temporary);
        }
        done
    }

    /// Makes an object of that name, whole, unless there is one; whether it did.
    pub(crate) fn create(&self, object: &str, content: &[u8]) -> io::Result<bool> {
        let (temporary, target) = (self.temporary()?, self.path(object));
        let done = in_folder_of(&temporary, || File::options().write(true).create_new(true).open(&temporary))
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| in_folder_of(&target, || rename_new(&temporary, &target)));
        if !matches!(done, Ok(true)) {
            let _ignored = fs::remove_file(&temporary);
        } else {
            self.committer.published();
        }
        done
    }

    /// Makes the file that states the store's format, on the disk, unless there is one; whether it did.
    pub(crate) fn make_marker(&self, content: &[u8]) -> io::Result<bool> {
        let made = self.create(layout::MARKER, content)?;
        if made {
            File::open(self.path(layout::MARKER))?.sync_all()?;
        }
        Ok(made)
    }

    /// Brings everything that was published to the disk.
    pub(crate) fn commit(&self) -> Result<(), StoreError> {
        self.committer.commit().map_err(StoreError::io(|| format!("flush {}", self.root.display())))
    }

    /// A name for a file that is to be renamed.
    fn temporary(&self) -> io::Result<PathBuf> {
        if !self.has_workshop.load(Ordering::Relaxed) {
            create_spread_folder(&self.path(layout::TEMPORARY))?;
            fs::create_dir_all(&self.workshop)?;
            self.has_workshop.store(true, Ordering::Relaxed);
        }
        Ok(self.workshop.join(self.temporaries.fetch_add(1, Ordering::Relaxed).to_string()))
    }

    /// Does something with the content of an object that is mostly small.
    pub(crate) fn with_short<T>(&self, object: &str, work: impl FnOnce(&[u8], &File) -> T) -> io::Result<T> {
        let mut file = File::open(self.path(object))?;
        // Thousands are read in turn, and clearing memory for each would take as long as reading it.
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(SHORT, 0);
            let length = loop {
                match file.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    length => break length?,
                }
            };
            if length < SHORT {
                // Less than was asked for is all there is.
                return Ok(work(&buffer[..length], &file));
            }
            let mut content = buffer.clone();
            file.read_to_end(&mut content)?;
            Ok(work(&content, &file))
        })
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
        self.write_out(digest, target)
    }

    /// As [`Local::materialise`], of a blob that was verified a moment ago.
    pub(crate) fn write_out(&self, digest: &Digest, target: &Path) -> Result<(), StoreError> {
        let attempt = || format!("write blob {digest} to {}", target.display());
        let blob = self.blob(digest);
        // Most targets are new, and a link is made in one step.
        if self.no_reflink.load(Ordering::Relaxed)
            && in_folder_of(target, || fs::hard_link(&blob, target)).is_ok()
        {
            return Ok(());
        }
        let folder = target.parent().unwrap_or(Path::new(""));
        let mut temporary = tempfile::Builder::new();
        temporary.prefix(".bstar-").suffix(".tmp");
        // A new name each time: writing to an old one that is a link to another blob would change that.
        // The name is deleted at the end if it is still there: renaming one link of a file over another
        // link of it does nothing, and leaves the first.
        in_folder_of(target, || temporary.make_in(folder, |path| self.place(&blob, path)))
            .and_then(|file| fs::rename(file.path(), target))
            .map_err(StoreError::io(attempt))
    }

    /// Gives the content of `blob` a second name, which must be new, in the cheapest way the file
    /// system knows.
    fn place(&self, blob: &Path, target: &Path) -> io::Result<()> {
        if !self.no_reflink.load(Ordering::Relaxed) && reflink_copy::reflink(blob, target).is_ok() {
            return make_read_only(target);
        }
        match fs::hard_link(blob, target) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
            result => {
                // The same file system, and yet no shared storage: not worth another try.
                self.no_reflink.store(result.is_ok(), Ordering::Relaxed);
                return result;
            }
        }
        let mut copy = File::options().write(true).create_new(true).open(target)?;
        let done = io::copy(&mut File::open(blob)?, &mut copy).and_then(|_| make_read_only(target));
        if done.is_err() {
            // The error at hand says more than one about the rest of a copy.
            let _ignored = fs::remove_file(target);
        }
        done
    }

    /// A new file for what is to be renamed into the store.
    pub(crate) fn temporary_file(&self) -> io::Result<tempfile::NamedTempFile> {
        let folder = self.path(layout::TEMPORARY);
        fs::create_dir_all(&folder)?;
        tempfile::NamedTempFile::new_in(folder)
    }

    /// Takes a file on the store's file system for a blob; its content was compared with the digest.
    pub(crate) fn keep_verified(&self, file: tempfile::NamedTempFile, digest: &Digest) -> io::Result<()> {
        make_read_only(file.path())?;
        let blob = self.blob(digest);
        let path = file.into_temp_path();
        in_folder_of(&blob, || fs::rename(&path, &blob))?;
        // Renamed: there is nothing left to delete.
        let _gone = path.keep();
        Ok(())
    }

    /// Writes an object as a whole, whatever was there. It survives the process, not a power cut.
    pub(crate) fn replace(&self, object: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.temporary_file()?;
        file.write_all(bytes)?;
        let target = self.path(object);
        let path = file.into_temp_path();
        in_folder_of(&target, || fs::rename(&path, &target))?;
        let _gone = path.keep();
        self.committer.published();
        Ok(())
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
        sweep(&self.path(layout::TEMPORARY));
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.has_workshop.load(Ordering::Relaxed) {
            // Not empty when another thread is at work: swept later.
            let _in_use = fs::remove_dir(&self.workshop);
        }
    }
}

/// Deletes what is old in `folder` and in the folders below it.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if metadata.is_dir() {
            sweep(&path);
        }
        let old = |time: SystemTime| time.elapsed().is_ok_and(|age| age > ABANDONED);
        if !metadata.modified().is_ok_and(old) {
            continue;
        }
        // A folder only if it is empty.
        let deleted = if metadata.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        if deleted.is_ok() {
            tracing::debug!(path = %path.display(), "deleted what a killed process left behind");
        }
    }
}

/// Whether an error means that there is nothing of that name.
pub(crate) fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The digest and the size of a file.
pub(crate) fn hash(path: &Path) -> io::Result<Artifact> {
    let (digest, size) = Digest::and_length_of(path)?;
    Ok(Artifact { digest, size })
}

/// Makes a file that is old look as if it was written now; whether it was old. Not each time: what was touched
/// is read again.
pub(crate) fn make_young(file: &File) -> io::Result<bool> {
    let old = file.metadata()?.modified()?.elapsed().is_ok_and(|age| age > YOUNG);
    if old {
        file.set_modified(SystemTime::now())?;
    }
    Ok(old)
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
pub(crate) fn in_folder_of<T>(path: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match work() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            work()
        }
        result => result,
    }
}

/// Renames unless the new name is taken; whether it did.
fn rename_new(from: &Path, to: &Path) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Ok(false),
            // Not known to this file system.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
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
