//! Low-rank adapters, in memory and as PEFT's folders.
//!
//! An adapter changes a matrix `W` to `W + scale × B A`; training starts from `A` uniform in
//! ±1/√inputs and `B` zero, as in PEFT, so it starts from the model as it is.

use std::path::Path;

use bstar_stages::config::{Lora, Target};
use serde_json::json;
use tch::{Kind, Tensor};

use crate::checkpoint::write_json;
use crate::error::{Result, io};
use crate::model::Decoder;
use crate::stream::Stream;
use crate::tensors::{Tensors, write_tensors};

/// The adapters of a model.
#[derive(Debug)]
pub struct Adapters {
    settings: Lora,
    /// `MATRIX.lora_A.weight`, `[rank, inputs]`, and `MATRIX.lora_B.weight`, `[outputs, rank]`.
    pub(crate) tensors: Tensors,
    pub(crate) scale: f64,
}

impl Adapters {
    /// New adapters for a model.
    #[must_use]
    pub fn new(settings: &Lora, model: &Decoder, seed: u64) -> Self {
        let mut tensors = Tensors::new();
        let rank = i64::try_from(settings.rank).unwrap_or(i64::MAX);
        for (name, matrix) in model.named() {
            let Some(name) = name.strip_suffix(".weight") else { continue };
            if !settings.targets.iter().any(|target| is_target(name, *target)) {
                continue;
            }
            let (outputs, inputs) = (matrix.size()[0], matrix.size()[1]);
            let [a, b] = Self::names(name);
            let mut stream = Stream::new("initial adapters", seed, &a, 0);
            #[expect(clippy::cast_precision_loss, reason = "a width")]
            let bound = (inputs as f64).powf(-0.5);
            #[expect(clippy::cast_possible_truncation, reason = "weights are 32-bit floats")]
            let values: Vec<f32> =
                (0..rank * inputs).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect();
            let values = Tensor::from_slice(&values).view([rank, inputs]).to_device(model.device());
            drop(tensors.insert(a, values));
            drop(tensors.insert(b, Tensor::zeros([outputs, rank], (Kind::Float, model.device()))));
        }
        Self { settings: settings.clone(), tensors, scale: settings.scale() }
    }

    /// The names of the two sides of a matrix's adapter.
    pub(crate) fn names(matrix: &str) -> [String; 2] {
        ["A", "B"].map(|side| format!("{matrix}.lora_{side}.weight"))
    }

    /// Adds the changes to the matrices of the model they were trained with.
    pub fn merge(&self, model: &mut Decoder) {
        let _guard = tch::no_grad_guard();
        for (name, weight) in model.tensors_mut() {
            let [a, b] = Self::names(name.trim_end_matches(".weight"));
            if let (Some(a), Some(b)) = (self.tensors.get(&a), self.tensors.get(&b)) {
                *weight = &*weight + b.mm(a) * self.scale;
            }
        }
    }

    /// Writes a folder that PEFT loads onto the model that the training started from.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(io("create", folder))?;
        let named = self.tensors.iter().map(|(name, tensor)| (format!("base_model.model.{name}"), tensor));
        write_tensors(&folder.join("adapter_model.safetensors"), named, Kind::Float, None)?;
        let mut targets: Vec<&str> = self.settings.targets.iter().map(|target| target.name()).collect();
        targets.sort_unstable();
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": null,
            "r": self.settings.rank,
            "lora_alpha": self.settings.effective_alpha(),
            "lora_dropout": 0.0,
            "target_modules": targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
        });
        write_json(&folder.join("adapter_config.json"), &config)
    }
}

fn is_target(matrix: &str, target: Target) -> bool {
    matrix.starts_with("model.layers.") && matrix.rsplit('.').next() == Some(target.name())
}
