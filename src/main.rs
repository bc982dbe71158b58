//! The `bstar` executable.

use std::process::ExitCode;

/// Reading a pipeline and looking results up is mostly small pieces of memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bstar::cli::main()
}
