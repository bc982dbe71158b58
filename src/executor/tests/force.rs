//! Steps that execute although their results are stored.

use super::*;

fn superseded(bench: &Bench) -> usize {
    let folder = bench.path("store/quarantine/superseded/manifests");
    let Ok(prefixes) = std::fs::read_dir(folder) else { return 0 };
    prefixes.flatten().map(|prefix| std::fs::read_dir(prefix.path()).unwrap().count()).sum()
}

#[tokio::test]
async fn a_forced_step_executes_and_what_follows_is_found_by_content() {
    let mut bench = Bench::new().await;
    let first = bench.run(DIAMOND, &[]).await;
    bench.force = &["setup.a"];
    assert_eq!(bench.executed(DIAMOND, &[]).await, ["setup.a"]);
    assert_eq!(superseded(&bench), 1);
    bench.force = &[];
    let after = bench.run(DIAMOND, &[]).await;
    assert_eq!((after.summary.executed, &after.summary.results), (0, &first.summary.results));
}

/// A step that never gives the same twice, and one that copies it.
const NEW: &str = r#"
name: toy
seed: 7
setup:
  a: {uses: command, with: {argv: [sh, -c, "cat /proc/sys/kernel/random/uuid > {out}/r"], outputs: [r]}}
  b: {uses: command, with: {argv: [cp, "{in.a}", "{out}/r"], inputs: {a: a.r}, outputs: [r]}}
"#;

#[tokio::test]
async fn the_new_result_of_a_forced_step_replaces_the_stored_one() {
    for mut bench in [Bench::new().await, Bench::in_memory().await] {
        let first = bench.run(NEW, &[]).await;
        bench.force = &["setup.a"];
        let forced = bench.run(NEW, &[]).await;
        assert_eq!(forced.summary.executed, 2, "what reads the new result executes too");
        assert_ne!(bench.text(&forced, "setup.b.r").await, bench.text(&first, "setup.b.r").await);
        bench.force = &[];
        let after = bench.run(NEW, &[]).await;
        assert_eq!((after.summary.executed, after.summary.results), (0, forced.summary.results));
    }
}

#[tokio::test]
async fn all_shards_of_a_forced_step_execute_once() {
    let mut bench = sampling_bench().await;
    let first = bench.run(SAMPLES, &[]).await;
    bench.force = &["setup.responses"];
    let forced = bench.run(SAMPLES, &[]).await;
    assert_eq!(forced.summary.executed_by_stage, BTreeMap::from([("sample".to_owned(), 2)]));
    assert_eq!(forced.summary.results, first.summary.results);
    // Two shards and the step they are pieces of.
    assert_eq!(superseded(&bench), 3);
}

#[tokio::test]
async fn a_forced_step_executes_once_also_when_a_damaged_blob_makes_the_run_start_over() {
    let mut bench = Bench::new().await;
    let first = bench.run(DIAMOND, &[]).await;
    let hex = &first.summary.results["setup.a.r"];
    let blob = bench.path("store/blobs").join(&hex[..2]).join(&hex[2..]);
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "2\n").unwrap();
    bench.force = &["setup.lone", "setup.b"];
    let executed = bench.executed(DIAMOND, &[]).await;
    // `b` starts, finds `a` damaged, and starts again once `a` is mended.
    let count = |name: &str| executed.iter().filter(|step| *step == name).count();
    assert_eq!((count("setup.lone"), count("setup.a")), (1, 1), "{executed:?}");
    assert_eq!(count("setup.c") + count("setup.d"), 0, "{executed:?}");
}

#[tokio::test]
async fn two_forced_steps_that_are_the_same_work_execute_once() {
    let mut bench = Bench::new().await;
    let yaml = r#"
name: toy
seed: 7
setup:
  a: {uses: command, with: {argv: [sh, -c, "true > {out}/r"], outputs: [r]}}
  b: {uses: command, with: {argv: [sh, -c, "true > {out}/r"], outputs: [r]}}
"#;
    bench.executed(yaml, &[]).await;
    bench.force = &["setup.a", "setup.b"];
    let finished = bench.run(yaml, &[]).await;
    assert_eq!((finished.summary.executed, finished.summary.cached), (1, 1));
    assert_eq!(superseded(&bench), 1);
}
