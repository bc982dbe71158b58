//! Bad input gets a clear error on one screen, the right exit code, and loses nothing.

use std::process::Command;

use crate::servers::skipped;
use crate::support::{Outcome, Space, results, tiny_results};

/// Runs tiny.yaml with `from` replaced by `to`.
fn edited(from: &str, to: &str) -> (Space, Outcome) {
    let space = Space::new();
    let file = space.path().join("pipelines/tiny.yaml");
    let text = std::fs::read_to_string(&file).expect("tiny.yaml");
    assert!(text.contains(from), "tiny.yaml has no `{from}`");
    std::fs::write(&file, text.replacen(from, to, 1)).expect("an edited file");
    let outcome = space.run(&["pipeline", "run", "tiny.yaml"]);
    (space, outcome)
}

/// The error names all of `words`, fits a screen, is a pipeline error, and nothing ran.
fn refuses(from: &str, to: &str, words: &[&str]) {
    let (space, outcome) = edited(from, to);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "`{word}` is not in:\n{}", outcome.stderr);
    }
    assert!(outcome.stderr.lines().count() <= 24, "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert!(!space.store().join("manifests").exists(), "something ran");
}

#[test]
fn unknown_key_names_the_line_and_the_likely_key() {
    refuses("n_star: 2", "nstar: 2", &["nstar", "did you mean `n_star`", "tiny.yaml:"]);
}

#[test]
fn wrong_type_names_the_line() {
    refuses("samples: 8\n      sampled", "samples: many\n      sampled", &["samples", "many", "tiny.yaml:"]);
}

#[test]
fn missing_reference_names_the_likely_one() {
    refuses("temperature: search.temperature", "temperature: serch.temperature", &["serch", "search"]);
}

#[test]
fn cycle_is_printed_whole() {
    refuses(
        "{policy: sft.policy, queries: problems.train, limit: 8",
        "{policy: reward_model.reward_model, queries: problems.train, limit: 8",
        &["need each other", "reward_model → labels"],
    );
    refuses(
        "      policy: pretrain.policy\n      dataset: problems.sft",
        "      policy: sft.policy\n      dataset: problems.sft",
        &["need", "sft"],
    );
}

#[test]
fn duplicate_stage_is_refused() {
    let again = "  tokenizer: {uses: draw, with: {queries: problems.train, count: 1}}\n  sft:\n    uses: sft";
    refuses(
        "  sft:\n    uses: sft",
        again,
        &["`tokenizer` is given twice", "tiny.yaml:", "remove or rename"],
    );
}

#[test]
fn temperatures_and_counts_out_of_range_are_refused() {
    refuses("temperature: [0.6, 1.0]", "temperature: [-0.6, 1.0]", &["temperature", "-0.6"]);
    refuses("temperature: [0.6, 1.0]", "temperature: [0, 1.0]", &["temperature", "0"]);
    refuses("samples: 4\n      max_tokens", "samples: 0\n      max_tokens", &["samples", "at least 1"]);
}

#[test]
fn what_is_no_device_is_refused_before_anything_runs() {
    let space = Space::new();
    let outcome = space.run(&["pipeline", "run", "tiny.yaml", "--device", "gpu"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`gpu` is not a device: use `cpu`, or `cuda:N`"), "{}", outcome.stderr);
    assert!(!space.store().exists(), "something ran");
}

#[test]
fn missing_input_file_is_named() {
    refuses("seed: 1\n", "seed: 1\ninputs: {queries: data/none.jsonl}\n", &["data/none.jsonl"]);
}

#[test]
fn files_that_are_no_pipelines_are_refused() {
    let space = Space::new();
    space.write("list.yaml", "- 1\n- 2\n");
    space.write("broken.yaml", "name: [unclosed\nsetup: {\n");
    std::fs::write(space.path().join("binary.yaml"), [0xff, 0xfe, 0x00, 0x80]).expect("a file");
    space.write("empty.yaml", "");
    for file in ["list.yaml", "broken.yaml", "binary.yaml", "empty.yaml", "absent.yaml"] {
        let outcome = space.run(&["pipeline", "run", file]);
        assert_eq!(outcome.code, Some(2), "{file}: {}", outcome.stderr);
        assert!(outcome.stderr.starts_with("error:") && outcome.stderr.contains(file), "{}", outcome.stderr);
    }
}

#[test]
fn several_problems_are_told_at_once() {
    let space = Space::new();
    let file = space.path().join("pipelines/tiny.yaml");
    let text = std::fs::read_to_string(&file).expect("tiny.yaml");
    let text = text.replacen("n_star: 2", "nstar: 2", 1).replacen("uses: tokenizer", "uses: tokenizr", 1);
    std::fs::write(&file, text).expect("an edited file");
    let outcome = space.run(&["pipeline", "check", "tiny.yaml"]);
    assert_eq!(outcome.code, Some(2));
    assert_eq!(outcome.stderr.matches("error:").count(), 2, "{}", outcome.stderr);
    let outcome = space.run(&["pipeline", "check", "tiny.yaml", "--format", "json"]);
    assert_eq!(outcome.code, Some(2));
    let answer: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(answer["problems"].as_array().map(Vec::len), Some(2), "{answer}");
    assert!(answer["problems"][0]["line"].is_number() && answer["problems"][0]["hint"].is_string());
}

#[test]
fn of_very_many_problems_the_first_are_told_and_the_others_counted() {
    let space = Space::new();
    let stages: String = (0..25).map(|number| format!("  s{number}: {{uses: tokenizr}}\n")).collect();
    space.write("many.yaml", &format!("name: many\nsetup:\n{stages}"));
    let outcome = space.run(&["pipeline", "check", "many.yaml"]);
    assert_eq!(outcome.code, Some(2));
    assert_eq!(outcome.stderr.matches("unknown stage `tokenizr`").count(), 20, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error: 5 more problems"), "{}", outcome.stderr);
    let outcome = space.run(&["pipeline", "check", "many.yaml", "--format", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(answer["problems"].as_array().map(Vec::len), Some(25), "{answer}");
}

/// A pipeline that samples from `model` on `queries`.
fn sampling(model: &str, queries: &str) -> String {
    format!(
        "name: bad\ninputs: {{model: {model}, queries: {queries}}}\nsetup:\n  responses:\n    uses: sample\n    \
         with: {{policy: model, queries: queries, temperature: 1, samples: 1, max_tokens: 4}}\n"
    )
}

#[test]
fn an_empty_dataset_is_refused() {
    let space = Space::new();
    space.write("empty.jsonl", "");
    std::fs::create_dir(space.path().join("model")).expect("a folder");
    space.write("model/config.json", "{}");
    space.write("bad.yaml", &sampling("model", "empty.jsonl"));
    let outcome = space.run(&["pipeline", "run", "bad.yaml"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("empty") || outcome.stderr.contains("no rows"), "{}", outcome.stderr);
}

#[test]
fn a_checkpoint_with_a_missing_tensor_names_it_and_loses_nothing() {
    let space = Space::with_tiny();
    let model = space.path().join("model");
    std::fs::create_dir(&model).expect("a folder");
    // The policy of the finished run, its weights replaced by a file that lacks most tensors.
    let shown: serde_json::Value =
        serde_json::from_str(&space.run(&["run", "show", "--format", "json"]).stdout).expect("JSON");
    assert!(shown["summary"]["results"]["setup.sft.policy"].is_string());
    for entry in manifests(&space) {
        if entry["provenance"]["step"] == "setup.sft" {
            for (path, artifact) in entry["outputs"].as_object().expect("outputs") {
                if let Some(name) = path.strip_prefix("policy/") {
                    let digest = artifact["digest"].as_str().expect("a digest");
                    let bytes =
                        std::fs::read(space.store().join("blobs").join(&digest[..2]).join(&digest[2..]));
                    std::fs::write(model.join(name), bytes.expect("a blob")).expect("a file");
                }
            }
        }
    }
    let header = br#"{"__metadata__":{"format":"pt"}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header);
    std::fs::write(model.join("model.safetensors"), weights).expect("weights");
    space.write("queries.jsonl", "{\"id\":\"q\",\"prompt\":\"1 + 1\",\"answer\":\"2\"}\n");
    space.write("bad.yaml", &sampling("model", "queries.jsonl"));
    let outcome = space.run(&["pipeline", "run", "bad.yaml"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("model.embed_tokens.weight"), "{}", outcome.stderr);
    assert_eq!(space.run(&["run", "watch"]).code, Some(2), "the exit code is the run's");
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert_eq!(results(&space.tiny(&[]).summary()), tiny_results());
}

fn manifests(space: &Space) -> Vec<serde_json::Value> {
    let folders = std::fs::read_dir(space.store().join("manifests")).expect("manifests").flatten();
    let files = folders.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten();
    files
        .map(|file| serde_json::from_slice(&std::fs::read(file.path()).expect("a file")).expect("JSON"))
        .collect()
}

#[test]
fn a_full_disk_is_a_store_error_and_the_run_goes_on_once_there_is_room() {
    let space = Space::new();
    let store = space.store();
    std::fs::create_dir(&store).expect("a folder");
    let mount = |options: &str| {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&store).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount("size=1m") {
        skipped("mounting a small file system needs root");
        return;
    }
    let full = space.run(&["pipeline", "run", "tiny.yaml"]);
    let grown = mount("remount,size=200m");
    let resumed = space.tiny(&[]);
    let unmounted =
        Command::new("umount").arg("-l").arg(&store).status().is_ok_and(|status| status.success());
    assert!(grown && unmounted);
    assert_eq!(full.code, Some(3), "{}", full.stderr);
    assert!(full.stderr.contains("disk is full"), "{}", full.stderr);
    assert_eq!(results(&resumed.summary()), tiny_results());
}

#[test]
fn a_training_run_that_diverges_fails_its_step_and_names_the_update() {
    let outcome =
        Space::with_tiny().run(&["pipeline", "run", "tiny.yaml", "setup.sft.training.learning_rate=1e30"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    for words in ["setup.sft", "training diverged at update 2", "lower the learning rate"] {
        assert!(outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
    }
}
