//! Tests that cannot check what they should on this machine.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that a test does not check what it should: on standard error, and in the file that
/// `BSTAR_SKIPPED` names, which `scripts/test.sh` shows in the end.
#[expect(clippy::print_stderr, reason = "a test that checks nothing must say so")]
pub(crate) fn skipped(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("{line}");
    if let Some(file) = std::env::var_os("BSTAR_SKIPPED") {
        let opened = OpenOptions::new().create(true).append(true).open(file);
        opened.and_then(|mut file| file.write_all(line.as_bytes())).expect("a note of the skipped test");
    }
}
