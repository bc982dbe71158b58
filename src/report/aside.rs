//! Shows events on a thread of its own.
//!
//! Whoever reads what is shown may stop reading: a pipe is full, a terminal is stopped by Ctrl-S. Then this thread
//! waits, and nobody else does: the run goes on, and hears signals.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use crate::event::Event;
use crate::report::Report;

/// When so much waits to be shown, how running steps get on is left out.
const BEHIND: usize = 10_000;

enum Task {
    Show(Box<Event>),
    Flush,
    End(SyncSender<io::Result<()>>),
}

/// A report whose reader holds up nobody.
pub struct Aside {
    tasks: Sender<Task>,
    waiting: Arc<AtomicUsize>,
}

impl Aside {
    /// Lets `report` show events on a new thread.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn new(report: impl Report + 'static) -> io::Result<Self> {
        let (tasks, receiver) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        std::thread::Builder::new()
            .name("report".to_owned())
            .spawn(move || show(&report, &receiver, &left))?;
        Ok(Self { tasks, waiting })
    }

    fn ask(&self, task: Task) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread ends before its sender only by a panic, which it has told of.
        let _gone = self.tasks.send(task);
    }

    fn is_behind(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= BEHIND
    }

    /// As [`Report::end`]; `None` when the reader has not read everything within that time.
    pub fn end_within(&self, limit: Duration) -> Option<io::Result<()>> {
        self.begin_end().recv_timeout(limit).ok()
    }

    fn begin_end(&self) -> Receiver<io::Result<()>> {
        let (ended, end) = sync_channel(1);
        self.ask(Task::End(ended));
        end
    }
}

fn show(report: &impl Report, tasks: &Receiver<Task>, waiting: &AtomicUsize) {
    for task in tasks {
        match task {
            Task::Show(event) => report.event(&event),
            Task::Flush => report.flush(),
            // Who asked may have gone on.
            Task::End(ended) => drop(ended.send(report.end())),
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Report for Aside {
    fn event(&self, event: &Event) {
        if !(matches!(event, Event::Progress { .. }) && self.is_behind()) {
            self.ask(Task::Show(Box::new(event.clone())));
        }
    }

    fn flush(&self) {
        if !self.is_behind() {
            self.ask(Task::Flush);
        }
    }

    fn end(&self) -> io::Result<()> {
        self.begin_end().recv().unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    /// A reader that reads an event when told to.
    struct Reader {
        told: Mutex<mpsc::Receiver<()>>,
        read: mpsc::Sender<Event>,
    }

    impl Report for Reader {
        fn event(&self, event: &Event) {
            let _told_or_free = self.told.lock().unwrap().recv();
            drop(self.read.send(event.clone()));
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody_and_misses_nothing_but_progress() {
        let ((tell, told), (read, events)) = (mpsc::channel(), mpsc::channel());
        let aside = Aside::new(Reader { told: Mutex::new(told), read }).unwrap();
        let progress = |done| Event::Progress {
            step: "train".to_owned(),
            done,
            total: 1,
            unit: "update".to_owned(),
            note: None,
        };
        for done in 0..2 * BEHIND as u64 {
            aside.event(&progress(done));
            aside.flush();
        }
        aside.event(&Event::Stopping);
        assert!(aside.end_within(Duration::from_millis(20)).is_none());
        // It reads again.
        drop(tell);
        aside.end().unwrap();
        let read: Vec<Event> = events.try_iter().collect();
        assert!(matches!(read.last(), Some(Event::Stopping)));
        assert!(read.len() <= BEHIND, "{}", read.len());
        assert!(aside.end_within(Duration::from_secs(5)).is_some_and(|ended| ended.is_ok()));
    }
}
