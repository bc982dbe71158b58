//! What sampling does on a CPU beside matrix products, in one pass over memory each.
//!
//! Each answers `None` where it cannot: elsewhere than on a CPU with fused multiplication and addition, or
//! for other numbers than 32 bits. What one row becomes depends on that row only.

use tch::{Device, Kind, Tensor};

/// Numbers that are summed side by side.
const LANES: usize = 16;

/// Rotates `[tokens, heads, head]` by factors `[tokens, 1, head]` (Hugging Face's convention: halves, not
/// pairs; the sine's first half is negated): the bits of the tensor operations for it. Not differentiable.
#[must_use]
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Option<Tensor> {
    let (size, step) = (x.size(), x.stride());
    let head = usize::try_from(size[2]).ok()?;
    if x.requires_grad() || size[0] == 0 || step[1] != size[2] || head % 2 == 1 {
        return None;
    }
    let (width, step) = (usize::try_from(size[1]).ok()? * head, usize::try_from(step[0]).ok()?);
    let mut out = Tensor::empty(size, (Kind::Float, Device::Cpu));
    let [x, cos, sin] = [floats(x)?, floats(cos)?, floats(sin)?];
    let made = floats_mut(&mut out)?;
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    unsafe {
        rotate_rows(x, [step, width, head], [cos, sin], made);
    }
    Some(out)
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn rotate_rows(x: &[f32], [step, width, head]: [usize; 3], [cos, sin]: [&[f32]; 2], out: &mut [f32]) {
    let half = head / 2;
    let factors = cos.chunks_exact(head).zip(sin.chunks_exact(head));
    for ((x, out), (cos, sin)) in x.chunks(step).zip(out.chunks_exact_mut(width)).zip(factors) {
        let [cos, sin] = [cos, sin].map(|factors| halves(factors, half));
        for (x, out) in x[..width].chunks_exact(head).zip(out.chunks_exact_mut(head)) {
            let ([a, b], (first, second)) = (halves(x, half), out.split_at_mut(half));
            let (first, second) = (&mut first[..half], &mut second[..half]);
            for at in 0..half {
                first[at] = b[at].mul_add(sin[0][at], a[at] * cos[0][at]);
                second[at] = a[at].mul_add(sin[1][at], b[at] * cos[1][at]);
            }
        }
    }
}

/// Two parts whose length the compiler knows to be `half`.
fn halves(all: &[f32], half: usize) -> [&[f32]; 2] {
    let (first, second) = all.split_at(half);
    [&first[..half], &second[..half]]
}

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
            let (keys, values) = (&keys[place..][..length * head], &values[place..][..length * head]);
            for (at, key) in keys.chunks_exact(head).enumerate() {
                for (query, scores) in query.chunks_exact(head).zip(scores.chunks_exact_mut(length)) {
                    scores[at] = dot(query, key) * scale;
                }
            }
            sums.fill(0.0);
            for (member, scores) in scores.chunks_exact_mut(length).enumerate() {
                weights[member * kv + number] = softmax(scores);
            }
            for (at, values) in values.chunks(4 * head).enumerate() {
                for (sums, scores) in sums.chunks_exact_mut(head).zip(scores.chunks_exact(length)) {
                    add(sums, &scores[4 * at..], values);
                }
            }
            for (member, sums) in sums.chunks_exact(head).enumerate() {
                out[(member * kv + number) * head..][..head].copy_from_slice(sums);
            }
        }
    }
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

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
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

/// The exponential of what is not above zero, to 2 units in the last place; below -87 that of -87.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = power.mul_add(-LN_2_LOW, power.mul_add(-LN_2_HIGH, x));
    let mut sum = 1.0 / 720.0;
    for factor in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = rest.mul_add(sum, factor);
    }
    sum * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

fn is_fit(tensor: &Tensor) -> bool {
    #[cfg(target_arch = "x86_64")]
    let fused = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let fused = false;
    fused && tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.numel() > 0
}

/// The numbers from the first of a tensor to its last, with those of others between them.
fn floats(tensor: &Tensor) -> Option<&[f32]> {
    let last = tensor.size().iter().zip(tensor.stride()).map(|(size, step)| (size - 1) * step).sum::<i64>();
    let length = usize::try_from(last).ok()? + 1;
    #[expect(unsafe_code, reason = "the span of the tensor's own strides, which lives as long as it does")]
    is_fit(tensor).then(|| unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), length) })
}

/// The numbers of a tensor that was just made.
fn floats_mut(tensor: &mut Tensor) -> Option<&mut [f32]> {
    let length = tensor.numel();
    #[expect(unsafe_code, reason = "it is contiguous, and nobody else has it")]
    is_fit(tensor).then(|| unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), length) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Stream;

    fn random(shape: &[i64]) -> Tensor {
        let mut stream = Stream::new("test", shape.iter().sum::<i64>().unsigned_abs(), "kernels", 0);
        let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| stream.normal() as f32).collect();
        Tensor::from_slice(&values).view(shape)
    }

    #[test]
    fn rotated_bits_are_those_of_tensor_operations() {
        for (tokens, heads, head) in [(17, 3, 32), (1, 1, 4), (16, 5, 64)] {
            let whole = random(&[tokens, heads + 2, head]);
            let (x, cos) = (whole.narrow(1, 0, heads), random(&[tokens, 1, head]));
            let sin = cos.flip([0]).contiguous();
            let expected = (&x * &cos).addcmul(&x.roll([head / 2], [2]), &sin);
            if let Some(found) = rotate(&x, &cos, &sin) {
                assert!(found.equal(&expected), "{tokens} {heads} {head}");
            }
            assert!(rotate(&x.shallow_clone().set_requires_grad(true), &cos, &sin).is_none());
        }
    }

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
