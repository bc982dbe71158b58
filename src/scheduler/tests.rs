use std::collections::BTreeMap;

use bstar_cache::{Artifact, Digest};
use bstar_stages::config::SampleShard;
use bstar_stages::{Output, StageConfig};
use proptest::prelude::*;

use super::*;
use crate::pipeline::Policy;
use crate::plan::Section;

mod large;

const ONE: Resources = Resources { cpu: 1, gpu: 0, memory: 0 };

fn stage() -> StageConfig {
    let with = serde_json::json!({"argv": ["true"], "outputs": ["out"]});
    StageConfig::parse("command", with).unwrap().unwrap()
}

fn add(plan: &mut Plan, inputs: &[usize], parent: Option<StepId>) -> StepId {
    add_with(plan, inputs, parent, 0)
}

fn add_with(plan: &mut Plan, inputs: &[usize], parent: Option<StepId>, priority: i64) -> StepId {
    let step = step(plan, inputs, parent, priority);
    plan.add(step)
}

fn step(plan: &Plan, inputs: &[usize], parent: Option<StepId>, priority: i64) -> Step {
    let source =
        |step: &usize| Source::Output { step: StepId::new(*step), output: Output::file("out", "out") };
    Step {
        name: plan.len().to_string(),
        entry: String::new(),
        seed: 0,
        policy: Policy { priority, ..Policy::default() },
        section: Section::Setup,
        stage: stage(),
        inputs: inputs.iter().map(|step| (format!("i{step}"), source(step))).collect(),
        settings: BTreeMap::new(),
        parent: parent.map(|parent| (parent, String::new())),
    }
}

/// A shard that samples from these queries.
fn add_sample(plan: &mut Plan, inputs: &[usize], parent: Option<StepId>, queries: &str) -> StepId {
    let mut step = step(plan, inputs, parent, 0);
    step.stage = StageConfig::SampleShard(SampleShard {
        temperature: 1.0,
        start: 0,
        end: 16,
        max_tokens: 8,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        stop: Vec::new(),
        precision: Default::default(),
        logprobs: false,
    });
    let artifact = Artifact { digest: Digest::of(queries.as_bytes()), size: queries.len() as u64 };
    step.inputs.insert("policy".to_owned(), Source::File("policy".into()));
    step.inputs.insert("queries".to_owned(), Source::Content(artifact));
    plan.add(step)
}

/// A random plan, and what happens to each of its steps.
#[derive(Debug, Clone, Default)]
struct Case {
    inputs: Vec<Vec<usize>>,
    fates: Vec<Fate>,
    /// Cores and GPUs.
    needs: Vec<(usize, usize)>,
    priorities: Vec<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Cached,
    Runs,
    Fails,
    /// Started, it turns out to be executed by another run, and is there when asked for again.
    Elsewhere,
    Unfolds(usize),
}

fn case(failures: u32) -> impl Strategy<Value = Case> {
    let fate = prop_oneof![
        3 => Just(Fate::Cached),
        6 => Just(Fate::Runs),
        failures => Just(Fate::Fails),
        2 => Just(Fate::Elsewhere),
        2 => (0_usize..4).prop_map(Fate::Unfolds),
    ];
    let inputs = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let step = (inputs, fate, (1_usize..5, 0_usize..3), -2_i64..3);
    prop::collection::vec(step, 1..40).prop_map(|steps| {
        let mut case = Case::default();
        for (index, (inputs, fate, needs, priority)) in steps.into_iter().enumerate() {
            let inputs =
                if index == 0 { Vec::new() } else { inputs.iter().map(|i| i.index(index)).collect() };
            case.inputs.push(inputs);
            case.fates.push(fate);
            case.needs.push(needs);
            case.priorities.push(priority);
        }
        case
    })
}

/// Runs a case, finishing running steps in the order that `picks` decides; checks every transition.
fn drive(case: &Case, jobs: usize, keep_going: bool, picks: &[prop::sample::Index]) -> Vec<State> {
    let mut plan = Plan::default();
    for (inputs, priority) in case.inputs.iter().zip(&case.priorities) {
        add_with(&mut plan, inputs, None, *priority);
    }
    let steps = case.inputs.len();
    let needs = |id: StepId| {
        let (cpu, gpu) = case.needs.get(id.index()).copied().unwrap_or((1, 0));
        Resources { cpu, gpu, memory: 0 }
    };
    let mut scheduler = Scheduler::new(Resources { cpu: jobs, gpu: 1, memory: 0 }, keep_going);
    let all: Vec<Resources> = plan.ids().map(needs).collect();
    let mut index = 0;
    let by_order = std::cell::RefCell::new(&mut index);
    let next_needs = |_: &Step| {
        let mut index = by_order.borrow_mut();
        **index += 1;
        all.get(**index - 1).copied().unwrap_or(ONE)
    };
    scheduler.grow(&plan, next_needs);
    let (mut running, mut elsewhere): (Vec<StepId>, Vec<StepId>) = (Vec::new(), Vec::new());
    let mut started = vec![0; steps];
    let mut pick = picks.iter().cycle();
    loop {
        while let Some(id) = scheduler.next_ready() {
            for input in case.inputs.get(id.index()).into_iter().flatten() {
                assert!(matches!(scheduler.states()[*input], State::Done { .. }), "an input is not done");
            }
            match case.fates.get(id.index()).copied().unwrap_or(Fate::Runs) {
                Fate::Cached => scheduler.finished(id, true),
                Fate::Elsewhere if started[id.index()] > 0 => scheduler.finished(id, true),
                Fate::Runs | Fate::Fails | Fate::Elsewhere => scheduler.missed(id),
                Fate::Unfolds(shards) => {
                    for shard in 0..shards {
                        let queries = ["one", "other"][shard % 2];
                        add_sample(&mut plan, &case.inputs[id.index()], Some(id), queries);
                    }
                    scheduler.unfolded(id, &plan, next_needs);
                }
            }
        }
        if let Some(id) = scheduler.next_gathered() {
            scheduler.finished(id, false);
            continue;
        }
        while let Some(id) = scheduler.start() {
            if let Some(count) = started.get_mut(id.index()) {
                *count += 1;
                assert_eq!(*count, 1, "a step starts once");
            }
            if case.fates.get(id.index()) == Some(&Fate::Elsewhere) {
                scheduler.elsewhere(id);
                elsewhere.push(id);
                continue;
            }
            running.push(id);
            let taken: usize =
                running.iter().map(|id| all.get(id.index()).copied().unwrap_or(ONE).cpu.min(jobs)).sum();
            assert!(taken <= jobs, "{taken} of {jobs} cores taken");
            let on_device =
                running.iter().filter(|id| all.get(id.index()).is_some_and(|needs| needs.gpu > 0));
            assert!(on_device.count() <= 1, "two steps on one device");
        }
        if running.is_empty() && (elsewhere.is_empty() || scheduler.halted()) {
            return scheduler.states()[..steps].to_vec();
        }
        let next = pick.next().unwrap().index(running.len() + elsewhere.len());
        if next >= running.len() {
            scheduler.ask_again(elsewhere.swap_remove(next - running.len()));
            continue;
        }
        let id = running.swap_remove(next);
        if case.fates.get(id.index()) == Some(&Fate::Fails) {
            drop(scheduler.failed(id));
        } else {
            scheduler.finished(id, false);
        }
    }
}

/// What the end must be with `keep_going`, computed step by step.
fn expected(case: &Case) -> Vec<State> {
    let mut states: Vec<State> = Vec::new();
    for (inputs, fate) in case.inputs.iter().zip(&case.fates) {
        let broken = inputs.iter().any(|input| matches!(states[*input], State::Failed | State::Skipped));
        states.push(match fate {
            _ if broken => State::Skipped,
            Fate::Fails => State::Failed,
            Fate::Cached | Fate::Elsewhere => State::Done { cached: true },
            Fate::Runs | Fate::Unfolds(_) => State::Done { cached: false },
        });
    }
    states
}

proptest! {
    #[test]
    fn every_step_is_done_exactly_once_and_after_its_inputs(
        case in case(0), jobs in 1_usize..5, picks in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
    ) {
        let states = drive(&case, jobs, false, &picks);
        prop_assert_eq!(states, expected(&case));
    }

    #[test]
    fn a_failure_skips_exactly_the_descendants_in_any_order_of_completion(
        case in case(2), jobs in 1_usize..5, picks in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
    ) {
        let states = drive(&case, jobs, true, &picks);
        prop_assert_eq!(states, expected(&case));
    }

    #[test]
    fn without_keep_going_only_descendants_are_skipped_and_nothing_runs_on(
        case in case(2), jobs in 1_usize..5, picks in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
    ) {
        let states = drive(&case, jobs, false, &picks);
        for (state, wanted) in states.iter().zip(expected(&case)) {
            let not_reached = matches!(state, State::Waiting | State::Ready | State::Queued | State::Elsewhere | State::Unfolded);
            prop_assert!(not_reached || *state == wanted, "{:?} instead of {:?}", state, wanted);
        }
    }
}

#[test]
fn the_longest_chain_goes_first_then_the_order_of_the_plan() {
    let mut plan = Plan::default();
    let lone = add(&mut plan, &[], None);
    let second = add(&mut plan, &[], None);
    let head = add(&mut plan, &[], None);
    add(&mut plan, &[head.index()], None);
    let mut scheduler = Scheduler::new(ONE, false);
    scheduler.grow(&plan, |_| ONE);
    while let Some(id) = scheduler.next_ready() {
        scheduler.missed(id);
    }
    let mut order = Vec::new();
    while let Some(id) = scheduler.start() {
        order.push(id);
        scheduler.finished(id, false);
    }
    assert_eq!(order, [head, lone, second]);
}

/// Looks all steps up, finds nothing, and runs them one by one.
fn one_by_one(plan: &Plan, needs: impl Fn(&Step) -> Resources) -> Vec<StepId> {
    let mut scheduler = Scheduler::new(Resources { gpu: 1, ..ONE }, false);
    scheduler.grow(plan, needs);
    let mut order = Vec::new();
    loop {
        while let Some(id) = scheduler.next_ready() {
            scheduler.missed(id);
        }
        let Some(id) = scheduler.start() else { return order };
        order.push(id);
        scheduler.finished(id, false);
    }
}

#[test]
fn a_higher_priority_goes_first_with_all_it_needs_and_a_lower_one_last() {
    let mut plan = Plan::default();
    let last = add_with(&mut plan, &[], None, -1);
    let usual = add(&mut plan, &[], None);
    add(&mut plan, &[usual.index()], None);
    let needed = add(&mut plan, &[], None);
    let urgent = add_with(&mut plan, &[needed.index()], None, 5);
    let order = one_by_one(&plan, |_| ONE);
    assert_eq!(order[..2], [needed, urgent]);
    assert_eq!(order.last(), Some(&last));
}

#[test]
fn what_unlocks_work_for_the_device_goes_before_longer_chains_without_any() {
    let mut plan = Plan::default();
    let mut chain = vec![add(&mut plan, &[], None)];
    for before in 0..4 {
        chain.push(add(&mut plan, &[before], None));
    }
    let unlocks = add(&mut plan, &[], None);
    let on_device = add(&mut plan, &[unlocks.index()], None);
    let needs = |step: &Step| Resources { gpu: usize::from(step.name == "6"), ..ONE };
    let order = one_by_one(&plan, needs);
    assert_eq!(order[..2], [unlocks, on_device]);
    assert_eq!(order[2..], chain);
}

#[test]
fn a_big_step_takes_what_there_is_and_is_not_starved() {
    let mut plan = Plan::default();
    let first = add(&mut plan, &[], None);
    let big = add(&mut plan, &[], None);
    let small = add(&mut plan, &[], None);
    let mut scheduler = Scheduler::new(Resources { cpu: 2, gpu: 0, memory: 0 }, false);
    let needs = std::cell::RefCell::new([1, 8, 1].into_iter());
    scheduler.grow(&plan, |_| Resources { cpu: needs.borrow_mut().next().unwrap(), gpu: 0, memory: 0 });
    while let Some(id) = scheduler.next_ready() {
        scheduler.missed(id);
    }
    assert_eq!(scheduler.start(), Some(first));
    assert_eq!(scheduler.start(), None, "the free core is kept for the big step");
    scheduler.finished(first, false);
    assert_eq!(scheduler.start(), Some(big));
    assert_eq!(scheduler.start(), None);
    scheduler.finished(big, false);
    assert_eq!(scheduler.start(), Some(small));
}

#[test]
fn a_worker_goes_on_with_its_queries_and_begins_those_that_no_other_is_at() {
    let mut plan = Plan::default();
    for sample in 0..3 {
        // As in a search: at each temperature all queries.
        for queries in ["a", "b", "c", "d", "e"] {
            let id = add_sample(&mut plan, &[], None, queries);
            assert_eq!(id.index() % 5, "abcde".find(queries).unwrap(), "sample {sample}");
        }
    }
    let mut scheduler = Scheduler::new(Resources { cpu: 2, gpu: 0, memory: 0 }, false);
    scheduler.grow(&plan, |_| ONE);
    while let Some(id) = scheduler.next_ready() {
        scheduler.missed(id);
    }
    let mut workers: [Vec<usize>; 2] = Default::default();
    let mut running = [scheduler.start(), scheduler.start()];
    // The first is twice as fast.
    for ended in [0, 0, 1].into_iter().cycle() {
        let Some(id) = running[ended].take() else { break };
        workers[ended].push(id.index());
        scheduler.finished(id, false);
        running[ended] = scheduler.start();
        assert_eq!(scheduler.start(), None);
    }
    // Queries are `index % 5`, three samples of each; at the end they share what is left.
    assert_eq!(workers[0], [0, 5, 10, 2, 7, 12, 3, 8, 13, 14]);
    assert_eq!(workers[1], [1, 6, 11, 4, 9]);
}

#[test]
fn a_step_waiting_for_a_gpu_does_not_hold_cores() {
    let mut plan = Plan::default();
    let ids: Vec<StepId> = (0..3).map(|_| add(&mut plan, &[], None)).collect();
    let mut scheduler = Scheduler::new(Resources { cpu: 2, gpu: 1, memory: 0 }, false);
    let needs = std::cell::RefCell::new([1, 1, 0].into_iter());
    scheduler.grow(&plan, |_| Resources { cpu: 1, gpu: needs.borrow_mut().next().unwrap(), memory: 0 });
    while let Some(id) = scheduler.next_ready() {
        scheduler.missed(id);
    }
    assert_eq!(scheduler.start(), Some(ids[0]));
    assert_eq!(scheduler.start(), Some(ids[2]));
    assert_eq!(scheduler.start(), None);
}

#[test]
fn a_step_that_another_run_executes_takes_nothing_until_it_is_asked_for_again() {
    let mut plan = Plan::default();
    let first = add(&mut plan, &[], None);
    let second = add(&mut plan, &[], None);
    let mut scheduler = Scheduler::new(ONE, false);
    scheduler.grow(&plan, |_| ONE);
    while let Some(id) = scheduler.next_ready() {
        scheduler.missed(id);
    }
    assert_eq!((scheduler.start(), scheduler.start()), (Some(first), None));
    scheduler.elsewhere(first);
    assert_eq!((scheduler.state(first), scheduler.running()), (State::Elsewhere, 0));
    assert_eq!(scheduler.start(), Some(second), "its core is free");
    assert_eq!(scheduler.next_ready(), None);
    scheduler.ask_again(first);
    assert_eq!(scheduler.next_ready(), Some(first));
    // The other run has given up: it is executed here.
    scheduler.missed(first);
    scheduler.finished(second, false);
    assert_eq!(scheduler.start(), Some(first));
    scheduler.finished(first, false);
}

#[test]
fn a_failed_shard_skips_its_whole_and_what_needs_it() {
    let mut plan = Plan::default();
    let whole = add(&mut plan, &[], None);
    let user = add(&mut plan, &[whole.index()], None);
    let mut scheduler = Scheduler::new(Resources { cpu: 2, gpu: 0, memory: 0 }, true);
    scheduler.grow(&plan, |_| ONE);
    assert_eq!(scheduler.next_ready(), Some(whole));
    let shards = [add(&mut plan, &[], Some(whole)), add(&mut plan, &[], Some(whole))];
    scheduler.unfolded(whole, &plan, |_| ONE);
    assert_eq!(scheduler.state(whole), State::Unfolded);
    for shard in shards {
        assert_eq!(scheduler.next_ready(), Some(shard));
        scheduler.missed(shard);
        assert_eq!(scheduler.start(), Some(shard));
    }
    assert_eq!(scheduler.failed(shards[0]), [whole, user]);
    scheduler.finished(shards[1], false);
    assert_eq!(scheduler.next_gathered(), None);
    assert_eq!(scheduler.state(whole), State::Skipped);
}

#[test]
fn a_plan_of_ten_thousand_steps_is_carried_out_whole() {
    const STEPS: usize = 10_000;
    let mut plan = Plan::default();
    for index in 0..STEPS {
        // A thousand chains of ten, every head fed by the first step.
        let inputs = if index == 0 {
            vec![]
        } else if index % 10 == 1 {
            vec![0]
        } else {
            vec![index - 1]
        };
        add(&mut plan, &inputs, None);
    }
    let mut scheduler = Scheduler::new(Resources { cpu: 4, gpu: 0, memory: 0 }, false);
    scheduler.grow(&plan, |_| ONE);
    let mut finished = 0;
    while finished < STEPS {
        while let Some(id) = scheduler.next_ready() {
            scheduler.missed(id);
        }
        while let Some(id) = scheduler.start() {
            scheduler.finished(id, false);
            finished += 1;
        }
    }
    assert_eq!((scheduler.next_ready(), scheduler.start(), scheduler.running()), (None, None, 0));
}

#[test]
fn steps_share_the_memory_there_is() {
    let mut plan = Plan::default();
    let ids: Vec<StepId> = (0..3).map(|_| add(&mut plan, &[], None)).collect();
    let mut scheduler = Scheduler::new(Resources { cpu: 3, gpu: 0, memory: 10 }, false);
    // The first wants more than there is, and so takes it all.
    let needs = std::cell::RefCell::new([20, 5, 5].into_iter());
    scheduler.grow(&plan, |_| Resources { cpu: 1, gpu: 0, memory: needs.borrow_mut().next().unwrap() });
    while let Some(id) = scheduler.next_ready() {
        scheduler.missed(id);
    }
    assert_eq!((scheduler.start(), scheduler.start()), (Some(ids[0]), None));
    scheduler.finished(ids[0], false);
    assert_eq!((scheduler.start(), scheduler.start()), (Some(ids[1]), Some(ids[2])));
}
