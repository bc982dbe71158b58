//! Low-rank adapters.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;

/// Trains low-rank changes of matrices, `alpha / rank × B A`, and nothing else (Hu et al. 2021).
///
/// A stage that does has another output, `adapter`: a folder in PEFT's format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of `A`, columns of `B`.
    pub rank: usize,
    /// The change is multiplied by `alpha / rank`. Default: `rank`, so that the factor is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The matrices. Default: all seven of a block.
    #[serde(default = "Target::all")]
    pub targets: Vec<Target>,
    /// Whether `policy` is a whole model with the change added. Without, there is no such output.
    #[serde(default = "yes")]
    pub merge: bool,
}

/// A matrix of a block, by the name that `config.json` and PEFT give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "Hugging Face's names, explained there")]
pub enum Target {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

fn yes() -> bool {
    true
}

impl Lora {
    /// What the product of the two matrices is multiplied by.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    pub fn scale(&self) -> f64 {
        self.effective_alpha() / self.rank as f64
    }

    /// `alpha` in effect.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    pub fn effective_alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    pub(super) fn identity(&self) -> Ingredient {
        let Self { rank, alpha: _, targets, merge } = self;
        // Their order decides nothing.
        let mut names: Vec<String> = targets.iter().map(|target| target.name().to_owned()).collect();
        names.sort_unstable();
        Ingredient::map([
            ("rank", (*rank).into()),
            ("alpha", self.effective_alpha().into()),
            ("targets", names.into()),
            ("merge", (*merge).into()),
        ])
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        checks.count("training.lora.rank", self.rank);
        // More than a matrix of any model has.
        checks.at_most("training.lora.rank", self.rank, 65_536);
        if let Some(alpha) = self.alpha {
            checks.positive("training.lora.alpha", alpha, "leave it out for alpha = rank");
        }
        if self.targets.is_empty() {
            let message = "training.lora.targets lists no matrices";
            checks.refuse("training.lora.targets", message, "leave it out for all matrices of a block");
        }
        for (index, target) in self.targets.iter().enumerate() {
            if self.targets[..index].contains(target) {
                let message = format!("{} is listed twice", target.name());
                checks.refuse(&format!("training.lora.targets[{index}]"), message, "remove one");
            }
        }
    }
}

impl Target {
    /// All matrices of a block.
    #[must_use]
    pub fn all() -> Vec<Self> {
        use Target::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};
        vec![QProj, KProj, VProj, OProj, GateProj, UpProj, DownProj]
    }

    /// Its name in `config.json` and in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }
}
