use super::*;

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
        ["38:21 nothing here is called `iteration.explored` | write `explored`"]
    );
    assert_eq!(
        edited("{responses: explore, queries", "{responses: explroe, queries"),
        ["35:23 nothing here is called `explroe` | did you mean `explore`?"]
    );
    assert_eq!(
        edited("temperature: search.temperature", "temperature: search.temprature"),
        ["42:66 `search` has no output `temprature` | did you mean `search.temperature`?"]
    );
    assert_eq!(
        edited("threshold: search.threshold", "threshold: search"),
        [
            "48:88 `search` has 3 outputs: name one | outputs: `search.temperature`, `search.threshold`, `search.surface`"
        ]
    );
    assert_eq!(
        edited("      optimizer: optimizer\n", "      optimizer: optimiser\n"),
        ["54:18 nothing here is called `optimiser` | did you mean `optimizer`?"],
        "a misspelt optional reference"
    );
    assert_eq!(
        edited("policy: pretrain.policy, dataset", "policy: train.policy, dataset"),
        [
            "19:20 `train.policy` is made in the iterations, after `setup` | only stages of `setup` and `inputs` can be used here; `train` is a stage of `iteration`"
        ]
    );
    assert_eq!(
        edited("policy: pretrain.policy, dataset", "policy: policy, dataset"),
        [
            "19:20 `policy` is carried between iterations, and has no value yet | refer to what `start` gives `policy`, not to `policy`"
        ]
    );
    assert_eq!(
        edited("  policy: sft.policy\n", "  policy: policy.sft\n"),
        [
            "21:11 `policy.sft` is carried between iterations, and has no value yet | refer to what `start` gives `policy`, not to `policy`"
        ]
    );
    assert_eq!(
        edited("{corpus: [problems.pretrain, problems.sft]", "{corpus: [problems.pretrain, problems.sfd]"),
        ["9:40 `problems` has no output `sfd` | did you mean `problems.sft`?"],
        "an item of a list"
    );
}

#[test]
fn a_schedule_has_to_be_as_long_as_an_inherited_optimizer_goes_on() {
    let problem = "54:18 an inherited optimizer goes on with its schedule, and this one ends after 20 updates | \
                   write `training.schedule.total`: the updates that the optimizer makes in all stages, for example 60; \
                   or `shape: constant`; or leave `optimizer` out";
    assert_eq!(edited(", schedule: {total: 70}", ""), [problem]);
    let without = GOOD.replace("schedule: {total: 70}", "schedule: {total: null}");
    let found = |overrides: &[&str]| brief(&without, overrides);
    assert_eq!(found(&["start.optimizer=null"]).len(), 1, "inherited from the second iteration on");
    for fine in [
        &["iteration.train.training.schedule.shape=constant"][..],
        &["iteration.train.optimizer=null"],
        &["carry.optimizer=null", "start.optimizer=null"],
        &["iterations=1", "start.optimizer=null"],
    ] {
        assert!(parse(&without, fine).is_ok(), "{fine:?}");
    }
    assert_eq!(found(&["iterations=1"]).len(), 1, "inherited in the first");
}

#[test]
fn a_stage_that_hides_another_is_named() {
    let file = GOOD.replace(
        "  explore:\n",
        "  problems:\n    uses: score\n    with: {responses: explore, queries: problems.test}\n  explore:\n",
    );
    let hint = "`iteration.problems` hides `setup.problems`: rename one of them";
    let problems = brief(&file, &[]);
    assert!(
        problems.iter().any(|text| text.contains("`problems` has no output `test`") && text.ends_with(hint)),
        "{problems:?}"
    );
    let asked = file.replace("queries: problems.test}", "queries: setup.problems.test}");
    let problems = brief(&asked, &[]);
    assert!(
        problems.iter().any(|text| text.contains("`setup.problems.test`") && text.ends_with(hint)),
        "{problems:?}"
    );
}

#[test]
fn cycles_are_printed_whole() {
    assert_eq!(
        edited(
            "policy: train.policy, queries: problems.test",
            "policy: train.policy, queries: evaluate.greedy"
        ),
        [
            "56:3 `evaluate.greedy` needs its own result | a result of the iteration before is taken over by `carry`"
        ]
    );
    assert_eq!(
        broken("    retries: 5\n    with: {policy: policy,", "    with: {policy: train.policy,"),
        "\
error: these stages need each other: responses → train → dataset → responses
  --> pipelines/math.yaml:39:3
   |
39 |   responses:
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
        "49:3 `train` is the name of a stage of the iteration and of a carried value | rename one of them"
    );
}

#[test]
fn a_result_of_another_kind_is_refused_where_it_is_written() {
    let edited = |from: &str, to: &str| {
        assert_eq!(GOOD.matches(from).count(), 1, "{from} must occur once");
        brief(&GOOD.replace(from, to), &[])
    };
    for (from, to, expected) in [
        (
            "threshold: search.threshold",
            "threshold: search.temperature",
            "`threshold` has to be a threshold: `search.temperature` is a temperature | here, `search.threshold` would do",
        ),
        (
            "threshold: search.threshold",
            "threshold: responses",
            "`threshold` has to be a threshold: `responses` is responses | here, `search.threshold` would do",
        ),
        (
            "dataset: dataset\n",
            "dataset: problems.train\n",
            "`dataset` has to be prompts with completions: `problems.train` is queries | here, `dataset`, \
             `problems.pretrain`, `problems.flawed`, `problems.sft` would do",
        ),
        (
            "{policy: pretrain.policy, dataset",
            "{policy: pretrain.log, dataset",
            "`policy` has to be a policy: `pretrain.log` is something else | here, `pretrain.policy`, `sft.policy` \
             would do",
        ),
        (
            "  optimizer: train.optimizer\n",
            "  optimizer: train.policy\n",
            "`optimizer` has to be the state of an optimizer for `iteration.train`: `train.policy` is a policy | \
             here, `train.optimizer`, `pretrain.optimizer`, `sft.optimizer` would do",
        ),
    ] {
        let found = edited(from, to);
        assert!(found.len() == 1 && found[0].ends_with(expected), "{to}: {found:?}\n{expected}");
    }
    // A policy's logits give rewards too, and a program's outputs are what they are declared to be.
    assert!(
        parse(
            GOOD,
            &[
                "iteration.rewards.reward_model=policy",
                "iteration.rewards.aggregate=min",
                "iteration.rewards.reading={output: logits}"
            ]
        )
        .is_ok()
    );
    let program = |output: &str| {
        [
            format!("setup.p={{uses: command, with: {{argv: [p], outputs: [{output}]}}}}"),
            "iteration.responses.temperature=p".to_owned(),
        ]
    };
    for good in ["t.json: number", "t.json"] {
        assert!(Pipeline::parse(GOOD, Path::new("math.yaml"), &program(good)).is_ok(), "{good}");
    }
    let folder = program("t/");
    let found = brief(GOOD, &folder.each_ref().map(String::as_str));
    assert!(found[0].contains("`temperature` has to be a temperature: `p` is something else"), "{found:?}");
}
