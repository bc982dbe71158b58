//! The DAG of steps: what depends on what. Append-only; knows nothing of running or of stores.
//!
//! One plan may serve several pipelines, the variants of a sweep: steps that have the same stage, the
//! same settings, the same seed where it matters, and the same sources are one step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bstar_cache::{Action, ActionKey};
use bstar_stages::{Output, StageConfig, hub};
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::lower::{Lowered, lower};
use crate::pipeline::{Pipeline, Policy, StageEntry};
use crate::scope::{Scope, Target, View, order};

/// A step of a plan.
pub type StepId = NodeIndex;

/// Where in the pipeline a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `setup:`, once.
    Setup,
    /// `iteration:`, in that round (0-based).
    Iteration(usize),
}

impl Section {
    /// The full name of a step in this section: `setup.sft`, `iteration[2].train`.
    #[must_use]
    pub fn step_name(self, name: &str) -> String {
        match self {
            Self::Setup => format!("setup.{name}"),
            Self::Iteration(iteration) => format!("iteration[{iteration}].{name}"),
        }
    }

    /// The section's key in the pipeline file.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Iteration(_) => "iteration",
        }
    }
}

/// One use of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Full name: `setup.sft`, `iteration[2].train`, `iteration[2].explore/t=0.5/q00000-00064.s0000-0016`.
    pub name: String,
    /// Its stage in the pipeline file: `iteration.explore`, also for lowered steps and shards.
    pub entry: String,
    /// Where it stands.
    pub section: Section,
    /// Its settings; references are resolved through `sources`.
    pub stage: StageConfig,
    /// Input name → where it comes from. Optional inputs without a source are left out. The `files` of
    /// a `command` are here too, as `file:` and their path.
    pub inputs: BTreeMap<String, Source>,
    /// Setting name → the output (a JSON number) that gives its value.
    pub settings: BTreeMap<String, Source>,
    /// What the random numbers of a seeded stage derive from.
    pub seed: u64,
    /// How it is executed.
    pub policy: Policy,
    /// The sharded step it is a piece of, and where its file goes in that step's output folder.
    pub parent: Option<(StepId, String)>,
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// An output of a step.
    Output {
        /// The step.
        step: StepId,
        /// Which of its outputs.
        output: Output,
    },
    /// A file or folder of the user, by its path under `inputs:` (or a `command` stage's `files`).
    File(PathBuf),
    /// Content known by digest: a chunk of rows, or one file of a folder made by a step.
    Content(bstar_cache::Artifact),
}

/// The steps and their order.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Steps are shared with copies of the plan and with those who carry them out.
    graph: DiGraph<Arc<Step>, ()>,
    names: BTreeMap<String, StepId>,
    shards: BTreeMap<StepId, Vec<StepId>>,
    parts: Vec<Part>,
}

/// The steps of one pipeline in a plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    /// What tells its steps from those of the other pipelines: `n_star=2,seed=1`; empty for the first.
    pub tag: String,
    /// Its steps: the name in the pipeline, and the step, which may have been laid out for another
    /// pipeline under another name. Inputs come before users.
    pub steps: Vec<(String, StepId)>,
}

impl Part {
    /// The step that the pipeline calls by this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<StepId> {
        self.steps.iter().find(|(own, _)| own == name).map(|(_, id)| *id)
    }
}

impl Plan {
    /// Lays out `setup` and all iterations of a pipeline, composite stages lowered.
    #[must_use]
    pub fn new(pipeline: &Pipeline) -> Self {
        let mut plan = Self::default();
        // A pipeline alone shares with nobody.
        plan.lay_out("", pipeline, None);
        plan
    }

    /// Lays out several pipelines in one plan; work that they share is one step. Each comes with a tag,
    /// which is appended to the name of a step (`iteration[0].train@n_star=2`) where a pipeline before
    /// it has another step of that name.
    #[must_use]
    pub fn of(pipelines: &[(String, Pipeline)]) -> Self {
        let mut plan = Self::default();
        let mut known = (pipelines.len() > 1).then(Known::default);
        for (tag, pipeline) in pipelines {
            plan.lay_out(tag, pipeline, known.as_mut());
        }
        plan
    }

    fn lay_out(&mut self, tag: &str, pipeline: &Pipeline, known: Option<&mut Known>) {
        let setup = lower_all(&pipeline.setup);
        let iteration = lower_all(&pipeline.iteration);
        let scope = Scope {
            iteration: Scope::outputs(&iteration),
            setup: Scope::outputs(&setup),
            carried: pipeline.start.keys().chain(pipeline.carry.keys()).cloned().collect(),
            inputs: pipeline.inputs.keys().cloned().collect(),
        };
        let part = Part { tag: tag.to_owned(), steps: Vec::new() };
        let (names, own, carried) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut layout = Layout { pipeline, scope, plan: self, known, part, names, own, carried };
        layout.section(Section::Setup, &setup, &order(&layout.scope.dependencies(&setup, View::Setup)));
        let in_order = order(&layout.scope.dependencies(&iteration, View::Iteration));
        for round in 0..pipeline.iterations {
            layout.carried = layout.carry_into(round);
            layout.section(Section::Iteration(round), &iteration, &in_order);
        }
        let part = layout.part;
        self.parts.push(part);
    }

    /// Appends a step after everything it reads from.
    pub fn add(&mut self, step: Step) -> StepId {
        let sources: Vec<StepId> = step
            .inputs
            .values()
            .chain(step.settings.values())
            .filter_map(|source| match source {
                Source::Output { step, .. } => Some(*step),
                Source::File(_) | Source::Content(_) => None,
            })
            .collect();
        let name = step.name.clone();
        let parent = step.parent.as_ref().map(|(parent, _)| *parent);
        let id = self.graph.add_node(Arc::new(step));
        if let Some(parent) = parent {
            self.shards.entry(parent).or_default().push(id);
        }
        let mut linked = BTreeSet::new();
        for source in sources {
            // Asking the graph instead would look at every step that reads from the source.
            if linked.insert(source) {
                self.graph.add_edge(source, id, ());
            }
        }
        self.names.insert(name, id);
        id
    }

    /// The steps and edges, for algorithms on the graph.
    #[must_use]
    pub fn graph(&self) -> &DiGraph<Arc<Step>, ()> {
        &self.graph
    }

    /// A step.
    #[must_use]
    pub fn step(&self, id: StepId) -> &Step {
        &self.graph[id]
    }

    /// A step, to keep.
    #[must_use]
    pub fn shared(&self, id: StepId) -> Arc<Step> {
        Arc::clone(&self.graph[id])
    }

    /// The step of that full name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<StepId> {
        self.names.get(name).copied()
    }

    /// All steps, in the order they were added: inputs before users.
    pub fn ids(&self) -> impl Iterator<Item = StepId> + use<> {
        self.graph.node_indices()
    }

    /// Number of steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.graph.node_count()
    }

    /// Whether there are no steps.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The steps that this one reads from directly, sorted.
    #[must_use]
    pub fn dependencies(&self, id: StepId) -> Vec<StepId> {
        self.neighbours(id, Direction::Incoming)
    }

    /// The steps that read from this one directly, sorted.
    #[must_use]
    pub fn dependents(&self, id: StepId) -> Vec<StepId> {
        self.neighbours(id, Direction::Outgoing)
    }

    /// The shards of a step, in the order they were added; empty before it is unfolded.
    #[must_use]
    pub fn shards_of(&self, parent: StepId) -> &[StepId] {
        self.shards.get(&parent).map_or(&[], Vec::as_slice)
    }

    /// The pipelines that the plan was laid out for, in their order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// `iteration[3].train.policy` → that output, for every output of every step of a pipeline.
    #[must_use]
    pub fn results(&self, part: &Part) -> BTreeMap<String, Source> {
        let mut results = BTreeMap::new();
        for (name, step) in &part.steps {
            for output in self.step(*step).stage.stage().outputs() {
                results.insert(format!("{name}.{}", output.name), Source::Output { step: *step, output });
            }
        }
        results
    }

    fn neighbours(&self, id: StepId, direction: Direction) -> Vec<StepId> {
        let mut steps: Vec<StepId> = self.graph.neighbors_directed(id, direction).collect();
        steps.sort();
        steps
    }
}

fn lower_all(stages: &[StageEntry]) -> Vec<Lowered<'_>> {
    stages.iter().flat_map(|stage| lower(&stage.name, Some(&stage.config), stage.policy)).collect()
}

/// Everything that decides a step's result, before its sources are known.
type Signature = (ActionKey, Vec<(String, Source)>);

/// The steps laid out so far, by what they do.
type Known = HashMap<Signature, Vec<StepId>>;

fn signature(step: &Step) -> Signature {
    let stage = step.stage.stage();
    let action = Action {
        stage: step.stage.name().to_owned(),
        version: stage.version(),
        config: stage.identity(),
        seed: stage.seeded().then_some(step.seed),
        inputs: BTreeMap::new(),
    };
    let own = |(name, source): (&String, &Source)| (name.clone(), source.clone());
    (action.key(), step.inputs.iter().chain(&step.settings).map(own).collect())
}

/// One pipeline on its way into the plan.
struct Layout<'a> {
    pipeline: &'a Pipeline,
    scope: Scope,
    plan: &'a mut Plan,
    known: Option<&'a mut Known>,
    part: Part,
    /// The steps of the part, by name and as a set.
    names: BTreeMap<String, StepId>,
    own: BTreeSet<StepId>,
    /// The values of the carried names in the iteration being laid out; absent ones are left out.
    carried: BTreeMap<String, Source>,
}

impl Layout<'_> {
    /// Adds the steps of one section. A pipeline that was loaded has no cycles and no unresolved names.
    fn section(&mut self, section: Section, steps: &[Lowered<'_>], in_order: &[usize]) {
        for step in in_order.iter().map(|index| &steps[*index]) {
            let Some(stage) = &step.config else { continue };
            let mut stage = StageConfig::clone(stage);
            if let Section::Iteration(round) = section {
                stage.stage_mut().bind_iteration(round);
            }
            let (mut inputs, mut settings) = (BTreeMap::new(), BTreeMap::new());
            for reference in &step.uses {
                if let Some(source) = self.source(&reference.reference.0, section) {
                    let sources = if reference.setting { &mut settings } else { &mut inputs };
                    sources.insert(reference.name.clone(), source);
                }
            }
            if let StageConfig::Command(command) = &stage {
                for file in &command.files {
                    inputs.insert(format!("file:{file}"), self.file(file));
                }
            }
            self.add(Step {
                name: section.step_name(&step.name),
                entry: format!("{}.{}", section.key(), step.entry),
                section,
                stage,
                inputs,
                settings,
                seed: self.pipeline.seed,
                policy: step.policy,
                parent: None,
            });
        }
    }

    /// Adds a step, unless another pipeline has laid out the same.
    fn add(&mut self, mut step: Step) {
        let name = step.name.clone();
        let signature = self.known.is_some().then(|| signature(&step));
        let id = self.shared(signature.as_ref()).unwrap_or_else(|| {
            step.name = self.unused(name.clone());
            self.plan.add(step)
        });
        if let (Some(known), Some(signature)) = (&mut self.known, signature) {
            let same = known.entry(signature).or_default();
            if !same.contains(&id) {
                same.push(id);
            }
        }
        self.own.insert(id);
        self.names.insert(name.clone(), id);
        self.part.steps.push((name, id));
    }

    /// The step of another pipeline that does the same. A pipeline's own steps stay apart: each has its
    /// name.
    fn shared(&self, signature: Option<&Signature>) -> Option<StepId> {
        let same = self.known.as_ref()?.get(signature?)?;
        same.iter().copied().find(|id| !self.own.contains(id))
    }

    /// The name, with the tag (and a number) where it is taken.
    fn unused(&self, name: String) -> String {
        if self.plan.find(&name).is_none() {
            return name;
        }
        let tagged = format!("{name}@{}", self.part.tag);
        let numbered = (2..).map(|number| format!("{tagged}~{number}"));
        let mut names = std::iter::once(tagged.clone()).chain(numbered);
        names.find(|name| self.plan.find(name).is_none()).unwrap_or(tagged)
    }

    fn file(&self, path: impl AsRef<Path>) -> Source {
        Source::File(self.pipeline.base.join(path))
    }

    /// Where a reference in a section leads; `None` for a carried value that does not exist (yet).
    fn source(&self, text: &str, section: Section) -> Option<Source> {
        let view = match section {
            Section::Setup => View::Setup,
            Section::Iteration(_) => View::Iteration,
        };
        match self.scope.resolve(text, view).ok()? {
            Target::Input(name) => {
                let path = self.pipeline.inputs.get(name)?;
                // A model that has left the cache since the pipeline was checked fails the step.
                Some(hub::resolve(path).map_or_else(|_| self.file(path), |path| self.file(&path)))
            }
            Target::Carried(name) => self.carried.get(name).cloned(),
            Target::Stage { section: of, name, output } => {
                let home = if of == View::Setup { Section::Setup } else { section };
                let step = *self.names.get(&home.step_name(name))?;
                Some(Source::Output { step, output: output?.clone() })
            }
        }
    }

    /// The values of the carried names in an iteration, from `start` or the iteration before.
    fn carry_into(&self, round: usize) -> BTreeMap<String, Source> {
        let value = |name: &String| {
            let start = self.pipeline.start.get(name);
            match (self.pipeline.carry.get(name), round) {
                (Some(carry), 1..) => self.source(carry, Section::Iteration(round - 1)),
                // Without `start`, the setup stage or input of that name.
                (Some(_), 0) => self.source(start.unwrap_or(name), Section::Setup),
                (None, _) => self.source(start?, Section::Setup),
            }
        };
        let names = self.scope.carried.iter();
        names.filter_map(|name| Some((name.clone(), value(name)?))).collect()
    }
}

#[cfg(test)]
mod tests;
