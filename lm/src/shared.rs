//! Texts that go on from shared prompts, in one stream of tokens: a prompt is computed once for all of them.
//!
//! A token of a text attends to its text and to its prompt apart, and the two results are merged by their
//! log-sum-exp, which is exact. What is computed for a text has shapes that depend on the text and on its prompt only,
//! so its bits do not depend on its company.

use tch::{Device, Kind, Tensor};

use crate::attention::{Inputs, band};
use crate::batch::Packed;
use crate::model::{Attention, Decoder, Weights, forward, sigmoid};

/// Prompts, and texts that go on from them.
#[derive(Debug)]
pub struct Shared {
    prompts: Packed,
    texts: Option<Texts>,
    ids: Tensor,
    positions: Vec<i64>,
}

/// The second part of the stream.
#[derive(Debug)]
struct Texts {
    packed: Packed,
    /// Rows of the stream before it.
    before: i64,
    /// Rows of it.
    rows: i64,
    /// First row and length, in the stream, of the prompt of each text.
    prompts: Vec<(i64, i64)>,
}

impl Shared {
    /// Prompts (or other sequences), none of which is empty, and the texts that go on from some of them: the number
    /// of the prompt, in ascending order, and tokens, of which there are some.
    #[must_use]
    pub fn new(prompts: &[&[i64]], texts: &[(usize, &[i64])], device: Device) -> Self {
        let packed = Packed::new(prompts, device);
        if texts.is_empty() {
            let (ids, positions) = (packed.ids().shallow_clone(), packed.positions().to_vec());
            return Self { prompts: packed, texts: None, ids, positions };
        }
        let before = packed.positions().len() as i64;
        let sequences: Vec<&[i64]> = texts.iter().map(|(_, ids)| *ids).collect();
        let second = Packed::new(&sequences, device);
        let rows = second.positions().len() as i64;
        let ids = Tensor::cat(&[packed.ids(), second.ids()], 0);
        let mut positions = packed.positions().to_vec();
        positions.extend_from_slice(second.positions());
        let place = |(owner, _): &(usize, &[i64])| (packed.start(*owner), prompts[*owner].len() as i64);
        let owners: Vec<(i64, i64)> = texts.iter().map(place).collect();
        for (number, ((_, ids), (_, length))) in texts.iter().zip(&owners).enumerate() {
            let first = (before + second.start(number)) as usize;
            positions[first..first + ids.len()].iter_mut().for_each(|position| *position += length);
        }
        let texts = Some(Texts { packed: second, before, rows, prompts: owners });
        Self { prompts: packed, texts, ids, positions }
    }

    /// Where in the stream the token at `position` of a prompt is.
    #[must_use]
    pub fn in_prompt(&self, prompt: usize, position: i64) -> i64 {
        self.prompts.start(prompt) + position
    }

    /// Where in the stream the token at `position` of a text is, counted from the text's first.
    #[must_use]
    pub fn in_text(&self, text: usize, position: i64) -> i64 {
        self.texts.as_ref().map_or(0, |texts| texts.before + texts.packed.start(text) + position)
    }

    /// Hidden states of the stream, `[tokens, width]`. Texts do not know of windows: no text may end beyond one.
    pub fn forward(&self, model: &Decoder, weights: &Weights) -> Tensor {
        let rotary = model.rotary(&self.positions);
        let config = model.config();
        forward(config, weights, &self.ids, &rotary, |block, attention| match &self.texts {
            None => self.prompts.attend(attention, config.windows[block]),
            Some(texts) => {
                let part = |first: i64, count: i64| Attention {
                    query: attention.query.narrow(0, first, count),
                    key: attention.key.narrow(0, first, count),
                    value: attention.value.narrow(0, first, count),
                };
                let prompts = self.prompts.attend(&part(0, texts.before), config.windows[block]);
                Tensor::cat(&[prompts, texts.attend(attention, &part(texts.before, texts.rows))], 0)
            }
        })
    }
}

impl Texts {
    /// Attention of the texts, `[rows, heads × head]`: `own` is that of their part of the stream.
    fn attend(&self, stream: &Attention, own: &Attention) -> Tensor {
        let (heads, head) = (own.query.size()[1], own.query.size()[2]);
        let group = heads / own.key.size()[1];
        let repeated = |x: Tensor| if group == 1 { x } else { x.repeat_interleave_self_int(group, 1, None) };
        let attended: Vec<Tensor> = self
            .packed
            .buckets()
            .iter()
            .map(|bucket| {
                let [query, key, value] =
                    [&own.query, &own.key, &own.value].map(|x| bucket.take(x).transpose(1, 2));
                let (out, weight) = attend(&query, &repeated(key), &repeated(value), true);
                let (mut outs, mut weights, mut first) = (Vec::new(), Vec::new(), 0);
                for texts in
                    bucket.sequences.chunk_by(|one, other| self.prompts[*one] == self.prompts[*other])
                {
                    let count = texts.len() as i64;
                    let (out, weight) =
                        attend_prompt(stream, &query.narrow(0, first, count), self.prompts[texts[0]]);
                    outs.push(out);
                    weights.push(weight);
                    first += count;
                }
                let (prompt, prompt_weight) = (Tensor::cat(&outs, 0), Tensor::cat(&weights, 0));
                let share = sigmoid(&(prompt_weight - weight)).unsqueeze(-1);
                let merged = out.to_kind(Kind::Float).lerp_tensor(&prompt.to_kind(Kind::Float), &share);
                merged.to_kind(query.kind()).transpose(1, 2).reshape([-1, heads * head])
            })
            .collect();
        self.packed.join(&attended)
    }
}

/// Texts of equal length attending to their prompt: outputs `[texts, heads, length, head]` and log-sum-exps
/// `[texts, heads, length]` of queries `[texts, heads, length, head]`.
fn attend_prompt(stream: &Attention, query: &Tensor, (start, length): (i64, i64)) -> (Tensor, Tensor) {
    let (count, heads, kv) = (query.size()[0], query.size()[1], stream.key.size()[1]);
    let (rows, head) = (query.size()[2], query.size()[3]);
    // The queries of a group of heads, which lie side by side, share its keys: they become more rows of one product.
    let query = query.reshape([count, kv, heads / kv * rows, head]);
    let [key, value] = [&stream.key, &stream.value].map(|x| {
        let prompt = x.narrow(0, start, length).transpose(0, 1).unsqueeze(0);
        prompt.expand([count, -1, -1, -1], false)
    });
    let (out, weight) = attend(&query, &key, &value, false);
    (out.reshape([count, heads, rows, head]), weight.reshape([count, heads, rows]))
}

/// Attention of `[batch, heads, rows, head]` with its log-sum-exp `[batch, heads, rows]`.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, causal: bool) -> (Tensor, Tensor) {
    if query.device() == Device::Cpu {
        return Tensor::internal_scaled_dot_product_flash_attention_for_cpu(
            query,
            key,
            value,
            0.0,
            causal,
            None::<&Tensor>,
            None,
        );
    }
    let mask = causal.then(|| {
        let length = query.size()[2];
        band(length, length, (Kind::Float, query.device()))
    });
    let [query, key, value] = [query, key, value].map(Tensor::shallow_clone);
    Inputs { query, key, value, mask }.attend_and_weigh()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::random;

    #[test]
    fn texts_are_computed_as_if_their_prompts_were_theirs_alone() {
        let _guard = tch::no_grad_guard();
        for (hidden, heads, kv) in [(96, 3, 3), (64, 4, 2)] {
            let model = random(hidden, 2, heads, kv, 50);
            let weights = model.weights();
            let sequence = |length: i64, seed: i64| -> Vec<i64> {
                (0..length).map(|token| (token * 7 + seed) % 50).collect()
            };
            let prompts = [sequence(5, 1), sequence(40, 2), sequence(16, 3)];
            let texts: Vec<(usize, Vec<i64>)> =
                [(0, 1), (0, 17), (0, 33), (2, 16), (2, 3)].map(|(owner, n)| (owner, sequence(n, n))).into();
            let given: Vec<(usize, &[i64])> =
                texts.iter().map(|(owner, ids)| (*owner, ids.as_slice())).collect();
            let shared = Shared::new(&prompts.each_ref().map(Vec::as_slice), &given, Device::Cpu);
            let hidden = shared.forward(&model, &weights);
            for (number, (owner, text)) in texts.iter().enumerate() {
                let whole = [prompts[*owner].clone(), text.clone()].concat();
                let alone = Packed::new(&[&whole], Device::Cpu).forward(&model, &weights, |_, _| ());
                let alone = alone.narrow(0, prompts[*owner].len() as i64, text.len() as i64);
                let found = hidden.narrow(0, shared.in_text(number, 0), text.len() as i64);
                assert!(found.allclose(&alone, 1e-4, 1e-5, false), "text {number}");
            }
            let alone = Packed::new(&[&prompts[1]], Device::Cpu).forward(&model, &weights, |_, _| ());
            let found = hidden.narrow(0, shared.in_prompt(1, 0), 40);
            assert!(found.equal(&alone.narrow(0, 0, 40)), "a prompt is a sequence like any other");
        }
    }
}
