//! Retires outputs that only the next iterations need, once those are complete (`retain:`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bstar_cache::StoreError;
use bstar_stages::Output;
use tokio::task::JoinSet;

use super::summary::Made;
use super::{Level, Shared, Stop};
use crate::event::Event;
use crate::gc::{Retention, Retirees, live, spare};
use crate::plan::{Plan, Section, Source, Step, StepId};
use crate::report::{count, size};
use crate::run_record;
use crate::scheduler::State;

/// What a run retires, and when.
///
/// One retirement goes on at a time, for each has to look at the whole store: what becomes due meanwhile
/// is the next one. An output is looked at when it is due, and again only while somebody holds it.
#[derive(Debug)]
pub(super) struct Retirement {
    retain: Retention,
    /// How many steps of every iteration are not done, shards left out.
    remaining: BTreeMap<usize, usize>,
    /// Outputs that are there, by the iteration that must be complete before they go.
    waiting: BTreeMap<usize, Vec<(StepId, Output)>>,
    /// The last iteration that is complete.
    complete: Option<usize>,
    /// Whether an iteration was completed since a retirement began.
    more: bool,
    /// What was due, and is needed by another run.
    held: Retirees,
    running: JoinSet<Retirees>,
}

impl Retirement {
    pub(super) fn of(plan: &Plan, retain: &Retention) -> Self {
        let mut remaining = BTreeMap::new();
        for id in plan.ids() {
            if let Section::Iteration(iteration) = plan.step(id).section {
                *remaining.entry(iteration).or_default() += 1;
            }
        }
        Self {
            retain: retain.clone(),
            remaining,
            waiting: BTreeMap::new(),
            complete: None,
            more: false,
            held: Retirees::new(),
            running: JoinSet::new(),
        }
    }

    /// Takes note that a step is done.
    pub(super) fn done(&mut self, step: &Step, id: StepId) {
        let Section::Iteration(iteration) = step.section else { return };
        if self.retain.is_empty() {
            return;
        }
        for output in step.stage.stage().outputs() {
            let meant = self.retain.iter().filter(|(name, _)| is_meant(step, &output, name));
            if let Some(kept) = meant.map(|(_, kept)| kept).min() {
                self.waiting.entry(iteration + kept).or_default().push((id, output));
            }
        }
        if step.parent.is_none()
            && let Some(remaining) = self.remaining.get_mut(&iteration)
        {
            *remaining = remaining.saturating_sub(1);
            if *remaining == 0 {
                self.complete = self.complete.max(Some(iteration));
                self.more = true;
            }
        }
    }

    /// Begins to retire what is due, unless a retirement goes on.
    pub(super) fn begin(
        &mut self,
        shared: &Arc<Shared>,
        plan: &Plan,
        states: &[State],
        made: &[Option<Made>],
    ) {
        if !self.more || self.goes_on() {
            return;
        }
        self.more = false;
        let due = self.due(plan, states, made);
        if !due.is_empty() {
            let shared = Arc::clone(shared);
            self.running.spawn(async move { retire(&shared, due).await });
        }
    }

    /// What is no longer needed: outputs of iterations long enough before the last complete one that every
    /// step which reads them is done.
    fn due(&mut self, plan: &Plan, states: &[State], made: &[Option<Made>]) -> Retirees {
        let mut due = std::mem::take(&mut self.held);
        let Some(complete) = self.complete else { return due };
        let later = self.waiting.split_off(&(complete + 1));
        for (iteration, outputs) in std::mem::replace(&mut self.waiting, later) {
            for (id, output) in outputs {
                if is_read(plan, states, id, &output) {
                    self.waiting.entry(iteration).or_default().push((id, output));
                } else if let Some(made) = made.get(id.index()).and_then(Option::as_ref) {
                    let files = made.manifest.files(&output.path, output.folder).into_iter();
                    let paths = files.map(|(name, _)| match name.as_str() {
                        "" => output.path.clone(),
                        _ => format!("{}/{name}", output.path),
                    });
                    due.entry(made.manifest.key).or_default().extend(paths);
                }
            }
        }
        due
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.running.is_empty()
    }

    /// Waits for the end of the retirement that goes on; nothing, if there is none.
    pub(super) async fn over(&mut self) -> Option<()> {
        let ended = self.running.join_next().await?;
        self.held.extend(ended.unwrap_or_default());
        Some(())
    }

    /// Lets the retirement that goes on come to its end: in a run that is asked to stop it has `grace`, as steps
    /// have. What it has noted by then is retired, and what it has not is due in the next run.
    pub(super) async fn end(&mut self, stop: &Stop, grace: Duration) {
        let late = async {
            stop.reached(Level::Stop).await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            _ = self.over() => {}
            () = late => {}
            () = stop.reached(Level::Kill) => {}
        }
        self.running.abort_all();
    }
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

/// Retires them, and says what was freed; gives those that another run needs. A failure is only reported: the
/// run has what it needs.
async fn retire(shared: &Shared, mut retirees: Retirees) -> Retirees {
    match retired(shared, &mut retirees).await {
        Ok((held, message)) => {
            if let Some(message) = message {
                (shared.events)(Event::Note { level: "info", message });
            }
            held
        }
        Err(error) => {
            let message = format!("cannot retire outputs of old iterations: {error}");
            (shared.events)(Event::Note { level: "warn", message });
            retirees
        }
    }
}

async fn retired(shared: &Shared, retirees: &mut Retirees) -> Result<(Retirees, Option<String>), StoreError> {
    for (key, retired) in shared.store.retired().await? {
        if let Some(paths) = retirees.get_mut(&key) {
            paths.retain(|path| !retired.outputs.contains_key(path));
        }
    }
    retirees.retain(|_, paths| !paths.is_empty());
    if retirees.is_empty() {
        return Ok((Retirees::new(), None));
    }
    let (store, run) = (&shared.store, &shared.options.run);
    let others = live(store, run).await?;
    if !others.is_empty() {
        // Written before theirs are read: of two runs that need the same, one at least sees that both are done
        // with it.
        run_record::release(store, run, retirees).await?;
    }
    let held = spare(store, retirees, &others).await?;
    if retirees.is_empty() {
        return Ok((held, None));
    }
    let freed = store.retire(retirees, run).await?;
    let results = count(freed.results, "result");
    let message = format!("retired outputs of {results}: {} freed", size(freed.bytes));
    Ok((held, (freed.results > 0).then_some(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_retirement_is_waited_for_and_a_run_that_stops_does_so_no_longer_than_for_a_step() {
        let (stop, grace, long) = (Stop::default(), Duration::from_secs(10), Duration::from_secs(600));
        let mut retirement = Retirement::of(&Plan::default(), &Retention::default());
        let began = tokio::time::Instant::now();
        for (level, took) in [(Level::Go, long), (Level::Stop, grace), (Level::Kill, Duration::ZERO)] {
            if level > Level::Go {
                stop.stop();
            }
            retirement.running.spawn(async move {
                tokio::time::sleep(long).await;
                Retirees::new()
            });
            let before = began.elapsed();
            retirement.end(&stop, grace).await;
            assert_eq!(began.elapsed() - before, took);
            // What was broken off ends where it waits.
            while retirement.over().await.is_some() {}
        }
    }
}
