//! Models of the Hugging Face Hub, found in its local cache: `hf:ORGANISATION/NAME@REVISION`.
//!
//! The cache is laid out as `huggingface_hub` does: `models--ORG--NAME` with `refs/REVISION`, which holds a commit, and
//! `snapshots/COMMIT`, which holds the files. With the feature `download` a model that is not there is downloaded;
//! without it nothing ever is.

#[cfg(any(feature = "download", test))]
mod download;

use std::path::{Path, PathBuf};

use crate::protocol::StageError;

/// The folder that a path or `hf:` name stands for: a path stands for itself.
///
/// # Errors
/// When the name is malformed, or the model is not in the cache (and cannot be downloaded).
pub fn resolve(text: &str) -> Result<PathBuf, StageError> {
    let Some(name) = text.strip_prefix("hf:") else { return Ok(PathBuf::from(text)) };
    let name = Name::parse(name)?;
    let cache = cache(|name| std::env::var_os(name).map(PathBuf::from));
    // Where the variables are relative, they are so to where the program was started.
    let cache = std::path::absolute(&cache).unwrap_or(cache);
    name.snapshot(&cache).or_else(|missing| fetch(&cache, &name, missing))
}

/// Downloads what is missing.
#[cfg(any(feature = "download", test))]
fn fetch(cache: &Path, name: &Name<'_>, missing: StageError) -> Result<PathBuf, StageError> {
    // The client must not live on a thread that drives others' asynchronous work.
    let download = || match download::Hub::from_environment()? {
        Some(hub) => hub.fetch(cache, name),
        None => Err(missing),
    };
    std::thread::scope(|scope| match scope.spawn(download).join() {
        Ok(found) => found,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Nothing is downloaded.
#[cfg(not(any(feature = "download", test)))]
fn fetch(_: &Path, _: &Name<'_>, missing: StageError) -> Result<PathBuf, StageError> {
    Err(missing)
}

/// Whether a text is the name of a model on the Hub.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.starts_with("hf:")
}

/// Where the cache is, from the environment variables of `huggingface_hub`.
fn cache(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let variable = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(cache) = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")) {
        return cache;
    }
    let home = variable("HF_HOME").unwrap_or_else(|| {
        let user = variable("XDG_CACHE_HOME");
        let user = user.unwrap_or_else(|| variable("HOME").unwrap_or_default().join(".cache"));
        user.join("huggingface")
    });
    home.join("hub")
}

/// A model and its revision: a branch, tag or commit.
#[derive(Debug, Clone, Copy)]
struct Name<'a> {
    model: &'a str,
    revision: &'a str,
}

impl<'a> Name<'a> {
    /// Reads `ORGANISATION/NAME@REVISION`.
    fn parse(name: &'a str) -> Result<Self, StageError> {
        let (model, revision) = name.split_once('@').unwrap_or((name, "main"));
        let parts: Vec<&str> = model.split('/').collect();
        let strange = |part: &str| part.is_empty() || part.starts_with('.');
        if parts.len() > 2 || parts.iter().copied().any(strange) || revision.split('/').any(strange) {
            return Err(StageError::invalid(format!("`hf:{name}` does not name a model"))
                .hint("write hf:ORGANISATION/NAME, or hf:ORGANISATION/NAME@REVISION"));
        }
        Ok(Self { model, revision })
    }

    /// The folder of a model in the cache.
    fn home(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}", self.model.replace('/', "--")))
    }

    /// The folder with its files.
    fn snapshot(&self, cache: &Path) -> Result<PathBuf, StageError> {
        let Self { model, revision } = self;
        let fetch = format!("huggingface-cli download {model} --revision {revision}");
        let home = self.home(cache);
        let commit = std::fs::read_to_string(home.join("refs").join(revision));
        let commit = commit.map_or_else(|_| (*revision).to_owned(), |commit| commit.trim().to_owned());
        let folder = home.join("snapshots").join(&commit);
        if !folder.is_dir() {
            let what =
                if home.is_dir() { format!("revision `{revision}` of {model}") } else { (*model).to_owned() };
            return Err(StageError::invalid(format!(
                "{what} is not in the Hugging Face cache {}",
                cache.display()
            ))
            .hint(format!("download it once with `{fetch}`; set HF_HOME if the cache is elsewhere")));
        }
        match incomplete(&folder) {
            Some(missing) => Err(StageError::invalid(format!(
                "the download of {model} is incomplete: {} is missing",
                missing.display()
            ))
            .hint(format!("finish it with `{fetch}`"))),
            None => Ok(folder),
        }
    }
}

/// What is missing in a folder: a download that was cut off leaves links to nothing.
fn incomplete(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).find(|path| !path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let find = |variables: &[(&str, &str)]| {
            cache(|name| {
                variables.iter().find(|(found, _)| *found == name).map(|(_, value)| PathBuf::from(value))
            })
        };
        let mut variables = vec![("HOME", "/home/a")];
        for (more, expected) in [
            (("HOME", ""), "/home/a/.cache/huggingface/hub"),
            (("XDG_CACHE_HOME", "/x"), "/x/huggingface/hub"),
            (("HF_HOME", "/hf"), "/hf/hub"),
            (("HF_HUB_CACHE", "/hub"), "/hub"),
        ] {
            variables.push(more);
            assert_eq!(find(&variables), Path::new(expected));
        }
    }

    #[test]
    fn snapshots_are_found_by_branch_tag_and_commit() {
        let cache = tempfile::tempdir().unwrap();
        let home = cache.path().join("models--org--name");
        for folder in ["refs", "refs/pr", "snapshots/abc123", "snapshots/def456"] {
            std::fs::create_dir_all(home.join(folder)).unwrap();
        }
        std::fs::write(home.join("refs/main"), "abc123").unwrap();
        std::fs::write(home.join("refs/pr/1"), "def456\n").unwrap();
        let find = |name: &str| Name::parse(name)?.snapshot(cache.path());
        assert_eq!(find("org/name").unwrap(), home.join("snapshots/abc123"));
        for name in ["org/name@pr/1", "org/name@def456"] {
            assert_eq!(find(name).unwrap(), home.join("snapshots/def456"));
        }
        for (name, message, hint) in [
            (
                "org/name@v2",
                "revision `v2` of org/name is not in",
                "huggingface-cli download org/name --revision v2",
            ),
            ("org/other", "org/other is not in the Hugging Face cache", "download org/other --revision main"),
            ("a/b/c", "does not name a model", "ORGANISATION"),
            ("org/..", "does not name a model", "ORGANISATION"),
            ("org/name@../../x", "does not name a model", "ORGANISATION"),
        ] {
            let error = find(name).unwrap_err();
            assert!(error.message.contains(message) && error.hint.unwrap().contains(hint), "{name}");
        }
        std::os::unix::fs::symlink("../../blobs/none", home.join("snapshots/abc123/model.safetensors"))
            .unwrap();
        assert!(find("org/name").unwrap_err().message.contains("incomplete"));
    }
}
