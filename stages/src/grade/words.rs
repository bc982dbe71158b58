//! Answers in words: normal form, number words, times of day, letters of choices.

use super::expr::{Bracket, Constant, Expr, Known};
use super::rational::Rational;

/// Whether two texts are the same words.
pub(super) fn same_text(a: &str, b: &str) -> bool {
    let spelled = |text: &str| match normal(text) {
        short if short == "dne" => "does not exist".to_owned(),
        letter if letter == "T" => "true".to_owned(),
        letter if letter == "F" => "false".to_owned(),
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

/// Commands that are words.
const NAMED: [&str; 2] = ["\\triangle", "\\angle"];

/// In longer arguments of type commands case counts.
const MAX_TYPED: usize = 300;

/// What an open brace belongs to.
enum Brace {
    Formula,
    /// A type command, perhaps around words.
    Type {
        words: bool,
    },
}

/// Whether it is made of words, not of letters that mean something each: case does not matter there.
fn is_prose(text: &str) -> bool {
    let mut rest = text;
    let mut words = false;
    // Of open braces: how many there are, and outside of which a type command's argument ends.
    let (mut depth, mut typed) = (0_u32, None);
    while let Some(first) = rest.chars().next() {
        if let Some(command) = TYPES.iter().chain(&NAMED).find(|command| rest.starts_with(**command)) {
            rest = &rest[command.len()..];
            if rest.starts_with('{') {
                typed = typed.or(Some(depth));
            }
            continue;
        }
        let length = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let word = &rest[..length];
        match first {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                typed = typed.filter(|outside| depth > *outside);
            }
            '\\' if typed.is_none() && rest[1..].starts_with(|next: char| next.is_ascii_alphabetic()) => {
                return false;
            }
            '^' | '_' | '=' | '+' | '*' | '<' | '>' | '|' if typed.is_none() => return false,
            _ => {}
        }
        words |= word.eq_ignore_ascii_case("no")
            || word.chars().nth(2).is_some() && !super::parse::is_reserved(word);
        rest = &rest[length.max(first.len_utf8())..];
    }
    words
}

/// Words in lower case, without type commands, articles, quotes, and punctuation at the end.
pub(super) fn normal(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    let prose = is_prose(text);
    // Inside of how many type commands around words this is.
    let mut typed = 0_u32;
    let mut braces = Vec::new();
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            if let Some(command) = TYPES.iter().find(|command| rest.starts_with(**command)) {
                rest = &rest[command.len()..];
                if let Some(inner) = rest.strip_prefix('{') {
                    let end = inner.bytes().take(MAX_TYPED).position(|byte| byte == b'}');
                    let words = end.is_some_and(|end| is_prose(&inner[..end]));
                    braces.push(Brace::Type { words });
                    typed += u32::from(words);
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
                braces.push(Brace::Formula);
                plain.push(first);
            }
            '}' => match braces.pop() {
                Some(Brace::Type { words }) => typed -= u32::from(words),
                _ => plain.push(first),
            },
            '~' => plain.push(' '),
            _ if prose || typed > 0 => plain.extend(first.to_lowercase()),
            _ => plain.push(first),
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
    if text.len() > 40 || !(text.contains(' ') || text.trim_end_matches('}').ends_with("one")) {
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
        "none" | "empty set" | "no solution" | "no solutions" | "no real solution" | "no real solutions" => {
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

/// Words that end what was said before them.
const TURNS: [&str; 9] = ["but", "so", "therefore", "thus", "hence", "then", "because", "since", "instead"];
/// Words between a comparison and its value: "less than or equal to 7".
const FILLERS: [&str; 8] = ["or", "equal", "to", "the", "a", "about", "exactly", "only"];
/// Signs of relations other than equality.
const UNEQUAL: [&str; 16] = [
    "\\ne",
    "\\neq",
    "\\le",
    "\\leq",
    "\\leqslant",
    "\\lt",
    "\\ge",
    "\\geq",
    "\\geqslant",
    "\\gt",
    "≠",
    "≤",
    "≥",
    "<",
    "!=",
    ">=",
];
/// How many words may stand between "not" and what it denies.
const REACH: usize = 4;

/// Whether the words before a value, in its clause, say that it is another one: "not equal to", "at least".
pub(super) fn deny(before: &str) -> bool {
    let before = before.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '$' | '*' | '{' | '('));
    let greater = before.strip_suffix('>').is_some_and(|arrow| !arrow.ends_with(['=', '-', '>']));
    if greater || UNEQUAL.iter().any(|sign| before.ends_with(sign)) {
        return true;
    }
    let (mut next, mut touches) = ("", true);
    let mut words = before.split_whitespace().rev().enumerate().peekable();
    while let Some((distance, word)) = words.next() {
        let end = word.ends_with(['.', ',', ';', ':', '!', '?']);
        let plain = word.trim_matches(|c: char| !c.is_alphanumeric());
        let is = |list: &[&str]| list.iter().any(|entry| plain.eq_ignore_ascii_case(entry));
        if end || plain.contains(|c: char| c.is_ascii_digit()) || is(&TURNS) {
            return false;
        }
        let denies = is(&["not", "never", "cannot", "neither", "nor"])
            || plain.ends_with("n't")
            || plain.ends_with("n’t")
            || is(&["no"]) && matches!(next, "way" | "chance" | "possibility");
        if distance <= REACH && denies {
            return true;
        }
        if touches {
            let bound = is(&["least", "most"])
                && words.peek().is_some_and(|(_, word)| word.eq_ignore_ascii_case("at"));
            let compares = is(&["than", "over", "under", "above", "below", "except", "between", "minus"]);
            if bound || compares || is(&["negative"]) {
                return true;
            }
            touches = is(&FILLERS);
        } else if distance > REACH {
            return false;
        }
        next = plain;
    }
    false
}

/// Whether the words after a value take it back: "7 is not the answer", "7 or more".
pub(super) fn withdraw(after: &str) -> bool {
    let after = after.trim_start_matches([' ', '$', '*', ')', '}', '"']);
    const WITHDRAWN: [&str; 14] = [
        "is not ",
        "isn't ",
        "is wrong",
        "is incorrect",
        "is false",
        "is too ",
        "cannot ",
        "can't ",
        "or more",
        "or less",
        "or fewer",
        "or greater",
        "at most",
        "at least",
    ];
    WITHDRAWN.iter().any(|words| after.starts_with(words))
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
    if lower == SMALL[0] {
        return Some(0);
    }
    let index = |list: &[&str], word: &str| {
        list.iter().position(|entry| *entry == word).and_then(|at| i128::try_from(at).ok())
    };
    // What is added has to be less than `room`: "one two" and "one twenty" are no numbers.
    let (mut total, mut group, mut room, mut least) = (0_i128, 0_i128, 100, i128::MAX);
    let (mut any, mut joined) = (false, false);
    for word in lower.split([' ', '-']) {
        let value = index(&SMALL, word).or_else(|| index(&TENS, word).map(|at| 20 + 10 * at));
        let counted = (group > 0 || !any) && !joined;
        match (value, word) {
            (Some(value), _) if (1..room).contains(&value) => {
                group += value;
                room = if value < 20 { 0 } else { 10 };
                joined = false;
            }
            // After "hundred", "thousand" and so on.
            (None, "and") if any && room == 100 && !joined => joined = true,
            (None, "hundred") if counted && group < 100 => {
                group = 100 * group.max(1);
                room = 100;
            }
            (None, word) => {
                let scale = match word {
                    "thousand" => 1_000,
                    "million" => 1_000_000,
                    "billion" => 1_000_000_000,
                    "trillion" => 1_000_000_000_000,
                    _ => return None,
                };
                if !counted || scale >= least {
                    return None;
                }
                total += scale * group.max(1);
                (group, room, least) = (0, 100, scale);
            }
            (Some(_), _) => return None,
        }
        any = true;
    }
    (!joined).then_some(total + group)
}

/// The number that a sentence without digits says: "There are twenty-five ways".
pub(super) fn said_number(sentence: &str) -> Option<Rational> {
    if sentence.len() > 300 || sentence.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let sentence = sentence.trim_end_matches(['.', '!', ' ']);
    let verbs = [" is ", " are ", " was ", " were ", " be ", " equals "];
    let said =
        verbs.iter().filter_map(|verb| Some(sentence.rsplit_once(verb)?.1)).min_by_key(|said| said.len())?;
    let words: Vec<&str> = said.split_whitespace().take(8).collect();
    // At most what is counted follows.
    (words.len().saturating_sub(1).max(1)..=words.len()).rev().find_map(|count| {
        let text = words[..count].join(" ");
        fraction(&text).or_else(|| number(&text).map(Rational::integer))
    })
}

/// Quotient and remainder: `7 R 2`, "7 remainder 2".
pub(super) fn remainder(text: &str) -> Option<(u64, u64)> {
    let numbers =
        text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_digit());
    if !numbers || text.len() > 60 || !text.contains(['R', 'r']) {
        return None;
    }
    let lower = normal(text).to_lowercase();
    let (quotient, rest) = lower.split_once('r')?;
    let rest = rest.strip_prefix("emainder").unwrap_or(rest);
    let quotient = quotient.trim_end().trim_end_matches([',']).trim_end_matches("with a");
    Some((quotient.trim().parse().ok()?, rest.trim_start_matches([' ', ':', '=']).parse().ok()?))
}

/// The letters of several choices: `A, B, D`, `A and C`, `ABD`.
pub(super) fn choices(text: &str) -> Option<(Vec<char>, bool)> {
    if text.len() > 80 || text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let typed = TYPES.iter().find_map(|command| text.strip_prefix(command));
    let plain = typed.and_then(super::lex::braced).map_or(text, |(inner, _)| inner).trim();
    let spelled = plain.replace("\\text{ and }", ",").replace(" and ", ",");
    let listed = spelled.contains(',');
    let mut letters: Vec<char> =
        spelled.chars().filter(|c| !listed || !matches!(c, ',' | ' ' | '(' | ')')).collect();
    // Letters that are not in order are a name.
    if listed {
        letters.sort_unstable();
    }
    let ascending = letters.windows(2).all(|pair| pair[0] < pair[1]);
    let choices = letters.len() > 1 && letters.iter().all(|letter| matches!(letter, 'A'..='J'));
    (choices && ascending).then_some((letters, listed))
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
    let visible = |c: &char| !matches!(c, ' ' | '.' | '\\' | '(' | ')');
    let plain: String = normal(text).to_lowercase().chars().filter(visible).collect();
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
