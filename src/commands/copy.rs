//! `bstar cache push|pull`: results from one store to another.

use std::collections::BTreeSet;

use bstar_cache::{ActionKey, Store};
use serde_json::json;

use crate::cli::{Format, Global, existing_store, open_store};
use crate::commands::runs::find_run;
use crate::commands::{answer, answer_json};
use crate::failure::Failure;
use crate::report::{count, size};
use crate::run_record;

/// Copies results from the store to `other`.
///
/// # Errors
/// When a store cannot be read or written, or there is no such run.
pub async fn cache_push(global: &Global, other: &str, run: Option<&str>) -> Result<u8, Failure> {
    let (from, to) = (existing_store(&global.store).await?, Store::open(other).await?);
    copy(global, &from, &to, run).await
}

/// Copies results from `other` to the store.
///
/// # Errors
/// As [`cache_push`].
pub async fn cache_pull(global: &Global, other: &str, run: Option<&str>) -> Result<u8, Failure> {
    let (from, to) = (existing_store(other).await?, open_store(global).await?);
    copy(global, &from, &to, run).await
}

async fn copy(global: &Global, from: &Store, to: &Store, run: Option<&str>) -> Result<u8, Failure> {
    let (copied, records) = match run {
        None => (from.copy_to(to, |_| true).await?, "runs".to_owned()),
        Some(run) => {
            let id = find_run(from, run).await?.start.id;
            let needed = run_record::needed(from, &id).await?;
            let keys: BTreeSet<ActionKey> = needed.into_iter().map(|needed| needed.key).collect();
            (from.copy_to(to, |manifest| keys.contains(&manifest.key)).await?, format!("runs/{id}"))
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
        answer(&text)?;
    }
    Ok(u8::from(copied.incomplete > 0))
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
