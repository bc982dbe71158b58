//! The pipeline file: reading it, with every problem reported at once and in its place.
//!
//! `serde_yaml` decides what the text means. `position` remembers where it stands, `overrides`
//! changes it from the command line, `read` and `settings` give it types, and `names` checks what
//! its names mean. What the pipeline does is laid out by [`crate::plan`].

mod base;
mod diagnostic;
mod document;
mod lists;
mod locate;
mod names;
mod overrides;
mod position;
mod preset;
mod read;
mod schema;
mod settings;
mod suggest;
#[cfg(test)]
mod tests;
mod variants;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bstar_stages::StageConfig;
use serde_json::Value;

use document::{Document, Draft};
use position::At;

pub use diagnostic::{Diagnostic, Origin};
pub(crate) use document::{is_within, parse_value};
pub(crate) use locate::locate;
pub use overrides::Override;
pub(crate) use overrides::{Change, argument, full_path};
pub use schema::schema;
pub(crate) use suggest::nearest;
pub(crate) use variants::{Axis, Variations};

/// The sections of a file.
const TOP_KEYS: &[&str] = &[
    "name",
    "preset",
    "seed",
    "inputs",
    "setup",
    "start",
    "iterations",
    "iteration",
    "carry",
    "retain",
    "variants",
    "grid",
];

/// The keys of a stage.
const STAGE_KEYS: &[&str] = &["uses", "with", "retries", "timeout", "priority"];

/// How the steps of a stage are executed. None of it is in a key: it changes no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How often a transient failure is tried again.
    pub retries: u32,
    /// Most time one attempt may take; of a sharded stage, one attempt of one shard.
    pub timeout: Option<Duration>,
    /// Steps of a higher priority, and what they need, go first; usually 0.
    pub priority: i64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { retries: 2, timeout: None, priority: 0 }
    }
}

/// A pipeline file that was read and found good.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// What all random numbers derive from.
    pub seed: u64,
    /// The file.
    pub path: PathBuf,
    /// The folder that relative paths in it start from.
    pub base: PathBuf,
    /// Name → path as written, of the user's files and folders.
    pub inputs: BTreeMap<String, String>,
    /// Stages that run once, in the order of the file.
    pub setup: Vec<StageEntry>,
    /// Carried name → reference to its value in the first iteration.
    pub start: BTreeMap<String, String>,
    /// Number of iterations.
    pub iterations: usize,
    /// Stages of an iteration, in the order of the file.
    pub iteration: Vec<StageEntry>,
    /// Carried name → reference to its value for the next iteration.
    pub carry: BTreeMap<String, String>,
    /// Output name → of how many iterations, counted from the last, its content is kept.
    pub retain: BTreeMap<String, usize>,
    /// What differs from the file, in order.
    pub overrides: Vec<Override>,
    document: Document,
}

/// A stage of a pipeline.
#[derive(Debug, Clone)]
pub struct StageEntry {
    /// Its name.
    pub name: String,
    /// What it does.
    pub config: StageConfig,
    /// How its steps are executed.
    pub policy: Policy,
}

impl Pipeline {
    /// Reads the file at `path`, as given or under `pipelines/`, with overrides (`key.path=value`)
    /// applied in their order.
    ///
    /// # Errors
    /// All problems, from the top of the file to its end, then those of the command line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, Vec<Diagnostic>> {
        let (path, text) = Self::text(path)?;
        Self::parse(&text, &path, overrides)
    }

    /// The file meant by `path`, and what it says.
    pub(crate) fn text(path: &Path) -> Result<(PathBuf, String), Vec<Diagnostic>> {
        let path = locate::locate(Path::new(""), path).map_err(|problem| vec![*problem])?;
        let fail = |message: String| vec![Diagnostic::of_file(path.clone(), message, None)];
        let bytes =
            std::fs::read(&path).map_err(|error| fail(format!("cannot read {}: {error}", path.display())))?;
        let text =
            String::from_utf8(bytes).map_err(|_| fail(format!("{} is not UTF-8 text", path.display())))?;
        Ok((path, text))
    }

    /// Reads a pipeline from the text of the file at `path`.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn parse(text: &str, path: &Path, overrides: &[String]) -> Result<Self, Vec<Diagnostic>> {
        let changes: Vec<Change> = overrides.iter().cloned().map(Change::Argument).collect();
        Self::changed(text, path, &changes)
    }

    /// What the file says of sweeps, as far as it can be read, and the problems of that.
    pub(crate) fn variations(text: &str, path: &Path) -> (Variations, Vec<Diagnostic>) {
        match Draft::read(path, text, &[]) {
            Ok(mut draft) => {
                let lines = variants::lines(&draft.document);
                (Variations { lines, ..variants::read(&mut draft) }, draft.problems)
            }
            Err(problem) => (Variations::default(), vec![*problem]),
        }
    }

    /// Reads a pipeline with changes applied in their order.
    pub(crate) fn changed(text: &str, path: &Path, changes: &[Change]) -> Result<Self, Vec<Diagnostic>> {
        let mut draft = Draft::read(path, text, changes).map_err(|problem| vec![*problem])?;
        let folder = draft.document.folder.clone();
        let base = folder.unwrap_or_else(|| path.parent().unwrap_or(Path::new("")).to_path_buf());
        let parts = read::read(&mut draft);
        drop(variants::read(&mut draft));
        if !parts.incomplete {
            names::check(&mut draft, &parts, &base);
        }
        let Draft { document, mut problems } = draft;
        if !problems.is_empty() {
            problems.iter_mut().for_each(overrides::explain_lists);
            problems.sort_by_key(Diagnostic::order);
            return Err(problems);
        }
        Ok(Self {
            name: parts.name,
            seed: parts.seed,
            path: path.to_path_buf(),
            base,
            inputs: parts.inputs,
            setup: entries(&document, "setup", parts.setup),
            start: parts.start,
            iterations: parts.iterations,
            iteration: entries(&document, "iteration", parts.iteration),
            carry: parts.carry,
            retain: parts.retain,
            overrides: document.overrides.clone(),
            document,
        })
    }

    /// The file's content with overrides applied, for the record of a run.
    #[must_use]
    pub fn resolved(&self) -> Value {
        Value::Object((*self.document.value).clone())
    }

    /// The same pipeline with another seed.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        let mut pipeline = Self { seed, ..self.clone() };
        Arc::make_mut(&mut pipeline.document.value).insert("seed".to_owned(), seed.into());
        pipeline
    }

    /// Line and column of a field (`iteration.explore.with.samples`) in the file; `None` when it is not
    /// written there.
    #[must_use]
    pub fn position(&self, field: &str) -> Option<(usize, usize)> {
        self.document.position(field)
    }

    /// Where the value of a field comes from: the last override of it, or the file.
    #[must_use]
    pub fn origin(&self, field: &str) -> Origin {
        self.document.origin(field, At::Key)
    }
}

/// Stages in the order of the file; those it does not hold itself come last.
fn entries(document: &Document, section: &str, stages: Vec<read::RawStage>) -> Vec<StageEntry> {
    let entry = |stage: read::RawStage| {
        Some(StageEntry { name: stage.name, config: stage.config?, policy: stage.policy })
    };
    let mut entries: Vec<StageEntry> = stages.into_iter().filter_map(entry).collect();
    if document.is_reordered() {
        let line = |entry: &StageEntry| document.position(&position::join(section, &entry.name));
        entries.sort_by_cached_key(|entry| line(entry).map_or(usize::MAX, |(line, _)| line));
    }
    entries
}
