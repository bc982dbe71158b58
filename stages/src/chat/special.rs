//! The special tokens that a model's tokenizer has names for.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::files::read_object;
use crate::protocol::StageError;

/// The special tokens that templates know by name.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a class of tokenizers takes where a model's files say nothing.
const DEFAULTS: [(&str, &[(&str, &str)]); 5] = [
    ("LlamaTokenizer", &LLAMA),
    ("CodeLlamaTokenizer", &LLAMA),
    ("Qwen2Tokenizer", &[("unk_token", END), ("eos_token", END), ("pad_token", END)]),
    ("GPT2Tokenizer", &[("unk_token", END), ("bos_token", END), ("eos_token", END)]),
    (
        "GemmaTokenizer",
        &[
            ("unk_token", "<unk>"),
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
    ),
];
const LLAMA: [(&str, &str); 3] = [("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")];
const END: &str = "<|endoftext|>";

/// The special tokens by name, found where transformers finds them: the map goes first, which new writers'
/// configurations do without; then the configuration; then what the class has.
///
/// # Errors
/// When a file cannot be read.
pub fn special_tokens(folder: &Path) -> Result<Map<String, Value>, StageError> {
    let json = |file| read_object(&folder.join(file)).map(Option::unwrap_or_default);
    let config = json("tokenizer_config.json")?;
    let map = if config.contains_key("added_tokens_decoder") {
        Map::new()
    } else {
        json("special_tokens_map.json")?
    };
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let class = class.strip_suffix("Fast").unwrap_or(class);
    let defaults = DEFAULTS.iter().find(|(name, _)| *name == class).map_or(&[][..], |(_, tokens)| tokens);
    let token = |name: &str| match map.get(name).or_else(|| config.get(name)) {
        Some(token) => token.as_str().or_else(|| token.get("content")?.as_str()),
        None => defaults.iter().find(|(known, _)| *known == name).map(|(_, text)| *text),
    };
    Ok(NAMES.iter().filter_map(|name| Some(((*name).to_owned(), json!(token(name)?)))).collect())
}
