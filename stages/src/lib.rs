//! What the stages of a self-improvement loop are.
//!
//! - [`stage`]: the trait every stage configuration implements, and the enum over them.
//! - [`config`]: one struct a stage: its settings, identity, inputs and outputs.
//! - [`record`]: the rows stages exchange. [`files`]: reading and writing them. [`kind`]: checking them.
//! - [`device`]: what language models are computed on.
//! - [`units`]: times and sizes as people write them.
//! - [`protocol`]: what the engine and worker processes say to each other.
//! - [`balance`], [`metrics`]: the arithmetic of B-STaR and of its evaluation, pure.
//! - [`problems`]: the built-in task. [`grade`]: extraction and comparison of answers.
//! - [`holds`]: what results are, as far as it is known before anything runs.
//! - [`hub`]: models in the local cache of the Hugging Face Hub.
//! - [`run`]: stages that run inside the engine's process.
//!
//! The crate knows nothing of plans, schedulers, stores or tensors.

#[cfg(test)]
mod at_hand;
pub mod balance;
pub mod chat;
pub mod code;
pub mod config;
pub mod device;
pub mod files;
pub mod grade;
pub mod holds;
pub mod hub;
pub mod kind;
pub mod metrics;
pub mod problems;
pub mod protocol;
pub mod record;
pub mod reference;
pub mod run;
pub mod sandbox;
pub mod stage;
pub mod units;

pub use device::Device;
pub use reference::{OneOrMany, Reference, References, Setting};
pub use stage::{Input, Output, Piece, Problem, Runner, Shard, ShardInput, ShardSource, Stage, StageConfig};
