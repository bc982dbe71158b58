//! Words: names of functions and constants, or variables side by side.

use super::super::expr::{Constant, Expr, Name};
use super::{Parser, function};

/// Words that are a Greek letter.
const LETTERS: &[&str] = &[
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "vartheta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Sigma",
    "Phi",
    "Psi",
    "Omega",
    "ell",
];

/// Short words that are not products of variables.
const ENGLISH: &[&str] = &[
    "not", "is", "of", "to", "so", "no", "we", "he", "if", "the", "yes", "she", "his", "her", "are", "was",
    "has", "had", "for", "its", "you", "all", "any", "one", "two", "six", "ten", "can", "get", "but", "odd",
    "red", "day", "per", "out", "how", "who", "our", "non", "sum", "end", "men", "our", "did", "let", "now",
    "add", "old", "new", "may", "dne", "nan",
];

fn greek(word: &str) -> bool {
    LETTERS.contains(&word)
}

impl<'a> Parser<'a> {
    pub(super) fn word(&mut self, word: &'a str) -> Option<Expr> {
        if let Some(function) = function::named(word) {
            return self.call(function);
        }
        match word {
            "sqrt" => return self.square_root(),
            "frac" | "dfrac" | "tfrac" => return self.fraction(),
            "cbrt" => {
                let inner = self.argument()?;
                return Some(Expr::Root(Box::new(inner), Some(Box::new(Expr::integer(3)))));
            }
            "abs" => return Some(Expr::Absolute(Box::new(self.argument()?))),
            "pi" | "Pi" | "PI" => return Some(Expr::Constant(Constant::Pi)),
            "inf" | "infinity" | "infty" | "Infinity" | "Inf" | "oo" => {
                return Some(Expr::Constant(Constant::Infinity));
            }
            "choose" | "and" | "or" => return None,
            _ if greek(word) => return self.variable(word),
            _ => {}
        }
        let english = word.len() <= 3 && ENGLISH.iter().any(|english| word.eq_ignore_ascii_case(english));
        if word.len() > 3 || english || (word.len() == 3 && is_capitalised(word)) {
            return None;
        }
        let mut factors = Vec::with_capacity(word.len());
        for (at, letter) in word.char_indices() {
            let mut buffer = [0; 4];
            let last = at + 1 == word.len();
            let factor = match letter {
                'e' if !last => Expr::Constant(Constant::E),
                'i' if !last => Expr::Constant(Constant::I),
                'e' if !self.is_symbol('_') => Expr::Constant(Constant::E),
                'i' if !self.is_symbol('_') => Expr::Constant(Constant::I),
                _ if last => self.variable(letter.encode_utf8(&mut buffer))?,
                _ => Expr::Variable(Name::of(letter.encode_utf8(&mut buffer))),
            };
            factors.push(if last { self.behind(factor)? } else { factor });
        }
        Some(Expr::Product(factors))
    }
}

fn is_capitalised(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_uppercase) && bytes[1..].iter().all(u8::is_ascii_lowercase)
}
