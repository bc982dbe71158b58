//! `preset: paper | official`: the settings by which the paper's text and the published code differ, for
//! fields that the file does not give (paper.md §1.9; stages/README.md has the table).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::document::Draft;
use super::position::{At, join};
use super::suggest;

pub(super) const PRESETS: &[&str] = &["paper", "official"];

/// Fills in what the preset says.
pub(super) fn apply(draft: &mut Draft) {
    let Some(preset) = draft.document.value.get("preset").cloned() else { return };
    let Some(name) = preset.as_str().filter(|name| PRESETS.contains(name)) else {
        let message = format!("`preset`: expected `paper` or `official`, found {}", suggest::found(&preset));
        return draft.add("preset", At::Value, message, None);
    };
    let removed = draft.document.removed.clone();
    let document = Arc::make_mut(&mut draft.document.value);
    for section in ["setup", "iteration"] {
        let stages = document.get_mut(section).and_then(Value::as_object_mut);
        for (stage, entry) in stages.into_iter().flatten() {
            let Some(entry) = entry.as_object_mut() else { continue };
            let uses = entry.get("uses").and_then(Value::as_str).unwrap_or_default().to_owned();
            let place = join(&join(section, stage), "with");
            let Some(with) = entry.get_mut("with").and_then(Value::as_object_mut) else { continue };
            let given = [settings(name, &uses, with), grader(name, section, &uses), scale(name, &uses, with)];
            for given in given {
                fill(with, given, &|field| removed.contains(&join(&place, field)), "");
            }
        }
    }
    if name == "paper" {
        inherit_optimizer(document);
    }
}

/// What a preset gives a stage.
fn settings(preset: &str, uses: &str, with: &Map<String, Value>) -> Value {
    let paper = json!({"select": "all", "n_i": "total"});
    let official = json!({"k_max": 64, "answered_only": true, "average": "selected", "ties": "first"});
    // By the published code, with both ends: 1.0 is never tried.
    let fine = json!({"from": -1.0, "to": 0.99, "by": 0.01});
    match (preset, uses) {
        ("paper", "search" | "halving") => {
            json!({"thresholds": {"from": -1.0, "to": 1.0, "by": 0.1}, "rules": paper})
        }
        ("paper", "filter") => json!({"rules": paper}),
        ("official", "search" | "halving") => json!({"thresholds": fine, "n_star": 8, "rules": official}),
        ("official", "filter") => {
            // A threshold that was searched is searched again; a fixed one stays.
            if with.get("threshold").is_some_and(Value::is_string) {
                json!({"thresholds": fine, "n_star": 8, "rules": official})
            } else {
                json!({"rules": official})
            }
        }
        _ => json!({}),
    }
}

/// While it learns, the published code compares answers character by character.
fn grader(preset: &str, section: &str, uses: &str) -> Value {
    if preset == "official" && section == "iteration" && matches!(uses, "score" | "halving") {
        json!({"grader": "exact"})
    } else {
        json!({})
    }
}

/// How a preset reads what a reward model says (paper.md §1.3).
fn scale(preset: &str, uses: &str, with: &Map<String, Value>) -> Value {
    let scores = matches!(uses, "score" | "evaluate" | "halving");
    if preset == "official" && scores && with.get("reward_model").is_some_and(Value::is_string) {
        json!({"scale": "fifth", "unfinished": -5.0})
    } else {
        json!({})
    }
}

/// Gives what is absent. A grid is taken whole or not at all.
fn fill(with: &mut Map<String, Value>, given: Value, removed: &dyn Fn(&str) -> bool, root: &str) {
    let Value::Object(given) = given else { return };
    for (name, value) in given {
        let field = join(root, &name);
        if removed(&field) {
            continue;
        }
        match with.get_mut(&name) {
            None => drop(with.insert(name, value)),
            Some(Value::Object(own)) if name == "rules" => fill(own, value, removed, &field),
            Some(_) => {}
        }
    }
}

/// The paper inherits the optimizer in the first iteration too: from the stage that made the first policy.
fn inherit_optimizer(document: &mut Map<String, Value>) {
    let text = |document: &Map<String, Value>, section: &str, name: &str| {
        Some(document.get(section)?.get(name)?.as_str()?.to_owned())
    };
    if text(document, "carry", "optimizer").is_none() || text(document, "start", "optimizer").is_some() {
        return;
    }
    let policy = text(document, "start", "policy");
    let maker = policy.as_deref().and_then(|policy| policy.strip_suffix(".policy"));
    let Some(maker) = maker.map(str::to_owned) else { return };
    let uses = |name: &str| document.get("setup")?.get(name)?.get("uses")?.as_str();
    if uses(&maker) != Some("sft") {
        return;
    }
    if let Some(start) = document.get_mut("start").and_then(Value::as_object_mut) {
        start.insert("optimizer".to_owned(), format!("{maker}.optimizer").into());
    }
}
