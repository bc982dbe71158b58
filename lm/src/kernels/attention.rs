//! Attention of single tokens.

use std::arch::x86_64::*;

use tch::{Device, Kind, Tensor};

use super::registers::{LINE, WIDTH, load, store};
use super::rows::{largest, strides};
use super::{LANES, dot, exp, floats, floats_mut, floats_of_view};

/// Keys, or values, that are looked at together.
const FOUR: usize = 4;
/// How many keys or values before it is needed one is fetched from memory, which processors do by themselves only
/// within a page.
const AHEAD: usize = 16;

/// Puts the newest key and value of each row, `[rows, kv heads, head]`, to the last place of its keys and values, `[rows, kv
/// heads, length, head]`, and answers the attention to all of these of one token a row, `[rows, kv heads, group, head]`:
/// `[rows, group, kv heads, head]`, and its log-sum-exp `[rows, group, kv heads]`.
#[must_use]
pub fn attend(query: &Tensor, caches: [&Tensor; 2], newest: [&Tensor; 2]) -> Option<(Tensor, Tensor)> {
    let [rows, kv, group, head]: [i64; 4] = query.size().try_into().ok()?;
    let number = |value: i64| usize::try_from(value).ok();
    let steps = caches[0].stride();
    let shape = Shape {
        kv: number(kv)?,
        group: number(group)?,
        head: number(head)?,
        length: number(caches[0].size()[2])?,
        query_step: strides(query)?.0,
        newest_steps: [strides(newest[0])?.0, strides(newest[1])?.0],
        row_step: number(steps[0])?,
        head_step: number(steps[1])?,
    };
    if !shape.head.is_multiple_of(LANES) || steps[2..] != [head, 1] || caches[1].stride() != steps {
        return None;
    }
    let mut out = Tensor::empty([rows, group, kv, head], (Kind::Float, Device::Cpu));
    let mut weight = Tensor::empty([rows, group, kv], (Kind::Float, Device::Cpu));
    let newest = [floats(newest[0])?, floats(newest[1])?];
    let caches = [floats_of_view(caches[0])?, floats_of_view(caches[1])?];
    let (query, made, weights) = (floats(query)?, floats_mut(&mut out)?, floats_mut(&mut weight)?);
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    unsafe {
        attend_rows(&shape, query, caches, newest, made, weights);
    }
    Some((out, weight))
}

/// Joins two attentions of the same queries, each with its log-sum-exp, as of [`attend`], into `[rows, kv
/// heads × group × head]`.
#[must_use]
pub fn merge(first: [&Tensor; 2], second: [&Tensor; 2]) -> Option<Tensor> {
    let [rows, group, kv, head]: [i64; 4] = first[0].size().try_into().ok()?;
    let mut out = Tensor::empty([rows, kv * group * head], (Kind::Float, Device::Cpu));
    let dense = [first, second].map(|pair| pair.map(Tensor::contiguous));
    let [first, second] = dense.each_ref().map(|pair| pair.each_ref().map(floats));
    let ([Some(a), Some(a_weights)], [Some(b), Some(b_weights)]) = (first, second) else { return None };
    let sizes = [group, kv, head].map(|size| usize::try_from(size).unwrap_or(0));
    let made = floats_mut(&mut out)?;
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    unsafe {
        merge_rows(sizes, [a, b], [a_weights, b_weights], made);
    }
    Some(out)
}

#[target_feature(enable = "avx2,fma")]
fn merge_rows([group, kv, head]: [usize; 3], parts: [&[f32]; 2], weights: [&[f32]; 2], out: &mut [f32]) {
    let [a, b] = parts.map(|part| part.chunks_exact(head));
    for (number, (a, b)) in a.zip(b).enumerate() {
        // From (row, member, head) to (row, head, member).
        let (row, member, kv_head) = (number / (group * kv), number / kv % group, number % kv);
        let out = &mut out[((row * kv + kv_head) * group + member) * head..][..head];
        let ahead = weights[1][number] - weights[0][number];
        let small = exp(-ahead.abs());
        let share = if ahead > 0.0 { 1.0 } else { small } / (1.0 + small);
        let (a, b) = (&a[..head], &b[..head]);
        for at in 0..head {
            out[at] = share.mul_add(b[at] - a[at], a[at]);
        }
    }
}

/// Sizes, and the distances from a row or a head to the next.
struct Shape {
    kv: usize,
    group: usize,
    head: usize,
    length: usize,
    query_step: usize,
    newest_steps: [usize; 2],
    row_step: usize,
    head_step: usize,
}

#[target_feature(enable = "avx2,fma")]
fn attend_rows(
    shape: &Shape,
    query: &[f32],
    [keys, values]: [&mut [f32]; 2],
    [newest_keys, newest_values]: [&[f32]; 2],
    out: &mut [f32],
    weights: &mut [f32],
) {
    let Shape { kv, group, head, length, query_step, newest_steps, row_step, head_step } = *shape;
    #[expect(clippy::cast_precision_loss, reason = "the width of a head")]
    let scale = 1.0 / (head as f32).sqrt();
    let mut scores = vec![0.0_f32; group * length];
    let rows = out.chunks_exact_mut(group * kv * head).zip(weights.chunks_exact_mut(group * kv));
    for (row, (out, weights)) in rows.enumerate() {
        for number in 0..kv {
            let query = &query[row * query_step + number * group * head..][..group * head];
            let newest_key = &newest_keys[row * newest_steps[0] + number * head..][..head];
            let newest_value = &newest_values[row * newest_steps[1] + number * head..][..head];
            let place = row * row_step + number * head_step;
            let next = if number + 1 < kv { place + head_step } else { (row + 1) * row_step };
            let (keys, later) = keys[place..].split_at_mut(length * head);
            let next = later.get(next.wrapping_sub(place + length * head)..).unwrap_or_default();
            let values = &mut values[place..][..length * head];
            for at in (0..length).step_by(FOUR) {
                match (at + AHEAD).checked_sub(length) {
                    None => fetch(keys, (at + AHEAD) * head, FOUR * head),
                    Some(at) => fetch(values, at * head, FOUR * head),
                }
                if at + FOUR >= length {
                    // By now its place was fetched.
                    keys[(length - 1) * head..].copy_from_slice(newest_key);
                }
                let keys = &keys[at * head..(at + FOUR).min(length) * head];
                for (query, scores) in query.chunks_exact(head).zip(scores.chunks_exact_mut(length)) {
                    score(query, keys, scale, &mut scores[at..]);
                }
            }
            for (member, scores) in scores.chunks_exact_mut(length).enumerate() {
                weights[member * kv + number] = softmax(scores);
                out[(member * kv + number) * head..][..head].fill(0.0);
            }
            for at in (0..length).step_by(FOUR) {
                match (at + AHEAD).checked_sub(length) {
                    None => fetch(values, (at + AHEAD) * head, FOUR * head),
                    Some(at) => fetch(next, at * head, FOUR * head),
                }
                if at + FOUR >= length {
                    values[(length - 1) * head..].copy_from_slice(newest_value);
                }
                let values = &values[at * head..(at + FOUR).min(length) * head];
                for (member, scores) in scores.chunks_exact(length).enumerate() {
                    add(&mut out[(member * kv + number) * head..][..head], &scores[at..], values);
                }
            }
        }
    }
}

/// Asks for numbers to be brought from memory into the nearest cache; of those that are not there nothing is asked.
#[inline]
fn fetch(numbers: &[f32], start: usize, count: usize) {
    for line in numbers.get(start..(start + count).min(numbers.len())).unwrap_or_default().chunks(LINE) {
        #[expect(unsafe_code, reason = "a hint, whatever the address")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
}

/// The products of a query with up to four keys, times `scale`. Sums are made in the order of [`dot`].
#[target_feature(enable = "avx2,fma")]
#[inline]
fn score(query: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) {
    match scores.first_chunk_mut::<FOUR>() {
        Some(scores) if keys.len() == FOUR * query.len() => {
            let found = _mm_mul_ps(dots(query, keys), _mm_set1_ps(scale));
            #[expect(unsafe_code, reason = "four numbers are written")]
            unsafe {
                _mm_storeu_ps(scores.as_mut_ptr(), found);
            }
        }
        _ => {
            for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
                *score = dot(query, key) * scale;
            }
        }
    }
}

/// The products of a query with four keys.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn dots(query: &[f32], keys: &[f32]) -> __m128 {
    let (query, keys) = (query.as_chunks::<LANES>().0, keys.as_chunks::<LANES>().0);
    let (first, second) = keys.split_at(2 * query.len());
    let ((a, b), (c, d)) = (first.split_at(query.len()), second.split_at(query.len()));
    let mut sums = [[_mm256_setzero_ps(); 2]; FOUR];
    for ((((query, a), b), c), d) in query.iter().zip(a).zip(b).zip(c).zip(d) {
        let query = pair(query);
        for (sums, key) in sums.iter_mut().zip([a, b, c, d]) {
            let key = pair(key);
            *sums = [_mm256_fmadd_ps(query[0], key[0], sums[0]), _mm256_fmadd_ps(query[1], key[1], sums[1])];
        }
    }
    let [a, b, c, d] = sums;
    let [a, b] = [_mm256_add_ps(a[0], a[1]), _mm256_add_ps(b[0], b[1])];
    let [c, d] = [_mm256_add_ps(c[0], c[1]), _mm256_add_ps(d[0], d[1])];
    // Four sums are left of each, then two, then one.
    let [ac, bd] = [folded(a, c), folded(b, d)];
    let two = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ac, bd), _mm256_shuffle_ps::<0xee>(ac, bd));
    let one = _mm256_hadd_ps(two, two);
    _mm_shuffle_ps::<0x44>(_mm256_castps256_ps128(one), _mm256_extractf128_ps::<1>(one))
}

/// Both vectors of [`LANES`] numbers.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn pair(numbers: &[f32; LANES]) -> [__m256; 2] {
    let (numbers, _) = numbers.as_chunks();
    [load(&numbers[0]), load(&numbers[1])]
}

/// The sums of the halves of two vectors: one half of the answer is of each.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn folded(a: __m256, b: __m256) -> __m256 {
    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
}

/// Adds values, each times its share.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn add(sums: &mut [f32], shares: &[f32], values: &[f32]) {
    let ((sums, _), (values, _)) = (sums.as_chunks_mut(), values.as_chunks());
    let (step, mut at) = (sums.len(), 0);
    while let Some(sums) = sums[at..].first_chunk_mut::<8>() {
        add_some(sums, shares, &values[at..], step);
        at += sums.len();
    }
    while let Some(sums) = sums[at..].first_chunk_mut::<2>() {
        add_some(sums, shares, &values[at..], step);
        at += sums.len();
    }
}

/// The same for the sums that so many registers hold; values are `step` vectors apart.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn add_some<const COUNT: usize>(
    sums: &mut [[f32; WIDTH]; COUNT],
    shares: &[f32],
    values: &[[f32; WIDTH]],
    step: usize,
) {
    let mut found = [_mm256_setzero_ps(); COUNT];
    for (found, sums) in found.iter_mut().zip(&*sums) {
        *found = load(sums);
    }
    for (share, values) in shares.iter().zip(values.chunks(step)) {
        let share = _mm256_set1_ps(*share);
        for (found, value) in found.iter_mut().zip(&values[..COUNT]) {
            *found = _mm256_fmadd_ps(load(value), share, *found);
        }
    }
    for (found, sums) in found.into_iter().zip(sums) {
        store(found, sums);
    }
}

/// Turns scores into shares; their log-sum-exp.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn softmax(scores: &mut [f32]) -> f32 {
    let most = largest(scores);
    for score in &mut *scores {
        *score = exp(*score - most);
    }
    let sum: f32 = scores.iter().sum();
    let scale = 1.0 / sum;
    for score in scores {
        *score *= scale;
    }
    most + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::random;

    #[test]
    fn attention_is_that_of_its_definition() {
        for (rows, kv, group, head, length) in [(16, 2, 2, 64, 70), (3, 1, 4, 16, 1), (5, 3, 1, 32, 30)] {
            let whole = random(&[rows, kv * group + kv, head]) * 3.0;
            let query = whole.narrow(1, 0, kv * group).view([rows, kv, group, head]);
            let (keys, values) = (random(&[rows, kv, 80, head]), random(&[rows, kv, 80, head]) + 1.0);
            let caches = [&keys, &values].map(|cache| cache.narrow(2, 3, length));
            let newest = [1, 2].map(|seed| random(&[rows, kv + seed, head]).narrow(1, 1, kv));
            let Some((out, weight)) = attend(&query, caches.each_ref(), newest.each_ref()) else { continue };
            let [keys, values] = &caches;
            for (cache, newest) in caches.iter().zip(&newest) {
                assert!(cache.narrow(2, length - 1, 1).squeeze_dim(2).equal(newest), "{rows} {kv} {length}");
            }
            let scores = query.matmul(&keys.transpose(2, 3)) / (head as f64).sqrt();
            let expected = scores.softmax(-1, Kind::Float).matmul(values).transpose(1, 2);
            let expected_weight = scores.logsumexp([-1_i64].as_slice(), false).transpose(1, 2);
            assert!(out.allclose(&expected, 1e-5, 1e-5, false), "{rows} {kv} {group} {head} {length}");
            assert!(weight.allclose(&expected_weight, 1e-5, 1e-5, false));
            let part = |tensor: &Tensor| tensor.narrow(0, rows - 1, 1);
            let others = (&out.flip([0]).contiguous(), &weight.flip([0]).contiguous());
            let merged = merge([&out, &weight], [others.0, others.1]).unwrap();
            let share = (others.1 - &weight).sigmoid().unsqueeze(-1);
            let expected = out.lerp_tensor(others.0, &share).transpose(1, 2).reshape([rows, -1]);
            assert!(merged.allclose(&expected, 1e-5, 1e-5, false));
            let [a, b, c, d] = [&out, &weight, others.0, others.1].map(part);
            assert!(merge([&a, &b], [&c, &d]).unwrap().equal(&part(&merged)));
            // A row alone has the bits it has among others.
            let (alone, _) = attend(
                &part(&query),
                caches.each_ref().map(part).each_ref(),
                newest.each_ref().map(part).each_ref(),
            )
            .unwrap();
            assert!(alone.equal(&part(&out)));
        }
    }
}
