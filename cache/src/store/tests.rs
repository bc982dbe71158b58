mod care;
mod conformance;
mod copies;
mod disk;
mod faults;
mod faulty;
mod proxy;
mod s3;
#[path = "../../tests-support/servers.rs"]
pub(super) mod servers;
mod tier;

use std::collections::BTreeMap;

use object_store::ObjectStoreExt;
use serde_json::Map;

use super::*;
use crate::action::{Action, ActionKey, Ingredient};
use crate::manifest::{Manifest, Provenance};

/// An action that differs from those with other numbers.
fn action(number: i64) -> Action {
    let config = Ingredient::map([("number", Ingredient::from(number))]);
    Action { stage: "stage".to_owned(), version: 1, config, seed: None, inputs: BTreeMap::new() }
}

/// A manifest of `action(number)`.
fn manifest(number: i64, outputs: &[(&str, Artifact)], run: &str) -> Manifest {
    let outputs = outputs.iter().map(|(path, artifact)| ((*path).to_owned(), *artifact)).collect();
    let provenance =
        Provenance { step: format!("step-{number}"), run: run.to_owned(), ..Provenance::default() };
    Manifest::new(action(number), outputs, Map::new(), provenance)
}

async fn put(store: &Store, content: &str) -> Artifact {
    store.put_bytes(content.as_bytes().to_vec()).await.unwrap()
}

/// A published result with one output.
async fn publish(store: &Store, number: i64, content: &str) -> Manifest {
    let output = put(store, content).await;
    let published = store.publish(manifest(number, &[("out", output)], "run")).await.unwrap();
    assert!(!published.adopted);
    published.manifest
}

/// How long tests try again.
const IMPATIENT: Retries = Retries {
    total: std::time::Duration::from_secs(5),
    stall: std::time::Duration::from_secs(2),
    pause: std::time::Duration::from_millis(1),
};

/// A new store on a server, in a bucket of its own.
pub(super) async fn bucket(server: &servers::Server, number: usize, tier: TierFolder) -> Store {
    server.make_bucket(&format!("bucket-{number}"));
    let options = StoreOptions { tier, retries: IMPATIENT, variables: Some(server.variables()) };
    Store::open_with(&format!("s3://bucket-{number}/some/prefix"), options).await.unwrap()
}

/// A bucket, in memory, as seen from machines with folders of their own.
struct Shared {
    objects: Arc<InMemory>,
    folder: tempfile::TempDir,
}

impl Shared {
    fn new() -> Self {
        Self { objects: Arc::new(InMemory::new()), folder: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, tier: TierFolder) -> Store {
        let endpoint = Endpoint { address: "http://server".to_owned(), variable: None };
        let objects: Arc<dyn Objects> = self.objects.clone();
        Store::open_remote("s3://bucket", objects, endpoint, IMPATIENT, &tier).await.unwrap()
    }

    async fn on(&self, machine: &str) -> Store {
        self.open(TierFolder::Below(self.folder.path().join(machine))).await
    }

    /// The bucket itself.
    async fn bucket(&self) -> Store {
        self.open(TierFolder::Off).await
    }
}

/// The file of an object in the tier, if there is one.
fn in_tier(store: &Store, object: &str) -> Option<PathBuf> {
    let Place::There(remote) = &store.inner.place else { return None };
    let root = remote.tier.as_ref()?.local().root();
    Some(root.join(object)).filter(|path| path.exists())
}

async fn overwrite(store: &Store, object: &str, bytes: Vec<u8>) {
    if let Some(path) = in_tier(store, object) {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
    }
    store.objects().put(&ObjectPath::from(object), bytes.into()).await.unwrap();
}

async fn content(store: &Store, object: &str) -> Vec<u8> {
    store.fetch(&ObjectPath::from(object)).await.unwrap().unwrap()
}

/// Changes one bit in the middle of an object.
async fn flip(store: &Store, object: &str) {
    let mut bytes = content(store, object).await;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(store, object, bytes).await;
}

async fn delete(store: &Store, object: &str) {
    if let Some(path) = in_tier(store, object) {
        std::fs::remove_file(&path).unwrap();
    }
    store.objects().delete(&ObjectPath::from(object)).await.unwrap();
}

/// The objects below a folder, of a bucket and of the tier in front of it.
async fn names(store: &Store, folder: &str) -> Vec<String> {
    let listed = |listed: Vec<(String, u64)>| listed.into_iter().map(|(name, _)| name);
    let mut names: Vec<String> = listed(store.list(folder).await.unwrap()).collect();
    if let Some(root) = in_tier(store, "").filter(|_| !folder.starts_with("quarantine")) {
        let tier = Store::open(root.to_str().unwrap()).await.unwrap();
        names.extend(listed(tier.list(folder).await.unwrap()));
        names.sort();
        names.dedup();
    }
    names
}
