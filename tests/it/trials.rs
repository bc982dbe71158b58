//! Runs of tiny steps killed at random moments: the same command again ends as if nothing had been.
//!
//! `BSTAR_TRIALS=1000` makes that many trials, `BSTAR_TRIALS=full` the promised 1,000.

use std::time::{Duration, Instant};

use crate::servers::Server;
use crate::support::results;
use crate::toy::{Numbers, Toy, end, tell, trials};

const LAYERS: usize = 5;
const WIDTH: usize = 4;

/// What all trials together saw.
#[derive(Default)]
struct Tally {
    killed: usize,
    published: usize,
    again: usize,
}

/// Kills one run `after` it started, the engine `alone` or with its programs, and runs it again.
fn trial(toy: &Toy, after: Duration, alone: bool, tally: &mut Tally) {
    let mut engine = toy.start();
    std::thread::sleep(after);
    tally.killed += usize::from(engine.try_wait().expect("a status").is_none());
    if !alone {
        toy.kill_all();
    }
    end(&mut engine);
    let (before, published) = (toy.executions(), toy.published());
    let summary = toy.run(&[]).summary();
    assert_eq!(results(&summary), toy.expected());
    let executions = toy.executions();
    for step in &published {
        assert_eq!(executions[step], before[step], "{step} was published and executed again");
    }
    assert_eq!(executions.len(), toy.steps());
    assert!(executions.values().all(|times| *times <= 2), "{executions:?}");
    assert!(summary["executed"].as_u64() <= Some((toy.steps() - published.len()) as u64), "{summary}");
    tally.published += published.len();
    tally.again += executions.values().sum::<usize>() - toy.steps();
    toy.leaves_no_process();
    assert_eq!(toy.run(&[]).summary()["executed"], 0);
}

/// The time of an undisturbed run.
fn timed(toy: &Toy) -> Duration {
    let began = Instant::now();
    assert_eq!(results(&toy.run(&[]).summary()), toy.expected());
    began.elapsed()
}

/// Kills at moments spread evenly over the time of an undisturbed run.
fn kill_at_random_moments(number: usize, toy: impl Fn(usize) -> Toy) {
    let duration = (1..=3).map(|index| timed(&toy(number + index))).min().expect("a time");
    let mut moments = Numbers(20_240_711);
    let mut tally = Tally::default();
    for index in 1..=number {
        let after = duration.mul_f64(moments.share());
        trial(&toy(index), after, index % 2 == 0, &mut tally);
    }
    let Tally { killed, published, again } = tally;
    tell(&format!(
        "{number} trials over {duration:?}: {killed} killed, {published} published, {again} again"
    ));
    assert!(killed >= number / 4, "only {killed} of {number} runs were killed before they ended");
}

#[test]
fn kill_trials_on_the_local_disk_end_with_the_undisturbed_results() {
    kill_at_random_moments(trials(40, 1000), |_| Toy::new(LAYERS, WIDTH));
}

#[test]
fn kill_trials_on_s3_end_with_the_undisturbed_results() {
    let Some(server) = Server::s3s() else { return };
    let toy = |index| Toy::new(LAYERS, WIDTH).on(&server, &format!("trial-{index}"));
    kill_at_random_moments(trials(10, 1000), toy);
}

#[test]
fn kill_of_an_engine_ends_its_programs() {
    let toy = Toy::new(1, 2).with("STEPS_PAUSE", "100");
    let mut engine = toy.start();
    let deadline = Instant::now() + Duration::from_secs(20);
    while toy.executions().len() < 2 {
        assert!(Instant::now() < deadline, "the steps never began");
        std::thread::sleep(Duration::from_millis(10));
    }
    end(&mut engine);
    toy.leaves_no_process();
}
