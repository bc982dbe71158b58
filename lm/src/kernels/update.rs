//! Updates of parameters.

use tch::Tensor;

use super::{contiguous, floats_mut};

/// The numbers of an update by AdamW that are the same for all parameters.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// What parameters are multiplied by first.
    pub keep: f32,
    /// What gradients are multiplied by first.
    pub scale: f32,
    /// The new gradient's share of both averages.
    pub shares: [f32; 2],
    /// Added to the root of the second average.
    pub epsilon: f32,
    /// What the quotient of the averages is multiplied by.
    pub rate: f32,
}

/// Updates parameters and their averages from their gradients (Loshchilov and Hutter 2019), all of them contiguous: `keep × p −
/// rate × m / (√v + ε)`; whether it was done.
#[must_use]
pub fn adamw(parameter: &mut Tensor, gradient: &Tensor, moments: [&mut Tensor; 2], by: &AdamW) -> bool {
    let [first, second] = moments;
    let mut updated = || {
        let gradient = contiguous(gradient)?;
        let ([first, second], parameter) =
            ([floats_mut(first)?, floats_mut(second)?], floats_mut(parameter)?);
        #[expect(
            unsafe_code,
            reason = "`floats` has asked whether the processor has what the function needs"
        )]
        unsafe {
            adamw_numbers(parameter, gradient, [first, second], by);
        }
        Some(())
    };
    updated().is_some()
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn adamw_numbers(parameters: &mut [f32], gradients: &[f32], [first, second]: [&mut [f32]; 2], by: &AdamW) {
    let AdamW { keep, scale, shares, epsilon, rate } = *by;
    let count = parameters.len();
    let (gradients, first, second) = (&gradients[..count], &mut first[..count], &mut second[..count]);
    for at in 0..count {
        let gradient = gradients[at] * scale;
        first[at] = (gradient - first[at]).mul_add(shares[0], first[at]);
        second[at] = gradient.mul_add(gradient, -second[at]).mul_add(shares[1], second[at]);
        let step = rate * first[at] / (second[at].sqrt() + epsilon);
        parameters[at] = parameters[at].mul_add(keep, -step);
    }
}
