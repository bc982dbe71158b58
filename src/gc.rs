//! What `cache gc` keeps: the results of runs that are live, pinned, recent, or the last of their pipeline.

pub mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bstar_cache::{ActionKey, Inventory, Manifest, Store, StoreError, timestamp};

pub use policy::{Policy, Retention};

pub use crate::run_record::Retirees;
use crate::run_record::{self, Needed, Pin, RunInfo, RunOutcome, host};

/// A run on another machine gives a sign of life every two minutes.
const SILENCE: Duration = Duration::from_secs(600);

/// Why the results of a run stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It is going on.
    Live,
    /// Somebody pinned it.
    Pinned(Pin),
    /// It is young enough.
    Recent,
    /// It is one of the last of its pipeline.
    Last,
}

impl std::fmt::Display for Why {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Live => formatter.write_str("live"),
            Self::Pinned(pin) => write!(formatter, "pinned{}", pin.label()),
            Self::Recent => formatter.write_str("recent"),
            Self::Last => formatter.write_str("last of its pipeline"),
        }
    }
}

/// The runs of a store, by what becomes of their results.
#[derive(Debug, Default)]
pub struct Roots {
    /// Runs whose results stay, newest first.
    pub kept: Vec<(RunInfo, Why)>,
    /// The other runs, newest first.
    pub others: Vec<RunInfo>,
    /// Ids of runs whose record cannot be read; their results stay while the record is young.
    pub unreadable: Vec<String>,
    /// The results that stay.
    pub keys: BTreeSet<ActionKey>,
}

/// Sorts the runs of a store.
///
/// # Errors
/// When the store cannot be read.
pub async fn roots(store: &Store, policy: &Policy, now: SystemTime) -> Result<Roots, StoreError> {
    let pins = run_record::pins(store).await?;
    let runs = run_record::list(store).await?;
    let signs = signs(store).await?;
    let heard = |id: &str, age: Duration| signs.get(id).is_some_and(|sign| sign.is_since(now, age));
    let keep_since = timestamp(before(now, policy.keep));
    let mut seen: BTreeMap<(String, bool), usize> = BTreeMap::new();
    let mut roots = Roots::default();
    let known: BTreeSet<String> = runs.iter().map(|run| run.start.id.clone()).collect();
    for run in runs {
        // The last that are done, and the last of any outcome.
        let mut is_last = |done: bool| {
            let count = seen.entry((run.start.pipeline.clone(), done)).or_default();
            *count += 1;
            *count <= policy.keep_last
        };
        let last = is_last(false) | (run.outcome == RunOutcome::Done && is_last(true));
        let live = is_live(&run, || heard(&run.start.id, policy.grace.max(SILENCE)));
        let why = if let Some(pin) = pins.get(&run.start.id) {
            Why::Pinned(pin.clone())
        } else if live {
            Why::Live
        } else if run.start.started > keep_since {
            Why::Recent
        } else if last {
            Why::Last
        } else {
            roots.others.push(run);
            continue;
        };
        roots.keys.extend(keys(store, &run.start.id).await?);
        roots.kept.push((run, why));
    }
    // A pin also holds a run whose record was damaged or deleted.
    for id in signs.keys().chain(pins.keys()).filter(|id| !known.contains(*id)) {
        if pins.contains_key(id) || heard(id, policy.keep.max(policy.grace)) {
            roots.keys.extend(keys(store, id).await?);
            roots.unreadable.push(id.clone());
        }
    }
    Ok(roots)
}

/// Reads again what may have changed since: the results of live runs, and of runs that have begun.
///
/// # Errors
/// When the store cannot be read.
pub async fn refresh(store: &Store, roots: &mut Roots) -> Result<(), StoreError> {
    let settled = roots.kept.iter().filter(|(_, why)| *why != Why::Live).map(|(run, _)| run);
    let settled: BTreeSet<String> = settled.chain(&roots.others).map(|run| run.start.id.clone()).collect();
    let objects = store.list_objects("runs").await?;
    let ids: BTreeSet<&str> = objects.iter().filter_map(|name| name.split('/').nth(1)).collect();
    for id in ids.into_iter().filter(|id| !settled.contains(*id)) {
        roots.keys.extend(keys(store, id).await?);
    }
    Ok(())
}

/// The last sign of life of a run.
#[derive(Debug, Clone, Copy)]
struct Sign {
    time: SystemTime,
    /// It has said how it ended.
    ended: bool,
}

impl Sign {
    fn is_since(&self, now: SystemTime, age: Duration) -> bool {
        self.time >= before(now, age)
    }
}

/// The signs of life of all runs, by their ids.
async fn signs(store: &Store) -> Result<BTreeMap<String, Sign>, StoreError> {
    let mut signs: BTreeMap<String, Sign> = BTreeMap::new();
    for object in store.list_times("runs").await? {
        let Some(id) = object.name.split('/').nth(1) else { continue };
        let sign = signs.entry(id.to_owned()).or_insert(Sign { time: object.modified, ended: false });
        sign.time = object.modified.max(sign.time);
        sign.ended |= object.name.ends_with("/summary.json");
    }
    Ok(signs)
}

fn before(now: SystemTime, age: Duration) -> SystemTime {
    now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Whether a run goes on: on this machine its process was asked for, elsewhere it was `heard` of lately.
fn is_live(run: &RunInfo, heard: impl FnOnce() -> bool) -> bool {
    run.outcome == RunOutcome::Running && (run.start.host == host() || heard())
}

/// Takes out of `retirees` what a pinned run needs, and what one of those that are `live` needs still; gives what
/// was taken out.
///
/// # Errors
/// When the store cannot be read.
pub async fn spare(store: &Store, retirees: &mut Retirees, live: &[String]) -> Result<Retirees, StoreError> {
    let mut spared = Retirees::new();
    for run in run_record::pins(store).await?.keys() {
        for key in keys(store, run).await? {
            spared.extend(retirees.remove_entry(&key));
        }
    }
    for run in live {
        let released = run_record::released(store, run).await?;
        for key in keys(store, run).await? {
            let Some(paths) = retirees.remove(&key) else { continue };
            let is_free = |path: &String| released.get(&key).is_some_and(|paths| paths.contains(path));
            let (free, needed): (BTreeSet<String>, BTreeSet<String>) = paths.into_iter().partition(is_free);
            for (some, whither) in [(free, &mut *retirees), (needed, &mut spared)] {
                if !some.is_empty() {
                    whither.entry(key).or_default().extend(some);
                }
            }
        }
    }
    Ok(spared)
}

/// The runs that go on, but for `own`.
///
/// # Errors
/// When the store cannot be read.
pub async fn live(store: &Store, own: &str) -> Result<Vec<String>, StoreError> {
    let mut signs = signs(store).await?;
    signs.retain(|id, sign| id != own && !sign.ended);
    // Mostly there is none, and the clock need not be asked for.
    let now = if signs.is_empty() { SystemTime::UNIX_EPOCH } else { store.now().await? };
    let mut live = Vec::new();
    for (id, sign) in signs {
        let run = run_record::read(store, &id).await?;
        if run.is_some_and(|run| is_live(&run, || sign.is_since(now, SILENCE))) {
            live.push(id);
        }
    }
    Ok(live)
}

async fn keys(store: &Store, run: &str) -> Result<Vec<ActionKey>, StoreError> {
    Ok(run_record::needed(store, run).await?.into_iter().map(|needed| needed.key).collect())
}

/// Outputs of old iterations that are to be retired: their paths, by key.
///
/// Of every run that is neither live nor pinned, the outputs of the last iterations stay; so does what
/// a live or pinned run needs, and what is among the last of any run.
///
/// # Errors
/// When the store cannot be read.
pub async fn retirees(
    store: &Store,
    inventory: &Inventory,
    roots: &Roots,
    retain: &Retention,
) -> Result<Retirees, StoreError> {
    let (mut old, mut held) = (BTreeMap::new(), BTreeSet::new());
    if retain.is_empty() {
        return Ok(Retirees::new());
    }
    let kept = roots.kept.iter().map(|(run, why)| (run, matches!(why, Why::Live | Why::Pinned(_))));
    for (run, whole) in kept.chain(roots.others.iter().map(|run| (run, false))) {
        let needed = run_record::needed(store, &run.start.id).await?;
        let last = needed.iter().filter_map(iteration).max().unwrap_or(0);
        for result in &needed {
            let age = iteration(result).map_or(0, |iteration| last - iteration);
            for (output, count) in retain.iter() {
                if whole || age < count || iteration(result).is_none() {
                    held.insert((result.key, output));
                } else {
                    old.entry(result.key).or_insert_with(BTreeSet::new).insert(output);
                }
            }
        }
    }
    let retired = store.retired().await?;
    let mut retirees = Retirees::new();
    for manifest in inventory.manifests() {
        for output in old.get(&manifest.key).into_iter().flatten() {
            if held.contains(&(manifest.key, *output)) {
                continue;
            }
            let gone = |path: &&String| {
                retired.get(&manifest.key).is_some_and(|retired| retired.outputs.contains_key(*path))
            };
            let paths: Vec<String> = paths(manifest, output).filter(|path| !gone(path)).cloned().collect();
            if !paths.is_empty() {
                retirees.entry(manifest.key).or_default().extend(paths);
            }
        }
    }
    Ok(retirees)
}

/// The files of an output, by its name: `optimizer/…`, `optimizer`, or `optimizer.safetensors`.
fn paths<'a>(manifest: &'a Manifest, output: &'a str) -> impl Iterator<Item = &'a String> {
    manifest.outputs.keys().filter(move |path| {
        let rest = path.strip_prefix(output);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest.starts_with('.'))
    })
}

/// The iteration of a step, by its name.
fn iteration(needed: &Needed) -> Option<usize> {
    needed.step.strip_prefix("iteration[")?.split_once(']')?.0.parse().ok()
}

#[cfg(test)]
mod tests;
