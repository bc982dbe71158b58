//! The search and the selection against an independent implementation, `stages/tests/selection/make.py`,
//! and the options of later work.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::config::{Aggregate, Grader};

fn cases() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/selection/expected.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The rules of the published code, beside the grids.
fn official() -> Value {
    json!({"k_max": 64, "answered_only": true, "average": "selected", "ties": "first"})
}

fn world(world: &Value) -> (Vec<Query>, Vec<Response>, Vec<Reward>, Vec<Example>) {
    let queries: Vec<Query> = serde_json::from_value(world["queries"].clone()).unwrap();
    let references: Vec<Example> = serde_json::from_value(world["references"].clone()).unwrap();
    let (mut responses, mut rewards) = (Vec::new(), Vec::new());
    for row in world["responses"].as_array().unwrap() {
        let of = row["query_id"].as_str().unwrap();
        let sample = u32::try_from(row["sample_index"].as_u64().unwrap()).unwrap();
        let response = Response {
            temperature: row["temperature"].as_f64().unwrap(),
            ..response(of, sample, row["text"].as_str().unwrap())
        };
        let query = queries.iter().find(|query| query.id == of).unwrap();
        let exact = ScoreShard { grader: Grader::Exact, ..ScoreShard::new(None) };
        let mut reward = grade(query, &response, &exact).unwrap();
        let steps = row["steps"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap());
        add_model_scores(&mut reward, steps.collect(), Aggregate::Min).unwrap();
        rewards.push(reward);
        responses.push(response);
    }
    (queries, responses, rewards, references)
}

fn near(value: &Value, expected: &Value) -> bool {
    (value.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-9
}

#[test]
fn the_published_selection_is_reproduced() {
    for case in cases() {
        let expected = &case["official"];
        let (_, _, rewards, references) = world(&case["world"]);
        let mut bench = Bench::new();
        bench.give("rewards", &rewards);
        bench.give("references", &references);
        let grid = json!({"from": -1.0, "to": 0.99, "by": 0.01});
        let with = json!({"rewards": "r", "references": "e", "thresholds": grid, "n_star": 8,
            "keep_per_query": case["per_query"], "rules": official()});
        let chosen = bench.run("search", with).unwrap();
        assert_eq!(chosen["temperature"], expected["temperature"]);
        let surface: Vec<Value> = bench.rows("surface.jsonl");
        for best in expected["by_temperature"].as_array().unwrap() {
            let of = |row: &&Value| row["temperature"] == best["temperature"];
            let largest = surface.iter().filter(of).filter_map(|row| row["balance_score"].as_f64());
            assert!(near(&largest.fold(0.0, f64::max).into(), &best["score"]), "{best}");
            let row = surface.iter().filter(of).find(|row| row["threshold"] == best["tau"]).unwrap();
            assert!(near(&row["balance_score"], &best["score"]), "{row}");
            assert_eq!(row["kept"], best["kept"].as_array().unwrap().len());
        }

        // The threshold is searched again on all that was sampled.
        let again = &expected["again"];
        let (queries, responses, rewards, references) = world(&expected["full"]);
        bench.give("queries", &queries);
        bench.give("responses", &responses);
        bench.give("rewards", &rewards);
        bench.give("references", &references);
        let filter = json!({"queries": "q", "responses": "p", "rewards": "r", "references": "e", "threshold": 9,
            "keep_per_query": case["per_query"], "thresholds": grid, "n_star": 8, "rules": official()});
        let filter = StageConfig::parse("filter", filter).unwrap().unwrap();
        assert_eq!(filter.stage().check(), []);
        let steps = filter.stage().lower("filter").unwrap();
        assert_eq!(steps[0].0, "filter.search");
        let found = run(&steps[0].1, &bench.work).unwrap();
        assert_eq!(found["threshold"], again["tau"]);
        assert!(near(&found["balance_score"], &again["score"]));
        let mut filter = steps[1].1.clone();
        *filter.stage_mut().settings()[0].1 =
            crate::reference::Setting::Value(found["threshold"].as_f64().unwrap());
        let metrics = run(&filter, &bench.work).unwrap();
        if again["k"] != 64 {
            assert_eq!(metrics["k"], again["k"]);
        }
        let kept: BTreeSet<(String, String)> = bench
            .rows::<Example>("dataset.jsonl")
            .into_iter()
            .map(|row| (row.query_id.unwrap(), row.completion))
            .collect();
        let wanted: BTreeSet<(String, String)> = serde_json::from_value(again["kept"].clone()).unwrap();
        assert_eq!(kept, wanted);
    }
}

#[test]
fn the_papers_selection_is_reproduced() {
    for case in cases() {
        let (_, _, rewards, _) = world(&case["world"]);
        let mut bench = Bench::new();
        bench.give("rewards", &rewards);
        let with = json!({"rewards": "r", "thresholds": {"from": -1.0, "to": 1.0, "by": 0.1},
            "keep_per_query": case["paper"]["n_star"], "rules": {"select": "all", "n_i": "total"}});
        bench.run("search", with).unwrap();
        let surface: Vec<Value> = bench.rows("surface.jsonl");
        let expected = case["paper"]["surface"].as_array().unwrap();
        assert_eq!(surface.len(), expected.len());
        for (row, wanted) in surface.iter().zip(expected) {
            assert_eq!(
                (&row["temperature"], &row["threshold"], &row["kept"]),
                (&wanted[0], &wanted[1], &wanted[3])
            );
            assert!(near(&row["balance_score"], &wanted[2]), "{row} {wanted}");
        }

        // Of the main pass, every different response above the threshold.
        let (queries, responses, rewards, _) = world(&case["official"]["full"]);
        bench.give("queries", &queries);
        bench.give("responses", &responses);
        bench.give("rewards", &rewards);
        let mut sizes = BTreeSet::new();
        for kept in case["paper"]["kept"].as_array().unwrap() {
            let with = json!({"queries": "q", "responses": "p", "rewards": "r", "threshold": kept[0],
                "keep_per_query": case["paper"]["n_star"], "rules": {"select": "all"}});
            bench.run("filter", with).unwrap();
            let rows: Vec<Example> = bench.rows("dataset.jsonl");
            let found: BTreeSet<(String, String)> =
                rows.iter().map(|row| (row.query_id.clone().unwrap(), row.completion.clone())).collect();
            let wanted: BTreeSet<(String, String)> = serde_json::from_value(kept[1].clone()).unwrap();
            assert_eq!((&found, rows.len()), (&wanted, wanted.len()));
            sizes.insert(wanted.len());
        }
        assert!(sizes.len() >= 3, "thresholds that tell something: {sizes:?}");
    }
}

fn filter_with(bench: &Bench, more: Value) -> (Map<String, Value>, Vec<Example>) {
    let mut with = json!({"queries": "q", "responses": "r", "rewards": "s", "threshold": -10});
    with.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let metrics = bench.run("filter", with).unwrap();
    (metrics, bench.rows("dataset.jsonl"))
}

fn given(bench: &mut Bench) {
    let (queries, responses, rewards, _) = world(&cases()[0]["world"]);
    bench.give("queries", &queries);
    // One temperature, so that a sample is a sample.
    let responses: Vec<Response> = responses.into_iter().filter(|row| row.temperature == 0.5).collect();
    let rewards: Vec<Reward> = rewards.into_iter().filter(|row| row.temperature == 0.5).collect();
    bench.give("responses", &responses);
    bench.give("rewards", &rewards);
}

#[test]
fn the_best_of_each_query_are_kept_by_rank_alone() {
    let mut bench = Bench::new();
    given(&mut bench);
    let rules = json!({"rules": {"k_max": 2, "correct_only": true, "distinct_ranks": true}});
    let (metrics, rows) = filter_with(&bench, rules);
    assert_eq!(metrics["correct"], 1.0);
    assert!(metrics["kept"].as_u64() > metrics["covered"].as_u64());
    for row in &rows {
        let of_query: Vec<&Example> = rows.iter().filter(|other| other.query_id == row.query_id).collect();
        assert!(of_query.len() <= 2);
        assert!(of_query.is_sorted_by(|a, b| a.reward >= b.reward));
    }
}

#[test]
fn a_trimmed_selection_has_just_the_wanted_number() {
    let mut bench = Bench::new();
    given(&mut bench);
    let keep = |rules: Value| filter_with(&bench, json!({"keep_per_query": 2.6, "rules": rules}));
    let (loose, whole) = keep(json!({}));
    let (trimmed, cut) = keep(json!({"trim": true}));
    // 9 queries × 2.6, rounded up.
    assert_eq!(trimmed["kept"], 24);
    assert!(loose["kept"].as_u64() > Some(24) && loose["k"] == trimmed["k"]);
    assert!(cut.iter().all(|row| whole.contains(row)));
    let lowest = |rows: &[Example]| rows.iter().filter_map(|row| row.reward).fold(f64::INFINITY, f64::min);
    assert!(lowest(&cut) >= lowest(&whole));
}

#[test]
fn queries_that_teach_nothing_are_left_out() {
    let queries = [query("right", "7"), query("wrong", "7"), query("mixed", "7")];
    let answers =
        [("right", "7"), ("right", "7"), ("wrong", "1"), ("wrong", "2"), ("mixed", "7"), ("mixed", "8")];
    let rows = (0..)
        .zip(answers)
        .map(|(sample, (id, answer))| response(id, sample, &format!("{sample} {}", solution(answer))));
    let responses: Vec<Response> = rows.collect();
    let mut bench = Bench::new();
    bench.give("queries", &queries);
    bench.give("responses", &responses);
    bench.give("rewards", &judged(&responses, &queries));
    let (metrics, rows) = filter_with(&bench, json!({"rules": {"mixed_only": true}}));
    assert_eq!((metrics["kept"].clone(), metrics["queries"].clone()), (2.into(), 3.into()));
    assert!(rows.iter().all(|row| row.query_id.as_deref() == Some("mixed")));
}

#[test]
fn samples_of_all_temperatures_are_pooled_and_count_once() {
    let (queries, responses, rewards) = small();
    let hot: Vec<Response> = responses
        .iter()
        .map(|row| Response { temperature: 1.5, text: format!("hot {}", row.text), ..row.clone() })
        .collect();
    let mut bench = Bench::new();
    bench.give("queries", &queries);
    // The second item holds the first one's samples, as a search does that tried the chosen temperature.
    let both: Vec<Response> = responses.iter().chain(&hot).cloned().collect();
    bench.give("responses0", &responses);
    bench.give("responses1", &both);
    bench.give("rewards0", &rewards);
    bench.give("rewards1", &judged(&both, &queries));
    let lists = json!({"responses": ["a", "b"], "rewards": ["c", "d"], "threshold": 0});
    let (metrics, rows) = filter_with(&bench, lists);
    assert_eq!((metrics["sampled"].clone(), metrics["kept"].clone()), (8.into(), 4.into()));
    assert_eq!(rows.iter().filter(|row| row.completion.starts_with("hot")).count(), 2);

    bench.give("rewards1", &[rewards[0].clone(), rewards[0].clone()]);
    let with = json!({"queries": "q", "responses": ["a", "b"], "rewards": ["c", "d"], "threshold": 0});
    assert!(bench.run("filter", with).unwrap_err().message.contains("`rewards1` holds the same sample"));
}

#[test]
fn earlier_rows_follow_the_new_ones_once() {
    let (queries, responses, rewards) = small();
    let mut bench = Bench::new();
    bench.give("queries", &queries);
    bench.give("responses", &responses);
    bench.give("rewards", &rewards);
    let (_, new) = filter_with(&bench, json!({"threshold": 0.5}));
    let old = |index: usize| Example { completion: format!("old {index}"), ..new[0].clone() };
    let earlier: Vec<Example> = (0..10).map(old).chain([new[1].clone()]).collect();
    bench.give("replay", &earlier);
    let (metrics, rows) = filter_with(&bench, json!({"threshold": 0.5, "replay": "p"}));
    assert_eq!((metrics["kept"].clone(), metrics["replayed"].clone()), (2.into(), 10.into()));
    assert_eq!(rows[..2], new);
    assert_eq!(rows[2..], earlier[..10]);
    let (metrics, rows) = filter_with(&bench, json!({"threshold": 0.5, "replay": "p", "replay_ratio": 2.0}));
    assert_eq!((metrics["replayed"].clone(), rows.len()), (4.into(), 6));
}

#[test]
fn a_search_by_reward_pass_asks_whether_the_best_ranked_are_right() {
    let (_, _, rewards, _) = world(&cases()[0]["world"]);
    let mut bench = Bench::new();
    bench.give("rewards", &rewards);
    let with = json!({"rewards": "r", "thresholds": {"from": 0, "to": 0, "by": 1}, "n_star": 3,
        "objective": "reward_pass"});
    let chosen = bench.run("search", with.clone()).unwrap();
    let rows: Vec<Value> = bench.rows("surface.jsonl");
    let best = rows.iter().filter_map(|row| row["reward_pass"].as_f64()).fold(0.0, f64::max);
    assert_eq!(chosen["reward_pass"], best);
    let expected = |temperature: f64| {
        let ids: BTreeSet<&str> = rewards.iter().map(|reward| reward.query_id.as_str()).collect();
        let hits = ids.iter().filter(|id| {
            let of = |reward: &&Reward| reward.query_id == **id && reward.temperature == temperature;
            let mut own: Vec<&Reward> = rewards.iter().filter(of).collect();
            let model = |reward: &Reward| reward.reward - f64::from(u8::from(reward.correct));
            own.sort_by(|a, b| model(b).total_cmp(&model(a)));
            own.iter().take(2).any(|reward| reward.correct)
        });
        f64::from(u32::try_from(hits.count()).unwrap()) / 9.0
    };
    for row in &rows {
        assert!(near(&row["reward_pass"], &expected(row["temperature"].as_f64().unwrap()).into()), "{row}");
    }
    let plain: Vec<Reward> =
        rewards.into_iter().map(|reward| Reward { step_scores: None, ..reward }).collect();
    bench.give("rewards", &plain);
    assert!(bench.run("search", with).unwrap_err().message.contains("needs the scores of a reward model"));
}
