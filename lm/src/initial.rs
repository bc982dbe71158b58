//! Models that have learnt nothing.

use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::model::Decoder;
use crate::stream::Stream;
use crate::tensors::Tensors;

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
