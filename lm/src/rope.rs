//! Rotary positions: their frequencies, how those are stretched to longer contexts, and the factors.

use bstar_stages::protocol::StageError;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::config::Fields;
use crate::error::Result;
use crate::model::index;

/// Positions a table begins with; it grows when more are asked for.
const POSITIONS: i64 = 1024;

/// Rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Their base.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: Scaling,
}

/// Ways to stretch rotary frequencies to contexts longer than a model was first trained on, by the
/// names and formulas of transformers.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of `rope_parameters`")]
pub enum Scaling {
    /// Not at all.
    Default,
    /// Every position is divided by the factor.
    Linear { factor: f64 },
    /// Long waves are stretched, short ones kept, those between blended.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original: f64 },
    /// The same by another blend, with all factors multiplied by `attention_factor`.
    Yarn { factor: f64, original: f64, beta_fast: f64, beta_slow: f64, truncate: bool, attention_factor: f64 },
}

impl Rope {
    /// Frequencies that are not stretched.
    #[must_use]
    pub fn new(theta: f64) -> Self {
        Self { theta, scaling: Scaling::Default }
    }

    /// Reads the fields of `config.json` in either spelling: `rope_theta` and `rope_scaling`, or
    /// `rope_parameters`. An empty `rope_scaling` is none.
    pub(crate) fn read(fields: &Fields<'_>, max_positions: i64) -> Result<Self> {
        let idle = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        let old = fields.get("rope_scaling").is_some_and(|value| !idle(value));
        let name = if old { "rope_scaling" } else { "rope_parameters" };
        let empty = Map::new();
        let map = match fields.get(name) {
            None => &empty,
            Some(Value::Object(map)) => map,
            Some(other) => return Err(StageError::invalid(format!("`{name}` is {other}, not an object"))),
        };
        let rope = Fields::within(map, name);
        if let Some(nested) = map.iter().find(|(_, value)| value.is_object()) {
            return Err(StageError::invalid(format!("`{name}.{}` is an object", nested.0))
                .hint("rotary frequencies that differ from layer to layer are not supported"));
        }
        for partial in [fields.named("partial_rotary_factor")?, rope.named("partial_rotary_factor")?] {
            if let Some((name, share)) = partial.filter(|(_, share)| *share < 1.0) {
                return Err(StageError::invalid(format!("`{name}` is {share}"))
                    .hint("only heads that are rotated as a whole are supported"));
            }
        }
        if let Some((name, value)) = map.iter().find(|(name, _)| name.starts_with("mrope")) {
            return Err(StageError::invalid(format!("`{}.{name}` is {value}", rope.place()))
                .hint("positions in images and video are not supported"));
        }
        let theta = match rope.real("rope_theta")? {
            Some(theta) => theta,
            None => fields.real("rope_theta")?.unwrap_or(10000.0),
        };
        #[expect(clippy::cast_precision_loss, reason = "positions are far below 2^53")]
        let context = max_positions as f64;
        let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
        let original = |rope: &Fields<'_>| -> Result<f64> {
            let outside = fields.real("original_max_position_embeddings")?;
            Ok(outside.or(rope.real("original_max_position_embeddings")?).unwrap_or(context))
        };
        let scaling = match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: rope.need_real("factor")? },
            "llama3" => Scaling::Llama3 {
                factor: rope.need_real("factor")?,
                low_freq_factor: rope.need_real("low_freq_factor")?,
                high_freq_factor: rope.need_real("high_freq_factor")?,
                original: original(&rope)?,
            },
            "yarn" => {
                let original = original(&rope)?;
                let factor = rope.real("factor")?.unwrap_or(context / original);
                let scales = [rope.real("mscale")?, rope.real("mscale_all_dim")?];
                let attention_factor = match (rope.real("attention_factor")?, scales) {
                    (Some(factor), _) => factor,
                    (None, [Some(scale), Some(all)]) if scale != 0.0 && all != 0.0 => {
                        magnitude(factor, scale) / magnitude(factor, all)
                    }
                    (None, _) => magnitude(factor, 1.0),
                };
                let positive =
                    |value: Option<f64>, default| value.filter(|beta| *beta != 0.0).unwrap_or(default);
                Scaling::Yarn {
                    factor,
                    original,
                    beta_fast: positive(rope.real("beta_fast")?, 32.0),
                    beta_slow: positive(rope.real("beta_slow")?, 1.0),
                    truncate: rope.flag("truncate")?.unwrap_or(true),
                    attention_factor,
                }
            }
            other => {
                return Err(StageError::invalid(format!("`{name}.rope_type` is `{other}`")).hint(format!(
                    "supported are default, linear, llama3 and yarn; without `{name}` the model works as it \
                     was first trained"
                )));
            }
        };
        if !(theta > 0.0 && scaling.factor() > 0.0 && scaling.original() > 0.0) {
            return Err(StageError::invalid(format!("`{name}` holds numbers that are not positive")));
        }
        Ok(Self { theta, scaling })
    }

    /// As the value of `rope_parameters`, which also has the fields of `rope_scaling`.
    pub(crate) fn to_json(&self) -> Value {
        let theta = self.theta;
        match &self.scaling {
            Scaling::Default => json!({"rope_type": "default", "rope_theta": theta}),
            Scaling::Linear { factor } => {
                json!({"rope_type": "linear", "rope_theta": theta, "factor": factor})
            }
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => json!({
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": whole(*original),
            }),
            Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate, attention_factor } => json!({
                "rope_type": "yarn",
                "rope_theta": theta,
                "factor": factor,
                "original_max_position_embeddings": whole(*original),
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                "attention_factor": attention_factor,
            }),
        }
    }

    /// Positions a turn takes, divided by 2π, for each pair of dimensions of a head.
    fn periods(&self, head: i64) -> Vec<f64> {
        #[expect(clippy::cast_precision_loss, reason = "dimensions of a head")]
        let plain = (0..head / 2).map(|pair| self.theta.powf((pair * 2) as f64 / head as f64));
        match &self.scaling {
            Scaling::Default => plain.collect(),
            Scaling::Linear { factor } => plain.map(|period| period * factor).collect(),
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => plain
                .map(|period| {
                    let turns = original / (std::f64::consts::TAU * period);
                    let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    blend(period, *factor, kept)
                })
                .collect(),
            Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let [low, high] = self.ramp(head, *original, [*beta_fast, *beta_slow], *truncate);
                #[expect(clippy::cast_precision_loss, reason = "dimensions of a head")]
                let stretched = |pair: usize| ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain
                    .enumerate()
                    .map(|(pair, period)| blend(period, *factor, 1.0 - stretched(pair)))
                    .collect()
            }
        }
    }

    /// The pairs between which YaRN blends: those that turn `betas` times within the original context.
    fn ramp(&self, head: i64, original: f64, betas: [f64; 2], truncate: bool) -> [f64; 2] {
        #[expect(clippy::cast_precision_loss, reason = "dimensions of a head")]
        let head = head as f64;
        let pair =
            |turns: f64| head * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln());
        let [mut low, mut high] = betas.map(pair);
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(head - 1.0));
        #[expect(clippy::float_cmp, reason = "as in transformers: only against division by zero")]
        if low == high {
            high += 0.001;
        }
        [low, high]
    }

    /// What every factor is multiplied by.
    fn magnitude(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }
}

impl Scaling {
    fn factor(&self) -> f64 {
        match self {
            Self::Default => 1.0,
            Self::Linear { factor } | Self::Llama3 { factor, .. } | Self::Yarn { factor, .. } => *factor,
        }
    }

    fn original(&self) -> f64 {
        match self {
            Self::Default | Self::Linear { .. } => 1.0,
            Self::Llama3 { original, .. } | Self::Yarn { original, .. } => *original,
        }
    }

    /// Positions that stretching makes usable, where `config.json` may still name fewer.
    pub(crate) fn context(&self) -> i64 {
        match self {
            #[expect(clippy::cast_possible_truncation, reason = "positions are far below 2^53")]
            Self::Yarn { factor, original, .. } => (factor * original) as i64,
            _ => 0,
        }
    }
}

/// A period of which the share `kept` of the frequency is kept and the rest divided by `factor`.
fn blend(period: f64, factor: f64, kept: f64) -> f64 {
    let kept = kept.clamp(0.0, 1.0);
    1.0 / ((1.0 - kept) / (factor * period) + kept / period)
}

/// YaRN's correction of attention for a stretch by `factor`.
fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// A number as JSON, without a decimal point where it has no decimals.
fn whole(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "compared afterwards")]
    let integer = value as i64;
    #[expect(clippy::cast_precision_loss, clippy::float_cmp, reason = "an exact comparison is meant")]
    if integer as f64 == value { json!(integer) } else { json!(value) }
}

/// Cosines and sines of all positions so far asked for, `[positions, 1, head]`; the sine's first half
/// is negated.
#[derive(Debug)]
pub(crate) struct Tables {
    periods: Vec<f64>,
    magnitude: f64,
    most: i64,
    device: Device,
    kind: Kind,
    cos: Tensor,
    sin: Tensor,
}

impl Tables {
    /// Tables for at most `most` positions of heads of this width.
    pub(crate) fn new(rope: &Rope, head: i64, most: i64, device: Device, kind: Kind) -> Self {
        let empty = || Tensor::empty([0, 1, head], (kind, device));
        let (periods, magnitude) = (rope.periods(head), rope.magnitude());
        let mut tables = Self { periods, magnitude, most, device, kind, cos: empty(), sin: empty() };
        tables.fill(most.min(POSITIONS));
        tables
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// The cosines and sines of these positions.
    pub(crate) fn take(&mut self, positions: &[i64]) -> [Tensor; 2] {
        let end = positions.iter().max().map_or(0, |last| last + 1);
        if end > self.cos.size()[0] {
            let doubled = self.cos.size()[0].saturating_mul(2);
            self.fill(end.max(doubled.min(self.most)));
        }
        let at = index(positions, self.device);
        [self.cos.index_select(0, &at), self.sin.index_select(0, &at)]
    }

    fn fill(&mut self, positions: i64) {
        let half = self.periods.len();
        let size = 2 * half * usize::try_from(positions).unwrap_or(0);
        let (mut cos, mut sin) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let mut row = vec![(0.0_f32, 0.0_f32); half];
        for position in 0..positions {
            for (pair, period) in row.iter_mut().zip(&self.periods) {
                #[expect(clippy::cast_precision_loss, reason = "positions are far below 2^53")]
                let angle = position as f64 / period;
                #[expect(clippy::cast_possible_truncation, reason = "tables of 32-bit floats")]
                {
                    *pair = ((self.magnitude * angle.cos()) as f32, (self.magnitude * angle.sin()) as f32);
                }
            }
            cos.extend(row.iter().chain(&row).map(|(cos, _)| *cos));
            sin.extend(row.iter().map(|(_, sin)| -sin).chain(row.iter().map(|(_, sin)| *sin)));
        }
        let width = i64::try_from(2 * half).unwrap_or(0);
        let table = |values: &[f32]| {
            Tensor::from_slice(values).view([-1, 1, width]).to_device(self.device).to_kind(self.kind)
        };
        (self.cos, self.sin) = (table(&cos), table(&sin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: Value) -> Result<Rope> {
        let map = json.as_object().unwrap().clone();
        Rope::read(&Fields::new(&map), 4096)
    }

    #[test]
    fn both_spellings_are_read_and_what_is_written_reads_back() {
        for parameters in [
            json!({"rope_type": "default", "rope_theta": 500.0}),
            json!({"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}),
            json!({"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
            json!({"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
                   "original_max_position_embeddings": 64}),
        ] {
            let five = read(json!({"rope_parameters": parameters.clone()})).unwrap();
            let mut old = parameters.clone();
            drop(old.as_object_mut().unwrap().remove("rope_theta"));
            assert_eq!(read(json!({"rope_theta": 500.0, "rope_scaling": old})).unwrap(), five);
            assert_eq!(read(json!({"rope_parameters": five.to_json()})).unwrap(), five);
        }
        let old = json!({"rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 2}});
        assert_eq!(read(old).unwrap(), Rope { theta: 7.0, scaling: Scaling::Linear { factor: 2.0 } });
        assert_eq!(read(json!({"rope_scaling": null})).unwrap(), Rope::new(10000.0));
        let parameters = json!({"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0});
        let linear = read(json!({"rope_parameters": parameters})).unwrap();
        assert_eq!(read(json!({"rope_scaling": {}, "rope_parameters": parameters})).unwrap(), linear);
        assert_eq!(read(json!({"rope_scaling": {}, "rope_theta": 7.0})).unwrap(), Rope::new(7.0));
    }

    #[test]
    fn what_is_not_supported_is_named_with_its_value() {
        for (json, expected) in [
            (
                json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
                "`rope_scaling.rope_type` is `dynamic`",
            ),
            (json!({"rope_scaling": {"type": "longrope"}}), "`rope_scaling.rope_type` is `longrope`"),
            (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor` is missing"),
            (json!({"rope_scaling": {"type": "linear", "factor": 0}}), "not positive"),
            (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is 0.5"),
            (
                json!({"rope_parameters": {"partial_rotary_factor": 0.25}}),
                "`rope_parameters.partial_rotary_factor`",
            ),
            (json!({"rope_parameters": {"full_attention": {}}}), "`rope_parameters.full_attention`"),
            (json!({"rope_scaling": {"mrope_section": [1, 2]}}), "mrope_section"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[test]
    fn stretching_keeps_short_waves_and_divides_long_ones() {
        let plain = Rope::new(10000.0).periods(64);
        for scaling in [
            Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192.0 },
            Scaling::Yarn {
                factor: 8.0,
                original: 8192.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: true,
                attention_factor: 1.0,
            },
        ] {
            let periods = Rope { theta: 10000.0, scaling }.periods(64);
            assert!((periods[0] / plain[0] - 1.0).abs() < 1e-12);
            assert!((periods[31] / plain[31] - 8.0).abs() < 1e-9, "{}", periods[31] / plain[31]);
            assert!(periods.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn tables_grow_without_changing() {
        let mut tables = Tables::new(&Rope::new(10000.0), 8, 100_000, Device::Cpu, Kind::Float);
        let before = tables.take(&[3, 1000]);
        let far = tables.take(&[70_000]);
        assert_eq!(far[0].size(), [1, 1, 8]);
        for (before, after) in before.iter().zip(tables.take(&[3, 1000])) {
            assert!(before.equal(&after));
        }
    }
}
