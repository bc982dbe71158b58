//! Process reward models: a decoder with one output a token, read where the steps of a response end.
//!
//! The output is a head of its own, or the mean of the logits of the whole vocabulary. As `reward_model` trains it, it
//! is a logit of the step's label (the share of continuations that reach the right answer); how it becomes a score is
//! the caller's choice.

mod rows;
mod trained;

use std::collections::BTreeMap;

use bstar_stages::config::{Reading, Readout, ScoreShard};
use bstar_stages::grade::steps;
use bstar_stages::protocol::StageError;
use bstar_stages::record::{FinishReason, Query, Response};
use tch::{Device, Kind, Tensor};

pub use self::rows::StepsRow;
pub use self::trained::{check_reading, note_reading};
use crate::block::Weight;
use crate::error::{Result, torch};
use crate::model::{Decoder, Weights, index, rounded};
use crate::objective::{Judged, Objective};
use crate::progress::{Control, Progress};
use crate::shared::Shared;
use crate::tensors::Tensors;
use crate::tokenizer::Tokenizer;

/// Tokens scored at a time.
const TOKENS: usize = 8192;

/// Predicting the labels of steps, by binary cross-entropy.
#[derive(Debug, Clone, Copy)]
pub struct StepLabels;

impl Objective for StepLabels {
    type Row = StepsRow;

    fn ids<'a>(&self, row: &'a StepsRow) -> &'a [i64] {
        &row.ids
    }

    fn targets(&self, row: &StepsRow) -> usize {
        row.ends.len()
    }

    fn judged(&self, row: &StepsRow) -> Vec<i64> {
        row.ends.clone()
    }

    fn judge(&self, rows: &[&StepsRow], hidden: &Tensor, head: &mut Weight, scale: f64) -> Result<Judged> {
        let labels: Vec<f32> = rows.iter().flat_map(|row| row.labels.iter().copied()).collect();
        let labels = Tensor::from_slice(&labels).to_device(hidden.device());
        let row = mean_row(&head.value);
        let logits = outputs_of(hidden, &row);
        let shares = logits.sigmoid();
        let loss = |labels: &Tensor| {
            let none = None::<&Tensor>;
            logits.binary_cross_entropy_with_logits(labels, none, none, tch::Reduction::Sum).double_value(&[])
        };
        let sums = [loss(&labels) * scale, loss(&shares)];
        let gradient = ((shares - labels) * scale).unsqueeze(1).to_kind(hidden.kind());
        // Every row of the head has the same part in the mean of all.
        let rows = head.value.size()[0];
        #[expect(clippy::cast_precision_loss, reason = "vocabularies are small numbers")]
        let part = (gradient.tr() / rows as f64).expand([rows, -1], false);
        head.learn(&part, hidden);
        Ok(Judged { sums, hidden: gradient.mm(&row.to_kind(hidden.kind())) })
    }
}

/// What hidden states are multiplied by: `[1, width]`. The mean of the logits is the logit of the mean, and a
/// head of one row is its own.
fn mean_row(head: &Tensor) -> Tensor {
    match head.size()[0] {
        1 => head.shallow_clone(),
        _ => head.mean_dim([0_i64].as_slice(), true, Kind::Float),
    }
}

/// Outputs at these rows of hidden states, in order, followed by rows that only fill up.
fn outputs(hidden: &Tensor, head: &Tensor, places: &[i64]) -> Tensor {
    let mut at = places.to_vec();
    at.resize(rounded(at.len() as i64) as usize, 0);
    outputs_of(&hidden.index_select(0, &index(&at, hidden.device())), head)
}

/// The output of each hidden state.
fn outputs_of(hidden: &Tensor, head: &Tensor) -> Tensor {
    let products = hidden.to_kind(Kind::Float) * head.to_kind(Kind::Float);
    // Products with one column round differently for different numbers of rows: sums do not.
    products.sum_dim_intlist([-1_i64].as_slice(), false, Kind::Float)
}

/// A reward model that starts from a policy: the same weights, and a head of zeros where it has one of its own.
#[must_use]
pub fn from_policy(policy: Decoder, readout: Readout) -> Decoder {
    if readout == Readout::Logits {
        return policy;
    }
    let mut config = policy.config().clone();
    config.scalar = true;
    let wanted = config.tensors();
    let mut tensors: Tensors = policy
        .named()
        .into_iter()
        .filter(|(name, _)| wanted.iter().any(|(wanted, _)| wanted == name))
        .map(|(name, tensor)| (name.to_owned(), tensor.copy()))
        .collect();
    let zeros = Tensor::zeros([1, config.hidden_size], (Kind::Float, policy.device()));
    drop(tensors.insert("score.weight".to_owned(), zeros));
    Decoder::new(config, tensors)
}

/// A reward model ready to score.
#[derive(Debug)]
pub struct Scorer {
    model: Decoder,
    weights: Weights,
    head: Tensor,
    tokenizer: Tokenizer,
}

/// A response, as errors name it.
fn sample(response: &Response) -> String {
    let Response { query_id, sample_index, temperature, .. } = response;
    format!("sample {sample_index} of query `{query_id}` at temperature {temperature}")
}

/// Rows that are computed together.
#[derive(Debug, Default)]
struct Batch<'a> {
    prompts: Vec<&'a [i64]>,
    texts: Vec<(usize, &'a [i64])>,
    /// Rows by number; the number of the prompt, and of the text if what follows the prompt is one.
    members: Vec<(usize, usize, Option<usize>)>,
    tokens: usize,
}

impl Scorer {
    /// A scorer of these parts, whose output is of this kind.
    ///
    /// # Errors
    /// When the model has no such output.
    pub fn new(model: Decoder, tokenizer: Tokenizer, readout: Readout) -> Result<Self> {
        match (model.config().scalar, readout) {
            (true, Readout::Head) | (false, Readout::Logits) => {}
            (false, Readout::Head) => {
                return Err(StageError::invalid("the model is a policy, not a reward model: it has no `score.weight`")
                    .hint(
                        "`reward_model` must be the output of a `reward_model` stage, or a model for sequence \
                         classification with one label; the mean of a policy's logits is read by `reading: {output: \
                         logits}`",
                    ));
            }
            (true, Readout::Logits) => {
                return Err(StageError::invalid(
                    "the reward model has a head of one number: there are no logits to take the mean of",
                )
                .hint("leave out `reading: {output: logits}`"));
            }
        }
        let _guard = tch::no_grad_guard();
        let weights = model.weights();
        let head = mean_row(&weights.head);
        Ok(Self { model, weights, head, tokenizer })
    }

    /// The score of every step of every response. A response's scores depend on its query and its text only (on a
    /// CPU, bit by bit); the prompt of several responses is computed once.
    ///
    /// # Errors
    /// When a response is too long for the model, an output is not a finite number, or the step is asked to stop.
    pub fn score(
        &self,
        pairs: &[(&Query, &Response)],
        settings: &ScoreShard,
        control: &mut Control<'_>,
    ) -> Result<Vec<Vec<f64>>> {
        let _guard = tch::no_grad_guard();
        let mut scores = vec![Vec::new(); pairs.len()];
        let mut rows = Vec::new();
        for (number, (query, response)) in pairs.iter().enumerate() {
            match settings.unfinished {
                Some(output) if response.finish_reason == FinishReason::Length => {
                    scores[number] = vec![settings.scale.of(output)];
                }
                _ => rows.push((number, self.row(query, response, &settings.reading)?)),
            }
        }
        let batches = self.batches(&rows);
        let mut done = 0;
        for batch in &batches {
            if control.stopped() {
                return Err(Control::interrupted());
            }
            let mut found = self.outputs(batch, &rows)?.into_iter().map(f64::from);
            for (row, ..) in &batch.members {
                let (number, row) = &rows[*row];
                let outputs: Vec<f64> = found.by_ref().take(row.ends.len()).collect();
                if let Some(step) = outputs.iter().position(|output| !output.is_finite()) {
                    return Err(self.not_finite(step + 1, outputs[step], pairs[*number].1));
                }
                scores[*number] = outputs.into_iter().map(|output| settings.scale.of(output)).collect();
            }
            done += batch.members.len();
            control.report(|| Progress { done, total: rows.len(), unit: "responses", note: None });
        }
        Ok(scores)
    }

    fn row(&self, query: &Query, response: &Response, reading: &Reading) -> Result<StepsRow> {
        let most = usize::try_from(self.model.config().context()).unwrap_or(0);
        let too_long = |tokens| {
            let sample = sample(response);
            StageError::invalid(format!(
                "{sample} has {tokens} tokens, which do not fit into the reward model's {most}"
            ))
            .hint("sample with a smaller `max_tokens`, or use a reward model with a longer context")
        };
        StepsRow::new(&self.tokenizer, &query.prompt, &steps(&response.text), reading, most, too_long)
    }

    /// What to say of an output that is no number to go on with.
    fn not_finite(&self, step: usize, output: f64, response: &Response) -> StageError {
        let sample = sample(response);
        let hint = match self.weights.head.kind() {
            Kind::Float => "the reward model is damaged, or its training diverged: use another one",
            _ => {
                "score with `precision: float32`; if the output is the same there, the reward model is damaged"
            }
        };
        StageError::invalid(format!("the reward model's output for step {step} of {sample} is {output}"))
            .hint(hint)
    }

    /// Rows with something to read, those of a prompt side by side, few enough for their activations to stay small.
    fn batches<'a>(&self, rows: &'a [(usize, StepsRow)]) -> Vec<Batch<'a>> {
        let windows = self.model.config().windows.iter().flatten();
        let window =
            windows.min().copied().and_then(|window| usize::try_from(window).ok()).unwrap_or(usize::MAX);
        let mut groups: BTreeMap<(usize, &[i64]), Vec<usize>> = BTreeMap::new();
        for (number, (_, row)) in rows.iter().enumerate().filter(|(_, (_, row))| !row.ends.is_empty()) {
            // What follows a prompt, if that can be computed apart from it, whatever else is computed.
            let apart = (1..row.ids.len()).contains(&row.prompt) && row.ids.len() <= window;
            let prompt = &row.ids[..if apart { row.prompt } else { row.ids.len() }];
            groups.entry((prompt.len(), prompt)).or_default().push(number);
        }
        let mut batches = vec![Batch::default()];
        for ((_, prompt), mut members) in groups {
            members.sort_by_key(|number| rows[*number].1.ids.len());
            let mut open = false;
            for number in members {
                let text = &rows[number].1.ids[prompt.len()..];
                let mut batch = batches.pop().unwrap_or_default();
                let more = text.len() + if open { 0 } else { prompt.len() };
                if batch.tokens + more > TOKENS && !batch.members.is_empty() {
                    batches.push(batch);
                    (batch, open) = (Batch::default(), false);
                }
                if !open {
                    batch.prompts.push(prompt);
                    batch.tokens += prompt.len();
                    open = true;
                }
                let prompt = batch.prompts.len() - 1;
                let place = (!text.is_empty()).then_some(batch.texts.len());
                batch.texts.extend(place.map(|_| (prompt, text)));
                batch.tokens += text.len();
                batch.members.push((number, prompt, place));
                batches.push(batch);
            }
        }
        batches.retain(|batch| !batch.members.is_empty());
        batches
    }

    /// The outputs of all rows of a batch, in order.
    fn outputs(&self, batch: &Batch<'_>, rows: &[(usize, StepsRow)]) -> Result<Vec<f32>> {
        let shared = Shared::new(&batch.prompts, &batch.texts, self.model.device());
        let hidden = shared.forward(&self.model, &self.weights);
        let mut places = Vec::new();
        for (row, prompt, text) in &batch.members {
            let length = batch.prompts[*prompt].len() as i64;
            places.extend(rows[*row].1.ends.iter().map(|end| match text {
                Some(text) if *end >= length => shared.in_text(*text, end - length),
                _ => shared.in_prompt(*prompt, *end),
            }));
        }
        let outputs = outputs(&hidden, &self.head, &places).narrow(0, 0, places.len() as i64);
        Vec::try_from(&outputs.to_device(Device::Cpu)).map_err(|error| torch(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use bstar_stages::config::{Aggregate, Optimizer as OptimizerKind, Scale};
    use bstar_stages::record::LabelledSteps;

    use super::*;
    use crate::batch::Packed;
    use crate::model::tests::random;
    use crate::optim::tests::training;
    use crate::stream::Stream;
    use crate::tokenizer::tests::folder;
    use crate::train::{Run, train};
    use crate::trunk::Trunk;

    fn pair(id: usize, text: &str) -> (Query, Response) {
        let query = Query {
            id: format!("q{id}"),
            prompt: format!("# Question\n\nAnn has {id} pens.\n\n# Solution\n\n"),
            answer: "1".into(),
            prefix: None,
            choices: None,
            tests: None,
            tags: BTreeMap::new(),
        };
        let response = Response {
            query_id: query.id.clone(),
            sample_index: 0,
            temperature: 1.0,
            text: text.to_owned(),
            tokens: 1,
            logprob: 0.0,
            logprobs: None,
            finish_reason: FinishReason::Stop,
        };
        (query, response)
    }

    fn score(scorer: &Scorer, pairs: &[&(Query, Response)]) -> Vec<Vec<f64>> {
        tch::set_num_threads(1);
        let stop = AtomicBool::new(false);
        let pairs: Vec<_> = pairs.iter().map(|(query, response)| (query, response)).collect();
        let settings = ScoreShard::new(Some(Aggregate::Min));
        scorer.score(&pairs, &settings, &mut Control::new(&stop, |_| ())).unwrap()
    }

    #[test]
    fn a_trivial_rule_is_learnt() {
        tch::set_num_threads(1);
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        // A step is good when its result is 8.
        let rows: Vec<StepsRow> = (0..40)
            .map(|id| {
                let steps = [4 + id % 2 * 4, 4 + id / 2 % 2 * 4]
                    .map(|result| format!("{} + 2 = {result}\n\n", id % 5))
                    .to_vec();
                let labels = steps.iter().map(|step| f64::from(u8::from(step.contains("= 8")))).collect();
                let prompt = pair(id, "").0.prompt;
                let row = LabelledSteps { query_id: format!("q{id}"), prompt, steps, labels };
                StepsRow::labelled(&tokenizer, &row, &Reading::default(), false, 64).unwrap()
            })
            .collect();
        let mut model = from_policy(random(64, 2, 2, 2, 120), Readout::Head);
        let scratch = tempfile::tempdir().unwrap();
        let settings = training(40, 20, 1e-3, OptimizerKind::Adamw);
        let run = Run { settings: &settings, seed: 1, threads: 1, inherit: None, scratch: scratch.path() };
        let stop = AtomicBool::new(false);
        let mut control = Control::new(&stop, |_| ());
        let log = train(&StepLabels, &rows, &mut model, &run, &mut control).unwrap().log;
        assert!((log[0].loss - std::f64::consts::LN_2).abs() < 1e-6, "a zero head knows nothing");
        let scorer = Scorer::new(model, tokenizer, Readout::Head).unwrap();
        let pairs = [pair(41, "3 + 2 = 8\n\n1 + 2 = 4"), pair(42, "3 + 2 = 4\n\n1 + 2 = 8\n\n# Answer\n\n8")];
        let scores = score(&scorer, &[&pairs[0], &pairs[1]]);
        assert!(scores[0][0] > 0.5 && scores[1][0] < -0.5, "{scores:?}");
        assert_eq!((scores[0].len(), scores[1].len()), (2, 2));
    }

    /// A reward model whose head sees everything.
    fn scorer(mut model: Decoder, readout: Readout) -> Scorer {
        if readout == Readout::Head {
            model = from_policy(model, readout);
            let width = model.config().hidden_size;
            let head = model.tensors_mut().get_mut("score.weight").unwrap();
            *head = Tensor::arange(width, (Kind::Float, Device::Cpu)).sin().view([1, width]);
        }
        Scorer::new(model, Tokenizer::load(folder().path()).unwrap(), readout).unwrap()
    }

    #[test]
    fn scores_do_not_depend_on_their_company() {
        let mut stream = Stream::new("test", 1, "company", 0);
        // Responses of several lengths to seven queries, whose prompts differ in length, and two of them twice.
        let pairs: Vec<_> = (0..60)
            .map(|id| {
                let (mut query, response) = pair(
                    id % 7,
                    &(0..id % 6).map(|step| format!("{step} + {id} = 9\n\n")).collect::<String>(),
                );
                query.prompt = query.prompt.repeat(1 + id % 7 / 2);
                (query, response)
            })
            .collect();
        let mut windowed = random(64, 3, 4, 2, 120);
        windowed.config_mut().windows = vec![None, Some(40), Some(9)];
        for scorer in [
            scorer(random(96, 3, 3, 3, 120), Readout::Head),
            scorer(random(64, 2, 4, 2, 120), Readout::Logits),
            scorer(windowed, Readout::Head),
        ] {
            let all = score(&scorer, &pairs.iter().collect::<Vec<_>>());
            assert!(all[0].is_empty() && all[5].len() == 5);
            assert_ne!(all[1], all[8], "other prompts");
            for _ in 0..12 {
                let count = 1 + (stream.uniform() * 20.0) as usize;
                let chosen: Vec<usize> =
                    (0..count).map(|_| (stream.uniform() * pairs.len() as f64) as usize).collect();
                let part: Vec<_> = chosen.iter().map(|at| &pairs[*at]).collect();
                for (found, at) in score(&scorer, &part).iter().zip(&chosen) {
                    assert_eq!(*found, all[*at], "response {at} of {chosen:?}");
                }
            }
        }
    }

    #[test]
    fn the_mean_of_all_logits_is_what_the_published_code_takes() {
        let scorer = scorer(random(64, 2, 4, 2, 120), Readout::Logits);
        let (query, response) = pair(3, "3 + 2 = 5\n\n# Answer\n\n5");
        let settings = ScoreShard { scale: Scale::Fifth, ..ScoreShard::new(Some(Aggregate::Min)) };
        let stop = AtomicBool::new(false);
        let scores =
            scorer.score(&[(&query, &response)], &settings, &mut Control::new(&stop, |_| ())).unwrap();
        let mut ids = scorer.tokenizer.encode(&query.prompt).unwrap();
        ids.extend(scorer.tokenizer.encode(&response.text).unwrap());
        let _guard = tch::no_grad_guard();
        let hidden = Packed::new(&[&ids], Device::Cpu).forward(&scorer.model, &scorer.weights, |_, _| ());
        let logits = hidden.linear(&scorer.weights.head, None::<&Tensor>);
        let mean = logits.get(ids.len() as i64 - 1).mean(Kind::Double).double_value(&[]);
        assert!((scores[0][0] - mean / 5.0).abs() < 1e-5, "{scores:?} {mean}");
    }

    #[test]
    fn outputs_that_are_no_numbers_are_errors() {
        let (query, response) = pair(3, "3 + 2 = 5\n\n5");
        for (kind, number, text) in
            [(Kind::Float, f64::NAN, "NaN"), (Kind::BFloat16, f64::INFINITY, "inf or NaN")]
        {
            let model = from_policy(random(64, 2, 4, 2, 120), Readout::Head);
            let tensors =
                model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor.to_kind(kind)));
            let mut model = Decoder::new(model.config().clone(), tensors.collect());
            drop(model.tensors_mut().get_mut("score.weight").unwrap().fill_(number));
            let tokenizer = Tokenizer::load(folder().path()).unwrap();
            let scorer = Scorer::new(model, tokenizer, Readout::Head).unwrap();
            let settings = ScoreShard::new(Some(Aggregate::Min));
            let stop = AtomicBool::new(false);
            let mut control = Control::new(&stop, |_| ());
            let error = scorer.score(&[(&query, &response)], &settings, &mut control).unwrap_err();
            let start = "the reward model's output for step 1 of sample 0 of query `q3` at temperature 1 is ";
            let output = error.message.strip_prefix(start).unwrap();
            assert!(text.contains(output.trim_start_matches('-')), "{error}");
            assert_eq!(error.hint.unwrap().contains("`precision: float32`"), kind == Kind::BFloat16);
        }
    }

    /// The row with these tokens, whose outputs are read at these places.
    fn labelled(ids: &[i64], ends: &[i64], labels: &[f32]) -> StepsRow {
        StepsRow { ids: ids.into(), prompt: 1, ends: ends.into(), labels: labels.into() }
    }

    #[test]
    fn steps_that_are_read_at_one_token_all_count() {
        let gradients = |rows: &[StepsRow]| {
            let (mut model, mut shared) = (random(64, 2, 4, 2, 120), Tensors::new());
            let mut trunk = Trunk::new(&mut model, &|_| true, None, Kind::Float, false, &mut shared);
            let rows: Vec<&StepsRow> = rows.iter().collect();
            let _guard = tch::no_grad_guard();
            let sums = trunk.learn(&StepLabels, &rows, 0.2).unwrap();
            (sums, trunk.gradients().iter().map(|(name, x)| (name.clone(), x.copy())).collect::<Tensors>())
        };
        let other = labelled(&[7, 8], &[0, 1], &[0.5, 0.25]);
        // As many places as tokens, and more than tokens that are read.
        let all = gradients(&[labelled(&[4, 5, 6], &[0, 2, 2], &[1.0, 0.25, 1.0]), other.clone()]);
        let apart = gradients(&[
            labelled(&[4, 5, 6], &[0, 2], &[1.0, 0.25]),
            labelled(&[4, 5, 6], &[2], &[1.0]),
            other,
        ]);
        for (found, expected) in all.0.iter().zip(&apart.0) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        for (name, expected) in &apart.1 {
            assert!(expected.abs().max().double_value(&[]) > 0.0, "{name}");
            assert!(all.1[name].allclose(expected, 1e-4, 1e-6, false), "{name}");
        }
    }

    #[test]
    fn a_response_that_does_not_fit_is_named() {
        let scorer = scorer(random(64, 2, 4, 2, 120), Readout::Head);
        let (query, response) = pair(3, &"3 + 2 = 5\n\n".repeat(100));
        let settings = ScoreShard::new(Some(Aggregate::Min));
        let stop = AtomicBool::new(false);
        let mut control = Control::new(&stop, |_| ());
        let error = scorer.score(&[(&query, &response)], &settings, &mut control).unwrap_err();
        assert!(error.message.starts_with("sample 0 of query `q3` at temperature 1 has "), "{error}");
        assert!(error.hint.unwrap().contains("`max_tokens`"));
    }

    #[test]
    fn a_response_without_an_end_may_get_a_score_of_its_own() {
        let scorer = scorer(random(64, 2, 4, 2, 120), Readout::Head);
        let (query, mut response) = pair(3, "3 + 2 = 5\n\n3 + 2 =");
        let score = |response: &Response, settings: &ScoreShard| {
            let stop = AtomicBool::new(false);
            scorer.score(&[(&query, response)], settings, &mut Control::new(&stop, |_| ())).unwrap().remove(0)
        };
        let usual = ScoreShard::new(Some(Aggregate::Min));
        let official = ScoreShard { scale: Scale::Fifth, unfinished: Some(-5.0), ..usual.clone() };
        assert_eq!(score(&response, &official).len(), 2);
        response.finish_reason = FinishReason::Length;
        assert_eq!(score(&response, &official), [-1.0]);
        assert_eq!(score(&response, &usual).len(), 2);
    }

    #[test]
    fn a_model_without_the_output_asked_for_is_refused() {
        let load = |readout: Readout, asked: Readout| {
            let model = from_policy(random(64, 1, 2, 2, 120), readout);
            Scorer::new(model, Tokenizer::load(folder().path()).unwrap(), asked).unwrap_err()
        };
        let policy = load(Readout::Logits, Readout::Head);
        assert!(policy.message.contains("a policy, not a reward model"), "{policy}");
        assert!(policy.hint.unwrap().contains("reading: {output: logits}"));
        let scalar = load(Readout::Head, Readout::Logits);
        assert!(scalar.message.contains("no logits") && scalar.hint.is_some(), "{scalar}");
    }
}
