//! `bstar step explain`.

use std::path::{Path, PathBuf};

use bstar_cache::{Action, ActionKey, Ingredient};
use serde_json::json;

use crate::cli::{Failure, Format, Global, open_store};
use crate::commands::pipeline::{load, preview_failure};
use crate::commands::{answer, answer_json, columns};
use crate::executor::preview::{Fate, Nearest, preview};
use crate::plan::Plan;
use crate::report::duration;
use crate::run_record;

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
    let store = open_store(global).await?;
    let (file, overrides) = match file {
        Some(file) => (file.to_path_buf(), overrides.to_vec()),
        None => {
            let run = run_record::find(&store, "latest").await.map_err(|_| Failure::Usage {
                message: "no pipeline file is given, and there is no run to take it from".to_owned(),
                hint: Some("bstar step explain STEP math.yaml".to_owned()),
            })?;
            (PathBuf::from(run.start.file), run.start.overrides)
        }
    };
    let pipeline = load(&file, &overrides)?;
    let plan = Plan::new(&pipeline);
    let Some(id) = plan.find(name) else {
        let names = plan.ids().map(|id| plan.step(id).name.clone());
        let nearest = names.min_by_key(|candidate| strsim::damerau_levenshtein(candidate, name));
        return Err(Failure::Usage {
            message: format!("{} has no step `{name}`", file.display()),
            hint: nearest.map(|nearest| format!("did you mean `{nearest}`?")),
        });
    };
    let fates = preview(&store, &plan).await.map_err(preview_failure)?;
    let Some((_, fate)) = fates.into_iter().find(|(step, _)| *step == id) else {
        return Err(Failure::usage(format!("{name} is not in the plan")));
    };
    if global.format == Format::Json {
        answer_json(&match &fate {
            Fate::Cached(manifest) => json!({"step": name, "state": "cached", "manifest": manifest}),
            Fate::WillRun(miss) => json!({"step": name, "state": "will_run", "miss": miss}),
            Fate::Unknown(waits) => json!({"step": name, "state": "unknown", "until": waits}),
        })?;
        return Ok(0);
    }
    answer(&match &fate {
        Fate::Cached(manifest) => {
            let by = &manifest.provenance;
            format!(
                "{name} is stored: made by {} of run {} in {}\n\n{}",
                by.step,
                by.run,
                duration(by.wall_s),
                ingredients(&manifest.key, &manifest.action)
            )
        }
        Fate::WillRun(miss) => format!(
            "{name} is not stored\n\n{}\n\n{}",
            difference(miss.nearest.as_ref()),
            ingredients(&miss.key, &miss.action)
        ),
        Fate::Unknown(waits) => {
            format!("{name} has no key yet: it needs the results of {}", waits.join(", "))
        }
    });
    Ok(0)
}

fn difference(nearest: Option<&Nearest>) -> String {
    let Some(nearest) = nearest else { return "no result of this stage is stored".to_owned() };
    let lines: Vec<String> = nearest.differences.iter().map(|line| format!("  {line}")).collect();
    format!(
        "the nearest stored result (key {}, {} of run {}) differs in\n{}",
        nearest.key.short(),
        nearest.step,
        nearest.run,
        lines.join("\n")
    )
}

fn ingredients(key: &ActionKey, action: &Action) -> String {
    let mut rows = vec![
        vec!["key".to_owned(), key.to_string()],
        vec!["stage".to_owned(), format!("{} (version {})", action.stage, action.version)],
    ];
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
