//! What needs no parser: answers that are the same text, and plain numbers.

/// Whether two answers are the same but for spaces and other things that do not show.
pub(super) fn same(a: &str, b: &str) -> bool {
    let (a, b) = (trimmed(a), trimmed(b));
    if a.is_empty() || b.is_empty() {
        return false;
    }
    if a == b {
        return true;
    }
    let (mut left, mut right) = (Visible::new(a), Visible::new(b));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (x, y) if x != y => return false,
            _ => {}
        }
    }
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '$').trim_end_matches('.').trim_end()
}

/// The characters that count: no spaces but those between letters or digits, no `\left`, one `\frac`.
struct Visible<'a> {
    rest: &'a str,
    last: char,
    spaced: bool,
}

impl<'a> Visible<'a> {
    fn new(rest: &'a str) -> Self {
        Self { rest, last: ' ', spaced: false }
    }
}

impl Iterator for Visible<'_> {
    type Item = (bool, char);

    /// A character, and whether a space that counts is before it.
    fn next(&mut self) -> Option<(bool, char)> {
        loop {
            let first = self.rest.chars().next()?;
            if first == '\\' {
                let skipped = ["\\left", "\\right", "\\!"].iter().find_map(|command| {
                    let after = self.rest.strip_prefix(command)?;
                    (*command == "\\!" || !after.starts_with(|c: char| c.is_ascii_alphabetic()))
                        .then_some(after)
                });
                if let Some(after) = skipped {
                    self.rest = after;
                    continue;
                }
                let space =
                    ["\\,", "\\;", "\\ ", "\\:"].iter().find_map(|command| self.rest.strip_prefix(command));
                if let Some(after) = space {
                    self.rest = after;
                    self.spaced = true;
                    continue;
                }
                if self.rest.starts_with("\\dfrac{") || self.rest.starts_with("\\tfrac{") {
                    self.rest = &self.rest[2..];
                    self.last = '\\';
                    return Some((false, '\\'));
                }
            }
            self.rest = &self.rest[first.len_utf8()..];
            if first.is_whitespace() || first == '$' {
                self.spaced = true;
                continue;
            }
            let counts = self.spaced && self.last.is_alphanumeric() && first.is_alphanumeric();
            self.spaced = false;
            self.last = first;
            return Some((counts, first));
        }
    }
}

/// A number in digits: sign, value without its point, and how many digits stand after the point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    negative: bool,
    digits: u128,
    decimals: u32,
    length: u32,
}

/// Reads `-1,234.50` and `$18`; `None` for anything more.
pub(super) fn number(text: &str) -> Option<Plain> {
    let text = trimmed(text);
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let text = text.strip_prefix("\\$").unwrap_or(text);
    let mut plain = Plain { negative, digits: 0, decimals: 0, length: 0 };
    let (mut point, mut group, mut comma) = (false, 0_u32, false);
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' if plain.length < 30 => {
                plain.digits = plain.digits * 10 + u128::from(byte - b'0');
                plain.length += 1;
                plain.decimals += u32::from(point);
                group += 1;
            }
            b',' if !point && if comma { group == 3 } else { (1..=3).contains(&group) } => {
                comma = true;
                group = 0;
            }
            b'.' if !point && (!comma || group == 3) => {
                point = true;
                group = 0;
            }
            _ => return None,
        }
    }
    if plain.length == 0 || (comma && !point && group != 3) || (point && plain.decimals == 0) {
        return None;
    }
    while plain.decimals > 0 && plain.digits.is_multiple_of(10) {
        plain.digits /= 10;
        plain.decimals -= 1;
    }
    Some(plain)
}

impl Plain {
    /// Whether they are equal; `None` when they are so long that rounding has to be looked at.
    pub(super) fn equal(self, other: Self) -> Option<bool> {
        let same_sign = self.negative == other.negative || (self.digits == 0 && other.digits == 0);
        let equal = same_sign && self.digits == other.digits && self.decimals == other.decimals;
        let long = self.decimals > 0 && other.decimals > 0 && self.length.max(other.length) >= 7;
        (equal || !long).then_some(equal)
    }
}
