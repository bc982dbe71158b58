//! What untrusted code may try, and what must come of it. `bstar doctor` carries all of it out.

mod list;

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Pid;

use super::{Ended, Limits, Sandbox};
use list::TOOLS;

pub use list::ATTACKS;

/// Something that a sandbox must hold.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// What is tried.
    pub name: &'static str,
    /// How it is held.
    pub(super) held: Held,
    /// A program that prints `held`, or else what it could do.
    pub(super) program: &'static str,
}

/// What stops an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It finds out itself.
    Says,
    /// It finds out itself, or ends: versions of Python differ in what they survive.
    SaysOrEnds,
    /// It ends.
    Ends,
    /// The clock.
    Time,
    /// The clock, while it is told more than a pipe holds.
    Deaf,
    /// The limit of memory.
    Memory,
    /// The limit of files.
    Files,
    /// The limit of output.
    Output,
}

impl Held {
    /// How long it may take.
    fn time(self) -> Duration {
        Duration::from_secs(if matches!(self, Self::Time | Self::Deaf) { 1 } else { 60 })
    }
}

/// Less of everything than a solution gets: the faster it is reached.
pub(super) const LIMITS: Limits = Limits {
    memory: 256 << 20,
    processes: 32,
    file: 4 << 20,
    folder: 16 << 20,
    files: 2000,
    output: 1 << 16,
};

/// Bytes that are more than a pipe holds.
const TOLD: usize = 300_000;

impl Attack {
    /// Carries it out: `Err` says what it could do.
    ///
    /// # Errors
    /// When it was not held, or the sandbox could not be started.
    pub fn attempt(&self, sandbox: &Sandbox) -> Result<(), String> {
        self.attempt_within(sandbox, LIMITS)
    }

    pub(super) fn attempt_within(&self, sandbox: &Sandbox, limits: Limits) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        // The port makes it one of its kind.
        let program = format!("{TOOLS}\nPORT = {port}\n{}", self.program);
        let mut session = sandbox.start(&program, limits).map_err(|error| error.to_string())?;
        let heard = match self.held {
            Held::Deaf => session.ask(&"x".repeat(TOLD), self.held.time()),
            _ => session.hear(self.held.time()),
        };
        let root = session.root;
        drop(session);
        // The first process of a namespace is the last to go.
        if let Some(root) = root.filter(|root| rustix::process::test_kill_process(*root).is_ok()) {
            return Err(format!("the process {} is still there", root.as_raw_nonzero()));
        }
        if let Some(pid) = running(&program).first() {
            return Err(format!("the process {} was left behind", pid.as_raw_nonzero()));
        }
        match (heard, self.held) {
            (Ok(word), Held::Says | Held::SaysOrEnds) if word == "held" => Ok(()),
            (Err(Ended::Exited), Held::SaysOrEnds | Held::Ends)
            | (Err(Ended::Time), Held::Time | Held::Deaf)
            | (Err(Ended::Memory), Held::Memory)
            | (Err(Ended::Files), Held::Files)
            | (Err(Ended::Output), Held::Output) => Ok(()),
            (Ok(word), _) => Err(word),
            (Err(ended), held) => Err(format!("held by {held:?} it should be: {ended}")),
        }
    }
}

/// Processes of this machine that have such a text among their arguments.
pub(super) fn running(text: &str) -> Vec<Pid> {
    let text = text.as_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| {
        let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument.ends_with(text))
    })
    .collect()
}
