//! Characters that are neither letters, digits nor spaces.

use super::super::number::Number;
use super::super::rational::Rational;
use super::super::units;
use super::Token;

/// The token of a character; `None` when it is part of no answer.
pub(super) fn symbol(character: char) -> Option<Token<'static>> {
    Some(match character {
        '+' | '-' | '*' | '/' | '^' | '_' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | ',' | ';' | ':'
        | '=' | '<' | '>' | '!' | '%' | '&' | '\'' | '"' => Token::Symbol(character),
        '−' | '–' | '—' | '‐' | '‑' | '﹣' | '－' => Token::Symbol('-'),
        '，' | '、' => Token::Symbol(','),
        '（' => Token::Symbol('('),
        '）' => Token::Symbol(')'),
        '：' | '∶' => Token::Symbol(':'),
        '＝' => Token::Symbol('='),
        '＋' => Token::Symbol('+'),
        '％' => Token::Symbol('%'),
        '’' | '′' => Token::Symbol('\''),
        '″' => Token::Symbol('"'),
        '⋅' | '·' | '∙' | '•' | '∗' => Token::Symbol('*'),
        '…' | '⋯' => Token::Command("dots"),
        '×' | '✕' => Token::Command("times"),
        '÷' => Token::Command("div"),
        '∕' | '⁄' => Token::Symbol('/'),
        '±' => Token::Command("pm"),
        '∓' => Token::Command("mp"),
        '√' => Token::Command("sqrt"),
        'π' | '𝜋' => Token::Command("pi"),
        'θ' => Token::Command("theta"),
        'α' => Token::Command("alpha"),
        'β' => Token::Command("beta"),
        'γ' => Token::Command("gamma"),
        'λ' => Token::Command("lambda"),
        'φ' => Token::Command("phi"),
        'ω' => Token::Command("omega"),
        '∞' => Token::Command("infty"),
        '≤' | '⩽' => Token::Command("le"),
        '≥' | '⩾' => Token::Command("ge"),
        '≠' => Token::Command("ne"),
        '≈' => Token::Command("approx"),
        '∪' => Token::Command("cup"),
        '∩' => Token::Command("cap"),
        '∈' => Token::Command("in"),
        '∅' | 'Ø' => Token::Command("emptyset"),
        '°' | 'º' => Token::Command("degree"),
        'ℝ' => Token::Command("reals"),
        '∠' => Token::Command("angle"),
        '⟨' => Token::Command("langle"),
        '⟩' => Token::Command("rangle"),
        '½' | '¼' | '¾' | '⅓' | '⅔' | '⅕' | '⅖' | '⅗' | '⅘' | '⅙' | '⅚' | '⅛' | '⅜' | '⅝' | '⅞' => {
            Token::Number(fraction(character)?)
        }
        '⁰' => Token::Superscript(0),
        '¹' => Token::Superscript(1),
        '²' => Token::Superscript(2),
        '³' => Token::Superscript(3),
        '⁴' => Token::Superscript(4),
        '⁵' => Token::Superscript(5),
        '⁶' => Token::Superscript(6),
        '⁷' => Token::Superscript(7),
        '⁸' => Token::Superscript(8),
        '⁹' => Token::Superscript(9),
        '€' | '£' | '¥' | '₹' | '¢' => Token::Currency(units::currency(character)?),
        _ if character.is_alphabetic() => Token::Letter(character),
        _ => return None,
    })
}

/// The value of a fraction that is one character.
fn fraction(character: char) -> Option<Number> {
    let (top, bottom) = match character {
        '½' => (1, 2),
        '¼' => (1, 4),
        '¾' => (3, 4),
        '⅓' => (1, 3),
        '⅔' => (2, 3),
        '⅕' => (1, 5),
        '⅖' => (2, 5),
        '⅗' => (3, 5),
        '⅘' => (4, 5),
        '⅙' => (1, 6),
        '⅚' => (5, 6),
        '⅛' => (1, 8),
        '⅜' => (3, 8),
        '⅝' => (5, 8),
        '⅞' => (7, 8),
        _ => return None,
    };
    Some(Number::from_rational(Rational::new(top, bottom)?))
}
