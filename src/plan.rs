//! The DAG of steps: what depends on what. Append-only; knows nothing of running or of stores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bstar_stages::{Output, StageConfig, hub};
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::lower::{Lowered, lower, uses};
use crate::pipeline::{Pipeline, StageEntry};
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
    /// How often a transient failure is tried again.
    pub retries: u32,
    /// The sharded step it is a piece of, and where its file goes in that step's output folder.
    pub parent: Option<(StepId, String)>,
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    graph: DiGraph<Step, ()>,
    names: BTreeMap<String, StepId>,
    shards: BTreeMap<StepId, Vec<StepId>>,
    results: BTreeMap<String, Source>,
}

impl Plan {
    /// Lays out `setup` and all iterations of a pipeline, composite stages lowered.
    #[must_use]
    pub fn new(pipeline: &Pipeline) -> Self {
        let setup = lower_all(&pipeline.setup);
        let iteration = lower_all(&pipeline.iteration);
        let scope = Scope {
            iteration: Scope::outputs(&iteration),
            setup: Scope::outputs(&setup),
            carried: pipeline.start.keys().chain(pipeline.carry.keys()).cloned().collect(),
            inputs: pipeline.inputs.keys().cloned().collect(),
        };
        let mut layout = Layout { pipeline, scope, plan: Self::default(), carried: BTreeMap::new() };
        layout.section(Section::Setup, &setup, &order(&layout.scope.dependencies(&setup, View::Setup)));
        let in_order = order(&layout.scope.dependencies(&iteration, View::Iteration));
        for round in 0..pipeline.iterations {
            layout.carried = layout.carry_into(round);
            layout.section(Section::Iteration(round), &iteration, &in_order);
        }
        layout.plan
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
        let outputs = if step.parent.is_none() { step.stage.stage().outputs() } else { Vec::new() };
        let parent = step.parent.as_ref().map(|(parent, _)| *parent);
        let id = self.graph.add_node(step);
        if let Some(parent) = parent {
            self.shards.entry(parent).or_default().push(id);
        }
        for source in sources {
            self.graph.update_edge(source, id, ());
        }
        for output in outputs {
            self.results.insert(format!("{name}.{}", output.name), Source::Output { step: id, output });
        }
        self.names.insert(name, id);
        id
    }

    /// The steps and edges, for algorithms on the graph.
    #[must_use]
    pub fn graph(&self) -> &DiGraph<Step, ()> {
        &self.graph
    }

    /// A step.
    #[must_use]
    pub fn step(&self, id: StepId) -> &Step {
        &self.graph[id]
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

    /// `iteration[3].train.policy` → that output, for every output of every step that is no shard.
    #[must_use]
    pub fn results(&self) -> &BTreeMap<String, Source> {
        &self.results
    }

    fn neighbours(&self, id: StepId, direction: Direction) -> Vec<StepId> {
        let mut steps: Vec<StepId> = self.graph.neighbors_directed(id, direction).collect();
        steps.sort();
        steps
    }
}

fn lower_all(stages: &[StageEntry]) -> Vec<Lowered> {
    stages.iter().flat_map(|stage| lower(&stage.name, Some(&stage.config), stage.retries)).collect()
}

/// A plan in the making.
struct Layout<'a> {
    pipeline: &'a Pipeline,
    scope: Scope,
    plan: Plan,
    /// The values of the carried names in the iteration being laid out; absent ones are left out.
    carried: BTreeMap<String, Source>,
}

impl Layout<'_> {
    /// Adds the steps of one section. A pipeline that was loaded has no cycles and no unresolved names.
    fn section(&mut self, section: Section, steps: &[Lowered], in_order: &[usize]) {
        for step in in_order.iter().map(|index| &steps[*index]) {
            let Some(mut stage) = step.config.clone() else { continue };
            if let Section::Iteration(round) = section {
                stage.stage_mut().bind_iteration(round);
            }
            let (mut inputs, mut settings) = (BTreeMap::new(), BTreeMap::new());
            for reference in uses(&stage) {
                if let Some(source) = self.source(&reference.reference.0, section) {
                    let sources = if reference.setting { &mut settings } else { &mut inputs };
                    sources.insert(reference.name, source);
                }
            }
            if let StageConfig::Command(command) = &stage {
                for file in &command.files {
                    inputs.insert(format!("file:{file}"), self.file(file));
                }
            }
            self.plan.add(Step {
                name: section.step_name(&step.name),
                entry: format!("{}.{}", section.key(), step.entry),
                section,
                stage,
                inputs,
                settings,
                seed: self.pipeline.seed,
                retries: step.retries,
                parent: None,
            });
        }
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
                let path = self.pipeline.inputs.get(&name)?;
                // A model that has left the cache since the pipeline was checked fails the step.
                Some(hub::resolve(path).map_or_else(|_| self.file(path), |path| self.file(&path)))
            }
            Target::Carried(name) => self.carried.get(&name).cloned(),
            Target::Stage { section: of, name, output } => {
                let home = if of == View::Setup { Section::Setup } else { section };
                Some(Source::Output { step: self.plan.find(&home.step_name(&name))?, output: output? })
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
