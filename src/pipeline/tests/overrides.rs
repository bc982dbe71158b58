use bstar_stages::{OneOrMany, Setting};

use serde_json::json;

use super::*;

#[test]
fn overrides_are_yaml_values_and_may_leave_out_with() {
    let pipeline = good(&[
        "seed=18446744073709551615",
        "iteration.explore.samples=64",
        "iteration.explore.with.temperature=[0.7]",
        "iteration.responses.temperature=0.9",
        "iteration.train.training.learning_rate=1e-5",
        "iteration.search.n_star=null",
        "iteration.search.keep_per_query=2.5",
        "iteration.train.retries=0",
        "setup.problems.steps=[1, 2]",
        "setup.problems.steps.1=4",
        "name=other",
    ]);
    assert_eq!((pipeline.name.as_str(), pipeline.seed), ("other", u64::MAX));
    let StageConfig::Sample(explore) = &stage(&pipeline, "explore").config else { panic!("sample") };
    assert_eq!((explore.samples, &explore.temperature), (64, &OneOrMany::Many(vec![0.7])));
    let StageConfig::Sample(responses) = &stage(&pipeline, "responses").config else { panic!("sample") };
    assert_eq!(responses.temperature, OneOrMany::One(Setting::Value(0.9)));
    let StageConfig::Sft(train) = &stage(&pipeline, "train").config else { panic!("sft") };
    assert!((train.training.learning_rate - 1e-5).abs() < 1e-12);
    assert_eq!(stage(&pipeline, "train").policy.retries, 0);
    let StageConfig::Problems(problems) = &stage(&pipeline, "problems").config else { panic!("problems") };
    assert_eq!(problems.steps, [1, 4]);
    let StageConfig::Search(search) = &stage(&pipeline, "search").config else { panic!("search") };
    assert_eq!((search.n_star, search.keep_per_query), (None, Some(2.5)));

    assert_eq!(pipeline.overrides[1].path, "iteration.explore.with.samples");
    assert_eq!(pipeline.overrides[1].text, "iteration.explore.samples=64");
    assert_eq!(
        pipeline.origin("iteration.explore.with.samples"),
        Origin::CommandLine("iteration.explore.samples=64".to_owned())
    );
    assert_eq!(pipeline.position("iteration.explore.with.max_tokens"), Some((32, 7)));
    let Origin::File { line, .. } = pipeline.origin("iteration.explore.with.max_tokens") else {
        panic!("file")
    };
    assert_eq!(line, 32, "positions are those of the file, whatever was overridden before");
}

#[test]
fn overrides_that_lead_nowhere_are_explained() {
    let cases = [
        ("explore.samples=64", "unknown section `explore` | did you mean `iteration.explore.samples=64`?"),
        ("itertion.explore.samples=64", "unknown section `itertion` | did you mean `iteration`?"),
        (
            "iteration.explore.samples",
            "`iteration.explore.samples` is no override: expected `key.path=value` | for example iteration.explore.samples=64",
        ),
        ("iteration..x=1", "`iteration..x` is no path of keys"),
        (
            "iteration.explor.samples=64",
            "there is no stage `explor` in `iteration` | did you mean `iteration.explore`?",
        ),
        (
            "iteration.explor=null",
            "nothing to remove: there is no `iteration.explor` | did you mean `iteration.explore`?",
        ),
        (
            "iteration.explore.smaples=64",
            "unknown field `smaples` in `iteration.explore.with` | did you mean `samples`?",
        ),
        (
            "iteration.train.optimiser=null",
            "unknown field `optimiser` in `iteration.train.with` | did you mean `optimizer`?",
        ),
        (
            "carry.optimiser=null",
            "nothing to remove: there is no `carry.optimiser` | did you mean `carry.optimizer`?",
        ),
        ("iteration.explore.samples=null", "missing field `samples` in `iteration.explore.with`"),
        (
            "iteration.explore.samples=many",
            "`samples`: expected a whole number, 0 or more, found the text `many`",
        ),
        ("seed.x=1", "`seed` is the number `17`, not a mapping"),
        ("iteration.explore.temperature.2=1", "`temperature` is a list of 2: it has no item `2`"),
        ("iteration.train.policy=sft.polcy", "`sft` has no output `polcy` | did you mean `sft.policy`?"),
    ];
    for (argument, expected) in cases {
        assert_eq!(brief(GOOD, &[argument]), [format!("{argument} {expected}")]);
    }
    assert_eq!(
        report(GOOD, &["iteration.explore.samples=many"]),
        "\
error: `samples`: expected a whole number, 0 or more, found the text `many`
  --> command line: iteration.explore.samples=many"
    );
}

#[test]
fn stages_can_be_added_and_removed_by_overrides() {
    let pipeline = good(&[
        "iteration.evaluate=null",
        "setup.more.uses=draw",
        "setup.more.with={queries: problems.train, count: 5}",
    ]);
    assert!(pipeline.iteration.iter().all(|stage| stage.name != "evaluate"));
    let more = stage(&pipeline, "more");
    assert_eq!((more.config.name(), pipeline.position("setup.more")), ("draw", None));
    assert_eq!(good(&["iterations=0"]).iterations, 0);
}

#[test]
fn values_with_a_hash_are_whole_and_no_value_is_an_error() {
    let text = |value: &str| parse_value(value).unwrap();
    for whole in ["# Question {question}", "Q {question} # think", "issue #7", "a\n# b", "#"] {
        assert_eq!(text(whole), whole);
        assert_eq!(text(&argument(&text(whole))), whole, "as it is recorded");
    }
    assert_eq!(text("0.5 # half"), "0.5 # half");
    assert_eq!(text("'a # b'"), "a # b");
    assert_eq!(text("[1, 2]"), json!([1, 2]));
    assert_eq!(text("null"), Value::Null);
    let refused =
        "setup.sft.dataset= `dataset`: no value is given: `null` removes it, `\"\"` is an empty text";
    assert_eq!(brief(GOOD, &["setup.sft.dataset="]), [refused]);
    let open = brief(GOOD, &["iteration.responses.temperature=[0.5"]);
    assert!(
        open[0].ends_with("nothing here is called `[0.5` | close the bracket, or put the text in quotes"),
        "{open:?}"
    );
}
