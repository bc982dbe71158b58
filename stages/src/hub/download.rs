//! Downloads a model of the Hub into the local cache (the feature `download`).
//!
//! What is fetched is what a model here is made of: its configuration, tokenizer and templates, and its weights as
//! safetensors. A file is downloaded beside its place, checked, and renamed; a download that was cut off goes on where
//! it ended. The folder of the model appears when all of its files are there. Two processes that want the same file
//! wait for each other.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::{CONTENT_LENGTH, ETAG, RANGE};
use reqwest::{StatusCode, redirect};
use ring::digest::{Context, SHA256};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::{INDEX, Name, WEIGHTS, cut_off, shards};
use crate::protocol::{FailureKind, StageError};

/// Where the Hub is, unless the environment says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// What a model is made of, by the ends of names.
const WANTED: [&str; 5] = [".json", ".safetensors", ".jinja", "merges.txt", "vocab.txt"];
/// How often an answer that failed for the moment is asked for.
const TRIES: u32 = 5;

/// Where models come from, and for whom.
#[derive(Debug)]
pub(super) struct Hub {
    endpoint: String,
    token: Option<String>,
    client: Client,
    /// Asks about files, and does not follow to another server: what it says of them is not repeated there.
    asker: Client,
    /// Before the second try; doubled before every other.
    pause: Duration,
}

/// A file of a model: as the Hub describes it before it is fetched.
#[derive(Debug)]
struct Described {
    /// Names the content: its SHA-256 for weights.
    etag: String,
    size: Option<u64>,
}

impl Hub {
    /// The Hub that the environment names: `HF_ENDPOINT` and `HF_TOKEN`; `None` where `HF_HUB_OFFLINE` (or
    /// `TRANSFORMERS_OFFLINE`) forbids its use.
    pub(super) fn from_environment() -> Result<Option<Self>, StageError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        if is_offline(variable) {
            return Ok(None);
        }
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self::new(&endpoint, variable("HF_TOKEN"), Duration::from_secs(1)).map(Some)
    }

    fn new(endpoint: &str, token: Option<String>, pause: Duration) -> Result<Self, StageError> {
        // Someone else's choice stands, and is one that works.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = |redirects: redirect::Policy| {
            Client::builder()
                .user_agent(concat!("bstar/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(30))
                .timeout(None)
                .redirect(redirects)
                .build()
                .map_err(|error| {
                    StageError::failed(format!("cannot make an HTTP client: {}", causes(&error)))
                })
        };
        let near = redirect::Policy::custom(|attempt| {
            let same = attempt.previous().last().is_some_and(|last| last.origin() == attempt.url().origin());
            if same { attempt.follow() } else { attempt.stop() }
        });
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            // Headers with secrets do not follow to another server.
            client: client(redirect::Policy::limited(10))?,
            asker: client(near)?,
            pause,
        })
    }

    /// Downloads a model into the cache and answers the folder of its files.
    pub(super) fn fetch(&self, cache: &Path, name: &Name<'_>) -> Result<PathBuf, StageError> {
        let Name { model, revision } = name;
        let url = format!("{}/api/models/{model}/revision/{}", self.endpoint, revision.replace('/', "%2F"));
        let what = format!("{model} at `{revision}`");
        let answer = self.ask(&url, &what)?.text().map_err(|error| broken(&what, &causes(&error)))?;
        let told: Value = serde_json::from_str(&answer).map_err(|error| broken(&what, &error.to_string()))?;
        let commit = told["sha"].as_str().filter(|commit| is_plain(commit));
        let commit = commit.ok_or_else(|| broken(&what, "there is no commit in it"))?;
        let files = told["siblings"].as_array().map_or(&[][..], Vec::as_slice);
        let mut files: Vec<&str> = files
            .iter()
            .filter_map(|file| file["rfilename"].as_str())
            .filter(|file| is_plain(file) && WANTED.iter().any(|end| file.ends_with(end)))
            .collect();
        // The index first: it says which of the other files are weights.
        files.sort_by_key(|file| (*file != INDEX, *file));
        if !files.contains(&"config.json") {
            return Err(StageError::invalid(format!("{what} has no config.json"))
                .hint("it is no model that transformers reads: choose another"));
        }

        let home = name.home(cache);
        let [blobs, snapshots] = ["blobs", "snapshots"].map(|part| home.join(part));
        for folder in [&blobs, &snapshots] {
            std::fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        }
        let mut links: Vec<(String, String)> = Vec::new();
        let mut weights: Option<Vec<String>> =
            (!files.contains(&INDEX) && files.contains(&WEIGHTS)).then(|| vec![WEIGHTS.to_owned()]);
        for file in files {
            let unlisted = |weights: &Vec<String>| {
                file.ends_with(".safetensors") && !weights.iter().any(|name| name == file)
            };
            if weights.as_ref().is_some_and(unlisted) {
                continue;
            }
            let etag = self.file(&blobs, model, commit, file)?;
            if file == INDEX {
                weights = Some(shards(&blobs.join(&etag)).map_err(|why| broken(INDEX, &why))?);
            }
            links.push((file.to_owned(), etag));
        }
        let folder = snapshots.join(commit);
        link(&snapshots, &folder, &links)?;
        let reference = home.join("refs").join(revision);
        if *revision != commit {
            let parent = reference.parent().unwrap_or(&home);
            std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
            std::fs::write(&reference, commit).map_err(io_error("write", &reference))?;
        }
        match cut_off(&folder) {
            Some(missing) => {
                Err(StageError::failed(format!("{} is missing after the download", missing.display())))
            }
            None => Ok(folder),
        }
    }

    /// Downloads one file unless it is there, and answers the name of its content.
    fn file(&self, blobs: &Path, model: &str, commit: &str, file: &str) -> Result<String, StageError> {
        let url = format!("{}/{model}/resolve/{commit}/{file}", self.endpoint);
        let described = self.describe(&url, file)?;
        let (blob, part) =
            (blobs.join(&described.etag), blobs.join(format!("{}.incomplete", described.etag)));
        if blob.exists() {
            return Ok(described.etag);
        }
        let mut open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(io_error("create", &part))?;
        flock(&open, FlockOperation::LockExclusive).map_err(|error| io_error("lock", &part)(error.into()))?;
        // Another process may have finished it meanwhile.
        if blob.exists() {
            return Ok(described.etag);
        }
        say(&format!(
            "downloading {model}: {file}{}",
            described.size.map(|size| format!(" ({})", crate::units::show_size(size))).unwrap_or_default()
        ));
        let mut failure = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(self.pause * 2_u32.pow(attempt - 1));
            }
            match self.receive(&url, file, &described, &mut open, &part) {
                Ok(()) => {
                    failure = None;
                    break;
                }
                Err(error) if error.kind == FailureKind::Transient => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = failure {
            return Err(error.hint("run the command again: the download goes on where it ended"));
        }
        verify(&mut open, file, &described).inspect_err(|_| drop(std::fs::remove_file(&part)))?;
        open.sync_all().map_err(io_error("write", &part))?;
        std::fs::rename(&part, &blob).map_err(io_error("write", &blob))?;
        Ok(described.etag)
    }

    /// What the Hub says of a file. It is asked without following to where the content is.
    fn describe(&self, url: &str, file: &str) -> Result<Described, StageError> {
        let answer = self.ask_with(file, || self.asker.head(url))?;
        let header = |names: [&str; 2]| {
            names.iter().find_map(|name| answer.headers().get(*name)?.to_str().ok().map(str::to_owned))
        };
        let etag =
            header(["x-linked-etag", ETAG.as_str()]).map(|etag| etag.replace("W/", "").replace('"', ""));
        let etag = etag.filter(|etag| is_plain(etag)).ok_or_else(|| broken(file, "it has no ETag"))?;
        let size = header(["x-linked-size", CONTENT_LENGTH.as_str()]).and_then(|size| size.parse().ok());
        Ok(Described { etag, size })
    }

    /// Receives what is missing of a file.
    fn receive(
        &self,
        url: &str,
        file: &str,
        described: &Described,
        open: &mut File,
        part: &Path,
    ) -> Result<(), StageError> {
        let have = open.seek(SeekFrom::End(0)).map_err(io_error("read", part))?;
        if have > 0 && described.size == Some(have) {
            return Ok(());
        }
        let mut answer = self.ask_with(file, || {
            let request = self.client.get(url);
            if have > 0 { request.header(RANGE, format!("bytes={have}-")) } else { request }
        })?;
        if have > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
            open.set_len(0).map_err(io_error("write", part))?;
            open.rewind().map_err(io_error("write", part))?;
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = answer.read(&mut buffer).map_err(|error| transient(file, &error.to_string()))?;
            if count == 0 {
                return Ok(());
            }
            open.write_all(&buffer[..count]).map_err(io_error("write", part))?;
        }
    }

    fn ask(&self, url: &str, what: &str) -> Result<Response, StageError> {
        self.ask_with(what, || self.client.get(url))
    }

    /// An answer that is neither a refusal nor a failure; asks again after failures of the moment.
    fn ask_with(&self, what: &str, request: impl Fn() -> RequestBuilder) -> Result<Response, StageError> {
        let mut attempt = 0;
        loop {
            let request = request();
            let request = match &self.token {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            let error = match request.send() {
                Ok(answer) if answer.status().is_success() || answer.status().is_redirection() => {
                    return Ok(answer);
                }
                Ok(answer) => match answer.status() {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                        return Err(self.refused(what, answer.status()));
                    }
                    status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                        transient(what, &format!("the Hub answers {status}"))
                    }
                    status => return Err(broken(what, &format!("status {status}"))),
                },
                Err(error) => transient(what, &causes(&error)),
            };
            attempt += 1;
            if attempt == TRIES {
                return Err(error);
            }
            std::thread::sleep(self.pause * 2_u32.pow(attempt - 1));
        }
    }

    fn refused(&self, what: &str, status: StatusCode) -> StageError {
        let message = format!("the Hub has no {what} for this user ({status})");
        StageError::invalid(message).hint(match self.token {
            None => "check the name and the revision; for a private or gated model set HF_TOKEN",
            Some(_) => "check the name and the revision, and that the token in HF_TOKEN may read the model",
        })
    }
}

/// Whether only the cache may be used, by the words that `huggingface_hub` takes for yes.
fn is_offline(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = variable("HF_HUB_OFFLINE").or_else(|| variable("TRANSFORMERS_OFFLINE"));
    set.is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
}

/// Checks the content of a file against what the Hub said of it.
fn verify(open: &mut File, file: &str, described: &Described) -> Result<(), StageError> {
    let unreadable = |error: io::Error| StageError::io(format_args!("read `{file}`"), &error);
    let length = open.seek(SeekFrom::End(0)).map_err(unreadable)?;
    if let Some(size) = described.size.filter(|size| *size != length) {
        return Err(transient(file, &format!("{length} of {size} bytes came")));
    }
    if described.etag.len() != 64 {
        return Ok(());
    }
    open.rewind().map_err(unreadable)?;
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 1 << 20]);
    loop {
        let count = open.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        context.update(&buffer[..count]);
    }
    let found: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == described.etag {
        return Ok(());
    }
    Err(transient(file, "what came is damaged: its SHA-256 is another"))
}

/// Makes the folder of a model: links to its files' contents. One that is there is completed.
fn link(snapshots: &Path, folder: &Path, links: &[(String, String)]) -> Result<(), StageError> {
    let new = tempfile::Builder::new().prefix(".new-").tempdir_in(snapshots);
    let new = new.map_err(io_error("create", snapshots))?;
    let target = if folder.exists() { folder } else { new.path() };
    for (file, etag) in links {
        let place = target.join(file);
        if place.exists() {
            continue;
        }
        // A link to nothing is in the way.
        drop(std::fs::remove_file(&place));
        std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), &place)
            .map_err(io_error("create", &place))?;
    }
    if target == folder {
        return Ok(());
    }
    // Folders made for one user only are for nobody else to read.
    let shown = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(new.path(), shown).map_err(io_error("create", folder))?;
    match std::fs::rename(new.path(), folder) {
        Ok(()) => {
            drop(new.keep());
            Ok(())
        }
        // Another process was first: it has the same files.
        Err(_) if folder.exists() => Ok(()),
        Err(error) => Err(io_error("create", folder)(error)),
    }
}

/// Whether a name can be a file's without leading anywhere else.
fn is_plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(known)
}

fn say(line: &str) {
    // Standard error may be closed; there is nobody else to tell.
    drop(writeln!(io::stderr(), "{line}"));
}

fn io_error<'a>(action: &'a str, path: &'a Path) -> impl Fn(io::Error) -> StageError + 'a {
    move |error| StageError::io(format_args!("{action} `{}`", path.display()), &error)
}

fn broken(what: &str, why: &str) -> StageError {
    StageError::failed(format!("the Hub's answer about {what} cannot be used: {why}"))
        .hint("is HF_ENDPOINT that of a Hub?")
}

fn transient(what: &str, why: &str) -> StageError {
    let error = StageError::failed(format!("cannot download {what}: {why}"));
    StageError { kind: FailureKind::Transient, ..error }
        .hint("check the network and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses only what is in the cache")
}

/// An error with what caused it: the outermost says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
