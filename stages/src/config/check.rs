//! Ranges that settings have in common.

use crate::reference::{OneOrMany, Setting};
use crate::stage::Problem;

/// The lowest temperature that is not 0: the logits that are divided by it stay numbers of 32 bits.
const COLDEST: f64 = 1e-6;

/// Whether logits can be divided by it, or it is 0 and means the most likely token.
#[must_use]
pub fn is_temperature(value: f64) -> bool {
    value.is_finite() && (value == 0.0 || value >= COLDEST)
}

/// Collects problems.
#[derive(Debug, Default)]
pub(super) struct Checks(pub(super) Vec<Problem>);

impl Checks {
    /// Adds a problem with advice.
    pub(super) fn refuse(&mut self, field: &str, message: impl Into<String>, hint: &str) {
        self.0.push(Problem::new(field, message).advise(hint));
    }

    /// A number of things of which at least one is needed.
    pub(super) fn count(&mut self, field: &str, value: usize) {
        if value == 0 {
            self.refuse(field, format!("{field} must be at least 1, not 0"), "write a whole number from 1");
        }
    }

    /// A number of things of which so many make sense.
    pub(super) fn at_most(&mut self, field: &str, value: usize, most: usize) {
        if value > most {
            self.refuse(
                field,
                format!("{field} must be at most {most}, not {value}"),
                "write a smaller number",
            );
        }
    }

    /// A finite number above zero.
    pub(super) fn positive(&mut self, field: &str, value: f64, hint: &str) {
        if !(value.is_finite() && value > 0.0) {
            self.refuse(field, format!("{field} must be above 0, not {value}"), hint);
        }
    }

    /// A number in `low..=high`.
    pub(super) fn within(&mut self, field: &str, value: f64, low: f64, high: f64, hint: &str) {
        if !(low..=high).contains(&value) {
            self.refuse(field, format!("{field} must be between {low} and {high}, not {value}"), hint);
        }
    }

    /// One temperature.
    pub(super) fn temperature(&mut self, field: &str, value: f64) {
        if !is_temperature(value) {
            self.refuse(
                field,
                format!("temperature must be 0 or at least {COLDEST}, not {value}"),
                "0 is greedy; a usual grid is 0.5 to 1.2",
            );
        }
    }

    /// One temperature, a reference, or a grid without repetitions.
    pub(super) fn temperatures(&mut self, field: &str, value: &OneOrMany) {
        match value {
            OneOrMany::One(Setting::Value(value)) => self.temperature(field, *value),
            OneOrMany::One(Setting::Reference(_)) => {}
            OneOrMany::Many(values) if values.is_empty() => {
                self.refuse(
                    field,
                    format!("{field} lists no values"),
                    "write at least one, for example [0.7]",
                );
            }
            OneOrMany::Many(values) => {
                for (index, value) in values.iter().enumerate() {
                    self.temperature(&format!("{field}[{index}]"), *value);
                    if values[..index].contains(value) {
                        self.refuse(
                            &format!("{field}[{index}]"),
                            format!("temperature {value} is listed twice"),
                            "remove one of the two: the same samples would be drawn again",
                        );
                    }
                }
            }
        }
    }

    /// Several samples a query make sense only when sampling is random.
    pub(super) fn greedy_is_single(&mut self, field: &str, temperatures: &[f64], samples: u32) {
        if samples > 1 && temperatures.contains(&0.0) {
            self.refuse(
                field,
                format!("at temperature 0 all {samples} samples of a query are the same"),
                "with a temperature of 0 (greedy) write `samples: 1`",
            );
        }
    }

    /// The Ks and Ss of Pass@K-S.
    pub(super) fn pass_at(&mut self, ks: &[u32], ss: &[u32]) {
        for (field, values) in [("k", ks), ("s", ss)] {
            for (index, value) in values.iter().enumerate() {
                if *value == 0 {
                    self.count(&format!("{field}[{index}]"), 0);
                }
                if values[..index].contains(value) {
                    self.refuse(
                        &format!("{field}[{index}]"),
                        format!("{value} is listed twice"),
                        "remove one",
                    );
                }
            }
        }
    }

    /// Responses to keep, a query on average.
    pub(super) fn keep_per_query(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.positive("keep_per_query", value, "leave it out to keep all responses above the threshold");
        }
    }
}
