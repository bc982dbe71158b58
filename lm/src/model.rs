//! A decoder in plain tensor operations: RMSNorm, rotary positions, grouped-query attention, gated
//! MLP, and what the families add: biases, normalised queries and keys.
//!
//! Tokens come as a flat stream: everything but attention works on `[tokens, width]`, so that no
//! time goes into padding. How tokens attend to each other is the caller's business: [`forward`]
//! is given a function for it. A row of the result depends on that row of the input and on the
//! attention only; matrix products of at least [`ROWS`] rows are bit-identical row by row.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::kernels;
use crate::matrix::Matrix;
use crate::rope::Tables;
use crate::tensors::Tensors;

/// Row counts of matrix products are multiples of this where bits must not depend on the batch:
/// kernels for few rows round differently. A power of two.
pub const ROWS: i64 = if cfg!(feature = "loose") { 1 } else { 16 };

/// Numbers in a pair of vector registers are a divisor of this.
const PAIR: i64 = 64;

/// Parameters by name, and what follows from the configuration.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    tensors: Tensors,
    kind: Kind,
    /// They grow with the positions that are asked for.
    rotary: RefCell<Tables>,
}

/// A matrix, and what is added to its products.
#[derive(Debug)]
struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

/// One block's weights, joined so that products over the same input are one product.
#[derive(Debug)]
pub struct Block {
    norm: Tensor,
    qkv: Linear,
    /// Weights of the norm of each query and key head: `[heads + kv heads, head]`.
    head_norm: Option<Tensor>,
    out: Linear,
    mlp_norm: Tensor,
    gate_up: Linear,
    down: Linear,
}

/// Weights ready for [`forward`]. Made anew after every update, and once for sampling.
#[derive(Debug)]
pub struct Weights {
    /// `[vocabulary, width]`
    pub embedding: Tensor,
    /// `[vocabulary, width]`, or `[1, width]` of a reward model.
    pub head: Tensor,
    /// The head, for products.
    readout: Matrix,
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
        let kind = tensors.values().next().map_or(Kind::Float, Tensor::kind);
        let rotary = Tables::new(&config.rope, config.head_dim, config.context(), device, kind);
        Self { config, tensors, kind, rotary: RefCell::new(rotary) }
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
        self.rotary.borrow().device()
    }

    /// The kind of numbers its parameters are, in which it computes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its parameters, in the order of their names.
    #[must_use]
    pub fn named(&self) -> Vec<(&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }

    /// Its parameters.
    #[must_use]
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Its parameters, to be updated.
    pub fn tensors_mut(&mut self) -> &mut Tensors {
        &mut self.tensors
    }

    /// Weights ready for [`forward`].
    #[must_use]
    pub fn weights(&self) -> Weights {
        Weights::new(&self.config, |name| self.tensors[name].shallow_clone())
    }

    /// Weights ready for [`forward`], made of its parameters, which it gives up: large models fit into
    /// memory only once.
    pub fn take_weights(&mut self) -> Weights {
        let tensors = &mut self.tensors;
        Weights::new(&self.config, |name| match tensors.remove(name) {
            Some(tensor) => tensor,
            None => Tensor::new(),
        })
    }

    /// The rotary factors of tokens at these positions.
    #[must_use]
    pub fn rotary(&self, positions: &[i64]) -> Rotary {
        let [cos, sin] = self.rotary.borrow_mut().take(positions);
        Rotary { cos, sin }
    }
}

impl Weights {
    /// Joins the parameters that `take` gives, each of which is asked for once.
    fn new(config: &ModelConfig, mut take: impl FnMut(&str) -> Tensor) -> Self {
        let blocks = (0..config.layers).map(|layer| Block::new(config, layer, &mut take)).collect();
        let embedding = take("model.embed_tokens.weight");
        let head = match (config.scalar, config.tied) {
            (true, _) => take("score.weight"),
            (false, true) => embedding.shallow_clone(),
            (false, false) => take("lm_head.weight"),
        };
        let readout = Matrix::new(head.shallow_clone());
        Self { embedding, head, readout, blocks, norm: take("model.norm.weight") }
    }

    /// What the head makes of hidden states `[rows, width]`: `[rows, vocabulary]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        self.readout.apply(hidden, None).to_kind(Kind::Float)
    }
}

impl Block {
    fn new(config: &ModelConfig, layer: i64, take: &mut impl FnMut(&str) -> Tensor) -> Self {
        let mut part = |name: &str| take(&format!("model.layers.{layer}.{name}"));
        let mut joined = |names: &[&str], bias: bool| {
            let mut all = |what: &str| match names {
                [name] => part(&format!("{name}.{what}")),
                _ => Tensor::cat(
                    &names.iter().map(|name| part(&format!("{name}.{what}"))).collect::<Vec<_>>(),
                    0,
                ),
            };
            Linear { weight: Matrix::new(all("weight")), bias: bias.then(|| all("bias")) }
        };
        let qkv = joined(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], config.qkv_bias);
        let out = joined(&["self_attn.o_proj"], config.out_bias);
        let gate_up = joined(&["mlp.gate_proj", "mlp.up_proj"], config.mlp_bias);
        let down = joined(&["mlp.down_proj"], config.mlp_bias);
        let head_norm = config.normalises_heads().then(|| {
            let repeat = |norm: Tensor, heads: i64| norm.unsqueeze(0).expand([heads, -1], false);
            let query = repeat(part("self_attn.q_norm.weight"), config.heads);
            Tensor::cat(&[query, repeat(part("self_attn.k_norm.weight"), config.kv_heads)], 0)
        });
        let (norm, mlp_norm) = (part("input_layernorm.weight"), part("post_attention_layernorm.weight"));
        Self { norm, qkv, head_norm, out, mlp_norm, gate_up, down }
    }
}

impl Linear {
    fn apply(&self, x: &Tensor) -> Tensor {
        self.weight.apply(x, self.bias.as_ref())
    }
}

impl Rotary {
    /// Rotates `[tokens, heads, head]` (Hugging Face's convention: halves, not pairs).
    fn apply(&self, x: &Tensor) -> Tensor {
        if let Some(rotated) = kernels::rotate(x, &self.cos, &self.sin) {
            return rotated;
        }
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
    let norm = |x: &Tensor, weight: &Tensor| {
        let fused = kernels::rms_norm(x, weight, config.rms_norm_eps);
        fused.map_or_else(
            || x.rms_norm([config.hidden_size], Some(weight), config.rms_norm_eps),
            |(normed, _)| normed,
        )
    };
    let mut x = Tensor::embedding(&weights.embedding, ids, -1, false, false);
    for (index, block) in weights.blocks.iter().enumerate() {
        let qkv = block.qkv.apply(&norm(&x, &block.norm)).view([-1, heads + 2 * kv, config.head_dim]);
        let query_key = qkv.narrow(1, 0, heads + kv);
        let rotated = match &block.head_norm {
            None => rotary.apply(&query_key),
            Some(weight) => {
                let normal = query_key.rms_norm([config.head_dim], None::<&Tensor>, config.rms_norm_eps);
                rotary.apply(&(normal * weight))
            }
        };
        let attended = attend(
            index,
            &Attention {
                query: rotated.narrow(1, 0, heads),
                key: rotated.narrow(1, heads, kv),
                value: qkv.narrow(1, heads + kv, kv),
            },
        );
        x = block.out.apply(&attended) + x;
        let gate_up = block.gate_up.apply(&norm(&x, &block.mlp_norm));
        x = block.down.apply(&gate(&gate_up)) + x;
    }
    norm(&x, &weights.norm)
}

/// Numbers that [`forward`] has in memory of each token at a time, at most: a block's attention, whose inputs and output are
/// gathered by the caller, or what follows it.
pub(crate) fn activations(config: &ModelConfig) -> usize {
    let ModelConfig { hidden_size, intermediate_size, heads, kv_heads, head_dim, .. } = *config;
    let attention = hidden_size + head_dim * (6 * heads + 5 * kv_heads);
    let products = 3 * (hidden_size + intermediate_size + head_dim * (heads + kv_heads));
    usize::try_from(attention.max(products) + 2 * head_dim).unwrap_or(0)
}

/// `silu(gate) × up` of `[tokens, gate and up]`.
pub(crate) fn gate(both: &Tensor) -> Tensor {
    kernels::gate(both).unwrap_or_else(|| {
        let [gate, up] = gate_and_up(both);
        gate.silu() * up
    })
}

/// The halves of `[tokens, gate and up]`.
pub(crate) fn gate_and_up(both: &Tensor) -> [Tensor; 2] {
    let width = both.size()[1] / 2;
    [0, width].map(|start| both.narrow(1, start, width))
}

/// Tensors one after the other; a single one is not copied.
pub(crate) fn cat(mut tensors: Vec<Tensor>) -> Tensor {
    if tensors.len() == 1 { tensors.remove(0) } else { Tensor::cat(&tensors, 0) }
}

/// The next multiple of [`ROWS`].
#[must_use]
pub fn rounded(count: i64) -> i64 {
    (count + ROWS - 1) / ROWS * ROWS
}

/// The logistic function, number by number. Kernels compute the numbers that do not fill a last pair of vector
/// registers in another way, which rounds otherwise: there are none of these here.
pub(crate) fn sigmoid(x: &Tensor) -> Tensor {
    let (count, shape) = (x.numel() as i64, x.size());
    let filled = x.reshape([-1]).constant_pad_nd([0, (-count).rem_euclid(PAIR)]);
    filled.sigmoid().narrow(0, 0, count).view(shape.as_slice())
}

/// A tensor of indices.
pub(crate) fn index(values: &[i64], device: Device) -> Tensor {
    Tensor::from_slice(values).to_kind(Kind::Int64).to_device(device)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::tests::shape;
    use crate::initial::initial;

    #[test]
    fn a_number_has_one_sigmoid_wherever_it_stands() {
        let x = Tensor::arange(200, (Kind::Float, Device::Cpu)) * 0.037 - 3.0;
        let all = sigmoid(&x);
        for (start, count) in [(0, 1), (3, 16), (0, 48), (7, 80), (100, 100)] {
            assert!(
                sigmoid(&x.narrow(0, start, count)).equal(&all.narrow(0, start, count)),
                "{start} {count}"
            );
        }
        assert!(all.allclose(&(1.0 / ((-x).exp() + 1.0)), 1e-6, 1e-7, false));
    }

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
