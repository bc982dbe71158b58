//! What is stored, and under which name.
//!
//! - [`digest`]: the identity of bytes.
//! - [`difference`]: how two executions differ.
//! - [`action`]: the identity of one execution, and the readable ingredients it is made of.
//! - [`manifest`]: what an execution produced.
//! - [`placement`]: where the file system puts new files.
//! - [`store`]: blobs by digest and manifests by action key, over any object store.
//!
//! The crate knows nothing of pipelines, stages or language models.

pub mod action;
pub mod difference;
pub mod digest;
pub mod manifest;
pub mod placement;
pub mod store;

pub use action::{Action, ActionKey, Ingredient};
pub use difference::Difference;
pub use digest::{Digest, NotADigest};
pub use manifest::{Artifact, Manifest, Provenance, timestamp, tree_digest};
pub use store::{
    Collected, Collection, Freed, Holder, Inventory, Lease, LeaseOptions, LeaseRequest, Object, Published,
    Retired, Shrunk, StageStat, Standing, Stat, Store, StoreError, TRANSFERS, Unneeded, Verification,
};
