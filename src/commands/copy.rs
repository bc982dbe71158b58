//! `bstar cache push|pull`: results from one store to another.

use std::collections::BTreeSet;

use bstar_cache::Store;
use serde_json::{Value, json};

use crate::cli::{Failure, Format, Global, open_store};
use crate::commands::{answer, answer_json};
use crate::report::{count, size};
use crate::run_record::{self, FindError};

/// Copies results from the store to `other`.
///
/// # Errors
/// When a store cannot be read or written, or there is no such run.
pub async fn cache_push(global: &Global, other: &str, run: Option<&str>) -> Result<u8, Failure> {
    let (from, to) = (open_store(global).await?, Store::open(other).await?);
    copy(global, &from, &to, run).await
}

/// Copies results from `other` to the store.
///
/// # Errors
/// As [`cache_push`].
pub async fn cache_pull(global: &Global, other: &str, run: Option<&str>) -> Result<u8, Failure> {
    let (from, to) = (Store::open(other).await?, open_store(global).await?);
    copy(global, &from, &to, run).await
}

async fn copy(global: &Global, from: &Store, to: &Store, run: Option<&str>) -> Result<u8, Failure> {
    let (copied, records) = match run {
        None => (from.copy_to(to, |_| true).await?, "runs".to_owned()),
        Some(run) => {
            let id = find(from, run).await?;
            let keys = keys(&run_record::events(from, &id).await?);
            let wanted = |key: String| keys.contains(&key);
            (from.copy_to(to, |manifest| wanted(manifest.key.to_string())).await?, format!("runs/{id}"))
        }
    };
    copy_records(from, to, &records).await?;
    if global.format == Format::Json {
        answer_json(&json!({"from": from.location(), "to": to.location(), "copied": copied}))?;
    } else {
        let mut text = format!(
            "{} → {}: {} copied ({} in {}), {} there before",
            from.location(),
            to.location(),
            count(copied.results, "result"),
            size(copied.bytes),
            count(copied.blobs, "file"),
            copied.skipped
        );
        if copied.incomplete > 0 {
            text.push_str(&format!("\n{} left out: files are missing or damaged", copied.incomplete));
        }
        answer(&text);
    }
    Ok(u8::from(copied.incomplete > 0))
}

async fn find(store: &Store, run: &str) -> Result<String, Failure> {
    let found = run_record::find(store, run).await.map_err(|error| match error {
        FindError::Store(error) => Failure::Store(error),
        other => Failure::Usage {
            message: format!("{other} ({})", store.location()),
            hint: Some("`bstar run list` shows all runs".to_owned()),
        },
    })?;
    Ok(found.start.id)
}

/// The keys of the steps that a run has finished, made or found.
fn keys(events: &[u8]) -> BTreeSet<String> {
    let key = |line: &[u8]| {
        let event: Value = serde_json::from_slice(line).ok()?;
        Some(event.get("key")?.as_str()?.to_owned())
    };
    events.split(|byte| *byte == b'\n').filter_map(key).collect()
}

/// Copies the records of runs that the other store lacks or has in another state.
async fn copy_records(from: &Store, to: &Store, folder: &str) -> Result<(), Failure> {
    for object in from.list_objects(folder).await? {
        let Some(bytes) = from.get_object(&object).await? else { continue };
        if to.get_object(&object).await?.as_ref() != Some(&bytes) {
            to.put_object(&object, bytes).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_run_are_those_of_its_finished_steps() {
        let events = b"{\"event\":\"done\",\"key\":\"ab\"}\n{\"event\":\"stopping\"}\n{\"event\":\"done\",\"key\":\"cd\"}\n{\"torn";
        assert_eq!(keys(events), ["ab", "cd"].map(str::to_owned).into());
    }
}
