//! `key.path=value` on the command line.

use serde::Serialize;
use serde_json::{Map, Value};

use super::diagnostic::{Diagnostic, Origin};
use super::document::{Draft, is_within, parse_value};
use super::{STAGE_KEYS, TOP_KEYS, suggest};

/// A value given on the command line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Override {
    /// The field, in full: `iteration.explore.with.samples`.
    pub path: String,
    /// The argument as it was given: `iteration.explore.samples=64`.
    pub text: String,
    /// The value; null removes the field.
    pub value: Value,
}

/// Applies overrides in order; what cannot be applied becomes a problem.
pub(crate) fn apply(draft: &mut Draft, overrides: &[String]) {
    for text in overrides {
        if let Err(Rejected { path, message, hint }) = apply_one(draft, text) {
            draft.problems.push(Diagnostic {
                path: draft.document.path.clone(),
                origin: Origin::CommandLine(text.clone()),
                field: path,
                message,
                hint,
            });
        }
    }
}

struct Rejected {
    path: String,
    message: String,
    hint: Option<String>,
}

fn apply_one(draft: &mut Draft, text: &str) -> Result<(), Rejected> {
    let reject = |path: &str, message: String, hint| Err(Rejected { path: path.to_owned(), message, hint });
    let Some((path, value)) = text.split_once('=') else {
        let hint = "for example iteration.explore.samples=64".to_owned();
        return reject("", format!("`{text}` is no override: expected `key.path=value`"), Some(hint));
    };
    let mut parts: Vec<&str> = path.trim().split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return reject("", format!("`{path}` is no path of keys"), None);
    }
    if !TOP_KEYS.contains(&parts[0]) {
        let hint = stage_hint(draft, &parts, value).or_else(|| suggest::hint(parts[0], TOP_KEYS, "sections"));
        return reject(path, format!("unknown section `{}`", parts[0]), hint);
    }
    let is_stage = parts.len() > 2 && (parts[0] == "setup" || parts[0] == "iteration");
    if is_stage && !STAGE_KEYS.contains(&parts[2]) {
        parts.insert(2, "with");
    }
    let path = parts.join(".");
    let value = match parse_value(value) {
        Ok(value) => value,
        Err(message) => return reject(&path, message, None),
    };
    if value.is_null() {
        remove(draft, &parts, &path)?;
    } else {
        set(&mut draft.document.value, &parts, value.clone()).map_err(|message| Rejected {
            path: path.clone(),
            message,
            hint: None,
        })?;
        draft.document.removed.retain(|removed| !is_within(removed, &path));
    }
    draft.document.overrides.push(Override { path, text: text.to_owned(), value });
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
    if remove_existing(&mut draft.document.value, parts) {
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
