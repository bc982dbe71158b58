//! A place for programs that nobody trusts: no network, no files but Python's, bounded memory, processes and time.
//!
//! The isolation is bubblewrap's (`bwrap`): namespaces of its own for users, processes, network and mounts, an
//! unprivileged user, no capabilities, a system call filter (`seccomp`), a read-only root without `/proc`,
//! and one small writable folder, `/tmp`, in memory. Limits that no single process can be held to — memory and
//! files of all of them together — are watched from outside (`watch`). When a [`Session`] is dropped,
//! everything that it started is gone.

pub mod attacks;
mod bubblewrap;
mod python;
mod seccomp;
#[cfg(test)]
mod tests;
mod watch;

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
use serde_json::json;

pub use python::Python;

const LIMIT: &str = include_str!("sandbox/limits.py");

/// How often the watch looks.
const TICK: Duration = Duration::from_millis(20);

/// What a session may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory of all its processes together; also of the address space of each.
    pub memory: u64,
    /// Processes at a time.
    pub processes: u32,
    /// Bytes of one file.
    pub file: u64,
    /// Bytes of `/tmp`; whole pages.
    pub folder: u64,
    /// Files in `/tmp`.
    pub files: u64,
    /// Bytes of one line that it answers.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            processes: 64,
            file: 16 << 20,
            folder: 64 << 20,
            files: 10_000,
            output: 1 << 20,
        }
    }
}

/// Why programs cannot be isolated here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("untrusted code cannot be run safely here: {reason}")]
pub struct Unavailable {
    /// What is missing.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

/// Why a session gives no more answers.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It took longer than it may.
    #[error("the time limit was reached")]
    Time,
    /// Its processes used more memory than they may.
    #[error("the memory limit was reached")]
    Memory,
    /// It made more files than it may.
    #[error("too many files were made")]
    Files,
    /// A line was longer than it may be.
    #[error("the output is too long")]
    Output,
    /// It ended.
    #[error("the program ended")]
    Exited,
    /// It could not be started or heard.
    #[error("the sandbox failed: {0}")]
    Failed(#[from] io::Error),
}

/// A way to isolate programs.
#[derive(Debug, Clone)]
pub struct Sandbox {
    python: String,
    isolation: Isolation,
}

#[derive(Debug, Clone)]
enum Isolation {
    Bubblewrap(bubblewrap::Bubblewrap),
    /// None at all, at the user's own risk.
    Nothing,
}

impl Sandbox {
    /// Finds bubblewrap and Python, and tries them.
    ///
    /// # Errors
    /// When one is missing, or the kernel does not allow it.
    pub fn find() -> Result<Self, Unavailable> {
        Self::isolating(python::usual()?)
    }

    /// As [`Sandbox::find`], with an interpreter of that version.
    ///
    /// # Errors
    /// As [`Sandbox::find`], and when there is no such interpreter.
    pub fn of(python: Python) -> Result<Self, Unavailable> {
        Self::isolating(python.interpreter()?)
    }

    fn isolating(python: String) -> Result<Self, Unavailable> {
        let isolation = Isolation::Bubblewrap(bubblewrap::Bubblewrap::find(&python)?);
        Ok(Self { python, isolation })
    }

    /// Runs programs as they are, with this user's rights. For machines that are a sandbox themselves.
    ///
    /// # Errors
    /// When there is no Python.
    pub fn nothing() -> Result<Self, Unavailable> {
        Ok(Self { python: python::usual()?, isolation: Isolation::Nothing })
    }

    /// As [`Sandbox::nothing`], with an interpreter of that version.
    ///
    /// # Errors
    /// When there is none.
    pub fn nothing_of(python: Python) -> Result<Self, Unavailable> {
        Ok(Self { python: python.interpreter()?, isolation: Isolation::Nothing })
    }

    /// Whether programs are isolated.
    #[must_use]
    pub fn isolates(&self) -> bool {
        matches!(self.isolation, Isolation::Bubblewrap(_))
    }

    /// Starts a Python program, which speaks in lines and finds the limits in `LIMITS`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, program: &str, limits: Limits) -> Result<Session, Ended> {
        let alone = self.isolates();
        // Where there is no namespace this limit would count all processes of the user.
        let processes = alone.then_some(limits.processes);
        let Limits { memory, file, output, .. } = limits;
        let told =
            json!({"memory": memory, "processes": processes, "file": file, "output": output, "alone": alone});
        let (program, told) = (format!("{LIMIT}\n{program}"), told.to_string());
        let arguments = ["-I", "-S", "-B", "-c", &program, &told];
        let (mut child, root) = match &self.isolation {
            Isolation::Bubblewrap(bubblewrap) => bubblewrap.spawn(&self.python, &arguments, limits)?,
            Isolation::Nothing => {
                let mut command = Command::new(&self.python);
                command.args(arguments).env_clear().current_dir("/");
                (spawn(&mut command)?, None)
            }
        };
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the program has no standard input and output").into());
        };
        // Whoever tells it something does not wait for it to listen.
        ioctl_fionbio(&input, true).map_err(io::Error::from)?;
        Ok(Session { child, root, input, output, heard: Vec::new(), limits, looked: Instant::now() })
    }
}

/// Starts a program that is spoken with through pipes, in a process group of its own.
fn spawn(command: &mut Command) -> io::Result<Child> {
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

/// A program in a sandbox, and what it starts.
#[derive(Debug)]
pub struct Session {
    child: Child,
    /// The first process of the sandbox, when it has one.
    root: Option<Pid>,
    input: ChildStdin,
    output: ChildStdout,
    /// What it said beyond the last line.
    heard: Vec<u8>,
    limits: Limits,
    /// When the watch looked last.
    looked: Instant,
}

impl Session {
    /// Says a line (without its end) and waits for one.
    ///
    /// # Errors
    /// When it is not taken, or none comes, within that time and the limits. Nothing can be asked any more then.
    pub fn ask(&mut self, line: &str, time: Duration) -> Result<String, Ended> {
        self.exchange(format!("{line}\n").as_bytes(), time)
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub fn hear(&mut self, time: Duration) -> Result<String, Ended> {
        self.exchange(&[], time)
    }

    /// Says all of that and waits for a line, which may come before all is said. Neither may take for ever: a
    /// program need not read what it is told.
    fn exchange(&mut self, mut said: &[u8], time: Duration) -> Result<String, Ended> {
        let deadline = Instant::now() + time;
        let mut searched = 0;
        loop {
            let end = self.heard[searched..].iter().position(|byte| *byte == b'\n').map(|at| searched + at);
            if let (Some(end), true) = (end, said.is_empty()) {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if end.is_none() {
                searched = self.heard.len();
                if searched > self.limits.output {
                    return Err(Ended::Output);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Ended::Time);
            }
            let (takes, tells) = self.ready(!said.is_empty(), end.is_none(), left.min(TICK))?;
            if let Some(root) = self.root.filter(|_| self.looked.elapsed() >= TICK) {
                watch::look(root, self.limits)?;
                self.looked = Instant::now();
            }
            if takes {
                said = &said[self.take(said)?..];
            }
            if tells {
                let mut chunk = [0; 1 << 16];
                match self.output.read(&mut chunk)? {
                    0 => return Err(Ended::Exited),
                    count => self.heard.extend_from_slice(&chunk[..count]),
                }
            }
        }
    }

    /// Waits until it can be told something, or has something to tell, whichever of the two is wanted.
    fn ready(&self, say: bool, hear: bool, time: Duration) -> io::Result<(bool, bool)> {
        // What is not wanted is not looked at: a closed end would always be ready.
        let say = say.then(|| PollFd::new(&self.input, PollFlags::OUT));
        let hear = hear.then(|| PollFd::new(&self.output, PollFlags::IN));
        let (says, hears) = (say.is_some(), hear.is_some());
        let mut files: Vec<PollFd<'_>> = say.into_iter().chain(hear).collect();
        let time = time.try_into().map_err(io::Error::other)?;
        match poll(&mut files, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = files.iter().map(|file| !file.revents().is_empty());
        let takes = says && ready.next() == Some(true);
        Ok((takes, hears && ready.next() == Some(true)))
    }

    /// Tells it the beginning of that; returns how much.
    fn take(&mut self, said: &[u8]) -> Result<usize, Ended> {
        match self.input.write(said) {
            Ok(count) => Ok(count),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                io::ErrorKind::BrokenPipe => Err(Ended::Exited),
                _ => Err(Ended::Failed(error)),
            },
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The first process of a namespace takes all others along.
        if let Some(root) = self.root {
            let _gone_already = kill_process(root, Signal::KILL);
        }
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _gone_already = kill_process_group(group, Signal::KILL);
        }
        // Where there is no sandbox it may have left its group.
        let _gone_already = self.child.kill();
        drop(self.child.wait());
        if let Some(root) = self.root {
            // It is ours to bury since this process adopts orphans; elsewhere someone else does it.
            let _not_ours = waitpid(Some(root), WaitOptions::empty());
        }
    }
}
