//! Models of the local Hugging Face cache.

use std::os::unix::fs::symlink;
use std::path::Path;

use bstar_cache::Digest;
use serde_json::Value;

use crate::support::{Outcome, Space};

/// Lays a model out as `huggingface_hub` does: files by content, and a snapshot of links to them.
fn cached(cache: &Path, name: &str, commit: &str, model: &Path) {
    let home = cache.join("hub").join(format!("models--{}", name.replace('/', "--")));
    let snapshot = home.join("snapshots").join(commit);
    for folder in [home.join("refs"), home.join("blobs"), snapshot.clone()] {
        std::fs::create_dir_all(folder).expect("a file");
    }
    std::fs::write(home.join("refs/main"), commit).expect("a file");
    for file in std::fs::read_dir(model).expect("a file") {
        let file = file.expect("a file").file_name();
        let blob = Digest::of_file(&model.join(&file)).expect("a file").to_string();
        std::fs::copy(model.join(&file), home.join("blobs").join(&blob)).expect("a file");
        symlink(Path::new("../../blobs").join(&blob), snapshot.join(&file)).expect("a file");
    }
}

/// A space with a model of tiny.yaml in a folder.
fn space_with_model() -> Space {
    let space = Space::with_tiny();
    let tiny = std::fs::read_to_string(space.path().join("pipelines/tiny.yaml")).expect("a file");
    let model = space.path().join("model");
    let export = format!(
        "  export:\n    uses: command\n    with:\n      argv: [sh, -c, 'cp -rL \"$1\" \"$2\" && touch \"$3/r\"', sh, \
         \"{{in.p}}\", \"{}\", \"{{out}}\"]\n      inputs: {{p: sft.policy}}\n      outputs: [r]\n\n  labels:\n",
        model.display()
    );
    space.write("pipelines/export.yaml", &tiny.replace("  labels:\n", &export));
    let exported = space.run(&["pipeline", "run", "export.yaml", "--format", "json"]).summary();
    assert_eq!(exported["executed"], 1, "{exported}");
    space
}

fn run(space: &Space, cache: &Path, model: &str) -> Outcome {
    space.write(
        "hub.yaml",
        &format!(
            "name: hub\nseed: 1\ninputs: {{base: \"{model}\"}}\nsetup:\n  problems:\n    uses: problems\n    \
             with: {{pretrain: 1500, flawed: 200, sft: 64, train: 128, validation: 16, test: 32, steps: [1]}}\n  \
             responses:\n    uses: sample\n    with: {{policy: base, queries: problems.test, limit: 4, \
             temperature: 0.7, samples: 2, max_tokens: 8}}\n  train:\n    uses: sft\n    with: {{policy: base, \
             dataset: problems.sft, training: {{updates: 2, batch: 4, learning_rate: 0.001}}}}\n"
        ),
    );
    let mut command = space.command(&["pipeline", "run", "hub.yaml", "--format", "json"]);
    Outcome::of(command.env("HF_HOME", cache).env_remove("HF_HUB_CACHE").output().expect("bstar starts"))
}

#[test]
fn a_model_of_the_cache_is_keyed_by_its_content() {
    let space = space_with_model();
    let model = space.path().join("model");
    let cache = space.path().join("hf");
    cached(&cache, "org/name", "0123abcd", &model);
    let executed = |summary: &Value| summary["executed_by_stage"].clone();
    let first = run(&space, &cache, "hf:org/name@main").summary();
    assert_eq!(executed(&first), serde_json::json!({"sample": 1, "sft": 1}), "{first}");

    // The same content by its commit, under another name, and in a plain folder.
    cached(&cache, "other/copy", "9999", &model);
    for name in ["hf:org/name@0123abcd", "hf:other/copy", "model"] {
        let again = run(&space, &cache, name).summary();
        assert_eq!(again["executed"], 0, "{name}: {again}");
        assert_eq!(again["results"], first["results"], "{name}");
    }

    // The branch moves on to other content.
    let generation = model.join("generation_config.json");
    let text = std::fs::read_to_string(&generation).expect("a file");
    std::fs::write(&generation, text.replace("true", "false")).expect("a file");
    cached(&cache, "org/name", "4567", &model);
    let moved = run(&space, &cache, "hf:org/name").summary();
    assert_eq!(executed(&moved), executed(&first), "{moved}");
    let old = run(&space, &cache, "hf:org/name@0123abcd").summary();
    assert_eq!(old["executed"], 0, "{old}");
}

#[test]
fn a_model_that_is_not_whole_in_the_cache_is_refused_before_anything_runs() {
    let space = Space::new();
    let cache = space.path().join("hf");
    let missing = run(&space, &cache, "hf:org/name@v1");
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
    assert!(missing.stderr.contains("hf download org/name --revision v1"), "{}", missing.stderr);
    let model = space.path().join("model");
    std::fs::create_dir(&model).expect("a file");
    std::fs::write(model.join("model.safetensors"), "x").expect("a file");
    cached(&cache, "org/name", "0123abcd", &model);
    std::fs::remove_dir_all(cache.join("hub/models--org--name/blobs")).expect("a file");
    let broken = run(&space, &cache, "hf:org/name");
    assert_eq!(broken.code, Some(2), "{}", broken.stderr);
    assert!(broken.stderr.contains("the download of org/name is incomplete"), "{}", broken.stderr);
}

#[test]
fn rows_are_asked_by_the_chat_template_of_a_model() {
    let space = space_with_model();
    space.write("model/chat_template.jinja", "{{ eos_token }}{{ messages[0].content }}{{ style }}: ");
    space.write("rows.jsonl", "{\"id\": \"a\", \"prompt\": \"one\", \"answer\": \"1\"}\n");
    space.write(
        "chat.yaml",
        "name: chat\nseed: 1\ninputs: {base: model, rows: rows.jsonl}\nsetup:\n  asked:\n    uses: prompts\n    \
         with: {rows: rows, policy: base, variables: {style: \"!\"}}\n  responses:\n    uses: sample\n    with: \
         {policy: base, queries: asked, temperature: 0.7, min_p: 0.1, samples: 2, max_tokens: 4}\n",
    );
    let run = || space.run(&["pipeline", "run", "chat.yaml", "--format", "json"]).summary();
    let first = run();
    assert_eq!(first["executed_by_stage"], serde_json::json!({"prompts": 1, "sample": 1}), "{first}");
    let digest = first["results"]["setup.asked.rows"].as_str().expect("a digest");
    let rows = space.run(&["cache", "cat", digest]);
    assert!(rows.stdout.contains("\"prompt\":\"<eos>one!: \",\"answer\":\"1\""), "{}", rows.stdout);
    assert_eq!(run()["executed"], 0);
    // A template that renders the same prompts changes nothing that follows.
    space.write("model/chat_template.jinja", "{{ eos_token }}{{ messages[0]['content'] + style }}: ");
    let again = run();
    assert_eq!(again["results"]["setup.asked.rows"], first["results"]["setup.asked.rows"]);
}
