//! The `bstar` executable.

use std::process::ExitCode;

fn main() -> ExitCode {
    bstar::cli::main()
}
