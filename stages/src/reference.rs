//! How a configuration names the output of another stage.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::stage::Input;

/// A name of an input, of a carried value, of a stage's only output, or `stage.output`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Reference(pub String);

impl Reference {
    /// The first name and, if any, what follows its first dot.
    #[must_use]
    pub fn split(&self) -> (&str, Option<&str>) {
        match self.0.split_once('.') {
            Some((name, output)) => (name, Some(output)),
            None => (&self.0, None),
        }
    }
}

impl From<&str> for Reference {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One reference, or a list of them.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum References {
    /// A single one.
    One(Reference),
    /// Several, in the order written.
    Many(Vec<Reference>),
}

impl References {
    /// Their inputs: `name`, or `name0`, `name1`, ….
    #[must_use]
    pub fn inputs(&self, name: &str) -> Vec<Input> {
        match self {
            Self::One(reference) => vec![Input::required(name, reference)],
            Self::Many(references) => references
                .iter()
                .enumerate()
                .map(|(index, reference)| Input::required(&format!("{name}{index}"), reference))
                .collect(),
        }
    }

    /// Their number.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(references) => references.len(),
        }
    }
}

impl From<Reference> for References {
    fn from(reference: Reference) -> Self {
        Self::One(reference)
    }
}

impl Serialize for References {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(reference) => reference.serialize(serializer),
            Self::Many(references) => references.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for References {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = References;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a reference, or a list of references")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<References, E> {
                Ok(References::One(text.into()))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<References, A::Error> {
                let mut references = Vec::new();
                while let Some(reference) = items.next_element()? {
                    references.push(reference);
                }
                Ok(References::Many(references))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A number written in the pipeline, or a reference to a one-number artifact made by a stage.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum Setting {
    /// A finite number.
    Value(f64),
    /// The output of a stage: a JSON file holding one number.
    Reference(Reference),
}

impl Setting {
    /// The number, once references are resolved.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(*value),
            Self::Reference(_) => None,
        }
    }
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => serializer.serialize_f64(*value),
            Self::Reference(reference) => reference.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Setting;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number or a reference such as `search.temperature`")
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Setting, E> {
                Ok(Setting::Value(value))
            }
            #[expect(clippy::cast_precision_loss, reason = "settings are small numbers")]
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Setting, E> {
                Ok(Setting::Value(value as f64))
            }
            #[expect(clippy::cast_precision_loss, reason = "settings are small numbers")]
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Setting, E> {
                Ok(Setting::Value(value as f64))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Setting, E> {
                if text.parse::<f64>().is_ok() {
                    return Err(de::Error::invalid_type(de::Unexpected::Str(text), &self));
                }
                Ok(Setting::Reference(text.into()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// One setting, or a list of numbers to try.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum OneOrMany {
    /// A single value.
    One(Setting),
    /// A grid, in the order written.
    Many(Vec<f64>),
}

impl OneOrMany {
    /// All numbers, once references are resolved; `None` before.
    #[must_use]
    pub fn values(&self) -> Option<Vec<f64>> {
        match self {
            Self::One(setting) => setting.value().map(|value| vec![value]),
            Self::Many(values) => Some(values.clone()),
        }
    }
}

impl Serialize for OneOrMany {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(setting) => setting.serialize(serializer),
            Self::Many(values) => values.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        if value.is_array() {
            return serde_json::from_value(value).map(Self::Many).map_err(de::Error::custom);
        }
        if value.is_number() || value.is_string() {
            return serde_json::from_value(value).map(Self::One).map_err(de::Error::custom);
        }
        Err(de::Error::custom(format!(
            "invalid type: {value}, expected a number, a list of numbers, \
             or a reference such as `search.temperature`"
        )))
    }
}
