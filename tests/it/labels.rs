//! Labels of steps are computed in shards, of which only new ones are drawn.

use serde_json::Value;

use crate::support::{Space, executed};

fn run(space: &Space, more: &[&str]) -> Value {
    let tiny = std::fs::read_to_string(space.path().join("pipelines/tiny.yaml")).expect("tiny.yaml");
    let end = tiny.find("  baseline:").expect("the end of what labels need");
    space.write("pipelines/labels.yaml", &tiny[..end]);
    let mut arguments = vec!["pipeline", "run", "labels.yaml", "--format", "json"];
    arguments.extend(more);
    space.run(&arguments).summary()
}

/// The content of the labels a run made.
fn labels(space: &Space, summary: &Value) -> String {
    let digest = summary["results"]["setup.labels.labels"].as_str().expect("a digest");
    space.run(&["cache", "cat", digest]).stdout
}

#[test]
fn more_completions_draw_only_the_new_ones() {
    let space = Space::with_tiny();
    let four = run(&space, &["setup.labels.completions=4"]);
    // 8 queries and fewer than 64 beginnings: a shard of continuations, where 2 completions were one of their own.
    assert_eq!(executed(&four, "sample"), 1, "{four}");
    let eight = run(&space, &["setup.labels.completions=8"]);
    assert_eq!(executed(&eight, "sample"), 1, "the first four are there: {eight}");

    // Drawn at once, in another store, they are the same.
    let fresh = Space::with_tiny();
    let at_once = run(&fresh, &["setup.labels.completions=8", "setup.labels.shard_completions=8"]);
    assert_eq!(executed(&at_once, "sample"), 1, "{at_once}");
    let name = "setup.labels.labels";
    assert_eq!(at_once["results"][name], eight["results"][name]);
    let rows = labels(&space, &eight);
    let eighths = rows.lines().map(|row| serde_json::from_str::<Value>(row).expect("JSON"));
    let labels: Vec<f64> = eighths
        .flat_map(|row| row["labels"].as_array().expect("labels").clone())
        .map(|label| label.as_f64().expect("a number"))
        .collect();
    assert!(!labels.is_empty() && labels.iter().all(|label| (label * 8.0).fract() == 0.0), "{labels:?}");
}

#[test]
fn more_queries_and_solutions_keep_what_is_there() {
    let space = Space::with_tiny();
    let small = ["setup.labels.limit=64", "setup.labels.shard_solutions=2"];
    let first = run(&space, &small);
    let continued = executed(&first, "sample");
    assert!(continued > 1, "{first}");
    // Another set of solutions: their shard, and the shards of their continuations.
    let more =
        run(&space, &["setup.labels.limit=64", "setup.labels.shard_solutions=2", "setup.labels.solutions=4"]);
    let new = executed(&more, "sample");
    assert!(new > 1 && new <= continued + 1, "{more}");
    // The same labels as without sets.
    let whole = run(&space, &["setup.labels.limit=64", "setup.labels.solutions=4"]);
    assert_eq!(whole["results"]["setup.labels.labels"], more["results"]["setup.labels.labels"]);
    // Other queries come after those that are there.
    let wider = run(&space, &["setup.labels.limit=128", "setup.labels.shard_solutions=2"]);
    assert!(executed(&wider, "sample") <= continued + 2, "{wider}");
    // A hard estimate samples nothing.
    let hard =
        run(&space, &["setup.labels.limit=64", "setup.labels.solutions=4", "setup.labels.estimate=hard"]);
    assert_eq!((executed(&hard, "sample"), executed(&hard, "label_steps")), (0, 1), "{hard}");
    for row in labels(&space, &hard).lines() {
        let row: Value = serde_json::from_str(row).expect("JSON");
        assert!(row["labels"].as_array().expect("labels").iter().all(|label| *label == 0.0 || *label == 1.0));
    }
}
