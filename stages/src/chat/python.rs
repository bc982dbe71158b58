//! What Python's texts and Jinja's filters do, where minijinja does otherwise or nothing.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter, filters};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::json::{indentation, shown, to_json};

/// Makes an environment do as Jinja in Python does.
pub(super) fn imitate(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(write);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", shown);
    environment.add_filter("trim", trim);
    environment.add_filter("indent", indent);
    environment.add_filter("center", center);
    environment.add_filter("truncate", truncate);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_test("callable", is_callable);
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number => Ok(out.write_str(&shown(value)?)?),
        _ => escape_formatter(out, state, value),
    }
}

/// The methods of texts and lists.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match (value.as_str(), value.kind()) {
        (Some(text), _) => of_text(text, name, args)?,
        (None, ValueKind::Seq) if name == "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == *what);
            Some(Value::from(place.ok_or_else(|| refused(format!("{what} is not in the list")))?))
        }
        _ => None,
    };
    found.map_or_else(|| unknown_method_callback(state, value, name, args), Ok)
}

fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let chars = |bytes: Option<usize>| match bytes {
        Some(bytes) => Ok(Value::from(text[..bytes].chars().count())),
        None => Err(refused("substring not found")),
    };
    let parts = |found: Option<(&str, &str)>, at: &str, whole: [&str; 3]| match found {
        Some((before, after)) => Value::from(Tuple::from([before, at, after].map(Value::from))),
        None => Value::from(Tuple::from(whole.map(Value::from))),
    };
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (of,): (Option<&str>,) = from_args(args)?;
            strip(text, of, name != "rstrip", name != "lstrip").into()
        }
        "split" | "rsplit" => {
            let (separator, limit, more): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(more.get("sep")?);
            let limit = limit.or(more.get("maxsplit")?);
            more.assert_all_used()?;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
            let pieces = match (separator, name) {
                (Some(""), _) => return Err(refused("empty separator")),
                (Some(separator), "split") => text.splitn(limit.saturating_add(1), separator).collect(),
                (Some(separator), _) => {
                    let mut pieces: Vec<&str> = text.rsplitn(limit.saturating_add(1), separator).collect();
                    pieces.reverse();
                    pieces
                }
                (None, "split") => words(text, limit),
                (None, _) => last_words(text, limit),
            };
            pieces.into_iter().map(Value::from).collect()
        }
        "splitlines" => {
            let (ends, more): (Option<bool>, Kwargs) = from_args(args)?;
            let ends = ends.or(more.get("keepends")?).unwrap_or(false);
            more.assert_all_used()?;
            lines(text, ends).into_iter().map(Value::from).collect()
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            chars(if name == "index" { text.find(what) } else { text.rfind(what) })?
        }
        "partition" => {
            let (at,): (&str,) = from_args(args)?;
            parts(text.split_once(at), at, [text, "", ""])
        }
        "rpartition" => {
            let (at,): (&str,) = from_args(args)?;
            parts(text.rsplit_once(at), at, ["", "", text])
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (u16, Option<char>) = from_args(args)?;
            padded(text, width.into(), fill.unwrap_or(' '), name).into()
        }
        "zfill" => {
            let (width,): (u16,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let width = usize::from(width).saturating_sub(sign.len());
            format!("{sign}{}", padded(digits, width, '0', "rjust")).into()
        }
        "title" => {
            let () = from_args(args)?;
            title(text).into()
        }
        "swapcase" => {
            let () = from_args(args)?;
            swapped(text).into()
        }
        "casefold" => {
            let () = from_args(args)?;
            if text.chars().any(|c| !c.is_ascii() && is_cased(c)) {
                return Err(refused("casefold is not known beyond ASCII: use lower"));
            }
            text.to_ascii_lowercase().into()
        }
        "isspace" => {
            let () = from_args(args)?;
            (!text.is_empty() && text.chars().all(is_space)).into()
        }
        _ => return Ok(None),
    }))
}

/// What Python takes for white space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// A text without these characters, or white space, at its ends.
fn strip<'a>(text: &'a str, of: Option<&str>, start: bool, end: bool) -> &'a str {
    let gone = |c: char| of.map_or_else(|| is_space(c), |of| of.contains(c));
    let text = if start { text.trim_start_matches(gone) } else { text };
    if end { text.trim_end_matches(gone) } else { text }
}

/// The words of a text: so many, and the rest.
fn words(text: &str, limit: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(is_space).filter(|_| words.len() < limit).unwrap_or(rest.len());
        words.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    words
}

/// The words of a text: what is before so many, and those.
fn last_words(text: &str, limit: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let space = rest.char_indices().rev().find(|(_, c)| is_space(*c)).filter(|_| words.len() < limit);
        let start = space.map_or(0, |(at, c)| at + c.len_utf8());
        words.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    words.reverse();
    words
}

/// The lines of a text, with what ends them or without.
fn lines(text: &str, ends: bool) -> Vec<&str> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let length = rest.find(ENDS).unwrap_or(rest.len());
        let end = match rest[length..].chars().next() {
            Some('\r') if rest[length..].starts_with("\r\n") => length + 2,
            found => length + found.map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if ends { end } else { length }]);
        rest = &rest[end..];
    }
    lines
}

/// A text that is filled up on one side, or on both.
fn padded(text: &str, width: usize, fill: char, name: &str) -> String {
    let lack = width.saturating_sub(text.chars().count());
    let left = match name {
        "ljust" => 0,
        "rjust" => lack,
        _ => lack / 2 + (lack & width & 1),
    };
    let fill = |count: usize| fill.to_string().repeat(count);
    format!("{}{text}{}", fill(left), fill(lack - left))
}

/// A text whose words begin with capitals. A word is what has letters only: `They'Re`.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        if within {
            out.extend(c.to_lowercase());
        } else {
            let mut capital = c.to_uppercase();
            out.extend(capital.next());
            out.extend(capital.flat_map(char::to_lowercase));
        }
        within = is_cased(c);
    }
    out
}

fn swapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
    }
    out
}

fn trim(value: &Value, chars: Option<&str>) -> String {
    strip(&value.to_string(), chars, true, true).to_owned()
}

fn center(value: &Value, width: Option<u16>) -> String {
    padded(&value.to_string(), width.unwrap_or(80).into(), ' ', "center")
}

/// Lines that begin with a width of spaces, or a text; the first one, and empty ones, where it is said.
fn indent(
    value: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    more: Kwargs,
) -> Result<String, Error> {
    let width = width.or(more.get("width")?).unwrap_or_else(|| 4.into());
    let first = first.or(more.get("first")?).unwrap_or(false);
    let blank = blank.or(more.get("blank")?).unwrap_or(false);
    more.assert_all_used()?;
    let width = indentation(&width)?;
    let mut out = String::new();
    for (number, line) in lines(&format!("{value}\n"), false).into_iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        if if number == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&width);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// The library's filter, which takes the length by name only.
fn truncate(
    state: &mut State<'_, '_>,
    value: &Value,
    length: Option<Value>,
    more: Kwargs,
) -> Result<Value, Error> {
    let mut named = Vec::new();
    for name in more.args() {
        named.push((name.to_owned(), more.get(name)?));
    }
    named.extend(length.map(|length| ("length".to_owned(), length)));
    minijinja_contrib::filters::truncate(state, value, named.into_iter().collect())
}

fn int(
    state: &State<'_, '_>,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    more: Kwargs,
) -> Result<Value, Error> {
    let default = default.or(more.get("default")?).unwrap_or_else(|| 0.into());
    let base = base.or(more.get("base")?);
    more.assert_all_used()?;
    let value = number(value)?;
    let infinite =
        value.as_str().and_then(|text| text.parse().ok()).is_some_and(|found: f64| !found.is_finite());
    if infinite {
        Ok(default)
    } else {
        filters::int(state, &value, Some(default), base, Kwargs::from_iter(NONE))
    }
}

fn float(state: &State<'_, '_>, value: &Value, default: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let default = default.or(more.get("default")?).unwrap_or_else(|| 0.0.into());
    more.assert_all_used()?;
    filters::float(state, &number(value)?, Some(default), Kwargs::from_iter(NONE))
}

const NONE: [(&str, Value); 0] = [];

/// What may be a number, as Python reads it from a text.
fn number(value: &Value) -> Result<Value, Error> {
    match value.as_str() {
        _ if value.is_undefined() => Err(Error::from(ErrorKind::UndefinedError)),
        Some(text) if text.contains('_') && text.contains(|c: char| c.is_ascii_digit()) => {
            Err(refused("numbers with underscores are not read"))
        }
        Some(text) => Ok(text.trim_matches(is_space).into()),
        None => Ok(value.clone()),
    }
}

fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Functions and macros have no other kind; what is undefined calls itself callable in Jinja too.
fn is_callable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
}
