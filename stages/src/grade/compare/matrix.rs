//! Matrices, and sums and products of them.

use super::super::evaluate::exact;
use super::super::expr::{Bracket, Constant, Expr, Name};
use super::super::work::Work;
use super::Comparison;

type Rows = Vec<Vec<Expr>>;

/// Larger products are not worked out.
const MAX_SIDE: usize = 8;
/// Nor are those with more parts in all cells together.
const MAX_SIZE: usize = 2000;

/// The matrix that a sum or product with matrices in it is; `None` without matrices.
pub(super) fn folded(expr: &Expr, work: &Work) -> Option<Rows> {
    if !expr.any(&|part| matches!(part, Expr::Matrix(_))) {
        return None;
    }
    match expr {
        Expr::Matrix(rows) => Some(rows.clone()),
        Expr::Negative(inner) => Some(scaled(&folded(inner, work)?, &Expr::integer(-1))),
        Expr::Sum(terms) => {
            let mut terms = terms.iter().map(|term| folded(term, work));
            let first = terms.next()??;
            terms.try_fold(first, |sum, term| plus(&sum, &term?))
        }
        Expr::Product(factors) => {
            let mut product: Option<Rows> = None;
            let mut scalars = Vec::new();
            for factor in factors {
                match (folded(factor, work), product.take()) {
                    (Some(matrix), None) => product = Some(matrix),
                    (Some(matrix), Some(before)) => product = Some(times(&before, &matrix, work)?),
                    (None, before) => {
                        if !factor.is_scalar() || factor.any(&|part| matches!(part, Expr::Matrix(_))) {
                            return None;
                        }
                        scalars.push(factor.clone());
                        product = before;
                    }
                }
            }
            let product = product?;
            Some(if scalars.is_empty() { product } else { scaled(&product, &Expr::Product(scalars)) })
        }
        Expr::Power(base, exponent) => {
            let rows = folded(base, work)?;
            match exponent.as_ref() {
                Expr::Variable(name) if *name == Name::of("T") || *name == Name::of("top") => {
                    Some(transposed(&rows))
                }
                exponent => {
                    let power =
                        exponent.literal().filter(|(negative, _)| !negative)?.1.exact?.as_integer()?;
                    if !(1..=16).contains(&power) {
                        return None;
                    }
                    (1..power).try_fold(rows.clone(), |product, _| times(&product, &rows, work))
                }
            }
        }
        _ => None,
    }
}

fn scaled(rows: &Rows, factor: &Expr) -> Rows {
    let cell = |cell: &Expr| Expr::Product(vec![factor.clone(), cell.clone()]);
    rows.iter().map(|row| row.iter().map(cell).collect()).collect()
}

fn plus(a: &Rows, b: &Rows) -> Option<Rows> {
    if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.len() != b.len()) {
        return None;
    }
    let row = |a: &Vec<Expr>, b: &Vec<Expr>| {
        a.iter().zip(b).map(|(a, b)| Expr::Sum(vec![a.clone(), b.clone()])).collect()
    };
    Some(a.iter().zip(b).map(|(a, b)| row(a, b)).collect())
}

fn times(a: &Rows, b: &Rows, work: &Work) -> Option<Rows> {
    let width = b.first()?.len();
    if a.len() > MAX_SIDE
        || width > MAX_SIDE
        || b.len() > MAX_SIDE
        || a.iter().any(|row| row.len() != b.len())
    {
        return None;
    }
    let cell = |row: &Vec<Expr>, column: usize| {
        let terms = row.iter().zip(b).map(|(x, other)| Expr::Product(vec![x.clone(), other[column].clone()]));
        let sum = Expr::Sum(terms.collect());
        exact(&sum, work).map_or(sum, Expr::rational)
    };
    let product: Rows = a.iter().map(|row| (0..width).map(|column| cell(row, column)).collect()).collect();
    // Products of products grow: what is too large is not compared.
    let size: usize = product.iter().flatten().map(Expr::size).sum();
    work.spend(u32::try_from(size).ok()?)?;
    (size <= MAX_SIZE).then_some(product)
}

fn transposed(rows: &Rows) -> Rows {
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|column| rows.iter().filter_map(|row| row.get(column).cloned()).collect()).collect()
}

impl Comparison<'_> {
    pub(super) fn matrices(&self, a: &Rows, b: &Rows) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(row, other)| self.in_order(row, other))
    }

    /// Whether `3i - 4j` is the vector of these cells.
    pub(super) fn unit_vectors(&self, cells: &[Expr], other: &Expr) -> bool {
        let unit =
            [Expr::Constant(Constant::I), Expr::Variable(Name::of("j")), Expr::Variable(Name::of("k"))];
        let named = |part: &Expr| matches!(part, Expr::Variable(name) if [Name::of("j"), Name::of("k")].contains(name));
        if !(2..=3).contains(&cells.len()) || !other.is_scalar() || !other.any(&named) {
            return false;
        }
        let terms = cells.iter().zip(unit).map(|(cell, unit)| Expr::Product(vec![cell.clone(), unit]));
        self.scalars(&Expr::Sum(terms.collect()), other)
    }

    /// Where one of the two is a matrix. A vector may also be written as a tuple.
    pub(super) fn with_matrix(&self, a: &Expr, b: &Expr) -> bool {
        let vector = |rows: &Rows| -> Option<Vec<Expr>> {
            match rows.as_slice() {
                [row] => Some(row.clone()),
                rows if rows.iter().all(|row| row.len() == 1) => {
                    Some(rows.iter().flatten().cloned().collect())
                }
                _ => None,
            }
        };
        match (a, b) {
            // `[[1, 2], [3, 4]]`
            (Expr::Tuple(_, _, rows), matrix) | (matrix, Expr::Tuple(_, _, rows))
                if rows.iter().all(|row| matches!(row, Expr::Tuple(..))) =>
            {
                let cells = |row: &Expr| row.parts().into_iter().cloned().collect();
                let rows: Rows = rows.iter().map(cells).collect();
                folded(matrix, &self.work).is_some_and(|matrix| self.matrices(&matrix, &rows))
            }
            (Expr::Tuple(open, _, items), matrix) | (matrix, Expr::Tuple(open, _, items)) => {
                *open != Bracket::Square
                    && folded(matrix, &self.work)
                        .and_then(|rows| vector(&rows))
                        .is_some_and(|cells| self.in_order(&cells, items))
            }
            _ => match (folded(a, &self.work), folded(b, &self.work)) {
                (Some(a), Some(b)) => self.matrices(&a, &b),
                (Some(rows), None) => vector(&rows).is_some_and(|cells| self.unit_vectors(&cells, b)),
                (None, Some(rows)) => vector(&rows).is_some_and(|cells| self.unit_vectors(&cells, a)),
                // A matrix of one cell is not its cell, and a word is no matrix.
                _ => false,
            },
        }
    }
}
