//! The settings of every stage: one struct a stage, each with its identity, inputs and outputs.

mod check;
mod command;
mod data;
mod dataset;
mod declared;
mod evaluate;
mod judge;
mod labels;
mod prompts;
mod sample;
mod select;
mod train;

pub use command::Command;
pub use data::{Draw, Problems, Tokenizer, TokenizerKind};
pub use dataset::{Dataset, Format};
pub use declared::Declared;
pub use evaluate::{Evaluate, Measure};
pub use judge::{AnswerStyle, CodeRules, Grader};
pub(crate) use labels::part_inputs;
pub use labels::{LabelSteps, LabelledPart, Prefixes, StepEstimate, StepLabels};
pub use prompts::Prompts;
pub use sample::{Aggregate, Sample, SampleShard, Score, ScoreShard};
pub use select::{Filter, Search, Thresholds};
pub use train::{Architecture, Optimizer, Pretrain, RewardModel, Schedule, ScheduleShape, Sft, Training};

#[cfg(test)]
mod tests;
