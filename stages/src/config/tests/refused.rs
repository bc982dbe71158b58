//! Settings that no stage accepts, and the fields that are named.

use super::*;

#[test]
fn sampling_out_of_range_is_refused() {
    let cases = [
        (json!({"temperature": -0.5}), vec!["temperature"]),
        (json!({"temperature": []}), vec!["temperature"]),
        (json!({"temperature": [0.5, 0.7, 0.5]}), vec!["temperature[2]"]),
        (json!({"temperature": [0.5, -1]}), vec!["temperature[1]"]),
        (json!({"temperature": 0}), vec!["temperature"]),
        (json!({"temperature": 0, "samples": 1}), vec![]),
        (json!({"temperature": "search.temperature"}), vec![]),
        (json!({"samples": 0}), vec!["samples"]),
        (json!({"max_tokens": 0}), vec!["max_tokens"]),
        (json!({"top_p": 0}), vec!["top_p"]),
        (json!({"top_p": 1.5}), vec!["top_p"]),
        (json!({"stop": [""]}), vec!["stop"]),
        (json!({"limit": 0}), vec!["limit"]),
        (json!({"shard_queries": 0, "shard_samples": 0}), vec!["shard_queries", "shard_samples"]),
    ];
    for (changes, fields) in cases {
        assert_eq!(refused(&sample(&changes)), fields, "{changes}");
    }
}

#[test]
fn selecting_out_of_range_is_refused() {
    let search = |thresholds: Value, changes: &Value| {
        with_changes("search", json!({"rewards": "r", "thresholds": thresholds, "n_star": 8}), changes)
    };
    let grid = || json!({"from": -1, "to": 1, "by": 0.1});
    assert_eq!(refused(&search(json!({"from": 1, "to": 0, "by": 0.1}), &json!({}))), ["thresholds.from"]);
    assert_eq!(refused(&search(json!({"from": 0, "to": 1, "by": 0}), &json!({}))), ["thresholds.by"]);
    assert_eq!(refused(&search(json!({"from": 0, "to": 1, "by": 1e-9}), &json!({}))), ["thresholds.by"]);
    assert_eq!(refused(&search(json!({"from": 0, "to": 1, "by": 0.3}), &json!({}))), ["thresholds.to"]);
    assert_eq!(refused(&search(json!([0.5, 0, 0.5]), &json!({}))), ["thresholds[2]"]);
    assert_eq!(refused(&search(json!([]), &json!({}))), ["thresholds"]);
    assert_eq!(refused(&search(json!([-0.2, 0, 0.2]), &json!({}))), [""; 0]);
    assert_eq!(refused(&search(grid(), &json!({"n_star": 0}))), ["n_star"]);
    assert_eq!(refused(&search(grid(), &json!({"n_star": null}))), ["n_star"]);
    assert_eq!(refused(&search(grid(), &json!({"n_star": null, "keep_per_query": 5.87}))), [""; 0]);
    assert_eq!(refused(&search(grid(), &json!({"keep_per_query": 0}))), ["keep_per_query"]);
    let filter =
        json!({"queries": "q", "responses": "r", "rewards": "s", "threshold": 0, "keep_per_query": -1});
    assert_eq!(refused(&stage("filter", filter)), ["keep_per_query"]);
}

#[test]
fn the_default_of_n_star_is_what_is_kept_rounded_up() {
    let with =
        json!({"rewards": "r", "thresholds": {"from": -1, "to": 1, "by": 0.1}, "keep_per_query": 5.87});
    let StageConfig::Search(search) = stage("search", with) else { panic!("a search") };
    assert_eq!(search.effective_n_star(), 6);
}

#[test]
fn thresholds_are_the_numbers_people_write() {
    let values = |from: f64, to: f64, by: f64| crate::config::Thresholds { from, to, by }.values();
    let grid = values(-1.0, 1.0, 0.1);
    assert_eq!(grid.len(), 21);
    assert_eq!((grid[0], grid[9], grid[10], grid[20]), (-1.0, -0.1, 0.0, 1.0));
    assert_eq!(values(-1.0, 1.0, 0.01).len(), 201);
    assert_eq!(values(0.5, 0.5, 0.1), [0.5]);
    assert_eq!(values(0.0, 1.0, 0.3), [0.0, 0.3, 0.6, 0.9]);
}

#[test]
fn training_out_of_range_is_refused() {
    let pretrain = |model_changes: &Value, training_changes: &Value| {
        let (mut model, mut training) = (model(), training());
        for (target, changes) in [(&mut model, model_changes), (&mut training, training_changes)] {
            for (name, value) in changes.as_object().unwrap() {
                target[name] = value.clone();
            }
        }
        refused(&stage(
            "pretrain",
            json!({"tokenizer": "t", "dataset": "d", "model": model, "training": training}),
        ))
    };
    let none = json!({});
    assert_eq!(pretrain(&json!({"num_attention_heads": 5}), &none), ["model.num_attention_heads"]);
    assert_eq!(pretrain(&json!({"num_attention_heads": 32}), &none), ["model.num_attention_heads"]);
    assert_eq!(pretrain(&json!({"num_key_value_heads": 2}), &none), ["model.num_key_value_heads"]);
    assert_eq!(pretrain(&json!({"hidden_size": 0}), &none), ["model.hidden_size"]);
    assert_eq!(pretrain(&json!({"hidden_size": 40}), &none), ["model.num_attention_heads"], "heads of 10");
    assert_eq!(pretrain(&none, &json!({"updates": 0, "batch": 0})), ["training.updates", "training.batch"]);
    assert_eq!(pretrain(&none, &json!({"learning_rate": -0.1})), ["training.learning_rate"]);
    assert_eq!(pretrain(&none, &json!({"muon_learning_rate": 0})), ["training.muon_learning_rate"]);
    assert_eq!(pretrain(&none, &json!({"clip": 0})), ["training.clip"]);
    assert_eq!(pretrain(&none, &json!({"betas": [0.9, 1]})), ["training.betas[1]"]);
    assert_eq!(pretrain(&none, &json!({"max_length": 129})), ["training.max_length"]);
    assert_eq!(pretrain(&none, &json!({"schedule": {"floor": 2}})), ["training.schedule.floor"]);
    assert_eq!(pretrain(&none, &json!({"schedule": {"warmup": 11}})), ["training.schedule.warmup"]);
    assert_eq!(pretrain(&none, &json!({"schedule": {"total": 0}})), ["training.schedule.total"]);
    assert_eq!(pretrain(&none, &json!({"micro_batch": 0})), ["training.micro_batch"]);
    assert_eq!(pretrain(&none, &json!({"freeze": ["head", "head"]})), ["training.freeze[1]"]);
    assert_eq!(pretrain(&none, &json!({"lora": {"rank": 2}})), ["training.lora"]);
    let lora = json!({"rank": 0, "alpha": 0, "targets": []});
    let all = ["rank", "alpha", "targets"].map(|name| format!("training.lora.{name}"));
    assert_eq!(pretrain(&none, &json!({"lora": lora}))[..3], all);
}

#[test]
fn commands_out_of_range_are_refused() {
    let command = |changes: &Value| {
        refused(&with_changes("command", json!({"argv": ["./x"], "outputs": ["r"]}), changes))
    };
    assert_eq!(command(&json!({"argv": []})), ["argv"]);
    assert_eq!(command(&json!({"argv": ["./x", "{in.a}"]})), ["argv"]);
    for name in ["", ".", "..", "../../evil", "/evil", "a/b", "file:x", "a}", "a b", "a\0", &"a".repeat(256)]
    {
        assert_eq!(command(&json!({"inputs": {name: "x.r"}})), [format!("inputs.{name}")]);
    }
    assert_eq!(command(&json!({"inputs": {"a-b": "x.r", "a_b": "x.r"}})), ["inputs.a_b"]);
    assert_eq!(command(&json!({"inputs": {"A": "x.r", "a": "x.r", "ab.c-d_2": "x.r", "é": "x.r"}})), [""; 0]);
    assert_eq!(
        command(&json!({"env": {"": "", "BSTAR_IN_X": "", "BSTAR_OUT": "/tmp"}})),
        ["env", "env.BSTAR_IN_X", "env.BSTAR_OUT"]
    );
    assert_eq!(command(&json!({"env": {"BSTAR": "1", "bstar_out": "2"}})), [""; 0]);
    assert_eq!(command(&json!({"outputs": []})), ["outputs"]);
    assert_eq!(command(&json!({"outputs": ["../r"]})), ["outputs[0]"]);
    assert_eq!(command(&json!({"outputs": ["/r"]})), ["outputs[0]"]);
    assert_eq!(command(&json!({"outputs": ["a", "a/"]})), ["outputs[1]"]);
    assert_eq!(command(&json!({"timeout": "soon"})), ["timeout"]);
    assert_eq!(command(&json!({"memory": "much"})), ["memory"]);
    let roomy = stage("command", json!({"argv": ["x"], "outputs": ["r"], "memory": "4GB"}));
    assert_eq!(roomy.stage().memory(), 4_000_000_000);
    assert_eq!(command(&json!({"cpu": 0})), ["cpu"]);
    for (text, seconds) in [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800)] {
        let StageConfig::Command(command) =
            stage("command", json!({"argv": ["x"], "outputs": ["r"], "timeout": text}))
        else {
            panic!("a command")
        };
        assert_eq!(command.time_limit().map(|limit| limit.as_secs()), Some(seconds));
    }
    for text in ["", "10", "m", "1m1h", "0s", "1.5h"] {
        assert_eq!(command(&json!({"timeout": text})), ["timeout"], "{text}");
    }
}

#[test]
fn other_settings_out_of_range_are_refused() {
    let evaluate = |changes: &Value| {
        let with = json!({"policy": "p", "queries": "q", "samples": 32, "max_tokens": 46});
        refused(&with_changes("evaluate", with, changes))
    };
    assert_eq!(evaluate(&json!({"k": [8, 64]})), ["k[1]"]);
    assert_eq!(evaluate(&json!({"k": [8, 8]})), ["k[1]"]);
    assert_eq!(evaluate(&json!({"temperature": 0})), ["temperature"]);
    assert_eq!(evaluate(&json!({"samples": 0})), [""; 0]);
    assert_eq!(evaluate(&json!({"samples": 1000})), [""; 0]);
    assert_eq!(evaluate(&json!({"samples": 1001})), ["samples"]);
    let problems = |steps: Value| {
        let with = json!({
            "pretrain": 1, "flawed": 1, "sft": 1, "train": 1, "validation": 1, "test": 1, "steps": steps,
        });
        refused(&stage("problems", with))
    };
    assert_eq!(problems(json!([])), ["steps"]);
    assert_eq!(problems(json!([3, 5])), ["steps[1]"]);
    assert_eq!(refused(&stage("draw", json!({"queries": "q", "count": 0}))), ["count"]);
    assert_eq!(
        refused(&stage("tokenizer", json!({"corpus": [], "kind": "bpe", "vocab_size": 0}))),
        ["corpus", "vocab_size"]
    );
}

#[test]
fn programs_are_judged_by_rules_that_fit() {
    let code = json!({"seconds": 2, "comparison": "strict"});
    let score = |extra: serde_json::Value| {
        let mut with = json!({"responses": "r", "queries": "q"});
        with.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        stage("score", with)
    };
    let good = score(json!({"grader": "code", "code": code}));
    assert_eq!(refused(&good), [""; 0]);
    assert_ne!(good.stage().identity(), score(json!({"grader": "code"})).stage().identity());
    let reckless = score(json!({"grader": "code", "code": {"unsafe_no_sandbox": true}}));
    assert_eq!(reckless.stage().identity(), score(json!({"grader": "code"})).stage().identity());
    assert_eq!(refused(&score(json!({"code": code}))), ["code"]);
    assert_eq!(refused(&score(json!({"grader": "code", "code": {"seconds": 0}}))), ["code.seconds"]);
    let plain = score(json!({})).stage().identity();
    assert_eq!(plain, score(json!({"code": {}})).stage().identity(), "keys of answers stay as they are");
}

#[test]
fn datasets_are_read_by_their_own_columns() {
    let dataset = |extra: serde_json::Value| {
        let mut with = json!({"file": "f", "format": "math"});
        with.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        stage("dataset", with)
    };
    let plain = dataset(json!({}));
    let same = dataset(json!({"prompt": "# Question\n\n{question}\n\n# Solution\n\n"}));
    assert_eq!(plain.stage().identity(), same.stage().identity(), "what is usual may be written");
    assert_eq!(refused(&dataset(json!({"prompt": "Solve!"}))), ["prompt"]);
    assert_eq!(refused(&dataset(json!({"columns": {"question": "q"}}))), ["columns.question"]);
    assert_eq!(refused(&dataset(json!({"limit": 0}))), ["limit"]);
}
