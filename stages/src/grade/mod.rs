//! Judging a response: what its answer is, whether that is right, and what it computes on the way.
//!
//! The `math` grader finds the answer in both texts ([`find`]), reads it — LaTeX or plain
//! text — into an expression, and compares values: exactly where both are rational, in a prime field where
//! both are rational functions, otherwise at sample points. Every comparison has a counted allowance of
//! work and a bounded depth: it always ends, and never panics.
//!
//! # Conventions
//!
//! What graders disagree on is a field of [`Conventions`]. The defaults:
//!
//! - **Percent.** `50%` equals `50` and `0.5`, never `500` or `0.005`.
//! - **Order.** Lists and sets have none (`1, 2` is `2, 1`); tuples, vectors and matrices do. Values that are
//!   named keep their names: `x = 2, y = 3` is not `x = 3, y = 2`, nor is `(x, y) = (2, 3)` `(y, x) = (2, 3)`.
//! - **Brackets.** `(1,2)` is not `[1,2]`.
//! - **Decimals.** A decimal equals a value without end when it is that value rounded or cut, has at least
//!   four digits, and differs by at most 1/10,000: `0.3333` is `1/3`, `9.42` is not `3π`. Two decimals are
//!   equal when they are the same number: `3.14` is not `3.14159`. `0.333...` goes on and is `1/3`. A value with
//!   an end is no other number: `1.2346 × 10⁵` is not `123456`.
//! - **Chains.** Of `3 + 4 = 7` the last side is the answer; whether the equation holds is not judged.
//! - **Ratios.** `3:4` is `6:8` and `3/4`, but `3:1` is not `3`, nor `5:2` `2.5`.
//! - **Units.** A missing unit does not matter. Two known ones are converted (`60 min` is `1 h`, `10 m/s` is
//!   `36 km/h`) and must measure the same. Words that are no unit ("apples") do not count beside others, but are not
//!   `cm`. What money is paid for may be left out: `$12 per hour` is `$12`. Degrees are a unit: `45°` is `45`, not
//!   `π/4`.
//! - **Arithmetic left undone** is equal to its result: `10/2` is `5`, `\frac{2}{4}` is `1/2`.
//! - **Names.** `x = 5` equals `5`, and also `y = 5`.
//! - **Bases.** Where the reference is `2516_8`, `2516` is right and `2516_9` is not; where it is `5`, `5_6` is
//!   not right.
//! - **Equations** are equal when one is a multiple of the other; inequalities equal their intervals.
//! - **Congruences** are compared by residue: `10 (mod 7)` is `3 (mod 7)`; a missing modulus does not matter.
//! - **Unknowns** have names: `5x` is not `5t`. Under roots they are positive: `\sqrt{x^2}` is `x`, but `|x|` is not.
//!   The parameter of a family (`k ∈ ℤ`, or `k`, `m` or `n` beside π) may have any name.
//! - **Text** is compared without case, type and final punctuation; lists of words have no order. In formulas
//!   case counts: `\pi R^2` is not `\pi r^2`. A choice is its letter, or its text where the reference says both.
//! - **Words around a value** that take it back or make it a bound count: "not 7", "at least 7" and "7 or more" are
//!   not `7`. Joined values are one answer: "3 or 5" and "from 3 to 5" are not `5`, but "1/2 or 50%" is `1/2`.
//!
//! The `official` grader is that of the published B-STaR code, string by string; `exact` compares
//! characters.

mod choice;
mod clean;
mod compare;
mod complex;
mod conventions;
mod equations;
mod evaluate;
mod expr;
mod extract;
mod lex;
mod modular;
mod number;
mod official;
mod parse;
mod plain;
mod rational;
mod response;
mod units;
mod words;
mod work;

#[cfg(test)]
mod tests;

use clean::clean;
use compare::Comparison;
use expr::{Expr, SetOperation};
use lex::Reading;
use work::Work;

pub use self::choice::{CHOICE_VERSION, choice, choice_letter, choice_prompt, choices, choose};
pub use self::conventions::{Conventions, Percent, Rounding};
pub use self::equations::{EQUATIONS_VERSION, equations};
pub use self::extract::{find, style_version};
pub use self::official::{OFFICIAL_VERSION, mathd_form, official, prm800k_form};
pub use self::response::{ANSWER_MARKER, STEP_SEPARATOR, extract, steps};
use crate::config::Grader;

/// The version of the `math` grader; part of the key of every result that it judged. A change that can
/// make a verdict differ raises it.
pub const GRADER_VERSION: u32 = 5;

/// A judgement and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the answer is right.
    pub correct: bool,
    /// Why, in a few words.
    pub reason: &'static str,
}

impl Verdict {
    fn of(correct: bool, reason: &'static str) -> Self {
        Self { correct, reason }
    }
}

/// Whether an answer is the reference answer.
#[must_use]
pub fn equal(answer: &str, reference: &str, grader: Grader, conventions: &Conventions) -> bool {
    match grader {
        Grader::Exact => answer == reference,
        Grader::Choice => answer.eq_ignore_ascii_case(reference.trim()),
        // Programs are judged by tests, not by an answer.
        Grader::Code => false,
        Grader::Official => official(answer, reference),
        Grader::Math => math(reference, answer, conventions).correct,
    }
}

/// Judges a response (or a bare answer) as the grader does that stages use.
#[must_use]
pub fn judge(gold: &str, response: &str, grader: Grader, conventions: &Conventions) -> Verdict {
    let string = |answer: &str, equal: fn(&str, &str) -> bool| {
        let correct = equal(answer, gold);
        Verdict::of(correct, if correct { "same text" } else { "different text" })
    };
    match grader {
        Grader::Math => math(gold, response, conventions),
        Grader::Official => {
            // The published evaluation takes the first marker, its training loop the last.
            let answer = response.split(ANSWER_MARKER).nth(1).unwrap_or(response);
            string(answer, official)
        }
        Grader::Exact => string(response.rsplit(ANSWER_MARKER).next().unwrap_or(response), |a, b| a == b),
        Grader::Choice => Verdict::of(false, "a choice is judged by what there is to choose from"),
        Grader::Code => Verdict::of(false, "programs are judged by tests"),
    }
}

/// Longer answers without any announcement are not tried as a whole.
const MAX_BARE: usize = 300;
/// Longer answers are compared as text only.
const MAX_ANSWER: usize = 4000;

/// Judges by the `math` grader: finds the answer in both texts and compares.
#[must_use]
pub fn math(gold: &str, response: &str, conventions: &Conventions) -> Verdict {
    math_within(gold, response, &Comparison { conventions, work: Work::new() })
}

fn math_within(gold: &str, response: &str, comparison: &Comparison<'_>) -> Verdict {
    if gold == response {
        return Verdict::of(true, "same text");
    }
    let (gold, found) = (extract::answer(gold), extract::answer(response));
    let (mut gold, mut answer) = (clean(&gold.text), clean(&found.text));
    if let Some(rest) = answer.strip_prefix("A: ")
        && words::choice(gold).is_none()
    {
        answer = clean(rest);
    }
    if answer.is_empty() || gold.is_empty() {
        return Verdict::of(false, "no answer");
    }
    if plain::same(gold, answer) {
        return Verdict::of(true, "same text");
    }
    if let (Some(left), Some(right)) = (plain::number(gold), plain::number(answer))
        && let Some(equal) = left.equal(right)
    {
        return Verdict::of(equal, if equal { "same number" } else { "different numbers" });
    }
    if let Some(choice) = words::choice(gold)
        && !choice.text.is_empty()
        && words::choice(answer).or_else(|| words::small_choice(answer)).is_none()
    {
        // The reference says the letter and the text; the answer only the text.
        gold = choice.text;
    }
    if gold.len() > MAX_ANSWER {
        return Verdict::of(words::same_text(gold, answer), "compared as text");
    }
    if let Some(same) = same_words(gold, answer) {
        return Verdict::of(same, if same { "same words" } else { "different words" });
    }
    let whole = found.announced || answer.len() <= MAX_BARE;
    let mut golds = readings(gold);
    if golds.is_empty()
        && let Some(value) =
            words::number(gold).map(Expr::integer).or_else(|| words::fraction(gold).map(Expr::rational))
    {
        golds.push(Read { expr: value, decimal_comma: false });
    }
    if golds.is_empty() {
        // A reference in words, or too strange to be read.
        let correct = comparison.words(gold, answer) || words::says(answer, gold);
        return Verdict::of(correct, if correct { "same words" } else { "different words" });
    }
    let answers = if whole { readings(answer) } else { Vec::new() };
    if !answers.is_empty() {
        let correct = comparison.any_readings((gold, &golds), (answer, &answers))
            || comparison.said_twice(&golds, answer)
            || comparison.said_twice(&answers, gold);
        return Verdict::of(correct, comparison.reason(correct));
    }
    let spelled = |text: &str, others: &[Read]| {
        let value = words::number(text).map(Expr::integer);
        let value = value.or_else(|| words::fraction(text).map(Expr::rational));
        value.is_some_and(|value| others.iter().any(|other| comparison.equal(&other.expr, &value)))
    };
    if answer.len() < 120 && spelled(answer, &golds) {
        return Verdict::of(true, "same number in words");
    }
    // `5 5` is no answer with a 5 at its end.
    let prose = answer.split(|c: char| !c.is_alphabetic()).any(|word| word.len() > 1);
    // "The roots are 3 and 7."
    if golds.iter().any(|gold| matches!(gold.expr, Expr::List(..) | Expr::Set(_)))
        && let Some((_, items)) = answer.rsplit_once(" are ")
        && !items.starts_with("not ")
    {
        let items = readings(clean(items));
        if items.iter().any(|answer| golds.iter().any(|gold| comparison.equal_readings(gold, answer))) {
            return Verdict::of(true, "equal values");
        }
    }
    // Nor is `3 \text{ and } 5`, which is a formula with words in it.
    let only = |text: &str| {
        let before = answer[..text.as_ptr().addr() - answer.as_ptr().addr()].trim_end();
        before.ends_with('=') || !before.contains(|c: char| c.is_ascii_digit())
    };
    if prose
        && let Some(text) = extract::last_value(answer)
        && (only(text) || answer.len() > MAX_ANSWER || spoken(answer))
    {
        if plain::same(gold, text) {
            return Verdict::of(true, "same text");
        }
        let found = readings(clean(text));
        if !found.is_empty() {
            let correct = comparison.any_readings((gold, &golds), (text, &found));
            return Verdict::of(correct, comparison.reason(correct));
        }
    }
    if comparison.words(gold, answer) || words::says(answer, gold) {
        return Verdict::of(true, "same words");
    }
    let said = words::said_number(answer).map(Expr::rational);
    if said.is_some_and(|said| golds.iter().any(|gold| comparison.equal(&gold.expr, &said))) {
        return Verdict::of(true, "same number in words");
    }
    Verdict::of(false, "no answer that can be read")
}

/// Whether it has words outside of commands, which `3 \quad 5` and `3 \text{ or } 5` have not.
fn spoken(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '\\' || c.is_alphabetic()) {
        rest = &rest[at..];
        if let Some(command) = rest.strip_prefix('\\') {
            let length = command.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (name, after) = command.split_at(length);
            let argument = if lex::TYPES.contains(&name) { lex::braced(after) } else { None };
            rest = argument.map_or(after, |(_, after)| after);
            continue;
        }
        let word = &rest[..rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len())];
        if word.chars().nth(1).is_some() {
            return true;
        }
        rest = &rest[word.len()..];
    }
    false
}

impl Comparison<'_> {
    fn equal_readings(&self, gold: &Read, answer: &Read) -> bool {
        // A decimal comma only ever stands for a point that the other side writes.
        let pointed = |read: &Read| read.expr.literal().is_some_and(|(_, number)| number.decimals.is_some());
        let comparable = match (gold.decimal_comma, answer.decimal_comma) {
            (false, false) => true,
            (true, true) => false,
            _ => pointed(gold) && pointed(answer),
        };
        comparable && self.equal(&gold.expr, &answer.expr)
    }

    /// Whether one of the readings of both is the same, with or without words before the value.
    fn any_readings(&self, (gold, golds): (&str, &[Read]), (answer, answers): (&str, &[Read])) -> bool {
        let equal = |golds: &[Read], answers: &[Read]| {
            answers.iter().any(|answer| golds.iter().any(|gold| self.equal_readings(gold, answer)))
        };
        let said = |text| words::after_text(text).map(|value| readings(clean(value))).unwrap_or_default();
        let text = |golds: &[Read]| golds.iter().any(|gold| matches!(gold.expr, Expr::Text(_)));
        equal(golds, answers)
            || equal(golds, &said(answer))
            || equal(&said(gold), answers)
            || (text(golds) && self.words(gold, answer))
    }

    /// Whether it says the other's value, and in brackets again as a decimal or in percent: `1/4 (25%)`.
    fn said_twice(&self, others: &[Read], text: &str) -> bool {
        let Some((value, again)) = text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) else {
            return false;
        };
        let equal = |text| {
            let read = readings(clean(text));
            read.iter().any(|read| others.iter().any(|other| self.equal_readings(other, read)))
        };
        again.contains(['%', '.', '≈']) && equal(value) && equal(again)
    }

    fn reason(&self, correct: bool) -> &'static str {
        match correct {
            true => "equal values",
            false if self.work.exhausted() => "too much work to compare",
            false => "different values",
        }
    }
}

/// An answer as it was read, perhaps with a decimal comma.
struct Read {
    expr: Expr,
    decimal_comma: bool,
}

/// The ways to read an answer; none when it is not mathematics.
fn readings(text: &str) -> Vec<Read> {
    if text.len() > MAX_ANSWER {
        return Vec::new();
    }
    let usual = Reading { thousands: true, decimal_comma: false };
    if let Some(known) = words::known_set(text) {
        return vec![Read { expr: known, decimal_comma: false }];
    }
    if let Some(expr) = all_but(text, usual) {
        return vec![Read { expr, decimal_comma: false }];
    }
    let Some(parsed) = parse::parse(text, usual) else { return Vec::new() };
    let (grouped, decimal_comma) = (parsed.grouped, parsed.decimal_comma);
    let mut all = vec![Read { expr: parsed.expr, decimal_comma: false }];
    if grouped && let Some(parsed) = parse::parse(text, Reading { thousands: false, ..usual }) {
        all.push(Read { expr: parsed.expr, decimal_comma: false });
    }
    // `(1,2)` is a pair.
    let decimal_comma = decimal_comma && !text.contains(['(', '[']) && !text.contains("\\{");
    if decimal_comma && let Some(parsed) = parse::parse(text, Reading { decimal_comma: true, ..usual }) {
        all.push(Read { expr: parsed.expr, decimal_comma: true });
    }
    all
}

/// "All real numbers except 0", as a set.
fn all_but(text: &str, reading: Reading) -> Option<Expr> {
    if !text.contains("except") || text.len() > 100 {
        return None;
    }
    let (all, values) = text.split_once("except")?;
    let known = words::known_set(clean(all).trim_end_matches("\\text{"))?;
    let values = clean(values.trim_start_matches(" for ").trim_start_matches(['}', ' ']));
    let values = match parse::parse(values, reading)?.expr {
        Expr::List(_, items) => items,
        one => vec![one],
    };
    let values: Vec<Expr> = values.iter().map(|value| compare::value(value).clone()).collect();
    Some(Expr::Sets(SetOperation::Difference, Box::new(known), Box::new(Expr::Set(values))))
}

/// Whether words, letters of choices or times of day are the same; `None` where there are none to compare.
fn same_words(gold: &str, answer: &str) -> Option<bool> {
    if let Some(choice) = words::choice(gold)
        && let Some(other) = words::choice(answer)
            .or_else(|| words::small_choice(answer))
            .or_else(|| words::stated_choice(answer))
        && (choice.text.is_empty() || other.text.is_empty())
    {
        return Some(choice.letter == other.letter);
    }
    let wordy = |text: &str| {
        text.len() < 200 && text.split(|c: char| !c.is_alphabetic()).any(|word| word.chars().nth(1).is_some())
    };
    if wordy(gold) && wordy(answer) && words::same_text(gold, answer) {
        return Some(true);
    }
    if let (Some(parts), Some(others)) = (words::remainder(gold), words::remainder(answer)) {
        return Some(parts == others);
    }
    // `ABD` could be a name; beside `A, B, D` it is three choices.
    if let (Some((letters, listed)), Some((others, other_listed))) =
        (words::choices(gold), words::choices(answer))
        && listed != other_listed
    {
        return Some(letters == others);
    }
    match (words::time_of_day(gold), words::time_of_day(answer)) {
        (Some((time, true)), Some((other, true))) => Some(time == other),
        // Who does not say which half of the day it is may mean either.
        (Some((time, named)), Some((other, other_named))) if named || other_named => {
            let unnamed = if named { other } else { time };
            Some(time == other || (unnamed < 13 * 60 && time % 720 == other % 720))
        }
        _ => None,
    }
}
