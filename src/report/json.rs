//! One JSON object a line on standard output.

use std::io::{BufWriter, Write};
use std::sync::Mutex;

use crate::event::Event;
use crate::report::Report;

/// Writes events as JSON lines.
pub struct Json<W: Write + Send> {
    sink: Mutex<BufWriter<W>>,
}

impl<W: Write + Send> Json<W> {
    /// Writes to `sink`: the summary at once, other events when there are many or [`Report::flush`] is
    /// called.
    pub fn new(sink: W) -> Self {
        Self { sink: Mutex::new(BufWriter::with_capacity(1 << 15, sink)) }
    }
}

impl<W: Write + Send> Report for Json<W> {
    fn event(&self, event: &Event) {
        let (Ok(mut line), Ok(mut sink)) = (serde_json::to_vec(event), self.sink.lock()) else { return };
        line.push(b'\n');
        // A closed pipe must not stop the run: its results are in the store.
        drop(sink.write_all(&line));
        if matches!(event, Event::Summary(_)) {
            drop(sink.flush());
        }
    }

    fn flush(&self) {
        if let Ok(mut sink) = self.sink.lock() {
            drop(sink.flush());
        }
    }
}
