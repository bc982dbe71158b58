mod labels;
mod refused;
mod select;

use std::collections::HashSet;

use serde_json::{Value, json};

use super::score::Scale;
use crate::reference::{OneOrMany, Reference, Setting};
use crate::stage::{Piece, Runner, ShardInput, ShardSource, StageConfig};

fn stage(uses: &str, with: Value) -> StageConfig {
    StageConfig::parse(uses, with).expect("a stage").expect("its settings")
}

fn sample(changes: &Value) -> StageConfig {
    with_changes(
        "sample",
        json!({"policy": "p", "queries": "q", "temperature": 0.7, "samples": 32, "max_tokens": 46}),
        changes,
    )
}

fn with_changes(uses: &str, mut with: Value, changes: &Value) -> StageConfig {
    for (name, value) in changes.as_object().expect("an object") {
        with[name] = value.clone();
    }
    stage(uses, with)
}

fn training() -> Value {
    json!({"updates": 10, "batch": 4, "learning_rate": 0.01})
}

fn model() -> Value {
    json!({
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "max_position_embeddings": 128,
    })
}

fn halving(changes: &Value) -> StageConfig {
    let with = json!({"policy": "p", "queries": "q", "temperature": [0.5, 0.7, 0.9, 1.1], "limits": [64, 128],
        "samples": 4, "max_tokens": 9, "thresholds": {"from": 0, "to": 0, "by": 1}, "n_star": 8});
    with_changes("halving", with, changes)
}

/// One of each stage, all right.
fn all() -> Vec<StageConfig> {
    let [training, model] = [training(), model()];
    vec![
        stage(
            "problems",
            json!({"pretrain": 1, "flawed": 1, "sft": 1, "train": 1, "validation": 1, "test": 1}),
        ),
        stage("dataset", json!({"file": "f", "format": "gsm8k"})),
        stage("draw", json!({"queries": "q", "count": 3})),
        stage("prompts", json!({"rows": "q", "policy": "p", "variables": {"enable_thinking": false}})),
        stage("tokenizer", json!({"corpus": ["a", "b"], "kind": "words", "vocab_size": 256})),
        stage("pretrain", json!({"tokenizer": "t", "dataset": "d", "model": model, "training": training})),
        stage("sft", json!({"policy": "p", "dataset": "d", "optimizer": "o", "training": training})),
        sample(&json!({})),
        stage(
            "sample_shard",
            json!({
                "temperature": 0.7, "start": 0, "end": 4,
                "max_tokens": 9, "top_p": 1.0, "top_k": 0, "stop": [],
            }),
        ),
        stage("score", json!({"responses": "r", "queries": "q"})),
        stage("score_shard", json!({"grader": "math", "aggregate": null})),
        stage("search", json!({"rewards": "r", "thresholds": {"from": -1, "to": 1, "by": 0.1}, "n_star": 8})),
        stage(
            "filter",
            json!({"queries": "q", "responses": "r", "rewards": "s", "threshold": "search.threshold"}),
        ),
        halving(&json!({})),
        stage(
            "halve",
            json!({"search": {"rewards": ["a", "b"], "thresholds": {"from": 0, "to": 0, "by": 1}, "n_star": 8},
                "keep": 1}),
        ),
        stage("allocate", json!({"queries": "q", "rewards": "r", "temperature": "search.temperature"})),
        stage("merge", json!({"policy": "p", "other": "o"})),
        stage("evaluate", json!({"policy": "p", "queries": "q", "samples": 32, "max_tokens": 46})),
        stage("measure", json!({"greedy": "g"})),
        stage(
            "step_labels",
            json!({"policy": "p", "queries": "q", "solutions": 4, "completions": 4, "max_tokens": 46}),
        ),
        stage("prefixes", json!({"queries": "q", "responses": "r"})),
        stage("label_steps", json!({"prefixes": "p", "rewards": "r"})),
        stage("reward_model", json!({"policy": "p", "labels": "l", "training": training})),
        stage(
            "command",
            json!({"argv": ["./x", "{in.a}"], "inputs": {"a": "b"}, "outputs": ["r.txt", "d/"]}),
        ),
    ]
}

fn names(stage: &StageConfig) -> Vec<String> {
    stage.stage().inputs().into_iter().map(|input| input.name).collect()
}

/// The fields of the problems of a stage.
fn refused(stage: &StageConfig) -> Vec<String> {
    let problems = stage.stage().check();
    assert!(problems.iter().all(|problem| problem.hint.is_some()), "{problems:?}");
    problems.into_iter().map(|problem| problem.field).collect()
}

#[test]
fn every_stage_is_covered_and_right() {
    let all = all();
    let names: Vec<&str> = all.iter().map(StageConfig::name).collect();
    assert_eq!(names, StageConfig::NAMES);
    for stage in &all {
        assert_eq!(refused(stage), [""; 0], "{}", stage.name());
        let version = match stage.name() {
            "sample" | "sample_shard" | "sft" | "reward_model" => 6,
            "pretrain" => 5,
            "measure" => 4,
            "prompts" => 3,
            "halve" | "merge" => 2,
            _ => 1,
        };
        assert_eq!(stage.stage().version(), version, "{}", stage.name());
        assert!(!stage.stage().outputs().is_empty());
        assert!(stage.stage().cpu() >= 1);
    }
}

#[test]
fn halving_samples_and_scores_as_it_says() {
    let changes = json!({"reward_model": "m", "scale": "fifth", "unfinished": -5.0, "precision": "bfloat16",
        "reading": {"output": "logits"}, "conventions": {"units_ignored": true}});
    let StageConfig::Halving(config) = halving(&changes) else { panic!("a halving") };
    assert!(!config.conventions.is_default() && !config.reading.is_default());
    let steps = StageConfig::Halving(config.clone()).stage().lower("x").unwrap();
    for (_, step) in steps {
        match step {
            StageConfig::Sample(sample) => assert_eq!(sample.precision, config.precision),
            StageConfig::Score(score) => {
                assert_eq!((score.scale, score.unfinished), (Scale::Fifth, Some(-5.0)));
                assert_eq!((&score.reading, score.conventions), (&config.reading, config.conventions));
                assert_eq!(score.precision, config.precision);
            }
            _ => {}
        }
    }
    assert_eq!(refused(&halving(&json!({"aggregate": "product", "scale": "clamp"}))), ["aggregate"]);
}

#[test]
fn settings_survive_a_round_trip() {
    for stage in all() {
        let text = serde_json::to_string(&stage).unwrap();
        assert_eq!(serde_json::from_str::<StageConfig>(&text).unwrap(), stage);
    }
}

#[test]
fn stages_say_whether_they_have_settings() {
    for mut stage in all() {
        let has_settings = stage.stage().has_settings();
        assert!(has_settings || stage.stage_mut().settings().is_empty(), "{}", stage.name());
    }
}

#[test]
fn stages_that_draw_random_numbers_depend_on_the_seed() {
    let all = all();
    let seeded: Vec<&str> =
        all.iter().filter(|stage| stage.stage().seeded()).map(StageConfig::name).collect();
    assert_eq!(seeded, ["problems", "pretrain", "sft", "sample", "sample_shard", "reward_model"]);
}

#[test]
fn stages_without_a_runner_are_cut_or_stand_for_others() {
    let source = ShardSource { queries: 1, responses: vec!["t=1/q00000-00064.s0000-0016.jsonl".to_owned()] };
    for stage in all() {
        let inner = stage.stage();
        assert_eq!(inner.sharded(), inner.shards(&source).is_some());
        let nowhere = inner.runner() == Runner::None;
        assert_eq!(nowhere, inner.sharded() || inner.lower("x").is_some(), "{}", stage.name());
    }
}

#[test]
fn inputs_are_named_like_fields() {
    let all = all();
    let of = |name: &str| names(all.iter().find(|stage| stage.name() == name).expect("a stage"));
    assert_eq!(of("tokenizer"), ["corpus0", "corpus1"]);
    assert_eq!(of("sft"), ["policy", "dataset", "optimizer"]);
    assert_eq!(of("filter"), ["queries", "responses", "rewards"]);
    assert_eq!(of("command"), ["a"]);
    let sft = all.iter().find(|stage| stage.name() == "sft").expect("a stage");
    let optional: Vec<bool> = sft.stage().inputs().iter().map(|input| input.optional).collect();
    assert_eq!(optional, [false, false, true]);
}

#[test]
fn outputs_of_commands_are_their_paths() {
    let outputs =
        stage("command", json!({"argv": ["x"], "outputs": ["a/r.txt", "model/"]})).stage().outputs();
    let told: Vec<_> =
        outputs.iter().map(|output| (output.name.as_str(), output.path.as_str(), output.folder)).collect();
    assert_eq!(told, [("a/r.txt", "a/r.txt", false), ("model", "model", true)]);
}

#[test]
fn throughput_settings_are_no_identity() {
    let identity = |stage: &StageConfig| stage.stage().identity();
    let same = [
        (sample(&json!({})), sample(&json!({"shard_queries": 8, "shard_samples": 1}))),
        (sample(&json!({})), sample(&json!({"temperature": [0.7]}))),
        (sample(&json!({"temperature": [0.5, 1]})), sample(&json!({"temperature": [1.0, 0.5]}))),
        (
            stage("score", json!({"responses": "r", "queries": "q"})),
            stage("score", json!({"responses": "x", "queries": "y", "aggregate": "mean"})),
        ),
    ];
    for (one, other) in same {
        assert_eq!(identity(&one), identity(&other));
    }
    let train = |changes: &Value| {
        let mut training = training();
        for (name, value) in changes.as_object().unwrap() {
            training[name] = value.clone();
        }
        identity(&stage("sft", json!({"policy": "p", "dataset": "d", "training": training})))
    };
    assert_eq!(train(&json!({})), train(&json!({"checkpoint_every": 7})));
    assert_eq!(train(&json!({})), train(&json!({"muon_learning_rate": 0.5})));
    assert_ne!(
        train(&json!({"optimizer": "muon"})),
        train(&json!({"optimizer": "muon", "muon_learning_rate": 0.5}))
    );
    assert_ne!(train(&json!({})), train(&json!({"schedule": {"total": 20}})));
    let constant = |more: &Value| {
        let mut schedule = json!({"shape": "constant"});
        schedule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        train(&json!({"schedule": schedule}))
    };
    assert_eq!(constant(&json!({})), constant(&json!({"total": 20, "floor": 0.5})), "has no end");
    // Settings that only some pipelines have are in the identity only there.
    let lora = |changes: &Value| {
        let mut lora = json!({"rank": 4});
        lora.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        train(&json!({"lora": lora}))
    };
    for name in ["lora", "freeze", "moments", "precision", "micro_batch"] {
        assert!(!format!("{:?}", train(&json!({}))).contains(name), "{name}");
    }
    for same in [
        json!({"lora": null}),
        json!({"freeze": []}),
        json!({"moments": "fp32", "precision": "fp32"}),
        json!({"activation_checkpointing": true}),
    ] {
        assert_eq!(train(&json!({})), train(&same), "{same}");
    }
    assert_eq!(train(&json!({"moments": "bf16"})), train(&json!({"moments": "bfloat16"})));
    for other in [
        json!({"freeze": ["norms"]}),
        json!({"moments": "bf16"}),
        json!({"precision": "bf16"}),
        json!({"micro_batch": 512}),
    ] {
        assert_ne!(train(&json!({})), train(&other), "{other}");
    }
    assert_eq!(lora(&json!({})), lora(&json!({"alpha": 4})));
    assert_eq!(
        lora(&json!({"targets": ["q_proj", "v_proj"]})),
        lora(&json!({"targets": ["v_proj", "q_proj"]}))
    );
    let kinds = [
        json!({}),
        json!({"rank": 8}),
        json!({"alpha": 8}),
        json!({"targets": ["q_proj"]}),
        json!({"merge": false}),
    ];
    let kinds: HashSet<String> = kinds.iter().map(|kind| format!("{:?}", lora(kind))).collect();
    assert_eq!(kinds.len(), 5);
}

#[test]
fn adapters_are_an_output_and_the_policy_only_if_they_are_merged() {
    let names = |lora: Value| -> Vec<String> {
        let mut training = training();
        training["lora"] = lora;
        let stage = stage("sft", json!({"policy": "p", "dataset": "d", "training": training}));
        stage.stage().outputs().into_iter().map(|output| output.name).collect()
    };
    assert_eq!(names(Value::Null), ["policy", "optimizer", "log"]);
    assert_eq!(names(json!({"rank": 4})), ["policy", "adapter", "optimizer", "log"]);
    assert_eq!(names(json!({"rank": 4, "merge": false})), ["adapter", "optimizer", "log"]);
}

#[test]
fn settings_that_matter_are_identity() {
    let changes = [
        json!({}),
        json!({"temperature": 0.8}),
        json!({"samples": 64}),
        json!({"max_tokens": 47}),
        json!({"top_p": 0.9}),
        json!({"top_k": 5}),
        json!({"min_p": 0.1}),
        json!({"stop": ["x"]}),
        json!({"limit": 10}),
        json!({"logprobs": true}),
    ];
    let identities: HashSet<String> =
        changes.iter().map(|changes| format!("{:?}", sample(changes).stage().identity())).collect();
    assert_eq!(identities.len(), changes.len());
    let with = |reward_model: Value| json!({"responses": "r", "queries": "q", "reward_model": reward_model});
    assert_ne!(
        stage("score", with(Value::Null)).stage().identity(),
        stage("score", with(json!("rm"))).stage().identity()
    );
}

#[test]
fn numbers_and_texts_of_the_same_digits_are_told_apart() {
    let digits = ["9223372036854775807", "9223372036854775808", "18446744073709551615"];
    let mut values: Vec<Value> = digits.iter().map(|digits| serde_json::from_str(digits).unwrap()).collect();
    values.extend(digits.map(Value::from));
    values.extend([
        json!(-1),
        json!(18446744073709551615.0),
        json!({"unsigned": digits[2]}),
        json!([digits[2]]),
    ]);
    let identity = |value: &Value| {
        let command = stage("command", json!({"argv": ["x"], "outputs": ["r"], "params": {"id": value}}));
        command.stage().identity()
    };
    for (index, value) in values.iter().enumerate() {
        for other in &values[..index] {
            assert_ne!(identity(value), identity(other), "{value} and {other}");
        }
    }
}

#[test]
fn the_settings_that_may_be_references_can_be_set() {
    let mut sampled = sample(&json!({"temperature": "search.temperature"}));
    for (name, setting) in sampled.stage_mut().settings() {
        assert_eq!(name, "temperature");
        *setting = crate::Setting::Value(0.7);
    }
    assert_eq!(sampled, sample(&json!({})));
    assert!(sample(&json!({"temperature": [0.5, 0.7]})).stage_mut().settings().is_empty());
    let mut filter = all().into_iter().find(|stage| stage.name() == "filter").expect("a stage");
    assert_eq!(filter.stage_mut().settings()[0].0, "threshold");
    let mut draw = stage("draw", json!({"queries": "q", "count": 3}));
    let before = draw.stage().identity();
    draw.stage_mut().bind_iteration(2);
    assert_ne!(draw.stage().identity(), before);
}

/// The path, the range of samples and the rows of each shard.
type Cut = (String, (u32, u32), (usize, usize));

fn sample_shards(changes: &Value, queries: usize) -> Vec<Cut> {
    let shards =
        sample(changes).stage().shards(&ShardSource { queries, responses: Vec::new() }).expect("shards");
    let describe = |shard: &crate::Shard| {
        let StageConfig::SampleShard(config) = &shard.stage else { panic!("a sample shard") };
        assert_eq!(shard.inputs[0], ("policy".to_owned(), ShardInput::Whole("policy".to_owned())));
        let ("queries", ShardInput::Part(Piece::Rows { input, start, end })) =
            (shard.inputs[1].0.as_str(), &shard.inputs[1].1)
        else {
            panic!("rows of queries")
        };
        assert_eq!(input, "queries");
        (shard.path.clone(), (config.start, config.end), (*start, *end))
    };
    shards.iter().map(describe).collect()
}

#[test]
fn samples_are_cut_by_temperature_queries_and_samples() {
    let shards = sample_shards(&json!({"temperature": [1, 0.5], "samples": 20, "limit": 70}), 100);
    let expected = [
        ("responses/t=0.5/q00000-00064.s0000-0016.jsonl", (0, 16), (0, 64)),
        ("responses/t=0.5/q00000-00064.s0016-0020.jsonl", (16, 20), (0, 64)),
        ("responses/t=0.5/q00064-00070.s0000-0016.jsonl", (0, 16), (64, 70)),
        ("responses/t=0.5/q00064-00070.s0016-0020.jsonl", (16, 20), (64, 70)),
        ("responses/t=1/q00000-00064.s0000-0016.jsonl", (0, 16), (0, 64)),
        ("responses/t=1/q00000-00064.s0016-0020.jsonl", (16, 20), (0, 64)),
        ("responses/t=1/q00064-00070.s0000-0016.jsonl", (0, 16), (64, 70)),
        ("responses/t=1/q00064-00070.s0016-0020.jsonl", (16, 20), (64, 70)),
    ];
    assert_eq!(shards, expected.map(|(path, samples, rows)| (path.to_owned(), samples, rows)));
}

#[test]
fn more_samples_keep_the_shards_there_are() {
    let few = sample_shards(&json!({"samples": 32}), 100);
    let many = sample_shards(&json!({"samples": 64}), 100);
    assert!(few.iter().all(|shard| many.contains(shard)));
    assert_eq!(many.len(), 2 * few.len());
}

#[test]
fn greedy_draws_one_sample() {
    let shards = sample_shards(&json!({"temperature": 0, "samples": 1}), 10);
    assert_eq!(shards, [("responses/t=0/q00000-00010.s0000-0001.jsonl".to_owned(), (0, 1), (0, 10))]);
}

#[test]
fn scores_follow_the_files_of_the_responses() {
    let files = ["t=0.5/q00064-00070.s0000-0016.jsonl", "t=0.5/q00000-00064.s0000-0016.jsonl", "odd.jsonl"];
    let source = ShardSource { queries: 70, responses: files.map(str::to_owned).into() };
    let score = stage("score", json!({"responses": "r", "queries": "q", "reward_model": "m"}));
    let shards = score.stage().shards(&source).expect("shards");
    let rows: Vec<(&str, &ShardInput)> =
        shards.iter().map(|shard| (shard.path.as_str(), &shard.inputs[1].1)).collect();
    let range = |start, end| ShardInput::Part(Piece::Rows { input: "queries".to_owned(), start, end });
    assert_eq!(
        rows,
        [
            ("rewards/odd.jsonl", &range(0, 70)),
            ("rewards/t=0.5/q00000-00064.s0000-0016.jsonl", &range(0, 64)),
            ("rewards/t=0.5/q00064-00070.s0000-0016.jsonl", &range(64, 70)),
        ]
    );
    for shard in &shards {
        assert_eq!(shard.inputs.len(), 3);
        assert_eq!(shard.stage.stage().runner(), Runner::Worker);
    }
    let plain =
        stage("score", json!({"responses": "r", "queries": "q"})).stage().shards(&source).expect("shards");
    assert!(
        plain
            .iter()
            .all(|shard| shard.inputs.len() == 2 && shard.stage.stage().runner() == Runner::InProcess)
    );
}

#[test]
fn evaluations_stand_for_samples_rewards_and_a_measure() {
    let evaluate = |samples: u32| {
        let with = json!({
            "policy": "p", "queries": "q", "samples": samples, "sampled_queries": 80,
            "max_tokens": 46, "reward_model": "m",
        });
        stage("evaluate", with).stage().lower("e").expect("steps")
    };
    let steps = evaluate(32);
    let told: Vec<(&str, &str)> = steps.iter().map(|(name, stage)| (name.as_str(), stage.name())).collect();
    let expected = [
        ("e.greedy", "sample"),
        ("e.greedy_rewards", "score"),
        ("e.samples", "sample"),
        ("e.rewards", "score"),
        ("e", "measure"),
    ];
    assert_eq!(told, expected);
    let StageConfig::Sample(greedy) = &steps[0].1 else { panic!("a sample") };
    assert_eq!((greedy.samples, greedy.limit, greedy.temperature.values()), (1, None, Some(vec![0.0])));
    let StageConfig::Sample(sampled) = &steps[2].1 else { panic!("a sample") };
    assert_eq!(
        (sampled.samples, sampled.limit, sampled.temperature.values()),
        (32, Some(80), Some(vec![1.0]))
    );
    let StageConfig::Measure(measure) = &steps[4].1 else { panic!("a measure") };
    assert_eq!(
        (measure.rewards.clone(), measure.k.as_slice()),
        (Some(Reference::from("e.rewards")), [32].as_slice())
    );
    assert_eq!(names(&steps[1].1), ["responses", "queries"]);
    assert_eq!(names(&steps[3].1), ["responses", "queries", "reward_model"]);

    let greedy_only = evaluate(0);
    assert_eq!(greedy_only.len(), 3);
    assert_eq!(names(&greedy_only[2].1), ["greedy"]);
}

#[test]
fn step_labels_stand_for_solutions_and_continuations() {
    let with = json!({
        "policy": "p", "completer": "c", "queries": "q", "limit": 9,
        "solutions": 4, "completions": 8, "max_tokens": 46,
    });
    let steps = stage("step_labels", with).stage().lower("l").expect("steps");
    let told: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(told, ["l.solutions", "l.prefixes", "l.continuations", "l.rewards", "l"]);
    let StageConfig::Sample(solutions) = &steps[0].1 else { panic!("a sample") };
    assert_eq!((solutions.policy.0.as_str(), solutions.samples, solutions.limit), ("p", 4, Some(9)));
    let StageConfig::Sample(continuations) = &steps[2].1 else { panic!("a sample") };
    assert_eq!((continuations.policy.0.as_str(), continuations.queries.0.as_str()), ("c", "l.prefixes"));
    assert_eq!((continuations.samples, continuations.limit), (8, None));
}

#[test]
fn steps_that_others_stand_for_are_right_themselves() {
    for stage in all() {
        for (name, step) in stage.stage().lower("x").into_iter().flatten() {
            assert_eq!(refused(&step), [""; 0], "{name}");
        }
    }
}

#[test]
fn min_p_reaches_the_responses_of_evaluations_and_step_labels() {
    let of = |stage: &StageConfig| match stage {
        StageConfig::Sample(sample) => Some(sample.min_p),
        _ => None,
    };
    let found = |name: &str, settings: Value| -> Vec<f64> {
        let steps = stage(name, settings).stage().lower("x").unwrap();
        steps.iter().filter_map(|(_, stage)| of(stage)).collect()
    };
    let evaluate = json!({"policy": "p", "queries": "q", "samples": 4, "max_tokens": 9, "min_p": 0.1});
    assert_eq!(found("evaluate", evaluate), [0.0, 0.1]);
    let labels = json!({"policy": "p", "queries": "q", "solutions": 2, "completions": 3, "max_tokens": 9, "min_p": 0.1});
    assert_eq!(found("step_labels", labels), [0.1, 0.1]);
}
