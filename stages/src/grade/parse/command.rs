//! Values: numbers, variables, words, and commands that stand for a value.

use super::super::expr::{Bracket, Constant, Expr, Function, Known, Name};
use super::super::lex::Token;
use super::{Parser, function};

/// Commands before or over a name: the name counts.
const DECORATIONS: &[&str] = &[
    "overline",
    "hat",
    "vec",
    "bar",
    "tilde",
    "widehat",
    "overrightarrow",
    "underline",
    "dot",
    "widetilde",
    "overset",
];

/// Commands before the name of a thing that is measured.
const PREFIXES: &[&str] = &["angle", "triangle", "measuredangle", "sphericalangle", "odot", "square"];

/// Commands that never begin a value. Any other unknown one is a name: what it stands for does not matter as
/// long as both sides have it.
const STRUCTURE: &[&str] = &[
    "end",
    "over",
    "choose",
    "hline",
    "times",
    "cdot",
    "ast",
    "bullet",
    "div",
    "pm",
    "mp",
    "cup",
    "bigcup",
    "cap",
    "setminus",
    "backslash",
    "circ",
    "degree",
    "degrees",
    "prime",
    "land",
    "lor",
    "wedge",
    "vee",
    "colon",
    "not",
    "rangle",
    "rfloor",
    "rceil",
    "rvert",
    "rVert",
    "rparen",
    "rbrack",
    "rbrace",
    "}",
    "le",
    "leq",
    "leqslant",
    "leqq",
    "ge",
    "geq",
    "geqslant",
    "geqq",
    "lt",
    "gt",
    "ne",
    "neq",
    "approx",
    "approxeq",
    "simeq",
    "doteq",
    "fallingdotseq",
    "in",
    "notin",
    "equiv",
    "sim",
    "cong",
    "to",
    "rightarrow",
    "Rightarrow",
    "implies",
    "propto",
    "mid",
    "parallel",
    "perp",
    "subset",
    "subseteq",
    "mapsto",
    "iff",
    "Leftrightarrow",
    "longrightarrow",
    "pmod",
    "bmod",
    "mod",
];

/// Longer sums and products are not written out.
const MAX_TERMS: usize = 100;
/// Nor are those with more parts in all terms together.
const MAX_SERIES: usize = 2000;

impl<'a> Parser<'a> {
    /// Whether a command begins a value.
    pub(super) fn starts_value(name: &str) -> bool {
        !STRUCTURE.contains(&name)
    }

    /// Whether the word here can be read as a value at all.
    pub(super) fn word_is_value(&self) -> bool {
        match self.peek() {
            Some(Token::Word(word)) => function::is_reserved(word) || word.len() <= 3,
            _ => true,
        }
    }

    pub(super) fn primary(&mut self) -> Option<Expr> {
        let token = self.peek()?;
        self.at += 1;
        match token {
            Token::Number(number) => {
                if self.is_symbol('_') {
                    let digits = self.tokens.get(self.at - 1)?.text;
                    return self.based(digits);
                }
                Some(Expr::Number(number))
            }
            Token::Letter('e') if !self.is_symbol('_') => Some(Expr::Constant(Constant::E)),
            Token::Letter('i') if !self.is_symbol('_') => Some(Expr::Constant(Constant::I)),
            Token::Letter('C') if self.counted_pair() => {
                let Expr::Tuple(_, _, items) = self.primary()? else { return None };
                Some(Expr::Call(Function::Binomial, items))
            }
            Token::Letter(letter) => self.variable(letter.encode_utf8(&mut [0; 4])),
            Token::Symbol('_') => self.combinations(),
            Token::Word(word) => self.word(word),
            Token::Text(text) => Some(Expr::Text(text.to_owned())),
            Token::Currency(_) => self.primary(),
            Token::Symbol(symbol) => self.group(symbol),
            Token::Command(name) => self.command(name),
            Token::Superscript(_) | Token::RowEnd => None,
        }
    }

    /// Whether `(5, 2)` follows, which after a `C` are numbers of things.
    fn counted_pair(&self) -> bool {
        let token = |ahead| self.peek_at(ahead).map(|lexed| lexed.token);
        matches!(
            (token(0), token(1), token(2), token(3), token(4)),
            (
                Some(Token::Symbol('(')),
                Some(Token::Number(_)),
                Some(Token::Symbol(',')),
                Some(Token::Number(_)),
                Some(Token::Symbol(')'))
            )
        )
    }

    /// `_5C_2`, after its first sign.
    pub(super) fn combinations(&mut self) -> Option<Expr> {
        let top = self.index()?;
        let Token::Letter('C') = self.peek()? else { return None };
        self.at += 1;
        if !self.take_symbol('_') {
            return None;
        }
        let bottom = self.index()?;
        Some(Expr::Call(Function::Binomial, vec![top, bottom]))
    }

    /// A number, in braces or without.
    fn index(&mut self) -> Option<Expr> {
        if let Token::Number(number) = self.peek()? {
            self.at += 1;
            return Some(Expr::Number(number));
        }
        self.piece()
    }

    /// After `\sum` or `\prod`: what a few terms or factors from one whole number to another are.
    fn series(&mut self, product: bool) -> Option<Expr> {
        let whole = |expr: &Expr| {
            let (negative, number) = expr.literal()?;
            let value = number.exact?.as_integer()?;
            Some(if negative { -value } else { value })
        };
        if !self.take_symbol('_') || !self.take_symbol('{') {
            return None;
        }
        let Token::Letter(letter) = self.peek()? else { return None };
        self.at += 1;
        if !self.take_symbol('=') {
            return None;
        }
        let first = whole(&self.sum()?)?;
        if !self.take_symbol('}') || !self.take_symbol('^') {
            return None;
        }
        let last = whole(&self.index()?)?;
        let body = self.deeper(Self::product)?;
        let count = usize::try_from(last.checked_sub(first)?.checked_add(1)?).ok()?;
        if count > MAX_TERMS || count * body.size() > MAX_SERIES {
            return None;
        }
        let name = Name::of(letter.encode_utf8(&mut [0; 4]));
        let term = |value: i128| {
            body.mapped(&|part| {
                let index = match part {
                    Expr::Variable(found) => *found == name,
                    Expr::Constant(Constant::I) => letter == 'i',
                    _ => false,
                };
                index.then(|| Expr::integer(value))
            })
        };
        let terms: Vec<Expr> = (first..=last).map(term).collect();
        Some(match (terms.is_empty(), product) {
            (true, _) => Expr::integer(i128::from(product)),
            (_, true) => Expr::Product(terms),
            (_, false) => Expr::Sum(terms),
        })
    }

    /// `2516_8` and `4210_{5}`.
    pub(super) fn based(&mut self, digits: &str) -> Option<Expr> {
        self.at += 1;
        let braces = self.take_symbol('{');
        let brackets = self.take_symbol('(');
        let base = match self.peek()? {
            Token::Number(number) => u32::try_from(number.exact?.as_integer()?).ok()?,
            Token::Text(word) | Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "two" => 2,
                "three" => 3,
                "four" => 4,
                "five" => 5,
                "six" => 6,
                "seven" => 7,
                "eight" => 8,
                "nine" => 9,
                "ten" => 10,
                "sixteen" => 16,
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        if brackets && !self.take_symbol(')') || braces && !self.take_symbol('}') {
            return None;
        }
        Some(Expr::Based(digits.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect(), base))
    }

    /// A variable with its subscripts.
    pub(super) fn variable(&mut self, name: &str) -> Option<Expr> {
        let mut name = Name::of(name);
        while self.take_symbol('_') {
            name = name.then("_");
            if !self.take_symbol('{') {
                name = name.then(self.name_part()?);
                continue;
            }
            let mut depth = 1_u32;
            loop {
                if self.is_symbol('}') {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        break;
                    }
                } else if self.is_symbol('{') {
                    depth += 1;
                }
                name = name.then(self.name_part()?);
            }
        }
        Some(Expr::Variable(name))
    }

    fn name_part(&mut self) -> Option<&'a str> {
        let lexed = self.tokens.get(self.at)?;
        self.at += 1;
        Some(match lexed.token {
            Token::Text(text) | Token::Word(text) | Token::Command(text) => text,
            _ => lexed.text,
        })
    }

    fn command(&mut self, name: &'a str) -> Option<Expr> {
        if let Some(function) = function::named(name) {
            return self.call(function);
        }
        match name {
            "frac" | "dfrac" | "tfrac" | "cfrac" => self.fraction(),
            "binom" | "dbinom" | "tbinom" => {
                let top = self.piece()?;
                let bottom = self.piece()?;
                Some(Expr::Call(Function::Binomial, vec![top, bottom]))
            }
            "sqrt" => self.square_root(),
            "cbrt" => {
                let inner = self.piece()?;
                Some(Expr::Root(Box::new(inner), Some(Box::new(Expr::integer(3)))))
            }
            "sum" | "prod" => {
                let start = self.at;
                self.series(name == "prod").or_else(|| {
                    self.at = start;
                    self.variable(name)
                })
            }
            "pi" => Some(Expr::Constant(Constant::Pi)),
            "imath" => Some(Expr::Constant(Constant::I)),
            "jmath" => self.variable("j"),
            "infty" => Some(Expr::Constant(Constant::Infinity)),
            "emptyset" | "varnothing" => Some(Expr::Known(Known::Empty)),
            "reals" => Some(Expr::Known(Known::Reals)),
            "mathbb" => match self.peek()? {
                Token::Letter(letter) => {
                    self.at += 1;
                    if letter == 'R'
                        && let Some(half) = self.half_line()
                    {
                        return Some(half);
                    }
                    Some(Expr::Known(if letter == 'R' { Known::Reals } else { Known::Letter(letter) }))
                }
                _ => None,
            },
            "boxed" | "fbox" | "ensuremath" => self.piece(),
            "{" | "lbrace" => self.set(),
            "langle" => self.bracketed(Bracket::Angle),
            "lparen" => self.bracketed(Bracket::Round),
            "lbrack" => self.bracketed(Bracket::Square),
            "|" | "lvert" | "vert" | "lVert" | "Vert" => self.absolute(name),
            "lfloor" => self.between("rfloor", Function::Floor),
            "lceil" => self.between("rceil", Function::Ceiling),
            "begin" => self.environment(),
            _ if DECORATIONS.contains(&name) => self.piece(),
            _ if PREFIXES.contains(&name) => {
                let Some(Token::Letter(_) | Token::Word(_)) = self.peek() else { return None };
                let text = self.name_part()?;
                self.variable(text)
            }
            _ if STRUCTURE.contains(&name) => None,
            _ => self.variable(name),
        }
    }

    /// After `ℝ`: the `^+` of the positive numbers, or `^-`.
    fn half_line(&mut self) -> Option<Expr> {
        let braces = usize::from(matches!(self.peek_at(1)?.token, Token::Symbol('{')));
        let sign = match self.peek_at(1 + braces)?.token {
            Token::Symbol(sign @ ('+' | '-')) if self.is_symbol('^') => sign,
            _ => return None,
        };
        self.at += 2 + 2 * braces;
        let infinity = Expr::Constant(Constant::Infinity);
        let ends = match sign {
            '+' => vec![Expr::integer(0), infinity],
            _ => vec![Expr::Negative(Box::new(infinity)), Expr::integer(0)],
        };
        Some(Expr::Tuple(Bracket::Round, Bracket::Round, ends))
    }

    /// After `\frac`.
    pub(super) fn fraction(&mut self) -> Option<Expr> {
        let top = self.piece()?;
        let bottom = self.piece()?;
        // `\frac123` says too much.
        (self.split == 0).then(|| top.quotient(bottom))
    }

    /// An argument in braces, or the next character: `\frac12`, `\frac1{72}`, `\sqrt3`.
    pub(super) fn piece(&mut self) -> Option<Expr> {
        if self.take_symbol('{') {
            return self.inside_braces();
        }
        match self.peek()? {
            Token::Number(_) => self.digit(),
            Token::Word(word) if function::named(word).is_none() && word != "pi" => {
                // `\frac ab`: not worth splitting.
                None
            }
            Token::Symbol('-') => {
                self.at += 1;
                Some(Expr::Negative(Box::new(self.piece()?)))
            }
            _ => self.deeper(Self::primary),
        }
    }

    /// The next digit of a number: `\frac12` is one half.
    fn digit(&mut self) -> Option<Expr> {
        let lexed = self.tokens.get(self.at)?;
        let Token::Number(number) = lexed.token else { return None };
        if lexed.text.len() == 1 || !lexed.text.bytes().all(|byte| byte.is_ascii_digit()) {
            self.at += 1;
            return Some(Expr::Number(number));
        }
        // `\frac12`: one token, two pieces.
        let at = usize::try_from(self.split).unwrap_or(0);
        let digit = lexed.text.as_bytes().get(at)?;
        if at + 1 == lexed.text.len() {
            self.split = 0;
            self.at += 1;
        } else {
            self.split += 1;
        }
        Some(Expr::integer(i128::from(digit - b'0')))
    }

    pub(super) fn square_root(&mut self) -> Option<Expr> {
        let mut degree = None;
        if self.take_symbol('[') {
            degree = Some(Box::new(self.list(false)?));
            if !self.take_symbol(']') {
                return None;
            }
        }
        let inner = match self.peek()? {
            Token::Symbol('{') => self.piece()?,
            Token::Symbol('(') => self.deeper(Self::primary)?,
            Token::Number(number) => {
                self.at += 1;
                Expr::Number(number)
            }
            _ => self.deeper(Self::primary)?,
        };
        Some(Expr::Root(Box::new(inner), degree))
    }
}
