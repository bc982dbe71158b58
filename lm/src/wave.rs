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
/// Most tokens of prompts that are read together: more do not make it faster.
const PIECE: usize = 2048;
/// The part of the memory that reading prompts may take, where none has more tokens by itself.
const READING: usize = 8;
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
    /// Tokens of prompts that are read together.
    piece: usize,
    /// Bytes for all that follows.
    memory: usize,
    /// Bytes that reading takes.
    reading: usize,
    row_bytes: usize,
    /// Bytes of a token of a prompt.
    token_bytes: usize,
    /// Bytes of a token while it is read.
    reading_bytes: usize,
    /// Tokens of the longest prompt, and of all.
    longest: usize,
    tokens: usize,
    /// Most rows, and bytes, that there were to be at a time.
    begun: [usize; 2],
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
        let token_bytes = policy.token_bytes();
        let logits = LOGIT_BYTES * usize::try_from(policy.config().vocab_size).unwrap_or(1);
        let limit = prompts.iter().map(|prompt| prompt.limit).max().unwrap_or(1);
        let SampleShard { start, end, .. } = *sampling.settings;
        let lengths = || prompts.iter().map(padded);
        let mut plan = Self {
            waiting: VecDeque::new(),
            rows: 0,
            piece: 0,
            memory: sampling.memory,
            reading: 0,
            row_bytes: token_bytes.saturating_mul(limit).saturating_add(logits).max(1),
            token_bytes,
            reading_bytes: policy.reading_bytes().max(1),
            longest: lengths().max().unwrap_or(0),
            tokens: lengths().sum(),
            begun: [0; 2],
        };
        plan.fit(sampling.memory);
        let units = (0..prompts.len()).map(|query| Unit { query, samples: start..end });
        plan.wait(prompts, units.filter(|unit| !unit.samples.is_empty()).collect());
        plan
    }

    /// Plans with so many bytes.
    fn fit(&mut self, memory: usize) {
        self.memory = memory;
        self.piece = (memory / READING / self.reading_bytes).min(PIECE).min(self.tokens);
        // A prompt is never cut; one that takes more than half of it does so beside it.
        self.reading = self.reading_bytes.saturating_mul(self.piece.max(self.longest)).min(memory / 2);
        self.rows = ((memory - self.reading) / self.row_bytes).clamp(1, MAX_ROWS);
    }

    /// Lets these wait, those with prompts of similar length together.
    fn wait(&mut self, prompts: &[Prompt], mut units: Vec<Unit>) {
        units.sort_by_key(|unit| padded(&prompts[unit.query]));
        self.waiting = units.into();
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

    /// Bytes that are planned with.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Plans with half of the memory that was to suffice; answers whether more than one row was to begin with it.
    pub fn halve(&mut self) -> bool {
        let [rows, bytes] = std::mem::take(&mut self.begun);
        if rows > 1 {
            self.fit(bytes.min(self.memory) / 2);
        }
        rows > 1
    }

    /// Lets just these responses wait, by query and sample index, in that order.
    pub fn begin_again(&mut self, prompts: &[Prompt], missing: &[(usize, u32)]) {
        let mut units: Vec<Unit> = Vec::new();
        for &(query, sample) in missing {
            match units.last_mut() {
                Some(unit) if unit.query == query && unit.samples.end == sample => unit.samples.end += 1,
                _ => units.push(Unit { query, samples: sample..sample + 1 }),
            }
        }
        self.wait(prompts, units);
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
        bytes += self.reading;
        while let Some(unit) = self.waiting.front() {
            let prompt = self.prompt_bytes(&prompts[unit.query]);
            let room = self.memory.saturating_sub(bytes + prompt) / self.row_bytes;
            let mut room = room.min(self.rows.saturating_sub(rows));
            let (count, first) = (unit.samples.len(), held == 0 && taken.is_empty());
            if first {
                // Something must happen.
                room = room.max(1);
            }
            if room == 0 || count > room && !(first || count > self.rows && room >= self.rows / 2) {
                break;
            }
            let count = count.min(room);
            let Unit { query, samples } = unit.clone();
            let end = samples.start + u32::try_from(count).unwrap_or(u32::MAX);
            taken.push(Unit { query, samples: samples.start..end });
            if end == samples.end {
                self.waiting.pop_front();
            } else if let Some(unit) = self.waiting.front_mut() {
                unit.samples.start = end;
            }
            rows += count;
            bytes += prompt + count * self.row_bytes;
        }
        let [most_rows, most_bytes] = self.begun;
        self.begun = [most_rows.max(rows), most_bytes.max(bytes)];
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
        let least = (ROWS as usize).min(plan.rows.div_ceil(2));
        if rows > 0 && plan.rows.saturating_sub(rows) < (plan.rows / FREE).max(least) {
            return None;
        }
        let (mut held, mut bytes) = (0, self.read.values().map(|read| read.bytes()).sum());
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
                    let (prompt, stop) = (&self.prompts[row.query], &self.sampling.settings.stop);
                    self.policy.accept(row, tokens[place], logprobs[place], prompt, stop)?;
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
        // Prompts that are equally long when padded are looked at together.
        let mut buckets: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, unit) in units.iter().enumerate() {
            buckets.entry(padded(&prompts[unit.query])).or_default().push(number);
        }
        let (blocks, hidden) = self.read(units, plan, &buckets);
        let (mut owners, mut rows, mut states, mut groups) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (numbers, blocks) in buckets.into_values().zip(blocks) {
            let mut lengths = Vec::with_capacity(numbers.len());
            for &number in &numbers {
                let Unit { query, samples } = &units[number];
                owners.extend(samples.clone().map(|_| number));
                rows.extend(samples.clone().map(|sample| (*query, sample)));
                states.push(hidden[number].expand([samples.len() as i64, -1], false));
                lengths.push(prompts[*query].ids.len() as i64);
            }
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

    /// The prompts of these, each read once as long as responses to it wait: copies of the keys and values in each bucket's
    /// blocks, for what rows look at is moved as they finish; and the hidden states before the first tokens.
    fn read(
        &mut self,
        units: &[Unit],
        plan: &Plan,
        buckets: &BTreeMap<usize, Vec<usize>>,
    ) -> (Vec<Vec<[Tensor; 2]>>, Vec<Tensor>) {
        let policy = self.policy;
        let (config, options) = (policy.config(), (policy.model.kind(), policy.model.device()));
        let mut blocks = Vec::with_capacity(buckets.len());
        // The bucket of each unit, and its place there.
        let mut places = vec![(0, 0); units.len()];
        for (bucket, (padded, numbers)) in buckets.iter().enumerate() {
            let shape = [numbers.len() as i64, config.kv_heads, *padded as i64, config.head_dim];
            let empty = || Tensor::empty(shape, options);
            blocks.push((0..config.layers).map(|_| [empty(), empty()]).collect::<Vec<_>>());
            numbers.iter().zip(0..).for_each(|(number, place)| places[*number] = (bucket, place));
        }
        let mut hidden: Vec<Tensor> = units.iter().map(|_| Tensor::new()).collect();
        let mut put = |number: usize, read: &Read| {
            let (bucket, place) = places[number];
            for (all, own) in blocks[bucket].iter().flatten().zip(read.blocks.iter().flatten()) {
                all.narrow(0, place, 1).copy_(own);
            }
            hidden[number] = read.hidden.shallow_clone();
        };
        let mut new: Vec<(usize, &[i64])> = Vec::new();
        for (number, unit) in units.iter().enumerate() {
            match self.read.get(&unit.query) {
                Some(read) => put(number, read),
                None => new.push((number, &self.prompts[unit.query].ids)),
            }
        }
        let ids: Vec<&[i64]> = new.iter().map(|(_, ids)| *ids).collect();
        let waiting = &mut self.read;
        policy.read(&ids, plan.piece, |place, read| {
            let (number, _) = new[place];
            put(number, &read);
            let Unit { query, .. } = units[number];
            if plan.waits(query) {
                drop(waiting.insert(query, read));
            }
        });
        self.read.retain(|query, _| plan.waits(*query));
        (blocks, hidden)
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
