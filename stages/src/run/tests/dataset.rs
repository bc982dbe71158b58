//! What the pipelines for real models ask of public data sets.

use super::*;

fn completions(with: &Value, row: &Value) -> Vec<String> {
    let mut bench = Bench::new();
    bench.give("file", std::slice::from_ref(row));
    bench.run("dataset", with.clone()).unwrap();
    bench.rows::<Example>("examples.jsonl").into_iter().map(|example| example.completion).collect()
}

#[test]
fn steps_are_lines_or_the_sentences_of_a_paragraph() {
    let steps = |format: &str, row: &Value| {
        let with = json!({"file": "x", "format": format, "completion": "{steps}"});
        completions(&with, row).remove(0)
    };
    let lines = "In May <<1+1=2>>2. Good.\nIn June 3.\n\n#### 5";
    assert_eq!(steps("gsm8k", &json!({"question": "Q", "answer": lines})), "In May 2. Good.\n\nIn June 3.");

    let math = |solution: &str| steps("math", &json!({"problem": "P", "answer": "1", "solution": solution}));
    assert_eq!(
        math("Let $a. B$ be 1.5. Then $b = 2$. So is c. D. E. Noether's. It is \\boxed{1}. "),
        "Let $a. B$ be 1.5.\n\nThen $b = 2$.\n\nSo is c. D. E. Noether's.\n\nIt is \\boxed{1}."
    );
    let figure = "[asy]\ndraw(a);\n\ndot(b);\n[/asy]";
    let aligned = "\\begin{align*}\nx &= 1 \\\\\n\ny &= 2. Z\n\\end{align*}";
    assert_eq!(
        math(&format!("We see\n{figure}\n\n\\[x =\n1\\]and\n{aligned}\nIt costs \\$5.")),
        format!("We see\n\n{figure}\n\n\\[x =\n1\\]and\n\n{aligned}\n\nIt costs \\$5.")
    );
}

#[test]
fn several_solutions_become_examples_and_long_ones_do_not() {
    let row = json!({"question": "Q", "input_output": {"inputs": ["1"], "outputs": ["1"]},
        "solutions": ["print(1) # the long way", "print(1)", "a = 1\nprint(a)\n", "print(0+1)"]});
    let found = |more: Value| {
        let mut with = json!({"file": "x", "format": "apps", "completion": "{solution}"});
        for (name, value) in more.as_object().unwrap() {
            with[name] = value.clone();
        }
        completions(&with, &row)
    };
    assert_eq!(found(json!({})), ["print(1) # the long way"]);
    assert_eq!(found(json!({"longest_solution": 20})), ["print(1)"]);
    assert_eq!(found(json!({"solutions": 2, "longest_solution": 20})), ["print(1)", "a = 1\nprint(a)"]);
    assert_eq!(found(json!({"solutions": 9})).len(), 4);
    assert!(found(json!({"longest_solution": 3})).is_empty());
}

#[test]
fn questions_of_arc_are_read_in_both_layouts() {
    let read = |row: Value| {
        let mut bench = Bench::new();
        bench.give("file", &[row]);
        bench
            .run("dataset", json!({"file": "x", "format": "arc"}))
            .map(|_| bench.rows::<Query>("queries.jsonl"))
    };
    let columns = json!({"text": ["red", "blue"], "label": ["1", "2"]});
    let flat = json!({"id": "m", "question": "Sky?", "choices": columns, "answerKey": "2"});
    let each = json!([{"text": "red", "label": "1"}, {"text": "blue", "label": "2"}]);
    let nested = json!({"id": "m", "question": {"stem": "Sky?", "choices": each}, "answerKey": "2"});
    assert_eq!(read(nested).unwrap(), read(flat).unwrap());
    let error = read(json!({"question": {"choices": []}, "answerKey": "A"})).unwrap_err();
    assert!(error.message.contains("`question` has no `stem`"), "{error}");
    let error =
        read(json!({"question": {"stem": "Q", "choices": [{"text": "a"}]}, "answerKey": "A"})).unwrap_err();
    assert!(error.message.contains("of equal length"), "{error}");
}

/// Rows in MBPP's two layouts, with their reference programs and a wrong one.
#[test]
fn programs_for_rows_of_mbpp_are_judged() {
    if crate::at_hand::sandbox().is_none() {
        return;
    }
    let rows = [
        json!({"task_id": 1, "text": "Write a function to double a number.", "code": "def double(n):\r\n  return 2 * n",
            "test_list": ["assert double(2) == 4", "assert double(-1) == -2"], "test_setup_code": "",
            "challenge_test_list": ["assert double(0) == 0"]}),
        json!({"task_id": 2, "prompt": "Write a function to find the area of a circle.",
            "code": "import math\ndef area(r):\n  return math.pi * r ** 2", "test_imports": ["import math"],
            "test_list": ["assert math.isclose(area(2), 12.566, rel_tol=0.001)"]}),
        json!({"task_id": 3, "text": "Write a function to join sorted words.", "code": "def joined(*words): return sorted(words)",
            "test_setup_code": "words = ['b', 'a']", "test_list": ["assert joined(*words) == ['a', 'b']"]}),
    ];
    let mut bench = Bench::new();
    bench.give("file", &rows);
    bench.run("dataset", json!({"file": "x", "format": "mbpp"})).unwrap();
    let (queries, examples) = (bench.rows::<Query>("queries.jsonl"), bench.rows::<Example>("examples.jsonl"));
    assert!(queries[0].prompt.starts_with("Write a function to double a number.\n\nassert double(2) == 4\n"));
    let mut responses: Vec<Response> =
        examples.iter().map(|row| response(row.query_id.as_deref().unwrap(), 0, &row.completion)).collect();
    responses.push(response("1", 1, "```python\ndef double(n): return n + 2\n```"));
    bench.give("queries", &queries);
    bench.give("responses", &responses);
    bench.run("score_shard", json!({"grader": "code", "aggregate": null})).unwrap();
    let right: Vec<bool> = bench.rows::<Reward>("rewards.jsonl").iter().map(|row| row.correct).collect();
    assert_eq!(right, [true, true, true, false]);
}

#[test]
fn programs_of_another_python_are_refused() {
    if crate::at_hand::sandbox().is_none() {
        return;
    }
    let mut bench = Bench::new();
    let (queries, responses, _) = small();
    bench.give("queries", &queries);
    bench.give("responses", &responses);
    let with = json!({"grader": "code", "aggregate": null, "code": {"python": "3.1"}});
    let error = bench.run("score_shard", with).unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.message.contains("Python 3.1, and "), "{error}");
}
