//! `bstar run …`.

use std::collections::BTreeMap;

use bstar_cache::Store;
use serde_json::Value;

use crate::cli::{DEFAULT_STORE, Format, Global, existing_store, is_absent};
use crate::commands::{answer, answer_json, columns};
use crate::failure::Failure;
use crate::report::{count, duration, summary_text};
use crate::run_record::{self, FindError, Pin, RunInfo, StepFailure};

/// The outcome as users of the JSON see it.
fn outcome(info: &RunInfo) -> String {
    serde_json::to_value(info.outcome)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn to_json(info: &RunInfo, pin: Option<&Pin>) -> Value {
    let mut object = serde_json::to_value(&info.start).unwrap_or_default();
    object["pinned"] = serde_json::to_value(pin).unwrap_or_default();
    object["outcome"] = outcome(info).into();
    object["summary"] = serde_json::to_value(&info.summary).unwrap_or_default();
    object
}

fn figure(info: &RunInfo, name: &str) -> Option<f64> {
    info.summary.as_ref()?.iterations.last()?.get(name)?.as_f64()
}

/// What the command line changed, and of how many variants a sweep is.
fn settings(info: &RunInfo) -> String {
    let sweep = info.start.sweep.as_ref().map(|sweep| {
        let seeds =
            if sweep.seeds.len() > 1 { format!(" × {} seeds", sweep.seeds.len()) } else { String::new() };
        format!("sweep of {}{seeds}:", count(sweep.variants.len(), "variant"))
    });
    let words = sweep.into_iter().chain(info.start.overrides.iter().cloned());
    words.collect::<Vec<_>>().join(" ").trim_end_matches(':').to_owned()
}

/// The run that is meant: see [`run_record::find`].
pub(crate) async fn find_run(store: &Store, name: &str) -> Result<RunInfo, Failure> {
    run_record::find(store, name).await.map_err(|error| match error {
        FindError::Store(error) => Failure::Store(error),
        other => Failure::Usage {
            message: format!("{other} ({})", store.location()),
            hint: Some("`bstar run list` shows all runs".to_owned()),
        },
    })
}

/// Keeps a run's results.
///
/// # Errors
/// When there is no such run, the name is taken, or the store cannot be used.
pub async fn run_pin(global: &Global, run: &str, name: Option<&str>) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let run = find_run(&store, run).await?.start.id;
    let pins = run_record::pins(&store).await?;
    let taken = |pin: &&Pin| pin.name.is_some() && pin.name.as_deref() == name && pin.run != run;
    if let (Some(name), Some(other)) = (name, pins.values().find(taken)) {
        return Err(Failure::Usage {
            message: format!("`{name}` is the name of the run {}", other.run),
            hint: Some(format!("take another name, or first: bstar run unpin {name}")),
        });
    }
    if name.is_some_and(|name| name == "latest" || name.is_empty()) {
        return Err(Failure::usage("a pinned run cannot be called `latest`, or nothing"));
    }
    if let Some(name) = name {
        let runs = run_record::list(&store).await?;
        let ids = runs.iter().map(|other| &other.start.id);
        if let Some(other) = ids.into_iter().find(|id| **id != run && id.starts_with(name)) {
            return Err(Failure::Usage {
                message: format!("`{name}` is another run: {other} begins so"),
                hint: Some("take a name that is the beginning of no id".to_owned()),
            });
        }
    }
    let pin = run_record::pin(&store, &run, name).await?;
    match global.format {
        Format::Json => answer_json(&pin)?,
        Format::Text => answer(&format!("pinned run {run}{}; `cache gc` keeps its results", pin.label()))?,
    }
    Ok(0)
}

/// Lets `cache gc` decide about a run again.
///
/// # Errors
/// When no such run is pinned, or the store cannot be used.
pub async fn run_unpin(global: &Global, run: &str) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let pins = run_record::pins(&store).await?;
    let named = pins.values().find(|pin| pin.name.as_deref() == Some(run));
    let begins: Vec<&Pin> = pins.values().filter(|pin| pin.run.starts_with(run)).collect();
    let (Some(pin), true) = (named.or(begins.first().copied()), named.is_some() || begins.len() == 1) else {
        return Err(Failure::Usage {
            message: format!("no pinned run, or more than one, is called `{run}` ({})", global.store),
            hint: Some("`bstar run list` shows which runs are pinned".to_owned()),
        });
    };
    run_record::unpin(&store, &pin.run).await?;
    match global.format {
        Format::Json => answer_json(pin)?,
        Format::Text => answer(&format!("unpinned run {}{}", pin.run, pin.label()))?,
    }
    Ok(0)
}

/// A time without parts of a second.
fn short_time(time: &str) -> String {
    time.split_once('.').map_or(time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

/// Lists runs, newest first.
///
/// # Errors
/// When the store cannot be read.
pub async fn run_list(global: &Global) -> Result<u8, Failure> {
    // Before the first run there is no store, unless one is named that should be there.
    let (runs, pins) = if global.store == DEFAULT_STORE && is_absent(DEFAULT_STORE) {
        (Vec::new(), BTreeMap::new())
    } else {
        let store = existing_store(&global.store).await?;
        (run_record::list(&store).await?, run_record::pins(&store).await?)
    };
    if global.format == Format::Json {
        let runs = runs.iter().map(|run| to_json(run, pins.get(&run.start.id)));
        answer_json(&runs.collect::<Vec<_>>())?;
        return Ok(0);
    }
    if runs.is_empty() {
        answer(&format!("no runs in {}; start one with: bstar pipeline run math.yaml", global.store))?;
        return Ok(0);
    }
    let heading = [
        "run", "started", "pipeline", "outcome", "executed", "cached", "time", "Pass@1", "pinned", "settings",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for run in &runs {
        let of_summary =
            |text: fn(&crate::event::Summary) -> String| run.summary.as_ref().map_or(String::new(), text);
        rows.push(vec![
            run.start.id.clone(),
            short_time(&run.start.started),
            run.start.pipeline.clone(),
            outcome(run),
            of_summary(|summary| summary.executed.to_string()),
            of_summary(|summary| summary.cached.to_string()),
            of_summary(|summary| duration(summary.wall_s)),
            figure(run, "pass_at_1").map_or(String::new(), |value| format!("{:.1} %", 100.0 * value)),
            pins.get(&run.start.id).map_or(String::new(), |pin| pin.name.clone().unwrap_or("yes".to_owned())),
            settings(run),
        ]);
    }
    if pins.is_empty() {
        let column = rows[0].len() - 2;
        rows.iter_mut().for_each(|row| drop(row.remove(column)));
    }
    answer(&columns(&rows))?;
    Ok(0)
}

/// Shows one run.
///
/// # Errors
/// When there is no such run, or the store cannot be read.
pub async fn run_show(global: &Global, name: &str) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let run = find_run(&store, name).await?;
    let failures = run_record::failures(&store, &run.start.id).await?;
    if global.format == Format::Json {
        let mut object = to_json(&run, run_record::pins(&store).await?.get(&run.start.id));
        object["failures"] = serde_json::to_value(&failures).unwrap_or_default();
        answer_json(&object)?;
        return Ok(0);
    }
    let mut text = format!(
        "run {} of {} ({}), started {}\ncommand: {}\n",
        run.start.id,
        run.start.pipeline,
        outcome(&run),
        short_time(&run.start.started),
        run.start.typed()
    );
    if !failures.is_empty() {
        text.push('\n');
    }
    for StepFailure { step, message, hint } in &failures {
        text.push_str(&format!("failed: {step}: {message}\n"));
        if let Some(hint) = hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    if let Some(summary) = &run.summary {
        let table = summary_text(summary);
        if let Some(table) = table {
            text.push_str(&format!("\n{table}\n"));
        }
        let rows: Vec<Vec<String>> = if summary.variants.is_empty() {
            summary.results.iter().map(|(name, digest)| vec![name.clone(), digest.clone()]).collect()
        } else {
            // All digests of a sweep are too many for people; --format json has them.
            let variants = summary.variants.iter();
            variants.map(|variant| vec![variant.name.clone(), variant.overrides.join(" ")]).collect()
        };
        text.push_str(&format!("\n{}\n", columns(&rows)));
    }
    answer(&text)?;
    Ok(0)
}
