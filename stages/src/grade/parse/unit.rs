//! Units after a number.

use super::super::expr::Expr;
use super::super::lex::{Lexed, Token};
use super::super::units::{self, Phrase, Unit};
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
            Token::Letter(_) => return self.unit_letters(factors),
            Token::Command("frac" | "dfrac" | "tfrac") => return self.unit_fraction(),
            // Feet and inches: `5'6''`.
            Token::Symbol('\'' | '"') if !self.spaced() && matches!(factors, [Expr::Number(_)]) => {
                let inches = self.take_symbol('"') || {
                    self.at += 1;
                    self.take_symbol('\'')
                };
                return units::lookup(if inches { "inch" } else { "foot" });
            }
            _ => return None,
        }
        let known = match self.peek()? {
            Token::Text(text) => text
                .split(|c: char| !c.is_alphabetic())
                .next()
                .is_some_and(|word| units::lookup(word).is_some()),
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

    /// `12 m`, `12 m/s`, `9.8 m/s^2`, at the end of an answer.
    fn unit_letters(&mut self, factors: &[Expr]) -> Option<Unit> {
        if !self.spaced() || !matches!(factors, [Expr::Number(_)]) {
            return None;
        }
        let Some(Token::Letter(letter)) = self.peek() else { return None };
        let alone = Unit::of_letter(letter)?;
        let start = self.at;
        if self.peek_at(1).is_none() {
            self.at += 1;
            return Some(alone);
        }
        let unit = self.unit_words();
        if unit.known.is_none() || !matches!(self.peek(), None | Some(Token::Symbol(','))) {
            self.at = start;
            return None;
        }
        Some(unit)
    }

    /// `\frac{\text{miles}}{\text{hour}}`
    fn unit_fraction(&mut self) -> Option<Unit> {
        let words = |lexed: Option<&Lexed<'_>>| {
            lexed.is_some_and(|lexed| match lexed.token {
                Token::Text(word) | Token::Word(word) => units::lookup(word).is_some(),
                _ => false,
            })
        };
        let letter = |lexed: Option<&Lexed<'_>>| {
            lexed.is_some_and(
                |lexed| matches!(lexed.token, Token::Letter(letter) if units::known_letter(letter).is_some()),
            )
        };
        let (top, bottom) = (self.peek_at(2), self.peek_at(5));
        let units = (words(top) && (words(bottom) || letter(bottom))) || (letter(top) && words(bottom));
        if !units {
            return None;
        }
        let start = self.at;
        self.at += 1;
        let mut phrase = Phrase::default();
        let whole = self.take_symbol('{') && {
            self.unit_phrase(&mut phrase);
            phrase.per();
            self.take_symbol('}') && self.take_symbol('{')
        };
        let whole = whole && {
            self.unit_phrase(&mut phrase);
            self.take_symbol('}')
        };
        let unit = phrase.finish();
        if !whole || unit.known.is_none() {
            self.at = start;
            return None;
        }
        Some(unit)
    }

    /// Takes words up to the end of the answer or to what cannot belong to a unit.
    fn unit_words(&mut self) -> Unit {
        let mut phrase = Phrase::default();
        self.unit_phrase(&mut phrase);
        phrase.finish()
    }

    fn unit_phrase(&mut self, phrase: &mut Phrase) {
        loop {
            match self.peek() {
                Some(Token::Word(word))
                    if word.eq_ignore_ascii_case("and") || word.eq_ignore_ascii_case("or") =>
                {
                    break;
                }
                Some(Token::Word(word) | Token::Text(word)) => phrase.text(word),
                Some(Token::Letter(letter)) => match units::known_letter(letter) {
                    Some(known) => phrase.unit(known),
                    None if phrase.started() => phrase.text(letter.encode_utf8(&mut [0; 4])),
                    None => break,
                },
                Some(Token::Symbol('/')) if phrase.started() && self.unit_goes_on() => phrase.per(),
                Some(Token::Symbol('\'' | '.') | Token::Command("dots"))
                    if phrase.started() && self.unit_goes_on() => {}
                // "sq. cm", `kg\cdot m`
                Some(Token::Command("cdot") | Token::Symbol('*'))
                    if phrase.started() && self.unit_goes_on() =>
                {
                    phrase.times();
                }
                Some(Token::Symbol('^')) if phrase.started() => {
                    self.at += 1;
                    let power = match self.exponent() {
                        Some(Exponent::Power(power)) => power.literal().and_then(|(negative, number)| {
                            let value = i8::try_from(number.exact?.as_integer()?).ok()?;
                            if negative { value.checked_neg() } else { Some(value) }
                        }),
                        _ => None,
                    };
                    phrase.power(power);
                    continue;
                }
                Some(Token::Superscript(value)) if phrase.started() => phrase.power(Some(value)),
                _ => break,
            }
            self.at += 1;
        }
    }

    fn unit_goes_on(&self) -> bool {
        matches!(
            self.peek_at(1).map(|lexed| lexed.token),
            Some(Token::Word(_) | Token::Text(_) | Token::Letter(_)) | None
        )
    }
}
