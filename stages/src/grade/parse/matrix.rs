//! Environments: matrices, vectors, systems of equations.

use super::super::expr::{Expr, Joint};
use super::super::lex::Token;
use super::Parser;

impl Parser<'_> {
    /// After `\begin`.
    pub(super) fn environment(&mut self) -> Option<Expr> {
        let name = self.environment_name()?;
        if name == "array" && self.take_symbol('{') {
            while !self.take_symbol('}') {
                self.peek()?;
                self.at += 1;
            }
        }
        let bars = std::mem::take(&mut self.bars);
        let rows = self.deeper(Self::rows)?;
        self.bars = bars;
        if !self.take_command("end") || self.environment_name()? != name {
            return None;
        }
        match name {
            // A function in pieces: values with their conditions.
            "cases" if rows.iter().all(|row| row.len() == 2) => Some(Expr::Matrix(rows)),
            "cases" | "aligned" | "gathered" | "align" | "split" => {
                let equations = rows.into_iter().map(|mut row| if row.len() == 1 { row.pop() } else { None });
                let mut equations = equations.collect::<Option<Vec<_>>>()?;
                if equations.len() == 1 { equations.pop() } else { Some(Expr::List(Joint::And, equations)) }
            }
            _ if rows.iter().all(|row| matches!(row.as_slice(), [Expr::Relation(..)])) => {
                Some(Expr::List(Joint::And, rows.into_iter().flatten().collect()))
            }
            _ => {
                let width = rows.first()?.len();
                if rows.iter().any(|row| row.len() != width) {
                    return None;
                }
                if name == "vmatrix" {
                    let size: usize = rows.iter().flatten().map(Expr::size).sum();
                    if size > MAX_SIZE {
                        return None;
                    }
                    return determinant(&rows.iter().map(|row| row.iter().collect()).collect::<Vec<_>>());
                }
                Some(Expr::Matrix(rows))
            }
        }
    }

    fn environment_name(&mut self) -> Option<&'static str> {
        if !self.take_symbol('{') {
            return None;
        }
        let Some(Token::Word(name)) = self.peek() else { return None };
        self.at += 1;
        self.take_symbol('*');
        let known = [
            "pmatrix",
            "bmatrix",
            "matrix",
            "vmatrix",
            "Bmatrix",
            "Vmatrix",
            "smallmatrix",
            "array",
            "cases",
            "aligned",
            "gathered",
            "align",
            "split",
        ];
        let name = known.into_iter().find(|known| *known == name)?;
        self.take_symbol('}').then_some(name)
    }

    fn rows(&mut self) -> Option<Vec<Vec<Expr>>> {
        let mut rows = vec![Vec::new()];
        loop {
            if self.is_command("end") {
                break;
            }
            if matches!(self.peek()?, Token::RowEnd) {
                self.at += 1;
                rows.push(Vec::new());
                continue;
            }
            if self.take_command("hline") || self.take_symbol('&') {
                continue;
            }
            // `\text{if } x > 0`
            if matches!(
                self.peek(),
                Some(Token::Text("if" | "for" | "when") | Token::Word("if" | "for" | "when"))
            ) {
                self.at += 1;
            }
            let cell = self.relation()?;
            // Punctuation after an equation of a system.
            while self.take_symbol(',') || self.take_symbol(';') {}
            rows.last_mut()?.push(cell);
            match self.peek()? {
                Token::Symbol('&') => self.at += 1,
                Token::RowEnd | Token::Command("end") => {}
                _ => return None,
            }
        }
        rows.retain(|row| !row.is_empty());
        (!rows.is_empty()).then_some(rows)
    }
}

/// Larger determinants are not worked out.
const MAX_DETERMINANT: usize = 4;
/// Nor are those with more parts in all cells: every cell is copied several times.
const MAX_SIZE: usize = 400;

/// The determinant of a square matrix, by its first row.
fn determinant(rows: &[Vec<&Expr>]) -> Option<Expr> {
    let first = rows.first()?;
    if first.len() != rows.len() || rows.len() > MAX_DETERMINANT {
        return None;
    }
    if let [only] = first.as_slice() {
        return Some((*only).clone());
    }
    let mut terms = Vec::with_capacity(first.len());
    for (column, cell) in first.iter().enumerate() {
        let others = |row: &Vec<&'_ Expr>| -> Vec<Expr> {
            let kept = row.iter().enumerate().filter(|(at, _)| *at != column);
            kept.map(|(_, cell)| (*cell).clone()).collect()
        };
        let minor: Vec<Vec<Expr>> = rows[1..].iter().map(others).collect();
        let minor = determinant(&minor.iter().map(|row| row.iter().collect()).collect::<Vec<_>>())?;
        let term = Expr::Product(vec![(*cell).clone(), minor]);
        terms.push(if column % 2 == 0 { term } else { Expr::Negative(Box::new(term)) });
    }
    Some(Expr::Sum(terms))
}
