//! What a run would do, without doing it: keys and lookups only.

use std::collections::{BTreeMap, BTreeSet};

use bstar_cache::{Action, ActionKey, Difference, Manifest, Store, StoreError};
use bstar_stages::protocol::StageError;
use bstar_stages::{Setting, StageConfig};
use serde::Serialize;
use tokio::task::JoinSet;

use super::Trouble;
use super::content::{Content, Imports};
use super::prepare::{action, number};
use super::work::WorkRoot;
use crate::plan::{Plan, Source, Step, StepId};

/// Lookups at a time.
const LOOKUPS: usize = 64;

/// How many stored results a missing one is compared with.
const CANDIDATES: usize = 200;

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

impl Fate {
    /// As answers for programs call it.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self {
            Self::Cached(_) => "cached",
            Self::WillRun(_) => "will_run",
            Self::Unknown(_) => "unknown",
        }
    }
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
    /// It executes whatever is stored.
    pub forced: bool,
}

/// The stored result that is most like a missing one.
#[derive(Debug, Clone, Serialize)]
pub struct Nearest {
    /// Its key.
    pub key: ActionKey,
    /// The step that made it, in its run.
    pub step: String,
    /// The run; empty for a result that was adopted.
    pub run: String,
    /// Who made it, in words.
    pub maker: String,
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
    preview_forced(store, plan, &BTreeSet::new()).await
}

/// [`preview`] of a run in which the steps of these names execute whatever is stored.
///
/// # Errors
/// When a file of the user or the store cannot be read.
pub async fn preview_forced(
    store: &Store,
    plan: &Plan,
    force: &BTreeSet<String>,
) -> Result<Vec<(StepId, Fate)>, PreviewError> {
    let mut preview = Preview::new(store, plan);
    for level in levels(plan) {
        for (id, action, found) in preview.look_up(level).await? {
            let name = &plan.step(id).name;
            let forced = force.contains(name);
            let fate = match found {
                Some(manifest) if !forced => Fate::Cached(Box::new(manifest)),
                _ => {
                    let nearest = preview.nearest(&action, name).await?;
                    Fate::WillRun(Box::new(Miss { key: action.key(), action, nearest, forced }))
                }
            };
            preview.fates.insert(id, fate);
        }
    }
    preview.imports.save();
    Ok(preview.fates.into_iter().collect())
}

/// The steps in groups: each reads only from groups before its own.
pub(super) fn levels(plan: &Plan) -> Vec<Vec<StepId>> {
    let mut depth: Vec<usize> = Vec::new();
    let mut levels: Vec<Vec<StepId>> = Vec::new();
    for id in plan.ids() {
        let before = plan.dependencies(id).into_iter().map(|needed| depth[needed.index()] + 1);
        let own = before.max().unwrap_or(0);
        depth.push(own);
        if levels.len() <= own {
            levels.push(Vec::new());
        }
        levels[own].push(id);
    }
    levels
}

/// The results that are stored under some keys.
pub(super) async fn look_up(
    store: &Store,
    keys: &[ActionKey],
) -> Result<BTreeMap<ActionKey, Manifest>, StoreError> {
    let mut found = BTreeMap::new();
    let mut lookups = JoinSet::new();
    let mut keys = keys.iter();
    loop {
        while lookups.len() < LOOKUPS
            && let Some(key) = keys.next().copied()
        {
            let store = store.clone();
            lookups.spawn(async move { (key, store.lookup(&key).await) });
        }
        let Some(answer) = lookups.join_next().await else { return Ok(found) };
        // A task that broke off has found nothing.
        let Ok((key, manifest)) = answer else { continue };
        if let Some(manifest) = manifest? {
            found.insert(key, manifest);
        }
    }
}

/// What is known of a step whose key is not.
#[derive(Debug, Clone, Serialize)]
pub struct Partial {
    /// The ingredients so far: settings that are not known are the references as written, and inputs that
    /// are not known are left out.
    pub action: Action,
    /// Inputs and settings that are not known → the steps that make them.
    pub missing: BTreeMap<String, String>,
    /// The steps whose results are not stored and whose keys are known: they decide.
    pub deciding: Vec<String>,
}

/// What is known of a step that is [`Fate::Unknown`].
///
/// # Errors
/// As [`preview`].
pub async fn partial(
    store: &Store,
    plan: &Plan,
    fates: &[(StepId, Fate)],
    id: StepId,
) -> Result<Partial, PreviewError> {
    let mut preview = Preview::new(store, plan);
    preview.fates = fates.iter().cloned().collect();
    let mut step = plan.step(id).clone();
    let mut missing = BTreeMap::new();
    let known = |name: &String, source: &mut Source| match source {
        Source::Output { step, .. } if !matches!(preview.fates.get(step), Some(Fate::Cached(_))) => {
            missing.insert(name.clone(), plan.step(*step).name.clone());
            false
        }
        _ => true,
    };
    let mut known = known;
    step.inputs.retain(&mut known);
    step.settings.retain(&mut known);
    let (_, action, _) = preview.resolve(&step).await?;
    let (mut open, mut seen, mut deciding) = (vec![id], BTreeSet::from([id]), Vec::new());
    while let Some(next) = open.pop() {
        for needed in plan.dependencies(next) {
            if !seen.insert(needed) {
                continue;
            }
            match preview.fates.get(&needed) {
                Some(Fate::WillRun(_)) => deciding.push(needed),
                Some(Fate::Unknown(_)) => open.push(needed),
                Some(Fate::Cached(_)) | None => {}
            }
        }
    }
    deciding.sort_unstable();
    let deciding = deciding.into_iter().map(|id| plan.step(id).name.clone()).collect();
    Ok(Partial { action, missing, deciding })
}

pub(super) struct Preview<'a> {
    store: &'a Store,
    plan: &'a Plan,
    imports: Imports,
    /// All manifests by stage, the youngest first; read when the first miss wants its nearest.
    stored: Option<BTreeMap<String, Vec<Manifest>>>,
    pub(super) fates: BTreeMap<StepId, Fate>,
}

impl<'a> Preview<'a> {
    pub(super) fn new(store: &'a Store, plan: &'a Plan) -> Self {
        let imports = Imports::of(&WorkRoot::of(store));
        Self { store, plan, imports, stored: None, fates: BTreeMap::new() }
    }

    /// Looks up steps that read only from steps whose fates are known, and gives those whose keys are known;
    /// the fate of the others is.
    pub(super) async fn look_up(
        &mut self,
        level: Vec<StepId>,
    ) -> Result<Vec<(StepId, Action, Option<Manifest>)>, PreviewError> {
        let (mut known, mut keys) = (Vec::new(), Vec::new());
        for id in level {
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
                self.fates.insert(id, Fate::Unknown(waits));
                continue;
            }
            let (_, action, _) = self.resolve(step).await?;
            keys.push(action.key());
            known.push((id, action));
        }
        let found = look_up(self.store, &keys).await?;
        let known = known.into_iter().zip(keys);
        Ok(known.map(|((id, action), key)| (id, action, found.get(&key).cloned())).collect())
    }

    /// A step whose inputs are stored: its stage with all settings, what decides its result, and what
    /// it reads.
    pub(super) async fn resolve(
        &self,
        step: &Step,
    ) -> Result<(StageConfig, Action, BTreeMap<String, Content>), PreviewError> {
        let mut stage = step.stage.clone();
        for (name, setting) in stage.stage_mut().settings() {
            if let Some(source) = step.settings.get(name) {
                let content = self.content(source).await?;
                *setting = Setting::Value(number(self.store, &content).await?);
            }
        }
        let mut inputs = BTreeMap::new();
        for (name, source) in &step.inputs {
            inputs.insert(name.clone(), self.content(source).await?);
        }
        let digests = inputs.iter().map(|(name, content)| (name.clone(), content.digest())).collect();
        let action = action(&stage, step.seed, digests);
        Ok((stage, action, inputs))
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

    /// Of the results of the same step (or else of the same stage) the one with the fewest differences,
    /// of several the youngest.
    async fn nearest(&mut self, action: &Action, name: &str) -> Result<Option<Nearest>, StoreError> {
        if self.stored.is_none() {
            let mut stored: BTreeMap<String, Vec<Manifest>> = BTreeMap::new();
            for manifest in self.store.manifests().await? {
                stored.entry(manifest.action.stage.clone()).or_default().push(manifest);
            }
            for manifests in stored.values_mut() {
                manifests.sort_by(|a, b| b.provenance.started.cmp(&a.provenance.started));
            }
            self.stored = Some(stored);
        }
        let of_stage = || self.stored.iter().filter_map(|stored| stored.get(&action.stage)).flatten();
        let of_step = || of_stage().filter(|manifest| manifest.provenance.step == name);
        let here = of_step().next().is_some();
        let candidates: Box<dyn Iterator<Item = &Manifest>> =
            if here { Box::new(of_step()) } else { Box::new(of_stage()) };
        let compared =
            candidates.take(CANDIDATES).map(|manifest| (manifest, action.differences(&manifest.action)));
        let best = compared.min_by_key(|(_, differences)| differences.len());
        Ok(best.map(|(manifest, differences)| Nearest {
            key: manifest.key,
            step: manifest.provenance.step.clone(),
            run: manifest.provenance.run.clone(),
            maker: manifest.provenance.maker(),
            differences,
            wall_s: manifest.provenance.wall_s,
        }))
    }
}
