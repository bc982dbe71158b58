//! Lists, with their order or without.

use super::super::expr::{Expr, Joint, Name};
use super::relation::{assigned, assigned_name};
use super::{Comparison, MAX_ITEMS, values};

impl Comparison<'_> {
    pub(super) fn lists(&self, a: (Joint, &[Expr]), b: (Joint, &[Expr])) -> bool {
        let ((joint, items), (other_joint, others)) = (a, b);
        if let Some(equal) = self.by_name(items, others) {
            return equal;
        }
        // `x = 2, y = 3` is not `3, 2`; but which root is `x_1` does not matter.
        if let (Some(names), None) | (None, Some(names)) = (distinct_names(items), distinct_names(others))
            && !names.iter().any(|name| name.indexed)
        {
            return self.in_order(&values(items), &values(others));
        }
        if self.conventions.list_order {
            return self.in_order(items, others);
        }
        // `A and B` says something else than `A or B`.
        let names = |items: &[Expr]| items.iter().all(|item| matches!(item, Expr::Variable(_)));
        let opposed = matches!((joint, other_joint), (Joint::And, Joint::Or) | (Joint::Or, Joint::And));
        if opposed && names(items) {
            return false;
        }
        let either = joint == Joint::Or || other_joint == Joint::Or;
        self.any_order(items, others, either) || self.any_order(&values(items), &values(others), either)
    }

    /// Whether lists that give values to the same names give each the same one; `None` for other lists.
    pub(super) fn by_name(&self, items: &[Expr], others: &[Expr]) -> Option<bool> {
        let (names, other_names) = (distinct_names(items)?, distinct_names(others)?);
        same_names(&names, &other_names).then(|| {
            names.iter().zip(items).all(|(name, item)| {
                let at = other_names.iter().position(|other| other.hash == name.hash);
                at.and_then(|at| others.get(at)).is_some_and(|other| self.same(item, other))
            })
        })
    }

    /// Whether every item has a counterpart. Repeated ones count once where the items are alternatives.
    pub(super) fn any_order(&self, items: &[Expr], others: &[Expr], alternatives: bool) -> bool {
        if items.len() > MAX_ITEMS || others.len() > MAX_ITEMS {
            return false;
        }
        if items.len() != others.len() {
            return alternatives && self.covers(items, others) && self.covers(others, items);
        }
        let mut free = vec![true; others.len()];
        items.iter().enumerate().all(|(at, item)| {
            // Most lists are in order: look there first.
            let order = std::iter::once(at).chain((0..others.len()).filter(|other| *other != at));
            for other in order {
                if free[other] && self.same(item, &others[other]) {
                    free[other] = false;
                    return true;
                }
            }
            false
        })
    }

    fn covers(&self, items: &[Expr], others: &[Expr]) -> bool {
        !others.is_empty() && items.iter().all(|item| others.iter().any(|other| self.same(item, other)))
    }
}

/// The names of a list of assignments, if all are different.
fn distinct_names(items: &[Expr]) -> Option<Vec<Name>> {
    let names: Vec<Name> =
        items.iter().map(|item| assigned(item).and_then(|_| assigned_name(item))).collect::<Option<_>>()?;
    let distinct =
        names.iter().enumerate().all(|(at, name)| names[..at].iter().all(|other| other.hash != name.hash));
    (distinct && names.len() > 1).then_some(names)
}

fn same_names(a: &[Name], b: &[Name]) -> bool {
    a.len() == b.len() && a.iter().all(|name| b.iter().any(|other| other.hash == name.hash))
}
