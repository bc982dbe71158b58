//! What it takes to retire an output in a store of 2,000 results: the first time, and then once more for each of
//! four iterations.
//!
//! ```sh
//! cargo bench -p bstar-cache --bench retire                        # in a folder for temporary files
//! cargo bench -p bstar-cache --bench retire -- s3://bucket/prefix  # AWS_… say where; takes a minute to fill
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bstar_cache::{Action, Ingredient, Manifest, Provenance, Store};
use futures::{StreamExt, TryStreamExt, stream};

const RESULTS: i64 = 2_000;

#[expect(clippy::print_stdout, reason = "the answer of the benchmark")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let given = std::env::args().nth(1).filter(|argument| argument.contains("://"));
    let location = given.unwrap_or_else(|| folder.path().join("store").to_string_lossy().into_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(&location).await?;
        let made = stream::iter(0..RESULTS).map(|number| publish(&store, number)).buffered(16);
        let made: Vec<Manifest> = made.try_collect().await?;
        // A run begins with a process of its own.
        let store = Store::open(&location).await?;
        for (round, manifest) in made.iter().step_by(400).enumerate() {
            let outputs = BTreeMap::from([(manifest.key, BTreeSet::from(["optimizer".to_owned()]))]);
            let start = Instant::now();
            let freed = store.retire(&outputs, "bench").await?;
            let time = 1e3 * start.elapsed().as_secs_f64();
            println!("{location}: retirement {}: {time:.1} ms, {} blob freed", round + 1, freed.blobs);
            publish(&store, RESULTS + round as i64).await?;
        }
        Ok(())
    })
}

/// A result with four outputs, as training has.
async fn publish(store: &Store, number: i64) -> Result<Manifest, bstar_cache::StoreError> {
    let config = Ingredient::map([("number", Ingredient::from(number))]);
    let inputs = BTreeMap::new();
    let action = Action { stage: "sft".to_owned(), version: 1, config, seed: Some(1), inputs };
    let mut outputs = BTreeMap::new();
    for name in ["optimizer", "policy/config.json", "policy/model.safetensors", "policy/tokenizer.json"] {
        let artifact = store.put_bytes(format!("{name} {number}").into_bytes()).await?;
        outputs.insert(name.to_owned(), artifact);
    }
    let manifest = Manifest::new(action, outputs, serde_json::Map::new(), Provenance::default());
    Ok(store.publish(manifest).await?.manifest)
}
