//! How step labels are cut, and what of it is in keys.

use super::*;

fn lowered(changes: &Value) -> Vec<(String, StageConfig)> {
    let with = json!({"policy": "p", "queries": "q", "solutions": 15, "completions": 8, "max_tokens": 46});
    with_changes("step_labels", with, changes).stage().lower("l").expect("steps")
}

fn find<'a>(steps: &'a [(String, StageConfig)], name: &str) -> &'a StageConfig {
    &steps.iter().find(|(told, _)| told == name).expect("a step of this name").1
}

/// The shards of the sampling step of this name, given so many queries, as their paths say.
fn shards(steps: &[(String, StageConfig)], name: &str, queries: usize) -> Vec<Value> {
    let source = ShardSource { queries, responses: Vec::new() };
    let shards = find(steps, name).stage().shards(&source).expect("shards");
    shards.into_iter().map(|shard| json!([shard.path, format!("{:?}", shard.stage)])).collect()
}

#[test]
fn more_completions_queries_and_solutions_keep_the_shards_that_are_there() {
    let usual = lowered(&json!({}));
    for (changes, queries, name) in [
        (json!({"completions": 12}), 640, "l.continuations"),
        (json!({"limit": 100}), 1280, "l.continuations"),
        (json!({"limit": 128}), 128, "l.solutions"),
        (json!({"solutions": 40, "shard_solutions": 15}), 640, "l.continuations"),
        (json!({"solutions": 40, "shard_solutions": 15}), 640, "l.solutions"),
    ] {
        let (before, after) =
            (shards(&usual, name, queries.min(640)), shards(&lowered(&changes), name, queries));
        assert!(before.iter().all(|shard| after.contains(shard)), "{changes} {name}");
    }
}

#[test]
fn many_solutions_are_continued_set_by_set() {
    let steps = lowered(&json!({"solutions": 40}));
    let told: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        told,
        [
            "l.solutions",
            "l.prefixes",
            "l.continuations",
            "l.rewards",
            "l.prefixes_16",
            "l.continuations_16",
            "l.rewards_16",
            "l.prefixes_32",
            "l.continuations_32",
            "l.rewards_32",
            "l",
        ]
    );
    let StageConfig::Prefixes(last) = find(&steps, "l.prefixes_32") else { panic!("prefixes") };
    assert_eq!(last.samples, Some([32, 40]));
    let label = &steps[10].1;
    assert_eq!(
        names(label),
        ["prefixes", "rewards", "prefixes1", "rewards1", "prefixes2", "rewards2", "queries"]
    );
    assert!(steps.iter().all(|(_, step)| refused(step).is_empty()));
}

#[test]
fn what_is_as_usual_leaves_no_trace_in_keys() {
    let steps = lowered(&json!({}));
    let identity = |name: &str| format!("{:?}", find(&steps, name).stage().identity());
    assert_eq!(identity("l"), "Map({})");
    assert_eq!(identity("l.prefixes"), "Map({})");
    let hard = lowered(&json!({"estimate": "hard"}));
    assert!(format!("{:?}", find(&hard, "l").stage().identity()).contains("hard"));
}

#[test]
fn cuts_that_make_no_sense_are_refused() {
    let with = json!({"policy": "p", "queries": "q", "solutions": 4, "completions": 4, "max_tokens": 46});
    for field in ["shard_solutions", "shard_completions"] {
        assert_eq!(refused(&with_changes("step_labels", with.clone(), &json!({field: 0}))), [field]);
    }
    let cut = json!({"queries": "q", "responses": "r", "samples": [4, 4]});
    assert_eq!(refused(&stage("prefixes", cut)), ["samples"]);
    let unordered = json!({"prefixes": "p", "rewards": "r", "more": [{"prefixes": "p", "rewards": "r"}]});
    assert_eq!(refused(&stage("label_steps", unordered)), ["queries"]);
}

#[test]
fn the_python_that_judges_is_in_the_key() {
    let key = |changes: &Value| {
        let with = json!({"responses": "r", "queries": "q", "grader": "code"});
        with_changes("score", with, changes).stage().identity()
    };
    let of = |version: &str| key(&json!({"code": {"python": version}}));
    assert_ne!(of("3.11"), of("3.12"));
    assert_eq!(of("3.11"), of("3.11.4"));
    match crate::sandbox::Python::here() {
        Ok(here) => assert_eq!(key(&json!({})), of(&here.to_string())),
        Err(_) => crate::at_hand::skipped("there is no Python"),
    }
    let wrong = json!({"responses": "r", "queries": "q", "grader": "code", "code": {"python": 3.1}});
    let error = StageConfig::parse("score", wrong).expect("a stage").expect_err("a number");
    assert!(error.to_string().contains("a version in quotes"), "{error}");
}

#[test]
fn programs_may_have_a_reward_model_too() {
    let with = json!({"responses": "r", "queries": "q", "grader": "code", "reward_model": "m",
        "code": {"python": "3.11"}});
    assert_eq!(refused(&stage("score", with)), [""; 0]);
}
