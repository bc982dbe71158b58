//! Matrix products on a processor's matrix unit, as exact as those of 32-bit numbers.
//!
//! Both sides are split into blocks ([`tiles`](super::tiles)) in pieces that fit into caches, after Goto and van de Geijn
//! (2008, "Anatomy of high-performance matrix multiplication"). A number of the result depends on its row and its column
//! only, whatever is beside them: sums over the depth are always made in the same order.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use super::tiles::{BLOCK, Line, PANEL, STEP, Side, Source, Tiles, available, fetch};
use super::{floats, floats_mut, floats_of_view};

/// Matrices with a shorter side are not worth the splitting.
const LEAST: usize = 128;
/// Blocks that are summed before the next panel: with as many of [`ROWS`], a block of the left side fills half a second cache.
const DEPTH: usize = 24;
/// Panels of the left side that are split at a time.
const ROWS: usize = 8;
/// Panels of the right side that are split at a time.
const COLUMNS: usize = 128;

thread_local! {
    /// Split parts of the left and the right side.
    static PARTS: RefCell<[Vec<Line>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A matrix `[outputs, inputs]` that many products have as their right side.
#[derive(Debug)]
pub struct Split {
    lines: Vec<Line>,
    outputs: usize,
    inputs: usize,
}

/// The right side of a product.
#[derive(Clone, Copy)]
enum Right<'a> {
    Plain(Source<'a>),
    Split(&'a Split),
}

impl Split {
    /// Splits a matrix for products with it.
    #[must_use]
    pub fn new(matrix: &Tensor) -> Option<Self> {
        let source = source(matrix).filter(|_| available())?;
        let (panels, steps) = (source.rows.div_ceil(PANEL), source.depth.div_ceil(STEP));
        let mut lines = Vec::new();
        split(&source, 0..panels, 0..steps, Side::Right, &mut lines);
        Some(Self { lines, outputs: source.rows, inputs: source.depth })
    }

    /// `x` `[rows, inputs]` times the transposed matrix: `[rows, outputs]`.
    pub fn product(&self, x: &Tensor) -> Tensor {
        let x = x.detach().to_kind(Kind::Float).contiguous();
        let mut out = empty([x.size()[0], self.outputs as i64]);
        // There are none only where there are no rows.
        if let (Some(left), Some(tiles), Some(numbers)) = (rows(&x), Tiles::take(), floats_mut(&mut out)) {
            assert_eq!(left.depth, self.inputs, "what is multiplied has the width of the matrix");
            let sums = Sums { numbers, rows: left.rows, columns: self.outputs, width: self.outputs };
            multiply(&tiles, left, Right::Split(self), sums, false);
        }
        out
    }
}

/// `left` `[rows, depth]` times `right` `[depth, columns]`.
#[must_use]
pub fn mm(left: &Tensor, right: &Tensor) -> Option<Tensor> {
    let sides = Sides::of(left, right)?;
    let (rows, columns) = (sides.left.rows, sides.right.rows);
    let mut out = empty([rows as i64, columns as i64]);
    sides.multiply(Sums { numbers: floats_mut(&mut out)?, rows, columns, width: columns }, false);
    Some(out)
}

/// Adds that to `sums`, whose rows may be apart; answers whether it did.
#[must_use]
pub fn addmm(sums: &Tensor, left: &Tensor, right: &Tensor) -> bool {
    let add = || {
        let (sides, shape) = (Sides::of(left, right)?, source(sums)?);
        let (rows, columns, width) = (shape.rows, shape.depth, shape.across);
        let fits = shape.lies_by_row() && [rows, columns] == [sides.left.rows, sides.right.rows];
        fits.then_some(())?;
        sides.multiply(Sums { numbers: floats_of_view(sums)?, rows, columns, width }, true);
        Some(())
    };
    add().is_some()
}

/// The sides of a product that the matrix unit can make; of both the depth is summed over.
struct Sides<'a> {
    left: Source<'a>,
    right: Source<'a>,
    tiles: Tiles,
}

impl<'a> Sides<'a> {
    fn of(left: &'a Tensor, right: &'a Tensor) -> Option<Self> {
        let (left, right) = (source(left)?, source(right)?.turned());
        (left.depth == right.depth).then_some(())?;
        Some(Self { left, right, tiles: Tiles::take()? })
    }

    fn multiply(self, sums: Sums<'_>, add: bool) {
        multiply(&self.tiles, self.left, Right::Plain(self.right), sums, add);
    }
}

fn empty(size: [i64; 2]) -> Tensor {
    Tensor::empty(size, (Kind::Float, Device::Cpu))
}

/// A matrix whose second side is summed over, large enough.
fn source(matrix: &Tensor) -> Option<Source<'_>> {
    rows(matrix).filter(|found| found.rows >= LEAST)
}

/// A matrix of any number of rows whose second side is summed over.
fn rows(matrix: &Tensor) -> Option<Source<'_>> {
    let [rows, depth]: [i64; 2] = matrix.size().try_into().ok()?;
    let [across, along]: [i64; 2] = matrix.stride().try_into().ok()?;
    let number = |value: i64| usize::try_from(value).ok();
    let (rows, depth, across, along) = (number(rows)?, number(depth)?, number(across)?, number(along)?);
    let numbers = floats(matrix)?;
    let dense = if along == 1 { across >= depth } else { across == 1 && along >= rows };
    (dense && depth >= LEAST).then_some(Source { numbers, rows, depth, across, along })
}

/// Splits blocks: those of a panel are neighbours.
fn split(
    source: &Source<'_>,
    panels: std::ops::Range<usize>,
    steps: std::ops::Range<usize>,
    side: Side,
    lines: &mut Vec<Line>,
) {
    let wanted = panels.len() * steps.len() * BLOCK;
    if lines.len() < wanted {
        lines.resize(wanted, Line::EMPTY);
    }
    let split = |panel: usize, step: usize, block: &mut [Line]| {
        #[expect(unsafe_code, reason = "whoever has tiles has what the function needs")]
        unsafe {
            source.split(panel * PANEL, step * STEP, side, block);
        }
    };
    let count = steps.len();
    let block =
        |place: usize, number: usize| (place * count + number) * BLOCK..(place * count + number + 1) * BLOCK;
    // In the order in which numbers lie.
    if source.lies_by_row() {
        for (place, panel) in panels.enumerate() {
            for (number, step) in steps.clone().enumerate() {
                split(panel, step, &mut lines[block(place, number)]);
            }
        }
    } else {
        for (number, step) in steps.enumerate() {
            for (place, panel) in panels.clone().enumerate() {
                split(panel, step, &mut lines[block(place, number)]);
            }
        }
    }
}

/// What products are put or added to.
struct Sums<'a> {
    numbers: &'a mut [f32],
    rows: usize,
    columns: usize,
    /// How far apart rows are.
    width: usize,
}

/// Multiplies `left` by the transposed `right` and puts, or adds, the sums.
fn multiply(tiles: &Tiles, left: Source<'_>, right: Right<'_>, mut sums: Sums<'_>, add: bool) {
    let [down, across] = [sums.rows, sums.columns].map(|size| size.div_ceil(PANEL));
    let all = left.depth.div_ceil(STEP);
    PARTS.with_borrow_mut(|[of_left, of_right]| {
        for first in (0..across).step_by(COLUMNS) {
            let columns = first..across.min(first + COLUMNS);
            for start in (0..all).step_by(DEPTH) {
                let steps = start..all.min(start + DEPTH);
                // Where a panel's blocks of these steps begin, and how far apart panels are.
                let (right, apart) = match right {
                    Right::Plain(right) => {
                        split(&right, columns.clone(), steps.clone(), Side::Right, of_right);
                        (&of_right[..], steps.len() * BLOCK)
                    }
                    Right::Split(right) => (&right.lines[(first * all + start) * BLOCK..], all * BLOCK),
                };
                for top in (0..down).step_by(ROWS) {
                    let rows = top..down.min(top + ROWS);
                    split(&left, rows.clone(), steps.clone(), Side::Left, of_left);
                    let panels = of_left.chunks_exact(steps.len() * BLOCK);
                    for (right, column) in right.chunks(apart).zip(columns.clone()) {
                        // An eighth of what comes next is fetched with each of eight products.
                        let (right, next) =
                            (&right[..steps.len() * BLOCK], right.as_ptr().wrapping_add(apart));
                        for (turn, (left, row)) in panels.clone().zip(rows.clone()).enumerate() {
                            let next = next.wrapping_add(turn * right.len() / ROWS);
                            let after =
                                if row + 1 < rows.end { [row + 1, column] } else { [rows.start, column + 1] };
                            sums.fetch(after);
                            sums.change([row, column], add || start > 0, |sums, step, add| {
                                tiles.multiply(left, right, sums, step, add, next);
                            });
                        }
                    }
                }
            }
        }
    });
}

impl Sums<'_> {
    fn start(&self, [row, column]: [usize; 2]) -> usize {
        (row * self.width + column) * PANEL
    }

    fn fetch(&self, block: [usize; 2]) {
        fetch(self.numbers.get(self.start(block)..).unwrap_or_default(), self.width);
    }

    /// Lets `act` work on a block, by its numbers and how far apart its rows are. Of those at the edge only a part exists.
    fn change(&mut self, block: [usize; 2], add: bool, act: impl FnOnce(&mut [f32], usize, bool)) {
        let [row, column] = block.map(|panel| panel * PANEL);
        let [rows, columns] = [self.rows - row, self.columns - column].map(|size| size.min(PANEL));
        let (start, width) = (self.start(block), self.width);
        let numbers = &mut self.numbers[start..];
        if [rows, columns] == [PANEL; 2] {
            return act(numbers, width, add);
        }
        let mut whole = [0.0; PANEL * PANEL];
        if add {
            for (whole, numbers) in whole.chunks_exact_mut(PANEL).zip(numbers.chunks(width)).take(rows) {
                whole[..columns].copy_from_slice(&numbers[..columns]);
            }
        }
        act(&mut whole, PANEL, add);
        for (whole, numbers) in whole.chunks_exact(PANEL).zip(numbers.chunks_mut(width)).take(rows) {
            numbers[..columns].copy_from_slice(&whole[..columns]);
        }
    }
}

#[cfg(test)]
mod tests;
