//! Steps carried out by any program.
//!
//! The program runs in the folder of the pipeline file, in a process group of its own. It has the engine's
//! environment, so that it finds its GPU, its caches and its credentials, none of which is in the key;
//! what the pipeline declares under `env:`, which is; and
//!
//! | variable | `argv` | what |
//! |---|---|---|
//! | `BSTAR_IN_NAME` (`NAME` as written, with `_` for `-` and `.`; in capitals too, where that is one input only) | `{in.NAME}` | an input, read-only |
//! | `BSTAR_OUT` | `{out}` | the folder to write the outputs to |
//! | `BSTAR_SCRATCH` | `{scratch}` | a folder that survives crashes until the step is done |
//! | `BSTAR_PARAMS` | `{params}` | `params` as a JSON file |
//! | `BSTAR_ATTEMPT` | | 1 for the first attempt, 2 for the next, … |
//!
//! What decides the result is `argv`, `outputs`, `env:`, `params` and the contents of `inputs` and `files`
//! (read where they are); `timeout`, `cpu`, `gpu` and `memory` do not, nor does the engine's environment.
//!
//! - **Outputs**: all that `outputs` lists must be there, and be a file or a folder as listed; what has a kind
//!   is read row by row ([`bstar_stages::kind`]); links that leave the folder are refused; what is not
//!   listed is a note.
//! - **End**: exit code 0 is success, 75 asks for another attempt (after a while, at most `retries` times), any
//!   other is a failure. What the program left running is killed, also in sessions of their own (`programs`).
//! - **Stop and timeout**: all of it gets SIGTERM, and has the grace to save its progress to the scratch folder;
//!   then it is killed. A stopped step goes on in the next run; one over its limit has failed.
//! - **Resources**: `cpu`, `gpu` and `memory` are what the scheduler keeps free for it; nothing is enforced.
//! - **Log**: standard output and standard error go to `logs/KEY.log` in the work folder, a new one for every
//!   execution, with all its attempts.
//!
//! `examples/README.md` says the same to those who write programs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bstar_stages::config::Command;
use bstar_stages::protocol::{FailureKind, StageError};
use bstar_stages::units::show_duration;
use rustix::process::Signal;
use tokio::time::Instant;

use super::programs::Programs;
use super::{Level, Stop};

/// `EX_TEMPFAIL` of sysexits.h.
const TRY_AGAIN: i32 = 75;
/// Lines of the program's output in the error message.
const TAIL: usize = 20;

/// How long a program is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Most time it may take.
    pub(super) limit: Option<Duration>,
    /// Most time it may take to end on request.
    pub(super) grace: Duration,
}

/// Where a program finds things.
#[derive(Debug)]
pub(super) struct Places<'a> {
    /// The folder of the pipeline file.
    pub(super) base: &'a Path,
    pub(super) inputs: &'a BTreeMap<String, PathBuf>,
    pub(super) output: &'a Path,
    pub(super) scratch: &'a Path,
    /// Written here unless there are none: then the file is there already.
    pub(super) params: &'a Path,
    /// Takes what the program prints.
    pub(super) log: &'a Path,
}

/// Runs the program to its end.
pub(super) async fn run(
    command: &Command,
    places: &Places<'_>,
    attempt: u32,
    stop: &Stop,
    patience: Patience,
) -> Result<(), StageError> {
    let failed = |what: &str, error: std::io::Error| StageError::failed(format!("cannot {what}: {error}"));
    if !command.params.is_empty() {
        let params = serde_json::to_vec_pretty(&command.params)
            .map_err(|error| StageError::failed(format!("cannot write params: {error}")))?;
        std::fs::write(places.params, params).map_err(|error| failed("write params", error))?;
    }
    let log = open_log(places.log, attempt).map_err(|error| failed("open the log", error))?;
    let start = log.metadata().map_or(0, |metadata| metadata.len());
    let mut child = process(command, places, attempt, log)?.spawn().map_err(|error| {
        let program = command.argv.first().map_or("", String::as_str);
        StageError::failed(format!("cannot start `{program}`: {error}"))
            .hint("a name with a `/` is looked for in the folder of the pipeline file, others in PATH")
    })?;
    let programs = Programs::of(&child, places.output);
    let limit = async {
        match patience.limit {
            Some(limit) => {
                tokio::time::sleep(limit).await;
                limit
            }
            None => std::future::pending().await,
        }
    };
    enum End {
        Itself(std::io::Result<ExitStatus>),
        TimedOut(Duration),
        Stopped,
    }
    let end = tokio::select! {
        status = child.wait() => End::Itself(status),
        limit = limit => End::TimedOut(limit),
        () = stop.reached(Level::Stop) => End::Stopped,
    };
    let status = match &end {
        End::Itself(Ok(status)) => Some(*status),
        End::Itself(Err(error)) => {
            return Err(StageError::failed(format!("cannot wait for the program: {error}")));
        }
        End::TimedOut(_) | End::Stopped => {
            programs.signal(Signal::TERM);
            let deadline = Instant::now() + patience.grace;
            let status = tokio::time::timeout_at(deadline, child.wait()).await;
            match &status {
                // What the program started may take longer to save its progress than the program itself.
                Ok(_) => programs.wait(deadline).await,
                Err(_) => {
                    programs.signal(Signal::KILL);
                    drop(child.wait().await);
                }
            }
            status.ok().and_then(Result::ok)
        }
    };
    // What it left running must not write to outputs that are being stored.
    programs.end().await;
    let error = |kind, message: String| StageError {
        kind,
        message: message + &tail(places.log, start),
        hint: Some(format!("all it printed is in {}", places.log.display())),
    };
    match (end, status) {
        // Asked to stop, it may as well have finished.
        (End::Itself(_) | End::Stopped, Some(status)) if status.success() => Ok(()),
        (End::Stopped, _) => Err(error(FailureKind::Interrupted, "the program was stopped".to_owned())),
        (End::TimedOut(limit), _) => {
            let message = format!("the program took longer than {}", show_duration(limit));
            Err(error(FailureKind::Failed, message))
        }
        (End::Itself(_), Some(status)) if status.code() == Some(TRY_AGAIN) => {
            Err(error(FailureKind::Transient, format!("the program asks for another attempt ({status})")))
        }
        (End::Itself(_), status) => {
            let status = status.map_or_else(String::new, |status| format!(" ({status})"));
            Err(error(FailureKind::Failed, format!("the program failed{status}")))
        }
    }
}

fn process(
    command: &Command,
    places: &Places<'_>,
    attempt: u32,
    log: File,
) -> Result<tokio::process::Command, StageError> {
    let errors =
        log.try_clone().map_err(|error| StageError::failed(format!("cannot open the log: {error}")))?;
    let mut argv = command.argv.iter().map(|text| fill(text, places));
    let program = argv.next().ok_or_else(|| StageError::invalid("argv names no program"))?;
    // Found in the pipeline's folder whatever the order of changing folder and looking up.
    let program =
        if program.contains('/') { places.base.join(program).into_os_string() } else { program.into() };
    let mut process = tokio::process::Command::new(program);
    process
        .args(argv)
        .current_dir(places.base)
        .envs(variables(places, attempt))
        .envs(&command.env)
        .stdin(Stdio::null())
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(errors))
        .process_group(0)
        .kill_on_drop(true);
    Ok(process)
}

fn variables(places: &Places<'_>, attempt: u32) -> BTreeMap<String, OsString> {
    let written = places.inputs.iter().map(|(name, path)| (Command::variable(name), path));
    let mut capitals: BTreeMap<String, Option<&PathBuf>> = BTreeMap::new();
    for (variable, path) in written.clone() {
        // What could be one input or another is none, so that nobody reads the wrong one.
        capitals.entry(variable.to_ascii_uppercase()).and_modify(|path| *path = None).or_insert(Some(path));
    }
    let alone = capitals.into_iter().filter_map(|(variable, path)| Some((variable, path?)));
    let mut variables: BTreeMap<String, OsString> =
        alone.chain(written).map(|(variable, path)| (variable, path.into())).collect();
    variables.insert("BSTAR_OUT".to_owned(), places.output.into());
    variables.insert("BSTAR_SCRATCH".to_owned(), places.scratch.into());
    variables.insert("BSTAR_PARAMS".to_owned(), places.params.into());
    variables.insert("BSTAR_ATTEMPT".to_owned(), attempt.to_string().into());
    variables
}

/// Replaces the placeholders of `argv`; braces around anything else stay as they are.
fn fill(text: &str, places: &Places<'_>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        filled.push_str(&rest[..open]);
        rest = &rest[open..];
        let found = rest.find('}').and_then(|close| Some((close, place(&rest[1..close], places)?)));
        match found {
            Some((close, path)) => {
                filled.push_str(&path.to_string_lossy());
                rest = &rest[close + 1..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled + rest
}

fn place<'a>(name: &str, places: &Places<'a>) -> Option<&'a Path> {
    match name {
        "out" => Some(places.output),
        "scratch" => Some(places.scratch),
        "params" => Some(places.params),
        _ => places.inputs.get(name.strip_prefix("in.")?).map(PathBuf::as_path),
    }
}

/// The first attempt begins a new log, the others go on in it.
fn open_log(path: &Path, attempt: u32) -> std::io::Result<File> {
    let mut log = OpenOptions::new().create(true).append(true).open(path)?;
    if attempt > 1 {
        writeln!(log, "--- attempt {attempt}")?;
    } else if log.metadata()?.len() > 0 {
        log.set_len(0)?;
    }
    Ok(log)
}

/// The last lines of the log, each on a line of its own.
fn tail(log: &Path, start: u64) -> String {
    const MOST: u64 = 8192;
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(MOST))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("\n  {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(inputs: &BTreeMap<String, PathBuf>) -> Places<'_> {
        let path = Path::new;
        Places {
            base: path("/base"),
            inputs,
            output: path("/out"),
            scratch: path("/scratch"),
            params: path("/params.json"),
            log: path("/log"),
        }
    }

    #[test]
    fn placeholders_are_replaced_once_and_other_braces_kept() {
        let inputs = BTreeMap::from([("a".to_owned(), PathBuf::from("/in/{out}"))]);
        let places = places(&inputs);
        assert_eq!(fill("x={in.a},{out}/r.txt", &places), "x=/in/{out},/out/r.txt");
        assert_eq!(fill("{scratch}{params}", &places), "/scratch/params.json");
        assert_eq!(fill("{} {in.b} {{out} {", &places), "{} {in.b} {/out {");
    }

    #[test]
    fn a_variable_names_the_input_that_is_written_so_and_never_another() {
        let names = ["A", "a", "b-c", "dE", "De", "F.g"];
        let inputs = names.map(|name| (name.to_owned(), Path::new("/in").join(name))).into();
        let places = places(&inputs);
        let mut variables = variables(&places, 1);
        variables.retain(|name, _| name.starts_with("BSTAR_IN_"));
        let named = [
            ("A", "A"),
            ("a", "a"),
            ("b_c", "b-c"),
            ("B_C", "b-c"),
            ("dE", "dE"),
            ("De", "De"),
            ("F_g", "F.g"),
            ("F_G", "F.g"),
        ];
        let named =
            named.map(|(name, input)| (format!("BSTAR_IN_{name}"), Path::new("/in").join(input).into()));
        assert_eq!(variables, BTreeMap::from(named));
    }
}
