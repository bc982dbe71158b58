//! The pipelines for real models, each from its first stage to its last on rows of the public data sets, with a small
//! model of the right family. Only sizes are changed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::servers::skipped;
use crate::support::{Space, repository};

/// A file of the public data sets: in `$BSTAR_SHARED`, or the folder `shared` beside the checkout.
fn data(name: &str) -> Option<PathBuf> {
    let beside = repository().join("../shared");
    let folder = std::env::var_os("BSTAR_SHARED").map_or(beside, PathBuf::from);
    let file = folder.join("data").join(name);
    let found = std::fs::canonicalize(&file).ok();
    if found.is_none() {
        skipped(&format!("the data set {name} is not at hand"));
    }
    found
}

/// A pipeline in a space of its own.
struct Reduced {
    space: Space,
    name: &'static str,
    /// What its inputs are, and the sizes.
    overrides: Vec<String>,
}

/// A model to begin with.
struct Model<'a> {
    /// The data set that its tokenizer and it learn from, and its format.
    corpus: (&'a Path, &'a str),
    /// Rows of it.
    rows: usize,
    /// What a policy learns to answer.
    completion: Option<&'a str>,
    /// One leaves it as good as random.
    updates: usize,
    context: usize,
    /// Fields of its `config.json` that make it a model of another family than `pretrain`'s.
    family: Value,
    chat_template: Option<&'a str>,
}

impl Reduced {
    fn new(name: &'static str, inputs: &[(&str, &Path)]) -> Self {
        let space = Space::new();
        let file = format!("pipelines/{name}.yaml");
        std::fs::copy(repository().join(&file), space.path().join(&file)).expect("the pipeline");
        let overrides =
            inputs.iter().map(|(name, path)| format!("inputs.{name}={}", path.display())).collect();
        Self { space, name, overrides }
    }

    fn with<S: AsRef<str>>(mut self, sizes: &[S]) -> Self {
        self.overrides.extend(sizes.iter().map(|size| size.as_ref().to_owned()));
        self
    }

    /// Why programs cannot be judged on this machine.
    fn no_sandbox(&self) -> Option<String> {
        self.space.write("code.jsonl", "{\"code\": \"f = 1\", \"tests\": [\"assert f == 1\"]}\n");
        let graded = self.space.run(&["grade", "--task", "code", "code.jsonl"]);
        (graded.code == Some(2)).then(|| graded.stderr.lines().next().unwrap_or_default().to_owned())
    }

    /// Makes the model, as the input `base`.
    fn based(mut self, model: &Model<'_>) -> Self {
        let Model { corpus: (file, format), rows, completion, updates, context, family, chat_template } =
            model;
        let folder = self.space.path().join("base");
        let completion = completion.map(|text| format!(", completion: {}", json!(text))).unwrap_or_default();
        self.space.write(
            "pipelines/base.yaml",
            &format!(
                "name: base\nseed: 1\ninputs: {{file: {}}}\nsetup:\n  data:\n    uses: dataset\n    with: {{file: file, \
                 format: {format}, limit: {rows}{completion}}}\n  tokenizer:\n    uses: tokenizer\n    with: {{corpus: \
                 [data.examples], kind: bpe, vocab_size: 640}}\n  model:\n    uses: pretrain\n    with:\n      tokenizer: \
                 tokenizer\n      dataset: data.examples\n      model: {{hidden_size: 64, intermediate_size: 128, \
                 num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: \
                 {context}}}\n      training: {{updates: {updates}, batch: 8, learning_rate: 0.003, max_length: \
                 {context}}}\n  export:\n    uses: command\n    with:\n      argv: [sh, -c, 'cp -rL \"$1\" \"$2\" && \
                 touch \"$3/r\"', sh, \"{{in.p}}\", \"{}\", \"{{out}}\"]\n      inputs: {{p: model.policy}}\n      \
                 outputs: [r]\n",
                file.display(),
                folder.display(),
            ),
        );
        let made = self.space.run(&["pipeline", "run", "base.yaml", "--format", "json"]).summary();
        assert_eq!(made["failed"], 0, "{made}");
        let config = folder.join("config.json");
        let mut fields: Value =
            serde_json::from_slice(&std::fs::read(&config).expect("a config")).expect("JSON");
        for (name, value) in family.as_object().expect("fields") {
            fields[name] = value.clone();
        }
        std::fs::write(&config, fields.to_string()).expect("a written file");
        if let Some(template) = chat_template {
            std::fs::write(folder.join("chat_template.jinja"), template).expect("a written file");
        }
        self.overrides.push(format!("inputs.base={}", folder.display()));
        self
    }

    fn ask(&self, verb: &str, format: &[&str]) -> crate::support::Outcome {
        let file = format!("{}.yaml", self.name);
        let mut arguments = vec!["pipeline", verb, &file];
        arguments.extend(self.overrides.iter().map(String::as_str));
        arguments.extend(format);
        self.space.run(&arguments)
    }

    /// Checks, plans and runs it; a second run executes nothing.
    fn run(&self) -> Value {
        let checked = self.ask("check", &[]);
        assert_eq!(checked.code, Some(0), "{}\n{}", checked.stdout, checked.stderr);
        let planned = self.ask("plan", &["--format", "json"]);
        assert_eq!(planned.code, Some(0), "{}\n{}", planned.stdout, planned.stderr);
        let first = self.ask("run", &["--format", "json"]).summary();
        assert_eq!((&first["failed"], &first["skipped"]), (&json!(0), &json!(0)), "{first}");
        let again = self.ask("run", &["--format", "json"]).summary();
        assert_eq!(again["executed"], 0, "{again}");
        assert_eq!(again["results"], first["results"]);
        first
    }
}

/// Fields that make the same weights a Mistral, whose window is shorter than most rows.
fn mistral() -> Value {
    json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 96})
}

/// The scaled positions of Llama 3.
fn llama3() -> Value {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256});
    json!({"rope_scaling": scaling, "rope_theta": 500_000.0, "bos_token_id": null})
}

/// A few updates of a small model.
fn training(updates: usize, batch: usize, rate: f64, length: usize) -> String {
    let schedule = "schedule: {shape: constant}";
    format!("{{updates: {updates}, batch: {batch}, learning_rate: {rate}, max_length: {length}, {schedule}}}")
}

/// Sizes that the loop of every pipeline has.
fn loop_sizes(queries: usize, samples: usize, tokens: usize, length: usize) -> Vec<String> {
    vec![
        "iterations=1".to_owned(),
        format!("iteration.drawn.count={queries}"),
        format!("iteration.explore.limit={queries}"),
        "iteration.explore.temperature=[0.4,0.8]".to_owned(),
        "iteration.explore.samples=2".to_owned(),
        format!("iteration.explore.max_tokens={tokens}"),
        format!("iteration.responses.samples={samples}"),
        format!("iteration.responses.max_tokens={tokens}"),
        format!("iteration.train.training={}", training(4, 2, 0.001, length)),
    ]
}

/// Sizes of an evaluation.
fn evaluation(stage: &str, tokens: usize) -> Vec<String> {
    vec![format!("{stage}.samples=2"), format!("{stage}.k=[2]"), format!("{stage}.max_tokens={tokens}")]
}

#[test]
fn gsm8k_1b_runs_at_reduced_size() {
    let (Some(train), Some(test)) = (data("gsm8k/train.jsonl"), data("gsm8k/test.jsonl")) else { return };
    let reduced = Reduced::new("gsm8k-1b", &[("train_file", train.as_path()), ("test_file", test.as_path())])
        .based(&Model {
            corpus: (train.as_path(), "gsm8k"),
            rows: 200,
            completion: None,
            updates: 1,
            context: 512,
            family: llama3(),
            chat_template: None,
        })
        .with(&[
            "setup.train.limit=3",
            "setup.test.limit=4",
            "setup.labels.limit=3",
            "setup.labels.solutions=2",
        ])
        .with(&["setup.labels.completions=2", "setup.labels.max_tokens=96"])
        .with(&[
            &format!("setup.sft.training={}", training(90, 3, 0.004, 512)),
            &format!("setup.completer.training={}", training(3, 3, 0.002, 512)),
            &format!("setup.reward_model.training={}", training(4, 4, 0.001, 512)),
        ])
        .with(&evaluation("setup.baseline", 64))
        .with(&loop_sizes(3, 4, 96, 512))
        .with(&evaluation("iteration.evaluate", 64));
    let summary = reduced.run();
    assert!(summary["iterations"][0]["kept"].as_u64() > Some(0), "{summary}");
    assert!(summary["start"]["pass_at_1"].is_number(), "{summary}");
}

#[test]
fn math_7b_runs_at_reduced_size() {
    let (Some(math), Some(gsm8k)) = (data("math/math500_prm800k_test.jsonl"), data("gsm8k/test.jsonl"))
    else {
        return;
    };
    let inputs =
        [("train_file", math.as_path()), ("test_file", math.as_path()), ("gsm8k_file", gsm8k.as_path())];
    let reduced = Reduced::new("math-7b", &inputs)
        .based(&Model {
            corpus: (math.as_path(), "math"),
            rows: 100,
            completion: None,
            updates: 1,
            context: 768,
            family: mistral(),
            chat_template: None,
        })
        .with(&["setup.train.limit=4", "setup.train.longest_solution=500", "setup.validation.skip=4"])
        .with(&[
            "setup.validation.limit=2",
            "setup.test.limit=2",
            "setup.gsm8k.limit=2",
            "setup.labels.limit=3",
        ])
        .with(&["setup.labels.solutions=2", "setup.labels.completions=2", "setup.labels.max_tokens=96"])
        .with(&[
            &format!("setup.sft.training={}", training(50, 3, 0.004, 768)),
            &format!("setup.completer.training={}", training(3, 3, 0.002, 768)),
            &format!("setup.reward_model.training={}", training(4, 4, 0.001, 768)),
        ])
        .with(&evaluation("setup.baseline", 48))
        .with(&evaluation("setup.gsm8k_baseline", 48))
        .with(&loop_sizes(3, 4, 96, 768))
        .with(&["iteration.validate.max_tokens=48"])
        .with(&evaluation("iteration.evaluate", 48))
        .with(&evaluation("iteration.evaluate_gsm8k", 48));
    let summary = reduced.run();
    assert!(summary["iterations"][0]["kept"].as_u64() > Some(0), "{summary}");
}

#[test]
fn code_runs_at_reduced_size() {
    let Some((apps, humaneval)) = data("code/apps_train_5.jsonl").zip(data("humaneval/HumanEval.jsonl"))
    else {
        return;
    };
    let inputs = [
        ("train_file", apps.as_path()),
        ("test_file", apps.as_path()),
        ("humaneval_file", humaneval.as_path()),
    ];
    let reduced = Reduced::new("code", &inputs)
        .based(&Model {
            corpus: (humaneval.as_path(), "humaneval"),
            rows: 100,
            completion: None,
            updates: 1,
            context: 2048,
            family: llama3(),
            chat_template: None,
        })
        // The fourth problem, and one of its solutions: what was learnt by heart passes its tests.
        .with(&["setup.train.skip=3", "setup.train.limit=1", "setup.train.solutions=1"])
        .with(&["setup.train.longest_solution=300", "setup.test.skip=3", "setup.test.limit=1"])
        .with(&["setup.humaneval.limit=2"])
        .with(&[&format!("setup.sft.training={}", training(120, 1, 0.004, 1024))])
        .with(&evaluation("setup.baseline", 200))
        .with(&evaluation("setup.humaneval_baseline", 32))
        .with(&loop_sizes(1, 4, 200, 1024))
        .with(&evaluation("iteration.evaluate", 200))
        .with(&evaluation("iteration.evaluate_humaneval", 32));
    if let Some(lacking) = reduced.no_sandbox() {
        return skipped(&lacking);
    }
    let summary = reduced.run();
    // A program that it drew passed the tests of its problem.
    assert!(summary["iterations"][0]["kept"].as_u64() > Some(0), "{summary}");
}

#[test]
fn arc_runs_at_reduced_size() {
    let files =
        ["arc/arc_challenge_train.jsonl", "arc/arc_challenge_dev.jsonl", "arc/arc_challenge_test.jsonl"];
    let [Some(train), Some(dev), Some(test)] = files.map(data) else { return };
    let reduced = Reduced::new(
        "arc",
        &[("train_file", train.as_path()), ("dev_file", dev.as_path()), ("test_file", test.as_path())],
    )
    // There is no fine-tuning before the loop: the model has to know what an answer looks like.
    .based(&Model {
        corpus: (train.as_path(), "arc"),
        rows: 64,
        completion: None,
        updates: 80,
        context: 640,
        family: mistral(),
        chat_template: Some("{{ messages[0].content }}"),
    })
    .with(&["setup.train.limit=8", "setup.validation.limit=2", "setup.test.limit=4"])
    .with(&evaluation("setup.baseline", 16))
    .with(&loop_sizes(8, 4, 16, 640))
    .with(&["iteration.validate.max_tokens=16"])
    .with(&evaluation("iteration.evaluate", 16));
    let summary = reduced.run();
    assert!(summary["iterations"][0]["kept"].as_u64() > Some(0), "{summary}");
}
