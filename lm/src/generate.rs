//! Sampling responses.
//!
//! Responses are drawn in waves of many rows that advance in lock step. Text, tokens and
//! log-probability of a response depend on the policy, its query, the settings, the seed and its
//! sample index only: not on the wave, its order, or who else is in it (on a CPU, bit by bit).

use bstar_stages::config::SampleShard;
use bstar_stages::record::{FinishReason, Query, Response};
use tch::{Kind, Tensor};

use crate::batch::Packed;
use crate::cascade::{Cascade, Prompts};
use crate::config::ModelConfig;
use crate::draw::Drawing;
use crate::error::Result;
use crate::model::{Decoder, ROWS, Weights, forward, index};
use crate::progress::{Control, Progress};
use crate::stream::Stream;
use crate::tokenizer::Tokenizer;

/// Most rows of a wave: more do not make a step cheaper per row.
const MAX_ROWS: usize = 1024;
/// Memory for the keys and values of a wave.
pub const CACHE_BYTES: usize = 1 << 30;
/// Bytes a token of the vocabulary takes for each row while one is drawn.
const LOGIT_BYTES: usize = 24;
/// A wave drops its finished rows when fewer than this share of it is alive.
const ALIVE: f64 = 0.8;

/// A model ready to sample from.
#[derive(Debug)]
pub struct Policy {
    model: Decoder,
    weights: Weights,
    tokenizer: Tokenizer,
}

/// What to sample.
#[derive(Debug, Clone, Copy)]
pub struct Sampling<'a> {
    /// What the pipeline says.
    pub settings: &'a SampleShard,
    /// The pipeline's seed.
    pub seed: u64,
    /// Memory for keys and values.
    pub cache_bytes: usize,
}

/// A query's prompt.
#[derive(Debug)]
pub struct Prompt {
    /// The query's name: its random streams belong to that, not to its place.
    id: String,
    ids: Vec<i64>,
    /// Most tokens of a response, which must end where the model's positions do.
    limit: usize,
}

/// Some responses to one query, drawn in one wave.
#[derive(Debug, Clone)]
struct Unit {
    query: usize,
    samples: std::ops::Range<u32>,
}

/// A response being drawn.
#[derive(Debug)]
pub struct Row {
    /// The position of its prompt.
    pub query: usize,
    /// Its sample index.
    pub sample: u32,
    stream: Stream,
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
    fn new(query: usize, sample: u32, stream: Stream) -> Self {
        Self { query, sample, stream, ids: Vec::new(), end_token: None, logprobs: Vec::new(), end: None }
    }

    /// Why it ended.
    #[must_use]
    pub fn finish_reason(&self) -> FinishReason {
        self.end.as_ref().map_or(FinishReason::Length, |(reason, _)| *reason)
    }
}

impl Policy {
    /// A policy of these parts.
    #[must_use]
    pub fn new(mut model: Decoder, tokenizer: Tokenizer) -> Self {
        let _guard = tch::no_grad_guard();
        let weights = model.take_weights();
        Self { model, weights, tokenizer }
    }

    /// The shape of its model.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
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
        let mut rows = Vec::new();
        let SampleShard { start, end, .. } = *sampling.settings;
        let total = prompts.len() * (end.saturating_sub(start)) as usize;
        for units in self.waves(prompts, sampling) {
            let done = rows.len();
            rows.extend(self.wave(prompts, &units, sampling, &mut |finished: usize| {
                control.report(|| Progress { done: done + finished, total, unit: "responses", note: None });
                if control.stopped() { Err(Control::interrupted()) } else { Ok(()) }
            })?);
        }
        rows.sort_by_key(|row| (row.query, row.sample));
        Ok(rows)
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

    /// Cuts the work into waves of queries with prompts of similar length.
    fn waves(&self, prompts: &[Prompt], sampling: &Sampling<'_>) -> Vec<Vec<Unit>> {
        let config = self.model.config();
        let number = self.model.kind().elt_size_in_bytes();
        let token =
            number * usize::try_from(2 * config.layers * config.kv_heads * config.head_dim).unwrap_or(1);
        let logits = LOGIT_BYTES * usize::try_from(config.vocab_size).unwrap_or(1);
        // Growing a cache needs the old and the new one.
        let row_bytes = 2 * token * sampling.settings.max_tokens;
        let padded = |prompt: &Prompt| prompt.ids.len().next_multiple_of(ROWS as usize);
        let most_rows = (sampling.cache_bytes / row_bytes.max(logits)).clamp(ROWS as usize, MAX_ROWS);
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|query| padded(&prompts[*query]));
        let mut waves = vec![Vec::new()];
        let (mut rows, mut bytes) = (0, 0);
        let SampleShard { start, end, .. } = *sampling.settings;
        for query in order {
            for first in (start..end).step_by(most_rows) {
                let samples = first..end.min(first.saturating_add(most_rows as u32));
                let more_bytes = samples.len() * row_bytes + 2 * token * padded(&prompts[query]);
                let full = rows + samples.len() > most_rows || bytes + more_bytes > sampling.cache_bytes;
                if full && rows > 0 {
                    waves.push(Vec::new());
                    (rows, bytes) = (0, 0);
                }
                rows += samples.len();
                bytes += more_bytes;
                if let Some(wave) = waves.last_mut() {
                    wave.push(Unit { query, samples });
                }
            }
        }
        waves.retain(|wave| !wave.is_empty());
        waves
    }

    /// Draws one wave; `tick` hears how many responses are finished and may end it.
    fn wave(
        &self,
        prompts: &[Prompt],
        units: &[Unit],
        sampling: &Sampling<'_>,
        tick: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Row>> {
        let SampleShard { temperature, top_k, top_p, min_p, .. } = *sampling.settings;
        let drawing = Drawing { temperature, top_k, top_p, min_p };
        let (model, device) = (&self.model, self.model.device());
        let (mut rows, mut cascade, first) = self.prefill(prompts, units, sampling.seed, drawing.is_greedy());
        // The rows of the wave, by position in `rows`.
        let mut alive: Vec<usize> = (0..rows.len()).collect();
        let mut hidden = first;
        for step in 0.. {
            let logits = hidden.linear(&self.weights.head, None::<&Tensor>).to_kind(Kind::Float);
            let mut uniforms: Vec<f64> = Vec::with_capacity(alive.len());
            if !drawing.is_greedy() {
                uniforms.extend(alive.iter().map(|row| rows[*row].stream.uniform()));
                uniforms.resize(cascade.rows() as usize, 0.5);
            }
            let (tokens, logprobs) = drawing.draw(&logits, &uniforms);
            // One copy for both: on a device every copy waits for all that came before.
            let drawn = Tensor::stack(&[tokens.to_kind(Kind::Double), logprobs.to_kind(Kind::Double)], 0);
            let drawn: Vec<f64> =
                Vec::try_from(drawn.view([-1])).map_err(|error| crate::error::torch(&error))?;
            let (tokens, logprobs) = drawn.split_at(drawn.len() / 2);
            let mut next = vec![0; cascade.rows() as usize];
            for (place, row) in alive.iter().enumerate() {
                next[place] = tokens[place] as i64;
                let limit = prompts[rows[*row].query].limit;
                self.accept(&mut rows[*row], next[place], logprobs[place], limit, &sampling.settings.stop)?;
            }
            let living: Vec<usize> =
                (0..alive.len()).filter(|place| rows[alive[*place]].end.is_none()).collect();
            tick(rows.iter().filter(|row| row.end.is_some()).count())?;
            if living.is_empty() {
                break;
            }
            if (living.len() as f64) < ALIVE * alive.len() as f64 || cascade.is_full() {
                cascade.keep(&living);
                next = living.iter().map(|place| next[*place]).collect();
                next.resize(cascade.rows() as usize, 0);
                alive = living.iter().map(|place| alive[*place]).collect();
            }
            let mut positions: Vec<i64> =
                alive.iter().map(|row| prompts[rows[*row].query].ids.len() as i64 + step).collect();
            // Finished rows may pass the last position: what they compute is not used.
            positions.iter_mut().for_each(|at| *at = (*at).min(model.config().context() - 1));
            positions.resize(cascade.rows() as usize, 0);
            let rotary = model.rotary(&positions);
            hidden =
                forward(model.config(), &self.weights, &index(&next, device), &rotary, |block, attention| {
                    cascade.attend(block, attention)
                });
            cascade.advance();
        }
        Ok(rows)
    }

    /// Reads the prompts of a wave: its rows, their caches, and the hidden state before the first token.
    fn prefill(
        &self,
        prompts: &[Prompt],
        units: &[Unit],
        seed: u64,
        greedy: bool,
    ) -> (Vec<Row>, Cascade, Tensor) {
        let model = &self.model;
        let sequences: Vec<&[i64]> = units.iter().map(|unit| prompts[unit.query].ids.as_slice()).collect();
        let packed = Packed::new(&sequences, model.device());
        let mut blocks: Vec<Vec<[Tensor; 2]>> = packed.buckets().iter().map(|_| Vec::new()).collect();
        let hidden = packed.forward(model, &self.weights, |_, attention| {
            for (bucket, blocks) in packed.buckets().iter().zip(&mut blocks) {
                let take = |stream: &Tensor| bucket.take(stream).transpose(1, 2).contiguous();
                blocks.push([take(&attention.key), take(&attention.value)]);
            }
        });
        let (mut rows, mut owners, mut last, mut groups) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (bucket, blocks) in packed.buckets().iter().zip(blocks) {
            let mut lengths = Vec::new();
            for number in &bucket.sequences {
                let Unit { query, samples } = units[*number].clone();
                let length = sequences[*number].len() as i64;
                lengths.push(length);
                for sample in samples {
                    owners.push(*number);
                    last.push(packed.start(*number) + length - 1);
                    let stream = Stream::new("sample", seed, &prompts[query].id, u64::from(sample));
                    rows.push(Row::new(query, sample, stream));
                }
            }
            groups.push(Prompts::new(bucket.sequences.clone(), &lengths, blocks));
        }
        let cascade = Cascade::new(model.config(), groups, owners, greedy);
        last.resize(cascade.rows() as usize, 0);
        let first = hidden.index_select(0, &index(&last, model.device()));
        (rows, cascade, first)
    }

    /// Takes a drawn token into a response.
    fn accept(&self, row: &mut Row, token: i64, logprob: f64, limit: usize, stop: &[String]) -> Result<()> {
        if row.end.is_some() {
            return Ok(());
        }
        row.logprobs.push(logprob);
        if self.model.config().eos.contains(&token) {
            row.end_token = Some(token);
            row.end = Some((FinishReason::Stop, None));
            return Ok(());
        }
        row.ids.push(token);
        if !stop.is_empty() {
            let text = self.tokenizer.decode(&row.ids)?;
            if let Some(at) = stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
                row.end = Some((FinishReason::Stop, Some(text[..at].to_owned())));
                return Ok(());
            }
        }
        if row.logprobs.len() >= limit {
            row.end = Some((FinishReason::Length, None));
        }
        Ok(())
    }

    fn response(&self, query: &Query, row: Row, sampling: &Sampling<'_>) -> Result<Response> {
        let continuation = self.text(&row)?;
        Ok(Response {
            query_id: query.id.clone(),
            sample_index: row.sample,
            temperature: sampling.settings.temperature,
            text: query.prefix.clone().unwrap_or_default() + &continuation,
            tokens: u32::try_from(row.logprobs.len()).unwrap_or(u32::MAX),
            logprob: row.logprobs.iter().fold(0.0, |sum, logprob| sum + logprob),
            finish_reason: row.finish_reason(),
        })
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
pub(crate) mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::model::tests::random;
    use crate::tokenizer::tests::folder;

    pub(crate) fn query(id: usize, length: usize) -> Query {
        let words = [" has", " pens", ",", " and", " buys", " more", ".", " 1", " 2", " 3", " ="];
        Query {
            id: format!("q{id}"),
            prompt: (0..length).map(|word| words[(word * 7 + id) % words.len()]).collect(),
            answer: String::new(),
            prefix: None,
            choices: None,
            tests: None,
            tags: std::collections::BTreeMap::new(),
        }
    }

    fn policy(hidden: usize, layers: usize, heads: usize, kv: usize) -> Policy {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        let mut model = random(hidden, layers, heads, kv, 200);
        // Many tokens end a response, so that responses end at different lengths.
        model.config_mut().eos = (1..8).collect();
        Policy::new(model, tokenizer)
    }

    fn settings(temperature: f64, start: u32, end: u32, max_tokens: usize) -> SampleShard {
        SampleShard {
            temperature,
            start,
            end,
            max_tokens,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            stop: Vec::new(),
            precision: Default::default(),
        }
    }

    fn sample(
        policy: &Policy,
        queries: &[Query],
        settings: &SampleShard,
        cache_bytes: usize,
    ) -> Vec<Response> {
        tch::set_num_threads(1);
        let stop = AtomicBool::new(false);
        let sampling = Sampling { settings, seed: 5, cache_bytes };
        policy.sample(queries, &sampling, &mut Control::new(&stop, |_| ())).unwrap()
    }

    /// A response with the bits of its log-probability, and its name.
    fn bits(response: &Response) -> ((String, u32), (String, u32, u64)) {
        let name = (response.query_id.clone(), response.sample_index);
        (name, (response.text.clone(), response.tokens, response.logprob.to_bits()))
    }

    /// Draws subsets of queries and samples in several ways and compares with all at once.
    fn check_invariance(policy: &Policy, temperature: f64, max_tokens: usize, rounds: u64) {
        let queries: Vec<Query> = (0..20).map(|id| query(id, 3 + id * 5 % 41)).collect();
        let most = if temperature > 0.0 { 40 } else { 1 };
        let all: std::collections::BTreeMap<_, _> =
            sample(policy, &queries, &settings(temperature, 0, most, max_tokens), 1 << 30)
                .iter()
                .map(bits)
                .collect();
        let lengths: std::collections::BTreeSet<u32> = all.values().map(|(_, tokens, _)| *tokens).collect();
        assert!(lengths.len() > 5, "responses should end at different lengths: {lengths:?}");
        for round in 0..rounds {
            let mut stream = Stream::new("test", round, "subset", 0);
            let mut pick = |most: usize| (stream.uniform() * most as f64) as usize;
            let count = [1, 2, 5, 20][pick(4)];
            let start = pick(most as usize) as u32;
            let end = [start + 1, start + 3, start + 16, most][pick(4)].min(most);
            let bytes = [1 << 30, 1 << 22, 1][pick(3)];
            let order = Stream::new("test", round, "order", 0).permutation(queries.len());
            let chosen: Vec<Query> = order[..count].iter().map(|at| queries[*at].clone()).collect();
            for response in sample(policy, &chosen, &settings(temperature, start, end, max_tokens), bytes) {
                let (name, found) = bits(&response);
                assert_eq!(all[&name], found, "{name:?} in round {round}: {count} queries, {start}..{end}");
            }
        }
    }

    #[test]
    fn responses_do_not_depend_on_their_company() {
        check_invariance(&policy(96, 3, 3, 3), 1.0, 40, 8);
    }

    #[test]
    fn grouped_heads_do_not_depend_on_their_company() {
        check_invariance(&policy(64, 2, 4, 2), 0.8, 70, 8);
    }

    #[test]
    fn greedy_responses_do_not_depend_on_their_company() {
        check_invariance(&policy(96, 3, 3, 3), 0.0, 60, 10);
    }

    #[test]
    fn cached_steps_agree_with_reading_the_whole_text() {
        let _guard = tch::no_grad_guard();
        for (heads, kv) in [(3, 3), (4, 2)] {
            let policy = policy(heads * 32, 2, heads, kv);
            let settings = settings(1.0, 0, 3, 50);
            let sampling = Sampling { settings: &settings, seed: 1, cache_bytes: 1 << 30 };
            let prompts = [9, 23, 40].map(|length| policy.prompt(&query(length, length), &sampling).unwrap());
            let units = [0, 1, 2].map(|query| Unit { query, samples: 0..3 });
            for row in policy.wave(&prompts, &units, &sampling, &mut |_| Ok(())).unwrap() {
                let mut ids = prompts[row.query].ids.clone();
                let start = ids.len();
                ids.extend(&row.ids);
                let packed = Packed::new(&[&ids], tch::Device::Cpu);
                let hidden = packed.forward(&policy.model, &policy.weights, |_, _| ());
                let all =
                    hidden.linear(&policy.weights.head, None::<&Tensor>).log_softmax(-1, tch::Kind::Float);
                let mut sum: f64 =
                    (start..ids.len()).map(|at| all.double_value(&[at as i64 - 1, ids[at]])).sum();
                if let Some(token) = row.end_token {
                    sum += all.double_value(&[ids.len() as i64 - 1, token]);
                }
                let found: f64 = row.logprobs.iter().sum();
                assert!((sum - found).abs() < 1e-4 * (1.0 + sum.abs()), "{sum} {row:?}");
            }
        }
    }

    #[test]
    fn stop_strings_end_a_response_and_are_cut_off() {
        let policy = policy(64, 1, 2, 2);
        let mut settings = settings(1.0, 0, 16, 40);
        let free = sample(&policy, &[query(0, 10)], &settings, 1 << 30);
        settings.stop = vec![" has".to_owned(), " 3".to_owned()];
        let stopped = sample(&policy, &[query(0, 10)], &settings, 1 << 30);
        assert!(stopped.iter().any(|response| response.tokens < 40));
        // Filters and stop texts look at a row alone.
        (settings.top_p, settings.min_p) = (0.95, 0.02);
        let queries: Vec<Query> = (0..5).map(|id| query(id, 10 + id)).collect();
        let together = sample(&policy, &queries, &settings, 1 << 30);
        (settings.start, settings.end) = (3, 4);
        for (number, query) in queries.iter().enumerate() {
            let found = sample(&policy, std::slice::from_ref(query), &settings, 1 << 30);
            assert_eq!(bits(&found[0]), bits(&together[number * 16 + 3]));
        }
        for (free, stopped) in free.iter().zip(&stopped) {
            assert!(free.text.starts_with(&stopped.text) && !stopped.text.contains(" has"));
        }
    }

    #[test]
    fn responses_end_where_positions_do_and_continue_prefixes() {
        let policy = policy(64, 1, 2, 2);
        let mut long = query(0, 250);
        let tokens = policy.tokenizer.encode(&long.prompt).unwrap().len();
        let responses = sample(&policy, &[long.clone()], &settings(1.0, 0, 16, 1000), 1 << 30);
        assert!(responses.iter().all(|response| response.tokens as usize <= 256 - tokens + 1));
        long.prompt = query(0, 10).prompt;
        long.prefix = Some(" pens 12".to_owned());
        let responses = sample(&policy, &[long.clone()], &settings(1.0, 0, 2, 5), 1 << 30);
        assert!(responses.iter().all(|response| response.text.starts_with(" pens 12")));
        long.prompt = query(0, 500).prompt;
        let stop = AtomicBool::new(false);
        let settings = settings(1.0, 0, 1, 5);
        let sampling = Sampling { settings: &settings, seed: 0, cache_bytes: 1 << 30 };
        let error = policy.sample(&[long], &sampling, &mut Control::new(&stop, |_| ())).unwrap_err();
        assert!(error.message.contains("`q0`") && error.message.contains("at most 256"), "{error}");
    }
}
