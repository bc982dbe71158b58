//! Lists where a mapping belongs: serde would take their items for settings, in an order that nobody knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bstar_stages::StageConfig;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::position::join;

/// A list that should be a mapping.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misplaced {
    /// Its path below `with`.
    pub(super) path: String,
    /// A setting that the mapping has.
    pub(super) setting: String,
}

/// The schemas of stages that were asked for, with their `$defs`.
static SCHEMAS: Mutex<BTreeMap<String, Option<Arc<Value>>>> = Mutex::new(BTreeMap::new());

/// The lists in the settings of the stage `uses` that should be mappings.
pub(super) fn misplaced(uses: &str, with: &Value) -> Vec<Misplaced> {
    let mut found = Vec::new();
    if has_list(with)
        && let Some(schema) = schema(uses)
    {
        look(&schema, &schema["with"], with, "", &mut found);
    }
    found
}

fn schema(uses: &str) -> Option<Arc<Value>> {
    let mut schemas = SCHEMAS.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let with = StageConfig::schema(uses, &mut generator)?;
        Some(Arc::new(json!({"with": with, "$defs": generator.take_definitions(true)})))
    };
    schemas.entry(uses.to_owned()).or_insert_with(make).clone()
}

fn has_list(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(map) => map.values().any(has_list),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn look(root: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<Misplaced>) {
    let choices = choices(root, schema);
    match value {
        Value::Array(items) => {
            let settings: Option<Vec<&str>> = choices.iter().map(|choice| setting(choice)).collect();
            if let Some([setting, ..]) = settings.as_deref() {
                found.push(Misplaced { path: path.to_owned(), setting: (*setting).to_owned() });
                return;
            }
            for of_items in choices.iter().filter_map(|choice| choice.get("items")) {
                for (index, item) in items.iter().enumerate() {
                    look(root, of_items, item, &join(path, &index.to_string()), found);
                }
            }
        }
        Value::Object(map) => {
            for (name, value) in map {
                let of = |choice: &&Value| {
                    choice["properties"].get(name).or_else(|| choice.get("additionalProperties")).cloned()
                };
                // Where there are several kinds of mappings, serde decides.
                if let [schema] = &choices.iter().filter_map(of).collect::<Vec<_>>()[..] {
                    look(root, schema, value, &join(path, name), found);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What a value may be, nothing aside.
fn choices<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        return root
            .pointer(name.trim_start_matches('#'))
            .map_or_else(Vec::new, |named| choices(root, named));
    }
    let several = ["anyOf", "oneOf"].iter().find_map(|word| schema.get(word)?.as_array());
    match several {
        Some(several) => several.iter().flat_map(|one| choices(root, one)).collect(),
        None if schema["type"] == "null" => Vec::new(),
        None => vec![schema],
    }
}

/// A setting of a mapping with settings of its own: the first that it needs, or has.
fn setting(schema: &Value) -> Option<&str> {
    let kind = &schema["type"];
    let is_mapping = kind == "object" || *kind == json!(["object", "null"]);
    let properties = schema.get("properties").and_then(Value::as_object).filter(|_| is_mapping)?;
    let needed = schema.get("required").and_then(|names| names.get(0)?.as_str());
    needed.or_else(|| properties.keys().next().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(uses: &str, with: Value) -> Vec<String> {
        misplaced(uses, &with).into_iter().map(|found| found.path).collect()
    }

    #[test]
    fn lists_for_mappings_are_found_and_other_lists_are_fine() {
        let training = json!({"policy": "p", "dataset": "d", "training": [45, 32, 0.1]});
        let found = misplaced("sft", &training);
        assert_eq!(found, [Misplaced { path: "training".to_owned(), setting: "updates".to_owned() }]);
        let schedule = json!({"training": {"updates": 1, "freeze": ["norms"], "schedule": ["linear", 3]}});
        assert_eq!(paths("sft", schedule), ["training.schedule"]);
        let lora = json!({"training": {"lora": {"rank": 4, "targets": ["q_proj"]}}});
        assert!(paths("sft", lora).is_empty());
        assert!(paths("search", json!({"thresholds": [0.1, 0.2], "rewards": ["a", "b"]})).is_empty());
        assert!(paths("sample", json!({"temperature": [0.5, 1.0], "stop": ["\n"]})).is_empty());
        assert!(paths("nothing", json!([1])).is_empty());
    }
}
