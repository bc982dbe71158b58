//! Steps that execute although their results are stored.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bstar_cache::ActionKey;

use crate::plan::Plan;

/// No step is called so, nor is anything that steps are below.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no step `{name}`")]
pub struct UnknownStep {
    /// As given.
    pub name: String,
    /// What was probably meant.
    pub meant: Option<String>,
}

/// The names of the steps that `name` means: the step itself, all steps below it (`iteration[0]`,
/// `iteration[0].evaluate`), or the steps of a stage in all iterations (`iteration.train`, `iteration`).
///
/// # Errors
/// When it means none.
pub fn steps_named(plan: &Plan, name: &str) -> Result<BTreeSet<String>, UnknownStep> {
    let below = |text: &str| {
        text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let steps = || plan.ids().map(|id| plan.step(id));
    let meant: BTreeSet<String> = steps()
        .filter(|step| step.parent.is_none() && (below(&step.name) || below(&step.entry)))
        .map(|step| step.name.clone())
        .collect();
    if !meant.is_empty() {
        return Ok(meant);
    }
    let candidates = steps().flat_map(|step| [step.name.clone(), step.entry.clone()]);
    let meant = candidates.min_by_key(|candidate| strsim::damerau_levenshtein(candidate, name));
    Err(UnknownStep { name: name.to_owned(), meant })
}

/// The forced steps of a run, and what has been executed: each key once a run, however often the plan is
/// walked and however many steps have the key.
#[derive(Debug, Default)]
pub(super) struct Forced {
    names: BTreeSet<String>,
    executed: Mutex<BTreeSet<ActionKey>>,
}

impl Forced {
    pub(super) fn new(names: BTreeSet<String>) -> Self {
        Self { names, executed: Mutex::default() }
    }

    /// Whether a step, or the step that it is a shard of, is forced.
    pub(super) fn names(&self, step: &str) -> bool {
        // Names of steps and of variants may contain `/` themselves.
        let wholes = step.match_indices('/').map(|(end, _)| &step[..end]);
        !self.names.is_empty() && wholes.chain([step]).any(|name| self.names.contains(name))
    }

    /// Whether the store is not to be asked for the result of a step.
    pub(super) fn wants(&self, step: &str, key: &ActionKey) -> bool {
        self.names(step) && !self.executed.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// The key was executed by this run.
    pub(super) fn executed(&self, key: ActionKey) {
        if !self.names.is_empty() {
            self.executed.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pipeline::Pipeline;

    #[test]
    fn a_name_means_the_step_and_all_below_it_in_every_iteration_where_none_is_said() {
        let text = include_str!("../pipeline/testdata/loop.yaml");
        let plan = Plan::new(&Pipeline::parse(text, Path::new("loop.yaml"), &[]).unwrap());
        let named = |name: &str| steps_named(&plan, name).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(named("setup.sft"), ["setup.sft"]);
        assert_eq!(
            named("iteration.train"),
            ["iteration[0].train", "iteration[1].train", "iteration[2].train"]
        );
        assert_eq!(named("iteration[1].evaluate").len(), 5);
        assert_eq!(named("iteration[0]").len(), 12);
        assert_eq!(named("iteration").len(), 36);
        assert_eq!(named("iteration[1].explore"), ["iteration[1].explore"], "not `explored`");
        let error = steps_named(&plan, "iteration[0].trian").unwrap_err();
        assert_eq!(error.meant.as_deref(), Some("iteration[0].train"));
        assert!(steps_named(&plan, "").is_err());
    }

    #[test]
    fn a_forced_key_is_wanted_until_it_was_executed_and_shards_go_with_their_step() {
        let forced = Forced::new(["setup.a".to_owned()].into());
        let key = "ab".repeat(32).parse().unwrap();
        assert!(forced.wants("setup.a", &key) && forced.wants("setup.a/t=1/q0", &key));
        assert!(!forced.wants("setup.ab", &key) && !forced.wants("setup.b", &key));
        forced.executed(key);
        assert!(!forced.wants("setup.a", &key));
    }
}
