//! Process reward models: a decoder with a scalar head, read at the last token of every step.
//!
//! The raw output is a logit of the step's label (the share of continuations that reach the right
//! answer); the score of a step is that share mapped to [-1, 1].

use bstar_stages::grade::steps;
use bstar_stages::protocol::StageError;
use bstar_stages::record::{LabelledSteps, Query, Response};
use tch::{Device, Kind, Tensor};

use crate::batch::Packed;
use crate::block::Weight;
use crate::error::{Result, torch};
use crate::model::{Decoder, Weights, index, rounded};
use crate::objective::{Judged, Objective};
use crate::progress::{Control, Progress};
use crate::tensors::Tensors;
use crate::tokenizer::Tokenizer;

/// Tokens scored at a time.
const TOKENS: usize = 8192;

/// A prompt and a response, and where the response's steps end.
#[derive(Debug, Clone, PartialEq)]
pub struct StepsRow {
    ids: Vec<i64>,
    /// Position of the last token of each step.
    ends: Vec<i64>,
    /// The label of each step.
    labels: Vec<f32>,
}

impl StepsRow {
    /// Encodes a prompt and the steps of a response; a row that is too long loses the beginning of its
    /// prompt.
    ///
    /// # Errors
    /// When the response alone is longer than `max_length`, or a text cannot be encoded.
    pub fn new<S: AsRef<str>>(
        tokenizer: &Tokenizer,
        prompt: &str,
        steps: &[S],
        max_length: usize,
    ) -> Result<Self> {
        let mut ids = tokenizer.encode(prompt)?;
        let (mut response, mut ends) = (Vec::new(), Vec::new());
        for step in steps {
            // Apart: a token never spans two steps, and a step's end is where its tokens end.
            response.extend(tokenizer.encode(step.as_ref())?);
            ends.push(response.len() as i64 - 1);
        }
        if response.len() > max_length {
            let tokens = response.len();
            return Err(StageError::invalid(format!(
                "a response of {tokens} tokens does not fit into the reward model's {max_length}"
            )));
        }
        drop(ids.drain(..(ids.len() + response.len()).saturating_sub(max_length)));
        let start = ids.len() as i64;
        ends.iter_mut().for_each(|end| *end += start);
        ids.append(&mut response);
        Ok(Self { ids, ends, labels: Vec::new() })
    }

    /// Encodes a labelled solution.
    ///
    /// # Errors
    /// As [`StepsRow::new`], and when steps and labels are not as many.
    pub fn labelled(tokenizer: &Tokenizer, row: &LabelledSteps, max_length: usize) -> Result<Self> {
        if row.steps.len() != row.labels.len() || row.steps.is_empty() {
            return Err(StageError::invalid(format!(
                "a solution of query `{}` has {} steps and {} labels",
                row.query_id,
                row.steps.len(),
                row.labels.len()
            )));
        }
        let encoded = Self::new(tokenizer, &row.prompt, &row.steps, max_length)?;
        #[expect(clippy::cast_possible_truncation, reason = "labels are shares")]
        let labels = row.labels.iter().map(|label| *label as f32).collect();
        Ok(Self { labels, ..encoded })
    }
}

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
        let logits = step_logits(hidden, &head.value);
        let shares = logits.sigmoid();
        let loss = |labels: &Tensor| {
            let none = None::<&Tensor>;
            logits.binary_cross_entropy_with_logits(labels, none, none, tch::Reduction::Sum).double_value(&[])
        };
        let sums = [loss(&labels) * scale, loss(&shares)];
        let gradient = ((shares - labels) * scale).unsqueeze(1).to_kind(hidden.kind());
        head.learn(&gradient.tr(), hidden);
        Ok(Judged { sums, hidden: gradient.mm(&head.value) })
    }
}

/// Logits of all steps of all rows, in order, followed by rows that only fill up.
fn logits(model: &Decoder, weights: &Weights, rows: &[&StepsRow]) -> Tensor {
    let inputs: Vec<&[i64]> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let packed = Packed::new(&inputs, model.device());
    let hidden = packed.forward(model, weights, |_, _| ());
    let mut ends: Vec<i64> = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        ends.extend(row.ends.iter().map(|end| packed.start(number) + end));
    }
    ends.resize(rounded(ends.len() as i64) as usize, 0);
    step_logits(&hidden.index_select(0, &index(&ends, model.device())), &weights.head)
}

/// The logit of each hidden state.
fn step_logits(hidden: &Tensor, head: &Tensor) -> Tensor {
    // Products with one column round differently for different numbers of rows: sums do not.
    (hidden * head).sum_dim_intlist([-1_i64].as_slice(), false, Kind::Float)
}

/// A reward model that starts from a policy: the same weights, and a head of zeros.
#[must_use]
pub fn from_policy(policy: &Decoder) -> Decoder {
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
    tokenizer: Tokenizer,
}

impl Scorer {
    /// A scorer of these parts.
    ///
    /// # Errors
    /// When the model is not a reward model.
    pub fn new(model: Decoder, tokenizer: Tokenizer) -> Result<Self> {
        if !model.config().scalar {
            return Err(StageError::invalid("the model is a policy, not a reward model")
                .hint("`reward_model` must be the output of a `reward_model` stage"));
        }
        let _guard = tch::no_grad_guard();
        let weights = model.weights();
        Ok(Self { model, weights, tokenizer })
    }

    /// The score of every step of every response, each in [-1, 1]. A response's scores depend on its
    /// query and its text only (on a CPU, bit by bit).
    ///
    /// # Errors
    /// When a response is too long for the model, or the step is asked to stop.
    pub fn score(&self, pairs: &[(&Query, &Response)], control: &mut Control<'_>) -> Result<Vec<Vec<f64>>> {
        let _guard = tch::no_grad_guard();
        let most = usize::try_from(self.model.config().context()).unwrap_or(0);
        let rows = pairs
            .iter()
            .map(|(query, response)| {
                StepsRow::new(&self.tokenizer, &query.prompt, &steps(&response.text), most)
            })
            .collect::<Result<Vec<StepsRow>>>()?;
        // Rows of similar length together, few enough for their activations to stay small.
        let mut order: Vec<usize> = (0..rows.len()).filter(|row| !rows[*row].ends.is_empty()).collect();
        order.sort_by_key(|row| rows[*row].ids.len());
        let mut scores = vec![Vec::new(); rows.len()];
        let mut done = 0;
        while done < order.len() {
            if control.stopped() {
                return Err(Control::interrupted());
            }
            let longest = |count: usize| count * rows[order[done + count - 1]].ids.len();
            let count =
                (1..=order.len() - done).take_while(|count| longest(*count) <= TOKENS).last().unwrap_or(1);
            let chosen = &order[done..done + count];
            let part: Vec<&StepsRow> = chosen.iter().map(|row| &rows[*row]).collect();
            let logits = logits(&self.model, &self.weights, &part).to_device(Device::Cpu);
            let logits: Vec<f32> = Vec::try_from(&logits).map_err(|error| torch(&error))?;
            let mut found = logits.into_iter().map(|logit| 2.0 / (1.0 + (-f64::from(logit)).exp()) - 1.0);
            for row in chosen {
                scores[*row] = found.by_ref().take(rows[*row].ends.len()).collect();
            }
            done += count;
            control.report(|| Progress { done, total: order.len(), unit: "responses", note: None });
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use bstar_stages::config::Optimizer as OptimizerKind;
    use bstar_stages::record::FinishReason;

    use super::*;
    use crate::model::tests::random;
    use crate::optim::tests::training;
    use crate::tokenizer::tests::folder;
    use crate::train::{Run, train};

    fn pair(id: usize, text: &str) -> (Query, Response) {
        let query = Query {
            id: format!("q{id}"),
            prompt: format!("# Question\n\nAnn has {id} pens.\n\n# Solution\n\n"),
            answer: "1".into(),
            prefix: None,
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
            finish_reason: FinishReason::Stop,
        };
        (query, response)
    }

    fn score(scorer: &Scorer, pairs: &[&(Query, Response)]) -> Vec<Vec<f64>> {
        tch::set_num_threads(1);
        let stop = AtomicBool::new(false);
        let pairs: Vec<_> = pairs.iter().map(|(query, response)| (query, response)).collect();
        scorer.score(&pairs, &mut Control::new(&stop, |_| ())).unwrap()
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
                StepsRow::labelled(&tokenizer, &row, 64).unwrap()
            })
            .collect();
        let mut model = from_policy(&random(64, 2, 2, 2, 120));
        let scratch = tempfile::tempdir().unwrap();
        let settings = training(40, 20, 1e-3, OptimizerKind::Adamw);
        let run = Run { settings: &settings, seed: 1, threads: 1, inherit: None, scratch: scratch.path() };
        let stop = AtomicBool::new(false);
        let mut control = Control::new(&stop, |_| ());
        let log = train(&StepLabels, &rows, &mut model, &run, &mut control).unwrap().log;
        assert!((log[0].loss - std::f64::consts::LN_2).abs() < 1e-6, "a zero head knows nothing");
        let scorer = Scorer::new(model, tokenizer).unwrap();
        let pairs = [pair(41, "3 + 2 = 8\n\n1 + 2 = 4"), pair(42, "3 + 2 = 4\n\n1 + 2 = 8\n\n# Answer\n\n8")];
        let scores = score(&scorer, &[&pairs[0], &pairs[1]]);
        assert!(scores[0][0] > 0.5 && scores[1][0] < -0.5, "{scores:?}");
        assert_eq!((scores[0].len(), scores[1].len()), (2, 2));
    }

    #[test]
    fn scores_do_not_depend_on_their_company() {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        let mut model = from_policy(&random(96, 3, 3, 3, 120));
        let head = model.tensors_mut().get_mut("score.weight").unwrap();
        *head = Tensor::arange(96, (Kind::Float, Device::Cpu)).sin().view([1, 96]);
        let scorer = Scorer::new(model, tokenizer).unwrap();
        let pairs: Vec<_> = (0..30)
            .map(|id| pair(id, &(0..id % 7).map(|step| format!("{step} + {id} = 9\n\n")).collect::<String>()))
            .collect();
        let all = score(&scorer, &pairs.iter().collect::<Vec<_>>());
        for chosen in [vec![6], vec![29, 3], vec![5, 4, 3, 2, 1, 0], (7..30).rev().collect()] {
            let part: Vec<_> = chosen.iter().map(|at| &pairs[*at]).collect();
            for (found, at) in score(&scorer, &part).iter().zip(&chosen) {
                assert_eq!(*found, all[*at], "response {at}");
            }
        }
        assert!(all[0].is_empty() && all[6].len() == 6);
    }
}
