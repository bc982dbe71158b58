//! Published tokenizers give the ids that others found.

#[path = "support/shared.rs"]
mod shared;
#[path = "../../cache/tests-support/skipped.rs"]
mod skipped;

use std::path::PathBuf;

use bstar_lm::tokenizer::Tokenizer;
use serde::Deserialize;

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
