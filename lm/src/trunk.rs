//! A model being trained: its parameters as the passes want them, joined, and their gradients.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::block::{Adapter, Block, Kept, Linear, Normal, Pass, Turn, Weight};
use crate::config::ModelConfig;
use crate::error::{Result, torch};
use crate::lora::Adapters;
use crate::model::{Decoder, index};
use crate::objective::{Judged, Objective};
use crate::packing::Packing;
use crate::rope::Tables;
use crate::tensors::Tensors;

/// Parameters and gradients of a model.
#[derive(Debug)]
pub(crate) struct Trunk {
    config: ModelConfig,
    device: Device,
    rotary: Tables,
    embedding: Weight,
    head: Weight,
    blocks: Vec<Block>,
    norm: Weight,
    /// The gradient of each parameter that is learnt, by its name: views of those above.
    gradients: Tensors,
    /// Where parameters are computed with in another kind of numbers: the copy of each.
    copies: BTreeMap<String, Tensor>,
    recompute: bool,
}

/// What a block leaves for the way back.
enum Left {
    All(Box<Kept>),
    /// Its input, from which the rest is computed again.
    Input(Tensor),
}

/// Takes a model's parameters apart and puts them together again.
struct Builder<'a> {
    tensors: &'a mut Tensors,
    learns: &'a dyn Fn(&str) -> bool,
    kind: Kind,
    adapters: Option<&'a Adapters>,
    /// Values by the name of their first part: what another trunk has joined is not joined again.
    shared: &'a mut Tensors,
    gradients: Tensors,
    copies: BTreeMap<String, Tensor>,
}

impl Builder<'_> {
    /// The parameters of these names, one below the other, as one.
    fn joined(&mut self, names: &[String]) -> Weight {
        let parts: Vec<&Tensor> = names.iter().map(|name| &self.tensors[name]).collect();
        let same = parts[0].kind() == self.kind;
        let value = match (self.shared.get(&names[0]), &parts[..]) {
            (Some(value), _) => value.shallow_clone(),
            (None, [one]) => one.to_kind(self.kind),
            (None, _) => Tensor::cat(&parts, 0).to_kind(self.kind),
        };
        drop(self.shared.insert(names[0].clone(), value.shallow_clone()));
        let gradient = (self.learns)(&names[0])
            .then(|| Tensor::zeros(value.size().as_slice(), (Kind::Float, value.device())));
        let mut start = 0;
        for name in names {
            let rows = self.tensors[name].size()[0];
            let part = value.narrow(0, start, rows);
            if same {
                // An update of the parameter is one of the joined matrix.
                drop(self.tensors.insert(name.clone(), part));
            } else {
                drop(self.copies.insert(name.clone(), part));
            }
            if let Some(gradient) = &gradient {
                drop(self.gradients.insert(name.clone(), gradient.narrow(0, start, rows)));
            }
            start += rows;
        }
        Weight { value, gradient }
    }

    fn block(&mut self, config: &ModelConfig, layer: usize) -> Block {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mut linear = |parts: &[&str], bias: bool| {
            let names = |what: &str| -> Vec<String> {
                parts.iter().map(|part| name(&format!("{part}.{what}"))).collect()
            };
            let rows: Vec<i64> = names("weight").iter().map(|name| self.tensors[name].size()[0]).collect();
            let weight = self.joined(&names("weight"));
            let bias = bias.then(|| self.joined(&names("bias")));
            let mut adapters = Vec::new();
            let mut start = 0;
            for (part, rows) in parts.iter().zip(rows) {
                adapters.extend(self.adapter(&name(part), (start, rows)));
                start += rows;
            }
            Linear { weight, bias, adapters }
        };
        let qkv = linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], config.qkv_bias);
        let out = linear(&["self_attn.o_proj"], config.out_bias);
        let gate_up = linear(&["mlp.gate_proj", "mlp.up_proj"], config.mlp_bias);
        let down = linear(&["mlp.down_proj"], config.mlp_bias);
        let head_norms = config.normalises_heads().then(|| {
            ["self_attn.q_norm.weight", "self_attn.k_norm.weight"].map(|part| self.joined(&[name(part)]))
        });
        let norm = self.joined(&[name("input_layernorm.weight")]);
        let mlp_norm = self.joined(&[name("post_attention_layernorm.weight")]);
        Block { norm, qkv, head_norms, out, mlp_norm, gate_up, down, window: config.windows[layer] }
    }

    fn adapter(&mut self, matrix: &str, rows: (i64, i64)) -> Option<Adapter> {
        let adapters = self.adapters?;
        let [a, b] = Adapters::names(matrix);
        let mut side = |name: String| {
            let value = adapters.tensors.get(&name)?;
            let copy = match self.shared.get(&name) {
                Some(copy) => copy.shallow_clone(),
                None => value.to_kind(self.kind),
            };
            drop(self.shared.insert(name.clone(), copy.shallow_clone()));
            if value.kind() != self.kind {
                drop(self.copies.insert(name.clone(), copy.shallow_clone()));
            }
            let gradient = Tensor::zeros(value.size().as_slice(), (Kind::Float, value.device()));
            drop(self.gradients.insert(name, gradient.shallow_clone()));
            Some(Weight { value: copy, gradient: Some(gradient) })
        };
        Some(Adapter { rows, a: side(a)?, b: side(b)?, scale: adapters.scale })
    }
}

impl Trunk {
    /// A model ready to be trained. `learns` says of every parameter whether it is learnt, of those
    /// that are joined the same; `kind` is what is computed with. The model's tensors become views of
    /// the trunk's, so that what is done to them is done to it. Trunks with the same `shared`, empty at
    /// first, have the same parameters and each its gradients.
    pub(crate) fn new(
        model: &mut Decoder,
        learns: &dyn Fn(&str) -> bool,
        adapters: Option<&Adapters>,
        kind: Kind,
        recompute: bool,
        shared: &mut Tensors,
    ) -> Self {
        let (config, device) = (model.config().clone(), model.device());
        let rotary = Tables::new(&config.rope, config.head_dim, config.context(), device, kind);
        let tensors = model.tensors_mut();
        let (gradients, copies) = (Tensors::new(), BTreeMap::new());
        let mut builder = Builder { tensors, learns, kind, adapters, shared, gradients, copies };
        let layers = config.windows.len();
        let blocks = (0..layers).map(|layer| builder.block(&config, layer)).collect();
        let embedding = builder.joined(&["model.embed_tokens.weight".to_owned()]);
        let head = match (config.scalar, config.tied) {
            (true, _) => builder.joined(&["score.weight".to_owned()]),
            (false, true) => Weight {
                value: embedding.value.shallow_clone(),
                gradient: embedding.gradient.as_ref().map(Tensor::shallow_clone),
            },
            (false, false) => builder.joined(&["lm_head.weight".to_owned()]),
        };
        let norm = builder.joined(&["model.norm.weight".to_owned()]);
        let Builder { gradients, copies, .. } = builder;
        Self { config, device, rotary, embedding, head, blocks, norm, gradients, copies, recompute }
    }

    /// Gradients of what is learnt, in the order of the names.
    pub(crate) fn gradients(&self) -> &Tensors {
        &self.gradients
    }

    /// The same, to be changed.
    pub(crate) fn gradients_mut(&mut self) -> &mut Tensors {
        &mut self.gradients
    }

    /// Takes over updated parameters where it computes with copies.
    pub(crate) fn refresh(&mut self, parameters: &Tensors) {
        for (name, copy) in &mut self.copies {
            if let Some(value) = parameters.get(name) {
                copy.copy_(value);
            }
        }
    }

    /// Adds the gradients of the rows' losses times `scale`; answers the sums over their targets.
    pub(crate) fn learn<O: Objective>(
        &mut self,
        objective: &O,
        rows: &[&O::Row],
        scale: f64,
    ) -> Result<[f64; 2]> {
        let ids: Vec<&[i64]> = rows.iter().map(|row| objective.ids(row)).collect();
        let packing = Packing::new(&ids, self.device);
        let turn = Turn::new(self.rotary.take(&packing.positions));
        let pass = Pass { config: &self.config, packing: &packing, turn };
        let mut x = Tensor::embedding(&self.embedding.value, &packing.ids, -1, false, false);
        let mut left = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (y, kept) = block.forward(&x, &pass);
            left.push(if self.recompute { Left::Input(x) } else { Left::All(Box::new(kept)) });
            x = y;
        }
        let (mut at, mut distinct) = (Vec::new(), true);
        for (number, row) in rows.iter().enumerate() {
            let (start, judged) = (packing.start(number), objective.judged(row));
            distinct &= judged.is_sorted_by(|one, next| one < next);
            at.extend(judged.into_iter().map(|position| start + position));
        }
        let all = distinct && at.len() as i64 == packing.tokens();
        let at = index(&at, self.device);
        let picked = if all { x } else { x.index_select(0, &at) };
        let (hidden, normal) = Normal::new(&picked, &self.norm.value, self.config.rms_norm_eps);
        let Judged { sums, hidden } = objective.judge(rows, &hidden, &mut self.head, scale)?;
        let picked = normal.backward(&hidden, &mut self.norm, None);
        let mut gradient = if all {
            picked
        } else {
            let shape = [packing.tokens(), self.config.hidden_size];
            let mut zeros = Tensor::zeros(shape, (picked.kind(), self.device));
            if distinct {
                zeros.index_copy_(0, &at, &picked)
            } else {
                add_rows(&mut zeros, &at, &picked);
                zeros
            }
        };
        for (block, left) in self.blocks.iter_mut().zip(left).rev() {
            let kept = match left {
                Left::All(kept) => kept,
                Left::Input(x) => Box::new(block.forward(&x, &pass).1),
            };
            gradient = block.backward(&kept, &gradient, &pass).map_err(|error| torch(&error))?;
        }
        if let Some(embedding) = &mut self.embedding.gradient {
            add_rows(embedding, &packing.ids, &gradient.to_kind(embedding.kind()));
        }
        Ok(sums)
    }
}

/// Adds rows to those at these places, which may occur more than once, in an order that is always the same.
fn add_rows(sums: &mut Tensor, places: &Tensor, rows: &Tensor) {
    if sums.device() == Device::Cpu {
        drop(sums.index_add_(0, places, rows));
    } else {
        // The other adds the rows of a place in whatever order threads come to them.
        drop(sums.index_put_(&[Some(places)], rows, true));
    }
}
