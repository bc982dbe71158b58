use super::*;
use crate::at_hand::{sandbox, shared};
use crate::protocol::FailureKind;
use crate::run::Grading;

fn judge() -> Option<Judge> {
    Some(Judge::new(sandbox()?, Rules { seconds: 1, ..Rules::default() }))
}

fn examples(pairs: &[(&str, &str)]) -> Tests {
    let (inputs, outputs) = pairs.iter().map(|(a, b)| (Value::from(*a), Value::from(*b))).unzip();
    Tests::Examples(Examples { inputs, outputs, fn_name: None })
}

fn calls(name: &str, inputs: Value, outputs: Value) -> Tests {
    let list = |value: Value| value.as_array().cloned().unwrap();
    Tests::Examples(Examples { inputs: list(inputs), outputs: list(outputs), fn_name: Some(name.to_owned()) })
}

fn asserts(tests: &[&str]) -> Tests {
    Tests::Statements { tests: tests.iter().map(|test| (*test).to_owned()).collect() }
}

#[test]
fn programs_read_and_print() {
    let Some(mut judge) = judge() else { return };
    let tests = examples(&[("1 2\n", "3\n"), ("10 -4\n", "6")]);
    let mut correct = |code: &str| judge.judge(code, &tests).unwrap();
    assert!(correct("a, b = map(int, input().split())\nprint(a + b)").correct);
    assert!(correct("import sys\nprint(sum(map(int, sys.stdin.read().split())))").correct);
    assert!(correct("if __name__ == '__main__':\n    print(sum(map(int, open(0).read().split())))").correct);
    assert!(correct("print(sum(map(int, input().split())))\nexit()").correct, "to exit is no failure");
    assert!(
        correct("a, b = map(int, input().split())\nif a > 5:\n    print(6)\n    return\nprint(3)").correct
    );
    let wrong = correct("a, b = map(int, input().split())\nprint(3)");
    assert_eq!((wrong.correct, wrong.passed), (false, 1));
    let reason = |verdict: Verdict| verdict.reason.unwrap_or_default();
    assert!(reason(correct("print(")).starts_with("SyntaxError"));
    assert!(reason(correct("print(1/0)")).starts_with("ZeroDivisionError"));
    assert!(reason(correct("while True: pass")).contains("time limit"));
    assert!(reason(correct("while True: print('x' * 1000)")).contains("output"));
    assert_eq!(reason(correct("import ctypes\nctypes.string_at(0)")), "ended by signal 11");
}

/// Byte by byte, as unbuffered streams are read, the first would take far longer than it may.
#[test]
fn standard_streams_are_buffered() {
    let Some(mut judge) = judge() else { return };
    let numbers: Vec<String> = (0..200_000).map(|at| (100_000_000 + at).to_string()).collect();
    let input = format!("{}\n{}\n", numbers.len(), numbers.join("\n"));
    let sum: u64 = numbers.iter().map(|number| number.parse::<u64>().unwrap()).sum();
    let tests = examples(&[(&input, &sum.to_string())]);
    let right = [
        "import sys\nr = sys.stdin.buffer.readline\nprint(sum(int(r()) for _ in range(int(r()))))",
        "import sys\nassert sys.stdin.buffer.peek(1)[:1] == b'2' and sys.stdin.buffer.raw.fileno() == 0\n\
         print(sum(map(int, sys.stdin.read().split()[1:])))",
        "import os, sys\nprint(sum(map(int, os.read(0, 10**7).split()[1:])))",
        "import sys\ninput()\nsys.stdout.buffer.write(b'%d' % sum(map(int, sys.stdin)))",
        // What was written goes out, whatever stands for standard output later.
        "import io, sys\ninput()\nprint(sum(map(int, sys.stdin)))\nsys.stdout = io.StringIO()\nprint('more')",
        "import io, sys\ninput()\nsys.stdout.buffer.write(b'%d' % sum(map(int, sys.stdin)))\n\
         sys.stdout = io.TextIOWrapper(sys.stdout.detach())",
    ];
    for code in right {
        let verdict = judge.judge(code, &tests).unwrap();
        assert!(verdict.correct, "{code}\n{verdict:?}");
    }
}

#[test]
fn what_is_expected_may_be_long() {
    let Some(mut judge) = judge() else { return };
    let expected = "é234567\n".repeat(150_000);
    let tests = examples(&[("", &expected)]);
    let mut reason = |code: &str| judge.judge(code, &tests).unwrap().reason;
    assert_eq!(reason("for _ in range(150_000): print('é234567')"), None);
    assert_eq!(
        reason("for _ in range(150_001): print('é234568')").unwrap(),
        "the output is not the expected one"
    );
    assert_eq!(reason("while True: print('é234567' * 1000)").unwrap(), Ended::Output.to_string());
    // Of no other problem.
    let short = examples(&[("", "1")]);
    let verdict = judge.judge("for _ in range(150_000): print('é234567')", &short).unwrap();
    assert_eq!(verdict.reason.unwrap(), Ended::Output.to_string());
}

#[test]
fn functions_are_called() {
    let Some(mut judge) = judge() else { return };
    let tests =
        calls("pairs", serde_json::json!([[[1, 2], 3], [[], 0]]), serde_json::json!([[[1, 3], [2, 3]], []]));
    let plain = "def pairs(a, b):\n    return [(x, b) for x in a]";
    let class = "class Solution:\n    def pairs(self, a, b):\n        return tuple([x, b] for x in a)";
    assert_eq!(judge.judge(plain, &tests).unwrap(), Verdict::passed(2));
    assert_eq!(judge.judge(class, &tests).unwrap(), Verdict::passed(2));
    let wrong = judge.judge("def pairs(a, b):\n    return [(x, b) for x in a] or None", &tests).unwrap();
    assert_eq!(wrong.passed, 1);
    let absent = judge.judge("def other(a, b): pass", &tests).unwrap();
    assert!(absent.reason.unwrap().contains("pairs"));
}

/// Python compares whole numbers by all their digits, with floating-point ones too.
#[test]
fn whole_numbers_of_any_size_are_exact() {
    let Some(mut judge) = judge() else { return };
    let mut judged = |body: &str, input: &str, output: &str| {
        let tests = format!(r#"{{"fn_name": "f", "inputs": [{input}], "outputs": [{output}]}}"#);
        let tests: Tests = serde_json::from_str(&exact(&tests)).unwrap();
        judge.judge(&format!("def f(*x): return {body}"), &tests).unwrap().correct
    };
    let right = [
        ("2**60 + 1", "[]", "1152921504606846977"),
        ("2**53 + 1", "[]", "9007199254740993"),
        ("-2**53 - 1", "[]", "-9007199254740993"),
        ("2**53", "[]", "9007199254740992.0"),
        ("2.0**53", "[]", "9007199254740992"),
        ("2**64 + 3", "[]", "18446744073709551619"),
        ("-2**64 - 3", "[]", "[-18446744073709551619]"),
        ("2.0**70", "[]", "1180591620717411303424"),
        ("[10**17]", "[]", "[100000000000000000]"),
        ("[10**17]", "[]", "[[100000000000000000]]"),
        ("{'a': (2**64 + 3, True)}", "[]", r#"{"a": [18446744073709551619, 1]}"#),
        ("x[0] + 2", "[18446744073709551619]", "18446744073709551621"),
        (
            "x[0]['n'][0] - x[1]",
            r#"[{"n": [-36893488147419103233]}, 9007199254740993]"#,
            "-36902495346673844226",
        ),
        ("[type(x[0]) is int, type(x[1]) is float]", "[100000000000000000000, 1e20]", "[true, true]"),
        ("x[0]", r#"["18446744073709551619"]"#, r#"["18446744073709551619"]"#),
        (
            "{**x[0], 5: 1}",
            r#"[{"18446744073709551619": 2, "4": 3}]"#,
            r#"{"18446744073709551619": 2, "4": 3, "5": 1}"#,
        ),
        ("math.factorial(30)", "[]", "265252859812191058636308480000000"),
    ];
    for (body, input, output) in right {
        assert!(judged(body, input, output), "f({input}) -> {body} is {output}");
    }
    let wrong = [
        ("2**60 + 1", "[]", "1152921504606846976"),
        ("2**53", "[]", "9007199254740993"),
        ("2.0**53", "[]", "9007199254740993"),
        ("2**53 + 1", "[]", "9007199254740992.0"),
        ("2**64", "[]", "18446744073709551619"),
        ("2**64 + 3", "[]", "-18446744073709551619"),
        ("float(2**64 + 3)", "[]", "18446744073709551619"),
        ("[10**17]", "[]", "[100000000000000001]"),
        ("'18446744073709551619'", "[]", "18446744073709551619"),
        ("hex(2**64 + 3)", "[]", "18446744073709551619"),
    ];
    for (body, input, output) in wrong {
        assert!(!judged(body, input, output), "f({input}) -> {body} is not {output}");
    }
}

#[test]
fn numbers_beyond_64_bits_are_kept_in_json() {
    let same = [
        r#"{"a": [1, -2, 1e30, 18446744073709551615, -9223372036854775808, 1.5, "99999999999999999999"]}"#,
        "",
    ];
    for json in same {
        assert_eq!(exact(json), json);
    }
    assert_eq!(
        exact(r#"["\"", 18446744073709551616,-99999999999999999999]"#),
        r#"["\"", {"$int":"18446744073709551616"},{"$int":"-99999999999999999999"}]"#
    );
    let text = |json: &str| compare::text(&serde_json::from_str(&exact(json)).unwrap());
    assert_eq!(text(r#"[18446744073709551616, "a", 3]"#), "18446744073709551616\na\n3");
}

#[test]
fn statements_assert() {
    let Some(mut judge) = judge() else { return };
    let tests = asserts(&[
        "import math",
        "assert area(2) == (4, {'side': 2})",
        "assert math.isclose(half(3), 1.5) and abs(half(-3)) == 1.5",
        "assert Box(3).double() == 6 and [x for x in Box(2)] == [0, 1]",
        "try:\n    half('x')\n    assert False\nexcept TypeError:\n    pass",
        "assert big() == 2**100 and odd() == {1, (2, 3)} and text() == '\\ud800é'",
    ]);
    let code = "
def area(side): return side * side, {'side': side}
def half(x): return x / 2
class Box:
    def __init__(self, n): self.n = n
    def double(self): return 2 * self.n
    def __iter__(self): return iter(range(self.n))
def big(): return 2**100
def odd(): return {1, (2, 3)}
def text(): return '\\ud800é'
";
    assert_eq!(judge.judge(code, &tests).unwrap(), Verdict::passed(6));
    let wrong = judge.judge(&code.replace("x / 2", "x // 2"), &tests).unwrap();
    assert_eq!((wrong.correct, wrong.passed), (false, 2));
    let named = asserts(&["assert sum(10, 15) == 6"]);
    let code = "def sum(a, b):\n    return len([i for i in range(1, min(a, b)) if a % i == b % i == 0]) + 4";
    assert!(judge.judge(code, &named).unwrap().correct, "a built-in's name may be what is tested");
}

/// Each would pass in a harness that runs tests and code in one process.
#[test]
fn verdicts_cannot_be_forged() {
    let Some(mut judge) = judge() else { return };
    let asserted =
        asserts(&["assert f(1) == 2", "assert abs(f(2) - 3) < 1e-6", "assert f(3)[0] == 7 or len(f(4)) > 2"]);
    let printed = examples(&[("1\n", "2\n"), ("2\n", "5\n")]);
    let forgeries = [
        "class Yes(int):\n    def __eq__(self, o): return True\n    __ne__ = lambda s, o: False\n    def __lt__(s, o): return True\n    \
         def __sub__(s, o): return s\n    def __abs__(s): return s\ndef f(x): return Yes(9)",
        "class Any:\n    def __eq__(self, o): return True\n    def __lt__(s, o): return True\n    def __sub__(s, o): return s\n    \
         def __abs__(s): return s\ndef f(x): return Any()",
        "def abs(x): return 0\ndef len(x): return 9\ndef f(x): return 2",
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = ValueError\ndef f(x): return 2",
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "def f(x):\n    import os\n    os._exit(0)",
        "def f(x): raise SystemExit(0)",
        "import os\nfor n in range(3, 64):\n    for word in (b'{\"verdict\": {\"passed\": 3}}\\n', b'{\"output\": \"2\"}\\n', b'{\"passed\": 3}\\n'):\n        \
         try: os.write(n, word)\n        except OSError: pass\ndef f(x): return None",
        "import os\ndef f(x):\n    for n in range(3, 64):\n        try: os.write(n, b'{\"value\": 2}\\n{\"verdict\": {\"passed\": 3}}\\n')\n        \
         except OSError: pass\n    return None",
        "import os, signal\nfor pid in (os.getppid(), 1):\n    try: os.kill(pid, signal.SIGKILL)\n    except OSError: pass\ndef f(x): return None",
        "import gc, sys\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'tests' in o: o['tests'] = []\ndef f(x): return None",
        "import inspect\nframe = inspect.currentframe()\nwhile frame:\n    frame.f_globals['tests'] = []\n    frame = frame.f_back\ndef f(x): return None",
        "def check(*args): pass\ndef f(x): return None",
        "raise KeyboardInterrupt",
        "",
    ];
    for code in forgeries {
        for tests in [&asserted, &printed] {
            let verdict = judge.judge(code, tests).unwrap();
            assert!(!verdict.correct, "{code}\n{verdict:?}");
        }
    }
    // And the judge is as good as before.
    let honest = "def f(x):\n    return {1: 2, 2: 3, 3: [7]}[x]";
    assert_eq!(judge.judge(honest, &asserted).unwrap(), Verdict::passed(3));
}

/// What a program is told need not fit into a pipe that it does not read.
#[test]
fn programs_that_do_not_listen_are_ended() {
    let Some(Judge { sandbox, rules, .. }) = judge() else { return };
    let tests = asserts(&["assert f('') is None", "time.sleep(1)", "assert f('x' * 300_000) == 1"]);
    let deaf = [
        "import os, signal, threading\ndef f(x):\n    \
         threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGSTOP)).start()",
        "import os, time\nfor n in range(64):\n    try: os.write(n, b'{\"names\": {\"f\": {\"r\": 0}}}\\n{\"value\": null}\\n')\n    \
         except OSError: pass\ntime.sleep(10**6)",
    ];
    std::thread::scope(|scope| {
        for code in deaf {
            let (mut judge, tests) = (Judge::new(sandbox.clone(), rules), &tests);
            scope.spawn(move || {
                let verdict = judge.judge(code, tests).unwrap();
                assert_eq!(verdict, Verdict::failed(0, Ended::Time.to_string()), "{code}");
            });
        }
    });
}

/// Where there is no bubblewrap programs are refused, not run; this test hides it from itself.
#[test]
fn without_a_sandbox_programs_are_refused_unless_that_is_allowed() {
    const HIDDEN: &str = "BSTAR_TEST_HIDES_BWRAP";
    if std::env::var_os(HIDDEN).is_none() {
        if sandbox().is_none() {
            return;
        }
        let name = "code::tests::without_a_sandbox_programs_are_refused_unless_that_is_allowed";
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut command = std::process::Command::new("bwrap");
        command.args(["--dev-bind", "/", "/"]);
        let folders = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/local/bin".into()]);
        for program in folders.map(|folder| folder.join("bwrap")).filter(|program| program.is_file()) {
            command.args(["--dev-bind", "/dev/null"]).arg(program);
        }
        let this = std::env::current_exe().unwrap();
        let output = command.arg(this).args(["--exact", name]).env(HIDDEN, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let grading = |code: Value| {
        let config = serde_json::json!({"grader": "code", "aggregate": null, "code": code});
        Grading::new(&serde_json::from_value(config).unwrap())
    };
    let refused = grading(serde_json::json!({})).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Invalid);
    assert!(refused.message.contains("`bwrap` is not installed"), "{refused:?}");
    let hint = refused.hint.unwrap();
    assert!(hint.contains("apt install bubblewrap") && hint.contains("unsafe_no_sandbox"), "{hint}");
    assert!(grading(serde_json::json!({"unsafe_no_sandbox": true})).is_ok());
}

#[test]
fn outputs_are_compared_as_the_official_harness_does_or_strictly() {
    let cases = [
        ("3\n", "3", true, true),
        ("a b\nc d\n", "a b\nc d", true, true),
        ("a  b \n\nc d\n", "a b\nc d", true, false),
        ("b a\nd c\n", "c d\na b", true, false),
        ("0.3333333\n", "0.333333", true, true),
        ("0.3334\n", "0.333333", true, false),
        ("3\n", "3.0", true, true),
        ("12345678\n", "12345679", true, false),
        ("1 1 2\n", "1 2 2", true, false),
        ("YES\n", "Yes", false, false),
        ("", "0", false, false),
        ("nan\n", "nan", true, true),
    ];
    for (found, expected, official, strict) in cases {
        assert_eq!(
            compare::printed(found, expected, Comparison::Official),
            official,
            "{found:?} {expected:?}"
        );
        assert_eq!(compare::printed(found, expected, Comparison::Strict), strict, "{found:?} {expected:?}");
    }
}

#[test]
fn the_last_block_of_a_response_is_its_program() {
    assert_eq!(
        extract("Think.\n```python\na = 1\n```\nBetter:\n```\nb = 2\n\nc\n```\nDone."),
        "b = 2\n\nc\n"
    );
    assert_eq!(extract("```python\nx = 1\nprint(x)"), "x = 1\nprint(x)\n");
    assert_eq!(extract("x = 1\nprint(x)"), "x = 1\nprint(x)");
    assert_eq!(extract("```python\na\n```\n```python\nhalf"), "a\n");
}

fn rows(name: &str) -> Option<Vec<Value>> {
    Some(shared(name)?.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn canonical_solutions_of_humaneval_pass_and_broken_ones_do_not() {
    let (Some(rows), Some(mut judge)) = (rows("humaneval/HumanEval.jsonl"), judge()) else { return };
    judge.rules.seconds = 4;
    let mut failed = Vec::new();
    for row in &rows {
        let text = |name: &str| row[name].as_str().unwrap();
        let tests = Tests::Statements {
            tests: vec![text("test").to_owned(), format!("check({})", text("entry_point"))],
        };
        let code = format!("{}{}", text("prompt"), text("canonical_solution"));
        let verdict = judge.judge(&code, &tests).unwrap();
        if !verdict.correct {
            failed.push((text("task_id").to_owned(), verdict.reason));
        }
    }
    assert_eq!(failed, [], "{} rows", rows.len());
    let row = &rows[0];
    let tests = asserts(&[row["test"].as_str().unwrap(), "check(has_close_elements)"]);
    let code = format!("{}    return False\n", row["prompt"].as_str().unwrap());
    assert_eq!(judge.judge(&code, &tests).unwrap().passed, 1);
}

/// Five APPS problems: some of their reference solutions, and all samples that the official harness judged.
#[test]
fn verdicts_on_apps_are_those_of_the_official_harness() {
    let (Some(rows), Some(mut judge)) = (rows("code/apps_train_5.jsonl"), judge()) else { return };
    judge.rules.seconds = 4;
    let (mut solutions, mut samples, mut other) = (0, 0, Vec::new());
    for row in &rows {
        let tests: Tests = serde_json::from_value(row["input_output"].clone()).unwrap();
        for (index, code) in row["solutions"].as_array().unwrap().iter().enumerate().take(6) {
            solutions += 1;
            let verdict = judge.judge(code.as_str().unwrap(), &tests).unwrap();
            if !verdict.correct {
                other.push(format!("{} solution {index}: {verdict:?}", row["problem_id"]));
            }
        }
        for (index, sample) in row["gen_solutions"].as_array().unwrap().iter().enumerate() {
            samples += 1;
            let verdict = judge.judge(sample["code"].as_str().unwrap(), &tests).unwrap();
            if verdict.correct != (sample["result"] == true) {
                other
                    .push(format!("{} sample {index}, {}: {verdict:?}", row["problem_id"], sample["result"]));
            }
        }
    }
    assert_eq!(other, Vec::<String>::new(), "{solutions} solutions, {samples} samples");
}
