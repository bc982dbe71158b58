//! AdamW and Muon, with a state that can be saved and inherited.

use std::collections::BTreeMap;
use std::path::Path;

use bstar_stages::config::{Optimizer as Kind, Schedule, ScheduleShape, Training};
use bstar_stages::protocol::StageError;
use serde_json::{Value, json};
use tch::{Device, Kind as Number, Tensor};

use crate::checkpoint::write_json;
use crate::error::{Result, io};
use crate::tensors::{Tensors, read_tensors, write_tensors};

/// Added to the root of AdamW's second moment.
const EPSILON: f64 = 1e-8;
/// Muon's momentum.
const MOMENTUM: f64 = 0.95;
/// The quintic iteration that pushes all singular values towards one (Jordan et al. 2024).
const NEWTON_SCHULZ: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
/// Its number of steps.
const STEPS: usize = 5;

/// Running averages of the gradients, and how many updates they have seen.
#[derive(Debug)]
pub struct Optimizer {
    kind: Kind,
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

/// What is the same for all parameters of an update.
#[derive(Clone, Copy)]
struct Rates {
    adamw: f64,
    muon: f64,
    decay: f64,
    betas: [f64; 2],
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
    pub fn new(kind: Kind) -> Self {
        Self { kind, moments: BTreeMap::new(), updates: 0 }
    }

    /// A state put together again from [`Optimizer::tensors`].
    #[must_use]
    pub fn restored(kind: Kind, mut tensors: Tensors, updates: usize) -> Self {
        let seconds = tensors.split_off("second.");
        let moments = tensors.into_iter().map(|(name, first)| {
            let name = name.trim_start_matches("first.").to_owned();
            let second = seconds.get(&format!("second.{name}")).map(Tensor::shallow_clone);
            (name, Moments { first, second })
        });
        Self { kind, moments: moments.collect(), updates }
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
    /// `gradients` are in the order of the parameters' names; `share` is the part of the peak learning
    /// rates to use.
    pub fn update(
        &mut self,
        parameters: &mut Tensors,
        gradients: Vec<Tensor>,
        settings: &Training,
        share: f64,
        parallel: bool,
    ) {
        let _guard = tch::no_grad_guard();
        self.updates += 1;
        let power = i32::try_from(self.updates).unwrap_or(i32::MAX);
        let rates = Rates {
            adamw: share * settings.learning_rate,
            muon: share * settings.muon_learning_rate,
            decay: settings.weight_decay,
            betas: settings.betas,
            corrections: settings.betas.map(|beta| 1.0 - beta.powi(power)),
        };
        for (name, parameter) in parameters.iter() {
            let muon = self.kind == Kind::Muon && is_hidden_matrix(name, parameter);
            let zeros = || parameter.detach().zeros_like();
            let new = || Moments { first: zeros(), second: (!muon).then(zeros) };
            let _moments = self.moments.entry(name.clone()).or_insert_with(new);
        }
        // Both maps have the same names, and so the same order.
        let slots = parameters.values_mut().zip(gradients).zip(self.moments.values_mut());
        let mut slots: Vec<Slot<'_>> =
            slots.map(|((parameter, gradient), moments)| Slot { parameter, gradient, moments }).collect();
        if !parallel {
            slots.iter_mut().for_each(|slot| slot.update(&rates));
            return;
        }
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.work()));
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut work = [0, 0];
        for slot in slots {
            let lighter = usize::from(work[1] < work[0]);
            work[lighter] += slot.work();
            if lighter == 0 { left.push(slot) } else { right.push(slot) }
        }
        std::thread::scope(|scope| {
            let _other = scope.spawn(move || {
                tch::set_num_threads(1);
                let _guard = tch::no_grad_guard();
                right.iter_mut().for_each(|slot| slot.update(&rates));
            });
            left.iter_mut().for_each(|slot| slot.update(&rates));
        });
    }

    /// Writes the state into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(io("create", folder))?;
        write_tensors(&folder.join("optimizer.safetensors"), self.tensors(), Number::Float, None)?;
        let state = json!({"updates": self.updates, "optimizer": self.kind});
        write_json(&folder.join("state.json"), &state)
    }

    /// Reads a state that goes on with these parameters.
    ///
    /// # Errors
    /// When a file cannot be read, or the state is that of another optimizer or model.
    pub fn load(folder: &Path, kind: Kind, parameters: &Tensors, device: Device) -> Result<Self> {
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
                return Err(invalid(format!("`{name}` does not belong to this model")));
            }
        }
        let all = |name: &String| tensors.contains_key(&format!("first.{name}"));
        if let Some(name) = parameters.keys().find(|name| !all(name)) {
            return Err(invalid(format!("it knows nothing of `{name}`")));
        }
        Ok(Self::restored(kind, tensors, usize::try_from(updates).unwrap_or(usize::MAX)))
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
        if rates.decay > 0.0 && parameter.dim() >= 2 {
            drop(parameter.g_mul_scalar_(1.0 - rate * rates.decay));
        }
        let Some(second) = second else {
            drop(first.g_mul_scalar_(MOMENTUM).g_add_(gradient));
            let (rows, columns) = (parameter.size()[0], parameter.size()[1]);
            #[expect(clippy::cast_precision_loss, reason = "sizes of matrices")]
            let scale = (rows as f64 / columns as f64).max(1.0).sqrt();
            let direction = orthogonal(&(&*gradient + &*first * MOMENTUM));
            drop(parameter.g_add_(&(direction * (-rate * scale))));
            return;
        };
        let ([beta1, beta2], [mean, square]) = (rates.betas, rates.corrections);
        drop(first.g_mul_scalar_(beta1).g_add_(&(&*gradient * (1.0 - beta1))));
        drop(second.g_mul_scalar_(beta2).g_add_(&(&*gradient * &*gradient * (1.0 - beta2))));
        let root = second.sqrt() / square.sqrt() + EPSILON;
        drop(parameter.g_add_(&(&*first / root * (-rate / mean))));
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
            checkpoint_every: 100,
        }
    }

    fn matrix(rows: i64, columns: i64) -> Tensor {
        let mut stream = Stream::new("test", 3, "matrix", 0);
        let values: Vec<f32> = (0..rows * columns).map(|_| stream.normal() as f32).collect();
        Tensor::from_slice(&values).view([rows, columns])
    }

    #[test]
    fn adamw_follows_its_definition() {
        let mut settings = training(3, 1, 0.1, Kind::Adamw);
        settings.weight_decay = 0.5;
        let start = [1.0_f64, -2.0];
        let gradients = [[0.5_f64, -1.0], [0.25, 3.0], [-1.0, 0.0]];
        let mut parameters =
            Tensors::from([("model.layers.0.w".to_owned(), Tensor::from_slice(&[1_f32, -2.0]).view([1, 2]))]);
        let mut optimizer = Optimizer::new(Kind::Adamw);
        let (mut expected, mut first, mut second) = (start, [0.0; 2], [0.0; 2]);
        for (step, gradient) in gradients.iter().enumerate() {
            let tensor = Tensor::from_slice(&gradient.map(|g| g as f32)).view([1, 2]);
            optimizer.update(&mut parameters, vec![tensor], &settings, 1.0, false);
            for i in 0..2 {
                expected[i] *= 1.0 - 0.1 * 0.5;
                first[i] = 0.9 * first[i] + 0.1 * gradient[i];
                second[i] = 0.95 * second[i] + 0.05 * gradient[i] * gradient[i];
                let power = step as i32 + 1;
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
        let mut straight = (make(), Optimizer::new(Kind::Muon));
        straight.1.update(&mut straight.0, gradients(), &settings, 1.0, false);
        straight.1.save(folder.path()).unwrap();
        let parameters = straight.0.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect();
        let load = |kind| Optimizer::load(folder.path(), kind, &make(), Device::Cpu);
        let mut again: (Tensors, _) = (parameters, load(Kind::Muon).unwrap());
        for (parallel, (parameters, optimizer)) in [(false, &mut straight), (true, &mut again)] {
            optimizer.update(parameters, gradients(), &settings, 0.5, parallel);
            assert_eq!(optimizer.updates(), 2);
        }
        for (name, tensor) in &straight.0 {
            assert!(tensor.equal(&again.0[name]), "{name}");
        }
        assert!(load(Kind::Adamw).unwrap_err().message.contains("muon"));
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
}
