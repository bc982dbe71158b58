//! Models on disk: Hugging Face folders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bstar_stages::protocol::StageError;
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::config::ModelConfig;
use crate::error::{Result, io};
use crate::model::Decoder;
use crate::tensors::{TensorFile, write_tensors};
use crate::tokenizer::{self, Tokenizer};

/// The list of the shards of a model that is cut into several files.
const INDEX: &str = "model.safetensors.index.json";
/// The file of a model that is not.
const SINGLE: &str = "model.safetensors";

/// The weights of a folder: their files, and which of them holds which tensor.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<TensorFile>,
    /// The file of each tensor of the model.
    places: BTreeMap<String, usize>,
}

impl Checkpoint {
    /// Opens the weights in `folder`, and checks that they are those of `config` without reading them.
    ///
    /// # Errors
    /// When a file is missing or damaged, or its tensors are not those of the model.
    pub fn open(folder: &Path, config: &ModelConfig) -> Result<Self> {
        let files = weight_files(folder)?;
        let files = files.iter().map(|file| TensorFile::open(file)).collect::<Result<Vec<_>>>()?;
        let mut places = BTreeMap::new();
        let mut shapes = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for (name, (shape, _)) in file.list() {
                // Some writers repeat the embedding under the name of the output matrix, old ones keep
                // the rotary frequencies.
                let repeated = config.tied && name == "lm_head.weight";
                if !repeated && !name.ends_with(".rotary_emb.inv_freq") {
                    drop(shapes.insert(name.clone(), shape));
                    let _replaced = places.insert(name, number);
                }
            }
        }
        check(&shapes, &config.tensors(), |name| {
            places.get(name).map_or(folder, |number| files[*number].path())
        })?;
        Ok(Self { files, places })
    }

    /// Its files.
    #[must_use]
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// The kinds of numbers it holds, as safetensors calls them.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        let kinds =
            self.files.iter().flat_map(|file| file.list().into_values().map(|(_, kind)| kind.to_string()));
        kinds.collect::<BTreeSet<String>>().into_iter().collect()
    }

    /// Reads all tensors.
    ///
    /// # Errors
    /// When a tensor cannot be read, or memory is short.
    pub fn load(&self, config: ModelConfig, device: Device, kind: Kind) -> Result<Decoder> {
        let read = |(name, number): (&String, &usize)| {
            Ok((name.clone(), self.files[*number].read(name, kind, device)?))
        };
        Ok(Decoder::new(config, self.places.iter().map(read).collect::<Result<_>>()?))
    }
}

/// Checks that tensors of these shapes are exactly the `wanted` ones; `place` tells the file of one.
fn check<'a>(
    shapes: &BTreeMap<String, Vec<i64>>,
    wanted: &[(String, Vec<i64>)],
    place: impl Fn(&str) -> &'a Path,
) -> Result<()> {
    let error = |name: &str, what: String| {
        Err(StageError::invalid(format!("tensor `{name}` in `{}` {what}", place(name).display())))
    };
    let others = |count: usize| if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let missing: Vec<&str> =
        wanted.iter().map(|(name, _)| name.as_str()).filter(|name| !shapes.contains_key(*name)).collect();
    if let Some(name) = missing.first() {
        return error(name, format!("is missing{}", others(missing.len())));
    }
    let names: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    let strange: Vec<&str> = shapes.keys().map(String::as_str).filter(|name| !names.contains(name)).collect();
    if let Some(name) = strange.first() {
        return error(name, format!("is not part of such a model{}", others(strange.len())));
    }
    match wanted.iter().find(|(name, shape)| shapes[name] != *shape) {
        Some((name, shape)) => {
            error(name, format!("has shape {:?}; config.json says {shape:?}", shapes[name]))
        }
        None => Ok(()),
    }
}

/// The safetensors files of a folder: one, or those its index names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join(INDEX);
    if !index.exists() {
        let single = folder.join(SINGLE);
        if single.exists() {
            return Ok(vec![single]);
        }
        let error = StageError::invalid(format!("there is no `{SINGLE}` in `{}`", folder.display()));
        return Err(
            if folder.join("pytorch_model.bin").exists()
                || folder.join("pytorch_model.bin.index.json").exists()
            {
                error.hint("pytorch_model.bin is not read: load it in transformers and save it with `save_pretrained`")
            } else {
                error.hint("a model is a folder with config.json, model.safetensors and tokenizer.json")
            },
        );
    }
    let text = std::fs::read_to_string(&index).map_err(io("read", &index))?;
    let invalid = |what: String| StageError::invalid(format!("`{}`: {what}", index.display()));
    let json: Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| invalid("`weight_map` is missing".to_owned()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    if let Some(name) = names.iter().find(|name| !folder.join(name).exists()) {
        let missing = names.iter().filter(|name| !folder.join(name).exists()).count();
        return Err(invalid(format!("the shard `{name}` is missing ({missing} of {} are)", names.len()))
            .hint("download the model again, whole"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Loads a model whose parameters are numbers of this kind.
///
/// # Errors
/// When a file cannot be read, or its tensors are not those of the model.
pub fn load_model(folder: &Path, device: Device, kind: Kind) -> Result<Decoder> {
    let config = ModelConfig::read(folder)?;
    Checkpoint::open(folder, &config)?.load(config, device, kind)
}

/// Loads the tokenizer of a model, and checks that the model knows all of its tokens.
///
/// # Errors
/// When it cannot be read, or has tokens that the model has no embedding for.
pub fn load_tokenizer(folder: &Path, config: &ModelConfig) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::load(folder)?;
    match tokenizer.last() {
        Some((token, id)) if id >= config.vocab_size => Err(StageError::invalid(format!(
            "the tokenizer in `{}` has the token {token:?} with id {id}; the model knows only {} (`vocab_size`)",
            folder.display(),
            config.vocab_size
        ))
        .hint("the tokenizer and the weights are those of different models")),
        _ => Ok(tokenizer),
    }
}

/// Writes a complete Hugging Face folder: weights as numbers of this kind, configuration, and the
/// tokenizer files of `tokenizer`.
///
/// # Errors
/// When a file cannot be written or the tokenizer's cannot be read.
pub fn save_model(folder: &Path, model: &Decoder, kind: Kind, tokenizer: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    let tensors = model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
    write_tensors(&folder.join(SINGLE), tensors, kind, None)?;
    let config = model.config();
    let json = config.to_json(kind);
    write_json(&folder.join("config.json"), &json)?;
    if !config.scalar {
        let generation = json!({
            "do_sample": true,
            "eos_token_id": json["eos_token_id"],
            "bos_token_id": config.bos,
            "pad_token_id": config.pad,
        });
        write_json(&folder.join("generation_config.json"), &generation)?;
    }
    tokenizer::copy_files(tokenizer, folder)
}

/// Writes JSON for people and other software to read.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| StageError::failed(format!("cannot write `{}`: {error}", path.display())))?;
    std::fs::write(path, text + "\n").map_err(io("write", path))
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;
    use crate::model::tests::random;
    use crate::tokenizer::tests::folder as tokenizer_folder;

    fn load(folder: &Path) -> Result<Decoder> {
        load_model(folder, Device::Cpu, Kind::Float)
    }

    #[test]
    fn a_saved_model_loads_with_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer_folder();
        let model = random(64, 2, 2, 1, 50);
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        save_model(&paths[0], &model, Kind::Float, tokenizer.path()).unwrap();
        let loaded = load(&paths[0]).unwrap();
        for ((name, left), (_, right)) in model.named().into_iter().zip(loaded.named()) {
            assert!(left.equal(right), "{name}");
        }
        save_model(&paths[1], &loaded, Kind::Float, tokenizer.path()).unwrap();
        for file in ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json"] {
            assert_eq!(
                std::fs::read(paths[0].join(file)).unwrap(),
                std::fs::read(paths[1].join(file)).unwrap(),
                "{file}"
            );
        }
    }

    #[test]
    fn wrong_tensors_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let model = random(64, 1, 2, 1, 50);
        let path = folder.path().join(SINGLE);
        write_json(&folder.path().join("config.json"), &model.config().to_json(Kind::Float)).unwrap();
        let fails = |expected: &[&str]| {
            let error = load(folder.path()).map(|_| ()).unwrap_err();
            assert!(expected.iter().all(|part| error.message.contains(part)), "{error}");
        };
        let all = || model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
        fails(&["there is no `model.safetensors`"]);
        let write =
            |tensors: Vec<(String, &Tensor)>| write_tensors(&path, tensors, Kind::Float, None).unwrap();

        write(all().filter(|(name, _)| !name.contains("norm")).collect());
        fails(&["`model.layers.0.input_layernorm.weight`", "is missing (and 2 more)"]);
        let wrong = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        write(all().chain([("strange".to_owned(), &wrong)]).collect());
        fails(&["`strange`", "not part of such a model"]);
        let swap = |(name, tensor)| if name == "model.norm.weight" { (name, &wrong) } else { (name, tensor) };
        write(all().map(swap).collect());
        fails(&["`model.norm.weight`", "has shape [3]; config.json says [64]"]);
        let frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned();
        write(all().chain([(frequencies, &wrong), ("lm_head.weight".to_owned(), &wrong)]).collect());
        assert!(load(folder.path()).is_ok(), "what old writers add is no trouble");
        std::fs::write(&path, "nonsense").unwrap();
        fails(&["not a safetensors file"]);
    }

    #[test]
    fn shards_are_read_together_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let model = random(64, 2, 2, 1, 50);
        write_json(&folder.path().join("config.json"), &model.config().to_json(Kind::Float)).unwrap();
        let mut map = serde_json::Map::new();
        let shard = |number: usize| format!("model-0000{number}-of-00003.safetensors");
        for number in 1..=3 {
            let part = model.named().into_iter().enumerate().filter(|(at, _)| at % 3 + 1 == number);
            let part: Vec<(String, &Tensor)> =
                part.map(|(_, (name, tensor))| (name.to_owned(), tensor)).collect();
            map.extend(part.iter().map(|(name, _)| (name.clone(), json!(shard(number)))));
            write_tensors(&folder.path().join(shard(number)), part, Kind::BFloat16, None).unwrap();
        }
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        write_json(&folder.path().join(INDEX), &index).unwrap();
        let loaded = load(folder.path()).unwrap();
        for ((name, left), (_, right)) in model.named().into_iter().zip(loaded.named()) {
            assert!(left.to_kind(Kind::BFloat16).to_kind(Kind::Float).equal(right), "{name}");
        }
        std::fs::remove_file(folder.path().join(shard(2))).unwrap();
        let error = load(folder.path()).map(|_| ()).unwrap_err();
        assert!(error.message.contains(&shard(2)) && error.message.contains("1 of 3"), "{error}");
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused() {
        let tokenizer = tokenizer_folder();
        let size = i64::try_from(Tokenizer::load(tokenizer.path()).unwrap().size()).unwrap();
        let mut config = random(64, 1, 2, 1, 50).config().clone();
        config.vocab_size = size;
        assert!(load_tokenizer(tokenizer.path(), &config).is_ok());
        config.vocab_size = size - 1;
        let error = load_tokenizer(tokenizer.path(), &config).unwrap_err();
        assert!(error.message.contains(&format!("the model knows only {}", size - 1)), "{error}");
    }
}
