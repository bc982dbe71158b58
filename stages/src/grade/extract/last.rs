//! The last formula or number of a text, where nothing announces an answer.

use super::super::words;

/// How many values before the last one are looked at, whether they are joined to it.
const MAX_JOINED: usize = 16;

/// The last formula or number of a text, whichever ends later, with those that are joined to it: the last value of
/// "either 3 or 5" is `3 or 5`. `None` where it ends a range, or where the words around it say that the answer is
/// another one.
pub(in crate::grade) fn last_value(text: &str) -> Option<&str> {
    let (_, value) = last(without_remark(text))?;
    let start = value.as_ptr().addr() - text.as_ptr().addr();
    let end = start + value.len();
    let mut first = start;
    for _ in 0..MAX_JOINED {
        let Some((before, joint)) = joined(&text[..first]) else { break };
        let Some(earlier) = ending(before).filter(|earlier| left_side(earlier) == left_side(value)) else {
            break;
        };
        if joint == Joint::Range {
            return None;
        }
        first = earlier.as_ptr().addr() - text.as_ptr().addr();
    }
    (!words::deny(&text[..first]) && !words::withdraw(&text[end..])).then_some(&text[first..end])
}

/// How a value is joined to the one before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joint {
    /// As another one, or as an alternative.
    List,
    /// As the other end.
    Range,
}

/// What stands before the word or sign that joins a value to an earlier one on the same line.
fn joined(before: &str) -> Option<(&str, Joint)> {
    let before = before.trim_end_matches([' ', '$', '*', '(', '\\']);
    let joints = [
        (",", Joint::List),
        ("\\quad", Joint::List),
        ("\\qquad", Joint::List),
        ("and", Joint::List),
        ("or", Joint::List),
        ("to", Joint::Range),
        ("-", Joint::Range),
        ("–", Joint::Range),
        ("−", Joint::Range),
    ];
    joints.iter().find_map(|(joint, kind)| {
        let rest = before.strip_suffix(joint)?;
        // The end of "for" is no "or".
        let word = joint.starts_with(char::is_alphabetic) && rest.ends_with(char::is_alphanumeric);
        (!word).then_some((rest, *kind))
    })
}

/// The value that a text ends with, before punctuation: a number or a formula without unknowns, and no part of a
/// calculation, as 2 is in "10 - 2 or 8".
fn ending(text: &str) -> Option<&str> {
    let text = text.trim_end_matches([' ', '*', ',']);
    let (_, value) = last(text).filter(|(end, _)| *end == text.len())?;
    let unknown = |part: &str| part.contains(char::is_alphabetic);
    let mut parts = value.rsplit('=').next()?.split('\\');
    let constant = !parts.next().is_some_and(unknown)
        && !parts.any(|command| unknown(command.trim_start_matches(|c: char| c.is_ascii_alphabetic())));
    let touching = &text[..value.as_ptr().addr() - text.as_ptr().addr()];
    let before = touching.trim_end_matches([' ', '$', '(', '\\']);
    let product = before.trim_end_matches('*').trim_end();
    let part = touching.ends_with(char::is_alphanumeric)
        || before.ends_with(['+', '-', '−', '/', '^', '_', '×', '·'])
        || ["\\times", "\\cdot", "\\div"].iter().any(|sign| before.ends_with(sign))
        || product.len() < before.len() && product.ends_with(|c: char| c.is_ascii_digit());
    (constant && !part).then_some(value)
}

/// What stands before the first `=`, if there is one.
fn left_side(value: &str) -> Option<&str> {
    value.split_once('=').map(|(left, _)| left.trim())
}

/// The last formula or number, and where it ends.
fn last(text: &str) -> Option<(usize, &str)> {
    let (formula, number) = (last_formula(text), last_number(text));
    match (formula, number) {
        // A number inside of the last formula is a part of it.
        (Some((end, formula)), Some((number_end, _)))
            if number_end <= end && number_end + formula.len() >= end =>
        {
            Some((end, formula))
        }
        _ => formula.into_iter().chain(number).max_by_key(|(end, _)| *end),
    }
}

/// Without a remark in brackets at the end: `5 (since 5 - 2 = 3)`.
fn without_remark(text: &str) -> &str {
    let end = text.trim_end_matches(['.', ' ', '\n']);
    let Some((before, remark)) = end.strip_suffix(')').and_then(|inner| inner.rsplit_once(" (")) else {
        return text;
    };
    let first: &str = remark.split(|c: char| !c.is_alphabetic()).next().unwrap_or("");
    let remark = first.len() > 2 && before.bytes().any(|byte| byte.is_ascii_digit());
    if remark { before } else { text }
}

fn last_formula(text: &str) -> Option<(usize, &str)> {
    let between = |open: &str, close: &str| {
        let end = text.rfind(close)?;
        let start = text[..end].rfind(open)? + open.len();
        Some((end + close.len(), text[start..end].trim()))
    };
    let dollars = || {
        let mut found = Vec::new();
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => at += 1,
                b'$' => {
                    let double = bytes.get(at + 1) == Some(&b'$');
                    found.push((at, if double { 2 } else { 1 }));
                    at += usize::from(double);
                }
                _ => {}
            }
            at += 1;
        }
        if found.len() % 2 == 1 {
            return None;
        }
        let [.., (open, width), (close, _)] = found.as_slice() else { return None };
        Some((close + width, text[open + width..*close].trim()))
    };
    [dollars(), between("\\(", "\\)"), between("\\[", "\\]")]
        .into_iter()
        .flatten()
        .filter(|(_, formula)| !formula.is_empty())
        .max_by_key(|(end, _)| *end)
}

/// The last number, with its sign, separators, fraction bar and percent sign.
fn last_number(text: &str) -> Option<(usize, &str)> {
    let bytes = text.as_bytes();
    let mut last = bytes.iter().rposition(u8::is_ascii_digit)?;
    // The power of a unit is no number of its own: `9 cm^2`.
    let before = text[..last].trim_end_matches(|c: char| c.is_ascii_digit() || c == '{');
    if let Some(unit) = before.strip_suffix('^')
        && unit.trim_end_matches('}').ends_with(|c: char| c.is_ascii_alphabetic())
        && let Some(earlier) = unit.bytes().rposition(|byte| byte.is_ascii_digit())
        && unit[earlier + 1..].starts_with([' ', '\\'])
    {
        last = earlier;
    }
    // A number in LaTeX that is not marked as a formula: take the whole word.
    let word_start = bytes[..last].iter().rposition(u8::is_ascii_whitespace).map_or(0, |at| at + 1);
    let word_end = bytes[last..].iter().position(u8::is_ascii_whitespace).map_or(bytes.len(), |at| last + at);
    let word = text.get(word_start..word_end)?;
    if word.contains('\\') && !word.contains("\\)") && !word.contains("\\$") {
        return Some((word_end, word.trim_end_matches(['.', ',', ';', ':', '$'])));
    }
    let exponent = |start: usize, letter: usize| {
        let short = last - start < 3 && !bytes[start..=last].contains(&b'.');
        short && letter > 0 && bytes[letter - 1].is_ascii_digit()
    };
    let mut start = last;
    while let Some(before) = start.checked_sub(1) {
        let kept = match bytes[before] {
            b'0'..=b'9' | b'.' => true,
            b',' | b'/' | b':' => before > 0 && bytes[before - 1].is_ascii_digit(),
            // `1e2`, `1e-2`
            b'e' | b'E' => exponent(start, before),
            b'-' if before > 0 => matches!(bytes[before - 1], b'e' | b'E') && exponent(start, before - 1),
            _ => false,
        };
        if !kept {
            break;
        }
        start = before;
    }
    let sign = text[..start].chars().next_back().filter(|before| matches!(before, '-' | '−' | '–'));
    let start = match sign.map(|sign| start - sign.len_utf8()) {
        Some(signed) if text[..signed].ends_with([' ', '(', '=', '$', '\n', ':']) || signed == 0 => signed,
        _ => start,
    };
    let mut end = last + 1;
    if text[end..].starts_with('%') {
        end += 1;
    } else if text[end..].starts_with("\\%") {
        end += 2;
    }
    Some(last_tuple(text, start, end).unwrap_or((end, text.get(start..end)?)))
}

/// The pair or interval that the last number is the end of: `at (3, -1)`.
fn last_tuple(text: &str, start: usize, end: usize) -> Option<(usize, &str)> {
    let after = text[end..].chars().next().filter(|next| matches!(next, ')' | ']'))?;
    let open = text[..start].rfind(['(', '['])?;
    let inner = &text[open + 1..start];
    let numbers = inner.chars().all(|c| c.is_ascii_digit() || " .,-−+/".contains(c)) && inner.contains(',');
    let end = end + after.len_utf8();
    numbers.then(|| (end, &text[open..end]))
}
