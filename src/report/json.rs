//! One JSON object a line on standard output.

use std::io::{self, BufWriter, Write};
use std::sync::Mutex;

use crate::event::Event;
use crate::report::Report;

/// Writes events as JSON lines.
pub struct Json<W: Write + Send> {
    sink: Mutex<Sink<W>>,
}

struct Sink<W: Write> {
    lines: BufWriter<W>,
    /// The first error: what is written after it would be read as the whole.
    failure: Option<io::Error>,
}

impl<W: Write> Sink<W> {
    /// Writes, unless that has failed before.
    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<W>) -> io::Result<()>) {
        if self.failure.is_none() {
            self.failure = write(&mut self.lines).err();
        }
    }
}

impl<W: Write + Send> Json<W> {
    /// Writes to `sink`: the summary at once, other events when there are many or [`Report::flush`] is
    /// called. An error does not stop the run, whose results are in the store: [`Report::end`] gives it.
    pub fn new(sink: W) -> Self {
        let lines = BufWriter::with_capacity(1 << 15, sink);
        Self { sink: Mutex::new(Sink { lines, failure: None }) }
    }
}

impl<W: Write + Send> Report for Json<W> {
    fn event(&self, event: &Event) {
        let (Ok(mut line), Ok(mut sink)) = (serde_json::to_vec(event), self.sink.lock()) else { return };
        line.push(b'\n');
        sink.attempt(|lines| lines.write_all(&line));
        if matches!(event, Event::Summary(_)) {
            sink.attempt(BufWriter::flush);
        }
    }

    fn flush(&self) {
        if let Ok(mut sink) = self.sink.lock() {
            sink.attempt(BufWriter::flush);
        }
    }

    fn end(&self) -> io::Result<()> {
        self.flush();
        let failure = self.sink.lock().ok().and_then(|mut sink| sink.failure.take());
        failure.map_or(Ok(()), Err)
    }
}
