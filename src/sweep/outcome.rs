//! What a sweep came to: means over seeds, and differences to the baseline.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Sweep;
use super::paired::paired;
use crate::event::{SeedSummary, Summary, VariantSummary};
use crate::executor::PartSummary;

/// Completes the summary of a sweep's run; `parts` are in the order of [`Sweep::pipelines`].
pub fn complete(sweep: &Sweep, parts: &[PartSummary], summary: &mut Summary) {
    let mut parts = parts.iter();
    for variant in &sweep.variants {
        let own: Vec<&PartSummary> = parts.by_ref().take(sweep.seeds.len()).collect();
        let seeds = sweep.seeds.iter().zip(&own).map(|(seed, part)| SeedSummary {
            seed: *seed,
            complete: part.complete,
            iterations: part.iterations.clone(),
            start: part.start.clone(),
            results: part.results.clone(),
        });
        let seeds: Vec<SeedSummary> = seeds.collect();
        for seed in &seeds {
            for (name, digest) in &seed.results {
                let name = format!("{}/seed={}/{name}", variant.name, seed.seed);
                summary.results.insert(name, digest.clone());
            }
        }
        summary.variants.push(VariantSummary {
            name: variant.name.clone(),
            overrides: variant.overrides.clone(),
            executed: own.iter().map(|part| part.executed).sum(),
            cached: own.iter().map(|part| part.cached).sum(),
            seeds,
            ..VariantSummary::default()
        });
    }
    compare(&mut summary.variants);
}

/// Fills in means and differences; the first variant is the baseline.
fn compare(variants: &mut [VariantSummary]) {
    let figures: Vec<BTreeMap<u64, Figures>> = variants.iter().map(final_figures).collect();
    for (index, variant) in variants.iter_mut().enumerate() {
        (variant.mean, variant.se) = moments(figures[index].values());
        if index > 0 {
            let pairs = figures[index].iter().filter_map(|(seed, own)| Some((own, figures[0].get(seed)?)));
            let differences: Vec<Figures> = pairs.map(|(own, baseline)| difference(own, baseline)).collect();
            (variant.difference, variant.difference_se) = moments(differences.iter());
        }
    }
    let tests: Vec<_> = variants
        .split_first()
        .into_iter()
        .flat_map(|(first, rest)| rest.iter().map(|one| paired(one, first)))
        .collect();
    for (variant, test) in variants.iter_mut().skip(1).zip(tests) {
        variant.paired = test;
    }
}

/// Numbers by their path: `[pass_at_k, 32]`.
type Figures = Vec<(Vec<String>, f64)>;

/// The figures after the last iteration, by seed; of a pipeline without iterations, those of its setup.
fn final_figures(variant: &VariantSummary) -> BTreeMap<u64, Figures> {
    let complete = variant.seeds.iter().filter(|seed| seed.complete);
    complete.map(|seed| (seed.seed, figures_of(seed))).collect()
}

/// The final figures of a seed, and those of its whole course: the area under the Pass@1 curve, and what
/// was sampled to get there.
fn figures_of(seed: &SeedSummary) -> Figures {
    let mut figures = numbers(seed.iterations.last().unwrap_or(&seed.start));
    let whole = |name: &str, value: f64| (vec![name.to_owned()], value);
    figures.extend(area(seed).map(|area| whole("pass_at_1_area", area)));
    for (name, total) in
        [("charged_tokens", "charged_tokens_total"), ("charged_responses", "charged_responses_total")]
    {
        let values: Vec<f64> = seed.iterations.iter().filter_map(|row| row.get(name)?.as_f64()).collect();
        if !values.is_empty() {
            figures.push(whole(total, values.iter().sum()));
        }
    }
    figures
}

/// The mean height of the Pass@1 curve over the iterations, from the policy before the first: trapezoids.
#[expect(clippy::cast_precision_loss, reason = "a number of iterations")]
fn area(seed: &SeedSummary) -> Option<f64> {
    let rows = std::iter::once(&seed.start).chain(&seed.iterations);
    let curve: Vec<f64> = rows.filter_map(|row| row.get("pass_at_1")?.as_f64()).collect();
    let steps = curve.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]));
    (curve.len() > 1).then(|| steps.sum::<f64>() / (curve.len() - 1) as f64)
}

/// The numbers of a row that are measures, not their errors or positions.
fn numbers(row: &Map<String, Value>) -> Figures {
    let mut found = Vec::new();
    for (name, value) in row.iter().filter(|(name, _)| *name != "iteration" && !name.ends_with("_se")) {
        match value {
            Value::Object(inner) => {
                let below = numbers(inner).into_iter();
                found.extend(below.map(|(path, value)| ([vec![name.clone()], path].concat(), value)));
            }
            other => found.extend(other.as_f64().map(|value| (vec![name.clone()], value))),
        }
    }
    found
}

fn difference(own: &Figures, baseline: &Figures) -> Figures {
    let of_baseline: BTreeMap<&Vec<String>, f64> =
        baseline.iter().map(|(path, value)| (path, *value)).collect();
    own.iter().filter_map(|(path, value)| Some((path.clone(), value - of_baseline.get(path)?))).collect()
}

/// The mean of each figure, and its standard error where there are several values.
fn moments<'a>(rows: impl Iterator<Item = &'a Figures>) -> (Map<String, Value>, Map<String, Value>) {
    let mut paths: Vec<&Vec<String>> = Vec::new();
    let mut values: BTreeMap<&Vec<String>, Vec<f64>> = BTreeMap::new();
    for (path, value) in rows.flatten() {
        let of_path = values.entry(path).or_insert_with(|| {
            paths.push(path);
            Vec::new()
        });
        of_path.push(*value);
    }
    let (mut means, mut errors) = (Map::new(), Map::new());
    for path in paths {
        let (mean, error) = mean_and_error(&values[path]);
        put(&mut means, path, mean);
        if let Some(error) = error {
            put(&mut errors, path, error);
        }
    }
    (means, errors)
}

/// The mean, and sample standard deviation / √n.
#[expect(clippy::cast_precision_loss, reason = "a number of seeds")]
fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
}

fn put(map: &mut Map<String, Value>, path: &[String], value: f64) {
    match path {
        [] => {}
        [name] => drop(map.insert(name.clone(), value.into())),
        [name, rest @ ..] => {
            let inner = map.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variant(rows: &[(u64, Value)]) -> VariantSummary {
        let seed = |(seed, row): &(u64, Value)| SeedSummary {
            seed: *seed,
            complete: true,
            iterations: vec![Map::new(), row.as_object().cloned().expect("a row")],
            ..SeedSummary::default()
        };
        VariantSummary { seeds: rows.iter().map(seed).collect(), ..VariantSummary::default() }
    }

    #[test]
    fn means_errors_and_paired_differences_are_those_of_the_last_iteration() {
        let row = |pass: f64, k: f64| json!({"iteration": 1, "pass_at_1": pass, "pass_at_1_se": 9.0, "pass_at_k": {"8": k}});
        let mut variants = [
            variant(&[(1, row(0.5, 0.7)), (2, row(0.7, 0.8)), (3, row(0.6, 0.9))]),
            variant(&[(1, row(0.6, 0.7)), (2, row(0.9, 0.8)), (3, row(0.6, 0.9))]),
        ];
        // A seed that was not finished says nothing.
        variants[1].seeds.push(SeedSummary { seed: 4, ..SeedSummary::default() });
        compare(&mut variants);
        let near =
            |value: &Value, expected: f64| (value.as_f64().expect("a number") - expected).abs() < 1e-12;
        assert!(near(&variants[0].mean["pass_at_1"], 0.6) && near(&variants[0].mean["pass_at_k"]["8"], 0.8));
        assert!(near(&variants[0].se["pass_at_1"], 0.1 / 3_f64.sqrt()));
        assert!(variants[0].difference.is_empty());
        // 0.1, 0.2, 0.0
        assert!(near(&variants[1].difference["pass_at_1"], 0.1));
        assert!(near(&variants[1].difference_se["pass_at_1"], 0.1 / 3_f64.sqrt()));
        assert!(near(&variants[1].difference_se["pass_at_k"]["8"], 0.0));
        assert_eq!(variants[0].mean.keys().collect::<Vec<_>>(), ["pass_at_1", "pass_at_k"]);
    }

    #[test]
    fn the_course_of_a_seed_has_an_area_and_a_cost() {
        let row = |value: Value| value.as_object().cloned().expect("a row");
        let seed = SeedSummary {
            complete: true,
            start: row(json!({"pass_at_1": 0.2})),
            iterations: [0.4, 0.8]
                .map(|pass| row(json!({"pass_at_1": pass, "charged_tokens": 10.0})))
                .to_vec(),
            ..SeedSummary::default()
        };
        let mut variants = [VariantSummary { seeds: vec![seed], ..VariantSummary::default() }];
        compare(&mut variants);
        let area = variants[0].mean["pass_at_1_area"].as_f64().expect("an area");
        // (0.2 + 0.4) / 2 and (0.4 + 0.8) / 2.
        assert!((area - 0.45).abs() < 1e-12, "{area}");
        assert_eq!(variants[0].mean["charged_tokens_total"], 20.0);
    }

    #[test]
    fn one_seed_has_no_error() {
        let mut variants = [variant(&[(1, json!({"kept": 12}))])];
        compare(&mut variants);
        assert_eq!(variants[0].mean["kept"], 12.0);
        assert!(variants[0].se.is_empty());
    }
}
