//! `base: ../math.yaml`: a file that says only how it differs from another one.

use std::cell::Cell;
use std::path::Path;

use serde_json::{Map, Value};

use super::document::{Draft, parse_object};
use super::position::At;

/// Puts the file named by `base` beneath the document: its mappings are completed, its other values
/// replaced, by what is written here. Its variants count only where this file has neither `variants` nor
/// `grid`. Relative paths of both files start from the folder of the base.
pub(super) fn apply(draft: &mut Draft, value: &mut Map<String, Value>) {
    let Some(name) = value.shift_remove("base") else { return };
    let Value::String(name) = name else {
        return draft.add("base", At::Value, "`base`: expected the path of a pipeline file", None);
    };
    let path = draft.document.path.parent().unwrap_or(Path::new("")).join(&name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            let hint = "the path starts from the folder of this file".to_owned();
            let message = format!("cannot read {}: {error}", path.display());
            return draft.add("base", At::Value, message, Some(hint));
        }
    };
    let repeated = Cell::new(false);
    let mut below = match parse_object(&text, &repeated) {
        Ok(below) if !repeated.get() => below,
        Ok(_) | Err(_) => {
            let hint = format!("bstar pipeline check {}", path.display());
            return draft.add("base", At::Value, format!("{} has problems", path.display()), Some(hint));
        }
    };
    if below.contains_key("base") {
        let message = format!("{} has a base of its own", path.display());
        return draft.add("base", At::Value, message, Some("name that one".to_owned()));
    }
    if value.contains_key("variants") || value.contains_key("grid") {
        below.shift_remove("variants");
        below.shift_remove("grid");
    }
    draft.document.folder = path.parent().map(Path::to_path_buf);
    put_over(&mut below, std::mem::take(value));
    *value = below;
}

fn put_over(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(own)), Value::Object(new)) => put_over(own, new),
            (Some(_), Value::Null) => drop(below.shift_remove(&key)),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}
