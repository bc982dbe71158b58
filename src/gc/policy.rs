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

/// Reads `30d`, `12h`, `10m`, `45s` or `0`.
///
/// # Errors
/// When it is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write for example 30d, 12h, 10m or 45s");
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match &text[digits..] {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        "" if number == 0 => 1,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

/// Reads `20GB`, `500MB`, `1.5TB`, `4096` or `0`: bytes.
///
/// # Errors
/// When it is none of these.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write for example 20GB, 500MB or 0");
    let digits = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..digits].trim().parse().map_err(|_| wrong())?;
    let unit = match &text[digits..] {
        "TB" => 1e12,
        "GB" => 1e9,
        "MB" => 1e6,
        "kB" => 1e3,
        "B" | "" => 1.0,
        _ => return Err(wrong()),
    };
    let bytes = number * unit;
    if (0.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
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
    fn times_sizes_and_retentions_are_read_or_refused() {
        assert_eq!(
            ["20GB", "1.5 TB", "500MB", "3kB", "7B", "12", "0"].map(parse_size),
            [20_000_000_000, 1_500_000_000_000, 500_000_000, 3_000, 7, 12, 0].map(Ok)
        );
        for wrong in ["", "GB", "-1GB", "20 gigs", "20GiB", "nan", "1e30TB"] {
            assert!(parse_size(wrong).unwrap_err().contains("20GB"), "{wrong}");
        }
        let seconds = |text| parse_duration(text).ok().map(|duration| duration.as_secs());
        assert_eq!(["30d", "2h", "10m", "45s", "0"].map(seconds), [2_592_000, 7_200, 600, 45, 0].map(Some));
        assert_eq!(["", "5", "d", "1w", "-1d", "99999999999999999999d"].map(seconds), [None; 6]);
        assert_eq!(parse_retain("optimizer=1"), Ok(("optimizer".to_owned(), 1)));
        for wrong in ["optimizer", "optimizer=0", "=1", "optimizer=x"] {
            assert!(parse_retain(wrong).is_err(), "{wrong}");
        }
    }
}
