//! Reads what a run kept to learn from: the datasets in a store, best rewards first.
//!
//! ```sh
//! cargo run --release --example kept_responses -- .bstar
//! ```

use bstar_cache::Store;
use bstar_stages::record::Example;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the answer of the example")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let location = std::env::args().nth(1).unwrap_or_else(|| ".bstar".to_owned());
    let store = Store::open(&location).await?;
    for manifest in store.manifests().await? {
        if manifest.action.stage != "filter" {
            continue;
        }
        let Some(artifact) = manifest.under("dataset.jsonl", false) else { continue };
        // Every read is verified: damaged bytes are an error, never a row.
        let text = String::from_utf8(store.read(&artifact.digest).await?)?;
        let mut rows: Vec<Example> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        rows.sort_by(|one, other| other.reward.unwrap_or(0.0).total_cmp(&one.reward.unwrap_or(0.0)));
        println!("{} of run {}: {} responses", manifest.provenance.step, manifest.provenance.run, rows.len());
        for row in rows.iter().take(3) {
            println!("  {:.3}  {:?}", row.reward.unwrap_or(0.0), row.completion);
        }
    }
    Ok(())
}
