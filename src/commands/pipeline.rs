//! `bstar pipeline …`.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::{Execution, Failure, Format, Global, Source, open_store};
use crate::commands::{answer, answer_json, columns};
use crate::event::{Event, Summary};
use crate::executor::preview::{Fate, Miss, PreviewError, preview};
use crate::executor::{Executor, Level, Options, Outcome, Stop};
use crate::pipeline::{Diagnostic, Origin, Pipeline};
use crate::plan::{Plan, Step};
use crate::report::{Human, Json, Report, count, duration, iterations_text};
use crate::run_record::{RunRecord, RunStart};

/// Reads a pipeline file.
pub(crate) fn load(file: &Path, overrides: &[String]) -> Result<Pipeline, Failure> {
    Pipeline::load(file, overrides).map_err(Failure::Pipeline)
}

pub(crate) fn preview_failure(error: PreviewError) -> Failure {
    match error {
        PreviewError::Input(error) => Failure::Usage { message: error.message, hint: error.hint },
        PreviewError::Store(error) => Failure::Store(error),
    }
}

/// Reports every problem of a file, or what it holds.
///
/// # Errors
/// When the file has problems; for programs they are the answer.
pub fn pipeline_check(global: &Global, source: &Source) -> Result<u8, Failure> {
    let pipeline = match Pipeline::load(&source.file, &source.overrides) {
        Ok(pipeline) => pipeline,
        Err(problems) if global.format == Format::Json => {
            let problems: Vec<_> = problems.iter().map(problem_json).collect();
            answer_json(&json!({"file": source.file, "ok": false, "problems": problems}))?;
            return Ok(2);
        }
        Err(problems) => return Err(Failure::Pipeline(problems)),
    };
    let plan = Plan::new(&pipeline);
    if global.format == Format::Json {
        answer_json(&json!({
            "pipeline": pipeline.name, "file": pipeline.path, "ok": true,
            "iterations": pipeline.iterations, "steps": plan.len(),
        }))?;
    } else {
        answer(&format!(
            "{} is fine: {} in {}",
            pipeline.path.display(),
            count(plan.len(), "step"),
            count(pipeline.iterations, "iteration")
        ));
    }
    Ok(0)
}

fn problem_json(problem: &Diagnostic) -> Value {
    let override_ = match &problem.origin {
        Origin::CommandLine(text) => Some(text),
        Origin::File { .. } | Origin::Nowhere => None,
    };
    json!({
        "path": problem.path, "line": problem.line(), "column": problem.column(), "override": override_,
        "field": problem.field, "message": problem.message, "hint": problem.hint,
    })
}

/// Shows what running would do, and why.
///
/// # Errors
/// When the pipeline or the store cannot be read.
pub async fn pipeline_plan(global: &Global, source: &Source) -> Result<u8, Failure> {
    let pipeline = load(&source.file, &source.overrides)?;
    let store = open_store(global).await?;
    let plan = Plan::new(&pipeline);
    let fates = preview(&store, &plan).await.map_err(preview_failure)?;
    let described: Vec<(&Step, &str, String)> = fates
        .iter()
        .map(|(id, fate)| {
            let step = plan.step(*id);
            let (state, reason) = match fate {
                Fate::Cached(manifest) => {
                    ("cached", format!("took {}", duration(manifest.provenance.wall_s)))
                }
                Fate::WillRun(miss) => ("will_run", why(&pipeline, step, miss)),
                Fate::Unknown(waits) => ("unknown", format!("until {} ran", waits.join(", "))),
            };
            (step, state, reason)
        })
        .collect();
    let number = |wanted: &str| described.iter().filter(|(_, state, _)| *state == wanted).count();
    let (will_run, cached, unknown) = (number("will_run"), number("cached"), number("unknown"));
    if global.format == Format::Json {
        let steps: Vec<_> = described
            .iter()
            .map(|(step, state, reason)| {
                json!({"name": step.name, "stage": step.stage.kind(), "state": state, "reason": reason})
            })
            .collect();
        answer_json(&json!({"steps": steps, "will_run": will_run, "cached": cached, "unknown": unknown}))?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = described
        .iter()
        .map(|(step, state, reason)| vec![state.replace('_', " "), step.name.clone(), reason.clone()])
        .collect();
    answer(&format!(
        "{}\n\n{}: {cached} cached, {will_run} will run, {unknown} unknown until others ran",
        columns(&rows),
        count(plan.len(), "step")
    ));
    Ok(0)
}

/// The difference to the nearest stored result, with the place in the file where it was made.
fn why(pipeline: &Pipeline, step: &Step, miss: &Miss) -> String {
    let Some(nearest) = &miss.nearest else { return "no result of this stage is stored".to_owned() };
    let shown: Vec<String> = nearest
        .differences
        .iter()
        .take(3)
        .map(|difference| {
            let field = format!("{}.{}.with.{}", step.section.key(), step.entry, difference.ingredient);
            let place = match pipeline.origin(&field) {
                Origin::File { line, .. } => format!(" ({}:{line})", pipeline.path.display()),
                Origin::CommandLine(text) => format!(" ({text})"),
                Origin::Nowhere => String::new(),
            };
            format!("{difference}{place}")
        })
        .collect();
    let more = nearest.differences.len() - shown.len();
    let rest = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

/// Runs a pipeline.
///
/// # Errors
/// When the pipeline or the store cannot be read; failures of steps are an exit code.
pub async fn pipeline_run(global: &Global, source: &Source, execution: &Execution) -> Result<u8, Failure> {
    let pipeline = load(&source.file, &source.overrides)?;
    if execution.jobs == Some(0) {
        return Err(Failure::usage("--jobs must be at least 1"));
    }
    let store = open_store(global).await?;
    let plan = Plan::new(&pipeline);
    let file = source.file.to_string_lossy();
    let start =
        RunStart::now(&pipeline.name, &file, source.overrides.clone(), pipeline.seed, pipeline.resolved());
    let record = Arc::new(RunRecord::begin(&store, &start).await?);
    let mut options = Options::new(&start.id, &pipeline.name, pipeline.base.clone());
    options.jobs = execution.jobs.unwrap_or(options.jobs);
    options.device.clone_from(&execution.device);
    options.gpus = usize::from(execution.device.starts_with("cuda"));
    options.keep_going = execution.keep_going;
    let report: Arc<dyn Report> = match global.format {
        Format::Text => Arc::new(Human::default()),
        Format::Json => Arc::new(Json::new(std::io::stdout())),
    };
    let stop = Stop::default();
    let signals = tokio::spawn(watch_signals(stop.clone(), Arc::clone(&report)));
    let events = {
        let (record, report) = (Arc::clone(&record), Arc::clone(&report));
        move |event: Event| {
            record.event(&event);
            // The summary is the last line, and is told once the record is complete.
            if !matches!(event, Event::Summary(_)) {
                report.event(&event);
            }
        }
    };
    let finished = Executor::new(store, options, stop.clone(), events).run(&plan).await;
    signals.abort();
    let recorded = record.end(&finished.summary).await;
    report.event(&Event::Summary(Box::new(finished.summary.clone())));
    if global.format == Format::Text {
        conclude(source, &finished.summary, &finished.outcome);
    }
    if let Outcome::Store(error) = finished.outcome {
        return Err(Failure::Store(error));
    }
    recorded?;
    Ok(finished.outcome.exit_code())
}

/// The table, and what people do next.
#[expect(clippy::print_stderr, reason = "advice for people")]
fn conclude(source: &Source, summary: &Summary, outcome: &Outcome) {
    if let Some(table) = iterations_text(summary) {
        answer(&format!("\n{table}"));
    }
    let run = &summary.run;
    let next = match outcome {
        Outcome::Done => {
            format!("bstar run show {run} · bstar cache stat · bstar pipeline plan {}", source.file.display())
        }
        Outcome::Stopped => format!("to go on: {}", same_command()),
        Outcome::Failed(_) | Outcome::Store(_) => {
            format!("what was finished is kept; after a fix: {}", same_command())
        }
    };
    eprintln!("{:>12} {next}", "Next");
}

/// The command line, to be typed again.
fn same_command() -> String {
    let quote = |word: String| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/=:,+@".contains(c));
        if plain { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let arguments = std::env::args().skip(1).map(quote);
    std::iter::once("bstar".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// The first signal asks the run to stop, the second ends the process.
async fn watch_signals(stop: Stop, report: Arc<dyn Report>) {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::user_defined1()];
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut user)) =
        (signal(kinds[0]), signal(kinds[1]), signal(kinds[2]))
    else {
        return;
    };
    loop {
        let code = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
            _ = user.recv() => 143,
        };
        if stop.level() == Level::Go {
            stop.stop();
            report.event(&Event::Stopping);
        } else {
            stop.kill();
            // Workers die with this process: they end when their standard input does.
            std::process::exit(code);
        }
    }
}
