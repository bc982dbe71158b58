//! What a run would do, without doing it: keys and lookups only.

use std::collections::BTreeMap;

use bstar_cache::{Action, ActionKey, Difference, Manifest, Store, StoreError};
use bstar_stages::Setting;
use bstar_stages::protocol::StageError;
use serde::Serialize;

use super::Trouble;
use super::content::{Content, Imports};
use super::prepare::{action, number};
use crate::plan::{Plan, Source, Step, StepId};

/// What a run would do with a step.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Its result is stored.
    Cached(Box<Manifest>),
    /// It will run.
    WillRun(Box<Miss>),
    /// Its key is not known before these steps have run.
    Unknown(Vec<String>),
}

/// A step whose result is not stored.
#[derive(Debug, Clone, Serialize)]
pub struct Miss {
    /// Its key.
    pub key: ActionKey,
    /// What the key is made of.
    pub action: Action,
    /// The stored result of the same stage that differs least.
    pub nearest: Option<Nearest>,
}

/// The stored result that is most like a missing one.
#[derive(Debug, Clone, Serialize)]
pub struct Nearest {
    /// Its key.
    pub key: ActionKey,
    /// The step that made it, in its run.
    pub step: String,
    /// The run.
    pub run: String,
    /// How it differs.
    pub differences: Vec<Difference>,
    /// Seconds it took.
    pub wall_s: f64,
}

/// Why no preview could be made.
#[derive(Debug)]
pub enum PreviewError {
    /// A file of the user cannot be used.
    Input(StageError),
    /// The store cannot be used.
    Store(StoreError),
}

impl From<Trouble> for PreviewError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Step(error) => Self::Input(error),
            Trouble::Store(error) => Self::Store(error),
            Trouble::Stopped => Self::Input(StageError::failed("stopped")),
        }
    }
}

impl From<StoreError> for PreviewError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The fate of every step of a plan, in the plan's order.
///
/// # Errors
/// When a file of the user or the store cannot be read.
pub async fn preview(store: &Store, plan: &Plan) -> Result<Vec<(StepId, Fate)>, PreviewError> {
    let mut preview =
        Preview { store, plan, imports: Imports::default(), stored: None, fates: BTreeMap::new() };
    for id in plan.ids() {
        let fate = preview.fate(id).await?;
        preview.fates.insert(id, fate);
    }
    Ok(preview.fates.into_iter().collect())
}

struct Preview<'a> {
    store: &'a Store,
    plan: &'a Plan,
    imports: Imports,
    /// All manifests, read when the first miss wants its nearest.
    stored: Option<Vec<Manifest>>,
    fates: BTreeMap<StepId, Fate>,
}

impl Preview<'_> {
    async fn fate(&mut self, id: StepId) -> Result<Fate, PreviewError> {
        let step = self.plan.step(id);
        let mut waits: Vec<String> = Vec::new();
        for source in step.inputs.values().chain(step.settings.values()) {
            if let Source::Output { step, .. } = source
                && !matches!(self.fates.get(step), Some(Fate::Cached(_)))
            {
                waits.push(self.plan.step(*step).name.clone());
            }
        }
        if !waits.is_empty() {
            waits.sort();
            waits.dedup();
            return Ok(Fate::Unknown(waits));
        }
        let action = self.action(step).await?;
        let key = action.key();
        if let Some(manifest) = self.store.lookup(&key).await? {
            return Ok(Fate::Cached(Box::new(manifest)));
        }
        let nearest = self.nearest(&action, &step.name).await?;
        Ok(Fate::WillRun(Box::new(Miss { key, action, nearest })))
    }

    async fn action(&self, step: &Step) -> Result<Action, PreviewError> {
        let mut stage = step.stage.clone();
        for (name, setting) in stage.stage_mut().settings() {
            if let Some(source) = step.settings.get(name) {
                let content = self.content(source).await?;
                *setting = Setting::Value(number(self.store, &content.digest()).await?);
            }
        }
        let mut inputs = BTreeMap::new();
        for (name, source) in &step.inputs {
            inputs.insert(name.clone(), self.content(source).await?.digest());
        }
        Ok(action(&stage, step.seed, inputs))
    }

    async fn content(&self, source: &Source) -> Result<Content, PreviewError> {
        match source {
            Source::File(path) => Ok(self.imports.digest(path).await?),
            Source::Content(artifact) => Ok(Content::File(*artifact)),
            Source::Output { step, output } => {
                let Some(Fate::Cached(manifest)) = self.fates.get(step) else {
                    return Err(PreviewError::Input(StageError::failed("an input is not known yet")));
                };
                Content::of_output(manifest, output).ok_or_else(|| {
                    let step = &self.plan.step(*step).name;
                    PreviewError::Input(StageError::failed(format!("{step} has no output {}", output.name)))
                })
            }
        }
    }

    /// Few differences first, then the same step's name, then the youngest.
    async fn nearest(&mut self, action: &Action, name: &str) -> Result<Option<Nearest>, StoreError> {
        if self.stored.is_none() {
            self.stored = Some(self.store.manifests().await?);
        }
        let candidates =
            self.stored.iter().flatten().filter(|manifest| manifest.action.stage == action.stage);
        let ranked = candidates.map(|manifest| {
            let differences = action.differences(&manifest.action);
            (differences.len(), manifest.provenance.step != name, manifest, differences)
        });
        let best = ranked.min_by(|a, b| {
            let started = |manifest: &Manifest| manifest.provenance.started.clone();
            (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| started(b.2).cmp(&started(a.2)))
        });
        Ok(best.map(|(_, _, manifest, differences)| Nearest {
            key: manifest.key,
            step: manifest.provenance.step.clone(),
            run: manifest.provenance.run.clone(),
            differences,
            wall_s: manifest.provenance.wall_s,
        }))
    }
}
