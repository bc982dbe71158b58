//! Equations and inequalities: what they assign, and whether they say the same.

use super::super::evaluate::{ELSEWHERE, exact, float};
use super::super::expr::{Bracket, Constant, Expr, Joint, Name, Relation};
use super::Comparison;
use super::scalar::{POINTS, in_pieces};

/// Whether it only names something: `x`, `f(x)`, `|AB|`, `(p, q)`, `V_1 : V_2`, `P(A)`, but not `x + 1`.
pub(super) fn is_name(expr: &Expr) -> bool {
    match expr {
        Expr::Variable(_) | Expr::Text(_) => true,
        Expr::Constant(Constant::E | Constant::I) => true,
        Expr::Product(parts) => {
            let Some((first, rest)) = parts.split_first() else { return false };
            // `f(2)`: a letter applied to a number is a name too, `2x` is not.
            let applied = |part: &Expr| is_name(part) || matches!(part, Expr::Number(_));
            // `f^{-1}(x)`
            let inverse = matches!(first, Expr::Power(base, power)
                if matches!(base.as_ref(), Expr::Variable(_))
                    && power.literal().is_some_and(|(negative, one)| negative && one.float == 1.0));
            (is_name(first) || inverse)
                && (rest.iter().all(is_name) || (rest.len() == 1 && rest.iter().all(applied)))
        }
        // `|x| < 3` is about `x`.
        Expr::Absolute(inner) => {
            is_name(inner)
                && !matches!(inner.as_ref(), Expr::Variable(name) if ["x", "y"].map(Name::of).contains(name))
        }
        Expr::Inverse(inner) | Expr::Degrees(inner) => is_name(inner),
        Expr::Tuple(_, _, items) | Expr::Ratio(items) => items.iter().all(is_name),
        Expr::Call(_, items) => items.iter().all(is_name),
        _ => false,
    }
}

/// What an equation gives to a name: the other side. The last of several in a chain.
pub(super) fn assigned(expr: &Expr) -> Option<&Expr> {
    let Expr::Relation(sides, relations) = expr else { return None };
    if !relations.iter().all(|relation| matches!(relation, Relation::Equal)) {
        return None;
    }
    match sides.as_slice() {
        [name, value] if is_name(name) => Some(value),
        [value, name] if is_name(name) => Some(value),
        // `2 + 3 = 5`
        [left, right] if left.is_constant() && right.is_constant() => Some(right),
        [_, .., last] if sides.len() > 2 => Some(last),
        _ => None,
    }
}

/// The variable that an assignment is to.
pub(super) fn assigned_name(expr: &Expr) -> Option<Name> {
    let Expr::Relation(sides, _) = expr else { return None };
    sides.iter().find_map(|side| match side {
        Expr::Variable(name) => Some(*name),
        _ => None,
    })
}

/// The answers that a relation may stand for: the value of an equation, before and after `≈`.
fn answers(expr: &Expr) -> Vec<Expr> {
    let Expr::Relation(sides, relations) = expr else { return Vec::new() };
    if let Some(value) = assigned(expr) {
        return vec![value.clone()];
    }
    if let Some(at) = relations.iter().position(|relation| *relation == Relation::Approximate) {
        let before = match (&sides[..=at], &relations[..at]) {
            ([only], _) => only.clone(),
            (sides, relations) => Expr::Relation(sides.to_vec(), relations.to_vec()),
        };
        let after = &sides[at + 1..];
        let mut found = answers(&before);
        if found.is_empty() && !is_name(&before) && !matches!(before, Expr::Relation(..)) {
            found.push(before);
        }
        found.extend(after.first().cloned());
        return found;
    }
    match (sides.as_slice(), relations.as_slice()) {
        ([name, set], [Relation::In]) if is_name(name) => vec![set.clone()],
        // `7 (mod 10)` and `x ≡ 7 (mod 10)`.
        ([value, _], [Relation::Modulo]) => vec![value.clone()],
        ([name, value, _], [Relation::Other | Relation::Equal, Relation::Modulo]) if is_name(name) => {
            vec![value.clone()]
        }
        _ => Vec::new(),
    }
}

/// `(a, b) = (1, 2)` as `a = 1` and `b = 2`.
fn one_by_one(expr: &Expr) -> Option<Vec<Expr>> {
    let Expr::Relation(sides, relations) = expr else { return None };
    match (sides.as_slice(), relations.as_slice()) {
        ([Expr::Tuple(_, _, names), Expr::Tuple(_, _, values)], [Relation::Equal])
            if names.len() == values.len() && names.iter().all(is_name) =>
        {
            let each = names.iter().zip(values);
            Some(
                each.map(|(name, value)| {
                    Expr::Relation(vec![name.clone(), value.clone()], vec![Relation::Equal])
                })
                .collect(),
            )
        }
        _ => None,
    }
}

/// What a congruence is modulo.
fn modulus(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Relation(sides, relations) if relations.last() == Some(&Relation::Modulo) => sides.last(),
        _ => None,
    }
}

/// An inequality with a name alone between its bounds, as an interval.
fn interval(expr: &Expr) -> Option<Expr> {
    let Expr::Relation(sides, relations) = expr else { return None };
    let bracket = |relation: Relation| match relation {
        Relation::Less | Relation::Greater => Some(Bracket::Round),
        Relation::LessEqual | Relation::GreaterEqual => Some(Bracket::Square),
        _ => None,
    };
    let upward = |relation: Relation| matches!(relation, Relation::Less | Relation::LessEqual);
    let infinity = || Expr::Constant(Constant::Infinity);
    let minus = || Expr::Negative(Box::new(infinity()));
    match (sides.as_slice(), relations.as_slice()) {
        ([low, name, high], [first, second]) if is_name(name) && upward(*first) == upward(*second) => {
            let (left, right) = (bracket(*first)?, bracket(*second)?);
            Some(if upward(*first) {
                Expr::Tuple(left, right, vec![low.clone(), high.clone()])
            } else {
                Expr::Tuple(right, left, vec![high.clone(), low.clone()])
            })
        }
        ([left, right], [relation]) => {
            let edge = bracket(*relation)?;
            let (name_first, bound) = match (is_name(left), is_name(right)) {
                (true, false) => (true, right),
                (false, true) => (false, left),
                _ => return None,
            };
            Some(if upward(*relation) == name_first {
                Expr::Tuple(Bracket::Round, edge, vec![minus(), bound.clone()])
            } else {
                Expr::Tuple(edge, Bracket::Round, vec![bound.clone(), infinity()])
            })
        }
        _ => None,
    }
}

impl Comparison<'_> {
    /// Where at least one is a relation.
    pub(super) fn with_relation(&self, a: &Expr, b: &Expr) -> bool {
        match (a, b) {
            (Expr::Relation(..), Expr::Relation(..)) => self.relations(a, b),
            _ => {
                let (relation, other) = if matches!(a, Expr::Relation(..)) { (a, b) } else { (b, a) };
                if let (Some(each), Expr::List(joint, items)) = (one_by_one(relation), other) {
                    return self.lists((Joint::Comma, &each), (*joint, items));
                }
                answers(relation).iter().any(|answer| self.same(answer, other))
                    || self.restated(relation, other)
                    || interval(relation).is_some_and(|interval| {
                        matches!(other, Expr::Tuple(..)) && self.same(&interval, other)
                    })
                    || self.real_sets(relation, other)
            }
        }
    }

    /// `(x - 2)(x - 3) = x^2 - 5x + 6` says the same value on both sides.
    fn restated(&self, relation: &Expr, other: &Expr) -> bool {
        match relation {
            Expr::Relation(sides, relations) if relations.as_slice() == [Relation::Equal] => {
                other.is_scalar()
                    && !other.is_constant()
                    && sides.iter().all(|side| side.is_scalar() && self.same(side, other))
            }
            _ => false,
        }
    }

    fn relations(&self, a: &Expr, b: &Expr) -> bool {
        let (Expr::Relation(sides, kinds), Expr::Relation(others, other_kinds)) = (a, b) else {
            return false;
        };
        if kinds == other_kinds && self.in_order(sides, others) {
            return true;
        }
        if let (Some(each), Some(others)) = (one_by_one(a), one_by_one(b))
            && let Some(equal) = self.by_name(&each, &others)
        {
            return equal;
        }
        if let (Some(modulus), Some(other_modulus)) = (modulus(a), modulus(b)) {
            let (answers, others) = (answers(a), answers(b));
            let ([answer], [other]) = (answers.as_slice(), others.as_slice()) else { return false };
            let times = difference(answer, other).quotient(modulus.clone());
            let whole = || exact(&times, &self.work).is_some_and(|times| times.as_integer().is_some());
            return self.same(modulus, other_modulus) && (self.same(answer, other) || whole());
        }
        if let ([kind], [other]) = (kinds.as_slice(), other_kinds.as_slice())
            && let ([left, right], [other_left, other_right]) = (sides.as_slice(), others.as_slice())
        {
            if let (Some((left, right, strict)), Some((other_left, other_right, other_strict))) =
                (inequality(left, *kind, right), inequality(other_left, *other, other_right))
            {
                let alike = strict == other_strict
                    && self.proportional(
                        &difference(left, right),
                        &difference(other_left, other_right),
                        true,
                    );
                return alike || self.real_sets(a, b);
            }
            let symmetric = matches!(kind, Relation::Equal | Relation::NotEqual | Relation::Approximate);
            if symmetric && kind == other {
                if self.same(left, other_right) && self.same(right, other_left) {
                    return true;
                }
                if self.proportional(&difference(left, right), &difference(other_left, other_right), false) {
                    return true;
                }
            }
        }
        if self.conventions.names_ignored || assigned_name(a) == assigned_name(b) {
            let (answers, others) = (answers(a), answers(b));
            if answers.iter().any(|answer| others.iter().any(|other| self.same(answer, other))) {
                return true;
            }
        }
        match (interval(a), interval(b)) {
            (Some(a), Some(b)) => self.same(&a, &b),
            _ if assigned(a).is_some() && assigned(b).is_some() => false,
            _ => self.real_sets(a, b),
        }
    }

    /// Whether one is the other times a constant (a positive one, if that matters): then both are 0
    /// (or positive) at the same places.
    fn proportional(&self, a: &Expr, b: &Expr, positive: bool) -> bool {
        let mut ratio: Option<super::super::complex::Complex> = None;
        let mut agreed = 0;
        if a.is_constant() || b.is_constant() {
            return false;
        }
        let elsewhere = if in_pieces(a) || in_pieces(b) { POINTS } else { 0 };
        for point in (ELSEWHERE..ELSEWHERE + elsewhere).chain(0..POINTS) {
            let (Some(left), Some(right)) = (float(a, point, &self.work), float(b, point, &self.work)) else {
                return false;
            };
            let quotient = left.times(right.inverse());
            if !quotient.is_finite() || quotient.modulus() == 0.0 {
                continue;
            }
            if positive && (!quotient.is_real() || quotient.re <= 0.0) {
                return false;
            }
            match ratio {
                None => ratio = Some(quotient),
                Some(ratio) if quotient.minus(ratio).modulus() > 1e-9 * ratio.modulus() => return false,
                Some(_) => agreed += 1,
            }
            if agreed >= 4 + elsewhere {
                return true;
            }
        }
        agreed >= 2
    }
}

/// The sides in the order "smaller, larger", and whether they may not be equal.
fn inequality<'e>(left: &'e Expr, kind: Relation, right: &'e Expr) -> Option<(&'e Expr, &'e Expr, bool)> {
    match kind {
        Relation::Less => Some((left, right, true)),
        Relation::LessEqual => Some((left, right, false)),
        Relation::Greater => Some((right, left, true)),
        Relation::GreaterEqual => Some((right, left, false)),
        _ => None,
    }
}

fn difference(left: &Expr, right: &Expr) -> Expr {
    Expr::Sum(vec![left.clone(), Expr::Negative(Box::new(right.clone()))])
}
