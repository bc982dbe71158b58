//! The table that ends a run: one row an iteration.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{Cell, CellAlignment, Table};
use serde_json::{Map, Value};

use crate::event::Summary;
use crate::report::duration;

/// The figures of one iteration.
pub(super) type Row = Map<String, Value>;

/// A column: its title and its text for a row; columns without any text are left out.
struct Column {
    title: String,
    cell: Box<dyn Fn(&Row) -> String>,
}

pub(super) fn number(row: &Row, path: &[&str]) -> Option<f64> {
    let (first, rest) = path.split_first()?;
    // Adding zero turns -0.0 into 0.0.
    Some(rest.iter().try_fold(row.get(*first)?, |value, key| value.get(key))?.as_f64()? + 0.0)
}

fn column(title: &str, cell: impl Fn(&Row) -> Option<String> + 'static) -> Column {
    Column { title: title.to_owned(), cell: Box::new(move |row| cell(row).unwrap_or_default()) }
}

pub(super) fn percent(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

/// The largest key of a measure such as `pass_at_k`, by its number: the one people compare.
pub(super) fn largest(rows: &[&Row], measure: &str) -> Option<String> {
    let keys = rows.iter().filter_map(|row| row.get(measure)?.as_object()).flat_map(Map::keys);
    keys.max_by_key(|key| {
        let mut parts = key.split('-').map(|part| part.parse::<u64>().unwrap_or(0));
        (parts.next(), parts.next())
    })
    .cloned()
}

fn measure(rows: &[&Row], name: &'static str, title: &str) -> Option<Column> {
    let key = largest(rows, name)?;
    let heading = title.replace('K', &key);
    Some(column(&heading, move |row| number(row, &[name, &key]).map(percent)))
}

fn columns(rows: &[&Row]) -> Vec<Column> {
    let mut columns = vec![
        column("iteration", |row| {
            Some(row.get("iteration").map_or("start".to_owned(), |iteration| iteration.to_string()))
        }),
        column("t", |row| number(row, &["temperature"]).map(|value| format!("{value:.2}"))),
        column("τ", |row| number(row, &["threshold"]).map(|value| format!("{value:.2}"))),
        column("balance", |row| number(row, &["balance_score"]).map(|value| format!("{value:.3}"))),
        column("kept / sampled", |row| {
            Some(format!("{:.0} / {:.0}", number(row, &["kept"])?, number(row, &["sampled"])?))
        }),
        column("Pass@1", |row| {
            let error =
                number(row, &["pass_at_1_se"]).map_or(String::new(), |se| format!(" ± {}", percent(se)));
            Some(format!("{}{error}", percent(number(row, &["pass_at_1"])?)))
        }),
    ];
    columns.extend(measure(rows, "pass_at_k", "Pass@K"));
    columns.extend(measure(rows, "pass_at_k_s", "Pass@K"));
    columns.extend(measure(rows, "best_of_k", "Best-of-K"));
    columns.push(column("equations", |row| {
        number(row, &["distinct_equations"]).map(|value| format!("{value:.1}"))
    }));
    columns.push(column("unique", |row| number(row, &["unique_share"]).map(percent)));
    columns.push(column("worker tok/s", |row| {
        number(row, &["tokens_per_s"]).map(|value| format!("{value:.0}"))
    }));
    columns.push(column("worker time", |row| number(row, &["seconds"]).map(duration)));
    columns
}

fn rows(summary: &Summary) -> Vec<&Row> {
    let start = Some(&summary.start).filter(|start| !start.is_empty());
    start.into_iter().chain(&summary.iterations).collect()
}

/// The cells, headings first; empty when nothing was measured.
#[must_use]
pub fn iterations_table(summary: &Summary) -> Vec<Vec<String>> {
    let rows = rows(summary);
    if rows.is_empty() {
        return Vec::new();
    }
    let columns = columns(&rows);
    filled(&rows, columns)
}

/// The cells of columns that have any text, headings first.
fn filled(rows: &[&Row], mut columns: Vec<Column>) -> Vec<Vec<String>> {
    columns.retain(|column| rows.iter().any(|row| !(column.cell)(row).is_empty()));
    let heading = columns.iter().map(|column| column.title.clone()).collect();
    let body = rows.iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect());
    std::iter::once(heading).chain(body).collect()
}

/// What was measured at further temperatures (`evaluate.at`), a row for each of every iteration; empty when
/// nothing was.
#[must_use]
pub(super) fn temperatures_table(summary: &Summary) -> Vec<Vec<String>> {
    let mut cells: Vec<Row> = Vec::new();
    for row in rows(summary) {
        for (temperature, measured) in row.get("at").and_then(Value::as_object).into_iter().flatten() {
            let Some(measured) = measured.as_object() else { continue };
            let mut cell = measured.clone();
            cell.extend(row.get("iteration").map(|iteration| ("iteration".to_owned(), iteration.clone())));
            cell.extend(temperature.parse::<f64>().map(|value| ("temperature".to_owned(), value.into())));
            cells.push(cell);
        }
    }
    let rows: Vec<&Row> = cells.iter().collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let mut columns: Vec<Column> = columns(&rows);
    columns.push(column("mean accuracy", |row| number(row, &["mean_accuracy"]).map(percent)));
    columns.push(column("entropy", |row| number(row, &["entropy"]).map(|value| format!("{value:.2}"))));
    filled(&rows, columns)
}

/// The table as text that is also Markdown; `None` when nothing but time was measured.
#[must_use]
pub fn iterations_text(summary: &Summary) -> Option<String> {
    let cells = iterations_table(summary);
    let measured = cells.first()?.iter().any(|title| title != "iteration" && title != "worker time");
    measured.then(|| markdown(&cells, CellAlignment::Right))?
}

/// Cells, headings first, as text that is also Markdown; numbers are on the right, the first column as
/// asked for.
pub(super) fn markdown(cells: &[Vec<String>], first: CellAlignment) -> Option<String> {
    let (heading, body) = cells.split_first()?;
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(heading);
    for row in body {
        let cell = |(column, text): (usize, &String)| {
            Cell::new(text).set_alignment(if column == 0 { first } else { CellAlignment::Right })
        };
        table.add_row(row.iter().enumerate().map(cell));
    }
    Some(table.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{iterations_table, iterations_text, temperatures_table};
    use crate::event::Summary;

    #[test]
    fn a_row_a_temperature_that_was_measured() {
        let at = json!({"0.7": {"mean_accuracy": 0.5, "pass_at_k": {"8": 0.7}, "entropy": 1.234},
                        "1": {"mean_accuracy": 0.25, "pass_at_k": {"8": 0.75}, "entropy": 2.0}});
        let row = |value: serde_json::Value| value.as_object().cloned().expect("an object");
        let summary = Summary {
            start: row(json!({"pass_at_1": 0.31})),
            iterations: vec![row(json!({"iteration": 0, "temperature": 1.0, "at": at}))],
            ..Summary::default()
        };
        assert_eq!(
            temperatures_table(&summary),
            [
                ["iteration", "t", "Pass@8", "mean accuracy", "entropy"],
                ["0", "0.70", "70.0", "50.0", "1.23"],
                ["0", "1.00", "75.0", "25.0", "2.00"],
            ]
        );
        assert!(temperatures_table(&Summary::default()).is_empty());
    }

    #[test]
    fn a_row_an_iteration_and_no_empty_column() {
        let row = |value: serde_json::Value| value.as_object().cloned().expect("an object");
        let summary = Summary {
            start: row(json!({"pass_at_1": 0.31, "pass_at_1_se": 0.027, "pass_at_k": {"8": 0.6, "32": 0.8}})),
            iterations: vec![row(json!({
                "iteration": 0, "temperature": 0.6, "threshold": -0.1, "balance_score": 0.2601, "kept": 635,
                "sampled": 9600, "pass_at_1": 0.413, "pass_at_1_se": 0.028, "pass_at_k": {"8": 0.7, "32": 0.85},
            }))],
            ..Summary::default()
        };
        assert_eq!(
            iterations_table(&summary),
            [
                ["iteration", "t", "τ", "balance", "kept / sampled", "Pass@1", "Pass@32"],
                ["start", "", "", "", "", "31.0 ± 2.7", "80.0"],
                ["0", "0.60", "-0.10", "0.260", "635 / 9600", "41.3 ± 2.8", "85.0"],
            ]
        );
        assert!(iterations_table(&Summary::default()).is_empty());
        assert!(iterations_text(&summary).is_some_and(|text| text.contains("41.3 ± 2.8")));
        let only_time = vec![row(json!({"iteration": 0, "seconds": 0.0}))];
        assert!(iterations_text(&Summary { iterations: only_time, ..Summary::default() }).is_none());
    }
}
