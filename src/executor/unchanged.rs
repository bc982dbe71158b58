//! Whether what a step reads stays what its key says for as long as the step runs.
//!
//! Inputs may share their storage with blobs, and so with the inputs of other steps; what `files` lists is read where
//! people edit it. A look at size and time says that nothing has happened. Where something has, the content decides.
//! A program that removes an input, or puts another file in its place, changes nobody's but its own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bstar_cache::Digest;
use bstar_stages::protocol::StageError;

use super::Trouble;
use super::content::{Content, Imports};
use super::prepare::{IN_PLACE, Resolved};

/// So many files are looked at on the spot: handing them to another thread takes longer.
const FEW: usize = 64;

/// What changes about a file when its content does. Not the time of its last change of any kind: that is also when
/// another step's input became one more name of it.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    size: u64,
    modified: SystemTime,
}

impl Look {
    fn at(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some(Self { inode: metadata.ino(), size: metadata.len(), modified: metadata.modified().ok()? })
    }
}

#[derive(Debug)]
struct Seen {
    path: PathBuf,
    digest: Digest,
    look: Look,
}

impl Seen {
    /// Whether nobody has written to it, or it is no longer there.
    fn looks_the_same(&self) -> bool {
        Look::at(&self.path).is_none_or(|look| look == self.look || look.inode != self.look.inode)
    }

    /// Whether its content is what it was. A blob that is renewed gets a new time, and nothing else.
    fn is_the_same(&self) -> bool {
        self.looks_the_same() || Digest::of_file(&self.path).is_ok_and(|digest| digest == self.digest)
    }
}

/// The inputs of a step as they were before it ran.
#[derive(Debug)]
pub(super) struct Inputs {
    folder: PathBuf,
    files: Vec<Seen>,
}

impl Inputs {
    /// None yet of those in that folder.
    pub(super) fn below(folder: PathBuf) -> Self {
        Self { folder, files: Vec::new() }
    }

    /// Looks at an input that has just been written to its place.
    pub(super) fn look_at(&mut self, place: &Path, content: &Content) -> Result<(), Trouble> {
        for (name, artifact) in content.files() {
            let path = if name.is_empty() { place.to_owned() } else { place.join(name) };
            let gone =
                || Trouble::io(format!("find {}", path.display()), std::io::ErrorKind::NotFound.into());
            let look = Look::at(&path).ok_or_else(gone)?;
            self.files.push(Seen { path, digest: artifact.digest, look });
        }
        Ok(())
    }

    /// Refuses the result of a step whose inputs are no longer what they were.
    ///
    /// # Errors
    /// The first that has changed.
    pub(super) async fn unchanged(self) -> Result<(), StageError> {
        if self.files.len() <= FEW && self.files.iter().all(Seen::looks_the_same) {
            return Ok(());
        }
        let search = move || {
            let changed = self.files.into_iter().find(|file| !file.is_the_same())?.path;
            Some(changed.strip_prefix(&self.folder).unwrap_or(&changed).display().to_string())
        };
        let broken = |error| StageError::failed(format!("looking at the inputs broke off: {error}"));
        match tokio::task::spawn_blocking(search).await.map_err(broken)? {
            None => Ok(()),
            Some(name) => Err(StageError::failed(format!("its input `{name}` was changed while it ran")).hint(
                "inputs are for reading, and steps share them: let programs change copies. If another step did it, run \
                 the same command again: what is damaged is made again",
            )),
        }
    }
}

/// Refuses what a step makes, or would make, of files that are no longer what its key says.
///
/// # Errors
/// The first that has changed.
pub(super) async fn files_unchanged(imports: &Imports, resolved: &Resolved) -> Result<(), StageError> {
    for (file, path) in &resolved.files {
        if !imports.still(path).await {
            let name = file.strip_prefix(IN_PLACE).unwrap_or(file);
            let message = format!("`{name}`, which is listed under `files`, changed while the run went on");
            return Err(StageError::failed(message)
                .hint("run the same command again: its steps are then those of the new content"));
        }
    }
    Ok(())
}
