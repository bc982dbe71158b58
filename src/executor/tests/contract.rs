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
