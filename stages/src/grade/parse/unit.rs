//! Units after a number.

use super::super::expr::Expr;
use super::super::lex::Token;
use super::super::units::{self, Unit};
use super::power::Exponent;
use super::{Parser, function};

impl Parser<'_> {
    /// The million of `2.5 million`.
    pub(super) fn scale_word(&mut self, factors: &[Expr]) -> Option<Expr> {
        let (Some(Token::Word(word) | Token::Text(word)), [Expr::Number(_)]) = (self.peek(), factors) else {
            return None;
        };
        let zeros = match word {
            "thousand" => 3,
            "million" => 6,
            "billion" => 9,
            "trillion" => 12,
            _ => return None,
        };
        self.at += 1;
        Some(Expr::integer(10_i128.pow(zeros)))
    }

    /// The unit after a number, if that is what follows.
    pub(super) fn unit(&mut self, factors: &[Expr]) -> Option<Unit> {
        match self.peek()? {
            Token::Text(_) => {}
            Token::Word("minus" | "plus" | "negative") => return None,
            Token::Word(word) => {
                let attached = !self.spaced();
                let known = units::lookup(word).is_some() || units::power_of(word).is_some();
                let reserved = function::is_reserved(word) || (word.len() < 3 && !known);
                if reserved
                    || (attached && !known && word.len() < 4)
                    || (word == "in" && !self.ends_after_word())
                {
                    return None;
                }
            }
            Token::Currency(unit) => {
                self.at += 1;
                return Some(unit);
            }
            Token::Letter(letter) => {
                if !self.spaced() || !matches!(factors, [Expr::Number(_)]) {
                    return None;
                }
                let ahead = |ahead: usize| self.peek_at(ahead).map(|lexed| lexed.token);
                // `12 m/s`, `9.8 m/s^2`
                let length = match (ahead(1), ahead(2), ahead(3)) {
                    (None, ..) => 1,
                    (Some(Token::Symbol('/')), Some(Token::Letter(_)), None) => 3,
                    (Some(Token::Symbol('/')), Some(Token::Letter(_)), Some(Token::Symbol('^')))
                        if matches!((ahead(4), ahead(5)), (Some(Token::Number(_)), None)) =>
                    {
                        5
                    }
                    _ => return None,
                };
                let unit = Unit::of_letter(letter)?;
                self.at += length;
                return Some(if length == 1 { unit } else { Unit::UNKNOWN });
            }
            _ => return None,
        }
        let known = match self.peek()? {
            Token::Text(text) => {
                text.split_whitespace().next().is_some_and(|word| units::lookup(word).is_some())
            }
            _ => false,
        };
        (known || factors.iter().all(Expr::is_constant)).then(|| self.unit_words())
    }

    fn ends_after_word(&self) -> bool {
        match self.peek_at(1).map(|lexed| lexed.token) {
            None | Some(Token::Symbol(',' | '^')) => true,
            Some(Token::Word(word)) => word == "and" || word == "or",
            _ => false,
        }
    }

    /// Takes words up to the end of the answer or to what cannot belong to a unit.
    fn unit_words(&mut self) -> Unit {
        let mut unit: Option<Unit> = None;
        let mut power = 1_u8;
        let mut plain = true;
        let mut started = false;
        loop {
            let word = match self.peek() {
                Some(Token::Word(word))
                    if word.eq_ignore_ascii_case("and") || word.eq_ignore_ascii_case("or") =>
                {
                    break;
                }
                Some(Token::Word(word) | Token::Text(word)) => word,
                Some(Token::Letter(_)) if unit.is_some() => {
                    self.at += 1;
                    plain = false;
                    continue;
                }
                Some(Token::Symbol('/' | '\'' | '.')) if unit.is_some() && self.unit_goes_on() => {
                    self.at += 1;
                    plain = false;
                    continue;
                }
                // "sq. cm", `kg\cdot m`
                Some(Token::Command(sign @ ("dots" | "cdot"))) if started && self.unit_goes_on() => {
                    self.at += 1;
                    plain &= sign == "dots";
                    continue;
                }
                Some(Token::Symbol('^')) => {
                    self.at += 1;
                    match self.exponent() {
                        Some(Exponent::Power(Expr::Number(number))) => {
                            let value = number.exact.and_then(|value| u8::try_from(value.as_integer()?).ok());
                            power = value.unwrap_or(0);
                        }
                        _ => plain = false,
                    }
                    continue;
                }
                Some(Token::Superscript(value)) => {
                    self.at += 1;
                    power = u8::try_from(value).unwrap_or(0);
                    continue;
                }
                _ => break,
            };
            self.at += 1;
            started = true;
            for word in word.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
                if let Some(found) = units::power_of(word) {
                    power = found;
                    continue;
                }
                match (units::lookup(word), unit) {
                    (Some(found), None) => unit = Some(found),
                    _ => {
                        plain = false;
                        unit.get_or_insert(Unit::UNKNOWN);
                    }
                }
            }
        }
        match unit {
            Some(unit) if plain => unit.power(power),
            _ => Unit::UNKNOWN,
        }
    }

    fn unit_goes_on(&self) -> bool {
        matches!(
            self.peek_at(1).map(|lexed| lexed.token),
            Some(Token::Word(_) | Token::Text(_) | Token::Letter(_)) | None
        )
    }
}
