use serde_json::Map;

use super::*;

#[path = "../../tests/support/shared.rs"]
mod shared;
#[path = "../../../cache/tests-support/skipped.rs"]
pub(crate) mod skipped;

/// The shape used in practice by the default pipeline, or a smaller one.
pub(crate) fn shape(hidden: usize, layers: usize, heads: usize, kv_heads: usize) -> Architecture {
    Architecture {
        hidden_size: hidden,
        intermediate_size: hidden * 8 / 3,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: Some(kv_heads),
        max_position_embeddings: 256,
        tie_word_embeddings: true,
    }
}

fn parse(config: &Value) -> Result<ModelConfig> {
    ModelConfig::from_json(config.as_object().unwrap(), &Map::new())
}

/// The least a configuration of each family says.
fn least(family: Family) -> Value {
    json!({
        "model_type": family.name(),
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "eos_token_id": 2,
    })
}

fn with(mut json: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        json[name] = value.clone();
    }
    json
}

#[test]
fn written_configurations_read_back() {
    for family in Family::ALL {
        for scalar in [false, true] {
            let mut config = parse(&least(family)).unwrap();
            config.scalar = scalar;
            config.eos = vec![1, 5];
            config.tied = !scalar;
            config.rope.theta = 5e5;
            if family != Family::Llama {
                config.windows = vec![Some(16); 4];
            }
            if family == Family::Llama || family == Family::Qwen3 {
                (config.qkv_bias, config.out_bias) = (scalar, scalar);
            }
            if scalar && family != Family::Llama {
                config.windows = vec![Some(16), None, None, Some(16)];
            }
            assert_eq!(parse(&config.to_json(Kind::BFloat16)).unwrap(), config);
        }
    }
}

#[test]
fn absent_fields_mean_what_they_mean_in_transformers() {
    let llama = parse(&least(Family::Llama)).unwrap();
    assert_eq!((llama.head_dim, llama.max_positions, llama.tied), (16, 2048, false));
    assert!(!llama.qkv_bias && !llama.mlp_bias && llama.windows == [None; 4]);
    let mistral = parse(&least(Family::Mistral)).unwrap();
    assert_eq!((mistral.windows, mistral.max_positions), (vec![Some(4096); 4], 131_072));
    let qwen2 = parse(&least(Family::Qwen2)).unwrap();
    assert!(qwen2.qkv_bias && !qwen2.out_bias && qwen2.windows == [None; 4]);
    let qwen3 = parse(&least(Family::Qwen3)).unwrap();
    assert!(qwen3.head_dim == 128 && !qwen3.qkv_bias && qwen3.normalises_heads());
    let mut json = least(Family::Llama);
    drop(json.as_object_mut().unwrap().remove("num_key_value_heads"));
    assert_eq!(parse(&json).unwrap().kv_heads, 4);
}

#[test]
fn windows_are_read_in_both_spellings() {
    let window = |fields: Value| parse(&with(least(Family::Qwen2), fields)).unwrap().windows;
    let old = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 3});
    assert_eq!(window(old), [None, None, None, Some(8)]);
    let (full, sliding) = ("full_attention", "sliding_attention");
    let new = json!({"use_sliding_window": true, "sliding_window": 8,
                     "layer_types": [sliding, full, sliding, full]});
    assert_eq!(window(new), [Some(8), None, Some(8), None]);
    assert_eq!(window(json!({"use_sliding_window": false, "sliding_window": 8})), [None; 4]);
    assert_eq!(
        parse(&with(least(Family::Mistral), json!({"sliding_window": null}))).unwrap().windows,
        [None; 4]
    );
}

#[test]
fn layer_types_are_looked_at_where_transformers_does() {
    let window = |family: Family, fields: Value| parse(&with(least(family), fields)).unwrap().windows;
    let mistral = |types: Value| window(Family::Mistral, json!({"sliding_window": 8, "layer_types": types}));
    assert_eq!(mistral(json!(vec!["full_attention"; 4])), [None; 4]);
    assert_eq!(mistral(json!(null)), [Some(8); 4]);
    assert_eq!(window(Family::Llama, json!({"layer_types": vec!["sliding_attention"; 4]})), [None; 4]);
    let mixed = json!(["attention", "sliding_attention", "attention", "full_attention"]);
    let old = json!({"use_sliding_window": true, "sliding_window": 8, "layer_types": mixed});
    assert_eq!(window(Family::Qwen2, old), [None, Some(8), None, None]);
    assert_eq!(mistral(mixed), [None, Some(8), None, None]);
}

#[test]
fn reward_models_have_one_label_however_that_is_said() {
    let one = |fields: Value| {
        let head = json!({"architectures": ["LlamaForSequenceClassification"]});
        parse(&with(with(least(Family::Llama), head), fields)).map(|config| config.scalar)
    };
    assert!(one(json!({"num_labels": 1})).unwrap());
    assert!(one(json!({"id2label": {"0": "good"}})).unwrap());
    assert!(one(json!({"id2label": null, "num_labels": 1})).unwrap());
    assert!(one(json!({"id2label": {"0": "good"}, "num_labels": 2})).unwrap(), "labels go first");
    for (fields, expected) in [
        (json!({}), "neither `id2label` nor `num_labels`"),
        (json!({"num_labels": 3}), "`num_labels` is 3"),
        (json!({"id2label": {"0": "a", "1": "b"}, "num_labels": 1}), "`id2label` has 2 labels"),
        (json!({"id2label": "good"}), "`id2label` is \"good\", not an object"),
    ] {
        let error = one(fields).unwrap_err();
        assert!(error.message.contains(expected), "{error}");
    }
}

#[test]
fn sizes_have_bounds_within_which_nothing_overflows() {
    for family in Family::ALL {
        for (name, most) in GREATEST {
            for size in [most + 1, 1_000_000_000_000_000_000, i64::MAX] {
                let mut json = with(least(family), json!({"head_dim": 16}));
                json[name] = json!(size);
                let error = parse(&json).unwrap_err();
                assert!(
                    error.message.contains(&format!("`{name}` is {size}; it must be at most {most}")),
                    "{error}"
                );
            }
        }
        let all = GREATEST.iter().map(|(name, most)| ((*name).to_owned(), json!(most)));
        let config = parse(&with(least(family), Value::Object(all.collect()))).unwrap();
        assert!(config.parameters() > 0 && config.parameters().checked_mul(16).is_some());
        assert_eq!(config.windows.len(), 1 << 12);
    }
    let absurd = Architecture { num_hidden_layers: usize::MAX, ..shape(64, 1, 2, 2) };
    let error = ModelConfig::new(&absurd, 50, 1, None).unwrap_err();
    assert!(error.message.contains("`model`: `num_hidden_layers` is 9223372036854775807"), "{error}");
    let error = ModelConfig::new(&shape(64, 1, 2, 2), 1 << 32, 1, None).unwrap_err();
    assert!(error.message.contains("`model`: `vocab_size` is 4294967296"), "{error}");
}

#[test]
fn end_tokens_come_from_the_generation_configuration_where_there_is_one() {
    let eos = |config: Value, generation: Value| {
        let config = with(least(Family::Llama), json!({"eos_token_id": config}));
        let generation = json!({"eos_token_id": generation});
        ModelConfig::from_json(config.as_object().unwrap(), generation.as_object().unwrap()).unwrap().eos
    };
    assert_eq!(eos(json!([3, 4]), json!(null)), [3, 4]);
    assert_eq!(eos(json!(4), json!([3, 4, 5])), [4, 3, 5]);
    assert_eq!(eos(json!(9), json!([3, 4])), [3, 4]);
    assert_eq!(eos(json!(null), json!(7)), [7]);
}

#[test]
fn what_is_not_supported_is_refused_by_name_and_value() {
    let llama = || least(Family::Llama);
    for (json, expected) in [
        (with(llama(), json!({"model_type": "gpt2"})), "`model_type` is `gpt2`"),
        (with(llama(), json!({"num_local_experts": 8})), "`num_local_experts` is 8"),
        (
            with(llama(), json!({"quantization_config": {"quant_method": "gptq"}})),
            "`quantization_config` is \"gptq\"",
        ),
        (with(llama(), json!({"hidden_act": "gelu"})), "`hidden_act` is `gelu`"),
        (with(llama(), json!({"partial_rotary_factor": 0.5})), "`partial_rotary_factor` is 0.5"),
        (
            with(llama(), json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}})),
            "`rope_scaling.rope_type` is `dynamic`",
        ),
        (with(llama(), json!({"attention_dropout": 0.1})), "`attention_dropout` is 0.1"),
        (
            with(llama(), json!({"architectures": ["LlamaForTokenClassification"]})),
            "`architectures` is `LlamaForTokenClassification`",
        ),
        (
            with(llama(), json!({"architectures": ["LlamaForSequenceClassification"]})),
            "neither `id2label` nor `num_labels`",
        ),
        (
            with(llama(), json!({"architectures": "LlamaForCausalLM"})),
            "`architectures` is \"LlamaForCausalLM\", not a list",
        ),
        (with(llama(), json!({"architectures": [1]})), "`architectures` has 1, not a name"),
        (with(llama(), json!({"sliding_window": 16})), "`sliding_window` is 16"),
        (with(llama(), json!({"dtype": "float8_e4m3fn"})), "`dtype` is `float8_e4m3fn`"),
        (with(llama(), json!({"num_key_value_heads": 3})), "`num_key_value_heads`, 3"),
        (with(llama(), json!({"num_attention_heads": 6})), "not a multiple of `num_attention_heads`, 6"),
        (with(llama(), json!({"head_dim": 15})), "15 wide"),
        (with(llama(), json!({"head_dim": 10})), "`head_dim` is 10, not a multiple of 4"),
        (
            with(llama(), json!({"hidden_size": 8, "head_dim": 8, "intermediate_size": 90})),
            "`intermediate_size` is 90, not a multiple of 4",
        ),
        (with(llama(), json!({"hidden_size": "wide"})), "`hidden_size` is \"wide\", not a whole number"),
        (with(llama(), json!({"vocab_size": null})), "`vocab_size` is missing"),
        (with(llama(), json!({"eos_token_id": 100})), "`eos_token_id`"),
        (with(llama(), json!({"eos_token_id": ["a"]})), "`eos_token_id` is [\"a\"]"),
        (with(least(Family::Mistral), json!({"sliding_window": 0})), "`sliding_window` is 0"),
        (
            with(least(Family::Qwen3), json!({"layer_types": ["full_attention"]})),
            "`layer_types` has 1 entries",
        ),
        (
            with(least(Family::Qwen2), json!({"layer_types": ["chunked_attention", "x", "x", "x"]})),
            "`layer_types` has \"chunked_attention\"",
        ),
        (
            with(least(Family::Qwen2), json!({"layer_types": vec!["sliding_attention"; 4]})),
            "without a window",
        ),
    ] {
        let error = parse(&json).unwrap_err();
        assert!(error.message.contains(expected), "{error}");
    }
}

/// Configurations of published checkpoints, where a folder of them is beside the tree.
#[test]
fn published_configurations_are_read_or_refused_with_the_right_reason() {
    let Some(folder) = shared::shared("configs") else { return };
    let mut read = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "SOURCES" {
            continue;
        }
        let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let parsed = parse(&json);
        if name.contains("Mixtral") {
            assert!(parsed.unwrap_err().message.contains("`num_local_experts` is 8"));
            continue;
        }
        let config = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parse(&config.to_json(Kind::BFloat16)).unwrap(), config, "{name}");
        read.push((name, config));
    }
    let find = |name: &str| &read.iter().find(|(found, _)| found == name).unwrap().1;
    assert_eq!(read.len(), 17);
    // Millions of parameters, as published.
    for (name, millions) in [
        ("Llama-3.2-1B", 1236),
        ("neuronx-Llama-3.1-8B", 8030),
        ("neuronx-Llama-3.1-70B", 70554),
        ("neuronx-Llama-2-7B", 6738),
        ("Mistral-7B-v0.1", 7242),
        ("Qwen2.5-0.5B", 494),
        ("Qwen2.5-1.5B-Instruct", 1544),
        ("Qwen2.5-7B-Instruct", 7616),
        ("Qwen3-0.6B", 596),
        ("Qwen3-8B", 8191),
        ("TinyLlama-1.1B-Chat-v1.0", 1100),
        ("SmolLM2-135M-transformers5", 135),
        ("deepseek-math-7b-base", 6910),
    ] {
        let found = find(name).parameters();
        assert!((found / 1_000_000 - millions).abs() <= 1, "{name}: {found}");
    }
    assert_eq!(find("Llama-3.2-1B-Instruct").eos, [128_001, 128_008, 128_009]);
    assert_eq!(find("Mistral-7B-v0.1").windows, [Some(4096); 32]);
    assert_eq!(find("Qwen2.5-1.5B-Instruct"), find("Qwen2.5-1.5B-Instruct-transformers5"));
    assert_eq!(find("Qwen3-0.6B").head_dim, 128);
}
