//! What is stored, and under which name.
//!
//! - [`digest`]: the identity of bytes.
//! - [`action`]: the identity of one execution, and the readable ingredients it is made of.
//! - [`manifest`]: what an execution produced.
//! - [`store`]: blobs by digest and manifests by action key, over any object store.
//!
//! The crate knows nothing of pipelines, stages or language models.

pub mod action;
pub mod digest;
pub mod manifest;
pub mod store;

pub use action::{Action, ActionKey, Ingredient};
pub use digest::Digest;
pub use manifest::{Artifact, Manifest, Provenance};
pub use store::{Store, StoreError};
