//! What is learnt from a row: the next tokens of a completion.

use bstar_stages::protocol::StageError;
use tch::{Device, Kind, Tensor};

use crate::block::Weight;
use crate::error::Result;
use crate::model::index;
use crate::tokenizer::Tokenizer;

/// Predictions whose logits are in memory at a time, in numbers.
const LOGITS: i64 = 1 << 26;
/// Logits that are looked at together: as many as stay in a core's cache.
const CACHED: i64 = 1 << 18;

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
    /// When the completion alone is longer than `max_length`, or a text cannot be encoded.
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
        if target.len() + 1 > max_length {
            return Err(StageError::invalid(format!(
                "a completion of {} tokens does not fit into `max_length` {max_length}: {:?}",
                target.len(),
                completion.chars().take(60).collect::<String>(),
            ))
            .hint("raise `training.max_length`, or leave such rows out"));
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
        let targets = index(&targets, hidden.device()).unsqueeze(1);
        let (count, vocabulary) = (hidden.size()[0], head.value.size()[0]);
        let mut sums = Tensor::zeros([2], (Kind::Double, hidden.device()));
        let mut back = Vec::new();
        let step = (LOGITS / vocabulary).max(16);
        for start in (0..count).step_by(step as usize) {
            let rows = step.min(count - start);
            let (hidden, targets) = (hidden.narrow(0, start, rows), targets.narrow(0, start, rows));
            let mut gradient = hidden.mm(&head.value.tr());
            drop(sums.g_add_(&cross_entropy(&mut gradient, &targets)));
            head.learn(&gradient.tr(), &(&hidden * scale));
            back.push(gradient.mm(&head.value).g_mul_scalar_(scale));
        }
        let back = if back.len() == 1 { back.remove(0) } else { Tensor::cat(&back, 0) };
        let [loss, entropy] = [0, 1].map(|at| sums.double_value(&[at]));
        Ok(Judged { sums: [loss * scale, entropy], hidden: back })
    }
}

/// Turns logits `[rows, vocabulary]` into the gradient of the summed cross-entropy with `targets`
/// `[rows, 1]`; answers that sum, and the sum of the entropies.
fn cross_entropy(logits: &mut Tensor, targets: &Tensor) -> Tensor {
    let (rows, vocabulary) = (logits.size()[0], logits.size()[1]);
    let step = match logits.device() {
        Device::Cpu => (CACHED / vocabulary).max(8),
        _ => rows,
    };
    let mut sums = Tensor::zeros([2], (Kind::Double, logits.device()));
    for start in (0..rows).step_by(step as usize) {
        let count = step.min(rows - start);
        let (mut part, targets) = (logits.narrow(0, start, count), targets.narrow(0, start, count));
        let logs = part.log_softmax(-1, Kind::Float);
        let shares = logs.exp();
        let loss = logs.gather(1, &targets, false).sum(Kind::Double).neg();
        // The product of each row with itself: no third matrix of this size.
        let entropy = shares.unsqueeze(1).bmm(&logs.unsqueeze(2)).sum(Kind::Double).neg();
        drop(sums.g_add_(&Tensor::stack(&[loss, entropy], 0)));
        part.copy_(&shares);
        let ones = Tensor::full([count, 1], -1.0, (part.kind(), part.device()));
        drop(part.scatter_add_(1, &targets, &ones));
    }
    sums
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
}
