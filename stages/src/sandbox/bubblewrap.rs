//! The command line of `bwrap`.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, getpid, getuid, set_child_subreaper};

use super::{Limits, Unavailable, seccomp};

/// Who untrusted programs run as when this process is root: limits do not bind root.
pub(super) const NOBODY: u32 = 60_001;

/// Where the filter is read from, and where the first process is told.
const FILTER: i32 = 10;
const FACTS: i32 = 11;

const INSTALL: &str = "install bubblewrap (`apt install bubblewrap`), or, on a machine that is a sandbox itself, set \
                       `unsafe_no_sandbox: true`";

/// A `bwrap` that works.
#[derive(Debug, Clone)]
pub(super) struct Bubblewrap {
    pub(super) program: String,
    filter: Vec<u8>,
}

impl Bubblewrap {
    pub(super) fn find(python: &str) -> Result<Self, Unavailable> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self::among(std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/local/bin".into()]), python)
    }

    /// The first that is in one of these folders, tried.
    pub(super) fn among(
        folders: impl IntoIterator<Item = PathBuf>,
        python: &str,
    ) -> Result<Self, Unavailable> {
        let unavailable = |reason: String| Unavailable { reason, hint: INSTALL.to_owned() };
        let program = folders
            .into_iter()
            .map(|folder| folder.join("bwrap"))
            .find(|path| path.is_file())
            .ok_or_else(|| unavailable("`bwrap` is not installed".to_owned()))?;
        let filter =
            seccomp::filter().map_err(|error| unavailable(format!("no system call filter: {error}")))?;
        let program = program.to_string_lossy().into_owned();
        let found = Self { program, filter };
        // Whoever adopts the first process of a sandbox must bury it.
        static ADOPT: Once = Once::new();
        ADOPT.call_once(|| {
            let _not_on_old_kernels = set_child_subreaper(Some(getpid()));
        });
        let mut command = found.command(python, &["-I", "-S", "-c", "print(6 * 7)"], Limits::default());
        let output = found.wired(&mut command).and_then(|_facts| command.stderr(Stdio::piped()).output());
        match output {
            Ok(output) if output.stdout == b"42\n" => Ok(found),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said.lines().last().unwrap_or("it says nothing");
                Err(unavailable(format!("`bwrap` does not work: {said}")))
            }
            Err(error) => Err(unavailable(format!("`bwrap` does not start: {error}"))),
        }
    }

    /// Starts a program; also the first process of its sandbox.
    pub(super) fn spawn(
        &self,
        program: &str,
        arguments: &[&str],
        limits: Limits,
    ) -> io::Result<(Child, Option<Pid>)> {
        let mut command = self.command(program, arguments, limits);
        let facts = self.wired(&mut command)?;
        let child = super::spawn(&mut command)?;
        // Our copies of the other ends close with the command.
        drop(command);
        let root = first_process(facts);
        Ok((child, root))
    }

    fn command(&self, program: &str, arguments: &[&str], limits: Limits) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"])
            .args(["--unshare-cgroup-try", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"])
            .args(["--die-with-parent", "--new-session", "--disable-userns", "--cap-drop", "ALL"])
            .args(["--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp"])
            .args(["--setenv", "LANG", "C.UTF-8", "--setenv", "PYTHONHASHSEED", "0"])
            .args(["--ro-bind", "/usr", "/usr"]);
        for folder in ["lib", "lib64", "bin"] {
            command.args(["--symlink", &format!("usr/{folder}"), &format!("/{folder}")]);
        }
        command
            .args(["--dev", "/dev", "--remount-ro", "/dev"])
            .args([
                "--size",
                &limits.folder.to_string(),
                "--tmpfs",
                "/tmp",
                "--remount-ro",
                "/",
                "--chdir",
                "/tmp",
            ])
            .args(["--seccomp", &FILTER.to_string(), "--info-fd", &FACTS.to_string(), "--", program])
            .args(arguments)
            .env_clear()
            .current_dir("/");
        if getuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Gives the command its two extra descriptors; returns where it tells of its first process.
    fn wired(&self, command: &mut Command) -> io::Result<OwnedFd> {
        let (filter, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // Far less than a pipe holds.
        let mut rest = self.filter.as_slice();
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&write, rest)?..];
        }
        let (facts, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mappings = vec![
            FdMapping { parent_fd: filter, child_fd: FILTER },
            FdMapping { parent_fd: tell, child_fd: FACTS },
        ];
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        Ok(facts)
    }
}

/// Reads `{"child-pid": 123, …}`.
fn first_process(facts: OwnedFd) -> Option<Pid> {
    let mut text = String::new();
    std::fs::File::from(facts).read_to_string(&mut text).ok()?;
    let facts: serde_json::Value = serde_json::from_str(&text).ok()?;
    Pid::from_raw(facts.get("child-pid")?.as_i64()?.try_into().ok()?)
}
