//! Weights on disk: safetensors files and Hugging Face folders.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bstar_stages::protocol::StageError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::error::{Result, io, torch};
use crate::model::Decoder;
use crate::tokenizer;

/// Tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, Tensor>;

/// A tensor's bytes on their way into a file.
struct Bytes {
    kind: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for &Bytes {
    fn dtype(&self) -> Dtype {
        self.kind
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// Writes 32-bit tensors to a safetensors file; equal tensors make equal files.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
    extra: Option<(&str, String)>,
) -> Result<()> {
    let mut all = BTreeMap::new();
    for (name, tensor) in tensors {
        let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        let mut data = vec![0; tensor.numel() * 4];
        tensor.f_copy_data_u8(&mut data, tensor.numel()).map_err(|error| torch(&error))?;
        let shape = tensor.size().iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
        drop(all.insert(name, Bytes { kind: Dtype::F32, shape, data }));
    }
    let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    if let Some((key, value)) = extra {
        drop(metadata.insert(key.to_owned(), value));
    }
    let bytes = safetensors::serialize(&all, Some(metadata))
        .map_err(|error| StageError::failed(format!("cannot write `{}`: {error}", path.display())))?;
    std::fs::write(path, bytes).map_err(io("write", path))
}

/// Reads all tensors of a safetensors file as 32-bit floats, and its metadata.
///
/// # Errors
/// When the file cannot be read or is not of that format.
pub fn read_tensors(path: &Path, device: Device) -> Result<(Tensors, HashMap<String, String>)> {
    let file = std::fs::File::open(path).map_err(io("read", path))?;
    #[expect(unsafe_code, reason = "a map of a file that nobody writes: inputs are read-only")]
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(io("read", path))?;
    let invalid = |error: String| {
        StageError::invalid(format!("`{}` is not a safetensors file: {error}", path.display()))
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| invalid(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| invalid(error.to_string()))?;
    let tensors = file
        .iter()
        .map(|(name, view)| match read_tensor(&view) {
            Ok(tensor) => Ok((name.to_owned(), tensor.to_device(device))),
            Err(what) => Err(StageError::invalid(format!("tensor `{name}` in `{}`: {what}", path.display()))),
        })
        .collect::<Result<_>>()?;
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

fn read_tensor(view: &TensorView<'_>) -> std::result::Result<Tensor, String> {
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => return Err(format!("numbers of type {other:?} are not supported")),
    };
    let shape: Vec<i64> = view.shape().iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
    let tensor = Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|error| error.to_string())?;
    Ok(tensor.to_kind(Kind::Float))
}

/// Checks that `tensors` are exactly the `wanted` ones.
fn check(tensors: &Tensors, wanted: &[(String, Vec<i64>)], file: &Path) -> Result<()> {
    let error = |name: &str, what: String| {
        Err(StageError::invalid(format!("tensor `{name}` in `{}` {what}", file.display())))
    };
    for (name, shape) in wanted {
        match tensors.get(name) {
            None => return error(name, "is missing".to_owned()),
            Some(tensor) if tensor.size() != *shape => {
                return error(name, format!("has shape {:?}, not {shape:?}", tensor.size()));
            }
            Some(_) => {}
        }
    }
    match tensors.keys().find(|name| wanted.iter().all(|(wanted, _)| wanted != *name)) {
        Some(name) => error(name, "is not part of such a model".to_owned()),
        None => Ok(()),
    }
}

/// The safetensors files of a folder: one, or those its index names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    let text = std::fs::read_to_string(&index).map_err(io("read", &index))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|error| StageError::invalid(format!("`{}`: {error}", index.display())))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let names = map.into_iter().flatten().filter_map(|(_, file)| file.as_str());
    let names: std::collections::BTreeSet<&str> = names.collect();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Loads a model.
///
/// # Errors
/// When a file cannot be read, or its tensors are not those of the model.
pub fn load_model(folder: &Path, device: Device) -> Result<Decoder> {
    let config = ModelConfig::read(folder)?;
    let mut tensors = Tensors::new();
    let files = weight_files(folder)?;
    for file in &files {
        tensors.extend(read_tensors(file, device)?.0);
    }
    if config.tied {
        // Some writers repeat the embedding under the name of the output matrix.
        drop(tensors.remove("lm_head.weight"));
    }
    check(&tensors, &config.tensors(), files.first().map_or(folder, PathBuf::as_path))?;
    Ok(Decoder::new(config, tensors))
}

/// Writes a complete Hugging Face folder: weights, configuration, and the tokenizer files of `tokenizer`.
///
/// # Errors
/// When a file cannot be written or the tokenizer's cannot be read.
pub fn save_model(folder: &Path, model: &Decoder, tokenizer: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    let tensors = model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
    write_tensors(&folder.join("model.safetensors"), tensors, None)?;
    let config = model.config();
    write_json(&folder.join("config.json"), &config.to_json())?;
    if !config.scalar {
        let generation = json!({
            "do_sample": true,
            "eos_token_id": config.to_json()["eos_token_id"],
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
    use super::*;
    use crate::model::tests::random;
    use crate::tokenizer::tests::folder as tokenizer_folder;

    #[test]
    fn a_saved_model_loads_with_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer_folder();
        let model = random(64, 2, 2, 1, 50);
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        save_model(&paths[0], &model, tokenizer.path()).unwrap();
        let loaded = load_model(&paths[0], Device::Cpu).unwrap();
        for ((name, left), (_, right)) in model.named().into_iter().zip(loaded.named()) {
            assert!(left.equal(right), "{name}");
        }
        save_model(&paths[1], &loaded, tokenizer.path()).unwrap();
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
        let path = folder.path().join("model.safetensors");
        write_json(&folder.path().join("config.json"), &model.config().to_json()).unwrap();
        let load = || load_model(folder.path(), Device::Cpu).map(|_| ()).unwrap_err().message;
        let all = || model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor));

        write_tensors(&path, all().filter(|(name, _)| name != "model.norm.weight"), None).unwrap();
        assert!(load().contains("`model.norm.weight`") && load().contains("is missing"), "{}", load());
        let wrong = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        write_tensors(&path, all().chain([("strange".to_owned(), &wrong)]), None).unwrap();
        assert!(load().contains("`strange`") && load().contains("not part"), "{}", load());
        let swapped = all()
            .map(|(name, tensor)| if name == "model.norm.weight" { (name, &wrong) } else { (name, tensor) });
        write_tensors(&path, swapped, None).unwrap();
        assert!(load().contains("has shape [3], not [64]"), "{}", load());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(load().contains("not a safetensors file"), "{}", load());
    }
}
