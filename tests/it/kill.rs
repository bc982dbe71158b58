//! A run killed at any moment and started again ends with the results of an undisturbed one.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Space, results, tiny_results};
use crate::toy::no_process_is_left;

const RUN: [&str; 5] = ["pipeline", "run", "tiny.yaml", "--format", "json"];

fn start(space: &Space) -> Child {
    spawn(&mut space.command(&RUN))
}

fn spawn(run: &mut Command) -> Child {
    run.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("bstar starts")
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// Kills a run `after` it started; tells whether it was still running.
fn kill_after(space: &Space, after: Duration) -> bool {
    let mut child = start(space);
    std::thread::sleep(after);
    let running = child.try_wait().expect("a status").is_none();
    drop(child.kill());
    let status = child.wait().expect("a status");
    assert!(!running || status.signal() == Some(9));
    running
}

/// Reads events of a `--format json` run until one of them satisfies `wanted`, then kills the run.
pub(crate) fn kill_when(run: &mut Command, wanted: impl Fn(&serde_json::Value) -> bool) {
    let mut child = spawn(run);
    let mut events = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let found = events.any(|line| wanted(&serde_json::from_str(&line.expect("a line")).expect("JSON")));
    assert!(found, "the run ended before the moment came");
    child.kill().expect("killed");
    let _ = child.wait().expect("a status");
}

/// Kills a run between the writing of a blob and of the manifest that names it.
fn kill_between_blob_and_manifest(space: &Space) {
    let count = |folder: &str| -> usize {
        let Ok(entries) = std::fs::read_dir(space.store().join(folder)) else { return 0 };
        entries.flatten().filter_map(|entry| std::fs::read_dir(entry.path()).ok()).flatten().flatten().count()
    };
    let mut child = start(space);
    let deadline = Instant::now() + Duration::from_secs(60);
    let (blobs, manifests) = (count("blobs"), count("manifests"));
    while !(count("blobs") > blobs + 5 && count("manifests") >= manifests) {
        assert!(Instant::now() < deadline, "no blob appeared");
    }
    let published = count("manifests");
    let stored = count("blobs");
    while count("blobs") == stored && count("manifests") == published && Instant::now() < deadline {}
    drop(child.kill());
    let _ = child.wait().expect("a status");
}

#[test]
fn kill_at_twenty_moments_changes_no_result() {
    let undisturbed = tiny_results();
    let began = Instant::now();
    let whole = Space::new();
    drop(whole.tiny(&[]).summary());
    let duration = began.elapsed();
    let (mut killed, space) = (0, Space::new());
    for trial in 0..20_u32 {
        // Spread over the run by the golden ratio; every trial goes on from what the last one left.
        let share = (f64::from(trial) * 0.618_033_988_75).fract();
        killed += u32::from(kill_after(&space, duration.mul_f64(0.05 + 0.5 * share)));
    }
    assert!(killed >= 3, "only {killed} of 20 runs were killed before they ended");
    assert_eq!(results(&space.tiny(&[]).summary()), undisturbed);
}

#[test]
fn kill_from_an_empty_store_at_ten_moments_changes_no_result() {
    let undisturbed = tiny_results();
    for trial in 0..10_u64 {
        let space = Space::new();
        let running = kill_after(&space, Duration::from_millis(60 + 200 * trial));
        let summary = space.tiny(&[]).summary();
        assert_eq!(results(&summary), undisturbed, "killed after {} ms", 60 + 200 * trial);
        assert!(running || trial > 4, "trial {trial} was never killed");
    }
}

#[test]
fn kill_inside_training_sampling_and_publishing_changes_no_result() {
    let undisturbed = tiny_results();
    let space = Space::new();
    let training = |event: &serde_json::Value| {
        event["event"] == "progress" && event["step"] == "setup.pretrain" && event["done"].as_u64() > Some(20)
    };
    let sampling = |event: &serde_json::Value| {
        let step = event["step"].as_str().unwrap_or_default();
        event["event"] == "running" && step.starts_with("iteration[0].responses/")
    };
    let tuning =
        |event: &serde_json::Value| event["event"] == "running" && event["step"] == "iteration[0].train";
    kill_when(&mut space.command(&RUN), training);
    kill_between_blob_and_manifest(&space);
    kill_when(&mut space.command(&RUN), sampling);
    kill_when(&mut space.command(&RUN), tuning);
    assert_eq!(results(&space.tiny(&[]).summary()), undisturbed);
}

#[test]
fn kill_by_first_signal_checkpoints_and_says_how_to_go_on() {
    let space = Space::new();
    let mut child =
        space.command(&RUN[..3]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("bstar starts");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut stderr = String::new();
    // The tokenizer is there, and most of the run is not.
    while !stderr.contains("setup.tokenizer") {
        assert_ne!(lines.read_line(&mut stderr).expect("text"), 0, "{stderr}");
    }
    signal(&child, "-INT");
    lines.read_to_string(&mut stderr).expect("text");
    assert_eq!(child.wait().expect("a status").code(), Some(75), "{stderr}");
    assert!(stderr.contains("bstar pipeline run tiny.yaml"), "{stderr}");
    assert_eq!(results(&space.tiny(&[]).summary()), tiny_results());
}

#[test]
fn kill_leaves_no_worker_behind() {
    let space = Space::new();
    kill_when(&mut space.command(&RUN), |event| {
        event["event"] == "running" && event["step"] == "setup.pretrain"
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    let store = space.store().to_string_lossy().into_owned();
    let orphans = || {
        let entries = std::fs::read_dir("/proc").expect("a /proc").flatten();
        let opens = |entry: &std::fs::DirEntry| {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let folder = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            name.trim() == "bstar-lm" && (folder.starts_with(space.path()) || folder.starts_with(&store))
        };
        entries.filter(opens).count()
    };
    while orphans() > 0 {
        assert!(Instant::now() < deadline, "a worker outlived its engine");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn kill_by_second_signal_ends_at_once() {
    let space = Space::new();
    space.write(
        "stubborn.yaml",
        "name: stubborn\nsetup:\n  step:\n    uses: command\n    with:\n      argv: [sh, -c, \"trap '' TERM; \
         sleep 20; sleep 20\"]\n      outputs: [never]\n",
    );
    let mut child = space
        .command(&["pipeline", "run", "stubborn.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bstar starts");
    std::thread::sleep(Duration::from_millis(500));
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().expect("a status").is_none(), "the first signal waits for the step");
    let began = Instant::now();
    signal(&child, "-INT");
    assert_eq!(child.wait().expect("a status").code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5));
    no_process_is_left(space.path());
}
