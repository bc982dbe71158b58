//! `bstar run watch`: a run as it is shown where it runs.

use std::time::Duration;

use crate::cli::{Format, Global, existing_store};
use crate::commands::answer;
use crate::commands::runs::find_run;
use crate::event::{Event, Recorded};
use crate::executor::Outcome;
use crate::failure::Failure;
use crate::report::{Human, Report, summary_text};
use crate::run_record::{self, RunOutcome};

/// How often a folder is asked for news.
const NEAR: Duration = Duration::from_millis(250);
/// The same over a network, where they come every 30 seconds.
const FAR: Duration = Duration::from_secs(10);

/// Shows what happened in a run and what happens until it ends; the exit code is the run's.
///
/// # Errors
/// When there is no such run, or the store cannot be read.
pub async fn run_watch(global: &Global, name: &str) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let mut run = find_run(&store, name).await?;
    let pause = if store.local_root().is_some() { NEAR } else { FAR };
    let human = Human::default();
    let mut seen = 0;
    loop {
        let events = run_record::events(&store, &run.start.id).await?;
        // The last line may not be whole yet.
        let end = events.iter().rposition(|byte| *byte == b'\n').map_or(seen, |last| last + 1);
        let lines = events[seen.min(end)..end].split(|byte| *byte == b'\n');
        for line in lines.filter(|line| !line.is_empty()) {
            match global.format {
                Format::Json => answer(&String::from_utf8_lossy(line))?,
                Format::Text => show(&human, line),
            }
        }
        seen = end;
        if run.outcome != RunOutcome::Running {
            break;
        }
        tokio::time::sleep(pause).await;
        // Before its events are: those of a run that has ended are all there.
        run = run_record::read(&store, &run.start.id).await?.unwrap_or(run);
    }
    if global.format == Format::Text
        && let Some(table) = run.summary.as_ref().and_then(summary_text)
    {
        answer(&format!("\n{table}"))?;
    }
    Ok(match run.outcome {
        RunOutcome::Done | RunOutcome::Running => Outcome::Done.exit_code(),
        // A summary of an older version has no exit code.
        RunOutcome::Failed => run.summary.map_or(1, |summary| summary.exit_code.max(1)),
        RunOutcome::Stopped => Outcome::Stopped.exit_code(),
        RunOutcome::Interrupted => {
            human.clear();
            let message = format!("the run was cut off; to go on: {}", run.start.typed());
            human.event(&Event::Note { level: "warn", message });
            Outcome::Stopped.exit_code()
        }
    })
}

/// Shows a recorded event. One that is not understood is of another version.
fn show(human: &Human, line: &[u8]) {
    if let Ok(Recorded { time, event }) = serde_json::from_slice::<Recorded<Event>>(line) {
        human.replay(&event, Duration::try_from_secs_f64(time).unwrap_or_default());
    }
}
