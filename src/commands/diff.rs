//! `bstar run diff`: in what two runs differ.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};

use super::runs::find_run;
use crate::cli::{Format, Global, existing_store};
use crate::commands::{answer, answer_json, columns};
use crate::event::Summary;
use crate::failure::Failure;
use crate::run_record::RunInfo;

/// Names of results in one line of text.
const NAMES: usize = 4;
/// The figures of an iteration that are compared in text.
const FIGURES: [(&str, &str); 4] =
    [("temperature", "t"), ("threshold", "τ"), ("kept", "kept"), ("pass_at_1", "Pass@1")];

/// In what two runs differ.
#[derive(Debug, Serialize)]
struct Difference {
    runs: [String; 2],
    /// Settings, defaults left out: path in the pipeline, and both values (`null` where there is none).
    settings: Vec<(String, [Value; 2])>,
    /// Results that both have, by section (`setup`, `iteration[0]`).
    results: Vec<Section>,
    /// Both runs' figures of every iteration.
    iterations: Vec<[Option<Map<String, Value>>; 2]>,
}

#[derive(Debug, Serialize)]
struct Section {
    section: String,
    /// How many are the same.
    same: usize,
    /// Names of those that are not.
    different: Vec<String>,
    /// Those that only one run has.
    only: [Vec<String>; 2],
}

/// Tells in what two runs differ: settings, results, figures.
///
/// # Errors
/// When there are no such runs, or one is a sweep.
pub async fn run_diff(global: &Global, one: &str, other: &str) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let runs = [find_run(&store, one).await?, find_run(&store, other).await?];
    if let Some(sweep) = runs.iter().find(|run| run.start.sweep.is_some()) {
        return Err(Failure::Usage {
            message: format!("the run {} is a sweep", sweep.start.id),
            hint: Some(format!("`bstar run show {}` compares its variants", sweep.start.id)),
        });
    }
    let difference = Difference::between(&runs);
    match global.format {
        Format::Json => answer_json(&difference)?,
        Format::Text => answer(&difference.text())?,
    }
    Ok(0)
}

impl Difference {
    fn between(runs: &[RunInfo; 2]) -> Self {
        let settings = runs.each_ref().map(|run| {
            let mut settings = BTreeMap::new();
            flatten(String::new(), &run.start.resolved, &mut settings);
            settings
        });
        let paths: BTreeSet<&String> = settings.iter().flat_map(BTreeMap::keys).collect();
        let both = |path: &String| settings.each_ref().map(|of| of.get(path).cloned().unwrap_or_default());
        let settings: Vec<(String, [Value; 2])> = paths
            .into_iter()
            .map(|path| (path.clone(), both(path)))
            .filter(|(_, [one, other])| one != other)
            .collect();
        let summaries = runs.each_ref().map(|run| run.summary.clone().unwrap_or_default());
        let rounds = summaries.iter().map(|summary| summary.iterations.len()).max().unwrap_or(0);
        let figures =
            |round: usize| summaries.each_ref().map(|summary| summary.iterations.get(round).cloned());
        Self {
            runs: runs.each_ref().map(|run| run.start.id.clone()),
            settings,
            results: sections(&summaries),
            iterations: (0..rounds).map(figures).collect(),
        }
    }

    fn text(&self) -> String {
        let [one, other] = &self.runs;
        let mut parts = Vec::new();
        if self.settings.is_empty() {
            parts.push(format!("{one} and {other} have the same settings"));
        } else {
            let rows = self.settings.iter().map(|(path, [one, other])| {
                let shown =
                    |value: &Value| if value.is_null() { "–".to_owned() } else { value.to_string() };
                vec![path.clone(), shown(one), shown(other)]
            });
            let heading = vec!["setting".to_owned(), one.clone(), other.clone()];
            parts.push(columns(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()));
        }
        let mut rows = vec![["results", "same", "different", ""].map(str::to_owned).to_vec()];
        for section in &self.results {
            let mut names: Vec<String> = section.different.iter().take(NAMES).cloned().collect();
            if section.different.len() > NAMES {
                names.push("…".to_owned());
            }
            for (only, run) in section.only.iter().zip(&self.runs).filter(|(only, _)| !only.is_empty()) {
                names.push(format!("({} only in {run})", only.len()));
            }
            let (same, different) = (section.same.to_string(), section.different.len().to_string());
            rows.push(vec![section.section.clone(), same, different, names.join(", ")]);
        }
        parts.push(columns(&rows));
        let figures = |row: &Option<Map<String, Value>>| {
            FIGURES.map(|(name, _)| {
                let value = row.as_ref().and_then(|row| row.get(name)).and_then(Value::as_f64);
                value.map_or("–".to_owned(), |value| match name {
                    "pass_at_1" => format!("{:.1}", 100.0 * value),
                    "kept" => value.to_string(),
                    _ => format!("{value:.2}"),
                })
            })
        };
        if !self.iterations.is_empty() {
            let heading = self.runs.iter().flat_map(|run| FIGURES.map(|(_, name)| format!("{name} {run}")));
            let mut rows = vec![std::iter::once("iteration".to_owned()).chain(heading).collect::<Vec<_>>()];
            for (round, both) in self.iterations.iter().enumerate() {
                rows.push(std::iter::once(round.to_string()).chain(both.iter().flat_map(figures)).collect());
            }
            parts.push(columns(&rows));
        }
        parts.join("\n\n")
    }
}

/// Every value of a tree that is no map, under its path as the command line names it: without the `with` of stages.
fn flatten(path: String, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let inner = match (&*path, &**name) {
                    ("", _) => name.clone(),
                    (_, "with") if fields.contains_key("uses") => path.clone(),
                    _ => format!("{path}.{name}"),
                };
                flatten(inner, value, into);
            }
        }
        Value::Null => {}
        _ => drop(into.insert(path, value.clone())),
    }
}

/// Results by section, `setup` first and then the iterations.
fn sections(summaries: &[Summary; 2]) -> Vec<Section> {
    let mut sections: BTreeMap<Option<usize>, Section> = BTreeMap::new();
    let names: BTreeSet<&String> = summaries.iter().flat_map(|summary| summary.results.keys()).collect();
    for name in names {
        let (section, result) = name.split_once('.').unwrap_or((name, ""));
        let round = section.strip_prefix("iteration[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
        let entry = sections.entry(round).or_insert_with(|| Section {
            section: section.to_owned(),
            same: 0,
            different: Vec::new(),
            only: Default::default(),
        });
        match summaries.each_ref().map(|summary| summary.results.get(name)) {
            [Some(one), Some(other)] if one == other => entry.same += 1,
            [Some(_), Some(_)] => entry.different.push(result.to_owned()),
            [Some(_), None] => entry.only[0].push(result.to_owned()),
            _ => entry.only[1].push(result.to_owned()),
        }
    }
    sections.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterations_are_ordered_by_their_number() {
        let of = |digest: &str| Summary {
            results: ["setup.sft.policy", "iteration[10].train.policy", "iteration[2].train.policy"]
                .map(|name| {
                    (name.to_owned(), if name.starts_with("setup") { "a" } else { digest }.to_owned())
                })
                .into(),
            ..Summary::default()
        };
        let found = sections(&[of("b"), of("c")]);
        let names: Vec<&str> = found.iter().map(|section| section.section.as_str()).collect();
        assert_eq!(names, ["setup", "iteration[2]", "iteration[10]"]);
        assert_eq!((found[0].same, found[0].different.len()), (1, 0));
        assert_eq!(found[1].different, ["train.policy"]);
    }
}
