//! The most memory that storing a file of 1 GiB takes, each way in a process of its own, and how long.
//!
//! ```sh
//! cargo bench -p bstar-cache --bench memory                        # into a folder; BENCH_DIR says below which
//! cargo bench -p bstar-cache --bench memory -- s3://bucket/prefix  # into a bucket as well; AWS_… say where
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bstar_cache::store::{StoreOptions, TierFolder};
use bstar_cache::{Action, Artifact, Ingredient, Manifest, Provenance, Store};

mod gigabyte;

use gigabyte::{SIZE, peak_megabytes, write};

type Failure = Box<dyn std::error::Error>;

#[expect(clippy::print_stdout, reason = "the answer of the benchmark")]
fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, work, folder, location] = arguments.as_slice()
        && flag == "--one"
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let before = peak_megabytes();
        let seconds = runtime.block_on(one(work, Path::new(folder), location))?;
        println!("{work:<28} {:>8.2} s {:>6} MB ({before} before)", seconds, peak_megabytes());
        return Ok(());
    }
    let place = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(place)?;
    let bucket = arguments.iter().find(|argument| argument.starts_with("s3://"));
    let disk = ["put_file", "adopt_file"];
    let remote = ["push", "pull", "publish, with a tier", "materialise, with a tier"];
    for work in disk.iter().chain(remote.iter().filter(|_| bucket.is_some())) {
        let status = Command::new(std::env::current_exe()?)
            .args(["--one", work])
            .arg(folder.path())
            .arg(bucket.map_or("", String::as_str))
            .status()?;
        if !status.success() {
            return Err(format!("{work} failed").into());
        }
    }
    Ok(())
}

/// Does one thing; the seconds it took.
async fn one(work: &str, folder: &Path, location: &str) -> Result<f64, Failure> {
    let path = |name: &str| folder.join(name);
    let disk = async |name: &str| Store::open(&path(name).to_string_lossy()).await;
    let bucket = async |name: &str, tier: TierFolder| {
        Store::open_with(&format!("{location}/{name}"), StoreOptions { tier, ..StoreOptions::default() })
            .await
    };
    let tier = |name: &str| TierFolder::Below(path(name));
    let file = path(&format!("file of {work}"));
    if !["pull", "materialise, with a tier"].contains(&work) {
        write(&file)?;
    }
    let start;
    match work {
        "put_file" | "adopt_file" => {
            let store = disk(work).await?;
            start = Instant::now();
            let stored =
                if work == "put_file" { store.put_file(&file).await } else { store.adopt_file(&file).await };
            expect_whole(&stored?)?;
        }
        "push" => {
            let (from, to) = (disk("here").await?, bucket("copied", TierFolder::Off).await?);
            publish(&from, &file).await?;
            start = Instant::now();
            let copied = from.copy_to(&to, |_| true).await?;
            expect((copied.results, copied.bytes) == (1, SIZE as u64))?;
        }
        "pull" => {
            let (from, to) = (bucket("copied", TierFolder::Off).await?, disk("there").await?);
            start = Instant::now();
            let copied = from.copy_to(&to, |_| true).await?;
            expect((copied.results, copied.bytes) == (1, SIZE as u64))?;
        }
        "publish, with a tier" => {
            let store = bucket("published", tier("mine")).await?;
            start = Instant::now();
            publish(&store, &file).await?;
        }
        _ => {
            let store = bucket("published", tier("yours")).await?;
            start = Instant::now();
            let made = store.manifests().await?;
            let output = made.first().and_then(|manifest| manifest.outputs.get("out")).ok_or("no result")?;
            store.materialise(output, &path("target")).await?;
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

async fn publish(store: &Store, file: &Path) -> Result<(), Failure> {
    let artifact = store.adopt_file(file).await?;
    expect_whole(&artifact)?;
    let action = Action {
        stage: "bench".to_owned(),
        version: 1,
        config: Ingredient::map([("number", Ingredient::from(1_i64))]),
        seed: None,
        inputs: std::collections::BTreeMap::new(),
    };
    let outputs = [("out".to_owned(), artifact)].into();
    store.publish(Manifest::new(action, outputs, serde_json::Map::new(), Provenance::default())).await?;
    Ok(())
}

fn expect_whole(artifact: &Artifact) -> Result<(), Failure> {
    expect(artifact.size == SIZE as u64)
}

fn expect(right: bool) -> Result<(), Failure> {
    if right { Ok(()) } else { Err("not what was stored".into()) }
}
