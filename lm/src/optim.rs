//! AdamW and Muon, with a state that can be saved and inherited.

use std::collections::BTreeMap;
use std::path::Path;

use bstar_stages::config::{Optimizer as Kind, Precision, Schedule, ScheduleShape, Training};
use bstar_stages::protocol::StageError;
use serde_json::{Value, json};
use tch::{Device, Kind as Number, Tensor};

use crate::checkpoint::write_json;
use crate::error::{Result, io};
use crate::kernels;
use crate::tensors::{Tensors, read_tensors, write_tensors};

/// Added to the root of AdamW's second moment.
const EPSILON: f64 = 1e-8;
/// Muon's momentum.
const MOMENTUM: f64 = 0.95;
/// The quintic iteration that pushes all singular values towards one (Jordan et al. 2024).
const NEWTON_SCHULZ: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
/// Its number of steps.
const STEPS: usize = 5;

/// Numbers of a sweep's pass: as many as stay in a core's cache with all that is computed from them.
const CHUNK: i64 = 1 << 16;

/// How many numbers of a tensor to sweep over at a time: a device that is not a CPU is asked as seldom as possible.
pub(crate) fn chunk(tensor: &Tensor) -> i64 {
    if tensor.device() == Device::Cpu { CHUNK } else { (tensor.numel() as i64).max(1) }
}

/// What to do where a state is that of other weights.
const SAME: &str =
    "train the same weights of the same model in both stages (`freeze`), or do not carry the optimizer";

/// Running averages of the gradients, and how many updates they have seen.
#[derive(Debug)]
pub struct Optimizer {
    kind: Kind,
    /// The numbers in which averages are kept: of gradients, and of their squares.
    numbers: [Number; 2],
    /// By parameter.
    moments: BTreeMap<String, Moments>,
    updates: usize,
}

/// Running averages of one parameter's gradients.
#[derive(Debug)]
struct Moments {
    first: Tensor,
    /// Of their squares; Muon has none.
    second: Option<Tensor>,
}

/// What one parameter's update needs: parameters are updated independently.
struct Slot<'a> {
    parameter: &'a mut Tensor,
    gradient: Tensor,
    moments: &'a mut Moments,
}

/// How an update is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The rates at their peak.
    pub settings: &'a Training,
    /// The part of the peak rates to use.
    pub share: f64,
    /// What gradients are multiplied by.
    pub scale: f64,
    /// Whether to use two threads.
    pub parallel: bool,
}

/// What is the same for all parameters of an update.
#[derive(Clone, Copy)]
struct Rates {
    adamw: f64,
    muon: f64,
    decay: f64,
    betas: [f64; 2],
    scale: f64,
    /// What AdamW's averages are divided by, because they began at zero.
    corrections: [f64; 2],
}

/// Whether Muon treats a parameter: the matrices between embedding and head.
fn is_hidden_matrix(name: &str, parameter: &Tensor) -> bool {
    parameter.dim() == 2 && name.starts_with("model.layers.")
}

impl Optimizer {
    /// A state without history.
    #[must_use]
    pub fn new(settings: &Training) -> Self {
        let numbers = numbers(settings);
        Self { kind: settings.optimizer, numbers, moments: BTreeMap::new(), updates: 0 }
    }

    /// A state put together again from [`Optimizer::tensors`].
    #[must_use]
    pub fn restored(settings: &Training, mut tensors: Tensors, updates: usize) -> Self {
        let numbers = numbers(settings);
        let seconds = tensors.split_off("second.");
        let moments = tensors.into_iter().map(|(name, first)| {
            let name = name.trim_start_matches("first.").to_owned();
            let second = seconds.get(&format!("second.{name}")).map(|second| second.to_kind(numbers[1]));
            (name, Moments { first: first.to_kind(numbers[0]), second })
        });
        Self { kind: settings.optimizer, numbers, moments: moments.collect(), updates }
    }

    /// Updates it has made, in all stages that inherited it.
    #[must_use]
    pub fn updates(&self) -> usize {
        self.updates
    }

    /// Its running averages, as `first.PARAMETER` and `second.PARAMETER`.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, &Tensor)> {
        let firsts = self.moments.iter().map(|(name, moments)| (format!("first.{name}"), &moments.first));
        let seconds = self.moments.iter().filter_map(|(name, moments)| {
            moments.second.as_ref().map(|second| (format!("second.{name}"), second))
        });
        firsts.chain(seconds).collect()
    }

    /// Updates the parameters in place, on one or two threads with the same result.
    ///
    /// `gradients` are in the order of the parameters' names.
    pub fn update(&mut self, parameters: &mut Tensors, gradients: Vec<Tensor>, step: Step<'_>) {
        let Step { settings, share, scale, parallel } = step;
        let _guard = tch::no_grad_guard();
        self.updates += 1;
        let power = i32::try_from(self.updates).unwrap_or(i32::MAX);
        let rates = Rates {
            adamw: share * settings.learning_rate,
            muon: share * settings.muon_learning_rate,
            decay: settings.weight_decay,
            betas: settings.betas,
            scale,
            corrections: settings.betas.map(|beta| 1.0 - beta.powi(power)),
        };
        let numbers = self.numbers;
        for (name, parameter) in parameters.iter() {
            let muon = self.kind == Kind::Muon && is_hidden_matrix(name, parameter);
            let zeros = |kind| Tensor::zeros(parameter.size().as_slice(), (kind, parameter.device()));
            let new = || Moments { first: zeros(numbers[0]), second: (!muon).then(|| zeros(numbers[1])) };
            let _moments = self.moments.entry(name.clone()).or_insert_with(new);
        }
        // Both maps have the same names, and so the same order.
        let slots = parameters.values_mut().zip(gradients).zip(self.moments.values_mut());
        let slots: Vec<Slot<'_>> =
            slots.map(|((parameter, gradient), moments)| Slot { parameter, gradient, moments }).collect();
        let _done: Vec<()> = in_two(slots, Slot::work, parallel, |slot| slot.update(&rates));
    }

    /// Writes the state into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(io("create", folder))?;
        // Averages of squares never have the shorter ones.
        write_tensors(&folder.join("optimizer.safetensors"), self.tensors(), self.numbers[1], None)?;
        let state = json!({"updates": self.updates, "optimizer": self.kind});
        write_json(&folder.join("state.json"), &state)
    }

    /// Reads a state that goes on with these parameters.
    ///
    /// # Errors
    /// When a file cannot be read, or the state is that of another optimizer or model.
    pub fn load(folder: &Path, settings: &Training, parameters: &Tensors, device: Device) -> Result<Self> {
        let kind = settings.optimizer;
        let path = folder.join("state.json");
        let text = std::fs::read(&path).map_err(io("read", &path))?;
        let invalid = |what: String| {
            StageError::invalid(format!("cannot inherit the optimizer `{}`: {what}", folder.display()))
        };
        let state: BTreeMap<String, Value> =
            serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        let found = state.get("optimizer").unwrap_or(&Value::Null);
        if *found != json!(kind) {
            return Err(invalid(format!("it is the state of {found}, not of {}", json!(kind)))
                .hint("use the same `optimizer` in both stages, or do not carry it"));
        }
        let updates = state.get("updates").and_then(Value::as_u64);
        let updates = updates.ok_or_else(|| invalid("`updates` is missing".to_owned()))?;
        let (tensors, _) = read_tensors(&folder.join("optimizer.safetensors"), device)?;
        for (name, moment) in &tensors {
            let parameter = name.split_once('.').and_then(|(_, name)| parameters.get(name));
            if parameter.is_none_or(|parameter| parameter.size() != moment.size()) {
                return Err(invalid(format!("`{name}` belongs to no weight that is trained here")).hint(SAME));
            }
        }
        let all = |name: &String| tensors.contains_key(&format!("first.{name}"));
        if let Some(name) = parameters.keys().find(|name| !all(name)) {
            return Err(invalid(format!("it knows nothing of `{name}`")).hint(SAME));
        }
        Ok(Self::restored(settings, tensors, usize::try_from(updates).unwrap_or(usize::MAX)))
    }
}

impl Slot<'_> {
    /// About how long the update takes.
    fn work(&self) -> i64 {
        let size = self.parameter.size();
        match (&self.moments.second, &size[..]) {
            (None, [rows, columns]) => rows * columns * rows.min(columns),
            _ => size.iter().product(),
        }
    }

    fn update(&mut self, rates: &Rates) {
        let Self { parameter, gradient, moments: Moments { first, second } } = self;
        let rate = if second.is_some() { rates.adamw } else { rates.muon };
        let decay = if parameter.dim() >= 2 { rate * rates.decay } else { 0.0 };
        if let Some(second) = second {
            let [mut parameter, gradient, mut first, mut second] =
                [parameter, gradient, first, second].map(|tensor| tensor.view(-1));
            let size = parameter.size()[0];
            let step = chunk(&parameter);
            for start in (0..size).step_by(step as usize) {
                let part = |tensor: &mut Tensor| tensor.narrow(0, start, step.min(size - start));
                let [mut parameter, gradient] = [part(&mut parameter), part(&mut gradient.shallow_clone())];
                adamw(&mut parameter, gradient, [part(&mut first), part(&mut second)], decay, rates);
            }
            return;
        }
        if decay > 0.0 {
            drop(parameter.g_mul_scalar_(1.0 - decay));
        }
        let gradient = &*gradient * rates.scale;
        drop(first.g_mul_scalar_(MOMENTUM).g_add_(&gradient));
        let (rows, columns) = (parameter.size()[0], parameter.size()[1]);
        #[expect(clippy::cast_precision_loss, reason = "sizes of matrices")]
        let scale = (rows as f64 / columns as f64).max(1.0).sqrt();
        let direction = orthogonal(&(gradient + &*first * MOMENTUM));
        drop(parameter.g_add_(&(direction * (-rate * scale))));
    }
}

/// Updates some neighbouring numbers (Loshchilov and Hutter 2019), which first become smaller by the share `decay`.
fn adamw(parameter: &mut Tensor, gradient: Tensor, moments: [Tensor; 2], decay: f64, rates: &Rates) {
    let ([beta1, beta2], [mean, square]) = (rates.betas, rates.corrections);
    // first / mean / (√(second / square) + ε), with the constants drawn together.
    let root = square.sqrt();
    let by = kernels::AdamW {
        keep: (1.0 - decay) as f32,
        scale: rates.scale as f32,
        shares: [(1.0 - beta1) as f32, (1.0 - beta2) as f32],
        epsilon: (EPSILON * root) as f32,
        rate: (rates.adamw * root / mean) as f32,
    };
    let [mut first, mut second] = moments;
    if kernels::adamw(parameter, &gradient, [&mut first, &mut second], &by) {
        return;
    }
    let moments = [first, second];
    if decay > 0.0 {
        drop(parameter.g_mul_scalar_(1.0 - decay));
    }
    #[expect(clippy::float_cmp, reason = "an exact one changes nothing")]
    let gradient = if rates.scale == 1.0 { gradient } else { gradient * rates.scale };
    let kind = gradient.kind();
    let [mut first, mut second] = [&moments[0], &moments[1]].map(|moment| moment.to_kind(kind));
    drop(first.lerp_(&gradient, 1.0 - beta1));
    drop(second.lerp_(&gradient.square(), 1.0 - beta2));
    let divisor = second.sqrt().g_add_scalar_(EPSILON * root).g_mul_scalar_(-mean / (rates.adamw * root));
    drop(parameter.addcdiv_(&first, &divisor));
    for (mut moment, new) in moments.into_iter().zip([first, second]) {
        if moment.kind() != kind {
            moment.copy_(&new);
        }
    }
}

/// Does something with every slot, on one or two threads; answers in the order of the slots.
pub(crate) fn in_two<S: Send, T: Send>(
    slots: Vec<S>,
    work: impl Fn(&S) -> i64,
    parallel: bool,
    act: impl Fn(&mut S) -> T + Sync,
) -> Vec<T> {
    let mut slots: Vec<(usize, S)> = slots.into_iter().enumerate().collect();
    if !parallel {
        return slots.iter_mut().map(|(_, slot)| act(slot)).collect();
    }
    slots.sort_by_key(|(_, slot)| std::cmp::Reverse(work(slot)));
    let mut sides = [Vec::new(), Vec::new()];
    let mut works = [0, 0];
    for slot in slots {
        let lighter = usize::from(works[1] < works[0]);
        works[lighter] += work(&slot.1);
        sides[lighter].push(slot);
    }
    let [mut left, mut right] = sides;
    let run = |side: &mut Vec<(usize, S)>| -> Vec<(usize, T)> {
        side.iter_mut().map(|(number, slot)| (*number, act(slot))).collect()
    };
    let mut done = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            tch::set_num_threads(1);
            let _guard = tch::no_grad_guard();
            run(&mut right)
        });
        let mut done = run(&mut left);
        done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, answer)| answer).collect()
}

/// The numbers in which averages are kept: of gradients, and of their squares.
fn numbers(settings: &Training) -> [Number; 2] {
    match settings.moments {
        Precision::Float32 => [Number::Float; 2],
        Precision::Bfloat16 if settings.squares_fit_16_bits() => [Number::BFloat16; 2],
        Precision::Bfloat16 => [Number::BFloat16, Number::Float],
    }
}

/// A matrix with the same singular vectors and singular values near one.
fn orthogonal(matrix: &Tensor) -> Tensor {
    let (a, b, c) = NEWTON_SCHULZ;
    let tall = matrix.size()[0] > matrix.size()[1];
    let mut x = if tall { matrix.tr().contiguous() } else { matrix.shallow_clone() };
    x = &x / (x.norm() + 1e-7);
    for _ in 0..STEPS {
        let gram = x.mm(&x.tr());
        let polynomial = &gram * b + gram.mm(&gram) * c;
        x = &x * a + polynomial.mm(&x);
    }
    if tall { x.tr() } else { x }
}

/// The learning rate of an update as a share of its peak.
///
/// `position` counts from 0; `updates` is the stage's own number, where the schedule has no total.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "numbers of updates are small")]
pub fn share(schedule: &Schedule, position: usize, updates: usize) -> f64 {
    let Schedule { shape, warmup, floor, total } = schedule;
    if position < *warmup {
        return (position + 1) as f64 / *warmup as f64;
    }
    let length = total.unwrap_or(updates).saturating_sub(*warmup).max(1);
    let done = ((position - warmup) as f64 / length as f64).min(1.0);
    let falling = match shape {
        ScheduleShape::Constant => return 1.0,
        ScheduleShape::Linear => 1.0 - done,
        ScheduleShape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
    };
    floor + (1.0 - floor) * falling
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::stream::Stream;

    /// Settings of a training run with constant rates.
    pub(crate) fn training(updates: usize, batch: usize, rate: f64, optimizer: Kind) -> Training {
        let schedule = Schedule { shape: ScheduleShape::Constant, warmup: 0, floor: 0.0, total: None };
        Training {
            updates,
            batch,
            learning_rate: rate,
            optimizer,
            muon_learning_rate: 0.02,
            schedule,
            clip: 1.0,
            weight_decay: 0.0,
            betas: [0.9, 0.95],
            max_length: 128,
            lora: None,
            freeze: Vec::new(),
            moments: Precision::Float32,
            precision: Precision::Float32,
            micro_batch: None,
            activation_checkpointing: false,
            checkpoint_every: 100,
        }
    }

    fn step(settings: &Training, share: f64, parallel: bool) -> Step<'_> {
        Step { settings, share, scale: 1.0, parallel }
    }

    fn matrix(rows: i64, columns: i64) -> Tensor {
        let mut stream = Stream::new("test", 3, "matrix", 0);
        let values: Vec<f32> = (0..rows * columns).map(|_| stream.normal() as f32).collect();
        Tensor::from_slice(&values).view([rows, columns])
    }

    #[test]
    fn averages_in_16_bits_forget() {
        for (betas, kinds) in [
            ([0.9, 0.999], [Number::BFloat16, Number::Float]),
            ([0.9, 0.95], [Number::BFloat16, Number::BFloat16]),
        ] {
            let mut settings = training(1, 1, 1e-3, Kind::Adamw);
            (settings.moments, settings.betas) = (Precision::Bfloat16, betas);
            let mut parameters: Tensors = [("w".to_owned(), matrix(8, 8))].into();
            let mut optimizer = Optimizer::new(&settings);
            for update in 0..2000 {
                let gradient = if update == 0 { matrix(8, 8) } else { matrix(8, 8) * 0.0 };
                optimizer.update(&mut parameters, vec![gradient], step(&settings, 1.0, false));
            }
            let found: Vec<Number> = optimizer.tensors().iter().map(|(_, tensor)| tensor.kind()).collect();
            assert_eq!(found, kinds);
            let square = optimizer.tensors()[1].1.to_kind(Number::Float);
            let left = (square / (matrix(8, 8).square() * (1.0 - betas[1]))).max().double_value(&[]);
            assert!(left < 0.15, "{betas:?} {left}");
            // What is saved is read as it was.
            let folder = tempfile::tempdir().unwrap();
            optimizer.save(folder.path()).unwrap();
            let again = Optimizer::load(folder.path(), &settings, &parameters, Device::Cpu).unwrap();
            for ((name, one), (_, other)) in again.tensors().into_iter().zip(optimizer.tensors()) {
                assert!(one.kind() == other.kind() && one.equal(other), "{name}");
            }
        }
    }

    #[test]
    fn adamw_follows_its_definition() {
        let mut settings = training(3, 1, 0.1, Kind::Adamw);
        settings.weight_decay = 0.5;
        let start = [1.0_f64, -2.0];
        let gradients = [[0.5_f64, -1.0], [0.25, 3.0], [-1.0, 0.0]];
        let mut parameters =
            Tensors::from([("model.layers.0.w".to_owned(), Tensor::from_slice(&[1_f32, -2.0]).view([1, 2]))]);
        let mut optimizer = Optimizer::new(&settings);
        let (mut expected, mut first, mut second) = (start, [0.0; 2], [0.0; 2]);
        for (number, gradient) in gradients.iter().enumerate() {
            let tensor = Tensor::from_slice(&gradient.map(|g| g as f32)).view([1, 2]);
            optimizer.update(&mut parameters, vec![tensor], step(&settings, 1.0, false));
            for i in 0..2 {
                expected[i] *= 1.0 - 0.1 * 0.5;
                first[i] = 0.9 * first[i] + 0.1 * gradient[i];
                second[i] = 0.95 * second[i] + 0.05 * gradient[i] * gradient[i];
                let power = number as i32 + 1;
                let mean = first[i] / (1.0 - 0.9_f64.powi(power));
                let square: f64 = second[i] / (1.0 - 0.95_f64.powi(power));
                expected[i] -= 0.1 * mean / (square.sqrt() + 1e-8);
            }
        }
        let found: Vec<f32> = Vec::try_from(parameters["model.layers.0.w"].view([-1])).unwrap();
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn muon_moves_along_an_almost_orthogonal_matrix() {
        for (rows, columns) in [(24, 24), (16, 40), (40, 16)] {
            let direction = orthogonal(&matrix(rows, columns));
            assert_eq!(direction.size(), [rows, columns]);
            let small =
                if rows > columns { direction.tr().mm(&direction) } else { direction.mm(&direction.tr()) };
            // The iteration brings singular values to about [0.7, 1.2].
            let (values, _) = small.linalg_eigh("U");
            let (least, most) = (values.min().double_value(&[]), values.max().double_value(&[]));
            assert!(least > 0.3 && most < 1.6, "{least} {most}");
        }
    }

    #[test]
    fn a_saved_state_goes_on_with_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let settings = training(3, 1, 0.1, Kind::Muon);
        let make = || {
            Tensors::from([
                ("model.layers.0.w".to_owned(), matrix(8, 4)),
                ("model.norm.weight".to_owned(), matrix(1, 4).view([4])),
            ])
        };
        let gradients = || vec![matrix(8, 4) * 0.3, matrix(1, 4).view([4]) * 0.2];
        let mut straight = (make(), Optimizer::new(&settings));
        straight.1.update(&mut straight.0, gradients(), step(&settings, 1.0, false));
        straight.1.save(folder.path()).unwrap();
        let parameters = straight.0.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect();
        let load = |settings: &Training| Optimizer::load(folder.path(), settings, &make(), Device::Cpu);
        let mut again: (Tensors, _) = (parameters, load(&settings).unwrap());
        for (parallel, (parameters, optimizer)) in [(false, &mut straight), (true, &mut again)] {
            optimizer.update(parameters, gradients(), step(&settings, 0.5, parallel));
            assert_eq!(optimizer.updates(), 2);
        }
        for (name, tensor) in &straight.0 {
            assert!(tensor.equal(&again.0[name]), "{name}");
        }
        let adamw = training(3, 1, 0.1, Kind::Adamw);
        assert!(load(&adamw).unwrap_err().message.contains("muon"));
    }

    #[test]
    fn schedules_warm_up_and_fall_to_their_floor() {
        let mut schedule = Schedule { shape: ScheduleShape::Linear, warmup: 2, floor: 0.1, total: Some(12) };
        let all: Vec<f64> = (0..14).map(|position| share(&schedule, position, 5)).collect();
        assert_eq!(all[..3], [0.5, 1.0, 1.0]);
        assert!(
            (all[7] - 0.55).abs() < 1e-12 && (all[12] - 0.1).abs() < 1e-12 && (all[13] - 0.1).abs() < 1e-12
        );
        schedule.shape = ScheduleShape::Cosine;
        assert!((share(&schedule, 7, 5) - 0.55).abs() < 1e-12);
        schedule.total = None;
        assert!((share(&schedule, 5, 5) - 0.1).abs() < 1e-12, "the stage's own updates are the total");
        schedule.shape = ScheduleShape::Constant;
        assert!((share(&schedule, 999, 5) - 1.0).abs() < 1e-12);
    }

    /// `get_{cosine,linear,constant}_schedule_with_warmup` of 3 and 12 updates, and `cosine_with_min_lr` of 0.1; but
    /// warm-up is one update ahead.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as transformers printed them")]
    fn schedules_are_those_of_transformers() {
        let cosine = [
            0.9698463103929542,
            0.883022221559489,
            0.75,
            0.5868240888334653,
            0.41317591116653485,
            0.2500000000000001,
            0.11697777844051105,
            0.03015368960704584,
        ];
        let theirs = [
            (ScheduleShape::Cosine, 0.0, cosine),
            (ScheduleShape::Cosine, 0.1, cosine.map(|share| 0.1 + 0.9 * share)),
            (ScheduleShape::Linear, 0.0, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0].map(|ninths| ninths / 9.0)),
            (ScheduleShape::Constant, 0.0, [1.0; 8]),
        ];
        for (shape, floor, falling) in theirs {
            let schedule = Schedule { shape, warmup: 3, floor, total: None };
            let theirs = [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0].into_iter().chain(falling);
            for (update, theirs) in theirs.enumerate() {
                let ours = share(&schedule, if update < 3 { update.saturating_sub(1) } else { update }, 12);
                let expected = if update == 0 { 1.0 / 3.0 } else { theirs };
                assert!((ours - expected).abs() < 1e-12, "{shape:?} {update}: {ours} {expected}");
            }
        }
    }
}
