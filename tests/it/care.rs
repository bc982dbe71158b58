//! Looking after the store: collection, pins and retired outputs, from the command line.

use serde_json::Value;

use crate::servers::Server;
use crate::support::{Outcome, Space, results};
use crate::toy::Toy;

/// Trains three times; `SIZE` decides how large the results are.
const TOY: &str = r#"
name: toy
setup:
  init: {uses: command, with: {argv: [sh, -c, "echo 0 > {out}/policy; echo 0 > {out}/optimizer"], outputs: [policy, optimizer]}}
start: {policy: init.policy, optimizer: init.optimizer}
iterations: 3
iteration:
  train:
    uses: command
    with:
      argv: [sh, -c, "(cat {in.o}; head -c $SIZE /dev/zero) > {out}/optimizer; wc -c < {out}/optimizer > {out}/policy"]
      env: {SIZE: "1000"}
      inputs: {p: policy, o: optimizer}
      outputs: [policy, optimizer]
carry: {policy: train.policy, optimizer: train.optimizer}
"#;

fn space() -> Space {
    let space = Space::new();
    space.write("toy.yaml", TOY);
    space
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

fn run(space: &Space, overrides: &[&str]) -> Value {
    let mut arguments = vec!["pipeline", "run", "toy.yaml", "--format", "json"];
    arguments.extend(overrides);
    space.run(&arguments).summary()
}

/// Another run; which of two is the newer is known to the second.
fn later(space: &Space, overrides: &[&str]) -> Value {
    std::thread::sleep(std::time::Duration::from_millis(1100));
    run(space, overrides)
}

/// `cache gc` in which everything is old and only the newest run counts.
fn gc(space: &Space, more: &[&str]) -> Outcome {
    let mut arguments = vec!["cache", "gc", "--keep", "0", "--grace", "0"];
    arguments.extend(more);
    space.run(&arguments)
}

#[test]
fn care_a_plan_changes_nothing_and_applied_it_deletes_what_only_old_runs_need() {
    let space = space();
    let old = run(&space, &[]);
    let new = later(&space, &["iteration.train.with.env.SIZE='1700'"]);
    let shown = gc(&space, &[]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    for text in ["last of its pipeline", "These results would go", "toy", "6.0 kB would be freed", "--apply"]
    {
        assert!(shown.stdout.contains(text), "{text} is missing in\n{}", shown.stdout);
    }
    let plan = json(&gc(&space, &["--format", "json"]));
    assert_eq!(plan["applied"], false);
    assert_eq!((&plan["go"]["results"], &plan["stay"]["needed"]), (&3.into(), &4.into()), "{plan}");
    assert_eq!(plan["go"]["by_stage"][0]["run"], old["run"]);
    let done = json(&gc(&space, &["--apply", "--runs", "--format", "json"]));
    assert!(done["freed_bytes"].as_u64() >= Some(6000), "{done}");
    assert!(space.run(&["cache", "verify"]).stdout.contains("no damage found"));
    let runs = json(&space.run(&["run", "list", "--format", "json"]));
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "the old record is gone");
    // The new run is whole, the old one is computed again.
    let again = run(&space, &["iteration.train.with.env.SIZE='1700'"]);
    assert_eq!((&again["executed"], &again["results"]), (&0.into(), &new["results"]));
    let again = run(&space, &[]);
    assert_eq!((&again["executed"], &again["results"]), (&3.into(), &old["results"]));
}

#[test]
fn care_pinned_runs_keep_their_results_and_are_known_by_name() {
    let space = space();
    let old = run(&space, &[]);
    let id = old["run"].as_str().expect("an id");
    assert_eq!(space.run(&["run", "pin", "latest", "--as", "baseline"]).code, Some(0));
    drop(later(&space, &["iteration.train.with.env.SIZE='1700'"]));
    let taken = space.run(&["run", "pin", "latest", "--as", "baseline"]);
    assert_eq!(taken.code, Some(2));
    assert!(taken.stderr.contains(id), "{}", taken.stderr);
    assert!(space.run(&["run", "list"]).stdout.contains("baseline"));
    assert_eq!(json(&space.run(&["run", "show", "baseline", "--format", "json"]))["pinned"]["run"], id);
    assert!(gc(&space, &[]).stdout.contains("pinned as baseline"));
    let done = json(&gc(&space, &["--apply", "--format", "json"]));
    assert_eq!(done["go"]["results"], 0, "{done}");
    assert_eq!(run(&space, &[])["executed"], 0);
    assert_eq!(space.run(&["run", "unpin", "baseline"]).code, Some(0));
    assert_eq!(space.run(&["run", "unpin", "baseline"]).code, Some(2));
}

#[test]
fn care_old_optimizers_are_retired_by_the_pipeline_or_afterwards() {
    let space = space();
    let first = run(&space, &[]);
    let plan = json(&gc(&space, &["--retire", "optimizer=1", "--format", "json"]));
    assert_eq!((&plan["go"]["retired_results"], &plan["go"]["retired_bytes"]), (&2.into(), &3004.into()));
    drop(json(&gc(&space, &["--retire", "optimizer=1", "--apply", "--format", "json"])));
    let again = run(&space, &["retain={optimizer: 1}"]);
    assert_eq!((&again["executed"], &again["results"]), (&0.into(), &first["results"]));
    let other = run(&space, &["retain={optimizer: 1}", "iteration.train.with.env.SIZE='1700'"]);
    assert_eq!(other["executed"], 3);
    assert!(space.run(&["cache", "verify"]).stdout.contains("no damage found"));
    assert_eq!(json(&space.run(&["cache", "stat", "--format", "json"]))["stat"]["retired"], 8108);
    let wrong = gc(&space, &["--retire", "optimizer"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
}

#[test]
fn care_what_a_living_run_needs_stays() {
    let space = space();
    space.write(
        "slow.yaml",
        "name: slow\nsetup:\n  a: {uses: command, with: {argv: [sh, -c, 'echo > {out}/r'], outputs: [r]}}\n  \
         b: {uses: command, with: {argv: [sh, -c, 'while ! test -e go; do sleep 0.05; done; cp {in.a} {out}/r'], \
         inputs: {a: a.r}, outputs: [r]}}\n",
    );
    let mut slow = space
        .command(&["pipeline", "run", "slow.yaml"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("bstar starts");
    let recorded = || {
        let runs = std::fs::read_dir(space.store().join("runs")).into_iter().flatten().flatten();
        runs.into_iter().any(|run| run.path().join("keys").exists())
    };
    while !recorded() {
        assert!(slow.try_wait().expect("a status").is_none(), "it waits for `go`");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let done = json(&gc(&space, &["--keep-last", "0", "--apply", "--format", "json"]));
    assert_eq!((&done["stay"]["runs"][0]["why"], &done["stay"]["needed"]), (&"live".into(), &1.into()));
    space.write("go", "");
    assert_eq!(slow.wait().expect("a status").code(), Some(0));
    // Over, it is kept by nothing.
    let done = json(&gc(&space, &["--keep-last", "0", "--apply", "--format", "json"]));
    assert_eq!(done["go"]["results"], 2);
}

#[test]
fn care_of_a_bucket_makes_the_folder_in_front_smaller() {
    let Some(server) = Server::moto() else { return };
    let toy = Toy::new(3, 2).on(&server, "care");
    assert_eq!(results(&toy.run(&[]).summary()), toy.expected());
    let gc = |more: &[&str]| {
        let arguments = [&["cache", "gc", "--format", "json"], more].concat();
        json(&Outcome::of(toy.command_on("machine", &arguments).output().expect("bstar starts")))
    };
    let copies = || {
        let folders = std::fs::read_dir(toy.tier_of("machine").join("blobs")).expect("a folder").flatten();
        folders.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().count()
    };
    let there = copies();
    assert_eq!(gc(&["--tier", "0"])["go"]["files"], 6);
    assert_eq!(copies(), there, "a plan changes nothing");
    assert!(gc(&["--tier", "0", "--apply"])["freed_bytes"].as_u64() > Some(0));
    assert_eq!(copies(), there - 6);
    assert_eq!(toy.run(&[]).summary()["executed"], 0);
    // What a changed step reads is fetched again.
    let summary = toy.run(&["setup.s1-0.with.env.ADD='5'"]).summary();
    assert_eq!(summary["executed"], 3, "{summary}");
    assert!(copies() > there - 6 + 3);

    // The bucket's clock counts whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let done = gc(&["--keep", "0", "--keep-last", "0", "--grace", "0", "--apply"]);
    assert_eq!(done["go"]["results"], 9, "{done}");
    assert!(done["tier"]["freed_bytes"].as_u64() > Some(0), "{done}");
    assert_eq!(copies(), 0);
    let again = toy.run(&[]).summary();
    assert_eq!((&again["executed"], results(&again)), (&6.into(), toy.expected()));

    let other = space();
    std::fs::create_dir_all(other.store().join("runs")).expect("a folder");
    let wrong = other.run(&["cache", "gc", "--tier", "1GB"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("no folder in front of"), "{}", wrong.stderr);
}
