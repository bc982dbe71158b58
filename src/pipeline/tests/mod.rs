use std::path::Path;

use proptest::prelude::*;

use super::*;

mod names;
mod overrides;
mod presets;
mod schema;
mod variants;

const GOOD: &str = include_str!("../testdata/loop.yaml");

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
    assert_eq!(stage(&pipeline, "sft").policy.retries, 2);
    assert_eq!(stage(&pipeline, "responses").policy.retries, 5);
    assert_eq!(pipeline.position("iteration.explore"), Some((25, 3)));
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
    let text = broken(
        "training: {updates: 20, batch: 8, learning_rate: 0.0001, schedule: {total: 70}}",
        "trainning: {updates: -2, batch: 8}",
    );
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
        [
            "3:7 this is no YAML: mapping values are not allowed in this context | look at the indentation here and in the line above; text with `: ` needs quotes"
        ]
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
        brief(
            "name: x\nsetup:\n  a: 5\n  b:\n  c: {uses: 1}\n  d: {with: {}}\n  e: {uses: sft, with: 3}\n",
            &[]
        )
        .iter()
        .map(|line| line.split(" | ").next().unwrap())
        .collect::<Vec<_>>(),
        [
            "3:6 `a`: expected `uses` and `with`, found the number `5`",
            "4:3 `b`: expected `uses` and `with`, found nothing",
            "5:13 `uses`: expected the name of a stage, found the number `1`",
            "6:3 missing field `uses` in `setup.d`",
            "7:24 `with`: expected a mapping of settings, found the number `3`",
        ]
    );
    assert_eq!(
        brief("name: x\n", &[]),
        ["1:1 the pipeline has no stages | add stages under `setup:` or `iteration:`"]
    );
    assert_eq!(
        brief("name: x\niterations: 2\n", &[]),
        [
            "1:1 missing field `iteration`: there is nothing to repeat | add `iteration:` with its stages, or remove `iterations`"
        ]
    );
    assert_eq!(
        edited("iterations: 3\n", ""),
        ["1:1 missing field `iterations` | say how often `iteration` is done, for example `iterations: 3`"]
    );
    assert_eq!(
        edited("iteration:\n", "iteratoin:\n"),
        ["24:1 unknown field `iteratoin` | did you mean `iteration`?"]
    );
}

#[test]
fn numbers_that_are_none_are_refused() {
    assert_eq!(
        edited("updates: 20, batch: 8, learning_rate: 0.0001", "updates: 20, batch: 8, learning_rate: .nan"),
        ["55:56 `learning_rate`: expected a finite number"]
    );
    assert_eq!(
        brief(GOOD, &["iteration.search.thresholds.to=.inf"]),
        ["iteration.search.thresholds.to=.inf `to`: expected a finite number"]
    );
}

#[test]
fn a_list_is_not_read_as_settings_by_their_order() {
    assert_eq!(
        edited("{updates: 20, batch: 8, learning_rate: 0.0001, schedule: {total: 70}}", "[20, 8, 0.0001]"),
        [
            "55:7 `training`: expected a mapping of settings, found a list | write a mapping: `training: {updates: …}`"
        ]
    );
    let schedule = brief(GOOD, &["iteration.train.training.schedule=[linear, 3]"]);
    assert!(schedule[0].contains("`schedule`: expected a mapping of settings, found a list"), "{schedule:?}");
}

#[test]
fn problems_of_lists_and_brackets_say_what_was_meant() {
    let several = brief(GOOD, &["iteration.responses.temperature=0.5,0.7"]);
    let hint = "a list is written `iteration.responses.temperature=[0.5, 0.7]`; one variant for each is run by `bstar \
                pipeline sweep`";
    assert!(several.len() == 1 && several[0].ends_with(hint), "{several:?}");
    let item = brief(GOOD, &["iteration.train.training.lora={rank: 4, targets: [foo]}"]);
    assert!(item[0].contains("`targets[0]`: `foo` is no choice here"), "{item:?}");
    let open = brief("name: a\nsetup: {\n  s: {uses: problems}\n", &[]);
    assert!(open.len() == 1 && open[0].contains("| close every `{` and `[`"), "{open:?}");
}

#[test]
fn more_iterations_than_anyone_means_are_refused() {
    let refused = brief(GOOD, &["iterations=99999999999"]);
    let problem = "iterations=99999999999 `iterations` must be at most 10000, not 99999999999";
    assert!(refused.len() == 1 && refused[0].starts_with(problem), "{refused:?}");
    assert!(parse(GOOD, &["iterations=10000"]).is_ok());
}

#[test]
fn keys_given_twice_are_refused_in_their_place() {
    assert_eq!(
        broken(
            "  rewards:\n    uses: score\n",
            "  explore: {uses: sft, with: {}}\n  rewards:\n    uses: score\n    uses: score\n"
        ),
        "\
error: `explore` is given twice in `iteration`
  --> pipelines/math.yaml:43:3
   |
43 |   explore: {uses: sft, with: {}}
   |   ^^^^^^^
  hint: first given in line 25; remove or rename one of them

error: `uses` is given twice in `iteration.rewards`
  --> pipelines/math.yaml:46:5
   |
46 |     uses: score
   |     ^^^^
  hint: first given in line 45; remove or rename one of them"
    );
}

#[test]
fn ranges_are_checked_by_the_stages() {
    assert_eq!(
        edited("      temperature: [0.5, 1.0]", "      temperature: [0.5, -1]"),
        [
            "30:26 temperature must be 0 or at least 0.000001, not -1 | 0 is greedy; a usual grid is 0.5 to 1.2"
        ]
    );
    assert_eq!(
        brief(GOOD, &["iteration.explore.samples=0"]),
        ["iteration.explore.samples=0 samples must be at least 1, not 0 | write a whole number from 1"]
    );
}

#[test]
fn a_model_that_is_not_in_the_cache_comes_with_the_command_that_fetches_it() {
    let text = GOOD.replace("setup:\n", "inputs: {base: hf:nobody/nothing@v1}\nsetup:\n");
    let problems = brief(&text, &[]);
    assert!(problems[0].starts_with("3:16 nobody/nothing is not in the Hugging Face cache"), "{problems:?}");
    assert!(problems[0].contains("`hf download nobody/nothing --revision v1`"), "{problems:?}");
}

#[test]
fn inputs_and_files_must_exist() {
    let text = GOOD.replace("setup:\n", "inputs: {data: data.jsonl, far: s3://bucket/x, train: .}\nsetup:\n");
    assert_eq!(
        brief(&text, &[]),
        [
            "3:16 no such input: data.jsonl | paths are relative to the pipeline file: pipelines/data.jsonl does not exist",
            "3:33 no such input: s3://bucket/x | an input is a file or folder on this machine: download it first",
            "50:3 `train` is the name of a stage and of an input | rename one of them",
        ]
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tool.py"), "").unwrap();
    let text = "name: x\ninputs: {data: tool.py}\nsetup:\n  a:\n    uses: command\n    with:\n      argv: [python, tool.py]\n      inputs: {data: data}\n      files: [tool.py, tol.py]\n      outputs: [r.txt]\n";
    let problems = Pipeline::parse(text, &folder.path().join("x.yaml"), &[]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].message.as_str(), problems[0].line()), ("no such file: tol.py", Some(9)));
    let path = folder.path().join("x.yaml");
    std::fs::write(&path, text.replace(", tol.py", "")).unwrap();
    assert_eq!(Pipeline::load(&path, &[]).unwrap().base, folder.path());
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Pipeline::load(&path, &[]).unwrap_err()[0].message.ends_with("is not UTF-8 text"));
}

#[test]
fn anchors_and_merge_keys_work_and_problems_in_them_point_near() {
    let text = GOOD.replace("max_tokens: 64}\ncarry", "<<: &more {max_tokens: 64, sample: 3}}\ncarry");
    assert_eq!(
        brief(&text, &[]),
        ["58:5 unknown field `sample` in `iteration.evaluate.with` | did you mean `samples`?"]
    );
    let text = GOOD.replace("max_tokens: 64}\ncarry", "<<: {max_tokens: 64}}\ncarry");
    assert!(parse(&text, &[]).is_ok());
    let text = GOOD.replace("max_tokens: 64}\ncarry", "max_tokens: 64, <<: 5}\ncarry");
    assert_eq!(brief(&text, &[])[0].split(' ').next().unwrap(), "58:86");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(
        cuts in proptest::collection::vec((0_usize..1, 0.0_f64..1.0, 0_usize..12, "[ -~\n\t*&<:{}\\[\\]!é]{0,6}"), 1..4),
        argument in "(iteration|setup|carry|seed|x)(\\.[a-z0-9]{0,8}){0,4}=?[ -~]{0,10}",
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (_, place, length, insert) in cuts {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "tests")]
            let from = (place * text.len() as f64) as usize;
            let to = (from + length).min(text.len());
            text.splice(from..to, insert.chars());
        }
        let text: String = text.into_iter().collect();
        for overrides in [vec![], vec![argument.as_str()]] {
            if let Err(problems) = parse(&text, &overrides) {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(problem.to_string().starts_with("error: "));
                }
            }
        }
    }
}

#[test]
fn retained_outputs_are_counted_and_checked() {
    let yaml =
        "name: toy\niterations: 2\niteration:\n  a: {uses: command, with: {argv: [x], outputs: [state]}}\n";
    let retain = |text: &str| Pipeline::parse(&format!("{yaml}retain: {text}\n"), Path::new("toy.yaml"), &[]);
    let read = retain("{state: 2, a.state: 1}").unwrap().retain;
    assert_eq!(read, BTreeMap::from([("state".to_owned(), 2), ("a.state".to_owned(), 1)]));
    assert!(Pipeline::parse(yaml, Path::new("toy.yaml"), &[]).unwrap().retain.is_empty());
    for (text, message, hint) in [
        ("{stat: 1}", "no stage of `iteration` has an output `stat`", Some("did you mean `state`?")),
        ("{state: 0}", "`state`: expected a number of iterations, 1 or more, found the number `0`", None),
        (
            "[state]",
            "`retain`: expected a mapping of outputs to a number of iterations each, found a list",
            None,
        ),
    ] {
        let problems = retain(text).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert_eq!((problems[0].message.as_str(), problems[0].hint.as_deref()), (message, hint));
        assert_eq!(problems[0].line(), Some(5));
    }
}
