//! What commands answer when the answer cannot be written, or there is nothing to answer from.

use std::fs::OpenOptions;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Outcome, Space, tiny_results};

/// One step that fails with a reason, after one that does not.
const FAILS: &str = r#"
name: fails
setup:
  good: {uses: command, with: {argv: [sh, -c, "echo 1 > {out}/r"], outputs: [r]}}
  bad: {uses: command, with: {argv: [sh, -c, "echo no such luck >&2; exit 3"], inputs: {a: good.r}, outputs: [r]}}
"#;

const GOOD: &str = r#"
name: good
setup:
  good: {uses: command, with: {argv: [sh, -c, "echo 1 > {out}/r"], outputs: [r]}}
"#;

/// A space with a finished run of `good.yaml`.
fn with_good() -> Space {
    let space = Space::new();
    space.write("good.yaml", GOOD);
    let ran = space.run(&["pipeline", "run", "good.yaml"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    space
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let space = with_good();
    let shown = space.run(&["run", "show", "--format", "json"]).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let digest = shown["summary"]["results"]["setup.good.r"].as_str().expect("a digest").to_owned();
    for line in [
        &["run", "show", "--format", "json"][..],
        &["run", "list"],
        &["run", "report"],
        &["run", "watch", "--format", "json"],
        &["cache", "cat", &digest],
        &["cache", "stat"],
        &["cache", "gc"],
        &["pipeline", "plan", "good.yaml"],
        &["pipeline", "graph", "good.yaml"],
        &["pipeline", "check", "good.yaml"],
        &["pipeline", "run", "good.yaml", "--format", "json"],
        &["schema"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let mut command = space.command(line);
        let said = Outcome::of(command.stdout(full).output().expect("bstar starts"));
        assert_eq!(said.code, Some(2), "{line:?}: {}", said.stderr);
        assert!(said.stderr.contains("cannot write to standard output"), "{line:?}: {}", said.stderr);
    }
}

#[test]
fn what_cannot_be_told_ends_nothing() {
    let space = with_good();
    for (line, code) in [
        (&["pipeline", "run", "good.yaml", "--force", "setup.good"][..], 0),
        (&["pipeline", "sweep", "good.yaml", "--seeds", "2"], 0),
        (&["run", "watch"], 0),
        (&["pipeline", "check", "none.yaml"], 2),
        (&["run", "list", "--store", "pipelines"], 3),
        (&["no", "such", "command"], 2),
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let (_, gone) = std::io::pipe().expect("a pipe");
        for nobody in [Stdio::from(full), Stdio::from(gone)] {
            let said = Outcome::of(space.command(line).stderr(nobody).output().expect("bstar starts"));
            assert_eq!(said.code, Some(code), "{line:?}");
        }
    }
}

#[test]
fn a_store_is_where_it_is_meant_to_be() {
    let space = Space::new();
    let mistyped = space.run(&["run", "list", "--store", "s3:/bucket/results"]);
    assert_eq!(mistyped.code, Some(2), "{}", mistyped.stderr);
    let hint = "write `s3://bucket/results` for a URL, `./s3:/bucket/results` for a folder";
    assert!(mistyped.stderr.contains(hint), "{}", mistyped.stderr);
    let mut nameless = space.command(&["run", "list"]);
    let said = Outcome::of(nameless.env("BSTAR_STORE", "").output().expect("bstar starts"));
    assert!(said.stdout.contains("no runs in .bstar"), "{}{}", said.stdout, said.stderr);
}

#[test]
fn steps_are_known_from_any_folder() {
    let space = with_good();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let from_there = |line: &[&str]| {
        Outcome::of(space.command(line).current_dir(elsewhere.path()).output().expect("bstar starts"))
    };
    let log = from_there(&["step", "explain", "setup.good"]);
    assert_eq!(log.code, Some(0), "{}", log.stderr);
    std::fs::rename(space.path().join("good.yaml"), space.path().join("moved.yaml")).expect("a file");
    let known = from_there(&["step", "explain", "setup.good"]);
    assert_eq!(known.code, Some(0), "what was executed needs no file: {}", known.stderr);
    let unknown = from_there(&["step", "explain", "setup.godo"]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.stdout);
    for words in
        ["good.yaml, the pipeline file of the latest run (", "), is not here", "name the file after the step"]
    {
        assert!(unknown.stderr.contains(words), "{words}: {}", unknown.stderr);
    }
}

#[test]
fn commands_to_type_again_are_quoted() {
    let space = Space::new();
    space.write("good.yaml", &GOOD.replace("outputs: [r]", "outputs: [r], params: {range: {}}"));
    let range = "setup.good.params.range={from: 0, to: 1}";
    assert_eq!(space.run(&["pipeline", "run", "good.yaml", range]).code, Some(0));
    let command = format!("bstar pipeline run good.yaml '{range}'");
    for line in [&["run", "show"][..], &["run", "report"]] {
        let said = space.run(line).stdout.replace("&#39;", "'");
        assert!(said.contains(&command), "{said}");
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let space = with_good();
    for line in [&["schema"][..], &["run", "list"], &["pipeline", "run", "good.yaml", "--format", "json"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let said =
            Outcome::of(space.command(line).stdout(Stdio::from(writer)).output().expect("bstar starts"));
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{line:?}");
    }
}

#[test]
fn a_folder_is_no_file_to_write_out_and_its_files_are_named() {
    let space = Space::with_tiny();
    let said = space.run(&["cache", "cat", &tiny_results()["setup.sft.policy"]]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    for words in ["is a folder of", "config.json (", "bstar run export"] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    let unknown = space.run(&["cache", "cat", &"0".repeat(64)]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("nothing that is stored has the digest"), "{}", unknown.stderr);
}

#[test]
fn looking_makes_no_store() {
    let space = Space::new();
    space.write("good.yaml", GOOD);
    for line in [
        &["run", "list"][..],
        &["run", "show"],
        &["cache", "stat"],
        &["cache", "gc"],
        &["cache", "verify"],
        &["cache", "push", "elsewhere"],
    ] {
        let said = space.run(line);
        assert_eq!(said.code, Some(3), "{line:?}: {}", said.stderr);
        assert!(said.stderr.contains("there is no store in"), "{line:?}: {}", said.stderr);
    }
    let pulled = space.run(&["cache", "pull", "elsewhere"]);
    assert_eq!(pulled.code, Some(3), "{}", pulled.stderr);
    for line in [&["pipeline", "plan", "good.yaml"][..], &["step", "explain", "setup.good", "good.yaml"]] {
        assert_eq!(space.run(line).code, Some(0), "{line:?}");
    }
    let mut command = space.command(&["run", "list"]);
    let said = Outcome::of(command.env_remove("BSTAR_STORE").output().expect("bstar starts"));
    assert!(
        said.code == Some(0) && said.stdout.contains("no runs in .bstar"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    // A folder of something else is no store, and stays as it is.
    let other = space.run(&["run", "list", "--store", "pipelines"]);
    assert_eq!(other.code, Some(3), "{}", other.stderr);
    for made in ["store", "elsewhere", ".bstar", "pipelines/bstar-store.json"] {
        assert!(!space.path().join(made).exists(), "{made}");
    }
}

#[test]
fn a_pipeline_whose_inputs_are_missing_says_so_when_it_is_written() {
    let space = Space::new();
    let said = space.run(&["init", "gsm8k-1b", "mine.yaml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("no such input: data/gsm8k/train.jsonl"), "{}", said.stdout);
    let written = std::fs::read_to_string(space.path().join("mine.yaml")).expect("a file");
    assert!(written.contains("#   bstar pipeline run mine.yaml --device"), "{written}");
    assert!(written.contains("mkdir -p data/gsm8k") && !written.contains("pipelines/data"), "{written}");
    let again = space.run(&["init", "gsm8k-1b", "mine.yaml"]);
    assert!(again.stderr.contains("bstar init gsm8k-1b my.yaml"), "{}", again.stderr);
}

#[test]
fn a_run_that_failed_says_why_afterwards() {
    let space = Space::new();
    space.write("fails.yaml", FAILS);
    assert_eq!(space.run(&["pipeline", "run", "fails.yaml"]).code, Some(1));
    let shown = space.run(&["run", "show"]);
    assert!(shown.stdout.contains("failed: setup.bad: "), "{}", shown.stdout);
    let shown = space.run(&["run", "show", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown["failures"][0]["step"], "setup.bad");
    let page = space.run(&["run", "report"]).stdout;
    assert!(page.contains("What failed") && page.contains("setup.bad"), "{page}");
    assert!(page.contains("setup.good.r"), "{page}");
}

#[test]
fn a_stop_is_told_once() {
    let space = Space::new();
    space.write("sleeps.yaml", &GOOD.replace("echo 1 > {out}/r", "sleep 60"));
    let mut command = space.command(&["pipeline", "run", "sleeps.yaml", "--format", "json"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bstar starts");
    let began = Instant::now();
    let runs = || {
        let listed = std::fs::read_dir(space.store().join("runs")).into_iter().flatten().flatten();
        let mut events =
            listed.filter_map(|run| std::fs::read_to_string(run.path().join("events.jsonl")).ok());
        events.any(|events| events.contains("\"running\""))
    };
    while !runs() {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(running.id()).expect("a number")).expect("a process");
    kill_process(pid, Signal::TERM).expect("a signal");
    let said = Outcome::of(running.wait_with_output().expect("bstar ends"));
    assert_eq!(said.code, Some(75), "{}", said.stderr);
    assert_eq!(
        said.events().iter().filter(|event| event["event"] == "stopping").count(),
        1,
        "{}",
        said.stdout
    );
}

#[test]
fn names_that_mean_something_else_are_refused() {
    let space = with_good();
    let ids = |space: &Space| -> Vec<String> {
        let listed = space.run(&["run", "list", "--format", "json"]).stdout;
        let runs: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        runs.as_array()
            .expect("a list")
            .iter()
            .map(|run| run["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    assert_eq!(space.run(&["pipeline", "run", "good.yaml"]).code, Some(0));
    let [_, old] = &ids(&space)[..] else { panic!("two runs") };
    let said = space.run(&["run", "pin", "latest", "--as", old]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(said.stderr.contains("is another run"), "{}", said.stderr);
    assert_eq!(space.run(&["run", "pin", "latest", "--as", "best"]).code, Some(0));
    let said = space.run(&["cache", "gc", "--retire", "rr=1"]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(said.stderr.contains("no stored result has an output `rr`"), "{}", said.stderr);
    assert_eq!(space.run(&["cache", "gc", "--retire", "r=1"]).code, Some(0));
}
