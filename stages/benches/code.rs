//! Programs judged in the sandbox, on one core: medians of five.
//!
//! ```sh
//! cargo bench -p bstar-stages --bench code
//! ```

use std::time::Instant;

use bstar_stages::code::{Examples, Judge, Rules, Tests};
use bstar_stages::sandbox::Sandbox;
use serde_json::Value;

/// Tests of one program in one sandbox.
const TESTS: usize = 300;
/// Programs in a sandbox each.
const PROGRAMS: usize = 30;

#[expect(clippy::print_stdout, reason = "the answer of the benchmark")]
fn main() {
    let sandbox = match Sandbox::find() {
        Ok(sandbox) => sandbox,
        Err(error) => return println!("{error}"),
    };
    let mut judge = Judge::new(sandbox, Rules::default());
    let text = |number: usize| Value::from(number.to_string());
    let examples = Examples {
        inputs: (0..TESTS).map(text).collect(),
        outputs: (1..=TESTS).map(text).collect(),
        fn_name: None,
    };
    let many = Tests::Examples(examples);
    let few =
        Tests::Statements { tests: vec!["assert up(1) == 2".to_owned(), "assert up(-1) == 0".to_owned()] };
    let program = "print(int(input()) + 1)";
    let function = "def up(x):\n    return x + 1";
    let rate = |count: usize, mut work: Box<dyn FnMut() + '_>| {
        let mut times: Vec<f64> = (0..5)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / times[2]
    };
    let judged = |judge: &mut Judge, code: &str, tests: &Tests| {
        let verdict = judge.judge(code, tests);
        assert!(verdict.is_ok_and(|verdict| verdict.correct), "the program is right");
    };
    let tests = rate(TESTS, Box::new(|| judged(&mut judge, program, &many)));
    println!("tests of one program: {tests:.0} a second");
    let programs =
        rate(PROGRAMS, Box::new(|| (0..PROGRAMS).for_each(|_| judged(&mut judge, function, &few))));
    println!("programs with two assertions: {programs:.1} a second");
}
