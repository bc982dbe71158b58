//! `bstar cache gc`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bstar_cache::{Artifact, Collected, Collection, Freed, Inventory, Object, Store, StoreError};
use bstar_stages::units::{parse_duration, parse_size};
use clap::Args;
use serde_json::{Value, json};

use crate::cli::{Format, Global, existing_store};
use crate::commands::{answer, answer_json, columns};
use crate::executor::abandoned::{Abandoned, abandoned, remove};
use crate::executor::work::WorkRoot;
use crate::failure::Failure;
use crate::gc::policy::parse_retain;
use crate::gc::{Policy, Retention, Retirees, Roots, live, refresh, retirees, roots, spare};
use crate::pipeline::nearest;
use crate::report::{count, size};

/// What to keep, and whether to delete the rest.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Gc {
    /// Delete; without, only show what would go
    #[arg(long)]
    pub apply: bool,
    /// Keep the results of runs that started within this time
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_duration)]
    pub keep: Duration,
    /// Keep the results of the last N runs of every pipeline, and of the last N that are done
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub keep_last: usize,
    /// Keep whatever was written within this time
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_duration)]
    pub grace: Duration,
    /// Delete the records of runs too whose results go
    #[arg(long)]
    pub runs: bool,
    /// Keep this output of the last N iterations of a run only, for example optimizer=1
    #[arg(long, value_name = "OUTPUT=N", value_parser = parse_retain)]
    pub retire: Vec<(String, usize)>,
    /// Only make the folder in front of a bucket smaller, to this size (20GB, 0): what the bucket has and was
    /// used least lately goes from it
    #[arg(long, value_name = "SIZE", value_parser = parse_size,
          conflicts_with_all = ["keep", "keep_last", "grace", "runs", "retire"])]
    pub tier: Option<u64>,
}

/// All that goes.
struct Plan {
    roots: Roots,
    collection: Collection,
    retirees: Retirees,
    /// What `retirees` are at most.
    retired_bytes: u64,
    abandoned: Vec<Abandoned>,
    /// Whether the records of the other runs go.
    runs: bool,
}

/// What was done.
struct Done {
    collected: Collected,
    freed: Freed,
    abandoned: u64,
}

/// Shows what nobody needs any more, or deletes it.
///
/// # Errors
/// When the store cannot be read; nothing is deleted then.
pub async fn cache_gc(global: &Global, options: &Gc) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    if let Some(bound) = options.tier {
        return shrink(global, &store, bound, options.apply).await;
    }
    let policy = Policy { keep: options.keep, keep_last: options.keep_last, grace: options.grace };
    // Only a plan may rely on this machine's clock.
    let now = if options.apply { store.now().await? } else { SystemTime::now() };
    let inventory = store.inventory().await?;
    let mut roots = roots(&store, &policy, now).await?;
    if options.apply {
        refresh(&store, &mut roots).await?;
    }
    let collection = inventory.plan(&roots.keys, now, policy.grace);
    for (output, _) in &options.retire {
        known_output(&inventory, output)?;
    }
    let retain = Retention::new(options.retire.iter().cloned());
    let mut retirees = retirees(&store, &inventory, &roots, &retain).await?;
    collection.results.iter().for_each(|result| drop(retirees.remove(&result.key)));
    let work = WorkRoot::of(&store);
    let published = inventory.manifests().map(|manifest| manifest.key).collect();
    let before = now.checked_sub(policy.keep).unwrap_or(SystemTime::UNIX_EPOCH);
    let plan = Plan {
        retired_bytes: retired_bytes(&inventory, &retirees),
        abandoned: abandoned(&work, &published, before),
        runs: options.runs,
        roots,
        collection,
        retirees,
    };
    let done = if options.apply { Some(plan.apply(&store, &inventory, &work).await?) } else { None };
    if global.format == Format::Json {
        answer_json(&plan.to_json(done.as_ref()))?;
    } else {
        answer(&plan.to_text(store.location(), done.as_ref()))?;
    }
    Ok(0)
}

/// Refuses the name of an output that no stored result has.
fn known_output(inventory: &Inventory, output: &str) -> Result<(), Failure> {
    let paths = || inventory.manifests().flat_map(|manifest| manifest.outputs.keys());
    let is_meant = |path: &String| {
        let rest = path.strip_prefix(output);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
    };
    if paths().next().is_none() || paths().any(is_meant) {
        return Ok(());
    }
    let names: BTreeSet<&str> = paths().filter_map(|path| path.split(['/', '.']).next()).collect();
    let hint = match nearest(output, names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("outputs: {}", names.into_iter().collect::<Vec<_>>().join(", ")),
    };
    let message = format!("--retire: no stored result has an output `{output}`");
    Err(Failure::Usage { message, hint: Some(hint) })
}

/// Makes the folder in front of a bucket smaller, or says what that takes.
async fn shrink(global: &Global, store: &Store, bound: u64, apply: bool) -> Result<u8, Failure> {
    let Some(shrunk) = store.shrink(bound, !apply).await? else {
        return Err(Failure::Usage {
            message: format!("there is no folder in front of {}", store.location()),
            hint: Some("`cache gc` without --tier deletes what nobody needs any more".to_owned()),
        });
    };
    let folder = store.folder().map(|folder| folder.display().to_string()).unwrap_or_default();
    if global.format == Format::Json {
        let freed = if apply { shrunk.bytes } else { 0 };
        answer_json(
            &json!({"applied": apply, "tier": folder, "go": {"files": shrunk.files, "bytes": shrunk.bytes},
                            "stay": {"bytes": shrunk.kept_bytes}, "freed_bytes": freed}),
        )?;
        return Ok(0);
    }
    let (go, stay) = (size(shrunk.bytes), size(shrunk.kept_bytes));
    answer(&match apply {
        true => format!("{folder}: {go} freed, {stay} stay"),
        false => format!(
            "{folder}: {go} would be freed, {stay} stay\nnothing was deleted; the same command with --apply does it"
        ),
    })?;
    Ok(0)
}

fn retired_bytes(inventory: &Inventory, retirees: &Retirees) -> u64 {
    let mut contents: BTreeSet<Artifact> = BTreeSet::new();
    for manifest in inventory.manifests() {
        let paths = retirees.get(&manifest.key).into_iter().flatten();
        contents.extend(paths.filter_map(|path| manifest.outputs.get(path)));
    }
    contents.iter().map(|artifact| artifact.size).sum()
}

impl Plan {
    async fn apply(&self, store: &Store, inventory: &Inventory, work: &WorkRoot) -> Result<Done, StoreError> {
        let collected = store.collect(inventory, &self.collection).await?;
        let mut retirees = self.retirees.clone();
        if !retirees.is_empty() {
            // Runs have gone on since these were planned, and others have begun.
            spare(store, &mut retirees, &live(store, "").await?).await?;
        }
        let freed = match retirees.is_empty() {
            true => Freed::default(),
            false => store.retire(&retirees, "cache gc").await?,
        };
        if self.runs {
            for run in &self.roots.others {
                for object in store.list_objects(&format!("runs/{}", run.start.id)).await? {
                    store.delete_object(&object).await?;
                }
            }
        }
        let removed = self.abandoned.iter().filter(|abandoned| remove(work, abandoned));
        let abandoned = removed.map(|abandoned| abandoned.bytes).sum();
        Ok(Done { collected, freed, abandoned })
    }

    /// Results that go, by run and stage: how many, and their bytes.
    fn groups(&self) -> BTreeMap<(&str, &str), (u64, u64)> {
        let mut groups: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
        for result in &self.collection.results {
            let group = groups.entry((&result.run, &result.stage)).or_default();
            *group = (group.0 + 1, group.1 + result.bytes);
        }
        groups
    }

    fn pipeline(&self, run: &str) -> &str {
        let kept = self.roots.kept.iter().map(|(run, _)| run);
        let found = kept.chain(&self.roots.others).find(|info| info.start.id == run);
        found.map_or("", |info| &info.start.pipeline)
    }

    fn abandoned_bytes(&self) -> u64 {
        self.abandoned.iter().map(|abandoned| abandoned.bytes).sum()
    }

    fn bytes(&self) -> u64 {
        self.collection.bytes() + self.retired_bytes + self.abandoned_bytes()
    }

    fn to_json(&self, done: Option<&Done>) -> Value {
        let stay: Vec<Value> = self
            .roots
            .kept
            .iter()
            .map(|(run, why)| {
                json!({"run": run.start.id, "pipeline": run.start.pipeline, "started": run.start.started,
                       "why": why.to_string()})
            })
            .collect();
        let go: Vec<Value> = self
            .groups()
            .into_iter()
            .map(|((run, stage), (results, bytes))| {
                json!({"run": run, "pipeline": self.pipeline(run), "stage": stage, "results": results,
                       "bytes": bytes})
            })
            .collect();
        let steps: Vec<Value> = self
            .collection
            .results
            .iter()
            .map(|result| json!({"key": result.key, "step": result.step, "run": result.run}))
            .collect();
        let Collection { needed, young, free, kept_bytes, orphaned, .. } = &self.collection;
        json!({
            "applied": done.is_some(),
            "stay": {"runs": stay, "unreadable_runs": self.roots.unreadable, "needed": needed, "young": young,
                     "costing_nothing": free, "bytes": kept_bytes,
                     "unreadable_manifests": self.collection.unreadable_kept},
            "go": {"by_stage": go, "steps": steps, "results": self.collection.results.len(),
                   "files": self.collection.blobs.len(), "orphaned_bytes": orphaned,
                   "unreadable_manifests": self.collection.unreadable.len(),
                   "debris": self.collection.debris.len(), "retired_results": self.retirees.len(),
                   "retired_bytes": self.retired_bytes, "abandoned": self.abandoned.len(),
                   "run_records": if self.runs { self.roots.others.len() } else { 0 },
                   "bytes": self.bytes()},
            "freed_bytes": done.map_or(0, Done::bytes),
            "tier": {"files": self.collection.tier.len(), "bytes": bytes(&self.collection.tier),
                     "freed_bytes": done.map_or(0, |done| done.collected.tier_bytes)},
            "spared_files": done.map_or(0, |done| done.collected.spared),
        })
    }

    fn to_text(&self, location: &str, done: Option<&Done>) -> String {
        let mut text = String::new();
        if !self.roots.kept.is_empty() {
            let mut rows = vec![["run", "pipeline", "started", "why"].map(str::to_owned).to_vec()];
            rows.extend(self.roots.kept.iter().map(|(run, why)| {
                let start = &run.start;
                vec![start.id.clone(), start.pipeline.clone(), start.started.clone(), why.to_string()]
            }));
            text.push_str(&format!("Results of these runs stay:\n{}\n\n", columns(&rows)));
        }
        let groups = self.groups();
        if !groups.is_empty() {
            let heading = ["made by run", "pipeline", "stage", "results", "size"];
            let mut rows = vec![heading.map(str::to_owned).to_vec()];
            rows.extend(groups.into_iter().map(|((run, stage), (results, bytes))| {
                let pipeline = self.pipeline(run).to_owned();
                vec![run.to_owned(), pipeline, stage.to_owned(), results.to_string(), size(bytes)]
            }));
            let verb = if done.is_some() { "These results are deleted" } else { "These results would go" };
            text.push_str(&format!("{verb}:\n{}\n\n", columns(&rows)));
        }
        for line in self.notes() {
            text.push_str(&format!("{line}\n"));
        }
        let stays = size(self.collection.kept_bytes);
        match done {
            None if self.bytes() == 0 && self.collection.is_empty() => {
                text.push_str(&format!("{location}: nothing to delete; {stays} stay"));
            }
            None => text.push_str(&format!(
                "{location}: {} would be freed, {stays} stay\nnothing was deleted; the same command with \
                 --apply does it",
                size(self.bytes())
            )),
            Some(done) => {
                text.push_str(&format!("{location}: {} freed, {stays} stay", size(done.bytes())));
                if done.collected.spared > 0 {
                    let spared = count(done.collected.spared, "file");
                    text.push_str(&format!("\n{spared} stayed: needed again, or gone before"));
                }
            }
        }
        text
    }

    /// What else goes or stays, a line each.
    fn notes(&self) -> Vec<String> {
        let plan = &self.collection;
        let mut notes = Vec::new();
        let mut note = |number: usize, noun: &str, [one, several]: [&str; 2], bytes: Option<u64>| {
            if number > 0 {
                let bytes = bytes.map_or(String::new(), |bytes| format!(", {}", size(bytes)));
                let what = if number == 1 { one } else { several };
                notes.push(format!("{} {what}{bytes}", count(number, noun)));
            }
        };
        let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let young = ["of another run stays: it is young", "of other runs stay: they are young"];
        note(whole(plan.young), "result", young, None);
        let free = ["of another run stays: all its outputs do", "of other runs stay: all their outputs do"];
        note(whole(plan.free), "result", free, None);
        let unreadable = ["cannot be read: what it lists stays", "cannot be read: what they list stays"];
        note(self.roots.unreadable.len(), "run", unreadable, None);
        let kept = ["cannot be read, and stays while young", "cannot be read, and stay while young"];
        note(plan.unreadable_kept.len(), "manifest", kept, None);
        let orphaned = usize::from(plan.orphaned > 0);
        note(orphaned, "group", ["of files that belong to no result goes"; 2], Some(plan.orphaned));
        note(plan.unreadable.len(), "manifest", ["cannot be read, and goes", "cannot be read, and go"], None);
        note(plan.debris.len(), "set-aside or forgotten object", ["goes", "go"], Some(bytes(&plan.debris)));
        let front = ["of the folder in front goes", "of the folder in front go"];
        note(plan.tier.len(), "file", front, Some(bytes(&plan.tier)));
        let retired = ["loses a retired output", "lose a retired output"];
        note(self.retirees.len(), "result", retired, Some(self.retired_bytes));
        let leftovers =
            ["of a step goes (a scratch folder or log)", "of steps go (scratch folders and logs)"];
        note(self.abandoned.len(), "leftover", leftovers, Some(self.abandoned_bytes()));
        if self.runs {
            note(self.roots.others.len(), "run record", ["goes", "go"], None);
        }
        notes
    }
}

fn bytes(objects: &[Object]) -> u64 {
    objects.iter().map(|object| object.size).sum()
}

impl Done {
    fn bytes(&self) -> u64 {
        self.collected.bytes + self.freed.bytes + self.abandoned
    }
}
