//! Many variants as one run: the union of their work and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::servers::Server;
use crate::support::{Outcome, Space, repository, results};
use crate::toy::Toy;

/// Nine ablations, the first of which changes nothing.
const VARIANTS: [(&str, &[&str]); 9] = [
    ("baseline", &[]),
    ("thresholds", &["iteration.search.thresholds.by=0.25"]),
    ("n_star", &["iteration.search.n_star=4"]),
    ("k", &["iteration.responses.samples=12"]),
    ("iterative", &["carry.optimizer=null", "iteration.train.training.schedule.total=null"]),
    ("rest_em", &["carry.optimizer=null", "iteration.train.policy=sft.policy"]),
    ("start", &["start.policy=pretrain.policy"]),
    ("temperatures", &["iteration.explore.temperature=[0.6, 0.8]"]),
    ("no_rm", &["iteration.explore_rewards.reward_model=null", "iteration.rewards.reward_model=null"]),
];

/// tiny.yaml with the nine variants.
fn ablations(space: &Space) -> &'static str {
    let mut text = std::fs::read_to_string(repository().join("pipelines/tiny.yaml")).expect("tiny.yaml");
    text.push_str("variants:\n");
    for (name, overrides) in VARIANTS {
        text.push_str(&format!("  {name}:\n"));
        for change in overrides {
            text.push_str(&format!("    {}\n", change.replacen('=', ": ", 1)));
        }
    }
    space.write("ablations.yaml", &text);
    "ablations.yaml"
}

fn sweep(space: &Space, more: &[&str]) -> Outcome {
    let file = ablations(space);
    space.run(&[&["pipeline", "sweep", file, "--format", "json"], more].concat())
}

fn forecast(space: &Space, more: &[&str]) -> Value {
    let outcome = sweep(space, &[&["--plan"], more].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).expect("a forecast")
}

/// The keys of all executions in a store: all results but those gathered from shards.
fn executions(space: &Space) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut open = vec![space.store().join("manifests")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                keys.extend(execution(&entry.path()));
            }
        }
    }
    keys
}

fn execution(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).expect("a manifest");
    let manifest: Value = serde_json::from_str(&text).expect("a manifest");
    let sharded = ["sample", "score"].contains(&manifest["action"]["stage"].as_str()?);
    let gathered = sharded && !manifest["provenance"]["step"].as_str()?.contains('/');
    (!gathered).then(|| manifest["key"].as_str().map(str::to_owned))?
}

fn number(value: &Value, field: &str) -> usize {
    value[field]
        .as_u64()
        .and_then(|number| number.try_into().ok())
        .unwrap_or_else(|| panic!("{field}: {value}"))
}

/// Distinct steps, not shards, of which something executed.
fn steps_that_ran(outcome: &Outcome) -> usize {
    let ran =
        |event: &&Value| event["event"] == "done" && event["shard"] == false && event["cached"] == false;
    outcome.events().iter().filter(ran).count()
}

#[test]
fn nine_ablations_execute_the_union_of_their_keys_and_give_the_results_of_single_runs() {
    let apart = Space::with_tiny();
    let before = executions(&apart).len();
    let mut singles: BTreeMap<&str, Value> = BTreeMap::new();
    for (name, overrides) in VARIANTS {
        singles.insert(name, apart.tiny(overrides).summary());
    }
    let union = executions(&apart);

    let together = Space::with_tiny();
    let said = forecast(&together, &[]);
    let outcome = sweep(&together, &[]);
    let summary = outcome.summary();
    assert_eq!(executions(&together), union);
    assert_eq!(number(&summary, "executed"), union.len() - before);

    let watched = together.run(&["run", "watch"]);
    assert_eq!(watched.code, Some(0), "{}", watched.stderr);
    assert!(watched.stdout.contains("| variant "), "it ends with the table: {}", watched.stdout);

    // What was said beforehand holds, and is told again as an event.
    let ran = steps_that_ran(&outcome);
    let (least, unknown) = (number(&said, "will_run"), number(&said, "unknown"));
    assert!(least > 0 && least <= ran && ran <= least + unknown, "{least} <= {ran} <= {least} + {unknown}");
    assert!(number(&said, "executions") <= number(&summary, "executed"));
    assert_eq!(said["exact"], false);
    assert_eq!(number(&said, "steps"), VARIANTS.len() * 39);
    let steps =
        ["shared", "cached", "will_run", "unknown"].map(|field| number(&said, field)).iter().sum::<usize>();
    assert_eq!(steps, VARIANTS.len() * 39);
    assert!(outcome.events().iter().any(|event| event["event"] == "forecast"));

    let variants = summary["variants"].as_array().expect("variants");
    assert_eq!(variants.len(), VARIANTS.len());
    let all = results(&summary);
    for (variant, (name, _)) in variants.iter().zip(VARIANTS) {
        assert_eq!(variant["name"], name);
        let (single, seed) = (&singles[name], &variant["seeds"][0]);
        assert_eq!(seed["results"], single["results"], "{name}");
        for figure in ["pass_at_1", "kept", "temperature"] {
            assert_eq!(seed["iterations"][1][figure], single["iterations"][1][figure], "{name}");
            assert_eq!(variant["mean"][figure], seed["iterations"][1][figure].as_f64().expect("a figure"));
        }
        let policy = "iteration[1].train.policy";
        assert_eq!(all[&format!("{name}/seed=1/{policy}")], results(single)[policy]);
    }
    let executed: usize = variants.iter().map(|variant| number(variant, "executed")).sum();
    assert_eq!(executed, number(&summary, "executed"));

    // Everything is stored now: that is known exactly, and so are new measures of it.
    let said = forecast(&together, &[]);
    assert_eq!(
        (number(&said, "will_run"), number(&said, "unknown"), &said["exact"]),
        (0, 0, &Value::Bool(true))
    );
    assert_eq!(number(&sweep(&together, &[]).summary(), "executed"), 0);
    let measures = ["iteration.evaluate.k=[2,4],[2,8]"];
    let said = forecast(&together, &measures);
    assert_eq!((number(&said, "unknown"), &said["exact"]), (0, &Value::Bool(true)));
    let outcome = sweep(&together, &measures);
    assert_eq!(number(&said, "executions"), number(&outcome.summary(), "executed"));
    assert_eq!(number(&said, "will_run"), steps_that_ran(&outcome));
    assert!(number(&said, "will_run") > 8);

    let list = together.run(&["run", "list"]).stdout;
    assert!(list.contains("sweep of 18 variants: iteration.evaluate.k=[2,4],[2,8]"), "{list}");
    let shown = together.run(&["run", "show"]).stdout;
    assert!(shown.contains("| no_rm · k=[2,8] "), "{shown}");
}

#[test]
fn a_sweep_that_was_killed_executes_only_what_is_missing() {
    const ARGUMENTS: [&str; 8] = [
        "pipeline",
        "sweep",
        "tiny.yaml",
        "iterations=1",
        "iteration.search.n_star=2,3,4",
        "--seeds",
        "2",
        "--format",
    ];
    let arguments = [&ARGUMENTS[..], &["json"]].concat();
    let space = Space::with_tiny();
    let before = executions(&space);
    let mut child =
        space.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("bstar starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let second_seed = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("JSON");
        event["event"] == "done" && event["step"] == "setup.sft@seed=2"
    };
    assert!(lines.any(|line| second_seed(&line.expect("a line"))), "the sweep ended too early");
    child.kill().expect("killed");
    let _ = child.wait().expect("a status");
    let published = executions(&space);
    assert!(published.len() > before.len());

    let summary = space.run(&arguments).summary();
    let all = executions(&space);
    assert_eq!(number(&summary, "executed"), all.len() - published.len());
    assert!(all.is_superset(&published));
    for variant in summary["variants"].as_array().expect("variants") {
        assert_eq!(variant["seeds"].as_array().expect("seeds").len(), 2);
        assert!(variant["se"]["pass_at_1"].is_number(), "{variant}");
    }
    let other = &summary["variants"][1];
    assert!(other["difference"]["kept"].is_number() && other["difference_se"]["kept"].is_number(), "{other}");
    assert_eq!(number(&space.run(&arguments).summary(), "executed"), 0);
    let explained = space.run(&["step", "explain", "setup.sft@seed=2"]).stdout;
    assert!(explained.starts_with("setup.sft@seed=2 is stored"), "{explained}");
}

#[test]
fn problems_of_variants_have_their_place_and_tables_their_format() {
    let space = Space::with_tiny();
    let text = std::fs::read_to_string(repository().join("pipelines/tiny.yaml")).expect("tiny.yaml");
    let lines = text.lines().count();
    space.write("bad.yaml", &format!("{text}variants:\n  a: {{iteration.serch.n_star: 3}}\n"));
    for command in ["sweep", "check"] {
        let outcome = space.run(&["pipeline", command, "bad.yaml"]);
        assert_eq!(outcome.code, Some(2), "{command}");
        assert!(outcome.stderr.contains(&format!("bad.yaml:{}:", lines + 2)), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("did you mean `iteration.search`?"), "{}", outcome.stderr);
    }
    let nothing = space.run(&["pipeline", "sweep", "tiny.yaml"]);
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("has nothing that varies"), "{}", nothing.stderr);

    // Fewer samples are found in the shards of more: all that is new is what the filter keeps.
    let fewer =
        ["pipeline", "sweep", "tiny.yaml", "iterations=1", "iteration.responses.samples=8,4", "--plan"];
    let said = space.run(&[&fewer[..], &["--format", "json"]].concat());
    let said: Value = serde_json::from_str(&said.stdout).expect("a forecast");
    assert_eq!((number(&said, "will_run"), number(&said, "executions")), (1, 1), "{said}");
    assert_eq!(number(&said, "unknown"), 1 + 5, "training and its measures: {said}");

    let sweep = ["pipeline", "sweep", "tiny.yaml", "iteration.evaluate.s=[2],[3]", "--table"];
    let table = |format: &str| space.run(&[&sweep[..], &[format]].concat());
    let text = table("text");
    assert!(
        text.stderr.contains("Sweep 2 variants: 78 steps, 37 shared, 39 cached, 2 to run"),
        "{}",
        text.stderr
    );
    assert!(text.stdout.contains("| variant | Pass@1"), "{}", text.stdout);
    assert!(table("markdown").stdout.contains("**"));
    assert!(table("csv").stdout.starts_with("variant,seeds,"));
    let json: Value = serde_json::from_str(&table("json").stdout).expect("JSON");
    assert_eq!(json[1]["name"], "s=[3]");
}

/// A sweep of six variants of a DAG of programs, on a machine.
fn toy_sweep(toy: &Toy, machine: &str) -> Value {
    let lists = ["setup.s1-0.with.env.ADD='1','2','3'", "setup.s2-1.with.env.ADD='0','4'"];
    let arguments = ["pipeline", "sweep", "toy.yaml", lists[0], lists[1], "--format", "json", "--jobs", "2"];
    Outcome::of(toy.command_on(machine, &arguments).output().expect("bstar starts")).summary()
}

#[test]
fn a_sweep_in_a_bucket_executes_what_it_does_on_the_local_disk_and_the_second_time_nothing() {
    let figures = |summary: &Value| {
        let figures = ["executed", "cached", "failed", "skipped"].map(|figure| number(summary, figure));
        (figures, results(summary), summary["executed_by_stage"].clone())
    };
    let local = Toy::new(4, 3);
    let (first, second) = (toy_sweep(&local, "machine"), toy_sweep(&local, "machine"));
    assert_eq!(number(&first, "executed"), local.executions().values().sum::<usize>());
    assert!(number(&first, "executed") > local.steps() && number(&first, "executed") < 6 * local.steps());
    assert_eq!(number(&second, "executed"), 0);
    for server in [Server::moto(), Server::s3s()].into_iter().flatten() {
        let toy = Toy::new(4, 3).on(&server, "sweep");
        assert_eq!(figures(&toy_sweep(&toy, "machine")), figures(&first));
        assert_eq!(toy.executions(), local.executions());
        // Again, and where nothing but the bucket is known.
        for machine in ["machine", "other"] {
            assert_eq!(figures(&toy_sweep(&toy, machine)), figures(&second), "{machine}");
        }
        assert_eq!(toy.executions(), local.executions());
    }
}
