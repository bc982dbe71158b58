//! Reading the settings of one stage, with all their problems and not just the first.
//!
//! serde stops at the first problem. Here it is recorded, a misspelt field is renamed, another offending
//! field is taken out (or, where it is required, replaced by a placeholder), and serde tries again.

use std::collections::BTreeMap;

use bstar_stages::StageConfig;
use serde_json::{Map, Value, json};
use serde_path_to_error::{Path, Segment};

use super::document::{Draft, is_within};
use super::lists::{self, Misplaced};
use super::position::{At, join};
use super::suggest;

/// Most problems reported of one stage.
const LIMIT: usize = 100;

/// Text that stands for a setting that could not be read.
pub(crate) const PLACEHOLDER: &str = "\u{0}";

/// Settings as far as they could be read.
pub(crate) struct Settings {
    /// `None` when not even placeholders fit. References may be [`PLACEHOLDER`].
    pub(crate) config: Option<StageConfig>,
    /// Whether nothing was replaced.
    pub(crate) complete: bool,
}

/// Reads `with` of the stage at `stage` (`iteration.explore`), which uses the known stage `uses`.
pub(crate) fn read(draft: &mut Draft, stage: &str, uses: &str, with: &Value) -> Settings {
    let lists = lists::misplaced(uses, with);
    if draft.document.removed.is_empty()
        && lists.is_empty()
        && let Some(Ok(config)) = StageConfig::parse(uses, with)
    {
        return Settings { config: Some(config), complete: true };
    }
    let mut with = with.clone();
    let root = join(stage, "with");
    let mut repairs = Repairs::default();
    for Misplaced { path, setting } in lists {
        let name = named(&path);
        let message = format!("`{name}`: expected a mapping of settings, found a list");
        let hint = format!("write a mapping: `{name}: {{{setting}: …}}`");
        draft.add(&join(&root, &path), At::Value, message, Some(hint));
        repairs.tried.insert(path.clone(), 0);
        repairs.changed = true;
        if take(&mut with, &path).is_none() {
            repairs.replace(&mut with, &path);
        }
    }
    for removed in draft.document.removed.clone() {
        if let Some(field) = removed.strip_prefix(&root).and_then(|rest| rest.strip_prefix('.')) {
            // A null: serde says whether the field exists, and then it is taken out.
            repairs.tried.insert(field.to_owned(), 0);
            put(&mut with, field, Value::Null);
        }
    }
    for _ in 0..LIMIT {
        let error = match StageConfig::parse(uses, &with) {
            None => break,
            Some(Ok(config)) => return Settings { config: Some(config), complete: repairs.is_empty() },
            Some(Err(error)) => error,
        };
        let path = path_of(error.path());
        if !repairs.repair(draft, &root, &mut with, &path, &error.inner().to_string()) {
            break;
        }
    }
    Settings { config: None, complete: false }
}

/// What was changed below `with`.
#[derive(Default)]
struct Repairs {
    /// Field → number of placeholders tried for it (0: it was only taken out).
    tried: BTreeMap<String, usize>,
    /// Right spelling → spelling in the file.
    renamed: BTreeMap<String, String>,
    changed: bool,
}

impl Repairs {
    fn is_empty(&self) -> bool {
        !self.changed
    }

    /// Reports one problem and changes `with` so that it does not come again; false to give up.
    fn repair(&mut self, draft: &mut Draft, root: &str, with: &mut Value, path: &str, text: &str) -> bool {
        if let Some((name, expected)) = unknown_field(text) {
            // The path may or may not end in the key that is unknown.
            let parent = path.strip_suffix(name).map_or(path, |parent| parent.trim_end_matches('.'));
            let field = join(parent, name);
            let full = join(root, &self.as_written(&field));
            if !draft.is_known(&full) {
                let around = join(root, &self.as_written(parent));
                let hint = suggest::hint(name, &expected, "fields");
                draft.add(&full, At::Key, format!("unknown field `{name}` in `{around}`"), hint);
            }
            self.changed = true;
            return self.rename(with, parent, name, &expected) || take(with, &field).is_some();
        }
        if let Some(name) = missing_field(text) {
            let field = join(path, name);
            let full = join(root, &self.as_written(&field));
            if !self.covers(&field) && !draft.is_known(&full) {
                let around = join(root, &self.as_written(path));
                draft.add(&full, At::Key, format!("missing field `{name}` in `{around}`"), None);
            }
            return self.replace(with, &field);
        }
        if let Some(count) = self.tried.get(path).copied() {
            if count == 0 && take(with, path).is_some() {
                return true;
            }
            return self.replace(with, path);
        }
        if self.covers(path) {
            return self.replace(with, path);
        }
        let field = join(root, &self.as_written(path));
        if !draft.is_known(&field) {
            let name = named(path);
            let (message, hint) = reword(text);
            let message = if name.is_empty() { message } else { format!("`{name}`: {message}") };
            draft.add(&field, At::Value, message, hint);
        }
        self.tried.insert(path.to_owned(), 0);
        self.changed = true;
        take(with, path).is_some() || self.replace(with, path)
    }

    /// Gives the value of a misspelt field to the field that was meant.
    fn rename(&mut self, with: &mut Value, parent: &str, name: &str, expected: &[&str]) -> bool {
        let Some(meant) = suggest::nearest(name, expected.iter().copied()) else { return false };
        let (from, to) = (join(parent, name), join(parent, meant));
        if find(with, &to).is_some() || self.tried.contains_key(&to) || self.renamed.contains_key(&to) {
            return false;
        }
        let Some(value) = take(with, &from) else { return false };
        self.renamed.insert(to.clone(), from);
        put(with, &to, value)
    }

    /// A path in the spelling of the file.
    fn as_written(&self, path: &str) -> String {
        let renamed = self.renamed.iter().find(|(right, _)| is_within(path, right));
        renamed
            .map_or_else(|| path.to_owned(), |(right, written)| format!("{written}{}", &path[right.len()..]))
    }

    /// Whether `path` is, or lies in, a placeholder.
    fn covers(&self, path: &str) -> bool {
        self.tried.keys().any(|field| is_within(path, field))
    }

    /// Puts the next placeholder at `path`, or at the placeholder that it lies in.
    fn replace(&mut self, with: &mut Value, path: &str) -> bool {
        let outer = self.tried.keys().find(|field| is_within(path, field)).cloned();
        let path = outer.unwrap_or_else(|| path.to_owned());
        let placeholders = [json!(PLACEHOLDER), json!(1), json!([]), json!({}), json!(true)];
        let count = self.tried.entry(path.clone()).or_insert(0);
        let Some(placeholder) = placeholders.get(*count) else { return false };
        *count += 1;
        self.changed = true;
        put(with, &path, placeholder.clone())
    }
}

fn path_of(path: &Path) -> String {
    path.iter().fold(String::new(), |text, segment| match segment {
        Segment::Seq { index } => join(&text, &index.to_string()),
        Segment::Map { key } => join(&text, key),
        Segment::Enum { .. } | Segment::Unknown => text,
    })
}

/// The end of a path as people call it: `updates`, `targets[0]`.
pub(crate) fn named(path: &str) -> String {
    let is_index = |part: &str| part.parse::<usize>().is_ok();
    let mut name = String::new();
    for part in path.rsplit('.') {
        if !is_index(part) {
            return format!("{part}{name}");
        }
        name = format!("[{part}]{name}");
    }
    name
}

/// Puts a value at a path whose parent exists.
fn put(root: &mut Value, path: &str, value: Value) -> bool {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    match find(root, parent) {
        Some(Value::Object(map)) => {
            map.insert(name.to_owned(), value);
            true
        }
        Some(Value::Array(items)) => {
            let item = name.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            item.map(|item| *item = value).is_some()
        }
        _ => false,
    }
}

/// Takes the entry of a mapping out.
fn take(root: &mut Value, path: &str) -> Option<Value> {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let map: Option<&mut Map<String, Value>> = find(root, parent).and_then(Value::as_object_mut);
    map?.shift_remove(name)
}

fn find<'a>(root: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(root);
    }
    path.split('.').try_fold(root, |value, part| match value {
        Value::Object(map) => map.get_mut(part),
        Value::Array(items) => items.get_mut(part.parse::<usize>().ok()?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// serde: "unknown field `x`, expected one of `a`, `b`".
fn unknown_field(text: &str) -> Option<(&str, Vec<&str>)> {
    let rest = text.strip_prefix("unknown field `")?;
    let end = rest.rfind("`, expected ").or_else(|| rest.rfind("`, there are no fields"))?;
    Some((&rest[..end], in_backticks(&rest[end + 1..])))
}

/// serde: "missing field `x`".
fn missing_field(text: &str) -> Option<&str> {
    text.strip_prefix("missing field `")?.strip_suffix('`')
}

fn in_backticks(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// serde's words for a wrong value in words of pipeline files.
pub(crate) fn reword(text: &str) -> (String, Option<String>) {
    if let Some(rest) = text.strip_prefix("unknown variant `")
        && let Some(end) = rest.rfind("`, expected ")
    {
        let (name, choices) = (&rest[..end], in_backticks(&rest[end + 1..]));
        let expected = suggest::list(choices.iter().copied());
        let message = format!("`{name}` is no choice here, expected one of {expected}");
        let meant = suggest::nearest(name, choices);
        return (message, meant.map(|choice| format!("did you mean `{choice}`?")));
    }
    let wrong = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    let Some((found, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) else {
        return (text.to_owned(), None);
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping of settings".to_owned(),
        other => other.to_owned(),
    };
    let found = match found {
        "null" => "nothing".to_owned(),
        "map" => "a mapping".to_owned(),
        "sequence" => "a list".to_owned(),
        other => match other.split_once(' ') {
            Some(("string", text)) => format!("the text `{}`", text.trim_matches('"')),
            Some(("integer", number)) => format!("the number {number}"),
            Some(("floating", rest)) => format!("the number {}", rest.trim_start_matches("point ")),
            Some(("boolean", value)) => value.to_owned(),
            _ => other.to_owned(),
        },
    };
    (format!("expected {expected}, found {found}"), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_items_of_a_list_are_named_after_it() {
        let named = ["training.updates", "training.lora.targets.0", "stop", "params.1.2", ""].map(named);
        assert_eq!(named, ["updates", "targets[0]", "stop", "params[1][2]", ""]);
    }

    #[test]
    fn serde_is_reworded() {
        let cases = [
            (
                "invalid type: string \"many\", expected usize",
                "expected a whole number, 0 or more, found the text `many`",
            ),
            (
                "invalid value: integer `-4`, expected u32",
                "expected a whole number, 0 or more, found the number `-4`",
            ),
            (
                "invalid type: floating point `1.5`, expected usize",
                "expected a whole number, 0 or more, found the number `1.5`",
            ),
            ("invalid type: null, expected a string", "expected text, found nothing"),
            (
                "invalid type: sequence, expected struct Training",
                "expected a mapping of settings, found a list",
            ),
        ];
        for (serde, ours) in cases {
            assert_eq!(reword(serde), (ours.to_owned(), None));
        }
        let (message, hint) = reword("unknown variant `mth`, expected `math` or `exact`");
        assert_eq!(message, "`mth` is no choice here, expected one of `math`, `exact`");
        assert_eq!(hint.unwrap(), "did you mean `math`?");
    }
}
