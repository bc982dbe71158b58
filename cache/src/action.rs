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
    /// A whole number that is too large for [`Ingredient::Int`]: every number has one form.
    Unsigned(u64),
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

    fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Absent => bytes.push(b'0'),
            Self::Bool(value) => bytes.extend([b'b', u8::from(*value)]),
            Self::Int(value) => encode_number(bytes, b'i', value.to_le_bytes()),
            Self::Unsigned(value) => encode_number(bytes, b'u', value.to_le_bytes()),
            // Adding zero turns -0.0, which equals 0.0, into 0.0.
            Self::Float(value) => encode_number(bytes, b'f', (value + 0.0).to_le_bytes()),
            Self::Text(value) => {
                bytes.push(b't');
                encode_text(bytes, value);
            }
            Self::Digest(value) => {
                bytes.push(b'd');
                bytes.extend_from_slice(value.as_bytes());
            }
            Self::List(items) => {
                encode_number(bytes, b'l', (items.len() as u64).to_le_bytes());
                items.iter().for_each(|item| item.encode(bytes));
            }
            Self::Map(fields) => {
                encode_number(bytes, b'm', (fields.len() as u64).to_le_bytes());
                for (name, value) in fields {
                    encode_text(bytes, name);
                    value.encode(bytes);
                }
            }
        }
    }
}

fn encode_number(bytes: &mut Vec<u8>, tag: u8, value: [u8; 8]) {
    bytes.push(tag);
    bytes.extend(value);
}

fn encode_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
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
    u64 => |value| i64::try_from(value).map_or(Self::Unsigned(value), Self::Int),
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
        // Joined first: to a hasher, many small pieces are dearer than one of their length.
        let mut bytes = Vec::with_capacity(1024);
        encode_text(&mut bytes, stage);
        bytes.extend(version.to_le_bytes());
        config.encode(&mut bytes);
        match seed {
            None => bytes.push(b'0'),
            Some(seed) => encode_number(&mut bytes, b's', seed.to_le_bytes()),
        }
        bytes.extend((inputs.len() as u64).to_le_bytes());
        for (name, digest) in inputs {
            encode_text(&mut bytes, name);
            bytes.extend_from_slice(digest.as_bytes());
        }
        ActionKey(Digest::from_hasher(blake3::Hasher::new_derive_key(CONTEXT).update(&bytes)))
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
