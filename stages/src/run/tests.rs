mod budget;
mod dataset;
mod labels;
mod scores;
mod selection;

use std::fs;

use serde::Serialize;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::code::Tests;
use crate::config::{Scale, ScoreShard};
use crate::protocol::FailureKind;
use crate::record::{Example, FinishReason, LabelledSteps, Query, Response, Reward};

/// A stage at work in a folder of its own.
struct Bench {
    folder: TempDir,
    work: Work,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        Self { folder, work: Work { inputs: BTreeMap::new(), output, seed: 17 } }
    }

    fn give<T: Serialize>(&mut self, name: &str, rows: &[T]) {
        let path = self.folder.path().join(format!("{name}.jsonl"));
        files::write_rows(&path, rows).unwrap();
        self.work.inputs.insert(name.to_owned(), path);
    }

    /// Runs a stage; settings that name inputs may be left to this function.
    fn run(&self, uses: &str, with: Value) -> Result<Map<String, Value>, StageError> {
        let stage = StageConfig::parse(uses, with).expect("a stage").expect("its settings");
        run(&stage, &self.work)
    }

    fn rows<T: DeserializeOwned>(&self, name: &str) -> Vec<T> {
        files::read_rows(&self.work.path(name)).unwrap()
    }
}

fn query(id: &str, answer: &str) -> Query {
    Query {
        id: id.to_owned(),
        prompt: format!("prompt of {id}"),
        answer: answer.to_owned(),
        prefix: None,
        choices: None,
        tests: None,
        tags: BTreeMap::new(),
    }
}

fn response(query_id: &str, sample_index: u32, text: &str) -> Response {
    Response {
        query_id: query_id.to_owned(),
        sample_index,
        temperature: 1.0,
        text: text.to_owned(),
        tokens: 5,
        logprob: -1.0,
        logprobs: None,
        finish_reason: FinishReason::Stop,
    }
}

fn solution(answer: &str) -> String {
    format!("3 + 4 = {answer}\n\n# Answer\n\n{answer}")
}

fn judged(rows: &[Response], queries: &[Query]) -> Vec<Reward> {
    let of = |response: &Response| queries.iter().find(|query| query.id == response.query_id).unwrap();
    rows.iter().map(|response| grade(of(response), response, &ScoreShard::new(None)).unwrap()).collect()
}

/// Two queries; the first has three responses of which two are equal and right, the second one wrong.
fn small() -> (Vec<Query>, Vec<Response>, Vec<Reward>) {
    let queries = vec![query("a", "7"), query("b", "8"), query("c", "9")];
    let responses = vec![
        response("a", 0, &solution("7")),
        response("a", 1, &solution("7")),
        response("a", 2, &format!("so {}", solution("7"))),
        response("b", 0, &solution("7")),
    ];
    let rewards = judged(&responses, &queries);
    (queries, responses, rewards)
}

#[test]
fn draws_go_round_the_pool() {
    let mut bench = Bench::new();
    bench.give("queries", &["a", "b", "c", "d", "e"].map(|id| query(id, "1")));
    let drawn = |iteration: usize| {
        bench.run("draw", json!({"queries": "x", "count": 3, "iteration": iteration})).unwrap();
        bench.rows::<Query>("queries.jsonl").into_iter().map(|query| query.id).collect::<Vec<_>>()
    };
    assert_eq!(drawn(0), ["a", "b", "c"]);
    assert_eq!(drawn(1), ["d", "e", "a"]);
    assert_eq!(drawn(5), ["a", "b", "c"]);
    let error = bench.run("draw", json!({"queries": "x", "count": 6})).unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
}

#[test]
fn problems_are_written_as_they_are_counted() {
    let bench = Bench::new();
    let with = json!({"pretrain": 50, "flawed": 20, "sft": 5, "train": 10, "validation": 4, "test": 3});
    let metrics = bench.run("problems", with).unwrap();
    assert_eq!(metrics["pretrain"], 50);
    assert_eq!(bench.rows::<Example>("pretrain.jsonl").len(), 50);
    assert_eq!(bench.rows::<Example>("sft.jsonl").len(), 5);
    assert_eq!(bench.rows::<Query>("test.jsonl").len(), 3);
}

#[test]
fn responses_are_judged_in_their_order() {
    let (queries, responses, _) = small();
    let mut bench = Bench::new();
    bench.give("queries", &queries);
    bench.give("responses", &responses);
    let metrics = bench.run("score_shard", json!({"grader": "math", "aggregate": null})).unwrap();
    assert_eq!((metrics["responses"].clone(), metrics["correct"].clone()), (4.into(), 3.into()));
    let rewards: Vec<Reward> = bench.rows("rewards.jsonl");
    assert_eq!(rewards.iter().map(|reward| reward.reward).collect::<Vec<_>>(), [1.0, 1.0, 1.0, 0.0]);
    assert_eq!(rewards[0].text_id, rewards[1].text_id);
    assert_ne!(rewards[0].text_id, rewards[2].text_id);
    assert_eq!(rewards[3].extracted.as_deref(), Some("7"));
    assert_eq!(rewards[3].equations, ["3+4=7"]);
}

#[test]
fn programs_are_judged_by_the_tests_of_their_query() {
    if crate::at_hand::sandbox().is_none() {
        return;
    }
    let asserts =
        |tests: &[&str]| Tests::Statements { tests: tests.iter().map(|test| (*test).to_owned()).collect() };
    let queries =
        vec![Query { tests: Some(asserts(&["assert up(1) == 2"])), ..query("a", "") }, query("untested", "")];
    let answer = |index, code: &str| response("a", index, &format!("So:\n```python\n{code}\n```\n"));
    let good = "def up(x):\n    return x + 1";
    let responses = vec![answer(0, good), answer(1, "def up(x):\n    return 3"), answer(2, good)];
    let mut bench = Bench::new();
    bench.give("queries", &queries);
    bench.give("responses", &responses);
    let with = json!({"grader": "code", "aggregate": null, "code": {"seconds": 2}});
    let metrics = bench.run("score_shard", with.clone()).unwrap();
    assert_eq!((metrics["responses"].clone(), metrics["correct"].clone()), (3.into(), 2.into()));
    let rewards: Vec<Reward> = bench.rows("rewards.jsonl");
    assert_eq!(rewards.iter().map(|reward| reward.reward).collect::<Vec<_>>(), [1.0, 0.0, 1.0]);
    assert_eq!(rewards[0].extracted.as_deref(), Some("def up(x):\n    return x + 1\n"));
    bench.give("responses", &[response("untested", 0, good)]);
    let error = bench.run("score_shard", with).unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.message.contains("untested"), "{error:?}");
}

/// What a data set's only row becomes.
fn read(format: &str, row: serde_json::Value) -> (Query, Option<Example>) {
    let mut bench = Bench::new();
    bench.give("file", &[row]);
    bench.run("dataset", json!({"file": "x", "format": format})).unwrap();
    (bench.rows("queries.jsonl").remove(0), bench.rows("examples.jsonl").pop())
}

#[test]
fn rows_of_public_data_sets_become_queries_and_examples() {
    let answer = "He has 48/2 = <<48/2=24>>24.\nSo 1,0<<1+1>>00.\n#### 1,000";
    let (query, example) = read("gsm8k", json!({"question": "How many?", "answer": answer}));
    assert_eq!((query.id.as_str(), query.answer.as_str()), ("gsm8k/0", "1000"));
    assert_eq!(query.prompt, "# Question\n\nHow many?\n\n# Solution\n\n");
    let example = example.unwrap();
    assert_eq!(example.completion, "He has 48/2 = 24.\nSo 1,000.\n\n# Answer\n\n1000");
    assert_eq!(example.query_id.as_deref(), Some("gsm8k/0"));

    let solution = "Clearly \\boxed{\\frac{1}{2}}.";
    let (query, _) =
        read("math", json!({"problem": "P", "solution": solution, "level": 3, "unique_id": "a/1"}));
    assert_eq!((query.id.as_str(), query.answer.as_str()), ("a/1", "\\frac{1}{2}"));
    assert_eq!(query.tags["level"], "3");

    let choices = json!({"text": ["red", "blue"], "label": ["1", "2"]});
    let (query, example) =
        read("arc", json!({"id": "m", "question": "Sky?", "choices": choices, "answerKey": "2"}));
    assert!(query.prompt.contains("(A) red\n(B) blue"), "{}", query.prompt);
    assert_eq!(query.answer, "B");
    assert_eq!(example.unwrap().completion, " Final answer: (B)");

    let row = json!({"task_id": "H/0", "prompt": "def f():\n", "entry_point": "f", "test": "def check(c): pass",
        "canonical_solution": "    return 1\n"});
    let (query, example) = read("humaneval", row);
    let tests = ["def check(c): pass", "check(f)"].map(str::to_owned).into();
    assert_eq!(query.tests, Some(Tests::Statements { tests }));
    assert_eq!(example.unwrap().completion, "```python\ndef f():\n    return 1\n```\n");

    let row = json!({"question": "Add.", "input_output": "{\"inputs\": [\"1\\n\"], \"outputs\": [18446744073709551619]}", "solutions": "[\"print(2)\"]"});
    let (query, example) = read("apps", row);
    let Some(Tests::Examples(examples)) = query.tests else { panic!("no examples") };
    assert_eq!(examples.inputs, ["1\n"]);
    assert_eq!(examples.outputs, [json!({"$int": "18446744073709551619"})], "not rounded");
    assert_eq!(example.unwrap().completion, "```python\nprint(2)\n```\n");

    let (query, _) = read(
        "mbpp",
        json!({"text": "Write f.", "test_list": ["assert f() == 1"], "test_setup_code": "import os"}),
    );
    assert!(query.prompt.contains("assert f() == 1"));
    assert!(matches!(query.tests, Some(Tests::Statements { tests }) if tests.len() == 2));
}

#[test]
fn rows_that_are_not_of_the_format_are_refused_by_number() {
    let refused = |with: serde_json::Value, rows: &[serde_json::Value]| {
        let mut bench = Bench::new();
        bench.give("file", rows);
        let error = bench.run("dataset", with).unwrap_err();
        assert_eq!(error.kind, FailureKind::Invalid);
        error.message
    };
    let good = json!({"question": "Q", "answer": "#### 1"});
    let gsm8k = json!({"file": "x", "format": "gsm8k"});
    assert!(
        refused(gsm8k.clone(), &[good.clone(), json!({"question": "Q", "answer": "1"})]).contains("row 2")
    );
    assert!(refused(gsm8k, &[json!({"problem": "Q", "answer": "#### 1"})]).contains("no `question`"));
    assert!(refused(json!({"file": "x", "format": "gsm8k", "skip": 1}), &[good]).contains("no row is left"));
    let uneven = json!({"question": "Q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"});
    assert!(refused(json!({"file": "x", "format": "arc"}), &[uneven]).contains("equal length"));
    let twice = json!({"problem": "P", "answer": "1", "id": "same"});
    assert!(refused(json!({"file": "x", "format": "math"}), &[twice.clone(), twice]).contains("same"));
}

#[test]
fn columns_and_templates_are_the_users_own() {
    let mut bench = Bench::new();
    bench.give("file", &[json!({"frage": "Wie {answer}?", "loesung": "so", "antwort": 3})]);
    let with = json!({"file": "x", "format": "math", "prompt": "Q: {question}", "completion": "{answer}: {solution}",
        "columns": {"problem": "frage", "solution": "loesung", "answer": "antwort"}});
    bench.run("dataset", with).unwrap();
    let example = bench.rows::<Example>("examples.jsonl").remove(0);
    assert_eq!((example.prompt.as_str(), example.completion.as_str()), ("Q: Wie {answer}?", "3: so"));
}

/// Every row of the sets that are at hand.
#[test]
fn public_data_sets_are_read_whole() {
    let sets = [
        ("gsm8k/test.jsonl", "gsm8k", 1319),
        ("math/math500_prm800k_test.jsonl", "math", 500),
        ("arc/arc_challenge_test.jsonl", "arc", 1172),
        ("humaneval/HumanEval.jsonl", "humaneval", 164),
        ("code/apps_train_5.jsonl", "apps", 5),
    ];
    for (file, format, rows) in sets {
        let Some(text) = crate::at_hand::shared(file) else { return };
        let values: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut bench = Bench::new();
        bench.give("file", &values);
        let metrics = bench.run("dataset", json!({"file": "x", "format": format})).unwrap();
        assert_eq!(
            (metrics["queries"].clone(), metrics["examples"].clone()),
            (rows.into(), rows.into()),
            "{file}"
        );
    }
}

#[test]
fn every_question_of_arc_can_be_answered_rightly() {
    let Some(text) = crate::at_hand::shared("arc/arc_challenge_test.jsonl") else { return };
    let mut bench = Bench::new();
    bench.give("file", &text.lines().map(|row| serde_json::from_str(row).unwrap()).collect::<Vec<Value>>());
    bench.run("dataset", json!({"file": "f", "format": "arc"})).unwrap();
    let queries: Vec<Query> = bench.rows("queries.jsonl");
    assert_eq!(queries.len(), 1172);
    bench.give("queries", &queries);
    // Each choice, by its letter and in its words.
    let mut responses = Vec::new();
    for query in &queries {
        for (number, text) in (0..).zip(query.choices.as_ref().unwrap()) {
            let letter = char::from(b'A' + number);
            let number = u32::from(number);
            responses.push(response(&query.id, 2 * number, &format!("Hm.\n\nFinal answer: ({letter})")));
            responses.push(response(&query.id, 2 * number + 1, &format!("Final answer: {text}")));
        }
    }
    bench.give("responses", &responses);
    let metrics = bench.run("score_shard", json!({"grader": "choice", "aggregate": null})).unwrap();
    // "C" (carbon) is the first choice of one question and the letter of its third, which is right: it is the letter.
    assert_eq!(metrics["correct"], 2 * queries.len() + 1);
    for reward in bench.rows::<Reward>("rewards.jsonl") {
        let query = queries.iter().find(|query| query.id == reward.query_id).unwrap();
        assert_eq!(reward.extracted.as_deref() == Some(query.answer.as_str()), reward.correct);
    }
}

#[test]
fn choices_are_asked_for_where_they_are_missing() {
    let mut bench = Bench::new();
    bench.give("queries", &[query("a", "B")]);
    bench.give("responses", &[response("a", 0, "Final answer: (B)")]);
    let error = bench.run("score_shard", json!({"grader": "choice", "aggregate": null})).unwrap_err();
    assert!(error.message.contains("the query `a` has no choices"), "{error}");
    assert!(error.hint.unwrap().contains("format: arc"));
}

#[test]
fn conventions_change_verdicts() {
    let mut bench = Bench::new();
    bench.give("queries", &[query("a", "0.5")]);
    bench.give("responses", &[response("a", 0, &solution("50%"))]);
    for (percent, correct) in [("either", 1), ("hundredth", 1), ("sign", 0)] {
        let with = json!({"grader": "math", "aggregate": null, "conventions": {"percent": percent}});
        assert_eq!(bench.run("score_shard", with).unwrap()["correct"], correct, "{percent}");
    }
}

#[test]
fn a_response_to_an_unknown_query_is_refused() {
    let mut bench = Bench::new();
    bench.give("queries", &[query("a", "7")]);
    bench.give("responses", &[response("b", 0, "")]);
    let error = bench.run("score_shard", json!({"grader": "exact", "aggregate": null})).unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.hint.unwrap().contains("sampled"));
}

#[test]
fn filtering_keeps_distinct_responses_above_the_threshold() {
    let (queries, responses, rewards) = small();
    let mut bench = Bench::new();
    bench.give("queries", &queries);
    bench.give("responses", &responses);
    bench.give("rewards", &rewards);
    let with =
        |threshold: f64| json!({"queries": "q", "responses": "r", "rewards": "s", "threshold": threshold});
    let metrics = bench.run("filter", with(0.5)).unwrap();
    let expected = json!({"sampled": 4, "kept": 2, "queries": 2, "covered": 1, "k": 3, "correct": 1.0});
    assert_eq!(Value::from(metrics), expected);
    let dataset: Vec<Example> = bench.rows("dataset.jsonl");
    assert!(dataset.iter().all(|row| row.prompt == "prompt of a" && row.reward == Some(1.0)));
    let mut kept: Vec<u32> = dataset.iter().filter_map(|row| row.sample_index).collect();
    kept.sort_unstable();
    assert_eq!(kept, [0, 2]);

    let mut limited = with(0.5);
    limited["keep_per_query"] = json!(0.5);
    assert_eq!(bench.run("filter", limited).unwrap()["kept"], 1);
    assert_eq!(bench.run("filter", with(-0.5)).unwrap()["kept"], 3);
}

#[test]
fn filtering_everything_away_is_refused_with_advice() {
    let (queries, responses, rewards) = small();
    let mut bench = Bench::new();
    bench.give("queries", &queries);
    bench.give("responses", &responses);
    bench.give("rewards", &rewards);
    let with = json!({"queries": "q", "responses": "r", "rewards": "s", "threshold": 1.0});
    let error = bench.run("filter", with).unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.hint.unwrap().contains("lower the threshold"));
}

#[test]
fn rewards_that_do_not_belong_are_refused() {
    let (queries, responses, rewards) = small();
    let with = json!({"queries": "q", "responses": "r", "rewards": "s", "threshold": 0.5});
    let mut bench = Bench::new();
    bench.give("queries", &queries[1..]);
    bench.give("responses", &responses);
    bench.give("rewards", &rewards);
    let error = bench.run("filter", with.clone()).unwrap_err();
    assert!(error.message.contains("query `a`"), "{error}");
    bench.give("queries", &queries);
    bench.give("responses", &responses[1..]);
    let error = bench.run("filter", with).unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.message.contains("sample 0"), "{error}");
}

#[test]
fn empty_inputs_are_refused() {
    let mut bench = Bench::new();
    bench.give::<Reward>("rewards", &[]);
    let with = json!({"rewards": "r", "thresholds": {"from": 0, "to": 0, "by": 1}, "n_star": 4});
    let error = bench.run("search", with).unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.message.contains("no rows") && error.hint.is_some());
}

#[test]
fn the_search_writes_its_choice_as_bare_numbers() {
    let queries = [query("a", "7"), query("b", "8")];
    // At 0.5 only one query is answered rightly, at 0.9 both; 1.2 answers just one.
    let at = |temperature: f64, id: &str, sample: u32, answer: &str| Response {
        temperature,
        ..response(id, sample, &solution(answer))
    };
    let responses = [
        at(0.9, "a", 0, "7"),
        at(0.9, "b", 0, "8"),
        at(0.5, "a", 0, "7"),
        at(0.5, "b", 0, "7"),
        at(1.2, "a", 0, "7"),
    ];
    let mut bench = Bench::new();
    bench.give("rewards", &judged(&responses, &queries));
    let with = json!({"rewards": "r", "thresholds": {"from": -0.1, "to": 0.9, "by": 0.1}, "n_star": 2});
    let metrics = bench.run("search", with).unwrap();
    assert_eq!(fs::read_to_string(bench.work.path("temperature.json")).unwrap(), "0.9\n");
    assert_eq!(fs::read_to_string(bench.work.path("threshold.json")).unwrap(), "0.9\n");
    assert_eq!(metrics["balance_score"], 0.5);
    assert_eq!(metrics["kept"], 2);
    let surface: Vec<Value> = bench.rows("surface.jsonl");
    assert_eq!(surface.len(), 3 * 11);
    let hot = surface.iter().find(|row| row["temperature"] == 1.2 && row["threshold"] == 0.5).unwrap();
    assert_eq!(hot["balance_score"], 0.25, "a query without responses counts zero");
}

#[test]
fn measures_are_those_of_the_rewards() {
    let (queries, responses, rewards) = small();
    let mut bench = Bench::new();
    bench.give("greedy", &[rewards[0].clone(), rewards[3].clone()]);
    let greedy = bench.run("measure", json!({"greedy": "g"})).unwrap();
    assert_eq!(greedy["pass_at_1"], 0.5);
    assert!(!greedy.contains_key("pass_at_k"));

    let mut more = responses;
    more.extend([response("b", 1, &solution("8")), response("b", 2, &solution("9"))]);
    bench.give("rewards", &judged(&more, &queries));
    let with = json!({"greedy": "g", "rewards": "r", "k": [1, 3], "s": [2, 4]});
    let metrics = bench.run("measure", with).unwrap();
    assert_eq!(metrics["samples"], 3);
    assert!((metrics["mean_accuracy"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(metrics["pass_at_k"]["3"], 1.0);
    assert_eq!(metrics["pass_at_k_s"], json!({"3-2": 0.5}));
    assert_eq!(metrics["within_query_auc"], Value::Null);
    assert_eq!(metrics["best_of_k"], json!({}));
    assert_eq!(metrics["distinct_equations"], 1.0);
    assert_eq!(metrics["distinct_equations_all"], 2.0);
    let written: Map<String, Value> =
        serde_json::from_slice(&fs::read(bench.work.path("metrics.json")).unwrap()).unwrap();
    assert_eq!(written, metrics);

    let with = json!({"greedy": "g", "rewards": "r", "k": [4]});
    assert!(bench.run("measure", with).unwrap_err().message.contains("Pass@4"));
}

#[test]
fn measures_at_other_temperatures_are_of_their_own_rewards() {
    let (queries, _, rewards) = small();
    let mut bench = Bench::new();
    bench.give("greedy", &[rewards[0].clone(), rewards[3].clone()]);
    // Two of three are right for `a`, one of three for `b`; at 1.3 one and none.
    let all = |temperature: f64, answers: [[&str; 3]; 2]| {
        let mut rows = Vec::new();
        for (id, answers) in ["a", "b"].iter().zip(answers) {
            for (sample, answer) in (0..).zip(answers) {
                rows.push(Response { temperature, ..response(id, sample, &solution(answer)) });
            }
        }
        rows
    };
    let (usual, hot) =
        (all(0.7, [["7", "7", "1"], ["8", "1", "2"]]), all(1.3, [["7", "1", "2"], ["1", "2", "3"]]));
    bench.give("rewards", &judged(&usual, &queries));
    bench.give("at0", &judged(&usual, &queries));
    bench.give("at_responses0", &usual);
    bench.give("at1", &judged(&hot, &queries));
    bench.give("at_responses1", &hot);
    let with =
        json!({"greedy": "g", "rewards": "r", "k": [1, 3], "at": ["x", "y"], "at_responses": ["p", "q"]});
    let metrics = bench.run("measure", with).unwrap();
    let at = metrics["at"].as_object().unwrap();
    assert_eq!(at.keys().collect::<Vec<_>>(), ["0.7", "1.3"]);
    for (temperature, right, solved) in [("0.7", 3.0, 1.0), ("1.3", 1.0, 0.5)] {
        let there = &at[temperature];
        assert!((there["mean_accuracy"].as_f64().unwrap() - right / 6.0).abs() < 1e-12, "{there}");
        assert_eq!(there["pass_at_k"]["3"], solved, "{there}");
        assert_eq!(there["samples"], 3, "{there}");
    }
    // What is measured there changes nothing here.
    let alone = bench.run("measure", json!({"greedy": "g", "rewards": "r", "k": [1, 3]})).unwrap();
    for (name, value) in alone {
        assert_eq!(metrics[&name], value, "{name}");
    }
}

#[test]
fn the_best_of_k_does_not_know_the_answer() {
    let queries = [query("a", "7")];
    let responses = [response("a", 0, &solution("7")), response("a", 1, &solution("8"))];
    let mut rewards = judged(&responses, &queries);
    add_model_scores(&mut rewards[0], vec![-0.5], crate::config::Aggregate::Min).unwrap();
    add_model_scores(&mut rewards[1], vec![0.5], crate::config::Aggregate::Min).unwrap();
    let mut bench = Bench::new();
    bench.give("greedy", &rewards[..1]);
    bench.give("rewards", &rewards);
    let metrics = bench.run("measure", json!({"greedy": "g", "rewards": "r", "s": [1]})).unwrap();
    assert_eq!(metrics["best_of_k"], json!({"2": 0.0}));
    assert_eq!(metrics["reward_at_k_s"], json!({"2-1": 0.0}));
    assert_eq!(metrics["within_query_auc"], 0.0);
}

#[test]
fn several_greedy_responses_are_refused() {
    let (_, _, rewards) = small();
    let mut bench = Bench::new();
    bench.give("greedy", &rewards);
    let error = bench.run("measure", json!({"greedy": "g"})).unwrap_err();
    assert!(error.message.contains("query `a` has 3 greedy responses"), "{error}");
}

#[test]
fn steps_are_labelled_by_the_share_of_right_continuations() {
    let queries = [query("q/1", "7")];
    let text = "first 2 + 1 = 3\n\nthen 3 + 4 = 7\n\n# Answer\n\n7";
    let mut bench = Bench::new();
    bench.give("queries", &queries);
    bench.give("responses", &[response("q/1", 0, text), response("q/1", 1, "5 + 2 = 7")]);
    bench.run("prefixes", json!({"queries": "q", "responses": "r"})).unwrap();
    let prefixes: Vec<Query> = bench.rows("queries.jsonl");
    assert_eq!(
        prefixes.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(),
        ["q/1/0/0", "q/1/0/1", "q/1/1/0"]
    );
    assert_eq!(prefixes[0].prefix.as_deref(), Some("first 2 + 1 = 3\n\n"));
    assert_eq!(prefixes[1].prefix.as_deref(), Some(text));

    let continuations = [
        response("q/1/0/0", 0, &solution("7")),
        response("q/1/0/0", 1, &solution("8")),
        response("q/1/0/1", 0, text),
        response("q/1/1/0", 0, &solution("6")),
    ];
    bench.give("rewards", &judged(&continuations, &prefixes));
    bench.give("prefixes", &prefixes);
    let metrics = bench.run("label_steps", json!({"prefixes": "p", "rewards": "r"})).unwrap();
    assert_eq!(Value::from(metrics), json!({"solutions": 2, "steps": 3, "mean_label": 0.5}));
    let labels: Vec<LabelledSteps> = bench.rows("labels.jsonl");
    assert_eq!(labels[0].steps.concat(), text);
    assert_eq!(labels[0].labels, [0.5, 1.0]);
    assert_eq!((labels[1].query_id.as_str(), labels[1].labels.as_slice()), ("q/1", [0.0].as_slice()));

    bench.give("rewards", &judged(&continuations[..3], &prefixes));
    let error = bench.run("label_steps", json!({"prefixes": "p", "rewards": "r"})).unwrap_err();
    assert!(error.message.contains("q/1/1/0"), "{error}");
}

#[test]
fn stages_of_other_runners_are_refused() {
    let bench = Bench::new();
    let error = bench.run("command", json!({"argv": ["true"], "outputs": ["x"]})).unwrap_err();
    assert_eq!(error.kind, FailureKind::Failed);
}

#[test]
fn prompts_are_rendered_and_the_rest_of_a_row_stays() {
    let mut bench = Bench::new();
    bench.give("rows", &[query("a", "1"), query("b", "2")]);
    let template = "Q: {{ messages[-1].content }} {{ style }}\nA:";
    let with = json!({"rows": "q", "template": template, "variables": {"style": "!"}});
    assert_eq!(bench.run("prompts", with.clone()).unwrap()["rows"], 2);
    let rows: Vec<Query> = bench.rows("rows.jsonl");
    assert_eq!(rows[1], Query { prompt: "Q: prompt of b !\nA:".to_owned(), ..query("b", "2") });
    let text = fs::read_to_string(bench.work.path("rows.jsonl")).unwrap();
    assert!(text.starts_with(r#"{"id":"a","prompt":"Q: prompt of a !"#), "fields keep their order: {text}");

    bench.give("rows", &[json!({"prompt": "a"}), json!({"prompt": 1})]);
    let error = bench.run("prompts", with).unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.message.contains("row 2 of `rows`: it has no text `prompt`"), "{error}");
}
