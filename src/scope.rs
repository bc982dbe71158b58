//! What a name in a pipeline file means.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};

use bstar_stages::Output;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::lower::Lowered;

/// From where a name is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// From `setup` and `start`: stages of `setup`, then `inputs`.
    Setup,
    /// From `iteration` and `carry`: stages of the iteration, carried names, then as `setup`.
    Iteration,
}

/// The outputs of stages by their names; `None` for a stage that could not be read.
pub(crate) type Stages = HashMap<String, Option<Vec<Output>>>;

/// All names of a pipeline.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    pub(crate) iteration: Stages,
    pub(crate) setup: Stages,
    pub(crate) carried: BTreeSet<String>,
    pub(crate) inputs: BTreeSet<String>,
}

/// What a reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// An output of a stage of that section; the output is `None` for a stage that could not be read.
    Stage { section: View, name: &'a str, output: Option<&'a Output> },
    /// A carried name.
    Carried(&'a str),
    /// A name under `inputs`.
    Input(&'a str),
}

/// Why a reference means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// No such name is visible.
    Unknown,
    /// A stage of the iteration, or a carried name, referred to before the iterations.
    TooEarly { name: String, carried: bool },
    /// The stage has several outputs and none is named.
    Several { stage: String, outputs: Vec<String> },
    /// The stage has no such output.
    NoOutput { stage: String, output: String, outputs: Vec<String> },
    /// An input or a carried name has no outputs to choose from.
    NotAStage { name: String },
}

impl Scope {
    /// The outputs of the steps of a section.
    pub(crate) fn outputs(steps: &[Lowered<'_>]) -> Stages {
        steps
            .iter()
            .map(|step| (step.name.clone(), step.config.as_ref().map(|config| config.stage().outputs())))
            .collect()
    }

    /// What `text` means; the innermost scope that knows its beginning decides.
    pub(crate) fn resolve<'a>(&'a self, text: &'a str, view: View) -> Result<Target<'a>, Unresolved> {
        if view == View::Iteration {
            if let Some(target) = resolve_stage(&self.iteration, text, View::Iteration) {
                return target;
            }
            if let Some(target) = resolve_name(&self.carried, text, Target::Carried) {
                return target;
            }
        }
        if let Some(target) = resolve_stage(&self.setup, text, View::Setup) {
            return target;
        }
        if let Some(target) = resolve_name(&self.inputs, text, Target::Input) {
            return target;
        }
        if view == View::Setup {
            if let Some((name, _)) = split(text, |name| self.iteration.contains_key(name)) {
                return Err(Unresolved::TooEarly { name: name.to_owned(), carried: false });
            }
            if let Some((name, _)) = split(text, |name| self.carried.contains(name)) {
                return Err(Unresolved::TooEarly { name: name.to_owned(), carried: true });
            }
        }
        Err(Unresolved::Unknown)
    }

    /// All that can be written from there, for suggestions; not the inner steps of composite stages.
    pub(crate) fn visible(&self, view: View) -> Vec<String> {
        let mut names = Vec::new();
        let mut add = |stages: &Stages, hidden: Option<&Stages>| {
            let hidden = |name: &String| hidden.is_some_and(|stages| stages.contains_key(name));
            let written = stages.iter().filter(|(name, _)| !name.contains('.') && !hidden(name));
            for (name, outputs) in written.collect::<BTreeMap<_, _>>() {
                match outputs.as_deref() {
                    None | Some([_]) => names.push(name.clone()),
                    Some(outputs) => {
                        names.extend(outputs.iter().map(|output| format!("{name}.{}", output.name)));
                    }
                }
            }
        };
        if view == View::Iteration {
            add(&self.iteration, None);
        }
        // A stage of the iteration hides one of `setup` with its name.
        add(&self.setup, (view == View::Iteration).then_some(&self.iteration));
        if view == View::Iteration {
            names.extend(self.carried.iter().cloned());
        }
        names.extend(self.inputs.iter().cloned());
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    /// For each step of a section, the steps of the same section that it uses.
    pub(crate) fn dependencies(&self, steps: &[Lowered<'_>], view: View) -> Vec<BTreeSet<usize>> {
        let index: BTreeMap<&str, usize> =
            steps.iter().enumerate().map(|(index, step)| (step.name.as_str(), index)).collect();
        let of_step = |step: &Lowered<'_>| {
            step.uses
                .iter()
                .filter_map(|reference| match self.resolve(&reference.reference.0, view).ok()? {
                    Target::Stage { section, name, .. } if section == view => index.get(name).copied(),
                    Target::Stage { .. } | Target::Carried(_) | Target::Input(_) => None,
                })
                .collect()
        };
        steps.iter().map(of_step).collect()
    }
}

/// Splits at the last dot at which the beginning is a known name.
fn split(text: &str, known: impl Fn(&str) -> bool) -> Option<(&str, Option<&str>)> {
    if known(text) {
        return Some((text, None));
    }
    let dots = text.rmatch_indices('.').map(|(at, _)| (&text[..at], Some(&text[at + 1..])));
    dots.into_iter().find(|(name, _)| known(name))
}

fn resolve_stage<'a>(
    stages: &'a Stages,
    text: &'a str,
    section: View,
) -> Option<Result<Target<'a>, Unresolved>> {
    let (name, output) = split(text, |name| stages.contains_key(name))?;
    let target = |output| Target::Stage { section, name, output };
    let Some(outputs) = stages.get(name)? else { return Some(Ok(target(None))) };
    let names = || outputs.iter().map(|output| output.name.clone()).collect();
    let stage = || name.to_owned();
    Some(match (output, outputs.as_slice()) {
        (None, [only]) => Ok(target(Some(only))),
        (None, _) => Err(Unresolved::Several { stage: stage(), outputs: names() }),
        (Some(wanted), outputs) => match outputs.iter().find(|output| output.name == wanted) {
            Some(output) => Ok(target(Some(output))),
            None => Err(Unresolved::NoOutput { stage: stage(), output: wanted.to_owned(), outputs: names() }),
        },
    })
}

fn resolve_name<'a>(
    names: &BTreeSet<String>,
    text: &'a str,
    target: impl Fn(&'a str) -> Target<'a>,
) -> Option<Result<Target<'a>, Unresolved>> {
    let (name, output) = split(text, |name| names.contains(name))?;
    Some(match output {
        None => Ok(target(name)),
        Some(_) => Err(Unresolved::NotAStage { name: name.to_owned() }),
    })
}

/// An order in which every step comes after those it depends on, otherwise as given. Steps on a cycle
/// are left out.
pub(crate) fn order(dependencies: &[BTreeSet<usize>]) -> Vec<usize> {
    let mut missing: Vec<usize> = dependencies.iter().map(BTreeSet::len).collect();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); dependencies.len()];
    for (step, needed) in dependencies.iter().enumerate() {
        needed.iter().for_each(|needed| users[*needed].push(step));
    }
    let ready = (0..dependencies.len()).filter(|step| missing[*step] == 0);
    let mut ready: BinaryHeap<Reverse<usize>> = ready.map(Reverse).collect();
    let mut order = Vec::with_capacity(dependencies.len());
    while let Some(Reverse(step)) = ready.pop() {
        order.push(step);
        for user in &users[step] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                ready.push(Reverse(*user));
            }
        }
    }
    order
}

/// One shortest cycle through each knot of steps, without the first repeated at the end.
pub(crate) fn cycles(dependencies: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let mut graph: DiGraph<(), ()> = DiGraph::new();
    let nodes: Vec<NodeIndex> = dependencies.iter().map(|_| graph.add_node(())).collect();
    for (step, needed) in dependencies.iter().enumerate() {
        for needed in needed {
            graph.add_edge(nodes[step], nodes[*needed], ());
        }
    }
    let mut cycles: Vec<Vec<usize>> = tarjan_scc(&graph)
        .into_iter()
        .filter_map(|knot| {
            let first = knot.iter().map(|node| node.index()).min()?;
            let cyclic = knot.len() > 1 || dependencies[first].contains(&first);
            cyclic.then(|| shortest_cycle(dependencies, first)).flatten()
        })
        .collect();
    cycles.sort();
    cycles
}

/// The shortest way from `first` back to itself, by breadth.
fn shortest_cycle(dependencies: &[BTreeSet<usize>], first: usize) -> Option<Vec<usize>> {
    let mut open = VecDeque::from([first]);
    let mut reached_from: BTreeMap<usize, usize> = BTreeMap::new();
    while let Some(step) = open.pop_front() {
        for next in &dependencies[step] {
            if *next == first {
                let mut way: Vec<usize> =
                    std::iter::successors(Some(step), |step| reached_from.get(step).copied()).collect();
                way.reverse();
                return Some(way);
            }
            if let Entry::Vacant(entry) = reached_from.entry(*next) {
                entry.insert(step);
                open.push_back(*next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(list: &[&[usize]]) -> Vec<BTreeSet<usize>> {
        list.iter().map(|needed| needed.iter().copied().collect()).collect()
    }

    fn scope() -> Scope {
        let one = Some(vec![Output::folder("responses")]);
        let two = Some(vec![Output::folder("policy"), Output::folder("optimizer")]);
        Scope {
            iteration: [
                ("train", two.clone()),
                ("eval", one.clone()),
                ("eval.greedy", one.clone()),
                ("bad", None),
            ]
            .map(|(name, outputs)| (name.to_owned(), outputs))
            .into(),
            setup: [("sft", two), ("explore", one)].map(|(name, outputs)| (name.to_owned(), outputs)).into(),
            carried: ["policy".to_owned()].into(),
            inputs: ["policy".to_owned(), "data".to_owned()].into(),
        }
    }

    #[test]
    fn steps_are_ordered_by_need_and_otherwise_as_given() {
        assert_eq!(order(&edges(&[&[2], &[], &[1], &[]])), [1, 2, 0, 3]);
        assert_eq!(order(&edges(&[&[1], &[0], &[]])), [2]);
    }

    #[test]
    fn cycles_are_found_whole_and_shortest() {
        assert_eq!(cycles(&edges(&[&[1], &[2], &[0], &[]])), [vec![0, 1, 2]]);
        assert_eq!(cycles(&edges(&[&[0], &[2, 3], &[3], &[1]])), [vec![0], vec![1, 3]]);
        assert!(cycles(&edges(&[&[1], &[]])).is_empty());
    }

    #[test]
    fn the_innermost_scope_and_the_longest_name_win() {
        let scope = scope();
        let name = |text, view| match scope.resolve(text, view) {
            Ok(Target::Stage { name, output, .. }) => {
                format!("{name}/{}", output.map_or("", |o| &o.name))
            }
            other => format!("{other:?}"),
        };
        assert_eq!(name("eval.greedy", View::Iteration), "eval.greedy/responses");
        assert_eq!(name("eval.greedy.responses", View::Iteration), "eval.greedy/responses");
        assert_eq!(name("train.optimizer", View::Iteration), "train/optimizer");
        assert_eq!(name("bad.anything", View::Iteration), "bad/");
        assert_eq!(scope.resolve("policy", View::Iteration), Ok(Target::Carried("policy")));
        assert_eq!(scope.resolve("policy", View::Setup), Ok(Target::Input("policy")));
        assert_eq!(
            scope.resolve("train.policy", View::Setup),
            Err(Unresolved::TooEarly { name: "train".to_owned(), carried: false })
        );
        assert_eq!(
            scope.resolve("data.x", View::Setup),
            Err(Unresolved::NotAStage { name: "data".to_owned() })
        );
        assert_eq!(scope.resolve("polcy", View::Iteration), Err(Unresolved::Unknown));
    }

    #[test]
    fn what_a_stage_of_the_iteration_hides_is_not_visible_there() {
        let mut scope = scope();
        scope
            .setup
            .insert("train".to_owned(), Some(vec![Output::folder("queries"), Output::folder("examples")]));
        let sees = |view, name: &str| scope.visible(view).iter().any(|visible| visible == name);
        assert!(sees(View::Setup, "train.queries") && !sees(View::Iteration, "train.queries"));
        assert!(sees(View::Iteration, "train.policy") && sees(View::Iteration, "sft.policy"));
    }
}
