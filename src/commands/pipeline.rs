//! `bstar pipeline …`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bstar_cache::Store;
use serde_json::{Value, json};

use crate::cli::{Execution, Format, Global, Source, open_store};
use crate::commands::signals::watch_signals;
use crate::commands::step::forced;
use crate::commands::{answer, answer_json, unwritten};
use crate::event::{Event, Summary};
use crate::executor::preview::PreviewError;
use crate::executor::{Executor, Finished, Level, Options, Outcome, Stop};
use crate::failure::{Failure, tell};
use crate::gc::Retention;
use crate::pipeline::{Diagnostic, Origin, Pipeline};
use crate::plan::Plan;
use crate::report::{Aside, Human, Json, Report, count, iterations_text};
use crate::run_record::{RunRecord, RunStart, typed};
use crate::sweep;

/// How long the end of a run may take that was asked to stop, or whose store has failed.
const LAST_WORD: Duration = Duration::from_secs(5);

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
    let (pipeline, variants) = match sweep::check(&source.file, &source.overrides) {
        Ok(checked) => checked,
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
            "iterations": pipeline.iterations, "steps": plan.len(), "variants": variants,
        }))?;
    } else {
        let variants = if variants > 0 { format!(", {}", count(variants, "variant")) } else { String::new() };
        answer(&format!(
            "{} is fine: {} in {}{variants}",
            pipeline.path.display(),
            count(plan.len(), "step"),
            count(pipeline.iterations, "iteration")
        ))?;
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

/// Runs a pipeline.
///
/// # Errors
/// When the pipeline or the store cannot be read; failures of steps are an exit code.
pub async fn pipeline_run(
    global: &Global,
    source: &Source,
    execution: &Execution,
    force: &[String],
) -> Result<u8, Failure> {
    let pipeline = load(&source.file, &source.overrides)?;
    let store = open_store(global).await?;
    let plan = Plan::new(&pipeline);
    let force = forced(&plan, force)?;
    let file = source.file.to_string_lossy();
    let start =
        RunStart::now(&pipeline.name, &file, source.overrides.clone(), pipeline.seed, pipeline.resolved());
    let mut options = options(&start, &pipeline, execution)?;
    options.force = force;
    let run = Run { global, store, plan: &plan, start: &start, options };
    let finished = carry_out(run, Vec::new(), |_| {}).await?;
    if global.format == Format::Text {
        if let Some(table) = iterations_text(&finished.summary) {
            answer(&format!("\n{table}"))?;
        }
        conclude(&source.file, &finished.summary, &finished.outcome);
    }
    exit_code(finished)
}

/// How a run is to be carried out.
pub(crate) fn options(
    start: &RunStart,
    pipeline: &Pipeline,
    execution: &Execution,
) -> Result<Options, Failure> {
    if execution.jobs == Some(0) {
        return Err(Failure::usage("--jobs must be at least 1"));
    }
    let mut options = Options::new(&start.id, &pipeline.name, pipeline.base.clone());
    options.jobs = execution.jobs.unwrap_or(options.jobs);
    options.device = execution.device;
    options.keep_going = execution.keep_going;
    options.lease_ttl = lease_ttl(options.lease_ttl)?;
    options.retain = Retention::new(pipeline.retain.clone());
    Ok(options)
}

/// A plan with all that is needed to carry it out.
pub(crate) struct Run<'a> {
    pub(crate) global: &'a Global,
    pub(crate) store: Store,
    pub(crate) plan: &'a Plan,
    pub(crate) start: &'a RunStart,
    pub(crate) options: Options,
}

/// Carries out a plan, reporting and recording what happens: `first` before everything else, the summary
/// last, as `complete` leaves it.
pub(crate) async fn carry_out(
    run: Run<'_>,
    first: Vec<Event>,
    complete: impl FnOnce(&mut Finished),
) -> Result<Finished, Failure> {
    let Run { global, store, plan, start, options } = run;
    let report = match global.format {
        Format::Text => Aside::new(Human::default()),
        Format::Json => Aside::new(Json::new(std::io::stdout())),
    };
    let report = report.map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
    let (report, stop) = (Arc::new(report), Stop::default());
    let record = Arc::new(RunRecord::begin(&store, start).await?);
    watch_signals(stop.clone(), Arc::clone(&report));
    let flushes = tokio::spawn(flush_often(Arc::clone(&record), Arc::clone(&report)));
    let events = {
        let (record, report) = (Arc::clone(&record), Arc::clone(&report));
        move |event: Event| {
            // The summary is the last line, and is told once it is complete.
            if !matches!(event, Event::Summary(_)) {
                record.event(&event);
                report.event(&event);
            }
        }
    };
    first.into_iter().for_each(&events);
    let mut finished = Executor::new(store, options, stop.clone(), events).run(plan).await;
    let asked = stop.level() >= Level::Stop;
    // Nothing is left to be saved: the next signal ends the process.
    stop.stop();
    flushes.abort();
    complete(&mut finished);
    let summary = Event::Summary(Box::new(finished.summary.clone()));
    record.event(&summary);
    let recorded = record.end(&finished.summary);
    let recorded = if matches!(finished.outcome, Outcome::Store(_)) {
        // The store is not what it should be, and people wait to hear it.
        drop(tokio::time::timeout(LAST_WORD, recorded).await);
        Ok(())
    } else {
        recorded.await
    };
    report.event(&summary);
    // Who was asked to stop does not wait for a reader that does not read, and tells it nothing more.
    let told = if asked { report.end_within(LAST_WORD) } else { Some(report.end()) };
    let Some(told) = told else { return Err(Failure::Reported(finished.outcome.exit_code())) };
    if !matches!(finished.outcome, Outcome::Store(_)) {
        recorded?;
        told.or_else(|error| unwritten(&error))?;
    }
    Ok(finished)
}

/// `$BSTAR_LEASE_S`: seconds after which a silent machine counts as dead.
fn lease_ttl(default: Duration) -> Result<Duration, Failure> {
    let Some(text) = std::env::var_os("BSTAR_LEASE_S") else { return Ok(default) };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        Failure::usage(format!("BSTAR_LEASE_S is `{}`, not a number of seconds", text.display()))
    })
}

/// The exit code of a run that is over.
pub(crate) fn exit_code(finished: Finished) -> Result<u8, Failure> {
    match finished.outcome {
        Outcome::Store(error) => Err(Failure::Store(error)),
        outcome => Ok(outcome.exit_code()),
    }
}

/// What people do next.
pub(crate) fn conclude(file: &Path, summary: &Summary, outcome: &Outcome) {
    let run = &summary.run;
    let next = match outcome {
        Outcome::Done => {
            format!("bstar run show {run} · bstar cache stat · bstar pipeline plan {}", file.display())
        }
        Outcome::Stopped => format!("to go on: {}", same_command()),
        Outcome::Failed(_) | Outcome::Store(_) => {
            format!("what was finished is kept; after a fix: {}", same_command())
        }
    };
    tell(format_args!("{:>12} {next}", "Next"));
}

/// The command line of this process, to be typed again.
fn same_command() -> String {
    typed(std::env::args())
}

/// Events are written together, but none waits for long.
async fn flush_often(record: Arc<RunRecord>, report: Arc<Aside>) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        record.flush();
        report.flush();
    }
}
