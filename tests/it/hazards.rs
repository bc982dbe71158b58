//! What happens to files and processes on a bad day, and that no result is wrong after it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::servers::Server;
use crate::support::{Outcome, results};
use crate::toy::Toy;

/// A toy DAG whose store holds a finished run, and that run's results.
fn finished() -> (Toy, BTreeMap<String, String>) {
    let toy = Toy::new(5, 4);
    let results = results(&toy.run(&[]).summary());
    assert_eq!(results, toy.expected());
    (toy, results)
}

/// The name of an output in the store.
fn object(results: &BTreeMap<String, String>, output: &str) -> String {
    let digest = &results[output];
    format!("blobs/{}/{}", &digest[..2], &digest[2..])
}

/// The stored file of an output.
fn blob(toy: &Toy, results: &BTreeMap<String, String>, output: &str) -> PathBuf {
    toy.space.store().join(object(results, output))
}

/// Flips one bit; size and time of modification stay.
fn flip(path: &Path) {
    let metadata = std::fs::metadata(path).expect("a blob");
    let mut bytes = std::fs::read(path).expect("a blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("writable");
    std::fs::write(path, bytes).expect("a damaged blob");
    std::fs::set_permissions(path, metadata.permissions()).expect("as before");
    let times = std::fs::FileTimes::new().set_modified(metadata.modified().expect("a time"));
    std::fs::File::open(path).and_then(|file| file.set_times(times)).expect("as before");
}

/// The results with that change, computed from nothing.
fn clean(change: &str) -> BTreeMap<String, String> {
    results(&Toy::new(5, 4).run(&[change]).summary())
}

#[test]
fn a_touched_intermediate_runs_nothing() {
    let (toy, before) = finished();
    let times = std::fs::FileTimes::new().set_modified(std::time::SystemTime::now());
    for output in ["setup.s0-0.r", "setup.s2-1.r"] {
        let file = std::fs::File::open(blob(&toy, &before, output)).expect("a blob");
        file.set_times(times).expect("touched");
    }
    let summary = toy.run(&[]).summary();
    assert_eq!((summary["executed"].as_u64(), results(&summary)), (Some(0), before));
}

#[test]
fn a_touched_program_runs_nothing_and_a_changed_one_everything() {
    let (toy, before) = finished();
    let program = toy.space.path().join("step.sh");
    let text = std::fs::read_to_string(&program).expect("a program");
    toy.space.write("step.sh", &text);
    assert_eq!(toy.run(&[]).summary()["executed"], 0);
    toy.space.write("step.sh", &text.replace("31", "37"));
    let summary = toy.run(&[]).summary();
    assert_eq!(summary["executed"].as_u64(), Some(toy.steps() as u64));
    assert_ne!(results(&summary), before);
}

#[test]
fn a_deleted_intermediate_is_made_again_alone() {
    let (toy, before) = finished();
    std::fs::remove_file(blob(&toy, &before, "setup.s0-0.r")).expect("removed");
    let summary = toy.run(&[]).summary();
    assert_eq!((summary["executed"].as_u64(), results(&summary)), (Some(1), before));
}

#[test]
fn a_bit_flipped_behind_unchanged_size_and_time_is_noticed() {
    let (toy, before) = finished();
    flip(&blob(&toy, &before, "setup.s0-0.r"));
    // A changed consumer reads what was damaged.
    let change = "setup.s1-0.with.env.ADD='5'";
    let outcome = toy.run(&[change]);
    let summary = outcome.summary();
    assert_eq!(results(&summary), clean(change));
    assert_ne!(results(&summary), before);
    assert!(outcome.events().iter().any(|event| event["event"] == "note" && event["level"] == "warn"));
    // The damaged step and, in the layers below, 1 + 2 + 3 + 4 steps that depend on the change.
    assert_eq!(summary["executed"].as_u64(), Some(11));
}

#[test]
fn a_run_killed_in_the_middle_of_steps_leaves_no_half_output() {
    let toy = Toy::new(5, 4).with("STEPS_PAUSE", "0.2");
    let mut engine = toy.start();
    while toy.executions().len() < 6 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(engine.try_wait().expect("a status").is_none());
    }
    std::thread::sleep(std::time::Duration::from_millis(60));
    toy.kill_all();
    crate::toy::end(&mut engine);
    let published = toy.published().len();
    let summary = toy.run(&[]).summary();
    assert_eq!(summary["executed"].as_u64(), Some((toy.steps() - published) as u64));
    assert_eq!(results(&summary), toy.expected());
}

/// A toy DAG whose finished run is in a bucket, and in the folder in front of it on `machine`.
fn finished_in_a_bucket(server: &Server, bucket: &str) -> (Toy, BTreeMap<String, String>) {
    let toy = Toy::new(5, 4).on(server, bucket);
    let results = results(&toy.run(&[]).summary());
    assert_eq!(results, toy.expected());
    (toy, results)
}

/// The output that is damaged, and a change of something that reads it and on which 1 + 2 + 3 + 4 steps depend.
const DAMAGED: &str = "setup.s0-0.r";
const CHANGE: &str = "setup.s1-0.with.env.ADD='5'";

/// Flips a bit of the damaged output in the bucket.
fn flip_in_bucket(server: &Server, bucket: &str, toy: &Toy, results: &BTreeMap<String, String>) {
    let object = object(results, DAMAGED);
    let mut bytes = std::fs::read(toy.tier_of("machine").join(&object)).expect("a blob");
    bytes[0] ^= 1;
    server.put(&format!("{bucket}/some/prefix/{object}"), &bytes);
}

/// The changed run has the results of a clean one, executes that many steps, and leaves a sound store.
fn expect_right(toy: &Toy, machine: &str, executed: u64) {
    let summary = toy.run_on(machine, &[CHANGE]).summary();
    assert_eq!(results(&summary), clean(CHANGE));
    assert_eq!(summary["executed"].as_u64(), Some(executed));
    let verified = toy.command_on("onlooker", &["cache", "verify"]).output().expect("bstar starts");
    let verified = Outcome::of(verified);
    assert!(verified.stdout.contains("no damage found"), "{}", verified.stdout);
    assert_eq!(results(&toy.run_on(machine, &[]).summary()), toy.expected());
}

#[test]
fn a_bit_flipped_in_the_bucket_is_noticed_by_a_machine_that_has_no_copy() {
    let Some(server) = Server::moto() else { return };
    let (toy, before) = finished_in_a_bucket(&server, "flipped");
    flip_in_bucket(&server, "flipped", &toy, &before);
    // The machine with a copy need not know.
    let summary = toy.run(&[]).summary();
    assert_eq!((summary["executed"].as_u64(), results(&summary)), (Some(0), before));
    expect_right(&toy, "other", 11);
}

#[test]
fn a_bit_flipped_in_the_tier_is_noticed_and_the_bucket_is_read_again() {
    let Some(server) = Server::moto() else { return };
    let (toy, before) = finished_in_a_bucket(&server, "copy");
    flip(&toy.tier_of("machine").join(object(&before, DAMAGED)));
    expect_right(&toy, "machine", 10);
}

#[test]
fn a_bit_flipped_in_the_bucket_and_in_the_tier_is_computed_again() {
    let Some(server) = Server::moto() else { return };
    let (toy, before) = finished_in_a_bucket(&server, "both");
    flip_in_bucket(&server, "both", &toy, &before);
    flip(&toy.tier_of("machine").join(object(&before, DAMAGED)));
    expect_right(&toy, "machine", 11);
}

#[test]
fn a_bit_flipped_in_the_bucket_is_repaired_by_a_machine_that_has_a_copy() {
    let Some(server) = Server::moto() else { return };
    let (toy, before) = finished_in_a_bucket(&server, "repaired");
    flip_in_bucket(&server, "repaired", &toy, &before);
    let verified = toy.command_on("machine", &["cache", "verify"]).output().expect("bstar starts");
    let verified = Outcome::of(verified);
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
    let said = format!("sent again from this machine's copy: {}", before[DAMAGED]);
    assert!(verified.stdout.contains(&said), "{}", verified.stdout);
    expect_right(&toy, "other", 10);
}
