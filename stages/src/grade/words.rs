//! Answers in words: normal form, number words, times of day, letters of choices.

use super::expr::{Bracket, Constant, Expr, Known};
use super::rational::Rational;

/// Whether two texts are the same words.
pub(super) fn same_text(a: &str, b: &str) -> bool {
    let spelled = |text: &str| match normal(text) {
        short if short == "dne" => "does not exist".to_owned(),
        long if long == "infinitely many solutions" => "infinitely many".to_owned(),
        words if words.contains("\\") => words.replace("\\triangle", "triangle").replace("\\angle", "angle"),
        words => words,
    };
    let (a, b) = (spelled(a), spelled(b));
    !a.is_empty() && a == b
}

/// Whether a sentence ends with these words: "The day is Monday".
pub(super) fn says(sentence: &str, words: &str) -> bool {
    let wordy = words.split(|c: char| !c.is_alphabetic()).any(|word| word.len() > 1);
    wordy
        && sentence.len() < 300
        && [" is ", " was ", " be ", " on "]
            .iter()
            .any(|verb| sentence.rsplit_once(verb).is_some_and(|(_, end)| same_text(end, words)))
}

/// Whether two texts are lists of the same words, in any order.
pub(super) fn same_items(a: &str, b: &str) -> bool {
    let items = |text: &str| -> Option<Vec<String>> {
        let text = normal(text).replace(", and ", ",").replace(" and ", ",");
        let mut items: Vec<String> = text.split(',').map(|item| normal(item.trim())).collect();
        items.sort();
        (items.len() > 1 && items.iter().all(|item| !item.is_empty())).then_some(items)
    };
    match (items(a), items(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// Commands whose argument is only set in another type.
const TYPES: [&str; 10] = [
    "\\textbf",
    "\\textit",
    "\\textrm",
    "\\textnormal",
    "\\text",
    "\\mathrm",
    "\\mathbf",
    "\\mbox",
    "\\emph",
    "\\mathit",
];

/// Lower case, without type commands, articles, quotes, and punctuation at the end.
pub(super) fn normal(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    // For every open brace: whether it is one of the formula, not of a type command.
    let mut braces = Vec::new();
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            if let Some(command) = TYPES.iter().find(|command| rest.starts_with(**command)) {
                rest = &rest[command.len()..];
                if let Some(inner) = rest.strip_prefix('{') {
                    braces.push(false);
                    rest = inner;
                }
                continue;
            }
            if rest[1..].starts_with(['%', '$']) {
                rest = &rest[1..];
                continue;
            }
            let spacing = rest
                .strip_prefix("\\ ")
                .or_else(|| rest.strip_prefix("\\,"))
                .or_else(|| rest.strip_prefix("\\!"));
            if let Some(after) = spacing {
                plain.push(' ');
                rest = after;
                continue;
            }
        }
        match first {
            '$' | '"' | '“' | '”' | '`' => {}
            '*' if rest.starts_with("**") => rest = &rest[1..],
            '{' => {
                braces.push(true);
                plain.push(first);
            }
            '}' if braces.pop() == Some(false) => {}
            '~' => plain.push(' '),
            _ => plain.extend(first.to_lowercase()),
        }
        rest = &rest[first.len_utf8()..];
    }
    // Braces only hold words together; in formulas they mean something.
    if !plain.contains(['\\', '^', '_', '/']) {
        plain.retain(|c| c != '{' && c != '}');
    }
    let plain = plain.trim().trim_end_matches(['.', ',', ';', '!', ':']).trim_end();
    let mut words: Vec<&str> = plain.split_whitespace().collect();
    if words.len() > 1 && matches!(words.first(), Some(&"the" | &"a" | &"an" | &"on" | &"at")) {
        words.remove(0);
    }
    words.join(" ")
}

/// The set that words name.
pub(super) fn known_set(text: &str) -> Option<Expr> {
    if text.len() > 40 || !text.contains(' ') {
        return None;
    }
    let infinity = || Expr::Constant(Constant::Infinity);
    let open = |low, high| Expr::Tuple(Bracket::Round, Bracket::Round, vec![low, high]);
    let words = normal(text);
    match words.strip_prefix("all ").unwrap_or(&words) {
        "positive real numbers" | "positive reals" => return Some(open(Expr::integer(0), infinity())),
        "negative real numbers" | "negative reals" => {
            return Some(open(Expr::Negative(Box::new(infinity())), Expr::integer(0)));
        }
        _ => {}
    }
    let known = match words.as_str() {
        "all real numbers" | "all reals" | "real numbers" | "all real values" => Known::Reals,
        "empty set" | "no solution" | "no solutions" | "no real solution" | "no real solutions" => {
            Known::Empty
        }
        _ => return None,
    };
    Some(Expr::Known(known))
}

/// The value of `\text{There are } 42`: what follows the words, unless they say more than what it is.
pub(super) fn after_text(text: &str) -> Option<&str> {
    const CHANGING: [&str; 16] = [
        "not", "no", "minus", "negative", "less", "more", "greater", "least", "most", "than", "except",
        "over", "under", "below", "above", "between",
    ];
    let (words, value) = super::lex::braced(text.strip_prefix("\\text")?)?;
    let mut words = words.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).peekable();
    let plain = words.peek().is_some() && words.all(|word| !CHANGING.contains(&word.to_lowercase().as_str()));
    (plain && value.contains(|c: char| c.is_ascii_digit())).then_some(value)
}

const ORDINALS: [&str; 12] = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
];
const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/// The number that words name: "twenty-one", "three hundred and five".
pub(super) fn number(text: &str) -> Option<i128> {
    if text.len() > 120 || !text.is_ascii() {
        return None;
    }
    let lower = normal(text);
    if let Some(at) = ORDINALS.iter().position(|ordinal| *ordinal == lower) {
        return i128::try_from(at + 1).ok();
    }
    let (mut total, mut group, mut any) = (0_i128, 0_i128, false);
    let index = |list: &[&str], word: &str| {
        list.iter().position(|entry| *entry == word).and_then(|at| i128::try_from(at).ok())
    };
    for word in lower.split([' ', '-']) {
        if let Some(value) = index(&SMALL, word) {
            group += value;
        } else if let Some(at) = index(&TENS, word) {
            group += 20 + 10 * at;
        } else {
            match word {
                "and" if any => continue,
                "hundred" => group = group.max(1).checked_mul(100)?,
                "thousand" | "million" | "billion" | "trillion" => {
                    let scale = match word {
                        "thousand" => 1_000,
                        "million" => 1_000_000,
                        "billion" => 1_000_000_000,
                        _ => 1_000_000_000_000,
                    };
                    total = total.checked_add(group.max(1).checked_mul(scale)?)?;
                    group = 0;
                }
                _ => return None,
            }
        }
        any = true;
    }
    any.then_some(total.checked_add(group)?)
}

/// Words for parts, from a third on.
const PARTS: [&str; 8] = ["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];

/// The fraction that words name: "two thirds", "three-quarters", "two and a half".
pub(super) fn fraction(text: &str) -> Option<Rational> {
    if text.len() > 60 || !text.is_ascii() {
        return None;
    }
    let lower = normal(text);
    let (whole, part) = match lower.split_once(" and ") {
        Some((whole, part)) => (number(whole)?, part),
        None => (0, lower.as_str()),
    };
    let (top, name) = part.rsplit_once([' ', '-']).unwrap_or(("", part));
    let bottom = match name.strip_suffix('s').unwrap_or(name) {
        "half" | "halve" => 2,
        "quarter" => 4,
        // "Third" alone is a place in a row.
        _ if top.is_empty() => return None,
        name => PARTS.iter().zip(3..).find(|(part, _)| **part == name)?.1,
    };
    let top = if matches!(top, "" | "a" | "an") { 1 } else { number(top)? };
    Rational::new(top, bottom)?.plus(Rational::integer(whole))
}

/// Minutes since midnight, and whether it says before or after noon.
pub(super) fn time_of_day(text: &str) -> Option<(u32, bool)> {
    match text {
        "noon" | "Noon" => return Some((12 * 60, true)),
        "midnight" | "Midnight" => return Some((0, true)),
        _ if text.len() > 40 || !(text.contains(':') || text.ends_with(['m', 'M', '.', '}', 'k'])) => {
            return None;
        }
        _ => {}
    }
    let plain: String = normal(text).chars().filter(|c| !matches!(c, ' ' | '.' | '\\' | '(' | ')')).collect();
    let (clock, half) = match (plain.strip_suffix("am"), plain.strip_suffix("pm")) {
        (Some(clock), _) => (clock, Some(0)),
        (_, Some(clock)) => (clock, Some(12)),
        _ => (plain.as_str(), None),
    };
    let (clock, full) = match clock.strip_suffix("o'clock") {
        Some(clock) => (clock, true),
        None => (clock, half.is_some()),
    };
    let (hours, minutes) = match full {
        true => clock.split_once(':').unwrap_or((clock, "00")),
        false => clock.split_once(':')?,
    };
    if minutes.len() != 2 || hours.is_empty() || hours.len() > 2 {
        return None;
    }
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if minutes > 59 || hours > 23 || (half.is_some() && !(1..=12).contains(&hours)) {
        return None;
    }
    let hours = half.map_or(hours, |half| hours % 12 + half);
    Some((60 * hours + minutes, half.is_some()))
}

/// A choice by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice<'a> {
    pub(super) letter: char,
    /// What it says after the letter: `12 cm` in `(B) 12 cm`. Often empty.
    pub(super) text: &'a str,
}

/// `(b)`, which a formula could be too: only where the reference is a choice.
pub(super) fn small_choice(text: &str) -> Option<Choice<'_>> {
    let letter = text.strip_prefix('(')?.strip_suffix(')')?;
    match letter.as_bytes() {
        [letter @ b'a'..=b'j'] => Some(Choice { letter: char::from(letter.to_ascii_uppercase()), text: "" }),
        _ => None,
    }
}

/// The choice that a sentence states: "the correct option is (C)", "option C is correct".
pub(super) fn stated_choice(text: &str) -> Option<Choice<'_>> {
    let at = ["option ", "choice ", "Option ", "Choice "]
        .iter()
        .filter_map(|word| text.rfind(word).map(|at| at + word.len()))
        .max()?;
    let rest = text[at..].trim_start_matches("is ").trim_start_matches(['(', '*', '$', ' ']);
    let letter = rest.chars().next().filter(|letter| matches!(letter, 'A'..='J'))?;
    let after = rest[1..].trim_start_matches([')', '*', '$']);
    let refused =
        [" is not", " is wrong", " is incorrect", " can"].iter().any(|words| after.starts_with(words));
    let ends = after.chars().next().is_none_or(|next| !next.is_alphanumeric()) && !refused;
    ends.then_some(Choice { letter, text: "" })
}

/// The choice of `B`, `(B)`, `B.`, and of one that says its text too: `(B) 12 cm`.
pub(super) fn choice(text: &str) -> Option<Choice<'_>> {
    let plain = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '$' | '*' | '"'));
    let mut plain = plain;
    for word in ["Option ", "option ", "Choice ", "choice "] {
        plain = plain.strip_prefix(word).unwrap_or(plain);
    }
    for command in TYPES {
        if let Some(inner) = plain.strip_prefix(command) {
            plain = inner.trim_start_matches('{');
            break;
        }
    }
    let open = plain.starts_with('(');
    let inner = plain.trim_start_matches(['(', '{']);
    let letter = inner.chars().next().filter(|letter| matches!(letter, 'A'..='J'))?;
    let rest = inner[1..].trim_start_matches('}');
    let closed = rest.starts_with([')', '.', ':']);
    let after = rest.trim_start_matches([')', '.', ':', '}', '$', '*', ' ']);
    if after.is_empty() {
        return Some(Choice { letter, text: "" });
    }
    // `(A) and (B)` are two.
    let joined =
        [",", "and ", "or ", "\\text{ and", "\\text{ or", "&"].iter().any(|joint| after.starts_with(joint));
    let said = closed && (open || rest.starts_with([')', ':']) || rest.starts_with(". ")) && !joined;
    said.then_some(Choice { letter, text: after.trim_start_matches(['\\', ' ']).trim() })
}
