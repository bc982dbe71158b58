//! The contract of the command line.

use std::process::Command;

use crate::support::{Space, bstar};

#[test]
fn bstar_links_no_libtorch() {
    let output = Command::new("ldd").arg(bstar()).output().expect("ldd runs");
    let libraries = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(libraries.contains("libc.so"), "{libraries}");
    assert!(!libraries.contains("torch"), "{libraries}");
}

#[test]
fn plan_of_a_finished_run_has_nothing_to_do_and_runs_nothing() {
    let space = Space::with_tiny();
    let plan = space.run(&["pipeline", "plan", "tiny.yaml", "--format", "json"]);
    assert_eq!(plan.code, Some(0), "{}", plan.stderr);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).expect("JSON");
    assert_eq!((plan["will_run"].as_u64(), plan["unknown"].as_u64()), (Some(0), Some(0)));
    assert!(plan["cached"].as_u64() > Some(20));
}

#[test]
fn plan_of_a_changed_setting_names_what_runs_and_why() {
    let space = Space::with_tiny();
    let plan = space.run(&["pipeline", "plan", "tiny.yaml", "iteration.search.n_star=3", "--format", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).expect("JSON");
    let steps = plan["steps"].as_array().expect("steps");
    let step = |name: &str| steps.iter().find(|step| step["name"] == name).expect("a step").clone();
    assert_eq!(step("iteration[0].explore_rewards")["state"], "cached");
    assert_eq!(step("iteration[0].search")["state"], "will_run");
    let reason = step("iteration[0].search")["reason"].to_string();
    assert!(reason.contains("n_star") && reason.contains('2') && reason.contains('3'), "{reason}");
    assert_eq!(step("iteration[0].train")["state"], "unknown");
}

#[test]
fn explain_shows_ingredients_and_the_difference_to_the_nearest_result() {
    let space = Space::with_tiny();
    let same = space.run(&["step", "explain", "setup.sft", "tiny.yaml"]);
    assert_eq!(same.code, Some(0), "{}", same.stderr);
    assert!(same.stdout.contains("stored") && same.stdout.contains("learning_rate"), "{}", same.stdout);
    let changed = space.run(&["step", "explain", "setup.sft", "tiny.yaml", "setup.sft.training.updates=11"]);
    assert!(changed.stdout.contains("updates") && changed.stdout.contains("10 → 11"), "{}", changed.stdout);
}

#[test]
fn runs_are_listed_and_shown_by_prefix_and_latest() {
    let space = Space::with_tiny();
    drop(space.tiny(&[]).summary());
    let list = space.run(&["run", "list", "--format", "json"]);
    let runs: serde_json::Value = serde_json::from_str(&list.stdout).expect("JSON");
    assert_eq!(runs.as_array().map(Vec::len), Some(2));
    let id = runs[0]["id"].as_str().expect("an id");
    let shown = space.run(&["run", "show", &id[..4]]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert_eq!(shown.stdout, space.run(&["run", "show", "latest"]).stdout);
    assert!(shown.stdout.contains("Pass@1"), "{}", shown.stdout);
    assert_eq!(space.run(&["run", "show", "zz"]).code, Some(2));
}

#[test]
fn cat_gives_the_bytes_and_stat_counts_them() {
    let space = Space::with_tiny();
    let digest = &crate::support::tiny_results()["iteration[0].search.temperature"];
    let cat = space.run(&["cache", "cat", digest]);
    assert!(cat.stdout.trim().parse::<f64>().is_ok(), "{}", cat.stdout);
    let stat = space.run(&["cache", "stat", "--format", "json"]);
    let stat: serde_json::Value = serde_json::from_str(&stat.stdout).expect("JSON");
    assert!(stat["stat"]["manifests"].as_u64() > Some(50), "{stat}");
}

#[test]
fn questions_to_a_model_reach_the_worker_with_their_exit_code() {
    let space = Space::new();
    let help = space.run(&["model", "--help"]);
    assert!(help.code == Some(0) && help.stdout.contains("generate"), "{}{}", help.stdout, help.stderr);
    let missing = space.run(&["model", "inspect", "hf:nobody/nothing"]);
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
    assert!(missing.stderr.contains("hf download nobody/nothing"), "{}", missing.stderr);
}

#[test]
fn doctor_finds_this_machine_fit() {
    let doctor = Space::new().run(&["doctor", "--format", "json"]);
    assert_eq!(doctor.code, Some(0), "{}{}", doctor.stdout, doctor.stderr);
    assert!(doctor.stdout.contains("libtorch"), "{}", doctor.stdout);
    let told: serde_json::Value = serde_json::from_str(&doctor.stdout).expect("JSON");
    let checks = told["checks"].as_array().expect("a list");
    let sandbox = checks.iter().find(|check| check["name"] == "sandbox").expect("a sandbox");
    let found = sandbox["found"].as_str().unwrap_or_default();
    // A machine without bubblewrap is fit, but not for untrusted code.
    assert_eq!(found.starts_with("bubblewrap holds"), sandbox["ok"] == true, "{sandbox}");
    assert!(sandbox["ok"] == true || sandbox["fix"].is_string(), "{sandbox}");
}

#[test]
fn nothing_is_coloured_and_the_answer_is_on_stdout_off_a_terminal() {
    let space = Space::with_tiny();
    let outcome = space.run(&["pipeline", "run", "tiny.yaml"]);
    assert_eq!(outcome.code, Some(0));
    assert!(!outcome.stderr.contains('\u{1b}'), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("Cached"), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("Pass@1"), "{}", outcome.stdout);
}
