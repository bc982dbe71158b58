//! The attention of a wave of responses: prompts once, responses in lock step.
//!
//! Keys and values of a prompt are stored once for all responses to it, those of responses in one
//! cache whose rows all have the same length. A new token attends to both, and the two results are
//! merged by their log-sum-exp, which is exact.
//!
//! The bits of a row depend on that row only. Prompts are padded to a length that depends on their
//! own; the responses to a prompt fill slots in multiples of [`ROWS`](crate::model::ROWS), because
//! kernels for few rows round differently; and the caches of responses are narrowed, never masked.

use std::collections::{BTreeMap, BTreeSet};

use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::model::{Attention, index, rounded};

/// Positions a cache of responses begins with; it doubles when full.
const CAPACITY: i64 = 32;

/// Prompts that are equally long when padded.
#[derive(Debug)]
pub struct Prompts {
    /// Keys and values of each block: `[prompts, kv heads, length, head]`.
    pub blocks: Vec<[Tensor; 2]>,
    /// Which prompts, in the caller's numbers.
    pub numbers: Vec<usize>,
    /// `[prompts, 1, 1, length]`: zero, and minus infinity where there is padding.
    pub mask: Tensor,
    /// Lengths without padding.
    lengths: Vec<i64>,
    /// The mask of each window that hides a part of these prompts from the newest token.
    narrowed: BTreeMap<i64, Tensor>,
    layout: Layout,
}

/// Where the rows of prompts are among the rows of the wave.
#[derive(Debug, Default)]
struct Layout {
    /// Slots a prompt.
    slots: i64,
    /// First row and number of rows.
    rows: (i64, i64),
    /// The row in each slot, and the slot of each row; `None` when they are in step.
    gather: Option<[Tensor; 2]>,
}

/// Keys and values of a wave.
#[derive(Debug)]
pub struct Cascade {
    prompts: Vec<Prompts>,
    /// Keys and values of each block: `[rows, kv heads, capacity, head]`.
    responses: Vec<[Tensor; 2]>,
    /// The number of the prompt of each row, in order.
    owners: Vec<usize>,
    length: i64,
    greedy: bool,
    device: Device,
    kind: Kind,
    shape: [i64; 3],
    /// How far each block looks back.
    windows: Vec<Option<i64>>,
}

impl Prompts {
    /// Prompts of these lengths.
    #[must_use]
    pub fn new(numbers: Vec<usize>, lengths: &[i64], blocks: Vec<[Tensor; 2]>) -> Self {
        let (padded, device) = (blocks[0][0].size()[2], blocks[0][0].device());
        let positions = Tensor::arange(padded, (Kind::Int64, device));
        let padding = positions.unsqueeze(0).ge_tensor(&index(lengths, device).unsqueeze(1));
        let mask = Tensor::zeros([lengths.len() as i64, padded], (Kind::Float, device));
        let mask = mask.masked_fill(&padding, f64::NEG_INFINITY).view([-1, 1, 1, padded]);
        let (lengths, narrowed) = (lengths.to_vec(), BTreeMap::new());
        Self { blocks, numbers, mask, lengths, narrowed, layout: Layout::default() }
    }

    /// Masks for the windows that end after `length` tokens of response and the newest one.
    fn narrow(&mut self, windows: &BTreeSet<i64>, length: i64) {
        self.narrowed.clear();
        let (device, padded) = (self.mask.device(), self.mask.size()[3]);
        for window in windows {
            let hidden: Vec<i64> = self.lengths.iter().map(|prompt| prompt + length + 1 - window).collect();
            if hidden.iter().any(|hidden| *hidden > 0) {
                let positions = Tensor::arange(padded, (Kind::Int64, device)).unsqueeze(0);
                let hidden =
                    positions.lt_tensor(&index(&hidden, device).unsqueeze(1)).view([-1, 1, 1, padded]);
                let mask = self.mask.masked_fill(&hidden, f64::NEG_INFINITY);
                drop(self.narrowed.insert(*window, mask));
            }
        }
    }

    /// Only the prompts at these places.
    fn select(&mut self, kept: &[usize]) {
        if kept.len() == self.numbers.len() {
            return;
        }
        let at: Vec<i64> = kept.iter().map(|place| *place as i64).collect();
        let at = index(&at, self.mask.device());
        self.numbers = kept.iter().map(|place| self.numbers[*place]).collect();
        self.lengths = kept.iter().map(|place| self.lengths[*place]).collect();
        self.mask = self.mask.index_select(0, &at);
        for mask in self.narrowed.values_mut() {
            *mask = mask.index_select(0, &at);
        }
        for tensor in self.blocks.iter_mut().flatten() {
            *tensor = tensor.index_select(0, &at);
        }
    }
}

impl Cascade {
    /// A wave whose rows belong to the prompts with the numbers `owners`, which must be in the order
    /// of `prompts`. A greedy wave has one row a prompt and needs no slots.
    #[must_use]
    pub fn new(config: &ModelConfig, prompts: Vec<Prompts>, owners: Vec<usize>, greedy: bool) -> Self {
        let (device, kind) = (prompts[0].mask.device(), prompts[0].blocks[0][0].kind());
        let shape = [config.kv_heads, config.heads / config.kv_heads, config.head_dim];
        let (responses, windows) = (Vec::new(), config.windows.clone());
        let mut new = Self { prompts, responses, owners, length: 0, greedy, device, kind, shape, windows };
        new.arrange();
        new.narrow();
        new.responses = (0..config.layers).map(|_| [new.empty(CAPACITY), new.empty(CAPACITY)]).collect();
        new
    }

    /// Rows of the wave, with those that only fill up.
    #[must_use]
    pub fn rows(&self) -> i64 {
        rounded(self.owners.len() as i64)
    }

    fn empty(&self, capacity: i64) -> Tensor {
        let [kv, _, head] = self.shape;
        // Never read beyond what was written.
        Tensor::empty([self.rows(), kv, capacity, head], (self.kind, self.device))
    }

    /// Drops prompts without rows, and finds the slots of the others' rows.
    fn arrange(&mut self) {
        let mut first = 0_usize;
        let padding = self.rows() - self.owners.len() as i64;
        for prompts in &mut self.prompts {
            let count = |number: &usize| self.owners.iter().filter(|owner| *owner == number).count();
            let counts: Vec<usize> = prompts.numbers.iter().map(count).collect();
            let kept: Vec<usize> = (0..counts.len()).filter(|place| counts[*place] > 0).collect();
            prompts.select(&kept);
            let counts: Vec<i64> = kept.iter().map(|place| counts[*place] as i64).collect();
            let total: i64 = counts.iter().sum();
            let slots = counts.iter().max().copied().unwrap_or(0);
            let slots = if self.greedy { slots } else { rounded(slots) };
            let start = first as i64;
            first += total as usize;
            prompts.layout = Layout { slots, rows: (start, total), gather: None };
            let last = first == self.owners.len() && total > 0;
            let padding = if last { padding } else { 0 };
            if padding == 0 && total == slots * counts.len() as i64 {
                continue;
            }
            let (mut rows, mut places) = (Vec::new(), Vec::new());
            let mut row = start;
            for (place, count) in counts.iter().enumerate() {
                rows.extend((0..slots).map(|slot| row + slot.min(count - 1)));
                places.extend((0..*count).map(|slot| place as i64 * slots + slot));
                row += count;
            }
            places.extend((0..padding).map(|_| 0));
            prompts.layout.gather = Some([index(&rows, self.device), index(&places, self.device)]);
        }
        self.prompts.retain(|prompts| !prompts.numbers.is_empty());
    }

    /// Keeps these rows only (in ascending order) and makes room for more tokens.
    pub fn keep(&mut self, rows: &[usize]) {
        self.owners = rows.iter().map(|row| self.owners[*row]).collect();
        self.arrange();
        let mut at: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        at.resize(self.rows() as usize, at[0]);
        let at = index(&at, self.device);
        let capacity = (2 * self.length).max(CAPACITY);
        for block in 0..self.responses.len() {
            for side in 0..2 {
                let new = self.empty(capacity);
                let old = self.responses[block][side].narrow(2, 0, self.length);
                new.narrow(2, 0, self.length).copy_(&old.index_select(0, &at));
                self.responses[block][side] = new;
            }
        }
    }

    /// Whether the caches have no room for another token: then [`Self::keep`] must be called.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.responses.first().is_some_and(|[keys, _]| keys.size()[2] == self.length)
    }

    /// Tells that all blocks have seen the newest token.
    pub fn advance(&mut self) {
        self.length += 1;
        self.narrow();
    }

    fn narrow(&mut self) {
        // Where a window holds responses only, prompts are not looked at.
        let seen = |window: &i64| *window > self.length + 1;
        let windows: BTreeSet<i64> = self.windows.iter().flatten().copied().filter(seen).collect();
        if !windows.is_empty() {
            self.prompts.iter_mut().for_each(|prompts| prompts.narrow(&windows, self.length));
        }
    }

    /// Attention of the newest token of every row, `[rows, heads × head]`; stores its keys and values.
    pub fn attend(&self, block: usize, attention: &Attention) -> Tensor {
        let [kv, group, head] = self.shape;
        let rows = self.rows();
        for (cache, new) in self.responses[block].iter().zip([&attention.key, &attention.value]) {
            cache.narrow(2, self.length, 1).copy_(&new.unsqueeze(2));
        }
        let [keys, values] = &self.responses[block];
        let query = attention.query.view([rows, kv, group, head]);
        let window = self.windows[block].unwrap_or(i64::MAX);
        let seen = (self.length + 1).min(window);
        let recent = |cache: &Tensor| cache.narrow(2, self.length + 1 - seen, seen);
        let (own, own_weight) = attend(&query, &recent(keys), &recent(values), None);
        if window <= self.length + 1 {
            return own.reshape([rows, -1]);
        }
        let (own, own_weight) = (own.reshape([rows, kv * group, head]), own_weight.reshape([rows, -1]));
        let parts: Vec<(Tensor, Tensor)> =
            self.prompts.iter().map(|prompts| self.attend_prompts(block, prompts, &query)).collect();
        let (prompt, prompt_weight) = match &parts[..] {
            [(out, weight)] => (out.shallow_clone(), weight.shallow_clone()),
            _ => {
                let (outs, weights): (Vec<_>, Vec<_>) =
                    parts.iter().map(|(out, weight)| (out, weight)).unzip();
                (Tensor::cat(&outs, 0), Tensor::cat(&weights, 0))
            }
        };
        let share = (prompt_weight - own_weight).sigmoid().unsqueeze(-1);
        let merged = own.to_kind(Kind::Float).lerp_tensor(&prompt.to_kind(Kind::Float), &share);
        merged.to_kind(self.kind).view([rows, -1])
    }

    /// Outputs `[rows, heads, head]` and log-sum-exps `[rows, heads]` of rows attending to their prompts.
    fn attend_prompts(&self, block: usize, prompts: &Prompts, query: &Tensor) -> (Tensor, Tensor) {
        let [kv, group, head] = self.shape;
        let Layout { slots, rows: (start, count), gather } = &prompts.layout;
        let query = match gather {
            Some([rows, _]) => query.index_select(0, rows),
            None => query.narrow(0, *start, *count),
        };
        // The queries of a group of heads share its keys: they become more rows of one product.
        let query =
            query.view([-1, *slots, kv, group, head]).transpose(1, 2).reshape([-1, kv, slots * group, head]);
        let [keys, values] = &prompts.blocks[block];
        let narrowed = self.windows[block].and_then(|window| prompts.narrowed.get(&window));
        let (out, weight) = attend(&query, keys, values, Some(narrowed.unwrap_or(&prompts.mask)));
        let out = out.reshape([-1, kv, *slots, group, head]).transpose(1, 2).reshape([-1, kv * group, head]);
        let weight = weight.reshape([-1, kv, *slots, group]).transpose(1, 2).reshape([-1, kv * group]);
        match gather {
            Some([_, places]) => (out.index_select(0, places), weight.index_select(0, places)),
            None => (out, weight),
        }
    }
}

/// Attention of `[batch, heads, rows, head]` with its log-sum-exp `[batch, heads, rows]`.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>) -> (Tensor, Tensor) {
    if query.device() != Device::Cpu {
        return attend_by_products(query, key, value, mask);
    }
    let (batch, rows) = (query.size()[0], query.size()[2]);
    let mask = mask.map(|mask| mask.expand([batch, 1, rows, -1], false));
    Tensor::internal_scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, false, mask, None)
}

/// The same by its definition, for devices without a kernel that gives the log-sum-exp.
pub(crate) fn attend_by_products(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
) -> (Tensor, Tensor) {
    #[expect(clippy::cast_precision_loss, reason = "the width of a head")]
    let scale = (query.size()[3] as f64).powf(-0.5);
    let mut scores = (query * scale).matmul(&key.transpose(2, 3)).to_kind(Kind::Float);
    if let Some(mask) = mask {
        scores = mask + scores;
    }
    let weight = scores.logsumexp([-1_i64].as_slice(), true);
    let out = (scores - &weight).exp().to_kind(value.kind()).matmul(value);
    (out, weight.squeeze_dim(-1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Stream;

    #[test]
    fn both_ways_to_attend_agree() {
        let mut stream = Stream::new("test", 1, "attend", 0);
        let mut tensor = |shape: [i64; 4]| {
            let values: Vec<f32> =
                (0..shape.iter().product::<i64>()).map(|_| stream.normal() as f32).collect();
            Tensor::from_slice(&values).view(shape)
        };
        let (query, key, value) = (tensor([2, 3, 16, 8]), tensor([2, 3, 32, 8]), tensor([2, 3, 32, 8]));
        let prompts = Prompts::new(vec![0, 1], &[32, 19], vec![[key.copy(), value.copy()]]);
        for mask in [None, Some(&prompts.mask)] {
            let (a, b) = (attend(&query, &key, &value, mask), attend_by_products(&query, &key, &value, mask));
            assert!(a.0.allclose(&b.0, 1e-5, 1e-5, false) && a.1.allclose(&b.1, 1e-5, 1e-5, false));
        }
    }
}
