use bstar_stages::StageConfig;
use bstar_stages::config::{Average, Grader, Rules, Scale, Select, Ties};

use super::*;

fn of<'a>(pipeline: &'a Pipeline, name: &str) -> &'a StageConfig {
    &stage(pipeline, name).config
}

fn search(pipeline: &Pipeline) -> &bstar_stages::config::Search {
    let StageConfig::Search(search) = of(pipeline, "search") else { panic!("a search") };
    search
}

fn filter(pipeline: &Pipeline) -> &bstar_stages::config::Filter {
    let StageConfig::Filter(filter) = of(pipeline, "dataset") else { panic!("a filter") };
    filter
}

#[test]
fn a_preset_gives_what_the_file_does_not() {
    let plain = good(&[]);
    assert!(search(&plain).rules.is_default() && filter(&plain).rules.is_default());

    let paper = good(&["preset=paper"]);
    assert_eq!(search(&paper).rules.select, Select::All);
    assert_eq!(search(&paper).n_star, Some(4), "what the file says stays");
    assert!(filter(&paper).thresholds.is_none());

    let official =
        good(&["preset=official", "iteration.search.n_star=null", "iteration.search.thresholds=null"]);
    let rules = Rules {
        k_max: Some(64),
        answered_only: true,
        average: Average::Selected,
        ties: Ties::First,
        ..Rules::default()
    };
    assert_eq!((search(&official).rules, filter(&official).rules), (rules, rules));
    assert_eq!((search(&official).n_star, search(&official).thresholds.values().len()), (Some(8), 200));
    assert_eq!(filter(&official).thresholds.as_ref().map(|grid| grid.values().len()), Some(200));
    let StageConfig::Score(score) = of(&official, "rewards") else { panic!("a score") };
    assert_eq!((score.grader, score.scale, score.unfinished), (Grader::Exact, Scale::Share, None));
    let with_model = good(&["preset=official", "iteration.rewards.reward_model=sft.policy"]);
    let StageConfig::Score(score) = of(&with_model, "rewards") else { panic!("a score") };
    assert_eq!((score.scale, score.unfinished), (Scale::Fifth, Some(-5.0)));

    // The same of the stages that score by themselves.
    let halving = "iteration.search={uses: halving, with: {policy: policy, queries: problems.validation, temperature: [0.5, 1], \
                   limits: [4], samples: 4, max_tokens: 8, reward_model: sft.policy, keep_per_query: 2}}";
    let official = good(&["preset=official", halving, "iteration.explore=null", "iteration.explored=null"]);
    let StageConfig::Halving(halving) = of(&official, "search") else { panic!("a search by halving") };
    assert_eq!(
        (halving.grader, halving.scale, halving.unfinished),
        (Grader::Exact, Scale::Fifth, Some(-5.0))
    );
    assert_eq!((halving.rules, halving.n_star), (rules, Some(8)));
    let evaluate = "iteration.evaluate.reward_model=sft.policy";
    let official = good(&["preset=official", evaluate]);
    let StageConfig::Evaluate(evaluate) = of(&official, "evaluate") else { panic!("an evaluation") };
    assert_eq!(
        (evaluate.grader, evaluate.scale, evaluate.unfinished),
        (Grader::Math, Scale::Fifth, Some(-5.0))
    );

    // A field that is given, and a threshold that is fixed, stay.
    let more = ["preset=official", "iteration.search.rules={ties: kept}", "iteration.dataset.threshold=0.5"];
    let official = good(&more);
    assert_eq!(search(&official).rules, Rules { ties: Ties::Kept, ..rules });
    assert!(filter(&official).thresholds.is_none());
    let left_out =
        good(&["preset=official", "iteration.dataset.thresholds=null", "iteration.dataset.n_star=null"]);
    assert!(filter(&left_out).thresholds.is_none());
}

#[test]
fn the_paper_inherits_the_optimizer_from_the_beginning() {
    let start = |overrides: &[&str]| good(overrides).start.get("optimizer").cloned();
    assert_eq!(start(&["start.optimizer=null"]), None);
    assert_eq!(start(&["start.optimizer=null", "preset=official"]), None);
    assert_eq!(start(&["start.optimizer=null", "preset=paper"]).as_deref(), Some("sft.optimizer"));
    assert_eq!(start(&["start.optimizer=null", "preset=paper", "carry.optimizer=null"]), None);
}

#[test]
fn unknown_presets_are_refused() {
    assert!(report(GOOD, &["preset=papre"]).contains("expected `paper` or `official`"));
}

#[test]
fn a_file_may_say_only_how_it_differs_from_its_base() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    write("loop.yaml", &format!("{GOOD}variants: {{old: {{iterations: 1}}}}\n"));
    let text = "base: ../loop.yaml\nname: other\niteration: {search: {with: {n_star: 2}}}\nvariants: {new: {iterations: 2}}\n";
    let path = write("sweeps/other.yaml", text);
    let pipeline = Pipeline::load(&path, &["iteration.responses.samples=16".to_owned()]).unwrap();
    assert_eq!((pipeline.name.as_str(), pipeline.seed, search(&pipeline).n_star), ("other", 17, Some(2)));
    assert_eq!(
        search(&pipeline).thresholds.values().last(),
        Some(&0.9),
        "the rest of the stage is the base's"
    );
    assert_eq!(pipeline.base, folder.path().join("sweeps/.."));
    let names: Vec<String> = pipeline.iteration.iter().map(|stage| stage.name.clone()).collect();
    assert_eq!(names[..3], ["explore", "explored", "search"]);
    let (variations, problems) = Pipeline::variations(text, &path);
    assert_eq!((variations.variants[0].0.as_str(), variations.variants.len(), problems.len()), ("new", 1, 0));

    let fails = |text: &str| {
        let path = write("sweeps/bad.yaml", text);
        Pipeline::load(&path, &[]).unwrap_err()[0].to_string()
    };
    assert!(fails("base: ../none.yaml\nname: a\n").contains("cannot read"));
    assert!(fails("base: other.yaml\nname: a\n").contains("has a base of its own"));
    assert!(fails("base: [1]\nname: a\n").contains("expected the path of a pipeline file"));
    write("broken.yaml", "a: [");
    assert!(fails("base: ../broken.yaml\nname: a\n").contains("has problems"));
}
