//! The language-model engine behind the worker executable `bstar-lm`.
//!
//! - [`worker`]: takes orders and reports. [`steps`]: the stages it carries out. [`device`]: on what.
//! - [`tokenizer`]: training a tokenizer; encoding and decoding.
//! - [`ask`], [`inspect`]: questions to a model from the command line.
//! - [`config`], [`checkpoint`]: Hugging Face folders, read and written. [`tensors`]: safetensors files.
//! - [`model`]: the decoder. [`rope`]: its rotary positions. [`generate`]: sampling responses, in waves ([`wave`]) as large
//!   as [`memory`] allows. [`cascade`]: the attention of those that began together.
//!   [`kernels`]: what is faster in one pass.
//!   [`draw`]: choosing one token. [`stream`]: random numbers.
//! - [`optim`], [`batch`], [`train`]: optimizers, packed rows, and the loop of `pretrain` and `sft`.
//! - [`reward`]: process reward models.
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
pub mod kernels;
pub mod memory;
pub mod model;
pub mod optim;
pub mod progress;
mod resume;
pub mod reward;
pub mod rope;
pub mod steps;
pub mod stream;
pub mod tensors;
pub mod tokenizer;
pub mod train;
pub mod wave;
pub mod worker;
