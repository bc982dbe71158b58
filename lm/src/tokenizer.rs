//! Training a tokenizer, and turning text into tokens and back.

use std::ffi::OsStr;
use std::path::Path;

use bstar_stages::chat::special_tokens;
use bstar_stages::config::{Tokenizer as Settings, TokenizerKind};
use bstar_stages::protocol::StageError;
use bstar_stages::record::Example;
use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordlevel::{WordLevel, WordLevelTrainer};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as Inner};

use crate::checkpoint::write_json;
use crate::error::{Result, io, tokenizers};

/// Tokens with ids 0, 1 and 2.
const SPECIAL: [&str; 3] = ["<pad>", "<eos>", "<unk>"];

/// A digit, a word or a run of punctuation, each with the space before it; a blank line; one other
/// white-space character. Every text is a sequence of these.
const PIECE: &str = r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\n\n|\s";

/// Rows a tokenizer learns from: more add nothing but time.
const MAX_ROWS: usize = 20_000;

/// The files that make up a tokenizer in a Hugging Face folder; only the first must exist.
const FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
];
/// The folder of chat templates that have names, files that end in `.jinja`.
const TEMPLATES: &str = "additional_chat_templates";

/// Turns text into tokens and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    /// The token that ends a text.
    pub eos: Option<i64>,
    /// The token for padding.
    pub pad: Option<i64>,
    /// The tokens of a line break, where the first of them is a space that is put before every text.
    spaced_line: Option<[i64; 2]>,
}

impl Tokenizer {
    /// Reads the tokenizer of a folder.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing or malformed.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let mut inner = Inner::from_file(&path).map_err(|error| {
            StageError::invalid(format!("cannot read the tokenizer `{}`: {error}", path.display())).hint(
                if path.exists() {
                    "download it again, or write it with `save_pretrained` of a fast tokenizer"
                } else {
                    "a model needs its tokenizer as one file: `save_pretrained` of a fast tokenizer writes it"
                },
            )
        })?;
        // What their writers had set for single calls: transformers resets both before every call.
        inner.with_padding(None).with_truncation(None).map_err(tokenizers("read the tokenizer"))?;
        let tokens = special_tokens(folder)?;
        let special = |name: &str| inner.token_to_id(tokens.get(name)?.as_str()?).map(i64::from);
        let (eos, pad) = (special("eos_token"), special("pad_token"));
        let mut tokenizer = Self { inner, eos, pad, spaced_line: None };
        if let [space, line] = tokenizer.encode("\n")?[..]
            && tokenizer.encode("\n\n")? == [space, line, line]
        {
            tokenizer.spaced_line = Some([space, line]);
        }
        Ok(tokenizer)
    }

    /// Learns a tokenizer from examples and writes it into `folder`. The same rows make the same bytes.
    ///
    /// # Errors
    /// When there is nothing to learn from, the vocabulary is too small, or a file cannot be written.
    pub fn train(settings: &Settings, rows: &[Example], folder: &Path) -> Result<usize> {
        if rows.is_empty() {
            return Err(StageError::invalid("the corpus of the tokenizer is empty"));
        }
        let size = settings.vocab_size.saturating_sub(settings.markers.len());
        let least = SPECIAL.len() + if settings.kind == TokenizerKind::Bpe { 256 } else { 1 };
        if size < least {
            let message = format!("`vocab_size` is {}: too small", settings.vocab_size);
            let hint = format!("use at least {}", least + settings.markers.len());
            return Err(StageError::invalid(message).hint(hint));
        }
        tokenizers::utils::parallelism::set_parallelism(false);
        let texts = corpus(rows, &settings.markers);
        let split = Split::new(SplitPattern::Regex(PIECE.into()), SplitDelimiterBehavior::Isolated, false)
            .map_err(tokenizers("make the pre-tokenizer"))?;
        let special: Vec<AddedToken> = SPECIAL.map(|text| AddedToken::from(text, true)).to_vec();
        let (mut inner, mut trainer): (Inner, TrainerWrapper) = match settings.kind {
            TokenizerKind::Words => {
                let unk = WordLevel::builder().unk_token(SPECIAL[2].to_owned()).build();
                let mut inner = Inner::new(unk.map_err(tokenizers("make the tokenizer"))?);
                inner.with_pre_tokenizer(Some(split)).with_decoder(Some(Fuse::default()));
                let trainer = WordLevelTrainer::builder()
                    .vocab_size(size)
                    .show_progress(false)
                    .special_tokens(special)
                    .build()
                    .map_err(|error| tokenizers("make the trainer")(error.into()))?;
                (inner, trainer.into())
            }
            TokenizerKind::Bpe => {
                let mut inner = Inner::new(BPE::default());
                let bytes = ByteLevel::new(false, false, false);
                let pieces: Vec<PreTokenizerWrapper> = vec![split.into(), bytes.into()];
                inner.with_pre_tokenizer(Some(Sequence::new(pieces))).with_decoder(Some(bytes));
                let trainer = BpeTrainer::builder()
                    .vocab_size(size)
                    .show_progress(false)
                    .special_tokens(special)
                    .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                    .build();
                (inner, trainer.into())
            }
        };
        inner.train(&mut trainer, texts.into_iter()).map_err(tokenizers("train the tokenizer"))?;
        let markers =
            settings.markers.iter().map(|text| AddedToken::from(text.clone(), false).normalized(false));
        inner.add_tokens(markers).map_err(tokenizers("add the markers"))?;

        std::fs::create_dir_all(folder).map_err(io("create", folder))?;
        let path = folder.join("tokenizer.json");
        inner.save(&path, true).map_err(tokenizers("write tokenizer.json"))?;
        let [pad, eos, unk] = SPECIAL;
        let map = json!({"eos_token": eos, "pad_token": pad, "unk_token": unk});
        write_json(&folder.join("special_tokens_map.json"), &map)?;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "pad_token": pad,
            "unk_token": unk,
            "clean_up_tokenization_spaces": false,
            "model_max_length": 1_000_000_000,
        });
        write_json(&folder.join("tokenizer_config.json"), &config)?;
        Ok(inner.get_vocab_size(true))
    }

    /// Number of tokens.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Rows of an embedding for all tokens: more than there are tokens where ids are left out.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.last().and_then(|(_, id)| usize::try_from(id + 1).ok()).unwrap_or(0)
    }

    /// The token with the greatest id.
    #[must_use]
    pub fn last(&self) -> Option<(String, i64)> {
        let all = self.inner.get_vocab(true).into_iter();
        all.max_by_key(|(_, id)| *id).map(|(token, id)| (token, i64::from(id)))
    }

    /// The tokens of a text, without any added at its ends.
    ///
    /// # Errors
    /// When the library refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = self.inner.encode_fast(text, false).map_err(tokenizers("encode a text"))?;
        Ok(encoding.get_ids().iter().map(|id| i64::from(*id)).collect())
    }

    /// The tokens of a text that goes on from another. Some tokenizers, as those of Llama 2 and Mistral, put a space
    /// before whatever they are given: for them such a text is encoded behind a line break, and its tokens are taken off
    /// again, as the official code does.
    ///
    /// # Errors
    /// When the library refuses the text.
    pub fn encode_continued(&self, text: &str) -> Result<Vec<i64>> {
        if let Some(line) = self.spaced_line {
            let ids = self.encode(&format!("\n{text}"))?;
            if let Some(rest) = ids.strip_prefix(&line) {
                return Ok(rest.to_vec());
            }
        }
        self.encode(text)
    }

    /// The tokens of a text as [`Tokenizer::encode_continued`] gives them, and the byte of the text where each begins.
    ///
    /// # Errors
    /// When the library refuses the text.
    pub fn continued_places(&self, text: &str) -> Result<(Vec<i64>, Vec<usize>)> {
        if let Some(line) = self.spaced_line {
            let (ids, starts) = self.encode_places(&format!("\n{text}"))?;
            if let Some(rest) = ids.strip_prefix(&line) {
                let starts = starts[line.len()..].iter().map(|start| start.saturating_sub(1));
                return Ok((rest.to_vec(), starts.collect()));
            }
        }
        self.encode_places(text)
    }

    /// The tokens of a text as [`Tokenizer::encode`] gives them, and the byte of the text where each begins.
    ///
    /// # Errors
    /// When the library refuses the text.
    pub fn encode_places(&self, text: &str) -> Result<(Vec<i64>, Vec<usize>)> {
        let encoding = self.inner.encode(text, false).map_err(tokenizers("encode a text"))?;
        let ids = encoding.get_ids().iter().map(|id| i64::from(*id)).collect();
        Ok((ids, encoding.get_offsets().iter().map(|(start, _)| *start).collect()))
    }

    /// The special token with just this text.
    #[must_use]
    pub fn special(&self, text: &str) -> Option<i64> {
        let special = self.inner.get_added_vocabulary().is_special_token(text);
        special.then(|| self.inner.token_to_id(text).map(i64::from)).flatten()
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// When the library refuses the tokens.
    pub fn decode(&self, ids: &[i64]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
        self.inner.decode(&ids, true).map_err(tokenizers("decode tokens"))
    }
}

/// The texts to learn from: rows taken evenly, cut at the markers, which are tokens anyway.
fn corpus(rows: &[Example], markers: &[String]) -> Vec<String> {
    let step = rows.len().div_ceil(MAX_ROWS);
    let mut texts = Vec::new();
    for row in rows.iter().step_by(step) {
        let text = format!("{}{}", row.prompt, row.completion);
        let mut rest = text.as_str();
        while let Some((start, length)) = first_marker(rest, markers) {
            texts.push(rest[..start].to_owned());
            rest = &rest[start + length..];
        }
        texts.push(rest.to_owned());
    }
    texts.retain(|text| !text.is_empty());
    texts
}

/// The first marker in a text, the longest of several at one place: where, and how long.
fn first_marker(text: &str, markers: &[String]) -> Option<(usize, usize)> {
    let found = markers.iter().filter(|marker| !marker.is_empty());
    found
        .filter_map(|marker| Some((text.find(marker.as_str())?, marker.len())))
        .min_by_key(|(start, length)| (*start, usize::MAX - length))
}

/// Copies the tokenizer of one folder into another.
///
/// # Errors
/// When `from` has none, or a file cannot be written.
pub fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for (index, name) in FILES.iter().enumerate() {
        let source = from.join(name);
        if index == 0 || source.exists() {
            copy(&source, &to.join(name))?;
        }
    }
    let (source, target) = (from.join(TEMPLATES), to.join(TEMPLATES));
    if !source.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(&target).map_err(io("create", &target))?;
    for entry in std::fs::read_dir(&source).map_err(io("read", &source))? {
        let path = entry.map_err(io("read", &source))?.path();
        if let (Some(name), Some("jinja")) = (path.file_name(), path.extension().and_then(OsStr::to_str)) {
            copy(&path, &target.join(name))?;
        }
    }
    Ok(())
}

/// Not `fs::copy`: the source may be read-only, and the copy must not be.
fn copy(source: &Path, target: &Path) -> Result<()> {
    let bytes = std::fs::read(source).map_err(io("read", source))?;
    std::fs::write(target, bytes).map_err(io("write", target))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bstar_stages::Reference;
    use serde_json::Value;
    use tokenizers::{PaddingParams, PaddingStrategy, TruncationParams};

    pub(crate) fn rows() -> Vec<Example> {
        (0..60)
            .map(|index| Example {
                prompt: format!(
                    "# Question\n\nAnn has {index} pens, and buys {} more.\n\n# Solution\n\n",
                    index % 7
                ),
                completion: format!(
                    "{index} + {} = {}\n\n# Answer\n\n{}",
                    index % 7,
                    index + index % 7,
                    index + index % 7
                ),
                query_id: None,
                sample_index: None,
                reward: None,
            })
            .collect()
    }

    pub(crate) fn settings(kind: TokenizerKind) -> Settings {
        Settings {
            corpus: vec![Reference::from("c")],
            kind,
            vocab_size: 400,
            markers: ["# Question\n\n", "\n\n# Solution\n\n", "\n\n# Answer\n\n", "\n\n# "]
                .map(str::to_owned)
                .into(),
        }
    }

    /// A folder with a small tokenizer.
    pub(crate) fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        Tokenizer::train(&settings(TokenizerKind::Words), &rows(), folder.path()).unwrap();
        folder
    }

    #[test]
    fn texts_survive_a_round_trip() {
        for kind in [TokenizerKind::Words, TokenizerKind::Bpe] {
            let folder = tempfile::tempdir().unwrap();
            Tokenizer::train(&settings(kind), &rows(), folder.path()).unwrap();
            let tokenizer = Tokenizer::load(folder.path()).unwrap();
            for row in rows() {
                for text in [row.prompt, row.completion] {
                    assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
                }
            }
            assert_eq!((tokenizer.pad, tokenizer.eos), (Some(0), Some(1)));
        }
        let bpe = tempfile::tempdir().unwrap();
        Tokenizer::train(&settings(TokenizerKind::Bpe), &rows(), bpe.path()).unwrap();
        let tokenizer = Tokenizer::load(bpe.path()).unwrap();
        let strange = "  Ünknown 漢字\t\n\n\n ½ <b>  12.5%";
        assert_eq!(tokenizer.decode(&tokenizer.encode(strange).unwrap()).unwrap(), strange);
    }

    #[test]
    fn digits_are_single_and_markers_are_one_token() {
        let folder = folder();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(tokenizer.encode(" 57").unwrap().len(), 2);
        assert_eq!(tokenizer.encode("57").unwrap().len(), 2);
        let answer = tokenizer.encode("\n\n# Answer\n\n").unwrap();
        assert_eq!(answer.len(), 1, "the longest marker wins");
        assert_eq!(tokenizer.encode("3\n\n# Answer\n\n4").unwrap()[1], answer[0]);
        assert_eq!(tokenizer.encode("zebra").unwrap(), [2]);
    }

    /// A folder with a tokenizer of these words.
    fn words(vocabulary: Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let json = json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
        });
        write_json(&folder.path().join("tokenizer.json"), &json).unwrap();
        folder
    }

    #[test]
    fn texts_are_neither_cut_nor_filled_up() {
        let folder = folder();
        let path = folder.path().join("tokenizer.json");
        let texts = ["Ann has 4 pens, and buys 5 more.", "4"];
        let plain = Tokenizer::load(folder.path()).unwrap();
        let mut inner = Inner::from_file(&path).unwrap();
        let filled = PaddingParams { strategy: PaddingStrategy::Fixed(6), ..PaddingParams::default() };
        let cut = TruncationParams { max_length: 3, ..TruncationParams::default() };
        inner.with_padding(Some(filled)).with_truncation(Some(cut)).unwrap().save(&path, true).unwrap();
        assert_eq!(Inner::from_file(&path).unwrap().encode(texts[0], false).unwrap().len(), 6);
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        for text in texts {
            assert_eq!(tokenizer.encode(text).unwrap(), plain.encode(text).unwrap());
            assert_eq!(tokenizer.encode_places(text).unwrap(), plain.encode_places(text).unwrap());
        }
        assert_eq!(tokenizer.encode("4").unwrap().len(), 1);
    }

    #[test]
    fn special_tokens_are_found_where_transformers_finds_them() {
        let folder = words(json!({"<unk>": 0, "</s>": 1, "<e>": 2, "<p>": 3}));
        let found = |config: Value, map: Option<Value>| {
            write_json(&folder.path().join("tokenizer_config.json"), &config).unwrap();
            let path = folder.path().join("special_tokens_map.json");
            match map {
                Some(map) => write_json(&path, &map).unwrap(),
                None => drop(std::fs::remove_file(path)),
            }
            let tokenizer = Tokenizer::load(folder.path()).unwrap();
            (tokenizer.eos, tokenizer.pad)
        };
        let (text, object) = (json!({"eos_token": "</s>"}), json!({"eos_token": {"content": "<e>"}}));
        assert_eq!(found(json!({}), Some(object.clone())), (Some(2), None));
        assert_eq!(found(object.clone(), None), (Some(2), None));
        // The map goes first, unless the configuration is of a newer writer.
        let both = json!({"eos_token": "</s>", "pad_token": "<p>"});
        assert_eq!(found(both.clone(), Some(object)), (Some(2), Some(3)));
        assert_eq!(found(both, Some(json!({"pad_token": null}))), (Some(1), None));
        let newer = json!({"eos_token": "</s>", "added_tokens_decoder": {}});
        assert_eq!(found(newer, Some(json!({"eos_token": "<e>", "pad_token": "<p>"}))), (Some(1), None));
        assert_eq!(found(text, Some(json!({"eos_token": "strange"}))), (None, None));
        std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
        let error = Tokenizer::load(folder.path()).unwrap_err();
        assert!(error.message.contains("tokenizer_config.json`: EOF"), "{error}");
    }

    #[test]
    fn an_embedding_has_a_row_for_the_greatest_id() {
        let folder = words(json!({"<eos>": 0, "a": 1, "<unk>": 2, "b": 9}));
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!((tokenizer.size(), tokenizer.rows()), (4, 10));
        assert_eq!(tokenizer.encode("a b c").unwrap(), [1, 9, 2]);
    }

    #[test]
    fn all_files_of_a_tokenizer_are_copied() {
        let (from, to) = (folder(), tempfile::tempdir().unwrap());
        std::fs::write(from.path().join("tokenizer.model"), "pieces").unwrap();
        let templates = from.path().join(TEMPLATES);
        std::fs::create_dir(&templates).unwrap();
        for name in ["rag.jinja", "tool_use.jinja", "notes.txt"] {
            std::fs::write(templates.join(name), name).unwrap();
        }
        copy_files(from.path(), to.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(to.path().join(name)).ok();
        assert_eq!(read("tokenizer.model").unwrap(), "pieces");
        for name in ["rag.jinja", "tool_use.jinja"] {
            assert_eq!(read(&format!("{TEMPLATES}/{name}")).unwrap(), name);
        }
        assert_eq!(read(&format!("{TEMPLATES}/notes.txt")), None);
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 5);
    }

    #[test]
    fn training_twice_gives_the_same_bytes() {
        for kind in [TokenizerKind::Words, TokenizerKind::Bpe] {
            let files = [(); 2].map(|()| {
                let folder = tempfile::tempdir().unwrap();
                Tokenizer::train(&settings(kind), &rows(), folder.path()).unwrap();
                FILES.map(|name| std::fs::read(folder.path().join(name)).ok())
            });
            assert_eq!(files[0], files[1]);
        }
    }

    #[test]
    fn the_vocabulary_stays_within_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(TokenizerKind::Words);
        settings.vocab_size = 12;
        assert_eq!(Tokenizer::train(&settings, &rows(), folder.path()).unwrap(), 12);
        settings.vocab_size = 7;
        assert!(Tokenizer::train(&settings, &rows(), folder.path()).is_err());
    }
}
