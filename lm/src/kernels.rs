//! What is done on a CPU beside matrix products, in one pass over memory each.
//!
//! Each answers `None` where it cannot: elsewhere than on a CPU with fused multiplication and addition, or
//! for other numbers than 32 bits. What one row becomes depends on that row only. Nothing here is known to libtorch's
//! graph.
//!
//! A closure has the features of the function it is written in, an adapter that calls it (`map` of an array) has not: often
//! neither is inlined then, so loops that matter do without.

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod draws;
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
mod registers;
mod rows;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod update;
#[cfg(target_arch = "x86_64")]
mod vectors;

use tch::{Device, Kind, Tensor};

#[cfg(not(target_arch = "x86_64"))]
pub use self::elsewhere::{Split, addmm, attend, merge, mm, passed};
pub use self::rows::{
    cross_entropy, gate, gate_backward, likelihoods, rms_norm, rms_norm_backward, rotate, rotate_into,
};
pub use self::update::{AdamW, adamw};
#[cfg(target_arch = "x86_64")]
pub use self::{
    attention::{attend, merge},
    draws::passed,
    product::{Split, addmm, mm},
};

/// Numbers that are summed side by side.
const LANES: usize = 16;
/// [`exp`] of less is that of this.
const LEAST: f32 = -87.0;

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] = a.mul_add(*b, sums[lane]);
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

/// The exponential of what is not above zero, to 2 units in the last place; below [`LEAST`] that of it.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < LEAST { LEAST } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = power.mul_add(-LN_2_LOW, power.mul_add(-LN_2_HIGH, x));
    let mut sum = 1.0 / 720.0;
    for factor in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = rest.mul_add(sum, factor);
    }
    sum * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// The same, but nothing below [`LEAST`].
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
#[inline]
fn exp_or_nothing(x: f32) -> f32 {
    if x < LEAST { 0.0 } else { exp(x) }
}

/// Whether the processor has what the functions here are compiled for.
fn is_fused() -> bool {
    #[cfg(target_arch = "x86_64")]
    let fused = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let fused = false;
    fused
}

fn is_fit(tensor: &Tensor) -> bool {
    let plain = tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && !tensor.requires_grad();
    is_fused() && plain && tensor.numel() > 0
}

/// The numbers of a contiguous tensor.
fn contiguous(tensor: &Tensor) -> Option<&[f32]> {
    if tensor.is_contiguous() { floats(tensor) } else { None }
}

/// The numbers from the first of a tensor to its last, with those of others between them.
fn floats(tensor: &Tensor) -> Option<&[f32]> {
    let length = span(tensor)?;
    #[expect(unsafe_code, reason = "the span of the tensor's own strides, which lives as long as it does")]
    is_fit(tensor).then(|| unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), length) })
}

/// How many numbers there are from the first of a tensor to its last.
fn span(tensor: &Tensor) -> Option<usize> {
    let last = tensor.size().iter().zip(tensor.stride()).map(|(size, step)| (size - 1) * step).sum::<i64>();
    usize::try_from(last + 1).ok()
}

/// The numbers of a tensor that is contiguous and that nobody else looks at meanwhile.
fn floats_mut(tensor: &mut Tensor) -> Option<&mut [f32]> {
    if tensor.is_contiguous() { floats_of_view(tensor) } else { None }
}

/// The same for a part of a tensor, with what is between its rows.
#[expect(clippy::mut_from_ref, reason = "a view's handle is not what it shows")]
fn floats_of_view(tensor: &Tensor) -> Option<&mut [f32]> {
    let length = span(tensor)?;
    #[expect(unsafe_code, reason = "the span of the tensor's own strides, which lives as long as it does")]
    is_fit(tensor).then(|| unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), length) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::stream::Stream;

    pub(crate) fn random(shape: &[i64]) -> Tensor {
        let mut stream = Stream::new("test", shape.iter().sum::<i64>().unsigned_abs(), "kernels", 0);
        let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| stream.normal() as f32).collect();
        Tensor::from_slice(&values).view(shape)
    }

    /// The gradients of the inputs by libtorch's graph.
    pub(crate) fn by_graph<const N: usize>(
        inputs: [&Tensor; N],
        gradient: &Tensor,
        act: impl Fn(&[Tensor; N]) -> Tensor,
    ) -> [Tensor; N] {
        let inputs = inputs.map(|input| input.detach().copy().set_requires_grad(true));
        (act(&inputs) * gradient).sum(Kind::Double).backward();
        inputs.map(|input| input.grad())
    }

    pub(crate) fn close(found: &Tensor, expected: &Tensor) -> bool {
        found.size() == expected.size() && found.allclose(expected, 1e-5, 1e-6, false)
    }
}
