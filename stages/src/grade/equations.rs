//! The equations of a response: how many different ones there are measures exploration.

use std::collections::BTreeSet;

/// The version of what counts as an equation; part of the key of every result that holds equations. A change that
/// can make them differ raises it.
pub const EQUATIONS_VERSION: u32 = 2;

/// Longer formulas are not looked for.
const MAX_FORMULA: usize = 1000;

/// The distinct equations of a response, without spaces, sorted: what has an `=` in `$…$`, `\(…\)`, `\[…\]`, `align` and
/// `<<…>>` (as GSM8K writes), and arithmetic such as `3 + 4 = 7` in lines of words.
#[must_use]
pub fn equations(response: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    let plain = without_formulas(response, &mut found);
    for line in plain.lines().filter(|line| line.contains('=')) {
        match whole_line(line) {
            Some(equation) => drop(found.insert(equation)),
            None => in_words(line, &mut found),
        }
    }
    found.into_iter().collect()
}

/// The text without its formulas and dollar signs; takes the equations out of the formulas.
fn without_formulas(text: &str, found: &mut BTreeSet<String>) -> String {
    const PAIRS: [(&str, &str); 7] = [
        ("<<", ">>"),
        ("$$", "$$"),
        ("$", "$"),
        ("\\(", "\\)"),
        ("\\[", "\\]"),
        ("\\begin{align}", "\\end{align}"),
        ("\\begin{align*}", "\\end{align*}"),
    ];
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '$', '\\']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("\\$") {
            rest = after;
            continue;
        }
        let formula = PAIRS.iter().find_map(|(open, close)| {
            let inner = rest.strip_prefix(open)?;
            let window = &inner.as_bytes()[..inner.len().min(MAX_FORMULA)];
            let end = window.windows(close.len()).position(|bytes| bytes == close.as_bytes())?;
            let (content, after) = (&inner[..end], &inner[end + close.len()..]);
            (*open != "$" || is_formula(content, after)).then_some((*open, content, after))
        });
        match formula {
            Some((open, content, after)) => {
                found.extend(equation(content));
                // In `3 + 4 = <<3+4=7>>7` the words around it are an equation too, the same one.
                plain.push_str(if open == "<<" { "" } else { ";" });
                rest = after;
            }
            None => {
                let first = if rest.starts_with('$') { "" } else { &rest[..1] };
                plain.push_str(first);
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// Whether dollar signs enclose a formula, and are no amounts of money.
fn is_formula(content: &str, after: &str) -> bool {
    let spaced = content.starts_with(char::is_whitespace) || content.ends_with(char::is_whitespace);
    !spaced && !content.contains(['\n', '<']) && !after.starts_with(|next: char| next.is_ascii_digit())
}

/// A formula with something on both sides of an `=`, which is not that of `\sum_{k=1}`.
fn equation(formula: &str) -> Option<String> {
    let text = without_spaces(formula);
    let text = text.trim_end_matches(['.', ',', ';', ':']);
    let mut depth = 0_i32;
    let outside = |byte| {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        byte == b'=' && depth == 0
    };
    let equal = text.bytes().any(outside) && text.split('=').all(|side| !side.is_empty());
    equal.then(|| text.to_owned())
}

/// A line that is one operation, with no more than letters before it.
fn whole_line(line: &str) -> Option<String> {
    let start = line.find(|character: char| character.is_ascii_digit())?;
    if !line[..start].chars().all(|character| character.is_alphabetic() || character.is_whitespace()) {
        return None;
    }
    let mut text = without_spaces(&line[start..]);
    text.truncate(text.trim_end_matches('.').len());
    let (sum, result) = text.split_once('=')?;
    let (left, right) = sum.split_once(OPERATORS)?;
    let number =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let numbers = number(left) && number(right) && number(result);
    numbers.then_some(text)
}

const OPERATORS: [char; 4] = ['+', '-', '*', '/'];

/// The arithmetic in a line of words: what stands around every `=`.
fn in_words(line: &str, found: &mut BTreeSet<String>) {
    let line = ascii(line);
    let mut sides = line.split('=');
    let Some(mut left) = sides.next() else { return };
    for right in sides {
        let sum = left.rfind(|c: char| !is_arithmetic(c)).map_or(left, |at| &left[at + 1..]);
        let result = right.find(|c: char| !is_arithmetic(c)).map_or(right, |at| &right[..at]);
        if let (Some(sum), Some(result)) = (last_term(sum), first_term(result)) {
            found.insert(format!("{sum}={result}"));
        }
        left = right;
    }
}

/// With the signs of programs in place of those of print, and without commas in numbers.
fn ascii(line: &str) -> String {
    let characters: Vec<char> = line.chars().collect();
    let digit = |c: Option<&char>| c.is_some_and(char::is_ascii_digit);
    let mut plain = String::with_capacity(line.len());
    for (at, character) in characters.iter().enumerate() {
        let before = || characters[..at].iter().rev().find(|c| **c != ' ');
        let after = || characters[at + 1..].iter().find(|c| **c != ' ');
        match character {
            '×' | '·' | '⋅' => plain.push('*'),
            '÷' => plain.push('/'),
            '−' | '–' => plain.push('-'),
            'x' | 'X' if digit(before()) && digit(after()) => plain.push('*'),
            ',' if digit(at.checked_sub(1).and_then(|at| characters.get(at)))
                && digit(characters.get(at + 1)) => {}
            // Anything else that is not ASCII only ends arithmetic.
            other => plain.push(if other.is_ascii() { *other } else { ';' }),
        }
    }
    plain
}

fn is_arithmetic(character: char) -> bool {
    character.is_ascii_digit()
        || OPERATORS.contains(&character)
        || matches!(character, '.' | '(' | ')' | '%' | ' ')
}

/// The arithmetic at the end of a text, if it is an operation.
fn last_term(text: &str) -> Option<String> {
    let start = gaps(text).last().unwrap_or(0);
    let text = without_spaces(&text[start..]);
    let mut text = text.trim_start_matches([')', '+', '*', '/', '%']);
    // `.5` is a number, `. 5` is none.
    while let Some(rest) =
        text.strip_prefix('.').filter(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    {
        text = rest;
    }
    while unclosed(text) > 0 {
        text = text.strip_prefix('(')?;
    }
    let operation = text.trim_start_matches(['-', '(']).split_once(OPERATORS)?;
    let numbers = [operation.0, operation.1].iter().all(|side| side.contains(|c: char| c.is_ascii_digit()));
    (numbers && unclosed(text) == 0 && !text.ends_with(OPERATORS)).then(|| text.to_owned())
}

/// The arithmetic at the beginning of a text, if it is at least a number.
fn first_term(text: &str) -> Option<String> {
    let end = gaps(text).next().unwrap_or(text.len());
    let text = without_spaces(&text[..end]);
    let mut text = text.trim_end_matches(['.', '(', '+', '-', '*', '/']);
    while unclosed(text) < 0 {
        text = text.strip_suffix(')')?.trim_end_matches('.');
    }
    (unclosed(text) == 0 && text.contains(|c: char| c.is_ascii_digit())).then(|| text.to_owned())
}

/// Where one number follows another with nothing but space between: `in 2020 5 + 3 = 8`.
fn gaps(text: &str) -> impl Iterator<Item = usize> {
    let bytes = text.as_bytes();
    let number =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'%'));
    let mut last = None;
    text.bytes().enumerate().filter_map(move |(at, byte)| {
        let gap =
            byte != b' ' && number(Some(&byte)) && at > 0 && bytes[at - 1] == b' ' && number(last.as_ref());
        if byte != b' ' {
            last = Some(byte);
        }
        gap.then_some(at)
    })
}

/// How many more brackets are opened than closed.
fn unclosed(text: &str) -> i32 {
    text.bytes().map(|byte| i32::from(byte == b'(') - i32::from(byte == b')')).sum()
}

fn without_spaces(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::at_hand::shared;

    #[test]
    fn lines_of_one_operation_are_equations() {
        let response = "first 3 * 4 = 12\n\nso 12 - 5 = 7\n\n12 - 5 = 7\n\n# Answer\n\n7";
        assert_eq!(equations(response), ["12-5=7", "3*4=12"]);
        assert!(equations("3 * 4 =\n\n= 12\n\n3 = 4").is_empty());
        assert_eq!(equations("first 3 * 4 = 12.\nso 3*4 = 12"), ["3*4=12"]);
    }

    #[test]
    fn equations_are_found_in_formulas_and_words() {
        for (response, expected) in [
            ("Then $x = 2 + 3$ and $y$.", vec!["x=2+3"]),
            ("\\[ a^2 = b. \\] So \\(c = 1\\), $$d\n= 2$$", vec!["a^2=b", "c=1", "d=2"]),
            ("She makes 9 * 2 = $<<9*2=18>>18 a day.", vec!["9*2=18"]),
            ("80,000 + $50,000 = $130,000 in all", vec!["80000+50000=130000"]),
            ("He pays $5 * 3 = $15.", vec!["5*3=15"]),
            ("Each costs $5, and 3 x 5 = 15, so $15 are spent", vec!["3*5=15"]),
            ("In 2020 5 + 3 = 8 were there (2 × 4 = 8).", vec!["2*4=8", "5+3=8"]),
            ("It is (3 + 4) * 2 = 7 * 2 = 14 of them", vec!["(3+4)*2=7*2", "7*2=14"]),
            ("Half of it is .5 * 8 = 4.", vec![".5*8=4"]),
            ("That is all. 5 * 8 = 40", vec!["5*8=40"]),
            ("20% of 50 is 50 * 20% = 10 apples", vec!["50*20%=10"]),
            ("\\begin{align*}x&=1\\\\y&=2\\end{align*} $\\sum_{k=1}^9 k$", vec!["x&=1\\\\y&=2"]),
            ("n = 5 and \\$3 = 3", vec![]),
            ("5 + 3 = several, and = 8", vec![]),
        ] {
            assert_eq!(equations(response), expected, "{response}");
        }
    }

    /// The share of the solutions in a file that have an equation.
    fn share(file: &str, field: &str) -> Option<f64> {
        let text = shared(file)?;
        let (mut some, mut all) = (0.0, 0.0);
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            some += f64::from(u8::from(!equations(row[field].as_str().unwrap()).is_empty()));
            all += 1.0;
        }
        Some(some / all)
    }

    #[test]
    fn most_solutions_of_public_data_have_equations() {
        if let Some(share) = share("gsm8k/test.jsonl", "answer") {
            assert!(share >= 0.95, "{share} of GSM8K");
        }
        if let Some(share) = share("math/math500_prm800k_test.jsonl", "solution") {
            assert!(share >= 0.7, "{share} of MATH");
        }
    }
}
