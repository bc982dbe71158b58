//! `bstar model`: the worker's executable answers, on the same standard streams.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cli::{Format, Global};
use crate::failure::Failure;
use crate::worker::Launch;

/// Becomes `bstar-lm model`; returns only when that fails.
pub fn model(global: &Global, arguments: &[OsString]) -> Failure {
    let program = match Launch::find() {
        Ok(launch) => launch.program,
        Err(error) => return Failure::Usage { message: error.message, hint: error.hint },
    };
    let mut command = Command::new(&program);
    command.arg("model").args(arguments);
    if global.format == Format::Json {
        command.args(["--format", "json"]);
    }
    let error = command.exec();
    Failure::usage(format!("cannot start {}: {error}", program.display()))
}
