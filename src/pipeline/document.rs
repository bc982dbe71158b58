//! A pipeline file as plain data, with the origin of every part of it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Value};
use serde_yaml::Value as Yaml;

use super::diagnostic::{Diagnostic, Origin};
use super::overrides::{self, Override};
use super::position::{At, Mark, Positions, join};

/// A text that is a YAML mapping, with its overrides applied.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    pub(crate) value: Map<String, Value>,
    pub(crate) overrides: Vec<Override>,
    /// Fields of stages that an override wants to be absent although the file does not give them.
    pub(crate) removed: BTreeSet<String>,
    positions: Positions,
    lines: Vec<String>,
}

/// A document and the problems found so far.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) document: Document,
    pub(crate) problems: Vec<Diagnostic>,
}

impl Draft {
    /// Reads the text and applies the overrides (`key.path=value`).
    ///
    /// # Errors
    /// When the text is no YAML mapping: then there is nothing to go on with.
    pub(crate) fn read(path: &Path, text: &str, overrides: &[String]) -> Result<Self, Box<Diagnostic>> {
        let positions = Positions::of(text);
        let document = Document {
            path: path.to_path_buf(),
            value: Map::new(),
            overrides: Vec::new(),
            removed: BTreeSet::new(),
            positions,
            lines: text.lines().map(str::to_owned).collect(),
        };
        let mut draft = Self { document, problems: Vec::new() };
        let yaml = parse(text).map_err(|error| draft.not_yaml(&error))?;
        let mut infinite = Vec::new();
        draft.document.value = match to_json(yaml, "", &mut infinite) {
            Ok(Value::Object(value)) => value,
            Ok(Value::Null) => return Err(draft.of_file("the pipeline file is empty").into()),
            Ok(_) => return Err(draft.of_file("a pipeline file is a mapping: `name: …`, `setup: …`").into()),
            Err(Refused { path, message }) => {
                return Err(draft.diagnostic(&path, At::Key, message, None).into());
            }
        };
        draft.report_duplicates();
        infinite.into_iter().for_each(|path| draft.add(&path, At::Value, NOT_FINITE, None));
        overrides::apply(&mut draft, overrides);
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
            let path = self.document.positions.named("<<").unwrap_or_default().to_owned();
            problem.origin = self.document.origin(&path, At::Key);
        }
        problem
    }

    fn report_duplicates(&mut self) {
        for (field, mark, first) in self.document.positions.duplicates.clone() {
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

pub(crate) const NOT_FINITE: &str = "expected a finite number";

impl Document {
    /// Where a field comes from: the last override of it or of what is around it, or the file.
    pub(crate) fn origin(&self, field: &str, at: At) -> Origin {
        let exact = self.overrides.iter().rev().find(|change| is_within(field, &change.path));
        if let Some(change) = exact {
            return Origin::CommandLine(change.text.clone());
        }
        if self.positions.get(field, at).is_none() {
            let within = self.overrides.iter().rev().find(|change| is_within(&change.path, field));
            if let Some(change) = within.filter(|_| !field.is_empty()) {
                return Origin::CommandLine(change.text.clone());
            }
        }
        match self.positions.near(field, at) {
            Some(mark) => self.origin_of(mark),
            None => Origin::File { line: 1, column: 1, snippet: None },
        }
    }

    fn origin_of(&self, mark: Mark) -> Origin {
        let line = self.lines.get(mark.line.saturating_sub(1));
        let snippet = line.map(|text| {
            let room = (text.chars().count() + 1).saturating_sub(mark.column).max(1);
            (text.trim_end().to_owned(), mark.width.min(room))
        });
        Origin::File { line: mark.line, column: mark.column, snippet }
    }

    /// The position of exactly this field in the file.
    pub(crate) fn position(&self, field: &str) -> Option<(usize, usize)> {
        self.positions.get(field, At::Key).map(|mark| (mark.line, mark.column))
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

/// Reads YAML, with `<<` merged; of a key given twice the first counts.
fn parse(text: &str) -> Result<Yaml, serde_yaml::Error> {
    let Lenient(mut value) = serde_yaml::from_str(text)?;
    value.apply_merge()?;
    Ok(value)
}

/// Reads the value of an override; `Ok(Null)` stands for "remove".
pub(crate) fn parse_value(text: &str) -> Result<Value, String> {
    // Text that is no YAML (`%d`, `[draft`) is meant as it stands.
    let yaml = parse(text).unwrap_or_else(|_| Yaml::String(text.to_owned()));
    let mut infinite = Vec::new();
    let value = to_json(yaml, "", &mut infinite).map_err(|refused| refused.message)?;
    if infinite.is_empty() { Ok(value) } else { Err(NOT_FINITE.to_owned()) }
}

struct Refused {
    path: String,
    message: String,
}

/// Converts; numbers that JSON cannot hold become null and are listed.
fn to_json(yaml: Yaml, path: &str, infinite: &mut Vec<String>) -> Result<Value, Refused> {
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
                infinite.push(path.to_owned());
            }
            value.map_or(Value::Null, Value::Number)
        }
        Yaml::Sequence(items) => {
            let items = items.into_iter().enumerate();
            Value::Array(
                items
                    .map(|(index, item)| to_json(item, &join(path, &index.to_string()), infinite))
                    .collect::<Result<_, _>>()?,
            )
        }
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let Yaml::String(key) = key else {
                    let key = serde_yaml::to_string(&key).unwrap_or_default();
                    let key = key.trim_end().lines().next().unwrap_or_default();
                    let path = join(path, key);
                    let message = format!("the key `{key}` is no text: put it in quotes");
                    return Err(Refused { path, message });
                };
                let value = to_json(value, &join(path, &key), infinite)?;
                map.insert(key, value);
            }
            Value::Object(map)
        }
        // `Lenient` refuses tags.
        Yaml::Tagged(tagged) => to_json(tagged.value, path, infinite)?,
    })
}

/// The parser's words, made kinder where they mislead.
fn explain_syntax(text: &str) -> (String, Option<String>) {
    let message = text.split(" at line ").next().unwrap_or(text);
    let message = message.split(", expected ").next().unwrap_or(message);
    let hint = if text.contains("cannot start any token") {
        Some("indent by spaces, not tabs, and put text with special characters in quotes")
    } else if text.contains("mapping values are not allowed") || text.contains("did not find expected key") {
        Some("look at the indentation here and in the line above; text with `: ` needs quotes")
    } else if text.contains("unknown anchor") {
        Some("define it with `&name` before it is used with `*name`")
    } else {
        None
    };
    (format!("this is no YAML: {message}"), hint.map(str::to_owned))
}

/// A YAML value whose mappings may repeat a key: duplicates are reported with the other problems.
struct Lenient(Yaml);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor).map(Self)
    }
}

struct LenientVisitor;

impl<'de> Visitor<'de> for LenientVisitor {
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
        while let Some(Lenient(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Yaml::Sequence(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut mapping = serde_yaml::Mapping::new();
        while let Some((Lenient(key), Lenient(value))) = entries.next_entry()? {
            mapping.entry(key).or_insert(value);
        }
        Ok(Yaml::Mapping(mapping))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Yaml, A::Error> {
        let (tag, content) = data.variant::<String>()?;
        content.newtype_variant::<Lenient>()?;
        Err(de::Error::custom(format!("the tag `!{tag}` has no meaning here")))
    }
}
