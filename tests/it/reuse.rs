//! Nothing is computed twice.

use crate::support::{Space, executed, results, tiny_results};

#[test]
fn a_second_run_executes_nothing_and_gives_the_same_results() {
    let space = Space::with_tiny();
    let summary = space.tiny(&[]).summary();
    assert_eq!((summary["executed"].as_u64(), summary["failed"].as_u64()), (Some(0), Some(0)));
    assert!(summary["cached"].as_u64() > Some(20));
    assert_eq!(results(&summary), tiny_results());
}

#[test]
fn a_run_reports_every_figure_of_every_iteration() {
    let summary = Space::with_tiny().tiny(&[]).summary();
    let rows = summary["iterations"].as_array().expect("rows");
    assert_eq!(rows.len(), 2);
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row["iteration"], index);
        for figure in
            ["temperature", "threshold", "balance_score", "kept", "sampled", "pass_at_1", "pass_at_1_se"]
        {
            assert!(row[figure].is_number(), "{figure}: {row}");
        }
        for measure in ["pass_at_k", "pass_at_k_s", "best_of_k"] {
            assert!(!row[measure].as_object().expect("figures by K").is_empty(), "{measure}: {row}");
        }
    }
    assert!(summary["start"]["pass_at_1"].is_number());
}

#[test]
fn changed_thresholds_sample_and_score_nothing_before_the_policy_changes() {
    let space = Space::new();
    // One temperature, so that the choice cannot move the sampling.
    let common = ["iterations=1", "iteration.explore.temperature=[1.0]"];
    assert!(executed(&space.tiny(&common).summary(), "sample") > 0);
    let finer = [&common[..], &["iteration.search.thresholds.by=0.25"]].concat();
    let outcome = space.tiny(&finer);
    let summary = outcome.summary();
    assert_eq!(executed(&summary, "search"), 1);
    let until_training: Vec<_> = outcome
        .events()
        .into_iter()
        .take_while(|event| !(event["event"] == "done" && event["step"] == "iteration[0].train"))
        .filter(|event| {
            event["event"] == "running" && (event["stage"] == "sample" || event["stage"] == "score")
        })
        .collect();
    assert!(until_training.is_empty(), "{until_training:?}");
}

#[test]
fn more_samples_draw_only_the_new_ones() {
    let explore = ["iterations=1", "iteration.explore.temperature=[1.0]"];
    let four = [&explore[..], &["iteration.responses.samples=4"]].concat();
    let eight = [&explore[..], &["iteration.responses.samples=8"]].concat();
    let grown = Space::new();
    drop(grown.tiny(&four).summary());
    let outcome = grown.tiny(&eight);
    let drawn: Vec<String> = outcome
        .events()
        .iter()
        .filter(|event| event["event"] == "running" && event["stage"] == "sample")
        .filter_map(|event| event["step"].as_str().map(str::to_owned))
        .filter(|step| step.starts_with("iteration[0].responses/"))
        .collect();
    assert_eq!(drawn.len(), 4, "128 queries in chunks of 32, one new range of samples: {drawn:?}");
    assert!(drawn.iter().all(|step| step.contains("0004-0008")), "{drawn:?}");
    // Drawn in two goes or at once: the same responses.
    let at_once = Space::new().tiny(&eight).summary();
    let responses = "iteration[0].responses.responses";
    assert_eq!(results(&outcome.summary())[responses], results(&at_once)[responses]);
}

#[test]
fn queries_shared_by_search_and_main_pass_are_sampled_once() {
    // Explore draws samples 0..4 of queries 0..32 at t = 1, which the main pass needs too.
    let space = Space::new();
    let outcome = space.tiny(&["iterations=1", "iteration.explore.temperature=[1.0]"]);
    let running = |prefix: &str| {
        let events = outcome.events();
        let of_step = |event: &&serde_json::Value| {
            event["event"] == "running" && event["step"].as_str().is_some_and(|step| step.starts_with(prefix))
        };
        events.iter().filter(of_step).count()
    };
    assert_eq!(running("iteration[0].explore/"), 1);
    assert_eq!(running("iteration[0].responses/"), 4 * 2 - 1);
    assert_eq!(outcome.summary()["failed"], 0);
}

#[test]
fn shard_sizes_and_workers_change_no_result() {
    let space = Space::new();
    let summary = space
        .tiny(&[
            "--jobs",
            "1",
            "iteration.explore.shard_queries=16",
            "iteration.responses.shard_queries=48",
            "iteration.responses.shard_samples=3",
        ])
        .summary();
    let (ours, theirs) = (results(&summary), tiny_results());
    for name in ["filter.dataset", "search.surface", "train.policy", "train.optimizer", "evaluate.metrics"] {
        let name = format!("iteration[1].{name}");
        assert_eq!(ours[&name], theirs[&name], "{name}");
    }
}
