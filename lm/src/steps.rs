//! The stages this worker carries out: files in, files out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bstar_cache::Digest;
use bstar_stages::StageConfig;
use bstar_stages::config::{self, Training};
use bstar_stages::files::{read_rows, write_rows};
use bstar_stages::protocol::{Request, StageError};
use bstar_stages::record::{Example, LabelledSteps, Query, Response};
use bstar_stages::run::{Grading, add_model_scores};
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use crate::checkpoint::{load_model, load_tokenizer, save_model};
use crate::config::ModelConfig;
use crate::device;
use crate::error::{Result, io};
use crate::generate::{CACHE_BYTES, Policy, Sampling};
use crate::model::Decoder;
use crate::optim::Optimizer;
use crate::progress::Control;
use crate::reward::{Scorer, StepLabels, StepsRow, from_policy};
use crate::tokenizer::Tokenizer;
use crate::train::{LogRow, NextToken, Run, TextRow, initial, train};

/// What the worker keeps between steps.
#[derive(Debug, Default)]
pub struct Kept {
    policy: Option<(Digest, Device, Policy)>,
    scorer: Option<(Digest, Device, Scorer)>,
}

/// One step, and the line to whoever ordered it.
struct Step<'a, 'b> {
    request: &'a Request,
    device: Device,
    control: &'a mut Control<'b>,
}

impl Kept {
    /// Carries out a step; answers its metrics.
    ///
    /// # Errors
    /// Whatever goes wrong, as a stage error.
    pub fn carry_out(&mut self, request: &Request, control: &mut Control<'_>) -> Result<Map<String, Value>> {
        let device = match &request.stage {
            // Text only: works where there is no such device.
            StageConfig::Tokenizer(_) => Device::Cpu,
            _ => device::find(&request.device)?,
        };
        std::fs::create_dir_all(&request.output).map_err(io("create", &request.output))?;
        let mut step = Step { request, device, control };
        match &request.stage {
            StageConfig::Tokenizer(settings) => step.tokenizer(settings),
            StageConfig::Pretrain(settings) => step.pretrain(settings),
            StageConfig::Sft(settings) => step.sft(settings),
            StageConfig::RewardModel(settings) => step.reward_model(settings),
            StageConfig::SampleShard(settings) => self.sample(&mut step, settings),
            StageConfig::ScoreShard(settings) => self.score(&mut step, settings),
            other => {
                Err(StageError::failed(format!("a `{}` stage does not run in this worker", other.name())))
            }
        }
    }

    fn sample(
        &mut self,
        step: &mut Step<'_, '_>,
        settings: &config::SampleShard,
    ) -> Result<Map<String, Value>> {
        let queries: Vec<Query> = step.rows("queries")?;
        let digest = step.digest("policy")?;
        if self.policy.as_ref().is_none_or(|(held, device, _)| (*held, *device) != (digest, step.device)) {
            self.policy = None;
            let folder = step.input("policy")?;
            let model = load_model(folder, step.device, Kind::Float)?;
            if model.config().scalar {
                return Err(StageError::invalid("the model is a reward model, not a policy"));
            }
            let tokenizer = load_tokenizer(folder, model.config())?;
            self.policy = Some((digest, step.device, Policy::new(model, tokenizer)));
        }
        let Some((_, _, policy)) = &self.policy else {
            return Err(StageError::failed("the policy was not loaded"));
        };
        let began = Instant::now();
        let sampling = Sampling { settings, seed: step.request.seed, cache_bytes: CACHE_BYTES };
        let responses = policy.sample(&queries, &sampling, step.control)?;
        write_rows(&step.output("responses.jsonl"), &responses)?;
        let tokens: u64 = responses.iter().map(|response| u64::from(response.tokens)).sum();
        Ok(metrics([
            ("responses", json!(responses.len())),
            ("tokens", json!(tokens)),
            ("sample_s", json!(began.elapsed().as_secs_f64())),
        ]))
    }

    fn score(
        &mut self,
        step: &mut Step<'_, '_>,
        settings: &config::ScoreShard,
    ) -> Result<Map<String, Value>> {
        let queries: Vec<Query> = step.rows("queries")?;
        let responses: Vec<Response> = step.rows("responses")?;
        let digest = step.digest("reward_model")?;
        if self.scorer.as_ref().is_none_or(|(held, device, _)| (*held, *device) != (digest, step.device)) {
            self.scorer = None;
            let folder = step.input("reward_model")?;
            let model = load_model(folder, step.device, Kind::Float)?;
            let tokenizer = load_tokenizer(folder, model.config())?;
            let scorer = Scorer::new(model, tokenizer)?;
            self.scorer = Some((digest, step.device, scorer));
        }
        let Some((_, _, scorer)) = &self.scorer else {
            return Err(StageError::failed("the reward model was not loaded"));
        };
        let by_id: HashMap<&str, &Query> = queries.iter().map(|query| (query.id.as_str(), query)).collect();
        let pairs = responses
            .iter()
            .map(|response| match by_id.get(response.query_id.as_str()) {
                Some(query) => Ok((*query, response)),
                None => Err(StageError::invalid(format!(
                    "a response answers query `{}`, which is not given",
                    response.query_id
                ))
                .hint("`queries` must be those that were sampled, and `shard_queries` the sampler's")),
            })
            .collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        let mut grading = Grading::new(settings)?;
        let scores = scorer.score(&pairs, step.control)?;
        let mut rewards = Vec::with_capacity(pairs.len());
        for ((query, response), scores) in pairs.into_iter().zip(scores) {
            let mut reward = grading.judge(query, response)?;
            add_model_scores(&mut reward, scores, settings.aggregate.unwrap_or_default());
            rewards.push(reward);
        }
        write_rows(&step.output("rewards.jsonl"), &rewards)?;
        Ok(metrics([
            ("responses", json!(rewards.len())),
            ("correct", json!(rewards.iter().filter(|reward| reward.correct).count())),
            ("score_s", json!(began.elapsed().as_secs_f64())),
        ]))
    }
}

impl Step<'_, '_> {
    fn input(&self, name: &str) -> Result<&Path> {
        let found = self.request.inputs.get(name).map(|input| input.path.as_path());
        found.ok_or_else(|| StageError::failed(format!("the stage was not given its input `{name}`")))
    }

    fn digest(&self, name: &str) -> Result<Digest> {
        let found = self.request.inputs.get(name).map(|input| input.digest);
        found.ok_or_else(|| StageError::failed(format!("the stage was not given its input `{name}`")))
    }

    fn rows<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        read_rows(self.input(name)?)
    }

    fn output(&self, path: &str) -> PathBuf {
        self.request.output.join(path)
    }

    fn tokenizer(&mut self, settings: &config::Tokenizer) -> Result<Map<String, Value>> {
        let mut rows: Vec<Example> = Vec::new();
        for index in 0..settings.corpus.len() {
            rows.extend(self.rows::<Example>(&format!("corpus{index}"))?);
        }
        let size = Tokenizer::train(settings, &rows, &self.output("tokenizer"))?;
        Ok(metrics([("rows", json!(rows.len())), ("vocab_size", json!(size))]))
    }

    fn pretrain(&mut self, settings: &config::Pretrain) -> Result<Map<String, Value>> {
        let folder = self.input("tokenizer")?.to_owned();
        let tokenizer = Tokenizer::load(&folder)?;
        let eos = tokenizer.eos.ok_or_else(|| {
            StageError::invalid(format!("the tokenizer in `{}` names no `eos_token`", folder.display()))
        })?;
        let config = ModelConfig::new(&settings.model, tokenizer.size(), eos, tokenizer.pad)?;
        let mut model = initial(config, self.request.seed, self.device);
        let optimizer = Optimizer::new(settings.training.optimizer);
        self.text(&mut model, &tokenizer, &folder, optimizer, &settings.training)
    }

    fn sft(&mut self, settings: &config::Sft) -> Result<Map<String, Value>> {
        let folder = self.input("policy")?.to_owned();
        let mut model = load_model(&folder, self.device, Kind::Float)?;
        let tokenizer = load_tokenizer(&folder, model.config())?;
        let kind = settings.training.optimizer;
        let optimizer = match self.request.inputs.get("optimizer") {
            Some(input) => Optimizer::load(&input.path, kind, model.tensors_mut(), self.device)?,
            None => Optimizer::new(kind),
        };
        self.text(&mut model, &tokenizer, &folder, optimizer, &settings.training)
    }

    /// Trains on the rows of `dataset`, and writes the policy, its optimizer and the log.
    fn text(
        &mut self,
        model: &mut Decoder,
        tokenizer: &Tokenizer,
        folder: &Path,
        optimizer: Optimizer,
        settings: &Training,
    ) -> Result<Map<String, Value>> {
        // Chat models have several end tokens: the tokenizer's own is the one that ends a turn.
        let eos = tokenizer.eos.filter(|id| model.config().eos.contains(id)).unwrap_or(model.config().eos[0]);
        let length = max_length(settings, model);
        let rows = self
            .rows::<Example>("dataset")?
            .iter()
            .map(|row| TextRow::new(tokenizer, &row.prompt, &row.completion, eos, length))
            .collect::<Result<Vec<_>>>()?;
        let (scratch, run) = (self.request.scratch.clone(), self.request);
        let run = Run { settings, seed: run.seed, threads: run.threads, scratch: &scratch };
        let (optimizer, log, metrics) = train(&NextToken, &rows, model, optimizer, &run, self.control)?;
        save_model(&self.output("policy"), model, Kind::Float, folder)?;
        optimizer.save(&self.output("optimizer"))?;
        self.write_log(&log)?;
        Ok(metrics)
    }

    fn reward_model(&mut self, settings: &config::RewardModel) -> Result<Map<String, Value>> {
        let folder = self.input("policy")?.to_owned();
        let mut model = from_policy(&load_model(&folder, self.device, Kind::Float)?);
        let tokenizer = load_tokenizer(&folder, model.config())?;
        let training = &settings.training;
        let length = max_length(training, &model);
        let rows = self
            .rows::<LabelledSteps>("labels")?
            .iter()
            .map(|row| StepsRow::labelled(&tokenizer, row, length))
            .collect::<Result<Vec<_>>>()?;
        let (scratch, run) = (self.request.scratch.clone(), self.request);
        let run = Run { settings: training, seed: run.seed, threads: run.threads, scratch: &scratch };
        let optimizer = Optimizer::new(training.optimizer);
        let (_, log, metrics) = train(&StepLabels, &rows, &mut model, optimizer, &run, self.control)?;
        save_model(&self.output("reward_model"), &model, Kind::Float, &folder)?;
        self.write_log(&log)?;
        Ok(metrics)
    }

    fn write_log(&self, log: &[LogRow]) -> Result<()> {
        write_rows(&self.output("log.jsonl"), log)
    }
}

/// Longest row: what the pipeline says, and never more than the model has positions for.
fn max_length(settings: &Training, model: &Decoder) -> usize {
    settings.max_length.min(usize::try_from(model.config().context()).unwrap_or(usize::MAX))
}

fn metrics<const N: usize>(values: [(&str, Value); N]) -> Map<String, Value> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
