//! Panels of matrices for a processor's vector unit (AVX2 with fused multiplication and addition), and their products.
//!
//! For processors of other makers than Intel, for whose processors libtorch's products were made.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::sync::OnceLock;
use std::thread::LocalKey;

use super::is_fused;
use super::product::{Parts, Side, Source, Unit};
use super::registers::{LINE, WIDTH, load, store, transposed};

/// Rows of the left side whose sums are in registers.
const ROWS: usize = 6;
/// Columns of the right side whose sums are in registers: two vectors.
const COLUMNS: usize = 16;
/// Numbers that are multiplied and summed in a block.
const STEP: usize = 16;
/// Numbers that are multiplied and summed in a turn of the innermost loop.
const TURN: usize = 4;

thread_local! {
    static PARTS: RefCell<Parts<f32>> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// The vector unit of a processor that has one.
#[derive(Debug)]
pub(super) struct Vectors(());

impl Vectors {
    /// The unit, where libtorch's products are slower.
    pub(super) fn take() -> Option<Self> {
        static ANSWER: OnceLock<bool> = OnceLock::new();
        ANSWER.get_or_init(|| !made_by_intel()).then(Self::find)?
    }

    /// The unit, where there is one.
    pub(super) fn find() -> Option<Self> {
        is_fused().then_some(Self(()))
    }
}

fn made_by_intel() -> bool {
    let name = __cpuid(0);
    [name.ebx, name.edx, name.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

impl Unit for Vectors {
    type Line = f32;

    const PANEL: [usize; 2] = [ROWS, COLUMNS];
    const STEP: usize = STEP;
    const BLOCK: [usize; 2] = [ROWS * STEP, COLUMNS * STEP];
    // A panel of the right side takes half of a first cache, as many of the left side a quarter of a second one.
    const DEPTH: usize = 256 / STEP;
    const PANELS: [usize; 2] = [24, 256];

    fn parts() -> &'static LocalKey<RefCell<Parts<f32>>> {
        &PARTS
    }

    fn split(&self, source: &Source<'_>, row: usize, place: usize, side: Side, block: &mut [f32]) {
        #[expect(unsafe_code, reason = "whoever has this has what the functions need")]
        unsafe {
            match side {
                Side::Left => pack::<ROWS>(source, row, place, block),
                Side::Right => pack::<COLUMNS>(source, row, place, block),
            }
        }
    }

    fn multiply(
        &self,
        left: &[f32],
        right: &[f32],
        sums: &mut [f32],
        step: usize,
        add: bool,
        later: *const f32,
    ) {
        for line in (0..right.len() / Self::PANELS[0]).step_by(LINE) {
            #[expect(unsafe_code, reason = "what is prefetched may be anywhere")]
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(later.wrapping_add(line).cast());
            }
        }
        #[expect(unsafe_code, reason = "whoever has this has what the function needs")]
        unsafe {
            multiply(left, right, sums, step, add);
        }
    }

    fn fetch(&self, sums: &[f32], step: usize) {
        for row in 0..ROWS {
            #[expect(unsafe_code, reason = "what is prefetched may be anywhere")]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(sums.as_ptr().wrapping_add(row * step).cast());
            }
        }
    }
}

/// Brings numbers into the order in which they are needed: those of all rows of the panel for each place in the depth. There are
/// zeros where there are none.
#[target_feature(enable = "avx2,fma")]
fn pack<const PANEL: usize>(source: &Source<'_>, row: usize, place: usize, block: &mut [f32]) {
    let (block, _) = block.as_chunks_mut::<PANEL>();
    let (rows, places) = (PANEL.min(source.rows - row), STEP.min(source.depth - place));
    let whole = [rows, places] == [PANEL, STEP];
    let numbers = &source.numbers[row * source.across + place * source.along..];
    if !whole {
        block.fill([0.0; PANEL]);
    }
    match (source.lies_by_row(), whole) {
        (true, true) => {
            for at in (0..PANEL).step_by(WIDTH) {
                pack_rows(&numbers[at * source.across..], source.across, at, block);
            }
        }
        (true, false) => {
            for (at, numbers) in numbers.chunks(source.across).take(rows).enumerate() {
                for (block, number) in block.iter_mut().zip(&numbers[..places]) {
                    block[at] = *number;
                }
            }
        }
        (false, _) => {
            for (block, numbers) in block.iter_mut().zip(numbers.chunks(source.along)).take(places) {
                match numbers.first_chunk() {
                    Some(numbers) if rows == PANEL => *block = *numbers,
                    _ => block[..rows].copy_from_slice(&numbers[..rows]),
                }
            }
        }
    }
}

/// Packs rows from `at` on, as many as a vector has lanes where the panel has so many, all of whose numbers are there.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn pack_rows<const PANEL: usize>(numbers: &[f32], across: usize, at: usize, block: &mut [[f32; PANEL]]) {
    let rows = WIDTH.min(PANEL - at);
    for (place, block) in block.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
        let mut found = [_mm256_setzero_ps(); WIDTH];
        for (row, found) in found.iter_mut().enumerate().take(rows) {
            *found = load(&numbers[row * across..].as_chunks().0[place]);
        }
        for (block, found) in block.iter_mut().zip(transposed(found)) {
            let mut column = [0.0; WIDTH];
            store(found, &mut column);
            block[at..at + rows].copy_from_slice(&column[..rows]);
        }
    }
}

/// Multiplies a panel of each side, and puts the sums, or adds them, to `sums`, whose rows are `step` numbers apart.
#[target_feature(enable = "avx2,fma")]
fn multiply(left: &[f32], right: &[f32], sums: &mut [f32], step: usize, add: bool) {
    let (left, _) = left.as_chunks::<{ ROWS * TURN }>();
    let (right, _) = right.as_chunks::<{ COLUMNS * TURN }>();
    let mut found = [[_mm256_setzero_ps(); 2]; ROWS];
    for (left, right) in left.iter().zip(right) {
        for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
            let (right, _) = right.as_chunks();
            let right = [load(&right[0]), load(&right[1])];
            for (found, left) in found.iter_mut().zip(left) {
                let left = _mm256_set1_ps(*left);
                *found =
                    [_mm256_fmadd_ps(left, right[0], found[0]), _mm256_fmadd_ps(left, right[1], found[1])];
            }
        }
    }
    for (found, sums) in found.into_iter().zip(sums.chunks_mut(step)) {
        for (found, sums) in found.into_iter().zip(sums.as_chunks_mut::<WIDTH>().0) {
            let found = if add { _mm256_add_ps(load(sums), found) } else { found };
            store(found, sums);
        }
    }
}
