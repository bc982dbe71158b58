//! Shows a run's events: to people, or as JSON lines.

mod aside;
mod chart;
mod html;
mod human;
mod json;
mod table;
mod variants;

pub use aside::Aside;
pub use html::{Point, Surface, html};
pub use human::Human;
pub use json::Json;
pub use table::{iterations_table, iterations_text};
pub use variants::{variants_csv, variants_markdown, variants_text};

pub use bstar_stages::units::show_size as size;

use crate::event::{Event, Summary};

/// The table that a run ends with: of its iterations, or of the variants of a sweep.
#[must_use]
pub fn summary_text(summary: &Summary) -> Option<String> {
    iterations_text(summary).or_else(|| variants_text(&summary.variants))
}

/// Shows events as they happen.
pub trait Report: Send + Sync {
    /// Shows one, now or with those that follow.
    fn event(&self, event: &Event);

    /// Shows what was held back.
    fn flush(&self) {}

    /// Shows what was held back; nothing is shown afterwards.
    ///
    /// # Errors
    /// When something could not be shown.
    fn end(&self) -> std::io::Result<()> {
        self.flush();
        Ok(())
    }
}

/// `75.2s`, `12m 03s`, `2h 05m`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded seconds of a run")]
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h {minutes:02}m"),
    }
}

/// `45 s`, `3 min`, `2 h 10 min`: for times that are not measured.
#[must_use]
pub fn about(seconds: f64) -> String {
    if seconds < 90.0 {
        return format!("{:.0} s", seconds.max(1.0));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded minutes of a run")]
    let minutes = (seconds / 60.0).round() as u64;
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// `1,944`.
#[must_use]
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 step`, `3 steps`.
#[must_use]
pub fn count(number: impl std::fmt::Display, noun: &str) -> String {
    let number = number.to_string();
    format!("{number} {noun}{}", if number == "1" { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::{about, count, duration, thousands};

    #[test]
    fn durations_and_counts_read_well() {
        assert_eq!(
            [0.04, 59.94, 60.0, 3725.0].map(duration),
            ["0.0s", "59.9s", "1m 00s", "1h 02m"].map(str::to_owned)
        );
        assert_eq!(
            [0.2, 89.0, 91.0, 7_800.0, 7_200.0].map(about),
            ["1 s", "89 s", "2 min", "2 h 10 min", "2 h"]
        );
        assert_eq!([7, 999, 1_944, 1_234_567].map(thousands), ["7", "999", "1,944", "1,234,567"]);
        assert_eq!([count(1, "step"), count(0, "step")], ["1 step", "0 steps"].map(str::to_owned));
    }
}
