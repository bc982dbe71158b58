//! What an answer is once it is read: an expression, or a structure of expressions.

use super::number::Number;
use super::rational::Rational;
use super::units::Unit;

/// A variable's name, as a hash: equal names are equal, however they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    /// Of the whole name.
    pub(super) hash: u64,
    /// Whether it has a subscript, as `x_1` has.
    pub(super) indexed: bool,
}

impl Name {
    pub(super) fn of(text: &str) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, indexed: false }.then(text)
    }

    /// The name with more text after it.
    pub(super) fn then(self, text: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self { hash: text.bytes().fold(self.hash, step), indexed: self.indexed || text == "_" }
    }
}

/// A number with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constant {
    Pi,
    E,
    I,
    Infinity,
}

/// A function of one argument (of two: logarithms with a base, binomials, and so on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    /// Natural.
    Ln,
    /// `log`: natural, as in most of mathematics, unless there is a second argument, the base.
    Log,
    Lg,
    Exp,
    /// `cos x + i sin x`.
    Cis,
    Floor,
    Ceiling,
    Minimum,
    Maximum,
    Gcd,
    Lcm,
    Binomial,
    Real,
    Imaginary,
}

/// A pair of brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bracket {
    Round,
    Square,
    Angle,
}

/// How the items of a list were joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    Comma,
    And,
    Or,
}

/// What stands between two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Approximate,
    In,
    NotIn,
    /// Before a modulus: `7 (mod 10)`.
    Modulo,
    /// `≡`, `~`, `→` and so on: compared as they are written.
    Other,
}

/// What two sets are joined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetOperation {
    Union,
    Intersection,
    Difference,
}

/// The set of all integers, and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Empty,
    Reals,
    Letter(char),
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) enum Expr {
    Number(Number),
    Constant(Constant),
    Variable(Name),
    /// Words that stand where a value could.
    Text(String),
    Sum(Vec<Self>),
    Product(Vec<Self>),
    Negative(Box<Self>),
    Inverse(Box<Self>),
    Power(Box<Self>, Box<Self>),
    /// The root of the second's degree (2 when there is none).
    Root(Box<Self>, Option<Box<Self>>),
    Absolute(Box<Self>),
    Factorial(Box<Self>),
    Percent(Box<Self>),
    Degrees(Box<Self>),
    Call(Function, Vec<Self>),
    /// `a ± b` (`true`) and `a ∓ b` (`false`) inside a sum.
    PlusMinus(bool, Box<Self>),
    Quantity(Box<Self>, Unit),
    /// Digits in a base: `2516_8`.
    Based(String, u32),
    /// Several values without brackets; the joint is the weightiest of those written.
    List(Joint, Vec<Self>),
    /// At least two values in brackets: a point, a vector, an interval.
    Tuple(Bracket, Bracket, Vec<Self>),
    Set(Vec<Self>),
    Known(Known),
    Sets(SetOperation, Box<Self>, Box<Self>),
    Matrix(Vec<Vec<Self>>),
    Relation(Vec<Self>, Vec<Relation>),
    /// `a : b`.
    Ratio(Vec<Self>),
}

impl Expr {
    pub(super) fn integer(value: i128) -> Self {
        Self::Number(Number::integer(value))
    }

    pub(super) fn rational(value: Rational) -> Self {
        Self::Number(Number::from_rational(value))
    }

    pub(super) fn quotient(self, denominator: Self) -> Self {
        Self::Product(vec![self, Self::Inverse(Box::new(denominator))])
    }

    /// The parts one level down.
    pub(super) fn parts(&self) -> Vec<&Self> {
        match self {
            Self::Number(_)
            | Self::Constant(_)
            | Self::Variable(_)
            | Self::Text(_)
            | Self::Based(..)
            | Self::Known(_) => Vec::new(),
            Self::Sum(items)
            | Self::Product(items)
            | Self::Call(_, items)
            | Self::List(_, items)
            | Self::Tuple(_, _, items)
            | Self::Set(items)
            | Self::Relation(items, _)
            | Self::Ratio(items) => items.iter().collect(),
            Self::Negative(inner)
            | Self::Inverse(inner)
            | Self::Absolute(inner)
            | Self::Factorial(inner)
            | Self::Percent(inner)
            | Self::Degrees(inner)
            | Self::PlusMinus(_, inner)
            | Self::Quantity(inner, _) => vec![inner],
            Self::Power(left, right) | Self::Sets(_, left, right) => vec![left, right],
            Self::Root(inner, None) => vec![inner],
            Self::Root(inner, Some(degree)) => vec![inner, degree],
            Self::Matrix(rows) => rows.iter().flatten().collect(),
        }
    }

    /// How many parts it has, itself among them.
    pub(super) fn size(&self) -> usize {
        1 + self.parts().iter().map(|part| part.size()).sum::<usize>()
    }

    /// Whether a part (or the whole) is what is looked for.
    pub(super) fn any(&self, found: &impl Fn(&Self) -> bool) -> bool {
        found(self) || self.parts().iter().any(|part| part.any(found))
    }

    /// Whether it has neither variables nor words.
    pub(super) fn is_constant(&self) -> bool {
        !self.any(&|part| matches!(part, Self::Variable(_) | Self::Text(_)))
    }

    /// Whether it is one value, not a structure of several.
    pub(super) fn is_scalar(&self) -> bool {
        !matches!(
            self,
            Self::List(..)
                | Self::Tuple(..)
                | Self::Set(_)
                | Self::Known(_)
                | Self::Sets(..)
                | Self::Matrix(_)
                | Self::Relation(..)
                | Self::Ratio(_)
                | Self::Text(_)
                | Self::Based(..)
        )
    }

    /// A literal number, perhaps with a sign.
    pub(super) fn literal(&self) -> Option<(bool, &Number)> {
        match self {
            Self::Number(number) => Some((false, number)),
            Self::Negative(inner) => inner.literal().map(|(negative, number)| (!negative, number)),
            _ => None,
        }
    }

    /// A copy in which some parts are replaced.
    pub(super) fn mapped(&self, replace: &impl Fn(&Self) -> Option<Self>) -> Self {
        if let Some(replaced) = replace(self) {
            return replaced;
        }
        let all = |items: &[Self]| items.iter().map(|item| item.mapped(replace)).collect();
        let one = |inner: &Self| Box::new(inner.mapped(replace));
        match self {
            Self::Sum(items) => Self::Sum(all(items)),
            Self::Product(items) => Self::Product(all(items)),
            Self::Call(function, items) => Self::Call(*function, all(items)),
            Self::List(joint, items) => Self::List(*joint, all(items)),
            Self::Tuple(open, close, items) => Self::Tuple(*open, *close, all(items)),
            Self::Set(items) => Self::Set(all(items)),
            Self::Relation(items, relations) => Self::Relation(all(items), relations.clone()),
            Self::Ratio(items) => Self::Ratio(all(items)),
            Self::Negative(inner) => Self::Negative(one(inner)),
            Self::Inverse(inner) => Self::Inverse(one(inner)),
            Self::Absolute(inner) => Self::Absolute(one(inner)),
            Self::Factorial(inner) => Self::Factorial(one(inner)),
            Self::Percent(inner) => Self::Percent(one(inner)),
            Self::Degrees(inner) => Self::Degrees(one(inner)),
            Self::PlusMinus(upper, inner) => Self::PlusMinus(*upper, one(inner)),
            Self::Quantity(inner, unit) => Self::Quantity(one(inner), *unit),
            Self::Power(left, right) => Self::Power(one(left), one(right)),
            Self::Sets(operation, left, right) => Self::Sets(*operation, one(left), one(right)),
            Self::Root(inner, degree) => Self::Root(one(inner), degree.as_deref().map(one)),
            Self::Matrix(rows) => Self::Matrix(rows.iter().map(|row| all(row)).collect()),
            other => other.clone(),
        }
    }
}
