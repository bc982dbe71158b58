//! One JSON object a line on standard output.

use std::io::Write;
use std::sync::Mutex;

use crate::event::Event;
use crate::report::Report;

/// Writes events as JSON lines.
pub struct Json<W: Write + Send> {
    sink: Mutex<W>,
}

impl<W: Write + Send> Json<W> {
    /// Writes to `sink`, flushing after every line.
    pub fn new(sink: W) -> Self {
        Self { sink: Mutex::new(sink) }
    }
}

impl<W: Write + Send> Report for Json<W> {
    fn event(&self, event: &Event) {
        let (Ok(line), Ok(mut sink)) = (serde_json::to_string(event), self.sink.lock()) else { return };
        // A closed pipe must not stop the run: its results are in the store.
        drop(writeln!(sink, "{line}").and_then(|()| sink.flush()));
    }
}
