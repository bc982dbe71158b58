//! Drawing many responses at once.
//!
//! A wave holds as many rows as memory allows. Rows that began together advance in lock step, as a
//! cohort; rows that finish give their place to a cohort of waiting ones. All matrix products are over
//! the rows of all cohorts, attention is over the rows of each.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use bstar_stages::config::SampleShard;
use tch::Tensor;

use crate::cascade::{Cascade, Prompts, compact};
use crate::draw::Drawing;
use crate::error::Result;
use crate::generate::{Policy, Prompt, Row, Sampling};
use crate::model::{Attention, ROWS, cat, forward, index, rounded};
use crate::reads::Read;
use crate::stream::Stream;

/// Most rows of a wave: more do not make a step cheaper per row.
const MAX_ROWS: usize = 1024;
/// Bytes a token of the vocabulary takes for each row while one is drawn.
const LOGIT_BYTES: usize = 8;
/// Waiting rows begin when this part of the wave's rows is free: each cohort costs a little in every step.
const FREE: usize = 8;
/// Finished rows of a cohort are dropped when they are more than this part of it: to drop some costs as much as they do in a few steps.
const DEAD: usize = 64;

/// Some responses to one query.
#[derive(Debug, Clone)]
pub struct Unit {
    query: usize,
    samples: Range<u32>,
}

/// What waits for a place, and how many places there are.
#[derive(Debug)]
pub struct Plan {
    waiting: VecDeque<Unit>,
    /// Most rows at a time.
    pub rows: usize,
    /// Bytes for keys and values.
    memory: usize,
    row_bytes: usize,
    /// Bytes of a token of a prompt.
    token_bytes: usize,
}

/// Rows that began together.
#[derive(Debug)]
struct Cohort {
    /// Positions among all rows of the wave.
    rows: Vec<usize>,
    cascade: Cascade,
    /// Tokens drawn.
    length: i64,
    /// Bytes of its prompts.
    prompt_bytes: usize,
}

/// Responses being drawn, and those that are.
#[derive(Debug)]
pub struct Wave<'a> {
    policy: &'a Policy,
    prompts: &'a [Prompt],
    sampling: &'a Sampling<'a>,
    drawing: Drawing,
    /// In the order they began.
    rows: &'a mut Vec<Row>,
    finished: usize,
    cohorts: Vec<Cohort>,
    /// Prompts of responses that wait.
    read: BTreeMap<usize, Rc<Read>>,
}

impl Plan {
    /// All responses, queries with prompts of similar length together.
    #[must_use]
    pub fn new(policy: &Policy, prompts: &[Prompt], sampling: &Sampling<'_>) -> Self {
        let config = policy.config();
        let number = policy.model.kind().elt_size_in_bytes();
        let token_bytes =
            number * usize::try_from(2 * config.layers * config.kv_heads * config.head_dim).unwrap_or(1);
        let logits = LOGIT_BYTES * usize::try_from(config.vocab_size).unwrap_or(1);
        let longest = prompts.iter().map(|prompt| prompt.limit).max().unwrap_or(1);
        let row_bytes = token_bytes * longest + logits;
        let SampleShard { start, end, .. } = *sampling.settings;
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|query| padded(&prompts[*query]));
        let units = order.into_iter().map(|query| Unit { query, samples: start..end });
        Self {
            waiting: units.filter(|unit| !unit.samples.is_empty()).collect(),
            rows: (sampling.memory / row_bytes.max(1)).clamp(ROWS as usize, MAX_ROWS),
            memory: sampling.memory,
            row_bytes,
            token_bytes,
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether responses to a query wait.
    fn waits(&self, query: usize) -> bool {
        self.waiting.iter().any(|unit| unit.query == query)
    }

    /// Plans for half the rows; answers whether there was anything to halve.
    pub fn halve(&mut self) -> bool {
        let least = ROWS as usize;
        let halved = self.rows > least;
        (self.rows, self.memory) = ((self.rows / 2).max(least), self.memory / 2);
        halved
    }

    /// Lets just these responses wait, by query and sample index, in that order.
    pub fn begin_again(&mut self, missing: &[(usize, u32)]) {
        self.waiting.clear();
        for &(query, sample) in missing {
            match self.waiting.back_mut() {
                Some(unit) if unit.query == query && unit.samples.end == sample => unit.samples.end += 1,
                _ => self.waiting.push_back(Unit { query, samples: sample..sample + 1 }),
            }
        }
    }

    /// What would begin now, were nothing being drawn: queries and numbers of responses.
    #[cfg(test)]
    pub(crate) fn begins_with(&mut self, prompts: &[Prompt]) -> Vec<(usize, usize)> {
        self.take(prompts, 0, 0).iter().map(|unit| (unit.query, unit.samples.len())).collect()
    }

    fn prompt_bytes(&self, prompt: &Prompt) -> usize {
        self.token_bytes * padded(prompt)
    }

    /// What may begin beside rows and prompts of this many bytes, when `held` rows are taken.
    fn take(&mut self, prompts: &[Prompt], held: usize, mut bytes: usize) -> Vec<Unit> {
        let (mut rows, mut taken) = (held, Vec::new());
        while let Some(unit) = self.waiting.front_mut() {
            let prompt = self.token_bytes * padded(&prompts[unit.query]);
            let room = self.memory.saturating_sub(bytes + prompt) / self.row_bytes;
            let mut room = room.min(self.rows.saturating_sub(rows));
            let (count, first) = (unit.samples.len(), held == 0 && taken.is_empty());
            if first {
                // Something must happen.
                room = room.max(ROWS as usize);
            }
            if count > room && !(first || count > self.rows && room >= self.rows / 2) {
                break;
            }
            let count = count.min(room);
            let end = unit.samples.start + u32::try_from(count).unwrap_or(u32::MAX);
            taken.push(Unit { query: unit.query, samples: unit.samples.start..end });
            unit.samples.start = end;
            if unit.samples.is_empty() {
                self.waiting.pop_front();
            }
            rows += count;
            bytes += prompt + count * self.row_bytes;
        }
        taken
    }
}

impl<'a> Wave<'a> {
    /// A wave in which nothing has begun; `rows`, where its responses go, is empty.
    #[must_use]
    pub fn new(
        policy: &'a Policy,
        prompts: &'a [Prompt],
        sampling: &'a Sampling<'a>,
        rows: &'a mut Vec<Row>,
    ) -> Self {
        let drawing = Drawing::from(sampling.settings);
        let (cohorts, read) = (Vec::new(), BTreeMap::new());
        Self { policy, prompts, sampling, drawing, rows, finished: 0, cohorts, read }
    }

    /// Draws until nothing waits; `tick` hears how many responses are finished and may end it.
    ///
    /// # Errors
    /// Those of `tick`, of the tokenizer, and of libtorch.
    pub fn run(&mut self, plan: &mut Plan, tick: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        // Before the next token of each row of each cohort.
        let mut hidden: Option<Tensor> = None;
        loop {
            let new = self.refill(plan);
            let states: Vec<Tensor> = hidden.into_iter().chain(new).collect();
            if states.is_empty() {
                return Ok(());
            }
            let next = self.draw(&filled_up(states))?;
            tick(self.finished)?;
            hidden = (!next.is_empty()).then(|| self.step(next));
        }
    }

    /// Begins a cohort of waiting responses where enough rows are free: its hidden states.
    fn refill(&mut self, plan: &mut Plan) -> Option<Tensor> {
        if plan.is_empty() {
            return None;
        }
        let rows: usize = self.cohorts.iter().map(|cohort| cohort.cascade.rows() as usize).sum();
        if rows > 0 && plan.rows.saturating_sub(rows) < (plan.rows / FREE).max(ROWS as usize) {
            return None;
        }
        let (mut held, mut bytes) = (0, 0);
        for cohort in &mut self.cohorts {
            if cohort.cascade.held() > cohort.cascade.rows() {
                cohort.cascade.resize();
            }
            let rows = cohort.cascade.rows() as usize;
            held += rows;
            bytes += cohort.prompt_bytes + rows * plan.row_bytes;
        }
        let units = plan.take(self.prompts, held, bytes);
        (!units.is_empty()).then(|| self.begin(&units, plan))
    }

    /// Draws a token of every row, and drops rows that are finished: the tokens of the others.
    fn draw(&mut self, hidden: &Tensor) -> Result<Vec<i64>> {
        #[cfg(test)]
        self.policy.take_room(hidden.size()[0] as usize);
        let logits = self.policy.weights.logits(hidden);
        let mut uniforms: Vec<f64> = Vec::new();
        if !self.drawing.is_greedy() {
            for row in self.cohorts.iter().flat_map(|cohort| &cohort.rows) {
                uniforms.push(self.rows[*row].stream.uniform());
            }
            uniforms.resize(hidden.size()[0] as usize, 0.5);
        }
        let (tokens, logprobs) = self.drawing.choose(&logits, &uniforms)?;
        let (mut next, mut first) = (Vec::with_capacity(tokens.len()), 0);
        for cohort in &mut self.cohorts {
            let mut alive = Vec::with_capacity(cohort.rows.len());
            for (place, row) in (first..).zip(&cohort.rows) {
                let row = &mut self.rows[*row];
                if !row.is_finished() {
                    let limit = self.prompts[row.query].limit;
                    let stop = &self.sampling.settings.stop;
                    self.policy.accept(row, tokens[place], logprobs[place], limit, stop)?;
                    self.finished += usize::from(row.is_finished());
                }
                alive.push(!row.is_finished());
            }
            let mut tokens = tokens[first..first + cohort.rows.len()].to_vec();
            first += cohort.rows.len();
            let kept = compact(&alive);
            if DEAD * (alive.len() - kept.len()) > alive.len() || kept.is_empty() {
                tokens = kept.iter().map(|place| tokens[*place]).collect();
                cohort.rows = kept.iter().map(|place| cohort.rows[*place]).collect();
                if !kept.is_empty() {
                    cohort.cascade.keep(&kept);
                }
            }
            next.extend(tokens);
        }
        self.cohorts.retain(|cohort| !cohort.rows.is_empty());
        Ok(next)
    }

    /// Reads the newest token of each row: the hidden states before the next ones.
    fn step(&mut self, mut tokens: Vec<i64>) -> Tensor {
        let model = &self.policy.model;
        let most = model.config().context() - 1;
        let count = tokens.len() as i64;
        let filled = rounded(count);
        tokens.resize(filled as usize, 0);
        let mut positions: Vec<i64> = Vec::with_capacity(tokens.len());
        for cohort in &mut self.cohorts {
            if cohort.cascade.is_full() {
                cohort.cascade.resize();
            }
            // Finished rows may pass the last position: what they compute is not used.
            let at = |row: &usize| {
                (self.prompts[self.rows[*row].query].ids.len() as i64 + cohort.length).min(most)
            };
            positions.extend(cohort.rows.iter().map(at));
        }
        positions.resize(tokens.len(), 0);
        #[cfg(test)]
        self.policy.take_room(tokens.len());
        let (ids, rotary) = (index(&tokens, model.device()), model.rotary(&positions));
        let cohorts = &self.cohorts;
        let hidden = forward(model.config(), &self.policy.weights, &ids, &rotary, |block, attention| {
            if let ([cohort], true) = (&cohorts[..], count == filled) {
                return cohort.cascade.attend(block, attention);
            }
            let mut first = 0;
            let parts = cohorts.iter().map(|cohort| {
                let rows = cohort.cascade.rows();
                let part = |tensor: &Tensor| tensor.narrow(0, first, rows);
                let Attention { query, key, value } = attention;
                let attention = Attention { query: part(query), key: part(key), value: part(value) };
                first += rows;
                cohort.cascade.attend(block, &attention)
            });
            filled_up(parts.collect())
        });
        for cohort in &mut self.cohorts {
            cohort.length += 1;
            cohort.cascade.advance();
        }
        hidden.narrow(0, 0, count)
    }

    /// Begins a cohort: the hidden states before the first tokens.
    fn begin(&mut self, units: &[Unit], plan: &Plan) -> Tensor {
        let (policy, prompts) = (self.policy, self.prompts);
        #[cfg(test)]
        policy.take_room(units.iter().map(|unit| unit.samples.len()).sum());
        let reads = self.read(units, plan);
        // Prompts that are equally long when padded are looked at together.
        let mut buckets: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (number, read) in reads.iter().enumerate() {
            buckets.entry(read.padded()).or_default().push(number);
        }
        let (mut owners, mut rows, mut states, mut groups) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for numbers in buckets.into_values() {
            let mut lengths = Vec::with_capacity(numbers.len());
            for &number in &numbers {
                let Unit { query, samples } = &units[number];
                owners.extend(samples.clone().map(|_| number));
                rows.extend(samples.clone().map(|sample| (*query, sample)));
                states.push(reads[number].hidden.expand([samples.len() as i64, -1], false));
                lengths.push(prompts[*query].ids.len() as i64);
            }
            // Copies, for what rows look at is moved as they finish.
            let join = |block: usize, side: usize| {
                let parts: Vec<&Tensor> =
                    numbers.iter().map(|number| &reads[*number].blocks[block][side]).collect();
                Tensor::cat(&parts, 0)
            };
            let blocks =
                (0..reads[numbers[0]].blocks.len()).map(|block| [0, 1].map(|side| join(block, side)));
            let blocks = blocks.collect();
            groups.push(Prompts::new(numbers, &lengths, blocks));
        }
        let first = self.rows.len();
        let seed = self.sampling.seed;
        self.rows.extend(rows.into_iter().map(|(query, sample)| {
            Row::new(query, sample, Stream::new("sample", seed, &prompts[query].id, u64::from(sample)))
        }));
        let most = units.iter().map(|unit| prompts[unit.query].limit).max().unwrap_or(1);
        let prompt_bytes = units.iter().map(|unit| plan.prompt_bytes(&prompts[unit.query])).sum();
        let cascade = Cascade::new(policy.config(), groups, owners, most, self.drawing.is_greedy());
        self.cohorts.push(Cohort {
            rows: (first..self.rows.len()).collect(),
            cascade,
            length: 0,
            prompt_bytes,
        });
        Tensor::cat(&states, 0)
    }

    /// The prompts of these, each read once as long as responses to it wait.
    fn read(&mut self, units: &[Unit], plan: &Plan) -> Vec<Rc<Read>> {
        let known = |unit: &Unit| self.read.get(&unit.query).map(Rc::clone);
        let mut reads: Vec<Option<Rc<Read>>> = units.iter().map(known).collect();
        let new: Vec<usize> = (0..units.len()).filter(|number| reads[*number].is_none()).collect();
        let ids: Vec<&[i64]> =
            new.iter().map(|number| self.prompts[units[*number].query].ids.as_slice()).collect();
        for (number, read) in new.into_iter().zip(self.policy.read(&ids)) {
            reads[number] = Some(read);
        }
        let reads: Vec<Rc<Read>> = reads.into_iter().flatten().collect();
        let waiting = units.iter().zip(&reads).map(|(unit, read)| (unit.query, Rc::clone(read)));
        self.read.extend(waiting);
        self.read.retain(|query, _| plan.waits(*query));
        reads
    }
}

/// Rows one after the other, and further ones that only fill up the last product.
fn filled_up(mut parts: Vec<Tensor>) -> Tensor {
    let count: i64 = parts.iter().map(|part| part.size()[0]).sum();
    let missing = rounded(count) - count;
    if missing > 0 {
        parts.push(parts[0].narrow(0, 0, 1).expand([missing, -1], false));
    }
    cat(parts)
}

/// Tokens of a prompt, with its padding.
fn padded(prompt: &Prompt) -> usize {
    prompt.ids.len().next_multiple_of(ROWS as usize)
}
