//! The worker's side of the protocol: orders on standard input, reports on standard output.
//!
//! The main thread owns every tensor; a second one reads orders, so that a request to stop is heard
//! while a step runs, and so that the process ends when its standard input does.

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use bstar_stages::protocol::{Order, Report, Request, StageError};
use serde_json::{Map, Value};

use crate::device;
use crate::error::{Result, torch_text};
use crate::progress::{Control, Progress};
use crate::steps::Kept;

/// Takes orders until standard input ends, then ends the process.
pub fn serve() {
    quiet_panics();
    say(&Report::Ready {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        library: format!("libtorch {}", device::LIBTORCH),
    });
    let stop = Arc::new(AtomicBool::new(false));
    let requests = listen(&stop);
    let mut kept = Kept::default();
    for request in requests {
        let report = match carry_out(&mut kept, &request, &stop) {
            Ok(metrics) => Report::Finished { id: request.id, metrics },
            Err(StageError { kind, message, hint }) => Report::Failed { id: request.id, kind, message, hint },
        };
        say(&report);
    }
}

/// Reads orders on a thread of its own; ends the process when there are no more.
fn listen(stop: &Arc<AtomicBool>) -> Receiver<Box<Request>> {
    let (send, requests) = channel();
    let stop = Arc::clone(stop);
    drop(std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(Order::Run(request)) => {
                    stop.store(false, Ordering::Relaxed);
                    if send.send(request).is_err() {
                        break;
                    }
                }
                Ok(Order::Stop) => stop.store(true, Ordering::Relaxed),
                Err(error) => {
                    let message = format!("the worker does not understand an order: {error}");
                    say(&Report::Log { level: "warn".to_owned(), message });
                }
            }
        }
        // Whoever gave orders is gone: what runs now is for nobody.
        end();
    }));
    requests
}

/// Does something with a model; a panic inside libtorch's bindings is an error like any other.
///
/// # Errors
/// Those of `act`, and what it panics with.
pub fn guarded<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    quiet_panics();
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| Err(panic_error(&*panic)))
}

/// Carries out a step; a panic inside libtorch's bindings is an error like any other.
fn carry_out(kept: &mut Kept, request: &Request, stop: &AtomicBool) -> Result<Map<String, Value>> {
    let mut control = Control::new(stop, |progress: Progress| {
        say(&Report::Progress {
            id: request.id,
            done: progress.done as u64,
            total: progress.total as u64,
            unit: progress.unit.to_owned(),
            note: progress.note,
        });
    })
    .with_log(request.log.clone());
    let result = catch_unwind(AssertUnwindSafe(|| kept.carry_out(request, &mut control)));
    drop(control);
    result.unwrap_or_else(|panic| {
        // The models may be what was broken, or what fills the memory.
        *kept = Kept::default();
        Err(panic_error(&*panic))
    })
}

/// The stage error that a panic stands for.
pub(crate) fn panic_error(panic: &(dyn std::any::Any + Send)) -> StageError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown panic");
    match text.split_once("Torch(\"") {
        Some((_, torch)) => torch_text(torch),
        None => {
            StageError::failed(format!("the worker has a bug: {}", text.lines().next().unwrap_or_default()))
        }
    }
}

/// Panics say where they were in one line: the message is reported, and C++ stacks help nobody.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // Standard error may be closed; there is nobody else to tell.
        drop(writeln!(std::io::stderr(), "panic at {place}"));
    }));
}

/// Writes one report. When nobody reads reports any more, the worker ends.
fn say(report: &Report) {
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    if out.write_all(&line).and_then(|()| out.flush()).is_err() {
        end();
    }
}

/// Ends the process at once, as done. `std::process::exit` would first run libtorch's destructors, and
/// another thread may be computing with what they destroy: that is a crash.
fn end() -> ! {
    #[expect(unsafe_code, reason = "there is no safe name for it; nothing is left to write or to clean up")]
    unsafe {
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bstar_stages::protocol::FailureKind;

    #[test]
    fn a_torch_panic_becomes_its_first_line() {
        let panic = catch_unwind(|| {
            drop(tch::Tensor::from_slice(&[1_f32, 2.0]) + tch::Tensor::from_slice(&[1_f32, 2.0, 3.0]));
        });
        let error = panic_error(&*panic.expect_err("the shapes do not fit"));
        assert!(error.message.starts_with("libtorch: The size of tensor a"), "{error}");
        assert!(!error.message.contains('\n') && error.message.len() < 200);
        let memory: Box<dyn std::any::Any + Send> =
            Box::new("called `Result::unwrap()`: Torch(\"CUDA out of memory. Tried\\nframe 1\")".to_owned());
        assert_eq!(panic_error(&*memory).kind, FailureKind::Transient);
    }
}
