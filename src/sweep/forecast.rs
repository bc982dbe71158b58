//! What a sweep is going to do, said before it does it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::estimate::{Estimate, Past, estimate};
use crate::executor::Options;
use crate::executor::survey::Standing;
use crate::plan::{Plan, StepId};
use crate::report::{about, size, thousands};

/// How many steps a run has, and what becomes of them. A sharded step is one step here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Number of variants.
    pub variants: usize,
    /// Number of seeds of each.
    pub seeds: usize,
    /// Steps of all pipelines, each counted by itself.
    pub steps: usize,
    /// Steps that are the same as a step counted before.
    pub shared: usize,
    /// Steps whose result is stored, also where only its shards are.
    pub cached: usize,
    /// Steps that will run.
    pub will_run: usize,
    /// Steps of which it is not known before others have run.
    pub unknown: usize,
    /// Executions that are sure: steps that will run, sharded ones by their missing shards.
    pub executions: usize,
    /// Whether these are all.
    pub exact: bool,
    /// Expected seconds from start to end; `None` when no step to run has a past.
    pub seconds: Option<f64>,
    /// Expected bytes of all outputs; `None` as for `seconds`.
    pub bytes: Option<u64>,
    /// Steps to run of which nothing like it was ever run.
    pub without_past: usize,
}

/// Counts what is to be done, and gives the steps that are to run with the share of each that is left.
#[must_use]
pub fn forecast(plan: &Plan, standings: &[Standing]) -> (Forecast, BTreeMap<StepId, f64>) {
    let steps = plan.parts().iter().map(|part| part.steps.len()).sum::<usize>();
    let mut counted = Forecast { steps, shared: steps - plan.len(), exact: true, ..Forecast::default() };
    let mut claimed = BTreeSet::new();
    let mut left = BTreeMap::new();
    for (id, standing) in plan.ids().zip(standings) {
        let share = match standing {
            Standing::Stored => 0.0,
            Standing::Unknown => {
                counted.exact = false;
                counted.unknown += 1;
                left.insert(id, 1.0);
                continue;
            }
            // Equal keys of steps that are laid out apart: the work is done once.
            Standing::Missing { key, .. } if !claimed.insert(*key) => {
                counted.shared += 1;
                continue;
            }
            Standing::Missing { shards: None, .. } => {
                counted.exact &= !plan.step(id).stage.stage().sharded();
                counted.executions += 1;
                1.0
            }
            Standing::Missing { shards: Some(shards), .. } => {
                let missing: Vec<_> = shards.iter().filter(|(_, stored)| !stored).collect();
                let new = missing.iter().filter(|(key, _)| claimed.insert(*key)).count();
                counted.executions += new;
                if new == 0 && !missing.is_empty() {
                    counted.shared += 1;
                    continue;
                }
                share(new, shards.len())
            }
        };
        if share > 0.0 {
            counted.will_run += 1;
            left.insert(id, share);
        } else {
            counted.cached += 1;
        }
    }
    (counted, left)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of shards are small")]
fn share(new: usize, all: usize) -> f64 {
    new as f64 / all.max(1) as f64
}

impl Forecast {
    /// Adds what the steps that are left are expected to take.
    #[must_use]
    pub fn expecting(
        mut self,
        plan: &Plan,
        left: &BTreeMap<StepId, f64>,
        past: &Past,
        options: &Options,
    ) -> Self {
        let Estimate { makespan_s, bytes, without_past, steps, .. } = estimate(plan, left, past, options);
        self.without_past = without_past;
        if without_past < steps.len() || steps.is_empty() {
            (self.seconds, self.bytes) = (Some(makespan_s), Some(bytes));
        }
        self
    }
}

impl fmt::Display for Forecast {
    /// One sentence: `9 variants × 3 seeds: 1,944 steps, 1,310 shared, 420 cached, 214 to run, about 2 h 10 min`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |number: usize, noun: &str| {
            format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
        };
        formatter.write_str(&plural(self.variants, "variant"))?;
        if self.seeds > 1 {
            write!(formatter, " × {}", plural(self.seeds, "seed"))?;
        }
        let counts = [(self.shared, "shared"), (self.cached, "cached")];
        write!(formatter, ": {}", plural(self.steps, "step"))?;
        counts.iter().try_for_each(|(number, word)| write!(formatter, ", {} {word}", thousands(*number)))?;
        let most = self.will_run + self.unknown;
        if self.unknown > 0 {
            let least = thousands(self.will_run);
            write!(formatter, ", at least {least} and at most {} to run", thousands(most))?;
        } else {
            write!(formatter, ", {} to run", thousands(most))?;
        }
        if self.exact && self.executions > self.will_run {
            write!(formatter, " (in {})", plural(self.executions, "piece"))?;
        }
        if most == 0 {
            return Ok(());
        }
        let Some(seconds) = self.seconds else {
            return formatter.write_str("; how long is not known: nothing like it was run before");
        };
        if self.without_past > 0 {
            write!(formatter, ", of which {} no past", have(self.without_past))?;
        }
        write!(formatter, ", about {}", about(seconds))?;
        if let Some(bytes) = self.bytes {
            write!(formatter, " and {}", size(bytes))?;
        }
        formatter.write_str(" (from past runs)")
    }
}

fn have(steps: usize) -> String {
    if steps == 1 { "1 step has".to_owned() } else { format!("{} steps have", thousands(steps)) }
}
