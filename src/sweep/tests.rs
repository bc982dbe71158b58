use std::collections::BTreeSet;
use std::path::Path;

use bstar_cache::Store;

use super::forecast::{Forecast, forecast};
use super::*;
use crate::executor::survey::survey;
use crate::plan::{Plan, Source};

const LOOP: &str = include_str!("../pipeline/testdata/loop.yaml");

fn request(arguments: &[&str]) -> Request {
    Request { arguments: arguments.iter().map(|text| (*text).to_owned()).collect(), ..Request::default() }
}

fn load(sections: &str, request: &Request) -> Result<Sweep, Refused> {
    Sweep::parse(&format!("{LOOP}{sections}"), Path::new("loop.yaml"), request)
}

fn good(sections: &str, request: &Request) -> Sweep {
    load(sections, request).unwrap_or_else(|refused| panic!("{}", told(&refused)))
}

/// Place, message and hint of every problem.
fn told(refused: &Refused) -> String {
    match refused {
        Refused::Usage { message, hint } => format!("{message} | {}", hint.clone().unwrap_or_default()),
        Refused::Problems(problems) => {
            let line = |problem: &Diagnostic| match problem.line() {
                Some(line) => format!("{line}:{} {}", problem.column().unwrap_or(0), problem.message),
                None => problem.message.clone(),
            };
            problems.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

fn names(sweep: &Sweep) -> Vec<&str> {
    sweep.variants.iter().map(|variant| variant.name.as_str()).collect()
}

#[test]
fn variants_grid_and_lists_are_combined_and_named() {
    let sections =
        "variants: {a: , no_adam: {carry.optimizer: null}}\ngrid: {iteration.search.n_star: [2, 4]}\n";
    let sweep = good(sections, &request(&["iteration.explore.samples=8, 16", "iterations=2"]));
    assert_eq!(
        names(&sweep),
        [
            "a · n_star=2 · samples=8",
            "a · n_star=2 · samples=16",
            "a · n_star=4 · samples=8",
            "a · n_star=4 · samples=16",
            "no_adam · n_star=2 · samples=8",
            "no_adam · n_star=2 · samples=16",
            "no_adam · n_star=4 · samples=8",
            "no_adam · n_star=4 · samples=16",
        ]
    );
    assert_eq!(
        sweep.variants[7].overrides,
        ["carry.optimizer=null", "iteration.search.n_star=4", "iteration.explore.samples=16", "iterations=2"]
    );
    assert!(sweep.variants.iter().all(|variant| variant.pipeline.iterations == 2));
    assert_eq!(sweep.seeds, [17]);
    let whole = sweep.variants[7].overrides.clone();
    let single = Pipeline::parse(LOOP, Path::new("loop.yaml"), &whole).unwrap();
    assert_eq!(Plan::new(&single).len(), Plan::new(&sweep.variants[7].pipeline).len());
}

#[test]
fn a_list_in_brackets_is_one_value_and_a_comma_separates_values() {
    let sweep = good("", &request(&["iteration.explore.temperature=[0.5, 1.0],[1.0]"]));
    assert_eq!(names(&sweep), ["temperature=[0.5, 1.0]", "temperature=[1.0]"]);
    let one = load("", &request(&["iteration.explore.temperature=[0.5,1.0]"])).unwrap_err();
    assert!(
        told(&one).starts_with("loop.yaml has nothing that varies | give several values"),
        "{}",
        told(&one)
    );
}

#[test]
fn seeds_are_counted_from_the_files_seed_or_listed() {
    let seeds = |sections: &str, arguments: &[&str], seeds: Option<&str>| {
        good(sections, &Request { seeds: seeds.map(str::to_owned), ..request(arguments) }).seeds
    };
    assert_eq!(seeds("", &[], Some("3")), [17, 18, 19]);
    assert_eq!(seeds("", &["seed=4"], Some("2")), [4, 5]);
    assert_eq!(seeds("", &[], Some("1, 2,5")), [1, 2, 5]);
    assert_eq!(seeds("", &["seed=7,8"], None), [7, 8]);
    assert_eq!(seeds("grid: {seed: [1, 2]}\n", &[], None), [1, 2]);
    assert_eq!(seeds("grid: {seed: [1, 2]}\n", &["iterations=1,2", "seed=3"], None), [3]);
    let bad = load("", &Request { seeds: Some("1,1".to_owned()), ..Request::default() }).unwrap_err();
    assert!(told(&bad).starts_with("--seeds 1,1: a seed is given twice"), "{}", told(&bad));
    let sweep = good("", &Request { seeds: Some("2".to_owned()), ..Request::default() });
    assert_eq!((names(&sweep), sweep.pipelines()[1].1.seed), (vec!["baseline"], 18));
}

#[test]
fn the_baseline_comes_first() {
    let sections = "variants: {x: {iterations: 1}, baseline: , y: {iterations: 2}}\n";
    assert_eq!(names(&good(sections, &Request::default())), ["baseline", "x", "y"]);
    let chosen = Request { baseline: Some("y".to_owned()), ..Request::default() };
    assert_eq!(names(&good(sections, &chosen)), ["y", "x", "baseline"]);
    let only = Request { only: vec!["x".to_owned(), "?".to_owned()], ..Request::default() };
    assert_eq!(names(&good(sections, &only)), ["x", "y"]);
    let unknown = Request { only: vec!["basline".to_owned()], ..Request::default() };
    let error = load(sections, &unknown).unwrap_err();
    assert_eq!(told(&error), "--only: no variant is called `basline` | did you mean `baseline`?");
}

#[test]
fn all_problems_of_all_variants_are_told_at_once_and_once() {
    let sections = "variants:\n  a: {iteration.search.n_str: 3, iterations: many}\n  b: {iteration.train: null}\n\
                    grid: {iteration.search.thresholds: [{from: 0, to: 1, by: 0.1}, {from: 0, to: 1, by: -1}]}\n";
    let error = load(sections, &request(&["iteration.explore.samples=8,x", "seed=1,b"])).unwrap_err();
    assert_eq!(
        told(&error),
        "\
58:20 nothing here is called `train.policy` (in variant `b · thresholds={from: 0, to: 1, by: 0.1} · samples=8`)
60:11 nothing here is called `train.policy` (in variant `b · thresholds={from: 0, to: 1, by: 0.1} · samples=8`)
61:14 nothing here is called `train.optimizer` (in variant `b · thresholds={from: 0, to: 1, by: 0.1} · samples=8`)
63:31 unknown field `n_str` in `iteration.search.with`
63:46 `iterations`: expected a whole number, 0 or more, found the text `many`
65:86 thresholds.by must be above 0, not -1
`seed`: expected whole numbers, 0 or more
`samples`: expected a whole number, 0 or more, found the text `x`"
    );
}

#[test]
fn a_field_is_varied_in_one_place_only() {
    let sections = "variants: {a: {iteration.search.n_star: 3}}\n";
    let error = load(sections, &request(&["iteration.search.n_star=1,2"])).unwrap_err();
    assert_eq!(told(&error), "`iteration.search.with.n_star` is varied, so variant `a` cannot change it");
    // A single value on the command line holds for all, and ends the grid's.
    let sections = "grid: {iteration.search.n_star: [2, 4], iterations: [1, 2]}\n";
    let sweep = good(sections, &request(&["iteration.search.n_star=3"]));
    assert_eq!(names(&sweep), ["iterations=1", "iterations=2"]);
    let whole = "iteration.search.thresholds={from: 0, to: 1, by: 0.5}";
    let sections = "grid: {iteration.search.thresholds.by: [0.5, 0.25], iterations: [1, 2]}\n";
    assert_eq!(names(&good(sections, &request(&[whole]))), ["iterations=1", "iterations=2"]);
    // What would be undone is refused, whichever holds the other.
    let [by, other] = ["iteration.search.thresholds.by=0.1,0.25", "iteration.search.thresholds.to=2"];
    let ranges = "iteration.search.thresholds={from: 0, to: 1, by: 1},{from: 0, to: 2, by: 1}";
    let n_star = ["iteration.search.n_star=2,3", "iteration.search.n_star=5"];
    for arguments in [[whole, by], [by, whole], [ranges, other], n_star] {
        let error = told(&load("", &request(&arguments)).unwrap_err());
        assert!(error.contains(" is varied, so `") && error.ends_with("` cannot set it for all"), "{error}");
    }
    good("", &request(&[by, other]));
    let error = told(&load("", &request(&[by, ranges])).unwrap_err());
    assert!(error.ends_with("`iteration.search.with.thresholds.by` cannot be varied too"), "{error}");
    assert_eq!(names(&good("", &request(&[ranges, by]))).len(), 4);
    let seeds = Request { seeds: Some("2".to_owned()), ..request(&["seed=5,6"]) };
    assert!(
        told(&load("", &seeds).unwrap_err()).starts_with("seeds are given twice: by `seed=` and by --seeds")
    );
}

#[test]
fn variants_that_are_not_run_may_change_what_is_varied() {
    let sections = "variants: {a: , b: {iteration.search.n_star: 3}}\n";
    let only =
        |name: &str| Request { only: vec![name.to_owned()], ..request(&["iteration.search.n_star=1,2"]) };
    assert_eq!(names(&good(sections, &only("a"))), ["a · n_star=1", "a · n_star=2"]);
    assert!(told(&load(sections, &only("b")).unwrap_err()).contains("variant `b` cannot change it"));
    let within = "variants: {b: {iteration.search.thresholds.by: 0.5}}\n";
    let ranges = "iteration.search.thresholds={from: 0, to: 1, by: 1},{from: 0, to: 2, by: 1}";
    assert!(told(&load(within, &request(&[ranges])).unwrap_err()).contains("variant `b` cannot change it"));
}

#[test]
fn variants_that_do_the_same_are_told() {
    let sections =
        "variants: {a: {iteration.search.n_star: 3}, b: {iteration.search.n_star: 4}, c: {iterations: 1}}\n";
    let twins = |arguments: &[&str]| {
        let sweep = good(sections, &request(arguments));
        sweep.twins(&sweep.plan())
    };
    assert!(twins(&[]).is_empty());
    let same = "variants `a` and `b` are the same pipeline: all of their figures will be equal";
    assert_eq!(twins(&["iteration.search.n_star=5"]), [same]);
}

#[test]
fn the_methods_of_the_paper_are_variants_of_the_default_pipeline() {
    let text = include_str!("../../pipelines/math.yaml");
    let sweep = Sweep::parse(text, Path::new("math.yaml"), &Request::default()).unwrap();
    assert_eq!(names(&sweep), ["b_star", "online_rft", "iterative_rft", "rest_em", "no_rm"]);
    let plan = sweep.plan();
    let find = |part: usize, name: &str| plan.parts()[part].find(name).unwrap();
    let source = |part: usize, name: &str, input: &str| {
        let Source::Output { step, .. } = plan.step(find(part, name)).inputs.get(input)? else { return None };
        Some(plan.step(*step).name.clone())
    };
    assert_eq!(source(1, "iteration[1].train", "optimizer").unwrap(), "iteration[0].train@online_rft");
    assert_eq!(source(2, "iteration[1].train", "optimizer"), None);
    assert_eq!(source(3, "iteration[1].train", "policy").unwrap(), "setup.sft");
    assert_eq!(source(4, "iteration[0].rewards", "reward_model"), None);
    for part in 1..5 {
        assert_eq!(find(part, "setup.reward_model"), find(0, "setup.reward_model"), "setup is shared");
    }
}

fn tags(plan: &Plan) -> BTreeSet<&str> {
    plan.ids().filter_map(|id| plan.step(id).name.split_once('@')).map(|(_, tag)| tag).collect()
}

#[test]
fn equal_work_is_one_step_and_single_pipelines_keep_their_names() {
    let sweep = good("", &request(&["iteration.search.n_star=4,6", "iterations=1"]));
    let plan = sweep.plan();
    let single = Plan::new(&sweep.variants[0].pipeline);
    let first: Vec<&str> = plan.ids().take(single.len()).map(|id| plan.step(id).name.as_str()).collect();
    assert_eq!(first, single.ids().map(|id| single.step(id).name.as_str()).collect::<Vec<_>>());
    // Search and what comes after it; not setup, exploring and its scores.
    let added: Vec<&str> = plan.ids().skip(single.len()).map(|id| plan.step(id).name.as_str()).collect();
    assert_eq!(added.len(), single.len() - 4 - 2);
    assert_eq!(added[0], "iteration[0].search@n_star=6");
    assert!(added.iter().all(|name| name.ends_with("@n_star=6")), "{added:?}");
    let [one, two] = plan.parts() else { panic!("two parts") };
    assert_eq!(one.find("iteration[0].explore"), two.find("iteration[0].explore"));
    let train = two.find("iteration[0].train").unwrap();
    assert_eq!(plan.step(train).name, "iteration[0].train@n_star=6");
    let Source::Output { step, .. } = &plan.step(train).inputs["policy"] else { panic!("an output") };
    assert_eq!(plan.step(*step).name, "setup.sft");
    assert_eq!(plan.results(one).len(), plan.results(two).len());
}

#[test]
fn steps_of_another_seed_are_called_by_it() {
    let sweep = good("", &Request { seeds: Some("2".to_owned()), ..Request::default() });
    let plan = sweep.plan();
    assert_eq!(tags(&plan), BTreeSet::from(["seed=18"]));
    let of_part = |part: usize, name: &str| plan.parts()[part].find(name);
    // Making problems draws; splitting words of a text that is given does not, but its text differs.
    assert_ne!(of_part(0, "setup.problems"), of_part(1, "setup.problems"));
    assert_ne!(of_part(0, "setup.tokenizer"), of_part(1, "setup.tokenizer"));
}

#[test]
fn a_pipelines_own_equal_steps_stay_apart() {
    let text = "name: x\nsetup:\n  a: {uses: command, with: {argv: [a], outputs: [o]}}\n  \
                b: {uses: command, with: {argv: [a], outputs: [o]}}\n  \
                c: {uses: command, with: {argv: [c], inputs: {i: b.o}, outputs: [o]}}\n";
    let sweep = Sweep::parse(text, Path::new("x.yaml"), &request(&["setup.c.argv=[c],[d]"])).unwrap();
    let plan = sweep.plan();
    let names: Vec<&str> = plan.ids().map(|id| plan.step(id).name.as_str()).collect();
    assert_eq!(names, ["setup.a", "setup.b", "setup.c", "setup.c@argv=[d]"]);
}

#[tokio::test]
async fn an_empty_store_has_everything_to_run_and_counts_what_is_shared() {
    let store = Store::open("memory://").await.unwrap();
    let sweep = good("", &request(&["iteration.search.n_star=4,6", "iterations=1"]));
    let plan = sweep.plan();
    let (counted, left) = forecast(&plan, &survey(&store, &plan).await.unwrap());
    assert_eq!((counted.steps, counted.shared, counted.cached), (32, 6, 0));
    assert_eq!((counted.will_run, counted.unknown, counted.executions, counted.exact), (1, 25, 1, false));
    assert_eq!(left.len(), 26);
    let told = Forecast { variants: 2, seeds: 1, ..counted }.to_string();
    assert_eq!(
        told,
        "2 variants: 32 steps, 6 shared, 0 cached, at least 1 and at most 26 to run; how long is not known: \
         nothing like it was run before"
    );
}

#[test]
fn the_sentence_tells_numbers_time_and_what_has_no_past() {
    let forecast = Forecast {
        variants: 12,
        seeds: 3,
        steps: 1944,
        shared: 1310,
        cached: 420,
        will_run: 214,
        exact: true,
        executions: 214,
        seconds: Some(7_800.0),
        bytes: Some(2_000_000),
        without_past: 1,
        ..Forecast::default()
    };
    assert_eq!(
        forecast.to_string(),
        "12 variants × 3 seeds: 1,944 steps, 1,310 shared, 420 cached, 214 to run, of which 1 step has no past, \
         about 2 h 10 min and 2.0 MB (from past runs)"
    );
    let done = Forecast { variants: 1, steps: 5, cached: 5, exact: true, ..Forecast::default() };
    assert_eq!(done.to_string(), "1 variant: 5 steps, 0 shared, 5 cached, 0 to run");
}
