use std::cell::Cell;

use super::super::document::parse_object;
use super::*;

fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&schema()).expect("a schema")
}

fn fits(text: &str) -> bool {
    let value = parse_object(text, &Cell::new(false)).expect("YAML");
    validator().is_valid(&Value::Object(value))
}

/// What is wrong with a file by the schema.
fn problems(text: &str) -> Vec<String> {
    let value = Value::Object(parse_object(text, &Cell::new(false)).expect("YAML"));
    validator().iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn all_pipelines_of_the_repository_fit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["pipelines", "pipelines/sweeps", "examples/python_reward", "src/pipeline/testdata"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).expect("a folder"));
    let files: Vec<_> = files
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    assert!(files.len() > 10, "{files:?}");
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a file");
        assert_eq!(problems(&text), Vec::<String>::new(), "{}", path.display());
    }
}

#[test]
fn what_cannot_be_read_does_not_fit() {
    assert!(fits(GOOD));
    for (from, to) in [
        ("seed: 17", "seed: -1"),
        ("seed: 17", "sed: 17"),
        ("name: ", "title: "),
        ("name: math", "name: 9"),
        ("name: math", "name: a.b"),
        ("uses: filter", "uses: filtre"),
        ("n_star: 4", "n_star: four"),
        ("n_star: 4", "n_stars: 4"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replace(from, to);
        assert!(parse(&text, &[]).is_err() && !fits(&text), "{to}");
    }
    let without = "name: a\nsetup: {s: {uses: sft}}";
    assert!(parse(without, &[]).is_err() && !fits(without), "settings that must be there");
    assert!(fits("base: math.yaml\niteration: {search: {with: {n_star: 2}}}"), "the rest is in the base");
    assert!(
        fits("base: math.yaml\npreset: null\nstart: {optimizer: null}"),
        "what the base has is taken away"
    );
}

#[test]
fn it_has_all_sections_and_describes_their_settings() {
    let schema = schema();
    let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&schema["properties"]), [&["base"][..], TOP_KEYS].concat());
    let stage = &schema["$defs"]["stage"];
    assert_eq!(names(&stage["properties"]), STAGE_KEYS);
    let of_stages = stage["allOf"].as_array().expect("a list");
    assert_eq!(of_stages.len(), StageConfig::usable().count());
    let undescribed = |definition: &str| {
        let settings = &schema["$defs"][definition]["properties"];
        let settings = settings.as_object().expect("settings");
        let described = |setting: &Value| setting.get("description").is_some();
        settings.iter().filter(|(_, setting)| !described(setting)).map(|(name, _)| name.clone()).collect()
    };
    let text = schema.to_string();
    assert!(!text.contains("[`") && !text.contains("`]"), "links to code");
    for of_stage in of_stages {
        let path = of_stage["then"]["properties"]["with"]["$ref"].as_str().expect("a reference");
        let missing: Vec<String> = undescribed(path.rsplit('/').next().expect("a name"));
        assert_eq!(missing, Vec::<String>::new(), "{path}");
    }
}
