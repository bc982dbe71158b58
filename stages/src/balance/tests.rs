use proptest::prelude::*;

use super::*;

fn candidate(score: f64, text: u64, sample: u32, correct: bool) -> Candidate {
    Candidate { score, text, sample, correct }
}

fn pool(queries: &[Vec<Candidate>]) -> Pool {
    Pool::new(queries.iter().map(Vec::as_slice))
}

#[test]
fn a_quarter_correct_has_a_balance_score_of_a_quarter() {
    let candidates = (0..64).map(|sample| candidate(0.5, u64::from(sample), sample, sample < 16)).collect();
    let outcome = pool(&[candidates]).outcome(0.0, None, 8);
    assert_eq!((outcome.balance_score, outcome.kept, outcome.correct), (0.25, 64, 16));
}

#[test]
fn two_of_eight_wanted_have_a_balance_score_of_a_quarter() {
    let candidates =
        vec![candidate(1.0, 1, 0, true), candidate(1.0, 2, 1, true), candidate(0.0, 3, 2, false)];
    let outcome = pool(&[candidates]).outcome(0.0, None, 8);
    assert_eq!((outcome.balance_score, outcome.kept), (0.25, 2));
}

#[test]
fn queries_without_kept_responses_count_zero() {
    let queries = [vec![candidate(1.0, 1, 0, true)], vec![candidate(0.0, 2, 0, false)], vec![]];
    let outcome = pool(&queries).outcome(0.0, None, 1);
    assert_eq!((outcome.balance_score, outcome.covered), (1.0 / 3.0, 1));
}

#[test]
fn a_score_must_exceed_the_threshold() {
    let queries = [vec![candidate(0.5, 1, 0, true)]];
    assert_eq!(pool(&queries).outcome(0.5, None, 1).kept, 0);
    assert_eq!(pool(&queries).outcome(0.499, None, 1).kept, 1);
}

#[test]
fn duplicates_take_places_but_do_not_count() {
    let queries = [vec![candidate(0.9, 1, 0, true), candidate(0.9, 1, 1, true), candidate(0.8, 2, 2, true)]];
    let pool = pool(&queries);
    let outcome = pool.outcome(0.0, Some(2), 2);
    assert_eq!((outcome.k, outcome.kept), (3, 2));
    assert_eq!(pool.kept(0.0, Some(2)), [vec![0, 2]]);
    assert_eq!(pool.kept(0.0, Some(1)), [vec![0]]);
}

#[test]
fn equal_scores_are_ordered_by_text() {
    let queries = [vec![candidate(1.0, 9, 0, true), candidate(1.0, 3, 1, true), candidate(1.0, 5, 2, true)]];
    assert_eq!(pool(&queries).kept(0.0, Some(2)), [vec![1, 2]]);
}

#[test]
fn too_high_a_target_keeps_everything() {
    let queries =
        [vec![candidate(1.0, 1, 0, true)], vec![candidate(1.0, 1, 0, true), candidate(1.0, 2, 1, true)]];
    let outcome = pool(&queries).outcome(0.0, Some(100), 1);
    assert_eq!((outcome.k, outcome.kept), (2, 3));
}

#[test]
fn nothing_to_choose_from_is_no_choice() {
    assert_eq!(best(&[], Ties::Kept), None);
    assert_eq!(pool(&[]).outcome(0.0, Some(5), 1).kept, 0);
}

#[test]
fn ties_prefer_more_responses_then_low_temperatures_then_high_thresholds() {
    let choice = |temperature, threshold, kept| Choice {
        temperature,
        threshold,
        value: 0.5,
        outcome: Outcome { balance_score: 0.5, kept, correct: 1, covered: 1, k: 1 },
    };
    let surface = [choice(0.9, 0.0, 5), choice(0.7, -0.1, 5), choice(0.7, 0.2, 5), choice(0.5, 0.3, 4)];
    let chosen = |ties| best(&surface, ties).map(|best| (best.temperature, best.threshold));
    assert_eq!(chosen(Ties::Kept), Some((0.7, 0.2)));
    assert_eq!(chosen(Ties::First), Some((0.5, 0.3)), "the published code takes the first");
}

#[test]
fn targets_are_rounded_up() {
    assert_eq!(target(2.5, 3), 8);
    assert_eq!(target(0.1, 30), 3);
    assert_eq!(target(6.0, 600), 3600);
    assert_eq!(target(0.001, 1), 1);
}

/// The selection as the paper words it: k from 1 upwards, selecting anew each time.
fn brute_force(
    rules: Rules,
    queries: &[Vec<Candidate>],
    threshold: f64,
    target: Option<usize>,
    n_star: usize,
) -> Outcome {
    let distinct = |candidates: &[Candidate]| {
        let mut distinct: Vec<Candidate> = Vec::new();
        for candidate in candidates {
            if distinct.iter().all(|other| other.text != candidate.text) {
                distinct.push(*candidate);
            }
        }
        distinct
    };
    let ranks = |candidates: &Vec<Candidate>| {
        if rules.distinct_ranks { distinct(candidates).len() } else { candidates.len() }
    };
    let most = queries.iter().map(ranks).max().unwrap_or(0).min(rules.k_max.unwrap_or(usize::MAX));
    // The best k of each query, duplicates included.
    let select = |k: usize| -> Vec<Vec<Candidate>> {
        let select_one = |candidates: &Vec<Candidate>| {
            let mut above: Vec<Candidate> =
                candidates.iter().copied().filter(|c| c.score > threshold).collect();
            above.sort_by(|a, b| {
                b.score.total_cmp(&a.score).then(a.text.cmp(&b.text)).then(a.sample.cmp(&b.sample))
            });
            if rules.distinct_ranks {
                above = distinct(&above);
            }
            above.truncate(k);
            above
        };
        queries.iter().map(select_one).collect()
    };
    let total = |k: usize| select(k).iter().map(|best| distinct(best).len()).sum::<usize>();
    let k = match target {
        None => most,
        Some(target) => (most.min(1)..=most).find(|k| total(*k) >= target).unwrap_or(most),
    };
    let mut outcome = Outcome { balance_score: 0.0, kept: 0, correct: 0, covered: 0, k };
    for best in select(k) {
        let kept = distinct(&best);
        let correct = kept.iter().filter(|candidate| candidate.correct).count();
        outcome.kept += kept.len();
        outcome.correct += correct;
        outcome.covered += usize::from(!kept.is_empty());
        if !kept.is_empty() {
            let n = if rules.n_i == Counted::Total { best.len() } else { kept.len() };
            #[expect(clippy::cast_precision_loss, reason = "small counts")]
            let (n, correct, wanted) = (n as f64, correct as f64, n_star as f64);
            outcome.balance_score += (correct / wanted).min(1.0) * correct / n;
        }
    }
    let averaged = if rules.average == Average::All { queries.len() } else { outcome.covered };
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let count = averaged.max(1) as f64;
    outcome.balance_score /= count;
    outcome
}

fn rules() -> impl Strategy<Value = Rules> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (flags, proptest::option::of(1_usize..8)).prop_map(
        |((all, distinct_ranks, total, selected, first), k_max)| Rules {
            select: if all { Select::All } else { Select::TopK },
            k_max,
            distinct_ranks,
            n_i: if total { Counted::Total } else { Counted::Unique },
            average: if selected { Average::Selected } else { Average::All },
            ties: if first { Ties::First } else { Ties::Kept },
            ..Rules::default()
        },
    )
}

fn queries() -> impl Strategy<Value = Vec<Vec<Candidate>>> {
    // Few texts and few scores, so that duplicates and ties are common. As in reality, a text is
    // correct or not wherever it occurs.
    let one = (0_u64..6, -4_i32..8).prop_map(|(text, score)| (text, f64::from(score) / 4.0));
    let many = proptest::collection::vec(one, 0..12).prop_map(|drawn| {
        let make = |(sample, (text, score)): (usize, (u64, f64))| {
            candidate(score, text, u32::try_from(sample).unwrap(), text % 2 == 0)
        };
        drawn.into_iter().enumerate().map(make).collect::<Vec<_>>()
    });
    proptest::collection::vec(many, 0..7)
}

proptest! {
    #[test]
    fn outcomes_equal_those_of_selecting_anew(
        queries in queries(),
        threshold in -5_i32..8,
        target in proptest::option::of(0_usize..40),
        n_star in 1_usize..6,
    ) {
        let threshold = f64::from(threshold) / 4.0;
        let pool = pool(&queries);
        let outcome = pool.outcome(threshold, target, n_star);
        prop_assert_eq!(outcome, brute_force(Rules::default(), &queries, threshold, target, n_star));
        let kept = pool.kept(threshold, target);
        prop_assert_eq!(kept.iter().map(Vec::len).sum::<usize>(), outcome.kept);
        for (kept, candidates) in kept.iter().zip(&queries) {
            prop_assert!(kept.iter().all(|position| candidates[*position].score > threshold));
            prop_assert!(kept.is_sorted_by(|a, b| candidates[*a].rank(&candidates[*b]).is_lt()));
        }
    }

    #[test]
    fn the_best_configuration_is_the_best_of_all(
        rules in rules(),
        temperatures in proptest::collection::vec(queries(), 1..4),
        keep in proptest::option::of(0_u8..8),
        n_star in 1_usize..6,
    ) {
        let keep = keep.map(|keep| f64::from(keep) / 2.0);
        let thresholds: Vec<f64> = (-5..8).map(|step| f64::from(step) / 4.0).collect();
        let hot = |number: usize| 0.5 + 0.1 * f64::from(u8::try_from(number).unwrap());
        let pools: Vec<(f64, Pool)> = temperatures
            .iter()
            .enumerate()
            .map(|(number, queries)| (hot(number), Pool::by(rules, queries.iter().map(Vec::as_slice))))
            .collect();
        let found = best(&surface(&pools, &thresholds, keep, n_star), rules.ties).unwrap();
        let mut expected: Option<(f64, f64, Outcome)> = None;
        // From hot to cold and from high thresholds to low ones.
        for (number, queries) in temperatures.iter().enumerate().rev() {
            for threshold in thresholds.iter().rev() {
                let keep = keep.filter(|_| rules.select == Select::TopK);
                let wanted = keep.map(|keep| target(keep, queries.len()));
                let outcome = brute_force(rules, queries, *threshold, wanted, n_star);
                let better = expected.is_none_or(|(temperature, _, best)| {
                    let (score, than) = (outcome.balance_score, best.balance_score);
                    let colder = temperature > hot(number);
                    match rules.ties {
                        Ties::Kept => score > than || score == than && (outcome.kept > best.kept || outcome.kept == best.kept && colder),
                        Ties::First => score >= than,
                    }
                });
                if better {
                    expected = Some((hot(number), *threshold, outcome));
                }
            }
        }
        let (temperature, threshold, outcome) = expected.unwrap();
        prop_assert_eq!((found.temperature, found.threshold, found.outcome), (temperature, threshold, outcome));
    }

    #[test]
    fn the_order_of_samples_does_not_matter(queries in queries(), n_star in 1_usize..6) {
        let reversed: Vec<Vec<Candidate>> =
            queries.iter().map(|candidates| candidates.iter().rev().copied().collect()).collect();
        prop_assert_eq!(
            pool(&queries).outcome(0.0, Some(5), n_star),
            pool(&reversed).outcome(0.0, Some(5), n_star)
        );
    }

    #[test]
    fn a_higher_threshold_keeps_no_more(queries in queries()) {
        let pool = pool(&queries);
        let kept: Vec<usize> =
            (-5..8).map(|step| pool.outcome(f64::from(step) / 4.0, None, 1).kept).collect();
        prop_assert!(kept.is_sorted_by(|a, b| a >= b));
    }
}
