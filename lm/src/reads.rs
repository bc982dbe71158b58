//! Prompts that were read, for responses that begin later, in this step or in the next ones.
//!
//! The shards of a step draw other samples of the same queries, so a policy keeps what it knows of a step's
//! prompts until a step has others.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use tch::Tensor;

use crate::batch::Packed;
use crate::generate::{Policy, Prompt};

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
    /// How many were read so far.
    #[cfg(test)]
    pub(crate) count: usize,
}

impl Read {
    /// Positions of its keys, those of padding included.
    pub(crate) fn padded(&self) -> i64 {
        self.blocks[0][0].size()[2]
    }

    fn bytes(&self) -> usize {
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
    /// The prompts of these tokens; those that were not kept are read together. The bits of each depend on its own
    /// tokens only.
    pub(crate) fn read(&self, prompts: &[&[i64]]) -> Vec<Rc<Read>> {
        let mut reads = self.reads.borrow_mut();
        let mut found: Vec<Option<Rc<Read>>> =
            prompts.iter().map(|ids| reads.held.get(*ids).map(Rc::clone)).collect();
        let new: Vec<usize> = (0..prompts.len()).filter(|number| found[*number].is_none()).collect();
        let unknown: Vec<&[i64]> = new.iter().map(|number| prompts[*number]).collect();
        #[cfg(test)]
        {
            reads.count += unknown.len();
        }
        for (number, read) in self.read_anew(&unknown) {
            let read = Rc::new(read);
            reads.keep(unknown[number], &read);
            found[new[number]] = Some(read);
        }
        found.into_iter().flatten().collect()
    }

    /// Reads these, all at once; numbers say which is which.
    fn read_anew(&self, prompts: &[&[i64]]) -> Vec<(usize, Read)> {
        if prompts.is_empty() {
            return Vec::new();
        }
        let packed = Packed::new(prompts, self.model.device());
        let mut streams: Vec<Vec<[Tensor; 2]>> = packed.buckets().iter().map(|_| Vec::new()).collect();
        let hidden = packed.forward(&self.model, &self.weights, |_, attention| {
            for (bucket, blocks) in packed.buckets().iter().zip(&mut streams) {
                let take = |stream: &Tensor| bucket.take(stream).transpose(1, 2).contiguous();
                blocks.push([take(&attention.key), take(&attention.value)]);
            }
        });
        let mut reads = Vec::with_capacity(prompts.len());
        for (bucket, blocks) in packed.buckets().iter().zip(streams) {
            for (place, number) in bucket.sequences.iter().enumerate() {
                let copy = |tensor: &Tensor| tensor.narrow(0, place as i64, 1).copy();
                let blocks = blocks.iter().map(|pair| pair.each_ref().map(copy)).collect();
                let last = packed.start(*number) + prompts[*number].len() as i64 - 1;
                reads.push((*number, Read { blocks, hidden: hidden.narrow(0, last, 1).copy() }));
            }
        }
        reads
    }
}
