//! The shape of a model that is trained from scratch.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;

/// Shape of a Llama-style decoder, in the field names of `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "Hugging Face's names, explained there")]
pub struct Architecture {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Default: as many as attention heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    pub max_position_embeddings: usize,
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
}

fn yes() -> bool {
    true
}

impl Architecture {
    /// Key and value heads in effect.
    #[must_use]
    pub fn key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub(super) fn identity(&self) -> Ingredient {
        let Self {
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: _,
            max_position_embeddings,
            tie_word_embeddings,
        } = self;
        Ingredient::map([
            ("hidden_size", (*hidden_size).into()),
            ("intermediate_size", (*intermediate_size).into()),
            ("num_hidden_layers", (*num_hidden_layers).into()),
            ("num_attention_heads", (*num_attention_heads).into()),
            ("num_key_value_heads", self.key_value_heads().into()),
            ("max_position_embeddings", (*max_position_embeddings).into()),
            ("tie_word_embeddings", (*tie_word_embeddings).into()),
        ])
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        let sizes = [
            ("model.hidden_size", self.hidden_size),
            ("model.intermediate_size", self.intermediate_size),
            ("model.num_hidden_layers", self.num_hidden_layers),
            ("model.num_attention_heads", self.num_attention_heads),
            ("model.num_key_value_heads", self.key_value_heads()),
            ("model.max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, value) in sizes {
            checks.count(field, value);
        }
        if sizes.iter().any(|(_, value)| *value == 0) {
            return;
        }
        let (width, heads, groups) = (self.hidden_size, self.num_attention_heads, self.key_value_heads());
        if width % heads != 0 {
            checks.refuse(
                "model.num_attention_heads",
                format!("{heads} heads do not divide a hidden size of {width}"),
                "choose a hidden size that is a multiple of the number of heads",
            );
        } else if (width / heads) % 2 != 0 {
            checks.refuse(
                "model.num_attention_heads",
                format!("a head of {} dimensions cannot be rotated in pairs", width / heads),
                "choose an even number of dimensions a head",
            );
        } else if !(width / heads).is_multiple_of(4) {
            checks.refuse(
                "model.num_attention_heads",
                format!("a head of {} dimensions is not a multiple of 4", width / heads),
                "choose other numbers: kernels round rows that are not aligned by where they lie",
            );
        }
        if heads % groups != 0 {
            checks.refuse(
                "model.num_key_value_heads",
                format!("{groups} key-value heads do not divide {heads} attention heads"),
                "leave it out for as many as attention heads",
            );
        }
    }
}
