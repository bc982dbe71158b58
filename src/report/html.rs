//! A run as one HTML file that needs nothing else: figures as curves over iterations, the balance score of
//! every configuration as maps.

use serde_json::{Map, Value};

use super::chart::{Curve, curves, escaped, heat_map};
use super::count;
use super::table::{iterations_table, largest, number, temperatures_table};
use super::variants::variants_table;
use crate::event::{SeedSummary, Summary, VariantSummary};
use crate::run_record::{RunInfo, StepFailure};

/// The balance score of one configuration.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
pub struct Point {
    /// The temperature.
    pub temperature: f64,
    /// The threshold.
    pub threshold: f64,
    /// Its balance score.
    pub balance_score: f64,
}

/// What the page shows besides the run's record: the balance scores of a search.
#[derive(Debug, Clone)]
pub struct Surface {
    /// The number of its iteration.
    pub iteration: usize,
    /// Which rung of a search by halving it is, from 1; `None` for the last, and for any other search.
    pub rung: Option<usize>,
    /// Every configuration.
    pub points: Vec<Point>,
}

type Row = Map<String, Value>;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --dim: #667; --line: #d5d9e0; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --dim: #9aa3b2; --line: #3a4250; --page: #14181f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p, figcaption { color: var(--dim); } code { font-size: .9em; overflow-wrap: anywhere; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .85rem; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--dim); font: 11px system-ui, sans-serif; } svg .axis { stroke: var(--line); fill: none; }
.legend span { display: inline-block; margin-right: .9rem; } .legend i { display: inline-block; width: .8em;
  height: .8em; border-radius: 2px; margin-right: .3em; }
";

/// A figure of an iteration that becomes a curve.
type Figure<'a> = (String, Box<dyn Fn(&Row) -> Option<f64> + 'a>);

fn figure<'a>(title: &str, path: &[&str]) -> Figure<'a> {
    let path: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
    let value = move |row: &Row| number(row, &path.iter().map(String::as_str).collect::<Vec<_>>());
    (title.to_owned(), Box::new(value))
}

/// The figure of the largest K, `Pass@K` becoming `Pass@32`.
fn by_k<'a>(rows: &[&Row], title: &str, name: &str) -> Option<Figure<'a>> {
    let key = largest(rows, name)?;
    Some(figure(&title.replace('K', &key), &[name, &key]))
}

/// The page.
#[must_use]
pub fn html(run: &RunInfo, surfaces: &[Surface], failures: &[StepFailure]) -> String {
    let start = &run.start;
    let title = format!("{} · run {}", start.pipeline, start.id);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>{title}</h1>\n<p>started {} · seed {} · bstar {}<br><code>{}</code></p>\n",
        escaped(&start.started),
        start.seed,
        escaped(&start.version),
        escaped(&start.typed()),
        title = escaped(&title),
    );
    failed(&mut page, failures);
    match &run.summary {
        None => page.push_str("<p>The run has not ended: there are no figures yet.</p>\n"),
        Some(summary) if summary.variants.is_empty() => one_pipeline(&mut page, summary, surfaces),
        Some(summary) => sweep(&mut page, &summary.variants),
    }
    page.push_str("</body></html>\n");
    page
}

fn failed(page: &mut String, failures: &[StepFailure]) {
    if failures.is_empty() {
        return;
    }
    page.push_str("<h2>What failed</h2>\n");
    for StepFailure { step, message, hint } in failures {
        let hint = hint.as_ref().map_or(String::new(), |hint| format!("<br>hint: {}", escaped(hint)));
        let (step, message) = (escaped(step), escaped(message));
        page.push_str(&format!("<p><code>{step}</code>: {message}{hint}</p>\n"));
    }
}

/// What a run has that repeats nothing, or did not come to its first iteration.
fn results(page: &mut String, summary: &Summary) {
    let heading = ["result", "digest"].map(str::to_owned).to_vec();
    let rows = summary.results.iter().map(|(name, digest)| vec![name.clone(), digest.clone()]);
    page.push_str(&format!(
        "<h2>Results</h2>\n<p>{} executed, {} cached, {} failed, {} not run.</p>\n",
        count(summary.executed, "step"),
        summary.cached,
        summary.failed,
        summary.skipped
    ));
    if !summary.results.is_empty() {
        table(page, &std::iter::once(heading).chain(rows).collect::<Vec<_>>());
    }
}

fn one_pipeline(page: &mut String, summary: &Summary, surfaces: &[Surface]) {
    if summary.iterations.is_empty() && summary.start.is_empty() {
        return results(page, summary);
    }
    table(page, &iterations_table(summary));
    let rows: Vec<&Row> = Some(&summary.start)
        .filter(|start| !start.is_empty())
        .into_iter()
        .chain(&summary.iterations)
        .collect();
    let positions: Vec<String> =
        rows.iter().map(|row| row.get("iteration").map_or("start".to_owned(), Value::to_string)).collect();
    let mut group = |title: &str, about: &str, charts: Vec<(&str, Vec<Figure<'_>>)>| {
        let mut drawn = String::new();
        for (caption, figures) in charts {
            let curve = |(name, value): &Figure<'_>| Curve {
                name: name.clone(),
                values: rows.iter().map(|row| value(row)).collect(),
            };
            drawn.extend(curves(caption, &positions, &figures.iter().map(curve).collect::<Vec<_>>()));
        }
        if !drawn.is_empty() {
            page.push_str(&format!(
                "<h2>{title}</h2>\n<p>{about}</p>\n<div class=\"charts\">{drawn}</div>\n"
            ));
        }
    };
    let some = |figures: Vec<Option<Figure<'static>>>| figures.into_iter().flatten().collect::<Vec<_>>();
    group(
        "Exploration",
        "How many problems can be solved at all, and in how many ways.",
        vec![
            (
                "accuracy",
                some(vec![
                    Some(figure("Pass@1", &["pass_at_1"])),
                    Some(figure("mean accuracy", &["mean_accuracy"])),
                    by_k(&rows, "Pass@K", "pass_at_k"),
                    by_k(&rows, "Pass@K", "pass_at_k_s"),
                ]),
            ),
            (
                "diversity: shares",
                vec![
                    figure("distinct responses", &["unique_share"]),
                    figure("distinct equations", &["distinct_equations_share"]),
                ],
            ),
            (
                "different a query",
                vec![
                    figure("correct responses", &["distinct_correct"]),
                    figure("equations in correct responses", &["distinct_equations"]),
                ],
            ),
            ("entropy, nats a token", vec![figure("entropy", &["entropy"])]),
            ("sampled, and cut short by max_tokens", vec![figure("truncated", &["truncated"])]),
        ],
    );
    group(
        "Exploitation",
        "How well rewards tell good responses from bad ones.",
        vec![
            (
                "by the reward model's ranking",
                some(vec![
                    by_k(&rows, "Best-of-K", "best_of_k"),
                    by_k(&rows, "Reward@K", "reward_at_k_s"),
                    by_k(&rows, "Reward-Pass@K", "reward_pass_at_k_s"),
                ]),
            ),
            ("reward model, within queries", vec![figure("AUC", &["within_query_auc"])]),
            ("right among what was kept", vec![figure("precision", &["precision"])]),
        ],
    );
    group(
        "Balance",
        "The configuration that each iteration chose, and its balance score.",
        vec![
            ("temperature", vec![figure("t", &["temperature"])]),
            ("threshold", vec![figure("τ", &["threshold"])]),
            ("balance score", vec![figure("balance score", &["balance_score"])]),
        ],
    );
    let temperatures = temperatures_table(summary);
    if !temperatures.is_empty() {
        page.push_str(
            "<h2>Temperatures</h2>\n<p>The same measures at the temperatures that <code>evaluate.at</code> names.</p>\n",
        );
        table(page, &temperatures);
    }
    if !surfaces.is_empty() {
        page.push_str(
            "<h2>Balance scores</h2>\n<p>Every configuration that was compared; the chosen one is framed.</p>\n\
             <div class=\"charts\">",
        );
        for Surface { iteration, rung, points } in surfaces {
            let row = summary
                .iterations
                .iter()
                .find(|row| number(row, &["iteration"]) == Some(iteration_number(*iteration)));
            let chosen =
                row.and_then(|row| Some((number(row, &["temperature"])?, number(row, &["threshold"])?)));
            let (title, chosen) = match rung {
                Some(rung) => (format!("iteration {iteration}, rung {rung}"), None),
                None => (format!("iteration {iteration}"), chosen),
            };
            page.push_str(&heat_map(&title, points, chosen));
        }
        page.push_str("</div>\n");
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number of an iteration")]
fn iteration_number(iteration: usize) -> f64 {
    iteration as f64
}

fn sweep(page: &mut String, variants: &[VariantSummary]) {
    table(page, &variants_table(variants));
    let longest = variants.iter().flat_map(|variant| &variant.seeds).map(|seed| seed.iterations.len()).max();
    let positions: Vec<String> = std::iter::once("start".to_owned())
        .chain((0..longest.unwrap_or(0)).map(|index| index.to_string()))
        .collect();
    let of = |variant: &VariantSummary, name: &str| {
        let at = |position: usize| {
            let row = |seed: &SeedSummary| match position.checked_sub(1) {
                None => number(&seed.start, &[name]),
                Some(index) => number(seed.iterations.get(index)?, &[name]),
            };
            mean(variant.seeds.iter().filter(|seed| seed.complete).filter_map(row))
        };
        Curve { name: variant.name.clone(), values: (0..positions.len()).map(at).collect() }
    };
    page.push_str("<h2>Over iterations</h2>\n<p>Means over seeds.</p>\n<div class=\"charts\">");
    for (caption, name) in [
        ("Pass@1", "pass_at_1"),
        ("mean accuracy", "mean_accuracy"),
        ("distinct responses, share", "unique_share"),
        ("entropy, nats a token", "entropy"),
        ("temperature", "temperature"),
        ("balance score", "balance_score"),
    ] {
        let all: Vec<Curve> = variants.iter().map(|variant| of(variant, name)).collect();
        page.extend(curves(caption, &positions, &all));
    }
    page.push_str("</div>\n");
}

#[expect(clippy::cast_precision_loss, reason = "a number of seeds")]
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn table(page: &mut String, cells: &[Vec<String>]) {
    let Some((heading, body)) = cells.split_first() else { return };
    let row = |cells: &[String], tag: &str| {
        let cell = |text: &String| format!("<{tag}>{}</{tag}>", escaped(text));
        format!("<tr>{}</tr>\n", cells.iter().map(cell).collect::<String>())
    };
    let body: String = body.iter().map(|cells| row(cells, "td")).collect();
    page.push_str(&format!("<div class=\"table\"><table>\n{}{body}</table></div>\n", row(heading, "th")));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run_record::{RunOutcome, RunStart};

    fn run(summary: Option<Summary>) -> RunInfo {
        let mut start = RunStart::now("a<b", "a.yaml", Vec::new(), 1, Value::Null);
        start.id = "00000000".to_owned();
        RunInfo { start, outcome: RunOutcome::Done, summary }
    }

    fn row(value: Value) -> Row {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn a_page_holds_curves_and_maps_and_nothing_from_elsewhere() {
        let iteration = |index: usize, pass: f64| {
            row(
                json!({"iteration": index, "pass_at_1": pass, "pass_at_k": {"8": pass + 0.1}, "temperature": 0.7,
                "threshold": 0.0, "balance_score": 0.4, "precision": 0.9, "truncated": 0.25, "at": {"0.5": {"mean_accuracy": 0.625}}}),
            )
        };
        let summary = Summary {
            start: row(json!({"pass_at_1": 0.3})),
            iterations: vec![iteration(0, 0.4), iteration(1, 0.5)],
            ..Summary::default()
        };
        let point = |temperature, balance_score| Point { temperature, threshold: 0.0, balance_score };
        let points = vec![point(0.7, 0.4), point(1.0, 0.2)];
        let surface = |rung| Surface { iteration: 0, rung, points: points.clone() };
        let page = html(&run(Some(summary)), &[surface(Some(1)), surface(None)], &[]);
        assert!(page.contains("a&lt;b") && !page.contains("a<b"));
        for part in [
            "Pass@8",
            "62.5",
            "Exploitation",
            "iteration 0:",
            "iteration 0, rung 1",
            "<polyline",
            "<rect",
            "balance score",
            "cut short by max_tokens",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["http:", "https:", "<script", "<link", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(html(&run(None), &[], &[]).contains("has not ended"));
    }

    #[test]
    fn a_run_without_a_loop_has_its_results_and_one_that_failed_the_reason() {
        let summary = Summary {
            executed: 1,
            failed: 1,
            results: [("setup.sft.policy".to_owned(), "af13".to_owned())].into(),
            ..Summary::default()
        };
        let failure = StepFailure {
            step: "setup.train".to_owned(),
            message: "loss < 0".to_owned(),
            hint: Some("lower it".to_owned()),
        };
        let page = html(&run(Some(summary)), &[], &[failure]);
        for part in
            ["setup.sft.policy", "af13", "1 step executed", "setup.train", "loss &lt; 0", "hint: lower it"]
        {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn a_sweep_has_a_curve_a_variant() {
        let seed = |pass: f64| SeedSummary {
            complete: true,
            start: row(json!({"pass_at_1": 0.2})),
            iterations: vec![row(json!({"pass_at_1": pass}))],
            ..SeedSummary::default()
        };
        let variant = |name: &str| VariantSummary {
            name: name.to_owned(),
            seeds: vec![seed(0.4), seed(0.6)],
            mean: row(json!({"pass_at_1": 0.5})),
            ..VariantSummary::default()
        };
        let summary = Summary { variants: vec![variant("one"), variant("two & more")], ..Summary::default() };
        let page = html(&run(Some(summary)), &[], &[]);
        assert!(page.contains("two &amp; more") && page.contains("50.0"), "{page}");
        assert_eq!(page.matches("<polyline").count(), 2);
    }
}
