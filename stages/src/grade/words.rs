//! Answers in words: normal form, number words, times of day, letters of choices.

use super::expr::Known;

/// Whether two texts are the same words.
pub(super) fn same_text(a: &str, b: &str) -> bool {
    let (a, b) = (normal(a), normal(b));
    !a.is_empty() && a == b
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
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            if let Some(command) = TYPES.iter().find(|command| rest.starts_with(**command)) {
                rest = &rest[command.len()..];
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
    if words.len() > 1 && matches!(words.first(), Some(&"the" | &"a" | &"an")) {
        words.remove(0);
    }
    words.join(" ")
}

/// The set that words name.
pub(super) fn known_set(text: &str) -> Option<Known> {
    if text.len() > 40 || !text.contains(' ') {
        return None;
    }
    match normal(text).as_str() {
        "all real numbers" | "all reals" | "real numbers" | "all real values" => Some(Known::Reals),
        "empty set" | "no solution" | "no solutions" | "no real solution" | "no real solutions" => {
            Some(Known::Empty)
        }
        _ => None,
    }
}

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

/// Minutes since midnight, and whether it says before or after noon.
pub(super) fn time_of_day(text: &str) -> Option<(u32, bool)> {
    if text.len() > 40 || !text.contains(':') {
        return None;
    }
    let plain: String = normal(text).chars().filter(|c| !matches!(c, ' ' | '.' | '\\' | '(' | ')')).collect();
    let (clock, half) = match (plain.strip_suffix("am"), plain.strip_suffix("pm")) {
        (Some(clock), _) => (clock, Some(0)),
        (_, Some(clock)) => (clock, Some(12)),
        _ => (plain.as_str(), None),
    };
    let (hours, minutes) = clock.split_once(':')?;
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

/// The letter of `B`, `(B)`, `B.`, and of a choice that says it with its text: `(B) 12 cm`.
pub(super) fn choice(text: &str) -> Option<(char, bool)> {
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
        return Some((letter, false));
    }
    let said = closed && (open || rest.starts_with([')', ':']) || rest.starts_with(". "));
    said.then_some((letter, true))
}
