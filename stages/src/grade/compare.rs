//! Whether two answers, once read, are the same one.

mod list;
mod matrix;
mod real_set;
mod relation;
mod scalar;

use super::Conventions;
use super::expr::{Bracket, Constant, Expr, Joint, Known, Name, Relation, SetOperation};
use super::words;
use super::work::Work;

/// Compares answers under one set of conventions, with one allowance of work.
pub(super) struct Comparison<'a> {
    pub(super) conventions: &'a Conventions,
    pub(super) work: Work,
}

/// Lists with more items are only equal as text.
const MAX_ITEMS: usize = 64;

impl Comparison<'_> {
    /// Whether they are the same.
    pub(super) fn equal(&self, gold: &Expr, answer: &Expr) -> bool {
        let ((gold, parameter), (answer, other)) = (without_conditions(gold), without_conditions(answer));
        if self.same(&expanded(gold), &expanded(answer)) {
            return true;
        }
        // What a parameter is called does not matter.
        let named = |expr| constant_of_integration(expr).or_else(|| multiple_of_pi(expr));
        let (parameter, other) = (parameter.or_else(|| named(gold)), other.or_else(|| named(answer)));
        match (parameter, other) {
            (Some(parameter), Some(other)) if parameter != other => {
                let renamed = answer.mapped(&|part| match part {
                    Expr::Variable(name) if *name == other => Some(Expr::Variable(parameter)),
                    _ => None,
                });
                self.same(&expanded(gold), &expanded(&renamed))
            }
            _ => false,
        }
    }

    /// The same of answers without `±`.
    fn same(&self, a: &Expr, b: &Expr) -> bool {
        if self.work.spend(1).is_none() {
            return false;
        }
        if a.is_scalar() && b.is_scalar() {
            return match (matrix::folded(a, &self.work), matrix::folded(b, &self.work)) {
                (None, None) => self.scalars(a, b),
                (Some(a), Some(b)) => self.matrices(&a, &b),
                _ => false,
            };
        }
        match (a, b) {
            (Expr::Relation(..), _) | (_, Expr::Relation(..)) => self.with_relation(a, b),
            (Expr::Matrix(_), _) | (_, Expr::Matrix(_)) => self.with_matrix(a, b),
            (Expr::List(joint, items), Expr::List(other_joint, others)) => {
                self.lists((*joint, items), (*other_joint, others)) || self.real_sets(a, b)
            }
            (Expr::Tuple(open, close, items), Expr::Tuple(other_open, other_close, others)) => {
                let alike = |a: Bracket, b: Bracket| {
                    !self.conventions.brackets || a == b || (a != Bracket::Square && b != Bracket::Square)
                };
                alike(*open, *other_open) && alike(*close, *other_close) && self.in_order(items, others)
            }
            (Expr::Tuple(open, close, items), Expr::List(joint, others))
            | (Expr::List(joint, others), Expr::Tuple(open, close, items)) => {
                // With three items it can be no interval, only a list as programs write it.
                let round = (*open != Bracket::Square && *close != Bracket::Square) || items.len() > 2;
                (round || !self.conventions.brackets)
                    && *joint != Joint::Or
                    && self.in_order(items, &values(others))
                    || self.real_sets(a, b)
            }
            (Expr::Set(items), Expr::Set(others)) => self.any_order(items, others, true),
            (Expr::Set(items), Expr::List(_, others)) | (Expr::List(_, others), Expr::Set(items)) => {
                self.any_order(items, &values(others), true) || self.real_sets(a, b)
            }
            (Expr::Known(a), Expr::Known(b)) if a == b => true,
            (Expr::Known(Known::Empty), Expr::Set(items)) | (Expr::Set(items), Expr::Known(Known::Empty)) => {
                items.is_empty()
            }
            (Expr::Sets(operation, a1, a2), Expr::Sets(other, b1, b2)) => {
                let mirrored = *operation != SetOperation::Difference;
                (operation == other
                    && (self.same(a1, b1) && self.same(a2, b2)
                        || mirrored && self.same(a1, b2) && self.same(a2, b1)))
                    || self.real_sets(a, b)
            }
            (Expr::Ratio(a), Expr::Ratio(b)) => self.ratios(a, b),
            (Expr::Ratio(parts), other @ Expr::Product(_))
            | (other @ Expr::Product(_), Expr::Ratio(parts)) => match parts.as_slice() {
                [top, bottom] => self.same(&top.clone().quotient(bottom.clone()), other),
                _ => false,
            },
            (Expr::Based(digits, base), Expr::Based(others, other)) => digits == others && base == other,
            (Expr::Based(digits, base), other) => {
                (self.conventions.base_optional || *base == 10) && self.based(digits, other)
            }
            (other, Expr::Based(digits, 10)) => self.based(digits, other),
            (Expr::Text(a), Expr::Text(b)) => self.words(a, b),
            (Expr::Text(text), other) | (other, Expr::Text(text)) => {
                words::number(text).is_some_and(|number| self.same(&Expr::integer(number), other))
            }
            (Expr::Tuple(_, _, items), other) | (other, Expr::Tuple(_, _, items)) if other.is_scalar() => {
                self.unit_vectors(items, other)
            }
            (Expr::Set(items), other) | (other, Expr::Set(items)) if other.is_scalar() => {
                matches!(items.as_slice(), [only] if self.same(only, other))
            }
            // The same value said twice: `1/2 or 0.5`.
            (Expr::List(Joint::Or, items), other) | (other, Expr::List(Joint::Or, items))
                if other.is_scalar() =>
            {
                let one = |item: &Expr| items.iter().all(|same| self.same(same, item));
                // `0.5 or 50%` is also `50`.
                items.len() <= MAX_ITEMS
                    && (one(other) || items.iter().any(|item| self.same(item, other) && one(item)))
            }
            _ => self.real_sets(a, b),
        }
    }

    /// Whether two texts are the same words, or lists of the same words.
    pub(super) fn words(&self, a: &str, b: &str) -> bool {
        words::same_text(a, b) || !self.conventions.list_order && words::same_items(a, b)
    }

    fn in_order(&self, items: &[Expr], others: &[Expr]) -> bool {
        items.len() == others.len() && items.iter().zip(others).all(|(item, other)| self.same(item, other))
    }

    /// `1:2` and `2:4`; times of day (`10:30`) are no ratios.
    fn ratios(&self, a: &[Expr], b: &[Expr]) -> bool {
        if self.in_order(a, b) {
            return true;
        }
        let minutes = |parts: &[Expr]| {
            parts.last().and_then(Expr::literal).is_some_and(|(_, number)| number.significant >= 2)
                && parts.first().is_some_and(|first| first.literal().is_some())
        };
        if a.len() != b.len() || (minutes(a) && minutes(b)) {
            return false;
        }
        let (Some(first), Some(other)) = (a.first(), b.first()) else { return false };
        a.iter().zip(b).all(|(part, counterpart)| {
            let left = Expr::Product(vec![part.clone(), other.clone()]);
            let right = Expr::Product(vec![counterpart.clone(), first.clone()]);
            self.same(&left, &right)
        })
    }

    /// Whether the other is these digits, without a base.
    fn based(&self, digits: &str, other: &Expr) -> bool {
        let value = super::number::Number::decimal(digits, None, 0);
        value.is_some_and(|value| other.literal().is_some() && self.same(&Expr::Number(value), other))
    }
}

/// The value of an assignment, anything else as it is.
pub(super) fn value(expr: &Expr) -> &Expr {
    relation::assigned(expr).unwrap_or(expr)
}

/// The values of assignments, other items as they are.
fn values(items: &[Expr]) -> Vec<Expr> {
    items.iter().map(|item| value(item).clone()).collect()
}

/// Without `k ∈ ℤ` after the answer, as in `2kπ, k ∈ ℤ`, and the `k`, if it is the only one.
fn without_conditions(expr: &Expr) -> (&Expr, Option<Name>) {
    let Expr::List(_, items) = expr else { return (expr, None) };
    let condition = |item: &Expr| match item {
        Expr::Relation(sides, relations) => match (sides.as_slice(), relations.as_slice()) {
            ([Expr::Variable(_), Expr::Known(Known::Letter(_))], [Relation::In]) => true,
            ([Expr::Variable(_), Expr::Variable(set)], [Relation::In]) => {
                ["Z", "N"].map(Name::of).contains(set)
            }
            _ => false,
        },
        _ => false,
    };
    match items.as_slice() {
        [answer, only] if condition(only) => (answer, relation::assigned_name(only)),
        [answer, conditions @ ..] if conditions.iter().all(condition) => (answer, None),
        _ => (expr, None),
    }
}

/// The `k` (or `m`, `n`) of `\frac{\pi}{4} + k\pi`, the only variable there.
fn multiple_of_pi(expr: &Expr) -> Option<Name> {
    let value = value(expr);
    let variable = |part: &Expr| match part {
        Expr::Variable(name) => Some(*name),
        _ => None,
    };
    let turns = |part: &Expr| matches!(part, Expr::Constant(Constant::Pi) | Expr::Degrees(_));
    let name = ["k", "m", "n"].map(Name::of).into_iter().find(|name| {
        let multiple = |part: &Expr| {
            matches!(part, Expr::Product(factors)
                if factors.iter().any(|factor| variable(factor) == Some(*name)) && part.any(&turns))
        };
        value.any(&multiple)
    })?;
    let others = |part: &Expr| variable(part).is_some_and(|other| other != name);
    (!value.any(&others)).then_some(name)
}

/// The `C` (or `c`) at the end of an integral. Beside `A` or `B` it is one of several names.
fn constant_of_integration(expr: &Expr) -> Option<Name> {
    let Expr::Sum(terms) = expr else { return None };
    let Some(Expr::Variable(last)) = terms.last() else { return None };
    let beside = |part: &Expr| matches!(part, Expr::Variable(name) if ["a", "b", "A", "B"].map(Name::of).contains(name));
    (["c", "C"].map(Name::of).contains(last) && !expr.any(&beside)).then_some(*last)
}

/// With every `±` replaced by its two values.
fn expanded(expr: &Expr) -> std::borrow::Cow<'_, Expr> {
    use std::borrow::Cow;
    if !expr.any(&|part| matches!(part, Expr::PlusMinus(..))) {
        return Cow::Borrowed(expr);
    }
    let flat = |items: &[Expr]| -> Vec<Expr> {
        let mut all = Vec::new();
        for item in items {
            match expanded(item).into_owned() {
                Expr::List(Joint::Or, values) if !matches!(item, Expr::List(..)) => all.extend(values),
                item => all.push(item),
            }
        }
        all
    };
    Cow::Owned(match expr {
        Expr::List(joint, items) => Expr::List(*joint, flat(items)),
        Expr::Set(items) => Expr::Set(flat(items)),
        _ => Expr::List(Joint::Or, vec![with_sign(expr, true), with_sign(expr, false)]),
    })
}

/// The expression with `±` as plus or as minus.
fn with_sign(expr: &Expr, plus: bool) -> Expr {
    expr.mapped(&|part| match part {
        Expr::PlusMinus(upper, inner) if *upper == plus => Some(with_sign(inner, plus)),
        Expr::PlusMinus(_, inner) => Some(Expr::Negative(Box::new(with_sign(inner, plus)))),
        _ => None,
    })
}
