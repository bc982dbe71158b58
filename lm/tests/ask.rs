//! `bstar-lm model`: questions to a model, JSON lines in and out.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use bstar_lm::checkpoint::save_model;
use bstar_lm::config::ModelConfig;
use bstar_lm::initial::initial;
use bstar_lm::tokenizer::Tokenizer;
use bstar_stages::Reference;
use bstar_stages::config::{Architecture, Tokenizer as Settings, TokenizerKind};
use bstar_stages::record::Example;
use serde_json::{Value, json};
use tch::{Device, Kind};

/// A folder with an untrained model.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let row = Example {
        prompt: "one two three".to_owned(),
        completion: " four".to_owned(),
        query_id: None,
        sample_index: None,
        reward: None,
    };
    let settings = Settings {
        corpus: vec![Reference::from("c")],
        kind: TokenizerKind::Words,
        vocab_size: 50,
        markers: Default::default(),
    };
    let size = Tokenizer::train(&settings, &[row], folder.path()).unwrap();
    let shape = Architecture {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: None,
        max_position_embeddings: 32,
        tie_word_embeddings: true,
    };
    let config = ModelConfig::new(&shape, size, 1, Some(0)).unwrap();
    let model = folder.path().join("model");
    save_model(&model, &initial(config, 1, Device::Cpu), Kind::BFloat16, folder.path()).unwrap();
    folder
}

/// Exit code, lines of standard output, and standard error.
fn ask(arguments: &[&str], model: &Path, input: &str) -> (i32, Vec<Value>, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_bstar-lm"))
        .arg("model")
        .arg(arguments[0])
        .arg(model)
        .args(&arguments[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    drop(process.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = process.wait_with_output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (output.status.code().unwrap(), lines, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_model_tells_what_it_is() {
    let folder = model();
    let (code, lines, _) = ask(&["inspect", "--format", "json"], &folder.path().join("model"), "");
    assert_eq!(code, 0);
    let facts = &lines[0];
    assert_eq!(facts["family"], "llama");
    assert_eq!(facts["dtypes"], json!(["BF16"]));
    assert_eq!(facts["files"][0]["name"], "model.safetensors");
    let parameters = facts["parameters"].as_i64().unwrap();
    assert_eq!(facts["memory"]["training_float32"], 16 * parameters);
    assert_eq!(facts["config"]["dtype"], "bfloat16");
}

#[test]
fn tokens_logits_and_responses_fit_together() {
    let folder = model();
    let model = folder.path().join("model");
    let (_, lines, _) = ask(&["tokenize"], &model, "{\"text\": \"one two\"}\n\n{\"text\": \"\"}\n");
    assert_eq!(lines.len(), 2);
    let ids = lines[0]["ids"].as_array().unwrap().clone();
    assert!(ids.len() == 2 && lines[1] == json!({"ids": []}));

    let rows = format!("{}\n{}\n", json!({"ids": ids}), json!({"ids": [3]}));
    let (_, lines, _) = ask(&["logits"], &model, &rows);
    let logits: Vec<f64> = serde_json::from_value(lines[0]["logits"].clone()).unwrap();
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    let norm = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();

    let prompt = json!({"id": "a", "prompt": "one two", "more": 1}).to_string();
    let greedy = ["generate", "--temperature", "0", "--max-tokens", "5"];
    let (_, lines, _) = ask(&greedy, &model, &prompt);
    let response = &lines[0]["responses"][0];
    assert_eq!(response["ids"][0], best);
    assert!((response["logprobs"][0].as_f64().unwrap() - (logits[best] - norm)).abs() < 1e-4);
    let count = |field: &str| response[field].as_array().unwrap().len();
    assert!(count("ids") == count("logprobs") && count("ids") <= 5);

    let draw = |more: &[&str], input: &str| {
        let arguments = [&["generate", "--max-tokens", "4"], more].concat();
        ask(&arguments, &model, input).1
    };
    let few = draw(&["--samples", "2", "--seed", "7"], &prompt);
    let other = json!({"id": "b", "prompt": "three"}).to_string();
    let many = draw(&["--samples", "9", "--seed", "7"], &format!("{other}\n{prompt}\n"));
    assert_eq!(few[0]["responses"][1], many[1]["responses"][1], "samples do not depend on their company");
    assert_eq!(many[0]["responses"].as_array().unwrap().len(), 9);
}

#[test]
fn what_cannot_be_answered_is_explained() {
    let folder = model();
    let model = folder.path().join("model");
    for (arguments, input, expected) in [
        (
            &["logits"][..],
            "{\"ids\": [1]}\n{\"ids\": [1, 999]}\n",
            "line 2 of standard input: the row has the token 999",
        ),
        (&["logits"], "{\"ids\": []}", "is empty"),
        (&["logits"], "{\"text\": 1}", "line 1 of standard input: missing field `ids`"),
        (&["generate", "--temperature=-1"], "", "draw nothing"),
        (&["generate"], &json!({"prompt": "one ".repeat(40)}).to_string(), "reads at most 32"),
        (&["logits", "--device", "tpu"], "", "`tpu` is not a device"),
    ] {
        let (code, _, said) = ask(arguments, &model, input);
        assert!(code == 2 && said.starts_with("error: ") && said.contains(expected), "{code} {said}");
    }
    let (code, _, said) = ask(&["inspect"], Path::new("hf:nobody/nothing"), "");
    assert!(code == 2 && said.contains("hf download nobody/nothing"), "{said}");
    let (code, _, said) = ask(&["inspect"], folder.path(), "");
    assert!(code == 2 && said.contains("there is no model in"), "{said}");
}

/// Does something bad to a model.
type Damage<'a> = &'a dyn Fn(&Path);

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

#[test]
fn a_damaged_model_is_refused_with_what_is_wrong_and_where() {
    let folder = model();
    let good = folder.path().join("model");
    let config = |edit: fn(&mut Value)| {
        move |folder: &Path| {
            let path = folder.join("config.json");
            let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            edit(&mut json);
            std::fs::write(path, json.to_string()).unwrap();
        }
    };
    let cases: [(&str, Damage<'_>, &[&str]); 7] = [
        (
            "layers",
            &config(|json| json["num_hidden_layers"] = json!(1_000_000_000_000_000_000_i64)),
            &["config.json`: `num_hidden_layers` is 1000000000000000000; it must be at most 4096"],
        ),
        (
            "heads",
            &config(|json| json["num_attention_heads"] = json!(1_000_000_000_000_000_000_i64)),
            &["config.json`: `num_attention_heads` is 1000000000000000000; it must be at most 4096"],
        ),
        (
            "shape",
            &config(|json| json["intermediate_size"] = json!(48)),
            &[
                "tensor `model.layers.0.mlp.gate_proj.weight`",
                "has shape [64, 32]; config.json says [48, 32]",
            ],
        ),
        (
            "shard",
            &|folder| {
                std::fs::rename(folder.join("model.safetensors"), folder.join("a.safetensors")).unwrap();
                let map = json!({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}});
                std::fs::write(folder.join("model.safetensors.index.json"), map.to_string()).unwrap();
            },
            &["the shard `b.safetensors` is missing (1 of 2 are)", "hint: download the model again"],
        ),
        (
            "truncated",
            &|folder| {
                let path = folder.join("model.safetensors");
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
            },
            &["model.safetensors` is truncated or damaged", "hint: copy or download it again"],
        ),
        (
            "tokenizer",
            &|folder| {
                let path = folder.join("tokenizer.json");
                let text = std::fs::read_to_string(&path).unwrap();
                std::fs::write(path, text.replacen("\"one\": ", "\"one\": 9", 1)).unwrap();
            },
            &["the tokenizer in `", "the model knows only", "hint: the tokenizer and the weights"],
        ),
        ("family", &config(|json| json["model_type"] = json!("gpt2")), &["`model_type` is `gpt2`", "hint: "]),
    ];
    for (name, damage, expected) in cases {
        let broken = folder.path().join(name);
        copy(&good, &broken);
        damage(&broken);
        let (code, lines, said) = ask(&["generate"], &broken, "{\"prompt\": \"one\"}");
        assert!(code == 2 && lines.is_empty() && said.starts_with("error: "), "{name}: {code} {said}");
        assert!(expected.iter().all(|part| said.contains(part)), "{name}: {said}");
    }
}
