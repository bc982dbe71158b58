//! Shapes of decoders: `config.json` of a Hugging Face folder.

mod read;

use bstar_stages::config::Architecture;
use bstar_stages::protocol::StageError;
use serde_json::{Value, json};
use tch::Kind;

use crate::error::Result;
use crate::rope::Rope;

pub(crate) use read::Fields;

/// Families of decoders: blocks of RMSNorm, rotary grouped-query attention and a gated MLP, with
/// these differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2, 3, 3.1, 3.2, and what has their form: TinyLlama, SmolLM2, DeepSeek-Math.
    Llama,
    /// A window on what attention sees.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Queries and keys are normalised.
    Qwen3,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// Its `model_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The beginning of its classes' names in transformers.
    fn class(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
        }
    }
}

/// Sizes by their names in `config.json`, and the greatest that are read: whatever is computed of them fits into
/// 64 bits.
const GREATEST: [(&str, i64); 8] = [
    ("vocab_size", 1 << 24),
    ("hidden_size", 1 << 20),
    ("intermediate_size", 1 << 22),
    ("num_hidden_layers", 1 << 12),
    ("num_attention_heads", 1 << 12),
    ("num_key_value_heads", 1 << 12),
    ("head_dim", 1 << 12),
    ("max_position_embeddings", 1 << 30),
];

/// The shape of a decoder, and the ids of its special tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Its family.
    pub family: Family,
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
    /// Longest sequence, as `config.json` says; [`ModelConfig::context`] is what counts.
    pub max_positions: i64,
    /// The rotary frequencies.
    pub rope: Rope,
    /// Added to the mean square inside RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output of attention has a bias.
    pub out_bias: bool,
    /// Whether the MLP has biases.
    pub mlp_bias: bool,
    /// How many tokens attention sees, the newest included, for each block; `None` is all.
    pub windows: Vec<Option<i64>>,
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

/// Rows of so many numbers, or a multiple, all begin where a kernel's loads do.
const ALIGNED: i64 = 4;

/// Columns from which on the kernels of products round rows alike, wherever they lie.
const FEW: i64 = 16;

impl ModelConfig {
    /// The configuration of a new model.
    ///
    /// # Errors
    /// When heads do not divide the width, or key-value heads the heads, or heads are no multiple of 4 wide.
    pub fn new(shape: &Architecture, vocab_size: usize, eos: i64, pad: Option<i64>) -> Result<Self> {
        let size = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let heads = size(shape.num_attention_heads);
        let kv_heads = shape.num_key_value_heads.map_or(heads, size);
        let config = Self {
            family: Family::Llama,
            vocab_size: size(vocab_size),
            hidden_size: size(shape.hidden_size),
            intermediate_size: size(shape.intermediate_size),
            layers: size(shape.num_hidden_layers),
            heads,
            kv_heads,
            head_dim: size(shape.hidden_size) / heads.max(1),
            max_positions: size(shape.max_position_embeddings),
            rope: Rope::new(10000.0),
            rms_norm_eps: 1e-5,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            windows: Vec::new(),
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
        config
            .sized()
            .and_then(|config| Self { windows: vec![None; shape.num_hidden_layers], ..config }.checked())
            .map_err(|error| StageError { message: format!("`model`: {}", error.message), ..error })
    }

    /// Checks the sizes, before there is anything for each of so many.
    fn sized(self) -> Result<Self> {
        let sizes = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.max_positions,
        ];
        for ((name, most), size) in GREATEST.into_iter().zip(sizes) {
            if size < 1 {
                return Err(StageError::invalid(format!("`{name}` is {size}; it must be at least 1")));
            }
            if size > most {
                return Err(StageError::invalid(format!("`{name}` is {size}; it must be at most {most}")));
            }
        }
        Ok(self)
    }

    fn checked(self) -> Result<Self> {
        if self.heads % self.kv_heads != 0 {
            return Err(StageError::invalid(format!(
                "`num_attention_heads` is {}, not a multiple of `num_key_value_heads`, {}",
                self.heads, self.kv_heads
            )));
        }
        if self.head_dim % 2 != 0 {
            return Err(StageError::invalid(format!(
                "heads are {} wide; rotary embeddings need an even width",
                self.head_dim
            )));
        }
        // Products are affected where they have few columns only.
        let widths = [("head_dim", self.head_dim), ("intermediate_size", self.intermediate_size)];
        let checked = if self.hidden_size < FEW { &widths[..] } else { &widths[..1] };
        if let Some((name, width)) = checked.iter().find(|(_, width)| width % ALIGNED != 0) {
            return Err(StageError::invalid(format!(
                "`{name}` is {width}, not a multiple of {ALIGNED}: how kernels round such rows depends on where they \
                 lie, and responses would depend on their company"
            )));
        }
        if let Some(window) = self.windows.iter().flatten().find(|window| **window < 1) {
            return Err(StageError::invalid(format!("`sliding_window` is {window}; it must be at least 1")));
        }
        if self.eos.is_empty() || self.eos.iter().any(|id| !(0..self.vocab_size).contains(id)) {
            return Err(StageError::invalid(format!(
                "`eos_token_id` is missing or outside the vocabulary: {:?} of {}",
                self.eos, self.vocab_size
            ))
            .hint("name the token that ends a text in `config.json` or `generation_config.json`"));
        }
        Ok(self)
    }

    /// Longest sequence.
    #[must_use]
    pub fn context(&self) -> i64 {
        self.max_positions.max(self.rope.scaling.context())
    }

    /// Checks that a model can read these tokens; `what` says in messages whose they are.
    ///
    /// # Errors
    /// When there are none, too many, or some it does not know.
    pub fn check_ids(&self, what: &str, ids: &[i64]) -> Result<()> {
        let (count, most) = (ids.len(), self.context());
        if count == 0 {
            return Err(StageError::invalid(format!("{what} is empty")));
        }
        if i64::try_from(count).is_ok_and(|count| count > most) {
            return Err(StageError::invalid(format!(
                "{what} has {count} tokens; the policy reads at most {most}"
            ))
            .hint("leave such queries out, shorten the prompt, or use a model with a longer context"));
        }
        match ids.iter().find(|id| !(0..self.vocab_size).contains(*id)) {
            Some(id) => Err(StageError::invalid(format!(
                "{what} has the token {id}; the policy knows {}",
                self.vocab_size
            ))
            .hint("the tokenizer and the weights are those of different models")),
            None => Ok(()),
        }
    }

    /// Whether queries and keys are normalised, head by head.
    #[must_use]
    pub fn normalises_heads(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// The content of `config.json` for weights of this kind, in the spellings of both transformers 4
    /// and 5.
    #[must_use]
    pub fn to_json(&self, kind: Kind) -> Value {
        let dtype = match kind {
            Kind::BFloat16 => "bfloat16",
            Kind::Half => "float16",
            _ => "float32",
        };
        let head = if self.scalar { "ForSequenceClassification" } else { "ForCausalLM" };
        let mut json = json!({
            "architectures": [format!("{}{head}", self.family.class())],
            "model_type": self.family.name(),
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
            "rope_theta": self.rope.theta,
            "rope_parameters": self.rope.to_json(),
            "attention_bias": self.out_bias,
            "attention_dropout": 0.0,
            "mlp_bias": self.mlp_bias,
            "initializer_range": 0.02,
            "tie_word_embeddings": self.tied,
            "eos_token_id": if let [eos] = self.eos[..] { json!(eos) } else { json!(self.eos) },
            "bos_token_id": self.bos,
            "pad_token_id": self.pad,
            "torch_dtype": dtype,
            "dtype": dtype,
            "use_cache": true,
        });
        if self.rope != Rope::new(self.rope.theta) {
            json["rope_scaling"] = self.rope.to_json();
        }
        self.add_windows(&mut json);
        if self.scalar {
            // Transformers takes the number of outputs from the labels.
            json["id2label"] = json!({"0": "LABEL_0"});
            json["label2id"] = json!({"LABEL_0": 0});
        }
        json
    }

    /// What the families say about windows: Mistral has one for all blocks, or a list; Qwen one from some block on
    /// (transformers 4) or a list (transformers 5).
    fn add_windows(&self, json: &mut Value) {
        let window = self.windows.iter().flatten().next();
        let name = |window: &Option<i64>| match window {
            Some(_) => "sliding_attention",
            None => "full_attention",
        };
        match self.family {
            Family::Llama => {}
            Family::Mistral => {
                json["sliding_window"] = json!(window);
                if self.windows.iter().any(|window| *window != self.windows[0]) {
                    json["layer_types"] = json!(self.windows.iter().map(name).collect::<Vec<_>>());
                }
            }
            Family::Qwen2 | Family::Qwen3 => {
                let full = self.windows.iter().take_while(|window| window.is_none()).count();
                json["use_sliding_window"] = json!(window.is_some());
                json["sliding_window"] = json!(window);
                json["max_window_layers"] = json!(full);
                json["layer_types"] = json!(self.windows.iter().map(name).collect::<Vec<_>>());
            }
        }
    }

    /// The names and shapes of all tensors, as Hugging Face names them.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (query, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let matrices = [
            ("self_attn.q_proj", query, hidden, self.qkv_bias),
            ("self_attn.k_proj", kv, hidden, self.qkv_bias),
            ("self_attn.v_proj", kv, hidden, self.qkv_bias),
            ("self_attn.o_proj", hidden, query, self.out_bias),
            ("mlp.gate_proj", inner, hidden, self.mlp_bias),
            ("mlp.up_proj", inner, hidden, self.mlp_bias),
            ("mlp.down_proj", hidden, inner, self.mlp_bias),
        ];
        let mut norms = vec![("input_layernorm", hidden), ("post_attention_layernorm", hidden)];
        if self.normalises_heads() {
            norms.extend([("self_attn.q_norm", self.head_dim), ("self_attn.k_norm", self.head_dim)]);
        }
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, part: &str, shape: Vec<i64>| {
                tensors.push((format!("model.layers.{layer}.{name}.{part}"), shape));
            };
            for (name, rows, columns, bias) in matrices {
                add(name, "weight", vec![rows, columns]);
                if bias {
                    add(name, "bias", vec![rows]);
                }
            }
            norms.iter().for_each(|(name, width)| add(name, "weight", vec![*width]));
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if self.scalar {
            tensors.push(("score.weight".to_owned(), vec![1, hidden]));
        } else if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        tensors
    }

    /// Numbers in all tensors.
    #[must_use]
    pub fn parameters(&self) -> i64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<i64>()).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests;
