//! The command line: its arguments, and what a failure looks like.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use bstar_cache::{Store, StoreError};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands;
use crate::pipeline::Diagnostic;

/// Self-improvement loops for language models, as a DAG of cached steps.
///
/// One YAML file describes the loop. Every result is stored under what made it: running again
/// resumes, and a changed setting recomputes only what depends on it.
#[derive(Debug, Parser)]
#[command(name = "bstar", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    command: Command,
    /// Options that every command takes
    #[command(flatten)]
    global: Global,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where results are stored: a folder, or a URL
    #[arg(long, global = true, env = "BSTAR_STORE", default_value = ".bstar", value_name = "URL")]
    pub store: String,
    /// What standard output is: text for people, or JSON
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    pub format: Format,
    /// Also log decisions of the cache (-v) and of every batch (-vv) to standard error
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline, or look at what running it would do
    #[command(subcommand)]
    Pipeline(Pipeline),
    /// Look at past runs
    #[command(subcommand)]
    Run(Run),
    /// Look at one step
    #[command(subcommand)]
    Step(Step),
    /// Look after stored results
    #[command(subcommand)]
    Cache(Cache),
    /// Ask a model: inspect, tokenize, logits, generate
    #[command(disable_help_flag = true)]
    Model {
        /// What to ask, and the model's folder: `bstar model --help` tells more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    /// Check this machine: worker, libtorch, GPU, store, disk
    Doctor,
}

/// A pipeline file and what differs from it.
#[derive(Debug, Clone, Args)]
pub struct Source {
    /// The pipeline: a path, tried as given and then under pipelines/
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Settings to change, for example `iteration.responses.samples=64` or `carry.optimizer=null`
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// How to execute; none of it changes a result.
#[derive(Debug, Clone, Args)]
pub struct Execution {
    /// CPU slots, and worker processes [default: number of cores]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Where language models run: `cpu`, or `cuda:0`
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Go on with steps that do not depend on a failed one
    #[arg(short, long)]
    pub keep_going: bool,
}

#[derive(Debug, Subcommand)]
enum Pipeline {
    /// Run it; results that exist are reused, and running again resumes
    #[command(
        after_help = "Examples:\n  bstar pipeline run math.yaml\n  bstar pipeline run math.yaml seed=2 \
                            iteration.responses.samples=64\n  bstar pipeline run math.yaml --format json"
    )]
    Run {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        execution: Execution,
    },
    /// Show, without running, which steps are stored, which will run, and why
    Plan {
        #[command(flatten)]
        source: Source,
    },
    /// Check the file and report every problem in it
    Check {
        #[command(flatten)]
        source: Source,
    },
}

#[derive(Debug, Subcommand)]
enum Run {
    /// List runs, newest first
    List,
    /// Show a run's table and results
    Show {
        /// A run: its id, a unique beginning of it, or `latest`
        #[arg(default_value = "latest")]
        run: String,
    },
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Show what a step's key is made of, and how it differs from the nearest stored result
    Explain {
        /// A step, for example `setup.sft` or `iteration[0].search`
        step: String,
        /// The pipeline [default: that of the latest run, with its settings]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Settings to change
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Cache {
    /// Show how much is stored, by stage
    Stat,
    /// Read everything that is stored and set aside what is damaged
    Verify,
    /// Write a stored file to standard output
    Cat {
        /// Its digest, as shown by `run show` or in a summary's results
        digest: String,
    },
}

/// Why a command failed, and its exit code.
#[derive(Debug)]
pub enum Failure {
    /// The pipeline file has problems (2).
    Pipeline(Vec<Diagnostic>),
    /// The request cannot be carried out as it was made (2).
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The store failed (3).
    Store(StoreError),
    /// The command told everything itself; only the code is left.
    Reported(u8),
}

impl Failure {
    /// A request that cannot be carried out.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Opens the store that the options name.
///
/// # Errors
/// When it cannot be opened.
pub async fn open_store(global: &Global) -> Result<Store, Failure> {
    Ok(Store::open(&global.store).await?)
}

/// Parses the arguments, runs the command, prints its failure, and gives the exit code of design §10.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.global.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::usage(format!("cannot start: {error}"))),
    };
    let result = runtime.block_on(dispatch(&cli));
    // A stage that still computes after a stop must not keep the process alive.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => report(&failure),
    }
}

async fn dispatch(cli: &Cli) -> Result<u8, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Pipeline(Pipeline::Run { source, execution }) => {
            commands::pipeline_run(global, source, execution).await
        }
        Command::Pipeline(Pipeline::Plan { source }) => commands::pipeline_plan(global, source).await,
        Command::Pipeline(Pipeline::Check { source }) => commands::pipeline_check(global, source),
        Command::Run(Run::List) => commands::run_list(global).await,
        Command::Run(Run::Show { run }) => commands::run_show(global, run).await,
        Command::Step(Step::Explain { step, file, overrides }) => {
            commands::step_explain(global, step, file.as_deref(), overrides).await
        }
        Command::Cache(Cache::Stat) => commands::cache_stat(global).await,
        Command::Cache(Cache::Verify) => commands::cache_verify(global).await,
        Command::Cache(Cache::Cat { digest }) => commands::cache_cat(global, digest).await,
        Command::Model { arguments } => Err(commands::model(global, arguments)),
        Command::Doctor => commands::doctor(global).await,
    }
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("BSTAR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let ansi = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    // Only a second initialisation fails, and there is none.
    drop(subscriber.without_time().try_init());
}

/// Prints a failure the way cargo does and gives its exit code.
fn report(failure: &Failure) -> ExitCode {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let cyan = anstyle::AnsiColor::Cyan.on_default().bold();
    let (message, hint, code) = match failure {
        Failure::Reported(code) => return ExitCode::from(*code),
        Failure::Pipeline(diagnostics) => {
            for diagnostic in diagnostics {
                anstream::eprintln!("{diagnostic}\n");
            }
            return ExitCode::from(2);
        }
        Failure::Usage { message, hint } => (message.clone(), hint.clone(), 2),
        Failure::Store(error) => (chain(error), error.hint(), 3),
    };
    anstream::eprintln!("{red}error:{red:#} {message}");
    if let Some(hint) = hint {
        anstream::eprintln!("  {cyan}hint:{cyan:#} {hint}");
    }
    ExitCode::from(code)
}

/// An error and its causes, in one line each.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n  caused by: {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
