//! Products: signs of multiplication, factors side by side, units after a number, powers.

use super::super::expr::Expr;
use super::super::lex::Token;
use super::super::number::Number;
use super::super::rational::Rational;
use super::super::units::{self, Measure, Unit};
use super::{Parser, is_set};

impl<'a> Parser<'a> {
    /// Factors, with or without a sign between them.
    pub(super) fn product(&mut self) -> Option<Expr> {
        let currency = self.currency();
        let first = self.factor()?;
        let mut factors = vec![first];
        let mut unit = currency;
        loop {
            let divide = match self.peek() {
                Some(Token::Symbol('*') | Token::Command("cdot" | "times" | "ast" | "bullet")) => false,
                Some(Token::Symbol('/') | Token::Command("div")) => true,
                _ => {
                    if let Some(scale) = self.scale_word(&factors) {
                        factors.push(scale);
                        continue;
                    }
                    if let Some(found) = self.unit(&factors) {
                        unit = Some(currency.map_or(found, |currency| currency.then(found)));
                        break;
                    }
                    if factors.last().is_some_and(is_set)
                        || !self.starts_factor()
                        || self.side_by_side_numbers(&factors)?
                    {
                        break;
                    }
                    let factor = self.factor()?;
                    factors.push(factor);
                    continue;
                }
            };
            // `**` is a power and was taken by the factor.
            self.at += 1;
            let negative = self.take_symbol('-');
            let factor = self.factor()?;
            let factor = if divide { Expr::Inverse(Box::new(factor)) } else { factor };
            factors.push(if negative { Expr::Negative(Box::new(factor)) } else { factor });
        }
        let value = match factors.len() {
            1 => factors.pop()?,
            _ => Expr::Product(factors),
        };
        Some(match unit {
            Some(unit) if unit.measure() == Some(Measure::PERCENT) => Expr::Percent(Box::new(value)),
            Some(unit) if unit.measure() == Some(Measure::ANGLE) => Expr::Degrees(Box::new(value)),
            Some(unit) => match self.smaller_quantity(unit) {
                Some((rest, smaller, times)) => {
                    let larger = Expr::Product(vec![value, Expr::rational(times)]);
                    Expr::Quantity(Box::new(Expr::Sum(vec![larger, rest])), smaller)
                }
                None => Expr::Quantity(Box::new(value), unit),
            },
            None => value,
        })
    }

    /// The `30 minutes` after `2 hours` (or `2 hours and`), and how many of its unit the larger one has.
    fn smaller_quantity(&mut self, larger: Unit) -> Option<(Expr, Unit, Rational)> {
        let (measure, size) = larger.known?;
        let start = self.at;
        self.at += usize::from(matches!(self.peek(), Some(Token::Word("and"))));
        let found =
            matches!(self.peek(), Some(Token::Number(_))).then(|| self.deeper(Self::product)).flatten();
        if let Some(Expr::Quantity(rest, unit)) = found
            && let Some((other, smaller)) = unit.known
            && other == measure
            && let Some(times) = size.over(smaller)
            && times.as_integer().is_some_and(|times| times > 1)
        {
            return Some((*rest, unit, times));
        }
        self.at = start;
        None
    }

    /// `$`, or `USD` before a number.
    fn currency(&mut self) -> Option<Unit> {
        let unit = match self.peek()? {
            Token::Currency(unit) => unit,
            Token::Word(word) if matches!(self.peek_at(1)?.token, Token::Number(_)) => {
                units::lookup(word).filter(|unit| unit.is_money())?
            }
            _ => return None,
        };
        self.at += 1;
        Some(unit)
    }

    /// Two numbers side by side are a mixed number or nothing: `5 5` is not 25.
    fn side_by_side_numbers(&mut self, factors: &[Expr]) -> Option<bool> {
        match (factors.last(), self.peek()) {
            (Some(Expr::Number(_) | Expr::Sum(_)), Some(Token::Number(_)))
                if matches!(self.tokens.get(self.at - 1)?.token, Token::Number(_) | Token::Symbol('}')) =>
            {
                None
            }
            (Some(Expr::Power(..)), Some(Token::Number(_))) => None,
            _ => Some(false),
        }
    }

    /// Whether what follows can be multiplied without a sign.
    fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Number(_) | Token::Letter(_) | Token::Text(_)) => true,
            Some(Token::Word(word)) => {
                !word.eq_ignore_ascii_case("and")
                    && !word.eq_ignore_ascii_case("or")
                    && !matches!(word, "in" | "union" | "minus" | "to" | "mod" | "is")
            }
            Some(Token::Symbol(symbol)) => {
                matches!(symbol, '(' | '{') && !self.modulus_ahead()
                    || symbol == '[' && !self.closing_ahead()
                    || symbol == '|' && self.bars == 0
            }
            Some(Token::Command(name)) => Self::starts_value(name) && !(name == "|" && self.bars > 0),
            _ => false,
        }
    }

    /// Whether the `[` here closes an interval, as in French.
    fn closing_ahead(&self) -> bool {
        match self.peek_at(1).map(|lexed| lexed.token) {
            None | Some(Token::Symbol(',' | ';' | '}')) => true,
            Some(Token::Command(name)) => matches!(name, "cup" | "cap" | "setminus" | "}"),
            Some(Token::Word(word)) => matches!(word, "or" | "and" | "union"),
            _ => false,
        }
    }

    /// A factor with its power and what stands behind it.
    pub(super) fn factor(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let start = parser.at;
            let base = parser.primary()?;
            let base = parser.mixed_number(&base, start).unwrap_or(base);
            parser.behind(base)
        })
    }

    /// `3 1/2` and `3\frac{1}{2}`.
    fn mixed_number(&mut self, base: &Expr, start: usize) -> Option<Expr> {
        let (Expr::Number(whole), true) = (base, self.at == start + 1) else { return None };
        let whole_value = whole.exact?.as_integer()?;
        if whole.decimals.is_some() {
            return None;
        }
        let integer = |number: Number| match number.decimals {
            None => number.exact?.as_integer(),
            Some(_) => None,
        };
        if let Token::Number(part) = self.peek()?
            && !self.peek_at(0)?.text.is_ascii()
        {
            self.at += 1;
            return Some(Expr::Sum(vec![Expr::integer(whole_value), Expr::Number(part)]));
        }
        let (top, bottom, length) = match self.peek()? {
            Token::Number(top) if self.spaced() => {
                let slash = self.peek_at(1)?;
                let Token::Number(bottom) = self.peek_at(2)?.token else { return None };
                if slash.spaced || !matches!(slash.token, Token::Symbol('/')) {
                    return None;
                }
                (integer(top)?, integer(bottom)?, 3)
            }
            Token::Command("frac" | "dfrac" | "tfrac" | "cfrac") => self.plain_fraction()?,
            _ => return None,
        };
        if !(0 < top && 0 < bottom) {
            return None;
        }
        self.at += length;
        let fraction = Expr::integer(top).quotient(Expr::integer(bottom));
        Some(Expr::Sum(vec![Expr::integer(whole_value), fraction]))
    }

    /// The `\frac` here, if it is of two integers: `{1}{2}`, `12`, `1{72}`, `{1}2`; with its length in tokens.
    fn plain_fraction(&self) -> Option<(i128, i128, usize)> {
        let digits = |ahead: usize| {
            let lexed = self.peek_at(ahead)?;
            let whole = lexed.text.bytes().all(|byte| byte.is_ascii_digit());
            (whole && matches!(lexed.token, Token::Number(_))).then_some(lexed.text)
        };
        let symbol = |ahead: usize, wanted: char| {
            matches!(self.peek_at(ahead)?.token, Token::Symbol(found) if found == wanted).then_some(())
        };
        if let Some(both) = digits(1).filter(|both| both.len() == 2) {
            return Some((both[..1].parse().ok()?, both[1..].parse().ok()?, 2));
        }
        let mut at = 1;
        let mut parts = [0; 2];
        for part in &mut parts {
            if let Some(digit) = digits(at).filter(|digit| digit.len() == 1) {
                *part = digit.parse().ok()?;
                at += 1;
            } else {
                symbol(at, '{')?;
                *part = digits(at + 1)?.parse().ok()?;
                symbol(at + 2, '}')?;
                at += 3;
            }
        }
        Some((parts[0], parts[1], at))
    }
}
