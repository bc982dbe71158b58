//! What stands behind a value: powers, factorials, percent and degree signs, primes.

use super::super::expr::{Expr, Name};
use super::super::lex::Token;
use super::super::rational::Rational;
use super::super::units::{Measure, Unit};
use super::Parser;

impl Parser<'_> {
    /// Powers, factorials, percent and degree signs.
    pub(super) fn behind(&mut self, mut base: Expr) -> Option<Expr> {
        loop {
            base = match self.peek() {
                Some(Token::Symbol('^')) => {
                    self.at += 1;
                    match self.exponent()? {
                        Exponent::Degrees => self.degrees(base),
                        Exponent::Ordinal => base,
                        Exponent::Prime => primed(base)?,
                        Exponent::Power(power) => raised(base, power),
                    }
                }
                Some(Token::Symbol('*'))
                    if matches!(self.peek_at(1)?.token, Token::Symbol('*')) && !self.peek_at(1)?.spaced =>
                {
                    self.at += 2;
                    let negative = self.take_symbol('-');
                    let power = self.factor()?;
                    let power = if negative { Expr::Negative(Box::new(power)) } else { power };
                    Expr::Power(Box::new(base), Box::new(power))
                }
                Some(Token::Superscript(first)) => {
                    self.at += 1;
                    let mut power = i128::from(first);
                    while let Some(Token::Superscript(digit)) = self.peek() {
                        power = power.checked_mul(10)?.checked_add(i128::from(digit))?;
                        self.at += 1;
                    }
                    Expr::Power(Box::new(base), Box::new(Expr::integer(power)))
                }
                Some(Token::Symbol('!'))
                    if !matches!(self.peek_at(1).map(|lexed| lexed.token), Some(Token::Symbol('='))) =>
                {
                    self.at += 1;
                    Expr::Factorial(Box::new(base))
                }
                Some(Token::Symbol('%')) => {
                    self.at += 1;
                    Expr::Percent(Box::new(base))
                }
                Some(Token::Command("degree" | "circ" | "degrees")) => {
                    self.at += 1;
                    self.degrees(base)
                }
                Some(Token::Symbol('\'')) if matches!(base, Expr::Variable(_)) => {
                    self.at += 1;
                    primed(base)?
                }
                _ => return Some(base),
            };
        }
    }

    /// After a degree sign: `20°C` is `20°`, and `20°F` another temperature.
    fn degrees(&mut self, value: Expr) -> Expr {
        let last = self.peek_at(1).is_none();
        match self.peek() {
            Some(Token::Letter(scale @ ('C' | 'F'))) if last || !self.spaced() => {
                self.at += 1;
                match scale {
                    'F' => Expr::Quantity(Box::new(value), Unit::of(Measure::FAHRENHEIT, Rational::ONE)),
                    _ => Expr::Degrees(Box::new(value)),
                }
            }
            _ => {
                let minutes = self.part_of_a_degree(1, 60);
                let seconds = self.part_of_a_degree(2, 3600);
                let parts: Vec<Expr> = minutes.into_iter().chain(seconds).collect();
                if parts.is_empty() {
                    return Expr::Degrees(Box::new(value));
                }
                Expr::Degrees(Box::new(Expr::Sum(std::iter::once(value).chain(parts).collect())))
            }
        }
    }

    /// The `30'` after `45^\circ`.
    fn part_of_a_degree(&mut self, primes: usize, parts: i128) -> Option<Expr> {
        let Some(Token::Number(number)) = self.peek() else { return None };
        let prime = |at| self.peek_at(at).is_some_and(|lexed| matches!(lexed.token, Token::Symbol('\'')));
        if (1..=primes).any(|at| !prime(at)) || prime(primes + 1) {
            return None;
        }
        self.at += 1 + primes;
        Some(Expr::Number(number).quotient(Expr::integer(parts)))
    }

    pub(super) fn exponent(&mut self) -> Option<Exponent> {
        let braces = self.take_symbol('{');
        let special = match self.peek()? {
            Token::Command("circ" | "degree") | Token::Letter('o') => Some(Exponent::Degrees),
            Token::Command("prime") | Token::Symbol('\'') => Some(Exponent::Prime),
            Token::Word("th" | "st" | "nd" | "rd") | Token::Text("th" | "st" | "nd" | "rd") => {
                Some(Exponent::Ordinal)
            }
            _ => None,
        };
        if let Some(special) = special {
            self.at += 1;
            return (!braces || self.take_symbol('}')).then_some(special);
        }
        if braces {
            let power = self.list(false)?;
            return self.take_symbol('}').then_some(Exponent::Power(power));
        }
        let negative = self.take_symbol('-');
        let power = self.deeper(|parser| {
            let base = match parser.peek()? {
                Token::Word(_) if !parser.word_is_value() => return None,
                _ => parser.primary()?,
            };
            // `2^{3}^2` is no mathematics, `2^3^2` is.
            if parser.is_symbol('^') { parser.behind(base) } else { Some(base) }
        })?;
        Some(Exponent::Power(if negative { Expr::Negative(Box::new(power)) } else { power }))
    }
}

/// A power; `[1, 2]^T` is a column.
fn raised(base: Expr, power: Expr) -> Expr {
    let transposed =
        matches!(power, Expr::Variable(name) if [Name::of("T"), Name::of("top")].contains(&name));
    match base {
        Expr::Tuple(_, _, items) if transposed => {
            Expr::Matrix(items.into_iter().map(|item| vec![item]).collect())
        }
        base => Expr::Power(Box::new(base), Box::new(power)),
    }
}

pub(super) enum Exponent {
    Power(Expr),
    Degrees,
    Ordinal,
    Prime,
}

fn primed(base: Expr) -> Option<Expr> {
    match base {
        Expr::Variable(name) => Some(Expr::Variable(name.then("'"))),
        _ => None,
    }
}
