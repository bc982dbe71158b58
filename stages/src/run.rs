//! Stages that run inside the engine's process: files in, files out, milliseconds.

mod data;
mod dataset;
mod labels;
mod measure;
mod prompts;
mod score;
mod select;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::files;
use crate::protocol::StageError;
use crate::stage::StageConfig;

pub use score::{Grading, add_model_scores, grade};

/// Where a stage reads and writes.
#[derive(Debug, Clone)]
pub struct Work {
    /// Input name → file or folder.
    pub inputs: BTreeMap<String, PathBuf>,
    /// The folder to write outputs to.
    pub output: PathBuf,
    /// The pipeline's seed.
    pub seed: u64,
}

impl Work {
    fn input(&self, name: &str) -> Result<&Path, StageError> {
        self.inputs
            .get(name)
            .map(PathBuf::as_path)
            .ok_or_else(|| StageError::failed(format!("the stage was not given its input `{name}`")))
    }

    /// The rows of an input, of which there must be some.
    fn rows<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, StageError> {
        let path = self.input(name)?;
        let rows = files::read_rows(path)?;
        if rows.is_empty() {
            return Err(StageError::invalid(format!("`{name}` has no rows: {}", path.display()))
                .hint("the stage or file it comes from produced nothing: look at its settings"));
        }
        Ok(rows)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.output.join(name)
    }
}

/// Carries out a stage whose runner is [`Runner::InProcess`](crate::stage::Runner::InProcess); returns its
/// metrics.
///
/// # Errors
/// [`StageError::invalid`] when inputs are empty or do not fit together.
pub fn run(stage: &StageConfig, work: &Work) -> Result<Map<String, Value>, StageError> {
    match stage {
        StageConfig::Problems(config) => data::problems(config, work),
        StageConfig::Dataset(config) => dataset::dataset(config, work),
        StageConfig::Draw(config) => data::draw(config, work),
        StageConfig::Prompts(config) => prompts::prompts(config, work),
        StageConfig::ScoreShard(config) => score::score(config, work),
        StageConfig::Search(config) => select::search(config, work),
        StageConfig::Filter(config) => select::filter(config, work),
        StageConfig::Measure(config) => measure::measure(config, work),
        StageConfig::Prefixes(config) => labels::prefixes(config, work),
        StageConfig::LabelSteps(config) => labels::label_steps(config, work),
        StageConfig::Tokenizer(_)
        | StageConfig::Pretrain(_)
        | StageConfig::Sft(_)
        | StageConfig::Sample(_)
        | StageConfig::SampleShard(_)
        | StageConfig::Score(_)
        | StageConfig::Evaluate(_)
        | StageConfig::StepLabels(_)
        | StageConfig::RewardModel(_)
        | StageConfig::Command(_) => {
            Err(StageError::failed(format!("a `{}` stage does not run in this process", stage.name())))
        }
    }
}

/// Metrics by name, in the order given.
fn metrics<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests;
