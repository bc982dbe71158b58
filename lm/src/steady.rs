//! Drawing where kernels choose by the shapes of what they compute, as on a GPU.
//!
//! Bits there depend on the number of rows of a matrix product, so every step computes as many rows, each
//! with as many positions: rows without a response are computed too, positions without a token are
//! masked. The shapes follow from the length of a row's own prompt, rounded up, from the settings, the model
//! and the memory of the device: not from who else is drawn. A place that becomes free is given to the next
//! response. Prompts are read one by one. Where memory is for fewer rows than products have, those are filled up.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bstar_stages::config::SampleShard;
use tch::{Kind, Tensor};

use crate::attention::Inputs;
use crate::draw::Drawing;
use crate::error::Result;
use crate::generate::{Policy, Prompt, Row, Sampling};
use crate::model::{Attention, forward, index, rounded};
use crate::reads::Read;
use crate::stream::Stream;

/// Most rows of a step.
const MOST: usize = 512;
/// Prompts are drawn with those that have as many times this number of tokens, begun ones included.
const CLASS: usize = 128;
/// Bytes a token of the vocabulary takes for each row while one is drawn.
const LOGIT_BYTES: usize = 28;

/// What waits, by the length of its prompt.
#[derive(Debug)]
pub struct Queue {
    /// Query and sample index, in order, under the rounded length of their prompts.
    waiting: BTreeMap<usize, VecDeque<(usize, u32)>>,
    /// Most rows of a step; halved when memory is short.
    most: usize,
}

/// Places for rows, all of one shape.
#[derive(Debug)]
struct Places {
    /// The response in each, by its number.
    rows: Vec<Option<usize>>,
    /// Positions that are filled, of each and of what fills up products.
    lengths: Vec<i64>,
    /// Keys and values of each block: `[rows, kv heads, capacity, head]`.
    blocks: Vec<[Tensor; 2]>,
    /// Before the next token of each: `[rows and what fills up, width]`.
    hidden: Tensor,
    capacity: i64,
}

impl Queue {
    /// All responses.
    #[must_use]
    pub fn new(prompts: &[Prompt], sampling: &Sampling<'_>) -> Self {
        let SampleShard { start, end, .. } = *sampling.settings;
        let mut queue = Self { waiting: BTreeMap::new(), most: MOST };
        for (query, prompt) in prompts.iter().enumerate() {
            (start..end).for_each(|sample| queue.class(prompt).push_back((query, sample)));
        }
        queue
    }

    fn class(&mut self, prompt: &Prompt) -> &mut VecDeque<(usize, u32)> {
        self.waiting.entry(prompt.ids.len().next_multiple_of(CLASS)).or_default()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.values().all(VecDeque::is_empty)
    }

    /// Most rows of a step.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Plans for half the rows, which is another shape; answers whether there was anything to halve.
    pub fn halve(&mut self) -> bool {
        let halved = self.most > 1;
        self.most = (self.most / 2).max(1);
        halved
    }

    /// Lets just these responses wait, by query and sample index, in that order.
    pub fn begin_again(&mut self, prompts: &[Prompt], missing: &[(usize, u32)]) {
        self.waiting.clear();
        for &(query, sample) in missing {
            self.class(&prompts[query]).push_back((query, sample));
        }
    }

    /// Draws until nothing waits; `tick` hears how many responses are finished and may end it. `rows` are
    /// the responses, in the order in which they began.
    ///
    /// # Errors
    /// Those of `tick`, of the tokenizer, and of libtorch.
    pub fn run(
        &mut self,
        policy: &Policy,
        prompts: &[Prompt],
        sampling: &Sampling<'_>,
        rows: &mut Vec<Row>,
        tick: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let most = self.most;
        for (class, waiting) in self.waiting.iter_mut().filter(|(_, waiting)| !waiting.is_empty()) {
            let mut places = Places::new(policy, sampling, *class, most);
            let mut read = BTreeMap::new();
            loop {
                places.fill(policy, prompts, sampling, waiting, &mut read, rows);
                if places.held() == 0 {
                    break;
                }
                let next = places.draw(policy, prompts, sampling, rows)?;
                // What began and has no place any more is finished.
                tick(rows.len() - places.held())?;
                places.step(policy, &next);
            }
        }
        Ok(())
    }
}

impl Places {
    fn new(policy: &Policy, sampling: &Sampling<'_>, class: usize, most: usize) -> Self {
        let (config, model) = (policy.config(), &policy.model);
        let capacity = capacity(class, sampling.settings.max_tokens, config.context());
        let row = policy
            .token_bytes()
            .saturating_mul(capacity)
            .saturating_add(LOGIT_BYTES * usize::try_from(config.vocab_size).unwrap_or(1));
        let mut rows = most;
        while rows > 1 && rows.saturating_mul(row) > sampling.memory {
            rows /= 2;
        }
        let (count, capacity) = (rows as i64, i64::try_from(capacity).unwrap_or(i64::MAX));
        let options = (model.kind(), model.device());
        let shape = [count, config.kv_heads, capacity, config.head_dim];
        let empty = || Tensor::zeros(shape, options);
        Self {
            rows: vec![None; rows],
            lengths: vec![0; rounded(count) as usize],
            blocks: (0..config.layers).map(|_| [empty(), empty()]).collect(),
            hidden: Tensor::zeros([rounded(count), config.hidden_size], options),
            capacity,
        }
    }

    /// How many have a response.
    fn held(&self) -> usize {
        self.rows.iter().flatten().count()
    }

    /// Begins responses that wait in the places that are free.
    fn fill(
        &mut self,
        policy: &Policy,
        prompts: &[Prompt],
        sampling: &Sampling<'_>,
        waiting: &mut VecDeque<(usize, u32)>,
        read: &mut BTreeMap<usize, Rc<Read>>,
        rows: &mut Vec<Row>,
    ) {
        let mut begun: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        for place in 0..self.rows.len() {
            if self.rows[place].is_some() {
                continue;
            }
            let Some((query, sample)) = waiting.pop_front() else { break };
            let prompt = &prompts[query];
            let stream = Stream::new("sample", sampling.seed, &prompt.id, u64::from(sample));
            self.rows[place] = Some(rows.len());
            self.lengths[place] = prompt.ids.len() as i64;
            rows.push(Row::new(query, sample, stream));
            begun.entry(query).or_default().push(place as i64);
        }
        for (query, places) in begun {
            let prompt = match read.entry(query) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let mut found = None;
                    policy.read(&[&prompts[query].ids], 0, |_, prompt| found = Some(prompt));
                    let Some(found) = found else { continue };
                    new.insert(found)
                }
            };
            let (count, at) = (places.len() as i64, index(&places, policy.model.device()));
            for ([keys, values], [own_keys, own_values]) in self.blocks.iter().zip(&prompt.blocks) {
                for (all, own) in [(keys, own_keys), (values, own_values)] {
                    let own = own.expand([count, -1, -1, -1], false);
                    let mut filled = all.narrow(2, 0, own.size()[2]);
                    drop(filled.index_copy_(0, &at, &own));
                }
            }
            drop(self.hidden.index_copy_(0, &at, &prompt.hidden.expand([count, -1], false)));
        }
        // Samples of a query wait one after the other.
        let next = waiting.front().map(|(query, _)| *query);
        read.retain(|query, _| Some(*query) == next);
    }

    /// Draws a token of every row: those that are to be read.
    fn draw(
        &mut self,
        policy: &Policy,
        prompts: &[Prompt],
        sampling: &Sampling<'_>,
        rows: &mut [Row],
    ) -> Result<Vec<i64>> {
        let drawing = Drawing::from(sampling.settings);
        let logits = policy.weights.logits(&self.hidden);
        let mut uniforms = vec![0.5; self.lengths.len()];
        if !drawing.is_greedy() {
            for (uniform, row) in uniforms.iter_mut().zip(&self.rows) {
                if let Some(row) = row {
                    *uniform = rows[*row].stream.uniform();
                }
            }
        }
        let (mut tokens, logprobs) = drawing.choose(&logits, &uniforms)?;
        for (place, held) in self.rows.iter_mut().enumerate() {
            let Some(number) = *held else { continue };
            let row = &mut rows[number];
            let prompt = &prompts[row.query];
            policy.accept(row, tokens[place], logprobs[place], prompt, &sampling.settings.stop)?;
            if row.is_finished() {
                (*held, self.lengths[place]) = (None, 0);
            }
        }
        for (token, row) in tokens.iter_mut().zip(self.rows.iter().chain(std::iter::repeat(&None))) {
            if row.is_none() {
                *token = 0;
            }
        }
        Ok(tokens)
    }

    /// Reads the newest tokens.
    fn step(&mut self, policy: &Policy, tokens: &[i64]) {
        let (config, device) = (policy.config(), policy.model.device());
        #[cfg(test)]
        policy.take_room(tokens.len());
        let rotary = policy.model.rotary(&self.lengths);
        let rows = self.rows.len();
        let missing = (self.lengths.len() - rows) as i64;
        let newest = index(&self.lengths[..rows], device).view([-1, 1, 1, 1]);
        let mut masks: BTreeMap<Option<i64>, Tensor> = BTreeMap::new();
        for window in &config.windows {
            masks.entry(*window).or_insert_with(|| mask(&newest, self.capacity, *window));
        }
        let blocks = &self.blocks;
        self.hidden =
            forward(config, &policy.weights, &index(tokens, device), &rotary, |block, attention| {
                let part = |tensor: &Tensor| tensor.narrow(0, 0, rows as i64);
                let Attention { query, key, value } = attention;
                let attention = Attention { query: part(query), key: part(key), value: part(value) };
                let attended = attend(&blocks[block], &attention, &newest, &masks[&config.windows[block]]);
                if missing == 0 { attended } else { attended.constant_pad_nd([0, 0, 0, missing]) }
            });
        for (length, row) in self.lengths.iter_mut().zip(&self.rows) {
            *length += i64::from(row.is_some());
        }
    }
}

/// Positions of a row's cache, of a prompt of this class: no response goes beyond the model's last position.
fn capacity(class: usize, max_tokens: usize, context: i64) -> usize {
    let most = usize::try_from(context).unwrap_or(usize::MAX).min(usize::MAX / 2);
    class.saturating_add(max_tokens).min(most).next_multiple_of(CLASS / 2)
}

/// What is added to the scores of rows whose newest tokens are at `[rows, 1, 1, 1]`: zero where they look, minus
/// infinity elsewhere.
fn mask(newest: &Tensor, capacity: i64, window: Option<i64>) -> Tensor {
    let positions = Tensor::arange(capacity, (Kind::Int64, newest.device())).view([1, 1, 1, -1]);
    let mut hidden = positions.gt_tensor(newest);
    if let Some(window) = window {
        hidden = hidden.logical_or(&positions.le_tensor(&(newest - window)));
    }
    Tensor::zeros(hidden.size(), (Kind::Float, newest.device())).masked_fill(&hidden, f64::NEG_INFINITY)
}

/// Adds the newest keys and values, and lets the newest tokens look at all: `[rows, heads × head]`.
fn attend([keys, values]: &[Tensor; 2], attention: &Attention, newest: &Tensor, mask: &Tensor) -> Tensor {
    let size = keys.size();
    let (rows, kv, head) = (size[0], size[1], size[3]);
    let at = newest.expand([rows, kv, 1, head], false);
    drop(keys.shallow_clone().scatter_(2, &at, &attention.key.unsqueeze(2)));
    drop(values.shallow_clone().scatter_(2, &at, &attention.value.unsqueeze(2)));
    let query = attention.query.reshape([rows, kv, -1, head]);
    let [key, value] = [keys, values].map(Tensor::shallow_clone);
    Inputs { query, key, value, mask: Some(mask.shallow_clone()) }.attend().reshape([rows, -1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_no_longer_than_positions_go() {
        for (class, max_tokens, context, expected) in [
            (128, 10, 2048, 192),
            (128, 64, 2048, 192),
            (256, 1500, 2048, 1792),
            (256, 5000, 2048, 2048),
            (256, usize::MAX, 2048, 2048),
            // A class that goes beyond the last position.
            (128, 10, 100, 128),
            (128, 10, 64, 64),
        ] {
            assert_eq!(capacity(class, max_tokens, context), expected, "{class} {max_tokens} {context}");
        }
        assert!(capacity(128, usize::MAX, i64::MAX) >= 1 << 62);
    }
}
