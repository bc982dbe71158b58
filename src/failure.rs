//! Why a command failed, how that is told, and its exit code (design §10).

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use bstar_cache::StoreError;

use crate::pipeline::Diagnostic;
use crate::report::count;

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
    /// There is no store to read (3).
    NoStore {
        /// As given.
        location: String,
    },
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

/// Most problems of a pipeline file that are told one by one: who mends these has mended most of the others.
const PROBLEMS: usize = 20;

/// Prints a failure the way cargo does and gives its exit code.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let cyan = anstyle::AnsiColor::Cyan.on_default().bold();
    let (message, hint, code) = match failure {
        Failure::Reported(code) => return ExitCode::from(*code),
        Failure::Pipeline(diagnostics) => {
            for diagnostic in diagnostics.iter().take(PROBLEMS) {
                tell(format_args!("{diagnostic}\n"));
            }
            if let Some(more) = diagnostics.len().checked_sub(PROBLEMS).filter(|more| *more > 0) {
                tell(format_args!(
                    "{red}error:{red:#} {}\n  {cyan}hint:{cyan:#} `bstar pipeline check FILE --format json` lists \
                     all of them",
                    count(more, "more problem"),
                ));
            }
            return ExitCode::from(2);
        }
        Failure::Usage { message, hint } => (message.clone(), hint.clone(), 2),
        Failure::Store(error) => (chain(error), error.hint(), 3),
        Failure::NoStore { location } => {
            let hint = "name another one by --store or $BSTAR_STORE; `bstar pipeline run` makes it, and puts results there";
            (format!("there is no store in {location}"), Some(hint.to_owned()), 3)
        }
    };
    tell(format_args!("{red}error:{red:#} {message}"));
    if let Some(hint) = hint {
        tell(format_args!("  {cyan}hint:{cyan:#} {hint}"));
    }
    ExitCode::from(code)
}

/// Tells people something, on standard error. Where it cannot be written, work goes on all the same.
pub(crate) fn tell(text: impl Display) {
    drop(writeln!(anstream::stderr(), "{text}"));
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
