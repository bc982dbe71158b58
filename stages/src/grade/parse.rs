//! Reads tokens into an expression: lists, relations, sets, sums. Products and what they are made of
//! are in the modules below.
//!
//! Recursive descent with a bounded depth and a bounded number of parts. What it cannot read is `None`,
//! and is compared as text.

mod command;
mod function;
mod group;
mod matrix;
mod power;
mod product;
mod unit;
mod word;

pub(super) use function::is_reserved;

use super::expr::{Expr, Joint, Relation, SetOperation};
use super::lex::{Lexed, Reading, Token, tokens};

/// Deeper answers are compared as text.
const MAX_DEPTH: u32 = 48;

/// What an answer was read as, and whether it can be read otherwise.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) expr: Expr,
    /// A comma was read as a thousands separator.
    pub(super) grouped: bool,
    /// A comma could be a decimal comma.
    pub(super) decimal_comma: bool,
}

/// Reads an answer.
pub(super) fn parse(text: &str, reading: Reading) -> Option<Parsed> {
    let lexed = tokens(text, reading)?;
    if lexed.tokens.is_empty() {
        return None;
    }
    let mut parser = Parser { tokens: &lexed.tokens, at: 0, depth: 0, bars: 0, split: 0 };
    let mut expr = parser.list(true)?;
    if parser.take_command("over") {
        expr = expr.quotient(parser.list(true)?);
    }
    // Punctuation after the answer.
    while matches!(parser.peek(), Some(Token::Symbol(',' | ';') | Token::RowEnd)) {
        parser.at += 1;
    }
    (parser.at == parser.tokens.len()).then_some(Parsed {
        expr,
        grouped: lexed.grouped,
        decimal_comma: lexed.decimal_comma,
    })
}

struct Parser<'a> {
    tokens: &'a [Lexed<'a>],
    at: usize,
    depth: u32,
    /// How many `|` are open.
    bars: u32,
    /// How many digits of the number here are taken, in `\frac12`.
    split: u32,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|lexed| lexed.token)
    }

    fn peek_at(&self, ahead: usize) -> Option<&'a Lexed<'a>> {
        self.tokens.get(self.at + ahead)
    }

    fn spaced(&self) -> bool {
        self.tokens.get(self.at).is_some_and(|lexed| lexed.spaced)
    }

    fn is_symbol(&self, symbol: char) -> bool {
        matches!(self.peek(), Some(Token::Symbol(found)) if found == symbol)
    }

    fn is_command(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Command(found)) if found == name)
    }

    fn take_symbol(&mut self, symbol: char) -> bool {
        let found = self.is_symbol(symbol);
        self.at += usize::from(found);
        found
    }

    fn take_command(&mut self, name: &str) -> bool {
        let found = self.is_command(name);
        self.at += usize::from(found);
        found
    }

    /// Goes one level down, if it is not too deep.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// Values joined by commas, "and", "or". Outside of brackets a semicolon joins as well.
    fn list(&mut self, outermost: bool) -> Option<Expr> {
        self.deeper(|parser| parser.items(outermost))
    }

    fn items(&mut self, outermost: bool) -> Option<Expr> {
        let first = self.relation()?;
        let mut joint = Joint::Comma;
        let mut items = vec![first];
        loop {
            let start = self.at;
            let Some(found) = self.joint(outermost) else { break };
            if self.list_ends() {
                self.at = start;
                break;
            }
            if found != Joint::Comma {
                joint = found;
            }
            items.push(self.relation()?);
        }
        if items.len() == 1 { items.pop() } else { Some(Expr::List(joint, items)) }
    }

    fn list_ends(&self) -> bool {
        match self.peek() {
            None | Some(Token::Symbol(')' | ']' | '}' | '&') | Token::RowEnd) => true,
            Some(Token::Command(name)) => matches!(name, "}" | "rangle" | "end"),
            _ => false,
        }
    }

    /// A comma, a word, or both: `, and`.
    fn joint(&mut self, outermost: bool) -> Option<Joint> {
        let mut found = None;
        loop {
            let joint = match self.peek()? {
                Token::Symbol(',') => Joint::Comma,
                Token::Symbol(';') if outermost => Joint::Comma,
                Token::Word(word) if word.eq_ignore_ascii_case("and") => Joint::And,
                Token::Word(word) if word.eq_ignore_ascii_case("or") => Joint::Or,
                Token::Command("land" | "wedge") => Joint::And,
                Token::Command("lor" | "vee") => Joint::Or,
                Token::Symbol('＆') => Joint::And,
                Token::RowEnd if outermost && self.depth == 1 => Joint::Comma,
                _ => return found,
            };
            self.at += 1;
            found = Some(match (found, joint) {
                (Some(before), Joint::Comma) => before,
                _ => joint,
            });
            if self.at >= self.tokens.len() {
                return found;
            }
        }
    }

    /// Sides with relations between them, or one side.
    fn relation(&mut self) -> Option<Expr> {
        let first = self.sets()?;
        let mut sides = vec![first];
        let mut relations = Vec::new();
        while let Some((relation, length)) = self.relation_sign() {
            self.at += length;
            relations.push(relation);
            sides.push(self.sets()?);
        }
        if self.modulus_ahead() {
            let brackets = self.take_symbol('(');
            self.at += 1;
            relations.push(Relation::Modulo);
            sides.push(if self.is_symbol('{') { self.piece()? } else { self.factor()? });
            if brackets && !self.take_symbol(')') {
                return None;
            }
        }
        if relations.is_empty() { sides.pop() } else { Some(Expr::Relation(sides, relations)) }
    }

    /// `\pmod`, `mod` or `(mod`.
    fn modulus_ahead(&self) -> bool {
        let named = |token| matches!(token, Token::Command("pmod" | "mod" | "bmod") | Token::Word("mod"));
        let ahead = usize::from(self.is_symbol('('));
        self.peek_at(ahead).is_some_and(|lexed| named(lexed.token))
    }

    fn relation_sign(&self) -> Option<(Relation, usize)> {
        let next = |symbol: char| {
            self.peek_at(1).is_some_and(|lexed| {
                !lexed.spaced && matches!(lexed.token, Token::Symbol(found) if found == symbol)
            })
        };
        Some(match self.peek()? {
            Token::Symbol('=') if next('=') => (Relation::Equal, 2),
            Token::Symbol('=') if next('>') => (Relation::Other, 2),
            Token::Symbol(':') if next('=') => (Relation::Equal, 2),
            Token::Symbol('=') | Token::Word("is") => (Relation::Equal, 1),
            Token::Symbol('<') if next('=') => (Relation::LessEqual, 2),
            Token::Symbol('<') if next('>') => (Relation::NotEqual, 2),
            Token::Symbol('<') => (Relation::Less, 1),
            Token::Symbol('>') if next('=') => (Relation::GreaterEqual, 2),
            Token::Symbol('>') => (Relation::Greater, 1),
            Token::Symbol('!') if next('=') => (Relation::NotEqual, 2),
            Token::Command("not") => match self.peek_at(1)?.token {
                Token::Symbol('=') => (Relation::NotEqual, 2),
                Token::Command("in") => (Relation::NotIn, 2),
                _ => return None,
            },
            Token::Command(name) => (
                match name {
                    "le" | "leq" | "leqslant" | "leqq" => Relation::LessEqual,
                    "ge" | "geq" | "geqslant" | "geqq" => Relation::GreaterEqual,
                    "lt" => Relation::Less,
                    "gt" => Relation::Greater,
                    "ne" | "neq" => Relation::NotEqual,
                    "approx" | "approxeq" | "simeq" | "doteq" | "fallingdotseq" => Relation::Approximate,
                    "in" => Relation::In,
                    "notin" => Relation::NotIn,
                    "equiv" | "sim" | "cong" | "to" | "rightarrow" | "Rightarrow" | "implies" | "propto"
                    | "mid" | "parallel" | "perp" | "subset" | "subseteq" | "mapsto" | "iff"
                    | "Leftrightarrow" | "longrightarrow"
                        if self.bars == 0 =>
                    {
                        Relation::Other
                    }
                    _ => return None,
                },
                1,
            ),
            Token::Word("in") => (Relation::In, 1),
            _ => return None,
        })
    }

    /// Unions, intersections and differences of sets, or one value.
    fn sets(&mut self) -> Option<Expr> {
        let mut left = self.ratio()?;
        loop {
            let operation = match self.peek() {
                Some(Token::Command("cup" | "bigcup") | Token::Word("union" | "cup")) => SetOperation::Union,
                Some(Token::Letter('U' | 'u')) if is_set(&left) => SetOperation::Union,
                Some(Token::Command("cap")) => SetOperation::Intersection,
                Some(Token::Command("setminus" | "backslash")) => SetOperation::Difference,
                _ => return Some(left),
            };
            self.at += 1;
            let right = self.ratio()?;
            left = Expr::Sets(operation, Box::new(left), Box::new(right));
        }
    }

    fn ratio(&mut self) -> Option<Expr> {
        let first = self.sum()?;
        let colon = |parser: &Self| match parser.peek() {
            Some(Token::Symbol(':')) if parser.relation_sign().is_some() => false,
            Some(Token::Symbol(':') | Token::Command("colon") | Token::Word("to")) => parser.bars == 0,
            _ => false,
        };
        if !colon(self) {
            return Some(first);
        }
        let mut terms = vec![first];
        while colon(self) {
            self.at += 1;
            terms.push(self.sum()?);
        }
        Some(Expr::Ratio(terms))
    }

    /// Terms with signs between them.
    fn sum(&mut self) -> Option<Expr> {
        self.deeper(Self::terms)
    }

    fn terms(&mut self) -> Option<Expr> {
        let sign = self.sign();
        let mut first = self.product()?;
        first = signed(sign, first);
        if self.sign_ahead().is_none() {
            return Some(first);
        }
        let mut terms = vec![first];
        while let Some(sign) = self.sign() {
            let mut inner = None;
            // `x - -1` is written, `--1` is not.
            if self.spaced() || matches!(sign, Sign::Plus | Sign::Minus) && self.sign_ahead().is_some() {
                inner = self.sign();
            }
            let term = signed(inner, self.product()?);
            // `ℝ - {0}`
            if let ([first], Sign::Minus) = (terms.as_slice(), sign)
                && is_set(first)
                && is_set(&term)
                && !matches!(term, Expr::Tuple(..))
            {
                return Some(Expr::Sets(SetOperation::Difference, Box::new(terms.pop()?), Box::new(term)));
            }
            terms.push(signed(Some(sign), term));
        }
        Some(Expr::Sum(terms))
    }

    fn sign_ahead(&self) -> Option<Sign> {
        Some(match self.peek()? {
            Token::Symbol('+') if self.plus_or_minus() => Sign::PlusMinus,
            Token::Symbol('+') => Sign::Plus,
            Token::Symbol('-') => Sign::Minus,
            Token::Word("minus" | "negative") => Sign::Minus,
            Token::Command("pm") => Sign::PlusMinus,
            Token::Command("mp") => Sign::MinusPlus,
            _ => return None,
        })
    }

    /// `+/-`.
    fn plus_or_minus(&self) -> bool {
        let symbol = |ahead: usize, wanted: char| {
            self.peek_at(ahead)
                .is_some_and(|lexed| matches!(lexed.token, Token::Symbol(found) if found == wanted))
        };
        symbol(1, '/') && symbol(2, '-')
    }

    fn sign(&mut self) -> Option<Sign> {
        let sign = self.sign_ahead()?;
        self.at += if self.is_symbol('+') && self.plus_or_minus() { 3 } else { 1 };
        Some(sign)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Plus,
    Minus,
    PlusMinus,
    MinusPlus,
}

fn signed(sign: Option<Sign>, term: Expr) -> Expr {
    match sign {
        None | Some(Sign::Plus) => term,
        Some(Sign::Minus) => Expr::Negative(Box::new(term)),
        Some(Sign::PlusMinus) => Expr::PlusMinus(true, Box::new(term)),
        Some(Sign::MinusPlus) => Expr::PlusMinus(false, Box::new(term)),
    }
}

fn is_set(expr: &Expr) -> bool {
    matches!(expr, Expr::Tuple(..) | Expr::Set(_) | Expr::Sets(..) | Expr::Known(_))
}
