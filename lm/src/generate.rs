//! Sampling responses.
//!
//! Responses are drawn in waves ([`wave`](crate::wave)) of many rows, or on a GPU in steps that all have
//! one shape ([`steady`](crate::steady)). Text, tokens and log-probability
//! of a response depend on the policy, its query, the settings, the seed and its sample index only:
//! not on the wave, its order, or who else is in it (on a CPU, bit by bit; that the kernels of a GPU keep to it has
//! not been tried).

use std::cell::RefCell;
use std::collections::HashSet;

use bstar_stages::config::SampleShard;
use bstar_stages::protocol::StageError;
use bstar_stages::record::{FinishReason, Query, Response};

use crate::config::ModelConfig;
use crate::error::Result;
use crate::memory;
use crate::model::{Decoder, Weights};
use crate::progress::{Control, Progress};
use crate::reads::Reads;
use crate::steady::Queue;
use crate::stream::Stream;
use crate::tokenizer::Tokenizer;
use crate::wave::{Plan, Wave};

/// Tokens looked at for a stop text beyond as many as it has bytes: a character may take several tokens.
const SLACK: usize = 16;

/// A model ready to sample from.
#[derive(Debug)]
pub struct Policy {
    pub(crate) model: Decoder,
    pub(crate) weights: Weights,
    tokenizer: Tokenizer,
    /// The tokens that end a response, in ascending order.
    ends: Vec<i64>,
    pub(crate) reads: RefCell<Reads>,
    /// Steps of more rows than this fail for lack of memory.
    #[cfg(test)]
    room: std::cell::Cell<usize>,
    /// Draws as on a GPU.
    #[cfg(test)]
    steady: std::cell::Cell<bool>,
}

/// What to sample.
#[derive(Debug, Clone, Copy)]
pub struct Sampling<'a> {
    /// What the pipeline says.
    pub settings: &'a SampleShard,
    /// The pipeline's seed.
    pub seed: u64,
    /// Bytes for keys and values.
    pub memory: usize,
}

/// A query's prompt.
#[derive(Debug)]
pub struct Prompt {
    /// The query's name: its random streams belong to that, not to its place.
    pub(crate) id: String,
    pub(crate) ids: Vec<i64>,
    /// Most tokens of a response, which must end where the model's positions do.
    pub(crate) limit: usize,
}

/// A response being drawn.
#[derive(Debug)]
pub struct Row {
    /// The position of its prompt.
    pub query: usize,
    /// Its sample index.
    pub sample: u32,
    pub(crate) stream: Stream,
    /// Tokens of the text, without the end token.
    pub ids: Vec<i64>,
    /// The end token, where one was drawn.
    pub end_token: Option<i64>,
    /// Of every token drawn, the end token included.
    pub logprobs: Vec<f64>,
    /// Why it ended, and its text where a stop string was cut off.
    end: Option<(FinishReason, Option<String>)>,
}

impl Row {
    /// A response of which nothing is drawn.
    pub(crate) fn new(query: usize, sample: u32, stream: Stream) -> Self {
        Self { query, sample, stream, ids: Vec::new(), end_token: None, logprobs: Vec::new(), end: None }
    }

    /// Whether it ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.end.is_some()
    }

    /// Why it ended.
    #[must_use]
    pub fn finish_reason(&self) -> FinishReason {
        self.end.as_ref().map_or(FinishReason::Length, |(reason, _)| *reason)
    }
}

/// What is to be drawn yet, by the way it is drawn.
enum Waiting {
    Waves(Plan),
    Steady(Queue),
}

impl Waiting {
    fn new(policy: &Policy, prompts: &[Prompt], sampling: &Sampling<'_>) -> Self {
        if policy.is_steady() {
            Self::Steady(Queue::new(prompts, sampling))
        } else {
            Self::Waves(Plan::new(policy, prompts, sampling))
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Waves(plan) => plan.is_empty(),
            Self::Steady(queue) => queue.is_empty(),
        }
    }

    fn run(
        &mut self,
        policy: &Policy,
        prompts: &[Prompt],
        sampling: &Sampling<'_>,
        rows: &mut Vec<Row>,
        tick: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Waves(plan) => Wave::new(policy, prompts, sampling, rows).run(plan, tick),
            Self::Steady(queue) => queue.run(policy, prompts, sampling, rows, tick),
        }
    }

    /// Plans for less memory, which the policy's next steps do as well where no bits depend on it; answers whether there was
    /// anything to halve.
    fn halve(&mut self, policy: &Policy) -> bool {
        match self {
            Self::Waves(plan) => {
                let halved = plan.halve();
                if halved {
                    policy.reads.borrow_mut().fitting = Some(plan.memory());
                }
                halved
            }
            Self::Steady(queue) => queue.halve(),
        }
    }

    /// Most rows at a time.
    fn rows(&self) -> usize {
        match self {
            Self::Waves(plan) => plan.rows,
            Self::Steady(queue) => queue.most(),
        }
    }

    /// Lets just these responses wait, by query and sample index.
    fn begin_again(&mut self, prompts: &[Prompt], missing: &[(usize, u32)]) {
        match self {
            Self::Waves(plan) => plan.begin_again(prompts, missing),
            Self::Steady(queue) => queue.begin_again(prompts, missing),
        }
    }
}

/// The responses that are to be drawn and are not among these, by query and sample index.
fn missing(prompts: &[Prompt], settings: &SampleShard, done: &[Row]) -> Vec<(usize, u32)> {
    let done: HashSet<(usize, u32)> = done.iter().map(|row| (row.query, row.sample)).collect();
    let all = (0..prompts.len())
        .flat_map(|query| (settings.start..settings.end).map(move |sample| (query, sample)));
    all.filter(|name| !done.contains(name)).collect()
}

impl Policy {
    /// A policy of these parts.
    #[must_use]
    pub fn new(mut model: Decoder, tokenizer: Tokenizer) -> Self {
        let _guard = tch::no_grad_guard();
        let weights = model.take_weights();
        let mut policy = Self {
            model,
            weights,
            tokenizer,
            ends: Vec::new(),
            reads: RefCell::default(),
            #[cfg(test)]
            room: std::cell::Cell::new(usize::MAX),
            #[cfg(test)]
            steady: std::cell::Cell::new(false),
        };
        policy.end_at(policy.model.config().eos.clone());
        policy
    }

    /// Lets these tokens end a response, in place of the model's.
    pub fn end_at(&mut self, mut ends: Vec<i64>) {
        ends.sort_unstable();
        self.ends = ends;
    }

    /// The shape of its model.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// Whether bits depend on the shapes of what is computed, which then must be the same for all rows.
    fn is_steady(&self) -> bool {
        #[cfg(test)]
        if self.steady.get() {
            return true;
        }
        self.model.device() != tch::Device::Cpu
    }

    /// Fails as for lack of memory where a test has room for fewer rows.
    #[cfg(test)]
    pub(crate) fn take_room(&self, rows: usize) {
        if rows > self.room.get() {
            // More than any address space has.
            drop(tch::Tensor::zeros([1 << 60], (tch::Kind::Uint8, tch::Device::Cpu)));
        }
    }

    /// Draws the responses to all queries, ordered by query, then by sample index.
    ///
    /// # Errors
    /// When a prompt is empty or too long for the model, or the step is asked to stop.
    pub fn sample(
        &self,
        queries: &[Query],
        sampling: &Sampling<'_>,
        control: &mut Control<'_>,
    ) -> Result<Vec<Response>> {
        let prompts =
            queries.iter().map(|query| self.prompt(query, sampling)).collect::<Result<Vec<Prompt>>>()?;
        let rows = self.draw(&prompts, sampling, control)?;
        rows.into_iter().map(|row| self.response(&queries[row.query], row, sampling)).collect()
    }

    /// Draws the responses to all prompts, ordered by prompt, then by sample index.
    ///
    /// # Errors
    /// When the step is asked to stop, or libtorch fails.
    pub fn draw(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling<'_>,
        control: &mut Control<'_>,
    ) -> Result<Vec<Row>> {
        let _guard = tch::no_grad_guard();
        let mut done: Vec<Row> = Vec::new();
        let SampleShard { start, end, .. } = *sampling.settings;
        let total = prompts.len() * (end.saturating_sub(start)) as usize;
        // On a GPU shapes follow from the memory, and no failure before may change them.
        let fitting = self.reads.borrow().fitting.filter(|_| !self.is_steady());
        let sampling = &Sampling { memory: sampling.memory.min(fitting.unwrap_or(usize::MAX)), ..*sampling };
        let mut waiting = Waiting::new(self, prompts, sampling);
        let mut note: Option<String> = None;
        self.reads.borrow_mut().begin(prompts, sampling.memory / memory::KEPT);
        while !waiting.is_empty() {
            let before = done.len();
            let mut tick = |finished: usize| {
                let note = note.clone();
                control.report(|| Progress { done: before + finished, total, unit: "responses", note });
                if control.stopped() { Err(Control::interrupted()) } else { Ok(()) }
            };
            let mut rows = Vec::new();
            let draw = || waiting.run(self, prompts, sampling, &mut rows, &mut tick);
            let failure = memory::attempt(draw).err();
            done.extend(rows.into_iter().filter(Row::is_finished));
            if let Some(error) = failure {
                if !memory::is_short(&error) || !waiting.halve(self) {
                    return Err(error);
                }
                note = Some(format!("memory was short: {} at a time", waiting.rows()));
                control.tell(Progress { done: done.len(), total, unit: "responses", note: note.clone() });
                self.reads.borrow_mut().forget();
                // Nothing of a response depends on when it is drawn.
                waiting.begin_again(prompts, &missing(prompts, sampling.settings, &done));
            }
        }
        if done.len() != total {
            let message = format!("{} of {total} responses were drawn", done.len());
            return Err(StageError::failed(message));
        }
        done.sort_by_key(|row| (row.query, row.sample));
        Ok(done)
    }

    fn prompt(&self, query: &Query, sampling: &Sampling<'_>) -> Result<Prompt> {
        let mut ids = self.tokenizer.encode(&query.prompt)?;
        if let Some(prefix) = &query.prefix {
            // Apart, as in training: a token never spans the border.
            ids.extend(self.tokenizer.encode(prefix)?);
        }
        self.prompt_of(&query.id, ids, sampling)
    }

    /// A prompt of these tokens.
    ///
    /// # Errors
    /// When there are none, more than the model has positions for, or some it does not know.
    pub fn prompt_of(&self, id: &str, ids: Vec<i64>, sampling: &Sampling<'_>) -> Result<Prompt> {
        let config = self.model.config();
        config.check_ids(&format!("the prompt of query `{id}`"), &ids)?;
        let most = usize::try_from(config.context()).unwrap_or(0);
        let limit = sampling.settings.max_tokens.min(most - ids.len() + 1);
        Ok(Prompt { id: id.to_owned(), ids, limit })
    }

    /// Takes a drawn token into a response.
    ///
    /// # Errors
    /// When its log-probability is no number, which it is not where any logit was none, or the tokenizer refuses it.
    pub(crate) fn accept(
        &self,
        row: &mut Row,
        token: i64,
        logprob: f64,
        prompt: &Prompt,
        stop: &[String],
    ) -> Result<()> {
        if !logprob.is_finite() {
            let place = row.logprobs.len() + 1;
            return Err(StageError::invalid(format!(
                "the policy's logits are no finite numbers: token {place} of sample {} of query `{}`",
                row.sample, prompt.id
            ))
            .hint("its weights have numbers that are not finite, or too large ones; with `precision: bfloat16` try float32"));
        }
        row.logprobs.push(logprob);
        // A special token has no text that a stop text could be found in.
        if self.ends.binary_search(&token).is_ok()
            || stop.iter().any(|stop| self.tokenizer.special(stop) == Some(token))
        {
            row.end_token = Some(token);
            row.end = Some((FinishReason::Stop, None));
            return Ok(());
        }
        row.ids.push(token);
        if let Some(text) = self.stopped(&row.ids, stop)? {
            row.end = Some((FinishReason::Stop, Some(text)));
        } else if row.logprobs.len() >= prompt.limit {
            row.end = Some((FinishReason::Length, None));
        }
        Ok(())
    }

    /// The text before a stop text that the newest of these tokens completes.
    fn stopped(&self, ids: &[i64], stop: &[String]) -> Result<Option<String>> {
        let Some(longest) = stop.iter().map(String::len).max() else { return Ok(None) };
        // Whoever reads the whole text at every token takes quadratic time.
        let mut start = ids.len().saturating_sub(longest + SLACK);
        let mut tail = self.tokenizer.decode(&ids[start..])?;
        // A part of a character takes the text of all bytes after it away. No character has more bytes than four.
        let mut cut = start > 0 && tail.starts_with('\u{fffd}');
        for _ in 0..3 {
            if cut && start > 0 {
                start -= 1;
                tail = self.tokenizer.decode(&ids[start..])?;
                cut = tail.starts_with('\u{fffd}');
            }
        }
        // Special tokens have no text: then the tail may be too short to tell.
        let tells = start == 0 || (!cut && tail.len() >= ids.len() - start);
        if tells && !stop.iter().any(|stop| tail.contains(stop.as_str())) {
            return Ok(None);
        }
        let text = self.tokenizer.decode(ids)?;
        let at = stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        Ok(at.map(|at| text[..at].to_owned()))
    }

    fn response(&self, query: &Query, row: Row, sampling: &Sampling<'_>) -> Result<Response> {
        let prefix = query.prefix.as_deref().unwrap_or_default();
        let continuation = self.gap(prefix, &row.ids)? + &self.text(&row)?;
        Ok(Response {
            query_id: query.id.clone(),
            sample_index: row.sample,
            temperature: sampling.settings.temperature,
            text: prefix.to_owned() + &continuation,
            tokens: u32::try_from(row.logprobs.len()).unwrap_or(u32::MAX),
            logprob: row.logprobs.iter().fold(0.0, |sum, logprob| sum + logprob),
            finish_reason: row.finish_reason(),
            logprobs: sampling.settings.logprobs.then_some(row.logprobs),
        })
    }

    /// What stands between a text and tokens that go on with it: some tokenizers take away the space that a text begins
    /// with.
    fn gap(&self, prefix: &str, ids: &[i64]) -> Result<String> {
        let Some(first) = ids.first().filter(|_| !prefix.is_empty()) else { return Ok(String::new()) };
        let mut before = self.tokenizer.encode(prefix)?;
        let [apart, alone] = [self.tokenizer.decode(&before)?, self.tokenizer.decode(&[*first])?];
        before.push(*first);
        let joined = self.tokenizer.decode(&before)?;
        let gap = joined.strip_prefix(apart.as_str()).and_then(|rest| rest.strip_suffix(alone.as_str()));
        Ok(gap.unwrap_or_default().to_owned())
    }

    /// The text of a response, up to a stop string.
    ///
    /// # Errors
    /// When the tokenizer refuses its tokens.
    pub fn text(&self, row: &Row) -> Result<String> {
        match &row.end {
            Some((_, Some(text))) => Ok(text.clone()),
            _ => self.tokenizer.decode(&row.ids),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
