//! Searching, selecting, and spending samples.

use super::*;
use crate::reference::References;

fn search(changes: &Value) -> StageConfig {
    let with = json!({"rewards": "r", "thresholds": {"from": 0, "to": 0, "by": 1}, "n_star": 8});
    with_changes("search", with, changes)
}

fn filter(changes: &Value) -> StageConfig {
    let with = json!({"queries": "q", "responses": "r", "rewards": "s", "threshold": 0});
    with_changes("filter", with, changes)
}

#[test]
fn rules_are_part_of_a_key_only_when_they_are_not_the_usual_ones() {
    let key = |stage: &StageConfig| stage.stage().identity();
    let usual = json!({"select": "top_k", "trim": false, "n_i": "unique", "average": "all", "ties": "kept"});
    for (make, plain) in
        [(search as fn(&Value) -> StageConfig, search(&json!({}))), (filter, filter(&json!({})))]
    {
        assert_eq!(key(&make(&json!({"rules": usual}))), key(&plain));
        let changes = [
            json!({"select": "all"}),
            json!({"k_max": 64}),
            json!({"distinct_ranks": true}),
            json!({"answered_only": true}),
            json!({"correct_only": true}),
            json!({"mixed_only": true}),
            json!({"n_i": "total"}),
            json!({"average": "selected"}),
            json!({"ties": "first"}),
        ];
        let mut keys = vec![key(&plain)];
        for rules in changes {
            let new = key(&make(&json!({"rules": rules})));
            assert!(!keys.contains(&new), "{rules}");
            keys.push(new);
        }
    }
}

#[test]
fn what_a_selection_cannot_mean_is_refused() {
    let pooled = json!({"responses": ["a", "b"], "rewards": ["c", "d"]});
    assert_eq!(refused(&filter(&pooled)), [""; 0]);
    assert_eq!(refused(&filter(&json!({"responses": ["a", "b"]}))), ["rewards"]);
    assert_eq!(refused(&filter(&json!({"rules": {"trim": true}}))), ["rules.trim"]);
    assert_eq!(refused(&filter(&json!({"rules": {"k_max": 0}}))), ["rules.k_max"]);
    assert_eq!(refused(&filter(&json!({"n_star": 4}))), ["n_star"]);
    assert_eq!(refused(&filter(&json!({"replay_ratio": 1}))), ["replay_ratio"]);
    assert_eq!(refused(&filter(&json!({"replay": "x", "replay_ratio": 0}))), ["replay_ratio"]);
    let grid = json!({"thresholds": {"from": 0, "to": 1, "by": 0.5}, "n_star": 4});
    assert_eq!(refused(&filter(&grid)), [""; 0]);
    let both: Value = pooled
        .as_object()
        .into_iter()
        .chain(grid.as_object())
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    assert_eq!(refused(&filter(&both)), ["thresholds"]);
    let by_reward = json!({"objective": "reward_pass"});
    assert_eq!(refused(&search(&by_reward)), [""; 0]);
    assert_eq!(refused(&search(&json!({"objective": "reward_pass", "thresholds": [0]}))), [""; 0]);
    let wide = json!({"objective": "reward_pass", "thresholds": {"from": 0, "to": 1, "by": 0.5}});
    assert_eq!(refused(&search(&wide)), ["thresholds"]);
    assert_eq!(refused(&search(&json!({"rewards": []}))), ["rewards"]);
    let allocate = |above: f64, below: f64| {
        refused(&stage("allocate", json!({"queries": "q", "rewards": "r", "above": above, "below": below})))
    };
    assert_eq!(allocate(0.2, 0.8), [""; 0]);
    assert_eq!(allocate(0.8, 0.2), ["above"]);
    assert_eq!(refused(&stage("merge", json!({"policy": "p", "other": "o", "share": 1.5}))), ["share"]);
    assert_eq!(refused(&halving(&json!({"limits": [64, 32]}))), ["limits"]);
    assert_eq!(refused(&halving(&json!({"limits": [1, 2, 3]}))), ["limits"]);
    assert_eq!(refused(&halving(&json!({"n_star": null}))), ["n_star"]);
}

#[test]
fn by_reward_pass_a_search_has_a_version_of_its_own() {
    let versions = |objective: &str| {
        let search = search(&json!({"objective": objective}));
        let with = serde_json::to_value(&search).unwrap()["with"].clone();
        let halve = stage("halve", json!({"search": with, "keep": 1}));
        [search, halve].map(|stage| stage.stage().version())
    };
    assert_eq!((versions("balance"), versions("reward_pass")), ([1, 2], [2, 3]));
}

#[test]
fn halving_asks_half_of_the_temperatures_for_more() {
    let steps = halving(&json!({})).stage().lower("h").expect("steps");
    let names: Vec<(&str, &str)> = steps.iter().map(|(name, stage)| (name.as_str(), stage.name())).collect();
    assert_eq!(
        names,
        [
            ("h.sample1", "sample"),
            ("h.rewards1", "score"),
            ("h.halve1", "halve"),
            ("h.sample2_1", "sample"),
            ("h.rewards2_1", "score"),
            ("h.sample2_2", "sample"),
            ("h.rewards2_2", "score"),
            ("h", "search"),
        ]
    );
    let StageConfig::Sample(second) = &steps[5].1 else { panic!("a sample") };
    assert_eq!(second.temperature, OneOrMany::One(Setting::Reference("h.halve1.t2".into())));
    // The second rung finds the shards of the first.
    assert_eq!((second.limit, second.shard_queries), (Some(128), 64));
    let StageConfig::Search(search) = &steps[7].1 else { panic!("a search") };
    assert_eq!(search.rewards, References::Many(vec!["h.rewards2_1".into(), "h.rewards2_2".into()]));
    assert_eq!(steps[2].1.stage().outputs().len(), 3, "two temperatures and the surface");

    let single = halving(&json!({"limits": [64]})).stage().lower("h").expect("steps");
    assert_eq!(single.len(), 3);
}

#[test]
fn a_policy_can_be_measured_at_more_temperatures() {
    let with = json!({"policy": "p", "queries": "q", "samples": 8, "max_tokens": 9, "at": [0.7, "search.temperature"]});
    let steps = stage("evaluate", with.clone()).stage().lower("e").expect("steps");
    let names: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[4..], ["e.at0", "e.at0_rewards", "e.at1", "e.at1_rewards", "e"]);
    let StageConfig::Sample(chosen) = &steps[6].1 else { panic!("a sample") };
    assert_eq!(chosen.temperature, OneOrMany::One(Setting::Reference("search.temperature".into())));
    let inputs: Vec<String> = steps[8].1.stage().inputs().into_iter().map(|input| input.name).collect();
    assert_eq!(inputs, ["greedy", "rewards", "responses", "at0", "at1", "at_responses0", "at_responses1"]);
    let refused = |at: Value| refused(&with_changes("evaluate", with.clone(), &json!({"at": at})));
    assert_eq!(refused(json!([0])), ["at[0]"]);
    assert_eq!(refused(json!([0.7, 0.7])), ["at[1]"]);
}
