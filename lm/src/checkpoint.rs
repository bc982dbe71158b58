//! Models on disk: Hugging Face folders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bstar_stages::files::read_object;
use bstar_stages::protocol::StageError;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use crate::config::ModelConfig;
use crate::error::{Result, io, torch};
use crate::model::Decoder;
use crate::tensors::{TensorFile, write_tensors};
use crate::tokenizer::{self, Tokenizer};

/// The list of the shards of a model that is cut into several files.
const INDEX: &str = "model.safetensors.index.json";
/// The file of a model that is not.
const SINGLE: &str = "model.safetensors";

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The weights of a folder: their files, and which of them holds which tensor.
#[derive(Debug)]
pub struct Checkpoint {
    config: ModelConfig,
    files: Vec<TensorFile>,
    /// Where each tensor of the model is.
    places: BTreeMap<String, Place>,
}

/// Where a tensor is, and what it is.
#[derive(Debug)]
struct Place {
    file: usize,
    /// Its name there.
    name: String,
    shape: Vec<i64>,
    dtype: Dtype,
}

impl Checkpoint {
    /// Opens the weights in `folder`, and checks that they are those of `config` without reading them: only an
    /// output matrix beside an embedding that is said to be the same is compared with it. If it is another one, the
    /// two are not tied, as in transformers.
    ///
    /// # Errors
    /// When a file is missing or damaged, or its tensors are not those of the model.
    pub fn open(folder: &Path, config: ModelConfig) -> Result<Self> {
        let files = weight_files(folder)?;
        let files = files.iter().map(|file| TensorFile::open(file)).collect::<Result<Vec<_>>>()?;
        let mut places = BTreeMap::new();
        for (file, tensors) in files.iter().map(TensorFile::list).enumerate() {
            for (name, (shape, dtype)) in tensors {
                // Old writers keep the rotary frequencies.
                if !name.ends_with(".rotary_emb.inv_freq") {
                    drop(places.insert(name.clone(), Place { file, name, shape, dtype }));
                }
            }
        }
        let mut found = Self { config, files, places };
        if found.config.tied {
            found.tie()?;
        }
        found.check(folder)?;
        Ok(found)
    }

    /// Makes one of the embedding and the output matrix, which may be stored under either name or both.
    fn tie(&mut self) -> Result<()> {
        match (self.places.contains_key(EMBEDDING), self.places.remove(HEAD)) {
            (true, Some(head)) if !self.config.scalar && !self.same(&self.places[EMBEDDING], &head)? => {
                self.config.tied = false;
                drop(self.places.insert(HEAD.to_owned(), head));
            }
            (false, Some(head)) if !self.config.scalar => {
                drop(self.places.insert(EMBEDDING.to_owned(), head));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether two tensors are equal, number by number.
    fn same(&self, left: &Place, right: &Place) -> Result<bool> {
        if left.shape != right.shape {
            return Ok(false);
        }
        // As they are stored, they take the least memory.
        let kind = match (left.dtype, right.dtype) {
            (Dtype::BF16, Dtype::BF16) => Kind::BFloat16,
            (Dtype::F16, Dtype::F16) => Kind::Half,
            _ => Kind::Float,
        };
        let read = |place: &Place| self.files[place.file].read(&place.name, kind, Device::Cpu);
        read(left)?.f_equal(&read(right)?).map_err(|error| torch(&error))
    }

    /// Checks that the tensors are exactly those of the model, in numbers that can be read.
    fn check(&self, folder: &Path) -> Result<()> {
        let (places, wanted) = (&self.places, self.config.tensors());
        let error = |name: &str, what: String| {
            let path = places.get(name).map_or(folder, |place| self.files[place.file].path());
            let name = places.get(name).map_or(name, |place| &place.name);
            StageError::invalid(format!("tensor `{name}` in `{}` {what}", path.display()))
        };
        let others =
            |count: usize| if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        let missing: Vec<&str> =
            wanted.iter().map(|(name, _)| name.as_str()).filter(|name| !places.contains_key(*name)).collect();
        if let Some(name) = missing.first() {
            return Err(error(name, format!("is missing{}", others(missing.len()))));
        }
        let names: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        let strange: Vec<&str> =
            places.keys().map(String::as_str).filter(|name| !names.contains(name)).collect();
        if let Some(name) = strange.first() {
            return Err(error(name, format!("is not part of such a model{}", others(strange.len()))));
        }
        for (name, shape) in &wanted {
            let Place { shape: found, dtype, .. } = &places[name];
            if found != shape {
                return Err(error(name, format!("has shape {found:?}; config.json says {shape:?}")));
            }
            if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(error(name, format!("has numbers of type {dtype}, which are not supported"))
                    .hint("use the checkpoint in bfloat16, float16 or float32"));
            }
        }
        Ok(())
    }

    /// What the model is, as its weights have it.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
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
    pub fn load(&self, device: Device, kind: Kind) -> Result<Decoder> {
        let read = |(name, place): (&String, &Place)| {
            Ok((name.clone(), self.files[place.file].read(&place.name, kind, device)?))
        };
        Ok(Decoder::new(self.config.clone(), self.places.iter().map(read).collect::<Result<_>>()?))
    }
}

/// The safetensors files of a folder: one, or else those its index names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index.exists() {
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
    Checkpoint::open(folder, ModelConfig::read(folder)?)?.load(device, kind)
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

/// Writes a complete Hugging Face folder: weights as numbers of this kind, configuration, and what `tokenizer`
/// holds besides: the files of a tokenizer, and how a model's authors would sample from it.
///
/// # Errors
/// When a file cannot be written, or one of `tokenizer` cannot be read.
pub fn save_model(folder: &Path, model: &Decoder, kind: Kind, tokenizer: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    let tensors = model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
    write_tensors(&folder.join(SINGLE), tensors, kind, None)?;
    let config = model.config();
    let json = config.to_json(kind);
    write_json(&folder.join("config.json"), &json)?;
    if !config.scalar {
        let name = "generation_config.json";
        let mut generation = match read_object(&tokenizer.join(name))? {
            Some(found) => found,
            None => Map::from_iter([("do_sample".to_owned(), json!(true))]),
        };
        drop(generation.insert("eos_token_id".to_owned(), json["eos_token_id"].clone()));
        for (name, id) in [("bos_token_id", config.bos), ("pad_token_id", config.pad)] {
            // Some models name these tokens here only.
            if id.is_some() || !generation.contains_key(name) {
                drop(generation.insert(name.to_owned(), json!(id)));
            }
        }
        write_json(&folder.join(name), &Value::Object(generation))?;
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
    use bstar_stages::config::Readout;
    use safetensors::tensor::TensorView;
    use tch::Tensor;

    use super::*;
    use crate::inspect::Facts;
    use crate::model::tests::random;
    use crate::reward::from_policy;
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
        write(all().chain([(frequencies, &wrong)]).collect());
        assert!(load(folder.path()).is_ok(), "what old writers add is no trouble");
        write(all().chain([(HEAD.to_owned(), &wrong)]).collect());
        fails(&["`lm_head.weight`", "has shape [3]; config.json says [50, 64]"]);
        std::fs::write(&path, "nonsense").unwrap();
        fails(&["not a safetensors file"]);
    }

    #[test]
    fn numbers_that_cannot_be_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = random(64, 1, 2, 1, 50).config().clone();
        write_json(&folder.path().join("config.json"), &config.to_json(Kind::Float)).unwrap();
        let bytes = vec![0_u8; 8 * usize::try_from(config.parameters()).unwrap()];
        let tensors = config.tensors();
        let views = tensors.iter().map(|(name, shape)| {
            let shape: Vec<usize> = shape.iter().map(|size| usize::try_from(*size).unwrap()).collect();
            let length = 8 * shape.iter().product::<usize>();
            (name, TensorView::new(Dtype::F64, shape, &bytes[..length]).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.path().join(SINGLE)).unwrap();
        let inspected = Facts::of(folder.path()).map(|_| ()).unwrap_err();
        for error in [load(folder.path()).map(|_| ()).unwrap_err(), inspected] {
            assert!(error.message.contains("`model.embed_tokens.weight`"), "{error}");
            assert!(error.message.contains("numbers of type F64"), "{error}");
        }
    }

    /// Writes the configuration of a model and these tensors.
    fn write_model(folder: &Path, config: &ModelConfig, tensors: &[(&str, &Tensor)]) {
        write_json(&folder.join("config.json"), &config.to_json(Kind::Float)).unwrap();
        let tensors = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), *tensor));
        write_tensors(&folder.join(SINGLE), tensors, Kind::Float, None).unwrap();
    }

    #[test]
    fn an_output_matrix_that_is_not_the_embedding_is_kept() {
        let (folder, tokenizer) = (tempfile::tempdir().unwrap(), tokenizer_folder());
        let model = random(64, 1, 2, 1, 50);
        let config = model.config();
        assert!(config.tied);
        let embedding = model.tensors()[EMBEDDING].shallow_clone();
        // Another number in the last place only.
        let other = embedding.copy();
        drop(other.get(49).get(63).g_add_scalar_(1e-3));
        let with = |head| [model.named(), vec![(HEAD, head)]].concat();
        write_model(folder.path(), config, &with(&other));
        let loaded = load(folder.path()).unwrap();
        assert!(!loaded.config().tied && loaded.tensors()[HEAD].equal(&other));
        assert!(loaded.weights().head.equal(&other) && loaded.weights().embedding.equal(&embedding));
        let facts = Facts::of(folder.path()).unwrap();
        assert_eq!(facts.json()["parameters"], config.parameters() + 50 * 64);
        assert_eq!(facts.json()["config"]["tie_word_embeddings"], false);
        assert!(!facts.text().contains("tied embeddings"));
        // What is written says so.
        let written = folder.path().join("written");
        save_model(&written, &loaded, Kind::Float, tokenizer.path()).unwrap();
        assert!(!ModelConfig::read(&written).unwrap().tied);
        assert!(load(&written).unwrap().weights().head.equal(&other));

        write_model(folder.path(), config, &with(&embedding));
        let loaded = load(folder.path()).unwrap();
        assert!(loaded.config().tied && !loaded.tensors().contains_key(HEAD));
        assert_eq!(Facts::of(folder.path()).unwrap().json()["parameters"], config.parameters());
        // A reward model has none.
        let rewards = from_policy(model, Readout::Head);
        let with = [rewards.named(), vec![(HEAD, &other)]].concat();
        write_model(folder.path(), rewards.config(), &with);
        assert!(!load(folder.path()).unwrap().tensors().contains_key(HEAD));
    }

    #[test]
    fn an_embedding_is_found_under_the_name_of_the_output_matrix() {
        let folder = tempfile::tempdir().unwrap();
        let model = random(64, 1, 2, 1, 50);
        let named = model.named().into_iter();
        let renamed: Vec<(&str, &Tensor)> =
            named.map(|(name, tensor)| (if name == EMBEDDING { HEAD } else { name }, tensor)).collect();
        write_model(folder.path(), model.config(), &renamed);
        let loaded = load(folder.path()).unwrap();
        assert!(loaded.config().tied && !loaded.tensors().contains_key(HEAD));
        assert!(loaded.tensors()[EMBEDDING].equal(&model.tensors()[EMBEDDING]));
        let wide = Tensor::zeros([50, 65], (Kind::Float, Device::Cpu));
        let wide: Vec<(&str, &Tensor)> = renamed
            .iter()
            .map(|(name, tensor)| (*name, if *name == HEAD { &wide } else { tensor }))
            .collect();
        write_model(folder.path(), model.config(), &wide);
        let error = load(folder.path()).map(|_| ()).unwrap_err();
        assert!(error.message.contains("`lm_head.weight`") && error.message.contains("[50, 65]"), "{error}");
        let mut apart = model.config().clone();
        apart.tied = false;
        write_model(folder.path(), &apart, &renamed);
        let error = load(folder.path()).map(|_| ()).unwrap_err();
        assert!(error.message.contains("`model.embed_tokens.weight`"), "{error}");
    }

    #[test]
    fn matrices_of_other_numbers_are_tied_where_they_are_equal() {
        let folder = tempfile::tempdir().unwrap();
        let model = random(64, 1, 2, 1, 50);
        write_json(&folder.path().join("config.json"), &model.config().to_json(Kind::Float)).unwrap();
        let embedding = &model.tensors()[EMBEDDING];
        for (head, tied) in [(embedding.to_kind(Kind::BFloat16), true), (embedding.copy(), false)] {
            let all = model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
            write_tensors(&folder.path().join("a.safetensors"), all, Kind::BFloat16, None).unwrap();
            let head = [(HEAD.to_owned(), &head)];
            write_tensors(&folder.path().join("b.safetensors"), head, Kind::Float, None).unwrap();
            let index = json!({"weight_map": {EMBEDDING: "a.safetensors", HEAD: "b.safetensors"}});
            write_json(&folder.path().join(INDEX), &index).unwrap();
            assert_eq!(load(folder.path()).unwrap().config().tied, tied);
        }
    }

    #[test]
    fn how_to_sample_stays_as_the_source_has_it() {
        let (source, folder) = (tokenizer_folder(), tempfile::tempdir().unwrap());
        let mut model = random(64, 1, 2, 1, 50);
        model.config_mut().eos = vec![1, 5];
        let written = |model: &Decoder| -> Value {
            save_model(folder.path(), model, Kind::Float, source.path()).unwrap();
            let path = folder.path().join("generation_config.json");
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let own = json!({"do_sample": true, "eos_token_id": [1, 5], "bos_token_id": null, "pad_token_id": 0});
        assert_eq!(written(&model), own);
        let given = json!({"bos_token_id": 7, "temperature": 0.6, "eos_token_id": 9, "top_p": 0.9, "pad_token_id": 4});
        write_json(&source.path().join("generation_config.json"), &given).unwrap();
        let kept = json!({"bos_token_id": 7, "temperature": 0.6, "eos_token_id": [1, 5], "top_p": 0.9, "pad_token_id": 0});
        assert_eq!(written(&model), kept);
        let bytes = || std::fs::read(folder.path().join("generation_config.json")).unwrap();
        let first = bytes();
        // Written again from what was written, they are the same bytes.
        std::fs::copy(
            folder.path().join("generation_config.json"),
            source.path().join("generation_config.json"),
        )
        .unwrap();
        assert_eq!(written(&model), kept);
        assert_eq!(bytes(), first);
        std::fs::write(source.path().join("generation_config.json"), "[]").unwrap();
        let error = save_model(folder.path(), &model, Kind::Float, source.path()).unwrap_err();
        assert!(error.message.contains("generation_config.json`"), "{error}");
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
        assert_eq!(Facts::of(folder.path()).unwrap().json()["files"].as_array().unwrap().len(), 3);
        // One file for all goes first, as in transformers.
        let whole = folder.path().join(SINGLE);
        let all = model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
        write_tensors(&whole, all, Kind::Float, None).unwrap();
        let loaded = load(folder.path()).unwrap();
        assert!(std::iter::zip(model.named(), loaded.named()).all(|(left, right)| left.1.equal(right.1)));
        assert_eq!(Facts::of(folder.path()).unwrap().json()["files"][0]["name"], SINGLE);
        std::fs::remove_file(whole).unwrap();
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
