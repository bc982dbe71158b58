//! What graders disagree on, as switches.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// What a percent sign does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Percent {
    /// `50%` equals `50` and `0.5`.
    #[default]
    Either,
    /// `50%` equals `50`.
    Sign,
    /// `50%` equals `0.5`.
    Hundredth,
}

/// When a decimal equals a value that it was rounded from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounding {
    /// How many digits it must have at least.
    pub digits: u32,
    /// How far it may be off, relative to the value.
    pub relative: f64,
}

/// What graders disagree on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Conventions {
    /// What a percent sign does.
    pub percent: Percent,
    /// Whether the order of a list matters.
    pub list_order: bool,
    /// Whether round and square brackets differ.
    pub brackets: bool,
    /// When a decimal equals a value that it was rounded from.
    pub rounding: Rounding,
    /// Whether even known units do not count.
    pub units_ignored: bool,
    /// Whether arithmetic left undone (`2 + 3`, unreduced fractions) equals its result.
    pub unevaluated: bool,
    /// Whether `x = 5` equals `y = 5`.
    pub names_ignored: bool,
    /// Whether a number in a base equals its digits without the base.
    pub base_optional: bool,
}

impl Default for Conventions {
    fn default() -> Self {
        Self {
            percent: Percent::Either,
            list_order: false,
            brackets: true,
            rounding: Rounding { digits: 4, relative: 1e-4 },
            units_ignored: false,
            unevaluated: true,
            names_ignored: true,
            base_optional: true,
        }
    }
}

impl Percent {
    /// The name in pipelines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Either => "either",
            Self::Sign => "sign",
            Self::Hundredth => "hundredth",
        }
    }
}

/// What stands for "never" in texts.
const NONE: &str = "none";

impl Rounding {
    /// Decimals that have at least this many digits, or (with `none`) no decimals at all.
    fn read(text: &str) -> Result<Self, String> {
        let digits = match text {
            NONE => u32::MAX,
            _ => text.parse().map_err(|_| "`rounding` is a number of digits, or none".to_owned())?,
        };
        Ok(Self { digits, ..Conventions::default().rounding })
    }
}

/// Written as its number of digits, or `none`.
impl Serialize for Rounding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.digits == u32::MAX {
            serializer.serialize_str(NONE)
        } else {
            serializer.serialize_u32(self.digits)
        }
    }
}

impl JsonSchema for Rounding {
    fn schema_name() -> Cow<'static, str> {
        "Rounding".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "integer", "minimum": 0}, {"const": NONE}]})
    }
}

impl<'de> Deserialize<'de> for Rounding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Self::read(&text).map_err(D::Error::custom)
    }
}

impl Conventions {
    /// Whether all are the usual ones.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Changes one convention by its name: `percent` to `either`, `sign` or `hundredth`; `rounding` to the digits
    /// that a decimal must have at least, or `none`; any other one to `true` or `false`.
    ///
    /// # Errors
    /// The names or values that there are, when it is another one.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let switch = match name {
            "percent" => {
                self.percent = match value {
                    "either" => Percent::Either,
                    "sign" => Percent::Sign,
                    "hundredth" => Percent::Hundredth,
                    _ => return Err("`percent` is either, sign or hundredth".to_owned()),
                };
                return Ok(());
            }
            "rounding" => {
                self.rounding = Rounding::read(value)?;
                return Ok(());
            }
            "list_order" => &mut self.list_order,
            "brackets" => &mut self.brackets,
            "units_ignored" => &mut self.units_ignored,
            "unevaluated" => &mut self.unevaluated,
            "names_ignored" => &mut self.names_ignored,
            "base_optional" => &mut self.base_optional,
            _ => {
                return Err(format!(
                    "there is no convention `{name}`, but percent, rounding, list_order, brackets, units_ignored, \
                     unevaluated, names_ignored and base_optional"
                ));
            }
        };
        *switch = value.parse().map_err(|_| format!("`{name}` is true or false"))?;
        Ok(())
    }
}
