//! In which numbers a model computes.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In which numbers a model computes. They decide results, so they are in the key; the usual ones leave no trace
/// in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    #[serde(alias = "fp32")]
    Float32,
    /// 16 bits, 8 of them for the exponent: half the memory, and many times the speed on a GPU.
    #[serde(alias = "bf16")]
    Bfloat16,
}

impl Precision {
    /// Whether it is the one that a pipeline need not name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
        }
    }

    /// Its part of a key, unless it is the usual one.
    pub(super) fn identity(self) -> Option<Ingredient> {
        (!self.is_default()).then(|| self.name().into())
    }
}
