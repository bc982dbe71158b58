//! What programs are promised, and what is asked of them.

use super::*;

/// A pipeline of one command.
fn one(argv: &str, more: &str) -> String {
    format!(
        "name: toy\nseed: 7\nsetup:\n  a:\n    uses: command\n    {more}\n    with:\n      argv: [sh, -c, {argv:?}]\n"
    )
}

async fn message(bench: &Bench, yaml: &str) -> String {
    failures(&bench.run(yaml, &[]).await)[0].error.message.clone()
}

/// Whether the process whose number the file holds still runs.
fn lives(file: &Path) -> bool {
    let pid = std::fs::read_to_string(file).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|facts| !facts.is_empty() && !facts.starts_with('Z'))
}

/// A grandchild that ignores SIGTERM; its parent does not, or does.
fn stubborn(parent: &str) -> String {
    format!("{parent} (trap '' TERM; echo started; sleep 60; sleep 60) & echo $! > pid; wait")
}

#[tokio::test]
async fn the_limit_of_a_stage_kills_what_its_program_started() {
    for parent in ["", "trap '' TERM;"] {
        let mut bench = Bench::in_memory().await;
        bench.grace = Duration::from_millis(300);
        let yaml = one(&stubborn(parent), "timeout: 1s") + "      outputs: [r]\n";
        let text = message(&bench, &yaml).await;
        assert!(text.starts_with("the program took longer than 1s\n  started"), "{text}");
        assert!(!lives(&bench.path("pid")));
    }
}

#[tokio::test]
async fn a_stop_kills_what_a_program_started() {
    let mut bench = Bench::in_memory().await;
    bench.grace = Duration::from_millis(300);
    // The program asks for the stop itself once all have started.
    bench.stop_at = Some(("setup.a", Level::Stop));
    let yaml = one(&stubborn(""), "retries: 0") + "      outputs: [r]\n";
    let finished = bench.run(&yaml, &[]).await;
    assert!(matches!(finished.outcome, Outcome::Stopped), "{:?}", finished.outcome);
    assert!(!bench.path("pid").exists() || !lives(&bench.path("pid")));
}

#[tokio::test]
async fn a_program_leaves_nothing_running_behind_its_result() {
    let bench = Bench::in_memory().await;
    let yaml = one("sleep 60 & echo $! > pid; true > {out}/r", "retries: 0") + "      outputs: [r]\n";
    assert_eq!(bench.executed(&yaml, &[]).await, ["setup.a"]);
    assert!(!lives(&bench.path("pid")));
}

/// Starts a program in a session of its own, which says that it is asked to end.
const APART: &str =
    "setsid sh -c 'trap \"echo asked > asked; exit\" TERM; echo $$ > pid; while :; do sleep 0.05; done' &
    until test -s pid; do sleep 0.01; done;";

#[tokio::test]
async fn nothing_survives_its_program_in_a_session_of_its_own() {
    for (end, ends) in [("true > {out}/r", 0), ("exit 3", 1), ("sleep 2; true > {out}/r", 0), ("sleep 60", 1)]
    {
        let bench = Bench::in_memory().await;
        let yaml = one(&format!("{APART} {end}"), "timeout: 4s") + "      outputs: [r]\n";
        let finished = bench.run(&yaml, &[]).await;
        assert_eq!(finished.outcome.exit_code(), ends, "{end}: {:?}", finished.outcome);
        assert!(!lives(&bench.path("pid")), "{end}");
        // Only a program that is stopped is asked before.
        assert_eq!(bench.path("asked").exists(), end == "sleep 60", "{end}");
    }
}

#[tokio::test]
async fn nothing_survives_that_is_just_being_started() {
    let mut bench = Bench::in_memory().await;
    (bench.jobs, bench.keep_going) = (4, true);
    let apart = "setsid sh -c 'echo $$ > pid$I; sleep 60' > /dev/null & true > {out}/r";
    let mut yaml = "name: toy\nseed: 7\nsetup:\n".to_owned();
    for index in 0..100 {
        yaml += &format!(
            "  s{index}: {{uses: command, with: {{argv: [sh, -c, {apart:?}], env: {{I: '{index}'}}, outputs: [r]}}}}\n"
        );
    }
    assert_eq!(bench.executed(&yaml, &[]).await.len(), 100);
    for index in 0..100 {
        let pid = bench.path(&format!("pid{index}"));
        let started = std::fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty());
        assert!(!started || !lives(&pid), "{index}");
    }
}

#[tokio::test]
async fn a_killed_run_leaves_no_program_in_a_session_of_its_own() {
    let bench = Bench::in_memory().await;
    let yaml = one(&format!("{APART} sleep 60"), "retries: 0") + "      outputs: [r]\n";
    let plan = bench.plan(&yaml, &[]);
    let options = Options {
        work: Some(bench.path("work")),
        ..Options::new("0123abcd", "toy", bench.folder.path().to_owned())
    };
    let stop = Stop::default();
    let run = Executor::new(bench.store.clone(), options, stop.clone(), |_| {});
    let kill = async {
        while std::fs::read_to_string(bench.path("pid")).unwrap_or_default().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.kill();
    };
    let (finished, ()) = tokio::join!(run.run(&plan), kill);
    assert!(matches!(finished.outcome, Outcome::Stopped), "{:?}", finished.outcome);
    assert!(!lives(&bench.path("pid")));
}

#[tokio::test]
async fn a_program_that_is_edited_while_the_run_goes_on_makes_no_result_of_the_old_one() {
    let yaml = r#"
name: toy
seed: 7
setup:
  first: {uses: command, with: {argv: [sh, -c, "until test -e started; do sleep 0.01; done; echo new > tool; true > {out}/r"], outputs: [r]}}
  later: {uses: command, with: {argv: [cp, ./tool, "{out}/r"], files: [tool], inputs: {a: first.r}, outputs: [r]}}
  other: {uses: command, with: {argv: [sh, -c, "cp tool {out}/r; touch started; until grep -q new tool; do sleep 0.01; done"], files: [tool], outputs: [r]}}
"#;
    let mut bench = Bench::new().await;
    bench.keep_going = true;
    std::fs::write(bench.path("tool"), "old").unwrap();
    let finished = bench.run(yaml, &[]).await;
    let failed = failures(&finished);
    assert_eq!(failed.len(), 2, "{failed:?}");
    for failure in failed {
        let text = "`tool`, which is listed under `files`, changed while the run went on";
        assert_eq!(failure.error.message, text, "{}", failure.step);
    }
    let stored = bench.store.manifests().await.unwrap().into_iter().map(|manifest| manifest.provenance.step);
    assert_eq!(stored.collect::<Vec<_>>(), ["setup.first"]);
    // Another run starts from what is there now.
    assert_eq!(
        bench.executed(yaml, &["setup.other.with.argv=[cp, tool, '{out}/r']"]).await,
        ["setup.later", "setup.other"]
    );
}

#[tokio::test]
async fn an_input_that_changes_while_a_step_runs_makes_no_result() {
    // Both steps have the input; one writes to it, in place, while the other runs.
    let yaml = r#"
name: toy
seed: 7
setup:
  src: {uses: command, with: {argv: [sh, -c, "mkdir {out}/d; echo original | tee {out}/r > {out}/d/x"], outputs: [r, d/]}}
  bad: {uses: command, with: {argv: [sh, -c, "until test -e reading; do sleep 0.01; done; chmod u+w {in.a} {in.d}/x; echo more >> {in.a}; echo more >> {in.d}/x; touch written; true > {out}/r"], inputs: {a: src.r, d: src.d}, outputs: [r]}}
  good: {uses: command, with: {argv: [sh, -c, "touch reading; until test -e written; do sleep 0.01; done; cat {in.d}/x > {out}/r"], inputs: {d: src.d}, outputs: [r]}}
"#;
    let mut bench = Bench::new().await;
    bench.keep_going = true;
    let finished = bench.run(yaml, &[]).await;
    let said: BTreeMap<&str, &str> = failures(&finished)
        .iter()
        .map(|failure| (failure.step.as_str(), failure.error.message.as_str()))
        .collect();
    assert_eq!(said["setup.bad"], "its input `a` was changed while it ran");
    // Where files share storage until they are written to, it was the writer's own copy.
    if bench.store.read(&bstar_cache::Digest::of(b"original\n")).await.is_err() {
        assert_eq!(said["setup.good"], "its input `d/x` was changed while it ran");
    }
    // Run again without the writer, what is damaged is made anew.
    let again = bench.run(yaml, &["setup.bad.with.argv=[touch, '{out}/r']"]).await;
    assert!(matches!(again.outcome, Outcome::Done), "{:?}", again.outcome);
    assert_eq!(bench.text(&again, "setup.good.r").await, "original\n");
}

#[tokio::test]
async fn an_input_that_is_touched_or_moved_by_its_own_program_is_as_it_was() {
    let bench = Bench::new().await;
    let yaml = r#"
name: toy
seed: 7
setup:
  src: {uses: command, with: {argv: [sh, -c, "echo original > {out}/r"], outputs: [r]}}
  touch: {uses: command, with: {argv: [sh, -c, "touch {in.a}; ln {in.a} {out}/r"], inputs: {a: src.r}, outputs: [r]}}
  move: {uses: command, with: {argv: [sh, -c, "mv {in.a} {out}/r; mkfifo {in.a}"], inputs: {a: src.r}, outputs: [r]}}
  other: {uses: command, with: {argv: [sh, -c, "echo other > new; mv -f new {in.a}; cat {in.a} > {out}/r"], inputs: {a: src.r}, outputs: [r]}}
"#;
    let finished = bench.run(yaml, &[]).await;
    assert!(matches!(finished.outcome, Outcome::Done), "{:?}", finished.outcome);
    assert_eq!(bench.text(&finished, "setup.move.r").await, "original\n");
}

#[tokio::test]
async fn the_shorter_of_two_limits_counts_and_neither_is_in_the_key() {
    let bench = Bench::in_memory().await;
    let slow = one("sleep 60", "timeout: 1h") + "      timeout: 1s\n      outputs: [r]\n";
    assert_eq!(message(&bench, &slow).await, "the program took longer than 1s");
    let yaml = one("true > {out}/r", "timeout: 1h") + "      outputs: [r]\n";
    assert_eq!(bench.executed(&yaml, &[]).await, ["setup.a"]);
    assert_eq!(bench.executed(&yaml, &["setup.a.timeout=2h", "setup.a.priority=3"]).await, [""; 0]);
}

#[tokio::test]
async fn training_that_takes_too_long_saves_its_progress_and_goes_on_with_more_time() {
    let mut bench = sampling_bench().await;
    bench.worker = vec![("FAKE_TRAINS", "1".to_owned())];
    std::fs::write(bench.path("dataset.jsonl"), "{\"prompt\":\"?\",\"completion\":\"1\"}\n").unwrap();
    let yaml = r#"
name: toy
inputs: {policy: policy, dataset: dataset.jsonl}
setup:
  train:
    uses: sft
    timeout: 1s
    with: {policy: policy, dataset: dataset, training: {updates: 1, batch: 1, learning_rate: 0.1}}
"#;
    let failed = bench.run(yaml, &[]).await;
    assert_eq!(failures(&failed)[0].error.message, "took longer than 1s");
    assert_eq!(failed.outcome.exit_code(), 1);
    assert_eq!(bench.executed(yaml, &["setup.train.timeout=1h"]).await, ["setup.train"]);
}

#[tokio::test]
async fn one_step_at_a_time_is_on_the_device() {
    let mut bench = sampling_bench().await;
    (bench.jobs, bench.device) = (4, Device::Cuda(0));
    let finished = bench.run(SAMPLES, &["setup.responses.with.shard_queries=1"]).await;
    assert!(matches!(finished.outcome, Outcome::Done), "{:?}", finished.outcome);
    assert_eq!(finished.summary.executed_by_stage["sample"], 3);
    let mut on_device = 0;
    for event in bench.events.lock().unwrap().iter() {
        match event {
            Event::Running { stage: "sample", .. } => on_device += 1,
            Event::Done { stage: "sample", shard: true, .. } => on_device -= 1,
            _ => {}
        }
        assert!(on_device <= 1, "two steps on one device");
    }
}

#[tokio::test]
async fn an_output_of_a_kind_is_read_row_by_row() {
    let bench = Bench::in_memory().await;
    let yaml = one(
        "printf '{\"prompt\":\"?\",\"completion\":\"1\"}\\n{\"prompt\":1}\\n' > {out}/d.jsonl",
        "retries: 0",
    );
    let plain = yaml.clone() + "      outputs: [d.jsonl]\n";
    assert_eq!(bench.executed(&plain, &[]).await, ["setup.a"]);
    let text = message(&bench, &(yaml.clone() + "      outputs: [d.jsonl: dataset]\n")).await;
    assert!(text.starts_with("`d.jsonl`, row 2, field `prompt`: invalid type: integer `1`"), "{text}");
    assert_eq!(bench.executed(&(yaml + "      outputs: {d.jsonl: jsonl}\n"), &[]).await, ["setup.a"]);
}

#[tokio::test]
async fn rewards_of_a_program_must_cover_its_responses() {
    let mut bench = sampling_bench().await;
    bench.keep_going = true;
    std::fs::write(
        bench.path("reward.sh"),
        "cat $BSTAR_IN_RESPONSES/*/* | head -n $1 | sed 's/\"text\".*/\"text_id\":\"0\",\"correct\":true,\"reward\":1}/' > $BSTAR_OUT/r.jsonl",
    )
    .unwrap();
    let yaml = format!(
        "{SAMPLES}  judged:\n    uses: command\n    with:\n      argv: [sh, ./reward.sh, '6']\n      \
         inputs: {{responses: responses}}\n      outputs: [r.jsonl: rewards]\n"
    );
    let finished = bench.run(&yaml, &["setup.judged.argv.2='5'"]).await;
    let text = &failures(&finished)[0].error.message;
    assert!(text.starts_with("`r.jsonl` has no reward for sample 1 of query `q2`"), "{text}");
    assert_eq!(bench.executed(&yaml, &[]).await, ["setup.judged"]);
}

#[tokio::test]
async fn outputs_that_are_not_what_is_declared_are_refused() {
    let bench = Bench::in_memory().await;
    let said = async |argv: &str, outputs: &str| {
        message(&bench, &(one(argv, "retries: 0") + &format!("      outputs: [{outputs}]\n"))).await
    };
    assert_eq!(said("true > {out}/r", "r/").await, "wrote a file where the folder `r` is declared");
    assert_eq!(said("mkdir {out}/r", "r").await, "wrote a folder where the file `r` is declared");
    assert_eq!(said("mkdir {out}/r", "r/").await, "did not write the folder `r`: it is empty");
    assert_eq!(said("ln -s /nowhere {out}/r", "r").await, "did not write `r`");
    let link = said("ln -s /etc/hostname {out}/r", "r").await;
    assert!(link.starts_with("wrote `r` as a link that leaves the output folder, to /etc/"), "{link}");
    let below = said("mkdir {out}/d; ln -s /etc {out}/d/etc", "d/").await;
    assert!(below.contains("link that leaves") || below.starts_with("cannot list"), "{below}");
    let inside = one("true > {out}/x; ln -s x {out}/r", "retries: 0") + "      outputs: [r]\n";
    assert_eq!(bench.executed(&inside, &[]).await, ["setup.a"]);
}

#[tokio::test]
async fn an_output_that_nobody_can_read_to_its_end_is_refused() {
    let mut bench = Bench::in_memory().await;
    let said = async |bench: &Bench, argv: &str, outputs: &str| {
        let yaml = one(argv, "retries: 0") + &format!("      outputs: [{outputs}]\n");
        let run = message(bench, &yaml);
        tokio::time::timeout(Duration::from_secs(20), run).await.expect("it waits for nobody")
    };
    for (argv, outputs) in
        [("mkfifo {out}/r", "r"), ("mkfifo {out}/r", "r: jsonl"), ("ln -s /dev/zero {out}/r", "r")]
    {
        let text = said(&bench, argv, outputs).await;
        assert_eq!(text, "wrote `r`, which is neither a file nor a folder");
    }
    let below = said(&bench, "mkdir -p {out}/d/e; mkfifo {out}/d/e/pipe", "d/").await;
    assert_eq!(below, "cannot list `d`: `e/pipe` is neither a file nor a folder");
    // The user's files, and programs.
    std::fs::create_dir(bench.path("data")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(bench.path("data/pipe")).status().unwrap();
    assert!(made.success());
    bench.keep_going = true;
    let yaml = r#"
name: toy
seed: 7
inputs: {pipe: data/pipe, folder: data}
setup:
  a: {uses: command, with: {argv: [cp, "{in.p}", "{out}/r"], inputs: {p: pipe}, outputs: [r]}}
  b: {uses: command, with: {argv: [touch, "{out}/r"], inputs: {p: folder}, outputs: [r]}}
  c: {uses: command, with: {argv: [touch, "{out}/r"], files: [data/pipe], outputs: [r]}}
"#;
    let run = bench.run(yaml, &[]);
    let finished = tokio::time::timeout(Duration::from_secs(20), run).await.expect("it waits for nobody");
    let said: Vec<&str> = failures(&finished).iter().map(|failure| failure.error.message.as_str()).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    let ends = |text: &&str| text.contains("pipe") && text.ends_with("is neither a file nor a folder");
    assert!(said.iter().all(ends), "{said:?}");
}

#[tokio::test]
async fn a_panic_of_the_engine_is_told_as_the_failure_of_the_step() {
    let mut bench = Bench::in_memory().await;
    (bench.keep_going, bench.panics_at) = (true, Some("setup.b"));
    let finished = bench.run(DIAMOND, &[]).await;
    let [failure] = failures(&finished) else { panic!("one failure") };
    assert_eq!(failure.step, "setup.b");
    assert!(failure.error.message.starts_with("the engine broke off: no such step"), "{failure:?}");
    let failed = bench.names(|event| match event {
        Event::Failed { step, .. } => Some(step.clone()),
        _ => None,
    });
    assert_eq!(failed, ["setup.b"]);
    let Summary { executed, failed, skipped, .. } = finished.summary;
    assert_eq!((executed, failed, skipped), (3, 1, 1));
}

#[tokio::test]
async fn what_is_not_declared_is_a_note() {
    let bench = Bench::in_memory().await;
    let yaml = one("mkdir {out}/d {out}/e; for f in r x d/r d/y e/z; do true > {out}/$f; done", "retries: 0")
        + "      outputs: [r, d/r]\n";
    bench.executed(&yaml, &[]).await;
    let notes = bench.names(|event| match event {
        Event::Note { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert_eq!(notes, ["setup.a also wrote d/y, e, x: not kept, for `outputs` does not list it"]);
}
