//! `bstar step explain`.

use std::path::Path;

use bstar_cache::{Action, ActionKey, Ingredient, Manifest};
use serde_json::json;

use crate::cli::{Format, Global, store_or_none};
use crate::commands::pipeline::preview_failure;
use crate::commands::step::{Found, fate, fates, find};
use crate::commands::{answer, answer_json, columns};
use crate::executor::preview::{Fate, Miss, Partial, partial};
use crate::failure::Failure;
use crate::reason::{Explained, explain};
use crate::report::duration;

/// Shows what a step's key is made of, and how it differs from the nearest stored result.
///
/// # Errors
/// When the pipeline, the step or the store cannot be read.
pub async fn step_explain(
    global: &Global,
    name: &str,
    file: Option<&Path>,
    overrides: &[String],
) -> Result<u8, Failure> {
    let store = store_or_none(global).await?;
    let json = global.format == Format::Json;
    let (pipeline, plan, id) = match find(&store, name, file, overrides).await? {
        Found::Step(pipeline, plan, id) => (pipeline, plan, id),
        Found::Stored(manifest) => {
            let step = &manifest.provenance.step;
            if json {
                answer_json(&json!({"step": step, "state": "cached", "manifest": manifest}))?;
            } else {
                answer(&stored(step, &manifest))?;
            }
            return Ok(0);
        }
    };
    let fates = fates(&store, &plan).await?;
    match fate(&fates, id, name)? {
        Fate::Cached(manifest) if json => {
            answer_json(&json!({"step": name, "state": "cached", "manifest": manifest}))?;
        }
        Fate::Cached(manifest) => answer(&stored(name, manifest))?,
        Fate::WillRun(miss) => {
            let differences = explain(&pipeline, &plan, plan.step(id), miss);
            if json {
                let answer =
                    json!({"step": name, "state": "will_run", "miss": miss, "differences": differences});
                answer_json(&answer)?;
            } else {
                let key = ingredients(Some(&miss.key), &miss.action);
                answer(&format!("{name} is not stored\n\n{}\n\n{key}", difference(miss, &differences)))?;
            }
        }
        Fate::Unknown(waits) => {
            let known = partial(&store, &plan, &fates, id).await.map_err(preview_failure)?;
            if json {
                answer_json(&json!({"step": name, "state": "unknown", "until": waits, "known": known}))?;
            } else {
                answer(&undecided(name, waits, &known))?;
            }
        }
    }
    Ok(0)
}

fn stored(name: &str, manifest: &Manifest) -> String {
    let by = &manifest.provenance;
    let outputs: Vec<Vec<String>> = manifest
        .outputs
        .iter()
        .map(|(path, artifact)| vec![format!("output {path}"), artifact.digest.to_string()])
        .collect();
    format!(
        "{name} is stored: made by {} in {}, {}\n\n{}\n\n{}",
        by.maker(),
        duration(by.wall_s),
        by.started,
        ingredients(Some(&manifest.key), &manifest.action),
        columns(&outputs)
    )
}

fn undecided(name: &str, waits: &[String], known: &Partial) -> String {
    let mut rows: Vec<Vec<String>> =
        known.missing.iter().map(|(input, step)| vec![input.clone(), format!("made by {step}")]).collect();
    rows.insert(0, vec!["not known yet".to_owned(), String::new()]);
    format!(
        "{name} has no key yet: it needs the results of {}\nwhat will run and decides: {}\n\n{}\n\nknown so far\n{}",
        waits.join(", "),
        known.deciding.join(", "),
        columns(&rows),
        ingredients(None, &known.action)
    )
}

fn difference(miss: &Miss, differences: &[Explained]) -> String {
    let Some(nearest) = &miss.nearest else { return "no result of this stage is stored".to_owned() };
    let lines: Vec<String> = differences.iter().map(|line| format!("  {}", line.text)).collect();
    format!(
        "the nearest stored result (key {}, {}) differs in\n{}",
        nearest.key.short(),
        nearest.maker,
        lines.join("\n")
    )
}

fn ingredients(key: Option<&ActionKey>, action: &Action) -> String {
    let mut rows: Vec<Vec<String>> = key.iter().map(|key| vec!["key".to_owned(), key.to_string()]).collect();
    rows.push(vec!["stage".to_owned(), format!("{} (version {})", action.stage, action.version)]);
    rows.extend(action.seed.map(|seed| vec!["seed".to_owned(), seed.to_string()]));
    rows.extend(action.inputs.iter().map(|(name, digest)| vec![format!("input {name}"), digest.to_string()]));
    settings("", &action.config, &mut rows);
    columns(&rows)
}

fn settings(path: &str, ingredient: &Ingredient, rows: &mut Vec<Vec<String>>) {
    let Ingredient::Map(fields) = ingredient else {
        rows.push(vec![path.to_owned(), ingredient.to_string()]);
        return;
    };
    for (name, value) in fields {
        let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        settings(&inner, value, rows);
    }
}
