//! The thresholds that a search compares.

use std::fmt;

use bstar_cache::Ingredient;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::check::Checks;

/// An evenly spaced range with both ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// First value.
    pub from: f64,
    /// Last value.
    pub to: f64,
    /// Distance, of which `to` is a whole number away from `from`; values are `from + i × by`, computed without
    /// accumulating.
    pub by: f64,
}

/// A grid: a list of numbers, or an evenly spaced range with both ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Grid {
    /// A range.
    Range(Thresholds),
    /// These numbers, in the order written.
    Listed(Vec<f64>),
}

/// More thresholds than anyone means: a slip in `by`.
const MOST_THRESHOLDS: f64 = 1e5;

impl Thresholds {
    /// The values, ascending, rounded to 12 decimals, so that `-1 + 9 × 0.1` is the number written `-0.1`.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        let last = self.last();
        if !(0.0..MOST_THRESHOLDS).contains(&last) {
            return Vec::new();
        }
        let mut values = Vec::new();
        let mut index = 0.0;
        while index <= last {
            values.push(self.value(index));
            index += 1.0;
        }
        values
    }

    /// The index of the last value.
    fn last(&self) -> f64 {
        (self.distances() + SLACK).floor()
    }

    /// How often `by` lies between both ends.
    fn distances(&self) -> f64 {
        let Self { from, to, by } = self;
        (to - from) / by
    }

    fn value(&self, index: f64) -> f64 {
        let Self { from, to: _, by } = self;
        ((from + index * by) * 1e12).round() / 1e12 + 0.0
    }

    fn check(&self, checks: &mut Checks) {
        let Self { from, to, by } = *self;
        for (field, value) in [("thresholds.from", from), ("thresholds.to", to)] {
            if !value.is_finite() {
                let message = format!("{field} must be a number, not {value}");
                checks.refuse(field, message, "write for example -1.0");
            }
        }
        checks.positive("thresholds.by", by, "write for example 0.1");
        if from > to {
            let message = format!("thresholds.from ({from}) is above thresholds.to ({to})");
            checks.refuse("thresholds.from", message, "swap them; for a single threshold write [0.5]");
        } else if by > 0.0 && self.distances() >= MOST_THRESHOLDS {
            checks.refuse("thresholds.by", format!("{by} gives more than 100,000 thresholds"), "raise it");
        } else if by > 0.0 && self.distances() - self.last() > SLACK {
            let end = self.value(self.last());
            let message = format!("in steps of {by}, {from} leads to {end}, but not to {to}");
            let hint =
                format!("write `to: {end}` or another distance, or list the numbers: [{from}, …, {to}]");
            checks.refuse("thresholds.to", message, &hint);
        }
    }
}

/// How far, in distances, rounding may move an end.
const SLACK: f64 = 1e-9;

impl Grid {
    /// The values, ascending.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        match self {
            Self::Range(range) => range.values(),
            Self::Listed(numbers) => {
                let mut numbers: Vec<f64> = numbers.iter().map(|number| number + 0.0).collect();
                numbers.sort_by(f64::total_cmp);
                numbers
            }
        }
    }

    /// A range is its three numbers; what is listed has a name, so that three numbers are no range.
    pub(super) fn identity(&self) -> Ingredient {
        match self {
            Self::Range(Thresholds { from, to, by }) => vec![*from, *to, *by].into(),
            Self::Listed(_) => Ingredient::map([("listed", self.values().into())]),
        }
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        let numbers = match self {
            Self::Range(range) => return range.check(checks),
            Self::Listed(numbers) => numbers,
        };
        if numbers.is_empty() {
            let hint = "write at least one, for example [0]";
            checks.refuse("thresholds", "thresholds lists no numbers", hint);
        }
        for (index, number) in numbers.iter().enumerate() {
            let field = format!("thresholds[{index}]");
            if !number.is_finite() {
                let message = format!("{field} must be a number, not {number}");
                checks.refuse(&field, message, "write for example -0.5");
            } else if numbers[..index].contains(number) {
                checks.refuse(&field, format!("threshold {number} is listed twice"), "remove one of the two");
            }
        }
    }
}

impl JsonSchema for Grid {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Grid".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let range = generator.subschema_for::<Thresholds>();
        json_schema!({
            "description": "A grid: a list of numbers, or an evenly spaced range with both ends.",
            "anyOf": [
                {"type": "array", "items": {"type": "number"}, "minItems": 1, "uniqueItems": true},
                range,
            ],
        })
    }
}

impl Serialize for Grid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Range(range) => range.serialize(serializer),
            Self::Listed(numbers) => numbers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Grid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Grid;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of numbers, or a range such as {from: -1, to: 1, by: 0.1}")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<Grid, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(Grid::Listed)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, fields: A) -> Result<Grid, A::Error> {
                Thresholds::deserialize(MapAccessDeserializer::new(fields)).map(Grid::Range)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn grid(written: Value) -> Grid {
        serde_json::from_value(written).expect("a grid")
    }

    fn refused(written: Value) -> Vec<String> {
        let mut checks = Checks::default();
        grid(written).check(&mut checks);
        assert!(checks.0.iter().all(|problem| problem.hint.is_some()), "{:?}", checks.0);
        checks.0.into_iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
    }

    #[test]
    fn a_list_is_its_numbers_in_any_order() {
        let listed = grid(json!([0.2, -0.2, 0]));
        assert_eq!(listed.values(), [-0.2, 0.0, 0.2]);
        assert_eq!(listed.identity(), grid(json!([-0.2, 0, 0.2])).identity());
        assert_eq!(grid(json!([-0.0])).identity(), grid(json!([0])).identity());
        let range = grid(json!({"from": -0.2, "to": 0, "by": 0.2}));
        assert_eq!(range.values(), [-0.2, 0.0]);
        assert_ne!(listed.identity(), range.identity(), "three numbers are no range");
        for grid in [listed, range] {
            let written = serde_json::to_value(&grid).expect("JSON");
            assert_eq!(serde_json::from_value::<Grid>(written).expect("a grid"), grid);
        }
    }

    #[test]
    fn the_identity_of_a_range_is_its_three_numbers() {
        let range = Thresholds { from: -1.0, to: 0.99, by: 0.01 };
        assert_eq!(Grid::Range(range).identity(), vec![-1.0, 0.99, 0.01].into());
    }

    #[test]
    fn grids_that_mean_nothing_are_refused() {
        assert_eq!(refused(json!([])), ["thresholds: thresholds lists no numbers"]);
        assert_eq!(refused(json!([0, 0.5, -0.0])), ["thresholds[2]: threshold -0 is listed twice"]);
        let mut checks = Checks::default();
        Grid::Listed(vec![0.0, f64::NAN, f64::INFINITY]).check(&mut checks);
        let fields: Vec<&str> = checks.0.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["thresholds[1]", "thresholds[2]"]);
        let error =
            |written: Value| serde_json::from_value::<Grid>(written).expect_err("no grid").to_string();
        let expected = "expected a list of numbers, or a range such as {from: -1, to: 1, by: 0.1}";
        assert!(error(json!(0.5)).contains(expected), "{}", error(json!(0.5)));
        assert!(error(json!(["x"])).contains("expected f64"), "{}", error(json!(["x"])));
        assert_eq!(error(json!({"from": 0, "to": 1})), "missing field `by`");
    }

    #[test]
    fn a_range_has_both_ends() {
        for (from, to, by) in [(-1.0, 0.99, 0.01), (-1.0, 1.0, 0.1), (0.0, 0.0, 1.0), (-0.1, 0.9, 0.1)] {
            let range = json!({"from": from, "to": to, "by": by});
            assert_eq!(refused(range.clone()), [""; 0], "{range}");
            let values = grid(range).values();
            assert_eq!((values[0], values[values.len() - 1]), (from, to));
        }
        assert_eq!(
            refused(json!({"from": 0, "to": 1, "by": 0.3})),
            ["thresholds.to: in steps of 0.3, 0 leads to 0.9, but not to 1"]
        );
        assert_eq!(
            refused(json!({"from": -0.5, "to": 0, "by": 1})),
            ["thresholds.to: in steps of 1, -0.5 leads to -0.5, but not to 0"]
        );
    }
}
