//! The JSON Schema of pipeline files, for editors: it comes from the types that read them.
//!
//! What it accepts may still be wrong, as `bstar pipeline check` tells: a schema knows neither names nor
//! files.

use bstar_stages::StageConfig;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Policy;
use super::preset::PRESETS;

/// What names of stages, inputs and carried values look like.
const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]*$";

/// The schema, in the draft of 2020-12.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let stage = stage(&mut generator);
    let mut definitions = generator.take_definitions(true);
    definitions.insert("stage".to_owned(), stage);
    let of_stages = json!({"additionalProperties": {"$ref": "#/$defs/stage"}});
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of bstar",
        "type": "object",
        "properties": properties(),
        "additionalProperties": false,
        // A file with a base says only how it differs from that.
        "if": {"required": ["base"]},
        "else": {"required": ["name"], "properties": {"setup": of_stages, "iteration": of_stages}},
        "$defs": definitions,
    });
    plain(&mut schema);
    schema
}

fn properties() -> Value {
    // A null takes away what the base has.
    let named = |what: &str, of: Value| {
        let (names, of) = (json!({"pattern": NAME}), json!({"anyOf": [of, {"type": "null"}]}));
        json!({"description": what, "type": ["object", "null"], "propertyNames": names, "additionalProperties": of})
    };
    let presets: Vec<Value> = PRESETS.iter().map(|preset| json!(preset)).chain([Value::Null]).collect();
    let text = || json!({"type": "string"});
    json!({
        "base": {"description": "Another pipeline file: this one says only how it differs from it.", "type": "string"},
        "name": {"description": "The name of the pipeline.", "type": "string", "pattern": NAME},
        "preset": {"description": "Whose settings count where the file has none: the paper's or its published code's.", "enum": presets},
        "seed": {"description": "What all random numbers derive from.", "type": ["integer", "null"], "minimum": 0, "default": 0},
        "inputs": named("Name → path of a file or folder beside the pipeline file, or `hf:organisation/name`.", text()),
        "setup": named("Stages that run once.", json!({"type": "object"})),
        "start": named("Carried name → its value in the first iteration.", text()),
        "iterations": {"description": "How often `iteration` is done.", "type": ["integer", "null"], "minimum": 0},
        "iteration": named("Stages of an iteration.", json!({"type": "object"})),
        "carry": named("Carried name → its value for the next iteration.", text()),
        "retain": named("Output → of how many iterations, counted from the last, its content is kept.", json!({"type": "integer", "minimum": 1})),
        "variants": named("What a sweep compares: name → changes (`key.path: value`).", json!({"type": "object"})),
        "grid": {
            "description": "What a sweep multiplies: `key.path` → its values.",
            "type": ["object", "null"],
            "additionalProperties": {"type": "array", "minItems": 1},
        },
    })
}

/// A stage: its settings are those of what it uses.
fn stage(generator: &mut SchemaGenerator) -> Value {
    let settings = StageConfig::usable().filter_map(|uses| {
        let schema = StageConfig::schema(uses, generator)?;
        let definition = schema.as_value().pointer("/$ref").and_then(Value::as_str)?.rsplit('/').next()?;
        let needed = generator.definitions().get(definition)?.get("required").is_some();
        let mut then = json!({"properties": {"with": schema}});
        if needed {
            then["required"] = json!(["with"]);
        }
        Some(json!({"if": {"properties": {"uses": {"const": uses}}}, "then": then}))
    });
    let settings: Vec<Value> = settings.collect();
    let policy = Policy::default();
    json!({
        "type": "object",
        "properties": {
            "uses": {"description": "What the stage does.", "enum": StageConfig::usable().collect::<Vec<_>>()},
            "with": {"description": "Its settings."},
            "retries": {"description": "How often a transient failure is tried again.", "type": "integer", "minimum": 0, "default": policy.retries},
            "timeout": {"description": "Most time one attempt may take, for example `10m`.", "type": "string"},
            "priority": {"description": "Steps of a higher priority, and what they need, go first.", "type": "integer", "default": policy.priority},
        },
        "required": ["uses"],
        "additionalProperties": false,
        "allOf": settings,
    })
}

/// Takes links of the code's documentation out of descriptions.
fn plain(value: &mut Value) {
    match value {
        Value::Object(fields) => of_object(fields),
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

fn of_object(fields: &mut Map<String, Value>) {
    for (name, value) in fields {
        match value {
            Value::String(text) if name == "description" => {
                *text = unlinked(text).replace('\n', " ");
            }
            value => plain(value),
        }
    }
}

/// A text without links to code: their names alone.
fn unlinked(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, link)) = rest.split_once("[`") {
        let (name, after) = link.split_once("`]").unwrap_or((link, ""));
        let target = after.strip_prefix('(').and_then(|target| target.split_once(')'));
        plain.push_str(&format!("{before}`{name}`"));
        rest = target.map_or(after, |(_, after)| after);
    }
    plain + rest
}
