//! `bstar run …`.

use serde_json::Value;

use crate::cli::{Failure, Format, Global, open_store};
use crate::commands::{answer, answer_json, columns};
use crate::report::{duration, iterations_text};
use crate::run_record::{self, FindError, RunInfo};

/// The outcome as users of the JSON see it.
fn outcome(info: &RunInfo) -> String {
    serde_json::to_value(info.outcome)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn to_json(info: &RunInfo) -> Value {
    let mut object = serde_json::to_value(&info.start).unwrap_or_default();
    object["outcome"] = outcome(info).into();
    object["summary"] = serde_json::to_value(&info.summary).unwrap_or_default();
    object
}

fn figure(info: &RunInfo, name: &str) -> Option<f64> {
    info.summary.as_ref()?.iterations.last()?.get(name)?.as_f64()
}

/// Lists runs, newest first.
///
/// # Errors
/// When the store cannot be read.
pub async fn run_list(global: &Global) -> Result<u8, Failure> {
    let runs = run_record::list(&open_store(global).await?).await?;
    if global.format == Format::Json {
        answer_json(&runs.iter().map(to_json).collect::<Vec<_>>())?;
        return Ok(0);
    }
    if runs.is_empty() {
        answer(&format!("no runs in {}; start one with: bstar pipeline run math.yaml", global.store));
        return Ok(0);
    }
    let heading =
        ["run", "started", "pipeline", "outcome", "executed", "cached", "time", "Pass@1", "settings"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for run in &runs {
        let of_summary =
            |text: fn(&crate::event::Summary) -> String| run.summary.as_ref().map_or(String::new(), text);
        rows.push(vec![
            run.start.id.clone(),
            run.start.started.clone(),
            run.start.pipeline.clone(),
            outcome(run),
            of_summary(|summary| summary.executed.to_string()),
            of_summary(|summary| summary.cached.to_string()),
            of_summary(|summary| duration(summary.wall_s)),
            figure(run, "pass_at_1").map_or(String::new(), |value| format!("{:.1} %", 100.0 * value)),
            run.start.overrides.join(" "),
        ]);
    }
    answer(&columns(&rows));
    Ok(0)
}

/// Shows one run.
///
/// # Errors
/// When there is no such run, or the store cannot be read.
pub async fn run_show(global: &Global, name: &str) -> Result<u8, Failure> {
    let store = open_store(global).await?;
    let run = run_record::find(&store, name).await.map_err(|error| match error {
        FindError::Store(error) => Failure::Store(error),
        other => Failure::Usage {
            message: format!("{other} ({})", global.store),
            hint: Some("`bstar run list` shows all runs".to_owned()),
        },
    })?;
    if global.format == Format::Json {
        answer_json(&to_json(&run))?;
        return Ok(0);
    }
    let mut text = format!(
        "run {} of {} ({}), started {}\ncommand: {}\n",
        run.start.id,
        run.start.pipeline,
        outcome(&run),
        run.start.started,
        run.start.command.join(" ")
    );
    if let Some(summary) = &run.summary {
        if let Some(table) = iterations_text(summary) {
            text.push_str(&format!("\n{table}\n"));
        }
        let rows: Vec<Vec<String>> =
            summary.results.iter().map(|(name, digest)| vec![name.clone(), digest.clone()]).collect();
        text.push_str(&format!("\n{}\n", columns(&rows)));
    }
    answer(&text);
    Ok(0)
}
