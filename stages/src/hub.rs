//! Models of the Hugging Face Hub, found in its local cache: `hf:ORGANISATION/NAME@REVISION`.
//!
//! The cache is laid out as `huggingface_hub` does: `models--ORG--NAME` with `refs/REVISION`, which holds a commit, and
//! `snapshots/COMMIT`, which holds the files. With the feature `download` a model that is not there is downloaded;
//! without it nothing ever is.

#[cfg(any(feature = "download", test))]
mod download;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::protocol::StageError;

/// The weights of a model in one file.
const WEIGHTS: &str = "model.safetensors";
/// The list of the shards of a model that is cut into several files.
const INDEX: &str = "model.safetensors.index.json";
/// What tokenizers are kept in, by the ends of names: those that are read here, and others.
const TOKENIZERS: [&str; 6] =
    ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", ".tiktoken", "tekken.json"];
/// What weights are kept in, likewise.
const TENSORS: [&str; 7] = [".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack"];

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
    let user = variable("HOME");
    let variable = |name: &str| Some(at_home(variable(name)?, user.as_deref()));
    if let Some(cache) = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")) {
        return cache;
    }
    let home = variable("HF_HOME").unwrap_or_else(|| {
        let caches = variable("XDG_CACHE_HOME");
        let caches = caches.unwrap_or_else(|| user.clone().unwrap_or_default().join(".cache"));
        caches.join("huggingface")
    });
    home.join("hub")
}

/// A path whose `~` is the user's folder.
fn at_home(path: PathBuf, user: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path,
    }
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
        let fetch = format!("hf download {model} --revision {revision}");
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
            .hint(format!(
                "finish it with `{fetch}`; where no more is needed, give the folder {} \
                 in place of the name",
                folder.display()
            ))),
            None => Ok(folder),
        }
    }
}

/// What is missing in a folder that is to hold a model. What else has a name on the Hub (adapters, tokenizers, files
/// for programs) is what it is.
fn incomplete(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let has = |name: &str| names.iter().any(|found| found == name);
    let any = |ends: &[&str]| names.iter().any(|name| ends.iter().any(|end| name.ends_with(end)));
    let is_model = names.is_empty() || ["config.json", WEIGHTS, INDEX].into_iter().any(has);
    let parts =
        [("config.json", has("config.json")), ("tokenizer.json", any(&TOKENIZERS)), (WEIGHTS, any(&TENSORS))];
    let lacking = || parts.into_iter().find(|(_, there)| is_model && !there);
    cut_off(folder).or_else(|| Some(folder.join(lacking()?.0)))
}

/// What a download left out when it was cut off: a link leads to nothing, or a shard of the index is not there.
fn cut_off(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = shards(&folder.join(INDEX)).unwrap_or_default();
    entries.chain(shards.iter().map(|shard| folder.join(shard))).find(|path| !path.exists())
}

/// The files that an index of shards names; in words, why there are none.
fn shards(index: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(index).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let map = json["weight_map"].as_object().ok_or("it has no `weight_map`")?;
    Ok(map.values().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests;
