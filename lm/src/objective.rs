//! What is learnt from a row: the next tokens of a completion.

use bstar_stages::protocol::StageError;
use tch::{Device, Kind, Tensor};

use crate::block::Weight;
use crate::error::Result;
use crate::kernels;
use crate::matrix::mm;
use crate::model::{cat, index};
use crate::tokenizer::Tokenizer;

/// Predictions whose logits are in memory at a time, in numbers: on a CPU, and on devices that few rows leave idle.
const LOGITS: [i64; 2] = [1 << 26, 1 << 27];

/// What is learnt from a row.
pub trait Objective: Sync {
    /// A row, encoded.
    type Row: Sync;
    /// The tokens the model reads.
    fn ids<'a>(&self, row: &'a Self::Row) -> &'a [i64];
    /// Predictions that are judged.
    fn targets(&self, row: &Self::Row) -> usize;
    /// The positions from which predictions are made, in ascending order.
    fn judged(&self, row: &Self::Row) -> Vec<i64>;
    /// Judges predictions from hidden states `[judged positions of all rows, width]`: losses are summed
    /// and multiplied by `scale`. Adds the gradient of `head`, if it is learnt.
    ///
    /// # Errors
    /// When libtorch fails.
    fn judge(&self, rows: &[&Self::Row], hidden: &Tensor, head: &mut Weight, scale: f64) -> Result<Judged>;
}

/// A judgement.
#[derive(Debug)]
pub struct Judged {
    /// The loss times the scale, and the entropy of all predicted distributions in nats.
    pub sums: [f64; 2],
    /// The gradient of the hidden states.
    pub hidden: Tensor,
}

/// Predicting the tokens of a completion and its end.
#[derive(Debug, Clone, Copy)]
pub struct NextToken;

/// A prompt with its completion and the end token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow {
    ids: Vec<i64>,
    /// Position of the first token that is predicted.
    start: usize,
}

impl TextRow {
    /// Encodes a row; one that is too long loses the beginning of its prompt.
    ///
    /// # Errors
    /// When prompt and completion are empty, the completion alone is longer than `max_length`, or a text cannot be
    /// encoded.
    pub fn new(
        tokenizer: &Tokenizer,
        prompt: &str,
        completion: &str,
        eos: i64,
        max_length: usize,
    ) -> Result<Self> {
        let mut ids = tokenizer.encode(prompt)?;
        let mut target = tokenizer.encode(completion)?;
        target.push(eos);
        if ids.is_empty() && target.len() == 1 {
            return Err(StageError::invalid("a row has neither a prompt nor a completion")
                .hint("leave such rows out of the dataset"));
        }
        if ids.len().min(1) + target.len() > max_length {
            return Err(StageError::invalid(format!(
                "a completion of {} tokens does not fit into `max_length` {max_length}: {:?}",
                target.len(),
                completion.chars().take(60).collect::<String>(),
            ))
            .hint("raise `training.max_length`, at most to the positions that the model has, or leave such rows out"));
        }
        drop(ids.drain(..(ids.len() + target.len()).saturating_sub(max_length)));
        // Nothing predicts the first token of all.
        let start = ids.len().max(1);
        ids.append(&mut target);
        Ok(Self { ids, start })
    }

    /// A row that is encoded already; `start` is where its completion begins.
    ///
    /// # Errors
    /// When there is nothing to predict, or nothing to predict it from.
    pub fn from_ids(ids: Vec<i64>, start: usize) -> Result<Self> {
        if start == 0 || start >= ids.len() {
            let tokens = ids.len();
            return Err(StageError::invalid(format!(
                "a row of {tokens} tokens has no completion from {start} on"
            )));
        }
        Ok(Self { ids, start })
    }
}

impl Objective for NextToken {
    type Row = TextRow;

    fn ids<'a>(&self, row: &'a TextRow) -> &'a [i64] {
        &row.ids[..row.ids.len() - 1]
    }

    fn targets(&self, row: &TextRow) -> usize {
        row.ids.len() - row.start
    }

    fn judged(&self, row: &TextRow) -> Vec<i64> {
        (row.start as i64 - 1..row.ids.len() as i64 - 1).collect()
    }

    fn judge(&self, rows: &[&TextRow], hidden: &Tensor, head: &mut Weight, scale: f64) -> Result<Judged> {
        let targets: Vec<i64> = rows.iter().flat_map(|row| row.ids[row.start..].iter().copied()).collect();
        let (count, vocabulary) = (hidden.size()[0], head.value.size()[0]);
        let mut sums = [0.0; 2];
        let mut back = Vec::new();
        let most = LOGITS[usize::from(hidden.device() != Device::Cpu)];
        let step = (most / vocabulary).max(16);
        for (start, targets) in (0..count).step_by(step as usize).zip(targets.chunks(step as usize)) {
            let hidden = hidden.narrow(0, start, targets.len() as i64);
            let mut gradient = mm(&hidden, &head.value.tr());
            let [loss, entropy] = cross_entropy(&mut gradient, targets, scale);
            sums = [sums[0] + loss * scale, sums[1] + entropy];
            head.learn(&gradient.tr(), &hidden);
            back.push(mm(&gradient, &head.value));
        }
        Ok(Judged { sums, hidden: cat(back) })
    }
}

/// Turns logits `[rows, vocabulary]` into `scale` times the gradient of the summed cross-entropy with the targets;
/// answers that sum, and the sum of the entropies, neither of them scaled.
fn cross_entropy(logits: &mut Tensor, targets: &[i64], scale: f64) -> [f64; 2] {
    if let Some(sums) = kernels::cross_entropy(logits, targets, scale as f32) {
        return sums;
    }
    let targets = index(targets, logits.device()).unsqueeze(1);
    let logs = logits.log_softmax(-1, Kind::Float);
    let shares = logs.exp();
    let loss = logs.gather(1, &targets, false).sum(Kind::Double).neg();
    // The product of each row with itself: no third matrix of this size.
    let entropy = shares.unsqueeze(1).bmm(&logs.unsqueeze(2)).sum(Kind::Double).neg();
    // Rounded last: near one, 16 bits tell shares apart by 0.004 only.
    let mut gradient = shares;
    let ones = Tensor::full([targets.size()[0], 1], -1.0, (gradient.kind(), gradient.device()));
    drop(gradient.scatter_add_(1, &targets, &ones));
    logits.copy_(&gradient.g_mul_scalar_(scale));
    [loss, entropy].map(|sum| sum.double_value(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::folder;

    #[test]
    fn long_rows_lose_the_beginning_of_their_prompt() {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        let row = TextRow::new(&tokenizer, "Ann has 1 2 3 4", " pens", 1, 4).unwrap();
        assert_eq!((row.ids.len(), row.start), (4, 2));
        assert_eq!(tokenizer.decode(&row.ids).unwrap(), " 3 4 pens");
        let error = TextRow::new(&tokenizer, "Ann", " 1 2 3", 1, 4).unwrap_err();
        assert!(error.message.contains("`max_length` 4"), "{error}");
    }

    #[test]
    fn a_row_needs_a_token_to_read() {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        let row = |prompt, completion, length| TextRow::new(&tokenizer, prompt, completion, 1, length);
        let error = row("", "", 8).unwrap_err();
        assert!(error.message.contains("neither a prompt nor a completion"), "{error}");
        assert_eq!(NextToken.targets(&row("Ann", "", 8).unwrap()), 1);
        // Without a prompt the first token of the completion is read and not predicted.
        let (whole, tight) = (row("", " 1 2 3", 8).unwrap(), row("", " 1 2 3", 4).unwrap());
        assert_eq!((whole.ids.len(), whole.start), (4, 1));
        assert_eq!(whole, tight);
    }

    /// Of confident predictions: the gradient is the small rest of two numbers that are nearly the same.
    #[test]
    fn gradients_in_16_bits_are_those_in_32_rounded_once() {
        let logits = Tensor::zeros([4, 30], (Kind::Float, Device::Cpu));
        for (row, height) in [2.0, 8.0, 10.0, 14.0].into_iter().enumerate() {
            drop(logits.get(row as i64).narrow(0, 3, 1).fill_(height));
        }
        let (mut exact, mut rounded) = (logits.to_kind(Kind::Double), logits.to_kind(Kind::BFloat16));
        for logits in [&mut exact, &mut rounded] {
            let _sums = cross_entropy(logits, &[3; 4], 0.25);
        }
        assert_eq!(rounded.kind(), Kind::BFloat16);
        assert!(rounded.to_kind(Kind::Double).allclose(&exact, 1.0 / 256.0, 0.0, false));
    }

    #[test]
    fn losses_are_the_same_with_and_without_a_kernel() {
        let logits = crate::kernels::tests::random(&[6, 50]) * 4.0;
        let targets: Vec<i64> = (0..6).map(|row| row * 7 + 3).collect();
        let [mut single, mut double] = [Kind::Float, Kind::Double].map(|kind| logits.to_kind(kind).copy());
        let [ours, theirs] = [&mut single, &mut double].map(|logits| cross_entropy(logits, &targets, 0.25));
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            assert!((ours - theirs).abs() < 1e-5 * theirs, "{ours} {theirs}");
        }
        assert!(single.allclose(&double.to_kind(Kind::Float), 1e-5, 1e-6, false));
    }
}
