//! The settings of every stage: one struct a stage, each with its identity, inputs and outputs.

mod architecture;
mod budget;
mod check;
mod command;
mod data;
mod dataset;
mod declared;
mod evaluate;
mod ingredients;
mod judge;
mod labels;
mod lora;
mod merge;
mod precision;
mod prompts;
mod reading;
mod rules;
mod sample;
mod score;
mod select;
mod thresholds;
mod train;
mod training;

pub use architecture::Architecture;
pub use budget::{Allocate, Halve, Halving};
pub use check::is_temperature;
pub use command::Command;
pub use data::{Draw, Problems, Tokenizer, TokenizerKind};
pub use dataset::{Dataset, Format};
pub use declared::Declared;
pub use evaluate::{Evaluate, Measure};
pub use judge::{AnswerStyle, CodeRules, Grader};
pub(crate) use labels::part_inputs;
pub use labels::{LabelSteps, LabelledPart, Prefixes, StepEstimate, StepLabels};
pub use lora::{Lora, Target};
pub use merge::Merge;
pub use precision::Precision;
pub use prompts::Prompts;
pub use reading::{Encode, Place, Reading, Readout};
pub use rules::{Average, Counted, Rules, Select, Ties};
pub use sample::{Sample, SampleShard};
pub use score::{Aggregate, Scale, Score, ScoreShard};
pub use select::{Filter, Objective, Search};
pub use thresholds::{Grid, Thresholds};
pub use train::{Pretrain, RewardModel, Sft};
pub use training::{Frozen, Optimizer, Schedule, ScheduleShape, Training};

#[cfg(test)]
mod tests;
