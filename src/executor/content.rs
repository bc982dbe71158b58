//! The content of inputs: what steps made, and the user's files, which become part of the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bstar_cache::{Artifact, Digest, Manifest, Store, tree_digest};
use bstar_stages::Output;
use bstar_stages::protocol::StageError;
use tokio::sync::OnceCell;

use super::Trouble;
use super::stamps::Stamps;
use super::work::WorkRoot;

/// A file or a folder in the store.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// One file.
    File(Artifact),
    /// Files by their path in the folder.
    Folder { digest: Digest, files: Arc<Vec<(String, Artifact)>> },
}

impl Content {
    /// An output of an execution; `None` when it has no such output.
    pub(super) fn of_output(manifest: &Manifest, output: &Output) -> Option<Self> {
        if !output.folder {
            return manifest.under(&output.path, false).map(Self::File);
        }
        let files = manifest.files(&output.path, true);
        (!files.is_empty()).then(|| Self::folder(files))
    }

    fn folder(files: Vec<(String, Artifact)>) -> Self {
        Self::Folder { digest: tree_digest(&files), files: Arc::new(files) }
    }

    /// The identity of the content.
    pub(super) fn digest(&self) -> Digest {
        match self {
            Self::File(artifact) => artifact.digest,
            Self::Folder { digest, .. } => *digest,
        }
    }

    pub(super) fn is_folder(&self) -> bool {
        matches!(self, Self::Folder { .. })
    }

    /// The files by their path in the folder; a lone file has the empty path.
    pub(super) fn files(&self) -> Vec<(String, Artifact)> {
        match self {
            Self::File(artifact) => vec![(String::new(), *artifact)],
            Self::Folder { files, .. } => files.to_vec(),
        }
    }

    /// Writes the content to `path`.
    pub(super) async fn materialise(&self, store: &Store, path: &Path) -> Result<(), Trouble> {
        match self {
            Self::File(artifact) => store.materialise(artifact, path).await?,
            Self::Folder { files, .. } => store.materialise_all(files, path).await?,
        }
        Ok(())
    }
}

/// The user's files of one run: each is read once, so all steps see the same content.
#[derive(Debug, Default)]
pub(super) struct Imports {
    contents: Mutex<BTreeMap<Import, Arc<OnceCell<Content>>>>,
    stamps: Arc<Stamps>,
}

/// A path, and whether its content is put into the store.
type Import = (PathBuf, bool);

impl Imports {
    /// Imports of a run in that work root, which knows files that were read before.
    pub(super) fn of(work: &WorkRoot) -> Self {
        Self { contents: Mutex::default(), stamps: Arc::new(Stamps::of(work)) }
    }

    /// A file or folder of the user, put into the store.
    pub(super) async fn import(&self, store: &Store, path: &Path) -> Result<Content, Trouble> {
        let cell = self.cell(path, true);
        cell.get_or_try_init(|| import(store, path, &self.stamps)).await.cloned()
    }

    /// The digest of a file or folder that steps find where it is: it is not put into the store.
    pub(super) async fn digest(&self, path: &Path) -> Result<Content, Trouble> {
        let cell = self.cell(path, false);
        let hash = async {
            let (path, stamps) = (path.to_owned(), Arc::clone(&self.stamps));
            let (sender, receiver) = tokio::sync::oneshot::channel();
            tokio::task::spawn_blocking(move || sender.send(hash(&path, &stamps)));
            receiver.await.unwrap_or_else(|_| Err(StageError::failed("reading a file was cut off").into()))
        };
        cell.get_or_try_init(|| hash).await.cloned()
    }

    /// Whether a file or folder whose digest was asked for is what it was then.
    pub(super) async fn still(&self, path: &Path) -> bool {
        let Some(then) = self.cell(path, false).get().cloned() else { return false };
        // Mostly a single file that is known: no other thread is needed for that.
        if let (Ok(full), Ok(metadata)) = (std::path::absolute(path), std::fs::metadata(path))
            && self.stamps.recall(&full, &metadata).is_some_and(|artifact| artifact.digest == then.digest())
        {
            return true;
        }
        let (path, stamps) = (path.to_owned(), Arc::clone(&self.stamps));
        tokio::task::spawn_blocking(move || is_still(&path, &then, &stamps)).await.unwrap_or(false)
    }

    /// The user's file or folder that has this content.
    pub(super) fn origin(&self, digest: &Digest) -> Option<PathBuf> {
        let contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |cell: &OnceCell<Content>| cell.get().is_some_and(|content| content.digest() == *digest);
        contents.iter().find(|(_, cell)| has(cell)).map(|((path, _), _)| path.clone())
    }

    /// Forgets everything: the files are looked at again when they are next needed.
    pub(super) fn clear(&self) {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Writes down what was read, for the next run.
    pub(super) fn save(&self) {
        self.stamps.save();
    }

    fn cell(&self, path: &Path, stored: bool) -> Arc<OnceCell<Content>> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(contents.entry((path.to_owned(), stored)).or_default())
    }
}

async fn import(store: &Store, path: &Path, stamps: &Stamps) -> Result<Content, Trouble> {
    if !is_folder(path)? {
        return Ok(Content::File(import_file(store, path, stamps).await?));
    }
    let mut files = Vec::new();
    for (name, path) in files_below(path).map_err(|error| unreadable(path, &error))? {
        files.push((name, import_file(store, &path, stamps).await?));
    }
    if files.is_empty() {
        return Err(StageError::invalid(format!("the folder {} holds no files", path.display())).into());
    }
    Ok(Content::folder(files))
}

async fn import_file(store: &Store, path: &Path, stamps: &Stamps) -> Result<Artifact, Trouble> {
    let path = std::path::absolute(path).map_err(|error| unreadable(path, &error))?;
    let metadata = std::fs::metadata(&path).map_err(|error| unreadable(&path, &error))?;
    let mut known = stamps.recall(&path, &metadata);
    if let Some(artifact) = known
        && store.contains(&artifact).await?
    {
        return Ok(artifact);
    }
    if known.is_none() && stamps.resembles(&path, &metadata) {
        // Perhaps only touched: hashing costs less than a copy that nobody needs.
        let path = path.clone();
        let hashed = tokio::task::spawn_blocking(move || Digest::of_file(&path)).await;
        known = hashed.ok().and_then(Result::ok).map(|digest| Artifact { digest, size: metadata.len() });
    }
    let artifact = match known {
        Some(artifact) if store.contains(&artifact).await? => artifact,
        _ => store.put_file(&path).await?,
    };
    stamps.remember(&path, &metadata, artifact);
    Ok(artifact)
}

fn hash(path: &Path, stamps: &Stamps) -> Result<Content, Trouble> {
    if !is_folder(path)? {
        return hash_file(path, stamps).map(Content::File).map_err(|error| unreadable(path, &error));
    }
    let files = files_below(path).and_then(|files| {
        let file = |(name, path): (String, PathBuf)| Ok((name, hash_file(&path, stamps)?));
        files.into_iter().map(file).collect::<std::io::Result<_>>()
    });
    files.map(Content::folder).map_err(|error| unreadable(path, &error))
}

fn hash_file(path: &Path, stamps: &Stamps) -> std::io::Result<Artifact> {
    let path = std::path::absolute(path)?;
    let metadata = std::fs::metadata(&path)?;
    if let Some(artifact) = stamps.recall(&path, &metadata) {
        return Ok(artifact);
    }
    if !metadata.is_file() {
        return Err(neither("it"));
    }
    let artifact = Artifact { digest: Digest::of_file(&path)?, size: metadata.len() };
    stamps.remember(&path, &metadata, artifact);
    Ok(artifact)
}

/// Whether what was hashed is what it was then. In a folder, what Python compiles does not count, since programs
/// that run from there write it, nor hidden files that are new, since editors make them.
fn is_still(path: &Path, then: &Content, stamps: &Stamps) -> bool {
    let Content::Folder { files, .. } = then else {
        return matches!(hash(path, stamps), Ok(Content::File(now)) if now.digest == then.digest());
    };
    let compiled = |name: &str| name.split('/').any(|part| part == "__pycache__");
    let hidden = |name: &str| name.split('/').any(|part| part.starts_with('.'));
    let same = |(name, artifact): &(String, Artifact)| {
        compiled(name) || hash_file(&path.join(name), stamps).is_ok_and(|now| now.digest == artifact.digest)
    };
    let known = |name: &str| files.binary_search_by(|(known, _)| known.as_str().cmp(name)).is_ok();
    let new = |(name, _): &(String, PathBuf)| !known(name) && !compiled(name) && !hidden(name);
    files.iter().all(same) && !files_below(path).unwrap_or_default().iter().any(new)
}

fn is_folder(path: &Path) -> Result<bool, Trouble> {
    let kind = std::fs::metadata(path).and_then(|metadata| {
        if metadata.is_dir() || metadata.is_file() { Ok(metadata.is_dir()) } else { Err(neither("it")) }
    });
    kind.map_err(|error| unreadable(path, &error))
}

/// What cannot be read to an end, as a pipe that waits for somebody to write to it.
fn neither(name: &str) -> std::io::Error {
    std::io::Error::other(format!("{name} is neither a file nor a folder"))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Trouble {
    let error = StageError::invalid(format!("cannot read {}: {error}", path.display()));
    error.hint("paths are relative to the pipeline file").into()
}

/// All files below a folder, by their relative path with `/`, sorted. Links are followed.
pub(super) fn files_below(folder: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    let mut open = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("the name of `{}` is not UTF-8", name.display()),
                )
            })?;
            let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let metadata = std::fs::metadata(entry.path())?;
            if metadata.is_dir() {
                open.push((name, entry.path()));
            } else if metadata.is_file() {
                files.push((name, entry.path()));
            } else {
                return Err(neither(&format!("`{name}`")));
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Makes a folder of the run; failing that is a matter of the machine, like failing to store.
pub(super) fn create_folder(path: &Path) -> Result<(), Trouble> {
    std::fs::create_dir_all(path).map_err(|error| Trouble::io(format!("create {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_by_relative_path_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("b/c")).unwrap();
        for name in ["z", "b/c/d", "b/a"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let files: Vec<String> =
            files_below(folder.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(files, ["b/a", "b/c/d", "z"]);
    }

    #[test]
    fn a_folder_is_still_the_same_whatever_python_and_editors_put_into_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir_all(folder.path().join("a/__pycache__")).unwrap();
        write("a/tool.py", "one");
        write("a/__pycache__/tool.pyc", "one");
        write(".env", "one");
        let stamps = Stamps::default();
        let then = hash(folder.path(), &stamps).unwrap();
        let still = || is_still(folder.path(), &then, &stamps);
        write("a/__pycache__/tool.pyc", "two");
        write("a/__pycache__/other.pyc", "two");
        write(".tool.py.swp", "two");
        std::os::unix::fs::symlink("/nowhere", folder.path().join(".#tool.py")).unwrap();
        assert!(still());
        std::fs::remove_file(folder.path().join(".#tool.py")).unwrap();
        for (name, text, before) in [("a/tool.py", "two", "one"), (".env", "two", "one")] {
            write(name, text);
            assert!(!still(), "{name}");
            write(name, before);
            assert!(still(), "{name}");
        }
        write("a/new.py", "");
        assert!(!still());
        std::fs::rename(folder.path().join("a/new.py"), folder.path().join("a/tool.py")).unwrap();
        assert!(!still());
    }

    #[test]
    fn a_folder_hashed_in_place_and_one_made_by_a_step_have_the_same_digest() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "content").unwrap();
        let hashed = hash(folder.path(), &Stamps::default()).unwrap();
        let artifact = Artifact { digest: Digest::of(b"content"), size: 7 };
        assert_eq!(hashed.digest(), tree_digest(&[("a".to_owned(), artifact)]));
    }
}
