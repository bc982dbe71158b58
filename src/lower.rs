//! Composite stages become the steps they stand for.

use std::borrow::Cow;

use bstar_stages::holds::Holds;
use bstar_stages::{Reference, Setting, StageConfig};

use crate::pipeline::Policy;

/// A stage after lowering: one step of a section.
#[derive(Debug, Clone)]
pub(crate) struct Lowered<'a> {
    /// `measure.greedy`, or the stage's own name.
    pub(crate) name: String,
    /// The name of the stage in the file.
    pub(crate) entry: &'a str,
    /// Its settings; `None` for a stage that could not be read.
    pub(crate) config: Option<Cow<'a, StageConfig>>,
    /// Everything it refers to.
    pub(crate) uses: Vec<Use>,
    /// How it is executed.
    pub(crate) policy: Policy,
}

/// The steps of one stage; the last has the stage's own name.
pub(crate) fn lower<'a>(name: &'a str, config: Option<&'a StageConfig>, policy: Policy) -> Vec<Lowered<'a>> {
    let step = |step: String, config: Option<Cow<'a, StageConfig>>| {
        let uses = config.as_deref().map(uses).unwrap_or_default();
        Lowered { name: step, entry: name, config, uses, policy }
    };
    match config.and_then(|config| config.stage().lower(name)) {
        Some(steps) => steps.into_iter().map(|(name, config)| step(name, Some(Cow::Owned(config)))).collect(),
        None => vec![step(name.to_owned(), config.map(Cow::Borrowed))],
    }
}

/// A reference written in a stage's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    /// The input or setting.
    pub(crate) name: String,
    /// What it refers to.
    pub(crate) reference: Reference,
    /// Whether the stage can do without.
    pub(crate) optional: bool,
    /// Whether it is a setting, whose value is read before the step is keyed.
    pub(crate) setting: bool,
    /// What it has to be, where that is known.
    pub(crate) needs: Option<Holds>,
}

/// Everything a stage refers to.
fn uses(config: &StageConfig) -> Vec<Use> {
    // A program calls its inputs as it likes, and rows of any kind can be drawn from.
    let any = matches!(config, StageConfig::Command(_) | StageConfig::Draw(_));
    let needs = |name: &str| Holds::by_name(name).filter(|_| !any);
    let mut uses: Vec<Use> = config
        .stage()
        .inputs()
        .into_iter()
        .map(|input| Use {
            needs: needs(&input.name),
            name: input.name,
            reference: input.reference,
            optional: input.optional,
            setting: false,
        })
        .collect();
    if !config.stage().has_settings() {
        return uses;
    }
    // Only a mutable stage shows its settings.
    let mut shown = config.clone();
    for (name, setting) in shown.stage_mut().settings() {
        if let Setting::Reference(reference) = setting {
            let reference = reference.clone();
            let needs = needs(name).or(Some(Holds::Number));
            uses.push(Use { name: name.to_owned(), reference, optional: false, setting: true, needs });
        }
    }
    uses
}
