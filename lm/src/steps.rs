//! The stages this worker carries out: files in, files out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bstar_cache::Digest;
use bstar_stages::StageConfig;
use bstar_stages::config::{self, Readout, Training};
use bstar_stages::files::{read_rows, write_rows};
use bstar_stages::protocol::{Request, StageError};
use bstar_stages::record::{Example, FinishReason, LabelledSteps, Query, Response};
use bstar_stages::run::{Grading, add_model_scores};
use bstar_stages::stage::trains;
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use crate::checkpoint::{load_model, load_tokenizer, save_model};
use crate::config::ModelConfig;
use crate::device;
use crate::error::{Result, io};
use crate::generate::{Policy, Sampling};
use crate::initial::initial;
use crate::memory;
use crate::merge::merge;
use crate::model::Decoder;
use crate::objective::{NextToken, TextRow};
use crate::progress::Control;
use crate::reward::{Scorer, StepLabels, StepsRow, check_reading, from_policy, note_reading};
use crate::tensors::kind_of;
use crate::tokenizer::Tokenizer;
use crate::train::{LogRow, Run, train};

/// What the worker keeps between steps.
#[derive(Debug, Default)]
pub struct Kept {
    policy: Option<(Held, Policy)>,
    scorer: Option<((Held, Readout), Scorer)>,
}

/// Which model it is, where, and in which numbers it computes.
type Held = (Digest, Device, Kind);

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
            _ => device::find(request.device)?,
        };
        std::fs::create_dir_all(&request.output).map_err(io("create", &request.output))?;
        if trains(request.stage.kind()) {
            // It takes several times the memory of a model, and what it makes replaces the policy.
            *self = Self::default();
        }
        let mut step = Step { request, device, control };
        match &request.stage {
            StageConfig::Tokenizer(settings) => step.tokenizer(settings),
            StageConfig::Pretrain(settings) => step.pretrain(settings),
            StageConfig::Sft(settings) => step.sft(settings),
            StageConfig::RewardModel(settings) => step.reward_model(settings),
            StageConfig::Merge(settings) => step.merge(settings),
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
        let wanted = (step.digest("policy")?, step.device, kind_of(settings.precision));
        let Self { policy: kept, scorer } = self;
        let mut began = Instant::now();
        let responses = with_room(scorer, || {
            if kept.as_ref().is_none_or(|(held, _)| *held != wanted) {
                *kept = None;
                let folder = step.input("policy")?;
                let model = load_policy(folder, step.device, wanted.2)?;
                let tokenizer = load_tokenizer(folder, model.config())?;
                *kept = Some((wanted, Policy::new(model, tokenizer)));
            }
            let Some((_, policy)) = kept else {
                return Err(StageError::failed("the policy was not loaded"));
            };
            began = Instant::now();
            let sampling =
                Sampling { settings, seed: step.request.seed, memory: memory::budget(step.device)? };
            policy.sample(&queries, &sampling, step.control)
        })?;
        write_rows(&step.output("responses.jsonl"), &responses)?;
        let tokens: u64 = responses.iter().map(|response| u64::from(response.tokens)).sum();
        let cut = |response: &&Response| response.finish_reason == FinishReason::Length;
        Ok(metrics([
            ("responses", json!(responses.len())),
            ("tokens", json!(tokens)),
            ("truncated", json!(responses.iter().filter(cut).count())),
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
        let held = (step.digest("reward_model")?, step.device, kind_of(settings.precision));
        let wanted = (held, settings.reading.output);
        let folder = step.input("reward_model")?.to_owned();
        check_reading(&folder, &settings.reading)?;
        let by_id: HashMap<&str, &Query> = queries.iter().map(|query| (query.id.as_str(), query)).collect();
        let pairs = responses
            .iter()
            .map(|response| match by_id.get(response.query_id.as_str()) {
                Some(query) => Ok((*query, response)),
                None => Err(StageError::invalid(format!(
                    "a response answers query `{}`, which is not given",
                    response.query_id
                ))
                .hint("`queries` must be those that were sampled, in the same order")),
            })
            .collect::<Result<Vec<_>>>()?;
        let mut grading = Grading::new(settings)?;
        let Self { policy, scorer: kept } = self;
        let mut began = Instant::now();
        let scores = with_room(policy, || {
            if kept.as_ref().is_none_or(|(held, _)| *held != wanted) {
                *kept = None;
                let model = load_model(&folder, step.device, held.2)?;
                let tokenizer = load_tokenizer(&folder, model.config())?;
                *kept = Some((wanted, Scorer::new(model, tokenizer, wanted.1)?));
            }
            let Some((_, scorer)) = kept else {
                return Err(StageError::failed("the reward model was not loaded"));
            };
            began = Instant::now();
            scorer.score(&pairs, settings, step.control)
        })?;
        let mut rewards = Vec::with_capacity(pairs.len());
        for ((query, response), scores) in pairs.into_iter().zip(scores) {
            let mut reward = grading.judge(query, response)?;
            add_model_scores(&mut reward, scores, settings.aggregate.unwrap_or_default())?;
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
        let config = ModelConfig::new(&settings.model, tokenizer.rows(), eos, tokenizer.pad)?;
        let mut model = initial(config, self.request.seed, self.device);
        self.text(&mut model, &tokenizer, &folder, None, &settings.training)
    }

    fn sft(&mut self, settings: &config::Sft) -> Result<Map<String, Value>> {
        let folder = self.input("policy")?.to_owned();
        let mut model = load_policy(&folder, self.device, Kind::Float)?;
        let tokenizer = load_tokenizer(&folder, model.config())?;
        let inherit = self.request.inputs.get("optimizer").map(|input| input.path.as_path());
        self.text(&mut model, &tokenizer, &folder, inherit, &settings.training)
    }

    /// Trains on the rows of `dataset`, and writes the policy, its optimizer, adapters and the log.
    fn text(
        &mut self,
        model: &mut Decoder,
        tokenizer: &Tokenizer,
        folder: &Path,
        inherit: Option<&Path>,
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
        let run = Run { settings, seed: run.seed, threads: run.threads, inherit, scratch: &scratch };
        let trained = train(&NextToken, &rows, model, &run, self.control)?;
        if let Some(adapters) = &trained.adapters {
            adapters.save(&self.output("adapter"))?;
            adapters.merge(model);
        }
        if settings.lora.as_ref().is_none_or(|lora| lora.merge) {
            save_model(&self.output("policy"), model, Kind::Float, folder)?;
        }
        trained.optimizer.save(&self.output("optimizer"))?;
        self.write_log(&trained.log)?;
        Ok(trained.metrics)
    }

    fn reward_model(&mut self, settings: &config::RewardModel) -> Result<Map<String, Value>> {
        let folder = self.input("policy")?.to_owned();
        let policy = load_policy(&folder, self.device, Kind::Float)?;
        let mut model = from_policy(policy, settings.reading.output);
        let tokenizer = load_tokenizer(&folder, model.config())?;
        let training = &settings.training;
        let length = max_length(training, &model);
        let rows = self
            .rows::<LabelledSteps>("labels")?
            .iter()
            .map(|row| StepsRow::labelled(&tokenizer, row, &settings.reading, settings.every_token, length))
            .collect::<Result<Vec<_>>>()?;
        let (scratch, run) = (self.request.scratch.clone(), self.request);
        let run = Run {
            settings: training,
            seed: run.seed,
            threads: run.threads,
            inherit: None,
            scratch: &scratch,
        };
        let trained = train(&StepLabels, &rows, &mut model, &run, self.control)?;
        let trained_model = self.output("reward_model");
        save_model(&trained_model, &model, Kind::Float, &folder)?;
        note_reading(&trained_model, settings)?;
        self.write_log(&trained.log)?;
        Ok(trained.metrics)
    }

    fn merge(&self, settings: &config::Merge) -> Result<Map<String, Value>> {
        let folder = self.input("policy")?.to_owned();
        let model = load_model(&folder, self.device, Kind::Float)?;
        let other = load_model(self.input("other")?, self.device, Kind::Float)?;
        let tensors = merge(&model, &other, settings.share)?;
        save_model(&self.output("policy"), &model, Kind::Float, &folder)?;
        Ok(metrics([("tensors", json!(tensors))]))
    }

    fn write_log(&self, log: &[LogRow]) -> Result<()> {
        write_rows(&self.output("log.jsonl"), log)
    }
}

/// Does something with a model; where memory is short, once more without the other one that is kept.
fn with_room<O, T>(other: &mut Option<O>, mut act: impl FnMut() -> Result<T>) -> Result<T> {
    match memory::attempt(&mut act) {
        Err(error) if memory::is_short(&error) && other.take().is_some() => act(),
        result => result,
    }
}

/// A model that predicts tokens.
fn load_policy(folder: &Path, device: Device, kind: Kind) -> Result<Decoder> {
    let model = load_model(folder, device, kind)?;
    if model.config().scalar {
        let message = format!("the model in `{}` is a reward model, not a policy", folder.display());
        return Err(StageError::invalid(message)
            .hint("`policy` names a model that predicts tokens; a reward model only scores"));
    }
    Ok(model)
}

/// Longest row: what the pipeline says, and never more than the model has positions for.
fn max_length(settings: &Training, model: &Decoder) -> usize {
    settings.max_length.min(usize::try_from(model.config().context()).unwrap_or(usize::MAX))
}

fn metrics<const N: usize>(values: [(&str, Value); N]) -> Map<String, Value> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_makes_room_where_memory_is_short() {
        let short = || -> Result<()> {
            // More than any address space has.
            drop(tch::Tensor::zeros([1 << 60], (Kind::Uint8, Device::Cpu)));
            Ok(())
        };
        let (mut other, mut calls) = (Some("a model"), 0);
        let found = with_room(&mut other, || {
            calls += 1;
            if calls == 1 { short() } else { Ok(()) }
        });
        assert!(found.is_ok() && other.is_none() && calls == 2, "{found:?}");
        // Nothing is left to give up.
        let mut calls = 0;
        let error = with_room(&mut other, || {
            calls += 1;
            short()
        });
        assert!(memory::is_short(&error.unwrap_err()) && calls == 1);
        // Another failure, or none, costs no model.
        let mut other = Some("a model");
        let error = with_room(&mut other, || -> Result<()> { Err(StageError::failed("no")) }).unwrap_err();
        assert_eq!((error.message.as_str(), other), ("no", Some("a model")));
        with_room(&mut other, || Ok(())).unwrap();
        assert!(other.is_some());
    }
}
