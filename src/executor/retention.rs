//! Retires outputs that only the next iterations need, once those are complete (`retain:`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bstar_cache::{ActionKey, StoreError};
use bstar_stages::Output;

use super::Shared;
use super::summary::Made;
use crate::event::Event;
use crate::gc::Retention;
use crate::plan::{Plan, Section, Source, Step, StepId};
use crate::report::{count, size};
use crate::run_record;
use crate::scheduler::State;

/// Files to retire, by the key of their result.
pub(super) type Retirees = BTreeMap<ActionKey, BTreeSet<String>>;

/// How many steps of every iteration are not done, shards left out.
#[derive(Debug, Default)]
pub(super) struct Remaining(BTreeMap<usize, usize>);

impl Remaining {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut remaining = BTreeMap::new();
        for id in plan.ids() {
            if let Section::Iteration(iteration) = plan.step(id).section {
                *remaining.entry(iteration).or_default() += 1;
            }
        }
        Self(remaining)
    }

    /// Takes note that a step is done; gives its iteration if that is complete now.
    pub(super) fn done(&mut self, step: &Step) -> Option<usize> {
        let (Section::Iteration(iteration), None) = (step.section, &step.parent) else { return None };
        let remaining = self.0.get_mut(&iteration)?;
        *remaining = remaining.saturating_sub(1);
        (*remaining == 0).then_some(iteration)
    }
}

/// What is no longer needed when `iteration` is complete: outputs of iterations long enough before it that
/// every step which reads them is done.
pub(super) fn due(
    plan: &Plan,
    states: &[State],
    made: &[Option<Made>],
    retain: &Retention,
    iteration: usize,
) -> Retirees {
    let mut retirees = Retirees::new();
    for id in plan.ids() {
        let step = plan.step(id);
        let Section::Iteration(of) = step.section else { continue };
        let Some(made) = made.get(id.index()).and_then(Option::as_ref) else { continue };
        for output in step.stage.stage().outputs() {
            let old = |(name, kept): (&str, usize)| is_meant(step, &output, name) && of + kept <= iteration;
            if retain.iter().any(old) && !is_read(plan, states, id, &output) {
                let files = made.manifest.files(&output.path, output.folder).into_iter();
                let paths = files.map(|(name, _)| match name.as_str() {
                    "" => output.path.clone(),
                    _ => format!("{}/{name}", output.path),
                });
                retirees.entry(made.manifest.key).or_default().extend(paths);
            }
        }
    }
    retirees
}

/// Whether `name` is that of the output, alone (`optimizer`) or with its stage (`train.optimizer`).
fn is_meant(step: &Step, output: &Output, name: &str) -> bool {
    let stage = step.entry.strip_prefix("iteration.").unwrap_or(&step.entry);
    match name.rsplit_once('.') {
        Some((of, name)) => of == stage && name == output.name,
        None => name == output.name,
    }
}

/// Whether a step that is not done reads an output.
fn is_read(plan: &Plan, states: &[State], id: StepId, output: &Output) -> bool {
    let reads = |reader: &StepId| {
        let reader = plan.step(*reader);
        let mut sources = reader.inputs.values().chain(reader.settings.values());
        sources.any(|source| {
            matches!(source, Source::Output { step, output: read } if *step == id && read.name == output.name)
        })
    };
    let done = |reader: &StepId| matches!(states.get(reader.index()), Some(State::Done { .. }));
    plan.dependents(id).iter().any(|reader| reads(reader) && !done(reader))
}

/// Retires them, but for what a pinned run needs; says what was freed. A failure is only reported: the
/// run has what it needs.
pub(super) async fn retire(shared: &Arc<Shared>, retirees: Retirees) {
    match retired(shared, retirees).await {
        Ok(None) => {}
        Ok(Some(message)) => (shared.events)(Event::Note { level: "info", message }),
        Err(error) => {
            let message = format!("cannot retire outputs of old iterations: {error}");
            (shared.events)(Event::Note { level: "warn", message });
        }
    }
}

async fn retired(shared: &Shared, mut retirees: Retirees) -> Result<Option<String>, StoreError> {
    for (key, retired) in shared.store.retired().await? {
        if let Some(paths) = retirees.get_mut(&key) {
            paths.retain(|path| !retired.outputs.contains_key(path));
        }
    }
    retirees.retain(|_, paths| !paths.is_empty());
    if retirees.is_empty() {
        return Ok(None);
    }
    for run in run_record::pins(&shared.store).await?.into_keys() {
        for needed in run_record::needed(&shared.store, &run).await? {
            retirees.remove(&needed.key);
        }
    }
    let freed = shared.store.retire(&retirees, &shared.options.run).await?;
    let results = count(freed.results, "result");
    Ok((freed.results > 0).then(|| format!("retired outputs of {results}: {} freed", size(freed.bytes))))
}
