//! What transformers makes of folders, asked in a Python that has it (`BSTAR_PYTHON`).

use super::*;

/// Needs an interpreter with torch and transformers, named in `BSTAR_PYTHON`.
#[test]
fn what_is_written_loads_in_transformers() {
    let Some(python) = std::env::var_os("BSTAR_PYTHON") else {
        skipped::skipped("BSTAR_PYTHON names no Python with torch and transformers");
        return;
    };
    let (folder, tokenizer) = (tempfile::tempdir().unwrap(), tokenizer());
    for golden in goldens(Device::Cpu) {
        let (model, _) = trained(&golden);
        let folder = folder.path().join(&golden.name);
        for (name, kind) in [("float32", Kind::Float), ("bfloat16", Kind::BFloat16), ("float16", Kind::Half)]
        {
            save_model(&folder.join(name), &model, kind, tokenizer.path()).unwrap();
        }
        let found = logits(&model, &golden.expected.prompt);
        let found = [("logits".to_owned(), &found)];
        write_tensors(&folder.join("logits.safetensors"), found, Kind::Float, None).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/make.py");
    let output =
        std::process::Command::new(python).arg(script).arg("check").arg(folder.path()).output().unwrap();
    let (said, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    print!("{said}");
    assert_eq!(said.lines().count(), 11);
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let off = |kind: &str| line["largest_difference"][kind].as_f64().unwrap();
        assert!(off("float32") <= 1e-4 && off("bfloat16") < 0.2 && off("float16") < 0.05, "{line}");
    }
}

/// The last logits that transformers computes for the ids 1 to 40, a line for each folder.
const LOGITS: &str = r#"
import json, sys, torch
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        print(json.dumps(model(torch.arange(1, 41)[None]).logits[0, -1].tolist()))
"#;

/// What transformers finds beside the weights of each folder.
const BESIDE: &str = r#"
import json, sys
from transformers import AutoTokenizer, GenerationConfig
for folder in sys.argv[1:]:
    found = GenerationConfig.from_pretrained(folder).to_diff_dict()
    found.pop("transformers_version")
    templates = AutoTokenizer.from_pretrained(folder).chat_template
    print(json.dumps(dict(generation=found, templates=templates)))
"#;

/// The JSON lines that a script prints, if there is an interpreter with torch and transformers for it.
fn python(script: &str, folders: &[PathBuf]) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os("BSTAR_PYTHON") else {
        skipped::skipped("BSTAR_PYTHON names no Python with torch and transformers");
        return None;
    };
    let output = std::process::Command::new(python).arg("-c").arg(script).args(folders).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    Some(said.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Changes the tensors of a model that is in a folder.
type Edit<'a> = &'a dyn Fn(&Path, &mut Vec<(String, Tensor)>);

#[test]
fn folders_that_say_two_things_are_read_as_in_transformers() {
    const EMBEDDING: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";
    let head = |tensors: &mut Vec<(String, Tensor)>, tensor: Tensor| tensors.push((HEAD.to_owned(), tensor));
    let embedding = |tensors: &[(String, Tensor)]| {
        tensors.iter().find(|(name, _)| name == EMBEDDING).unwrap().1.shallow_clone()
    };
    let as_they_are: Edit<'_> = &|_, _| ();
    let full = "full_attention";
    let cases: [(&str, &str, Value, Edit<'_>); 9] = [
        ("plain", "llama3", json!({}), as_they_are),
        ("apart", "llama3", json!({}), &|_, tensors| head(tensors, weight(HEAD, &[256, 32]))),
        ("repeated", "qwen2", json!({}), &|_, tensors| head(tensors, embedding(tensors))),
        ("renamed", "qwen3", json!({}), &|_, tensors| {
            let embedding = tensors.iter_mut().find(|(name, _)| name == EMBEDDING).unwrap();
            embedding.0 = HEAD.to_owned();
        }),
        ("single", "llama2", json!({}), &|folder, tensors| {
            let doubled: Vec<(String, Tensor)> =
                tensors.iter().map(|(name, tensor)| (name.clone(), tensor * 2.0)).collect();
            let named = doubled.iter().map(|(name, tensor)| (name.clone(), tensor));
            write_tensors(&folder.join("shard.safetensors"), named, Kind::Float, None).unwrap();
            let map: Map<String, Value> =
                doubled.iter().map(|(name, _)| (name.clone(), json!("shard.safetensors"))).collect();
            let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
            std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        }),
        ("scaling", "llama-bias", json!({"rope_scaling": {}}), as_they_are),
        ("types", "mistral", json!({"layer_types": [full, full]}), as_they_are),
        ("mixed", "mistral", json!({"layer_types": [full, "sliding_attention"]}), as_they_are),
        (
            "old",
            "qwen2-window",
            json!({"layer_types": ["attention", "sliding_attention", "attention"]}),
            as_they_are,
        ),
    ];
    let (root, tokenizer, goldens) = (tempfile::tempdir().unwrap(), tokenizer(), goldens(Device::Cpu));
    let (mut folders, mut found) = (Vec::new(), Vec::new());
    for (name, base, changes, edit) in cases {
        let golden = goldens.iter().find(|golden| golden.name == base).unwrap();
        let folder = root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let config = std::fs::read(golden.folder.join("config.json")).unwrap();
        let mut config: Map<String, Value> = serde_json::from_slice(&config).unwrap();
        config.extend(changes.as_object().unwrap().clone());
        std::fs::write(folder.join("config.json"), Value::Object(config).to_string()).unwrap();
        let model = golden.model();
        let named = model.named().into_iter();
        let mut tensors = named.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
        edit(&folder, &mut tensors);
        let named = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
        write_tensors(&folder.join("model.safetensors"), named, Kind::Float, None).unwrap();
        let model = load_model(&folder, Device::Cpu, Kind::Float).unwrap();
        let written = root.path().join(format!("{name}-written"));
        save_model(&written, &model, Kind::Float, tokenizer.path()).unwrap();
        let ids: Vec<i64> = (1..=40).collect();
        found.push(logits(&model, &ids).get(39));
        folders.extend([folder, written]);
    }
    assert!(!found[0].allclose(&found[1], 1e-2, 1e-2, false), "tied or not makes a difference");
    let Some(expected) = python(LOGITS, &folders) else { return };
    assert_eq!(expected.len(), folders.len());
    for (number, (folder, expected)) in folders.iter().zip(expected).enumerate() {
        let expected: Vec<f32> = serde_json::from_value(expected).unwrap();
        let off = distance(&found[number / 2], &Tensor::from_slice(&expected));
        assert!(off <= 1e-4, "{}: {off}", folder.display());
    }
}

#[test]
fn what_a_source_holds_beside_its_weights_stays() {
    let (source, folder) = (tokenizer(), tempfile::tempdir().unwrap());
    let model = goldens(Device::Cpu)[0].model();
    let path = |name: &str| source.path().join(name);
    let generation = json!({"temperature": 0.6, "top_p": 0.9, "do_sample": true, "eos_token_id": 7});
    std::fs::write(path("generation_config.json"), generation.to_string()).unwrap();
    std::fs::write(path("chat_template.jinja"), "{{ messages }}").unwrap();
    std::fs::create_dir(path("additional_chat_templates")).unwrap();
    std::fs::write(path("additional_chat_templates/rag.jinja"), "{{ documents }}").unwrap();
    std::fs::write(path("tokenizer.model"), "not read where there is a tokenizer.json").unwrap();
    let written = folder.path().join("model");
    save_model(&written, &model, Kind::Float, source.path()).unwrap();
    assert!(written.join("tokenizer.model").exists());
    let Some(found) = python(BESIDE, &[written]) else { return };
    let eos = &model.config().eos;
    let (generation, templates) = (&found[0]["generation"], &found[0]["templates"]);
    assert_eq!(*templates, json!({"default": "{{ messages }}", "rag": "{{ documents }}"}));
    assert_eq!(
        *generation,
        json!({"temperature": 0.6, "top_p": 0.9, "do_sample": true, "eos_token_id": eos[0]})
    );
}
