//! Judging a response: what its answer is, whether that is right, and what it computes on the way.

use std::collections::BTreeSet;

use crate::config::Grader;

/// What precedes the answer in a response.
pub const ANSWER_MARKER: &str = "# Answer\n\n";

/// What separates the steps of a response.
pub const STEP_SEPARATOR: &str = "\n\n";

/// The text after the last answer marker, trimmed; `None` without a marker or an answer.
#[must_use]
pub fn extract(response: &str) -> Option<&str> {
    let (_, answer) = response.rsplit_once(ANSWER_MARKER)?;
    let answer = answer.trim();
    (!answer.is_empty()).then_some(answer)
}

/// Whether an answer is the reference answer.
#[must_use]
pub fn equal(answer: &str, reference: &str, grader: Grader) -> bool {
    match grader {
        Grader::Exact => answer == reference,
        Grader::Math => match (number(answer), number(reference)) {
            (Some(answer), Some(reference)) => answer == reference,
            (None, None) => normal_text(answer) == normal_text(reference),
            _ => false,
        },
    }
}

/// A fraction in lowest terms, with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rational {
    numerator: i128,
    denominator: i128,
}

impl Rational {
    fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let divisor = gcd(numerator.unsigned_abs(), denominator.unsigned_abs());
        let divisor = i128::try_from(divisor).ok()? * denominator.signum();
        Some(Self { numerator: numerator / divisor, denominator: denominator / divisor })
    }

    fn over(self, other: Self) -> Option<Self> {
        Self::new(
            self.numerator.checked_mul(other.denominator)?,
            self.denominator.checked_mul(other.numerator)?,
        )
    }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

/// Reads a number exactly: integers (with thousands commas), decimals, `a/b`, `\frac{a}{b}`; a leading
/// currency sign and a trailing percent sign or full stop do not count.
fn number(text: &str) -> Option<Rational> {
    let mut text = text.trim();
    if let Some(inner) = text.strip_prefix('$').and_then(|rest| rest.strip_suffix('$')) {
        text = inner.trim();
    }
    text = text.strip_suffix('.').unwrap_or(text).trim_end();
    text = text.strip_suffix("\\%").or_else(|| text.strip_suffix('%')).unwrap_or(text).trim_end();
    let (negative, mut text) = sign(text);
    text = text.strip_prefix("\\$").or_else(|| text.strip_prefix('$')).unwrap_or(text).trim_start();
    let (inner_negative, text) = if negative { (false, text) } else { sign(text) };
    let value = fraction(text)?;
    let numerator = if negative || inner_negative { -value.numerator } else { value.numerator };
    Some(Rational { numerator, ..value })
}

/// Whether there is a minus sign, and what follows the sign.
fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix(['-', '\u{2212}']) {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text.strip_prefix('+').unwrap_or(text).trim_start()),
    }
}

fn fraction(text: &str) -> Option<Rational> {
    for command in ["\\frac", "\\dfrac", "\\tfrac"] {
        if let Some(rest) = text.strip_prefix(command) {
            let (top, rest) = rest.trim_start().strip_prefix('{')?.split_once('}')?;
            let bottom = rest.trim_start().strip_prefix('{')?.strip_suffix('}')?;
            return signed(top)?.over(signed(bottom)?);
        }
    }
    match text.split_once('/') {
        Some((top, bottom)) => decimal(top.trim())?.over(signed(bottom)?),
        None => decimal(text),
    }
}

fn signed(text: &str) -> Option<Rational> {
    let (negative, text) = sign(text.trim());
    let value = decimal(text)?;
    Some(if negative { Rational { numerator: -value.numerator, ..value } } else { value })
}

/// An unsigned integer or decimal.
fn decimal(text: &str) -> Option<Rational> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let whole = if whole.contains(',') { without_commas(whole)? } else { whole.to_owned() };
    if !digits(&whole) || !digits(part) || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    let part = part.trim_end_matches('0');
    let scale = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?;
    Rational::new(format!("0{whole}{part}").parse().ok()?, scale)
}

/// A number whose commas stand after every third digit from the right.
fn without_commas(text: &str) -> Option<String> {
    let mut groups = text.split(',');
    let first = groups.next()?;
    let well_placed = (1..=3).contains(&first.len()) && groups.all(|group| group.len() == 3);
    well_placed.then(|| text.replace(',', ""))
}

/// Text without differences of case, of spaces, and of a full stop at its end.
fn normal_text(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The pieces of a response: one a step, each with the separator after it, the answer with the last.
/// Joined, they are the response.
#[must_use]
pub fn steps(response: &str) -> Vec<&str> {
    let mut pieces: Vec<&str> = response.split_inclusive(STEP_SEPARATOR).collect();
    // The answer belongs to the last step: "12 - 5 = 7\n\n# Answer\n\n7" is one piece.
    if let Some(answer) = pieces.iter().rposition(|piece| piece.starts_with("# Answer"))
        && let Some(kept) = answer.checked_sub(1)
    {
        let start: usize = pieces[..kept].iter().map(|piece| piece.len()).sum();
        pieces.truncate(kept);
        pieces.push(&response[start..]);
    }
    pieces
}

/// The distinct equations of a response, as `a op b = c` without spaces, sorted. Words before an
/// equation (`first`, `so`) do not count.
#[must_use]
pub fn equations(response: &str) -> Vec<String> {
    let found: BTreeSet<String> = response.lines().filter_map(equation).collect();
    found.into_iter().collect()
}

fn equation(line: &str) -> Option<String> {
    let start = line.find(|character: char| character.is_ascii_digit())?;
    if !line[..start].chars().all(|character| character.is_alphabetic() || character.is_whitespace()) {
        return None;
    }
    let text: String = line[start..].chars().filter(|character| !character.is_whitespace()).collect();
    let (sum, result) = text.split_once('=')?;
    let (left, right) = sum.split_once(['+', '-', '*', '/'])?;
    let number =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let numbers = number(left) && number(right) && number(result);
    numbers.then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_answer_follows_the_last_marker() {
        assert_eq!(extract("1 + 1 = 2\n\n# Answer\n\n2"), Some("2"));
        assert_eq!(extract("# Answer\n\n3\n\n# Answer\n\n 4 \n"), Some("4"));
        assert_eq!(extract("1 + 1 = 2"), None);
        assert_eq!(extract("# Answer\n\n"), None);
        assert_eq!(extract("# Answer 4"), None);
    }

    #[test]
    fn numbers_are_equal_by_value() {
        let pairs = [
            ("7425000", "7,425,000"),
            ("1000", "1000.0"),
            ("1/2", "0.5"),
            ("\\frac{1}{2}", ".5"),
            ("\\frac{2}{4}", "1/2"),
            ("-\\dfrac{3}{4}", "-0.75"),
            ("$12", "12"),
            ("-$5", "$-5"),
            ("50\\%", "50"),
            ("50%", "50"),
            ("18.", "18"),
            ("$18$", "18"),
            ("+3", "3"),
            ("0.10", "0.1"),
            ("007", "7"),
            ("-0", "0"),
            ("-1/2", "1/-2"),
            ("\u{2212}4", "-4"),
        ];
        for (one, other) in pairs {
            assert!(equal(one, other, Grader::Math), "{one} and {other}");
            assert!(equal(other, one, Grader::Math), "{other} and {one}");
        }
    }

    #[test]
    fn different_numbers_are_different() {
        let pairs = [
            ("12", "21"),
            ("0.333", "1/3"),
            ("1,23", "123"),
            ("--5", "5"),
            ("1/0", "1"),
            ("5 apples", "5"),
            ("9007199254740993", "9007199254740992"),
            ("", "0"),
            ("-", "0"),
            (".", "0"),
        ];
        for (one, other) in pairs {
            assert!(!equal(one, other, Grader::Math), "{one} and {other}");
        }
    }

    #[test]
    fn text_is_equal_without_case_and_spaces() {
        assert!(equal("  Blue   Whale.", "blue whale", Grader::Math));
        assert!(!equal("Blue whale", "blue whale", Grader::Exact));
        assert!(!equal("bluewhale", "blue whale", Grader::Math));
        assert!(equal("1/0", "1/0", Grader::Math));
    }

    #[test]
    fn the_answer_belongs_to_the_last_step() {
        let response = "first 3 * 4 = 12\n\nthen 12 - 5 = 7\n\n# Answer\n\n7";
        let pieces = steps(response);
        assert_eq!(pieces, ["first 3 * 4 = 12\n\n", "then 12 - 5 = 7\n\n# Answer\n\n7"]);
        assert_eq!(steps("3 * 4 = 12"), ["3 * 4 = 12"]);
        assert_eq!(steps("# Answer\n\n7"), ["# Answer\n\n", "7"]);
        assert!(steps("").is_empty());
    }

    #[test]
    fn equations_are_distinct_and_free_of_words() {
        let response = "first 3 * 4 = 12\n\nso 12 - 5 = 7\n\n12 - 5 = 7\n\n# Answer\n\n7";
        assert_eq!(equations(response), ["12-5=7", "3*4=12"]);
        assert!(equations("3 * 4 =\n\n= 12\n\n3 = 4").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_can_be_judged(text in "[-+$%.,/0-9a-z{}\\\\ \n#]{0,24}") {
            drop((extract(&text), equations(&text), equal(&text, "1/2", Grader::Math)));
            prop_assert!(equal(&text, &text, Grader::Math));
        }

        #[test]
        fn pieces_join_to_the_response(text in "([a-z0-9]{0,3}|\n\n|\n|# Answer\n\n){0,12}") {
            prop_assert_eq!(steps(&text).concat(), text);
        }

        #[test]
        fn thousands_commas_do_not_change_a_number(number in any::<u32>()) {
            let plain = number.to_string();
            let groups: Vec<String> = plain.as_bytes().rchunks(3).rev()
                .map(|group| String::from_utf8_lossy(group).into_owned()).collect();
            prop_assert!(equal(&groups.join(","), &plain, Grader::Math));
        }
    }
}
