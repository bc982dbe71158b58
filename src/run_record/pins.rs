//! Runs whose results are kept whatever happens.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bstar_cache::{Store, StoreError, timestamp};
use serde::{Deserialize, Serialize};

/// Why a run is kept: `pins/RUN.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pin {
    /// The run.
    pub run: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// RFC 3339, UTC.
    pub pinned: String,
}

impl Pin {
    /// ` as NAME`, or nothing.
    #[must_use]
    pub fn label(&self) -> String {
        self.name.as_ref().map_or(String::new(), |name| format!(" as {name}"))
    }
}

/// All pins, by run. One that cannot be read pins its run all the same.
///
/// # Errors
/// When the store cannot be read.
pub async fn pins(store: &Store) -> Result<BTreeMap<String, Pin>, StoreError> {
    let mut pins = BTreeMap::new();
    for object in store.list_objects("pins").await? {
        let Some(run) = object.strip_prefix("pins/").and_then(|name| name.strip_suffix(".json")) else {
            continue;
        };
        let stored = store.get_object(&object).await?.unwrap_or_default();
        let pin: Pin = serde_json::from_slice(&stored).unwrap_or_default();
        pins.insert(run.to_owned(), Pin { run: run.to_owned(), ..pin });
    }
    Ok(pins)
}

/// Pins a run, or gives a pinned one another name.
///
/// # Errors
/// When the store cannot be written to.
pub async fn pin(store: &Store, run: &str, name: Option<&str>) -> Result<Pin, StoreError> {
    let pinned = timestamp(SystemTime::now());
    let pin = Pin { run: run.to_owned(), name: name.map(str::to_owned), pinned };
    super::put(store, &format!("pins/{run}.json"), &pin).await?;
    Ok(pin)
}

/// Takes a pin away.
///
/// # Errors
/// When the store cannot be written to.
pub async fn unpin(store: &Store, run: &str) -> Result<(), StoreError> {
    store.delete_object(&format!("pins/{run}.json")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_is_pinned_renamed_and_unpinned() {
        let store = Store::open("memory://").await.unwrap();
        pin(&store, "1234", None).await.unwrap();
        let best = pin(&store, "1234", Some("best")).await.unwrap();
        store.put_object("pins/5678.json", b"{".to_vec()).await.unwrap();
        let all = pins(&store).await.unwrap();
        assert_eq!(all["1234"], best);
        assert_eq!(best.label(), " as best");
        assert_eq!(all["5678"].name, None);
        unpin(&store, "1234").await.unwrap();
        unpin(&store, "1234").await.unwrap();
        assert_eq!(pins(&store).await.unwrap().into_keys().collect::<Vec<_>>(), ["5678"]);
    }
}
