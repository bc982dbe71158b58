//! The sweeps of the paper's tables, each over tiny.yaml instead of math.yaml.

use serde_json::Value;

use crate::support::{Outcome, Space, repository};

/// Writes the sweep to the space, with tiny.yaml as its base.
fn tiny(space: &Space, name: &str) -> String {
    let path = repository().join(format!("pipelines/sweeps/{name}.yaml"));
    let text = std::fs::read_to_string(path).expect("a sweep");
    assert_eq!(text.matches("base: ../math.yaml").count(), 1, "{name}");
    let text = text.replace("base: ../math.yaml", "base: tiny.yaml");
    // The queries of tiny.yaml are not drawn anew; its responses are shorter.
    let text = text
        .replace("queries: queries", "queries: problems.train")
        .replace("max_tokens: 46", "max_tokens: 24");
    let file = format!("pipelines/{name}.yaml");
    space.write(&file, &text);
    file
}

fn sweep(space: &Space, name: &str, more: &[&str]) -> Value {
    let file = tiny(space, name);
    let arguments = ["pipeline", "sweep", &file, "--format", "json", "--seeds", "1"];
    space.run(&[&arguments[..], more].concat()).summary()
}

fn variants(summary: &Value) -> Vec<(String, Value)> {
    let variants = summary["variants"].as_array().expect("variants").iter();
    variants.map(|variant| (variant["name"].as_str().expect("a name").to_owned(), variant.clone())).collect()
}

fn last(variant: &Value) -> &Value {
    variant["seeds"][0]["iterations"].as_array().and_then(|rows| rows.last()).expect("a last iteration")
}

#[test]
fn the_sweeps_are_good_and_plan_five_seeds() {
    for (name, count) in [("table1", 9), ("table3", 4), ("table5", 3), ("table6", 11), ("beyond", 10)] {
        let file = repository().join(format!("pipelines/sweeps/{name}.yaml"));
        let file = file.to_str().expect("a path");
        let space = Space::new();
        let checked = space.run(&["pipeline", "check", file]);
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
        let planned: Outcome = space.run(&["pipeline", "sweep", file, "--plan", "--format", "json"]);
        assert_eq!(planned.code, Some(0), "{}", planned.stderr);
        let said: Value = serde_json::from_str(&planned.stdout).expect("a forecast");
        assert_eq!((said["variants"].as_u64(), said["seeds"].as_u64()), (Some(count), Some(5)), "{name}");
    }
}

#[test]
fn all_methods_are_compared_and_charged() {
    let space = Space::with_tiny();
    let summary = sweep(&space, "table1", &[]);
    let variants = variants(&summary);
    assert_eq!(variants[0].0, "online_rft");
    let of = |name: &str| &variants.iter().find(|(own, _)| own == name).expect("the variant").1;
    let charged = |name: &str| of(name)["mean"]["charged_responses_total"].as_f64().expect("responses");
    // The search of B-STaR costs samples; that of one temperature finds them among the main ones.
    let main = 2.0 * 128.0 * 8.0;
    assert!((charged("online_rft") / main - 1.0).abs() < 0.03, "{}", charged("online_rft"));
    assert!((charged("b_star") / (main + 2.0 * 32.0 * 4.0) - 1.0).abs() < 0.03, "{}", charged("b_star"));
    assert!(of("b_star")["mean"]["charged_tokens_total"].as_f64() > Some(0.0));
    for (name, variant) in variants.iter().skip(1).filter(|(name, _)| name != "sft") {
        assert!(variant["mean"]["pass_at_1_area"].is_number(), "{name}");
        let paired = &variant["paired"];
        assert_eq!(paired["problems"], 32, "{name}");
        let p = paired["p"].as_f64().expect("a chance");
        assert!((0.0..=1.0).contains(&p), "{name}");
        let row = last(variant);
        for figure in ["entropy", "distinct_correct", "distinct_equations_share", "precision"] {
            assert!(row[figure].is_number(), "{name}: {figure}");
        }
    }
    assert_eq!(of("sft")["mean"]["pass_at_1"], of("b_star")["seeds"][0]["start"]["pass_at_1"]);
}

#[test]
fn ablations_and_fixed_configurations_do_what_they_say() {
    let space = Space::with_tiny();
    let summary = sweep(&space, "table3", &["iterations=1"]);
    let chosen = |variant: &Value| {
        let row = last(variant);
        (row["temperature"].as_f64().expect("t"), row["threshold"].as_f64().expect("τ"))
    };
    let table3 = variants(&summary);
    assert_eq!(chosen(&table3[0].1), (1.0, 0.0));
    assert_eq!(chosen(&table3[1].1).1, 0.0);
    assert_eq!(chosen(&table3[2].1).0, 1.0);

    let only = ["iterations=1", "--only", "b_star", "--only", "*_late", "--only", "t07_taum02"];
    let table6 = variants(&sweep(&space, "table6", &only));
    assert_eq!(
        table6.iter().map(|(_, variant)| chosen(variant)).skip(1).collect::<Vec<_>>(),
        [(0.6, 0.0), (1.1, -0.1), (0.7, -0.2)]
    );

    let table5 = variants(&sweep(&space, "table5", &["iterations=1"]));
    assert_eq!(table5.len(), 3);
}

#[test]
fn options_beyond_the_paper_run() {
    let space = Space::with_tiny();
    let summary = sweep(&space, "beyond", &[]);
    let variants = variants(&summary);
    let of = |name: &str| &variants.iter().find(|(own, _)| own == name).expect("the variant").1;
    let row = |name: &str| last(of(name));
    assert!(row("replay")["replayed"].as_u64() > Some(0));
    assert!(row("all_temperatures")["sampled"].as_u64() > row("b_star")["sampled"].as_u64());
    assert_eq!(row("m_star")["precision"], 1.0);
    assert!(row("mixed_only")["covered"].as_u64() <= row("b_star")["covered"].as_u64());
    let tokens = |name: &str| of(name)["mean"]["charged_tokens_total"].as_f64().expect("tokens");
    assert!(tokens("halving") > 0.0);
    // Merged weights are neither the trained ones nor the first ones.
    let results = &of("merge")["seeds"][0]["results"];
    assert_ne!(results["iteration[1].merged.policy"], results["iteration[1].train.policy"]);
    assert_ne!(results["iteration[1].merged.policy"], results["setup.sft.policy"]);
    assert!(results["iteration[0].filter.dataset"].is_string());
    assert!(of("official")["seeds"][0]["results"]["iteration[0].filter.search.threshold"].is_string());
}
