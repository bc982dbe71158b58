//! The language-model engine behind the worker executable `bstar-lm`.
//!
//! - [`worker`]: takes orders and reports. [`steps`]: the stages it carries out. [`device`]: on what.
//! - [`tokenizer`]: training a tokenizer; encoding and decoding.
//! - [`ask`], [`inspect`]: questions to a model from the command line.
//! - [`config`], [`checkpoint`]: Hugging Face folders, read and written. [`tensors`]: safetensors files.
//! - [`model`]: the decoder. [`rope`]: its rotary positions. [`generate`]: sampling responses. [`cascade`]: the attention of a wave of them.
//!   [`draw`]: choosing one token. [`stream`]: random numbers.
//! - [`optim`], [`batch`], [`train`]: optimizers, packed rows, and the loop of `pretrain` and `sft`.
//! - [`reward`]: process reward models. [`shared`]: responses that share prompts.
//!
//! The crate knows nothing of plans, stores or keys.

pub mod ask;
pub mod batch;
pub mod cascade;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod draw;
pub mod error;
pub mod generate;
pub mod inspect;
pub mod merge;
pub mod model;
pub mod optim;
pub mod progress;
mod resume;
pub mod reward;
pub mod rope;
pub mod shared;
pub mod steps;
pub mod stream;
pub mod tensors;
pub mod tokenizer;
pub mod train;
pub mod worker;
