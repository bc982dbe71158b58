//! What is kept, as asked for on the command line or in a pipeline file.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a collection keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Runs that started within this time stay.
    pub keep: Duration,
    /// So do that many runs of every pipeline: the last, and the last that are done.
    pub keep_last: usize,
    /// Whatever was written within this time stays.
    pub grace: Duration,
}

/// Output name → of how many iterations, counted from the last, it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention(BTreeMap<String, usize>);

impl Retention {
    /// Keeps all of every output but these.
    #[must_use]
    pub fn new(outputs: impl IntoIterator<Item = (String, usize)>) -> Self {
        Self(outputs.into_iter().collect())
    }

    /// Whether everything is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The outputs and their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().map(|(output, count)| (output.as_str(), *count))
    }
}

/// Reads `optimizer=1`.
///
/// # Errors
/// When it is not that.
pub fn parse_retain(text: &str) -> Result<(String, usize), String> {
    let wrong = || format!("`{text}` is no output and number of iterations: write for example optimizer=1");
    let (output, count) = text.split_once('=').ok_or_else(wrong)?;
    let count = count.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
    if output.is_empty() { Err(wrong()) } else { Ok((output.to_owned(), count)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retentions_are_read_or_refused() {
        assert_eq!(parse_retain("optimizer=1"), Ok(("optimizer".to_owned(), 1)));
        for wrong in ["optimizer", "optimizer=0", "=1", "optimizer=x"] {
            assert!(parse_retain(wrong).is_err(), "{wrong}");
        }
    }
}
