//! Blocks of matrices for a processor's matrix unit (Intel's AMX), and their products.
//!
//! The unit multiplies tiles of 16-bit numbers (bfloat16: 8 significant bits) and sums in 32 bits. A number of 32 bits,
//! which has 24 significant bits, is the sum of three of 16: high, middle and low. Of the nine products of such parts the
//! six largest are computed; what is left out is smaller than the rounding of one product of 32-bit numbers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::thread::LocalKey;

use super::product::{Parts, Side, Source, Unit};

/// Rows, and columns of the other side, of a block: two tiles.
const PANEL: usize = 32;
/// Numbers that are multiplied and summed in a block.
const STEP: usize = 32;
/// Rows of a tile, each of one [`Line`].
const ROWS: usize = 16;
/// Parts of a number.
const PARTS: usize = 3;
/// Lines of a block: its high parts (two tiles), its middle ones, its low ones.
const BLOCK: usize = PARTS * PANEL;

/// A row of a tile, which lies in one line of the cache: loads of others take six times as long.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Line([u16; STEP]);

impl Default for Line {
    fn default() -> Self {
        Self([0; STEP])
    }
}

thread_local! {
    static SPLIT: RefCell<Parts<Line>> = const { RefCell::new([Vec::new(), Vec::new()]) };
    /// How many have this thread's tiles.
    static HOLDERS: Cell<usize> = const { Cell::new(0) };
}

/// What tiles there are: all of sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Layout {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles in use by this thread, which must not be given to another; the last of those who have them gives them back.
#[derive(Debug)]
pub(super) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Lets this thread use tiles, where there are any.
    pub(super) fn take() -> Option<Self> {
        if !available() {
            return None;
        }
        if HOLDERS.replace(HOLDERS.get() + 1) > 0 {
            return Some(Self(PhantomData));
        }
        let (mut bytes, mut rows) = ([0; 16], [0; 16]);
        bytes[..8].fill(64);
        rows[..8].fill(16);
        let layout = Layout { palette: 1, start: 0, reserved: [0; 14], bytes, rows };
        #[expect(
            unsafe_code,
            reason = "the processor has tiles and the system saves them, which `available` has asked"
        )]
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const layout, options(nostack, readonly));
        }
        Some(Self(PhantomData))
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if HOLDERS.replace(HOLDERS.get() - 1) > 1 {
            return;
        }
        #[expect(unsafe_code, reason = "whoever has this has tiles")]
        unsafe {
            asm!("tilerelease", options(nostack, nomem));
        }
    }
}

/// Whether the processor has tiles of 16-bit numbers, and the system lets this process use them.
fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| is_x86_feature_detected!("avx512f") && has_tiles() && may_use_tiles())
}

fn has_tiles() -> bool {
    /// `AMX-BF16` and `AMX-TILE`, in register D of leaf 7.
    const TILES: u32 = 1 << 22 | 1 << 24;
    /// The system saves the layout of tiles and their data.
    const SAVED: u64 = 1 << 17 | 1 << 18;
    #[expect(unsafe_code, reason = "a processor with AVX-512 can tell what it has")]
    unsafe {
        let found = __cpuid_count(7, 0).edx;
        found & TILES == TILES && saved() & SAVED == SAVED
    }
}

#[target_feature(enable = "xsave")]
fn saved() -> u64 {
    #[expect(unsafe_code, reason = "the register exists wherever the instruction does")]
    unsafe {
        _xgetbv(0)
    }
}

/// Linux gives tiles to those who ask.
fn may_use_tiles() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        #[expect(unsafe_code, reason = "a call to the system that takes two numbers")]
        unsafe {
            libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
        }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

impl Source<'_> {
    /// Sixteen neighbours from here on; zeros where there are none.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn neighbours(&self, row: usize, place: usize) -> __m512 {
        if row >= self.rows || place >= self.depth {
            return _mm512_setzero_ps();
        }
        let start = row * self.across + place * self.along;
        let left = if self.lies_by_row() { self.depth - place } else { self.rows - row };
        let found = &self.numbers[start..start + left.min(ROWS)];
        let mask = if found.len() == ROWS { u16::MAX } else { (1 << found.len()) - 1 };
        #[expect(unsafe_code, reason = "no more numbers are read than were found")]
        unsafe {
            _mm512_maskz_loadu_ps(mask, found.as_ptr())
        }
    }

    #[target_feature(enable = "avx512f")]
    fn split(&self, row: usize, place: usize, side: Side, block: &mut [Line]) {
        let by_row = self.lies_by_row();
        for half in 0..2 {
            let row = row + half * ROWS;
            let mut tiles = [[_mm512_setzero_si512(); ROWS]; PARTS];
            for line in 0..ROWS {
                let pair = if by_row {
                    [self.neighbours(row + line, place), self.neighbours(row + line, place + ROWS)]
                } else {
                    [0, 1].map(|odd| self.neighbours(row, place + 2 * line + odd))
                };
                let [low, high] = pair.map(|numbers| parts(numbers));
                for (tile, (low, high)) in tiles.iter_mut().zip(low.into_iter().zip(high)) {
                    tile[line] = if by_row { following(low, high) } else { alternating(low, high) };
                }
            }
            for (part, tile) in tiles.iter_mut().enumerate() {
                if (side == Side::Left) != by_row {
                    transpose(tile);
                }
                for (line, tile) in block[(2 * part + half) * ROWS..][..ROWS].iter_mut().zip(tile) {
                    #[expect(
                        unsafe_code,
                        reason = "a line has the 64 bytes that are written, where they must lie"
                    )]
                    unsafe {
                        _mm512_store_si512((&raw mut *line).cast(), *tile);
                    }
                }
            }
        }
    }
}

/// The three parts of numbers, each rounded to the nearest, in the low halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn parts(mut numbers: __m512) -> [__m512i; PARTS] {
    let none = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(numbers, numbers);
    let mut parts = [_mm512_setzero_si512(); PARTS];
    for part in &mut parts {
        let bits = _mm512_castps_si512(numbers);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        *part = _mm512_srli_epi32::<16>(rounded);
        let value = _mm512_and_si512(rounded, _mm512_set1_epi32(!0xffff));
        numbers = _mm512_sub_ps(numbers, _mm512_castsi512_ps(value));
    }
    // Rounding carries what says that it is no number into the sign.
    parts[0] = _mm512_mask_mov_epi32(parts[0], none, _mm512_set1_epi32(0x7fc0));
    parts
}

/// Sixteen low halves, then sixteen others.
#[inline]
#[target_feature(enable = "avx512f")]
fn following(low: __m512i, high: __m512i) -> __m512i {
    let low = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(low));
    _mm512_inserti64x4::<1>(low, _mm512_cvtepi32_epi16(high))
}

/// Sixteen low halves, each followed by its partner.
#[inline]
#[target_feature(enable = "avx512f")]
fn alternating(low: __m512i, high: __m512i) -> __m512i {
    _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
}

/// Exchanges rows and columns of pairs.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512i; ROWS]) {
    for distance in [8, 4, 2, 1] {
        // Places in a row, and in its partner from 16 on.
        let [first, second] = [0, distance].map(|shift| {
            let at: [i32; ROWS] = std::array::from_fn(|lane| {
                let partner = if lane & distance == 0 { 0 } else { ROWS - distance };
                (lane + partner + shift) as i32
            });
            #[expect(unsafe_code, reason = "sixteen places are read")]
            unsafe {
                _mm512_loadu_si512(at.as_ptr().cast())
            }
        });
        for row in (0..ROWS).filter(|row| row & distance == 0) {
            let (a, b) = (rows[row], rows[row + distance]);
            rows[row] = _mm512_permutex2var_epi32(a, first, b);
            rows[row + distance] = _mm512_permutex2var_epi32(a, second, b);
        }
    }
}

/// One product of tiles, and what it fetches of the next blocks meanwhile: an eighth of a tile.
macro_rules! product {
    ($sum:literal, $left:literal, $right:literal, $of:literal, $piece:literal) => {
        concat!(
            "tdpbf16ps tmm",
            $sum,
            ", tmm",
            $left,
            ", tmm",
            $right,
            "\n",
            ".irp at, 0, 64, 128, 192, 256, 320, 384, 448\n",
            "prefetcht0 [{",
            $of,
            "} + 6144 + 512*",
            $piece,
            " + \\at]\n",
            ".endr",
        )
    };
}

impl Unit for Tiles {
    type Line = Line;

    const PANEL: [usize; 2] = [PANEL; 2];
    const STEP: usize = STEP;
    const BLOCK: [usize; 2] = [BLOCK; 2];
    // Of the left side a block of these fills half a second cache.
    const DEPTH: usize = 24;
    const PANELS: [usize; 2] = [8, 128];

    fn parts() -> &'static LocalKey<RefCell<Parts<Line>>> {
        &SPLIT
    }

    fn split(&self, source: &Source<'_>, row: usize, place: usize, side: Side, block: &mut [Line]) {
        #[expect(unsafe_code, reason = "whoever has tiles has what the function needs")]
        unsafe {
            source.split(row, place, side, block);
        }
    }

    fn fetch(&self, sums: &[f32], step: usize) {
        for row in 0..PANEL {
            for half in [0, ROWS] {
                #[expect(unsafe_code, reason = "what is prefetched may be anywhere")]
                unsafe {
                    _mm_prefetch::<_MM_HINT_ET0>(sums.as_ptr().wrapping_add(row * step + half).cast());
                }
            }
        }
    }

    /// `later`: an eighth of a block for each that is multiplied.
    fn multiply(
        &self,
        left: &[Line],
        right: &[Line],
        sums: &mut [f32],
        step: usize,
        add: bool,
        later: *const Line,
    ) {
        assert!(left.len() == right.len() && !left.is_empty() && left.len().is_multiple_of(BLOCK));
        assert!(step >= PANEL && sums.len() >= (PANEL - 1) * step + PANEL);
        let steps = left.len() / BLOCK;
        let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.as_mut_ptr());
        #[expect(
            unsafe_code,
            reason = "tiles are laid out; what is read and written has the asserted sizes; others are only prefetched"
        )]
        // Tiles 0 to 3 are the sums; 4 and 5 the upper and lower of the left side, 6 and 7 of the right one.
        unsafe {
            asm!(
                "test {add}, {add}", "jz 3f",
                "tileloadd tmm0, [{upper} + {step}]", "tileloadd tmm1, [{upper} + {step} + 64]",
                "tileloadd tmm2, [{lower} + {step}]", "tileloadd tmm3, [{lower} + {step} + 64]",
                "jmp 2f",
                "3:",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + {line} + 4096]", "tileloadd tmm6, [{b} + {line}]",
                product!(0, 4, 6, "a", 0), "tileloadd tmm7, [{b} + {line} + 1024]", product!(1, 4, 7, "a", 1),
                "tileloadd tmm5, [{a} + {line} + 5120]", product!(2, 5, 6, "a", 2), product!(3, 5, 7, "a", 3),
                "tileloadd tmm4, [{a} + {line} + 2048]", product!(0, 4, 6, "a", 4), product!(1, 4, 7, "a", 5),
                "tileloadd tmm5, [{a} + {line} + 3072]", product!(2, 5, 6, "a", 6), product!(3, 5, 7, "a", 7),
                "tileloadd tmm6, [{b} + {line} + 2048]", product!(0, 4, 6, "a", 8), product!(2, 5, 6, "a", 9),
                "tileloadd tmm7, [{b} + {line} + 3072]", product!(1, 4, 7, "a", 10), product!(3, 5, 7, "a", 11),
                "tileloadd tmm4, [{a} + {line}]", product!(0, 4, 6, "b", 0), product!(1, 4, 7, "b", 1),
                "tileloadd tmm5, [{a} + {line} + 1024]", product!(2, 5, 6, "b", 2), product!(3, 5, 7, "b", 3),
                "tileloadd tmm6, [{b} + {line} + 4096]", product!(0, 4, 6, "b", 4), product!(2, 5, 6, "b", 5),
                "tileloadd tmm7, [{b} + {line} + 5120]", product!(1, 4, 7, "b", 6), product!(3, 5, 7, "b", 7),
                "tileloadd tmm6, [{b} + {line}]", product!(0, 4, 6, "b", 8), product!(2, 5, 6, "b", 9),
                "tileloadd tmm7, [{b} + {line} + 1024]", product!(1, 4, 7, "b", 10), product!(3, 5, 7, "b", 11),
                ".irp at, 0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704",
                "prefetcht1 [{later} + \\at]",
                ".endr",
                "add {later}, 768", "add {a}, 6144", "add {b}, 6144", "dec {steps}", "jnz 2b",
                "tilestored [{upper} + {step}], tmm0", "tilestored [{upper} + {step} + 64], tmm1",
                "tilestored [{lower} + {step}], tmm2", "tilestored [{lower} + {step} + 64], tmm3",
                a = inout(reg) left => _, b = inout(reg) right => _, later = inout(reg) later => _,
                steps = inout(reg) steps => _, upper = in(reg) sums, lower = in(reg) sums.wrapping_add(ROWS * step),
                add = in(reg) u64::from(add), step = in(reg) 4 * step, line = in(reg) size_of::<Line>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
