//! Matrix products on a processor's matrix unit ([`tiles`](super::tiles)), and on its vector unit where that is faster than
//! libtorch is ([`vectors`](super::vectors)); both as exact as those of 32-bit numbers.
//!
//! Both sides are split into blocks in pieces that fit into caches, after Goto and van de Geijn (2008, "Anatomy of
//! high-performance matrix multiplication"). A number of the result depends on its row and its column only, whatever is beside
//! them: sums over the depth are always made in the same order.

use std::cell::RefCell;
use std::ops::Range;
use std::thread::LocalKey;

use tch::{Device, Kind, Tensor};

use super::tiles::Tiles;
use super::vectors::Vectors;
use super::{floats, floats_mut, floats_of_view};

/// Matrices with a shorter side are not worth the splitting.
const LEAST: usize = 128;
/// Most numbers of the result that two panels have.
const MOST: usize = 32 * 32;

/// A matrix of which one side is summed over, its depth: number (row, place in the depth) is at `row × across + place × along`,
/// one of which is 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) across: usize,
    pub(super) along: usize,
}

impl Source<'_> {
    /// The transposed matrix.
    fn turned(self) -> Self {
        Self { rows: self.depth, depth: self.rows, across: self.along, along: self.across, ..self }
    }

    /// Whether a row's numbers are neighbours, instead of those of a place in the depth.
    pub(super) fn lies_by_row(&self) -> bool {
        self.along == 1
    }
}

/// On which side of the product a matrix is: that decides how numbers lie in its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Split parts of the left and the right side.
pub(super) type Parts<Line> = [Vec<Line>; 2];

/// A part of a processor that multiplies blocks; whoever has it may use it. Constants of two numbers are of the left and the right
/// side.
pub(super) trait Unit: Sized {
    /// What blocks are made of.
    type Line: Copy + Default + 'static;
    /// Rows of a panel, which are columns of the right side.
    const PANEL: [usize; 2];
    /// Places in the depth of a block.
    const STEP: usize;
    /// Lines of a block.
    const BLOCK: [usize; 2];
    /// Blocks that are summed before the next panel.
    const DEPTH: usize;
    /// Panels that are split at a time.
    const PANELS: [usize; 2];

    /// Where this thread has parts of a product.
    fn parts() -> &'static LocalKey<RefCell<Parts<Self::Line>>>;

    /// Splits the block of the panel and the places that begin here; numbers that are not there are zeros.
    fn split(&self, source: &Source<'_>, row: usize, place: usize, side: Side, block: &mut [Self::Line]);

    /// Multiplies as many blocks of two panels and puts the sums, or adds them, to `sums`, whose rows are `step` numbers apart.
    /// `later` is what will be needed soon of the right side.
    fn multiply(
        &self,
        left: &[Self::Line],
        right: &[Self::Line],
        sums: &mut [f32],
        step: usize,
        add: bool,
        later: *const Self::Line,
    );

    /// Fetches sums that are needed soon, whose rows are `step` numbers apart.
    fn fetch(&self, sums: &[f32], step: usize);
}

/// The unit that makes products here.
#[derive(Debug)]
enum Units {
    Tiles(Tiles),
    Vectors(Vectors),
}

impl Units {
    /// The fastest, where one is faster than libtorch's products.
    fn take() -> Option<Self> {
        Tiles::take().map(Self::Tiles).or_else(|| Vectors::take().map(Self::Vectors))
    }
}

/// A matrix `[outputs, inputs]` that many products have as their right side.
#[derive(Debug)]
pub struct Split {
    blocks: Blocks,
    outputs: usize,
    inputs: usize,
}

#[derive(Debug)]
enum Blocks {
    Tiles(Vec<<Tiles as Unit>::Line>),
    Vectors(Vec<<Vectors as Unit>::Line>),
}

/// The right side of a product.
#[derive(Clone, Copy)]
enum Right<'a, Line> {
    Plain(Source<'a>),
    Split(&'a [Line]),
}

impl Split {
    /// Splits a matrix for products with it.
    #[must_use]
    pub fn new(matrix: &Tensor) -> Option<Self> {
        Some(Self::of(&source(matrix)?, &Units::take()?))
    }

    fn of(source: &Source<'_>, unit: &Units) -> Self {
        let blocks = match unit {
            Units::Tiles(unit) => Blocks::Tiles(whole(unit, source)),
            Units::Vectors(unit) => Blocks::Vectors(whole(unit, source)),
        };
        Self { blocks, outputs: source.rows, inputs: source.depth }
    }

    /// `x` `[rows, inputs]` times the transposed matrix: `[rows, outputs]`.
    pub fn product(&self, x: &Tensor) -> Tensor {
        let x = x.detach().to_kind(Kind::Float).contiguous();
        let mut out = empty([x.size()[0], self.outputs as i64]);
        // There are none only where there are no rows.
        if let (Some(left), Some(numbers)) = (rows(&x), floats_mut(&mut out)) {
            assert_eq!(left.depth, self.inputs, "what is multiplied has the width of the matrix");
            let sums = Sums { numbers, rows: left.rows, columns: self.outputs, width: self.outputs };
            let gone = "a processor has the unit that it had before";
            match &self.blocks {
                Blocks::Tiles(lines) => {
                    multiply(&Tiles::take().expect(gone), left, Right::Split(lines), sums, false);
                }
                Blocks::Vectors(lines) => {
                    multiply(&Vectors::find().expect(gone), left, Right::Split(lines), sums, false);
                }
            }
        }
        out
    }
}

/// `left` `[rows, depth]` times `right` `[depth, columns]`.
#[must_use]
pub fn mm(left: &Tensor, right: &Tensor) -> Option<Tensor> {
    Sides::of(left, right)?.product(&Units::take()?)
}

/// Adds that to `sums`, whose rows may be apart; answers whether it did.
#[must_use]
pub fn addmm(sums: &Tensor, left: &Tensor, right: &Tensor) -> bool {
    let add = || Sides::of(left, right)?.add(sums, &Units::take()?);
    add().is_some()
}

/// The sides of a product that is worth the splitting; of both the depth is summed over.
struct Sides<'a> {
    left: Source<'a>,
    right: Source<'a>,
}

impl<'a> Sides<'a> {
    fn of(left: &'a Tensor, right: &'a Tensor) -> Option<Self> {
        let (left, right) = (source(left)?, source(right)?.turned());
        (left.depth == right.depth).then_some(Self { left, right })
    }

    fn product(self, unit: &Units) -> Option<Tensor> {
        let (rows, columns) = (self.left.rows, self.right.rows);
        let mut out = empty([rows as i64, columns as i64]);
        self.multiply(unit, Sums { numbers: floats_mut(&mut out)?, rows, columns, width: columns }, false);
        Some(out)
    }

    fn add(self, sums: &Tensor, unit: &Units) -> Option<()> {
        let shape = rows(sums)?;
        let (rows, columns, width) = (shape.rows, shape.depth, shape.across);
        let fits = shape.lies_by_row() && [rows, columns] == [self.left.rows, self.right.rows];
        fits.then_some(())?;
        self.multiply(unit, Sums { numbers: floats_of_view(sums)?, rows, columns, width }, true);
        Some(())
    }

    fn multiply(self, unit: &Units, sums: Sums<'_>, add: bool) {
        match unit {
            Units::Tiles(unit) => multiply(unit, self.left, Right::Plain(self.right), sums, add),
            Units::Vectors(unit) => multiply(unit, self.left, Right::Plain(self.right), sums, add),
        }
    }
}

fn empty(size: [i64; 2]) -> Tensor {
    Tensor::empty(size, (Kind::Float, Device::Cpu))
}

/// A matrix whose second side is summed over, large enough.
fn source(matrix: &Tensor) -> Option<Source<'_>> {
    rows(matrix).filter(|found| found.rows.min(found.depth) >= LEAST)
}

/// A matrix of any number of rows whose second side is summed over.
fn rows(matrix: &Tensor) -> Option<Source<'_>> {
    let [rows, depth]: [i64; 2] = matrix.size().try_into().ok()?;
    let [across, along]: [i64; 2] = matrix.stride().try_into().ok()?;
    let number = |value: i64| usize::try_from(value).ok();
    let (rows, depth, across, along) = (number(rows)?, number(depth)?, number(across)?, number(along)?);
    let numbers = floats(matrix)?;
    let dense = if along == 1 { across >= depth } else { across == 1 && along >= rows };
    dense.then_some(Source { numbers, rows, depth, across, along })
}

/// All blocks of a right side.
fn whole<U: Unit>(unit: &U, source: &Source<'_>) -> Vec<U::Line> {
    let (panels, steps) = (source.rows.div_ceil(U::PANEL[1]), source.depth.div_ceil(U::STEP));
    let mut lines = Vec::new();
    split(unit, source, 0..panels, 0..steps, Side::Right, &mut lines);
    lines
}

/// Splits blocks: those of a panel are neighbours.
fn split<U: Unit>(
    unit: &U,
    source: &Source<'_>,
    panels: Range<usize>,
    steps: Range<usize>,
    side: Side,
    lines: &mut Vec<U::Line>,
) {
    let (panel, size, count) = (U::PANEL[side as usize], U::BLOCK[side as usize], steps.len());
    let wanted = panels.len() * count * size;
    if lines.len() < wanted {
        lines.resize(wanted, U::Line::default());
    }
    let mut split = |place: usize, number: usize| {
        let (row, step) = ((panels.start + place) * panel, (steps.start + number) * U::STEP);
        let first = (place * count + number) * size;
        unit.split(source, row, step, side, &mut lines[first..first + size]);
    };
    // In the order in which numbers lie.
    if source.lies_by_row() {
        (0..panels.len()).for_each(|place| (0..count).for_each(|number| split(place, number)));
    } else {
        (0..count).for_each(|number| (0..panels.len()).for_each(|place| split(place, number)));
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
fn multiply<U: Unit>(unit: &U, left: Source<'_>, right: Right<'_, U::Line>, mut sums: Sums<'_>, add: bool) {
    let [down, across] = [sums.rows.div_ceil(U::PANEL[0]), sums.columns.div_ceil(U::PANEL[1])];
    let all = left.depth.div_ceil(U::STEP);
    U::parts().with_borrow_mut(|[of_left, of_right]| {
        for first in (0..across).step_by(U::PANELS[1]) {
            let columns = first..across.min(first + U::PANELS[1]);
            for start in (0..all).step_by(U::DEPTH) {
                let steps = start..all.min(start + U::DEPTH);
                let [of_row, of_column] = U::BLOCK.map(|block| steps.len() * block);
                // Where a panel's blocks of these steps begin, and how far apart panels are.
                let (right, apart) = match right {
                    Right::Plain(right) => {
                        split(unit, &right, columns.clone(), steps.clone(), Side::Right, of_right);
                        (&of_right[..], of_column)
                    }
                    Right::Split(right) => (&right[(first * all + start) * U::BLOCK[1]..], all * U::BLOCK[1]),
                };
                for top in (0..down).step_by(U::PANELS[0]) {
                    let rows = top..down.min(top + U::PANELS[0]);
                    split(unit, &left, rows.clone(), steps.clone(), Side::Left, of_left);
                    let panels = of_left.chunks_exact(of_row);
                    for (right, column) in right.chunks(apart).zip(columns.clone()) {
                        // With each product a part of what comes next is fetched.
                        let (right, next) = (&right[..of_column], right.as_ptr().wrapping_add(apart));
                        for (turn, (left, row)) in panels.clone().zip(rows.clone()).enumerate() {
                            let next = next.wrapping_add(turn * of_column / U::PANELS[0]);
                            let after =
                                if row + 1 < rows.end { [row + 1, column] } else { [rows.start, column + 1] };
                            unit.fetch(sums.from::<U>(after), sums.width);
                            sums.change::<U>([row, column], add || start > 0, |sums, step, add| {
                                unit.multiply(left, right, sums, step, add, next);
                            });
                        }
                    }
                }
            }
        }
    });
}

impl Sums<'_> {
    fn start<U: Unit>(&self, [row, column]: [usize; 2]) -> usize {
        row * U::PANEL[0] * self.width + column * U::PANEL[1]
    }

    /// The numbers from a block on.
    fn from<U: Unit>(&self, block: [usize; 2]) -> &[f32] {
        self.numbers.get(self.start::<U>(block)..).unwrap_or_default()
    }

    /// Lets `act` work on a block, by its numbers and how far apart its rows are.
    fn change<U: Unit>(&mut self, block: [usize; 2], add: bool, act: impl FnOnce(&mut [f32], usize, bool)) {
        let rows = U::PANEL[0].min(self.rows - block[0] * U::PANEL[0]);
        let columns = U::PANEL[1].min(self.columns - block[1] * U::PANEL[1]);
        let (start, width) = (self.start::<U>(block), self.width);
        let numbers = &mut self.numbers[start..];
        if [rows, columns] == U::PANEL {
            act(numbers, width, add);
        } else {
            change_part(numbers, width, [rows, columns], U::PANEL, add, act);
        }
    }
}

/// The same at the edge, where only `[rows, columns]` of the whole block exist. Not inlined: the others need no room for a copy.
#[inline(never)]
fn change_part(
    numbers: &mut [f32],
    width: usize,
    [rows, columns]: [usize; 2],
    [all_rows, all_columns]: [usize; 2],
    add: bool,
    act: impl FnOnce(&mut [f32], usize, bool),
) {
    let mut whole = [0.0; MOST];
    let whole = &mut whole[..all_rows * all_columns];
    if add {
        for (whole, numbers) in whole.chunks_exact_mut(all_columns).zip(numbers.chunks(width)).take(rows) {
            whole[..columns].copy_from_slice(&numbers[..columns]);
        }
    }
    act(whole, all_columns, add);
    for (whole, numbers) in whole.chunks_exact(all_columns).zip(numbers.chunks_mut(width)).take(rows) {
        numbers[..columns].copy_from_slice(&whole[..columns]);
    }
}

#[cfg(test)]
mod tests;
