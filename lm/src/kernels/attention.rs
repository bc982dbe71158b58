//! Attention of single tokens.

use tch::{Device, Kind, Tensor};

use super::{LANES, dot, exp, floats, floats_mut};

/// How many keys or values before it is needed one is fetched from memory, which processors do by themselves only
/// within a page.
const AHEAD: usize = 16;

/// Attention of one token a row, `[rows, kv heads, group, head]`, to keys and values of its own, `[rows, kv
/// heads, length, head]`: `[rows, group, kv heads, head]`, and its log-sum-exp `[rows, group, kv heads]`.
#[must_use]
pub fn attend(query: &Tensor, keys: &Tensor, values: &Tensor) -> Option<(Tensor, Tensor)> {
    let size = query.size();
    let [rows, kv, group, head]: [i64; 4] = size.try_into().ok()?;
    let (steps, of_query) = (keys.stride(), query.stride());
    let dense = of_query[1] == group * head && of_query[2] == head && steps[2] == head;
    if head % LANES as i64 != 0 || !dense || values.stride() != steps {
        return None;
    }
    let number = |value: i64| usize::try_from(value).ok();
    let shape = Shape {
        kv: number(kv)?,
        group: number(group)?,
        head: number(head)?,
        length: number(keys.size()[2])?,
        query_step: number(of_query[0])?,
        row_step: number(steps[0])?,
        head_step: number(steps[1])?,
    };
    let mut out = Tensor::empty([rows, group, kv, head], (Kind::Float, Device::Cpu));
    let mut weight = Tensor::empty([rows, group, kv], (Kind::Float, Device::Cpu));
    let [query, keys, values] = [floats(query)?, floats(keys)?, floats(values)?];
    let (made, weights) = (floats_mut(&mut out)?, floats_mut(&mut weight)?);
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    unsafe {
        attend_rows(&shape, query, keys, values, made, weights);
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

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
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
    row_step: usize,
    head_step: usize,
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn attend_rows(
    shape: &Shape,
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    out: &mut [f32],
    weights: &mut [f32],
) {
    let Shape { kv, group, head, length, query_step, row_step, head_step } = *shape;
    #[expect(clippy::cast_precision_loss, reason = "the width of a head")]
    let scale = 1.0 / (head as f32).sqrt();
    let mut scores = vec![0.0_f32; group * length];
    let mut sums = vec![0.0_f32; group * head];
    let rows = out.chunks_exact_mut(group * kv * head).zip(weights.chunks_exact_mut(group * kv));
    for (row, (out, weights)) in rows.enumerate() {
        for number in 0..kv {
            let query = &query[row * query_step + number * group * head..][..group * head];
            let place = row * row_step + number * head_step;
            let next = if number + 1 < kv { place + head_step } else { (row + 1) * row_step };
            let (next, keys) = (keys.get(next..).unwrap_or(&[]), &keys[place..][..length * head]);
            let values = &values[place..][..length * head];
            for (at, key) in keys.chunks_exact(head).enumerate() {
                let ahead = at + AHEAD;
                if ahead < length {
                    fetch(keys, ahead * head, head);
                } else {
                    fetch(values, (ahead - length) * head, head);
                }
                for (query, scores) in query.chunks_exact(head).zip(scores.chunks_exact_mut(length)) {
                    scores[at] = dot(query, key) * scale;
                }
            }
            sums.fill(0.0);
            for (member, scores) in scores.chunks_exact_mut(length).enumerate() {
                weights[member * kv + number] = softmax(scores);
            }
            for (at, four) in values.chunks(4 * head).enumerate() {
                let ahead = 4 * at + AHEAD;
                if ahead < length {
                    fetch(values, ahead * head, 4 * head);
                } else {
                    fetch(next, (ahead - length) * head, 4 * head);
                }
                for (sums, scores) in sums.chunks_exact_mut(head).zip(scores.chunks_exact(length)) {
                    add(sums, &scores[4 * at..], four);
                }
            }
            for (member, sums) in sums.chunks_exact(head).enumerate() {
                out[(member * kv + number) * head..][..head].copy_from_slice(sums);
            }
        }
    }
}

/// Asks for numbers to be brought from memory into the nearest cache; of those that are not there nothing is asked.
#[inline]
fn fetch(numbers: &[f32], start: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.get(start..(start + count).min(numbers.len())).unwrap_or(&[]).chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "a hint, whatever the address")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (numbers, start, count);
}

/// Adds up to four rows of values, each times its share.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn add(sums: &mut [f32], shares: &[f32], values: &[f32]) {
    let head = sums.len();
    if let (Some(&[a, b, c, d]), true) = (shares.first_chunk::<4>(), values.len() == 4 * head) {
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|number| &values[number * head..][..head]);
        for at in 0..head {
            let sum = first[at].mul_add(a, sums[at]);
            let sum = second[at].mul_add(b, sum);
            sums[at] = fourth[at].mul_add(d, third[at].mul_add(c, sum));
        }
    } else {
        for (values, share) in values.chunks_exact(head).zip(shares) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = value.mul_add(*share, *sum);
            }
        }
    }
}

/// Turns scores into shares; their log-sum-exp.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn softmax(scores: &mut [f32]) -> f32 {
    let most = scores.iter().fold(f32::NEG_INFINITY, |most, score| if *score > most { *score } else { most });
    scores.iter_mut().for_each(|score| *score = exp(*score - most));
    let sum: f32 = scores.iter().sum();
    let scale = 1.0 / sum;
    scores.iter_mut().for_each(|score| *score *= scale);
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
            let [keys, values] = [keys, values].map(|cache| cache.narrow(2, 3, length));
            let Some((out, weight)) = attend(&query, &keys, &values) else { continue };
            let scores = query.matmul(&keys.transpose(2, 3)) / (head as f64).sqrt();
            let expected = scores.softmax(-1, Kind::Float).matmul(&values).transpose(1, 2);
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
            let (alone, _) = attend(&part(&query), &part(&keys), &part(&values)).unwrap();
            assert!(alone.equal(&part(&out)));
        }
    }
}
