//! The DAG of steps: what depends on what. Append-only; knows nothing of running or of stores.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bstar_stages::{Output, StageConfig};
use petgraph::graph::{DiGraph, NodeIndex};

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

/// One use of a stage.
#[derive(Debug, Clone)]
pub struct Step {
    /// Full name: `setup.sft`, `iteration[2].train`, `iteration[2].explore/t=0.5/00000-0000-0016`.
    pub name: String,
    /// Where it stands.
    pub section: Section,
    /// Its settings; references are resolved through `sources`.
    pub stage: StageConfig,
    /// Input name → where it comes from. Optional inputs without a source are left out.
    pub inputs: BTreeMap<String, Source>,
    /// Setting name → the output (a JSON number) that gives its value.
    pub settings: BTreeMap<String, Source>,
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
    /// A file or folder of the user, by its name under `inputs:` (or a `command` stage's `files`).
    File(PathBuf),
    /// Content known by digest: a chunk of rows, or one file of a folder made by a step.
    Content(bstar_cache::Artifact),
}

/// The steps and their order.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    graph: DiGraph<Step, ()>,
    results: BTreeMap<String, Source>,
}

impl Plan {
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
        let id = self.graph.add_node(step);
        for source in sources {
            self.graph.update_edge(source, id, ());
        }
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

    /// All steps, in the order they were added: inputs before users.
    pub fn ids(&self) -> impl Iterator<Item = StepId> + use<> {
        self.graph.node_indices()
    }
}
