//! Multiple choice, as ARC has it.

use serde_json::Value;

use super::Verdict;
use super::words::withdraw;

/// The version of how a choice is found; part of the key of every result that was judged by it, from 2 on.
pub const CHOICE_VERSION: u32 = 2;

/// The letter that [`choice_prompt`] gives to a position; `None` beyond `Z`.
#[must_use]
pub fn choice_letter(position: usize) -> Option<char> {
    u8::try_from(position).ok().filter(|position| *position < 26).map(|position| char::from(b'A' + position))
}

/// The prompt of a multiple-choice question without examples, laid out as the paper's: an instruction, the question
/// with one `(A) …` a line, `Solution:`. Letters go by position, so that choices labelled `1` to `4` read like
/// all others, and a response that ends with `Final answer: (B)` can be judged for every question.
#[must_use]
pub fn choice_prompt(question: &str, choices: &[(String, String)]) -> String {
    let mut prompt = format!(
        "Answer the question below. Reason step by step, then end with \"Final answer: (X)\", where X is the letter of \
         your choice.\n\nQuestion: {}",
        question.trim()
    );
    for (position, (_, text)) in choices.iter().enumerate() {
        let letter = choice_letter(position).unwrap_or('?');
        prompt.extend(["\n(", letter.encode_utf8(&mut [0; 4]), ") ", text.trim()]);
    }
    prompt.push_str("\n\nSolution:");
    prompt
}

/// The choices of a question, (label, text) pairs, as ARC has them: `{text: [...], label: [...]}`, lists of texts of
/// equal length; `None` if they are not.
#[must_use]
pub fn choices(value: &Value) -> Option<Vec<(String, String)>> {
    let list = |name: &str| -> Option<Vec<String>> {
        value.get(name)?.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let (labels, texts) = (list("label")?, list("text")?);
    (labels.len() == texts.len()).then(|| labels.into_iter().zip(texts).collect())
}

/// Judges a response to a multiple-choice question. Prompts letter the choices by position (`A`, `B`, …)
/// whatever their labels are; a response may name a position, a label, or repeat a choice's text.
///
/// `choices` are (label, text) pairs and `key` is the right label.
#[must_use]
pub fn choose(choices: &[(String, String)], key: &str, response: &str) -> Verdict {
    let Some(right) = choices.iter().position(|(label, _)| label.eq_ignore_ascii_case(key.trim())) else {
        return Verdict::of(false, "the key is not one of the labels");
    };
    match chosen(choices, response) {
        Some(choice) if choice == right => Verdict::of(true, "same choice"),
        Some(_) => Verdict::of(false, "another choice"),
        None => Verdict::of(false, "no choice found"),
    }
}

/// The position of the choice that a response makes, of choices that a prompt lettered by position.
#[must_use]
pub fn choice(texts: &[String], response: &str) -> Option<usize> {
    let letter = |position| choice_letter(position).map(String::from).unwrap_or_default();
    let choices: Vec<_> = texts.iter().enumerate().map(|(at, text)| (letter(at), text.clone())).collect();
    chosen(&choices, response)
}

/// What announces the choice, most reliable first.
const ANNOUNCEMENTS: [&str; 5] = ["final answer", "correct answer is", "answer is", "answer:", "# answer"];

fn chosen(choices: &[(String, String)], response: &str) -> Option<usize> {
    let lower = response.to_ascii_lowercase();
    for announcement in ANNOUNCEMENTS {
        if let Some(at) = lower.rfind(announcement) {
            let clause = &response[at + announcement.len()..];
            let clause =
                clause.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*' | '_'));
            let said = clause.trim_start_matches("is ");
            if let Some(choice) = verbatim(choices, clause).or_else(|| named(choices, said)) {
                return Some(choice);
            }
        }
    }
    if let Some((_, boxed)) = response.rsplit_once("\\boxed{")
        && let Some(choice) = named(choices, boxed)
    {
        return Some(choice);
    }
    // A bare answer: `B`, `(B)`, or a choice's own words.
    let only = response.trim();
    if only.len() < 400 { named(choices, only) } else { named(choices, only.lines().last()?) }
}

/// The only choice that is the first line of a clause, to the letter: `1,025 grams` is not the first choice. A single
/// letter or digit is a label before it is that.
fn verbatim(choices: &[(String, String)], clause: &str) -> Option<usize> {
    let words = clause.lines().next().map(str::trim).filter(|words| words.len() > 1)?;
    let mut same = choices.iter().enumerate().filter(|(_, (_, text))| text.trim() == words);
    let first = same.next().map(|(at, _)| at);
    first.filter(|_| same.next().is_none())
}

/// The choice that a clause begins with.
fn named(choices: &[(String, String)], clause: &str) -> Option<usize> {
    let clause = clause.trim();
    if let Some(choice) = verbatim(choices, clause) {
        return Some(choice);
    }
    let clause = ["option ", "choice ", "Option ", "Choice "]
        .iter()
        .find_map(|word| clause.strip_prefix(word))
        .unwrap_or(clause);
    let mut inner = clause.trim_start_matches(['(', '[', '{', '*', '$', '"', ' ']);
    for command in ["\\textbf{", "\\text{", "\\mathrm{"] {
        inner = inner.strip_prefix(command).unwrap_or(inner).trim_start_matches('(');
    }
    let (token, rest) = token(inner);
    // "A planet …" is an article, "A" and "A) …" are a choice.
    let ends = rest.trim_start_matches([')', ']', '}', '*', '.', ':', '$', '"']);
    let alone = ends.trim().is_empty() || ends.len() < rest.len() || ends.starts_with(['\n', ',', ';']);
    if alone || (token.len() == 1 && rest.starts_with(" is ")) {
        let label = choices.iter().position(|(label, _)| label.eq_ignore_ascii_case(token));
        // "3" may be what a choice says, rather than the third choice.
        let choice = label.or_else(|| saying(choices, token)).or_else(|| lettered(choices, token));
        if let Some(choice) = choice.filter(|choice| !hedged(choices, *choice, ends)) {
            return Some(choice);
        }
    }
    saying(choices, clause)
}

/// The letters and digits that a text begins with, and what follows them.
fn token(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len()))
}

/// The choice at the place that a letter or a digit names.
fn lettered(choices: &[(String, String)], token: &str) -> Option<usize> {
    let position = match token.as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => letter.to_ascii_uppercase() - b'A',
        [digit @ b'1'..=b'9'] => digit - b'1',
        _ => return None,
    };
    Some(usize::from(position)).filter(|position| *position < choices.len())
}

/// What stands between two choices.
const JOINTS: [&str; 6] = [",", ";", "/", "&", "or ", "and "];

/// Whether what follows a choice takes it back, or joins another one to it: "B or C", "B is wrong".
fn hedged(choices: &[(String, String)], choice: usize, rest: &str) -> bool {
    let normal = |text: &str| super::words::normal(&text.to_lowercase());
    let rest = rest.trim_start_matches(' ');
    // A choice's own words may be "cannot be seen".
    if choices.get(choice).is_some_and(|(_, words)| normal(rest).starts_with(&normal(words))) {
        return false;
    }
    let mut other = rest;
    while let Some(after) = JOINTS.iter().find_map(|joint| other.strip_prefix(joint)) {
        other = after.trim_start_matches(' ');
    }
    let inner = other.trim_start_matches(['(', '[', '{', '*', '$', '"']);
    let (token, after) = token(inner);
    // "B, a planet"
    let article = matches!(token, "a" | "A" | "I") && inner.len() == other.len() && after.starts_with(' ');
    let label = || choices.iter().any(|(label, _)| label.eq_ignore_ascii_case(token));
    let another = other.len() < rest.len() && !article && (label() || lettered(choices, token).is_some());
    withdraw(rest) || another && !withdraw(after)
}

/// The only choice with these words.
fn saying(choices: &[(String, String)], words: &str) -> Option<usize> {
    // Case does not even count in formulas: no two choices differ in nothing else.
    let normal = |text: &str| super::words::normal(&text.to_lowercase());
    let words = normal(words);
    let mut same = choices.iter().enumerate().filter(|(_, (_, text))| normal(text) == words);
    let first = same.next().map(|(at, _)| at);
    first.filter(|_| same.next().is_none())
}
