//! The gradients of an update, computed in pieces whose order is fixed.
//!
//! The rows are cut into two halves with about as many tokens each, and these into pieces that fit
//! into memory (and, on a CPU, into caches). A half's gradients are added piece by piece, each half on
//! one thread; then the halves are added. With two threads the halves run side by side, with one they
//! run in turn: the bits are the same. A GPU computes all pieces in turn.

use bstar_stages::config::{Frozen, Training};
use bstar_stages::protocol::StageError;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::lora::Adapters;
use crate::model::Decoder;
use crate::objective::Objective;
use crate::optim::{chunk, in_two};
use crate::tensors::{Tensors, kind_of};
use crate::trunk::Trunk;

/// Tokens a piece, on a CPU and elsewhere.
const PIECE: [usize; 2] = [2048, 16384];

/// The machinery that computes gradients.
#[derive(Debug)]
pub(crate) struct Gradients {
    /// One for each half.
    sides: Vec<Trunk>,
    piece: usize,
    parallel: bool,
}

/// What an update is made of.
#[derive(Debug)]
pub(crate) struct Found {
    /// Mean loss of the targets.
    pub(crate) loss: f64,
    /// Mean entropy of the predicted distributions, in nats.
    pub(crate) entropy: f64,
    /// Global norm.
    pub(crate) norm: f64,
}

/// Whether a parameter is learnt. `tied`: whether the embedding is the head too. The head of a reward model always
/// is learnt: it begins at zero, and nothing before it has a gradient until it has moved.
fn learns(settings: &Training, tied: bool, name: &str) -> bool {
    let frozen = |part: Frozen| settings.freeze.contains(&part);
    let head = name == "lm_head.weight";
    let embedding = name == "model.embed_tokens.weight";
    settings.lora.is_none()
        && !(frozen(Frozen::Norms) && name.contains("norm"))
        && !(frozen(Frozen::Embeddings) && embedding)
        && !(frozen(Frozen::Head) && (head || (tied && embedding)))
}

impl Gradients {
    pub(crate) fn new(
        settings: &Training,
        model: &mut Decoder,
        adapters: Option<&Adapters>,
        threads: usize,
    ) -> Self {
        let tied = model.config().tied && !model.config().scalar;
        let learns = |name: &str| learns(settings, tied, name);
        let kind = kind_of(settings.precision);
        let cpu = model.device() == Device::Cpu;
        let mut joined = Tensors::new();
        let mut side = || {
            let recompute = settings.activation_checkpointing;
            Trunk::new(model, &learns, adapters, kind, recompute, &mut joined)
        };
        let sides = (0..if cpu { 2 } else { 1 }).map(|_| side()).collect();
        let piece = settings.micro_batch.unwrap_or(PIECE[usize::from(!cpu)]);
        Self { sides, piece, parallel: threads > 1 && cpu }
    }

    /// Whether two threads are at work.
    pub(crate) fn parallel(&self) -> bool {
        self.parallel
    }

    /// Names of the parameters that are learnt.
    pub(crate) fn names(&self) -> Vec<String> {
        self.sides[0].gradients().keys().cloned().collect()
    }

    /// Computes the gradients of the mean loss of these rows.
    #[expect(clippy::cast_precision_loss, reason = "numbers of targets are small")]
    pub(crate) fn find<O: Objective>(&mut self, objective: &O, rows: &[&O::Row]) -> Result<Found> {
        let targets: usize = rows.iter().map(|row| objective.targets(row)).sum();
        let targets = targets.max(1) as f64;
        let piece = self.piece;
        let half = |side: &mut Trunk, rows: &[&O::Row]| {
            for gradient in side.gradients_mut().values_mut() {
                drop(gradient.zero_());
            }
            let mut sums = [0.0; 2];
            for rows in pieces(objective, rows, piece) {
                let found = side.learn(objective, rows, 1.0 / targets)?;
                sums = [sums[0] + found[0], sums[1] + found[1]];
            }
            Ok::<_, StageError>(sums)
        };
        let sums = match &mut self.sides[..] {
            [left, right] => {
                let [first, second] = halves(objective, rows);
                let sums = if self.parallel {
                    std::thread::scope(|scope| {
                        let right = scope.spawn(|| {
                            tch::set_num_threads(1);
                            half(right, &second)
                        });
                        let left = half(left, &first);
                        let right = right.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                        Ok::<_, StageError>([left?, right?])
                    })?
                } else {
                    [half(left, &first)?, half(right, &second)?]
                };
                [sums[0][0] + sums[1][0], sums[0][1] + sums[1][1]]
            }
            sides => half(&mut sides[0], &sorted(objective, rows))?,
        };
        Ok(Found { loss: sums[0], entropy: sums[1] / targets, norm: self.add() })
    }

    /// Adds the halves' gradients; answers the global norm of the sum.
    fn add(&mut self) -> f64 {
        let (left, right) = self.sides.split_at_mut(1);
        let mut right = right.first_mut().map(|side| side.gradients_mut().values_mut());
        let slots: Vec<(&mut Tensor, Option<&mut Tensor>)> = left[0]
            .gradients_mut()
            .values_mut()
            .map(|gradient| (gradient, right.as_mut().and_then(Iterator::next)))
            .collect();
        let work = |slot: &(&mut Tensor, Option<&mut Tensor>)| slot.0.numel() as i64;
        let squares = in_two(slots, work, self.parallel, |(left, right)| {
            let (left, right) = (left.view(-1), right.as_ref().map(|right| right.view(-1)));
            let size = left.size()[0];
            let step = chunk(&left);
            let norms: Vec<Tensor> = (0..size)
                .step_by(step as usize)
                .map(|start| {
                    let count = step.min(size - start);
                    let mut part = left.narrow(0, start, count);
                    if let Some(right) = &right {
                        drop(part.g_add_(&right.narrow(0, start, count)));
                    }
                    part.norm()
                })
                .collect();
            Tensor::stack(&norms, 0).to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[])
        });
        squares.into_iter().sum::<f64>().sqrt()
    }

    /// The gradients that were found, in the order of the parameters' names.
    pub(crate) fn found(&mut self) -> Vec<Tensor> {
        self.sides[0].gradients_mut().values().map(Tensor::shallow_clone).collect()
    }

    /// Takes over updated parameters.
    pub(crate) fn refresh(&mut self, parameters: &Tensors) {
        self.sides[0].refresh(parameters);
    }
}

/// Rows by length, longest first: equally long ones are neighbours.
fn sorted<'a, O: Objective>(objective: &O, rows: &[&'a O::Row]) -> Vec<&'a O::Row> {
    let mut sorted: Vec<&O::Row> = rows.to_vec();
    sorted.sort_by_key(|row| std::cmp::Reverse(objective.ids(row).len()));
    sorted
}

/// Cuts the rows of an update into two halves with about as many tokens each.
fn halves<'a, O: Objective>(objective: &O, rows: &[&'a O::Row]) -> [Vec<&'a O::Row>; 2] {
    let mut halves = [Vec::new(), Vec::new()];
    let mut tokens = [0; 2];
    for row in sorted(objective, rows) {
        let lighter = usize::from(tokens[1] < tokens[0]);
        tokens[lighter] += objective.ids(row).len();
        halves[lighter].push(row);
    }
    halves
}

/// Cuts rows into runs of at most `most` tokens; a longer row is a run of its own.
fn pieces<'a, 'b, O: Objective>(objective: &O, rows: &'b [&'a O::Row], most: usize) -> Vec<&'b [&'a O::Row]> {
    let (mut pieces, mut start, mut tokens) = (Vec::new(), 0, 0);
    for (number, row) in rows.iter().enumerate() {
        let length = objective.ids(row).len();
        if number > start && tokens + length > most {
            pieces.push(&rows[start..number]);
            (start, tokens) = (number, 0);
        }
        tokens += length;
    }
    if start < rows.len() {
        pieces.push(&rows[start..]);
    }
    pieces
}
