mod conformance;
mod disk;

use std::collections::BTreeMap;

use object_store::ObjectStoreExt;
use serde_json::Map;

use super::*;
use crate::action::{Action, Ingredient};
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

async fn overwrite(store: &Store, object: &str, bytes: Vec<u8>) {
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
    store.objects().delete(&ObjectPath::from(object)).await.unwrap();
}

async fn names(store: &Store, folder: &str) -> Vec<String> {
    store.list(folder).await.unwrap().into_iter().map(|(name, _)| name).collect()
}
