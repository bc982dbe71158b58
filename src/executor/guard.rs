//! Ends the programs of an engine that is killed: the engine itself cannot.
//!
//! Every program is in a process group of its own, so what kills the engine does not reach it. A shell that
//! does nothing but read from a pipe notices the death of the engine, which holds the other end, and
//! kills the processes whose environment names the run's folder: programs, and what they started.
//! Where there is no `/proc`, or no shell, the programs go on until they end.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A line means that all is well. Several looks, because a program may be starting at that moment.
const SCRIPT: &str = r#"
read -r word && exit
quiet=0
while :; do
    for file in $(grep -lFs "BSTAR_OUT=$0/" /proc/[0-9]*/environ); do
        file=${file#/proc/}
        kill -KILL "${file%/environ}"
        quiet=0
    done
    quiet=$((quiet + 1))
    [ $quiet -lt 3 ] || exit 0
    sleep 0.05
done
"#;

/// The shell that watches over the programs of a run, once there are any.
#[derive(Debug, Default)]
pub(super) struct Guard(OnceLock<Option<Child>>);

impl Guard {
    /// Makes sure that programs which work below `folder` do not outlive this process.
    pub(super) fn watch(&self, folder: &Path) {
        self.0.get_or_init(|| {
            let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
            let shell = Path::new("/proc/self/environ").exists().then(|| {
                // By its full name the shell is started without a copy of this process.
                Command::new("/bin/sh")
                    .args(["-c", SCRIPT])
                    .arg(folder)
                    .current_dir("/")
                    // An engine that is some other run's program must not take its guard along.
                    .env_clear()
                    .env("PATH", path)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    // Out of reach of what kills the engine.
                    .process_group(0)
                    .spawn()
            })?;
            shell.inspect_err(|error| tracing::debug!(%error, "programs may outlive the engine")).ok()
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut shell) = self.0.take().flatten() {
            let dismissed = shell.stdin.take().map(|mut pipe| pipe.write_all(b"\n"));
            drop(dismissed);
            drop(shell.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::process::{Pid, Signal, kill_process_group};

    use super::*;

    /// A program that works in `folder`, and has started another one.
    fn program(folder: &Path) -> Child {
        let mut program = Command::new("sh");
        program.args(["-c", "sleep 100 & wait"]).env("BSTAR_OUT", folder.join("key-1/out"));
        program.process_group(0).spawn().unwrap()
    }

    fn end(mut program: Child) {
        let group = Pid::from_raw(program.id().try_into().unwrap()).unwrap();
        kill_process_group(group, Signal::KILL).unwrap();
        let _killed = program.wait().unwrap();
    }

    #[test]
    fn programs_of_this_run_end_when_the_engine_is_gone_and_others_go_on() {
        let guard = Guard::default();
        let (mine, other) = (PathBuf::from("/no/such/steps/mine"), PathBuf::from("/no/such/steps/mine2"));
        let (mut mine, mut other, folder) = (program(&mine), program(&other), mine);
        guard.watch(&folder);
        guard.watch(&folder);
        let mut guard = guard;
        let mut shell = guard.0.take().flatten().expect("a shell");
        // The pipe closes without a word, as when the engine is killed.
        drop(shell.stdin.take());
        assert!(!mine.wait().unwrap().success());
        assert!(shell.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        end(other);
    }

    #[test]
    fn programs_are_left_alone_when_the_run_ends() {
        let folder = PathBuf::from("/no/such/steps/ended");
        let mut program = program(&folder);
        let guard = Guard::default();
        guard.watch(&folder);
        drop(guard);
        assert!(program.try_wait().unwrap().is_none());
        end(program);
    }
}
