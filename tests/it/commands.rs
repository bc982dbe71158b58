//! Any program as a stage.

use std::process::Command;

use crate::support::{Outcome, Space, executed, repository, results};

/// The example with a reward in Python, in a space of its own.
fn example() -> Space {
    let space = Space::new();
    let status = Command::new("cp")
        .arg("-r")
        .arg(repository().join("examples/python_reward"))
        .arg(space.path())
        .status();
    assert!(status.expect("cp runs").success());
    space
}

fn run(space: &Space, more: &[&str]) -> Outcome {
    let mut arguments = vec!["pipeline", "run", "python_reward/pipeline.yaml", "--format", "json"];
    arguments.extend(more);
    space.run(&arguments)
}

fn edit(space: &Space, from: &str, to: &str) {
    let file = space.path().join("python_reward/reward.py");
    let text = std::fs::read_to_string(&file).expect("reward.py");
    assert!(text.contains(from), "reward.py has no `{from}`");
    std::fs::write(&file, text.replacen(from, to, 1)).expect("an edited file");
}

#[test]
fn a_reward_in_python_drives_the_loop_and_a_change_of_it_samples_nothing_again() {
    let space = example();
    // One temperature, so that another choice cannot move the sampling.
    let one = ["iterations=1", "iteration.explore.temperature=[1.0]"];
    let first = run(&space, &one).summary();
    assert_eq!(executed(&first, "command"), 2);
    assert!(first["iterations"][0]["kept"].as_u64() > Some(0), "{first}");
    assert!(first["iterations"][0]["pass_at_1"].is_number(), "{first}");
    assert_eq!(run(&space, &one).summary()["executed"], 0);

    edit(&space, "\"\"\"A reward", "# Cosmetics.\n\"\"\"A reward");
    let cosmetic = run(&space, &one).summary();
    assert_eq!(cosmetic["executed_by_stage"], serde_json::json!({"command": 2}));
    assert_eq!(results(&cosmetic), results(&first));

    edit(&space, "2 * true / len(equations) - 1", "true / len(equations)");
    let plan = space.run(&[&["pipeline", "plan", "python_reward/pipeline.yaml"], &one[..]].concat());
    assert!(plan.stdout.contains("the file reward.py, which changed"), "{}", plan.stdout);
    let changed = run(&space, &one);
    assert_eq!(executed(&changed.summary(), "command"), 2);
    let early: Vec<String> = changed
        .events()
        .iter()
        .take_while(|event| !(event["event"] == "done" && event["step"] == "iteration[0].train"))
        .filter(|event| event["event"] == "running")
        .filter_map(|event| event["stage"].as_str().map(str::to_owned))
        .collect();
    assert!(!early.iter().any(|stage| stage == "sample" || stage == "score"), "{early:?}");
    assert_ne!(
        results(&changed.summary())["iteration[0].rewards.rewards.jsonl"],
        results(&first)["iteration[0].rewards.rewards.jsonl"]
    );
    let log = space.run(&["step", "log", "iteration[0].rewards"]);
    assert_eq!(log.code, Some(0), "{}", log.stderr);
    assert!(log.stdout.starts_with("judged 1024 responses, 0 of them"), "{}", log.stdout);
}

#[test]
fn a_reward_that_does_not_fit_is_an_error_by_file_row_and_field() {
    let space = example();
    edit(&space, "\"reward\": float(correct)", "\"rewrad\": float(correct)");
    let outcome = run(&space, &["iterations=1"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("`rewards.jsonl`, row 1, missing field `reward`"), "{}", outcome.stdout);
}

#[test]
fn responses_may_be_a_single_file() {
    let space = Space::new();
    space.write("queries.jsonl", "{\"id\": \"q\", \"prompt\": \"?\", \"answer\": \"7\"}\n");
    let row = |index: u32, text: &str| {
        let row = serde_json::json!({
            "query_id": "q", "sample_index": index, "temperature": 1.0, "text": text, "tokens": 1, "logprob": -1.0,
            "finish_reason": "stop",
        });
        format!("{row}\n")
    };
    space.write("given.jsonl", &[row(0, "# Answer\n\n7"), row(1, "# Answer\n\n8")].concat());
    space.write(
        "lone.yaml",
        r#"
name: lone
inputs: {given: given.jsonl, queries: queries.jsonl}
setup:
  made:
    uses: command
    with: {argv: [cp, "{in.given}", "{out}/r.jsonl"], inputs: {given: given}, outputs: {r.jsonl: responses}}
  of_input: {uses: score, with: {responses: given, queries: queries}}
  of_command: {uses: score, with: {responses: made, queries: queries}}
  search: {uses: search, with: {rewards: of_input, thresholds: [0.5, -0.5], n_star: 1}}
  kept: {uses: filter, with: {queries: queries, responses: made, rewards: of_command, threshold: search.threshold}}
"#,
    );
    let run =
        |more: &[&str]| space.run(&[&["pipeline", "run", "lone.yaml", "--format", "json"], more].concat());
    let first = run(&[]);
    let summary = first.summary();
    // The same responses: judged once.
    assert_eq!(executed(&summary, "score"), 1, "{summary}");
    let done = |event: &serde_json::Value| {
        (event["event"] == "done").then(|| event["step"].as_str().expect("a name").to_owned())
    };
    let steps: Vec<String> = first.events().iter().filter_map(done).collect();
    assert!(steps.contains(&"setup.of_input/responses".to_owned()), "{steps:?}");
    let of = |name: &str| {
        let digest = results(&summary)[name].clone();
        space.run(&["cache", "cat", &digest]).stdout
    };
    assert_eq!(of("setup.kept.dataset").lines().count(), 1);
    assert_eq!(of("setup.search.threshold"), "0.5\n");
    assert_eq!(of("setup.search.surface").lines().count(), 2, "two thresholds");

    let export = space.run(&["run", "export", "latest", "setup.of_input.rewards", "rewards"]);
    assert_eq!(export.code, Some(0), "{}", export.stderr);
    let rewards = std::fs::read_to_string(space.path().join("rewards/responses.jsonl")).expect("rewards");
    assert_eq!(rewards.lines().count(), 2);

    assert_eq!(run(&[]).summary()["executed"], 0);
    let other_order = run(&["setup.search.thresholds=[-0.5, 0.5]"]).summary();
    assert_eq!(other_order["executed"], 0, "the order of thresholds is nothing");
    let more = run(&["setup.search.thresholds=[-0.5, 0, 0.5]"]).summary();
    assert_eq!(more["executed_by_stage"], serde_json::json!({"search": 1}));
}

#[test]
fn the_reward_goes_on_from_what_an_earlier_attempt_saved() {
    let space = Space::new();
    let at = |name: &str| space.path().join(name);
    for folder in ["responses", "scratch", "out"] {
        std::fs::create_dir(at(folder)).expect("a folder");
    }
    space.write("queries.jsonl", "{\"id\": \"q\", \"prompt\": \"?\", \"answer\": \"7\"}\n");
    let row = |index: u32, text: &str| {
        serde_json::json!({"query_id": "q", "sample_index": index, "temperature": 1.0, "text": text})
            .to_string()
    };
    let rows = [row(0, "3 + 4 = 7\n\n# Answer\n\n7"), row(1, "3 + 4 = 8\n\n# Answer\n\n8"), row(2, "")];
    space.write("responses/a.jsonl", &rows.join("\n"));
    space.write("params.json", "{}");
    let judge = || {
        let output = Command::new("python3")
            .arg(repository().join("examples/python_reward/reward.py"))
            .env("BSTAR_IN_QUERIES", at("queries.jsonl"))
            .env("BSTAR_IN_RESPONSES", at("responses"))
            .env("BSTAR_OUT", at("out"))
            .env("BSTAR_SCRATCH", at("scratch"))
            .env("BSTAR_PARAMS", at("params.json"))
            .output()
            .expect("python3 runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (said, std::fs::read_to_string(at("out/rewards.jsonl")).expect("rewards"))
    };
    let (said, rewards) = judge();
    assert!(said.starts_with("judged 3 responses, 0 of them"), "{said}");
    let of = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["reward"].clone();
    assert_eq!(rewards.lines().map(of).collect::<Vec<_>>(), [1.5, -0.5, -0.5]);
    // Killed in the middle of the second row.
    let end = rewards.find('\n').expect("a row") + 9;
    space.write("scratch/rewards.jsonl", &rewards[..end]);
    let (said, again) = judge();
    assert!(said.starts_with("judged 3 responses, 1 of them"), "{said}");
    assert_eq!(again, rewards);
}
