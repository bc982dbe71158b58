//! `tojson`, as transformers has it: what Python's `json.dumps` writes.

use std::io::{self, Write};

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// A value as `json.dumps` writes it, with the options that transformers knows.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(width) if !width.is_none() => Some(indentation(&width)?),
        _ => None,
    };
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let item = if indent.is_some() { "," } else { ", " };
    let [item, key] = match separators.map(TryInto::try_into) {
        None => [item.to_owned(), ": ".to_owned()],
        Some(Ok(pair)) => pair,
        Some(Err(_)) => {
            return Err(refused(&"`separators` is two texts: between items, and between key and value"));
        }
    };
    if value.is_undefined() {
        return Err(refused(&"the value is undefined"));
    }
    let mut value = serde_json::to_value(value).map_err(|error| refused(&error))?;
    if sorted.unwrap_or(false) {
        value.sort_all_objects();
    }
    let mut out = Vec::new();
    let layout = Layout { indent, item, key, depth: 0, filled: false };
    value.serialize(&mut Serializer::with_formatter(&mut out, layout)).map_err(|error| refused(&error))?;
    let text = String::from_utf8(out).map_err(|error| refused(&error))?;
    Ok(if ascii.unwrap_or(false) { escaped(&text) } else { text })
}

/// The text that a width stands for: so many spaces, or itself.
pub(super) fn indentation(width: &Value) -> Result<String, Error> {
    match width.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Ok(" ".repeat(u16::try_from(width.clone())?.into())),
    }
}

fn refused(why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("no JSON: {why}"))
}

/// JSON without characters beyond ASCII: they are escaped, two to a character where it has two code units.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() && character != '\u{7f}' {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// How Python lays JSON out: on one line, or indented, with these texts between items, and between a key and
/// its value.
struct Layout {
    indent: Option<String>,
    item: String,
    key: String,
    depth: usize,
    /// Whether there is something in the array or object that is being written.
    filled: bool,
}

impl Layout {
    fn line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        match &self.indent {
            Some(indent) => write!(out, "\n{}", indent.repeat(self.depth)),
            None => Ok(()),
        }
    }

    fn begin<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        (self.depth, self.filled) = (self.depth + 1, false);
        out.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }

    fn end<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(out)?;
        }
        self.filled = true;
        out.write_all(bracket)
    }
}

impl Formatter for Layout {
    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(shown(&value.into()).map_err(io::Error::other)?.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"{")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }
}

/// A value as Python's `str` shows it. Within lists and mappings numbers are as Rust shows them.
pub(super) fn shown(value: &Value) -> Result<String, Error> {
    if value.kind() == minijinja::value::ValueKind::Number && !value.is_integer() {
        return format(FormatStyle::StrFormat, "{}", std::slice::from_ref(value));
    }
    Ok(value.to_string())
}
