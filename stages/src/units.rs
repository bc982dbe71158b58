//! Times and sizes as people write them.

use std::time::Duration;

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Reads `90s`, `10m`, `1h30m`, `2d`: whole numbers, each with its unit, from large to small.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0_u64;
    let mut largest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let mut tail = rest[digits..].chars();
        let letter = tail.next()?;
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == letter)?;
        if *unit >= largest {
            return None;
        }
        largest = *unit;
        seconds = seconds.checked_add(number.checked_mul(*unit)?)?;
        rest = tail.as_str().trim_start();
    }
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Writes a time of whole seconds the way [`parse_duration`] reads it: `1h30m`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (letter, unit) in UNITS {
        if rest >= unit {
            text.push_str(&format!("{}{letter}", rest / unit));
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads `500MB`, `4GB`: bytes, in powers of ten.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let unit: u64 = match text[digits..].trim_start() {
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h30m", 5_400), ("2d 3h", 183_600)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(183_661)), "2d3h1m1s");
        assert_eq!(show_duration(Duration::from_secs(7_200)), "2h");
        for bad in ["", "10", "m", "0s", "1m1h", "1m1m", "-1s", "1.5h", "soon"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_powers_of_ten() {
        assert_eq!(parse_size("500MB"), Some(500_000_000));
        assert_eq!(parse_size("4 GB"), Some(4_000_000_000));
        for bad in ["", "4", "GB", "0MB", "4GiB", "1.5GB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
