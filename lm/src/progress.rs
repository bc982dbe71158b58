//! How a running step tells how far it is, and learns that it should stop.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bstar_stages::protocol::{FailureKind, StageError};

/// Reports are at least this far apart.
const INTERVAL: Duration = Duration::from_millis(200);

/// How far a step is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Units done.
    pub done: usize,
    /// Units in all.
    pub total: usize,
    /// What is counted.
    pub unit: &'static str,
    /// One short figure for people.
    pub note: Option<String>,
}

/// The line between a running step and whoever ordered it.
pub struct Control<'a> {
    stop: &'a AtomicBool,
    report: Box<dyn FnMut(Progress) + 'a>,
    last: Option<Instant>,
    place: Option<PathBuf>,
    log: Option<File>,
}

impl std::fmt::Debug for Control<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Control").field("stop", &self.stop).finish_non_exhaustive()
    }
}

impl<'a> Control<'a> {
    /// A line on which `stop` asks for an early end and `report` hears of progress.
    pub fn new(stop: &'a AtomicBool, report: impl FnMut(Progress) + 'a) -> Self {
        Self { stop, report: Box::new(report), last: None, place: None, log: None }
    }

    /// With a file for what people may want to read line by line.
    #[must_use]
    pub fn with_log(self, place: PathBuf) -> Self {
        Self { place: Some(place), ..self }
    }

    /// Begins the log, or goes on with it. A log that cannot be written is done without: no result depends on it.
    pub fn open_log(&mut self, go_on: bool) {
        let mut options = File::options();
        options.create(true).append(go_on).write(true).truncate(!go_on);
        self.log = self.place.as_ref().and_then(|place| options.open(place).ok());
    }

    /// Writes a line of the log.
    pub fn log(&mut self, line: impl Display) {
        if let Some(log) = &mut self.log
            && writeln!(log, "{line}").is_err()
        {
            self.log = None;
        }
    }

    /// Tells how far the step is, unless it has just told.
    pub fn report(&mut self, progress: impl FnOnce() -> Progress) {
        if self.last.is_none_or(|last| last.elapsed() >= INTERVAL) {
            self.tell(progress());
        }
    }

    /// Tells how far the step is, and what people should know at once.
    pub fn tell(&mut self, progress: Progress) {
        self.last = Some(Instant::now());
        (self.report)(progress);
    }

    /// Whether the step should save what it has and end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The error of a step that was asked to stop.
    #[must_use]
    pub fn interrupted() -> StageError {
        StageError { kind: FailureKind::Interrupted, message: "stopped on request".to_owned(), hint: None }
    }
}
