//! Attention by its definition, in matrix products: for devices without a kernel that gives its log-sum-exp, and for
//! gradients there. A GPU's kernels add those up in whatever order their blocks end, so that training would not repeat its
//! bits; products, and sums over rows, do.

use tch::{Device, Kind, Tensor};

use crate::model::cat;

/// Scores that are in memory at a time, several times over.
const SCORES: i64 = 1 << 27;

/// Queries, keys and values `[…, heads, length, head]`.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) query: Tensor,
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
    /// What is added to scores, in 32 bits: zero where a query looks, minus infinity elsewhere.
    pub(crate) mask: Option<Tensor>,
}

impl Inputs {
    /// The output, in the queries' shape.
    pub(crate) fn attend(&self) -> Tensor {
        self.shares().to_kind(self.value.kind()).matmul(&self.value)
    }

    /// The same, and the log-sum-exp of the scores `[…, heads, length]`.
    pub(crate) fn attend_and_weigh(&self) -> (Tensor, Tensor) {
        let scores = self.scores();
        let weight = scores.logsumexp([-1_i64].as_slice(), true);
        let shares = (scores - &weight).exp_().to_kind(self.value.kind());
        (shares.matmul(&self.value), weight.squeeze_dim(-1))
    }

    /// The gradients of queries, keys and values from that of the output.
    pub(crate) fn backward(&self, gradient: &Tensor) -> [Tensor; 3] {
        let (shares, kind) = (self.shares(), self.value.kind());
        let of_value = shares.to_kind(kind).transpose(-2, -1).matmul(gradient);
        let of_shares = gradient.matmul(&self.value.transpose(-2, -1)).to_kind(Kind::Float);
        let mut of_scores = Tensor::internal_softmax_backward_data(&of_shares, &shares, -1, Kind::Float);
        let of_scores = of_scores.g_mul_scalar_(self.scale()).to_kind(kind);
        [of_scores.matmul(&self.key), of_scores.transpose(-2, -1).matmul(&self.query), of_value]
    }

    /// [`Self::attend`] of `[rows, heads, length, head]`, which all have one mask: as many heads at a time as memory is
    /// meant for.
    pub(crate) fn attend_in_parts(&self) -> Tensor {
        let outputs: Vec<Tensor> = self.parts(SCORES).map(|(_, part)| part.attend()).collect();
        cat(outputs).view(self.query.size().as_slice())
    }

    /// [`Self::backward`] of the same.
    pub(crate) fn backward_in_parts(&self, gradient: &Tensor) -> [Tensor; 3] {
        let gradient = heads(gradient);
        let mut found: [Vec<Tensor>; 3] = Default::default();
        for (start, part) in self.parts(SCORES) {
            let gradients = part.backward(&gradient.narrow(0, start, part.query.size()[0]));
            found.iter_mut().zip(gradients).for_each(|(all, part)| all.push(part));
        }
        found.map(|parts| cat(parts).view(self.query.size().as_slice()))
    }

    /// What queries have of each key `[…, heads, queries, keys]`, in 32 bits.
    fn shares(&self) -> Tensor {
        self.scores().softmax(-1, Kind::Float)
    }

    /// `[…, heads, queries, keys]`, in 32 bits.
    fn scores(&self) -> Tensor {
        let scores = self.query.matmul(&self.key.transpose(-2, -1));
        match &self.mask {
            // In one pass.
            Some(mask) => {
                let scale = Tensor::full([1], self.scale(), (Kind::Float, scores.device()));
                mask.addcmul(&scores, &scale)
            }
            None => scores.to_kind(Kind::Float) * self.scale(),
        }
    }

    /// What the products of queries and keys are multiplied by.
    #[expect(clippy::cast_precision_loss, reason = "the width of a head")]
    fn scale(&self) -> f64 {
        (self.query.size().last().copied().unwrap_or(1) as f64).powf(-0.5)
    }

    /// The inputs of some heads after the other, `[heads, length, head]`, with the number of the first: at most so many scores
    /// at a time, or one head.
    fn parts(&self, scores: i64) -> impl Iterator<Item = (i64, Self)> {
        let [query, key, value] = [&self.query, &self.key, &self.value].map(heads);
        let (all, length) = (query.size()[0], query.size()[1]);
        let most = (scores / (length * length).max(1)).max(1);
        (0..all).step_by(most as usize).map(move |start| {
            let [query, key, value] =
                [&query, &key, &value].map(|x| x.narrow(0, start, most.min(all - start)));
            (start, Self { query, key, value, mask: self.mask.as_ref().map(Tensor::shallow_clone) })
        })
    }
}

/// What is added to the scores of a sequence in which a token sees itself and those before it, no more than `window` in all:
/// zero where it looks, minus infinity elsewhere.
pub(crate) fn band(length: i64, window: i64, (kind, device): (Kind, Device)) -> Tensor {
    let ones = Tensor::ones([length, length], (Kind::Bool, device));
    let seen = ones.tril(0).logical_and(&ones.triu(1 - window));
    Tensor::zeros([length, length], (kind, device)).masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
}

/// `[rows, heads, length, head]` as `[rows × heads, length, head]`.
fn heads(x: &Tensor) -> Tensor {
    let size = x.size();
    x.reshape([-1, size[2], size[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{by_graph, close, random};

    fn inputs() -> Inputs {
        let [query, key, value] =
            [[2, 3, 9, 8], [3, 2, 9, 8], [2, 3, 9, 8]].map(|shape: [i64; 4]| random(&shape));
        let mask = band(9, 9, (Kind::Float, Device::Cpu));
        Inputs { query, key: key.view([2, 3, 9, 8]).flip([0]), value: value.flip([2]), mask: Some(mask) }
    }

    #[test]
    fn attention_and_its_gradients_are_those_of_libtorch() {
        let inputs = inputs();
        let (output, (also, _)) = (inputs.attend(), inputs.attend_and_weigh());
        let theirs = |[query, key, value]: &[Tensor; 3]| {
            Tensor::scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, true, None, false)
        };
        let given = [&inputs.query, &inputs.key, &inputs.value];
        let expected = theirs(&given.map(Tensor::shallow_clone));
        assert!(close(&output, &expected) && close(&also, &expected));
        let gradient = random(&[2, 3, 9, 8]).flip([1]);
        let found = inputs.backward(&gradient);
        for (found, expected) in found.iter().zip(by_graph(given, &gradient, theirs)) {
            assert!(close(found, &expected));
        }
    }

    #[test]
    fn heads_may_be_computed_one_after_the_other() {
        let inputs = inputs();
        assert!(close(&inputs.attend_in_parts(), &inputs.attend()));
        let gradient = random(&[2, 3, 9, 8]).flip([1]);
        let expected = inputs.backward(&gradient);
        for (found, expected) in inputs.backward_in_parts(&gradient).iter().zip(expected) {
            assert!(close(found, &expected));
        }
        let sizes =
            |scores| inputs.parts(scores).map(|(start, part)| (start, part.query.size()[0])).collect();
        let (one, two): (Vec<_>, Vec<_>) = (sizes(1), sizes(170));
        assert_eq!(one, (0..6).map(|head| (head, 1)).collect::<Vec<_>>());
        assert_eq!(two, [(0, 2), (2, 2), (4, 2)]);
    }
}
