//! The settings of every stage: one struct a stage, each with its identity, inputs and outputs.

mod architecture;
mod check;
mod command;
mod data;
mod dataset;
mod declared;
mod evaluate;
mod judge;
mod labels;
mod lora;
mod prompts;
mod sample;
mod select;
mod train;
mod training;

pub use architecture::Architecture;
pub use command::Command;
pub use data::{Draw, Problems, Tokenizer, TokenizerKind};
pub use dataset::{Dataset, Format};
pub use declared::Declared;
pub use evaluate::{Evaluate, Measure};
pub use judge::{AnswerStyle, CodeRules, Grader};
pub use labels::{LabelSteps, Prefixes, StepLabels};
pub use lora::{Lora, Target};
pub use prompts::Prompts;
pub use sample::{Aggregate, Sample, SampleShard, Score, ScoreShard};
pub use select::{Filter, Search, Thresholds};
pub use train::{Pretrain, RewardModel, Sft};
pub use training::{Frozen, Numbers, Optimizer, Schedule, ScheduleShape, Training};

#[cfg(test)]
mod tests;
