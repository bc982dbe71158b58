//! Cuts an answer, LaTeX or plain, into tokens.

mod numeral;
mod symbol;

use symbol::symbol;

use super::number::Number;
use super::units::{self, Unit};

/// A piece of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Token<'a> {
    Number(Number),
    /// A letter alone, or one that a command sets in another type.
    Letter(char),
    /// At least two letters.
    Word(&'a str),
    /// A command, without its backslash.
    Command(&'a str),
    /// What `\text{…}` and its like hold, trimmed.
    Text(&'a str),
    /// Superscript of Unicode: a power.
    Superscript(i8),
    /// A currency sign.
    Currency(Unit),
    Symbol(char),
    /// `\\`.
    RowEnd,
}

/// A token and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lexed<'a> {
    pub(super) token: Token<'a>,
    /// Whether there is white space before it.
    pub(super) spaced: bool,
    /// The token as written.
    pub(super) text: &'a str,
}

/// How to read what can be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// `1,234` is one number.
    pub(super) thousands: bool,
    /// `1,22` is 1.22.
    pub(super) decimal_comma: bool,
}

/// The tokens, and whether another reading would give others.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    pub(super) tokens: Vec<Lexed<'a>>,
    /// A comma was read as part of a number.
    pub(super) grouped: bool,
    /// A comma could have been a decimal comma.
    pub(super) decimal_comma: bool,
}

/// Answers with more tokens are compared as text.
const MAX_TOKENS: usize = 1500;
const MAX_NESTING: u8 = 3;

/// Cuts up an answer; `None` when it is too long or not made of what answers are made of.
pub(super) fn tokens(text: &str, reading: Reading) -> Option<Tokens<'_>> {
    let mut lexer = Lexer {
        reading,
        out: Tokens { tokens: Vec::with_capacity(16), grouped: false, decimal_comma: false },
        nesting: 0,
    };
    lexer.run(text)?;
    Some(lexer.out)
}

struct Lexer<'a> {
    reading: Reading,
    out: Tokens<'a>,
    nesting: u8,
}

/// Commands that only change how things look.
const SPACING: &[&str] = &[
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "biggl",
    "biggr",
    "Biggl",
    "Biggr",
    "middle",
    "displaystyle",
    "textstyle",
    "quad",
    "qquad",
    "limits",
    "nolimits",
    "hspace",
    "vspace",
    "thinspace",
    "enspace",
    "space",
    "rm",
    "bf",
    "it",
    "mathstrut",
    "strut",
    "hfill",
    "bigskip",
    "noindent",
    "tt",
    "cal",
    "sf",
    "tiny",
    "small",
    "large",
    "Large",
    "LARGE",
    "huge",
    "Huge",
    "checkmark",
    "blacksquare",
    "qed",
    "therefore",
];

/// Commands that set their argument in another type.
pub(super) const TYPES: &[&str] = &[
    "text",
    "textbf",
    "textit",
    "textrm",
    "textnormal",
    "textsf",
    "texttt",
    "textup",
    "mbox",
    "hbox",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathtt",
    "mathnormal",
    "boldsymbol",
    "bm",
    "emph",
    "operatorname",
    "mathcal",
    "mathscr",
    "mathfrak",
    "bold",
    "pmb",
    "textsc",
    "rm",
    "textmd",
];

impl<'a> Lexer<'a> {
    fn push(&mut self, token: Token<'a>, spaced: bool, text: &'a str) -> Option<()> {
        if self.out.tokens.len() >= MAX_TOKENS {
            return None;
        }
        self.out.tokens.push(Lexed { token, spaced, text });
        Some(())
    }

    fn run(&mut self, text: &'a str) -> Option<()> {
        let mut rest = text;
        let mut spaced = false;
        while let Some(first) = rest.chars().next() {
            let before = rest;
            let taken = |after: &str| &before[..before.len() - after.len()];
            match first {
                ' ' | '\t' | '\n' | '\r' | '~' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2003}'
                | '\u{2002}' => {
                    rest = &rest[first.len_utf8()..];
                    spaced = true;
                    continue;
                }
                '0'..='9' | '.' => {
                    let after = self.number(rest, spaced)?;
                    rest = after;
                }
                'a'..='z' | 'A'..='Z' => {
                    let end = rest.bytes().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(rest.len());
                    self.word(&rest[..end], spaced)?;
                    rest = &rest[end..];
                }
                '\\' => match self.command(rest, spaced)? {
                    (after, true) => rest = after,
                    (after, false) => {
                        rest = after;
                        spaced = true;
                        continue;
                    }
                },
                '$' => {
                    rest = &rest[1..];
                    spaced = true;
                    continue;
                }
                // In equations below each other, `&` only aligns.
                '&' if self.aligned() => {
                    rest = &rest[1..];
                    spaced = true;
                    continue;
                }
                _ => {
                    rest = &rest[first.len_utf8()..];
                    let token = symbol(first)?;
                    self.push(token, spaced, taken(rest))?;
                }
            }
            spaced = false;
        }
        Some(())
    }

    /// `1orx` and `3and4`, as some models write, are three tokens.
    fn word(&mut self, word: &'a str, spaced: bool) -> Option<()> {
        let touches = !spaced
            && self.out.tokens.last().is_some_and(|last| {
                matches!(last.token, Token::Number(_) | Token::Symbol(')' | ']' | '}') | Token::Command("}"))
            });
        if touches {
            for joint in ["or", "and"] {
                if let Some(rest) = word.strip_prefix(joint)
                    && rest.len() <= 1
                {
                    self.push(Token::Word(&word[..joint.len()]), true, &word[..joint.len()])?;
                    return if rest.is_empty() { Some(()) } else { self.word(rest, true) };
                }
            }
        }
        match word.as_bytes() {
            [letter] => self.push(Token::Letter(char::from(*letter)), spaced, word),
            _ => self.push(Token::Word(word), spaced, word),
        }
    }

    /// Reads a command; whether it became a token (and not mere space) is the second answer.
    fn command(&mut self, text: &'a str, spaced: bool) -> Option<(&'a str, bool)> {
        let mut body = &text[1..];
        // Sources that were escaped twice: `\\frac` is `\frac`, `\\` before anything else a row's end.
        if let Some(rest) = body.strip_prefix('\\') {
            if !rest.starts_with(|next: char| next.is_ascii_alphabetic()) || self.in_environment(rest) {
                let rest = rest.strip_prefix("\\\\").unwrap_or(rest);
                self.push(Token::RowEnd, spaced, "\\\\")?;
                return Some((rest, true));
            }
            body = rest;
        }
        let end = body.bytes().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(body.len());
        let (name, rest) = body.split_at(end);
        if name.is_empty() {
            let Some(next) = body.chars().next() else { return Some((body, false)) };
            let (written, rest) = body.split_at(next.len_utf8());
            return match next {
                '{' | '}' | '|' => self.push(Token::Command(written), spaced, written).map(|()| (rest, true)),
                '%' | '&' | '#' | '_' => {
                    let symbol = if next == '&' { '＆' } else { next };
                    self.push(Token::Symbol(symbol), spaced, written).map(|()| (rest, true))
                }
                '$' => {
                    self.push(Token::Currency(units::currency('$')?), spaced, written).map(|()| (rest, true))
                }
                // \, \! \; \: \( \) \[ \] and "\ ": spaces and delimiters.
                _ => Some((rest, false)),
            };
        }
        // `\quadx`, as some sources have it.
        if let Some(glued) = name.strip_prefix("quad").filter(|glued| !glued.is_empty()) {
            return Some((&body[name.len() - glued.len()..], false));
        }
        if matches!(name, "quad" | "qquad") && self.ends_value() && starts_value(rest) {
            self.push(Token::Symbol(','), spaced, name)?;
            return Some((rest, true));
        }
        if SPACING.contains(&name) && !rest.trim_start().starts_with('{') {
            // `\left.` and `\right.` are no brackets.
            let rest = match (name, rest.strip_prefix('.')) {
                ("left" | "right", Some(after)) => after,
                _ => rest,
            };
            return Some((rest, false));
        }
        if matches!(name, "hspace" | "vspace" | "phantom" | "label" | "tag" | "color" | "textcolor") {
            let (_, rest) = braced(rest.trim_start_matches('*'))?;
            return Some((rest, false));
        }
        if SPACING.contains(&name) {
            return Some((rest, false));
        }
        if matches!(name, "ldots" | "cdots" | "dots" | "dotsc" | "dotso" | "dotsb") {
            if rest.trim().is_empty() && !self.goes_on() {
                return Some((rest, false));
            }
            self.push(Token::Command("dots"), spaced, name)?;
            return Some((rest, true));
        }
        if name == "mathbb" {
            let inner = rest.trim_start();
            let (inner, rest) = match braced(inner) {
                Some(found) => found,
                None => inner.split_at(inner.chars().next()?.len_utf8()),
            };
            self.push(Token::Command("mathbb"), spaced, name)?;
            self.push(Token::Letter(inner.trim().chars().next()?), false, inner)?;
            return Some((rest, true));
        }
        if TYPES.contains(&name) {
            let inner = rest.trim_start().trim_start_matches('*');
            if let Some((content, rest)) = braced(inner) {
                let short = content.len() <= 6 && content.bytes().all(|byte| byte.is_ascii_lowercase());
                if name == "operatorname" && content.len() > 1 && short {
                    self.push(Token::Word(content), spaced, content)?;
                } else {
                    self.typed(content, spaced)?;
                }
                return Some((rest, true));
            }
            return Some((rest, false));
        }
        self.push(Token::Command(name), spaced, name)?;
        Some((rest, true))
    }

    /// Whether this is inside equations below each other.
    fn aligned(&self) -> bool {
        let command = |wanted: &str| {
            self.out
                .tokens
                .iter()
                .rposition(|lexed| matches!(lexed.token, Token::Command(name) if name == wanted))
        };
        let name = command("begin").and_then(|at| self.out.tokens.get(at + 2));
        command("begin") > command("end")
            && name.is_some_and(|lexed| {
                matches!(lexed.token, Token::Word("aligned" | "align" | "split" | "gathered"))
            })
    }

    /// Whether this is inside an environment, where `\\` ends a row: `\\x` is not a command there.
    fn in_environment(&self, rest: &str) -> bool {
        let single = ["frac", "sqrt", "dfrac", "tfrac", "end", "begin", "text", "pi", "infty"];
        self.environment() && !single.iter().any(|name| rest.starts_with(name))
    }

    fn environment(&self) -> bool {
        let open = |name: &str| {
            self.out
                .tokens
                .iter()
                .filter(|lexed| matches!(lexed.token, Token::Command(n) if n == name))
                .count()
        };
        open("begin") > open("end")
    }

    /// Whether a value ends here that a wide space would part from the next one. In an environment `&` does that.
    fn ends_value(&self) -> bool {
        let value = |token| match token {
            Token::Number(_) | Token::Letter(_) | Token::Superscript(_) => true,
            Token::Symbol(symbol) => matches!(symbol, ')' | ']' | '}' | '!' | '%'),
            Token::Command(name) => matches!(name, "}" | "pi" | "infty"),
            _ => false,
        };
        self.out.tokens.last().is_some_and(|last| value(last.token)) && !self.environment()
    }

    /// The content of `\text{…}`: mathematics when there are no words in it.
    fn typed(&mut self, content: &'a str, spaced: bool) -> Option<()> {
        // `\text{ m}` is a unit, `\text{m}` could be a name.
        if let Some(letter) = content.strip_prefix(' ')
            && matches!(letter.trim(), "m" | "s" | "g" | "h" | "L" | "l")
        {
            return self.push(Token::Text(letter.trim()), spaced, content);
        }
        let content = content.trim_matches(|c: char| c.is_whitespace() || c == '~');
        let content = content.trim_start_matches("\\ ").trim();
        let words = content.split(|c: char| !c.is_alphabetic()).any(|word| {
            word.chars().nth(1).is_some()
                && !word.eq_ignore_ascii_case("and")
                && !word.eq_ignore_ascii_case("or")
        });
        if self.nesting >= MAX_NESTING {
            return None;
        }
        let speed = content.as_bytes().get(1) == Some(&b'/') && content.len() <= 6;
        let words = (words || speed) && !matches!(content, "infinity" | "inf" | "pi");
        // "5 cm" is mathematics with a unit.
        let math = !words || content.contains('\\') || content.starts_with(|c: char| c.is_ascii_digit());
        if math {
            self.nesting += 1;
            let start = self.out.tokens.len();
            self.run(content)?;
            if let Some(first) = self.out.tokens.get_mut(start) {
                first.spaced = spaced;
            }
            self.nesting -= 1;
            return Some(());
        }
        let token = if matches!(content, "to" | "is" | "negative" | "minus") {
            Token::Word(content)
        } else {
            Token::Text(content)
        };
        self.push(token, spaced, content)
    }
}

/// Whether a number, a fraction, a root or a relation of a name begins here: `-5`, `\frac{1}{2}`, `x_1 = 5`.
fn starts_value(text: &str) -> bool {
    let text = text.trim_start();
    let number = text.strip_prefix('-').unwrap_or(text);
    let commands = ["\\frac", "\\dfrac", "\\tfrac", "\\sqrt"];
    if number.starts_with(|c: char| c.is_ascii_digit())
        || commands.iter().any(|name| number.starts_with(name))
    {
        return true;
    }
    let Some(after) = text.strip_prefix(|c: char| c.is_ascii_alphabetic()) else { return false };
    let after = match after.strip_prefix('_') {
        Some(index) => match braced(index) {
            Some((_, after)) => after,
            None => index.trim_start_matches(|c: char| c.is_ascii_alphanumeric()),
        },
        None => after,
    };
    let after = after.trim_start();
    match after.strip_prefix('\\') {
        Some(command) => {
            let name = command.split(|c: char| !c.is_ascii_alphabetic()).next();
            matches!(name, Some("in" | "le" | "leq" | "ge" | "geq" | "ne" | "neq"))
        }
        None => after.starts_with(['=', '<', '>']),
    }
}

/// What the braces at the beginning hold, and what follows them.
pub(super) fn braced(text: &str) -> Option<(&str, &str)> {
    let inner = text.trim_start().strip_prefix('{')?;
    let mut depth = 0_usize;
    let mut escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some((&inner[..at], &inner[at + 1..])),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}
