//! Equations and inequalities: what they assign, and whether they say the same.

use super::super::evaluate::float;
use super::super::expr::{Bracket, Constant, Expr, Name, Relation};
use super::Comparison;

/// Whether it only names something: `x`, `f(x)`, `|AB|`, `(p, q)`, `V_1 : V_2`, `P(A)`, but not `x + 1`.
pub(super) fn is_name(expr: &Expr) -> bool {
    match expr {
        Expr::Variable(_) | Expr::Text(_) => true,
        Expr::Constant(Constant::E | Constant::I) => true,
        Expr::Product(parts) => {
            let Some((first, rest)) = parts.split_first() else { return false };
            // `f(2)`: a letter applied to a number is a name too, `2x` is not.
            let applied = |part: &Expr| is_name(part) || matches!(part, Expr::Number(_));
            is_name(first) && (rest.iter().all(is_name) || (rest.len() == 1 && rest.iter().all(applied)))
        }
        Expr::Inverse(inner) | Expr::Absolute(inner) | Expr::Degrees(inner) => is_name(inner),
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
        _ => Vec::new(),
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
                answers(relation).iter().any(|answer| self.same(answer, other))
                    || interval(relation).is_some_and(|interval| {
                        matches!(other, Expr::Tuple(..)) && self.same(&interval, other)
                    })
                    || self.real_sets(relation, other)
            }
        }
    }

    fn relations(&self, a: &Expr, b: &Expr) -> bool {
        let (Expr::Relation(sides, kinds), Expr::Relation(others, other_kinds)) = (a, b) else {
            return false;
        };
        if kinds == other_kinds && self.in_order(sides, others) {
            return true;
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
        for point in 0..8 {
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
            if agreed >= 4 {
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
