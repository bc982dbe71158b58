//! Functions and their arguments.

use super::super::expr::{Expr, Function};
use super::super::lex::Token;
use super::Parser;

/// The function of that name.
pub(super) fn named(name: &str) -> Option<Function> {
    Some(match name {
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tan" | "tg" => Function::Tan,
        "cot" | "ctg" => Function::Cot,
        "sec" => Function::Sec,
        "csc" | "cosec" => Function::Csc,
        "arcsin" | "asin" => Function::Arcsin,
        "arccos" | "acos" => Function::Arccos,
        "arctan" | "atan" | "arctg" => Function::Arctan,
        "sinh" => Function::Sinh,
        "cosh" => Function::Cosh,
        "tanh" => Function::Tanh,
        "ln" => Function::Ln,
        "log" => Function::Log,
        "lg" => Function::Lg,
        "exp" => Function::Exp,
        "cis" => Function::Cis,
        "floor" => Function::Floor,
        "ceil" => Function::Ceiling,
        "min" => Function::Minimum,
        "max" => Function::Maximum,
        "gcd" => Function::Gcd,
        "lcm" => Function::Lcm,
        "Re" => Function::Real,
        "Im" => Function::Imaginary,
        _ => return None,
    })
}

/// Words that are mathematics wherever they stand.
pub(in crate::grade) fn is_reserved(word: &str) -> bool {
    (named(word).is_some() && word != "min")
        || matches!(
            word,
            "sqrt"
                | "frac"
                | "dfrac"
                | "tfrac"
                | "cbrt"
                | "abs"
                | "pi"
                | "Pi"
                | "PI"
                | "inf"
                | "infinity"
                | "infty"
                | "oo"
                | "and"
                | "or"
                | "mod"
        )
        || matches!(word, "alpha" | "beta" | "gamma" | "theta" | "lambda" | "phi" | "omega" | "union")
}

impl Parser<'_> {
    /// A function after its name: base, power, argument.
    pub(super) fn call(&mut self, function: Function) -> Option<Expr> {
        self.deeper(|parser| parser.call_after_name(function))
    }

    fn call_after_name(&mut self, function: Function) -> Option<Expr> {
        let mut base = None;
        let mut power = None;
        loop {
            if base.is_none() && self.take_symbol('_') {
                base = Some(self.piece()?);
            } else if power.is_none() && self.take_symbol('^') {
                let negative = self.take_symbol('-');
                let piece = self.piece()?;
                power = Some(if negative { Expr::Negative(Box::new(piece)) } else { piece });
            } else {
                break;
            }
        }
        let inner = self.argument()?;
        let mut arguments = match inner {
            Expr::List(_, items) => items,
            Expr::Tuple(_, _, items) => items,
            inner => vec![inner],
        };
        arguments.extend(base);
        let minus_one =
            |power: &Expr| power.literal().is_some_and(|(negative, n)| negative && n.float == 1.0);
        let inverse = match function {
            Function::Sin => Some(Function::Arcsin),
            Function::Cos => Some(Function::Arccos),
            Function::Tan => Some(Function::Arctan),
            _ => None,
        };
        Some(match (power, inverse) {
            (Some(power), Some(inverse)) if minus_one(&power) => Expr::Call(inverse, arguments),
            (Some(power), _) => Expr::Power(Box::new(Expr::Call(function, arguments)), Box::new(power)),
            (None, _) => Expr::Call(function, arguments),
        })
    }

    /// What a function is applied to: a bracket, or the factors up to the next sign or function.
    pub(super) fn argument(&mut self) -> Option<Expr> {
        match self.peek()? {
            Token::Symbol('(' | '{') => self.deeper(|parser| {
                let inner = parser.primary()?;
                Some(inner)
            }),
            Token::Symbol('[') => self.deeper(Self::primary),
            _ => self.deeper(|parser| {
                let mut factors = vec![parser.factor()?];
                while parser.argument_goes_on() {
                    let divide = parser.take_symbol('/');
                    if !divide && !parser.take_command("cdot") {
                        parser.take_symbol('*');
                    }
                    let factor = parser.factor()?;
                    factors.push(if divide { Expr::Inverse(Box::new(factor)) } else { factor });
                }
                if factors.len() == 1 { factors.pop() } else { Some(Expr::Product(factors)) }
            }),
        }
    }

    fn argument_goes_on(&self) -> bool {
        match self.peek() {
            Some(Token::Number(_) | Token::Letter(_)) => true,
            Some(Token::Word(word)) => {
                word == "pi" || (word.len() <= 2 && named(word).is_none() && word != "or" && word != "in")
            }
            Some(Token::Command(name)) => {
                matches!(
                    name,
                    "frac"
                        | "dfrac"
                        | "tfrac"
                        | "pi"
                        | "sqrt"
                        | "alpha"
                        | "beta"
                        | "theta"
                        | "phi"
                        | "omega"
                        | "gamma"
                )
            }
            Some(Token::Symbol('/')) => true,
            _ => false,
        }
    }
}
