//! Published tokenizers give the ids that others found.

#[path = "support/shared.rs"]
mod shared;
#[path = "../../cache/tests-support/skipped.rs"]
mod skipped;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use bstar_cache::Digest;
use bstar_lm::config::ModelConfig;
use bstar_lm::progress::Control;
use bstar_lm::steps::Kept;
use bstar_lm::tokenizer::Tokenizer;
use bstar_stages::protocol::{InputPath, Request};
use bstar_stages::stage::StageConfig;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Row {
    text: String,
    ids: Vec<i64>,
}

#[test]
fn published_tokenizers_give_exactly_their_ids() {
    let Some(folder) = shared::shared("tokenizers") else { return };
    let mut found = 0;
    let folders = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for folder in folders.filter(|path: &PathBuf| path.join("tokenizer.json").exists()) {
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let rows = std::fs::read_to_string(folder.join("expected_ids.jsonl")).unwrap();
        for row in rows.lines().map(|line| serde_json::from_str::<Row>(line).unwrap()) {
            let place = || format!("{}: {:?}", folder.display(), row.text);
            assert_eq!(tokenizer.encode(&row.text).unwrap(), row.ids, "{}", place());
            found += 1;
        }
    }
    assert_eq!(found, 3 * 217);
}

#[test]
fn a_new_model_knows_all_ids_of_its_tokenizer_where_some_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("tokenizer")).unwrap();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<eos>": 0, "a": 1, "<unk>": 2, "b": 9}},
    });
    std::fs::write(path("tokenizer/tokenizer.json"), tokenizer.to_string()).unwrap();
    let special = json!({"eos_token": "<eos>"}).to_string();
    std::fs::write(path("tokenizer/special_tokens_map.json"), special).unwrap();
    let row = json!({"prompt": "a ", "completion": "b b"}).to_string();
    std::fs::write(path("rows.jsonl"), format!("{row}\n{row}\n")).unwrap();
    let settings = json!({
        "tokenizer": "t", "dataset": "d", "training": {"updates": 1, "batch": 2, "learning_rate": 0.001},
        "model": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                  "num_attention_heads": 2, "max_position_embeddings": 64},
    });
    let inputs = [("tokenizer", path("tokenizer")), ("dataset", path("rows.jsonl"))];
    let input = |path: PathBuf| InputPath { digest: Digest::of(path.to_string_lossy().as_bytes()), path };
    let request = Request {
        id: 1,
        stage: StageConfig::parse("pretrain", settings).unwrap().unwrap(),
        inputs: inputs.map(|(name, path)| (name.to_owned(), input(path))).into(),
        output: path("output"),
        scratch: path("scratch"),
        log: path("log"),
        seed: 3,
        threads: 1,
        device: bstar_stages::Device::Cpu,
    };
    std::fs::create_dir(path("scratch")).unwrap();
    let stop = AtomicBool::new(false);
    drop(Kept::default().carry_out(&request, &mut Control::new(&stop, |_| ())).unwrap());
    assert_eq!(ModelConfig::read(&path("output/policy")).unwrap().vocab_size, 10);
}
