//! Finds the answer in a response.
//!
//! In this order: what follows `# Answer` on a line of its own, the last `#### …` line that is no heading, the last
//! `\boxed{…}` (several, when they are joined by "and", "or" or a comma), what follows "the answer is".
//! A value after a box, marked by `####` or as the "final answer", counts more than the box. Without any of these the whole response
//! is the answer, if it can be read as one; [`last_value`] finds the last formula or number otherwise.

mod last;

use std::borrow::Cow;

pub(super) use last::last_value;

use super::lex::{TYPES, braced};
use crate::config::AnswerStyle;

/// The version of how answers are found in a style; part of the key of every result that holds answers in that
/// style, from 2 on. A change that can make one differ raises it.
#[must_use]
pub fn style_version(style: AnswerStyle) -> u32 {
    match style {
        AnswerStyle::Section | AnswerStyle::Hashes | AnswerStyle::Boxed => 1,
        AnswerStyle::Any => 4,
    }
}

/// How many boxes or phrases are looked at, from the end: nobody needs more, and time stays linear.
const MAX_TRIES: usize = 40;

/// What was found, and whether something announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) text: Cow<'a, str>,
    /// False when nothing announces an answer, and the text is the whole response.
    pub(super) announced: bool,
}

/// The answer of a response (or of a reference: the rules are the same).
pub(super) fn answer(response: &str) -> Found<'_> {
    let response = without_reasoning(response);
    if let Some(section) = section(response) {
        let text = match boxes(section) {
            Some((boxes, _)) => boxes,
            None => Cow::Borrowed(phrase(section).unwrap_or(section)),
        };
        return Found { text, announced: true };
    }
    if let Some((boxes, end)) = boxes(response) {
        let after = &response[end..];
        // "The final answer is correct" says nothing else than the box.
        let later = || {
            phrases(after, true).find(|phrase| has_value(phrase) || !has_value(&boxes) && !is_remark(phrase))
        };
        let text = marked(after, true).or_else(later).map(Cow::Borrowed);
        return Found { text: text.unwrap_or(boxes), announced: true };
    }
    match marked(response, false).or_else(|| phrase(response)).or_else(|| reply(response)) {
        Some(text) => Found { text: Cow::Borrowed(text), announced: true },
        None => Found { text: Cow::Borrowed(response.trim()), announced: false },
    }
}

/// The answer of a response, where it stands in the given style; `None` when it is not there.
#[must_use]
pub fn find(response: &str, style: AnswerStyle) -> Option<Cow<'_, str>> {
    let text = without_reasoning(response);
    let found = match style {
        AnswerStyle::Section => Cow::Borrowed(super::extract(response)?),
        AnswerStyle::Hashes => Cow::Borrowed(hash_line(text)?),
        AnswerStyle::Boxed => boxes(text)?.0,
        AnswerStyle::Any => match answer(response) {
            Found { text, announced: true } => text,
            Found { .. } => Cow::Borrowed(last_value(text)?),
        },
    };
    (!found.trim().is_empty()).then_some(found)
}

/// Without what comes before the end of hidden reasoning, and without what follows a special token.
fn without_reasoning(response: &str) -> &str {
    let mut text = response;
    if !text.contains('<') {
        return text;
    }
    if let Some((_, after)) = text.rsplit_once("</think>")
        && !after.trim().is_empty()
    {
        text = after;
    }
    for token in ["<|im_", "<|end", "<|eot", "</s>", "<|user", "<|assistant"] {
        if let Some(at) = text.find(token)
            && !text[..at].trim().is_empty()
        {
            text = &text[..at];
        }
    }
    text
}

/// What follows the last line `# Answer`, up to a blank line.
fn section(response: &str) -> Option<&str> {
    let mut end = response.len();
    while let Some(at) = response[..end].rfind("# Answer") {
        let start_of_line = response[..at].trim_end_matches(['#', ' ']);
        let rest = &response[at + "# Answer".len()..];
        let rest = rest.trim_start_matches([':', ' ', '*']);
        if (start_of_line.is_empty() || start_of_line.ends_with('\n')) && rest.starts_with(['\n', '\r']) {
            let rest = rest.trim();
            let text = rest.split_once("\n\n").map_or(rest, |(first, _)| first);
            return (!text.is_empty()).then_some(text);
        }
        end = at;
    }
    None
}

/// What follows the last `####`, on its line.
fn hash_line(response: &str) -> Option<&str> {
    let (before, after) = response.rsplit_once("####")?;
    let line = after.lines().next()?.trim();
    let own_line =
        before.is_empty() || before.trim_end_matches(' ').ends_with('\n') || !before.ends_with('#');
    let heading = line.ends_with(':') || (line.len() > 60 && !line.contains('\\'));
    (own_line && !line.is_empty() && !heading).then_some(line)
}

/// What the last `####` marks that is no heading: a value, or whatever the response ends with, if that may be words.
fn marked(response: &str, only_values: bool) -> Option<&str> {
    let mut end = response.len();
    for _ in 0..MAX_TRIES {
        let at = response[..end].rfind("####")?;
        let ends = end == response.len() && !response[at..].trim_end().contains('\n');
        if let Some(line) = hash_line(&response[..end])
            && (ends && !only_values || is_value(line))
        {
            return Some(line);
        }
        end = at;
    }
    None
}

/// The words of a text that are not names of commands, and where they begin.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            at += text[at..].find(char::is_alphabetic)?;
            let start = at;
            at += text[start..].find(|c: char| !c.is_alphabetic()).unwrap_or(text.len() - start);
            let word = &text[start..at];
            if word.chars().nth(1).is_some() && !text[..start].ends_with('\\') {
                return Some((start, word));
            }
        }
    })
}

/// Whether it has a number or a formula in it, or is no more than letters.
fn has_value(text: &str) -> bool {
    let formula = |command: &str| {
        let name = command.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("");
        !name.is_empty() && !TYPES.contains(&name)
    };
    text.contains(|c: char| c.is_ascii_digit() || c == '$')
        || text.split('\\').skip(1).any(formula)
        || words(text).next().is_none()
}

/// Whether a line is a value, perhaps with what it counts: `$18` or `18 eggs`, but not `Step 4`, `4. Sum` or `4 Cases`.
fn is_value(line: &str) -> bool {
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered =
        numbered.len() < line.len() && [". ", ") ", ": "].iter().any(|sign| numbered.starts_with(sign));
    let title = |word: &str| {
        let mut letters = word.chars();
        letters.next().is_some_and(char::is_uppercase) && letters.next().is_some_and(char::is_lowercase)
    };
    let mut words = words(line).peekable();
    let counts = words.peek().is_none_or(|(start, _)| line[..*start].contains(|c: char| c.is_ascii_digit()));
    counts && !numbered && words.all(|(_, word)| !title(word)) && line.contains(char::is_alphanumeric)
}

/// The last box with its end, and those before it that are joined to it.
fn boxes(text: &str) -> Option<(Cow<'_, str>, usize)> {
    let mut start = box_before(text, text.len())?;
    let (mut content, mut end) = content(text, start)?;
    // An empty box after the answer.
    if content.is_empty()
        && let Some(before) = box_before(text, start)
        && let Some(found) = self::content(text, before)
        && found.1 <= start
    {
        (start, content, end) = (before, found.0, found.1);
    }
    let mut joined: Option<String> = None;
    for _ in 0..MAX_TRIES {
        let Some(before) = box_before(text, start) else { break };
        let Some((earlier, earlier_end)) = self::content(text, before) else { break };
        if earlier_end > start {
            // A box in a box.
            start = before;
            continue;
        }
        let Some(joint) = joint(&text[earlier_end..start]) else { break };
        let later = joined.take().unwrap_or_else(|| content.to_owned());
        joined = Some(format!("{earlier}{joint}{later}"));
        start = before;
    }
    Some((joined.map_or(Cow::Borrowed(content), Cow::Owned), end))
}

fn box_before(text: &str, end: usize) -> Option<usize> {
    let mut end = end;
    for _ in 0..MAX_TRIES {
        let at = text[..end].rfind("oxed").into_iter().chain(text[..end].rfind("\\fbox")).max()?;
        let start = match &text[at..] {
            rest if rest.starts_with("\\fbox") => Some(at),
            _ => at.checked_sub(2).filter(|start| text.as_bytes()[*start..].starts_with(b"\\boxed")),
        };
        match start {
            Some(start) => return Some(start),
            None => end = at,
        }
    }
    None
}

/// What a box holds, and where it ends. A box that is never closed ends with its line.
fn content(text: &str, start: usize) -> Option<(&str, usize)> {
    let rest = text[start..].strip_prefix("\\boxed").or_else(|| text[start..].strip_prefix("\\fbox"))?;
    if let Some((inner, after)) = braced(rest) {
        return Some((inner.trim(), text.len() - after.len()));
    }
    let rest = rest.trim_start();
    let (inner, after) = match rest.strip_prefix('{') {
        Some(open) => {
            let line = open.find('\n').unwrap_or(open.len());
            open.split_at(line)
        }
        None => rest.split_at(rest.find([' ', '\n', '$', '.']).unwrap_or(rest.len())),
    };
    Some((inner.trim().trim_end_matches('$'), text.len() - after.len()))
}

/// How two boxes are joined by what stands between them, if they are.
fn joint(gap: &str) -> Option<&'static str> {
    if gap.len() > 80 || gap.contains("\n\n") {
        return None;
    }
    // `… and y_2 = \boxed{…}`
    let gap = gap.trim_end();
    let gap = match gap.strip_suffix('=') {
        Some(before) => {
            let before = before.trim_end();
            before.trim_end_matches(|c: char| c.is_alphanumeric() || "_{}\\".contains(c))
        }
        None => gap,
    };
    let (mut joint, mut words) = (None, 0);
    let mut rest = gap;
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            let name = &rest[1..];
            let length = name.bytes().take_while(u8::is_ascii_alphabetic).count();
            rest = match (&name[..length], braced(&name[length..])) {
                ("text" | "mbox" | "textrm" | "mathrm" | "quad" | "qquad", _) => &name[length..],
                ("", _) => name.get(1..).unwrap_or(""),
                _ => return None,
            };
            continue;
        }
        if first.is_alphabetic() {
            let length = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
            match &rest[..length] {
                "or" => joint = Some(" or "),
                "and" => joint = joint.or(Some(", ")),
                _ => words += 1,
            }
            rest = &rest[length..];
            continue;
        }
        match first {
            ',' | ';' | '&' => joint = joint.or(Some(", ")),
            '$' | ' ' | '{' | '}' | '~' | '\n' => {}
            _ => return None,
        }
        rest = &rest[first.len_utf8()..];
    }
    joint.filter(|_| words <= 1)
}

/// The last line, where it begins with `A:`.
fn reply(response: &str) -> Option<&str> {
    let (_, line) = response.trim_end().rsplit_once('\n')?;
    line.strip_prefix("A:").map(str::trim)
}

/// Begins what is said of an answer, and is none.
const REMARKS: [&str; 9] =
    ["correct", "right", "in ", "as ", "see ", "above", "clear", "verified", "reasonable"];

fn is_remark(phrase: &str) -> bool {
    !has_value(phrase) && REMARKS.iter().any(|remark| phrase.starts_with(remark))
}

/// What follows the last "answer is" or "answer:", up to the end of its sentence. Where something was said before it,
/// a remark on that does not count.
fn phrase(response: &str) -> Option<&str> {
    phrases(response, false).find(|phrase| !is_remark(phrase)).or_else(|| phrases(response, false).next())
}

/// What follows every "answer is" and "answer:", from the last one back; or where it says "final answer".
fn phrases(text: &str, only_final: bool) -> impl Iterator<Item = &str> {
    text.rmatch_indices("nswer").take(MAX_TRIES).filter_map(move |(at, word)| {
        let before = text[..at].strip_suffix(['a', 'A'])?.trim_end();
        let is_final = before.len() >= 5
            && before.is_char_boundary(before.len() - 5)
            && before[before.len() - 5..].eq_ignore_ascii_case("final");
        if only_final && !is_final {
            return None;
        }
        let rest = text[at + word.len()..].trim_start_matches(['*', '_']).trim_start();
        let after = [
            "is:",
            "is",
            "should be",
            "would be",
            "will be",
            "must be",
            ":",
            "=",
            "to the question is",
            "was",
        ]
        .iter()
        .find_map(|verb| rest.strip_prefix(verb))
        .or_else(|| {
            rest.strip_prefix("to ")
                .and_then(|rest| sentence(rest).split_once(" is "))
                .map(|(_, after)| after)
        })?;
        let after = after.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*' | '_'));
        let after =
            after.strip_prefix("therefore").unwrap_or(after).trim_start_matches([' ', ':', '\n', ',']);
        let clause = sentence(after).trim().trim_end_matches(['*', '_']);
        let negated = clause.starts_with("not ");
        (!clause.is_empty() && !negated).then(|| corrected(clause))
    })
}

/// What remains of a clause after the speaker corrected himself.
fn corrected(clause: &str) -> &str {
    ["no wait,", "wait, no,", "no, wait,", "sorry,", "I mean", "or rather", "actually,"]
        .iter()
        .filter_map(|words| clause.rfind(words).map(|at| &clause[at + words.len()..]))
        .min_by_key(|rest| rest.len())
        .filter(|rest| rest.bytes().any(|byte| byte.is_ascii_digit()))
        .map_or(clause, |rest| rest.trim_start().trim_start_matches("it is ").trim_start_matches("it's "))
}

/// Up to the end of the first sentence: a full stop or a line's end outside of formulas and braces.
fn sentence(text: &str) -> &str {
    let mut depth = 0_i32;
    let mut formula = false;
    let mut escaped = false;
    let last_dollar = text.rfind('$').unwrap_or(0);
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|(_, next)| *next);
        if escaped {
            match character {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                _ => {}
            }
            escaped = false;
            continue;
        }
        match character {
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            '$' if at < last_dollar || formula => formula = !formula,
            '.' | '!' | '?' | '\n' if depth <= 0 && !formula => {
                let ends = character == '\n' || next.is_none_or(char::is_whitespace) || next == Some('*');
                if ends && !text[..at].trim().is_empty() {
                    return &text[..at];
                }
            }
            _ => {}
        }
    }
    text
}
