//! From plain data to typed parts, collecting every problem.

use std::collections::BTreeMap;
use std::sync::Arc;

use bstar_stages::StageConfig;
use bstar_stages::units::parse_duration;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::document::{Draft, is_within};
use super::position::{At, join};
use super::settings::{self, Settings};
use super::{Policy, STAGE_KEYS, TOP_KEYS, suggest};

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
    pub(crate) retain: BTreeMap<String, usize>,
    /// Whether a section is misspelt, so that what it holds is not known.
    pub(crate) incomplete: bool,
}

/// A stage, as far as it could be read.
#[derive(Debug)]
pub(crate) struct RawStage {
    pub(crate) name: String,
    /// References may be [`settings::PLACEHOLDER`].
    pub(crate) config: Option<StageConfig>,
    /// Whether nothing of it was replaced.
    pub(crate) complete: bool,
    pub(crate) policy: Policy,
}

/// Reads all parts.
pub(crate) fn read(draft: &mut Draft) -> Parts {
    let value = Arc::clone(&draft.document.value);
    let incomplete = misspelt_sections(draft, &value);
    let take = |key: &str| value.get(key);
    let name = take("name");
    let iteration = take("iteration");
    let iterations = take("iterations");
    let loops = iteration.and_then(Value::as_object).is_some_and(|stages| !stages.is_empty());
    if loops && iterations.is_none() && !incomplete {
        let hint = "say how often `iteration` is done, for example `iterations: 3`".to_owned();
        draft.add("iterations", At::Key, "missing field `iterations`", Some(hint));
    }
    let parts = Parts {
        name: read_name(draft, name, incomplete),
        seed: take("seed").map_or(0, |value| whole(draft, "seed", value)),
        inputs: texts(draft, "inputs", take("inputs"), "a path"),
        setup: stages(draft, "setup", take("setup")),
        start: texts(draft, "start", take("start"), "a reference"),
        iterations: iterations.map_or(0, |value| read_iterations(draft, value)),
        iteration: stages(draft, "iteration", iteration),
        carry: texts(draft, "carry", take("carry"), "a reference"),
        retain: counts(draft, "retain", take("retain")),
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

fn read_name(draft: &mut Draft, value: Option<&Value>, incomplete: bool) -> String {
    match value {
        Some(Value::String(name)) => {
            identifier(draft, "name", name, At::Value);
            name.clone()
        }
        Some(other) => {
            let message = format!("`name`: expected text, found {}", suggest::found(other));
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
pub(crate) fn identifier(draft: &mut Draft, field: &str, name: &str, at: At) {
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

/// More iterations than anyone means: all of them are laid out before the first one runs.
const MOST_ITERATIONS: usize = 10_000;

fn read_iterations(draft: &mut Draft, value: &Value) -> usize {
    let iterations: usize = whole(draft, "iterations", value);
    if iterations > MOST_ITERATIONS {
        let message = format!("`iterations` must be at most {MOST_ITERATIONS}, not {iterations}");
        let hint = "more can be made by another pipeline whose `inputs` begin with the results of this one"
            .to_owned();
        draft.add("iterations", At::Value, message, Some(hint));
    }
    iterations.min(MOST_ITERATIONS)
}

/// A mapping, or nothing; complains about anything else.
pub(crate) fn mapping<'a>(
    draft: &mut Draft,
    field: &str,
    value: Option<&'a Value>,
    of: &str,
) -> Option<&'a Map<String, Value>> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::Object(map)) => Some(map),
        Some(other) => {
            let name = field.rsplit('.').next().unwrap_or(field);
            let message = format!("`{name}`: expected a mapping of {of}, found {}", suggest::found(other));
            draft.add(field, At::Value, message, None);
            None
        }
    }
}

fn texts(draft: &mut Draft, section: &str, value: Option<&Value>, what: &str) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for (name, value) in
        mapping(draft, section, value, &format!("names to {what} each")).into_iter().flatten()
    {
        let field = join(section, name);
        identifier(draft, &field, name, At::Key);
        match value {
            Value::String(text) => drop(texts.insert(name.clone(), text.clone())),
            other => {
                let message = format!("`{name}`: expected {what}, found {}", suggest::found(other));
                draft.add(&field, At::Value, message, None);
            }
        }
    }
    texts
}

/// Names with a number of iterations each, 1 or more.
fn counts(draft: &mut Draft, section: &str, value: Option<&Value>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let given = mapping(draft, section, value, "outputs to a number of iterations each");
    for (name, value) in given.into_iter().flatten() {
        match value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0) {
            Some(count) => drop(counts.insert(name.clone(), count)),
            None => {
                let found = suggest::found(value);
                let message = format!("`{name}`: expected a number of iterations, 1 or more, found {found}");
                draft.add(&join(section, name), At::Value, message, None);
            }
        }
    }
    counts
}

fn stages(draft: &mut Draft, section: &str, value: Option<&Value>) -> Vec<RawStage> {
    let entries = mapping(draft, section, value, "stages");
    entries.into_iter().flatten().map(|(name, entry)| stage(draft, section, name, entry)).collect()
}

fn stage(draft: &mut Draft, section: &str, name: &str, entry: &Value) -> RawStage {
    let path = join(section, name);
    identifier(draft, &path, name, At::Key);
    let Value::Object(entry) = entry else {
        let message = format!("`{name}`: expected `uses` and `with`, found {}", suggest::found(entry));
        draft.add(&path, At::Value, message, None);
        let policy = Policy::default();
        return RawStage { name: name.to_owned(), config: None, complete: false, policy };
    };
    let policy = policy(draft, &path, entry);
    let (mut uses, mut with) = (entry.get("uses"), entry.get("with"));
    for (key, value) in entry.iter().filter(|(key, _)| !STAGE_KEYS.contains(&key.as_str())) {
        let meant = suggest::nearest(key, STAGE_KEYS.iter().copied());
        let hint = meant.map_or_else(
            || {
                format!(
                    "a stage has {}; its settings go under `with`",
                    suggest::list(STAGE_KEYS.iter().copied())
                )
            },
            |meant| format!("did you mean `{meant}`?"),
        );
        draft.add(&join(&path, key), At::Key, format!("unknown field `{key}` in `{path}`"), Some(hint));
        // Go on with what was meant, so that the stage is not said to lack it too.
        match meant {
            Some("uses") => uses = uses.or(Some(value)),
            Some("with") => with = with.or(Some(value)),
            _ => {}
        }
    }
    let settings =
        uses_of(draft, section, name, uses).and_then(|uses| read_settings(draft, &path, uses, with));
    let complete = settings.as_ref().is_some_and(|settings| settings.complete);
    let config = settings.and_then(|settings| settings.config);
    RawStage { name: name.to_owned(), config, complete, policy }
}

/// How a stage is executed.
fn policy(draft: &mut Draft, path: &str, entry: &Map<String, Value>) -> Policy {
    let mut policy = Policy::default();
    if let Some(value) = entry.get("retries") {
        policy.retries = whole(draft, &join(path, "retries"), value);
    }
    if let Some(value) = entry.get("timeout") {
        let time = value.as_str().and_then(|text| parse_duration(text).ok());
        policy.timeout = time.filter(|time| !time.is_zero());
        if policy.timeout.is_none() {
            let message = format!("`timeout`: expected a time, found {}", suggest::found(value));
            let hint = "write for example 90s, 10m or 1h30m".to_owned();
            draft.add(&join(path, "timeout"), At::Value, message, Some(hint));
        }
    }
    if let Some(value) = entry.get("priority") {
        policy.priority = value.as_i64().unwrap_or_default();
        if value.as_i64().is_none() {
            let message = format!("`priority`: expected a whole number, found {}", suggest::found(value));
            let hint = "higher goes first; usual is 0".to_owned();
            draft.add(&join(path, "priority"), At::Value, message, Some(hint));
        }
    }
    policy
}

/// The value of `uses`, when it is the name of a stage.
fn uses_of<'a>(draft: &mut Draft, section: &str, name: &str, uses: Option<&'a Value>) -> Option<&'a str> {
    let path = join(section, name);
    let field = join(&path, "uses");
    match uses {
        Some(Value::String(uses)) if StageConfig::usable().any(|name| name == uses) => Some(uses),
        Some(Value::String(uses)) => {
            let hint = suggest::hint(uses, &StageConfig::usable().collect::<Vec<_>>(), "stages");
            draft.add(&field, At::Value, format!("unknown stage `{uses}`"), hint);
            None
        }
        Some(other) => {
            let message = format!("`uses`: expected the name of a stage, found {}", suggest::found(other));
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
    let written = draft.document.position(&path).is_some();
    let changes = &draft.document.overrides;
    let given = changes.iter().any(|change| is_within(&path, &change.path));
    let within = changes.iter().any(|change| is_within(&change.path, &path) && change.path != path);
    let invented = within && (given || !written);
    if !invented {
        let hint = format!("stages: {}", suggest::list(StageConfig::usable()));
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

fn read_settings(draft: &mut Draft, path: &str, uses: &str, with: Option<&Value>) -> Option<Settings> {
    let root = join(path, "with");
    let none = Value::Object(Map::new());
    let with = match with {
        None | Some(Value::Null) => &none,
        Some(with @ Value::Object(_)) => with,
        Some(other) => {
            let message = format!("`with`: expected a mapping of settings, found {}", suggest::found(other));
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
    Some(settings)
}
