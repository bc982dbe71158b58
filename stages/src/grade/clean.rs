//! What people write around an answer.

/// An answer without what people write around it.
pub(super) fn clean(text: &str) -> &str {
    let mut text = text;
    loop {
        let before = text.len();
        let shown = |c: char| !c.is_whitespace() && !matches!(c, '`' | '“' | '”' | '\u{feff}' | '\u{200b}');
        text = text.trim_matches(|c: char| !shown(c));
        text = match text.strip_prefix('"') {
            Some(rest) => rest.trim_end_matches('"'),
            // `18"` are inches.
            None if text.trim_end_matches('"').ends_with(|c: char| c.is_ascii_digit()) => text,
            None => text.trim_end_matches('"'),
        };
        for (open, close) in PAIRS {
            if let Some(inner) = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close))
                && !inner.contains(close)
            {
                text = inner.trim();
            }
        }
        for sign in SIGNS {
            text = text.strip_prefix(sign).unwrap_or(text).trim_start();
        }
        if let Some(inner) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            text = inner;
        }
        for word in PREAMBLE {
            if text.len() > word.len()
                && text.is_char_boundary(word.len())
                && text[..word.len()].eq_ignore_ascii_case(word)
            {
                let rest = &text[word.len()..];
                if rest.starts_with([' ', ':', '\n', '$', '\\', ',', '*']) {
                    text = rest.trim_start_matches([' ', ':', ',', '\n', '*']);
                }
            }
        }
        // `1, 3, 5, ...` goes on.
        text = text
            .strip_suffix('.')
            .filter(|before| !before.ends_with(".."))
            .unwrap_or(text)
            .trim_end_matches([',', ';', ':']);
        if text.len() == before {
            return text;
        }
    }
}

/// What may stand on both sides of an answer.
const PAIRS: [(&str, &str); 9] = [
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("<answer>", "</answer>"),
];

/// Signs that may lead to an answer.
const SIGNS: [&str; 11] =
    ["=>", "=", "≈", "\\approx", "~", "→", "⇒", "\\Rightarrow", "\\implies", "\\therefore", "∴"];

/// Words that may stand before an answer.
const PREAMBLE: [&str; 17] = [
    "final answer",
    "answer",
    "ans",
    "solution",
    "result",
    "approximately",
    "about",
    "around",
    "roughly",
    "exactly",
    "so",
    "thus",
    "hence",
    "therefore",
    "is",
    "it is",
    "equals",
];
