//! Reading `config.json` and `generation_config.json`: what is computed is taken, the rest is refused
//! by name.

use std::path::Path;

use bstar_stages::files::read_object;
use bstar_stages::protocol::StageError;
use serde_json::{Map, Value};

use super::{Family, ModelConfig};
use crate::error::Result;
use crate::rope::Rope;

/// Fields whose presence (with a value other than null, false, 0 or an empty list) means another kind
/// of model, and what that is.
const FOREIGN: [(&str, &str); 9] = [
    ("num_local_experts", "mixtures of experts are not supported; use a dense model"),
    ("num_experts", "mixtures of experts are not supported; use a dense model"),
    ("n_routed_experts", "mixtures of experts are not supported; use a dense model"),
    ("quantization_config", "quantised weights are not supported; use the checkpoint in bfloat16 or float16"),
    ("use_mrope", "positions in images and video are not supported"),
    ("vision_config", "only text models are supported"),
    ("rope_interleaved", "only rotary positions by halves of a head are supported"),
    ("attention_dropout", "training without dropout is supported; set it to 0"),
    ("is_encoder_decoder", "only decoders are supported"),
];

/// Fields of a JSON object, and how it is called in messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    within: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, within: "" }
    }

    /// Fields of an object that is itself the value of a field.
    pub(crate) fn within(map: &'a Map<String, Value>, within: &'a str) -> Self {
        Self { map, within }
    }

    /// The name of the field they are within.
    pub(crate) fn place(&self) -> &'a str {
        self.within
    }

    fn called(&self, name: &str) -> String {
        if self.within.is_empty() { name.to_owned() } else { format!("{}.{name}", self.within) }
    }

    /// A value that is not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there, be it null.
    fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    fn typed<T>(
        &self,
        name: &str,
        take: impl FnOnce(&'a Value) -> Option<T>,
        what: &str,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong = || StageError::invalid(format!("`{}` is {value}, not {what}", self.called(name)));
        take(value).map(Some).ok_or_else(wrong)
    }

    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>> {
        self.typed(name, Value::as_i64, "a whole number")
    }

    pub(crate) fn real(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, Value::as_f64, "a number")
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, Value::as_bool, "true or false")
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, Value::as_str, "a text")
    }

    /// A number with its full name.
    pub(crate) fn named(&self, name: &str) -> Result<Option<(String, f64)>> {
        Ok(self.real(name)?.map(|value| (self.called(name), value)))
    }

    pub(crate) fn need_real(&self, name: &str) -> Result<f64> {
        self.real(name)?.ok_or_else(|| self.missing(name))
    }

    fn need(&self, name: &str) -> Result<i64> {
        self.int(name)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> StageError {
        StageError::invalid(format!("`{}` is missing", self.called(name)))
    }
}

impl ModelConfig {
    /// Reads `config.json` in `folder`, and the end tokens of `generation_config.json` if there is one.
    ///
    /// # Errors
    /// When it is missing, malformed, or describes a model this crate does not compute.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let Some(config) = read_object(&path)? else {
            return Err(StageError::invalid(format!("there is no model in `{}`", folder.display()))
                .hint("a model is a folder with config.json, model.safetensors and tokenizer.json"));
        };
        let generation = read_object(&folder.join("generation_config.json"))?.unwrap_or_default();
        Self::from_json(&config, &generation).map_err(|error| StageError {
            message: format!("cannot use the model in `{}`: {}", path.display(), error.message),
            ..error
        })
    }

    /// The configuration in these two files.
    ///
    /// # Errors
    /// When a field is missing, malformed, or not supported; it is named.
    pub fn from_json(config: &Map<String, Value>, generation: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(config);
        let family = family(&fields)?;
        let qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
        let act = fields.text("hidden_act")?.unwrap_or("silu");
        if !["silu", "swish"].contains(&act) {
            return Err(
                StageError::invalid(format!("`hidden_act` is `{act}`")).hint("only `silu` is supported")
            );
        }
        if let Some(dtype @ ("float8" | "float8_e4m3fn" | "float8_e5m2" | "int8")) =
            fields.text("dtype")?.or(fields.text("torch_dtype")?)
        {
            return Err(StageError::invalid(format!("`dtype` is `{dtype}`"))
                .hint("use the checkpoint in bfloat16, float16 or float32"));
        }
        let (hidden_size, heads) = (fields.need("hidden_size")?, fields.need("num_attention_heads")?);
        let layers = fields.need("num_hidden_layers")?;
        // What the classes of transformers take for absent fields.
        let (default_kv, default_positions, default_head) = match family {
            Family::Llama => (heads, 2048, None),
            Family::Mistral => (8, 4096 * 32, None),
            Family::Qwen2 => (32, 32768, None),
            Family::Qwen3 => (32, 32768, Some(128)),
        };
        let kv_heads = if fields.has("num_key_value_heads") { heads } else { default_kv };
        let head_dim = match fields.int("head_dim")?.or(default_head) {
            Some(width) => width,
            None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
            None => {
                return Err(StageError::invalid(format!(
                    "`hidden_size` is {hidden_size}, not a multiple of `num_attention_heads`, {heads}, and \
                     there is no `head_dim`"
                )));
            }
        };
        let max_positions = fields.int("max_position_embeddings")?.unwrap_or(default_positions);
        let bias = match family {
            Family::Llama | Family::Qwen3 => fields.flag("attention_bias")?.unwrap_or(false),
            Family::Mistral | Family::Qwen2 => false,
        };
        let config = Self {
            family,
            vocab_size: fields.need("vocab_size")?,
            hidden_size,
            intermediate_size: fields.need("intermediate_size")?,
            layers,
            heads,
            kv_heads: fields.int("num_key_value_heads")?.unwrap_or(kv_heads),
            head_dim,
            max_positions,
            rope: Rope::read(&fields, max_positions)?,
            rms_norm_eps: fields.real("rms_norm_eps")?.unwrap_or(1e-6),
            qkv_bias: bias || family == Family::Qwen2,
            out_bias: bias,
            mlp_bias: family == Family::Llama && fields.flag("mlp_bias")?.unwrap_or(false),
            windows: Vec::new(),
            tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            scalar: scalar(&fields, family)?,
            eos: eos(&fields, generation)?,
            bos: fields.int("bos_token_id")?,
            pad: fields.int("pad_token_id")?,
        }
        .sized()?;
        Self { windows: windows(&fields, family, qwen, layers)?, ..config }.checked()
    }
}

/// The family, after a look at what makes a model none of them.
fn family(fields: &Fields<'_>) -> Result<Family> {
    for (name, hint) in FOREIGN {
        let Some(value) = fields.get(name) else { continue };
        let idle = match value {
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !idle {
            let shown = match value {
                Value::Object(map) => map.get("quant_method").unwrap_or(value),
                _ => value,
            };
            let shown: String = shown.to_string().chars().take(60).collect();
            return Err(StageError::invalid(format!("`{name}` is {shown}")).hint(hint));
        }
    }
    let kind = fields.text("model_type")?.ok_or_else(|| fields.missing("model_type"))?;
    Family::ALL.into_iter().find(|family| family.name() == kind).ok_or_else(|| {
        let names: Vec<&str> = Family::ALL.iter().map(|family| family.name()).collect();
        StageError::invalid(format!("`model_type` is `{kind}`"))
            .hint(format!("supported are {}, and models of the same form", names.join(", ")))
    })
}

/// Whether the model has a scalar head.
fn scalar(fields: &Fields<'_>, family: Family) -> Result<bool> {
    let names = fields.typed("architectures", Value::as_array, "a list of names")?;
    let Some(name) = names.and_then(|names| names.first()) else { return Ok(false) };
    let Some(name) = name.as_str() else {
        return Err(StageError::invalid(format!("`architectures` has {name}, not a name")));
    };
    match name.strip_prefix(family.class()) {
        Some("ForCausalLM") => Ok(false),
        Some("ForSequenceClassification") => {
            let named = fields.typed("id2label", Value::as_object, "an object")?.map(Map::len);
            let wrong = match (named, fields.int("num_labels")?) {
                (Some(1), _) | (None, Some(1)) => return Ok(true),
                (Some(labels), _) => format!("`id2label` has {labels} labels"),
                (None, Some(labels)) => format!("`num_labels` is {labels}"),
                (None, None) => {
                    "there is neither `id2label` nor `num_labels`, which means 2 labels".to_owned()
                }
            };
            Err(StageError::invalid(wrong).hint("a reward model has one output: `num_labels` is 1"))
        }
        _ => Err(StageError::invalid(format!("`architectures` is `{name}`"))
            .hint(format!("supported are {0}ForCausalLM and {0}ForSequenceClassification", family.class()))),
    }
}

/// The window of each block. Models of the type `llama` do not look at `layer_types`; with them a `mistral` is what
/// transformers makes of it, a `ministral`.
fn windows(fields: &Fields<'_>, family: Family, qwen: bool, layers: i64) -> Result<Vec<Option<i64>>> {
    let count = usize::try_from(layers).unwrap_or(0);
    let window = match fields.int("sliding_window")? {
        // An absent window is a default one.
        None if family != Family::Llama && !fields.has("sliding_window") => Some(4096),
        other => other,
    };
    let window = match family {
        Family::Llama => match window {
            Some(window) => {
                return Err(StageError::invalid(format!("`sliding_window` is {window}"))
                    .hint("models of the type `llama` have none: is this a `mistral`?"));
            }
            None => None,
        },
        Family::Mistral => window,
        Family::Qwen2 | Family::Qwen3 => {
            if fields.flag("use_sliding_window")?.unwrap_or(false) {
                window
            } else {
                None
            }
        }
    };
    let first = if qwen { fields.int("max_window_layers")?.unwrap_or(28) } else { 0 };
    let first = usize::try_from(first).unwrap_or(0);
    let implied: Vec<Option<i64>> = (0..count).map(|layer| window.filter(|_| layer >= first)).collect();
    let types = if family == Family::Llama { None } else { fields.get("layer_types") };
    let Some(types) = types else { return Ok(implied) };
    let types = types.as_array().map_or(&[][..], Vec::as_slice);
    if types.len() != count {
        return Err(StageError::invalid(format!("`layer_types` has {} entries, not {count}", types.len())));
    }
    let mut listed = Vec::with_capacity(count);
    for kind in types {
        listed.push(match (kind.as_str(), window) {
            // Old configurations call it by the shorter name.
            (Some("full_attention" | "attention"), _) => None,
            (Some("sliding_attention"), Some(window)) => Some(window),
            (Some("sliding_attention"), None) => {
                return Err(StageError::invalid("`layer_types` has `sliding_attention` without a window")
                    .hint("set `sliding_window`, and `use_sliding_window` to true"));
            }
            _ => {
                return Err(StageError::invalid(format!("`layer_types` has {kind}"))
                    .hint("supported are full_attention and sliding_attention"));
            }
        });
    }
    Ok(listed)
}

/// The end tokens: those of `generation_config.json` where it names any, as in transformers. The first
/// one of `config.json` stays first, because it is the one written.
fn eos(fields: &Fields<'_>, generation: &Map<String, Value>) -> Result<Vec<i64>> {
    let [config, generation] = [*fields, Fields::new(generation)].map(|fields| {
        let Some(value) = fields.get("eos_token_id") else { return Ok(Vec::new()) };
        let ids = match value {
            Value::Array(ids) => ids.iter().map(Value::as_i64).collect(),
            id => id.as_i64().map(|id| vec![id]),
        };
        let wrong =
            || StageError::invalid(format!("`eos_token_id` is {value}, not a token or a list of them"));
        ids.ok_or_else(wrong)
    });
    let (config, mut generation) = (config?, generation?);
    if generation.is_empty() {
        return Ok(config);
    }
    if let Some(at) = generation.iter().position(|id| Some(id) == config.first()) {
        generation[..=at].rotate_right(1);
    }
    Ok(generation)
}
