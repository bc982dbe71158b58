//! The processes of a program: its process group, and what has left that group.
//!
//! What a program starts in a session of its own (`setsid`, the workers of torchrun) is in another group, and no signal
//! to the program's reaches it. It is known by its environment, which says where it works. Without `/proc`, and
//! without that variable, it goes on.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tokio::process::Child;

/// The variable that says for which attempt a program works.
const OUTPUT: &str = "BSTAR_OUT";
/// How long a killed process may take to disappear.
const DYING: Duration = Duration::from_secs(5);
/// How often it is looked whether programs have ended on request.
const POLL: Duration = Duration::from_millis(50);
/// How often it is looked whether they have ended when killed.
const PAUSE: Duration = Duration::from_millis(1);
/// Looks at a process that is being started, which has no environment for a moment.
const LOOKS: usize = 4;
/// Within this time the numbers of processes do not begin anew.
const BRIEF: Duration = Duration::from_secs(1);
/// Bytes of most environments.
const ENVIRONMENT: usize = 1 << 17;
/// So many processes are looked at one by one rather than all that there are.
const FEW: i32 = 64;

/// All that a program has started; killed when dropped before the program has ended.
#[derive(Debug)]
pub(super) struct Programs {
    group: Option<Pid>,
    output: PathBuf,
    started: Instant,
}

impl Programs {
    /// Those of a program that has just been started, is the first of its group, and writes to `output`.
    pub(super) fn of(child: &Child, output: &Path) -> Self {
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Self { group, output: output.to_owned(), started: Instant::now() }
    }

    /// Signals those in the group.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _may_be_gone = kill_process_group(group, signal);
        }
    }

    /// Waits until all have ended, at most until `deadline`. Those that have left the group are asked to end when the
    /// group is gone: until then it is for those who started them to say how.
    pub(super) async fn wait(&self, deadline: tokio::time::Instant) {
        let mut asked = false;
        while tokio::time::Instant::now() < deadline {
            if !self.group.is_some_and(lives) {
                let left = View::of(OUTPUT, &self.output).mine;
                if left.is_empty() {
                    return;
                }
                if !std::mem::replace(&mut asked, true) {
                    for pid in left {
                        let _may_be_gone = kill_process(pid, Signal::TERM);
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills what is left, and returns when it is gone.
    pub(super) async fn end(mut self) {
        let Some(group) = self.group.take() else { return };
        // From now on the number may belong to another program.
        let _may_be_gone = kill_process_group(group, Signal::KILL);
        if !self.is_alone(group.as_raw_nonzero().get()) {
            let output = std::mem::take(&mut self.output);
            drop(tokio::task::spawn_blocking(move || end_programs(OUTPUT, &output)).await);
        }
    }

    /// Whether a look at the few processes that were started since `first` says that none of them is left. Looking at
    /// all that there are takes as long as a short step.
    fn is_alone(&self, first: i32) -> bool {
        // Numbers are given one after the other: a program's own comes before those of all that it starts.
        let last = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid");
        let Some(last) = last.ok().and_then(|text| text.trim().parse::<i32>().ok()) else { return false };
        let mut search = Search::of(OUTPUT, &self.output);
        self.started.elapsed() < BRIEF
            && (0..=FEW).contains(&last.saturating_sub(first))
            && (first + 1..=last).all(|pid| search.sight(pid) == Sight::Other)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            let _may_be_gone = kill_process_group(group, Signal::KILL);
            end_programs(OUTPUT, &self.output);
        }
    }
}

/// Whether any program of the group runs; one that has ended and that nobody has asked for its exit code (a zombie)
/// does not.
fn lives(group: Pid) -> bool {
    if test_kill_process_group(group).is_err() {
        return false;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    let group = group.as_raw_nonzero().get().to_string();
    processes.flatten().any(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // PID (NAME) STATE PARENT GROUP …, where the name may hold anything.
        let mut facts = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let state = facts.next().unwrap_or_default();
        facts.nth(1) == Some(group.as_str()) && state != "Z"
    })
}

/// Kills the programs whose environment says by `variable` that they work in or below `folder`, and returns when they
/// are gone.
pub(super) fn end_programs(variable: &str, folder: &Path) {
    let deadline = Instant::now() + DYING;
    let mut looks = 0;
    loop {
        let view = View::of(variable, folder);
        for pid in &view.mine {
            let _may_be_gone = kill_process(*pid, Signal::KILL);
        }
        // One that was being started meanwhile is found by the next look.
        looks = if view.mine.is_empty() { looks + 1 } else { 0 };
        let gone = view.mine.is_empty() && (!view.unclear || looks == LOOKS);
        if gone || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// A look at all processes.
struct View {
    mine: Vec<Pid>,
    /// Some have no environment yet.
    unclear: bool,
}

impl View {
    fn of(variable: &str, folder: &Path) -> Self {
        let mut search = Search::of(variable, folder);
        let mut view = Self { mine: Vec::new(), unclear: false };
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = number.and_then(Pid::from_raw) else { continue };
            match search.sight(pid.as_raw_nonzero().get()) {
                Sight::Mine => view.mine.push(pid),
                Sight::Unclear => view.unclear = true,
                Sight::Other => {}
            }
        }
        view
    }
}

/// What a process is by its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Mine,
    Other,
    /// It has memory and no whole environment, as for a moment when a program is started.
    Unclear,
}

/// Looks for programs by what their environment says.
struct Search {
    wanted: Vec<u8>,
    /// Whole environments are read at once: between two reads another program may take the place of the first, and
    /// the second finds an end.
    buffer: Vec<u8>,
}

impl Search {
    fn of(variable: &str, folder: &Path) -> Self {
        let wanted = [variable.as_bytes(), b"=", folder.as_os_str().as_encoded_bytes()].concat();
        Self { wanted, buffer: vec![0; ENVIRONMENT] }
    }

    fn sight(&mut self, pid: i32) -> Sight {
        let Ok(length) = self.read(pid) else { return Sight::Other };
        let environment = &self.buffer[..length];
        let below = |rest: &[u8]| rest.is_empty() || rest.starts_with(b"/");
        let says = |set: &[u8]| set.strip_prefix(self.wanted.as_slice()).is_some_and(below);
        if environment.split(|byte| *byte == 0).any(says) {
            return Sight::Mine;
        }
        // A zombie and a part of the kernel have no memory.
        let without = || {
            let memory = std::fs::read_to_string(format!("/proc/{pid}/statm"));
            memory.map_or(true, |memory| memory.starts_with("0 "))
        };
        if environment.ends_with(&[0]) || without() { Sight::Other } else { Sight::Unclear }
    }

    /// Reads the environment of a process; gives its length.
    fn read(&mut self, pid: i32) -> std::io::Result<usize> {
        let mut file = File::open(format!("/proc/{pid}/environ"))?;
        let mut length = 0;
        loop {
            match file.read(&mut self.buffer[length..])? {
                0 => return Ok(length),
                read => length += read,
            }
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
        }
    }
}
