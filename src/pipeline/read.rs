//! From plain data to typed parts, collecting every problem.

use std::collections::BTreeMap;

use bstar_stages::StageConfig;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::diagnostic::Origin;
use super::document::{Draft, is_within};
use super::position::{At, join};
use super::{RETRIES, STAGE_KEYS, TOP_KEYS, settings, suggest};

/// The parts of a file, as far as they could be read.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) inputs: BTreeMap<String, String>,
    pub(crate) setup: Vec<RawStage>,
    pub(crate) start: BTreeMap<String, String>,
    pub(crate) iterations: usize,
    pub(crate) iteration: Vec<RawStage>,
    pub(crate) carry: BTreeMap<String, String>,
    /// Whether a section is misspelt, so that what it holds is not known.
    pub(crate) incomplete: bool,
}

/// A stage, as far as it could be read.
#[derive(Debug)]
pub(crate) struct RawStage {
    pub(crate) name: String,
    /// References may be [`settings::PLACEHOLDER`].
    pub(crate) config: Option<StageConfig>,
    pub(crate) retries: u32,
}

/// Reads all parts.
pub(crate) fn read(draft: &mut Draft) -> Parts {
    let mut value = draft.document.value.clone();
    let incomplete = misspelt_sections(draft, &value);
    let mut take = |key: &str| value.shift_remove(key);
    let name = take("name");
    let iteration = take("iteration");
    let iterations = take("iterations");
    let loops = iteration.as_ref().and_then(Value::as_object).is_some_and(|stages| !stages.is_empty());
    if loops && iterations.is_none() && !incomplete {
        let hint = "say how often `iteration` is done, for example `iterations: 3`".to_owned();
        draft.add("iterations", At::Key, "missing field `iterations`", Some(hint));
    }
    let parts = Parts {
        name: read_name(draft, name, incomplete),
        seed: take("seed").map_or(0, |value| whole(draft, "seed", &value)),
        inputs: texts(draft, "inputs", take("inputs"), "a path"),
        setup: stages(draft, "setup", take("setup")),
        start: texts(draft, "start", take("start"), "a reference"),
        iterations: iterations.map_or(0, |value| whole(draft, "iterations", &value)),
        iteration: stages(draft, "iteration", iteration),
        carry: texts(draft, "carry", take("carry"), "a reference"),
        incomplete,
    };
    if parts.iterations > 0 && !loops && !incomplete && !draft.is_known("iteration") {
        let hint = "add `iteration:` with its stages, or remove `iterations`".to_owned();
        draft.add("iteration", At::Key, "missing field `iteration`: there is nothing to repeat", Some(hint));
    }
    if parts.setup.is_empty() && !loops && draft.problems.is_empty() {
        let hint = "add stages under `setup:` or `iteration:`".to_owned();
        draft.add("", At::Key, "the pipeline has no stages", Some(hint));
    }
    parts
}

/// Reports unknown sections; whether one of them is a section misspelt.
fn misspelt_sections(draft: &mut Draft, value: &Map<String, Value>) -> bool {
    let mut misspelt = false;
    for key in value.keys().filter(|key| !TOP_KEYS.contains(&key.as_str())) {
        misspelt |= suggest::nearest(key, TOP_KEYS.iter().copied()).is_some();
        let hint = suggest::hint(key, TOP_KEYS, "sections");
        draft.add(key, At::Key, format!("unknown field `{key}`"), hint);
    }
    misspelt
}

fn read_name(draft: &mut Draft, value: Option<Value>, incomplete: bool) -> String {
    match value {
        Some(Value::String(name)) => {
            identifier(draft, "name", &name, At::Value);
            name
        }
        Some(other) => {
            let message = format!("`name`: expected text, found {}", suggest::found(&other));
            draft.add("name", At::Value, message, None);
            String::new()
        }
        None if incomplete => String::new(),
        None => {
            let hint = "begin the file with `name: …`".to_owned();
            draft.add("name", At::Key, "missing field `name`", Some(hint));
            String::new()
        }
    }
}

/// Complains about names that could not be told from paths and references.
fn identifier(draft: &mut Draft, field: &str, name: &str, at: At) {
    let mut characters = name.chars();
    let good = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !good {
        let hint = "use letters, digits, `_` and `-`, beginning with a letter".to_owned();
        draft.add(field, at, format!("`{name}` is no name"), Some(hint));
    }
}

fn whole<T: DeserializeOwned + Default>(draft: &mut Draft, field: &str, value: &Value) -> T {
    match T::deserialize(value) {
        Ok(value) => value,
        Err(_) if draft.is_known(field) => T::default(),
        Err(_) => {
            let name = field.rsplit('.').next().unwrap_or(field);
            let found = suggest::found(value);
            draft.add(
                field,
                At::Value,
                format!("`{name}`: expected a whole number, 0 or more, found {found}"),
                None,
            );
            T::default()
        }
    }
}

/// A mapping, or nothing; complains about anything else.
fn mapping(draft: &mut Draft, field: &str, value: Option<Value>, of: &str) -> Map<String, Value> {
    match value {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(map)) => map,
        Some(other) => {
            let name = field.rsplit('.').next().unwrap_or(field);
            let message = format!("`{name}`: expected a mapping of {of}, found {}", suggest::found(&other));
            draft.add(field, At::Value, message, None);
            Map::new()
        }
    }
}

fn texts(draft: &mut Draft, section: &str, value: Option<Value>, what: &str) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for (name, value) in mapping(draft, section, value, &format!("names to {what} each")) {
        let field = join(section, &name);
        identifier(draft, &field, &name, At::Key);
        match value {
            Value::String(text) => drop(texts.insert(name, text)),
            other => {
                let message = format!("`{name}`: expected {what}, found {}", suggest::found(&other));
                draft.add(&field, At::Value, message, None);
            }
        }
    }
    texts
}

fn stages(draft: &mut Draft, section: &str, value: Option<Value>) -> Vec<RawStage> {
    let entries = mapping(draft, section, value, "stages");
    entries.into_iter().map(|(name, entry)| stage(draft, section, name, entry)).collect()
}

fn stage(draft: &mut Draft, section: &str, name: String, entry: Value) -> RawStage {
    let path = join(section, &name);
    identifier(draft, &path, &name, At::Key);
    let Value::Object(mut entry) = entry else {
        let message = format!("`{name}`: expected `uses` and `with`, found {}", suggest::found(&entry));
        draft.add(&path, At::Value, message, None);
        return RawStage { name, config: None, retries: RETRIES };
    };
    let uses = entry.shift_remove("uses");
    let with = entry.shift_remove("with");
    let retries = entry.shift_remove("retries");
    let retries = retries.map_or(RETRIES, |value| whole(draft, &join(&path, "retries"), &value));
    let (mut uses, mut with) = (uses, with);
    for (key, value) in entry {
        let meant = suggest::nearest(&key, STAGE_KEYS.iter().copied());
        let hint = meant.map_or_else(
            || {
                format!(
                    "a stage has {}; its settings go under `with`",
                    suggest::list(STAGE_KEYS.iter().copied())
                )
            },
            |meant| format!("did you mean `{meant}`?"),
        );
        draft.add(&join(&path, &key), At::Key, format!("unknown field `{key}` in `{path}`"), Some(hint));
        // Go on with what was meant, so that the stage is not said to lack it too.
        match meant {
            Some("uses") => uses = uses.or(Some(value)),
            Some("with") => with = with.or(Some(value)),
            _ => {}
        }
    }
    let config =
        uses_of(draft, section, &name, uses).and_then(|uses| read_settings(draft, &path, &uses, with));
    RawStage { name, config, retries }
}

/// The names that `uses` accepts in a file: shards are the engine's.
fn usable() -> Vec<&'static str> {
    StageConfig::NAMES.iter().copied().filter(|name| !name.ends_with("_shard")).collect()
}

/// The value of `uses`, when it is the name of a stage.
fn uses_of(draft: &mut Draft, section: &str, name: &str, uses: Option<Value>) -> Option<String> {
    let path = join(section, name);
    let field = join(&path, "uses");
    match uses {
        Some(Value::String(uses)) if usable().contains(&uses.as_str()) => Some(uses),
        Some(Value::String(uses)) => {
            let hint = suggest::hint(&uses, &usable(), "stages");
            draft.add(&field, At::Value, format!("unknown stage `{uses}`"), hint);
            None
        }
        Some(other) => {
            let message = format!("`uses`: expected the name of a stage, found {}", suggest::found(&other));
            draft.add(&field, At::Value, message, None);
            None
        }
        None => {
            missing_uses(draft, section, name);
            None
        }
    }
}

/// A stage without `uses`: left out in the file, or made up by a misspelt override.
fn missing_uses(draft: &mut Draft, section: &str, name: &str) {
    let path = join(section, name);
    let invented = matches!(draft.document.origin(&path, At::Key), Origin::CommandLine(_))
        && draft
            .document
            .overrides
            .iter()
            .any(|change| is_within(&change.path, &path) && change.path != path);
    if !invented {
        let hint = format!("stages: {}", suggest::list(usable()));
        draft.add(&join(&path, "uses"), At::Key, format!("missing field `uses` in `{path}`"), Some(hint));
        return;
    }
    let others = draft.document.get(section).and_then(Value::as_object).cloned().unwrap_or_default();
    let others: Vec<&str> = others.keys().map(String::as_str).filter(|other| *other != name).collect();
    let hint = suggest::nearest(name, others.iter().copied())
        .map(|meant| format!("did you mean `{section}.{meant}`?"))
        .or_else(|| Some(format!("stages of `{section}`: {}", suggest::list(others))));
    draft.add(&path, At::Key, format!("there is no stage `{name}` in `{section}`"), hint);
}

fn read_settings(draft: &mut Draft, path: &str, uses: &str, with: Option<Value>) -> Option<StageConfig> {
    let root = join(path, "with");
    let with = match with {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::Object(map)) => Value::Object(map),
        Some(other) => {
            let message = format!("`with`: expected a mapping of settings, found {}", suggest::found(&other));
            draft.add(&root, At::Value, message, None);
            return None;
        }
    };
    let settings = settings::read(draft, path, uses, with);
    if let (Some(config), true) = (&settings.config, settings.complete) {
        for problem in config.stage().check() {
            // `temperature[1]` → `temperature.1`
            let field = join(&root, &problem.field.replace('[', ".").replace(']', ""));
            draft.add(&field, At::Value, problem.message, problem.hint);
        }
    }
    settings.config
}
