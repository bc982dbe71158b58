//! Models of the Hugging Face Hub, found in its local cache: `hf:ORGANISATION/NAME@REVISION`.
//!
//! Nothing is downloaded. The cache is laid out as `huggingface_hub` does: `models--ORG--NAME` with
//! `refs/REVISION`, which holds a commit, and `snapshots/COMMIT`, which holds the files.

use std::path::{Path, PathBuf};

use crate::protocol::StageError;

/// The folder that a path or `hf:` name stands for: a path stands for itself.
///
/// # Errors
/// When the name is malformed, or the model is not in the cache.
pub fn resolve(text: &str) -> Result<PathBuf, StageError> {
    match text.strip_prefix("hf:") {
        None => Ok(PathBuf::from(text)),
        Some(name) => {
            let cache = cache(|name| std::env::var_os(name).map(PathBuf::from));
            // Where the variables are relative, they are so to where the program was started.
            snapshot(&std::path::absolute(&cache).unwrap_or(cache), name)
        }
    }
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

/// The folder with the files of `ORGANISATION/NAME@REVISION`.
fn snapshot(cache: &Path, name: &str) -> Result<PathBuf, StageError> {
    let (model, revision) = name.split_once('@').unwrap_or((name, "main"));
    let parts: Vec<&str> = model.split('/').collect();
    let strange = |part: &str| part.is_empty() || part.starts_with('.');
    if parts.len() > 2 || parts.iter().copied().any(strange) || revision.split('/').any(strange) {
        return Err(StageError::invalid(format!("`hf:{name}` does not name a model"))
            .hint("write hf:ORGANISATION/NAME, or hf:ORGANISATION/NAME@REVISION"));
    }
    let fetch = format!("huggingface-cli download {model} --revision {revision}");
    let home = cache.join(format!("models--{}", parts.join("--")));
    let commit = std::fs::read_to_string(home.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
    let folder = home.join("snapshots").join(&commit);
    if !folder.is_dir() {
        let what = if home.is_dir() { format!("revision `{revision}` of {model}") } else { model.to_owned() };
        return Err(StageError::invalid(format!(
            "{what} is not in the Hugging Face cache {}",
            cache.display()
        ))
        .hint(format!("download it once with `{fetch}`; set HF_HOME if the cache is elsewhere")));
    }
    // A download that was cut off leaves links to nothing.
    let broken =
        std::fs::read_dir(&folder).into_iter().flatten().flatten().find(|entry| !entry.path().exists());
    match broken {
        Some(entry) => Err(StageError::invalid(format!(
            "the download of {model} is incomplete: {} is missing",
            entry.path().display()
        ))
        .hint(format!("finish it with `{fetch}`"))),
        None => Ok(folder),
    }
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
        let find = |name: &str| snapshot(cache.path(), name);
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
