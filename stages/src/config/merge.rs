//! Weights between those of two policies.

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checks;
use crate::reference::Reference;
use crate::stage::{Input, Output, Problem, Runner, Stage};

/// Averages the weights of two policies of the same shape (WiSE-FT, arXiv 2109.01903; for Pass@K lost in
/// fine-tuning: arXiv 2504.10478). Output: `policy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// A policy; its tokenizer and configuration stay.
    pub policy: Reference,
    /// The other one, usually an earlier checkpoint.
    pub other: Reference,
    /// The other one's share in every weight, from 0 to 1.
    #[serde(default = "half")]
    pub share: f64,
}

fn half() -> f64 {
    0.5
}

impl Stage for Merge {
    fn runner(&self) -> Runner {
        Runner::Worker
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::required("policy", &self.policy), Input::required("other", &self.other)]
    }

    /// 2: what a policy's folder holds beside its weights stays.
    fn version(&self) -> u32 {
        2
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::folder("policy")]
    }

    fn identity(&self) -> Ingredient {
        let Self { policy: _, other: _, share } = self;
        Ingredient::map([("share", (*share).into())])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.within("share", self.share, 0.0, 1.0, "0.5 is the mean of both");
        checks.0
    }
}
