//! The worker executable.

use std::io::Write;
use std::process::ExitCode;

use bstar_lm::ask::{Ask, answer};
use bstar_lm::{device, memory, worker};
use bstar_stages::protocol::FailureKind;
use clap::{Parser, Subcommand};

/// Language-model worker of bstar.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take orders from standard input, one JSON object a line
    Worker,
    /// Ask a model; DIR is a folder, or `hf:ORGANISATION/NAME@REVISION` in the local cache
    #[command(subcommand)]
    Model(Ask),
    /// Tell, as JSON, what this machine can compute on
    Doctor,
}

fn main() -> ExitCode {
    device::single_thread();
    memory::keep_freed();
    match Cli::parse().command {
        Command::Worker => {
            worker::serve();
            ExitCode::SUCCESS
        }
        Command::Model(ask) => model(&ask),
        Command::Doctor => {
            #[expect(clippy::print_stdout, reason = "the answer of the command")]
            {
                println!("{}", device::doctor());
            }
            ExitCode::SUCCESS
        }
    }
}

fn model(ask: &Ask) -> ExitCode {
    let Err(error) = worker::guarded(|| answer(ask)) else { return ExitCode::SUCCESS };
    let hint = error.hint.map(|hint| format!("  hint: {hint}\n")).unwrap_or_default();
    // Standard error may be closed; there is nobody else to tell.
    drop(write!(std::io::stderr(), "error: {}\n{hint}", error.message));
    match error.kind {
        FailureKind::Invalid => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
