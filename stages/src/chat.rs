//! Chat templates: Jinja texts that come with a model and say how it expects to be talked to.
//!
//! They are rendered as `apply_chat_template` of transformers does, except that the date is not theirs to
//! ask for: a prompt depends on nothing but what it is made of.

mod json;
mod python;
mod special;

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde_json::{Map, Value, json};

pub use self::special::special_tokens;
use crate::files::read_object;
use crate::protocol::StageError;

/// The name of the template in its environment, and in messages.
const NAME: &str = "template";

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
        let config = folder.map(|folder| read_object(&folder.join("tokenizer_config.json"))).transpose()?;
        let config = config.flatten().unwrap_or_default();
        let text = match (template, folder) {
            (Some(text), _) => text.to_owned(),
            (None, Some(folder)) => own_template(folder, &config)?,
            (None, None) => return Err(StageError::invalid("there is no template")),
        };
        let tokens = folder.map(special_tokens).transpose()?.unwrap_or_default();
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| StageError::failed(told(&error)))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        python::imitate(&mut environment);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
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
        // Where there are none, templates are told so.
        given.extend(["tools", "documents"].map(|name| (name.to_owned(), Value::Null)));
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

/// What went wrong and where, in one line.
fn told(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error.line().map_or_else(|| what.clone(), |line| format!("{what} (line {line} of the template)"))
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
/// do no more than keep what is set between them to themselves.
fn without_generation(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut raw) = (text, false);
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let (tag, after) = rest.split_at(tag_length(rest, raw));
        let name = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}"));
        let name = name.map(|name| name.trim_matches(['-', '+']).trim()).unwrap_or_default();
        raw = if raw { name != "endraw" } else { name == "raw" };
        out.push_str(&match name {
            "generation" if !raw => tag.replacen("generation", "with", 1),
            "endgeneration" if !raw => tag.replacen("endgeneration", "endwith", 1),
            _ => tag.to_owned(),
        });
        rest = after;
    }
    out + rest
}

/// How long the tag, expression or comment is that a text begins with; 1 where a brace is only a brace.
fn tag_length(text: &str, raw: bool) -> usize {
    let end = match text.as_bytes().get(1) {
        Some(b'#') if !raw => text.find("#}"),
        Some(b'%') if raw => text.find("%}"),
        Some(b'%') => unquoted(text, "%}"),
        Some(b'{') if !raw => unquoted(text, "}}"),
        _ => return 1,
    };
    end.map_or(text.len(), |end| end + 2)
}

/// Where a text is, outside of quotes.
fn unquoted(text: &str, what: &str) -> Option<usize> {
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match quote {
            None if text[at..].starts_with(what) => return Some(at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(_) if c == '\\' => drop(characters.next()),
            Some(open) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
