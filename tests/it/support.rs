//! A folder, a store, and the executables.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bstar_cache::Digest;
use serde_json::Value;
use tempfile::TempDir;

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The executable under test.
pub(crate) fn bstar() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_bstar"))
}

/// A place to run in: an empty folder with a copy of `pipelines/` and a store of its own.
pub(crate) struct Space {
    folder: TempDir,
}

/// What a run said.
#[derive(Debug)]
#[must_use = "assert on the outcome"]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// All events of a `--format json` run.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// The summary of a successful `--format json` run.
    pub(crate) fn summary(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        let last = self.events().pop().expect("a last line");
        assert_eq!(last["event"], "summary");
        last
    }
}

impl Space {
    /// An empty space.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let pipelines = folder.path().join("pipelines");
        std::fs::create_dir(&pipelines).expect("a folder");
        std::fs::copy(repository().join("pipelines/tiny.yaml"), pipelines.join("tiny.yaml"))
            .expect("tiny.yaml");
        Self { folder }
    }

    /// A space whose store holds a finished run of tiny.yaml; made once for these executables.
    pub(crate) fn with_tiny() -> Self {
        let space = Self::new();
        let status = Command::new("cp").arg("-a").arg(tiny_store()).arg(space.store()).status();
        assert!(status.expect("cp runs").success());
        space
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("a written file");
    }

    /// A command in this space, with a clean environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(bstar());
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BSTAR_")) {
            command.env_remove(name);
        }
        command.env("BSTAR_STORE", self.store()).env("NO_COLOR", "1").env("OMP_NUM_THREADS", "1");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).output().expect("bstar starts"))
    }

    /// `pipeline run tiny.yaml --format json` with more arguments.
    pub(crate) fn tiny(&self, more: &[&str]) -> Outcome {
        let mut arguments = vec!["pipeline", "run", "tiny.yaml", "--format", "json"];
        arguments.extend(more);
        self.run(&arguments)
    }
}

/// The store of a finished run of tiny.yaml, made once for the executables under test.
fn tiny_store() -> PathBuf {
    let identity: Vec<u8> =
        [bstar(), bstar().with_file_name("bstar-lm"), repository().join("pipelines/tiny.yaml")]
            .iter()
            .flat_map(|file| *Digest::of_file(file).expect("built executables").as_bytes())
            .collect();
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tiny-{}", Digest::of(&identity).short()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let lock = File::create(folder.join("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let store = folder.join("store");
    if !folder.join("done").exists() {
        let space = Space::new();
        let summary = space.tiny(&[]).summary();
        assert!(summary["executed"].as_u64() > Some(50), "{summary}");
        drop(std::fs::remove_dir_all(&store));
        let status = Command::new("cp").arg("-a").arg(space.store()).arg(&store).status();
        assert!(status.expect("cp runs").success());
        std::fs::write(folder.join("done"), summary["results"].to_string()).expect("a written file");
    }
    store
}

/// The results of the finished run in [`tiny_store`].
pub(crate) fn tiny_results() -> BTreeMap<String, String> {
    let file = tiny_store().with_file_name("done");
    serde_json::from_str(&std::fs::read_to_string(file).expect("results")).expect("results")
}

/// A summary's results.
pub(crate) fn results(summary: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(summary["results"].clone()).expect("results")
}

/// How many steps of a stage executed.
pub(crate) fn executed(summary: &Value, stage: &str) -> u64 {
    summary["executed_by_stage"][stage].as_u64().unwrap_or(0)
}
