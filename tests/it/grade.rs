//! `bstar grade`: answers in, judgements out.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Space, bstar};

fn grade(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(bstar())
        .arg("grade")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bstar starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // Rows come out while others still go in.
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("bstar ends");
    writer.join().expect("no panic").expect("bstar reads everything");
    output
}

fn rows(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

#[test]
fn rows_come_out_in_order_with_their_judgements() {
    let row = |number: u32| {
        let pred = if number.is_multiple_of(3) { number + 1 } else { number };
        format!("{{\"id\": {number}, \"gold\": \"{number}\", \"pred\": \"so \\\\boxed{{{pred}}}\"}}\n")
    };
    let input: String = (0..10_000).map(row).collect();
    let output = grade(&["--jobs", "3", "--summary"], &input);
    assert!(output.status.success());
    let rows = rows(&output);
    assert_eq!(rows.len(), 10_000);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row["id"], number);
        assert_eq!(row["correct"], !number.is_multiple_of(3), "{row}");
        assert!(row["reason"].is_string());
    }
    let summary = String::from_utf8_lossy(&output.stderr);
    assert!(summary.contains("10000 rows, 6666 correct, 3334 wrong, 0 malformed"), "{summary}");
    assert_eq!(grade(&["--jobs", "1"], &input).stdout, output.stdout);
}

#[test]
fn graders_differ_where_they_should() {
    let input = r##"{"gold": "1/2", "pred": "\\frac{2}{4}"}
{"gold": "\\frac{1}{2}", "pred": ".5"}
{"gold": "5", "pred": "# Answer\n\n5"}
{"gold": 5, "pred": null}"##;
    let verdicts = |grader: &str| -> Vec<bool> {
        rows(&grade(&["--grader", grader], input)).iter().map(|row| row["correct"] == true).collect()
    };
    assert_eq!(verdicts("math"), [true, true, true, false]);
    assert_eq!(verdicts("official"), [false, true, true, false]);
    assert_eq!(verdicts("exact"), [false, false, true, false]);
}

#[test]
fn malformed_lines_are_named_and_the_others_judged() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"gold\": \"1\", \"pred\": \"1\"}\nnonsense\n\n{\"gold\": \"2\"}\n{\"gold\": \"3\", \"pred\": \"4\"}");
    let outcome = space.command(&["grade", "rows.jsonl"]).output().unwrap();
    assert_eq!(outcome.status.code(), Some(2));
    assert_eq!(rows(&outcome).len(), 2);
    let errors = String::from_utf8_lossy(&outcome.stderr);
    for part in
        ["rows.jsonl:2: not a JSON object", "rows.jsonl:4: `pred` is missing", "2 lines of rows.jsonl"]
    {
        assert!(errors.contains(part), "{errors}");
    }
    let missing = space.command(&["grade", "none.jsonl"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot read none.jsonl"));
}

#[test]
fn check_compares_with_what_was_expected() {
    let input = r##"{"gold": "1", "pred": "1", "expected": true}
{"gold": "1", "pred": "2", "expected": true}
{"gold": "1", "pred": "1.0", "expected": false}
{"gold": "1", "pred": "3"}"##;
    let output = grade(&["--check"], input);
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    for part in [
        "standard input:2: rejected (different numbers): gold `1`, pred `2`",
        "standard input:3: accepted",
        "1 of 3 as expected, 1 accepted and 1 rejected against `expected`",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn choices_are_judged_by_position_and_label() {
    let input = r##"{"question": "?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2", "pred": "Final answer: (B)"}
{"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B", "pred": "Final answer: A"}
{"question": "?", "choices": {"text": ["x"], "label": ["A", "B"]}, "answerKey": "B", "pred": "A"}"##;
    let output = grade(&["--task", "choice"], input);
    assert_eq!(output.status.code(), Some(2));
    let verdicts: Vec<bool> = rows(&output).iter().map(|row| row["correct"] == true).collect();
    assert_eq!(verdicts, [true, false]);
}

#[test]
fn code_is_judged_in_a_sandbox() {
    let rows_in = concat!(
        r#"{"id": 0, "code": "print(int(input()) + 1)", "inputs": ["1\n", "5\n"], "outputs": ["2\n", "6"]}"#,
        "\n",
        r#"{"id": 1, "code": "print(2)", "inputs": ["1\n", "5\n"], "outputs": ["2\n", "6"]}"#,
        "\n",
        r#"{"id": 2, "code": "def up(x): return x + 1", "inputs": [[1]], "outputs": [2], "fn_name": "up"}"#,
        "\n",
        r#"{"id": 3, "code": "def up(x): return x + 1", "tests": ["assert up(1) == 2", "assert up(-1) == 0"]}"#,
        "\n",
        r#"{"id": 4, "code": "import os\nos._exit(0)", "tests": ["assert up(1) == 2"]}"#,
        "\n",
        r#"{"id": 5, "code": "open('/etc/passwd').read()\ndef up(x): return x + 1", "tests": ["assert up(1) == 2"]}"#,
        "\n",
        r#"{"id": 6, "code": "def up(x): return x + 2**62", "inputs": [[3], [36893488147419103232]], "outputs": [4611686018427387907, 41505174165846491136], "fn_name": "up"}"#,
        "\n",
        r#"{"id": 7, "code": "def up(x): return x", "inputs": [[36893488147419103232]], "outputs": [36893488147419103233], "fn_name": "up"}"#,
        "\n",
    );
    let output = grade(&["--task", "code", "--jobs", "2"], rows_in);
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(2) && said.contains("untrusted code cannot be run safely here") {
        assert!(said.contains("hint:"), "{said}");
        return crate::servers::skipped(&said);
    }
    assert!(output.status.success(), "{said}");
    let rows = rows(&output);
    let correct: Vec<bool> = rows.iter().map(|row| row["correct"] == true).collect();
    assert_eq!(correct, [true, false, true, true, false, false, true, false], "{rows:?}");
    assert_eq!(rows[1]["passed"], 1);
    assert!(
        rows[5]["reason"].as_str().is_some_and(|reason| reason.contains("FileNotFoundError")),
        "{}",
        rows[5]
    );
    let output = grade(&["--task", "code"], "{\"code\": \"x = 1\"}\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("tests"));
}

#[test]
fn conventions_can_be_changed() {
    let input = r##"{"gold": "50\\%", "pred": "0.5"}
{"gold": "1, 2", "pred": "2, 1"}"##;
    let verdicts = |arguments: &[&str]| -> Vec<bool> {
        rows(&grade(arguments, input)).iter().map(|row| row["correct"] == true).collect()
    };
    assert_eq!(verdicts(&[]), [true, true]);
    assert_eq!(verdicts(&["--convention", "percent=sign"]), [false, true]);
    assert_eq!(
        verdicts(&["--convention", "list_order=true", "--convention", "percent=hundredth"]),
        [true, false]
    );
    for (change, told) in
        [("colour=red", "no convention `colour`"), ("percent=2", "`percent` is"), ("brackets", "NAME=VALUE")]
    {
        let output = grade(&["--convention", change], "");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(told), "{change}");
    }
}
