use bstar_cache::{Action, Ingredient, Provenance};
use serde_json::{Map, Value};

use super::*;
use crate::event::Summary;
use crate::run_record::{RunStart, pin};

const DAY: Duration = Duration::from_secs(24 * 3600);
const POLICY: Policy = Policy { keep: Duration::from_secs(30 * 24 * 3600), keep_last: 1, grace: DAY };

/// A store, and a clock that is far ahead of what is written now.
struct Bench {
    store: Store,
    now: SystemTime,
}

impl Bench {
    async fn new() -> Self {
        Self { store: Store::open("memory://").await.unwrap(), now: SystemTime::now() + 90 * DAY }
    }

    /// A published result, and its key.
    async fn result(&self, number: i64, step: &str, outputs: &[(&str, &str)]) -> ActionKey {
        let mut artifacts = BTreeMap::new();
        for (path, content) in outputs {
            let artifact = self.store.put_bytes(content.as_bytes().to_vec()).await.unwrap();
            artifacts.insert((*path).to_owned(), artifact);
        }
        let config = Ingredient::map([("number", Ingredient::from(number))]);
        let inputs = BTreeMap::new();
        let action = Action { stage: "stage".to_owned(), version: 1, config, seed: None, inputs };
        let provenance = Provenance { step: step.to_owned(), ..Provenance::default() };
        let manifest = Manifest::new(action, artifacts, Map::new(), provenance);
        self.store.publish(manifest).await.unwrap().manifest.key
    }

    /// The record of a run of that age that needs some results.
    async fn run(
        &self,
        id: &str,
        pipeline: &str,
        days: u32,
        outcome: Option<&str>,
        keys: &[(ActionKey, &str)],
    ) {
        let mut start = RunStart::now(pipeline, "toy.yaml", Vec::new(), 0, Value::Null);
        start.id = id.to_owned();
        start.host = "elsewhere".to_owned();
        start.started = timestamp(self.now - days * DAY);
        let put = async |name: &str, bytes: Vec<u8>| {
            self.store.put_object(&format!("runs/{id}/{name}"), bytes).await.unwrap();
        };
        put("run.json", serde_json::to_vec(&start).unwrap()).await;
        let keys: Vec<String> = keys.iter().map(|(key, step)| format!("{key} {step}\n")).collect();
        put("keys", keys.concat().into()).await;
        if let Some(outcome) = outcome {
            let summary = Summary { outcome: outcome.to_owned(), ..Summary::default() };
            put("summary.json", serde_json::to_vec(&summary).unwrap()).await;
        }
    }

    async fn roots(&self, policy: &Policy) -> Vec<String> {
        let roots = roots(&self.store, policy, self.now).await.unwrap();
        let kept = roots.kept.iter().map(|(run, why)| format!("{} {why}", run.start.id));
        kept.chain(roots.others.iter().map(|run| format!("{} goes", run.start.id))).collect()
    }
}

#[tokio::test]
async fn pinned_recent_and_last_runs_stay() {
    let bench = Bench::new().await;
    bench.run("1", "math", 3, Some("done"), &[]).await;
    bench.run("2", "math", 40, Some("done"), &[]).await;
    bench.run("3", "code", 50, Some("failed"), &[]).await;
    bench.run("4", "code", 51, Some("done"), &[]).await;
    bench.run("5", "code", 52, Some("done"), &[]).await;
    bench.run("6", "code", 53, Some("done"), &[]).await;
    pin(&bench.store, "6", Some("best")).await.unwrap();
    let kept = ["1 recent", "3 last of its pipeline", "4 last of its pipeline", "6 pinned as best"];
    assert_eq!(bench.roots(&POLICY).await, [kept.as_slice(), &["2 goes", "5 goes"]].concat());
    let nothing = Policy { keep: Duration::ZERO, keep_last: 0, ..POLICY };
    assert_eq!(bench.roots(&nothing).await[0], "6 pinned as best");
}

#[tokio::test]
async fn a_run_elsewhere_is_live_while_it_gives_signs_of_life() {
    let mut bench = Bench::new().await;
    let key = bench.result(1, "a", &[]).await;
    bench.run("1", "math", 60, None, &[(key, "setup.a")]).await;
    bench.run("2", "math", 61, Some("stopped"), &[]).await;
    let policy = Policy { keep_last: 0, grace: Duration::ZERO, ..POLICY };
    assert_eq!(bench.roots(&policy).await, ["1 goes", "2 goes"], "silent for days");
    bench.now = SystemTime::now() + SILENCE / 2;
    bench.run("1", "math", 60, None, &[(key, "setup.a")]).await;
    bench.run("2", "math", 61, Some("stopped"), &[]).await;
    assert_eq!(bench.roots(&policy).await, ["1 live", "2 goes"]);
    let mut live = roots(&bench.store, &policy, bench.now).await.unwrap();
    assert_eq!(live.keys, BTreeSet::from([key]));
    // It gets on while the collection looks around.
    let more = bench.result(2, "b", &[]).await;
    bench.run("1", "math", 60, None, &[(key, "setup.a"), (more, "setup.b")]).await;
    refresh(&bench.store, &mut live).await.unwrap();
    assert_eq!(live.keys, BTreeSet::from([key, more]));
}

#[tokio::test]
async fn a_run_whose_record_is_damaged_keeps_its_results_while_it_is_young() {
    let mut bench = Bench::new().await;
    let key = bench.result(1, "a", &[]).await;
    bench.run("1", "math", 1, Some("done"), &[(key, "setup.a")]).await;
    bench.store.put_object("runs/1/run.json", b"{".to_vec()).await.unwrap();
    let old = roots(&bench.store, &POLICY, bench.now).await.unwrap();
    assert_eq!((old.unreadable.len(), old.keys.len()), (0, 0));
    bench.now = SystemTime::now();
    let young = roots(&bench.store, &POLICY, bench.now).await.unwrap();
    assert_eq!((young.unreadable, young.keys), (vec!["1".to_owned()], BTreeSet::from([key])));
}

#[tokio::test]
async fn outputs_of_old_iterations_are_to_retire_unless_another_run_holds_them() {
    let bench = Bench::new().await;
    let mut steps = Vec::new();
    for iteration in 0..4 {
        let name = format!("iteration[{iteration}].train");
        let (policy, state) = (format!("p{iteration}"), format!("o{iteration}"));
        let outputs = [("policy/w", policy.as_str()), ("optimizer.bin", &state), ("optimizers", "x")];
        steps.push((bench.result(iteration, &name, &outputs).await, name));
    }
    let of = |range: std::ops::Range<usize>| -> Vec<(ActionKey, &str)> {
        steps[range].iter().map(|(key, name)| (*key, name.as_str())).collect()
    };
    bench.run("1", "math", 2, Some("done"), &of(0..4)).await;
    bench.run("2", "math", 3, Some("done"), &of(0..2)).await;
    let inventory = bench.store.inventory().await.unwrap();
    let retain = Retention::new([("optimizer".to_owned(), 1)]);
    let retire = async || {
        let roots = roots(&bench.store, &POLICY, bench.now).await.unwrap();
        let retirees = retirees(&bench.store, &inventory, &roots, &retain).await.unwrap();
        let number = |key: &ActionKey| steps.iter().position(|(step, _)| step == key).unwrap();
        let retirees: BTreeMap<usize, BTreeSet<String>> =
            retirees.iter().map(|(key, paths)| (number(key), paths.clone())).collect();
        retirees
    };
    let paths = BTreeSet::from(["optimizer.bin".to_owned()]);
    // The last of the first run is the fourth, of the second run the second.
    assert_eq!(retire().await, BTreeMap::from([(0, paths.clone()), (2, paths.clone())]));
    pin(&bench.store, "2", None).await.unwrap();
    assert_eq!(retire().await, BTreeMap::from([(2, paths)]));
}

#[tokio::test]
async fn what_runs_need_by_now_is_not_retired() {
    let bench = Bench::new().await;
    let mut retirees = Retirees::new();
    for number in 0..5 {
        let key = bench.result(number, "iteration[0].train", &[]).await;
        retirees.insert(key, BTreeSet::from(["optimizer.bin".to_owned()]));
    }
    let keys: Vec<ActionKey> = retirees.keys().copied().collect();
    let of = |number: usize| [(keys[number], "iteration[0].train")];
    bench.run("own", "math", 0, None, &of(0)).await;
    bench.run("began", "math", 0, None, &of(1)).await;
    bench.run("ended", "math", 0, Some("done"), &of(2)).await;
    bench.run("pinned", "math", 0, Some("done"), &of(3)).await;
    pin(&bench.store, "pinned", None).await.unwrap();
    let live = live(&bench.store, "own").await.unwrap();
    assert_eq!(live, ["began"]);
    let all = retirees.clone();
    let spared = spare(&bench.store, &mut retirees, &live).await.unwrap();
    assert_eq!(spared.into_keys().collect::<BTreeSet<_>>(), BTreeSet::from([keys[1], keys[3]]));
    assert_eq!(retirees.into_keys().collect::<BTreeSet<_>>(), BTreeSet::from([keys[0], keys[2], keys[4]]));
    // What the live run has no more need of is not spared for its sake.
    run_record::release(&bench.store, "began", &Retirees::from([(keys[1], all[&keys[1]].clone())]))
        .await
        .unwrap();
    let mut retirees = all;
    let spared = spare(&bench.store, &mut retirees, &live).await.unwrap();
    assert_eq!(spared.into_keys().collect::<Vec<_>>(), [keys[3]]);
    assert_eq!(retirees.len(), 4);
}
