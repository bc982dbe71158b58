//! What stands in brackets, braces and bars.

use super::super::expr::{Bracket, Expr, Function, Joint};
use super::super::lex::Token;
use super::Parser;

impl<'a> Parser<'a> {
    /// After an opening bracket, brace or bar.
    pub(super) fn group(&mut self, opening: char) -> Option<Expr> {
        match opening {
            '(' => match self.number_in_base() {
                Some(digits) => self.based(digits),
                None => self.bracketed(Bracket::Round),
            },
            '[' => self.bracketed(Bracket::Square),
            '{' => self.inside_braces(),
            '|' => self.absolute("|"),
            // `]a, b[`, an open interval in French.
            ']' => match self.deeper(|parser| parser.list(false))? {
                Expr::List(Joint::Comma, items) if items.len() == 2 => {
                    let closed = self.take_symbol(']');
                    if !closed && !self.take_symbol('[') {
                        return None;
                    }
                    let end = if closed { Bracket::Square } else { Bracket::Round };
                    Some(Expr::Tuple(Bracket::Round, end, items))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The digits of `(1011)_2`, after its opening bracket; then goes on to the base.
    fn number_in_base(&mut self) -> Option<&'a str> {
        let (number, close, low) = (self.peek_at(0)?, self.peek_at(1)?, self.peek_at(2)?);
        let based = matches!(number.token, Token::Number(_))
            && matches!((close.token, low.token), (Token::Symbol(')'), Token::Symbol('_')));
        self.at += if based { 2 } else { 0 };
        based.then_some(number.text)
    }

    /// One value in brackets is that value; several are a tuple or an interval.
    pub(super) fn bracketed(&mut self, opening: Bracket) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let inner = self.list(true)?;
        self.bars = bars;
        let closing = match self.peek()? {
            Token::Symbol(')') | Token::Command("rparen") => Bracket::Round,
            Token::Symbol(']') | Token::Command("rbrack") => Bracket::Square,
            // `[a, b[`, half open in French.
            Token::Symbol('[') if opening == Bracket::Square => Bracket::Round,
            Token::Command("rangle") => Bracket::Angle,
            _ => return None,
        };
        self.at += 1;
        match inner {
            Expr::List(_, items) => Some(Expr::Tuple(opening, closing, items)),
            inner => (opening == closing).then_some(inner),
        }
    }

    /// After `{`: TeX's own braces, which only hold together. `{a \over b}` is a fraction.
    pub(super) fn inside_braces(&mut self) -> Option<Expr> {
        if self.take_symbol('}') {
            // `{}_5C_2`
            return if self.take_symbol('_') { self.combinations() } else { Some(Expr::Product(Vec::new())) };
        }
        let bars = std::mem::take(&mut self.bars);
        let inner = self.list(true)?;
        self.bars = bars;
        if self.take_command("over") {
            let bottom = self.list(true)?;
            return self.take_symbol('}').then(|| inner.quotient(bottom));
        }
        if self.take_command("choose") {
            let bottom = self.list(true)?;
            return self.take_symbol('}').then(|| Expr::Call(Function::Binomial, vec![inner, bottom]));
        }
        self.take_symbol('}').then_some(inner)
    }

    /// After `\{`: a set of items, or of the values with a property.
    pub(super) fn set(&mut self) -> Option<Expr> {
        let ends = |parser: &mut Self| parser.take_command("}") || parser.take_command("rbrace");
        if ends(self) {
            return Some(Expr::Set(Vec::new()));
        }
        let bars = std::mem::replace(&mut self.bars, 1);
        let inner = self.list(true)?;
        self.bars = bars;
        if ends(self) {
            return Some(match inner {
                Expr::List(_, items) => Expr::Set(items),
                // `\{x : x > 2\}`
                Expr::Ratio(parts) if parts.len() == 2 => return parts.into_iter().nth(1),
                Expr::Relation(sides, relations) => match after_colon(&sides) {
                    Some(first) => {
                        let rest = sides.into_iter().skip(1);
                        Expr::Relation(std::iter::once(first).chain(rest).collect(), relations)
                    }
                    None => Expr::Set(vec![Expr::Relation(sides, relations)]),
                },
                inner => Expr::Set(vec![inner]),
            });
        }
        // `\left\{ \begin{array}…\end{array} \right.`: a brace before a system.
        if matches!(inner, Expr::List(Joint::And, _)) && self.list_ends() {
            return Some(inner);
        }
        // `\{x \mid x > 2\}`: the property is the set.
        if self.take_symbol('|')
            || self.take_command("mid")
            || self.take_command("vert")
            || self.take_symbol(':')
        {
            let property = self.list(true)?;
            return ends(self).then_some(match property {
                Expr::List(Joint::Comma, items) => Expr::List(Joint::And, items),
                property => property,
            });
        }
        None
    }

    /// After `|`.
    pub(super) fn absolute(&mut self, opening: &str) -> Option<Expr> {
        let before = self.bars;
        self.bars = 1;
        let inner = self.sum()?;
        self.bars = before;
        let closed = match self.peek()? {
            Token::Symbol('|') => opening == "|" || opening == "vert",
            Token::Command("rvert") => opening == "lvert",
            Token::Command("rVert") => opening == "lVert",
            Token::Command(name) => name == opening,
            _ => false,
        };
        self.at += 1;
        closed.then(|| Expr::Absolute(Box::new(inner)))
    }

    pub(super) fn between(&mut self, closing: &str, function: Function) -> Option<Expr> {
        let inner = self.sum()?;
        self.take_command(closing).then(|| Expr::Call(function, vec![inner]))
    }
}

/// In `x : x > 2` the first side is the ratio `x : x`: its second part.
fn after_colon(sides: &[Expr]) -> Option<Expr> {
    match sides.first()? {
        Expr::Ratio(parts) if parts.len() == 2 => parts.last().cloned(),
        _ => None,
    }
}
