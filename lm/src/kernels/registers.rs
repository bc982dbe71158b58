//! Vectors of eight numbers, as registers of AVX2 have them.

use std::arch::x86_64::*;
use std::array;

/// Numbers of a vector.
pub(super) const WIDTH: usize = 8;
/// Numbers of a line of a cache.
pub(super) const LINE: usize = 16;

#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) fn load(numbers: &[f32; WIDTH]) -> __m256 {
    #[expect(unsafe_code, reason = "eight numbers are read")]
    unsafe {
        _mm256_loadu_ps(numbers.as_ptr())
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) fn store(vector: __m256, numbers: &mut [f32; WIDTH]) {
    #[expect(unsafe_code, reason = "eight numbers are written")]
    unsafe {
        _mm256_storeu_ps(numbers.as_mut_ptr(), vector);
    }
}

/// The columns of eight rows of eight numbers.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) fn transposed(rows: [__m256; WIDTH]) -> [__m256; WIDTH] {
    let four = |rows: &[__m256]| {
        let [low, high] = [_mm256_unpacklo_ps(rows[0], rows[1]), _mm256_unpackhi_ps(rows[0], rows[1])];
        let [next_low, next_high] =
            [_mm256_unpacklo_ps(rows[2], rows[3]), _mm256_unpackhi_ps(rows[2], rows[3])];
        [
            _mm256_shuffle_ps::<0x44>(low, next_low),
            _mm256_shuffle_ps::<0xee>(low, next_low),
            _mm256_shuffle_ps::<0x44>(high, next_high),
            _mm256_shuffle_ps::<0xee>(high, next_high),
        ]
    };
    let (first, last) = (four(&rows[..4]), four(&rows[4..]));
    array::from_fn(|column| match column {
        0..4 => _mm256_permute2f128_ps::<0x20>(first[column], last[column]),
        _ => _mm256_permute2f128_ps::<0x31>(first[column - 4], last[column - 4]),
    })
}
