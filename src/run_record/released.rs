//! Outputs that a run needs no more, while it needs their results.

use std::collections::{BTreeMap, BTreeSet};

use bstar_cache::{ActionKey, Store, StoreError};

/// Files of results, by key.
pub type Retirees = BTreeMap<ActionKey, BTreeSet<String>>;

/// Says that a run needs these no more: another one that has no need of them either may retire them.
///
/// # Errors
/// When the store cannot be written to.
pub async fn release(store: &Store, run: &str, outputs: &Retirees) -> Result<(), StoreError> {
    super::put(store, &format!("runs/{run}/released"), outputs).await
}

/// What a run has said that it needs no more.
///
/// # Errors
/// When the store cannot be read.
pub async fn released(store: &Store, run: &str) -> Result<Retirees, StoreError> {
    Ok(super::get(store, &format!("runs/{run}/released")).await?.unwrap_or_default())
}
