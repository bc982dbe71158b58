//! One function a command: it asks the engine, and prints the answer on standard output.

mod cache;
mod copy;
mod diff;
mod doctor;
mod explain;
mod export;
mod gc;
mod grade;
mod graph;
mod init;
mod lineage;
mod model;
mod pipeline;
mod plan;
mod report;
mod runs;
mod samples;
mod signals;
mod step;
mod sweep;
mod watch;

pub use cache::{cache_cat, cache_stat, cache_verify};
pub use copy::{cache_pull, cache_push};
pub use diff::run_diff;
pub use doctor::doctor;
pub use explain::step_explain;
pub use export::run_export;
pub use gc::{Gc, cache_gc};
pub use grade::{Grade, grade};
pub use graph::pipeline_graph;
pub use init::{Template, init};
pub use lineage::cache_show;
pub use model::model;
pub use pipeline::{pipeline_check, pipeline_run};
pub use plan::pipeline_plan;
pub use report::run_report;
pub use runs::{run_list, run_pin, run_show, run_unpin};
pub use samples::{Samples, run_samples};
pub use step::{Wanted, step_adopt, step_log};
pub use sweep::pipeline_sweep;
pub use watch::run_watch;

use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Prints an answer.
pub(crate) fn answer(text: &str) -> Result<(), Failure> {
    answer_bytes(format!("{}\n", text.trim_end()).as_bytes())
}

/// Prints an answer for programs.
pub(crate) fn answer_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::usage(format!("cannot write JSON: {error}")))?;
    answer(&text)
}

/// Prints an answer as it is.
pub(crate) fn answer_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).or_else(|error| unwritten(&error))
}

/// What an error of standard output means: a reader that has gone away has what it wanted, and any other one has less
/// than the answer.
pub(crate) fn unwritten(error: &std::io::Error) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        kind => Err(Failure::Usage {
            message: format!("cannot write to standard output: {error}"),
            hint: Some(match kind {
                ErrorKind::StorageFull => {
                    "free some space there; what was written is not the whole answer".to_owned()
                }
                _ => "what was written is not the whole answer".to_owned(),
            }),
        }),
    }
}

/// Columns of text, padded to their widest cell.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len))
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
