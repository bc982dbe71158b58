//! Many engines on one store at once: every step is executed once, whoever does it.
//!
//! `BSTAR_TRIALS=full` races for 300 steps everywhere.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::servers::Server;
use crate::support::results;
use crate::toy::{Numbers, Toy, end, tell, trials};

const ENGINES: usize = 8;
const WIDTH: usize = 10;
/// A race that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(900);

/// The engine's number as a machine's name: engines that share a disk share the machine.
fn machine(engine: usize, many: bool) -> String {
    if many { format!("machine{engine}") } else { "machine".to_owned() }
}

struct Engine {
    name: String,
    child: Child,
    done: bool,
}

/// One engine, whose output goes to files of its own.
fn start(toy: &Toy, engine: usize, many: bool) -> Engine {
    let name = format!("engine{engine}");
    let child = toy.start_on(&machine(engine, many), &name, 1);
    Engine { name, child, done: false }
}

/// Lets engines run until all are done, killing one now and then and starting it again `kills` times.
fn race(toy: &Toy, many: bool, kills: usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let mut numbers = Numbers(8_300);
    let mut engines: Vec<Engine> = (0..ENGINES).map(|engine| start(toy, engine, many)).collect();
    let (mut killed, mut next) = (0, steps_done(toy) + toy.steps() / (kills + 2));
    while engines.iter().any(|engine| !engine.done) {
        assert!(Instant::now() < deadline, "the race hangs: {:?}", toy.executions().len());
        std::thread::sleep(Duration::from_millis(5));
        // Kills come as the work goes on, so that they are spread over it however fast it goes.
        if killed < kills && steps_done(toy) >= next {
            std::thread::sleep(Duration::from_millis(numbers.below(20) as u64));
            let victim = victim(toy, &engines, &mut numbers);
            if !engines[victim].done && engines[victim].child.try_wait().expect("a status").is_none() {
                end(&mut engines[victim].child);
                std::thread::sleep(Duration::from_millis(numbers.below(100) as u64));
                engines[victim] = start(toy, victim, many);
                killed += 1;
            }
            next += toy.steps() / (kills + 2);
        }
        for engine in &mut engines {
            if !engine.done
                && let Some(status) = engine.child.try_wait().expect("a status")
            {
                let (summary, errors) = toy.said(&engine.name);
                assert!(status.success(), "{} {status}: {errors}", engine.name);
                assert_eq!(summary["failed"], 0, "{summary}");
                engine.done = true;
            }
        }
    }
    killed
}

/// Some engine whose program is running; any engine when there is none.
fn victim(toy: &Toy, engines: &[Engine], numbers: &mut Numbers) -> usize {
    let parents = toy.parents_of_programs();
    let holders: Vec<usize> =
        (0..ENGINES).filter(|index| parents.contains(&engines[*index].child.id())).collect();
    let any = numbers.below(ENGINES);
    if holders.is_empty() { any } else { holders[any % holders.len()] }
}

fn steps_done(toy: &Toy) -> usize {
    toy.executions().len()
}

/// Everyone has the right results.
fn all_agree(toy: &Toy) {
    for engine in 0..ENGINES {
        let (summary, _) = toy.said(&format!("engine{engine}"));
        assert_eq!(results(&summary), toy.expected());
    }
    toy.leaves_no_process();
}

fn every_step_is_executed_once(toy: &Toy, many: bool) {
    let began = Instant::now();
    race(toy, many, 0);
    tell(&format!("{} steps by {ENGINES} engines in {:?}", toy.steps(), began.elapsed()));
    let executions = toy.executions();
    assert_eq!(executions.len(), toy.steps());
    let more: Vec<_> = executions.iter().filter(|(_, times)| **times != 1).collect();
    assert!(more.is_empty(), "executed more than once: {more:?}");
    all_agree(toy);
}

fn a_kill_costs_at_most_one_execution(toy: &Toy, many: bool, kills: usize) {
    let began = Instant::now();
    let killed = race(toy, many, kills);
    let executions = toy.executions();
    let extra = executions.values().sum::<usize>() - toy.steps();
    let steps = toy.steps();
    tell(&format!("{steps} steps, {killed} kills, {extra} extra executions in {:?}", began.elapsed()));
    assert_eq!(executions.len(), toy.steps());
    assert!(extra <= killed, "{extra} executions more than steps, with {killed} kills: {executions:?}");
    assert!(killed > 0 || kills == 0);
    all_agree(toy);
}

#[test]
fn race_of_eight_engines_on_the_local_disk_executes_every_step_once() {
    every_step_is_executed_once(&Toy::new(30, WIDTH), false);
}

#[test]
fn race_with_killed_engines_on_the_local_disk_costs_at_most_an_execution_a_kill() {
    let layers = trials(15, 30);
    a_kill_costs_at_most_one_execution(&Toy::new(layers, WIDTH), false, layers);
}

#[test]
fn race_of_eight_machines_on_s3_executes_every_step_once() {
    let Some(server) = Server::moto() else { return };
    let layers = trials(6, 30);
    every_step_is_executed_once(&Toy::new(layers, WIDTH).on(&server, "race"), true);
}

#[test]
fn race_with_killed_machines_on_s3_costs_at_most_an_execution_a_kill() {
    let Some(server) = Server::moto() else { return };
    let layers = trials(4, 30);
    a_kill_costs_at_most_one_execution(&Toy::new(layers, WIDTH).on(&server, "race"), true, layers);
}

#[test]
fn two_runs_at_once_execute_each_of_twenty_steps_once() {
    let toy = Toy::new(5, 4).with("STEPS_PAUSE", "0.15");
    let mut engines: Vec<Engine> = (0..2)
        .map(|engine| {
            let name = format!("engine{engine}");
            Engine { child: toy.start_on("machine", &name, 2), name, done: false }
        })
        .collect();
    for Engine { name, child, .. } in &mut engines {
        assert!(child.wait().expect("a status").success());
        assert_eq!(results(&toy.said(name).0), toy.expected());
    }
    assert!(toy.executions().values().all(|times| *times == 1), "{:?}", toy.executions());
}
