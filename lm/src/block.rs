//! One block of a decoder with its gradients, written out: what is kept between the two passes, and
//! what is added where, is decided here instead of by libtorch's graph.
//!
//! Gradients of parameters are added to what is there, so an update may be computed in pieces.

use tch::{Kind, Tensor};

use crate::config::ModelConfig;
use crate::kernels;
use crate::matrix::{add_product, addmm, mm};
use crate::model::{gate, gate_and_up};
use crate::packing::{Attention, Packing};

/// A parameter.
#[derive(Debug)]
pub struct Weight {
    /// What is computed with.
    pub value: Tensor,
    /// Where it is learnt: what is added to.
    pub gradient: Option<Tensor>,
}

/// A low-rank change of some rows of a matrix: `scale × b a` (Hu et al. 2021).
#[derive(Debug)]
pub(crate) struct Adapter {
    /// First output, and number of outputs.
    pub(crate) rows: (i64, i64),
    /// `[rank, inputs]`
    pub(crate) a: Weight,
    /// `[outputs, rank]`
    pub(crate) b: Weight,
    pub(crate) scale: f64,
}

/// A matrix, what is added to its products, and its adapters.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Weight>,
    pub(crate) adapters: Vec<Adapter>,
}

/// Weights of a block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) norm: Weight,
    pub(crate) qkv: Linear,
    /// Weights of the norms of query and key heads.
    pub(crate) head_norms: Option<[Weight; 2]>,
    pub(crate) out: Linear,
    pub(crate) mlp_norm: Weight,
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    /// How far attention looks back.
    pub(crate) window: Option<i64>,
}

/// Rotary factors of the tokens, `[tokens, 1, head]`: cosines, sines (first half negated), and the
/// sines of the way back.
#[derive(Debug)]
pub(crate) struct Turn {
    cos: Tensor,
    sin: Tensor,
    back: Tensor,
}

/// What was normalised, and the factors `[…, 1]` that did it.
#[derive(Debug)]
pub(crate) struct Normal {
    x: Tensor,
    factor: Tensor,
}

/// What a block's gradients need.
#[derive(Debug)]
pub(crate) struct Kept {
    normal: Normal,
    normed: Tensor,
    head_normals: Option<[Normal; 2]>,
    attention: Attention,
    attended: Tensor,
    mlp_normal: Normal,
    mlp_normed: Tensor,
    gate_up: Tensor,
    inner: Tensor,
}

/// What all blocks of a pass share.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) packing: &'a Packing,
    pub(crate) turn: Turn,
}

impl Weight {
    /// Adds `left × right` to the gradient, if there is one.
    pub fn learn(&mut self, left: &Tensor, right: &Tensor) {
        let Some(gradient) = &mut self.gradient else { return };
        if gradient.kind() == left.kind() {
            add_product(gradient, left, right);
        } else {
            drop(gradient.g_add_(&mm(left, right)));
        }
    }

    /// Adds the sum over all but the last dimension to the gradient, if there is one.
    pub(crate) fn learn_sum(&mut self, each: impl FnOnce() -> Tensor) {
        if let Some(gradient) = &mut self.gradient {
            let each = each();
            let tokens: Vec<i64> = (0..each.dim() as i64 - 1).collect();
            drop(gradient.g_add_(&each.sum_dim_intlist(tokens.as_slice(), false, gradient.kind())));
        }
    }
}

impl Linear {
    /// `[tokens, outputs]`, added to `residual` where there is one.
    fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Tensor {
        let matrix = self.weight.value.tr();
        let y = match (residual, &self.bias) {
            (Some(residual), None) => addmm(residual, x, &matrix),
            (Some(residual), Some(bias)) => addmm(residual, x, &matrix).g_add_(&bias.value),
            (None, Some(bias)) => addmm(&bias.value, x, &matrix),
            (None, None) => mm(x, &matrix),
        };
        for Adapter { rows: (start, count), a, b, scale } in &self.adapters {
            let low = x.mm(&a.value.tr()).g_mul_scalar_(*scale);
            let mut part = y.narrow(1, *start, *count);
            drop(part.addmm_(&low, &b.value.tr()));
        }
        y
    }

    /// The gradient of `x` from that of the products.
    fn backward(&mut self, gradient: &Tensor, x: &Tensor) -> Tensor {
        self.weight.learn(&gradient.tr(), x);
        if let Some(bias) = &mut self.bias {
            bias.learn_sum(|| gradient.shallow_clone());
        }
        let mut back = mm(gradient, &self.weight.value);
        for Adapter { rows: (start, count), a, b, scale } in &mut self.adapters {
            let part = gradient.narrow(1, *start, *count);
            let low = x.mm(&a.value.tr()).g_mul_scalar_(*scale);
            b.learn(&part.tr(), &low);
            let low = part.mm(&b.value).g_mul_scalar_(*scale);
            a.learn(&low.tr(), x);
            drop(back.addmm_(&low, &a.value));
        }
        back
    }
}

impl Turn {
    pub(crate) fn new([cos, sin]: [Tensor; 2]) -> Self {
        let back = sin.neg();
        Self { cos, sin, back }
    }

    /// Rotates `[tokens, heads, head]` (Hugging Face's convention: halves, not pairs).
    fn forward(&self, x: &Tensor) -> Tensor {
        rotate(x, &self.cos, &self.sin)
    }

    /// The gradient of `x`: rotated back, into `into`.
    fn backward(&self, gradient: &Tensor, into: &Tensor) {
        rotate_into(gradient, &self.cos, &self.back, into);
    }
}

fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let y = Tensor::empty(x.size().as_slice(), (x.kind(), x.device()));
    rotate_into(x, cos, sin, &y);
    y
}

fn rotate_into(x: &Tensor, cos: &Tensor, sin: &Tensor, y: &Tensor) {
    if kernels::rotate_into(x, cos, sin, y) {
        return;
    }
    let half = x.size()[2] / 2;
    drop(x.mul_out(y, cos));
    for (to, from) in [(0, half), (half, 0)] {
        let mut part = y.narrow(2, to, half);
        drop(part.addcmul_(&x.narrow(2, from, half), &sin.narrow(2, to, half)));
    }
}

impl Normal {
    /// Divides rows by their root mean square and multiplies them by the weight.
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    pub(crate) fn new(x: &Tensor, weight: &Tensor, epsilon: f64) -> (Tensor, Self) {
        let kept = |factor| Self { x: x.shallow_clone(), factor };
        if let Some((normed, factor)) = kernels::rms_norm(x, weight, epsilon) {
            return (normed, kept(factor));
        }
        let width = x.size().last().copied().unwrap_or(1) as f64;
        let mut norm = x.norm_scalaropt_dim_dtype(2.0, [-1_i64].as_slice(), true, Kind::Float);
        let factor = norm.square_().g_mul_scalar_(1.0 / width).g_add_scalar_(epsilon).rsqrt_();
        ((x * &factor).to_kind(x.kind()) * weight, kept(factor))
    }

    /// The gradient of what was normalised from that of the result, added to `residual`; adds that of the weight.
    pub(crate) fn backward(
        &self,
        gradient: &Tensor,
        weight: &mut Weight,
        residual: Option<&Tensor>,
    ) -> Tensor {
        let Weight { value, gradient: learnt } = &mut *weight;
        let kept = [&self.x, &self.factor];
        let found = kernels::rms_norm_backward(kept, gradient, value, learnt.as_mut(), residual);
        if let Some(found) = found {
            return found;
        }
        let unit = (&self.x * &self.factor).to_kind(self.x.kind());
        weight.learn_sum(|| gradient * &unit);
        let mut scaled = gradient * &weight.value;
        let share = (&scaled * &unit).mean_dim([-1_i64].as_slice(), true, Kind::Float).neg_();
        let share = share.to_kind(scaled.kind());
        let scaled = scaled.addcmul_(&unit, &share);
        match residual {
            Some(residual) => residual.addcmul(&scaled, &self.factor.to_kind(scaled.kind())),
            None => scaled * self.factor.to_kind(gradient.kind()),
        }
    }
}

/// The gradient of what [`gate`] was given from that of its result.
fn gate_backward(gate_up: &Tensor, gradient: &Tensor) -> Tensor {
    kernels::gate_backward(gate_up, gradient).unwrap_or_else(|| {
        let both = Tensor::empty(gate_up.size().as_slice(), (gradient.kind(), gradient.device()));
        let ([gate, up], [of_gate, of_up]) = (gate_and_up(gate_up), gate_and_up(&both));
        drop(gradient.mul_out(&of_up, &gate.silu()));
        drop(gate.silu_backward_grad_input(&of_gate, &(gradient * up)));
        both
    })
}

impl Block {
    /// The block's output `[tokens, width]`.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> (Tensor, Kept) {
        let Pass { config, packing, turn } = pass;
        let (heads, kv, epsilon) = (config.heads, config.kv_heads, config.rms_norm_eps);
        let (normed, normal) = Normal::new(x, &self.norm.value, epsilon);
        let qkv = self.qkv.forward(&normed, None).view([-1, heads + 2 * kv, config.head_dim]);
        let parts = [(0, heads), (heads, kv)].map(|(start, count)| qkv.narrow(1, start, count));
        let (query_key, head_normals) = match &self.head_norms {
            None => (parts, None),
            Some([of_query, of_key]) => {
                let [query, key] = &parts;
                let (query, first) = Normal::new(query, &of_query.value, epsilon);
                let (key, second) = Normal::new(key, &of_key.value, epsilon);
                ([query, key], Some([first, second]))
            }
        };
        let [query, key] = query_key.map(|part| turn.forward(&part));
        let value = qkv.narrow(1, heads + kv, kv);
        let (attended, attention) = packing.attend(&query, &key, &value, self.window);
        let middle = self.out.forward(&attended, Some(x));
        let (mlp_normed, mlp_normal) = Normal::new(&middle, &self.mlp_norm.value, epsilon);
        let gate_up = self.gate_up.forward(&mlp_normed, None);
        let inner = gate(&gate_up);
        let y = self.down.forward(&inner, Some(&middle));
        let kept = Kept {
            normal,
            normed,
            head_normals,
            attention,
            attended,
            mlp_normal,
            mlp_normed,
            gate_up,
            inner,
        };
        (y, kept)
    }

    /// The gradient of the block's input from that of its output; adds those of its weights.
    pub(crate) fn backward(
        &mut self,
        kept: &Kept,
        gradient: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Tensor, tch::TchError> {
        let Pass { config, packing, turn } = pass;
        let (heads, kv) = (config.heads, config.kv_heads);
        let inner = self.down.backward(gradient, &kept.inner);
        let both = gate_backward(&kept.gate_up, &inner);
        let normed = self.gate_up.backward(&both, &kept.mlp_normed);
        let middle = kept.mlp_normal.backward(&normed, &mut self.mlp_norm, Some(gradient));

        let attended = self.out.backward(&middle, &kept.attended);
        let [query, key, value] = packing.attend_backward(&kept.attention, &attended, kv)?;
        let options = (gradient.kind(), gradient.device());
        let qkv = Tensor::empty([packing.tokens(), heads + 2 * kv, config.head_dim], options);
        qkv.narrow(1, heads + kv, kv).copy_(&value);
        for (number, (found, start, count)) in [(&query, 0, heads), (&key, heads, kv)].into_iter().enumerate()
        {
            let mut part = qkv.narrow(1, start, count);
            match (&kept.head_normals, &mut self.head_norms) {
                (Some(normals), Some(norms)) => {
                    let turned = Tensor::empty(part.size().as_slice(), options);
                    turn.backward(found, &turned);
                    part.copy_(&normals[number].backward(&turned, &mut norms[number], None));
                }
                _ => turn.backward(found, &part),
            }
        }
        let normed = self.qkv.backward(&qkv.view([packing.tokens(), -1]), &kept.normed);
        Ok(kept.normal.backward(&normed, &mut self.norm, Some(&middle)))
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::kernels::tests::{by_graph, close, random};

    fn doubles(shape: &[i64]) -> Tensor {
        random(shape).to_kind(Kind::Double)
    }

    // Rows whose numbers are apart, and numbers of 64 bits, have no kernel: what is done elsewhere than on a CPU is done.
    #[test]
    fn norms_without_a_kernel_are_those_of_their_definition() {
        let (x, value, residual) = (random(&[24, 5]).tr(), random(&[24]), random(&[5, 24]).flip([0]));
        let norm = |[x, weight]: &[Tensor; 2]| {
            x * (x.square().mean_dim([-1_i64].as_slice(), true, Kind::Float) + 1e-5).rsqrt() * weight
        };
        let (normed, normal) = Normal::new(&x, &value, 1e-5);
        assert!(close(&normed, &norm(&[x.shallow_clone(), value.shallow_clone()])));
        let gradient = random(&[5, 24]).flip([1]);
        assert!(kernels::rms_norm(&x, &value, 1e-5).is_none());
        let [of_x, of_weight] = by_graph([&x, &value], &gradient, norm);
        let learnt = Tensor::ones([24], (Kind::Float, Device::Cpu));
        let mut weight = Weight { value, gradient: Some(learnt) };
        assert!(close(&normal.backward(&gradient, &mut weight, Some(&residual)), &(&of_x + &residual)));
        assert!(close(&weight.gradient.take().unwrap(), &(of_weight + 1.0)));
        assert!(close(&normal.backward(&gradient, &mut weight, None), &of_x));
    }

    #[test]
    fn gates_and_rotations_without_a_kernel_are_those_of_their_definition() {
        let (both, gradient) = (doubles(&[5, 12]) * 4.0, doubles(&[5, 6]));
        let act = |[both]: &[Tensor; 1]| both.narrow(1, 0, 6).silu() * both.narrow(1, 6, 6);
        assert!(close(&gate(&both), &act(&[both.shallow_clone()])));
        let [expected] = by_graph([&both], &gradient, act);
        assert!(close(&gate_backward(&both, &gradient), &expected));

        let (x, cos, sin) = (doubles(&[4, 3, 8]), doubles(&[4, 1, 8]), doubles(&[4, 1, 8]).flip([0]));
        let turned = rotate(&x, &cos, &sin);
        assert!(close(&turned, &(&x * &cos + x.roll([4], [2]) * &sin)));
    }
}
