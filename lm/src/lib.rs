//! The language-model engine behind the worker executable `bstar-lm`.
//!
//! - [`worker`]: takes orders and reports. [`steps`]: the stages it carries out. [`device`]: on what.
//!   [`memory`]: how freed memory is kept.
//! - [`tokenizer`]: training a tokenizer; encoding and decoding.
//! - [`ask`], [`inspect`]: questions to a model from the command line.
//! - [`config`], [`checkpoint`]: Hugging Face folders, read and written. [`tensors`]: safetensors files.
//! - [`model`]: the decoder. [`rope`]: its rotary positions. [`generate`]: sampling responses, in waves ([`wave`]) as large
//!   as [`memory`] allows. [`cascade`]: the attention of those that began together; `attention`: that of a GPU.
//!   [`kernels`]: what sampling and training do in one pass each. [`matrix`]: products.
//!   [`draw`]: choosing one token. [`stream`]: random numbers.
//! - [`batch`]: rows in one stream. [`train`]: the loop of `pretrain`, `sft` and `reward_model`; [`objective`]:
//!   what is learnt; [`optim`]: optimizers; [`lora`]: adapters; [`initial`]: new models; [`merge`]: means of models.
//! - [`reward`]: process reward models. [`shared`]: responses that share prompts.
//!
//! The crate knows nothing of plans, stores or keys.

pub mod ask;
mod attention;
pub mod batch;
mod block;
pub mod cascade;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod draw;
pub mod error;
pub mod generate;
mod gradients;
pub mod initial;
pub mod inspect;
pub mod kernels;
pub mod lora;
pub mod matrix;
pub mod memory;
pub mod merge;
pub mod model;
pub mod objective;
pub mod optim;
mod packing;
pub mod progress;
mod reads;
mod resume;
pub mod reward;
pub mod rope;
pub mod shared;
pub mod steady;
pub mod steps;
pub mod stream;
pub mod tensors;
pub mod tokenizer;
pub mod train;
mod trunk;
pub mod wave;
pub mod worker;
