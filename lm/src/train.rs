//! The loop that `pretrain`, `sft` and `reward_model` share.

use std::path::Path;
use std::time::Instant;

use bstar_stages::config::Training;
use bstar_stages::protocol::StageError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::gradients::{Found, Gradients};
use crate::lora::Adapters;
use crate::model::Decoder;
use crate::objective::Objective;
use crate::optim::{Optimizer, Step, share};
use crate::progress::{Control, Progress};
use crate::resume::{Position, checkpoint, resume, save};
use crate::stream::Stream;
use crate::tensors::Tensors;

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
    /// Mean entropy of the predicted distributions, in nats.
    pub entropy: f64,
}

/// How a training run is carried out.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// What the pipeline says.
    pub settings: &'a Training,
    /// Decides the order of the rows, and the first weights of adapters.
    pub seed: u64,
    /// Threads granted; no result depends on it.
    pub threads: usize,
    /// The folder of an optimizer state to go on with.
    pub inherit: Option<&'a Path>,
    /// Where checkpoints go.
    pub scratch: &'a Path,
}

/// What training leaves beside the model's weights.
#[derive(Debug)]
pub struct Trained {
    /// Its state.
    pub optimizer: Optimizer,
    /// A row an update.
    pub log: Vec<LogRow>,
    /// Figures for the manifest.
    pub metrics: Map<String, Value>,
    /// Where adapters were trained: those, which are not merged. The model is as it was.
    pub adapters: Option<Adapters>,
}

/// Trains a model in place, or adapters of it.
///
/// # Errors
/// When there are no rows, the loss is no longer finite, the optimizer state is that of another
/// model, the run is asked to stop (a checkpoint is left), or libtorch fails.
pub fn train<O: Objective>(
    objective: &O,
    rows: &[O::Row],
    model: &mut Decoder,
    run: &Run<'_>,
    control: &mut Control<'_>,
) -> Result<Trained> {
    let settings = run.settings;
    if rows.is_empty() {
        return Err(StageError::invalid("the dataset is empty: there is nothing to train on"));
    }
    let began = Instant::now();
    let adapters = settings.lora.as_ref().map(|lora| Adapters::new(lora, model, run.seed));
    let mut gradients = Gradients::new(settings, model, adapters.as_ref(), run.threads);
    // The same storage as what the passes compute with.
    let mut parameters: Tensors = {
        let all = adapters.as_ref().map_or_else(|| model.tensors(), |adapters| &adapters.tensors);
        gradients.names().into_iter().map(|name| (name.clone(), all[&name].shallow_clone())).collect()
    };
    let (found, damaged) = resume(run.scratch, settings, &mut parameters)?;
    let (mut position, mut optimizer) = match found {
        Some(found) => found,
        None => {
            let optimizer = match run.inherit {
                Some(folder) => Optimizer::load(folder, settings, &parameters, model.device())?,
                None => Optimizer::new(settings),
            };
            moves(settings, &optimizer)?;
            (Position::default(), optimizer)
        }
    };
    let before = position.seconds;
    gradients.refresh(&parameters);
    let mut order = Order::new(run.seed, rows.len());
    let mut saved = position.log.len();
    let mut read = 0;
    control.open_log(saved > 0);
    if damaged > 0 {
        control.log(format_args!("checkpoints that are damaged, and were not used: {damaged}"));
    }
    if saved > 0 {
        control.log(format_args!("goes on after update {saved}"));
    }
    for done in position.log.len()..settings.updates {
        if control.stopped() && done == saved {
            return Err(Control::interrupted());
        }
        let started = Instant::now();
        let batch: Vec<&O::Row> =
            (done * settings.batch..(done + 1) * settings.batch).map(|at| &rows[order.get(at)]).collect();
        let Found { loss, entropy, norm } = gradients.find(objective, &batch)?;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(match done {
                0 => StageError::invalid(format!(
                    "the model has no finite loss before its first update: loss {loss}, gradient norm {norm}"
                ))
                .hint("its weights have numbers that are not finite, or too large ones for the `precision` asked for"),
                _ => diverged(done + 1, [loss, norm], saved, run.scratch),
            });
        }
        // Only now: the loss of the next update tells that the weights are good.
        let due = done > saved && done % settings.checkpoint_every.max(1) == 0;
        if due || control.stopped() {
            position.seconds = before + began.elapsed().as_secs_f64();
            save(run.scratch, &position, &optimizer, &parameters)?;
            saved = done;
        }
        if control.stopped() {
            return Err(Control::interrupted());
        }
        let scale = if norm > settings.clip { settings.clip / norm } else { 1.0 };
        let share = share(&settings.schedule, optimizer.updates(), settings.updates);
        let step = Step { settings, share, scale, parallel: gradients.parallel() };
        optimizer.update(&mut parameters, gradients.found(), step);
        gradients.refresh(&parameters);
        let tokens = batch.iter().map(|row| objective.ids(row).len()).sum();
        read += tokens;
        let learning_rate = share * settings.learning_rate;
        control.log(format_args!(
            "update {}/{}  loss {loss:.4}  gradient norm {norm:.3}  learning rate {learning_rate:.2e}  \
             entropy {entropy:.3}  {:.0} tok/s",
            done + 1,
            settings.updates,
            rate(tokens, started),
        ));
        position.log.push(LogRow { update: done + 1, loss, grad_norm: norm, learning_rate, tokens, entropy });
        control.report(|| {
            let note = Some(format!("loss {loss:.3}, {:.0} tok/s", rate(read, began)));
            Progress { done: done + 1, total: settings.updates, unit: "updates", note }
        });
    }
    if !parameters.values().all(is_finite) {
        let loss = position.log.last().map_or(f64::NAN, |row| row.loss);
        return Err(diverged(settings.updates, [loss, f64::NAN], saved, run.scratch));
    }
    let metrics = metrics(&position.log, before + began.elapsed().as_secs_f64());
    Ok(Trained { optimizer, log: position.log, metrics, adapters })
}

/// Refuses a training run whose every learning rate is zero: the schedule ended before its first update.
fn moves(settings: &Training, optimizer: &Optimizer) -> Result<()> {
    let done = optimizer.updates();
    if share(&settings.schedule, done, settings.updates) > 0.0 {
        return Ok(());
    }
    let total = settings.schedule_total();
    Err(StageError::invalid(format!(
        "the schedule ends with a learning rate of 0 after {total} updates, and the optimizer that is inherited has \
         made {done}: nothing would be learnt"
    ))
    .hint("write `schedule.total`: how many updates the optimizer makes in all stages; or a `floor`, or inherit none"))
}

/// Tokens a second.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(tokens: usize, since: Instant) -> f64 {
    tokens as f64 / since.elapsed().as_secs_f64()
}

/// Whether all numbers are.
fn is_finite(tensor: &Tensor) -> bool {
    // Zero times a finite number is zero, anything else is no number.
    (tensor * 0.0).sum(Kind::Double).double_value(&[]) == 0.0
}

/// What to say when the numbers of an update are no numbers; `saved` is the update of the last checkpoint.
fn diverged(update: usize, [loss, norm]: [f64; 2], saved: usize, scratch: &Path) -> StageError {
    let message = format!("training diverged at update {update}: loss {loss}, gradient norm {norm}");
    let advice = "lower the learning rate, or warm up longer";
    StageError::failed(message).hint(match checkpoint(scratch) {
        Some(place) if saved > 0 => {
            format!("{advice}; weights and optimizer after update {saved} are in `{}`", place.display())
        }
        _ => format!("{advice}; there is no checkpoint yet (see `training.checkpoint_every`)"),
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

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use bstar_stages::config::{
        Architecture, Frozen, Lora, Optimizer as OptimizerKind, Precision, Reading, Readout, Schedule,
        ScheduleShape, Target,
    };
    use bstar_stages::record::{Example, LabelledSteps};
    use tch::Device;

    use super::*;
    use crate::block::Weight;
    use crate::config::ModelConfig;
    use crate::config::tests::shape;
    use crate::initial::initial;
    use crate::objective::{Judged, NextToken, TextRow};
    use crate::optim::tests::training;
    use crate::reward::{StepLabels, StepsRow, from_policy};
    use crate::tokenizer::Tokenizer;
    use crate::tokenizer::tests::{folder, rows};

    fn model() -> Decoder {
        initial(ModelConfig::new(&shape(64, 2, 4, 2), 120, 1, Some(0)).unwrap(), 3, Device::Cpu)
    }

    fn encoded(count: usize) -> Vec<TextRow> {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        assert!(tokenizer.size() <= 120);
        rows()[..count]
            .iter()
            .map(|row| TextRow::new(&tokenizer, &row.prompt, &row.completion, 1, 64).unwrap())
            .collect()
    }

    fn weights(tensors: &Tensors) -> Vec<Vec<f32>> {
        tensors.values().map(|tensor| Vec::try_from(tensor.contiguous().view([-1])).unwrap()).collect()
    }

    /// Weights (or adapters, and the optimizer's state) after the run, and its log.
    fn run(settings: &Training, threads: usize, scratch: &Path) -> (Vec<Vec<f32>>, Vec<LogRow>) {
        tch::set_num_threads(1);
        let stop = AtomicBool::new(false);
        let mut model = model();
        let run = Run { settings, seed: 1, threads, inherit: None, scratch };
        let mut control = Control::new(&stop, |_| ());
        let trained = train(&NextToken, &encoded(10), &mut model, &run, &mut control).unwrap();
        let mut found = weights(model.tensors());
        found.extend(trained.adapters.iter().flat_map(|adapters| weights(&adapters.tensors)));
        let moments = trained.optimizer.tensors().into_iter();
        let moments = moments.map(|(name, tensor)| (name, tensor.to_kind(Kind::Float))).collect();
        found.extend(weights(&moments));
        (found, trained.log)
    }

    /// [`NextToken`] with something done to the loss of each call, which are counted.
    struct Watched<F>(F, AtomicUsize);

    impl<F: Fn(usize, f64) -> f64 + Sync> Watched<F> {
        fn new(change: F) -> Self {
            Self(change, AtomicUsize::new(0))
        }
    }

    impl<F: Fn(usize, f64) -> f64 + Sync> Objective for Watched<F> {
        type Row = TextRow;
        fn ids<'a>(&self, row: &'a TextRow) -> &'a [i64] {
            NextToken.ids(row)
        }
        fn targets(&self, row: &TextRow) -> usize {
            NextToken.targets(row)
        }
        fn judged(&self, row: &TextRow) -> Vec<i64> {
            NextToken.judged(row)
        }
        fn judge(&self, rows: &[&TextRow], hidden: &Tensor, head: &mut Weight, scale: f64) -> Result<Judged> {
            let call = self.1.fetch_add(1, Ordering::Relaxed);
            let Judged { sums: [loss, entropy], hidden } = NextToken.judge(rows, hidden, head, scale)?;
            Ok(Judged { sums: [self.0(call, loss), entropy], hidden })
        }
    }

    #[test]
    fn ten_examples_are_learnt_by_heart() {
        for (kind, rate) in [(OptimizerKind::Adamw, 3e-3), (OptimizerKind::Muon, 3e-3)] {
            let scratch = tempfile::tempdir().unwrap();
            let (_, log) = run(&training(60, 10, rate, kind), 1, scratch.path());
            assert!(log[0].loss > 4.0 && log[59].loss < 0.2, "{kind:?}: {} {}", log[0].loss, log[59].loss);
            // Of a distribution that is nearly uniform, and of one that is nearly sure.
            assert!((log[0].entropy - 120_f64.ln()).abs() < 0.1 && log[59].entropy < 1.0, "{:?}", log[59]);
        }
    }

    #[test]
    fn neither_threads_nor_recomputing_change_a_bit() {
        for batch in [1, 7] {
            let settings = training(6, batch, 1e-3, OptimizerKind::Muon);
            let recomputing = Training { activation_checkpointing: true, ..settings.clone() };
            let scratch = [(); 3].map(|()| tempfile::tempdir().unwrap());
            let straight = run(&settings, 1, scratch[0].path());
            assert_eq!(straight, run(&settings, 2, scratch[1].path()));
            assert_eq!(straight, run(&recomputing, 2, scratch[2].path()));
        }
    }

    #[test]
    fn pieces_of_an_update_make_its_gradients() {
        let settings = training(3, 8, 1e-3, OptimizerKind::Adamw);
        let scratch = [(); 2].map(|()| tempfile::tempdir().unwrap());
        // A row a piece.
        let pieces = Training { micro_batch: Some(1), ..settings.clone() };
        let (whole, pieces) = (run(&settings, 1, scratch[0].path()), run(&pieces, 1, scratch[1].path()));
        for (one, other) in whole.0.iter().flatten().zip(pieces.0.iter().flatten()) {
            assert!((one - other).abs() < 1e-5, "{one} {other}");
        }
        for (one, other) in whole.1.iter().zip(&pieces.1) {
            assert!((one.loss - other.loss).abs() < 1e-5 && (one.entropy - other.entropy).abs() < 1e-5);
        }
    }

    #[test]
    fn what_is_frozen_stays_and_the_rest_moves() {
        let every = [Frozen::Embeddings, Frozen::Head, Frozen::Norms];
        let tied = shape(64, 2, 4, 2);
        let apart = Architecture { tie_word_embeddings: false, ..tied };
        for (shape, freeze) in [tied, apart].iter().flat_map(|shape| {
            let kinds = [&[Frozen::Norms][..], &[Frozen::Head], &[Frozen::Embeddings], &every];
            kinds.map(|freeze| (shape, freeze.to_vec()))
        }) {
            let make = || initial(ModelConfig::new(shape, 120, 1, Some(0)).unwrap(), 3, Device::Cpu);
            let settings = Training { freeze, ..training(2, 4, 1e-3, OptimizerKind::Adamw) };
            let scratch = tempfile::tempdir().unwrap();
            let stop = AtomicBool::new(false);
            let (before, mut model) = (make(), make());
            let run =
                Run { settings: &settings, seed: 1, threads: 1, inherit: None, scratch: scratch.path() };
            let rows = encoded(10);
            drop(train(&NextToken, &rows, &mut model, &run, &mut Control::new(&stop, |_| ())).unwrap());
            let freezes = |part| settings.freeze.contains(&part);
            let mut heads = 0;
            for (name, tensor) in model.named() {
                let frozen = match name {
                    // Where it is the head too, freezing either freezes both.
                    "model.embed_tokens.weight" => {
                        freezes(Frozen::Embeddings) || shape.tie_word_embeddings && freezes(Frozen::Head)
                    }
                    "lm_head.weight" => freezes(Frozen::Head),
                    _ => name.contains("norm") && freezes(Frozen::Norms),
                };
                heads += usize::from(name == "lm_head.weight");
                assert_eq!(tensor.equal(&before.tensors()[name]), frozen, "{name} {:?}", settings.freeze);
            }
            assert_eq!(heads, usize::from(!shape.tie_word_embeddings));
        }
    }

    #[test]
    fn the_head_of_a_reward_model_learns_whatever_is_frozen() {
        let apart = Architecture { tie_word_embeddings: false, ..shape(64, 2, 4, 2) };
        for shape in [shape(64, 2, 4, 2), apart] {
            for freeze in [vec![Frozen::Embeddings], vec![Frozen::Head, Frozen::Norms]] {
                let policy = initial(ModelConfig::new(&shape, 120, 1, Some(0)).unwrap(), 3, Device::Cpu);
                let mut model = from_policy(policy, Readout::Head);
                let embedding = model.tensors()["model.embed_tokens.weight"].copy();
                let settings =
                    Training { freeze: freeze.clone(), ..training(3, 4, 1e-3, OptimizerKind::Adamw) };
                let scratch = tempfile::tempdir().unwrap();
                let stop = AtomicBool::new(false);
                let run =
                    Run { settings: &settings, seed: 1, threads: 1, inherit: None, scratch: scratch.path() };
                let tokenizer = Tokenizer::load(folder().path()).unwrap();
                let labelled = |row: &Example| LabelledSteps {
                    query_id: "q".into(),
                    prompt: row.prompt.clone(),
                    steps: vec![row.completion.clone()],
                    labels: vec![1.0],
                };
                let reading = Reading::default();
                let encode =
                    |row| StepsRow::labelled(&tokenizer, &labelled(row), &reading, false, 64).unwrap();
                let rows: Vec<StepsRow> = rows()[..10].iter().map(encode).collect();
                let mut control = Control::new(&stop, |_| ());
                let trained = train(&StepLabels, &rows, &mut model, &run, &mut control).unwrap();
                assert!(trained.log[2].loss < trained.log[0].loss && trained.log[0].grad_norm > 0.0);
                let frozen = freeze.contains(&Frozen::Embeddings);
                assert_eq!(
                    model.tensors()["model.embed_tokens.weight"].equal(&embedding),
                    frozen,
                    "{freeze:?}"
                );
            }
        }
    }

    #[test]
    fn a_schedule_that_is_over_before_the_training_begins_is_refused() {
        let settings = training(2, 4, 1e-3, OptimizerKind::Adamw);
        let (state, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stop = AtomicBool::new(false);
        let run = Run { settings: &settings, seed: 1, threads: 1, inherit: None, scratch: scratch.path() };
        let go = |run: &Run<'_>| {
            let mut control = Control::new(&stop, |_| ());
            train(&NextToken, &encoded(10), &mut model(), run, &mut control)
        };
        go(&run).unwrap().optimizer.save(state.path()).unwrap();
        let cosine = |floor, total| {
            let schedule = Schedule { shape: ScheduleShape::Cosine, warmup: 0, floor, total };
            let settings = Training { schedule, ..settings.clone() };
            let scratch = tempfile::tempdir().unwrap();
            go(&Run { settings: &settings, inherit: Some(state.path()), scratch: scratch.path(), ..run })
        };
        let error = cosine(0.0, None).unwrap_err();
        assert!(
            error.message.contains("0 after 2 updates") && error.message.contains("has made 2"),
            "{error}"
        );
        assert!(error.hint.unwrap().contains("schedule.total"));
        for (floor, total) in [(0.1, None), (0.0, Some(4))] {
            assert!(cosine(floor, total).unwrap().log.iter().all(|row| row.learning_rate > 0.0));
        }
    }

    #[test]
    fn adapters_learn_and_the_model_stays_until_they_are_merged() {
        let lora = Lora { rank: 4, alpha: Some(8.0), targets: Target::all(), merge: true };
        let settings = Training { lora: Some(lora), ..training(80, 10, 1e-2, OptimizerKind::Adamw) };
        let scratch = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let (before, mut model) = (model(), model());
        let run = Run { settings: &settings, seed: 1, threads: 2, inherit: None, scratch: scratch.path() };
        let rows = encoded(10);
        let learn = |model: &mut Decoder, run: &Run<'_>| {
            train(&NextToken, &rows, model, run, &mut Control::new(&stop, |_| ())).unwrap()
        };
        let Trained { log, adapters, .. } = learn(&mut model, &run);
        assert!(log[79].loss < log[0].loss - 0.7, "{} {}", log[0].loss, log[79].loss);
        for (name, tensor) in model.named() {
            assert!(tensor.equal(&before.tensors()[name]), "{name}");
        }
        adapters.unwrap().merge(&mut model);
        // The merged model begins where the adapters ended.
        let settings = training(1, 10, 1e-9, OptimizerKind::Adamw);
        let scratch = tempfile::tempdir().unwrap();
        let again = learn(&mut model, &Run { settings: &settings, scratch: scratch.path(), ..run });
        assert!((again.log[0].loss - log[79].loss).abs() < 0.2, "{} {}", again.log[0].loss, log[79].loss);
    }

    #[test]
    fn sixteen_bits_are_enough_for_averages_and_products() {
        let settings = training(40, 10, 3e-3, OptimizerKind::Adamw);
        let averages = Training { moments: Precision::Bfloat16, ..settings.clone() };
        let products = Training { precision: Precision::Bfloat16, ..settings.clone() };
        let scratch = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let last = |settings: &Training, place: usize| run(settings, 1, scratch[place].path()).1[39].loss;
        let exact = last(&settings, 0);
        for (settings, place) in [(averages, 1), (products, 2)] {
            let found = last(&settings, place);
            assert!((found - exact).abs() < 0.1 * exact + 0.05, "{found} {exact}");
        }
    }

    #[test]
    fn a_stopped_run_goes_on_as_if_nothing_had_happened() {
        let lora = Lora { rank: 2, alpha: None, targets: vec![Target::QProj, Target::DownProj], merge: true };
        let muon = training(9, 4, 1e-3, OptimizerKind::Muon);
        let adamw = training(9, 4, 1e-3, OptimizerKind::Adamw);
        let variants = [
            muon,
            Training { lora: Some(lora), ..adamw.clone() },
            Training {
                moments: Precision::Bfloat16,
                precision: Precision::Bfloat16,
                freeze: vec![Frozen::Norms],
                ..adamw
            },
        ];
        for mut settings in variants {
            settings.schedule.warmup = 3;
            settings.checkpoint_every = 2;
            let scratch = [(); 3].map(|()| tempfile::tempdir().unwrap());
            let straight = run(&settings, 1, scratch[0].path());
            let (stop, never) = (AtomicBool::new(false), AtomicBool::new(false));
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
            let scratch_of = scratch[1].path();
            let run_it = Run { settings: &settings, seed: 1, threads: 1, inherit: None, scratch: scratch_of };
            let error = train(&objective, &rows, &mut again, &run_it, &mut control).unwrap_err();
            assert_eq!(error.kind, bstar_stages::protocol::FailureKind::Interrupted);
            assert_eq!(run(&settings, 2, scratch_of), straight);
            // Broken off in update 8: what the checkpoint after update 6 holds is what goes on.
            let broken = Watched::new(|call, loss| if call < 14 { loss } else { f64::NAN });
            let run_it = Run { scratch: scratch[2].path(), ..run_it };
            let error = train(&broken, &rows, &mut model(), &run_it, &mut Control::new(&never, |_| ()));
            assert!(error.unwrap_err().hint.unwrap().contains("after update 6"));
            assert_eq!(run(&settings, 1, scratch[2].path()), straight);
        }
    }

    #[test]
    fn a_diverging_run_says_where_and_keeps_the_last_good_checkpoint() {
        let attempt = |every: usize, stopped: bool, scratch: &Path| {
            let stop = AtomicBool::new(false);
            let mut settings = training(20, 4, 1e-3, OptimizerKind::Adamw);
            settings.checkpoint_every = every;
            let run = Run { settings: &settings, seed: 1, threads: 1, inherit: None, scratch };
            // Becomes infinite at its fifth update: each update asks for the losses of two halves.
            let objective = Watched::new(|call, loss| {
                stop.store(stopped && call >= 8, Ordering::Relaxed);
                if call < 8 { loss } else { loss * f64::INFINITY }
            });
            let mut control = Control::new(&stop, |_| ());
            train(&objective, &encoded(10), &mut model(), &run, &mut control).map(|_| ()).unwrap_err()
        };
        // The weights after update 4 give no finite loss, whether or not somebody asks for an end.
        for (every, kept) in [(2, Some(2)), (3, Some(3)), (4, None)] {
            for stopped in [false, true] {
                let scratch = tempfile::tempdir().unwrap();
                let error = attempt(every, stopped, scratch.path());
                assert!(error.message.starts_with("training diverged at update 5: loss inf"), "{error}");
                let (hint, place) = (error.hint.unwrap(), checkpoint(scratch.path()));
                assert_eq!(place.is_some(), kept.is_some());
                let settings = training(20, 4, 1e-3, OptimizerKind::Adamw);
                let (found, _) = resume(scratch.path(), &settings, &mut Tensors::new()).unwrap();
                assert_eq!(found.map(|(position, _)| position.log.len()), kept);
                let told = kept
                    .zip(place)
                    .map(|(update, place)| format!("after update {update} are in `{}`", place.display()));
                assert!(told.map_or(!hint.contains("after update"), |told| hint.contains(&told)), "{hint}");
            }
        }
    }
}
