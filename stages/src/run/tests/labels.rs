//! Labels from several sets of solutions, and of both kinds.

use super::*;

/// Cuts the responses with sample indices in a range, judges a right and a wrong continuation of every beginning
/// whose text is in `good`, and two wrong ones of the others, and gives both as the inputs of a set.
fn part(bench: &mut Bench, range: [u32; 2], number: &str, good: &[&str]) {
    bench.run("prefixes", json!({"queries": "q", "responses": "r", "samples": range})).unwrap();
    let prefixes: Vec<Query> = bench.rows("queries.jsonl");
    let continued: Vec<Response> = prefixes
        .iter()
        .flat_map(|prefix| {
            let right = good.contains(&prefix.prefix.as_deref().unwrap());
            [response(&prefix.id, 0, &solution(if right { "7" } else { "8" })), response(&prefix.id, 1, "no")]
        })
        .collect();
    bench.give(&format!("rewards{number}"), &judged(&continued, &prefixes));
    bench.give(&format!("prefixes{number}"), &prefixes);
}

fn given() -> Bench {
    let mut bench = Bench::new();
    bench.give("queries", &["a", "b"].map(|id| query(id, "7")));
    let responses: Vec<Response> = ["a", "b"]
        .iter()
        .flat_map(|id| (0..3).map(move |sample| response(id, sample, &format!("one\n\n{id}{sample}"))))
        .collect();
    bench.give("responses", &responses);
    bench
}

const GOOD: [&str; 3] = ["one\n\na0", "one\n\na2", "one\n\nb1"];

#[test]
fn solutions_cut_into_sets_are_labelled_as_if_they_were_not() {
    let mut whole = given();
    part(&mut whole, [0, 3], "", &GOOD);
    whole.run("label_steps", json!({"prefixes": "p", "rewards": "r"})).unwrap();
    let expected: Vec<LabelledSteps> = whole.rows("labels.jsonl");
    assert_eq!(expected.len(), 6);
    assert_eq!(expected[0].labels, [0.0, 0.5]);

    let mut cut = given();
    part(&mut cut, [0, 2], "", &GOOD);
    part(&mut cut, [2, 3], "1", &GOOD);
    let with =
        json!({"prefixes": "p", "rewards": "r", "more": [{"prefixes": "p", "rewards": "r"}], "queries": "q"});
    cut.run("label_steps", with.clone()).unwrap();
    assert_eq!(cut.rows::<LabelledSteps>("labels.jsonl"), expected);

    cut.give("queries", &[query("a", "7")]);
    let error = cut.run("label_steps", with).unwrap_err();
    assert!(error.message.contains("answers query `b`"), "{error}");
}

#[test]
fn a_hard_label_is_whether_any_continuation_is_right() {
    let mut bench = given();
    part(&mut bench, [0, 3], "", &GOOD);
    bench.run("label_steps", json!({"prefixes": "p", "rewards": "r", "estimate": "hard"})).unwrap();
    let labels: Vec<Vec<f64>> =
        bench.rows::<LabelledSteps>("labels.jsonl").into_iter().map(|row| row.labels).collect();
    assert_eq!(labels, [[0.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]);
}
