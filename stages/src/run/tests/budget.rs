//! Which temperatures stay, and which queries are sampled more.

use serde_json::json;

use super::*;

/// Four responses a query, of which so many are right.
fn rewards(right: &[(&str, u32)], temperature: f64) -> Vec<Reward> {
    let mut rewards = Vec::new();
    for (id, right) in right {
        for sample in 0..4 {
            let answer = if sample < *right { "7" } else { "8" };
            let row = response(id, sample, &format!("{sample} {}", solution(answer)));
            rewards.extend(judged(&[Response { temperature, ..row }], &[query(id, "7")]));
        }
    }
    rewards
}

#[test]
fn queries_solved_now_and_then_are_chosen() {
    let mut bench = Bench::new();
    bench.give("queries", &["a", "b", "c", "d", "e"].map(|id| query(id, "7")));
    bench.give("rewards", &rewards(&[("e", 3), ("d", 2), ("c", 1), ("a", 4), ("b", 0)], 1.0));
    let chosen = |with: Value| {
        let metrics = bench.run("allocate", with).unwrap();
        let ids: Vec<String> =
            bench.rows::<Query>("queries.jsonl").into_iter().map(|query| query.id).collect();
        assert_eq!(metrics["queries"], ids.len());
        ids
    };
    assert_eq!(chosen(json!({"queries": "q", "rewards": "r"})), ["c", "d", "e"]);
    assert_eq!(chosen(json!({"queries": "q", "rewards": "r", "count": 1})), ["d"]);
    assert_eq!(chosen(json!({"queries": "q", "rewards": "r", "below": 0.6})), ["c", "d"]);
    let none =
        bench.run("allocate", json!({"queries": "q", "rewards": "r", "temperature": 0.5})).unwrap_err();
    assert!(none.message.contains("no query has a share"), "{none}");
}

#[test]
fn the_best_temperatures_stay_in_their_order() {
    let mut bench = Bench::new();
    bench.give("rewards0", &rewards(&[("a", 1), ("b", 1)], 0.5));
    bench.give("rewards1", &rewards(&[("a", 2), ("b", 3)], 1.2));
    bench.give("rewards2", &rewards(&[("a", 3), ("b", 3)], 0.9));
    let with = |keep: usize| {
        let search =
            json!({"rewards": ["x", "y", "z"], "thresholds": {"from": 0, "to": 0, "by": 1}, "n_star": 4});
        json!({"search": search, "keep": keep})
    };
    assert_eq!(bench.run("halve", with(2)).unwrap()["temperatures"], json!([0.9, 1.2]));
    assert_eq!(fs::read_to_string(bench.work.path("t1.json")).unwrap(), "0.9\n");
    assert_eq!(fs::read_to_string(bench.work.path("t2.json")).unwrap(), "1.2\n");
    let surface = fs::read_to_string(bench.work.path("surface.jsonl")).unwrap();
    assert_eq!(surface.lines().count(), 3, "what was compared, not what stayed: {surface}");
    assert!(bench.run("halve", with(4)).unwrap_err().message.contains("there are 3"));
}
