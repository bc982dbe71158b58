//! Which step may run next: a pure state machine over a [`Plan`]. Knows no store, clock or process.
//!
//! ```text
//! Waiting ─→ Ready ─┬─→ Done { cached: true }
//!                   ├─→ Queued ─→ Running ──┬─→ Done { cached: false }
//!                   └─→ Unfolded ───────────┴─→ Failed
//! Running ─→ Elsewhere ─→ Ready, while another run executes the same
//! Waiting, Unfolded ─→ Skipped, when a step they need failed
//! ```
//!
//! Of the steps that could go next, the one first whose pipeline file says so (`priority`, which a step
//! hands on to all it needs); then the one with the longest chain of work behind it, in which a step for a
//! device or a worker counts as a thousand others, for those take minutes and the others milliseconds: so
//! what unlocks such work comes before what does not, and the device is kept busy; then the order of
//! the plan. Shards that sample from the same queries are a series: what a worker has read for one, it need not read
//! for the next, so a worker that becomes free goes on with its series, and begins one that no other is at.
//! The order changes no result.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};

use bstar_stages::{Runner, StageConfig};

use crate::plan::{Plan, Source, Step, StepId};

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// A step it reads from is not done.
    Waiting,
    /// Its inputs are known; the store has not answered yet.
    Ready,
    /// Not in the store: waits for resources.
    Queued,
    /// Being carried out.
    Running,
    /// Another run executes the same: its result is waited for, and takes nothing here.
    Elsewhere,
    /// Cut into shards, which run in its place.
    Unfolded,
    /// Its result is in the store.
    Done {
        /// Whether it was there before the run.
        cached: bool,
    },
    /// Tried, and given up.
    Failed,
    /// A step it needs failed.
    Skipped,
}

/// What a step takes while it runs, or what there is to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resources {
    /// CPU cores.
    pub cpu: usize,
    /// GPUs.
    pub gpu: usize,
    /// Bytes of memory.
    pub memory: u64,
}

impl Resources {
    fn at_most(self, limit: Self) -> Self {
        Self {
            cpu: self.cpu.min(limit.cpu),
            gpu: self.gpu.min(limit.gpu),
            memory: self.memory.min(limit.memory),
        }
    }

    fn fits(self, free: Self) -> bool {
        self.cpu <= free.cpu && self.gpu <= free.gpu && self.memory <= free.memory
    }
}

/// Priority, then the weight of the longest chain from the step to the end of the plan, then the order of
/// the plan.
type Candidate = (i64, usize, Reverse<StepId>);

/// The weight of a step that needs a device or a worker; that of others is 1.
const HEAVY: usize = 1000;

/// The states of all steps, and the queues that follow from them.
#[derive(Debug)]
pub struct Scheduler {
    states: Vec<State>,
    nodes: Vec<Node>,
    ready: BinaryHeap<Candidate>,
    /// By what they need; some in it have been started since.
    queued: BTreeMap<Resources, BinaryHeap<Candidate>>,
    series: Vec<Series>,
    /// The series with that policy and these queries.
    numbers: HashMap<[Source; 2], usize>,
    /// The series of the step that ended last, if nothing was started after it.
    free_for: Option<usize>,
    gathered: VecDeque<StepId>,
    capacity: Resources,
    free: Resources,
    running: usize,
    keep_going: bool,
    halted: bool,
}

#[derive(Debug)]
struct Node {
    /// Steps that read from this one; for a shard, also the step it is a piece of.
    users: Vec<StepId>,
    /// Number of steps it reads from (or, unfolded, of its shards) that are not done.
    missing: usize,
    /// The highest of its own and of all that need it.
    priority: i64,
    /// Weight of the longest chain of users, itself included.
    rank: usize,
    needs: Resources,
    series: Option<usize>,
}

/// Steps that take less time where another of them was.
#[derive(Debug, Default)]
struct Series {
    queued: BTreeSet<StepId>,
    running: usize,
}

impl Node {
    fn candidate(&self, id: StepId) -> Candidate {
        (self.priority, self.rank, Reverse(id))
    }
}

impl Scheduler {
    /// A scheduler of no steps; see [`Scheduler::grow`]. With `keep_going`, a failure stops only the
    /// steps that need the failed one; without, nothing new starts after it.
    #[must_use]
    pub fn new(capacity: Resources, keep_going: bool) -> Self {
        let capacity = Resources { cpu: capacity.cpu.max(1), ..capacity };
        Self {
            states: Vec::new(),
            nodes: Vec::new(),
            ready: BinaryHeap::new(),
            queued: BTreeMap::new(),
            series: Vec::new(),
            numbers: HashMap::new(),
            free_for: None,
            gathered: VecDeque::new(),
            capacity,
            free: capacity,
            running: 0,
            keep_going,
            halted: false,
        }
    }

    /// Takes in the steps added to the plan since the last call. A step that needs more than there is
    /// takes what there is.
    pub fn grow(&mut self, plan: &Plan, needs: impl Fn(&Step) -> Resources) {
        let new: Vec<StepId> = (self.nodes.len()..plan.len()).map(StepId::new).collect();
        for &id in &new {
            let step = plan.step(id);
            let sources = sources(step);
            let missing = sources.iter().filter(|source| !self.done(**source)).count();
            for source in sources {
                self.nodes[source.index()].users.push(id);
            }
            if let Some((parent, _)) = &step.parent {
                self.nodes[parent.index()].missing += 1;
            }
            let users = step.parent.iter().map(|(parent, _)| *parent).collect();
            let needs = needs(step).at_most(self.capacity);
            let (rank, priority) = (weight(step, needs), step.policy.priority);
            let series = self.series_of(step);
            self.nodes.push(Node { users, missing, priority, rank, needs, series });
            self.states.push(State::Waiting);
        }
        for &id in new.iter().rev() {
            let users = self.nodes[id.index()].users.iter().map(|user| &self.nodes[user.index()]);
            let (rank, priority) =
                users.fold((0, i64::MIN), |most, user| (user.rank.max(most.0), user.priority.max(most.1)));
            let node = &mut self.nodes[id.index()];
            node.rank += rank;
            node.priority = node.priority.max(priority);
        }
        for id in new {
            if self.nodes[id.index()].missing == 0 {
                self.set(id, State::Ready);
            }
        }
    }

    /// The next step whose inputs are known and which the store has not been asked for.
    pub fn next_ready(&mut self) -> Option<StepId> {
        if self.halted {
            return None;
        }
        self.ready.pop().map(|(_, _, Reverse(id))| id)
    }

    /// Puts a step back that [`Scheduler::next_ready`] gave, or that was [`Scheduler::elsewhere`]: the
    /// store shall be asked again.
    pub fn ask_again(&mut self, id: StepId) {
        if self.state(id) == State::Elsewhere {
            return self.set(id, State::Ready);
        }
        debug_assert_eq!(self.state(id), State::Ready, "only a ready step can be put back");
        self.ready.push(self.nodes[id.index()].candidate(id));
    }

    /// A started step turned out to be executed by another run: what it took is free for others until
    /// [`Scheduler::ask_again`].
    pub fn elsewhere(&mut self, id: StepId) {
        self.set(id, State::Elsewhere);
    }

    /// The store does not have the result of a ready step.
    pub fn missed(&mut self, id: StepId) {
        self.set(id, State::Queued);
    }

    /// A ready step is cut into the shards that the plan has grown by.
    pub fn unfolded(&mut self, id: StepId, plan: &Plan, needs: impl Fn(&Step) -> Resources) {
        self.set(id, State::Unfolded);
        self.grow(plan, needs);
        if self.nodes[id.index()].missing == 0 {
            self.gathered.push_back(id);
        }
    }

    /// Starts the most urgent queued step that the free resources suffice for.
    ///
    /// What the most urgent step lacks is kept for it, so small steps cannot starve a big one.
    pub fn start(&mut self) -> Option<StepId> {
        if self.halted {
            return None;
        }
        let mut heads: Vec<(Candidate, Resources)> = Vec::with_capacity(self.queued.len());
        for (needs, queue) in &mut self.queued {
            let started = |(_, _, Reverse(id)): &Candidate| self.states[id.index()] != State::Queued;
            while queue.peek().is_some_and(started) {
                queue.pop();
            }
            heads.extend(queue.peek().map(|candidate| (*candidate, *needs)));
        }
        heads.sort_unstable_by(|left, right| right.cmp(left));
        let mut free = self.free;
        for ((_, _, Reverse(id)), needs) in heads {
            if needs.fits(free) {
                let id = self.in_series(id);
                self.set(id, State::Running);
                return Some(id);
            }
            if needs.cpu > free.cpu {
                free.cpu = 0;
            }
            if needs.gpu > free.gpu {
                free.gpu = 0;
            }
            if needs.memory > free.memory {
                free.memory = 0;
            }
        }
        None
    }

    /// Of the steps that are as urgent as this one and need as much: one that goes on with the series of the step that
    /// ended last, else one of a series that nobody is at, else this one.
    fn in_series(&mut self, id: StepId) -> StepId {
        let head = &self.nodes[id.index()];
        let Some(own) = head.series else { return id };
        let alike = |other: &StepId| {
            let node = &self.nodes[other.index()];
            (node.priority, node.rank, node.needs) == (head.priority, head.rank, head.needs)
        };
        let first = |series: &Series| series.queued.iter().copied().find(alike);
        let next = self.free_for.and_then(|series| first(&self.series[series]));
        let next = next.unwrap_or_else(|| {
            if self.series[own].running == 0 {
                return id;
            }
            self.series.iter().filter(|series| series.running == 0).filter_map(first).min().unwrap_or(id)
        });
        self.free_for = None;
        next
    }

    fn series_of(&mut self, step: &Step) -> Option<usize> {
        if !matches!(step.stage, StageConfig::SampleShard(_)) {
            return None;
        }
        let sources = [step.inputs.get("policy")?.clone(), step.inputs.get("queries")?.clone()];
        let number = *self.numbers.entry(sources).or_insert(self.series.len());
        if number == self.series.len() {
            self.series.push(Series::default());
        }
        Some(number)
    }

    /// The next unfolded step whose shards are all done.
    pub fn next_gathered(&mut self) -> Option<StepId> {
        self.gathered.pop_front()
    }

    /// A step's result is in the store. Steps that waited only for it become ready.
    pub fn finished(&mut self, id: StepId, cached: bool) {
        self.set(id, State::Done { cached });
        let users = std::mem::take(&mut self.nodes[id.index()].users);
        for &user in &users {
            let node = &mut self.nodes[user.index()];
            node.missing -= 1;
            if node.missing > 0 {
                continue;
            }
            match self.state(user) {
                State::Waiting => self.set(user, State::Ready),
                State::Unfolded => self.gathered.push_back(user),
                State::Ready
                | State::Queued
                | State::Running
                | State::Elsewhere
                | State::Done { .. }
                | State::Failed
                | State::Skipped => {}
            }
        }
        self.nodes[id.index()].users = users;
    }

    /// A step failed for good. Returns the steps that need it, which are skipped.
    pub fn failed(&mut self, id: StepId) -> Vec<StepId> {
        self.set(id, State::Failed);
        self.halted |= !self.keep_going;
        let mut skipped = Vec::new();
        let mut open = vec![id];
        while let Some(next) = open.pop() {
            for index in 0..self.nodes[next.index()].users.len() {
                let user = self.nodes[next.index()].users[index];
                if self.state(user) != State::Skipped {
                    self.set(user, State::Skipped);
                    skipped.push(user);
                    open.push(user);
                }
            }
        }
        skipped.sort_unstable();
        skipped
    }

    /// Starts nothing more.
    pub fn halt(&mut self) {
        self.halted = true;
    }

    /// Whether nothing more starts.
    #[must_use]
    pub fn halted(&self) -> bool {
        self.halted
    }

    /// How far a step is.
    #[must_use]
    pub fn state(&self, id: StepId) -> State {
        self.states[id.index()]
    }

    /// Number of running steps.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// The states, in the order of the plan.
    #[must_use]
    pub fn states(&self) -> &[State] {
        &self.states
    }

    fn done(&self, id: StepId) -> bool {
        matches!(self.state(id), State::Done { .. })
    }

    /// The only place where a state changes.
    fn set(&mut self, id: StepId, to: State) {
        let from = self.state(id);
        debug_assert!(
            matches!(
                (from, to),
                (State::Waiting, State::Ready)
                    | (State::Waiting | State::Unfolded, State::Skipped)
                    | (State::Ready, State::Queued | State::Unfolded)
                    | (State::Queued, State::Running)
                    | (State::Elsewhere, State::Ready)
                    | (State::Running, State::Elsewhere)
                    | (State::Ready | State::Running | State::Unfolded, State::Done { .. } | State::Failed)
            ),
            "step {} cannot go from {from:?} to {to:?}",
            id.index(),
        );
        let Node { needs, series, .. } = self.nodes[id.index()];
        let candidate = self.nodes[id.index()].candidate(id);
        if from == State::Running {
            self.running -= 1;
            self.free_for = series;
            if let Some(series) = series {
                self.series[series].running -= 1;
            }
            self.free.cpu += needs.cpu;
            self.free.gpu += needs.gpu;
            self.free.memory += needs.memory;
        }
        self.states[id.index()] = to;
        match to {
            State::Ready => self.ready.push(candidate),
            State::Queued => {
                self.queued.entry(needs).or_default().push(candidate);
                if let Some(series) = series {
                    self.series[series].queued.insert(id);
                }
            }
            State::Running => {
                self.running += 1;
                if let Some(series) = series {
                    self.series[series].running += 1;
                    self.series[series].queued.remove(&id);
                }
                self.free.cpu -= needs.cpu;
                self.free.gpu -= needs.gpu;
                self.free.memory -= needs.memory;
            }
            State::Waiting
            | State::Elsewhere
            | State::Unfolded
            | State::Done { .. }
            | State::Failed
            | State::Skipped => {}
        }
    }
}

/// What a step counts for in a chain. A step that will be cut counts like its shards.
fn weight(step: &Step, needs: Resources) -> usize {
    let heavy = match step.stage.stage().runner() {
        Runner::Worker | Runner::None => true,
        Runner::InProcess | Runner::Command => needs.gpu > 0,
    };
    if heavy { HEAVY } else { 1 }
}

/// The steps a step reads from, each once.
fn sources(step: &Step) -> BTreeSet<StepId> {
    let sources = step.inputs.values().chain(step.settings.values());
    sources
        .filter_map(|source| match source {
            Source::Output { step, .. } => Some(*step),
            Source::File(_) | Source::Content(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
