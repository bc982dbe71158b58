//! The grader of the published B-STaR code, string by string: two normal forms, equal in either, or equal
//! tuples of reduced fractions. Its symbolic branch is switched off in the published code, and absent here.

mod latex;

/// The version of the `official` grader; part of the key of every result that it judged, from 2 on.
pub const OFFICIAL_VERSION: u32 = 1;

/// Longer texts, which are no answers, have to be equal as they are.
const MAX_ANSWER: usize = 8000;

/// Whether the published grader accepts an answer.
#[must_use]
pub fn official(given: &str, truth: &str) -> bool {
    if given.len() > MAX_ANSWER || truth.len() > MAX_ANSWER {
        return given.trim() == truth.trim();
    }
    if mathd_form(given) == mathd_form(truth) {
        return true;
    }
    let (given, truth) = (prm800k_form(given), prm800k_form(truth));
    if given == truth {
        return true;
    }
    if given.is_empty() {
        return false;
    }
    let (truths, givens) = (tuple_elements(&truth), tuple_elements(&given));
    let ends = |text: &str| (text.chars().next(), text.chars().last());
    if truths.len() > 1 && ends(&truth) != ends(&given) {
        return false;
    }
    !truths.is_empty()
        && truths.len() == givens.len()
        && truths
            .iter()
            .zip(&givens)
            .all(|(truth, given)| is_fraction(truth) && is_fraction(given) && truth == given)
}

/// The first normal form (that of the MATH data set).
#[must_use]
pub fn mathd_form(answer: &str) -> String {
    let answer = answer.trim();
    let inner = match answer.strip_prefix("\\text{").and_then(|rest| rest.strip_suffix('}')) {
        Some(inner) if !inner.is_empty() => inner.trim(),
        _ => answer,
    };
    strip_string(inner).unwrap_or_else(|| inner.to_owned())
}

fn strip_string(text: &str) -> Option<String> {
    let mut text = text.replace('\n', "").replace("\\!", "").replace("\\\\", "\\");
    for (from, to) in [
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ] {
        text = text.replace(from, to);
    }
    if let Some((before, after)) = text.split_once("\\text{ ") {
        // Two of them are an error there, and leave the text as it was.
        if after.contains("\\text{ ") {
            return None;
        }
        text = before.to_owned();
    }
    for (from, to) in [("\\%", ""), (" .", " 0."), ("{.", "{0.")] {
        text = text.replace(from, to);
    }
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    let sides: Vec<&str> = text.split('=').collect();
    if let [left, right] = sides.as_slice()
        && left.chars().count() <= 2
    {
        text = (*right).to_owned();
    }
    text = braced_roots(&text)?.replace(' ', "");
    text = braced_fractions(&text);
    if text == "0.5" {
        text = "\\frac{1}{2}".to_owned();
    }
    Some(slash_fraction(&text))
}

/// `\sqrt3` becomes `\sqrt{3}`; nothing after `\sqrt` is an error.
fn braced_roots(text: &str) -> Option<String> {
    let mut pieces = text.split("\\sqrt");
    let mut result = pieces.next()?.to_owned();
    for piece in pieces {
        let first = piece.chars().next()?;
        result.push_str("\\sqrt");
        if first == '{' {
            result.push_str(piece);
        } else {
            result.push('{');
            result.push(first);
            result.push('}');
            result.push_str(&piece[first.len_utf8()..]);
        }
    }
    Some(result)
}

/// `\frac12` and `\frac1{72}` become `\frac{1}{2}` and `\frac{1}{72}`.
fn braced_fractions(text: &str) -> String {
    let mut pieces = text.split("\\frac");
    let mut result = pieces.next().unwrap_or("").to_owned();
    for piece in pieces {
        result.push_str("\\frac");
        if piece.starts_with('{') {
            result.push_str(piece);
            continue;
        }
        let mut characters = piece.chars();
        let (Some(top), Some(bottom)) = (characters.next(), characters.next()) else {
            return text.to_owned();
        };
        let rest = characters.as_str();
        if bottom == '{' {
            result.push_str(&format!("{{{top}}}{{{rest}"));
        } else {
            result.push_str(&format!("{{{top}}}{{{bottom}}}{rest}"));
        }
    }
    result
}

/// `a/b` of two integers becomes a fraction.
fn slash_fraction(text: &str) -> String {
    let parts: Vec<&str> = text.split('/').collect();
    let [top, bottom] = parts.as_slice() else { return text.to_owned() };
    match (top.parse::<i128>(), bottom.parse::<i128>()) {
        (Ok(a), Ok(b)) if text == format!("{a}/{b}") => format!("\\frac{{{a}}}{{{b}}}"),
        _ => text.to_owned(),
    }
}

/// The second normal form (that of the PRM800K grader).
#[must_use]
pub fn prm800k_form(answer: &str) -> String {
    let mut text = match answer.strip_prefix("\\text{").and_then(|rest| rest.strip_suffix('}')) {
        Some(inner) if !inner.is_empty() => inner.to_owned(),
        _ => answer.to_owned(),
    };
    for (from, to) in [
        ("\\%", "%"),
        ("\\$", "$"),
        ("$", ""),
        ("%", ""),
        (" or ", " , "),
        (" and ", " , "),
        ("million", "*10^6"),
        ("billion", "*10^9"),
        ("trillion", "*10^12"),
    ] {
        text = text.replace(from, to);
    }
    for unit in [
        "degree",
        "cm",
        "centimeter",
        "meter",
        "mile",
        "second",
        "minute",
        "hour",
        "day",
        "week",
        "month",
        "year",
        "foot",
        "feet",
        "inch",
        "yard",
    ] {
        text = without_unit(&text, unit);
    }
    text = without_circles(&text);
    if text.starts_with('{') && text.ends_with('}') && text.len() > 1 {
        text = text[1..text.len() - 1].to_owned();
    }
    text = without_thin_commas(&text);
    if let Some(whole) = float(&text).filter(|value| is_whole(*value)) {
        text = format!("{:.0}", whole.round());
    }
    if text.contains('\\') {
        text = latex::to_text(&text);
    }
    text = without_spaces_after_minus(&text);
    text = mixed_numbers(&text);
    text = text.replace([' ', '{', '}'], "").to_lowercase();
    if let Some(whole) = float(&without_thousands(&text)).filter(|value| is_whole(*value)) {
        // Python converts the text without any of its commas.
        text = format!("{:.0}", float(&text.replace(',', "")).unwrap_or(whole).trunc());
    }
    if text == "-0" { "0".to_owned() } else { text }
}

fn is_whole(value: f64) -> bool {
    value.is_finite() && (value - value.round()).abs() <= 1e-7
}

/// What Python's `float` reads.
fn float(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.bytes().any(|byte| byte.is_ascii_digit());
    if !digits || !text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE_".contains(&byte)) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Deletes `unit(es)?(s)? *(\^[0-9]+)?` wherever it stands.
fn without_unit(text: &str, unit: &str) -> String {
    let mut pieces = text.split(unit);
    let mut result = pieces.next().unwrap_or("").to_owned();
    for piece in pieces {
        let rest = piece.strip_prefix("es").unwrap_or(piece);
        let rest = rest.strip_prefix('s').unwrap_or(rest);
        let rest = rest.trim_start_matches(' ');
        let power = rest.strip_prefix('^').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        result.push_str(match power {
            Some(after) if after.len() + 1 < rest.len() => after,
            _ => rest,
        });
    }
    result
}

/// Deletes `^ *\circ`.
fn without_circles(text: &str) -> String {
    let mut pieces = text.split("\\circ");
    let mut result = pieces.next().unwrap_or("").to_owned();
    for piece in pieces {
        match result.trim_end_matches(' ').strip_suffix('^').map(str::len) {
            Some(length) => result.truncate(length),
            None => result.push_str("\\circ"),
        }
        result.push_str(piece);
    }
    result
}

/// Deletes `,\! *`.
fn without_thin_commas(text: &str) -> String {
    let mut pieces = text.split(",\\!");
    let mut result = pieces.next().unwrap_or("").to_owned();
    pieces.for_each(|piece| result.push_str(piece.trim_start_matches(' ')));
    result
}

fn without_spaces_after_minus(text: &str) -> String {
    let mut pieces = text.split('-');
    let mut result = pieces.next().unwrap_or("").to_owned();
    for piece in pieces {
        result.push('-');
        result.push_str(piece.trim_start_matches(' '));
    }
    result
}

/// `7 3/4` becomes `7+3/4`: a plus wherever only spaces stand between two digits.
fn mixed_numbers(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(' ') {
        let (before, after) = rest.split_at(at);
        let next = after.trim_start_matches(' ');
        result.push_str(before);
        let between =
            before.ends_with(|c: char| c.is_ascii_digit()) && next.starts_with(|c: char| c.is_ascii_digit());
        result.push_str(if between { "+" } else { &after[..after.len() - next.len()] });
        rest = next;
    }
    result + rest
}

/// Without the commas that stand before exactly three digits.
fn without_thousands(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: Option<&u8>| at.is_some_and(u8::is_ascii_digit);
    let grouping = |at: usize| {
        at > 0
            && digit(bytes.get(at - 1))
            && (at + 1..at + 4).all(|next| digit(bytes.get(next)))
            && !digit(bytes.get(at + 4))
    };
    text.char_indices()
        .filter(|(at, character)| *character != ',' || !grouping(*at))
        .map(|(_, c)| c)
        .collect()
}

fn tuple_elements(text: &str) -> Vec<String> {
    let text = without_thousands(text);
    if text.is_empty() {
        return Vec::new();
    }
    let bracket = |character: char| "()[]".contains(character);
    let inner = text.strip_prefix(bracket).and_then(|rest| rest.strip_suffix(bracket));
    match inner {
        Some(inner) if !inner.is_empty() && !inner.contains(bracket) => {
            inner.split(',').map(|element| element.trim().to_owned()).collect()
        }
        _ => vec![text],
    }
}

/// `^-?[0-9]+.?/0*[1-9][0-9]*.?$`
fn is_fraction(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let Some((top, bottom)) = text.split_once('/') else { return false };
    // Any one character may follow the digits.
    let digits = |part: &str| {
        let length = part.bytes().take_while(u8::is_ascii_digit).count();
        length > 0 && part[length..].chars().count() <= 1
    };
    let nonzero = bottom.bytes().take_while(u8::is_ascii_digit).any(|digit| digit != b'0');
    digits(top) && digits(bottom) && nonzero
}
