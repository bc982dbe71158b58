//! What becomes of each row by itself: norms, rotations, gates, losses.

use tch::{Device, Kind, Tensor};

use super::{LANES, contiguous, dot, exp, exp_or_nothing, floats, floats_mut, floats_of_view};

/// Divides rows `[…, width]` by their root mean square and multiplies them by `weight` `[width]`; also the
/// factors `[…, 1]` that did the former.
#[must_use]
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Option<(Tensor, Tensor)> {
    let size = x.size();
    let (step, across) = strides(x)?;
    let mut normed = Tensor::empty(size.as_slice(), (Kind::Float, Device::Cpu));
    let mut factors = Tensor::empty(per_row(&size), (Kind::Float, Device::Cpu));
    let [x, weight] = [floats(x)?, contiguous(weight)?];
    let (made, factor) = (floats_mut(&mut normed)?, floats_mut(&mut factors)?);
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    unsafe {
        rms_norm_rows(x, [step, across], weight, epsilon as f32, made, factor);
    }
    Some((normed, factors))
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[expect(clippy::cast_precision_loss, reason = "the width of a row")]
fn rms_norm_rows(
    x: &[f32],
    [step, across]: [usize; 2],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
    factors: &mut [f32],
) {
    let width = weight.len();
    let scale = 1.0 / width as f32;
    let mut made = out.chunks_exact_mut(width).zip(factors);
    for x in x.chunks(step) {
        for (x, (out, factor)) in x[..across].chunks_exact(width).zip(&mut made) {
            *factor = 1.0 / dot(x, x).mul_add(scale, epsilon).sqrt();
            let (x, out) = (&x[..width], &mut out[..width]);
            for at in 0..width {
                out[at] = x[at] * *factor * weight[at];
            }
        }
    }
}

/// The gradient of what [`rms_norm`] was given from that of its result, added to `residual`; adds that of the weight
/// to `learnt`. All but `x` are contiguous.
#[must_use]
pub fn rms_norm_backward(
    [x, factors]: [&Tensor; 2],
    gradient: &Tensor,
    weight: &Tensor,
    learnt: Option<&mut Tensor>,
    residual: Option<&Tensor>,
) -> Option<Tensor> {
    let (step, across) = strides(x)?;
    let mut out = Tensor::empty(gradient.size(), (Kind::Float, Device::Cpu));
    let [x, factors] = [floats(x)?, contiguous(factors)?];
    let [gradient, weight] = [contiguous(gradient)?, contiguous(weight)?];
    let residual = match residual {
        Some(residual) => Some(contiguous(residual)?),
        None => None,
    };
    let mut unused = Vec::new();
    let learnt = match learnt {
        Some(learnt) => floats_mut(learnt)?,
        None => {
            unused.resize(weight.len(), 0.0);
            &mut unused
        }
    };
    let made = floats_mut(&mut out)?;
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    unsafe {
        rms_norm_backward_rows(x, [step, across], factors, [gradient, weight], residual, learnt, made);
    }
    Some(out)
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[expect(clippy::cast_precision_loss, reason = "the width of a row")]
fn rms_norm_backward_rows(
    x: &[f32],
    [step, across]: [usize; 2],
    factors: &[f32],
    [gradient, weight]: [&[f32]; 2],
    residual: Option<&[f32]>,
    learnt: &mut [f32],
    out: &mut [f32],
) {
    let width = weight.len();
    let (weight, learnt) = (&weight[..width], &mut learnt[..width]);
    let rows = gradient.chunks_exact(width).zip(factors);
    let mut rows = rows.zip(out.chunks_exact_mut(width)).enumerate();
    let mut scaled = vec![0.0_f32; width];
    for x in x.chunks(step) {
        for (x, (row, ((gradient, factor), out))) in x[..across].chunks_exact(width).zip(&mut rows) {
            let (x, gradient, out, scaled) =
                (&x[..width], &gradient[..width], &mut out[..width], &mut scaled[..width]);
            for at in 0..width {
                learnt[at] = (x[at] * factor).mul_add(gradient[at], learnt[at]);
                scaled[at] = gradient[at] * weight[at];
            }
            // Of the mean of the scaled gradient times the result, as a factor of what was given.
            let share = -dot(scaled, x) * factor * factor * factor / width as f32;
            for at in 0..width {
                out[at] = scaled[at].mul_add(*factor, x[at] * share);
            }
            if let Some(residual) = residual {
                for (out, more) in out.iter_mut().zip(&residual[row * width..][..width]) {
                    *out += more;
                }
            }
        }
    }
}

/// `silu(gate) × up` of `[rows, gate and up]`.
#[must_use]
pub fn gate(gate_up: &Tensor) -> Option<Tensor> {
    let [rows, both]: [i64; 2] = gate_up.size().try_into().ok()?;
    let mut out = Tensor::empty([rows, both / 2], (Kind::Float, Device::Cpu));
    let width = usize::try_from(both / 2).ok()?;
    let (given, made) = (contiguous(gate_up)?, floats_mut(&mut out)?);
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    unsafe {
        gate_rows(given, width, made);
    }
    Some(out)
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn gate_rows(gate_up: &[f32], width: usize, out: &mut [f32]) {
    for (both, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let ([gate, up], out) = (halves(both, width), &mut out[..width]);
        for at in 0..width {
            out[at] = gate[at] * logistic(gate[at]) * up[at];
        }
    }
}

/// The gradient of what [`gate`] was given from that of its result.
#[must_use]
pub fn gate_backward(gate_up: &Tensor, gradient: &Tensor) -> Option<Tensor> {
    let size = gate_up.size();
    let width = usize::try_from(size.last()? / 2).ok()?;
    let mut out = Tensor::empty(size.as_slice(), (Kind::Float, Device::Cpu));
    let (given, gradient, made) = (contiguous(gate_up)?, contiguous(gradient)?, floats_mut(&mut out)?);
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    unsafe {
        gate_backward_rows(given, gradient, width, made);
    }
    Some(out)
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn gate_backward_rows(gate_up: &[f32], gradient: &[f32], width: usize, out: &mut [f32]) {
    let rows = gate_up.chunks_exact(2 * width).zip(gradient.chunks_exact(width));
    for ((both, gradient), out) in rows.zip(out.chunks_exact_mut(2 * width)) {
        let ([gate, up], gradient) = (halves(both, width), &gradient[..width]);
        let (of_gate, of_up) = out.split_at_mut(width);
        let (of_gate, of_up) = (&mut of_gate[..width], &mut of_up[..width]);
        for at in 0..width {
            let open = logistic(gate[at]);
            let silu = gate[at] * open;
            of_up[at] = gradient[at] * silu;
            of_gate[at] = gradient[at] * up[at] * silu.mul_add(1.0 - open, open);
        }
    }
}

/// `1 / (1 + exp(-x))`
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn logistic(x: f32) -> f32 {
    let small = exp(-x.abs());
    let share = 1.0 / (1.0 + small);
    if x < 0.0 { small * share } else { share }
}

/// Turns logits `[rows, vocabulary]` into `scale` times the gradient of the summed cross-entropy with the
/// targets; answers that sum, and the sum of the entropies in nats, neither of them scaled.
#[must_use]
pub fn cross_entropy(logits: &mut Tensor, targets: &[i64], scale: f32) -> Option<[f64; 2]> {
    let vocabulary = usize::try_from(*logits.size().last()?).ok()?;
    let logits = floats_mut(logits)?;
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    Some(unsafe { cross_entropy_rows(logits, vocabulary, targets, scale) })
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn cross_entropy_rows(logits: &mut [f32], vocabulary: usize, targets: &[i64], scale: f32) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (logits, target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
        let target = usize::try_from(*target).unwrap_or(usize::MAX);
        let most = largest(logits);
        let wanted = logits[target] - most;
        let [sum, weighted] = exponentials(logits, most);
        let log = f64::from(sum).ln();
        sums[0] += log - f64::from(wanted);
        sums[1] += log - f64::from(weighted) / f64::from(sum);
        let share = scale / sum;
        logits.iter_mut().for_each(|logit| *logit *= share);
        logits[target] -= scale;
    }
    sums
}

/// What is in proportion to the probability of each token at this temperature, from logits `[rows, vocabulary]`; and for
/// each row what its logits exceed their log-probabilities at temperature 1 by.
#[must_use]
pub fn likelihoods(logits: &Tensor, temperature: f64) -> Option<(Tensor, Vec<f64>)> {
    let [rows, vocabulary]: [i64; 2] = logits.size().try_into().ok()?;
    let mut made = Tensor::empty([rows, vocabulary], (Kind::Float, Device::Cpu));
    let vocabulary = usize::try_from(vocabulary).ok()?;
    let (given, out) = (contiguous(logits)?, floats_mut(&mut made)?);
    #[expect(unsafe_code, reason = "`floats` has asked whether the processor has what the function needs")]
    let above = unsafe { likelihood_rows(given, vocabulary, temperature as f32, out) };
    Some((made, above))
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn likelihood_rows(logits: &[f32], vocabulary: usize, temperature: f32, out: &mut [f32]) -> Vec<f64> {
    #[expect(clippy::float_cmp, reason = "only then nothing changes")]
    let colder = (temperature != 1.0).then_some(1.0 / temperature);
    let mut above = Vec::with_capacity(logits.len() / vocabulary);
    for (logits, out) in logits.chunks_exact(vocabulary).zip(out.chunks_exact_mut(vocabulary)) {
        let most = largest(logits);
        let mut sums = [0.0_f32; LANES];
        let ((logits, logits_rest), (out, out_rest)) =
            (logits.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
        for (logits, out) in logits.iter().zip(out) {
            for lane in 0..LANES {
                let likely = exp_or_nothing(logits[lane] - most);
                sums[lane] += likely;
                out[lane] = colder.map_or(likely, |colder| exp_or_nothing((logits[lane] - most) * colder));
            }
        }
        for (lane, (logit, out)) in logits_rest.iter().zip(out_rest).enumerate() {
            let likely = exp_or_nothing(logit - most);
            sums[lane] += likely;
            *out = colder.map_or(likely, |colder| exp_or_nothing((logit - most) * colder));
        }
        above.push(f64::from(most) + f64::from(sums.iter().sum::<f32>()).ln());
    }
    above
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
pub(super) fn largest(values: &[f32]) -> f32 {
    let larger = |most: f32, value: f32| if value > most { value } else { most };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            most[lane] = larger(most[lane], chunk[lane]);
        }
    }
    most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, value| larger(most, *value))
}

/// Turns values into the exponentials of their distances to the largest; the sum of those, and the sum of the
/// distances so weighted.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn exponentials(values: &mut [f32], most: f32) -> [f32; 2] {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    let (mut sums, mut weighted) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    for chunk in chunks {
        for lane in 0..LANES {
            let below = chunk[lane] - most;
            chunk[lane] = exp_or_nothing(below);
            sums[lane] += chunk[lane];
            weighted[lane] = chunk[lane].mul_add(below, weighted[lane]);
        }
    }
    for (lane, value) in rest.iter_mut().enumerate() {
        let below = *value - most;
        *value = exp_or_nothing(below);
        sums[lane] += *value;
        weighted[lane] = value.mul_add(below, weighted[lane]);
    }
    [sums, weighted].map(|lanes| lanes.iter().sum())
}

/// Rotates `[tokens, heads, head]` by factors `[tokens, 1, head]` (Hugging Face's convention: halves, not
/// pairs; the sine's first half is negated): the bits of the tensor operations for it.
#[must_use]
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Option<Tensor> {
    let out = Tensor::empty(x.size(), (Kind::Float, Device::Cpu));
    rotate_into(x, cos, sin, &out).then_some(out)
}

/// The same into a place of that shape; whether it was done.
#[must_use]
pub fn rotate_into(x: &Tensor, cos: &Tensor, sin: &Tensor, out: &Tensor) -> bool {
    let rotated = || {
        let head = usize::try_from(*x.size().last()?).ok().filter(|head| head % 2 == 0)?;
        let ((step, across), (to, _)) = (strides(x)?, strides(out)?);
        let [x, cos, sin] = [floats(x)?, contiguous(cos)?, contiguous(sin)?];
        let out = floats_of_view(out)?;
        #[expect(
            unsafe_code,
            reason = "`floats` has asked whether the processor has what the function needs"
        )]
        unsafe {
            rotate_rows(x, [step, to, across, head], [cos, sin], out);
        }
        Some(())
    };
    rotated().is_some()
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn rotate_rows(x: &[f32], [step, to, across, head]: [usize; 4], [cos, sin]: [&[f32]; 2], out: &mut [f32]) {
    let half = head / 2;
    let factors = cos.chunks_exact(head).zip(sin.chunks_exact(head));
    for ((x, out), (cos, sin)) in x.chunks(step).zip(out.chunks_mut(to)).zip(factors) {
        let [cos, sin] = [cos, sin].map(|factors| halves(factors, half));
        for (x, out) in x[..across].chunks_exact(head).zip(out[..across].chunks_exact_mut(head)) {
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

/// The distance from what belongs to an index of the first dimension to the next, and how many numbers that is,
/// one beside the other.
pub(super) fn strides(x: &Tensor) -> Option<(usize, usize)> {
    let (size, stride) = (x.size(), x.stride());
    let mut across = 1;
    for (size, stride) in size.iter().zip(&stride).skip(1).rev() {
        if *stride != across && *size != 1 {
            return None;
        }
        across *= size;
    }
    let step = if *size.first()? == 1 { across } else { stride[0] };
    (step >= across && across > 0).then_some((usize::try_from(step).ok()?, usize::try_from(across).ok()?))
}

/// The shape of one number a row.
fn per_row(size: &[i64]) -> Vec<i64> {
    [&size[..size.len() - 1], &[1]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{by_graph, close, random};

    #[test]
    fn norms_and_their_gradients_are_those_of_their_definition() {
        for (rows, heads, width) in [(7, 1, 256), (5, 3, 32), (1, 1, 10), (3, 2, 40)] {
            let whole = random(&[rows, heads + 1, width]) * 3.0;
            let (x, weight) = (whole.narrow(1, 0, heads), random(&[width]));
            let (gradient, residual) =
                (random(&[rows, heads, width]).flip([2]), random(&[rows, heads, width]));
            let norm = |[x, weight]: &[Tensor; 2]| {
                let square = x.square().mean_dim([-1_i64].as_slice(), true, Kind::Float);
                x * (square + 1e-5).rsqrt() * weight
            };
            let Some((normed, factors)) = rms_norm(&x, &weight, 1e-5) else { continue };
            assert!(
                close(&normed, &norm(&[x.shallow_clone(), weight.shallow_clone()])),
                "{rows} {heads} {width}"
            );
            let gradient = gradient.contiguous();
            let [of_x, of_weight] = by_graph([&x, &weight], &gradient, norm);
            let mut learnt = Tensor::ones([width], (Kind::Float, Device::Cpu));
            let kept = [&x, &factors];
            let found =
                rms_norm_backward(kept, &gradient, &weight, Some(&mut learnt), Some(&residual)).unwrap();
            assert!(close(&found, &(&of_x + &residual)), "{rows} {heads} {width}");
            assert!(close(&learnt, &(of_weight + 1.0)), "{rows} {heads} {width}");
            let found = rms_norm_backward(kept, &gradient, &weight, None, None).unwrap();
            assert!(close(&found, &of_x));
            // A row alone has the bits it has among others.
            let last = |tensor: &Tensor| tensor.narrow(0, rows - 1, 1);
            assert!(rms_norm(&last(&x), &weight, 1e-5).unwrap().0.equal(&last(&normed)));
        }
    }

    #[test]
    fn gates_and_their_gradients_are_those_of_their_definition() {
        for (rows, width) in [(5, 704), (1, 3), (4, 20)] {
            let (gate_up, gradient) = (random(&[rows, 2 * width]) * 8.0, random(&[rows, width]));
            let act = |[both]: &[Tensor; 1]| both.narrow(1, 0, width).silu() * both.narrow(1, width, width);
            let Some(found) = gate(&gate_up) else { continue };
            assert!(close(&found, &act(&[gate_up.shallow_clone()])), "{rows} {width}");
            let [expected] = by_graph([&gate_up], &gradient, act);
            assert!(close(&gate_backward(&gate_up, &gradient).unwrap(), &expected), "{rows} {width}");
            assert!(gate(&gate_up.narrow(0, rows - 1, 1)).unwrap().equal(&found.narrow(0, rows - 1, 1)));
        }
        // Far from zero nothing overflows.
        let far = Tensor::from_slice(&[-200.0_f32, 200.0, 1.0, 1.0]).view([1, 4]);
        if let Some(found) = gate(&far) {
            assert!(close(&found, &Tensor::from_slice(&[0.0_f32, 200.0]).view([1, 2])));
        }
    }

    #[test]
    fn losses_entropies_and_gradients_are_those_of_their_definition() {
        for (rows, vocabulary) in [(6, 4096), (3, 5), (2, 50)] {
            let logits = random(&[rows, vocabulary]) * 4.0;
            let targets: Vec<i64> = (0..rows).map(|row| (row * 7 + 3) % vocabulary).collect();
            let mut gradient = logits.copy();
            let Some([loss, entropy]) = cross_entropy(&mut gradient, &targets, 0.25) else { continue };
            let picked = Tensor::from_slice(&targets);
            let ones = Tensor::ones([], (Kind::Float, Device::Cpu));
            let expected = |[logits]: &[Tensor; 1]| {
                logits.cross_entropy_loss(&picked, None::<&Tensor>, tch::Reduction::Sum, -100, 0.0)
            };
            let sum = expected(&[logits.shallow_clone()]).double_value(&[]);
            let [of_logits] = by_graph([&logits], &ones, expected);
            assert!((loss - sum).abs() < 1e-4 * sum, "{loss} {sum}");
            assert!(close(&gradient, &(of_logits * 0.25)), "{rows} {vocabulary}");
            let logs = logits.log_softmax(-1, Kind::Double);
            let sum = -(logs.exp() * &logs).sum(Kind::Double).double_value(&[]);
            assert!((entropy - sum).abs() < 1e-4 * sum, "{entropy} {sum}");
        }
    }

    #[test]
    fn likelihoods_are_those_of_their_definition() {
        for (rows, vocabulary, temperature) in [(5, 512, 1.0), (3, 37, 0.6), (1, 4, 1.3)] {
            let logits = random(&[rows, vocabulary]) * 4.0;
            let Some((found, above)) = likelihoods(&logits, temperature) else { continue };
            let shares = &found / found.sum_dim_intlist([-1_i64].as_slice(), true, Kind::Float);
            assert!(close(&shares, &(&logits / temperature).softmax(-1, Kind::Float)), "{temperature}");
            let logs = &logits - Tensor::from_slice(&above).unsqueeze(-1);
            assert!(close(&logs.to_kind(Kind::Float), &logits.log_softmax(-1, Kind::Float)));
        }
        let impossible = Tensor::from_slice(&[f32::NEG_INFINITY, 0.0, -500.0, 1.0]).view([1, 4]);
        for temperature in [1.0, 0.5] {
            let Some((found, _)) = likelihoods(&impossible, temperature) else { continue };
            assert_eq!(
                Vec::<f32>::try_from(found.view(-1)).unwrap()[..3]
                    .iter()
                    .filter(|share| **share == 0.0)
                    .count(),
                2
            );
        }
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
}
