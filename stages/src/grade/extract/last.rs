//! The last formula or number of a text, where nothing announces an answer.

/// The last formula or number of a text, whichever ends later; then the other.
pub(in crate::grade) fn last_values(text: &str) -> Vec<&str> {
    let formula = last_formula(text);
    let number = last_number(text);
    let mut found: Vec<(usize, &str)> = formula.into_iter().chain(number).collect();
    found.sort_by_key(|(end, _)| std::cmp::Reverse(*end));
    // A number inside of the last formula is a part of it.
    if let (Some((end, formula)), Some((number_end, _))) = (formula, number)
        && number_end <= end
        && number_end + formula.len() >= end
    {
        return vec![formula];
    }
    found.into_iter().take(1).map(|(_, text)| text).collect()
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
    let mut start = last;
    while let Some(before) = start.checked_sub(1) {
        let kept = match bytes[before] {
            b'0'..=b'9' | b'.' => true,
            b',' | b'/' | b':' => before > 0 && bytes[before - 1].is_ascii_digit(),
            _ => false,
        };
        if !kept {
            break;
        }
        start = before;
    }
    let signed = start > 0
        && bytes[start - 1] == b'-'
        && (start < 2 || matches!(bytes[start - 2], b' ' | b'(' | b'=' | b'$' | b'\n' | b':'));
    let start = if signed { start - 1 } else { start };
    let mut end = last + 1;
    if text[end..].starts_with('%') {
        end += 1;
    } else if text[end..].starts_with("\\%") {
        end += 2;
    }
    Some((end, text.get(start..end)?))
}
