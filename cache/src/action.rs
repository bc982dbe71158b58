//! The identity of one execution.
//!
//! | in the key | not in the key |
//! |---|---|
//! | key format (the `derive_key` context) | step name, pipeline name, file paths |
//! | stage name and stage version | device, host, thread count, number of workers |
//! | semantic configuration | micro-batch size and other throughput settings |
//! | seed, where the stage uses one | time, bstar version, git commit |
//! | input names and **content** digests | how the inputs were made |
//!
//! One tree of [`Ingredient`]s is both hashed into the key and stored, readable, in the manifest,
//! so an explanation can never disagree with the key.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, NotADigest};

/// Changing the encoding below means a new context, which invalidates every stored result.
const CONTEXT: &str = "bstar 2026-11-22 action v1";

/// A node of what goes into a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ingredient {
    /// An optional setting that is not set.
    Absent,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite number; negative zero counts as zero.
    Float(f64),
    /// Text.
    Text(String),
    /// The identity of a file's content.
    Digest(Digest),
    /// An ordered sequence.
    List(Vec<Self>),
    /// Named fields, in the order of their names.
    Map(BTreeMap<String, Self>),
}

impl Ingredient {
    /// A map of named fields.
    #[must_use]
    pub fn map<const N: usize>(fields: [(&str, Self); N]) -> Self {
        Self::Map(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn encode(&self, hasher: &mut blake3::Hasher) {
        match self {
            Self::Absent => drop(hasher.update(b"0")),
            Self::Bool(value) => drop(hasher.update(&[b'b', u8::from(*value)])),
            Self::Int(value) => drop(hasher.update(b"i").update(&value.to_le_bytes())),
            // Adding zero turns -0.0, which equals 0.0, into 0.0.
            Self::Float(value) => drop(hasher.update(b"f").update(&(value + 0.0).to_le_bytes())),
            Self::Text(value) => encode_text(hasher.update(b"t"), value),
            Self::Digest(value) => drop(hasher.update(b"d").update(value.as_bytes())),
            Self::List(items) => {
                encode_length(hasher.update(b"l"), items.len());
                items.iter().for_each(|item| item.encode(hasher));
            }
            Self::Map(fields) => {
                encode_length(hasher.update(b"m"), fields.len());
                for (name, value) in fields {
                    encode_text(hasher, name);
                    value.encode(hasher);
                }
            }
        }
    }
}

fn encode_length(hasher: &mut blake3::Hasher, length: usize) {
    hasher.update(&(length as u64).to_le_bytes());
}

fn encode_text(hasher: &mut blake3::Hasher, text: &str) {
    encode_length(hasher, text.len());
    hasher.update(text.as_bytes());
}

macro_rules! ingredient_from {
    ($($from:ty => $make:expr),* $(,)?) => {$(
        impl From<$from> for Ingredient {
            fn from(value: $from) -> Self {
                $make(value)
            }
        }
    )*};
}

ingredient_from! {
    bool => Self::Bool,
    i64 => Self::Int,
    u32 => |value| Self::Int(i64::from(value)),
    usize => |value| Self::Int(i64::try_from(value).unwrap_or(i64::MAX)),
    // Configurations refuse NaN and infinities when read.
    f64 => |value| Self::Float(value + 0.0),
    &str => |value: &str| Self::Text(value.to_owned()),
    String => Self::Text,
    Digest => Self::Digest,
}

impl<T: Into<Self>> From<Option<T>> for Ingredient {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Ingredient {
    fn from(values: Vec<T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

/// Everything that decides the result of an execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// The kind of work, for example `sample`.
    pub stage: String,
    /// Raised when the stage's code changes its results.
    pub version: u32,
    /// The settings that matter to the result.
    pub config: Ingredient,
    /// The seed, for stages that draw random numbers.
    pub seed: Option<u64>,
    /// Input name → digest of its content.
    pub inputs: BTreeMap<String, Digest>,
}

impl Action {
    /// The key under which the result is stored.
    #[must_use]
    pub fn key(&self) -> ActionKey {
        let Self { stage, version, config, seed, inputs } = self;
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        encode_text(&mut hasher, stage);
        hasher.update(&version.to_le_bytes());
        config.encode(&mut hasher);
        match seed {
            None => drop(hasher.update(b"0")),
            Some(seed) => drop(hasher.update(b"s").update(&seed.to_le_bytes())),
        }
        encode_length(&mut hasher, inputs.len());
        for (name, digest) in inputs {
            encode_text(&mut hasher, name);
            hasher.update(digest.as_bytes());
        }
        ActionKey(Digest::from_hasher(&hasher))
    }
}

/// The identity of one execution: made only by [`Action::key`], or read back from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionKey(Digest);

impl ActionKey {
    /// The first eight hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for ActionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for ActionKey {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests;
