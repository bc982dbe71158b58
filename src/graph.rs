//! A plan as a drawing: steps and what they read from each other, in DOT or as Mermaid.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::plan::{Plan, Section, Source, Step, StepId};

/// What is drawn.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Drawing {
    /// `setup`, and one iteration for all or all of them.
    pub clusters: Vec<Cluster>,
    /// What reads from what.
    pub edges: Vec<Edge>,
}

/// The steps of a section.
#[derive(Debug, Clone, Serialize)]
pub struct Cluster {
    /// `setup`, `iteration[2]`, `iteration (× 6)`.
    pub title: String,
    /// Its steps.
    pub nodes: Vec<Node>,
}

/// A step, or the same step of all iterations.
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// Its number in the drawing.
    pub id: usize,
    /// Its name in its section.
    pub name: String,
    /// The kind of work.
    pub stage: &'static str,
    /// How many of its steps are in which state; empty where that is not known.
    pub states: BTreeMap<&'static str, usize>,
}

/// A step reads from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The number of the step that is read from.
    pub from: usize,
    /// The number of the step that reads.
    pub to: usize,
    /// What is handed on to the next iteration; absent within one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carried: Option<String>,
}

impl Drawing {
    /// Draws a plan. `states` are those of its steps, where they are known. Without `all`, one iteration
    /// stands for all.
    #[must_use]
    pub fn of(plan: &Plan, states: &BTreeMap<StepId, &'static str>, all: bool) -> Self {
        let steps = || plan.ids().map(|id| (id, plan.step(id))).filter(|(_, step)| step.parent.is_none());
        let rounds = steps().filter_map(|(_, step)| round(step)).max().map_or(0, |last| last + 1);
        let all = all || rounds < 2;
        let mut drawing = Self::default();
        let mut numbers: BTreeMap<StepId, usize> = BTreeMap::new();
        let mut drawn: BTreeMap<(Option<usize>, &str), usize> = BTreeMap::new();
        let mut count = 0;
        for (id, step) in steps() {
            let place = if all { round(step) } else { round(step).map(|_| 0) };
            let name = local_name(step);
            let title = match (step.section, all) {
                (Section::Setup, _) => "setup".to_owned(),
                (Section::Iteration(round), true) => format!("iteration[{round}]"),
                (Section::Iteration(_), false) => format!("iteration (× {rounds})"),
            };
            let number = *drawn.entry((place, name)).or_insert_with(|| {
                let node = Node {
                    id: count,
                    name: name.to_owned(),
                    stage: step.stage.kind(),
                    states: BTreeMap::new(),
                };
                count += 1;
                match drawing.clusters.iter_mut().find(|cluster| cluster.title == title) {
                    Some(cluster) => cluster.nodes.push(node),
                    None => drawing.clusters.push(Cluster { title, nodes: vec![node] }),
                }
                count - 1
            });
            numbers.insert(id, number);
            let nodes = drawing.clusters.iter_mut().flat_map(|cluster| &mut cluster.nodes);
            if let (Some(state), Some(node)) =
                (states.get(&id), nodes.into_iter().find(|node| node.id == number))
            {
                *node.states.entry(state).or_default() += 1;
            }
        }
        let mut edges: BTreeMap<(usize, usize, bool), BTreeSet<&str>> = BTreeMap::new();
        for (id, step) in steps() {
            for (name, source) in step.inputs.iter().chain(&step.settings) {
                let Source::Output { step: from, .. } = source else { continue };
                let before = round(plan.step(*from));
                let carried = before.is_some() && before != round(step);
                let (Some(from), Some(to)) = (numbers.get(from), numbers.get(&id)) else { continue };
                edges.entry((*from, *to, carried)).or_default().insert(name);
            }
        }
        let edge = |((from, to, carried), names): ((usize, usize, bool), BTreeSet<&str>)| {
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            Edge { from, to, carried: carried.then_some(names) }
        };
        drawing.edges = edges.into_iter().map(edge).collect();
        drawing
    }

    /// In the language of Graphviz.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut text = "digraph plan {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", \
                        fillcolor=white, fontname=\"sans-serif\"];\n"
            .to_owned();
        for (index, cluster) in self.clusters.iter().enumerate() {
            let title = dot_text(&cluster.title);
            let _ = writeln!(text, "  subgraph cluster_{index} {{\n    label={title};");
            for node in &cluster.nodes {
                let label = dot_text(&node.lines().join("\n"));
                let colour = node.state().map_or("white", colour);
                let _ = writeln!(text, "    n{} [label={label}, fillcolor=\"{colour}\"];", node.id);
            }
            text.push_str("  }\n");
        }
        for Edge { from, to, carried } in &self.edges {
            let style = carried.as_ref().map_or(String::new(), |name| {
                format!(" [label={}, style=dashed, constraint=false]", dot_text(name))
            });
            let _ = writeln!(text, "  n{from} -> n{to}{style};");
        }
        text + "}\n"
    }

    /// As a Mermaid flowchart.
    #[must_use]
    pub fn mermaid(&self) -> String {
        let mut text = "flowchart LR\n".to_owned();
        let mut classes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (index, cluster) in self.clusters.iter().enumerate() {
            let _ = writeln!(text, "  subgraph c{index} [\"{}\"]", mermaid_text(&cluster.title));
            for node in &cluster.nodes {
                let lines: Vec<String> = node.lines().iter().map(|line| mermaid_text(line)).collect();
                let _ = writeln!(text, "    n{}[\"{}\"]", node.id, lines.join("<br/>"));
                if let Some(state) = node.state() {
                    classes.entry(state).or_default().push(format!("n{}", node.id));
                }
            }
            text.push_str("  end\n");
        }
        for Edge { from, to, carried } in &self.edges {
            let _ = match carried {
                None => writeln!(text, "  n{from} --> n{to}"),
                Some(name) => writeln!(text, "  n{from} -. \"{}\" .-> n{to}", mermaid_text(name)),
            };
        }
        for (state, nodes) in classes {
            let _ = writeln!(text, "  classDef {state} fill:{};", colour(state));
            let _ = writeln!(text, "  class {} {state};", nodes.join(","));
        }
        text
    }
}

impl Node {
    /// Its name, what it does, and its states.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.name.clone()];
        if self.stage != self.name {
            lines.push(self.stage.to_owned());
        }
        match self.state() {
            None => {}
            Some("mixed") => {
                let states: Vec<String> =
                    self.states.iter().map(|(state, count)| format!("{count} {}", words(state))).collect();
                lines.push(states.join(", "));
            }
            Some(state) => lines.push(words(state)),
        }
        lines
    }

    /// The state of all its steps, or `mixed`.
    fn state(&self) -> Option<&'static str> {
        let mut states = self.states.keys();
        match (states.next(), states.next()) {
            (None, _) => None,
            (Some(only), None) => Some(only),
            (Some(_), Some(_)) => Some("mixed"),
        }
    }
}

fn words(state: &str) -> String {
    state.replace('_', " ")
}

fn round(step: &Step) -> Option<usize> {
    match step.section {
        Section::Setup => None,
        Section::Iteration(round) => Some(round),
    }
}

/// The name without the section.
fn local_name(step: &Step) -> &str {
    let name = step.name.as_str();
    match step.section {
        Section::Setup => name.strip_prefix("setup."),
        Section::Iteration(_) => name.split_once("].").map(|(_, rest)| rest),
    }
    .unwrap_or(name)
}

fn colour(state: &str) -> &'static str {
    match state {
        "cached" => "#c8e6c9",
        "will_run" => "#ffcc80",
        "mixed" => "#fff59d",
        _ => "#eeeeee",
    }
}

/// A quoted text of DOT.
fn dot_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// What may stand between quotes in Mermaid.
fn mermaid_text(text: &str) -> String {
    text.replace('#', "#35;").replace('"', "#quot;").replace('<', "#lt;").replace('>', "#gt;")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pipeline::Pipeline;

    fn plan() -> Plan {
        let text = include_str!("pipeline/testdata/loop.yaml");
        Plan::new(&Pipeline::parse(text, Path::new("loop.yaml"), &[]).unwrap())
    }

    #[test]
    fn one_iteration_stands_for_all_and_what_it_hands_on_is_dashed() {
        let plan = plan();
        let mut states: BTreeMap<StepId, &str> = plan.ids().map(|id| (id, "cached")).collect();
        states.insert(plan.find("iteration[2].train").unwrap(), "will_run");
        let drawing = Drawing::of(&plan, &states, false);
        let titles: Vec<&str> = drawing.clusters.iter().map(|cluster| cluster.title.as_str()).collect();
        assert_eq!(titles, ["setup", "iteration (× 3)"]);
        assert_eq!(drawing.clusters[1].nodes.len(), 12);
        let node =
            |name: &str| drawing.clusters[1].nodes.iter().find(|node| node.name == name).unwrap().clone();
        let (train, explore) = (node("train"), node("explore"));
        let carried = Edge { from: train.id, to: explore.id, carried: Some("policy".to_owned()) };
        assert!(drawing.edges.contains(&carried), "{:?}", drawing.edges);
        assert_eq!(train.lines(), ["train", "sft", "2 cached, 1 will run"]);
        assert_eq!(explore.lines(), ["explore", "sample", "cached"]);
        let dot = drawing.dot();
        assert!(
            dot.contains(&format!("n{} -> n{} [label=\"policy\", style=dashed", train.id, explore.id)),
            "{dot}"
        );
        let mermaid = drawing.mermaid();
        assert!(mermaid.contains(&format!("n{} -. \"policy\" .-> n{}", train.id, explore.id)), "{mermaid}");
        assert!(mermaid.contains("classDef cached fill:#c8e6c9;"), "{mermaid}");
    }

    #[test]
    fn all_iterations_can_be_drawn_and_states_left_out() {
        let drawing = Drawing::of(&plan(), &BTreeMap::new(), true);
        assert_eq!(drawing.clusters.len(), 4);
        assert_eq!(drawing.clusters.iter().map(|cluster| cluster.nodes.len()).sum::<usize>(), 40);
        let numbers: BTreeSet<usize> =
            drawing.clusters.iter().flat_map(|cluster| &cluster.nodes).map(|node| node.id).collect();
        assert_eq!(numbers, (0..40).collect());
        assert!(!drawing.dot().contains("#c8e6c9") && !drawing.mermaid().contains("classDef"));
    }

    #[test]
    fn names_are_escaped() {
        let node = Node { id: 0, name: "a\"b\\c<d>#".to_owned(), stage: "command", states: BTreeMap::new() };
        let cluster = Cluster { title: "x".to_owned(), nodes: vec![node] };
        let drawing = Drawing { clusters: vec![cluster], edges: Vec::new() };
        assert!(drawing.dot().contains(r#"label="a\"b\\c<d>#\ncommand""#), "{}", drawing.dot());
        assert!(
            drawing.mermaid().contains("[\"a#quot;b\\c#lt;d#gt;#35;<br/>command\"]"),
            "{}",
            drawing.mermaid()
        );
    }
}
