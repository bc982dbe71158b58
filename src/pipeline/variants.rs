//! `variants:` and `grid:` of a file: what a sweep changes.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::diagnostic::Origin;
use super::document::{Document, Draft};
use super::overrides::{Change, argument, full_path};
use super::position::{At, join};
use super::read::{identifier, mapping};
use super::{TOP_KEYS, suggest};

/// Sections that hold names: a variant changes what is in them, one by one.
const SECTIONS: &[&str] = &["inputs", "setup", "start", "iteration", "carry"];

/// What a file says of sweeps, checked on its own: not whether the changes make good pipelines.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Variations {
    /// Name → changes, in the order of the file.
    pub(crate) variants: Vec<(String, Vec<Change>)>,
    /// Field → its values, in the order of the file.
    pub(crate) grid: Vec<Axis>,
    /// The values of `seed` in the grid.
    pub(crate) seeds: Vec<u64>,
    /// The lines of both sections; of interest only where a problem may stand in them.
    pub(crate) lines: Vec<Range<usize>>,
}

impl Variations {
    /// Whether that is written in one of the sections, or on the command line.
    pub(crate) fn hold(&self, origin: &Origin) -> bool {
        match origin {
            Origin::File { line, .. } => self.lines.iter().any(|lines| lines.contains(line)),
            Origin::CommandLine(_) => true,
            Origin::Nowhere => false,
        }
    }
}

/// The values that one field takes in turn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    /// The field in full: `iteration.search.with.n_star`.
    pub(crate) path: String,
    /// One change for every value.
    pub(crate) values: Vec<Change>,
}

/// Reads both sections, but not where they stand.
pub(crate) fn read(draft: &mut Draft) -> Variations {
    let document = Arc::clone(&draft.document.value);
    let mut variations = Variations::default();
    let given = mapping(draft, "variants", document.get("variants"), "names to changes");
    for (name, value) in given.into_iter().flatten() {
        let field = join("variants", name);
        identifier(draft, &field, name, At::Key);
        let changes = mapping(draft, &field, Some(value), "`key.path: value`");
        let mut of_variant: Vec<Change> = Vec::new();
        for (key, value) in changes.into_iter().flatten() {
            let place = join(&field, key);
            let change = Change::Written { place: place.clone(), key: key.clone(), value: value.clone() };
            if changeable(draft, &place, key, false) && unlike(draft, &place, key, &of_variant) {
                of_variant.push(change);
            }
        }
        variations.variants.push((name.clone(), of_variant));
    }
    let given = mapping(draft, "grid", document.get("grid"), "`key.path` to lists of values");
    for (key, values) in given.into_iter().flatten() {
        axis(draft, &mut variations, key, values);
    }
    variations
}

/// The lines that the sections take.
pub(crate) fn lines(document: &Document) -> Vec<Range<usize>> {
    let begin = |key: &str| document.position(key).map(|(line, _)| line);
    let begins: Vec<usize> = document.value.keys().filter_map(|key| begin(key)).collect();
    let end = |first| begins.iter().copied().filter(|line| *line > first).min().unwrap_or(usize::MAX);
    ["variants", "grid"].into_iter().filter_map(begin).map(|first| first..end(first)).collect()
}

fn axis(draft: &mut Draft, variations: &mut Variations, key: &str, values: &Value) {
    let place = join("grid", key);
    if !changeable(draft, &place, key, true) {
        return;
    }
    let values = match values {
        Value::Array(values) if !values.is_empty() => values,
        Value::Array(_) => return draft.add(&place, At::Key, format!("`{key}` has no values"), None),
        other => {
            let message = format!("`{key}`: expected a list of values, found {}", suggest::found(other));
            let hint = format!("for one value write `{key}: [{}]`", argument(other));
            return draft.add(&place, At::Value, message, Some(hint));
        }
    };
    for (index, value) in values.iter().enumerate() {
        if values[..index].contains(value) {
            let field = join(&place, &index.to_string());
            draft.add(&field, At::Value, format!("{} is given twice", argument(value)), None);
        }
    }
    if key == "seed" {
        for (index, value) in values.iter().enumerate() {
            match value.as_u64() {
                Some(seed) => variations.seeds.push(seed),
                None => {
                    let message = format!(
                        "`seed`: expected a whole number, 0 or more, found {}",
                        suggest::found(value)
                    );
                    draft.add(&join(&place, &index.to_string()), At::Value, message, None);
                }
            }
        }
        return;
    }
    let first = |axis: &Axis| axis.values.first().cloned();
    let before: Vec<Change> = variations.grid.iter().filter_map(first).collect();
    if let (Some(path), true) = (full_path(key), unlike(draft, &place, key, &before)) {
        let change = |(index, value): (usize, &Value)| Change::Written {
            place: join(&place, &index.to_string()),
            key: key.to_owned(),
            value: value.clone(),
        };
        variations.grid.push(Axis { path, values: values.iter().enumerate().map(change).collect() });
    }
}

/// Complains about a field that no sweep can change.
fn changeable(draft: &mut Draft, place: &str, key: &str, grid: bool) -> bool {
    let Some(path) = full_path(key) else {
        draft.add(place, At::Key, format!("`{key}` is no path of keys"), None);
        return false;
    };
    let hint = match key {
        _ if SECTIONS.contains(&key) => {
            format!("give the path of one value, for example `{key}.…: …`: the rest stays as it is")
        }
        "seed" if !grid => {
            "seeds are apart from variants: `grid: {seed: [1, 2, 3]}`, or --seeds 3".to_owned()
        }
        _ => match path.split('.').next() {
            Some("name" | "variants" | "grid") => "all variants belong to this one pipeline".to_owned(),
            Some(section) if !TOP_KEYS.contains(&section) => {
                let stage = |of: &str| draft.document.get(&format!("{of}.{section}")).is_some();
                let meant = ["iteration", "setup"].into_iter().find(|of| stage(of));
                let hint = match meant {
                    Some(of) => Some(format!("did you mean `{of}.{key}`?")),
                    None => suggest::hint(section, TOP_KEYS, "sections"),
                };
                draft.add(place, At::Key, format!("unknown section `{section}`"), hint);
                return false;
            }
            _ => return true,
        },
    };
    draft.add(place, At::Key, format!("`{key}` cannot differ between variants"), Some(hint));
    false
}

/// Complains about a field that is given twice, in two spellings.
fn unlike(draft: &mut Draft, place: &str, key: &str, others: &[Change]) -> bool {
    let path = full_path(key);
    let twice = others.iter().any(|other| other.path() == path);
    if twice {
        draft.add(place, At::Key, format!("`{key}` is given twice"), None);
    }
    !twice
}
