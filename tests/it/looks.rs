//! What a run was made of, seen afterwards.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Outcome, Space, repository, tiny_results};

fn rows(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
}

#[test]
fn samples_are_those_that_were_judged_and_kept() {
    let space = Space::with_tiny();
    let all = ["run", "samples", "latest", "--limit", "0", "--format", "json"];
    let said = space.run(&all);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let samples = rows(&said.stdout);
    assert_eq!(samples.len(), 128 * 8);
    let select = |more: &[&str]| rows(&space.run(&[&all[..], more].concat()).stdout);
    let (right, wrong, kept) = (select(&["--right"]), select(&["--wrong"]), select(&["--kept"]));
    assert_eq!(right.len() + wrong.len(), samples.len());
    assert!(right.iter().all(|row| row["correct"] == true) && !wrong.is_empty());
    let shown: Value =
        serde_json::from_str(&space.run(&["run", "show", "latest", "--format", "json"]).stdout).unwrap();
    let iterations = shown["summary"]["iterations"].as_array().unwrap();
    assert_eq!(Some(kept.len() as u64), iterations.last().unwrap()["kept"].as_u64());
    // What was kept is what the dataset says.
    assert_eq!(
        space.run(&["run", "export", "latest", "iteration[1].filter.dataset", "kept.jsonl"]).code,
        Some(0)
    );
    let dataset = std::fs::read_to_string(space.path().join("kept.jsonl")).unwrap();
    let mut expected: Vec<String> = rows(&dataset).iter().map(|row| row["completion"].to_string()).collect();
    let mut found: Vec<String> = kept.iter().map(|row| row["text"].to_string()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);

    let first = samples[0]["query_id"].as_str().unwrap();
    let of_query = select(&["--query", first]);
    assert_eq!(of_query.len(), 8);
    let text = space.run(&["run", "samples", "--iteration", "0", "--limit", "2"]).stdout;
    assert!(text.contains("sample 0 at t ") && text.ends_with("2 of 1024 responses\n"), "{text}");
    let none = space.run(&["run", "samples", "--iteration", "2"]);
    assert_eq!(none.code, Some(2));
    assert!(none.stderr.contains("no iteration 2: its last one is 1"), "{}", none.stderr);
}

#[test]
fn two_runs_differ_in_what_was_changed_and_what_followed() {
    let space = Space::with_tiny();
    let before = space.run(&["run", "diff", "latest", "latest"]);
    assert!(before.stdout.contains("have the same settings"), "{}{}", before.stdout, before.stderr);
    let changed =
        ["pipeline", "run", "tiny.yaml", "iteration.train.training.learning_rate=0.002", "iterations=1"];
    assert_eq!(space.run(&changed).code, Some(0));
    let runs: Value = serde_json::from_str(&space.run(&["run", "list", "--format", "json"]).stdout).unwrap();
    let id = |index: usize| runs[index]["id"].as_str().unwrap();
    let said = space.run(&["run", "diff", id(1), id(0), "--format", "json"]);
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    let paths: Vec<&str> =
        said["settings"].as_array().unwrap().iter().map(|setting| setting[0].as_str().unwrap()).collect();
    assert_eq!(paths, ["iteration.train.training.learning_rate", "iterations"]);
    let results = said["results"].as_array().unwrap();
    assert_eq!(
        (results[0]["section"].as_str(), &results[0]["different"]),
        (Some("setup"), &Value::Array(vec![]))
    );
    let first: Vec<&str> =
        results[1]["different"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(first.contains(&"train.policy") && !first.contains(&"filter.dataset"), "{first:?}");
    assert!(!results[2]["only"][0].as_array().unwrap().is_empty(), "{said}");
    assert_eq!(said["iterations"].as_array().unwrap().len(), 2);
    let text = space.run(&["run", "diff", id(1), id(0)]).stdout;
    assert!(text.contains("iteration[0]") && text.contains("Pass@1"), "{text}");
}

#[test]
fn a_digest_tells_what_made_it_and_what_it_made() {
    let (space, results) = (Space::with_tiny(), tiny_results());
    let policy = &results["iteration[0].train.policy"];
    let said = space.run(&["cache", "show", &policy[..16], "--format", "json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(said["digest"].as_str(), Some(policy.as_str()));
    let maker = &said["made_by"][0];
    assert_eq!(
        (maker["step"].as_str(), maker["output"].as_str()),
        (Some("iteration[0].train"), Some("policy"))
    );
    let inputs = maker["inputs"].as_array().unwrap();
    let dataset = inputs.iter().find(|input| input["name"] == "dataset").unwrap();
    assert_eq!(dataset["digest"].as_str(), Some(results["iteration[0].filter.dataset"].as_str()));
    assert_eq!(dataset["made_by"][0], "dataset.jsonl of iteration[0].filter");
    let readers = said["read_by"].as_array().unwrap();
    let reads = |step: &str| readers.iter().any(|reader| reader["step"].as_str().unwrap().starts_with(step));
    assert!(reads("iteration[1].train") && reads("iteration[1].responses/"), "{said}");
    let text = space.run(&["cache", "show", policy]).stdout;
    assert!(text.contains("`policy` of iteration[0].train") && text.contains("iteration[1].train"), "{text}");

    let nothing = space.run(&["cache", "show", "0123456789abcdef"]);
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("nothing that is stored has a digest"), "{}", nothing.stderr);
    let several = space.run(&["cache", "show", ""]);
    assert!(several.code == Some(2) && several.stderr.contains("several digests"), "{}", several.stderr);
    let key = maker["key"].as_str().unwrap();
    let said = space.run(&["cache", "show", key]);
    assert!(said.stderr.contains(&format!("bstar step explain {key}")), "{}", said.stderr);
}

#[test]
fn shells_can_complete_commands() {
    let space = Space::new();
    for shell in ["bash", "zsh", "fish"] {
        let said = space.run(&["completions", shell]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(said.stdout.contains("pipeline") && said.stdout.contains("keep-going"), "{shell}");
    }
}

#[test]
fn a_pipeline_to_begin_with_is_written_and_overwrites_nothing() {
    let space = Space::new();
    for (template, file) in [("math", "math.yaml"), ("tiny", "tiny.yaml"), ("math-7b", "math-7b.yaml")] {
        let said = space.run(&["init", template]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(said.stdout.contains(&format!("bstar pipeline run {file}")), "{}", said.stdout);
        let written = std::fs::read(space.path().join(file)).unwrap();
        assert!(written == std::fs::read(repository().join("pipelines").join(file)).unwrap(), "{file}");
    }
    space.write("mine.yaml", "mine");
    let refused = space.run(&["init", "math", "mine.yaml"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("cannot write mine.yaml"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(space.path().join("mine.yaml")).unwrap(), "mine");
}

/// A pipeline whose last step waits for a file.
const WAITS: &str = r#"
name: waits
setup:
  first: {uses: command, with: {argv: [sh, -c, "echo 1 > {out}/r"], outputs: [r]}}
  last:
    uses: command
    with: {argv: [sh, -c, "until test -e $BASE/go; do sleep 0.05; done; cp {in.a} {out}/r"], inputs: {a: first.r}, outputs: [r]}
"#;

fn start(space: &Space, arguments: &[&str]) -> Child {
    let mut command = space.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bstar starts")
}

fn wait_until(happened: impl Fn() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_run_is_watched_from_its_beginning_to_its_end() {
    let space = Space::new();
    space.write("waits.yaml", &WAITS.replace("$BASE", &space.path().to_string_lossy()));
    let running = start(&space, &["pipeline", "run", "waits.yaml"]);
    wait_until(|| {
        let listed = space.run(&["run", "list", "--format", "json"]).stdout;
        listed.contains("\"outcome\":\"running\"")
    });
    let watching = [&["run", "watch"][..], &["run", "watch", "latest", "--format", "json"]]
        .map(|line| start(&space, line));
    space.write("go", "");
    let ran = Outcome::of(running.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let [text, json] = watching.map(|process| Outcome::of(process.wait_with_output().unwrap()));
    assert_eq!((text.code, json.code), (Some(0), Some(0)), "{}{}", text.stderr, json.stderr);
    // What was shown there is shown here; advice is for who ran it, and times may be rounded another way.
    let shown = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("Next"));
        lines.map(|line| line.split(['[', ']']).step_by(2).collect()).collect()
    };
    assert_eq!(shown(&text.stderr), shown(&ran.stderr));
    assert_eq!(json.summary()["executed"], 2);

    let again = space.run(&["run", "watch"]);
    assert_eq!((again.code, again.stderr), (Some(0), text.stderr));
}

#[test]
fn a_run_that_was_cut_off_or_failed_is_watched_to_its_end() {
    let space = Space::new();
    space.write("waits.yaml", &WAITS.replace("$BASE", &space.path().to_string_lossy()));
    let mut running = start(&space, &["pipeline", "run", "waits.yaml"]);
    let recorded = || {
        let runs = std::fs::read_dir(space.store().join("runs")).into_iter().flatten();
        let mut events =
            runs.filter_map(|run| std::fs::read_to_string(run.ok()?.path().join("events.jsonl")).ok());
        events.any(|events| events.contains("setup.first") && events.contains("\"done\""))
    };
    wait_until(recorded);
    running.kill().unwrap();
    running.wait().unwrap();
    let cut = space.run(&["run", "watch"]);
    assert_eq!(cut.code, Some(75), "{}", cut.stderr);
    let advice = "the run was cut off; to go on: bstar pipeline run waits.yaml";
    assert!(cut.stderr.contains("Planned waits") && cut.stderr.contains(advice), "{}", cut.stderr);

    space
        .write("fails.yaml", "name: a\nsetup: {s: {uses: command, with: {argv: [\"false\"], outputs: [r]}}}");
    assert_eq!(space.run(&["pipeline", "run", "fails.yaml"]).code, Some(1));
    let failed = space.run(&["run", "watch"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("Failed setup.s"), "{}", failed.stderr);
}

#[test]
fn editors_are_told_what_a_pipeline_may_say() {
    let space = Space::new();
    let said = space.run(&["schema"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let schema: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert!(schema["$defs"]["Search"]["properties"]["n_star"].is_object(), "{schema}");
}
