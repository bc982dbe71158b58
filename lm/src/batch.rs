//! Sequences of different lengths in one stream of tokens, each attending to itself only.
//!
//! Attention is computed in buckets of sequences whose lengths, rounded up to a multiple of
//! [`ROWS`](crate::model::ROWS), are equal. The padding is at the end, where causal attention never
//! looks, and depends on the sequence's own length only: results do not depend on the company.

use std::collections::BTreeMap;

use tch::{Device, Tensor};

use crate::attention::band;
use crate::model::{Attention, Decoder, Weights, forward, index, rounded};

/// Sequences whose rounded lengths are equal.
#[derive(Debug)]
pub struct Bucket {
    /// Which sequences, by position in what was packed.
    pub sequences: Vec<usize>,
    /// Their rounded length.
    pub length: i64,
    /// Where in the stream each position is; padding repeats the last token.
    gather: Tensor,
}

/// Sequences in one stream.
#[derive(Debug)]
pub struct Packed {
    ids: Tensor,
    positions: Vec<i64>,
    /// Where in the stream each sequence starts.
    starts: Vec<i64>,
    buckets: Vec<Bucket>,
    /// Where in the buckets, laid one after the other, each token of the stream is.
    scatter: Tensor,
}

impl Bucket {
    /// `[sequences, length, …]` of the stream's `[tokens, …]`.
    pub fn take(&self, stream: &Tensor) -> Tensor {
        let mut shape = stream.size();
        shape[0] = self.length;
        shape.insert(0, -1);
        stream.index_select(0, &self.gather).view(shape.as_slice())
    }
}

impl Packed {
    /// Packs sequences, none of which is empty.
    #[must_use]
    pub fn new(sequences: &[&[i64]], device: Device) -> Self {
        let (mut ids, mut positions, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut groups: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (number, sequence) in sequences.iter().enumerate() {
            starts.push(ids.len() as i64);
            ids.extend_from_slice(sequence);
            positions.extend(0..sequence.len() as i64);
            groups.entry(rounded(sequence.len() as i64)).or_default().push(number);
        }
        let mut scatter = vec![0; ids.len()];
        let mut before = 0;
        let mut buckets = Vec::with_capacity(groups.len());
        for (length, members) in groups {
            let mut gather = Vec::with_capacity(members.len() * length as usize);
            for number in &members {
                let (start, tokens) = (starts[*number], sequences[*number].len() as i64);
                gather.extend((0..length).map(|position| start + position.min(tokens - 1)));
                for position in 0..tokens {
                    scatter[(start + position) as usize] = before + position;
                }
                before += length;
            }
            buckets.push(Bucket { sequences: members, length, gather: index(&gather, device) });
        }
        // Rows that belong to no sequence, so that products have a multiple of `ROWS` rows.
        let rows = rounded(ids.len() as i64) as usize;
        for list in [&mut ids, &mut positions, &mut scatter] {
            list.resize(rows, 0);
        }
        Self { ids: index(&ids, device), positions, starts, buckets, scatter: index(&scatter, device) }
    }

    /// The tokens of the stream, and some that only fill up.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// The positions of the stream's tokens in their sequences.
    #[must_use]
    pub fn positions(&self) -> &[i64] {
        &self.positions
    }

    /// What was computed for each bucket, `[sequences × length, …]`, in the order of the stream.
    pub fn join(&self, buckets: &[Tensor]) -> Tensor {
        Tensor::cat(buckets, 0).index_select(0, &self.scatter)
    }

    /// Where in the stream a sequence starts.
    #[must_use]
    pub fn start(&self, sequence: usize) -> i64 {
        self.starts[sequence]
    }

    /// The sequences by rounded length.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Causal self-attention of every sequence: `[tokens, heads × head]`. With a window, a token sees no
    /// more than that many, itself included.
    pub fn attend(&self, attention: &Attention, window: Option<i64>) -> Tensor {
        let Attention { query, key, value } = attention;
        let width = query.size()[1] * query.size()[2];
        let grouped = query.size()[1] != key.size()[1];
        let attended: Vec<Tensor> = self
            .buckets
            .iter()
            .map(|bucket| {
                let [query, key, value] = [query, key, value].map(|x| bucket.take(x).transpose(1, 2));
                // Only sequences that are longer than the window need to know of it.
                let band = window
                    .filter(|window| *window < bucket.length)
                    .map(|window| band(bucket.length, window, (query.kind(), query.device())));
                let causal = band.is_none();
                Tensor::scaled_dot_product_attention(
                    &query,
                    &key,
                    &value,
                    band.as_ref(),
                    0.0,
                    causal,
                    None,
                    grouped,
                )
                .transpose(1, 2)
                .reshape([-1, width])
            })
            .collect();
        self.join(&attended)
    }

    /// Hidden states of the stream, `[tokens, width]`; `see` is shown every block's attention.
    pub fn forward(
        &self,
        model: &Decoder,
        weights: &Weights,
        mut see: impl FnMut(usize, &Attention),
    ) -> Tensor {
        let rotary = model.rotary(&self.positions);
        let config = model.config();
        forward(config, weights, &self.ids, &rotary, |block, attention| {
            see(block, attention);
            self.attend(attention, config.windows[block])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::random;

    #[test]
    fn sequences_do_not_see_each_other() {
        let _guard = tch::no_grad_guard();
        for (hidden, heads, kv) in [(96, 3, 3), (64, 4, 2)] {
            let model = random(hidden, 2, heads, kv, 50);
            let weights = model.weights();
            let sequences: Vec<Vec<i64>> =
                (1..40).map(|length| (0..length).map(|token| (token * 7 + length) % 50).collect()).collect();
            let run = |chosen: &[usize]| -> Vec<Tensor> {
                let chosen: Vec<&[i64]> = chosen.iter().map(|number| sequences[*number].as_slice()).collect();
                let packed = Packed::new(&chosen, Device::Cpu);
                let hidden = packed.forward(&model, &weights, |_, _| ());
                (0..chosen.len())
                    .map(|number| hidden.narrow(0, packed.start(number), chosen[number].len() as i64))
                    .collect()
            };
            let all: Vec<usize> = (0..sequences.len()).collect();
            let together = run(&all);
            for chosen in [vec![0], vec![17], vec![38, 2, 16], vec![5, 4, 3, 2, 1, 0, 30, 31]] {
                for (alone, number) in run(&chosen).iter().zip(&chosen) {
                    assert!(alone.equal(&together[*number]), "sequence {number} of {chosen:?}");
                }
            }
        }
    }

    #[test]
    fn a_token_does_not_see_what_follows() {
        let _guard = tch::no_grad_guard();
        let model = random(64, 2, 2, 2, 50);
        let weights = model.weights();
        let long: Vec<i64> = (0..32).map(|token| token % 50).collect();
        let run = |ids: &[i64]| Packed::new(&[ids], Device::Cpu).forward(&model, &weights, |_, _| ());
        let (whole, part) = (run(&long), run(&long[..20]));
        assert!(whole.narrow(0, 0, 20).allclose(&part.narrow(0, 0, 20), 1e-4, 1e-5, false));
    }
}
