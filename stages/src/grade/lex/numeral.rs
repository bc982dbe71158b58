//! Numbers: thousands separators, fractions, exponents, repeated decimals.

use super::super::number::Number;
use super::{Lexer, Token, braced};

impl<'a> Lexer<'a> {
    /// Reads a number: thousands separators, a fraction, an exponent, repeated decimals.
    pub(super) fn number(&mut self, text: &'a str, spaced: bool) -> Option<&'a str> {
        let whole_end = digits(text);
        let mut end = whole_end;
        let mut grouped = false;
        if (1..=3).contains(&whole_end) {
            while let Some((separator, comma)) = thousands_separator(&text[end..]) {
                if comma && !self.reading.thousands {
                    self.out.grouped = true;
                    break;
                }
                self.out.grouped |= comma;
                grouped = true;
                end += separator + 3;
            }
        }
        if !grouped && self.reading.decimal_comma && text[end..].starts_with(',') {
            let places = digits(&text[end + 1..]);
            if places > 0 && places != 3 && end > 0 {
                let stop = end + 1 + places;
                let number = Number::decimal(&text[..end], Some(&text[end + 1..stop]), 0)?;
                self.push(Token::Number(number), spaced, &text[..stop])?;
                return Some(&text[stop..]);
            }
        }
        if !grouped && end > 0 && text[end..].starts_with(',') {
            self.out.decimal_comma |= digits(&text[end + 1..]) > 0;
        }
        if !grouped && let Some(length) = grouped_by_points(&text[end..]) {
            end += length;
            let number = Number::decimal(&text[..end], None, 0)?;
            self.push(Token::Number(number), spaced, &text[..end])?;
            return Some(&text[end..]);
        }
        let whole = &text[..end];
        let mut fraction = None;
        if let Some(rest) = text[end..].strip_prefix("{.}")
            && digits(rest) > 0
        {
            let places = digits(rest);
            fraction = Some(&rest[..places]);
            end += "{.}".len() + places;
        } else if let Some(rest) = text[end..].strip_prefix('.') {
            let places = digits(rest);
            if places > 0 {
                fraction = Some(&rest[..places]);
                end += 1 + places;
            } else if whole.is_empty() {
                // An ellipsis, or a stray full stop.
                let dots = text.len() - text.trim_start_matches('.').len();
                let rest = &text[dots..];
                if rest.trim().is_empty() && !self.goes_on() {
                    return Some("");
                }
                return self.push(Token::Command("dots"), spaced, &text[..dots]).map(|()| rest);
            } else if rest.trim_start().is_empty() || repeated(rest).is_some() {
                fraction = Some("");
                end += 1;
            } else {
                // "5. Then …" is no answer, "5.}" is.
                fraction = Some("");
                end += 1;
                if !rest.starts_with(['}', ' ', '\\', ',', '$', ')']) && bracketed(rest).is_none() {
                    return None;
                }
            }
        }
        if let Some(fraction) = fraction
            && let Some((number, after)) = endless(whole, fraction, &text[end..])
        {
            self.push(Token::Number(number), spaced, &text[..text.len() - after.len()])?;
            return Some(after);
        }
        let (exponent, length) = exponent(&text[end..]);
        end += length;
        let mut number = Number::decimal(whole, fraction, exponent)?;
        if fraction == Some("") && exponent == 0 {
            number.decimals = Some(0);
        }
        if let Some((period, length)) = repeated(&text[end..])
            && exponent == 0
            && let Some(exact) = number.repeating(period)
        {
            number = exact;
            end += length;
        }
        if number.decimals == Some(0) {
            number.decimals = None;
        }
        self.push(Token::Number(number), spaced, &text[..end])?;
        Some(&text[end..])
    }
}

impl Lexer<'_> {
    /// Whether dots here are an item of a list, not the end of a number: `1, 3, …`.
    pub(super) fn goes_on(&self) -> bool {
        self.out.tokens.last().is_some_and(|last| matches!(last.token, Token::Symbol(',')))
    }
}

fn digits(text: &str) -> usize {
    text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len())
}

/// Length of a separator before exactly three digits, and whether it is a plain comma.
fn thousands_separator(text: &str) -> Option<(usize, bool)> {
    let length = ["{,}", ",\\!\\!", "{,}\\!", ",\\!", ",\\,", "\\,", "\\:", "\\;", "\\ ", ",", " ", "~"]
        .iter()
        .find_map(|separator| {
            let rest = text.strip_prefix(separator)?;
            let spaces = rest.len() - rest.trim_start_matches(' ').len();
            // Only after `\!` does a space not end the number.
            let spaces = if separator.ends_with("\\!") { spaces } else { 0 };
            (digits(&rest[spaces..]) == 3).then_some((separator.len() + spaces, *separator == ","))
        })?;
    Some(length)
}

/// The length of `.000.000` after the first digits: with two points it can be no decimal.
fn grouped_by_points(text: &str) -> Option<usize> {
    let mut length = 0;
    while text[length..].starts_with('.') && digits(&text[length + 1..]) == 3 {
        length += 4;
    }
    (length >= 8).then_some(length)
}

/// `e-3`, `E+5`: the exponent and its length.
fn exponent(text: &str) -> (i32, usize) {
    let read = || {
        let rest = text.strip_prefix(['e', 'E'])?;
        let unsigned = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        let length = digits(unsigned);
        let after = &unsigned[length..];
        if length == 0 || length > 4 || after.starts_with(|next: char| next.is_alphabetic() || next == '.') {
            return None;
        }
        let value: i32 = unsigned[..length].parse().ok()?;
        let value = if rest.starts_with('-') { -value } else { value };
        Some((value, text.len() - after.len()))
    };
    read().unwrap_or((0, 0))
}

/// The number whose decimals go on: `0.333...`, `0.1212\ldots` at the end, and `0.(3)`; with what follows it.
fn endless<'a>(whole: &str, fraction: &str, rest: &'a str) -> Option<(Number, &'a str)> {
    if fraction.is_empty() {
        let (period, after) = bracketed(rest)?;
        return Some((Number::decimal(whole, Some(""), 0)?.repeating(period)?, after));
    }
    let after = ["...", "…", "\\ldots", "\\dots", "\\cdots"]
        .iter()
        .find_map(|dots| rest.trim_start().strip_prefix(dots))?;
    if !after.trim().is_empty() || fraction.len() > MAX_ENDLESS {
        return None;
    }
    // One digit that stands there three times, or more digits that stand there twice.
    let start = (1..=fraction.len() / 2).find_map(|length| {
        let times = if length == 1 { 3 } else { 2 };
        let start = fraction.len().checked_sub(length * times)?;
        let period = &fraction[fraction.len() - length..];
        let repeats = fraction[start..] == period.repeat(times);
        repeats.then_some((fraction.len() - length, period))
    });
    let (end, period) = start?;
    Some((Number::decimal(whole, Some(&fraction[..end]), 0)?.repeating(period)?, after))
}

/// Longer fractions are what they are.
const MAX_ENDLESS: usize = 12;

/// The digits of `(63)`, and what follows.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let (period, after) = text.strip_prefix('(')?.split_once(')')?;
    let whole = !period.is_empty() && period.len() <= 12 && digits(period) == period.len();
    whole.then_some((period, after))
}

/// `\overline{63}`: the period and its length.
fn repeated(text: &str) -> Option<(&str, usize)> {
    let rest = text
        .strip_prefix("\\overline")
        .or_else(|| text.strip_prefix("\\bar"))
        .or_else(|| text.strip_prefix("\\dot"))?;
    let (period, after) = match braced(rest) {
        Some(found) => found,
        None => rest.split_at_checked(1)?,
    };
    let whole = !period.is_empty() && period.len() <= 12 && digits(period) == period.len();
    whole.then_some((period, text.len() - after.len()))
}
