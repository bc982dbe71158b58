//! `bstar cache …`.

use bstar_cache::{Digest, Store, StoreError, tree_digest};
use serde_json::json;

use crate::cli::{Format, Global, existing_store};
use crate::commands::export::folders;
use crate::commands::{answer, answer_bytes, answer_json, columns};
use crate::failure::Failure;
use crate::report::{count, size};
use crate::run_record;

/// How much is stored.
///
/// # Errors
/// When the store cannot be read.
pub async fn cache_stat(global: &Global) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let stat = store.stat().await?;
    let pins = run_record::pins(&store).await?;
    if global.format == Format::Json {
        answer_json(&json!({"store": store.location(), "stat": stat, "pinned": pins.len()}))?;
        return Ok(0);
    }
    let mut rows = vec![["stage", "results", "size"].map(str::to_owned).to_vec()];
    for (stage, entry) in &stat.stages {
        rows.push(vec![stage.clone(), entry.manifests.to_string(), size(entry.bytes)]);
    }
    let mut more = if pins.is_empty() { String::new() } else { format!(" ({} pinned)", pins.len()) };
    if stat.retired > 0 {
        more.push_str(&format!(", {} retired", size(stat.retired)));
    }
    answer(&format!(
        "{}: {}, {} in {}, {}{more}\n\n{}",
        store.location(),
        count(stat.manifests, "result"),
        size(stat.bytes),
        count(stat.blobs, "file"),
        count(stat.runs, "run"),
        columns(&rows)
    ))?;
    Ok(0)
}

/// Reads everything and sets aside what is damaged.
///
/// # Errors
/// When the store cannot be read.
pub async fn cache_verify(global: &Global) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let report = store.verify().await?;
    let sound = report.is_sound();
    if global.format == Format::Json {
        answer_json(&report)?;
    } else {
        let mut text = format!("checked {} ({})", count(report.blobs, "file"), size(report.bytes));
        for digest in &report.repaired {
            text.push_str(&format!("\nlost in the bucket, sent again from this machine's copy: {digest}"));
        }
        for digest in &report.copies {
            text.push_str(&format!("\ndamaged copy on this machine, set aside: {digest}"));
        }
        for digest in &report.corrupt {
            text.push_str(&format!("\ndamaged, set aside: {digest}"));
        }
        for (key, step) in &report.incomplete {
            text.push_str(&format!("\nincomplete: {step} (key {})", key.short()));
        }
        for name in &report.unreadable {
            text.push_str(&format!("\nunreadable: {name}"));
        }
        text.push_str(match sound {
            true if report.repaired.is_empty() && report.copies.is_empty() => "\nno damage found",
            true => "\nall results are whole",
            false => "\nthe next run computes these results again",
        });
        answer(&text)?;
    }
    Ok(u8::from(!sound))
}

/// Writes a stored file to standard output.
///
/// # Errors
/// When the digest is malformed, unknown or that of a folder, or the store cannot be read.
pub async fn cache_cat(global: &Global, digest: &str) -> Result<u8, Failure> {
    let digest: Digest = digest.parse().map_err(|error: bstar_cache::NotADigest| Failure::Usage {
        message: error.to_string(),
        hint: Some("`bstar run show` lists the digests of a run's results".to_owned()),
    })?;
    let store = existing_store(&global.store).await?;
    let bytes = match store.read(&digest).await {
        Err(StoreError::Missing { digest }) => return Err(no_file(&store, &digest).await?),
        read => read?,
    };
    answer_bytes(&bytes)?;
    Ok(0)
}

/// Files of a folder that are named.
const FILES: usize = 6;

/// Why there is no file with a digest: it may be that of a folder.
async fn no_file(store: &Store, digest: &Digest) -> Result<Failure, StoreError> {
    let manifests = store.manifests().await?;
    let mut outputs = manifests.iter().flat_map(|manifest| manifest.outputs.values());
    if outputs.any(|artifact| artifact.digest == *digest) {
        return Ok(Failure::Store(StoreError::Missing { digest: *digest }));
    }
    let mut all = manifests.iter().flat_map(folders).map(|(_, files)| files);
    let Some(files) = all.find(|files| tree_digest(files) == *digest) else {
        return Ok(Failure::Usage {
            message: format!("nothing that is stored has the digest {digest}"),
            hint: Some("`bstar run show` lists the digests of a run's results".to_owned()),
        });
    };
    let mut names: Vec<String> =
        files.iter().take(FILES).map(|(name, file)| format!("{name} ({})", file.digest)).collect();
    if files.len() > FILES {
        names.push(format!("and {} more", files.len() - FILES));
    }
    Ok(Failure::Usage {
        message: format!("{} is a folder of {}", digest.short(), count(files.len(), "file")),
        hint: Some(format!(
            "`bstar run export` copies it whole; to write one file, give its digest:\n    {}",
            names.join("\n    ")
        )),
    })
}
