//! `bstar run report`.

use std::path::Path;

use bstar_cache::{Digest, Store};

use super::runs::find_run;
use crate::cli::{Format, Global, existing_store};
use crate::commands::{answer, answer_json};
use crate::event::Summary;
use crate::failure::Failure;
use crate::report::{Point, Surface, html};
use crate::run_record;

/// Writes a run as an HTML page.
///
/// # Errors
/// When there is no such run, or the page cannot be written.
pub async fn run_report(global: &Global, name: &str, out: Option<&Path>) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let run = find_run(&store, name).await?;
    let surfaces = match &run.summary {
        Some(summary) => surfaces(&store, summary).await,
        None => Vec::new(),
    };
    let failures = run_record::failures(&store, &run.start.id).await?;
    let page = html(&run, &surfaces, &failures);
    let Some(path) = out else {
        answer(&page)?;
        return Ok(0);
    };
    std::fs::write(path, &page)
        .map_err(|error| Failure::usage(format!("cannot write {}: {error}", path.display())))?;
    match global.format {
        Format::Json => {
            answer_json(&serde_json::json!({"run": run.start.id, "file": path, "bytes": page.len()}))?;
        }
        Format::Text => answer(&format!("wrote {}", path.display()))?,
    }
    Ok(0)
}

/// The balance scores of every search that is still stored: what is gone, or damaged, is left out.
async fn surfaces(store: &Store, summary: &Summary) -> Vec<Surface> {
    let mut surfaces = Vec::new();
    for (name, digest) in &summary.results {
        let Some((iteration, rest)) = name.strip_prefix("iteration[").and_then(|rest| rest.split_once(']'))
        else {
            continue;
        };
        let parts: Vec<&str> = rest.trim_start_matches('.').split('.').collect();
        let rung = match parts[..] {
            [_, "surface"] => None,
            [_, step, "surface"] => match step.strip_prefix("halve").and_then(|rung| rung.parse().ok()) {
                Some(rung) => Some(rung),
                // `filter.search` looks at one temperature only.
                None => continue,
            },
            _ => continue,
        };
        let (Ok(iteration), Ok(digest)) = (iteration.parse(), digest.parse::<Digest>()) else { continue };
        let Ok(bytes) = store.read(&digest).await else { continue };
        let rows = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        if let Ok(points) = rows.map(serde_json::from_slice).collect::<Result<Vec<Point>, _>>() {
            surfaces.push(Surface { iteration, rung, points });
        }
    }
    // The last rung is the search itself.
    surfaces.sort_by_key(|surface| (surface.iteration, surface.rung.unwrap_or(usize::MAX)));
    surfaces
}
