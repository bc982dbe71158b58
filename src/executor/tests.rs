use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bstar_cache::{ActionKey, Holder, LeaseOptions, Manifest, Provenance, Store};
use bstar_stages::protocol::FailureKind;

mod contract;
mod force;
mod sharing;

use super::*;
use crate::pipeline::Pipeline;
use crate::worker::fake;

/// A pipeline folder, a store, and what happened in the last run.
struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    jobs: usize,
    keep_going: bool,
    worker: Vec<(&'static str, String)>,
    device: Device,
    grace: Duration,
    force: &'static [&'static str],
    /// Asked to stop when a step of this name runs.
    stop_at: Option<(&'static str, Level)>,
    /// The engine panics when a step of this name runs.
    panics_at: Option<&'static str>,
    lease_ttl: Duration,
    run: &'static str,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store").to_str().unwrap()).await.unwrap();
        Self::with(folder, store)
    }

    async fn in_memory() -> Self {
        Self::with(tempfile::tempdir().unwrap(), Store::open("memory://").await.unwrap())
    }

    fn with(folder: tempfile::TempDir, store: Store) -> Self {
        Self {
            folder,
            store,
            jobs: 2,
            keep_going: false,
            worker: Vec::new(),
            device: Device::Cpu,
            grace: Duration::from_secs(10),
            force: &[],
            stop_at: None,
            panics_at: None,
            lease_ttl: LeaseOptions::default().ttl,
            run: "0123abcd",
            events: Arc::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pipeline(&self, yaml: &str, overrides: &[&str]) -> Pipeline {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let pipeline = Pipeline::parse(yaml, &self.path("toy.yaml"), &overrides);
        pipeline.unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    fn plan(&self, yaml: &str, overrides: &[&str]) -> Plan {
        Plan::new(&self.pipeline(yaml, overrides))
    }

    async fn run(&self, yaml: &str, overrides: &[&str]) -> Finished {
        let pipeline = self.pipeline(yaml, overrides);
        let plan = Plan::new(&pipeline);
        let env: Vec<(&str, &str)> =
            self.worker.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let options = Options {
            jobs: self.jobs,
            keep_going: self.keep_going,
            work: self.store.local_root().is_none().then(|| self.path("work")),
            worker: Some(fake::launch(&env)),
            device: self.device,
            grace: self.grace,
            force: self.force.iter().map(ToString::to_string).collect(),
            lease_ttl: self.lease_ttl,
            retain: Retention::new(pipeline.retain),
            ..Options::new(self.run, "toy", self.folder.path().to_owned())
        };
        let stop = Stop::default();
        let (handle, stop_at, events) = (stop.clone(), self.stop_at, Arc::clone(&self.events));
        let panics_at = self.panics_at;
        events.lock().unwrap().clear();
        let listen = move |event: Event| {
            let runs = |name| matches!(&event, Event::Running { step, .. } if step == name);
            assert!(!panics_at.is_some_and(runs), "no such step");
            if let (Event::Running { step, .. }, Some((name, level))) = (&event, stop_at)
                && step == name
            {
                match level {
                    Level::Go => {}
                    Level::Stop => handle.stop(),
                    Level::Kill => handle.kill(),
                }
            }
            events.lock().unwrap().push(event);
        };
        Executor::new(self.store.clone(), options, stop, listen).run(&plan).await
    }

    /// Runs a pipeline that must succeed; gives the names of the steps that executed, sorted.
    async fn executed(&self, yaml: &str, overrides: &[&str]) -> Vec<String> {
        let finished = self.run(yaml, overrides).await;
        assert!(matches!(finished.outcome, Outcome::Done), "{:?}", finished.outcome);
        self.names(|event| match event {
            Event::Running { step, .. } => Some(step.clone()),
            _ => None,
        })
    }

    fn names(&self, name: impl Fn(&Event) -> Option<String>) -> Vec<String> {
        let mut names: Vec<String> = self.events.lock().unwrap().iter().filter_map(name).collect();
        names.sort();
        names
    }

    /// What a run's first output of that name contains.
    async fn text(&self, finished: &Finished, output: &str) -> String {
        let digest = finished.summary.results[output].parse().unwrap();
        String::from_utf8(self.store.read(&digest).await.unwrap()).unwrap()
    }
}

fn failures(finished: &Finished) -> &[Failure] {
    if let Outcome::Failed(failures) = &finished.outcome {
        failures
    } else {
        panic!("{:?}", finished.outcome)
    }
}

/// A diamond, and a step beside it.
const DIAMOND: &str = r#"
name: toy
seed: 7
setup:
  a: {uses: command, with: {argv: [sh, -c, "echo $X > {out}/r"], env: {X: "1"}, outputs: [r]}}
  b: {uses: command, with: {argv: [sh, -c, "cat {in.a} > {out}/r; echo $X >> {out}/r"], env: {X: "2"}, inputs: {a: a.r}, outputs: [r]}}
  c: {uses: command, with: {argv: [sh, -c, "cat $BSTAR_IN_A $BSTAR_IN_a > $BSTAR_OUT/r"], inputs: {a: a.r}, outputs: [r]}}
  d: {uses: command, with: {argv: [sh, -c, "cat {in.b} {in.c} > {out}/r"], inputs: {b: b.r, c: c.r}, outputs: [r]}}
  lone: {uses: command, with: {argv: [sh, -c, "cp {params} {out}/r"], params: {k: 1}, outputs: [r]}}
"#;

#[tokio::test]
async fn a_second_run_executes_nothing_and_gives_the_same_results() {
    for bench in [Bench::new().await, Bench::in_memory().await] {
        let first = bench.run(DIAMOND, &[]).await;
        assert_eq!((first.summary.executed, first.summary.cached), (5, 0), "{:?}", first.outcome);
        assert_eq!(first.summary.executed_by_stage, BTreeMap::from([("command".to_owned(), 5)]));
        assert_eq!(bench.text(&first, "setup.d.r").await, "1\n2\n1\n1\n");
        let second = bench.run(DIAMOND, &[]).await;
        assert_eq!((second.summary.executed, second.summary.cached), (0, 5));
        assert_eq!(second.summary.results, first.summary.results);
        assert_eq!(second.outcome.exit_code(), 0);
        assert!(second.summary.saved_s > 0.0);
    }
}

#[tokio::test]
async fn a_changed_setting_runs_exactly_what_depends_on_it() {
    let bench = Bench::new().await;
    bench.executed(DIAMOND, &[]).await;
    assert_eq!(bench.executed(DIAMOND, &["setup.b.with.env.X='3'"]).await, ["setup.b", "setup.d"]);
    let all = bench.executed(DIAMOND, &["setup.a.with.env.X='5'"]).await;
    assert_eq!(all, ["setup.a", "setup.b", "setup.c", "setup.d"]);
    assert_eq!(bench.executed(DIAMOND, &["setup.b.with.env.X='3'"]).await, [""; 0]);
}

#[tokio::test]
async fn a_change_without_effect_on_the_output_stops_there() {
    let bench = Bench::new().await;
    bench.executed(DIAMOND, &[]).await;
    assert_eq!(bench.executed(DIAMOND, &["setup.a.with.env.COMMENT=cosmetic"]).await, ["setup.a"]);
}

#[tokio::test]
async fn work_folders_and_scratch_are_gone_after_a_run() {
    let bench = Bench::new().await;
    bench.executed(DIAMOND, &[]).await;
    let work = bench.path("store/work");
    // No program printed anything, so no log is kept either.
    for folder in ["steps", "scratch", "logs"] {
        assert_eq!(std::fs::read_dir(work.join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[tokio::test]
async fn a_failing_step_skips_what_needs_it_and_with_keep_going_nothing_else() {
    let mut bench = Bench::in_memory().await;
    bench.keep_going = true;
    let fail = ["setup.b.with.argv=[sh, -c, 'echo told you >&2; exit 3']"];
    let finished = bench.run(DIAMOND, &fail).await;
    let [failure] = failures(&finished) else { panic!("one failure") };
    assert_eq!(failure.step, "setup.b");
    assert_eq!(failure.error.message, "the program failed (exit status: 3)\n  told you");
    let Summary { executed, failed, skipped, .. } = finished.summary;
    assert_eq!((executed, failed, skipped), (3, 1, 1));
    assert_eq!(finished.outcome.exit_code(), 1);
    let skipped = bench.names(|event| match event {
        Event::Skipped { step, because } => Some(format!("{step} because of {because}")),
        _ => None,
    });
    assert_eq!(skipped, ["setup.d because of setup.b"]);
    // Mended, only the rest runs.
    assert_eq!(bench.executed(DIAMOND, &[]).await, ["setup.b", "setup.d"]);
}

#[tokio::test]
async fn without_keep_going_nothing_starts_after_a_failure() {
    let mut bench = Bench::in_memory().await;
    bench.jobs = 1;
    let finished = bench.run(DIAMOND, &["setup.a.with.argv=['false']"]).await;
    assert_eq!(failures(&finished).len(), 1);
    assert_eq!((finished.summary.executed, finished.summary.skipped), (0, 4));
}

#[tokio::test]
async fn an_output_that_is_not_written_is_a_failure() {
    let bench = Bench::in_memory().await;
    let finished = bench.run(DIAMOND, &["setup.lone.with.outputs=[r, more/]"]).await;
    assert_eq!(failures(&finished)[0].error.message, "did not write the folder `more`");
}

#[tokio::test]
async fn exit_code_75_is_tried_again() {
    let bench = Bench::in_memory().await;
    let yaml = r#"
name: toy
seed: 7
setup:
  a:
    uses: command
    with:
      argv: [sh, -c, "echo $BSTAR_ATTEMPT > {out}/r; test $BSTAR_ATTEMPT = 2 || exit 75"]
      outputs: [r]
"#;
    let finished = bench.run(yaml, &[]).await;
    assert_eq!(bench.text(&finished, "setup.a.r").await, "2\n");
    let retries = bench.names(|event| match event {
        Event::Failed { retry_in, kind: FailureKind::Transient, .. } => Some(format!("{retry_in:?}")),
        _ => None,
    });
    assert_eq!(retries, ["Some(0.5)"]);
}

#[tokio::test]
async fn programs_have_the_environment_of_the_engine_and_the_folder_of_the_pipeline() {
    let bench = Bench::in_memory().await;
    std::fs::write(bench.path("stage.sh"), "#!/bin/sh\nenv > $BSTAR_OUT/r; pwd >> $1/r").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bench.path("stage.sh"), mode).unwrap();
    let yaml = r#"
name: toy
seed: 7
setup:
  a: {uses: command, with: {argv: [./stage.sh, "{out}"], files: [./stage.sh], env: {MODE: fast}, outputs: [r]}}
"#;
    let finished = bench.run(yaml, &[]).await;
    let text = bench.text(&finished, "setup.a.r").await;
    let package = format!("CARGO_PKG_NAME={}", std::env::var("CARGO_PKG_NAME").unwrap());
    for line in ["MODE=fast", "BSTAR_ATTEMPT=1", &package] {
        assert!(text.lines().any(|present| present == line), "{line} is missing in {text}");
    }
    let folder = bench.folder.path().canonicalize().unwrap();
    assert_eq!(Path::new(text.lines().last().unwrap()).canonicalize().unwrap(), folder);
    // The program is part of the key.
    assert_eq!(bench.executed(yaml, &[]).await, [""; 0]);
    std::fs::write(bench.path("stage.sh"), "#!/bin/sh\ntrue > $BSTAR_OUT/r").unwrap();
    assert_eq!(bench.executed(yaml, &[]).await, ["setup.a"]);
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended() {
    let bench = Bench::in_memory().await;
    let yaml = r#"
name: toy
seed: 7
setup: {a: {uses: command, with: {argv: [sleep, "60"], timeout: 1s, outputs: [r]}}}
"#;
    let clock = Instant::now();
    let finished = bench.run(yaml, &[]).await;
    assert_eq!(failures(&finished)[0].error.message, "the program took longer than 1s");
    assert!(clock.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn files_and_folders_of_the_user_are_inputs_by_content() {
    let bench = Bench::new().await;
    std::fs::create_dir(bench.path("data")).unwrap();
    std::fs::write(bench.path("data/x"), "x").unwrap();
    std::fs::write(bench.path("one"), "one").unwrap();
    let yaml = r#"
name: toy
seed: 7
inputs: {data: data, one: one}
setup:
  a: {uses: command, with: {argv: [sh, -c, "cat {in.data}/* {in.one} > {out}/r"], inputs: {data: data, one: one}, outputs: [r]}}
"#;
    let first = bench.run(yaml, &[]).await;
    assert_eq!(bench.text(&first, "setup.a.r").await, "xone");
    assert_eq!(bench.executed(yaml, &[]).await, [""; 0]);
    std::fs::write(bench.path("data/y"), "y").unwrap();
    let second = bench.run(yaml, &[]).await;
    assert_eq!(bench.text(&second, "setup.a.r").await, "xyone");
}

#[tokio::test]
async fn the_same_work_twice_in_a_plan_is_done_once() {
    let bench = Bench::in_memory().await;
    let yaml = r#"
name: toy
seed: 7
setup:
  a: {uses: command, with: {argv: [sh, -c, "sleep 0.2; true > {out}/r"], outputs: [r]}}
  b: {uses: command, with: {argv: [sh, -c, "sleep 0.2; true > {out}/r"], outputs: [r]}}
"#;
    let finished = bench.run(yaml, &[]).await;
    assert_eq!((finished.summary.executed, finished.summary.cached), (1, 1));
}

#[tokio::test]
async fn a_damaged_blob_is_made_again() {
    let bench = Bench::new().await;
    let first = bench.run(DIAMOND, &[]).await;
    let hex = &first.summary.results["setup.a.r"];
    let blob = bench.path("store/blobs").join(&hex[..2]).join(&hex[2..]);
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "2\n").unwrap();
    // `b` reads the damaged blob: it is noticed, and `a` runs again.
    let second = bench.run(DIAMOND, &["setup.b.with.env.X='3'"]).await;
    assert!(matches!(second.outcome, Outcome::Done), "{:?}", second.outcome);
    assert_eq!(bench.text(&second, "setup.d.r").await, "1\n3\n1\n1\n");
    assert_eq!((second.summary.executed, second.summary.cached), (3, 2));
    let notes = bench.names(|event| match event {
        Event::Note { level: "warn", message } => Some(message.clone()),
        _ => None,
    });
    assert_eq!(notes.len(), 1, "{notes:?}");
}

/// Saves its progress when asked to, and goes on from there.
const SAVES: &str = r#"
name: toy
seed: 7
setup:
  a:
    uses: command
    with:
      argv:
        - sh
        - -c
        - |
          test -e {scratch}/saved && { echo resumed > {out}/r; exit 0; }
          trap 'true > {scratch}/saved; exit 1' TERM
          sleep 30 & wait
      outputs: [r]
  b: {uses: command, with: {argv: [cp, "{in.a}", "{out}/r"], inputs: {a: a.r}, outputs: [r]}}
"#;

#[tokio::test]
async fn a_stopped_run_saves_progress_and_goes_on_when_run_again() {
    let mut bench = Bench::new().await;
    let ready = Duration::from_millis(300);
    let yaml = SAVES;
    let stop = Stop::default();
    let options = Options::new("0123abcd", "toy", bench.folder.path().to_owned());
    let executor = Executor::new(bench.store.clone(), options, stop.clone(), |_| {});
    let plan = bench.plan(yaml, &[]);
    // The program needs a moment to set its trap.
    let (stopped, ()) = tokio::join!(executor.run(&plan), async {
        tokio::time::sleep(ready).await;
        stop.stop();
    });
    assert!(matches!(stopped.outcome, Outcome::Stopped), "{:?}", stopped.outcome);
    assert_eq!(stopped.outcome.exit_code(), 75);
    assert_eq!((stopped.summary.executed, stopped.summary.skipped), (0, 2));
    bench.stop_at = None;
    let resumed = bench.run(yaml, &[]).await;
    assert_eq!(bench.text(&resumed, "setup.b.r").await, "resumed\n");
}

#[tokio::test]
async fn a_kill_ends_everything_at_once() {
    let mut bench = Bench::in_memory().await;
    bench.stop_at = Some(("setup.a", Level::Kill));
    let clock = Instant::now();
    let finished = bench.run(SAVES, &[]).await;
    assert!(matches!(finished.outcome, Outcome::Stopped));
    assert!(clock.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_thousand_cached_steps_are_all_found() {
    let bench = Bench::new().await;
    let mut yaml = "name: toy\nseed: 7\nsetup:\n".to_owned();
    for index in 0..1000 {
        yaml += &format!("  s{index}: {{uses: command, with: {{argv: [sh, '{index}'], outputs: [r]}}}}\n");
    }
    let plan = bench.plan(&yaml, &[]);
    let blob = bench.store.put_bytes(b"result".to_vec()).await.unwrap();
    let mut published = tokio::task::JoinSet::new();
    for id in plan.ids() {
        let action = prepare::action(&plan.step(id).stage, 7, BTreeMap::new());
        let outputs = BTreeMap::from([("r".to_owned(), blob)]);
        let manifest = Manifest::new(action, outputs, serde_json::Map::new(), Provenance::default());
        let store = bench.store.clone();
        published.spawn(async move { store.publish(manifest).await.unwrap() });
    }
    published.join_all().await;
    let finished = bench.run(&yaml, &[]).await;
    assert_eq!((finished.summary.executed, finished.summary.cached), (0, 1000));
}

/// Samples with a temperature that a step has made, and scores without a reward model.
const SAMPLES: &str = r#"
name: toy
seed: 7
inputs: {policy: policy, queries: queries.jsonl}
setup:
  pick: {uses: command, with: {argv: [sh, -c, "echo 0.5 > {out}/t"], outputs: [t]}}
  responses:
    uses: sample
    with: {policy: policy, queries: queries, temperature: pick.t, samples: 2, max_tokens: 8, shard_queries: 2, shard_samples: 2}
  rewards:
    uses: score
    with: {responses: responses, queries: queries}
"#;

async fn sampling_bench() -> Bench {
    let bench = Bench::new().await;
    std::fs::create_dir(bench.path("policy")).unwrap();
    std::fs::write(bench.path("policy/model"), "weights").unwrap();
    let rows: String =
        (0..3).map(|id| format!("{{\"id\":\"q{id}\",\"prompt\":\"?\",\"answer\":\"1\"}}\n")).collect();
    std::fs::write(bench.path("queries.jsonl"), rows).unwrap();
    bench
}

#[tokio::test]
async fn sharded_steps_run_as_their_shards_and_are_found_as_a_whole() {
    let bench = sampling_bench().await;
    let first = bench.run(SAMPLES, &[]).await;
    assert!(matches!(first.outcome, Outcome::Done), "{:?}", first.outcome);
    // Three queries in chunks of two.
    assert_eq!((first.summary.executed, first.summary.cached), (5, 0));
    let by_stage =
        [("command", 1), ("sample", 2), ("score", 2)].map(|(stage, count)| (stage.to_owned(), count));
    assert_eq!(first.summary.executed_by_stage, BTreeMap::from(by_stage));
    let second = bench.run(SAMPLES, &[]).await;
    assert_eq!((second.summary.executed, second.summary.cached), (0, 3));
    assert_eq!(second.summary.results, first.summary.results);
    let whole = bench.events.lock().unwrap().iter().find_map(|event| match event {
        Event::Done { step, metrics, .. } if step == "setup.responses" => Some(metrics.clone()),
        _ => None,
    });
    // Counts add up over shards; averages are left out.
    assert_eq!(
        serde_json::Value::Object(whole.unwrap()),
        serde_json::json!({"responses": 6, "tokens": 30, "truncated": 3})
    );
}

#[tokio::test]
async fn more_samples_draw_only_the_new_ones() {
    let bench = sampling_bench().await;
    bench.executed(SAMPLES, &[]).await;
    let more = bench.run(SAMPLES, &["setup.responses.with.samples=4"]).await;
    assert_eq!(more.summary.executed_by_stage["sample"], 2);
    // The first two samples' shards and `pick`; scores of old responses too.
    assert_eq!(more.summary.cached, 5);
}

#[tokio::test]
async fn a_damaged_shard_is_drawn_again_alone() {
    let bench = sampling_bench().await;
    let first = bench.run(SAMPLES, &[]).await;
    let manifests = bench.store.manifests().await.unwrap();
    let whole = manifests.iter().find(|manifest| manifest.provenance.step == "setup.responses").unwrap();
    let hex = whole.outputs.values().next().unwrap().digest.to_string();
    std::fs::remove_file(bench.path("store/blobs").join(&hex[..2]).join(&hex[2..])).unwrap();
    let second = bench.run(SAMPLES, &[]).await;
    assert!(matches!(second.outcome, Outcome::Done), "{:?}", second.outcome);
    assert_eq!(second.summary.executed_by_stage, BTreeMap::from([("sample".to_owned(), 1)]));
    assert_eq!(second.summary.results, first.summary.results);
}

#[tokio::test]
async fn a_worker_that_dies_is_replaced_and_the_step_tried_again() {
    let mut bench = sampling_bench().await;
    bench.worker = vec![("FAKE_DIE_ONCE", bench.path("died").to_str().unwrap().to_owned())];
    let finished = bench.run(SAMPLES, &[]).await;
    assert!(matches!(finished.outcome, Outcome::Done), "{:?}", finished.outcome);
    assert_eq!(finished.summary.executed, 5);
}

/// Two iterations without a search.
const LOOP: &str = r#"
name: toy
seed: 7
inputs: {base: policy, queries: queries.jsonl}
setup:
  before: {uses: evaluate, with: {policy: base, queries: queries, samples: 2, max_tokens: 8}}
start: {policy: base}
iterations: 2
iteration:
  responses:
    uses: sample
    with: {policy: policy, queries: queries, temperature: 0.7, samples: 4, max_tokens: 8}
  rewards: {uses: score, with: {responses: responses, queries: queries}}
  dataset:
    uses: filter
    with: {queries: queries, responses: responses, rewards: rewards, threshold: 0.5}
  train:
    uses: sft
    with: {policy: policy, dataset: dataset, training: {updates: 1, batch: 1, learning_rate: 0.1}}
  evaluate: {uses: evaluate, with: {policy: train.policy, queries: queries, samples: 2, max_tokens: 8}}
carry: {policy: train.policy}
"#;

#[tokio::test]
async fn the_summary_of_a_loop_has_a_row_an_iteration() {
    let bench = sampling_bench().await;
    let first = bench.run(LOOP, &[]).await;
    assert!(matches!(first.outcome, Outcome::Done), "{:?}", first.outcome);
    let Summary { iterations, start, .. } = &first.summary;
    assert_eq!(start["pass_at_1"], 1.0, "{start:?}");
    assert_eq!(iterations.len(), 2);
    for (index, row) in iterations.iter().enumerate() {
        assert_eq!(row["iteration"], index);
        assert_eq!((&row["temperature"], &row["threshold"]), (&0.7.into(), &0.5.into()), "{row:?}");
        // Three queries: twelve responses of five tokens each, and nine to evaluate.
        assert_eq!((&row["sampled"], &row["kept"], &row["tokens"]), (&12.into(), &3.into(), &105.into()));
        assert_eq!((&row["pass_at_1"], &row["truncated"]), (&1.0.into(), &0.25.into()));
        assert!(row["seconds"].as_f64() > Some(0.0) && row["tokens_per_s"].as_f64() > Some(0.0));
    }
    assert!(first.summary.results.contains_key("iteration[1].train.policy"));
    let second = bench.run(LOOP, &[]).await;
    assert_eq!(second.summary.executed, 0);
    assert_eq!(second.summary.results, first.summary.results);
    // Another threshold keeps the same responses: only the filter runs, and once, for the toy policies
    // of both iterations respond alike.
    let third = bench.run(LOOP, &["iteration.dataset.with.threshold=0.4"]).await;
    assert_eq!(third.summary.executed_by_stage, BTreeMap::from([("filter".to_owned(), 1)]));
}
