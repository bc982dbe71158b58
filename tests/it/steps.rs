//! Looking at single steps, forcing them, and giving them results.

use crate::support::{Outcome, Space};

/// Two steps, the second of which reads the first.
const TWO: &str = "name: two\nsetup:\n  a:\n    uses: command\n    with: {argv: [sh, -c, \"echo $X; echo $X > {out}/r\"], env: {X: one}, outputs: [r]}\n  \
                   b:\n    uses: command\n    with: {argv: [cp, \"{in.a}\", \"{out}/r\"], inputs: {a: a.r}, outputs: [r]}\n";

fn two() -> Space {
    let space = Space::new();
    space.write("two.yaml", TWO);
    space
}

fn json(outcome: &Outcome) -> serde_json::Value {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

fn refused(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(2), "{}{}", outcome.stdout, outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "`{word}` is not in:\n{}", outcome.stderr);
    }
}

#[test]
fn a_plan_says_where_a_difference_was_made_and_what_waits_for_it() {
    let space = two();
    let first = json(&space.run(&["pipeline", "plan", "two.yaml", "--format", "json"]));
    assert_eq!(first["steps"][0]["reason"], "no result of this stage is stored");
    assert_eq!(
        (&first["steps"][0]["expected_s"], &first["without_past"]),
        (&serde_json::Value::Null, &2.into())
    );
    drop(space.run(&["pipeline", "run", "two.yaml", "--format", "json"]).summary());
    space.write("two.yaml", &TWO.replace("X: one", "X: two"));
    let plan = json(&space.run(&["pipeline", "plan", "two.yaml", "--format", "json"]));
    let steps = &plan["steps"];
    assert_eq!(steps[0]["reason"], "env.X \"one\" → \"two\", two.yaml:5");
    assert_eq!(steps[0]["differences"][0]["ingredient"], "env.X");
    assert_eq!((&steps[1]["state"], &steps[1]["reason"]), (&"unknown".into(), &"until setup.a ran".into()));
    assert!(steps[0]["key"].is_string() && steps[1]["key"].is_null());
    assert!(steps[0]["expected_s"].is_number() && plan["expected_bytes"] == 8, "{plan}");
    let by_hand =
        json(&space.run(&["pipeline", "plan", "two.yaml", "setup.a.env.X=three", "--format", "json"]));
    assert_eq!(by_hand["steps"][0]["reason"], "env.X \"one\" → \"three\", by the command line");
    let text = space.run(&["pipeline", "plan", "two.yaml"]).stdout;
    assert!(text.contains("will run  setup.a") && text.contains("1 unknown until others ran"), "{text}");
    let forced =
        space.run(&["pipeline", "plan", "two.yaml", "setup.a.env.X=one", "--force", "setup.b"]).stdout;
    assert!(forced.contains("will run  setup.b") && forced.contains("forced"), "{forced}");
}

#[test]
fn the_plan_of_a_grid_names_the_bound_that_changed() {
    let space = Space::with_tiny();
    let plan = space.run(&["pipeline", "plan", "tiny.yaml", "iteration.search.thresholds.by=0.25"]);
    assert!(plan.stdout.contains("thresholds.by 0.5 → 0.25, by the command line"), "{}", plan.stdout);
    let alike = plan.stdout.lines().find(|line| line.contains("setup: ")).expect("a line for all of setup");
    assert!(alike.starts_with("cached"), "{alike}");
    assert!(plan.stdout.lines().count() < 20, "{}", plan.stdout);
    let all = space.run(&["pipeline", "plan", "tiny.yaml", "--all"]);
    assert!(all.stdout.lines().count() > 30, "{}", all.stdout);
}

#[test]
fn an_unknown_step_is_explained_as_far_as_it_is_known() {
    let space = Space::with_tiny();
    let change = ["tiny.yaml", "iteration.search.n_star=3"];
    let explained = |step: &str| space.run(&["step", "explain", step, change[0], change[1]]);
    let train = explained("iteration[0].train").stdout;
    assert!(train.contains("what will run and decides: iteration[0].search"), "{train}");
    assert!(train.contains("made by iteration[0].filter") && train.contains("learning_rate"), "{train}");
    assert!(train.contains("input policy"), "what is known is shown: {train}");
}

#[test]
fn a_shard_and_a_key_are_explained_too() {
    let space = Space::with_tiny();
    let shard = "iteration[0].explore/t=0.6/q00000-00032.s0000-0004";
    drop(space.tiny(&[]).summary());
    let by_name = space.run(&["step", "explain", shard]);
    assert_eq!(by_name.code, Some(0), "{}", by_name.stderr);
    assert!(by_name.stdout.contains("temperature") && by_name.stdout.contains("0.6"), "{}", by_name.stdout);
    let key = by_name.stdout.lines().find_map(|line| line.strip_prefix("key")).expect("a key").trim();
    assert_eq!(space.run(&["step", "explain", &key[..10]]).stdout, by_name.stdout);
    refused(&space.run(&["step", "explain", "ffffffffff"]), &["ffffffffff"]);
    refused(&space.run(&["step", "explain", "iteration[0].explore/t=9"]), &["no shard"]);
    refused(&space.run(&["step", "explain", "iteration[0].serch"]), &["iteration[0].search"]);
}

#[test]
fn a_log_is_kept_and_its_absence_explained() {
    let space = two();
    drop(space.run(&["pipeline", "run", "two.yaml", "--format", "json"]).summary());
    assert_eq!(space.run(&["step", "log", "setup.a"]).stdout, "one\n");
    refused(&space.run(&["step", "log", "setup.a", "setup.a.env.X=two"]), &["not executed yet"]);
    refused(&space.run(&["step", "log", "setup.b", "setup.a.env.X=two"]), &["until setup.a ran"]);
    let tiny = Space::with_tiny();
    let changed = tiny.run(&["step", "log", "setup.sft", "tiny.yaml", "setup.sft.training.updates=11"]);
    refused(&changed, &["no log", "not executed yet"]);
    refused(
        &tiny.run(&["step", "log", "setup.problems", "tiny.yaml"]),
        &["only programs", "`problems` stage"],
    );
    let log = tiny.run(&["step", "log", "setup.sft", "tiny.yaml"]).stdout;
    assert!(log.starts_with("update 1/10  loss ") && log.trim_end().ends_with("tok/s"), "{log}");
    assert_eq!(log.lines().count(), 10, "{log}");
}

#[test]
fn forcing_an_unknown_step_is_refused_with_a_suggestion() {
    let space = two();
    refused(
        &space.run(&["pipeline", "run", "two.yaml", "--force", "setup.aa"]),
        &["setup.aa", "did you mean `setup.a`"],
    );
    let run = space.run(&["pipeline", "run", "two.yaml", "--force", "setup", "--format", "json"]);
    assert_eq!(run.summary()["executed"], 2);
    let run = space.run(&["pipeline", "run", "two.yaml", "--force", "setup", "--format", "json"]);
    assert_eq!(run.summary()["executed"], 2, "stored results do not keep it from executing");
}

#[test]
fn a_folder_made_elsewhere_is_adopted_as_the_result_of_a_step() {
    let space = two();
    std::fs::create_dir(space.path().join("made")).expect("a folder");
    refused(&space.run(&["step", "adopt", "setup.a", "nowhere", "two.yaml"]), &["nowhere does not exist"]);
    refused(&space.run(&["step", "adopt", "setup.a", "made", "two.yaml"]), &["does not hold `r`"]);
    space.write("made/r", "by hand\n");
    space.write("made/metrics.json", "{\"loss\": 0.5}");
    refused(&space.run(&["step", "adopt", "setup.b", "made", "two.yaml"]), &["no key yet", "setup.a"]);
    let adopted = json(&space.run(&["step", "adopt", "setup.a", "made", "two.yaml", "--format", "json"]));
    assert_eq!(adopted["manifest"]["metrics"]["loss"], 0.5);
    let from = adopted["manifest"]["provenance"]["adopted_from"].as_str().expect("where it came from");
    assert!(from.ends_with("made"), "{from}");
    refused(&space.run(&["step", "adopt", "setup.a", "made", "two.yaml"]), &["is stored", "--force"]);
    let explained = space.run(&["step", "explain", "setup.a", "two.yaml"]).stdout;
    assert!(explained.contains("adopted from"), "{explained}");
    // Only what follows executes.
    let run = space.run(&["pipeline", "run", "two.yaml", "--format", "json"]).summary();
    assert_eq!((run["executed"].as_u64(), run["cached"].as_u64()), (Some(1), Some(1)));
    // The only output may be given itself.
    space.write("other", "another\n");
    let replaced = space.run(&["step", "adopt", "setup.a", "other", "two.yaml", "--force"]);
    assert_eq!(replaced.code, Some(0), "{}", replaced.stderr);
    assert_eq!(space.run(&["pipeline", "run", "two.yaml", "--format", "json"]).summary()["executed"], 1);
    assert!(space.store().join("quarantine/superseded").exists());
}

#[test]
fn the_plan_is_drawn_in_two_languages() {
    let space = Space::with_tiny();
    let dot = space.run(&["pipeline", "graph", "tiny.yaml", "iteration.search.n_star=3"]).stdout;
    assert!(dot.starts_with("digraph plan {") && dot.trim_end().ends_with('}'), "{dot}");
    assert!(dot.contains("label=\"iteration (× 2)\"") && dot.contains("1 unknown, 1 will run"), "{dot}");
    assert!(dot.contains("style=dashed"), "{dot}");
    let plain =
        space.run(&["pipeline", "graph", "tiny.yaml", "--no-store", "--to", "mermaid", "--all"]).stdout;
    assert!(plain.starts_with("flowchart LR") && plain.contains("[\"iteration[1]\"]"), "{plain}");
    assert!(!plain.contains("classDef"), "{plain}");
    let elsewhere = Space::new();
    drop(elsewhere.run(&["pipeline", "graph", "tiny.yaml"]));
    assert!(!elsewhere.store().exists(), "drawing makes no store");
}
