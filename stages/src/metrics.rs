//! Measures of a policy from n samples a query (paper.md §2.2): unbiased estimates of what K ≤ n samples
//! would show, as the average over all subsets of K.
//!
//! Counts are kept as floating-point numbers, exact enough (relative error below 1e-12) and within range
//! for up to [`MOST_SAMPLES`] samples a query.

/// Most samples a query for which the estimators are within range.
pub const MOST_SAMPLES: usize = 1000;

/// The number of ways to choose `k` of `n`.
#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
fn choose(n: usize, k: usize) -> f64 {
    if k > n {
        return 0.0;
    }
    let k = k.min(n - k);
    (0..k).fold(1.0, |product, index| product * (n - index) as f64 / (index + 1) as f64)
}

/// Pass@K: the chance that one of K samples is correct, when c of n are.
#[must_use]
pub fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    1.0 - choose(n - c, k) / choose(n, k)
}

/// Pass@K-S, duplicates counted: the chance that S of K samples are correct, when c of n are.
#[must_use]
pub fn pass_at_k_s_with_duplicates(n: usize, c: usize, k: usize, s: usize) -> f64 {
    let fewer: f64 = (0..s.min(k + 1)).map(|hits| choose(c, hits) * choose(n - c, k - hits)).sum();
    1.0 - fewer / choose(n, k)
}

/// Pass@K-S: the chance that K of n samples hold S different correct texts. `groups` counts the samples
/// of each correct text.
#[must_use]
pub fn pass_at_k_s(n: usize, groups: &[usize], k: usize, s: usize) -> f64 {
    let c: usize = groups.iter().sum();
    // ways[drawn][distinct]: ways to draw so many correct samples of so many texts (at most s).
    let mut ways = vec![vec![0.0; s + 1]; k + 1];
    ways[0][0] = 1.0;
    for size in groups {
        // From the back, so that each group is drawn from once.
        for drawn in (0..=k).rev() {
            for distinct in (0..=s).rev() {
                let here = ways[drawn][distinct];
                if here == 0.0 {
                    continue;
                }
                for from_group in 1..=(*size).min(k - drawn) {
                    ways[drawn + from_group][(distinct + 1).min(s)] += here * choose(*size, from_group);
                }
            }
        }
    }
    let enough: f64 = (0..=k).map(|drawn| ways[drawn][s] * choose(n - c, k - drawn)).sum();
    enough / choose(n, k)
}

/// Reward@K-S: the chance that of K samples the S ranked best are all correct. `ranked` tells of each
/// sample, best first, whether it is correct.
#[must_use]
pub fn reward_at_k_s(ranked: &[bool], k: usize, s: usize) -> f64 {
    if s == 0 || s > k {
        return if s == 0 { 1.0 } else { 0.0 };
    }
    let n = ranked.len();
    let (mut above, mut ways) = (0, 0.0);
    for (rank, _) in ranked.iter().enumerate().filter(|(_, correct)| **correct) {
        ways += choose(above, s - 1) * choose(n - 1 - rank, k - s);
        above += 1;
    }
    ways / choose(n, k)
}

/// Reward-Pass@K-S (M-STaR, arXiv 2412.17451): the chance that of K samples one of the S ranked best is
/// correct. `ranked` is as in [`reward_at_k_s`].
#[must_use]
pub fn reward_pass_at_k_s(ranked: &[bool], k: usize, s: usize) -> f64 {
    let wrong: Vec<bool> = ranked.iter().map(|correct| !correct).collect();
    1.0 - reward_at_k_s(&wrong, k, s.min(k))
}

/// Best-of-K: the chance that the best ranked of K samples is correct.
#[must_use]
pub fn best_of_k(ranked: &[bool], k: usize) -> f64 {
    reward_at_k_s(ranked, k, 1)
}

/// The chance that a correct response scores higher than a wrong one (ties count half); `None` when all
/// are correct or all wrong.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
pub fn auc(scored: &[(f64, bool)]) -> Option<f64> {
    let scores =
        |wanted: bool| scored.iter().filter(move |(_, correct)| *correct == wanted).map(|(score, _)| score);
    let pairs = scores(true).count() * scores(false).count();
    let wins: f64 = scores(true)
        .flat_map(|correct| {
            scores(false).map(move |wrong| match correct.total_cmp(wrong) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            })
        })
        .sum();
    (pairs > 0).then(|| wins / pairs as f64)
}

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean; 0 of nothing.
    pub mean: f64,
    /// Its standard error; 0 where it cannot be told.
    pub error: f64,
}

impl Estimate {
    /// The mean over queries, with the standard error of a mean.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of queries")]
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        // A sum of nothing is -0.
        let mean = (values.iter().sum::<f64>() + 0.0) / n.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = if values.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        Self { mean, error }
    }

    /// The share of hits among trials, with the binomial standard error.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of queries")]
    pub fn share(hits: usize, trials: usize) -> Self {
        let n = trials.max(1) as f64;
        let mean = hits as f64 / n;
        Self { mean, error: (mean * (1.0 - mean) / n).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// The share of the subsets of `k` samples for which `holds`.
    fn share_of_subsets(n: usize, k: usize, holds: impl Fn(&[usize]) -> bool) -> f64 {
        let (mut held, mut subsets) = (0.0, 0.0);
        for mask in (0_u32..1 << n).filter(|mask| mask.count_ones() as usize == k) {
            let chosen: Vec<usize> = (0..n).filter(|index| mask >> index & 1 == 1).collect();
            subsets += 1.0;
            held += f64::from(u8::from(holds(&chosen)));
        }
        held / subsets
    }

    #[test]
    fn the_mean_of_nothing_is_zero() {
        let nothing = Estimate::of(&[]);
        assert_eq!((nothing.mean.to_string(), nothing.error), ("0".to_owned(), 0.0));
    }

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    proptest! {
        #[test]
        fn estimates_equal_the_mean_over_all_subsets(
            // A text's number; even texts are correct. Ranks are positions.
            texts in proptest::collection::vec(0_usize..6, 1..10),
            k in 1_usize..10,
            s in 1_usize..5,
        ) {
            let n = texts.len();
            let k = k.min(n);
            let correct: Vec<bool> = texts.iter().map(|text| text % 2 == 0).collect();
            let c = correct.iter().filter(|correct| **correct).count();
            let count = |text| texts.iter().filter(|other| **other == text).count();
            let groups: Vec<usize> = [0, 2, 4].map(count).into();

            let hits = |chosen: &[usize]| chosen.iter().filter(|index| correct[**index]).count();
            let distinct = |chosen: &[usize]| {
                let right = chosen.iter().filter(|index| correct[**index]);
                right.map(|index| texts[*index]).collect::<HashSet<_>>().len()
            };
            let top = |chosen: &[usize], s: usize| {
                chosen.len() >= s && chosen[..s].iter().all(|index| correct[*index])
            };

            prop_assert!(close(pass_at_k(n, c, k), share_of_subsets(n, k, |chosen| hits(chosen) >= 1)));
            prop_assert!(close(
                pass_at_k_s_with_duplicates(n, c, k, s),
                share_of_subsets(n, k, |chosen| hits(chosen) >= s)
            ));
            prop_assert!(close(
                pass_at_k_s(n, &groups, k, s),
                share_of_subsets(n, k, |chosen| distinct(chosen) >= s)
            ));
            prop_assert!(close(
                reward_at_k_s(&correct, k, s),
                share_of_subsets(n, k, |chosen| top(chosen, s))
            ));
            prop_assert!(close(
                reward_pass_at_k_s(&correct, k, s),
                share_of_subsets(n, k, |chosen| chosen.iter().take(s).any(|index| correct[*index]))
            ));
            prop_assert!(close(best_of_k(&correct, k), share_of_subsets(n, k, |chosen| top(chosen, 1))));
        }

        #[test]
        fn with_all_samples_measures_are_facts(n in 1_usize..200, c in 0_usize..200, s in 1_usize..9) {
            let c = c.min(n);
            let groups = vec![1; c];
            let fact = f64::from(u8::from(c >= s));
            prop_assert!(close(pass_at_k(n, c, n), f64::from(u8::from(c > 0))));
            prop_assert!(close(pass_at_k_s(n, &groups, n, s), fact));
        }
    }

    #[test]
    fn one_distinct_correct_text_is_pass_at_k() {
        assert!(close(pass_at_k_s(32, &[3, 1, 4], 8, 1), pass_at_k(32, 8, 8)));
    }

    #[test]
    fn one_sample_is_the_accuracy() {
        assert!(close(pass_at_k(64, 16, 1), 0.25));
    }

    #[test]
    fn many_samples_stay_in_range() {
        let value = pass_at_k_s(MOST_SAMPLES, &[100, 50, 50], MOST_SAMPLES / 2, 3);
        assert!((0.999..=1.000_001).contains(&value), "{value}");
    }

    #[test]
    fn an_auc_counts_ties_half() {
        assert_eq!(auc(&[(0.9, true), (0.1, false)]), Some(1.0));
        assert_eq!(auc(&[(0.5, true), (0.5, false), (0.1, false)]), Some(0.75));
        assert_eq!(auc(&[(0.5, true)]), None);
    }

    #[test]
    fn standard_errors_are_those_of_textbooks() {
        let share = Estimate::share(150, 300);
        assert!(close(share.mean, 0.5) && close(share.error, (0.25_f64 / 300.0).sqrt()));
        let mean = Estimate::of(&[1.0, 2.0, 3.0, 4.0]);
        assert!(close(mean.mean, 2.5) && close(mean.error, (5.0_f64 / 3.0 / 4.0).sqrt()));
        assert_eq!(Estimate::of(&[]), Estimate { mean: 0.0, error: 0.0 });
    }
}
