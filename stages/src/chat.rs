//! Chat templates: Jinja texts that come with a model and say how it expects to be talked to.
//!
//! They are rendered as `apply_chat_template` of transformers does, except that the date is not theirs to
//! ask for: a prompt depends on nothing but what it is made of.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

use crate::protocol::StageError;

/// The name of the template in its environment, and in messages.
const NAME: &str = "template";
/// The special tokens that templates know by name.
const SPECIAL: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// A template, and the special tokens it may write.
#[derive(Debug)]
pub struct Chat {
    environment: Environment<'static>,
    tokens: Map<String, Value>,
}

impl Chat {
    /// The template of the model in `folder`, or `template` in its place.
    ///
    /// # Errors
    /// When there is neither, or it is not a template.
    pub fn new(folder: Option<&Path>, template: Option<&str>) -> Result<Self, StageError> {
        let config = folder.map(tokenizer_config).transpose()?.unwrap_or_default();
        let text = match (template, folder) {
            (Some(text), _) => text.to_owned(),
            (None, Some(folder)) => own_template(folder, &config)?,
            (None, None) => return Err(StageError::invalid("there is no template")),
        };
        let token = |name: &str| {
            let token = config.get(name)?;
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            Some((name.to_owned(), json!(text)))
        };
        let tokens = SPECIAL.iter().filter_map(|name| token(name)).collect();
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| StageError::failed(told(&error)))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        // Jinja knows one kind of line break.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        environment.add_template_owned(NAME, without_generation(&text)).map_err(|error| {
            StageError::invalid(format!("the chat template cannot be read: {}", told(&error)))
        })?;
        Ok(Self { environment, tokens })
    }

    /// The prompt that asks for an answer to `prompt`.
    ///
    /// # Errors
    /// What the template refuses, in its own words.
    pub fn render(
        &self,
        system: Option<&str>,
        prompt: &str,
        variables: &BTreeMap<String, Value>,
    ) -> Result<String, StageError> {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let system = system.map(|text| message("system", text));
        let messages: Vec<Value> = system.into_iter().chain([message("user", prompt)]).collect();
        self.render_messages(&messages, Some(prompt), variables)
    }

    /// The prompt that asks for the next message of a conversation.
    ///
    /// # Errors
    /// What the template refuses, in its own words.
    pub fn render_messages(
        &self,
        messages: &[Value],
        prompt: Option<&str>,
        variables: &BTreeMap<String, Value>,
    ) -> Result<String, StageError> {
        let refused = |error: &minijinja::Error| {
            StageError::invalid(format!("the chat template fails: {}", told(error)))
        };
        let mut given = self.tokens.clone();
        given.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
        given.extend(prompt.map(|prompt| ("prompt".to_owned(), json!(prompt))));
        drop(given.insert("messages".to_owned(), json!(messages)));
        drop(given.insert("add_generation_prompt".to_owned(), json!(true)));
        let template = self.environment.get_template(NAME).map_err(|error| refused(&error))?;
        let given = minijinja::Value::from(Serde(&given));
        // Some templates ask for today's date, in a form of their choice: they get the one that was given.
        let rendered = match variables.get("date_string").and_then(Value::as_str) {
            None => template.render(given),
            Some(date) => {
                let date = date.to_owned();
                let today = minijinja::Value::from_function(move |_: String| date.clone());
                template.render(context! { strftime_now => today, ..given })
            }
        };
        rendered.map_err(|error| match given_no_date(&error, template.source()) {
            true => StageError::invalid("the chat template asks for today's date")
                .hint("give it one that does not change: `variables: {date_string: 1 Jan 2026}`"),
            false => refused(&error),
        })
    }
}

/// Whether a template failed because it called for a date that was not given.
fn given_no_date(error: &minijinja::Error, template: &str) -> bool {
    let line = error.line().and_then(|line| template.lines().nth(line.checked_sub(1)?));
    let asks = line.is_some_and(|line| line.contains("strftime_now"));
    asks && matches!(error.kind(), ErrorKind::UnknownFunction | ErrorKind::InvalidOperation)
}

/// A value as Python's `json.dumps` writes it, which is not how other Jinja filters of this name do, with the options
/// that transformers knows.
fn to_json(value: &minijinja::Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let [item, key] = match separators.unwrap_or_default().try_into() {
        Ok(separators) => separators,
        Err(_) if indent.is_some() => [",".to_owned(), ": ".to_owned()],
        Err(_) => [", ".to_owned(), ": ".to_owned()],
    };
    let mut value = serde_json::to_value(value)
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, format!("no JSON: {error}")))?;
    if sorted.unwrap_or(false) {
        value.sort_all_objects();
    }
    let mut out = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Python { item, key })),
        Some(width) => {
            let space = " ".repeat(width);
            let formatter = PrettyFormatter::with_indent(space.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, formatter))
        }
    };
    let refused = |error: &dyn std::fmt::Display| {
        minijinja::Error::new(ErrorKind::BadSerialization, format!("no JSON: {error}"))
    };
    written.map_err(|error| refused(&error))?;
    let text = String::from_utf8(out).map_err(|error| refused(&error))?;
    Ok(if ascii.unwrap_or(false) { escaped(&text) } else { text })
}

/// JSON without characters beyond ASCII: they are escaped, two to a character where it has two code units.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// JSON on one line, with these texts between items, and between a key and its value.
struct Python {
    item: String,
    key: String,
}

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }
}

/// What went wrong and where, in one line.
fn told(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error.line().map_or_else(|| what.clone(), |line| format!("{what} (line {line} of the template)"))
}

fn tokenizer_config(folder: &Path) -> Result<Map<String, Value>, StageError> {
    let path = folder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(Map::new());
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        StageError::invalid(format!("cannot read `{}`: {error}", path.display()))
    };
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
    serde_json::from_str(&text).map_err(|error| unreadable(&error))
}

/// The template of a model: a file of its own, or a field of its tokenizer's configuration.
fn own_template(folder: &Path, config: &Map<String, Value>) -> Result<String, StageError> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        return std::fs::read_to_string(&path)
            .map_err(|error| StageError::invalid(format!("cannot read `{}`: {error}", path.display())));
    }
    let named = |list: &Vec<Value>| {
        let default = list.iter().find(|entry| entry["name"] == "default")?;
        default["template"].as_str().map(str::to_owned)
    };
    let found = match config.get("chat_template") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(list)) => named(list),
        _ => None,
    };
    found.ok_or_else(|| {
        StageError::invalid(format!("the model in `{}` has no chat template", folder.display()))
            .hint("base models have none: give a `template` of your own, for example \"{{ prompt }}\"")
    })
}

/// The template without the marks around what an assistant says, which other software trains on: here they
/// say nothing.
fn without_generation(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + length];
        out.push_str(&rest[..start]);
        out.push_str(&match tag[2..].trim_matches(['-', '+']).trim() {
            "generation" => tag.replacen("generation", "if true", 1),
            "endgeneration" => tag.replacen("endgeneration", "endif", 1),
            _ => tag.to_owned(),
        });
        rest = &rest[start + length..];
    }
    out + rest
}

#[cfg(test)]
mod tests;
