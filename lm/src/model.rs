//! A Llama-style decoder in plain tensor operations: RMSNorm, rotary positions, grouped-query
//! attention, gated MLP.
//!
//! Tokens come as a flat stream: everything but attention works on `[tokens, width]`, so that no
//! time goes into padding. How tokens attend to each other is the caller's business: [`forward`]
//! is given a function for it. A row of the result depends on that row of the input and on the
//! attention only; matrix products of at least [`ROWS`] rows are bit-identical row by row.

use tch::{Device, Kind, Tensor};

use crate::checkpoint::Tensors;
use crate::config::ModelConfig;

/// Row counts of matrix products are multiples of this where bits must not depend on the batch:
/// kernels for few rows round differently.
pub const ROWS: i64 = 16;

/// Parameters by name, and what follows from the configuration.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    tensors: Tensors,
    cos: Tensor,
    sin: Tensor,
}

/// One block's weights, joined so that products over the same input are one product.
#[derive(Debug)]
pub struct Block {
    norm: Tensor,
    qkv: Tensor,
    out: Tensor,
    mlp_norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
}

/// Weights ready for [`forward`]. Made anew after every update, and once for sampling.
#[derive(Debug)]
pub struct Weights {
    /// `[vocabulary, width]`
    pub embedding: Tensor,
    /// `[vocabulary, width]`, or `[1, width]` of a reward model.
    pub head: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
}

/// Rotary factors of each token: `[tokens, 1, head]`; the sine's first half is negated.
#[derive(Debug)]
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Decoder {
    /// A decoder of these parameters, which must be those of [`ModelConfig::tensors`].
    #[must_use]
    pub fn new(config: ModelConfig, tensors: Tensors) -> Self {
        let device = tensors.values().next().map_or(Device::Cpu, Tensor::device);
        let half = config.head_dim / 2;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..config.max_positions {
            for index in 0..config.head_dim {
                #[expect(clippy::cast_precision_loss, reason = "positions are small")]
                let angle = position as f64
                    / config.rope_theta.powf((index % half * 2) as f64 / config.head_dim as f64);
                #[expect(clippy::cast_possible_truncation, reason = "tables of 32-bit floats")]
                {
                    cos.push(angle.cos() as f32);
                    sin.push(if index < half { -angle.sin() as f32 } else { angle.sin() as f32 });
                }
            }
        }
        let table =
            |values: &[f32]| Tensor::from_slice(values).view([-1, 1, config.head_dim]).to_device(device);
        let (cos, sin) = (table(&cos), table(&sin));
        Self { config, tensors, cos, sin }
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    #[cfg(test)]
    pub(crate) fn config_mut(&mut self) -> &mut ModelConfig {
        &mut self.config
    }

    /// Where its parameters are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.cos.device()
    }

    /// Its parameters, in the order of their names.
    #[must_use]
    pub fn named(&self) -> Vec<(&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }

    /// Its parameters, to be updated.
    pub fn tensors_mut(&mut self) -> &mut Tensors {
        &mut self.tensors
    }

    /// A copy with storage of its own, whose parameters collect gradients.
    #[must_use]
    pub fn replica(&self) -> Self {
        let copy = |tensor: &Tensor| tensor.detach().copy().set_requires_grad(true);
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), copy(tensor))).collect();
        Self::new(self.config.clone(), tensors)
    }

    /// Weights ready for [`forward`].
    #[must_use]
    pub fn weights(&self) -> Weights {
        let tensor = |name: &str| &self.tensors[name];
        let blocks = (0..self.config.layers)
            .map(|layer| {
                let part = |name: &str| &self.tensors[&format!("model.layers.{layer}.{name}.weight")];
                Block {
                    norm: part("input_layernorm").shallow_clone(),
                    qkv: Tensor::cat(
                        &["q_proj", "k_proj", "v_proj"].map(|name| part(&format!("self_attn.{name}"))),
                        0,
                    ),
                    out: part("self_attn.o_proj").shallow_clone(),
                    mlp_norm: part("post_attention_layernorm").shallow_clone(),
                    gate_up: Tensor::cat(&[part("mlp.gate_proj"), part("mlp.up_proj")], 0),
                    down: part("mlp.down_proj").shallow_clone(),
                }
            })
            .collect();
        let embedding = tensor("model.embed_tokens.weight").shallow_clone();
        let head = match (self.config.scalar, self.config.tied) {
            (true, _) => tensor("score.weight").shallow_clone(),
            (false, true) => embedding.shallow_clone(),
            (false, false) => tensor("lm_head.weight").shallow_clone(),
        };
        Weights { embedding, head, blocks, norm: tensor("model.norm.weight").shallow_clone() }
    }

    /// The rotary factors of tokens at these positions.
    #[must_use]
    pub fn rotary(&self, positions: &Tensor) -> Rotary {
        Rotary { cos: self.cos.index_select(0, positions), sin: self.sin.index_select(0, positions) }
    }
}

impl Rotary {
    /// Rotates `[tokens, heads, head]` (Hugging Face's convention: halves, not pairs).
    fn apply(&self, x: &Tensor) -> Tensor {
        let half = x.size()[2] / 2;
        (x * &self.cos).addcmul(&x.roll([half], [2]), &self.sin)
    }
}

/// Queries `[tokens, heads, head]`, keys and values `[tokens, kv heads, head]` of one block.
#[derive(Debug)]
pub struct Attention {
    /// Rotated.
    pub query: Tensor,
    /// Rotated.
    pub key: Tensor,
    /// Not rotated.
    pub value: Tensor,
}

/// Hidden states `[tokens, width]` after the last norm.
///
/// `attend` is called for each block, in order, and answers `[tokens, heads × head]`.
pub fn forward(
    config: &ModelConfig,
    weights: &Weights,
    ids: &Tensor,
    rotary: &Rotary,
    mut attend: impl FnMut(usize, &Attention) -> Tensor,
) -> Tensor {
    let (heads, kv) = (config.heads, config.kv_heads);
    let norm =
        |x: &Tensor, weight: &Tensor| x.rms_norm([config.hidden_size], Some(weight), config.rms_norm_eps);
    let mut x = Tensor::embedding(&weights.embedding, ids, -1, false, false);
    for (index, block) in weights.blocks.iter().enumerate() {
        let qkv = norm(&x, &block.norm).linear(&block.qkv, None::<&Tensor>).view([
            -1,
            heads + 2 * kv,
            config.head_dim,
        ]);
        let rotated = rotary.apply(&qkv.narrow(1, 0, heads + kv));
        let attended = attend(
            index,
            &Attention {
                query: rotated.narrow(1, 0, heads),
                key: rotated.narrow(1, heads, kv),
                value: qkv.narrow(1, heads + kv, kv),
            },
        );
        x = attended.linear(&block.out, None::<&Tensor>) + x;
        let gate_up = norm(&x, &block.mlp_norm).linear(&block.gate_up, None::<&Tensor>);
        let gate = gate_up.narrow(1, 0, config.intermediate_size).silu();
        let inner = gate * gate_up.narrow(1, config.intermediate_size, config.intermediate_size);
        x = inner.linear(&block.down, None::<&Tensor>) + x;
    }
    norm(&x, &weights.norm)
}

/// The next multiple of [`ROWS`].
#[must_use]
pub fn rounded(count: i64) -> i64 {
    (count + ROWS - 1) / ROWS * ROWS
}

/// A tensor of indices.
pub(crate) fn index(values: &[i64], device: Device) -> Tensor {
    Tensor::from_slice(values).to_kind(Kind::Int64).to_device(device)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::tests::shape;
    use crate::train::initial;

    /// A model of random weights, large enough for its predictions to be far from uniform.
    pub(crate) fn random(hidden: usize, layers: usize, heads: usize, kv: usize, vocab: usize) -> Decoder {
        let config = ModelConfig::new(&shape(hidden, layers, heads, kv), vocab, 1, Some(0)).unwrap();
        let mut model = initial(config, 7, Device::Cpu);
        let _guard = tch::no_grad_guard();
        for (name, tensor) in model.tensors_mut() {
            if !name.contains("norm") {
                *tensor = &*tensor * 6.0;
            }
        }
        model
    }
}
