//! Whether an output is the expected one.
//!
//! [`Comparison::Official`] is the chain of the APPS harness (`testing_util.py`), the first success of which wins.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Comparison, whole};

/// The text that a program reads or prints: data sets give it as a text or as lines.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(lines) => lines.iter().map(text).collect::<Vec<_>>().join("\n"),
        other => whole::kept(other).map_or_else(|| other.to_string(), str::to_owned),
    }
}

/// The arguments of a call.
pub(super) fn arguments(input: &Value) -> Vec<Value> {
    match input {
        Value::Array(items) => numbered_first(items),
        other => vec![given(other)],
    }
}

/// A value as the host reads it.
fn given(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(given).collect(),
        Value::Object(map) => match whole::kept(value) {
            Some(digits) => json!({"i": whole::hex(digits)}),
            None => {
                json!({"d": map.iter().map(|(name, item)| json!([name, given(item)])).collect::<Vec<_>>()})
            }
        },
        other => other.clone(),
    }
}

/// The same, but a mapping all of whose names are whole numbers has these for keys: JSON knows no others, and the
/// official harness undoes that for the first argument, what is returned and the first item of that.
fn numbered(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.keys().all(|name| whole::is_whole(name)) => {
            let pairs = map.iter().map(|(name, item)| json!([{"i": whole::hex(name)}, given(item)]));
            json!({"d": pairs.collect::<Vec<_>>()})
        }
        other => given(other),
    }
}

fn numbered_first(items: &[Value]) -> Vec<Value> {
    items.iter().take(1).map(numbered).chain(items.iter().skip(1).map(given)).collect()
}

/// Whether what a call returned (`{"value": …}`) is expected: equal to `expected`, or to its first item.
pub(super) fn returned(answer: &str, expected: &Value) -> bool {
    let Ok(answer) = serde_json::from_str::<Value>(answer) else { return false };
    let Some(value) = answer.get("value") else { return false };
    let found = plain(value);
    let expected = match expected {
        Value::Array(items) => numbered_first(items).into(),
        other => numbered(other),
    };
    let expected = plain(&expected);
    if same(&found, &expected) {
        return true;
    }
    matches!(&expected, Value::Array(items) if items.first().is_some_and(|first| same(&found, first)))
}

/// Tuples as lists, mappings as `{"d": [[key, value], …]}`.
fn plain(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(map) => match (map.get("t"), map.get("d")) {
            (Some(Value::Array(items)), _) => items.iter().map(plain).collect(),
            (_, Some(pairs)) => json!({"d": plain(pairs)}),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

/// Python's `==` of plain values: `1 == 1.0 == True`.
fn same(a: &Value, b: &Value) -> bool {
    if let (Some(a), Some(b)) = (whole::number(a), whole::number(b)) {
        return a == b;
    }
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(x), Value::Object(y)) => match (x.get("d"), y.get("d")) {
            (Some(Value::Array(x)), Some(Value::Array(y))) => {
                x.len() == y.len() && x.iter().all(|pair| y.iter().any(|other| same(pair, other)))
            }
            _ => a == b,
        },
        _ => a == b,
    }
}

/// Whether what a program printed is expected.
pub(super) fn printed(found: &str, expected: &str, comparison: Comparison) -> bool {
    match comparison {
        Comparison::Official => official(found, expected),
        Comparison::Strict => strict(found, expected),
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

fn official(found: &str, expected: &str) -> bool {
    if found.trim() == expected.trim() {
        return true;
    }
    let (found, expected) = (lines(found), lines(expected));
    if found == expected || close(&found, &expected) {
        return true;
    }
    // Lines as sets of tokens, and the text as a set of lines.
    let sets = |lines: &[&str]| -> BTreeSet<BTreeSet<String>> {
        lines.iter().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    if sets(&found) == sets(&expected) {
        return true;
    }
    // The same of numbers, rounded to three places.
    let rounded = |lines: &[&str]| -> Option<BTreeSet<BTreeSet<String>>> {
        let line = |line: &&str| {
            line.split_whitespace().map(|token| Some(format!("{:.3}", float(token)?))).collect()
        };
        lines.iter().map(line).collect()
    };
    matches!((rounded(&found), rounded(&expected)), (Some(found), Some(expected)) if found == expected)
}

/// Whether both are lists of numbers, one a line, that differ by no more than `numpy.allclose` allows.
fn close(found: &[&str], expected: &[&str]) -> bool {
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| match (float(found), float(expected)) {
            (Some(found), Some(expected)) => near(found, expected),
            _ => false,
        })
}

fn near(found: f64, expected: f64) -> bool {
    found == expected || (found - expected).abs() <= 1e-8 + 1e-5 * expected.abs()
}

fn float(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

fn strict(found: &str, expected: &str) -> bool {
    let lines =
        |text: &str| text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    let (found, expected) = (lines(found), lines(expected));
    let tokens = |found: &str, expected: &str| {
        let (found, expected): (Vec<&str>, Vec<&str>) =
            (found.split_whitespace().collect(), expected.split_whitespace().collect());
        found.len() == expected.len()
            && found.iter().zip(&expected).all(|(found, expected)| {
                // Whole numbers are exact.
                let rounded = expected.contains('.') || expected.contains('e');
                found == expected
                    || (rounded
                        && matches!((float(found), float(expected)), (Some(a), Some(b)) if near(a, b)))
            })
    };
    found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| a == b || tokens(a, b))
}
