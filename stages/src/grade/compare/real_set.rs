//! Sets of real numbers: intervals, points, unions, and inequalities in one unknown.

use super::super::evaluate::{float, sample};
use super::super::expr::{Bracket, Constant, Expr, Joint, Known, Name, Relation, SetOperation};
use super::super::work::Work;
use super::Comparison;
use super::relation::is_name;

/// An interval; a point when both ends are equal and closed.
#[derive(Debug, Clone, Copy)]
struct Piece {
    low: f64,
    low_closed: bool,
    high: f64,
    high_closed: bool,
}

/// Disjoint pieces in order.
#[derive(Debug, Clone)]
struct RealSet(Vec<Piece>);

/// Sets of more pieces are not compared.
const MAX_PIECES: usize = 64;

fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_finite() && b.is_finite()) && (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3)
}

impl Piece {
    fn all() -> Self {
        Self { low: f64::NEG_INFINITY, low_closed: false, high: f64::INFINITY, high_closed: false }
    }

    fn is_empty(self) -> bool {
        self.low > self.high || (self.low == self.high && !(self.low_closed && self.high_closed))
    }
}

impl RealSet {
    /// Sorted and merged.
    fn new(mut pieces: Vec<Piece>) -> Self {
        pieces.retain(|piece| !piece.is_empty() && !piece.low.is_nan() && !piece.high.is_nan());
        pieces.sort_by(|a, b| a.low.total_cmp(&b.low).then(b.low_closed.cmp(&a.low_closed)));
        let mut merged: Vec<Piece> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match merged.last_mut() {
                Some(last)
                    if piece.low < last.high
                        || (close(piece.low, last.high) && (piece.low_closed || last.high_closed)) =>
                {
                    if piece.high > last.high {
                        last.high = piece.high;
                        last.high_closed = piece.high_closed;
                    } else if piece.high == last.high {
                        last.high_closed |= piece.high_closed;
                    }
                }
                _ => merged.push(piece),
            }
        }
        Self(merged)
    }

    fn point(value: f64) -> Self {
        Self::new(vec![Piece { low: value, low_closed: true, high: value, high_closed: true }])
    }

    fn union(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        Self::new(self.0)
    }

    fn complement(&self) -> Self {
        let mut gaps = Vec::new();
        let mut gap = Piece::all();
        for piece in &self.0 {
            gaps.push(Piece { high: piece.low, high_closed: !piece.low_closed, ..gap });
            gap = Piece { low: piece.high, low_closed: !piece.high_closed, ..Piece::all() };
        }
        gaps.push(gap);
        gaps.retain(|piece| piece.low.is_finite() || piece.high.is_finite() || piece.low < piece.high);
        Self::new(gaps)
    }

    fn intersection(&self, other: &Self) -> Self {
        self.complement().union(other.complement()).complement()
    }

    fn equal(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(a, b)| {
                close(a.low, b.low)
                    && close(a.high, b.high)
                    && (a.low_closed == b.low_closed || a.low.is_infinite())
                    && (a.high_closed == b.high_closed || a.high.is_infinite())
            })
    }
}

impl Comparison<'_> {
    /// Whether both are sets of real numbers, and the same one.
    pub(super) fn real_sets(&self, a: &Expr, b: &Expr) -> bool {
        let set = |expr: &Expr| {
            matches!(
                expr,
                Expr::Tuple(..) | Expr::Set(_) | Expr::Known(_) | Expr::Sets(..) | Expr::Relation(..)
            ) || matches!(expr, Expr::List(_, items) if items.iter().all(|item| matches!(item, Expr::Relation(..) | Expr::Tuple(..) | Expr::Sets(..))))
        };
        if !set(a) || !set(b) {
            return false;
        }
        match (real_set(a, &self.work), real_set(b, &self.work)) {
            (Some(a), Some(b)) => a.equal(&b),
            _ => false,
        }
    }
}

fn constant(expr: &Expr, work: &Work) -> Option<f64> {
    if !expr.is_constant() || !expr.is_scalar() {
        return None;
    }
    float(expr, 0, work).filter(|value| value.is_real() && !value.re.is_nan()).map(|value| value.re)
}

fn real_set(expr: &Expr, work: &Work) -> Option<RealSet> {
    work.spend(4)?;
    match expr {
        Expr::Tuple(open, close, ends) => {
            let [low, high] = ends.as_slice() else { return None };
            if *open == Bracket::Angle || *close == Bracket::Angle {
                return None;
            }
            let piece = Piece {
                low: constant(low, work)?,
                low_closed: *open == Bracket::Square,
                high: constant(high, work)?,
                high_closed: *close == Bracket::Square,
            };
            // `(3, 1)` is a point of the plane.
            (piece.low <= piece.high).then(|| RealSet::new(vec![piece]))
        }
        Expr::Set(items) if items.len() <= MAX_PIECES => {
            let mut all = RealSet::new(Vec::new());
            for item in items {
                all = all.union(RealSet::point(constant(item, work)?));
            }
            Some(all)
        }
        Expr::Known(Known::Empty) => Some(RealSet::new(Vec::new())),
        Expr::Known(Known::Reals) => Some(RealSet::new(vec![Piece::all()])),
        Expr::Sets(operation, left, right) => {
            let (left, right) = (real_set(left, work)?, real_set(right, work)?);
            Some(match operation {
                SetOperation::Union => left.union(right),
                SetOperation::Intersection => left.intersection(&right),
                SetOperation::Difference => left.intersection(&right.complement()),
            })
        }
        Expr::List(joint, items) if items.len() <= MAX_PIECES => {
            let relations = items.iter().all(|item| matches!(item, Expr::Relation(..)));
            if relations {
                // `x = 1, y = 2` is no set of numbers.
                only_variable(expr, &mut None)?;
            }
            // So are `(0, 1), (2, 3)`, unless one of them can only be an interval.
            if items.iter().all(|item| matches!(item, Expr::Tuple(..))) && !items.iter().any(is_interval) {
                return None;
            }
            let sets: Vec<RealSet> = items.iter().map(|item| real_set(item, work)).collect::<Option<_>>()?;
            let union = || sets.iter().cloned().reduce(RealSet::union);
            let both = || sets.iter().cloned().reduce(|a, b| a.intersection(&b));
            match joint {
                _ if !relations => union(),
                Joint::Or => union(),
                // `x < 1, x > 3` and `x = 1 and x = 3` can only mean "or".
                Joint::Comma | Joint::And => both().filter(|set| !set.0.is_empty()).or_else(union),
            }
        }
        Expr::Relation(sides, relations) => {
            let pairs = sides.iter().zip(sides.iter().skip(1)).zip(relations);
            let mut all = RealSet::new(vec![Piece::all()]);
            for ((left, right), relation) in pairs {
                all = all.intersection(&between(left, *relation, right, work)?);
            }
            Some(all)
        }
        _ => None,
    }
}

/// Whether a pair can only be an interval: by its brackets, or because it has no end.
fn is_interval(pair: &Expr) -> bool {
    let Expr::Tuple(open, close, ends) = pair else { return false };
    [open, close].contains(&&Bracket::Square)
        || ends.iter().any(|end| end.any(&|part| matches!(part, Expr::Constant(Constant::Infinity))))
}

/// The values of the unknown for which a relation holds.
fn between(left: &Expr, relation: Relation, right: &Expr, work: &Work) -> Option<RealSet> {
    if matches!(relation, Relation::In | Relation::NotIn) {
        let set = is_name(left).then(|| real_set(right, work))??;
        return Some(if relation == Relation::In { set } else { set.complement() });
    }
    match (constant(left, work), constant(right, work)) {
        (None, Some(bound)) => holds(left, relation, bound, work),
        (Some(bound), None) => holds(right, mirrored(relation), bound, work),
        _ => None,
    }
}

fn mirrored(relation: Relation) -> Relation {
    match relation {
        Relation::Less => Relation::Greater,
        Relation::LessEqual => Relation::GreaterEqual,
        Relation::Greater => Relation::Less,
        Relation::GreaterEqual => Relation::LessEqual,
        other => other,
    }
}

fn holds(side: &Expr, relation: Relation, bound: f64, work: &Work) -> Option<RealSet> {
    if let Expr::Absolute(inner) = side {
        let (Relation::Less | Relation::LessEqual | Relation::Equal) = relation else {
            let opposite = match relation {
                Relation::Greater => Relation::LessEqual,
                Relation::GreaterEqual => Relation::Less,
                Relation::NotEqual => Relation::Equal,
                _ => return None,
            };
            return Some(holds(side, opposite, bound, work)?.complement());
        };
        if relation == Relation::Equal {
            return Some(holds(inner, relation, bound, work)?.union(holds(inner, relation, -bound, work)?));
        }
        let above = holds(inner, mirrored(relation), -bound, work)?;
        return Some(holds(inner, relation, bound, work)?.intersection(&above));
    }
    let (relation, bound) = if is_name(side) {
        (relation, bound)
    } else {
        let (slope, offset) = linear(side, work)?;
        (if slope < 0.0 { mirrored(relation) } else { relation }, (bound - offset) / slope)
    };
    let all = Piece::all();
    Some(match relation {
        Relation::Less => RealSet::new(vec![Piece { high: bound, ..all }]),
        Relation::LessEqual => RealSet::new(vec![Piece { high: bound, high_closed: true, ..all }]),
        Relation::Greater => RealSet::new(vec![Piece { low: bound, ..all }]),
        Relation::GreaterEqual => RealSet::new(vec![Piece { low: bound, low_closed: true, ..all }]),
        Relation::Equal => RealSet::point(bound),
        Relation::NotEqual => RealSet::point(bound).complement(),
        _ => return None,
    })
}

/// Slope and offset of a side that is linear in its only variable.
fn linear(side: &Expr, work: &Work) -> Option<(f64, f64)> {
    let mut name = None;
    only_variable(side, &mut name)?;
    let name = name?;
    let at = |point| Some((sample(name, point), float(side, point, work).filter(|v| v.is_real())?.re));
    let ((x0, y0), (x1, y1), (x2, y2)) = (at(0)?, at(1)?, at(2)?);
    let slope = (y1 - y0) / (x1 - x0);
    let offset = y0 - slope * x0;
    let straight = slope.is_finite() && slope != 0.0 && close(y2, slope * x2 + offset);
    // Take the noise off whole numbers.
    let clean = |value: f64| if (value - value.round()).abs() < 1e-10 { value.round() } else { value };
    straight.then(|| (clean(slope), clean(offset)))
}

fn only_variable(expr: &Expr, name: &mut Option<Name>) -> Option<()> {
    if let Expr::Variable(found) = expr {
        if name.is_some_and(|name| name.hash != found.hash) {
            return None;
        }
        *name = Some(*found);
    }
    expr.parts().into_iter().try_for_each(|part| only_variable(part, name))
}
