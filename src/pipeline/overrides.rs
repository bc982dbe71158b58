//! `key.path=value`: on the command line, or in the file's `variants` and `grid`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::diagnostic::{Diagnostic, Origin};
use super::document::{Draft, is_within, parse_value};
use super::position::At;
use super::settings::named;
use super::{STAGE_KEYS, TOP_KEYS, suggest};

/// A value that replaces what the file says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Override {
    /// The field, in full: `iteration.explore.with.samples`.
    pub path: String,
    /// As it is given on the command line: `iteration.explore.samples=64`.
    pub text: String,
    /// The value; null removes the field.
    pub value: Value,
    /// Where in the file it is written (`variants.long.iterations`), unless on the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// A wish to replace a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// An argument: `key.path=value`.
    Argument(String),
    /// In the file, at `place`.
    Written { place: String, key: String, value: Value },
}

impl Change {
    /// As it is given on the command line.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Argument(text) => text.clone(),
            Self::Written { key, value, .. } => format!("{key}={}", argument(value)),
        }
    }

    /// The path of the field in full; `None` when it is no path.
    pub(crate) fn path(&self) -> Option<String> {
        let key = match self {
            Self::Argument(text) => text.split_once('=')?.0,
            Self::Written { key, .. } => key,
        };
        full_path(key.trim())
    }
}

/// A value as text that is read back as that value.
pub(crate) fn argument(value: &Value) -> String {
    match value {
        Value::String(text) if parse_value(text).as_ref() == Ok(value) => text.clone(),
        other => flow(other),
    }
}

/// A value in one line, as people write it: `{from: 0, to: 1}`.
fn flow(value: &Value) -> String {
    let plain = |text: &String| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c))
            && parse_value(text) == Ok(Value::String(text.clone()))
    };
    match value {
        Value::String(text) if plain(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let key = |name: &String| flow(&Value::String(name.clone()));
            let fields = map.iter().map(|(name, value)| format!("{}: {}", key(name), flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Adds the `with` that may be left out; `None` for a path with an empty part.
pub(crate) fn full_path(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    let is_stage = parts.len() > 2 && (parts[0] == "setup" || parts[0] == "iteration");
    if is_stage && !STAGE_KEYS.contains(&parts[2]) {
        parts.insert(2, "with");
    }
    Some(parts.join("."))
}

/// Applies changes in order; what cannot be applied becomes a problem.
pub(crate) fn apply(draft: &mut Draft, changes: &[Change]) {
    for change in changes {
        if let Err(Rejected { path, message, hint }) = apply_one(draft, change) {
            let origin = match change {
                Change::Argument(text) => Origin::CommandLine(text.clone()),
                Change::Written { place, .. } => draft.document.origin_in_file(place, At::Key),
            };
            let path_of_file = draft.document.path.clone();
            draft.problems.push(Diagnostic { path: path_of_file, origin, field: path, message, hint });
        }
    }
}

struct Rejected {
    path: String,
    message: String,
    hint: Option<String>,
}

fn apply_one(draft: &mut Draft, change: &Change) -> Result<(), Rejected> {
    let reject = |path: &str, message: String, hint| Err(Rejected { path: path.to_owned(), message, hint });
    let text = change.text();
    let Some((key, value)) = text.split_once('=') else {
        let hint = "for example iteration.explore.samples=64".to_owned();
        return reject("", format!("`{text}` is no override: expected `key.path=value`"), Some(hint));
    };
    let Some(path) = full_path(key.trim()) else {
        return reject("", format!("`{key}` is no path of keys"), None);
    };
    let parts: Vec<&str> = path.split('.').collect();
    if !TOP_KEYS.contains(&parts[0]) {
        let hint = stage_hint(draft, &parts, value).or_else(|| suggest::hint(parts[0], TOP_KEYS, "sections"));
        return reject(key, format!("unknown section `{}`", parts[0]), hint);
    }
    let (value, place) = match change {
        Change::Argument(_) => match parse_value(value) {
            Ok(value) => (value, None),
            Err(message) => return reject(&path, format!("`{}`: {message}", named(&path)), None),
        },
        Change::Written { place, value, .. } => (value.clone(), Some(place.clone())),
    };
    if value.is_null() {
        remove(draft, &parts, &path)?;
    } else {
        set(Arc::make_mut(&mut draft.document.value), &parts, value.clone()).map_err(|message| Rejected {
            path: path.clone(),
            message,
            hint: None,
        })?;
        draft.document.removed.retain(|removed| !is_within(removed, &path));
    }
    draft.document.overrides.push(Override { path, text, value, place });
    Ok(())
}

/// For `explore.samples=64`: the section is missing.
fn stage_hint(draft: &Draft, parts: &[&str], value: &str) -> Option<String> {
    let section = ["iteration", "setup"]
        .into_iter()
        .find(|section| draft.document.get(&format!("{section}.{}", parts[0])).is_some())?;
    Some(format!("did you mean `{section}.{}={value}`?", parts.join(".")))
}

fn set(map: &mut Map<String, Value>, parts: &[&str], value: Value) -> Result<(), String> {
    let (key, rest) = (parts[0], &parts[1..]);
    if rest.is_empty() {
        map.insert(key.to_owned(), value);
        return Ok(());
    }
    let child = map.entry(key).or_insert(Value::Null);
    if child.is_null() {
        *child = Value::Object(Map::new());
    }
    match child {
        Value::Object(map) => set(map, rest, value),
        Value::Array(items) => {
            let count = items.len();
            let index = rest[0].parse::<usize>().ok();
            let Some(item) = index.and_then(|index| items.get_mut(index)) else {
                return Err(format!("`{key}` is a list of {count}: it has no item `{}`", rest[0]));
            };
            match (item, &rest[1..]) {
                (item, []) => *item = value,
                (Value::Object(map), deeper) => set(map, deeper, value)?,
                _ => return Err(format!("`{key}.{}` is no mapping", rest[0])),
            }
            Ok(())
        }
        other => Err(format!("`{key}` is {}, not a mapping", suggest::found(other))),
    }
}

/// Removes a field. One that is not there is fine where leaving it out has a meaning, and an error
/// where it is a slip.
fn remove(draft: &mut Draft, parts: &[&str], path: &str) -> Result<(), Rejected> {
    if remove_existing(Arc::make_mut(&mut draft.document.value), parts) {
        return Ok(());
    }
    let section = parts[0];
    if (section == "setup" || section == "iteration") && parts.len() > 3 && parts[2] == "with" {
        let stage = format!("{section}.{}", parts[1]);
        if draft.document.get(&stage).is_some() {
            // The stage's own settings decide whether the field exists.
            draft.document.removed.insert(path.to_owned());
            return Ok(());
        }
    }
    let name = *parts.last().unwrap_or(&section);
    let siblings: Vec<&str> = match section {
        "start" | "carry" => {
            let names =
                ["start", "carry"].map(|section| draft.document.get(section).and_then(Value::as_object));
            names.into_iter().flatten().flat_map(Map::keys).map(String::as_str).collect()
        }
        _ if parts.len() == 1 => return Ok(()),
        _ => draft
            .document
            .get(section)
            .and_then(Value::as_object)
            .map_or_else(Vec::new, |map| map.keys().map(String::as_str).collect()),
    };
    let meant = suggest::nearest(parts.get(1).unwrap_or(&name), siblings.iter().copied());
    if (section == "start" || section == "carry") && (meant.is_none() || siblings.contains(&name)) {
        return Ok(());
    }
    let hint = meant.map(|name| format!("did you mean `{section}.{name}`?"));
    Err(Rejected { path: path.to_owned(), message: format!("nothing to remove: there is no `{path}`"), hint })
}

fn remove_existing(map: &mut Map<String, Value>, parts: &[&str]) -> bool {
    if let [key] = parts {
        return map.shift_remove(*key).is_some();
    }
    map.get_mut(parts[0]).and_then(Value::as_object_mut).is_some_and(|map| remove_existing(map, &parts[1..]))
}

/// `temperature=0.5,0.7` is no list, but may be meant as one.
pub(super) fn explain_lists(problem: &mut Diagnostic) {
    let Origin::CommandLine(text) = &problem.origin else { return };
    let Some((key, value)) = text.split_once('=') else { return };
    let items: Vec<&str> = value.split(',').map(str::trim).collect();
    if items.len() > 1 && items.iter().all(|item| item.parse::<f64>().is_ok()) {
        problem.hint = Some(format!(
            "a list is written `{key}=[{}]`; one variant for each is run by `bstar pipeline sweep`",
            items.join(", ")
        ));
    }
}
