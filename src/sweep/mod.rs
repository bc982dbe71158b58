//! Many variants of one pipeline as one run.
//!
//! A sweep is the product of the file's `variants:`, of the lists in its `grid:` and on the command
//! line, and of seeds. [`Sweep::plan`] lays them out as one [`Plan`], in which shared work is one step;
//! [`forecast`] says beforehand what is to run; [`outcome`] compares the figures afterwards.

mod expand;
pub mod forecast;
mod names;
pub mod outcome;
mod paired;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::{Deserialize, Serialize};

use crate::pipeline::{Diagnostic, Pipeline};
use crate::plan::{Plan, StepId};

pub use expand::check;

/// What the command line says of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `key.path=value` for all variants, and `key.path=value,value` for one variant each.
    pub arguments: Vec<String>,
    /// A number of seeds, or seeds separated by commas.
    pub seeds: Option<String>,
    /// Names of variants, with `*` and `?`; empty for all.
    pub only: Vec<String>,
    /// The variant that the others are compared with.
    pub baseline: Option<String>,
}

/// The variants and seeds of a sweep.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The variants; the first is the one that the others are compared with.
    pub variants: Vec<Variant>,
    /// The seeds that every variant runs with.
    pub seeds: Vec<u64>,
}

/// One variant.
#[derive(Debug, Clone)]
pub struct Variant {
    /// `no_rm`, `n_star=2`, `no_rm · n_star=2`.
    pub name: String,
    /// How it differs from the file, as `key.path=value`.
    pub overrides: Vec<String>,
    /// The pipeline, with the first seed.
    pub pipeline: Pipeline,
}

/// A variant in the record of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantRecord {
    /// Its name.
    pub name: String,
    /// How it differs from the file: `bstar pipeline run FILE` with these does the same.
    pub overrides: Vec<String>,
}

/// A sweep in the record of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepRecord {
    /// What was asked for.
    pub request: Request,
    /// What it came to; the first is the baseline.
    pub variants: Vec<VariantRecord>,
    /// The seeds of every variant.
    pub seeds: Vec<u64>,
}

/// Why there is no sweep.
#[derive(Debug)]
pub enum Refused {
    /// Problems of the file or of changes to it.
    Problems(Vec<Diagnostic>),
    /// The request means nothing.
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl Sweep {
    /// The pipelines in the order of the plan's parts: by variant, then by seed.
    #[must_use]
    pub fn pipelines(&self) -> Vec<(String, Pipeline)> {
        let mut pipelines = Vec::new();
        for (index, variant) in self.variants.iter().enumerate() {
            for seed in &self.seeds {
                let tag =
                    names::tag(if index == 0 { "" } else { &variant.name }, *seed, self.seeds.len() > 1);
                pipelines.push((tag, variant.pipeline.with_seed(*seed)));
            }
        }
        pipelines
    }

    /// All variants with all seeds in one plan; its parts are in the order of [`Sweep::pipelines`].
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan::of(&self.pipelines())
    }

    /// What to say of variants that do the same as one before them, as where the command line sets for all what
    /// they differ in.
    #[must_use]
    pub fn twins(&self, plan: &Plan) -> Vec<String> {
        let mut first: HashMap<Vec<StepId>, &str> = HashMap::new();
        let mut told = Vec::new();
        for (variant, part) in self.variants.iter().zip(plan.parts().iter().step_by(self.seeds.len().max(1)))
        {
            let steps = part.steps.iter().map(|(_, id)| *id).collect();
            match first.entry(steps) {
                Entry::Vacant(place) => _ = place.insert(&variant.name),
                Entry::Occupied(other) => told.push(format!(
                    "variants `{}` and `{}` are the same pipeline: all of their figures will be equal",
                    other.get(),
                    variant.name
                )),
            }
        }
        told
    }

    /// For the record of the run.
    #[must_use]
    pub fn record(&self, request: &Request) -> SweepRecord {
        let variant = |variant: &Variant| VariantRecord {
            name: variant.name.clone(),
            overrides: variant.overrides.clone(),
        };
        SweepRecord {
            request: request.clone(),
            variants: self.variants.iter().map(variant).collect(),
            seeds: self.seeds.clone(),
        }
    }
}
