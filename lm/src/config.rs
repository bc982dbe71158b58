//! Shapes of decoders: `config.json` of a Hugging Face folder.

use std::path::Path;

use bstar_stages::config::Architecture;
use bstar_stages::protocol::StageError;
use serde_json::{Map, Value, json};

use crate::error::{Result, io};

/// What Hugging Face calls a decoder with a scalar head.
const SCALAR: &str = "LlamaForSequenceClassification";

/// The shape of a Llama-style decoder, and the ids of its special tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the gated MLP.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub layers: i64,
    /// Number of query heads.
    pub heads: i64,
    /// Number of key-value heads.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Longest sequence.
    pub max_positions: i64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square inside RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Whether the output is one number (a reward model) and not a row of logits.
    pub scalar: bool,
    /// Tokens that end a response; the first is the one written.
    pub eos: Vec<i64>,
    /// The token that begins a text, for other software.
    pub bos: Option<i64>,
    /// The token for padding, for other software.
    pub pad: Option<i64>,
}

impl ModelConfig {
    /// The configuration of a new model.
    ///
    /// # Errors
    /// When heads do not divide the width, or key-value heads the heads.
    pub fn new(shape: &Architecture, vocab_size: usize, eos: i64, pad: Option<i64>) -> Result<Self> {
        let size = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let heads = size(shape.num_attention_heads);
        let kv_heads = shape.num_key_value_heads.map_or(heads, size);
        let config = Self {
            vocab_size: size(vocab_size),
            hidden_size: size(shape.hidden_size),
            intermediate_size: size(shape.intermediate_size),
            layers: size(shape.num_hidden_layers),
            heads,
            kv_heads,
            head_dim: size(shape.hidden_size) / heads.max(1),
            max_positions: size(shape.max_position_embeddings),
            rope_theta: 10000.0,
            rms_norm_eps: 1e-5,
            tied: shape.tie_word_embeddings,
            scalar: false,
            eos: vec![eos],
            bos: None,
            pad,
        };
        if config.heads == 0 || config.hidden_size != config.heads * config.head_dim {
            return Err(StageError::invalid(
                "`model.hidden_size` is not a multiple of `num_attention_heads`",
            ));
        }
        config.checked().map_err(|what| StageError::invalid(format!("`model`: {what}")))
    }

    /// Reads `config.json` in `folder`.
    ///
    /// # Errors
    /// When it is missing, malformed, or describes a model this crate does not compute.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(io("read", &path))?;
        let invalid = |what: String| {
            StageError::invalid(format!("cannot use the model in `{}`: {what}", path.display()))
        };
        let value: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        Self::from_json(&value).map_err(invalid)
    }

    fn from_json(json: &Map<String, Value>) -> std::result::Result<Self, String> {
        let field = |name: &str| json.get(name).filter(|value| !value.is_null());
        let kind = field("model_type").and_then(Value::as_str).unwrap_or_default();
        if kind != "llama" {
            return Err(format!("`model_type` is `{kind}`; only `llama` is supported"));
        }
        for name in ["attention_bias", "mlp_bias"] {
            if field(name).and_then(Value::as_bool) == Some(true) {
                return Err(format!("`{name}` is not supported"));
            }
        }
        let rope = field("rope_parameters").or_else(|| field("rope_scaling")).and_then(Value::as_object);
        if let Some(rope) = rope {
            let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str);
            if kind.is_some_and(|kind| kind != "default") {
                return Err(format!(
                    "`rope_scaling` of type `{}` is not supported",
                    kind.unwrap_or_default()
                ));
            }
        }
        if let Some(act) = field("hidden_act").and_then(Value::as_str).filter(|act| *act != "silu") {
            return Err(format!("`hidden_act` is `{act}`; only `silu` is supported"));
        }
        if field("quantization_config").is_some() {
            return Err("`quantization_config` is not supported".to_owned());
        }
        let int = |name: &str| field(name).and_then(Value::as_i64);
        let need = |name: &str| int(name).ok_or_else(|| format!("`{name}` is missing or not a whole number"));
        let hidden_size = need("hidden_size")?;
        let heads = need("num_attention_heads")?;
        let theta = field("rope_theta").or_else(|| rope.and_then(|rope| rope.get("rope_theta")));
        let eos = match field("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_i64).collect(),
            Some(id) => id.as_i64().into_iter().collect(),
            None => Vec::new(),
        };
        Self {
            vocab_size: need("vocab_size")?,
            hidden_size,
            intermediate_size: need("intermediate_size")?,
            layers: need("num_hidden_layers")?,
            heads,
            kv_heads: int("num_key_value_heads").unwrap_or(heads),
            head_dim: int("head_dim").unwrap_or(hidden_size / heads.max(1)),
            max_positions: int("max_position_embeddings").unwrap_or(2048),
            rope_theta: theta.and_then(Value::as_f64).unwrap_or(10000.0),
            rms_norm_eps: field("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            tied: field("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            scalar: field("architectures")
                .and_then(|names| names.get(0)?.as_str())
                .is_some_and(|name| name == SCALAR),
            eos,
            bos: int("bos_token_id"),
            pad: int("pad_token_id"),
        }
        .checked()
    }

    fn checked(self) -> std::result::Result<Self, String> {
        let sizes =
            [self.vocab_size, self.hidden_size, self.intermediate_size, self.layers, self.max_positions];
        if sizes.iter().chain([&self.heads, &self.kv_heads, &self.head_dim]).any(|size| *size < 1) {
            return Err("every size must be at least 1".to_owned());
        }
        if self.heads % self.kv_heads != 0 {
            return Err("`num_attention_heads` is not a multiple of `num_key_value_heads`".to_owned());
        }
        if self.head_dim % 2 != 0 {
            return Err(format!("heads are {} wide; rotary embeddings need an even width", self.head_dim));
        }
        if self.eos.is_empty() || self.eos.iter().any(|id| !(0..self.vocab_size).contains(id)) {
            return Err("`eos_token_id` is missing or outside the vocabulary".to_owned());
        }
        Ok(self)
    }

    /// The content of `config.json`, in the spellings of both transformers 4 and 5.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "architectures": [if self.scalar { SCALAR } else { "LlamaForCausalLM" }],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "attention_bias": false,
            "attention_dropout": 0.0,
            "mlp_bias": false,
            "initializer_range": 0.02,
            "tie_word_embeddings": self.tied,
            "eos_token_id": if let [eos] = self.eos[..] { json!(eos) } else { json!(self.eos) },
            "bos_token_id": self.bos,
            "pad_token_id": self.pad,
            "torch_dtype": "float32",
            "dtype": "float32",
            "use_cache": true,
        });
        if self.scalar {
            // Transformers takes the number of outputs from the labels.
            json["id2label"] = json!({"0": "LABEL_0"});
            json["label2id"] = json!({"LABEL_0": 0});
        }
        json
    }

    /// The names and shapes of all tensors, as Hugging Face names them.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (query, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.layers {
            let shapes: [(&str, Vec<i64>); 9] = [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![query, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, query]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ];
            tensors.extend(
                shapes
                    .into_iter()
                    .map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)),
            );
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if self.scalar {
            tensors.push(("score.weight".to_owned(), vec![1, hidden]));
        } else if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        tensors
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The shape used in practice by the default pipeline, or a smaller one.
    pub(crate) fn shape(hidden: usize, layers: usize, heads: usize, kv_heads: usize) -> Architecture {
        Architecture {
            hidden_size: hidden,
            intermediate_size: hidden * 8 / 3,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: Some(kv_heads),
            max_position_embeddings: 256,
            tie_word_embeddings: true,
        }
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn written_configurations_read_back() {
        let mut config = ModelConfig::new(&shape(96, 3, 3, 3), 200, 1, Some(0)).unwrap();
        assert_eq!(ModelConfig::from_json(&map(config.to_json())).unwrap(), config);
        config.eos = vec![1, 5];
        config.tied = false;
        assert_eq!(ModelConfig::from_json(&map(config.to_json())).unwrap(), config);
    }

    #[test]
    fn either_spelling_of_the_rotary_base_is_read() {
        let mut json = map(ModelConfig::new(&shape(64, 1, 2, 1), 50, 1, None).unwrap().to_json());
        json.remove("rope_parameters");
        json.insert("rope_theta".into(), json!(500.0));
        assert_eq!(ModelConfig::from_json(&json).unwrap().rope_theta.to_string(), "500");
        json.remove("rope_theta");
        json.insert("rope_parameters".into(), json!({"rope_type": "default", "rope_theta": 7.0}));
        assert_eq!(ModelConfig::from_json(&json).unwrap().rope_theta.to_string(), "7");
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let good = ModelConfig::new(&shape(64, 1, 2, 1), 50, 1, None).unwrap().to_json();
        for (field, value) in [
            ("model_type", json!("gpt2")),
            ("attention_bias", json!(true)),
            ("hidden_act", json!("gelu")),
            ("num_key_value_heads", json!(3)),
            ("eos_token_id", json!(50)),
        ] {
            let mut json = map(good.clone());
            json.insert(field.into(), value);
            let message = ModelConfig::from_json(&json).unwrap_err();
            assert!(message.contains(field), "{message}");
        }
        let mut json = map(good);
        json.insert("rope_parameters".into(), json!({"rope_type": "llama3", "rope_theta": 5.0}));
        assert!(ModelConfig::from_json(&json).unwrap_err().contains("rope_scaling"));
    }
}
