//! Prompts that were read, for responses that begin later, in this step or in the next ones.
//!
//! The shards of a step draw other samples of the same queries, so a policy keeps what it knows of a step's
//! prompts until a step has others.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use tch::Tensor;

use crate::batch::Packed;
use crate::config::ModelConfig;
use crate::generate::{Policy, Prompt};
use crate::model::{activations, rounded};

/// A prompt that was read.
#[derive(Debug)]
pub(crate) struct Read {
    /// Keys and values of each block: `[1, kv heads, padded length, head]`. Not to be written to.
    pub(crate) blocks: Vec<[Tensor; 2]>,
    /// The hidden state before the first token: `[1, width]`.
    pub(crate) hidden: Tensor,
}

/// What a policy keeps of the prompts it has read.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    held: HashMap<Vec<i64>, Rc<Read>>,
    bytes: usize,
    most: usize,
    /// Bytes for waves, where allocations failed with more.
    pub(crate) fitting: Option<usize>,
    /// How many were read so far.
    #[cfg(test)]
    pub(crate) count: usize,
    /// Tokens of what was read together.
    #[cfg(test)]
    pub(crate) pieces: Vec<usize>,
}

impl Read {
    pub(crate) fn bytes(&self) -> usize {
        let tensors = self.blocks.iter().flatten().chain([&self.hidden]);
        tensors.map(|tensor| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum()
    }
}

impl Reads {
    /// A step begins: other prompts than these are forgotten, and these are kept as long as they take at most
    /// `most` bytes.
    pub(crate) fn begin(&mut self, prompts: &[Prompt], most: usize) {
        let wanted: HashSet<&[i64]> = prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
        self.held.retain(|ids, _| wanted.contains(ids.as_slice()));
        self.bytes = self.held.values().map(|read| read.bytes()).sum();
        self.most = most;
        if self.bytes > most {
            self.forget();
        }
    }

    /// Gives all memory back, and keeps nothing until the next step begins.
    pub(crate) fn forget(&mut self) {
        self.held.clear();
        (self.bytes, self.most) = (0, 0);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn keep(&mut self, ids: &[i64], read: &Rc<Read>) {
        let bytes = read.bytes();
        if self.bytes + bytes <= self.most && self.held.insert(ids.to_vec(), Rc::clone(read)).is_none() {
            self.bytes += bytes;
        }
    }
}

impl Policy {
    /// Shows `take` the prompts of these tokens, each with its place among them. Those that were not kept are read, as many
    /// together as have `piece` tokens. The bits of each depend on its own tokens only.
    pub(crate) fn read(&self, prompts: &[&[i64]], piece: usize, mut take: impl FnMut(usize, Rc<Read>)) {
        let mut unknown = Vec::new();
        for (number, ids) in prompts.iter().enumerate() {
            let held = self.reads.borrow().held.get(*ids).map(Rc::clone);
            match held {
                Some(read) => take(number, read),
                None => unknown.push((number, *ids)),
            }
        }
        for piece in pieces(&unknown, piece) {
            let ids: Vec<&[i64]> = piece.iter().map(|(_, ids)| *ids).collect();
            #[cfg(test)]
            {
                let mut reads = self.reads.borrow_mut();
                reads.count += ids.len();
                reads.pieces.push(ids.iter().map(|ids| ids.len()).sum());
            }
            for ((number, ids), read) in piece.iter().zip(self.read_anew(&ids)) {
                let read = Rc::new(read);
                self.reads.borrow_mut().keep(ids, &read);
                take(*number, read);
            }
        }
    }

    /// Reads these, all at once.
    fn read_anew(&self, prompts: &[&[i64]]) -> Vec<Read> {
        let packed = Packed::new(prompts, self.model.device());
        let mut blocks: Vec<Vec<[Tensor; 2]>> = prompts.iter().map(|_| Vec::new()).collect();
        let hidden = packed.forward(&self.model, &self.weights, |_, attention| {
            for (number, (ids, blocks)) in prompts.iter().zip(&mut blocks).enumerate() {
                let (start, length) = (packed.start(number), ids.len() as i64);
                blocks.push([&attention.key, &attention.value].map(|stream| own(stream, start, length)));
            }
        });
        let ends =
            prompts.iter().enumerate().map(|(number, ids)| packed.start(number) + ids.len() as i64 - 1);
        let hidden = ends.map(|end| hidden.narrow(0, end, 1).copy());
        blocks.into_iter().zip(hidden).map(|(blocks, hidden)| Read { blocks, hidden }).collect()
    }

    /// Bytes that a token takes while its prompt is read: what is computed of it, its keys and values.
    pub(crate) fn reading_bytes(&self) -> usize {
        self.model.kind().elt_size_in_bytes() * activations(self.config()) + self.token_bytes()
    }

    /// Bytes of the keys and values of a token.
    pub(crate) fn token_bytes(&self) -> usize {
        let ModelConfig { layers, kv_heads, head_dim, .. } = *self.config();
        let numbers = usize::try_from(2 * layers * kv_heads * head_dim).unwrap_or(1);
        self.model.kind().elt_size_in_bytes() * numbers
    }
}

/// `[1, kv heads, padded length, head]` of a sequence in the stream `[tokens, kv heads, head]`; its last token is repeated where
/// there is padding.
fn own(stream: &Tensor, start: i64, length: i64) -> Tensor {
    let (padded, size) = (rounded(length), stream.size());
    let new = Tensor::empty([1, size[1], padded, size[2]], (stream.kind(), stream.device()));
    let tokens = stream.narrow(0, start, length).transpose(0, 1).unsqueeze(0);
    new.narrow(2, 0, length).copy_(&tokens);
    if padded > length {
        new.narrow(2, length, padded - length).copy_(&tokens.narrow(2, length - 1, 1));
    }
    new
}

/// Neighbours that have at most so many tokens together; one that has more is alone.
fn pieces<'a, 'b>(prompts: &'b [(usize, &'a [i64])], most: usize) -> Vec<&'b [(usize, &'a [i64])]> {
    let (mut pieces, mut first, mut tokens) = (Vec::new(), 0, 0);
    for (place, (_, ids)) in prompts.iter().enumerate() {
        if place > first && tokens + ids.len() > most {
            pieces.push(&prompts[first..place]);
            (first, tokens) = (place, 0);
        }
        tokens += ids.len();
    }
    if first < prompts.len() {
        pieces.push(&prompts[first..]);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_whole_prompts_in_their_order() {
        let ids = [0; 9];
        let prompts: Vec<(usize, &[i64])> =
            [3, 4, 9, 1, 2, 3].into_iter().map(|length| &ids[..length]).enumerate().collect();
        let lengths = |most| -> Vec<Vec<usize>> {
            let pieces = pieces(&prompts, most);
            pieces.iter().map(|piece| piece.iter().map(|(_, ids)| ids.len()).collect()).collect()
        };
        assert_eq!(lengths(7), [vec![3, 4], vec![9], vec![1, 2, 3]]);
        assert_eq!(lengths(0), [[3], [4], [9], [1], [2], [3]]);
        assert_eq!(lengths(usize::MAX), [[3, 4, 9, 1, 2, 3]]);
        assert!(super::pieces(&[], 7).is_empty());
    }

    #[test]
    fn padding_repeats_the_last_token() {
        let stream = Tensor::arange(2 * 3 * 40, (tch::Kind::Float, tch::Device::Cpu)).view([40, 2, 3]);
        let found = own(&stream, 5, 18);
        assert_eq!(found.size(), [1, 2, rounded(18), 3]);
        for position in 0..rounded(18) {
            let expected = stream.get(5 + position.min(17));
            assert!(found.get(0).narrow(1, position, 1).squeeze_dim(1).equal(&expected), "{position}");
        }
    }
}
