//! The command line: its arguments, and what a failure looks like.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bstar_cache::Store;
use bstar_stages::Device;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::commands;
use crate::failure::{Failure, report};
use crate::pipeline;

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

/// Where results are stored unless another place is named.
pub const DEFAULT_STORE: &str = ".bstar";

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where results are stored: a folder, or a URL such as s3://bucket/prefix
    #[arg(
        long,
        global = true,
        env = "BSTAR_STORE",
        default_value = DEFAULT_STORE,
        value_name = "URL",
        value_parser = location,
    )]
    pub store: String,
    /// What standard output is: text for people, or JSON
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    pub format: Format,
    /// Also log decisions of the cache (-v) and of every batch (-vv) to standard error
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// A place for results; without a name, as where `$BSTAR_STORE` is set to nothing, the usual one.
///
/// # Errors
/// A URL with one slash, which would be the name of a folder.
fn location(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(DEFAULT_STORE.to_owned());
    }
    match text.split_once(":/") {
        Some((scheme, rest))
            if !rest.starts_with('/') && scheme.chars().all(|c| c.is_ascii_alphanumeric()) =>
        {
            Err(format!("write `{scheme}://{rest}` for a URL, `./{text}` for a folder"))
        }
        _ => Ok(text.to_owned()),
    }
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
    /// Judge answers: JSON lines in, each row out with `correct` and `reason`
    #[command(
        after_help = "Examples:\n  bstar grade answers.jsonl > judged.jsonl\n  echo '{\"gold\": \"1/2\", \"pred\": \
                            \"\\\\boxed{0.5}\"}' | bstar grade\n  bstar grade --check --summary cases.jsonl"
    )]
    Grade(commands::Grade),
    /// Ask a model: inspect, tokenize, logits, generate
    #[command(disable_help_flag = true)]
    Model {
        /// What to ask, and the model's folder: `bstar model --help` tells more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    /// Check this machine: worker, libtorch, GPU, store, disk
    Doctor,
    /// Write a pipeline file to begin with
    #[command(after_help = "Examples:\n  bstar init\n  bstar init gsm8k-1b mine.yaml")]
    Init {
        /// The pipeline
        #[arg(default_value = "math")]
        pipeline: commands::Template,
        /// The file to write [default: the pipeline's name and `.yaml`]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of pipeline files, by which editors complete and check them
    #[command(
        after_help = "Example:\n  bstar schema > bstar.schema.json\n  and begin the pipeline file with\n  \
                            # yaml-language-server: $schema=bstar.schema.json"
    )]
    Schema,
    /// Write a script that lets a shell complete commands
    #[command(
        after_help = "Example:\n  bstar completions bash > ~/.local/share/bash-completion/completions/bstar"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
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
    /// Where language models run: `cpu`, or `cuda:N`, a GPU
    #[arg(long, default_value_t, value_name = "DEVICE")]
    pub device: Device,
    /// Go on with steps that do not depend on a failed one
    #[arg(short, long)]
    pub keep_going: bool,
}

/// The language of a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// That of Graphviz.
    Dot,
    /// That of Mermaid, which many web pages draw.
    Mermaid,
}

/// What a sweep is made of, and how its table looks.
#[derive(Debug, Clone, Args)]
pub struct SweepOptions {
    /// Run every variant with N seeds from the pipeline's on, or with these: `1,2,5`
    #[arg(long, value_name = "N|LIST")]
    pub seeds: Option<String>,
    /// Only variants of that name; `*` and `?` stand for any text and any character
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// The variant to compare with [default: the one called `baseline`, or the first]
    #[arg(long, value_name = "NAME")]
    pub baseline: Option<String>,
    /// Only say what would run
    #[arg(long, visible_alias = "dry-run")]
    pub plan: bool,
    /// How the table is written; differences and errors of all figures are in csv and json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub table: TableFormat,
}

/// The form of a sweep's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// For a terminal.
    Text,
    /// With the best figures in bold.
    Markdown,
    /// All figures, unrounded.
    Csv,
    /// All figures of all seeds and iterations.
    Json,
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
        /// Execute this step although its result is stored, and replace that; also all steps below a name
        /// (`iteration[0]`), or a stage in all iterations (`iteration.train`)
        #[arg(long, value_name = "STEP")]
        force: Vec<String>,
    },
    /// Run many variants as one: work that they share is done once; a table compares them
    ///
    /// Variants are the product of the file's `variants:`, of its `grid:`, of lists on the command line, and
    /// of seeds.
    #[command(
        after_help = "Examples:\n  bstar pipeline sweep math.yaml iteration.search.n_star=2,4,6 --seeds 3\n  \
                            bstar pipeline sweep math.yaml --only 'no_*' --table markdown\n  bstar pipeline \
                            sweep math.yaml 'iteration.explore.temperature=[1.0],[0.5,1.0]' --only b_star --plan"
    )]
    Sweep {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        wanted: SweepOptions,
        #[command(flatten)]
        execution: Execution,
    },
    /// Show, without running, which steps are stored, which will run, and why
    Plan {
        #[command(flatten)]
        source: Source,
        /// Show every step, also those that are alike
        #[arg(long)]
        all: bool,
        /// Plan a run with `--force STEP`
        #[arg(long, value_name = "STEP")]
        force: Vec<String>,
    },
    /// Draw the steps and what they read from each other
    #[command(after_help = "Examples:\n  bstar pipeline graph math.yaml | dot -Tsvg > plan.svg\n  bstar \
                            pipeline graph math.yaml --to mermaid")]
    Graph {
        #[command(flatten)]
        source: Source,
        /// The language of the drawing
        #[arg(long, default_value = "dot", value_name = "LANGUAGE")]
        to: GraphFormat,
        /// Draw every iteration instead of one for all
        #[arg(long)]
        all: bool,
        /// Do not colour by what is stored
        #[arg(long)]
        no_store: bool,
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
    /// Show what happens in a run, from its beginning until it ends, as where it runs; the exit code is the run's
    #[command(after_help = "Example:\n  bstar run watch latest --store s3://bucket/prefix")]
    Watch {
        /// A run: its id, a unique beginning of it, or `latest`
        #[arg(default_value = "latest")]
        run: String,
    },
    /// Tell in what two runs differ: settings, results, figures
    #[command(after_help = "Example:\n  bstar run diff 4330118d latest")]
    Diff {
        /// A run: its id, a unique beginning of it, or `latest`
        run: String,
        /// Another one
        other: String,
    },
    /// Show what an iteration sampled, how it was judged, and what it learned from
    ///
    /// With `--format json` each response is an object on a line.
    #[command(after_help = "Examples:\n  bstar run samples latest --kept\n  bstar run samples latest \
                            --iteration 0 --limit 0 --format json")]
    Samples {
        /// A run: its id, a unique beginning of it, or `latest`
        #[arg(default_value = "latest")]
        run: String,
        #[command(flatten)]
        wanted: commands::Samples,
    },
    /// Write a run as one HTML page: curves over iterations, and the balance score of every configuration
    #[command(after_help = "Example:\n  bstar run report latest --out report.html")]
    Report {
        /// A run: its id, a unique beginning of it, or `latest`
        #[arg(default_value = "latest")]
        run: String,
        /// The file to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Copy a result of a run out of the store, for example a policy for other software
    #[command(
        after_help = "Examples:\n  bstar run export latest 'iteration[5].train.policy' final\n  bstar run export latest 'iteration[0].filter.dataset' kept.jsonl"
    )]
    Export {
        /// A run: its id, a unique beginning of it, or `latest`
        run: String,
        /// The result, as `run show` names it
        result: String,
        /// The file or folder to make
        to: PathBuf,
    },
    /// Keep a run's results, whatever `cache gc` is asked for
    Pin {
        /// A run: its id, a unique beginning of it, or `latest`
        run: String,
        /// What to call it; other commands know it by that name
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
    },
    /// Let `cache gc` decide about a run again
    Unpin {
        /// A pinned run, or its name
        #[arg(value_name = "RUN|NAME")]
        run: String,
    },
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Show what a step's key is made of, and how it differs from the nearest stored result
    Explain {
        /// A step (`setup.sft`, `iteration[0].search`), an executed shard, or the beginning of a key
        step: String,
        /// The pipeline [default: that of the latest run, with its settings]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Settings to change
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Print what the program of a `command` step printed, or what training said of its updates, when it was last
    /// executed
    Log {
        /// A step, or the beginning of a key
        step: String,
        /// The pipeline [default: that of the latest run, with its settings]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Settings to change
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Take a folder made elsewhere for the result of a step
    #[command(after_help = "Example:\n  bstar step adopt setup.sft checkpoints/sft math.yaml")]
    Adopt {
        /// The step
        step: String,
        /// The folder that holds its outputs under the paths the stage declares, or its only output
        #[arg(value_name = "FOLDER")]
        from: PathBuf,
        /// The pipeline [default: that of the latest run, with its settings]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Settings to change
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// Replace a result that is stored
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Cache {
    /// Show how much is stored, by stage
    Stat,
    /// Read everything that is stored and set aside what is damaged
    Verify,
    /// Show, or with --apply delete, results that no pinned, recent or live run needs
    #[command(
        after_help = "Examples:\n  bstar cache gc\n  bstar cache gc --keep 7d --apply\n  bstar cache gc \
                      --retire optimizer=1 --apply"
    )]
    Gc {
        #[command(flatten)]
        options: commands::Gc,
    },
    /// Copy results to another store, for example `s3://bucket/prefix`; what is there is skipped
    Push {
        /// The other store: a folder, or a URL
        #[arg(value_name = "URL")]
        other: String,
        /// Only the results of this run: its id, a unique beginning of it, or `latest`
        #[arg(long)]
        run: Option<String>,
    },
    /// Copy results from another store into this one; what is here is skipped
    Pull {
        /// The other store: a folder, or a URL
        #[arg(value_name = "URL")]
        other: String,
        /// Only the results of this run: its id, a unique beginning of it, or `latest`
        #[arg(long)]
        run: Option<String>,
    },
    /// Show what made a stored file or folder, of what, and what was made of it
    #[command(after_help = "Example:\n  bstar cache show 3f9c21ab")]
    Show {
        /// Its digest, as shown by `run show` or in a summary's results, or a unique beginning of it
        digest: String,
    },
    /// Write a stored file to standard output
    Cat {
        /// Its digest, as shown by `run show` or in a summary's results
        digest: String,
    },
}

/// Opens the store that the options name, and makes it if there is none.
///
/// # Errors
/// When it cannot be opened.
pub async fn open_store(global: &Global) -> Result<Store, Failure> {
    Ok(Store::open(&global.store).await?)
}

/// Opens a store that is there.
///
/// # Errors
/// When there is none, or it cannot be opened.
pub async fn existing_store(location: &str) -> Result<Store, Failure> {
    if is_absent(location) {
        return Err(Failure::NoStore { location: location.to_owned() });
    }
    Ok(Store::open(location).await?)
}

/// Opens the store that the options name, to look results up: one that is not there is not made, and has none.
///
/// # Errors
/// When it cannot be opened.
pub async fn store_or_none(global: &Global) -> Result<Store, Failure> {
    let absent = is_absent(&global.store);
    Ok(Store::open(if absent { "memory://" } else { &global.store }).await?)
}

/// What a folder has at least one of that is a store.
const SIGNS: [&str; 3] = ["bstar-store.json", "manifests", "runs"];

/// Whether a location is a folder in which there is no store.
pub(crate) fn is_absent(location: &str) -> bool {
    let folder = match location.strip_prefix("file://") {
        None if location.contains("://") => return false,
        None => Path::new(location),
        Some(path) => Path::new(path),
    };
    // What cannot be asked, or is no folder, is for the store to complain about.
    match folder.metadata() {
        Ok(found) => found.is_dir() && SIGNS.iter().all(|sign| !folder.join(sign).exists()),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Parses the arguments, runs the command, prints its failure, and gives the exit code of design §10.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return tell(&error),
    };
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

/// Prints help, or what is wrong with the arguments.
fn tell(error: &clap::Error) -> ExitCode {
    match error.print().or_else(|error| commands::unwritten(&error)) {
        Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
        Err(failure) => report(&failure),
    }
}

async fn dispatch(cli: &Cli) -> Result<u8, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Pipeline(Pipeline::Run { source, execution, force }) => {
            commands::pipeline_run(global, source, execution, force).await
        }
        Command::Pipeline(Pipeline::Sweep { source, wanted, execution }) => {
            commands::pipeline_sweep(global, source, wanted, execution).await
        }
        Command::Pipeline(Pipeline::Plan { source, all, force }) => {
            commands::pipeline_plan(global, source, force, *all).await
        }
        Command::Pipeline(Pipeline::Graph { source, to, all, no_store }) => {
            commands::pipeline_graph(global, source, *to, *all, *no_store).await
        }
        Command::Pipeline(Pipeline::Check { source }) => commands::pipeline_check(global, source),
        Command::Run(Run::List) => commands::run_list(global).await,
        Command::Run(Run::Show { run }) => commands::run_show(global, run).await,
        Command::Run(Run::Watch { run }) => commands::run_watch(global, run).await,
        Command::Run(Run::Diff { run, other }) => commands::run_diff(global, run, other).await,
        Command::Run(Run::Samples { run, wanted }) => commands::run_samples(global, run, wanted).await,
        Command::Run(Run::Report { run, out }) => commands::run_report(global, run, out.as_deref()).await,
        Command::Run(Run::Export { run, result, to }) => commands::run_export(global, run, result, to).await,
        Command::Run(Run::Pin { run, name }) => commands::run_pin(global, run, name.as_deref()).await,
        Command::Run(Run::Unpin { run }) => commands::run_unpin(global, run).await,
        Command::Step(Step::Explain { step, file, overrides }) => {
            commands::step_explain(global, step, file.as_deref(), overrides).await
        }
        Command::Step(Step::Log { step, file, overrides }) => {
            commands::step_log(global, step, file.as_deref(), overrides).await
        }
        Command::Step(Step::Adopt { step, from, file, overrides, force }) => {
            let (file, force) = (file.as_deref(), *force);
            commands::step_adopt(global, commands::Wanted { step, from, file, overrides, force }).await
        }
        Command::Cache(Cache::Stat) => commands::cache_stat(global).await,
        Command::Cache(Cache::Gc { options }) => commands::cache_gc(global, options).await,
        Command::Cache(Cache::Verify) => commands::cache_verify(global).await,
        Command::Cache(Cache::Push { other, run }) => {
            commands::cache_push(global, other, run.as_deref()).await
        }
        Command::Cache(Cache::Pull { other, run }) => {
            commands::cache_pull(global, other, run.as_deref()).await
        }
        Command::Cache(Cache::Show { digest }) => commands::cache_show(global, digest).await,
        Command::Cache(Cache::Cat { digest }) => commands::cache_cat(global, digest).await,
        Command::Grade(options) => commands::grade(options),
        Command::Model { arguments } => Err(commands::model(global, arguments)),
        Command::Doctor => commands::doctor(global).await,
        Command::Init { pipeline, file } => commands::init(global, *pipeline, file.as_deref()),
        Command::Schema => {
            commands::answer(&format!("{:#}", pipeline::schema()))?;
            Ok(0)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "bstar", &mut script);
            commands::answer(&String::from_utf8_lossy(&script))?;
            Ok(0)
        }
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
    drop(subscriber.without_time().log_internal_errors(false).try_init());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
