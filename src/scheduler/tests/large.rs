//! The same promises on plans of up to 10,000 steps.

use super::*;

/// A random plan of that size, the same for the same seed: shrinking one drawn by the test library would
/// take hours.
fn random(steps: usize, seed: u64, failures: u64) -> Case {
    let mut state = seed;
    let mut below = move |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0) % limit.max(1)
    };
    let mut case = Case { inputs: Vec::new(), fates: Vec::new(), needs: Vec::new(), priorities: Vec::new() };
    for index in 0..steps {
        let inputs: BTreeSet<usize> = match index {
            0 => BTreeSet::new(),
            // Half of the edges are short, so that there are long chains, and half go anywhere.
            _ => (0..below(4))
                .map(|edge| if edge % 2 == 0 { index - 1 - below(index.min(10)) } else { below(index) })
                .collect(),
        };
        case.inputs.push(inputs.into_iter().collect());
        case.fates.push(match below(1000) as u64 {
            draw if draw < failures => Fate::Fails,
            draw if draw < 300 => Fate::Cached,
            draw if draw < 330 => Fate::Unfolds(below(4)),
            _ => Fate::Runs,
        });
        case.needs.push((1 + below(4), below(2)));
        case.priorities.push(i64::try_from(below(3)).unwrap_or(0));
    }
    case
}

fn picks() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn in_a_large_plan_every_step_is_done_once_and_after_its_inputs(
        steps in 1_usize..=10_000, seed in any::<u64>(), jobs in 1_usize..64, picks in picks(),
    ) {
        let case = random(steps, seed, 0);
        prop_assert!(drive(&case, jobs, false, &picks) == expected(&case));
    }

    #[test]
    fn in_a_large_plan_failures_skip_exactly_their_descendants_whatever_ends_first(
        steps in 1_usize..=10_000, seed in any::<u64>(), jobs in 1_usize..64, picks in (picks(), picks()),
    ) {
        let case = random(steps, seed, 2);
        let (one, other) = (drive(&case, jobs, true, &picks.0), drive(&case, 1, true, &picks.1));
        prop_assert!(one == expected(&case), "the states in the end");
        prop_assert!(one == other, "another order of completion and other resources");
    }
}
