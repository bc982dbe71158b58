use std::collections::BTreeSet;

use bstar_cache::{Artifact, Digest};
use bstar_stages::{Piece, ShardSource};
use proptest::prelude::*;

use super::*;
use crate::pipeline::Diagnostic;

const LOOP: &str = include_str!("../pipeline/testdata/loop.yaml");

fn plan(overrides: &[&str]) -> Plan {
    plan_of(LOOP, overrides)
}

fn plan_of(text: &str, overrides: &[&str]) -> Plan {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    match Pipeline::parse(text, Path::new("loop.yaml"), &overrides) {
        Ok(pipeline) => Plan::new(&pipeline),
        Err(problems) => {
            panic!("{}", problems.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// Where an input of a step comes from, as results are called; `-` when it is absent.
fn from(plan: &Plan, step: &str, input: &str) -> String {
    let step = plan.step(plan.find(step).unwrap());
    match step.inputs.get(input).or_else(|| step.settings.get(input)) {
        None => "-".to_owned(),
        Some(Source::Output { step, output }) => format!("{}.{}", plan.step(*step).name, output.name),
        Some(Source::File(path)) => path.display().to_string(),
        Some(Source::Content(artifact)) => artifact.digest.short(),
    }
}

#[test]
fn setup_and_all_iterations_are_laid_out_inputs_before_users() {
    let plan = plan(&[]);
    let names: Vec<&str> = plan.ids().map(|id| plan.step(id).name.as_str()).collect();
    assert_eq!(names.len(), 4 + 3 * 12);
    assert_eq!(
        names[..5],
        ["setup.problems", "setup.tokenizer", "setup.pretrain", "setup.sft", "iteration[0].explore"]
    );
    assert_eq!(
        names[names.len() - 5..],
        [
            "iteration[2].evaluate.greedy",
            "iteration[2].evaluate.greedy_rewards",
            "iteration[2].evaluate.samples",
            "iteration[2].evaluate.rewards",
            "iteration[2].evaluate",
        ]
    );
    for id in plan.ids() {
        assert!(plan.dependencies(id).iter().all(|needed| *needed < id), "{}", plan.step(id).name);
    }
    assert_eq!(plan.step(plan.find("iteration[1].evaluate.rewards").unwrap()).entry, "iteration.evaluate");
    assert_eq!(plan.step(plan.find("iteration[1].responses").unwrap()).policy.retries, 5);
    assert_eq!(from(&plan, "iteration[1].responses", "temperature"), "iteration[1].search.temperature");
    assert_eq!(from(&plan, "iteration[1].dataset", "threshold"), "iteration[1].search.threshold");
    assert_eq!(from(&plan, "setup.tokenizer", "corpus1"), "setup.problems.sft");
}

#[test]
fn online_rft_carries_policy_and_optimizer() {
    let plan = plan(&[]);
    assert_eq!(from(&plan, "iteration[0].explore", "policy"), "setup.sft.policy");
    assert_eq!(from(&plan, "iteration[0].train", "optimizer"), "setup.sft.optimizer");
    for (now, before) in [(1, 0), (2, 1)] {
        let train = format!("iteration[{before}].train");
        assert_eq!(from(&plan, &format!("iteration[{now}].explore"), "policy"), format!("{train}.policy"));
        assert_eq!(
            from(&plan, &format!("iteration[{now}].train"), "optimizer"),
            format!("{train}.optimizer")
        );
    }
}

#[test]
fn iterative_rft_has_a_fresh_optimizer_every_time() {
    let plan = plan(&["carry.optimizer=null", "start.optimizer=null"]);
    for iteration in 0..3 {
        assert_eq!(from(&plan, &format!("iteration[{iteration}].train"), "optimizer"), "-");
    }
    assert_eq!(from(&plan, "iteration[2].train", "policy"), "iteration[1].train.policy");
}

#[test]
fn rest_em_trains_from_the_first_policy_and_samples_from_the_last() {
    let plan = plan(&["iteration.train.policy=sft.policy", "carry.optimizer=null", "start.optimizer=null"]);
    assert_eq!(from(&plan, "iteration[2].train", "policy"), "setup.sft.policy");
    assert_eq!(from(&plan, "iteration[2].explore", "policy"), "iteration[1].train.policy");
}

#[test]
fn carried_values_without_a_start_begin_absent_and_start_values_without_carry_stay() {
    let absent_at_first = plan(&["start.optimizer=null"]);
    assert_eq!(from(&absent_at_first, "iteration[0].train", "optimizer"), "-");
    assert_eq!(from(&absent_at_first, "iteration[1].train", "optimizer"), "iteration[0].train.optimizer");
    let constant = plan(&["carry.policy=null"]);
    assert_eq!(from(&constant, "iteration[2].explore", "policy"), "setup.sft.policy");
}

#[test]
fn carried_values_can_be_handed_on_and_begin_as_a_setup_stage_of_that_name() {
    let plan = plan(&["carry.older=policy", "start.older=sft.policy", "iteration.explore.policy=older"]);
    assert_eq!(from(&plan, "iteration[0].explore", "policy"), "setup.sft.policy");
    assert_eq!(from(&plan, "iteration[1].explore", "policy"), "setup.sft.policy");
    assert_eq!(from(&plan, "iteration[2].explore", "policy"), "iteration[0].train.policy");

    let text = LOOP
        .replace("dataset: dataset\n", "dataset: pool\n")
        .replace("start:\n", "  pool: {uses: draw, with: {queries: problems.sft, count: 3}}\nstart:\n");
    let plan = plan_of(&text, &["carry.pool=dataset"]);
    assert_eq!(from(&plan, "iteration[0].train", "dataset"), "setup.pool.queries");
    assert_eq!(from(&plan, "iteration[1].train", "dataset"), "iteration[0].dataset.dataset");
}

#[test]
fn stages_learn_their_iteration_and_files_are_found_from_the_pipeline_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data.jsonl"), "").unwrap();
    std::fs::write(folder.path().join("tool.py"), "").unwrap();
    let text = "\
name: x
inputs: {data: data.jsonl}
iterations: 2
iteration:
  report: {uses: command, with: {argv: [python, tool.py], inputs: {queries: pool}, files: [tool.py], outputs: [r.txt]}}
  pool: {uses: draw, with: {queries: data, count: 3}}
  last: {uses: command, with: {argv: ['true'], inputs: {report: report.r.txt}, outputs: [out/]}}
";
    let pipeline = Pipeline::parse(text, &folder.path().join("x.yaml"), &[]).unwrap();
    let plan = Plan::new(&pipeline);
    let names: Vec<&str> = plan.ids().map(|id| plan.step(id).name.as_str()).collect();
    assert_eq!(names[..3], ["iteration[0].pool", "iteration[0].report", "iteration[0].last"]);
    for (iteration, name) in ["iteration[0].pool", "iteration[1].pool"].into_iter().enumerate() {
        let StageConfig::Draw(draw) = &plan.step(plan.find(name).unwrap()).stage else { panic!("draw") };
        assert_eq!(draw.iteration, Some(iteration));
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert_eq!(from(&plan, "iteration[1].pool", "queries"), path("data.jsonl"));
    assert_eq!(from(&plan, "iteration[1].report", "file:tool.py"), path("tool.py"));
    assert_eq!(from(&plan, "iteration[1].last", "report"), "iteration[1].report.r.txt");
}

#[test]
fn results_name_every_output() {
    let plan = plan(&[]);
    let results = plan.results(&plan.parts()[0]);
    let Source::Output { step, output } = &results["iteration[2].train.policy"] else { panic!("output") };
    assert_eq!((plan.step(*step).name.as_str(), output.folder), ("iteration[2].train", true));
    for name in ["setup.problems.test", "iteration[0].search.temperature", "iteration[1].evaluate.metrics"] {
        assert!(results.contains_key(name), "{name}");
    }
}

fn artifact(piece: &Piece) -> Artifact {
    Artifact { digest: Digest::of(format!("{piece:?}").as_bytes()), size: 1 }
}

fn unfolded(plan: &mut Plan, step: &str, source: &ShardSource) -> Vec<StepId> {
    let parent = plan.find(step).unwrap();
    let shards = plan.step(parent).stage.stage().shards(source).unwrap();
    let content =
        Piece::of_shards(&shards).into_iter().map(|piece| (piece.clone(), artifact(piece))).collect();
    plan.unfold(parent, shards, &content).unwrap()
}

#[test]
fn a_sharded_step_is_cut_and_its_shards_read_what_it_reads() {
    let mut plan = plan(&["iteration.explore.samples=20"]);
    let (steps, parts) = (plan.len(), plan.parts().to_vec());
    let source = ShardSource { queries: 70, responses: Vec::new() };
    let shards = unfolded(&mut plan, "iteration[1].explore", &source);
    assert_eq!(shards.len(), 8, "two temperatures, two chunks of queries, two ranges of samples");
    assert_eq!(plan.len(), steps + 8);
    assert_eq!(plan.parts(), parts, "shards are not steps of the pipeline");

    let shard = plan.step(plan.find("iteration[1].explore/t=0.5/q00064-00070.s0016-0020").unwrap());
    let parent = plan.find("iteration[1].explore").unwrap();
    assert_eq!(shard.parent, Some((parent, "responses/t=0.5/q00064-00070.s0016-0020.jsonl".to_owned())));
    assert_eq!((shard.section, shard.entry.as_str()), (Section::Iteration(1), "iteration.explore"));
    assert_eq!(shard.inputs["policy"], plan.step(parent).inputs["policy"]);
    let rows = Piece::Rows { input: "queries".to_owned(), start: 64, end: 70 };
    assert_eq!(shard.inputs["queries"], Source::Content(artifact(&rows)));
    assert_eq!(plan.shards_of(parent), shards);
    assert_eq!(plan.dependencies(shards[0]), [plan.find("iteration[0].train").unwrap()]);

    let again = unfolded(&mut plan, "iteration[1].explore", &source);
    assert_eq!((again, plan.len()), (shards, steps + 8), "unfolding again changes nothing");
}

#[test]
fn scoring_reads_files_of_responses_and_an_absent_input_stays_absent() {
    let mut plan = plan(&[]);
    let responses = vec![
        "t=0.5/q00000-00064.s0000-0008.jsonl".to_owned(),
        "t=1/q00000-00064.s0000-0008.jsonl".to_owned(),
    ];
    let shards = unfolded(&mut plan, "iteration[0].explored", &ShardSource { queries: 10, responses });
    let names: Vec<&str> = shards.iter().map(|id| plan.step(*id).name.as_str()).collect();
    assert_eq!(
        names,
        [
            "iteration[0].explored/t=0.5/q00000-00064.s0000-0008",
            "iteration[0].explored/t=1/q00000-00064.s0000-0008"
        ]
    );
    let file =
        Piece::File { input: "responses".to_owned(), path: "t=1/q00000-00064.s0000-0008.jsonl".to_owned() };
    let shard = plan.step(shards[1]);
    assert_eq!(shard.inputs["responses"], Source::Content(artifact(&file)));
    assert!(!shard.inputs.contains_key("reward_model"));
}

#[test]
fn unknown_content_is_refused_before_anything_is_added() {
    let mut plan = plan(&[]);
    let steps = plan.len();
    let parent = plan.find("iteration[0].explore").unwrap();
    let shards =
        plan.step(parent).stage.stage().shards(&ShardSource { queries: 3, responses: vec![] }).unwrap();
    let error = plan.unfold(parent, shards, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.step, "iteration[0].explore");
    assert_eq!(plan.len(), steps);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unfolding_is_deterministic_whatever_the_order_of_steps(
        queries in 0_usize..300,
        samples in 1_u32..40,
        reversed in any::<bool>(),
    ) {
        let overrides = format!("iteration.explore.samples={samples}");
        let source = ShardSource { queries, responses: Vec::new() };
        let build = |order: &[&str]| {
            let mut plan = plan(&[&overrides]);
            for step in order {
                unfolded(&mut plan, step, &source);
            }
            plan.ids()
                .map(|id| {
                    let step = plan.step(id);
                    let needed: Vec<&str> =
                        plan.dependencies(id).into_iter().map(|id| plan.step(id).name.as_str()).collect();
                    format!("{} {:?} {needed:?}", step.name, step.stage)
                })
                .collect::<BTreeSet<_>>()
        };
        let mut order = ["iteration[0].explore", "iteration[2].explore"];
        let first = build(&order);
        if reversed {
            order.reverse();
        }
        prop_assert_eq!(first, build(&order));
    }
}
