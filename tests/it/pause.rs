//! A run that stands still and goes on later does no harm.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::servers::Server;
use crate::support::results;
use crate::toy::{LEASE, Toy};

fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _may_be_gone = kill_process(*pid, signal);
    }
}

/// Stops a run, with its programs, in the middle of a step, and lets one on `machine` go on for `pause`,
/// or until it is done. Returns how many executions there were in the end.
fn pause_one_of_two(toy: &Toy, machine: &str, pause: Duration) -> usize {
    let mut paused = toy.start_on("machine0", "engine0", 1);
    while toy.executions().len() < 4 {
        assert!(paused.try_wait().expect("a status").is_none(), "{}", toy.said("engine0").1);
        std::thread::sleep(Duration::from_millis(5));
    }
    let processes = toy.processes();
    signal(&processes, Signal::STOP);
    let mut other = toy.start_on(machine, "engine1", 1);
    let until = Instant::now() + pause;
    while Instant::now() < until && other.try_wait().expect("a status").is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&processes, Signal::CONT);
    for (name, engine) in [("engine0", &mut paused), ("engine1", &mut other)] {
        let status = engine.wait().expect("a status");
        assert!(status.success(), "{name}: {}", toy.said(name).1);
        assert_eq!(results(&toy.said(name).0), toy.expected());
    }
    toy.leaves_no_process();
    toy.executions().values().sum()
}

#[test]
fn a_paused_run_on_the_same_machine_is_waited_for() {
    let toy = Toy::new(3, 3).with("STEPS_PAUSE", "0.1");
    assert_eq!(pause_one_of_two(&toy, "machine0", Duration::from_secs(3)), toy.steps());
}

#[test]
fn a_paused_run_on_another_machine_loses_its_lease_and_does_no_harm() {
    let Some(server) = Server::moto() else { return };
    let toy = Toy::new(3, 3).with("STEPS_PAUSE", "0.3").on(&server, "pause");
    let executions = pause_one_of_two(&toy, "machine1", LEASE + Duration::from_secs(120));
    assert!(executions <= toy.steps() + 1, "{:?}", toy.executions());
    let (summary, _) = toy.said("engine1");
    assert!(summary["executed"].as_u64() >= Some(5), "the other run went on meanwhile: {summary}");
}
