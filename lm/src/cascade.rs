//! The attention of responses that began together: prompts once, responses in lock step.
//!
//! Keys and values of a prompt are stored once for all responses to it, those of responses in one
//! cache whose rows all have the same length. A new token attends to both, and the two results are
//! merged by their log-sum-exp, which is exact.
//!
//! The bits of a row depend on that row only. Prompts are padded to a length that depends on their
//! own; the responses to a prompt fill slots whose queries are a multiple of [`ROWS`], because
//! kernels for few rows round differently; and the caches of responses are narrowed, never masked.

use std::collections::{BTreeMap, BTreeSet};

use tch::{Device, Kind, Tensor};

use crate::attention::Inputs;
use crate::config::ModelConfig;
use crate::kernels;
use crate::model::{Attention, ROWS, cat, index, sigmoid};

/// Positions a cache of responses begins with; it doubles when full.
const CAPACITY: i64 = 32;

/// Prompts that are equally long when padded.
#[derive(Debug)]
pub struct Prompts {
    /// Keys and values of each block: `[prompts or more, kv heads, length, head]`. What is beyond the
    /// prompts belongs to none any more.
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

/// Where the rows of prompts are among the rows of the cascade.
#[derive(Debug, Default)]
struct Layout {
    /// Slots a prompt.
    slots: i64,
    /// The first row, where rows are in the order of slots.
    first: i64,
    /// The row in each slot; `None` when they are in order.
    gather: Option<Tensor>,
}

/// Keys and values of responses that began together.
#[derive(Debug)]
pub struct Cascade {
    prompts: Vec<Prompts>,
    /// Keys and values of each block: `[rows or more, kv heads, capacity, head]`.
    responses: Vec<[Tensor; 2]>,
    /// The number of the prompt of each row.
    owners: Vec<usize>,
    /// The slot of each row, among those of all prompts; `None` when they are in order.
    places: Option<Tensor>,
    length: i64,
    /// Most tokens of a response.
    most: i64,
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

    /// Only the prompts at these places, of which the last fill the places of those that are gone.
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
        let moves = Moves::new(kept, self.mask.device());
        self.blocks.iter().flatten().for_each(|tensor| moves.apply(tensor));
    }

    /// Finds the slots of its prompts' rows, after `before` others; `places` learns of each row's.
    fn arrange(&mut self, rows: &BTreeMap<usize, Vec<i64>>, multiple: i64, before: i64, places: &mut [i64]) {
        let own: Vec<&[i64]> = self.numbers.iter().map(|number| rows[number].as_slice()).collect();
        let most = own.iter().map(|rows| rows.len()).max().unwrap_or(0);
        let slots = (most as i64 + multiple - 1) / multiple * multiple;
        let mut all = Vec::with_capacity(own.len() * slots as usize);
        for rows in own {
            for (slot, row) in rows.iter().enumerate() {
                places[*row as usize] = before + (all.len() + slot) as i64;
            }
            // Slots without a row of their own repeat the last one.
            all.extend((0..slots as usize).map(|slot| rows[slot.min(rows.len() - 1)]));
        }
        let first = all.first().copied().unwrap_or(0);
        let in_order = all.iter().zip(first..).all(|(row, expected)| *row == expected);
        let gather = (!in_order).then(|| index(&all, self.mask.device()));
        self.layout = Layout { slots, first, gather };
    }

    fn slots(&self) -> i64 {
        self.numbers.len() as i64 * self.layout.slots
    }
}

/// Which rows are copied where, within a tensor.
struct Moves(Option<[Tensor; 2]>);

impl Moves {
    /// The moves that bring `kept` to the first places. What is moved comes from beyond them.
    fn new(kept: &[usize], device: Device) -> Self {
        let moved = kept.iter().enumerate().filter(|(to, from)| to != *from);
        let (to, from): (Vec<i64>, Vec<i64>) = moved.map(|(to, from)| (to as i64, *from as i64)).unzip();
        Self((!to.is_empty()).then(|| [index(&to, device), index(&from, device)]))
    }

    fn apply(&self, tensor: &Tensor) {
        if let Self(Some([to, from])) = self {
            drop(tensor.shallow_clone().index_copy_(0, to, &tensor.index_select(0, from)));
        }
    }
}

/// The places to keep so that what is alive comes first: the last ones fill the holes.
#[must_use]
pub fn compact(alive: &[bool]) -> Vec<usize> {
    let count = alive.iter().filter(|alive| **alive).count();
    let mut last = (count..alive.len()).filter(|place| alive[*place]);
    (0..count).filter_map(|place| if alive[place] { Some(place) } else { last.next() }).collect()
}

impl Cascade {
    /// Responses whose rows belong to the prompts with the numbers `owners`, and none of which becomes
    /// longer than `most` tokens. Greedy ones are one a prompt and need no slots.
    #[must_use]
    pub fn new(
        config: &ModelConfig,
        prompts: Vec<Prompts>,
        owners: Vec<usize>,
        most: usize,
        greedy: bool,
    ) -> Self {
        let (device, kind) = (prompts[0].mask.device(), prompts[0].blocks[0][0].kind());
        let shape = [config.kv_heads, config.heads / config.kv_heads, config.head_dim];
        let (most, windows) = (i64::try_from(most).unwrap_or(i64::MAX), config.windows.clone());
        let mut new = Self {
            prompts,
            responses: Vec::new(),
            owners,
            places: None,
            length: 0,
            most,
            greedy,
            device,
            kind,
            shape,
            windows,
        };
        new.arrange();
        new.narrow();
        let capacity = new.capacity();
        new.responses = (0..config.layers).map(|_| [new.empty(capacity), new.empty(capacity)]).collect();
        new
    }

    /// Rows that there are.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.owners.len() as i64
    }

    /// Rows there is memory for.
    #[must_use]
    pub fn held(&self) -> i64 {
        self.responses.first().map_or(0, |[keys, _]| keys.size()[0])
    }

    fn capacity(&self) -> i64 {
        (2 * self.length).max(CAPACITY).min(self.most.max(self.length + 1))
    }

    fn empty(&self, capacity: i64) -> Tensor {
        let [kv, _, head] = self.shape;
        // Never read beyond what was written.
        Tensor::empty([self.rows(), kv, capacity, head], (self.kind, self.device))
    }

    /// Drops prompts without rows, and finds the slots of the others' rows.
    fn arrange(&mut self) {
        let mut rows: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        for (row, owner) in (0..).zip(&self.owners) {
            rows.entry(*owner).or_default().push(row);
        }
        // The queries of a group of heads share a product.
        let shared = self.shape[1].trailing_zeros().min(ROWS.trailing_zeros());
        let multiple = if self.greedy { 1 } else { ROWS >> shared };
        let mut places = vec![0; self.owners.len()];
        let mut before = 0;
        for prompts in &mut self.prompts {
            let alive: Vec<bool> = prompts.numbers.iter().map(|number| rows.contains_key(number)).collect();
            prompts.select(&compact(&alive));
            prompts.arrange(&rows, multiple, before, &mut places);
            before += prompts.slots();
        }
        self.prompts.retain(|prompts| !prompts.numbers.is_empty());
        let in_order = before == self.rows() && places.iter().zip(0..).all(|(place, row)| *place == row);
        self.places = (!in_order).then(|| index(&places, self.device));
    }

    /// Keeps these rows only, which are the answer of [`compact`].
    pub fn keep(&mut self, rows: &[usize]) {
        self.owners = rows.iter().map(|row| self.owners[*row]).collect();
        self.arrange();
        let moves = Moves::new(rows, self.device);
        for cache in self.responses.iter().flatten() {
            moves.apply(&cache.narrow(2, 0, self.length));
        }
    }

    /// Makes room for another token, and gives back the memory of rows that are gone.
    pub fn resize(&mut self) {
        let (rows, capacity) = (self.rows(), self.capacity());
        for block in 0..self.responses.len() {
            for side in 0..2 {
                let new = self.empty(capacity);
                let old = self.responses[block][side].narrow(0, 0, rows).narrow(2, 0, self.length);
                new.narrow(2, 0, self.length).copy_(&old);
                self.responses[block][side] = new;
            }
        }
    }

    /// Whether the caches have no room for another token: then [`Self::resize`] must be called.
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
        let query = attention.query.view([rows, kv, group, head]);
        let window = self.windows[block].unwrap_or(i64::MAX);
        let seen = (self.length + 1).min(window);
        let caches = self.responses[block]
            .each_ref()
            .map(|cache| cache.narrow(0, 0, rows).narrow(2, self.length + 1 - seen, seen));
        let newest = [&attention.key, &attention.value];
        let (own, own_weight) = kernels::attend(&query, caches.each_ref(), newest).unwrap_or_else(|| {
            for (cache, newest) in caches.iter().zip(newest) {
                cache.narrow(2, seen - 1, 1).copy_(&newest.unsqueeze(2));
            }
            attend(&query, &caches[0], &caches[1], None)
        });
        if window <= self.length + 1 {
            return own.transpose(1, 2).reshape([rows, -1]);
        }
        let (outs, weights): (Vec<Tensor>, Vec<Tensor>) =
            self.prompts.iter().map(|prompts| self.attend_prompts(block, prompts, &query)).unzip();
        let in_rows = |parts: Vec<Tensor>| {
            let all = cat(parts);
            self.places.as_ref().map_or_else(|| all.shallow_clone(), |places| all.index_select(0, places))
        };
        let (prompt, prompt_weight) = (in_rows(outs), in_rows(weights));
        if let Some(merged) = kernels::merge([&own, &own_weight], [&prompt, &prompt_weight]) {
            return merged;
        }
        let share = sigmoid(&(prompt_weight - own_weight)).unsqueeze(-1);
        // Not `lerp`, which rounds the last numbers otherwise where they do not fill a vector register.
        let (own, prompt) = (own.to_kind(Kind::Float), prompt.to_kind(Kind::Float));
        let merged = &own + (prompt - &own) * share;
        merged.to_kind(self.kind).transpose(1, 2).reshape([rows, -1])
    }

    /// Outputs `[slots, group, kv heads, head]` and log-sum-exps `[slots, group, kv heads]` of rows attending to
    /// their prompts.
    fn attend_prompts(&self, block: usize, prompts: &Prompts, query: &Tensor) -> (Tensor, Tensor) {
        let [kv, group, head] = self.shape;
        let Layout { slots, first, gather } = &prompts.layout;
        let query = match gather {
            Some(rows) => query.index_select(0, rows),
            None => query.narrow(0, *first, prompts.slots()),
        };
        // The queries of a group of heads share its keys: they become more rows of one product.
        let query =
            query.view([-1, *slots, kv, group, head]).transpose(1, 2).reshape([-1, kv, slots * group, head]);
        let count = prompts.numbers.len() as i64;
        let [keys, values] = prompts.blocks[block].each_ref().map(|cache| cache.narrow(0, 0, count));
        let narrowed = self.windows[block].and_then(|window| prompts.narrowed.get(&window));
        let (out, weight) = attend(&query, &keys, &values, Some(narrowed.unwrap_or(&prompts.mask)));
        (out.reshape([-1, group, kv, head]), weight.reshape([-1, group, kv]))
    }
}

/// Attention of `[batch, heads, rows, head]`: `[batch, rows, heads, head]`, the order in which the kernel
/// writes it, and its log-sum-exp `[batch, rows, heads]`.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>) -> (Tensor, Tensor) {
    let (out, weight) = if query.device() == Device::Cpu {
        let (batch, rows) = (query.size()[0], query.size()[2]);
        let mask = mask.map(|mask| mask.expand([batch, 1, rows, -1], false));
        Tensor::internal_scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, false, mask, None)
    } else {
        let [query, key, value] = [query, key, value].map(Tensor::shallow_clone);
        Inputs { query, key, value, mask: mask.map(Tensor::shallow_clone) }.attend_and_weigh()
    };
    (out.transpose(1, 2), weight.transpose(1, 2))
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
            let a = attend(&query, &key, &value, mask);
            let [query, key, value] = [&query, &key, &value].map(Tensor::shallow_clone);
            let b = Inputs { query, key, value, mask: mask.map(Tensor::shallow_clone) }.attend_and_weigh();
            let close = |a: &Tensor, b: &Tensor| a.allclose(&b.transpose(1, 2), 1e-5, 1e-5, false);
            assert!(close(&a.0, &b.0) && close(&a.1, &b.1));
        }
    }
}
