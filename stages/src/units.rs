//! Times and sizes as people write them, and the machine's memory as Linux writes it.

use std::time::Duration;

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Reads `90s`, `10m`, `1h30m`, `2d`: whole numbers, each with its unit, from large to small; `0` needs none.
///
/// # Errors
/// When it is none of these: how to write one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write for example 30d, 12h, 1h30m or 45s");
    seconds(text.trim()).map(Duration::from_secs).ok_or_else(wrong)
}

fn seconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut seconds, mut largest) = (text, 0_u64, u64::MAX);
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
    (!text.is_empty()).then_some(seconds)
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

/// Reads `20GB`, `500 MB`, `1.5TB`, `4096` or `0`: bytes, in powers of ten.
///
/// # Errors
/// When it is none of these: how to write one.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write for example 20GB, 500MB or 1.5TB");
    let text = text.trim();
    let digits = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let number = text[..digits].trim();
    let unit = match &text[digits..] {
        "TB" => 1e12,
        "GB" => 1e9,
        "MB" => 1e6,
        "kB" | "KB" => 1e3,
        "B" | "" => 1.0,
        _ => return Err(wrong()),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(wrong());
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number below 2^63"
    )]
    if bytes < 1e18 { Ok(bytes.round() as u64) } else { Err(wrong()) }
}

/// Writes bytes for people: `512 B`, `1.4 MB`, `2.7 GB` (powers of ten).
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    if value < 1000.0 {
        return format!("{bytes} B");
    }
    for unit in ["kB", "MB", "GB"] {
        value /= 1000.0;
        if value < 999.95 {
            return format!("{value:.1} {unit}");
        }
    }
    format!("{:.1} TB", value / 1000.0)
}

/// A size that Linux tells of this machine's memory, such as `MemTotal`, in bytes.
#[must_use]
pub fn memory_of_machine(what: &str) -> Option<u64> {
    let facts = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = facts.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5_400),
            ("2d 3h", 183_600),
            ("30d", 2_592_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(183_661)), "2d3h1m1s");
        assert_eq!(show_duration(Duration::from_secs(7_200)), "2h");
        for bad in ["", "10", "m", "1m1h", "1m1m", "-1s", "1.5h", "1w", "soon", "99999999999999999999d"] {
            assert!(parse_duration(bad).unwrap_err().contains("1h30m"), "{bad}");
        }
    }

    #[test]
    fn sizes_are_powers_of_ten() {
        assert_eq!(
            ["500MB", "4 GB", "1.5 TB", "3kB", "3KB", "7B", "12", "0"].map(parse_size),
            [500_000_000, 4_000_000_000, 1_500_000_000_000, 3_000, 3_000, 7, 12, 0].map(Ok)
        );
        for bad in ["", "GB", "-1GB", "20 gigs", "4GiB", "nan", "inf", "1e3", "1e30TB", "9999999999TB"] {
            assert!(parse_size(bad).unwrap_err().contains("20GB"), "{bad}");
        }
        assert_eq!(
            [999, 1000, 1_400_000, 999_960_000, 2_700_000_000_000].map(show_size),
            ["999 B", "1.0 kB", "1.4 MB", "1.0 GB", "2.7 TB"]
        );
    }
}
