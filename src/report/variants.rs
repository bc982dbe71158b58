//! The table that ends a sweep: one row a variant.

use comfy_table::CellAlignment;

use super::table::{Row, largest, markdown, number, percent};
use crate::event::VariantSummary;

/// A figure of the table: its title, its path in a row, and how it is written.
struct Figure {
    title: String,
    path: Vec<String>,
    percent: bool,
    /// Whether the difference to the baseline is a column too.
    compared: bool,
}

impl Figure {
    /// Whether the paired test of problems is about it.
    fn is_tested(&self, variants: &[VariantSummary]) -> bool {
        self.path == ["pass_at_1"] && variants.iter().any(|variant| variant.paired.is_some())
    }

    fn of(&self, row: &Row) -> Option<f64> {
        number(row, &self.path.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn text(&self, value: f64) -> String {
        if self.percent { percent(value) } else { format!("{value:.0}") }
    }

    /// `62.5 ± 1.2`, or without the error where there is none.
    fn with_error(&self, value: Option<f64>, error: Option<f64>, sign: bool) -> String {
        let Some(value) = value else { return String::new() };
        let text = self.text(value);
        // What rounds to nothing has no sign.
        let nothing = text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.');
        let text = match (sign, nothing) {
            (_, true) => text.trim_start_matches('-').to_owned(),
            (true, false) if value > 0.0 => format!("+{text}"),
            _ => text,
        };
        error.map_or(text.clone(), |error| format!("{text} ± {}", self.text(error)))
    }
}

fn figures(variants: &[VariantSummary]) -> Vec<Figure> {
    let rows: Vec<&Row> = variants.iter().map(|variant| &variant.mean).collect();
    let single = |title: &str, name: &str, percent| Figure {
        title: title.to_owned(),
        path: vec![name.to_owned()],
        percent,
        compared: percent,
    };
    let by_k = |name: &str, title: &str, compared| {
        let key = largest(&rows, name)?;
        let path = vec![name.to_owned(), key.clone()];
        Some(Figure { title: title.replace('K', &key), path, percent: true, compared })
    };
    let all = [
        Some(single("Pass@1", "pass_at_1", true)),
        Some(single("area", "pass_at_1_area", true)),
        by_k("pass_at_k", "Pass@K", true),
        by_k("pass_at_k_s", "Pass@K", true),
        by_k("best_of_k", "Best-of-K", false),
        Some(single("kept", "kept", false)),
        Some(single("tokens", "charged_tokens_total", false)),
    ];
    all.into_iter().flatten().filter(|figure| rows.iter().any(|row| figure.of(row).is_some())).collect()
}

/// The cells, headings first; empty when there is no variant. With `bold`, the best of each measure is
/// marked as Markdown does.
fn cells(variants: &[VariantSummary], bold: bool) -> Vec<Vec<String>> {
    let Some(first) = variants.first() else { return Vec::new() };
    let figures = figures(variants);
    let seeds = variants.iter().map(|variant| variant.seeds.len()).max().unwrap_or(0);
    let complete = |variant: &VariantSummary| variant.seeds.iter().filter(|seed| seed.complete).count();
    let partial = variants.iter().any(|variant| complete(variant) < variant.seeds.len());
    let mut heading = vec!["variant".to_owned()];
    if seeds > 1 || partial {
        heading.push("seeds".to_owned());
    }
    for figure in &figures {
        heading.push(figure.title.clone());
        if figure.compared && variants.len() > 1 {
            heading.push(format!("Δ {}", figure.title));
        }
        if figure.is_tested(variants) {
            heading.push("p".to_owned());
        }
    }
    heading.extend(["executed", "cached"].map(str::to_owned));
    let best =
        |figure: &Figure| variants.iter().filter_map(|variant| figure.of(&variant.mean)).reduce(f64::max);
    let row = |variant: &VariantSummary| {
        let mut row = vec![variant.name.clone()];
        if seeds > 1 || partial {
            let (done, all) = (complete(variant), variant.seeds.len());
            row.push(if done < all { format!("{done} of {all}") } else { all.to_string() });
        }
        for figure in &figures {
            let mean = figure.of(&variant.mean);
            let text = figure.with_error(mean, figure.of(&variant.se), false);
            let mark = bold && figure.percent && variants.len() > 1 && mean.is_some() && mean == best(figure);
            row.push(if mark { format!("**{text}**") } else { text });
            if figure.compared && variants.len() > 1 {
                let (difference, error) = (figure.of(&variant.difference), figure.of(&variant.difference_se));
                row.push(figure.with_error(difference, error, true));
            }
            if figure.is_tested(variants) {
                row.push(variant.paired.map_or(String::new(), |test| format!("{:.3}", test.p)));
            }
        }
        row.extend([variant.executed.to_string(), variant.cached.to_string()]);
        row
    };
    debug_assert!(first.difference.is_empty(), "the first variant is the baseline");
    std::iter::once(heading).chain(variants.iter().map(row)).collect()
}

/// The cells, headings first; empty when there is no variant.
#[must_use]
pub(super) fn variants_table(variants: &[VariantSummary]) -> Vec<Vec<String>> {
    cells(variants, false)
}

/// The table as text; `None` when there is no variant.
#[must_use]
pub fn variants_text(variants: &[VariantSummary]) -> Option<String> {
    markdown(&cells(variants, false), CellAlignment::Left)
}

/// The table as Markdown with the best figures in bold.
#[must_use]
pub fn variants_markdown(variants: &[VariantSummary]) -> Option<String> {
    markdown(&cells(variants, true), CellAlignment::Left)
}

/// All figures as comma-separated values: `FIGURE`, `FIGURE_se`, `FIGURE_difference` and
/// `FIGURE_difference_se` for each, unrounded.
#[must_use]
pub fn variants_csv(variants: &[VariantSummary]) -> String {
    let mut paths: Vec<Vec<&str>> = Vec::new();
    for path in variants.iter().flat_map(|variant| leaves(&variant.mean)) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    let mut lines = vec![vec!["variant".to_owned(), "seeds".to_owned()]];
    for path in &paths {
        let name = path.join(".");
        lines[0].extend(["", "_se", "_difference", "_difference_se"].map(|end| format!("{name}{end}")));
    }
    lines[0].extend(["better", "worse", "p", "executed", "cached"].map(str::to_owned));
    for variant in variants {
        let complete = variant.seeds.iter().filter(|seed| seed.complete).count();
        let mut line = vec![variant.name.clone(), complete.to_string()];
        for path in &paths {
            let rows = [&variant.mean, &variant.se, &variant.difference, &variant.difference_se];
            line.extend(rows.map(|row| number(row, path).map_or(String::new(), |value| value.to_string())));
        }
        line.extend(variant.paired.map_or_else(
            || vec![String::new(); 3],
            |test| vec![test.better.to_string(), test.worse.to_string(), test.p.to_string()],
        ));
        line.extend([variant.executed.to_string(), variant.cached.to_string()]);
        lines.push(line);
    }
    let quoted = |cell: &String| {
        let plain = !cell.contains([',', '"', '\n']);
        if plain { cell.clone() } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
    };
    let text = |line: &Vec<String>| line.iter().map(quoted).collect::<Vec<_>>().join(",");
    lines.iter().map(text).collect::<Vec<_>>().join("\n")
}

fn leaves(row: &Row) -> Vec<Vec<&str>> {
    let mut paths = Vec::new();
    for (name, value) in row {
        match value.as_object() {
            Some(inner) => {
                paths.extend(leaves(inner).into_iter().map(|path| [vec![name.as_str()], path].concat()));
            }
            None => paths.push(vec![name.as_str()]),
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::SeedSummary;

    fn variants() -> [VariantSummary; 2] {
        let row = |value: serde_json::Value| value.as_object().cloned().expect("an object");
        let seed = SeedSummary { complete: true, ..SeedSummary::default() };
        let baseline = VariantSummary {
            name: "baseline".to_owned(),
            executed: 30,
            cached: 2,
            seeds: vec![seed.clone(), seed.clone()],
            mean: row(json!({"kept": 40.0, "pass_at_1": 0.5, "pass_at_k": {"4": 0.6, "8": 0.7}})),
            se: row(json!({"kept": 1.0, "pass_at_1": 0.02, "pass_at_k": {"4": 0.0, "8": 0.01}})),
            ..VariantSummary::default()
        };
        let other = VariantSummary {
            name: "a, b".to_owned(),
            executed: 0,
            seeds: vec![seed, SeedSummary::default()],
            mean: row(json!({"kept": 40.0, "pass_at_1": 0.4, "pass_at_k": {"4": 0.6, "8": 0.72}})),
            difference: row(json!({"kept": 0.0, "pass_at_1": -0.1, "pass_at_k": {"4": 0.0, "8": 0.02}})),
            ..baseline.clone()
        };
        [baseline, VariantSummary { se: Row::new(), ..other }]
    }

    #[test]
    fn a_row_a_variant_with_errors_and_differences() {
        assert_eq!(
            cells(&variants(), true),
            [
                [
                    "variant",
                    "seeds",
                    "Pass@1",
                    "Δ Pass@1",
                    "Pass@8",
                    "Δ Pass@8",
                    "kept",
                    "executed",
                    "cached"
                ],
                ["baseline", "2", "**50.0 ± 2.0**", "", "70.0 ± 1.0", "", "40 ± 1", "30", "2"],
                ["a, b", "1 of 2", "40.0", "-10.0", "**72.0**", "+2.0", "40", "0", "2"],
            ]
        );
        assert!(variants_text(&[]).is_none());
    }

    #[test]
    fn values_separated_by_commas_hold_every_figure() {
        let text = variants_csv(&variants());
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("variant,seeds,kept,kept_se,kept_difference,kept_difference_se,pass_at_1,")
        );
        assert!(lines[0].ends_with("pass_at_k.8_difference_se,better,worse,p,executed,cached"));
        assert!(lines[1].starts_with("baseline,2,40,1,,,0.5,0.02,,"), "{}", lines[1]);
        assert!(lines[2].starts_with("\"a, b\",1,40,,0,,0.4,,-0.1,,"), "{}", lines[2]);
    }
}
