//! What a model is, as far as its files tell without being read whole.

use std::path::Path;

use bstar_stages::units::show_size;
use serde_json::{Value, json};
use tch::Kind;

use crate::checkpoint::{Checkpoint, load_tokenizer};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::rope::Scaling;

/// What there is to tell.
#[derive(Debug)]
pub struct Facts {
    config: ModelConfig,
    /// Name and bytes of each file of weights.
    files: Vec<(String, usize)>,
    /// The kinds of numbers in them.
    kinds: Vec<String>,
    /// Tokens of the tokenizer, or why there is none.
    tokenizer: std::result::Result<usize, String>,
}

impl Facts {
    /// Looks at a folder.
    ///
    /// # Errors
    /// When it holds no model, or one that cannot be used.
    pub fn of(folder: &Path) -> Result<Self> {
        let weights = Checkpoint::open(folder, ModelConfig::read(folder)?)?;
        let config = weights.config().clone();
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = weights.files().iter().map(|file| (name(file.path()), file.size())).collect();
        let tokenizer =
            load_tokenizer(folder, &config).map(|found| found.size()).map_err(|error| error.message);
        Ok(Self { kinds: weights.kinds(), config, files, tokenizer })
    }

    /// Bytes of keys and values of a token, in 32 bits.
    fn cache(&self) -> i64 {
        2 * 4 * self.config.layers * self.config.kv_heads * self.config.head_dim
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let (config, parameters) = (&self.config, self.config.parameters());
        let kind = if self.kinds == ["BF16"] {
            Kind::BFloat16
        } else if self.kinds == ["F16"] {
            Kind::Half
        } else {
            Kind::Float
        };
        json!({
            "family": config.family.name(),
            "head": if config.scalar { "scalar" } else { "logits" },
            "parameters": parameters,
            "dtypes": self.kinds,
            "context": config.context(),
            "windows": config.windows,
            "config": config.to_json(kind),
            "files": self.files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect::<Vec<_>>(),
            "tokenizer": match &self.tokenizer {
                Ok(tokens) => json!({"tokens": tokens}),
                Err(problem) => json!({"problem": problem}),
            },
            "memory": {
                "weights_float32": 4 * parameters,
                "weights_bfloat16": 2 * parameters,
                "cache_per_token_float32": self.cache(),
                "training_float32": 16 * parameters,
            },
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let config = &self.config;
        let parameters = config.parameters();
        let head = if config.scalar { "one number a token (a reward model)" } else { "logits" };
        let mut features = Vec::new();
        for (has, name) in [
            (config.tied, "tied embeddings"),
            (config.qkv_bias, "biases on queries, keys and values"),
            (config.out_bias, "bias on the output of attention"),
            (config.mlp_bias, "biases in the MLP"),
            (config.normalises_heads(), "normalised queries and keys"),
        ] {
            if has {
                features.push(name.to_owned());
            }
        }
        let windowed: Vec<&i64> = config.windows.iter().flatten().collect();
        if let Some(window) = windowed.first() {
            features.push(format!(
                "window of {window} tokens in {} of {} blocks",
                windowed.len(),
                config.layers
            ));
        }
        if features.is_empty() {
            features.push("none".to_owned());
        }
        let scaling = match config.rope.scaling {
            Scaling::Default => "not scaled".to_owned(),
            Scaling::Linear { factor } => format!("scaled linearly by {factor}"),
            Scaling::Llama3 { factor, .. } => format!("scaled as in Llama 3 by {factor}"),
            Scaling::Yarn { factor, .. } => format!("scaled by YaRN by {factor}"),
        };
        let files: Vec<String> = match &self.files[..] {
            files if files.len() > 4 => vec![format!("{} files", files.len())],
            files => {
                files.iter().map(|(name, bytes)| format!("{name} ({})", show_size(*bytes as u64))).collect()
            }
        };
        let total: usize = self.files.iter().map(|(_, bytes)| bytes).sum();
        let tokenizer = match &self.tokenizer {
            Ok(tokens) => format!("{tokens} tokens; {:?} end a text", config.eos),
            Err(problem) => format!("none: {problem}"),
        };
        let rows = [
            ("family", config.family.name().to_owned()),
            ("output", head.to_owned()),
            ("parameters", count(parameters)),
            (
                "shape",
                format!(
                    "{} blocks, width {}, MLP {}, {} query and {} key-value heads of {}, vocabulary {}",
                    config.layers,
                    config.hidden_size,
                    config.intermediate_size,
                    config.heads,
                    config.kv_heads,
                    config.head_dim,
                    config.vocab_size
                ),
            ),
            ("features", features.join(", ")),
            ("context", format!("{} tokens; rotary base {}, {scaling}", config.context(), config.rope.theta)),
            (
                "weights",
                format!("{} in {}: {}", show_size(total as u64), self.kinds.join(" and "), files.join(", ")),
            ),
            ("tokenizer", tokenizer),
            (
                "memory",
                format!(
                    "sampling {} in float32, {} in bfloat16, and {} a token of every response; training {} and \
                     activations",
                    bytes(4 * parameters),
                    bytes(2 * parameters),
                    bytes(self.cache()),
                    bytes(16 * parameters)
                ),
            ),
        ];
        rows.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect()
    }
}

/// A number of bytes for people.
fn bytes(bytes: i64) -> String {
    show_size(u64::try_from(bytes).unwrap_or(0))
}

/// A number of parameters for people.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn count(parameters: i64) -> String {
    match parameters as f64 {
        count if count >= 1e9 => format!("{:.2} billion", count / 1e9),
        count if count >= 1e6 => format!("{:.1} million", count / 1e6),
        _ => parameters.to_string(),
    }
}
