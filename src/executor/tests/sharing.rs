//! Runs that share a store, and what is kept of their results.

use super::*;
use crate::run_record::RunStart;

/// Two machines: two work roots, one store in memory. Or two runs on one: one store in a folder.
async fn pairs() -> [[Bench; 2]; 2] {
    let far = Bench::in_memory().await;
    let other = Bench::with(tempfile::tempdir().unwrap(), far.store.clone());
    let near = Bench::new().await;
    let second = Bench::with(tempfile::tempdir().unwrap(), near.store.clone());
    [[far, other], [near, second]]
}

/// Layers of steps in which every step reads two of the layer before.
fn layers(width: usize, depth: usize) -> String {
    let mut yaml = "name: toy\nseed: 7\nsetup:\n".to_owned();
    for layer in 0..depth {
        for index in 0..width {
            let inputs = match layer.checked_sub(1) {
                None => String::new(),
                Some(above) => {
                    format!(", inputs: {{a: s{above}_{index}.r, b: s{above}_{}.r}}", (index + 1) % width)
                }
            };
            yaml += &format!(
                "  s{layer}_{index}: {{uses: command, with: {{argv: [sh, -c, 'sleep 0.01; echo {layer} {index} > \
                 {{out}}/r'], outputs: [r]{inputs}}}}}\n"
            );
        }
    }
    yaml
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_with_one_store_execute_each_step_once() {
    for [left, mut right] in pairs().await {
        right.run = "4567cdef";
        let yaml = layers(6, 5);
        let (one, two) = tokio::join!(left.run(&yaml, &[]), right.run(&yaml, &[]));
        for finished in [&one, &two] {
            assert!(matches!(finished.outcome, Outcome::Done), "{:?}", finished.outcome);
            assert_eq!(finished.summary.executed + finished.summary.cached, 30);
        }
        assert_eq!(one.summary.executed + two.summary.executed, 30);
        assert_eq!(one.summary.results, two.summary.results);
        assert!(left.store.list_objects("leases").await.is_err(), "the store's own");
    }
}

const PAIR: &str = r#"
name: toy
seed: 7
setup:
  first: {uses: command, with: {argv: [sh, -c, "true > {out}/r"], outputs: [r]}}
  after: {uses: command, with: {argv: [cp, "{in.a}", "{out}/r"], inputs: {a: first.r}, outputs: [r]}}
  lone: {uses: command, with: {argv: [sh, -c, "echo > {out}/r"], outputs: [r]}}
"#;

fn first_key(bench: &Bench) -> ActionKey {
    let plan = bench.plan(PAIR, &[]);
    let first = plan.find("setup.first").unwrap();
    prepare::action(&plan.step(first).stage, 7, BTreeMap::new()).key()
}

/// Runs the pair while `setup.first` is claimed by somebody else, who gives it up when `lone` is done.
async fn run_beside<T>(bench: &mut Bench, claim: T) {
    bench.jobs = 1;
    let beside = async {
        let lone_is_done = |event: &Event| matches!(event, Event::Done { step, .. } if step == "setup.lone");
        while !bench.events.lock().unwrap().iter().any(lone_is_done) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(claim);
    };
    let (finished, ()) = tokio::join!(bench.run(PAIR, &[]), beside);
    assert!(matches!(finished.outcome, Outcome::Done), "{:?}", finished.outcome);
    assert_eq!(finished.summary.executed, 3);
    let notes = bench.names(|event| match event {
        Event::Note { message, .. } => Some(message.clone()),
        _ => None,
    });
    let [note] = notes.as_slice() else { panic!("told once: {notes:?}") };
    assert!(note.starts_with("setup.first: ") && note.contains("executing the same step"), "{note}");
}

#[tokio::test]
async fn a_step_that_waits_for_another_run_leaves_its_slot_to_others() {
    let mut bench = Bench::new().await;
    let work = WorkRoot::of(&bench.store);
    drop(work.open_run("other").unwrap());
    let lock = work.claim(&first_key(&bench)).unwrap().unwrap();
    run_beside(&mut bench, lock).await;
}

#[tokio::test]
async fn a_machine_that_fell_silent_is_replaced() {
    let mut bench = Bench::in_memory().await;
    bench.lease_ttl = Duration::from_millis(300);
    let holder = Holder { host: "far".to_owned(), pid: 17, run: "9".to_owned(), ..Holder::default() };
    let options = LeaseOptions { ttl: bench.lease_ttl };
    let lease = bench.store.lease(&first_key(&bench), &holder, options).attempt().await.unwrap().unwrap();
    run_beside(&mut bench, lease).await;
    let told = bench.names(|event| match event {
        Event::Note { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(told[0].contains("run 9 (process 17 on far)"), "{told:?}");
}

/// Six iterations whose optimizer grows; its content is that of the iterations so far.
const TRAINS: &str = r#"
name: toy
seed: 7
setup:
  init: {uses: command, with: {argv: [sh, -c, "echo 0 > {out}/policy; echo 0 > {out}/optimizer"], outputs: [policy, optimizer]}}
start: {policy: init.policy, optimizer: init.optimizer}
iterations: 6
iteration:
  train:
    uses: command
    with:
      argv: [sh, -c, "(cat {in.optimizer}; echo more) > {out}/optimizer; wc -l < {out}/optimizer > {out}/policy"]
      inputs: {policy: policy, optimizer: optimizer}
      outputs: [policy, optimizer]
  measure: {uses: command, with: {argv: [sh, -c, "cat {in.policy} > {out}/r; echo measured >> {out}/r"], inputs: {policy: train.policy}, outputs: [r]}}
carry: {policy: train.policy, optimizer: train.optimizer}
"#;

/// Iterations of which the optimizer is there.
async fn optimizers(bench: &Bench, finished: &Finished) -> Vec<usize> {
    let mut present = Vec::new();
    for iteration in 0..6 {
        let digest = finished.summary.results[&format!("iteration[{iteration}].train.optimizer")].parse();
        if bench.store.read(&digest.unwrap()).await.is_ok() {
            present.push(iteration);
        }
    }
    present
}

#[tokio::test]
async fn outputs_of_old_iterations_are_retired_and_a_second_run_executes_nothing() {
    for bench in [Bench::new().await, Bench::in_memory().await] {
        let retain = ["retain={optimizer: 2}"];
        let first = bench.run(TRAINS, &retain).await;
        assert!(matches!(first.outcome, Outcome::Done), "{:?}", first.outcome);
        assert_eq!(first.summary.executed, 13);
        assert_eq!(optimizers(&bench, &first).await, [4, 5]);
        assert_eq!(bench.text(&first, "iteration[0].train.policy").await.trim(), "2");
        let second = bench.run(TRAINS, &retain).await;
        assert_eq!((second.summary.executed, second.summary.cached), (0, 13));
        assert_eq!(second.summary.results, first.summary.results);
        // Fewer are kept, of one stage by its name.
        bench.run(TRAINS, &["retain={train.optimizer: 1}"]).await;
        assert_eq!(optimizers(&bench, &first).await, [5]);
        // Without it, everything is found all the same.
        assert_eq!(bench.executed(TRAINS, &[]).await, [""; 0]);
    }
}

#[tokio::test]
async fn retired_outputs_that_are_needed_after_all_are_made_again() {
    let bench = Bench::in_memory().await;
    let retain = ["retain={optimizer: 1}"];
    let first = bench.run(TRAINS, &retain).await;
    assert_eq!(optimizers(&bench, &first).await, [5]);
    // One that reads the optimizer of every iteration.
    let look = "  look: {uses: command, with: {argv: [sh, -c, 'wc -c < {in.o} > {out}/r'], inputs: {o: train.optimizer}, outputs: [r]}}\n";
    let yaml = TRAINS.replace("carry:", &format!("{look}carry:"));
    let second = bench.run(&yaml, &retain).await;
    assert!(matches!(second.outcome, Outcome::Done), "{:?}", second.outcome);
    // Six looks, and the five steps of training whose optimizer was retired.
    assert_eq!(second.summary.executed, 11, "{:?}", second.summary.executed_by_stage);
    for (name, digest) in &first.summary.results {
        assert_eq!(second.summary.results[name], *digest, "{name}");
    }
    assert_eq!(optimizers(&bench, &second).await, [5], "retired again");
}

#[tokio::test]
async fn what_a_pinned_run_needs_is_not_retired() {
    let bench = Bench::in_memory().await;
    let first = bench.run(TRAINS, &[]).await;
    let done = bench.names(|event| match event {
        Event::Done { key, step, .. } if step == "iteration[1].train" => Some(key.to_string()),
        _ => None,
    });
    bench.store.put_object("runs/4567cdef/keys", done.join("\n").into()).await.unwrap();
    crate::run_record::pin(&bench.store, "4567cdef", None).await.unwrap();
    bench.run(TRAINS, &["retain={optimizer: 1}"]).await;
    assert_eq!(optimizers(&bench, &first).await, [1, 5]);
}

#[tokio::test]
async fn what_a_live_run_needs_is_retired_when_it_has_ended() {
    for bench in [Bench::new().await, Bench::in_memory().await] {
        let first = bench.run(TRAINS, &[]).await;
        let done = bench.names(|event| match event {
            Event::Done { key, step, .. } if step == "iteration[1].train" => Some(key.to_string()),
            _ => None,
        });
        // A run of this process, which lives.
        let start = RunStart::now("toy", "toy.yaml", Vec::new(), 7, serde_json::Value::Null);
        let object = |name: &str| format!("runs/{}/{name}", start.id);
        let put =
            async |name: &str, bytes: Vec<u8>| bench.store.put_object(&object(name), bytes).await.unwrap();
        put("run.json", serde_json::to_vec(&start).unwrap()).await;
        put("keys", done.join("\n").into()).await;
        let retain = ["retain={optimizer: 1}"];
        bench.run(TRAINS, &retain).await;
        assert_eq!(optimizers(&bench, &first).await, [1, 5]);
        // It is told that this one is done with it.
        let released = crate::run_record::released(&bench.store, bench.run).await.unwrap();
        assert!(done.iter().all(|key| released.contains_key(&key.parse().unwrap())), "{released:?}");
        let summary = Summary { outcome: "done".to_owned(), ..Summary::default() };
        put("summary.json", serde_json::to_vec(&summary).unwrap()).await;
        bench.run(TRAINS, &retain).await;
        assert_eq!(optimizers(&bench, &first).await, [5]);
    }
}

#[tokio::test]
async fn what_is_due_at_the_same_time_is_retired_together() {
    let bench = Bench::new().await;
    let first = bench.run(TRAINS, &[]).await;
    bench.run(TRAINS, &["retain={optimizer: 1}"]).await;
    let notes = bench.names(|event| match event {
        Event::Note { message, .. } => Some(message.clone()),
        _ => None,
    });
    let [note] = notes.as_slice() else { panic!("one: {notes:?}") };
    assert!(note.starts_with("retired outputs of 5 results"), "{note}");
    assert_eq!(optimizers(&bench, &first).await, [5]);
}

#[tokio::test]
async fn an_output_that_is_read_for_long_is_retired_in_the_end() {
    let bench = Bench::new().await;
    // The first iteration is the last to be complete.
    let look = "  look: {uses: command, with: {argv: [sh, -c, 'test $(wc -l < {in.o}) = 2 && sleep 1; wc -c < {in.o} > \
                {out}/r'], inputs: {o: train.optimizer}, outputs: [r]}}\n";
    let yaml = TRAINS.replace("carry:", &format!("{look}carry:"));
    let first = bench.run(&yaml, &["retain={optimizer: 1}"]).await;
    assert_eq!(first.summary.executed, 19, "{:?}", first.outcome);
    assert_eq!(optimizers(&bench, &first).await, [5]);
}
