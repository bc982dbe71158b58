//! One block of a decoder with its gradients, written out: what is kept between the two passes, and
//! what is added where, is decided here instead of by libtorch's graph.
//!
//! Gradients of parameters are added to what is there, so an update may be computed in pieces.

use tch::{Kind, Tensor};

use crate::config::ModelConfig;
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

/// A norm's result before its weight, and the factor that made it.
#[derive(Debug)]
pub(crate) struct Normal {
    pub(crate) unit: Tensor,
    factor: Tensor,
}

/// What a block's gradients need.
#[derive(Debug)]
pub(crate) struct Kept {
    normal: Normal,
    normed: Tensor,
    head_normal: Option<Normal>,
    attention: Attention,
    attended: Tensor,
    mlp_normal: Normal,
    mlp_normed: Tensor,
    gate_up: Tensor,
    gate: Tensor,
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
            drop(gradient.addmm_(left, right));
        } else {
            drop(gradient.g_add_(&left.mm(right)));
        }
    }

    /// Adds the sum over all tokens to the gradient, if there is one.
    pub(crate) fn learn_sum(&mut self, each: impl FnOnce() -> Tensor) {
        if let Some(gradient) = &mut self.gradient {
            drop(gradient.g_add_(&each().sum_dim_intlist([0_i64].as_slice(), false, gradient.kind())));
        }
    }
}

impl Linear {
    /// `[tokens, outputs]`, added to `residual` where there is one.
    fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Tensor {
        let matrix = self.weight.value.tr();
        let y = match (residual, &self.bias) {
            (Some(residual), None) => residual.addmm(x, &matrix),
            (Some(residual), Some(bias)) => residual.addmm(x, &matrix).g_add_(&bias.value),
            (None, Some(bias)) => bias.value.addmm(x, &matrix),
            (None, None) => x.mm(&matrix),
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
        let mut back = gradient.mm(&self.weight.value);
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
    let half = x.size()[2] / 2;
    drop(x.mul_out(y, cos));
    for (to, from) in [(0, half), (half, 0)] {
        let mut part = y.narrow(2, to, half);
        drop(part.addcmul_(&x.narrow(2, from, half), &sin.narrow(2, to, half)));
    }
}

impl Normal {
    /// Divides rows by their root mean square.
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    pub(crate) fn new(x: &Tensor, epsilon: f64) -> Self {
        let width = x.size().last().copied().unwrap_or(1) as f64;
        let mut norm = x.norm_scalaropt_dim_dtype(2.0, [-1_i64].as_slice(), true, Kind::Float);
        let factor = norm.square_().g_mul_scalar_(1.0 / width).g_add_scalar_(epsilon).rsqrt_();
        let unit = (x * &factor).to_kind(x.kind());
        Self { unit, factor }
    }

    /// The gradient of what was normalised, from that of the result times `weight`, added to `residual`.
    /// The weight's shape is that of a row.
    pub(crate) fn backward(&self, gradient: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Tensor {
        let mut scaled = gradient * weight;
        let share = (&scaled * &self.unit).mean_dim([-1_i64].as_slice(), true, Kind::Float).neg_();
        let share = share.to_kind(scaled.kind());
        let scaled = scaled.addcmul_(&self.unit, &share);
        match residual {
            Some(residual) => residual.addcmul(&scaled, &self.factor.to_kind(scaled.kind())),
            None => scaled * self.factor.to_kind(gradient.kind()),
        }
    }
}

impl Block {
    /// The block's output `[tokens, width]`.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> (Tensor, Kept) {
        let Pass { config, packing, turn } = pass;
        let (heads, kv, epsilon) = (config.heads, config.kv_heads, config.rms_norm_eps);
        let normal = Normal::new(x, epsilon);
        let normed = &normal.unit * &self.norm.value;
        let qkv = self.qkv.forward(&normed, None).view([-1, heads + 2 * kv, config.head_dim]);
        let query_key = qkv.narrow(1, 0, heads + kv);
        let head_normal = self.head_norms.as_ref().map(|_| Normal::new(&query_key, epsilon));
        let rotated = match &head_normal {
            None => turn.forward(&query_key),
            Some(normal) => turn.forward(&(&normal.unit * self.head_weights(heads, kv))),
        };
        let (attended, attention) = packing.attend(
            &rotated.narrow(1, 0, heads),
            &rotated.narrow(1, heads, kv),
            &qkv.narrow(1, heads + kv, kv),
            self.window,
        );
        let middle = self.out.forward(&attended, Some(x));
        let mlp_normal = Normal::new(&middle, epsilon);
        let mlp_normed = &mlp_normal.unit * &self.mlp_norm.value;
        let gate_up = self.gate_up.forward(&mlp_normed, None);
        let width = config.intermediate_size;
        let gate = gate_up.narrow(1, 0, width).silu();
        let inner = &gate * gate_up.narrow(1, width, width);
        let y = self.down.forward(&inner, Some(&middle));
        let kept = Kept {
            normal,
            normed,
            head_normal,
            attention,
            attended,
            mlp_normal,
            mlp_normed,
            gate_up,
            gate,
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
        let (heads, kv, width) = (config.heads, config.kv_heads, config.intermediate_size);
        let options = (gradient.kind(), gradient.device());
        let inner = self.down.backward(gradient, &kept.inner);
        let both = Tensor::empty(kept.gate_up.size().as_slice(), options);
        drop(inner.mul_out(&both.narrow(1, width, width), &kept.gate));
        let inner = inner * kept.gate_up.narrow(1, width, width);
        drop(kept.gate_up.narrow(1, 0, width).silu_backward_grad_input(&both.narrow(1, 0, width), &inner));
        let normed = self.gate_up.backward(&both, &kept.mlp_normed);
        self.mlp_norm.learn_sum(|| &normed * &kept.mlp_normal.unit);
        let middle = kept.mlp_normal.backward(&normed, &self.mlp_norm.value, Some(gradient));

        let attended = self.out.backward(&middle, &kept.attended);
        let [query, key, value] = packing.attend_backward(&kept.attention, &attended, kv)?;
        let qkv = Tensor::empty([packing.tokens(), heads + 2 * kv, config.head_dim], options);
        qkv.narrow(1, heads + kv, kv).copy_(&value);
        let mut query_key = qkv.narrow(1, 0, heads + kv);
        turn.backward(&query, &qkv.narrow(1, 0, heads));
        turn.backward(&key, &qkv.narrow(1, heads, kv));
        if let Some(normal) = &kept.head_normal {
            let weights = self.head_weights(heads, kv);
            if let Some([query_norm, key_norm]) = &mut self.head_norms {
                let each = &query_key * &normal.unit;
                let part = |start, count| each.narrow(1, start, count).reshape([-1, config.head_dim]);
                query_norm.learn_sum(|| part(0, heads));
                key_norm.learn_sum(|| part(heads, kv));
            }
            let before = normal.backward(&query_key, &weights, None);
            query_key.copy_(&before);
        }
        let normed = self.qkv.backward(&qkv.view([packing.tokens(), -1]), &kept.normed);
        self.norm.learn_sum(|| &normed * &kept.normal.unit);
        Ok(kept.normal.backward(&normed, &self.norm.value, Some(&middle)))
    }

    /// Weights of the norm of each query and key head: `[heads + kv heads, head]`.
    fn head_weights(&self, heads: i64, kv: i64) -> Tensor {
        let weights: Vec<Tensor> = self
            .head_norms
            .iter()
            .flatten()
            .zip([heads, kv])
            .map(|(weight, count)| weight.value.unsqueeze(0).expand([count, -1], false))
            .collect();
        Tensor::cat(&weights, 0)
    }
}
