//! The worker as the engine sees it: a process that takes orders and reports.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../cache/tests-support/skipped.rs"]
mod skipped;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use bstar_cache::Digest;
use bstar_lm::checkpoint::save_model;
use bstar_lm::config::ModelConfig;
use bstar_lm::initial::initial;
use bstar_stages::protocol::{FailureKind, InputPath, Order, Report, Request};
use bstar_stages::stage::StageConfig;
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

struct Worker {
    process: Child,
    orders: Option<ChildStdin>,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bstar-lm"))
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take();
        let reports = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut worker = Self { process, orders, reports };
        let Report::Ready { version, .. } = worker.report() else { panic!("the worker does not greet") };
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        worker
    }

    fn say(&mut self, line: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{line}").unwrap();
    }

    fn report(&mut self) -> Report {
        serde_json::from_str(&self.reports.next().unwrap().unwrap()).unwrap()
    }

    fn order(&mut self, place: &Place, uses: &str, with: Value, inputs: &[(&str, &str)]) {
        let inputs = inputs.iter().map(|(name, path)| {
            let path = place.folder.path().join(path);
            ((*name).to_owned(), InputPath { digest: Digest::of(path.to_string_lossy().as_bytes()), path })
        });
        let request = Request {
            id: 7,
            stage: StageConfig::parse(uses, with).unwrap().unwrap(),
            inputs: inputs.collect::<BTreeMap<_, _>>(),
            output: place.folder.path().join(place.output),
            scratch: place.scratch(),
            log: place.folder.path().join(place.output).with_extension("log"),
            seed: 3,
            threads: 1,
            device: bstar_stages::Device::Cpu,
        };
        self.say(&serde_json::to_string(&Order::Run(Box::new(request))).unwrap());
    }

    fn end(&mut self) -> Result<Map<String, Value>, (FailureKind, String)> {
        loop {
            match self.report() {
                Report::Finished { id, metrics } => {
                    assert_eq!(id, 7);
                    return Ok(metrics);
                }
                Report::Failed { kind, message, .. } => return Err((kind, message)),
                _ => {}
            }
        }
    }
}

/// Where a step writes, below a folder for the whole test.
struct Place<'a> {
    folder: &'a tempfile::TempDir,
    output: &'a str,
}

impl Place<'_> {
    fn scratch(&self) -> PathBuf {
        self.folder.path().join(self.output).with_extension("scratch")
    }
}

fn write(path: PathBuf, rows: impl Iterator<Item = Value>) {
    std::fs::write(path, rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

fn data(folder: &Path) {
    let prompt = |number: usize| {
        format!("# Question\n\nAnn has {number} pens and buys {}.\n\n# Solution\n\n", number % 7)
    };
    let solution = |number: usize| {
        let (more, sum) = (number % 7, number + number % 7);
        [format!("{number} + {more} = {sum}\n\n"), format!("so {sum}\n\n# Answer\n\n{sum}")]
    };
    write(
        folder.join("examples.jsonl"),
        (0..50).map(|number| json!({"prompt": prompt(number), "completion": solution(number).concat()})),
    );
    write(
        folder.join("queries.jsonl"),
        (0..4).map(|number| {
            json!({"id": format!("q{number}"), "prompt": prompt(number), "answer": number.to_string()})
        }),
    );
    write(
        folder.join("labels.jsonl"),
        (0..20).map(|number| {
            json!({"query_id": number.to_string(), "prompt": prompt(number),
                   "steps": solution(number), "labels": [1.0, 0.25]})
        }),
    );
}

fn training(updates: usize) -> Value {
    json!({"updates": updates, "batch": 8, "learning_rate": 0.003, "optimizer": "muon",
           "schedule": {"shape": "linear", "total": 40}, "checkpoint_every": 5})
}

fn pretrain(updates: usize) -> Value {
    json!({"tokenizer": "t", "dataset": "d", "training": training(updates),
           "model": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "max_position_embeddings": 128}})
}

const INPUTS: [(&str, &str); 2] = [("tokenizer", "tokens/tokenizer"), ("dataset", "examples.jsonl")];

/// A folder with data and, in `tokens/tokenizer`, a tokenizer of that many tokens, and the worker that made it.
fn prepared(tokens: usize) -> (tempfile::TempDir, Worker) {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let mut worker = Worker::start();
    let tokenizer = json!({"corpus": ["c"], "kind": "bpe", "vocab_size": tokens});
    let place = Place { folder: &folder, output: "tokens" };
    worker.order(&place, "tokenizer", tokenizer, &[("corpus0", "examples.jsonl")]);
    worker.end().unwrap();
    (folder, worker)
}

#[test]
fn every_stage_runs_and_repeats_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let mut worker = Worker::start();
    let mut run = |output: &str, uses: &str, with: Value, inputs: &[(&str, &str)]| {
        worker.order(&Place { folder: &folder, output }, uses, with, inputs);
        worker.end().unwrap()
    };
    let markers = json!(["# Question\n\n", "\n\n# Solution\n\n", "\n\n# Answer\n\n"]);
    let tokenizer = json!({"corpus": ["c"], "kind": "words", "vocab_size": 100, "markers": markers});
    run("tokens", "tokenizer", tokenizer, &[("corpus0", "examples.jsonl")]);
    let metrics = run("pre", "pretrain", pretrain(20), &INPUTS);
    assert!(metrics["loss_last"].as_f64() < metrics["loss_first"].as_f64());

    let sft = json!({"policy": "p", "dataset": "d", "optimizer": "o", "training": training(10)});
    let inputs = [("policy", "pre/policy"), ("dataset", "examples.jsonl"), ("optimizer", "pre/optimizer")];
    run("sft", "sft", sft, &inputs);
    let state = std::fs::read_to_string(folder.path().join("sft/optimizer/state.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&state).unwrap()["updates"], 30);
    let log = std::fs::read_to_string(folder.path().join("sft/log.jsonl")).unwrap();
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(first["learning_rate"], 0.003 * 0.5, "the schedule goes on at half of its way");

    let sample = json!({"temperature": 0.9, "start": 0, "end": 3, "max_tokens": 30,
                        "top_p": 1.0, "top_k": 0, "stop": []});
    let inputs = [("policy", "sft/policy"), ("queries", "queries.jsonl")];
    let read = |path: &str| std::fs::read(folder.path().join(path)).unwrap();
    for output in ["one", "two"] {
        let metrics = run(output, "sample_shard", sample.clone(), &inputs);
        let responses = String::from_utf8(read(&format!("{output}/responses.jsonl"))).unwrap();
        let cut = responses.matches(r#""finish_reason":"length""#).count();
        assert_eq!((&metrics["responses"], &metrics["truncated"]), (&12.into(), &cut.into()));
    }
    assert_eq!(read("one/responses.jsonl"), read("two/responses.jsonl"));

    let labels = json!({"policy": "p", "labels": "l", "training": training(5)});
    run("prm", "reward_model", labels, &[("policy", "sft/policy"), ("labels", "labels.jsonl")]);
    let inputs = [
        ("reward_model", "prm/reward_model"),
        ("queries", "queries.jsonl"),
        ("responses", "one/responses.jsonl"),
    ];
    run("score", "score_shard", json!({"grader": "math", "aggregate": "min"}), &inputs);
    let rewards = String::from_utf8(read("score/rewards.jsonl")).unwrap();
    assert_eq!(rewards.lines().count(), 12);
    assert!(rewards.lines().all(|row| row.contains("step_scores")));
}

/// Needs an interpreter with torch and transformers, named in `BSTAR_PYTHON`.
#[test]
fn reward_models_of_transformers_score_as_there() {
    let Some(python) = std::env::var_os("BSTAR_PYTHON") else {
        skipped::skipped("BSTAR_PYTHON names no Python with torch and transformers");
        return;
    };
    let (folder, mut worker) = prepared(300);
    let place = |output| Place { folder: &folder, output };
    let queries = std::fs::read_to_string(folder.path().join("queries.jsonl")).unwrap();
    let queries: Vec<Value> = queries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let text = |number: usize| format!("{number} + 1 = {}\n\nso it is\n\n# Answer\n\n{number}", number + 1);
    let rows = (0..12).map(|number| (&queries[number % 4], text(number)));
    write(
        folder.path().join("rows.jsonl"),
        rows.clone().map(|(query, text)| json!({"prompt": query["prompt"], "response": text})),
    );
    write(
        folder.path().join("responses.jsonl"),
        rows.enumerate().map(|(number, (query, text))| {
            json!({"query_id": query["id"], "sample_index": number, "temperature": 1.0, "text": text, "tokens": 9,
                   "logprob": -1.0, "finish_reason": "stop"})
        }),
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reward.py");
    let output = Command::new(python)
        .arg(script)
        .arg(folder.path())
        .arg(folder.path().join("tokens/tokenizer"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<Value> = expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(expected.len(), 12);
    for (number, readout) in ["head", "logits"].into_iter().enumerate() {
        let inputs =
            [("reward_model", readout), ("queries", "queries.jsonl"), ("responses", "responses.jsonl")];
        let with = |output: &str| {
            json!({"grader": "math", "aggregate": "last", "scale": "fifth",
                   "reading": {"output": output, "encode": "response"}})
        };
        worker.order(&place(readout), "score_shard", with(readout), &inputs);
        worker.end().unwrap();
        let found = std::fs::read_to_string(folder.path().join(readout).join("rewards.jsonl")).unwrap();
        for (line, expected) in found.lines().zip(&expected) {
            let row: Value = serde_json::from_str(line).unwrap();
            let scores = row["step_scores"].as_array().unwrap();
            let off = scores[1].as_f64().unwrap() * 5.0 - expected[readout].as_f64().unwrap();
            assert!(scores.len() == 2 && off.abs() < 1e-4, "{readout}: {scores:?} {expected}");
        }
        let other = ["logits", "head"][number];
        worker.order(&place("none"), "score_shard", with(other), &inputs);
        let (kind, message) = worker.end().unwrap_err();
        assert_eq!(kind, FailureKind::Invalid, "{message}");
        assert!(message.contains(["no logits", "a policy, not a reward model"][number]), "{message}");
    }
}

#[test]
fn a_reward_model_that_does_not_fit_is_refused() {
    let (folder, mut worker) = prepared(300);
    let mut run = |output: &str, uses: &str, with: Value, inputs: &[(&str, &str)]| {
        worker.order(&Place { folder: &folder, output }, uses, with, inputs);
        worker.end()
    };
    run("pre", "pretrain", pretrain(1), &INPUTS).unwrap();
    let labels = json!({"policy": "p", "labels": "l", "training": training(1)});
    run("prm", "reward_model", labels.clone(), &[("policy", "pre/policy"), ("labels", "labels.jsonl")])
        .unwrap();
    let again = [("policy", "prm/reward_model"), ("labels", "labels.jsonl")];
    let (kind, message) = run("no", "reward_model", labels, &again).unwrap_err();
    assert!(kind == FailureKind::Invalid && message.contains("is a reward model, not a policy"), "{message}");

    let long = "1 + 1 = 2\n\n".repeat(50);
    write(
        folder.path().join("responses.jsonl"),
        [json!({"query_id": "q0", "sample_index": 0, "temperature": 1.0, "text": long, "tokens": 9, "logprob": -1.0,
                "finish_reason": "stop"})]
        .into_iter(),
    );
    let good = folder.path().join("prm/reward_model");
    let damaged = |name: &str, damage: &dyn Fn(&Path)| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        for entry in std::fs::read_dir(&good).unwrap() {
            let name = entry.unwrap().file_name();
            std::fs::copy(good.join(&name), path.join(&name)).unwrap();
        }
        damage(&path);
    };
    let replace = |path: &Path, file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(path.join(file)).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(path.join(file), text.replace(from, to)).unwrap();
    };
    damaged("shape", &|path| {
        replace(path, "config.json", "\"intermediate_size\": 64", "\"intermediate_size\": 48");
    });
    damaged("vocabulary", &|path| replace(path, "tokenizer.json", "\"a\": ", "\"a\": 9"));
    damaged("truncated", &|path| {
        let file = path.join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(file, &bytes[..bytes.len() - 9]).unwrap();
    });
    damaged("labels", &|path| {
        replace(path, "config.json", "\"0\": \"LABEL_0\"", "\"0\": \"a\", \"1\": \"b\"");
    });
    let mut score = |model: &str| {
        let inputs =
            [("reward_model", model), ("queries", "queries.jsonl"), ("responses", "responses.jsonl")];
        let (kind, message) =
            run("no", "score_shard", json!({"grader": "math", "aggregate": "min"}), &inputs).unwrap_err();
        assert_eq!(kind, FailureKind::Invalid, "{model}: {message}");
        message
    };
    for (model, expected) in [
        ("pre/policy", "the model is a policy, not a reward model"),
        ("prm/reward_model", "sample 0 of query `q0` at temperature 1 has "),
        ("prm/reward_model", " tokens, which do not fit into the reward model's 128"),
        ("shape", "has shape [64, 32]; config.json says [48, 32]"),
        ("truncated", "is truncated or damaged"),
        ("labels", "`id2label` has 2 labels"),
        ("nothing", "there is no model in"),
        ("vocabulary", "the model knows only"),
    ] {
        let message = score(model);
        assert!(message.contains(expected), "{model}: {message}");
    }
}

#[test]
fn what_a_reward_model_learns_and_reads_is_checked() {
    let (folder, mut worker) = prepared(300);
    let mut run = |output: &str, uses: &str, with: Value, inputs: &[(&str, &str)]| {
        worker.order(&Place { folder: &folder, output }, uses, with, inputs);
        worker.end()
    };
    run("pre", "pretrain", pretrain(1), &INPUTS).unwrap();
    let labels = |max_length: usize| {
        let mut training = training(1);
        training["max_length"] = max_length.into();
        json!({"policy": "p", "labels": "l", "training": training, "reading": {"at": "step"}})
    };
    run("prm", "reward_model", labels(128), &[("policy", "pre/policy"), ("labels", "labels.jsonl")]).unwrap();
    let row = |labels: Value| {
        json!({"query_id": "q7", "prompt": "?", "steps": ["1 + 1 = 2\n\n", "so 2"],
               "labels": labels})
    };
    write(folder.path().join("bad.jsonl"), [row(json!([1, 0.5])), row(json!([1, -1]))].into_iter());
    for (max_length, rows, expected) in [
        (128, "bad.jsonl", "label 2 of a solution of query `q7` is -1, not a number from 0 to 1"),
        (3, "bad.jsonl", " tokens, more than the 3 of a row"),
    ] {
        let inputs = [("policy", "pre/policy"), ("labels", rows)];
        let (kind, message) = run("no", "reward_model", labels(max_length), &inputs).unwrap_err();
        assert!(kind == FailureKind::Invalid && message.contains(expected), "{message}");
        assert!(message.contains("query `q7`"), "{message}");
    }

    let response = |query: &str| {
        json!({"query_id": query, "sample_index": 0, "temperature": 1.0, "text": "1 + 1 = 2\n\nso 2", "tokens": 9,
               "logprob": -1.0, "finish_reason": "stop"})
    };
    write(folder.path().join("known.jsonl"), std::iter::once(response("q0")));
    write(folder.path().join("unknown.jsonl"), std::iter::once(response("q99")));
    let mut score = |reading: Value, responses: &str| {
        let inputs =
            [("reward_model", "prm/reward_model"), ("queries", "queries.jsonl"), ("responses", responses)];
        let with = json!({"grader": "math", "aggregate": "min", "reading": reading});
        run("score", "score_shard", with, &inputs)
    };
    score(json!({"at": "step"}), "known.jsonl").unwrap();
    score(json!({"at": "step", "answer": false}), "known.jsonl").unwrap();
    for (reading, responses, expected) in [
        (
            json!({}),
            "known.jsonl",
            "was trained with `reading: {at: step}`, and is to be read with `at: blank_line`",
        ),
        (
            json!({"at": "step", "separator": ["\n", "\n"]}),
            "known.jsonl",
            r#"with `reading: {separator: []}`, and is to be read with `separator: ["\n","\n"]`"#,
        ),
        (json!({"at": "step"}), "unknown.jsonl", "a response answers query `q99`, which is not given"),
    ] {
        let (kind, message) = score(reading, responses).unwrap_err();
        assert!(kind == FailureKind::Invalid && message.contains(expected), "{message}");
    }
    // Models from elsewhere say nothing.
    std::fs::remove_file(folder.path().join("prm/reward_model/bstar_reading.json")).unwrap();
    score(json!({}), "known.jsonl").unwrap();
}

#[test]
fn a_stopped_step_goes_on_in_another_worker() {
    let (folder, mut worker) = prepared(300);
    let place = |output| Place { folder: &folder, output };
    worker.order(&place("straight"), "pretrain", pretrain(200), &INPUTS);
    worker.end().unwrap();

    worker.order(&place("again"), "pretrain", pretrain(200), &INPUTS);
    // The first report of progress comes with the first update.
    assert!(matches!(worker.report(), Report::Progress { .. }));
    worker.say(r#"{"order": "stop"}"#);
    let (kind, _) = worker.end().unwrap_err();
    assert_eq!(kind, FailureKind::Interrupted);
    assert!(!folder.path().join("again/policy").exists());

    let mut other = Worker::start();
    other.order(&place("again"), "pretrain", pretrain(200), &INPUTS);
    other.end().unwrap();
    for file in ["policy/model.safetensors", "optimizer/optimizer.safetensors", "log.jsonl"] {
        let read = |output: &str| std::fs::read(folder.path().join(output).join(file)).unwrap();
        assert_eq!(read("straight"), read("again"), "{file}");
    }
}

#[test]
fn errors_are_reported_and_the_worker_lives_on_until_its_input_ends() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let mut worker = Worker::start();
    worker.say("nonsense");
    assert!(matches!(worker.report(), Report::Log { .. }));
    for _ in 0..2 {
        worker.order(&Place { folder: &folder, output: "pre" }, "pretrain", pretrain(1), &INPUTS);
        let (kind, message) = worker.end().unwrap_err();
        assert_eq!(kind, FailureKind::Invalid);
        assert!(message.contains("tokenizer.json"), "{message}");
    }
    drop(worker.orders.take());
    assert!(worker.process.wait().unwrap().success());
}

#[test]
fn a_worker_that_is_left_alone_while_it_computes_ends_without_a_crash() {
    let (folder, mut worker) = prepared(300);
    for output in ["a", "b", "c"] {
        worker.order(&Place { folder: &folder, output }, "pretrain", pretrain(100_000), &INPUTS);
        assert!(matches!(worker.report(), Report::Progress { .. }));
        drop(worker.orders.take());
        assert!(worker.process.wait().unwrap().success());
        worker = Worker::start();
    }
}

/// A policy with grouped heads and biases, and a tokenizer it knows.
fn policy(folder: &Path, tokenizer: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/qwen2");
    let mut config = ModelConfig::read(&golden).unwrap();
    config.vocab_size = 300;
    let model = initial(config, 5, Device::Cpu);
    save_model(folder, &model, Kind::Float, tokenizer).unwrap();
}

/// The checkpoints that a step has at the moment.
fn checkpoints(place: &Place<'_>) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(place.scratch()).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.retain(|name| name.to_string_lossy().ends_with(".safetensors"));
    names.sort_unstable();
    names
}

#[test]
fn killed_training_ends_with_the_bits_of_training_that_was_not() {
    let (folder, mut worker) = prepared(280);
    let place = |output| Place { folder: &folder, output };
    policy(&folder.path().join("base"), &folder.path().join("tokens/tokenizer"));
    let inputs = [("policy", "base"), ("dataset", "examples.jsonl")];
    let lora = json!({"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]});
    let files = ["policy/model.safetensors", "optimizer/optimizer.safetensors", "log.jsonl"];
    for (straight, again, lora) in [("straight", "again", Value::Null), ("straight2", "again2", lora)] {
        let training = json!({"updates": 300, "batch": 8, "learning_rate": 0.003, "max_length": 128, "lora": lora,
                              "schedule": {"shape": "cosine", "warmup": 20}, "checkpoint_every": 2});
        let sft = json!({"policy": "p", "dataset": "d", "training": training});
        worker.order(&place(straight), "sft", sft.clone(), &inputs);
        worker.end().unwrap();
        for kill in 0..10 {
            let mut victim = Worker::start();
            victim.order(&place(again), "sft", sft.clone(), &inputs);
            let before = checkpoints(&place(again));
            // The first report comes with the first update of this process.
            assert!(matches!(victim.report(), Report::Progress { .. }));
            // Most are killed some time after a checkpoint of their own, however slow the disk is.
            while kill % 3 > 0 && checkpoints(&place(again)) == before {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            std::thread::sleep(std::time::Duration::from_millis(kill * 7919 % 61));
            victim.process.kill().unwrap();
            assert!(!victim.process.wait().unwrap().success());
            assert!(!folder.path().join(again).join("log.jsonl").exists(), "it was done before");
        }
        // It did go on, every time a checkpoint later than the last, and told so.
        let told = std::fs::read_to_string(folder.path().join(again).with_extension("log")).unwrap();
        let places: Vec<usize> = told
            .lines()
            .filter_map(|line| line.strip_prefix("goes on after update ")?.parse().ok())
            .collect();
        assert!(places.len() >= 5 && places.is_sorted(), "{places:?}");
        assert!(places.last() > Some(&10), "{places:?}");
        assert!(told.lines().any(|line| line.contains(" tok/s") && line.contains("gradient norm")), "{told}");
        worker.order(&place(again), "sft", sft, &inputs);
        worker.end().unwrap();
        let adapter = (!lora.is_null()).then_some("adapter/adapter_model.safetensors");
        for file in files.into_iter().chain(adapter) {
            let read = |output: &str| std::fs::read(folder.path().join(output).join(file)).unwrap();
            assert_eq!(read(straight), read(again), "{file}");
        }
    }
}
