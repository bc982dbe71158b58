//! A DAG of tiny programs, and everything about running it that a test wants to know.
//!
//! Layers of steps; every step reads two of the layer before, notes in a log that it began, and writes its
//! output in two halves, a moment apart. The log counts executions, whichever engine they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bstar_cache::Digest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::servers::Server;
use crate::support::{Outcome, Space};

/// How long a holder may be silent before it counts as dead.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// Counts its execution in `$STEPS_LOG`, then mixes its number with the first words of its inputs.
const PROGRAM: &str = r#"
echo "$1" >> "$STEPS_LOG"
name=$1 sum=$(( $2 + ${ADD:-0} )); shift 2
for file; do read -r word rest < "$file"; sum=$(( (sum * 31 + word) % 1000003 )); done
printf '%s ' $sum > "$BSTAR_OUT/r"
sleep ${STEPS_PAUSE:-0.005}
echo "$name" >> "$BSTAR_OUT/r"
"#;

/// The DAG, its folder, and its store.
pub(crate) struct Toy {
    pub(crate) space: Space,
    location: String,
    variables: Vec<(String, String)>,
    layers: usize,
    width: usize,
}

impl Toy {
    /// `layers` × `width` steps with a store on the local disk.
    pub(crate) fn new(layers: usize, width: usize) -> Self {
        let space = Space::new();
        space.write("step.sh", PROGRAM);
        space.write("toy.yaml", &yaml(layers, width));
        space.write("steps.txt", "");
        let location = space.store().to_string_lossy().into_owned();
        Self { space, location, variables: Vec::new(), layers, width }
    }

    /// The same with a store in a new bucket of a server; leases last for seconds. Not only a prefix of its
    /// own: s3s-fs looks through the whole bucket when a prefix is listed.
    pub(crate) fn on(mut self, server: &Server, bucket: &str) -> Self {
        server.make_bucket(bucket);
        self.location = format!("s3://{bucket}/some/prefix");
        self.variables = server.variables();
        self.with("BSTAR_LEASE_S", &LEASE.as_secs().to_string())
    }

    /// The same with another variable in the environment of engines and programs.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The number of steps.
    pub(crate) fn steps(&self) -> usize {
        self.layers * self.width
    }

    /// The results that a run must have, found without one.
    pub(crate) fn expected(&self) -> BTreeMap<String, String> {
        let mut results = BTreeMap::new();
        let mut before: Vec<usize> = Vec::new();
        for layer in 0..self.layers {
            let sum = |place| {
                let number = layer * self.width + place;
                inputs(layer, place, self.width)
                    .into_iter()
                    .flatten()
                    .fold(number, |sum, input| (sum * 31 + before[input]) % 1_000_003)
            };
            let sums: Vec<usize> = (0..self.width).map(sum).collect();
            for (place, sum) in sums.iter().enumerate() {
                let content = format!("{sum} s{layer}-{place}\n");
                let digest = Digest::of(content.as_bytes()).to_string();
                results.insert(format!("setup.s{layer}-{place}.r"), digest);
            }
            before = sums;
        }
        results
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.space.path().join("steps.txt")
    }

    /// A command as if on a machine of that name: with a cache folder of its own.
    pub(crate) fn command_on(&self, machine: &str, arguments: &[&str]) -> Command {
        let mut command = self.space.command(arguments);
        let cache = self.space.path().join(machine);
        command
            .env("BSTAR_STORE", &self.location)
            .env("STEPS_LOG", self.log())
            .env("XDG_CACHE_HOME", &cache)
            .env("BSTAR_TIER", cache.join("tier"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a run on a machine; its standard output goes to `name.json`, its standard error to `name.err`.
    pub(crate) fn start_on(&self, machine: &str, name: &str, jobs: usize) -> Child {
        let file = |ending: &str| {
            let path = self.space.path().join(format!("{name}.{ending}"));
            OpenOptions::new().create(true).append(true).open(path).expect("a file")
        };
        let jobs = jobs.to_string();
        let arguments = ["pipeline", "run", "toy.yaml", "--format", "json", "--jobs", &jobs];
        let mut command = self.command_on(machine, &arguments);
        command.stdout(file("json")).stderr(file("err")).spawn().expect("bstar starts")
    }

    /// The last line of `name.json`, a summary if the run came to its end, and all of `name.err`.
    pub(crate) fn said(&self, name: &str) -> (Value, String) {
        let read = |ending: &str| {
            std::fs::read_to_string(self.space.path().join(format!("{name}.{ending}"))).expect("text")
        };
        let lines = read("json");
        let last = lines.lines().last().unwrap_or("null");
        (serde_json::from_str(last).unwrap_or(Value::Null), read("err"))
    }

    /// Starts a run as the first machine does.
    pub(crate) fn start(&self) -> Child {
        self.start_on("machine", "engine", 2)
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, more: &[&str]) -> Outcome {
        self.run_on("machine", more)
    }

    /// Runs it to its end on a machine.
    pub(crate) fn run_on(&self, machine: &str, more: &[&str]) -> Outcome {
        let mut arguments = vec!["pipeline", "run", "toy.yaml", "--format", "json", "--jobs", "2"];
        arguments.extend(more);
        Outcome::of(self.command_on(machine, &arguments).output().expect("bstar starts"))
    }

    /// The folder in front of the bucket, on a machine that has used it.
    pub(crate) fn tier_of(&self, machine: &str) -> PathBuf {
        let tiers = std::fs::read_dir(self.space.path().join(machine).join("tier")).expect("a folder");
        tiers.flatten().next().expect("a tier").path()
    }

    /// The steps whose results are in the store.
    pub(crate) fn published(&self) -> BTreeSet<String> {
        let mut command = self.command_on("onlooker", &["pipeline", "plan", "toy.yaml", "--format", "json"]);
        let plan = Outcome::of(command.output().expect("bstar starts"));
        assert_eq!(plan.code, Some(0), "{}", plan.stderr);
        let plan: Value = serde_json::from_str(&plan.stdout).expect("JSON");
        let cached = plan["steps"].as_array().expect("steps").iter().filter(|step| step["state"] == "cached");
        cached.map(|step| step["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// How often each step began to execute.
    pub(crate) fn executions(&self) -> BTreeMap<String, usize> {
        let mut executions = BTreeMap::new();
        for step in std::fs::read_to_string(self.log()).expect("a log").lines() {
            *executions.entry(format!("setup.{step}")).or_insert(0) += 1;
        }
        executions
    }

    /// The processes that belong to this DAG: engines, their programs, whoever those started, and guards.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        processes_of(self.space.path())
    }

    /// Who started the programs that run: engines, and programs.
    pub(crate) fn parents_of_programs(&self) -> Vec<u32> {
        let parent = |pid: Pid| {
            let folder = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
            let program = contains(&std::fs::read(folder.join("environ")).ok()?, "BSTAR_OUT=");
            let status = std::fs::read_to_string(folder.join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
            program.then_some(parent.trim().parse().ok()).flatten()
        };
        self.processes().into_iter().filter_map(parent).collect()
    }

    /// Kills all of them, engines first.
    pub(crate) fn kill_all(&self) {
        for pid in self.processes() {
            let _may_be_gone = kill_process(pid, Signal::KILL);
        }
    }

    /// Waits until none of them is left.
    pub(crate) fn leaves_no_process(&self) {
        no_process_is_left(self.space.path());
    }
}

/// The processes whose environment or arguments name that folder.
fn processes_of(folder: &Path) -> Vec<Pid> {
    let mine = folder.to_string_lossy();
    let entries = std::fs::read_dir("/proc").expect("a /proc").flatten();
    let pids = entries.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let names = |file| std::fs::read(entry.path().join(file)).is_ok_and(|text| contains(&text, &mine));
        (names("environ") || names("cmdline")).then_some(pid)
    });
    pids.collect()
}

/// Waits until no process has to do with that folder.
pub(crate) fn no_process_is_left(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes_of(folder);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "processes are left: {left:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn contains(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|window| window == word.as_bytes())
}

/// The places in the layer before that a step reads.
fn inputs(layer: usize, place: usize, width: usize) -> Option<[usize; 2]> {
    (layer > 0).then_some([place, (place + 1) % width])
}

fn yaml(layers: usize, width: usize) -> String {
    let mut yaml = "name: toy\nsetup:\n".to_owned();
    for layer in 0..layers {
        for place in 0..width {
            let (mut names, mut given) = (String::new(), String::new());
            for (name, input) in ["a", "b"].iter().zip(inputs(layer, place, width).into_iter().flatten()) {
                write!(names, ", \"{{in.{name}}}\"").expect("text");
                write!(given, "{name}: s{}-{input}.r, ", layer - 1).expect("text");
            }
            let number = layer * width + place;
            writeln!(
                yaml,
                "  s{layer}-{place}: {{uses: command, with: {{argv: [sh, ./step.sh, s{layer}-{place}, \"{number}\"{names}], \
                 files: [./step.sh], inputs: {{{given}}}, outputs: [r]}}}}"
            )
            .expect("text");
        }
    }
    yaml
}

/// Ends a child that must not outlive its test.
pub(crate) fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// Numbers that look random and are the same every time (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Between 0 and 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The size of a trial: what `$BSTAR_TRIALS` says, or what a quick check takes.
pub(crate) fn trials(quick: usize, full: usize) -> usize {
    match std::env::var("BSTAR_TRIALS").as_deref() {
        Ok("full") => full,
        Ok(number) => number.parse().expect("BSTAR_TRIALS is a number, or `full`"),
        Err(_) => quick,
    }
}

/// Figures for whoever looks (`make trials`).
#[expect(clippy::print_stderr, reason = "figures for people")]
pub(crate) fn tell(figures: &str) {
    eprintln!("{figures}");
}
