//! Draws of tokens.

use std::arch::x86_64::*;

use tch::Tensor;

use super::contiguous;
use super::registers::{WIDTH, load, transposed};

/// Tokens between two sums that are remembered.
const STRIDE: usize = 64;

/// The token of each row of shares `[rows, vocabulary]` at which their sum, taken in order, passes that row's uniform number
/// times their total. One without a share is never reached.
#[must_use]
pub fn passed(shares: &Tensor, uniforms: &[f64]) -> Option<Vec<i64>> {
    let vocabulary = usize::try_from(*shares.size().last()?).ok()?;
    let shares = contiguous(shares)?;
    let mut tokens = Vec::with_capacity(uniforms.len());
    let mut sums = vec![[0.0; WIDTH]; vocabulary.div_ceil(STRIDE)];
    for (shares, uniforms) in shares.chunks(WIDTH * vocabulary).zip(uniforms.chunks(WIDTH)) {
        // Where there are fewer rows, the last one is in several lanes.
        let mut rows: [&[f32]; WIDTH] = [&[]; WIDTH];
        for (lane, row) in rows.iter_mut().enumerate() {
            *row = &shares[lane.min(uniforms.len() - 1) * vocabulary..][..vocabulary];
        }
        #[expect(
            unsafe_code,
            reason = "`contiguous` has asked whether the processor has what the function needs"
        )]
        unsafe {
            sum_up(rows, &mut sums);
        }
        for (lane, uniform) in uniforms.iter().enumerate() {
            let wanted = uniform * sums[sums.len() - 1][lane];
            let stride = sums.partition_point(|sums| sums[lane] <= wanted).min(sums.len() - 1);
            let mut sum = if stride == 0 { 0.0 } else { sums[stride - 1][lane] };
            let mut after = rows[lane].iter().enumerate().skip(stride * STRIDE);
            let found = after.find(|(_, share)| {
                sum += f64::from(**share);
                sum > wanted
            });
            tokens.push(found.map_or(vocabulary - 1, |(token, _)| token) as i64);
        }
    }
    Some(tokens)
}

/// The sums of the rows' shares after each stride of tokens. Rows are summed side by side: one sum alone waits for its own
/// last step.
#[target_feature(enable = "avx2,fma")]
fn sum_up(rows: [&[f32]; WIDTH], sums: &mut [[f64; WIDTH]]) {
    let mut sum = [_mm256_setzero_pd(); 2];
    for (stride, sums) in sums.iter_mut().enumerate() {
        let start = stride * STRIDE;
        for at in (start..rows[0].len().min(start + STRIDE)).step_by(WIDTH) {
            let mut shares = [_mm256_setzero_ps(); WIDTH];
            for (shares, row) in shares.iter_mut().zip(rows) {
                *shares = up_to_eight(&row[at..]);
            }
            for shares in transposed(shares) {
                let (low, high) = (_mm256_castps256_ps128(shares), _mm256_extractf128_ps::<1>(shares));
                sum = [
                    _mm256_add_pd(sum[0], _mm256_cvtps_pd(low)),
                    _mm256_add_pd(sum[1], _mm256_cvtps_pd(high)),
                ];
            }
        }
        for (sum, sums) in sum.into_iter().zip(sums.as_chunks_mut::<4>().0) {
            #[expect(unsafe_code, reason = "four numbers are written")]
            unsafe {
                _mm256_storeu_pd(sums.as_mut_ptr(), sum);
            }
        }
    }
}

/// The first eight numbers; zeros where there are fewer.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn up_to_eight(numbers: &[f32]) -> __m256 {
    if let Some(numbers) = numbers.first_chunk() {
        return load(numbers);
    }
    let mut some = [0.0; WIDTH];
    some[..numbers.len()].copy_from_slice(numbers);
    load(&some)
}
