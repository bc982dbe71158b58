//! The worker executable.

use std::process::ExitCode;

use bstar_lm::{device, worker};
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
    Worker {
        /// Compute on `cpu` or `cuda:N`
        #[arg(long, default_value = "cpu")]
        device: String,
    },
    /// Tell, as JSON, what this machine can compute on
    Doctor,
}

fn main() -> ExitCode {
    device::single_thread();
    match Cli::parse().command {
        Command::Worker { device } => {
            worker::serve(&device);
            ExitCode::SUCCESS
        }
        Command::Doctor => {
            #[expect(clippy::print_stdout, reason = "the answer of the command")]
            {
                println!("{}", device::doctor());
            }
            ExitCode::SUCCESS
        }
    }
}
