//! The loop that `pretrain`, `sft` and `reward_model` share.
//!
//! Every update is cut into two halves of rows whose gradients are computed apart, each on one
//! thread, and added in a fixed order. With two threads the halves run side by side, with one they
//! run one after the other: the bits are the same.

use std::path::Path;
use std::time::Instant;

use bstar_stages::config::Training;
use bstar_stages::protocol::StageError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::batch::Packed;
use crate::config::ModelConfig;
use crate::error::{Result, torch};
use crate::model::{Decoder, index};
use crate::optim::{Optimizer, share};
use crate::progress::{Control, Progress};
use crate::resume::{Position, checkpoint, resume, save};
use crate::stream::Stream;
use crate::tensors::Tensors;
use crate::tokenizer::Tokenizer;

/// What is learnt from a row.
pub trait Objective: Sync {
    /// A row, encoded.
    type Row: Sync;
    /// Tokens the model reads.
    fn tokens(&self, row: &Self::Row) -> usize;
    /// Predictions that are judged.
    fn targets(&self, row: &Self::Row) -> usize;
    /// The sum of the losses of all predictions.
    fn loss(&self, model: &Decoder, rows: &[&Self::Row]) -> Tensor;
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

    fn tokens(&self, row: &TextRow) -> usize {
        row.ids.len() - 1
    }

    fn targets(&self, row: &TextRow) -> usize {
        row.ids.len() - row.start
    }

    fn loss(&self, model: &Decoder, rows: &[&TextRow]) -> Tensor {
        let inputs: Vec<&[i64]> = rows.iter().map(|row| &row.ids[..row.ids.len() - 1]).collect();
        let packed = Packed::new(&inputs, model.device());
        let weights = model.weights();
        let hidden = packed.forward(model, &weights, |_, _| ());
        let (mut at, mut targets) = (Vec::new(), Vec::new());
        for (number, row) in rows.iter().enumerate() {
            let first = packed.start(number) + row.start as i64 - 1;
            at.extend(first..first + self.targets(row) as i64);
            targets.extend_from_slice(&row.ids[row.start..]);
        }
        let logits =
            hidden.index_select(0, &index(&at, model.device())).linear(&weights.head, None::<&Tensor>);
        logits.cross_entropy_loss(
            &index(&targets, model.device()),
            None::<&Tensor>,
            tch::Reduction::Sum,
            -100,
            0.0,
        )
    }
}

/// One update, as written to the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    /// Its number, from 1.
    pub update: usize,
    /// Mean loss of its predictions.
    pub loss: f64,
    /// Global norm of the gradient, before it is limited.
    pub grad_norm: f64,
    /// AdamW's learning rate.
    pub learning_rate: f64,
    /// Tokens read.
    pub tokens: usize,
}

/// How a training run is carried out.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// What the pipeline says.
    pub settings: &'a Training,
    /// Decides the order of the rows.
    pub seed: u64,
    /// Threads granted; no result depends on it.
    pub threads: usize,
    /// Where checkpoints go.
    pub scratch: &'a Path,
}

/// Trains a model in place.
///
/// # Errors
/// When there are no rows, the loss is no longer finite, the run is asked to stop (a checkpoint is
/// left), or libtorch fails.
pub fn train<O: Objective>(
    objective: &O,
    rows: &[O::Row],
    model: &mut Decoder,
    optimizer: Optimizer,
    run: &Run<'_>,
    control: &mut Control<'_>,
) -> Result<(Optimizer, Vec<LogRow>, Map<String, Value>)> {
    let settings = run.settings;
    if rows.is_empty() {
        return Err(StageError::invalid("the dataset is empty: there is nothing to train on"));
    }
    let began = Instant::now();
    let mut optimizer = optimizer;
    let mut position = Position::default();
    if let Some((found, state)) = resume(run.scratch, settings.optimizer, model)? {
        (position, optimizer) = (found, state);
    }
    for tensor in model.tensors_mut().values_mut() {
        *tensor = tensor.detach().set_requires_grad(true);
    }
    let parallel = run.threads > 1 && model.device() == Device::Cpu;
    let mut twin = parallel.then(|| model.replica());
    let mut order = Order::new(run.seed, rows.len());
    let mut saved = position.log.len();
    for done in position.log.len()..settings.updates {
        if control.stopped() {
            save(run.scratch, &position, &optimizer, model)?;
            return Err(Control::interrupted());
        }
        let batch: Vec<&O::Row> =
            (done * settings.batch..(done + 1) * settings.batch).map(|at| &rows[order.get(at)]).collect();
        let (loss, mut gradients) = gradients(objective, &batch, model, twin.as_mut())?;
        let norm = global_norm(&gradients);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(diverged(done + 1, [loss, norm], saved, run.scratch));
        }
        // Only now: the loss of the next update tells that the weights are good.
        if done > saved && done % settings.checkpoint_every.max(1) == 0 {
            save(run.scratch, &position, &optimizer, model)?;
            saved = done;
        }
        if norm > settings.clip {
            for gradient in &mut gradients {
                drop(gradient.g_mul_scalar_(settings.clip / norm));
            }
        }
        let share = share(&settings.schedule, optimizer.updates(), settings.updates);
        optimizer.update(model.tensors_mut(), gradients, settings, share, parallel);
        if let Some(twin) = &mut twin {
            copy_into(twin, model);
        }
        position.log.push(LogRow {
            update: done + 1,
            loss,
            grad_norm: norm,
            learning_rate: share * settings.learning_rate,
            tokens: batch.iter().map(|row| objective.tokens(row)).sum(),
        });
        control.report(|| Progress {
            done: done + 1,
            total: settings.updates,
            unit: "updates",
            note: Some(format!("loss {loss:.3}")),
        });
    }
    for tensor in model.tensors_mut().values_mut() {
        *tensor = tensor.detach();
    }
    let metrics = metrics(&position.log, began.elapsed().as_secs_f64());
    Ok((optimizer, position.log, metrics))
}

/// What to say when the numbers of an update are no numbers; `saved` is the update of the last checkpoint.
fn diverged(update: usize, [loss, norm]: [f64; 2], saved: usize, scratch: &Path) -> StageError {
    let message = format!("training diverged at update {update}: loss {loss}, gradient norm {norm}");
    let advice = "lower the learning rate, or warm up longer";
    StageError::failed(message).hint(if saved == 0 {
        advice.to_owned()
    } else {
        let place = checkpoint(scratch);
        format!("{advice}; weights and optimizer after update {saved} are in `{}`", place.display())
    })
}

fn metrics(log: &[LogRow], seconds: f64) -> Map<String, Value> {
    let loss = |row: Option<&LogRow>| row.map_or(Value::Null, |row| json!(row.loss));
    let values = [
        ("loss_first", loss(log.first())),
        ("loss_last", loss(log.last())),
        ("updates", json!(log.len())),
        ("tokens", json!(log.iter().map(|row| row.tokens).sum::<usize>())),
        ("train_s", json!(seconds)),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The order in which rows are visited: a shuffle for every epoch.
struct Order {
    seed: u64,
    rows: usize,
    epoch: Option<usize>,
    shuffle: Vec<usize>,
}

impl Order {
    fn new(seed: u64, rows: usize) -> Self {
        Self { seed, rows, epoch: None, shuffle: Vec::new() }
    }

    fn get(&mut self, at: usize) -> usize {
        let epoch = at / self.rows;
        if self.epoch != Some(epoch) {
            self.shuffle = Stream::new("order of rows", self.seed, "", epoch as u64).permutation(self.rows);
            self.epoch = Some(epoch);
        }
        self.shuffle[at % self.rows]
    }
}

/// Cuts the rows of an update into two halves with about as many tokens each.
fn halves<'a, O: Objective>(objective: &O, rows: &[&'a O::Row]) -> [Vec<&'a O::Row>; 2] {
    let mut sorted: Vec<&O::Row> = rows.to_vec();
    sorted.sort_by_key(|row| std::cmp::Reverse(objective.tokens(row)));
    let mut halves = [Vec::new(), Vec::new()];
    let mut tokens = [0; 2];
    for row in sorted {
        let lighter = usize::from(tokens[1] < tokens[0]);
        tokens[lighter] += objective.tokens(row);
        halves[lighter].push(row);
    }
    halves
}

/// The mean loss of an update and its gradients, in the order of the parameters' names.
fn gradients<O: Objective>(
    objective: &O,
    rows: &[&O::Row],
    model: &Decoder,
    twin: Option<&mut Decoder>,
) -> Result<(f64, Vec<Tensor>)> {
    let targets: usize = rows.iter().map(|row| objective.targets(row)).sum();
    let [left, right] = halves(objective, rows);
    let half = |model: &Decoder, rows: &[&O::Row]| half_gradients(objective, rows, targets, model);
    let (left, right) = match twin {
        None => (half(model, &left)?, half(model, &right)?),
        Some(twin) => {
            // Each thread has its own parameters: tensors may move between threads, not be shared.
            std::thread::scope(|scope| {
                let right = scope.spawn(move || {
                    tch::set_num_threads(1);
                    half_gradients(objective, &right, targets, twin)
                });
                let left = half(model, &left);
                let right = right.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Ok::<_, StageError>((left?, right?))
            })?
        }
    };
    let sum = left.1.into_iter().zip(right.1).map(|(mut left, right)| left.g_add_(&right)).collect();
    Ok((left.0 + right.0, sum))
}

#[expect(clippy::cast_precision_loss, reason = "numbers of targets are small")]
fn half_gradients<O: Objective>(
    objective: &O,
    rows: &[&O::Row],
    targets: usize,
    model: &Decoder,
) -> Result<(f64, Vec<Tensor>)> {
    let parameters: Vec<&Tensor> = model.named().into_iter().map(|(_, tensor)| tensor).collect();
    if rows.is_empty() {
        return Ok((0.0, parameters.iter().map(|tensor| tensor.zeros_like()).collect()));
    }
    let loss = objective.loss(model, rows) / targets.max(1) as f64;
    let gradients =
        Tensor::f_run_backward(&[&loss], &parameters, false, false).map_err(|error| torch(&error))?;
    Ok((loss.double_value(&[]), gradients))
}

fn global_norm(gradients: &[Tensor]) -> f64 {
    let norms: Vec<Tensor> = gradients.iter().map(Tensor::norm).collect();
    Tensor::stack(&norms, 0).norm().double_value(&[])
}

fn copy_into(target: &mut Decoder, source: &Decoder) {
    let _guard = tch::no_grad_guard();
    for (tensor, (_, from)) in target.tensors_mut().values_mut().zip(source.named()) {
        tensor.copy_(from);
    }
}

/// A new model: normal weights, those that write into the residual stream scaled down by depth.
/// Every tensor has its own random stream.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "numbers of layers are small")]
#[expect(clippy::cast_possible_truncation, reason = "weights are 32-bit floats")]
pub fn initial(config: ModelConfig, seed: u64, device: Device) -> Decoder {
    let residual = 0.02 / (2.0 * config.layers as f64).sqrt();
    let mut tensors = Tensors::new();
    for (name, shape) in config.tensors() {
        let tensor = if name.ends_with(".bias") {
            Tensor::zeros(shape.as_slice(), (Kind::Float, Device::Cpu))
        } else if shape.len() == 1 {
            Tensor::ones(shape.as_slice(), (Kind::Float, Device::Cpu))
        } else {
            let writes = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            let scale = if writes { residual } else { 0.02 };
            let mut stream = Stream::new("initial weights", seed, &name, 0);
            let count = shape.iter().product::<i64>();
            let values: Vec<f32> = (0..count).map(|_| (scale * stream.normal()) as f32).collect();
            Tensor::from_slice(&values).view(shape.as_slice())
        };
        drop(tensors.insert(name, tensor.to_device(device)));
    }
    Decoder::new(config, tensors)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use bstar_stages::config::Optimizer as OptimizerKind;

    use super::*;
    use crate::config::tests::shape;
    use crate::optim::tests::training;
    use crate::tokenizer::tests::{folder, rows};

    fn model() -> Decoder {
        initial(ModelConfig::new(&shape(64, 2, 2, 2), 120, 1, Some(0)).unwrap(), 3, Device::Cpu)
    }

    fn encoded(count: usize) -> Vec<TextRow> {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        assert!(tokenizer.size() <= 120);
        rows()[..count]
            .iter()
            .map(|row| TextRow::new(&tokenizer, &row.prompt, &row.completion, 1, 64).unwrap())
            .collect()
    }

    fn weights(model: &Decoder) -> Vec<Vec<f32>> {
        model.named().iter().map(|(_, tensor)| Vec::try_from(tensor.view([-1])).unwrap()).collect()
    }

    fn run(settings: &Training, threads: usize, scratch: &Path) -> (Vec<Vec<f32>>, Vec<LogRow>) {
        tch::set_num_threads(1);
        let stop = AtomicBool::new(false);
        let mut model = model();
        let run = Run { settings, seed: 1, threads, scratch };
        let optimizer = Optimizer::new(settings.optimizer);
        let mut control = Control::new(&stop, |_| ());
        let (_, log, _) = train(&NextToken, &encoded(10), &mut model, optimizer, &run, &mut control).unwrap();
        (weights(&model), log)
    }

    /// [`NextToken`] with something done to the loss of each call, which are counted.
    struct Watched<F>(F, AtomicUsize);

    impl<F: Fn(usize, Tensor) -> Tensor + Sync> Watched<F> {
        fn new(change: F) -> Self {
            Self(change, AtomicUsize::new(0))
        }
    }

    impl<F: Fn(usize, Tensor) -> Tensor + Sync> Objective for Watched<F> {
        type Row = TextRow;
        fn tokens(&self, row: &TextRow) -> usize {
            NextToken.tokens(row)
        }
        fn targets(&self, row: &TextRow) -> usize {
            NextToken.targets(row)
        }
        fn loss(&self, model: &Decoder, rows: &[&TextRow]) -> Tensor {
            let call = self.1.fetch_add(1, Ordering::Relaxed);
            self.0(call, NextToken.loss(model, rows))
        }
    }

    #[test]
    fn ten_examples_are_learnt_by_heart() {
        for (kind, rate) in [(OptimizerKind::Adamw, 3e-3), (OptimizerKind::Muon, 3e-3)] {
            let scratch = tempfile::tempdir().unwrap();
            let (_, log) = run(&training(60, 10, rate, kind), 1, scratch.path());
            assert!(log[0].loss > 4.0 && log[59].loss < 0.2, "{kind:?}: {} {}", log[0].loss, log[59].loss);
        }
    }

    #[test]
    fn two_threads_make_the_same_bits_as_one() {
        for batch in [1, 7] {
            let settings = training(6, batch, 1e-3, OptimizerKind::Muon);
            let scratch = [(); 2].map(|()| tempfile::tempdir().unwrap());
            assert_eq!(run(&settings, 1, scratch[0].path()), run(&settings, 2, scratch[1].path()));
        }
    }

    #[test]
    fn a_stopped_run_goes_on_as_if_nothing_had_happened() {
        let mut settings = training(9, 4, 1e-3, OptimizerKind::Muon);
        settings.schedule.warmup = 3;
        settings.checkpoint_every = 2;
        let scratch = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let straight = run(&settings, 1, scratch[0].path());
        let stop = AtomicBool::new(false);
        let mut control = Control::new(&stop, |_| ());
        let rows = encoded(10);
        // Stopped on request after some updates, which the objective counts.
        let objective = Watched::new(|call, loss| {
            if call == 8 {
                stop.store(true, Ordering::Relaxed);
            }
            loss
        });
        let mut again = model();
        let run_it = Run { settings: &settings, seed: 1, threads: 1, scratch: scratch[1].path() };
        let optimizer = Optimizer::new(settings.optimizer);
        let error = train(&objective, &rows, &mut again, optimizer, &run_it, &mut control).unwrap_err();
        assert_eq!(error.kind, bstar_stages::protocol::FailureKind::Interrupted);
        assert_eq!(run(&settings, 2, scratch[1].path()), straight);
        // Killed: what the last periodic checkpoint holds is what goes on.
        settings.updates = 5;
        drop(run(&settings, 1, scratch[2].path()));
        settings.updates = 9;
        assert_eq!(run(&settings, 1, scratch[2].path()), straight);
    }

    #[test]
    fn a_diverging_run_says_where_and_keeps_the_last_good_checkpoint() {
        let stop = AtomicBool::new(false);
        let attempt = |every: usize, scratch: &Path| {
            let mut settings = training(20, 4, 1e-3, OptimizerKind::Adamw);
            settings.checkpoint_every = every;
            let run = Run { settings: &settings, seed: 1, threads: 1, scratch };
            let (mut model, optimizer) = (model(), Optimizer::new(settings.optimizer));
            // Becomes infinite at its fifth update: each update asks for the losses of two halves.
            let objective = Watched::new(|call, loss| if call < 8 { loss } else { loss * f64::INFINITY });
            let mut control = Control::new(&stop, |_| ());
            train(&objective, &encoded(10), &mut model, optimizer, &run, &mut control)
                .map(|_| ())
                .unwrap_err()
        };
        // The weights after update 4 give no finite loss.
        for (every, kept) in [(2, Some(2)), (3, Some(3)), (4, None)] {
            let scratch = tempfile::tempdir().unwrap();
            let error = attempt(every, scratch.path());
            assert!(error.message.starts_with("training diverged at update 5: loss inf"), "{error}");
            let (hint, place) = (error.hint.unwrap(), checkpoint(scratch.path()));
            let found = resume(scratch.path(), OptimizerKind::Adamw, &mut model()).unwrap();
            assert_eq!(found.map(|(position, _)| position.log.len()), kept);
            let told = kept.map(|update| format!("after update {update} are in `{}`", place.display()));
            assert!(told.map_or(!hint.contains("after update"), |told| hint.contains(&told)), "{hint}");
        }
    }

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
