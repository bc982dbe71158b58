//! Why a step will run, in words.

use bstar_cache::Difference;
use serde::Serialize;

use crate::executor::preview::Miss;
use crate::pipeline::{Origin, Pipeline};
use crate::plan::{Plan, Source, Step};

/// Most characters of a value.
const WIDTH: usize = 48;
/// Most differences in one line.
const SHOWN: usize = 3;

/// A difference to the nearest stored result, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The ingredient, as the pipeline file calls it: `thresholds.by`, `input policy`.
    pub ingredient: String,
    /// The stored result's.
    pub stored: String,
    /// The wanted one's.
    pub wanted: String,
    /// Both in words, with the place where the difference was made.
    pub text: String,
}

/// Why a step will run, in one line.
#[must_use]
pub fn reason(miss: &Miss, differences: &[Explained]) -> String {
    if miss.forced {
        return "forced".to_owned();
    }
    if miss.nearest.is_none() {
        return "no result of this stage is stored".to_owned();
    }
    if differences.is_empty() {
        return "its stored result is not whole".to_owned();
    }
    let shown: Vec<&str> =
        differences.iter().take(SHOWN).map(|difference| difference.text.as_str()).collect();
    let more = differences.len() - shown.len();
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    shown.join("; ") + &rest
}

/// The differences to the nearest stored result.
#[must_use]
pub fn explain(pipeline: &Pipeline, plan: &Plan, step: &Step, miss: &Miss) -> Vec<Explained> {
    let Some(nearest) = &miss.nearest else { return Vec::new() };
    let explain = |difference| explain_one(pipeline, plan, step, &nearest.step, difference);
    nearest.differences.iter().map(explain).collect()
}

fn explain_one(
    pipeline: &Pipeline,
    plan: &Plan,
    step: &Step,
    nearest: &str,
    difference: &Difference,
) -> Explained {
    let Difference { ingredient, stored, wanted } = difference;
    let change = format!("{} → {}", short(stored), short(wanted));
    let (ingredient, text) = if let Some(name) = ingredient.strip_prefix("input ") {
        (ingredient.clone(), input(pipeline, plan, step, nearest, name, difference))
    } else if ingredient == "version" {
        (ingredient.clone(), format!("the stage itself changed (version {change})"))
    } else if ingredient == "seed" {
        (ingredient.clone(), format!("seed {change}{}", place(pipeline, "seed")))
    } else {
        let (name, field) = written(step, ingredient);
        let from = match step.settings.get(&name) {
            Some(Source::Output { step, .. }) => format!(", the value made by {}", plan.step(*step).name),
            _ => place(pipeline, &format!("{}.with.{field}", step.entry)),
        };
        let text = format!("{name} {change}{from}");
        (name, text)
    };
    Explained { ingredient, stored: stored.clone(), wanted: wanted.clone(), text }
}

/// The name of a setting in the file, and its path: an item of a list may have a name of its own.
fn written(step: &Step, ingredient: &str) -> (String, String) {
    let parts = ingredient.strip_suffix(']').and_then(|rest| rest.rsplit_once('['));
    let Some((list, index)) = parts else { return (ingredient.to_owned(), ingredient.to_owned()) };
    let names = step.stage.stage().items(list);
    match index.parse::<usize>().ok().and_then(|index| names.get(index)) {
        Some(name) => (format!("{list}.{name}"), format!("{list}.{name}")),
        None => (ingredient.to_owned(), format!("{list}.{index}")),
    }
}

fn input(
    pipeline: &Pipeline,
    plan: &Plan,
    step: &Step,
    nearest: &str,
    name: &str,
    difference: &Difference,
) -> String {
    let is_new = difference.stored == "none";
    let file = name.strip_prefix("file:");
    // The nearest result may be that of another step, whose inputs were others from the start.
    let changed = |what: &str| match (is_new, nearest == step.name) {
        (true, _) => format!("{what}, which was not read before"),
        (false, true) => format!("{what}, which changed"),
        (false, false) => format!("{what}; {nearest} read another"),
    };
    match step.inputs.get(name) {
        None => format!("{} is not read any more", file.unwrap_or(name)),
        Some(Source::File(path)) => {
            let path = path.strip_prefix(&pipeline.base).unwrap_or(path).display();
            match file {
                Some(file) => changed(&format!("the file {file}")),
                None => changed(&format!("input {name}: {path}")),
            }
        }
        Some(Source::Output { step, .. }) => {
            let maker = &plan.step(*step).name;
            changed(&format!("input {name}: made by {maker}"))
        }
        Some(Source::Content(_)) => changed(&format!("input {name}")),
    }
}

fn place(pipeline: &Pipeline, field: &str) -> String {
    match pipeline.origin(field) {
        Origin::File { line, .. } => format!(", {}:{line}", pipeline.path.display()),
        Origin::CommandLine(_) => ", by the command line".to_owned(),
        Origin::Nowhere => String::new(),
    }
}

/// A value, cut where it is long.
fn short(value: &str) -> String {
    if value.chars().count() <= WIDTH {
        return value.to_owned();
    }
    value.chars().take(WIDTH).chain(['…']).collect()
}
