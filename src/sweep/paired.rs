//! McNemar's exact test: two variants on the same problems.

use std::collections::BTreeMap;

use crate::event::{Paired, SeedSummary, VariantSummary};

/// The final greedy answers of a variant against the baseline's, over the seeds that both completed and in
/// which they answered the same problems; `None` where there is no such seed.
pub(super) fn paired(variant: &VariantSummary, baseline: &VariantSummary) -> Option<Paired> {
    let own = verdicts(variant);
    let other = verdicts(baseline);
    let mut test = Paired { problems: 0, better: 0, worse: 0, p: 1.0 };
    for (seed, (ids, bits)) in &own {
        let Some((_, others)) = other.get(seed).filter(|(other_ids, _)| other_ids == ids) else { continue };
        test.problems += bits.len();
        test.better += bits.iter().zip(others).filter(|(own, other)| **own && !**other).count();
        test.worse += bits.iter().zip(others).filter(|(own, other)| !**own && **other).count();
    }
    test.p = two_sided(test.better, test.worse);
    (test.problems > 0).then_some(test)
}

/// Seed → the digest of the problems' ids, and whether each is solved.
fn verdicts(variant: &VariantSummary) -> BTreeMap<u64, (String, Vec<bool>)> {
    let of_seed = |seed: &SeedSummary| {
        let row = seed.iterations.last().unwrap_or(&seed.start);
        let (ids, digits) = row.get("verdicts")?.as_str()?.split_once(':')?;
        let count = usize::try_from(row.get("queries")?.as_u64()?).ok()?;
        let bits = digits.chars().filter_map(|digit| digit.to_digit(16));
        let mut bits: Vec<bool> =
            bits.flat_map(|digit| (0..4).map(move |bit| digit >> (3 - bit) & 1 == 1)).collect();
        bits.truncate(count);
        (bits.len() == count).then(|| (seed.seed, (ids.to_owned(), bits)))
    };
    variant.seeds.iter().filter(|seed| seed.complete).filter_map(of_seed).collect()
}

/// The chance that fair coins split at least as unevenly as `one` to `other`.
#[expect(clippy::cast_precision_loss, reason = "counts of problems")]
fn two_sided(one: usize, other: usize) -> f64 {
    let (least, all) = (one.min(other), one + other);
    // In logarithms: 2⁻ⁿ is nothing for a thousand problems.
    let mut ways = 0.0;
    let mut sum = 0.0;
    for hits in 0..=least {
        if hits > 0 {
            ways += ((all - hits + 1) as f64 / hits as f64).ln();
        }
        sum += (ways - all as f64 * std::f64::consts::LN_2).exp();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn variant(rows: &[(u64, &str, u64)]) -> VariantSummary {
        let seed = |(seed, verdicts, queries): &(u64, &str, u64)| {
            let row = json!({"verdicts": verdicts, "queries": queries}).as_object().cloned().expect("a row");
            SeedSummary {
                seed: *seed,
                complete: true,
                iterations: vec![Map::new(), row],
                ..SeedSummary::default()
            }
        };
        VariantSummary { seeds: rows.iter().map(seed).collect(), ..VariantSummary::default() }
    }

    #[test]
    fn problems_are_paired_within_seeds() {
        // 1110 10 and 0100 11; then 1111 1110 against 0000 0010.
        let own = variant(&[(1, "aa:e8", 6), (2, "bb:fe", 8), (3, "cc:f0", 4)]);
        let baseline = variant(&[(1, "aa:4c", 6), (2, "bb:02", 8), (3, "dd:00", 4)]);
        let test = paired(&own, &baseline).expect("a test");
        assert_eq!((test.problems, test.better, test.worse), (14, 8, 1));
        // 2 · (1 + 9) / 2⁹
        assert!((test.p - 20.0 / 512.0).abs() < 1e-12, "{}", test.p);
        assert_eq!(paired(&own, &variant(&[(9, "aa:00", 6)])), None);
        assert_eq!(paired(&own, &own).map(|test| test.p), Some(1.0));
    }

    #[test]
    fn large_counts_stay_in_range() {
        assert!((two_sided(500, 500) - 1.0).abs() < 1e-9);
        assert!(two_sided(2000, 1000) < 1e-60 && two_sided(2000, 1000) > 0.0);
    }
}
