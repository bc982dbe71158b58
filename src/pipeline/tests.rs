#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use bstar_stages::{OneOrMany, Setting};
use proptest::prelude::*;

use super::*;

const GOOD: &str = include_str!("testdata/loop.yaml");

fn parse(text: &str, overrides: &[&str]) -> Result<Pipeline, Vec<Diagnostic>> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Pipeline::parse(text, Path::new("pipelines/math.yaml"), &overrides)
}

/// The report on a text, problems separated by a blank line.
fn report(text: &str, overrides: &[&str]) -> String {
    let problems = parse(text, overrides).unwrap_err();
    problems.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n\n")
}

/// The report on the good file after replacing a text that occurs once.
fn broken(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from} must occur once");
    report(&GOOD.replace(from, to), &[])
}

fn good(overrides: &[&str]) -> Pipeline {
    parse(GOOD, overrides).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n\n"))
    })
}

fn stage<'a>(pipeline: &'a Pipeline, name: &str) -> &'a StageEntry {
    pipeline.setup.iter().chain(&pipeline.iteration).find(|stage| stage.name == name).unwrap()
}

#[test]
fn a_good_file_is_read_in_order_and_with_positions() {
    let pipeline = good(&[]);
    assert_eq!((pipeline.name.as_str(), pipeline.seed, pipeline.iterations), ("math", 17, 3));
    let names = |stages: &[StageEntry]| stages.iter().map(|stage| stage.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&pipeline.setup), ["problems", "tokenizer", "pretrain", "sft"]);
    assert_eq!(
        names(&pipeline.iteration),
        ["explore", "explored", "search", "responses", "rewards", "dataset", "train", "evaluate"]
    );
    assert_eq!(stage(&pipeline, "sft").retries, 2);
    assert_eq!(stage(&pipeline, "responses").retries, 5);
    assert_eq!(stage(&pipeline, "explore").line, Some(25));
    assert_eq!(pipeline.position("iteration.explore.with.temperature"), Some((30, 7)));
    assert_eq!(pipeline.base, Path::new("pipelines"));
}

#[test]
fn an_unknown_field_is_shown_in_its_line_with_the_likely_name() {
    assert_eq!(
        broken("      temperature: [0.5, 1.0]", "      temprature: [0.5, 1.0]"),
        "\
error: unknown field `temprature` in `iteration.explore.with`
  --> pipelines/math.yaml:30:7
   |
30 |       temprature: [0.5, 1.0]
   |       ^^^^^^^^^^
  hint: did you mean `temperature`?"
    );
}

#[test]
fn all_problems_are_reported_at_once_from_top_to_bottom() {
    let text = "\
name: 3 little words
sed: 1
setup:
  problems:
    uses: problms
    with: {}
  sft:
    uses: sft
    retires: 3
    with:
      policy: base
      training: {updates: many, batch: 8, lerning_rate: 0.1, schedule: {shape: cosin}}
";
    assert_eq!(
        report(text, &["setup.sft.quantity=1"]),
        "\
error: `3 little words` is no name
  --> pipelines/math.yaml:1:7
   |
 1 | name: 3 little words
   |       ^^^^^^^^^^^^^^
  hint: use letters, digits, `_` and `-`, beginning with a letter

error: unknown field `sed`
  --> pipelines/math.yaml:2:1
   |
 2 | sed: 1
   | ^^^
  hint: did you mean `seed`?

error: unknown stage `problms`
  --> pipelines/math.yaml:5:11
   |
 5 |     uses: problms
   |           ^^^^^^^
  hint: did you mean `problems`?

error: unknown field `retires` in `setup.sft`
  --> pipelines/math.yaml:9:5
   |
 9 |     retires: 3
   |     ^^^^^^^
  hint: did you mean `retries`?

error: missing field `dataset` in `setup.sft.with`
  --> pipelines/math.yaml:10:5
   |
10 |     with:
   |     ^^^^

error: `updates`: expected a whole number, 0 or more, found the text `many`
  --> pipelines/math.yaml:12:27
   |
12 |       training: {updates: many, batch: 8, lerning_rate: 0.1, schedule: {shape: cosin}}
   |                           ^^^^

error: unknown field `lerning_rate` in `setup.sft.with.training`
  --> pipelines/math.yaml:12:43
   |
12 |       training: {updates: many, batch: 8, lerning_rate: 0.1, schedule: {shape: cosin}}
   |                                           ^^^^^^^^^^^^
  hint: did you mean `learning_rate`?

error: `shape`: `cosin` is no choice here, expected one of `constant`, `linear`, `cosine`
  --> pipelines/math.yaml:12:80
   |
12 |       training: {updates: many, batch: 8, lerning_rate: 0.1, schedule: {shape: cosin}}
   |                                                                                ^^^^^
  hint: did you mean `cosine`?

error: unknown field `quantity` in `setup.sft.with`
  --> command line: setup.sft.quantity=1
  hint: fields: `policy`, `dataset`, `optimizer`, `training`"
    );
}

#[test]
fn a_misspelt_field_is_one_problem_even_with_problems_below_it() {
    let text = broken("training: {updates: 20, batch: 8, learning_rate: 0.0001}", "trainning: {updates: -2, batch: 8}");
    assert_eq!(
        text,
        "\
error: unknown field `trainning` in `iteration.train.with`
  --> pipelines/math.yaml:55:7
   |
55 |       trainning: {updates: -2, batch: 8}
   |       ^^^^^^^^^
  hint: did you mean `training`?

error: missing field `learning_rate` in `iteration.train.with.trainning`
  --> pipelines/math.yaml:55:7
   |
55 |       trainning: {updates: -2, batch: 8}
   |       ^^^^^^^^^

error: `updates`: expected a whole number, 0 or more, found the number `-2`
  --> pipelines/math.yaml:55:28
   |
55 |       trainning: {updates: -2, batch: 8}
   |                            ^^"
    );
}

/// The messages and hints of a report, a line each, for problems whose place is tested elsewhere.
fn brief(text: &str, overrides: &[&str]) -> Vec<String> {
    let line = |problem: &Diagnostic| {
        let place = match &problem.origin {
            Origin::File { line, column, .. } => format!("{line}:{column}"),
            Origin::CommandLine(text) => text.clone(),
            Origin::Nowhere => "-".to_owned(),
        };
        let hint = problem.hint.as_ref().map_or_else(String::new, |hint| format!(" | {hint}"));
        format!("{place} {}{hint}", problem.message)
    };
    parse(text, overrides).unwrap_err().iter().map(line).collect()
}

fn edited(from: &str, to: &str) -> Vec<String> {
    assert_eq!(GOOD.matches(from).count(), 1, "{from} must occur once");
    brief(&GOOD.replace(from, to), &[])
}

#[test]
fn references_that_lead_nowhere_are_explained() {
    assert_eq!(
        broken("policy: train.policy, queries: problems.test", "policy: train.polcy, queries: problem.test"),
        "\
error: `train` has no output `polcy`
  --> pipelines/math.yaml:58:20
   |
58 |     with: {policy: train.polcy, queries: problem.test, samples: 8, max_tokens: 64}
   |                    ^^^^^^^^^^^
  hint: did you mean `train.policy`?

error: nothing here is called `problem.test`
  --> pipelines/math.yaml:58:42
   |
58 |     with: {policy: train.polcy, queries: problem.test, samples: 8, max_tokens: 64}
   |                                          ^^^^^^^^^^^^
  hint: did you mean `problems.test`?"
    );
    assert_eq!(
        edited("rewards: explored, thresholds", "rewards: iteration.explored, thresholds"),
        ["37:21 nothing here is called `iteration.explored` | write `explored`"]
    );
    assert_eq!(
        edited("{responses: explore, queries", "{responses: explroe, queries"),
        ["34:24 nothing here is called `explroe` | did you mean `explore`?"]
    );
    assert_eq!(
        edited("temperature: search.temperature", "temperature: search.temprature"),
        ["41:71 `search` has no output `temprature` | did you mean `search.temperature`?"]
    );
    assert_eq!(
        edited("threshold: search.threshold", "threshold: search"),
        ["47:89 `search` has 3 outputs: name one | outputs: `search.temperature`, `search.threshold`, `search.surface`"]
    );
    assert_eq!(
        edited("      optimizer: optimizer\n", "      optimizer: optimiser\n"),
        ["54:18 nothing here is called `optimiser` | did you mean `optimizer`?"],
        "a misspelt optional reference"
    );
    assert_eq!(
        edited("policy: pretrain.policy, dataset", "policy: train.policy, dataset"),
        ["18:20 `train.policy` is made in the iterations, after `setup` | only stages of `setup` and `inputs` can be used here; `train` is a stage of `iteration`"]
    );
    assert_eq!(
        edited("policy: pretrain.policy, dataset", "policy: policy, dataset"),
        ["18:20 `policy` is carried between iterations, and has no value yet | refer to what `start` gives `policy`, not to `policy`"]
    );
    assert_eq!(
        edited("  policy: sft.policy\n", "  policy: policy.sft\n"),
        ["20:11 `policy.sft` is carried between iterations, and has no value yet | refer to what `start` gives `policy`, not to `policy`"]
    );
    assert_eq!(
        edited("{corpus: [problems.pretrain, problems.sft]", "{corpus: [problems.pretrain, problems.sfd]"),
        ["9:34 `problems` has no output `sfd` | did you mean `problems.sft`?"],
        "an item of a list"
    );
}

#[test]
fn cycles_are_printed_whole() {
    assert_eq!(
        edited("policy: train.policy, queries: problems.test", "policy: train.policy, queries: evaluate.greedy"),
        ["56:3 `evaluate.greedy` needs its own result | a result of the iteration before is taken over by `carry`"]
    );
    assert_eq!(
        broken("    retries: 5\n    with: {policy: policy,", "    with: {policy: train.policy,"),
        "\
error: these stages need each other: responses → train → dataset → responses
  --> pipelines/math.yaml:38:3
   |
38 |   responses:
   |   ^^^^^^^^^
  hint: a result of the iteration before is taken over by `carry`"
    );
}

#[test]
fn carried_values_need_a_beginning_where_they_are_needed() {
    assert_eq!(
        edited("  policy: sft.policy\n", ""),
        [
            "27:15 `policy` has no value in iteration 0, and `iteration.explore` needs it | give its first value: `start: {policy: …}`",
            "41:20 `policy` has no value in iteration 0, and `iteration.responses` needs it | give its first value: `start: {policy: …}`",
            "51:15 `policy` has no value in iteration 0, and `iteration.train` needs it | give its first value: `start: {policy: …}`",
        ]
    );
    assert_eq!(
        brief(GOOD, &["carry.policy=null", "carry.polcy=train.policy"]),
        ["carry.polcy=train.policy nothing in `iteration` uses `polcy` | did you mean `policy`?"],
        "a misspelt carried name would silently keep the first policy"
    );
    assert_eq!(
        edited("  policy: train.policy\n", "  train: train.policy\n  policy: train.policy\n")[0],
        "48:3 `train` is the name of a stage of the iteration and of a carried value | rename one of them"
    );
}

#[test]
fn wrong_shapes_are_told_apart() {
    let file = |text: &str| report(text, &[]);
    assert_eq!(file(""), "error: pipelines/math.yaml: the pipeline file is empty");
    assert_eq!(file("# nothing\n"), "error: pipelines/math.yaml: the pipeline file is empty");
    assert_eq!(
        file("- a\n- b\n"),
        "error: pipelines/math.yaml: a pipeline file is a mapping: `name: …`, `setup: …`"
    );
    assert_eq!(
        file("name: x\nsetup:\n\tproblems:\n"),
        "\
error: this is no YAML: found character that cannot start any token
  --> pipelines/math.yaml:3:1
   |
 3 | \tproblems:
   | ^
  hint: indent by spaces, not tabs, and put text with special characters in quotes"
    );
    assert_eq!(
        brief("name: x\nsetup:\n  a: b: c\n", &[]),
        ["3:7 this is no YAML: mapping values are not allowed in this context | look at the indentation here and in the line above; text with `: ` needs quotes"]
    );
    assert_eq!(
        brief("name: x\nsetup: {a: *b}\n", &[]),
        ["2:12 this is no YAML: unknown anchor | define it with `&name` before it is used with `*name`"]
    );
    assert_eq!(brief("name: x\n1: y\n", &[]), ["2:1 the key `1` is no text: put it in quotes"]);
    assert_eq!(
        brief("name: x\nsetup: !new {}\n", &[])[0].split_once(' ').unwrap().1,
        "this is no YAML: setup: the tag `!new` has no meaning here"
    );
    assert_eq!(
        brief("setup: [a]\nstart: {x: 1}\ninputs: 5\nseed: -1\niterations: 1.5\n", &[]),
        [
            "1:1 missing field `name` | begin the file with `name: …`",
            "1:1 `setup`: expected a mapping of stages, found a list",
            "2:12 `x`: expected a reference, found the number `1`",
            "3:9 `inputs`: expected a mapping of names to a path each, found the number `5`",
            "4:7 `seed`: expected a whole number, 0 or more, found the number `-1`",
            "5:13 `iterations`: expected a whole number, 0 or more, found the number `1.5`",
        ]
    );
    assert_eq!(
        brief("name: x\nsetup:\n  a: 5\n  b:\n  c: {uses: 1}\n  d: {with: {}}\n  e: {uses: sft, with: 3}\n", &[])
            .iter()
            .map(|line| line.split(" | ").next().unwrap())
            .collect::<Vec<_>>(),
        [
            "3:6 `a`: expected `uses` and `with`, found the number `5`",
            "4:5 `b`: expected `uses` and `with`, found nothing",
            "5:13 `uses`: expected the name of a stage, found the number `1`",
            "6:3 missing field `uses` in `setup.d`",
            "7:23 `with`: expected a mapping of settings, found the number `3`",
        ]
    );
    assert_eq!(
        brief("name: x\n", &[]),
        ["1:1 the pipeline has no stages | add stages under `setup:` or `iteration:`"]
    );
    assert_eq!(
        brief("name: x\niterations: 2\n", &[]),
        ["1:1 missing field `iteration`: there is nothing to repeat | add `iteration:` with its stages, or remove `iterations`"]
    );
    assert_eq!(
        edited("iterations: 3\n", ""),
        ["1:1 missing field `iterations` | say how often `iteration` is done, for example `iterations: 3`"]
    );
    assert_eq!(edited("iteration:\n", "iteratoin:\n"), ["24:1 unknown field `iteratoin` | did you mean `iteration`?"]);
}

#[test]
fn numbers_that_are_none_are_refused() {
    assert_eq!(edited("updates: 20, batch: 8, learning_rate: 0.0001", "updates: 20, batch: 8, learning_rate: .nan"), [""]);
    assert_eq!(brief(GOOD, &["iteration.search.thresholds.to=.inf"]), [""]);
}

#[test]
fn keys_given_twice_are_refused_in_their_place() {
    assert_eq!(
        broken("  rewards:\n    uses: score\n", "  explore:\n    uses: score\n    uses: score\n"),
        ""
    );
}

#[test]
fn ranges_are_checked_by_the_stages() {
    assert_eq!(edited("      temperature: [0.5, 1.0]", "      temperature: [0.5, -1]"), [""]);
    assert_eq!(brief(GOOD, &["iteration.explore.samples=0"]), [""]);
}

#[test]
fn inputs_and_files_must_exist() {
    let text = GOOD.replace("setup:\n", "inputs: {data: data.jsonl, far: s3://bucket/x, train: .}\nsetup:\n");
    assert_eq!(brief(&text, &[]), [""]);
}
