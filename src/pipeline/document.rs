//! A pipeline file as plain data, with the origin of every part of it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_json::{Map, Value};
use serde_yaml::Value as Yaml;
use serde_yaml::mapping::Entry;

use super::diagnostic::{Diagnostic, Origin};
use super::overrides::{self, Change, Override};
use super::position::{At, Mark, Positions, join};
use super::settings::named;
use super::{base, preset};

/// A text that is a YAML mapping, with its overrides applied.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    pub(crate) value: Arc<Map<String, Value>>,
    pub(crate) overrides: Vec<Override>,
    /// Fields of stages that an override wants to be absent although the file does not give them.
    pub(crate) removed: BTreeSet<String>,
    /// The folder of the base, where there is one.
    pub(crate) folder: Option<PathBuf>,
    text: String,
    /// Made when something is to be said about a place: most files are fine.
    positions: OnceLock<Positions>,
}

/// A document and the problems found so far.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) document: Document,
    pub(crate) problems: Vec<Diagnostic>,
}

impl Draft {
    /// Reads the text and applies the changes.
    ///
    /// # Errors
    /// When the text is no YAML mapping: then there is nothing to go on with.
    pub(crate) fn read(path: &Path, text: &str, changes: &[Change]) -> Result<Self, Box<Diagnostic>> {
        let document = Document {
            path: path.to_path_buf(),
            value: Arc::default(),
            overrides: Vec::new(),
            removed: BTreeSet::new(),
            folder: None,
            text: text.to_owned(),
            positions: OnceLock::new(),
        };
        let mut draft = Self { document, problems: Vec::new() };
        let repeated = Cell::new(false);
        let yaml = parse(text, &repeated).map_err(|error| draft.not_yaml(&error))?;
        let mut infinite = Vec::new();
        let mut value = match to_json(yaml, &mut infinite) {
            Ok(Value::Object(value)) => value,
            Ok(Value::Null) => return Err(draft.of_file("the pipeline file is empty").into()),
            Ok(_) => return Err(draft.of_file("a pipeline file is a mapping: `name: …`, `setup: …`").into()),
            Err(Refused { path, message }) => {
                return Err(draft.diagnostic(&path, At::Key, message, None).into());
            }
        };
        if repeated.get() {
            draft.report_duplicates();
        }
        for path in infinite {
            let message = format!("`{}`: {NOT_FINITE}", named(&path));
            draft.add(&path, At::Value, message, None);
        }
        base::apply(&mut draft, &mut value);
        draft.document.value = Arc::new(value);
        overrides::apply(&mut draft, changes);
        preset::apply(&mut draft);
        Ok(draft)
    }

    /// Adds a problem at the origin of a field.
    pub(crate) fn add(&mut self, field: &str, at: At, message: impl Into<String>, hint: Option<String>) {
        let problem = self.diagnostic(field, at, message, hint);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Whether something is already said about exactly this field.
    pub(crate) fn is_known(&self, field: &str) -> bool {
        self.problems.iter().any(|problem| problem.field == field)
    }

    fn diagnostic(
        &self,
        field: &str,
        at: At,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Diagnostic {
        Diagnostic {
            path: self.document.path.clone(),
            origin: self.document.origin(field, at),
            field: field.to_owned(),
            message: message.into(),
            hint,
        }
    }

    fn of_file(&self, message: &str) -> Diagnostic {
        Diagnostic::of_file(
            self.document.path.clone(),
            format!("{}: {message}", self.document.path.display()),
            None,
        )
    }

    fn not_yaml(&self, error: &serde_yaml::Error) -> Diagnostic {
        let text = error.to_string();
        let (message, hint) = explain_syntax(&text);
        let mut problem = self.diagnostic("", At::Key, message, hint);
        if let Some(location) = error.location() {
            let mark = Mark { line: location.line(), column: location.column().max(1), width: 1 };
            problem.origin = self.document.origin_of(mark);
        } else if text.contains("`<<`") || text.contains("merg") {
            let path = self.document.positions().named("<<").unwrap_or_default().to_owned();
            problem.origin = self.document.origin(&path, At::Key);
        }
        problem
    }

    fn report_duplicates(&mut self) {
        for (field, mark, first) in self.document.positions().duplicates.clone() {
            let (parent, name) = field.rsplit_once('.').unwrap_or(("the file", &field));
            let mut problem =
                self.diagnostic(&field, At::Key, format!("`{name}` is given twice in `{parent}`"), None);
            if parent == "the file" {
                problem.message = format!("`{name}` is given twice");
            }
            problem.hint = Some(format!("first given in line {first}; remove or rename one of them"));
            problem.origin = self.document.origin_of(mark);
            self.problems.push(problem);
        }
    }
}

/// Most mappings that are merged into each other.
const MERGES: usize = 16;

pub(crate) const NOT_FINITE: &str = "expected a finite number";

impl Document {
    /// Where a field comes from: the last override of it or of what is around it, or the file.
    pub(crate) fn origin(&self, field: &str, at: At) -> Origin {
        let exact = self.overrides.iter().rev().find(|change| is_within(field, &change.path));
        if let Some(change) = exact {
            return self.origin_of_change(change, &field[change.path.len()..]);
        }
        if self.positions().get(field, at).is_none() {
            let within = self.overrides.iter().rev().find(|change| is_within(&change.path, field));
            if let Some(change) = within.filter(|_| !field.is_empty()) {
                return self.origin_of_change(change, "");
            }
        }
        self.origin_in_file(field, at)
    }

    /// Where `below` (`.thresholds.by`, or nothing) of a change is written.
    fn origin_of_change(&self, change: &Override, below: &str) -> Origin {
        match &change.place {
            Some(place) => self.origin_in_file(&format!("{place}{below}"), At::Value),
            None => Origin::CommandLine(change.text.clone()),
        }
    }

    /// Where a field, or what is around it, is written in the file.
    pub(crate) fn origin_in_file(&self, field: &str, at: At) -> Origin {
        match self.positions().near(field, at) {
            Some(mark) => self.origin_of(mark),
            None => Origin::File { line: 1, column: 1, snippet: None },
        }
    }

    fn positions(&self) -> &Positions {
        self.positions.get_or_init(|| Positions::of(&self.text))
    }

    /// Whether something may stand elsewhere than in the text: put in by an override or by `<<`. A file with a base has
    /// the order of that.
    pub(crate) fn is_reordered(&self) -> bool {
        self.folder.is_none() && (!self.overrides.is_empty() || self.text.contains("<<"))
    }

    fn origin_of(&self, mark: Mark) -> Origin {
        let line = self.text.lines().nth(mark.line.saturating_sub(1));
        let snippet = line.map(|text| {
            let room = (text.chars().count() + 1).saturating_sub(mark.column).max(1);
            (text.trim_end().to_owned(), mark.width.min(room))
        });
        Origin::File { line: mark.line, column: mark.column, snippet }
    }

    /// The position of exactly this field in the file.
    pub(crate) fn position(&self, field: &str) -> Option<(usize, usize)> {
        self.positions().get(field, At::Key).map(|mark| (mark.line, mark.column))
    }

    /// The value of a field.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        let mut parts = field.split('.');
        let mut value = self.value.get(parts.next()?)?;
        for part in parts {
            value = match value {
                Value::Object(map) => map.get(part)?,
                Value::Array(items) => items.get(part.parse::<usize>().ok()?)?,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
            };
        }
        Some(value)
    }
}

/// Whether `field` is `around` or lies below it.
pub(crate) fn is_within(field: &str, around: &str) -> bool {
    field.strip_prefix(around).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Reads YAML, with `<<` merged; of a key given twice the first counts, and `repeated` is set.
fn parse(text: &str, repeated: &Cell<bool>) -> Result<Yaml, serde_yaml::Error> {
    let mut value = Lenient { repeated }.deserialize(serde_yaml::Deserializer::from_str(text))?;
    // What is merged may have been merged itself.
    for _ in 0..=MERGES {
        if !has_merge(text, &value) {
            break;
        }
        value.apply_merge()?;
    }
    Ok(value)
}

/// A text that is a mapping, or nothing.
pub(super) fn parse_object(text: &str, repeated: &Cell<bool>) -> Result<Map<String, Value>, ()> {
    let mut infinite = Vec::new();
    let value = parse(text, repeated).map_err(drop)?;
    match to_json(value, &mut infinite) {
        Ok(Value::Object(value)) if infinite.is_empty() => Ok(value),
        Ok(_) | Err(_) => Err(()),
    }
}

fn has_merge(text: &str, value: &Yaml) -> bool {
    // Most files have none, and looking through the text is the quicker way to know.
    text.contains("<<") && is_merged(value)
}

fn is_merged(value: &Yaml) -> bool {
    match value {
        Yaml::Mapping(map) => map.iter().any(|(key, value)| key.as_str() == Some("<<") || is_merged(value)),
        Yaml::Sequence(items) => items.iter().any(is_merged),
        _ => false,
    }
}

/// Reads the value of an override; `Ok(Null)` stands for "remove".
pub(crate) fn parse_value(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Err("no value is given: `null` removes it, `\"\"` is an empty text".to_owned());
    }
    // Text that is no YAML (`%d`, `[draft`) is meant as it stands, and so is what YAML takes for a comment.
    let yaml = match parse(text, &Cell::new(false)) {
        Ok(Yaml::Null | Yaml::Bool(_) | Yaml::Number(_) | Yaml::String(_)) if is_cut(text) => {
            Yaml::String(text.trim().to_owned())
        }
        Ok(yaml) => yaml,
        Err(_) => Yaml::String(text.to_owned()),
    };
    let mut infinite = Vec::new();
    let value = to_json(yaml, &mut infinite).map_err(|refused| refused.message)?;
    if infinite.is_empty() { Ok(value) } else { Err(NOT_FINITE.to_owned()) }
}

/// Whether YAML reads a comment in a text without quotes.
fn is_cut(text: &str) -> bool {
    let text = text.trim();
    let comment = |(at, _): (usize, &str)| text[..at].chars().next_back().is_none_or(char::is_whitespace);
    !text.starts_with(['"', '\'', '|', '>']) && text.match_indices('#').any(comment)
}

struct Refused {
    path: String,
    message: String,
}

/// Converts; numbers that JSON cannot hold become null, and their paths are listed.
fn to_json(yaml: Yaml, infinite: &mut Vec<String>) -> Result<Value, Refused> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(value) => Value::String(value),
        Yaml::Number(number) => {
            let value = match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => Some(value.into()),
                (_, Some(value), _) => Some(value.into()),
                (_, _, Some(value)) => serde_json::Number::from_f64(value),
                (None, None, None) => None,
            };
            if value.is_none() {
                infinite.push(String::new());
            }
            value.map_or(Value::Null, Value::Number)
        }
        Yaml::Sequence(items) => {
            let items = items.into_iter().enumerate();
            Value::Array(
                items
                    .map(|(index, item)| below(infinite, &|| index.to_string(), |found| to_json(item, found)))
                    .collect::<Result<_, _>>()?,
            )
        }
        Yaml::Mapping(entries) => {
            let mut map = Map::with_capacity(entries.len());
            for (key, value) in entries {
                let Yaml::String(key) = key else {
                    let key = serde_yaml::to_string(&key).unwrap_or_default();
                    let key = key.trim_end().lines().next().unwrap_or_default();
                    let message = format!("the key `{key}` is no text: put it in quotes");
                    return Err(Refused { path: key.to_owned(), message });
                };
                let value = below(infinite, &|| key.clone(), |found| to_json(value, found))?;
                map.insert(key, value);
            }
            Value::Object(map)
        }
        // `Lenient` refuses tags.
        Yaml::Tagged(tagged) => to_json(tagged.value, infinite)?,
    })
}

/// Puts `name` before the paths that `convert` speaks of. Most speak of none, so none is made in advance.
fn below(
    infinite: &mut Vec<String>,
    name: &dyn Fn() -> String,
    convert: impl FnOnce(&mut Vec<String>) -> Result<Value, Refused>,
) -> Result<Value, Refused> {
    let before = infinite.len();
    let value = convert(infinite);
    infinite[before..].iter_mut().for_each(|path| *path = join(&name(), path));
    value.map_err(|refused| Refused { path: join(&name(), &refused.path), ..refused })
}

/// The parser's words, made kinder where they mislead.
fn explain_syntax(text: &str) -> (String, Option<String>) {
    let message = text.split(" at line ").next().unwrap_or(text);
    let message = message.split(", expected ").next().unwrap_or(message);
    let hint = if text.contains("cannot start any token") {
        Some("indent by spaces, not tabs, and put text with special characters in quotes")
    } else if text.contains("mapping values are not allowed") || text.contains("did not find expected key") {
        Some("look at the indentation here and in the line above; text with `: ` needs quotes")
    } else if text.contains("did not find expected ',' or") {
        Some("close every `{` and `[` that is opened here or above, and put commas between what is in them")
    } else if text.contains("unknown anchor") {
        Some("define it with `&name` before it is used with `*name`")
    } else {
        None
    };
    (format!("this is no YAML: {message}"), hint.map(str::to_owned))
}

/// Reads a YAML value whose mappings may repeat a key: duplicates are reported with the other problems.
#[derive(Clone, Copy)]
struct Lenient<'a> {
    repeated: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Lenient<'_> {
    type Value = Yaml;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lenient<'_> {
    type Value = Yaml;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }
    fn visit_none<E: de::Error>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Yaml, E> {
        Ok(value.into())
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Yaml, E> {
        Ok(value.into())
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Yaml, E> {
        Ok(value.into())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Yaml, E> {
        Ok(value.into())
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Yaml, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Yaml::Sequence(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut mapping = serde_yaml::Mapping::new();
        while let Some((key, value)) = entries.next_entry_seed(self, self)? {
            match mapping.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(_) => self.repeated.set(true),
            }
        }
        Ok(Yaml::Mapping(mapping))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Yaml, A::Error> {
        let (tag, content) = data.variant::<String>()?;
        content.newtype_variant_seed(self)?;
        Err(de::Error::custom(format!("the tag `!{tag}` has no meaning here")))
    }
}
