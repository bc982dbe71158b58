//! Where every key and value of a YAML text stands.
//!
//! The values come from `serde_yaml`, which forgets positions; this index is made by a second parser
//! and only ever used to say where something is.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, Span};

/// Some characters of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// 1-based.
    pub(crate) line: usize,
    /// 1-based, in characters.
    pub(crate) column: usize,
    /// Number of characters.
    pub(crate) width: usize,
}

/// Which part of an entry is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Its key.
    Key,
    /// Its value, where that is a scalar; otherwise its key.
    Value,
}

/// Path of keys and indices (`iteration.explore.with.k.0`) → position.
#[derive(Debug, Clone, Default)]
pub(crate) struct Positions {
    entries: BTreeMap<String, Entry>,
    /// Keys given twice: the path, where it is given again, and the line where it was first.
    pub(crate) duplicates: Vec<(String, Mark, usize)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    key: Option<Mark>,
    scalar: Option<Mark>,
}

/// An open collection of the walk.
enum Open {
    Sequence { path: String, next: usize },
    Mapping { path: String, key: Option<String>, in_key: bool },
}

impl Positions {
    /// Indexes the text up to where it is no YAML.
    pub(crate) fn of(text: &str) -> Self {
        let mut positions = Self::default();
        let mut open: Vec<Open> = Vec::new();
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { break };
            match event {
                Event::Scalar(value, ..) => {
                    if is_key(&open) {
                        positions.key(&mut open, &value, mark(&span));
                    } else if let Some(path) = value_path(&mut open).filter(|_| !span.is_empty()) {
                        positions.entries.entry(path).or_default().scalar = Some(mark(&span));
                    }
                }
                Event::Alias(_) => {
                    if is_key(&open) {
                        positions.key(&mut open, "*", mark(&span));
                    } else if let Some(path) = value_path(&mut open) {
                        positions.entries.entry(path).or_default().scalar = Some(mark(&span));
                    }
                }
                Event::MappingStart(..) => {
                    let path = child_path(&mut open);
                    open.push(Open::Mapping { path, key: None, in_key: true });
                }
                Event::SequenceStart(..) => {
                    let path = child_path(&mut open);
                    open.push(Open::Sequence { path, next: 0 });
                }
                Event::MappingEnd | Event::SequenceEnd => drop(open.pop()),
                Event::DocumentEnd => break,
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {}
            }
        }
        positions
    }

    fn key(&mut self, open: &mut [Open], name: &str, mark: Mark) {
        let Some(Open::Mapping { path, key, in_key }) = open.last_mut() else { return };
        let full = join(path, name);
        *in_key = false;
        match self.entries.get(&full).and_then(|entry| entry.key) {
            Some(first) => {
                // What is below it is not below the first.
                *key = Some(format!("{full}#{}", self.duplicates.len()));
                self.duplicates.push((full, mark, first.line));
            }
            None => {
                *key = Some(full.clone());
                self.entries.entry(full).or_default().key = Some(mark);
            }
        }
    }

    /// The position of exactly this entry.
    pub(crate) fn get(&self, path: &str, at: At) -> Option<Mark> {
        let entry = self.entries.get(path)?;
        match at {
            At::Key => entry.key.or(entry.scalar),
            At::Value => entry.scalar.or(entry.key),
        }
    }

    /// The position of this entry, or of the nearest one around it.
    pub(crate) fn near(&self, path: &str, at: At) -> Option<Mark> {
        if let Some(mark) = self.get(path, at) {
            return Some(mark);
        }
        let (parent, _) = path.rsplit_once('.')?;
        self.near(parent, At::Key)
    }

    /// The first entry whose key is `name`, wherever it is.
    pub(crate) fn named(&self, name: &str) -> Option<&str> {
        self.entries.keys().map(String::as_str).find(|path| path.rsplit('.').next() == Some(name))
    }
}

/// `path.name`; one of them may be empty.
pub(crate) fn join(path: &str, name: &str) -> String {
    match (path, name) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

fn mark(span: &Span) -> Mark {
    let width = if span.start.line() == span.end.line() {
        span.end.col().saturating_sub(span.start.col())
    } else {
        1
    };
    Mark { line: span.start.line(), column: span.start.col() + 1, width: width.max(1) }
}

fn is_key(open: &[Open]) -> bool {
    matches!(open.last(), Some(Open::Mapping { in_key: true, .. }))
}

/// The path of a value that begins now; `None` when it is the whole text.
fn value_path(open: &mut [Open]) -> Option<String> {
    match open.last_mut()? {
        Open::Sequence { path, next } => {
            *next += 1;
            Some(join(path, &(*next - 1).to_string()))
        }
        Open::Mapping { path, key, in_key } => {
            *in_key = true;
            Some(key.take().unwrap_or_else(|| path.clone()))
        }
    }
}

/// The path of a collection that begins now, as a value or as the (refused) key of a mapping.
fn child_path(open: &mut [Open]) -> String {
    if let Some(Open::Mapping { path, key, in_key }) = open.last_mut()
        && *in_key
    {
        *in_key = false;
        let full = join(path, "?");
        *key = Some(full.clone());
        return full;
    }
    value_path(open).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_values_items_and_flow_mappings_have_positions() {
        let text = "name: math\nsetup:\n  a:\n    with: {k: [1, 22], t: é}\n  b: &x\n    uses: sft\n";
        let positions = Positions::of(text);
        let at = |path, at| positions.get(path, at).map(|mark| (mark.line, mark.column, mark.width)).unwrap();
        assert_eq!(at("name", At::Key), (1, 1, 4));
        assert_eq!(at("name", At::Value), (1, 7, 4));
        assert_eq!(at("setup.a", At::Value), (3, 3, 1), "a mapping is shown by its key");
        assert_eq!(at("setup.a.with.k.1", At::Value), (4, 19, 2));
        assert_eq!(at("setup.a.with.t", At::Key), (4, 24, 1));
        assert_eq!(at("setup.b.uses", At::Value), (6, 11, 3));
        assert_eq!(positions.near("setup.b.with.policy", At::Value).unwrap().line, 5);
        assert_eq!(positions.near("nothing", At::Key), None);
    }

    #[test]
    fn keys_given_twice_are_found_with_their_first_line() {
        let positions = Positions::of("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n");
        assert_eq!(positions.duplicates, [("b.c".to_owned(), Mark { line: 5, column: 3, width: 1 }, 3)]);
    }
}
