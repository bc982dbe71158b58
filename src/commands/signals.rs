//! What signals do to a run.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::executor::{Level, Stop};
use crate::report::Aside;

/// How long the process that is ended by a signal waits for the reader of its report.
const PARTING: Duration = Duration::from_millis(200);

/// Heeds signals from now on: the first asks the run to stop, the next ends the process. It is done on a thread of
/// its own, so that it matters to nobody what the run waits for: a disk, a server, or a reader.
pub(crate) fn watch_signals(stop: Stop, report: Arc<Aside>) {
    let heed = move || {
        // Without it, a signal ends the process as ever.
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(heed(&stop, &report));
    };
    drop(std::thread::Builder::new().name("signals".to_owned()).spawn(heed));
}

async fn heed(stop: &Stop, report: &Aside) {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::user_defined1()];
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut user)) =
        (signal(kinds[0]), signal(kinds[1]), signal(kinds[2]))
    else {
        return;
    };
    // The terminal is closed. Under `nohup` that is nothing to heed.
    let mut hangup = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    loop {
        let code = tokio::select! {
            () = received(&mut hangup) => 129,
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
            _ = user.recv() => 143,
        };
        if stop.level() == Level::Go {
            // The executor tells of it.
            stop.stop();
        } else {
            stop.kill();
            let _not_all_was_read = report.end_within(PARTING);
            // Workers die with this process: they end when their standard input does.
            std::process::exit(code);
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started to outlive its terminal. Where that cannot be told, a signal that is not
/// heeded does what it did.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_ignored(&status, SignalKind::hangup()).unwrap_or(true)
}

/// Whether the process with that `/proc/PID/status` ignores a signal.
fn is_ignored(status: &str, signal: SignalKind) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u128::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_mask() {
        let status = |mask: &str| format!("Name:\tbstar\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        let hangup = |mask: &str| is_ignored(&status(mask), SignalKind::hangup());
        assert_eq!(hangup("0000000000001001"), Some(true));
        assert_eq!(hangup("0000000000001000"), Some(false));
        assert_eq!(is_ignored(&status("0000000000001000"), SignalKind::pipe()), Some(true));
        assert_eq!((hangup("?"), is_ignored("", SignalKind::hangup())), (None, None));
    }
}
