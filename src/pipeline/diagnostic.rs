//! One problem of a pipeline file, and how it looks.

use std::fmt;
use std::path::PathBuf;

/// A problem of a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The pipeline file.
    pub path: PathBuf,
    /// Where the offending text is.
    pub origin: Origin,
    /// The field, as a path of keys and indices: `iteration.explore.with.temprature`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Where a part of a pipeline was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the file.
    File {
        /// 1-based.
        line: usize,
        /// 1-based, in characters.
        column: usize,
        /// The line, with the number of characters to underline; absent for the file as a whole.
        snippet: Option<(String, usize)>,
    },
    /// In an override, given here whole: `key=value`.
    CommandLine(String),
    /// Nowhere: the file could not be read.
    Nowhere,
}

impl Diagnostic {
    /// A problem with the file itself.
    pub(crate) fn of_file(path: PathBuf, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { path, origin: Origin::Nowhere, field: String::new(), message: message.into(), hint }
    }

    /// The line in the file, 1-based.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self.origin {
            Origin::File { line, .. } => Some(line),
            Origin::CommandLine(_) | Origin::Nowhere => None,
        }
    }

    /// The column in the line, 1-based.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        match self.origin {
            Origin::File { column, .. } => Some(column),
            Origin::CommandLine(_) | Origin::Nowhere => None,
        }
    }

    /// The order of a report: the file from top to bottom, then the command line.
    pub(crate) fn order(&self) -> (usize, usize) {
        (self.line().unwrap_or(usize::MAX), self.column().unwrap_or(usize::MAX))
    }
}

impl fmt::Display for Diagnostic {
    /// Several lines, the last without a line break.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "error: {}", self.message)?;
        match &self.origin {
            Origin::Nowhere => {}
            Origin::CommandLine(text) => write!(formatter, "\n  --> command line: {text}")?,
            Origin::File { line, column, snippet } => {
                let width = line.to_string().len().max(2);
                let empty = "";
                write!(formatter, "\n{empty:width$}--> {}:{line}:{column}", self.path.display())?;
                if let Some((text, length)) = snippet {
                    let before: String =
                        text.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
                    let carets = "^".repeat((*length).max(1));
                    write!(formatter, "\n{empty:width$} |\n{line:width$} | {text}")?;
                    write!(formatter, "\n{empty:width$} | {before}{carets}")?;
                }
            }
        }
        match &self.hint {
            Some(hint) => write!(formatter, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}
