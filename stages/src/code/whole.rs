//! Whole numbers of any size, which Python has and [`Value`] has not.

use std::borrow::Cow;

use serde_json::Value;

/// How JSON names a whole number beyond 64 bits that is to stay as it is: `{"$int": "36893488147419103235"}`.
const NAME: &str = "$int";

/// Reads tests without rounding: in JSON text, every whole number beyond 64 bits becomes `{"$int": "…"}`.
#[must_use]
pub fn exact(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let run = |from: usize, inside: fn(&u8) -> bool| {
        bytes[from..].iter().position(|byte| !inside(byte)).map_or(bytes.len(), |length| from + length)
    };
    let (mut text, mut copied, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let end = run(at, |byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
                let number = &json[at..end];
                if is_whole(number) && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    text.push_str(&json[copied..at]);
                    text.push_str(&serde_json::json!({NAME: number}).to_string());
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 { Cow::Borrowed(json) } else { Cow::Owned(text + &json[copied..]) }
}

/// The decimal digits of a number that [`exact`] kept.
pub(super) fn kept(value: &Value) -> Option<&str> {
    let map = value.as_object().filter(|map| map.len() == 1)?;
    map.get(NAME)?.as_str().filter(|text| is_whole(text))
}

/// Whether that is a whole number in decimal digits.
pub(super) fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Decimal digits as Python's `hex` has them, which takes a time in proportion to their number to read.
pub(super) fn hex(decimal: &str) -> String {
    let digits = decimal.strip_prefix('-').unwrap_or(decimal);
    // The least of 32 bits first.
    let mut limbs: Vec<u32> = Vec::new();
    for digit in digits.bytes() {
        let mut carry = u64::from(digit - b'0');
        for limb in &mut limbs {
            carry += u64::from(*limb) * 10;
            *limb = low(carry);
            carry >>= 32;
        }
        if carry > 0 {
            limbs.push(low(carry));
        }
    }
    let rest = limbs.iter().rev().skip(1).map(|limb| format!("{limb:08x}")).collect::<String>();
    match limbs.last() {
        None => "0x0".to_owned(),
        Some(first) => format!("{}0x{first:x}{rest}", if decimal.starts_with('-') { "-" } else { "" }),
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// A number as Python compares it, in one form only.
#[derive(Debug, PartialEq)]
pub(super) enum Number<'a> {
    /// A whole one, be it written as such or not.
    Whole(i64),
    /// A whole one beyond 64 bits, as Python's `hex` has it.
    Large(Cow<'a, str>),
    Other(f64),
}

/// A plain value that is a number.
pub(super) fn number(value: &Value) -> Option<Number<'_>> {
    match value {
        Value::Bool(value) => Some(Number::Whole((*value).into())),
        Value::Number(number) if number.is_f64() => number.as_f64().map(float),
        Value::Number(number) => {
            Some(number.as_i64().map_or_else(|| decimal(&number.to_string()), Number::Whole))
        }
        Value::Object(map) if map.len() == 1 => {
            let text = map.get("i")?.as_str()?;
            let small = i64::from_str_radix(&text.replacen("0x", "", 1), 16);
            Some(small.map_or_else(|_| Number::Large(text.into()), Number::Whole))
        }
        Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn decimal(digits: &str) -> Number<'static> {
    digits.parse().map_or_else(|_| Number::Large(hex(digits).into()), Number::Whole)
}

fn float(value: f64) -> Number<'static> {
    match value.is_finite() && value.fract() == 0.0 {
        true => decimal(&format!("{value:.0}")),
        false => Number::Other(value),
    }
}
