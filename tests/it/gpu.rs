//! Whole pipelines on a GPU, or on what stands in for one (`lm/tests/stand_in/cuda.cpp`).

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::kill::kill_when;
use crate::servers as skipped;
use crate::support::{Outcome, Space, results};

#[path = "../../lm/tests/support/stand_in.rs"]
mod stand_in;

/// `tiny.yaml` on the GPU.
fn run(space: &Space, library: &Path, memory: u64) -> Command {
    let mut command =
        space.command(&["pipeline", "run", "tiny.yaml", "--device", "cuda", "--format", "json"]);
    command.env("LD_LIBRARY_PATH", library).env("STAND_IN_MEMORY", memory.to_string());
    command
}

fn outcome(mut command: Command) -> Outcome {
    Outcome::of(command.output().expect("bstar starts"))
}

#[test]
fn a_pipeline_on_a_gpu_is_kept_and_killed_as_on_a_cpu() {
    let Some(library) = stand_in::gpu_library() else { return };
    let (space, plenty) = (Space::new(), 1 << 33);
    let first = outcome(run(&space, &library, plenty)).summary();
    assert!(first["executed"].as_u64() > Some(50), "{first}");
    let again = outcome(run(&space, &library, plenty)).summary();
    assert_eq!((&again["executed"], results(&again)), (&Value::from(0), results(&first)));

    let killed = Space::new();
    let training = |event: &Value| {
        event["event"] == "progress" && event["step"] == "setup.pretrain" && event["done"].as_u64() > Some(20)
    };
    kill_when(&mut run(&killed, &library, plenty), training);
    kill_when(&mut run(&killed, &library, plenty), |event| {
        let step = event["step"].as_str().unwrap_or_default();
        event["event"] == "running" && step.starts_with("iteration[0].responses/")
    });
    assert_eq!(results(&outcome(run(&killed, &library, plenty)).summary()), results(&first));
}

#[test]
fn a_pipeline_goes_on_where_a_gpu_has_little_memory_and_says_where_it_has_too_little() {
    let Some(library) = stand_in::gpu_library() else { return };
    if !library.starts_with(env!("CARGO_TARGET_TMPDIR")) {
        return skipped::skipped("the memory of a real GPU cannot be limited");
    }
    let [plenty, little] = [1 << 33, 12_000_000].map(|memory| {
        let space = Space::new();
        results(&outcome(run(&space, &library, memory)).summary())
    });
    assert_eq!(plenty, little);
    let outcome = outcome(run(&Space::new(), &library, 100_000));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    let told: Vec<Value> = outcome.events().into_iter().filter(|event| event["event"] == "failed").collect();
    let text = told[0].to_string();
    assert!(text.contains("CUDA out of memory") && text.contains("fewer workers"), "{text}");
}
