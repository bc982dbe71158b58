use super::*;

#[test]
fn a_reward_model_adds_to_correctness() {
    let (_, _, mut rewards) = small();
    add_model_scores(&mut rewards[0], vec![0.5, -0.25], crate::config::Aggregate::Min).unwrap();
    assert_eq!(rewards[0].reward, 0.75);
    add_model_scores(&mut rewards[3], vec![0.5, 0.25], crate::config::Aggregate::Last).unwrap();
    assert_eq!(rewards[3].reward, 0.25);
    add_model_scores(&mut rewards[3], vec![], crate::config::Aggregate::Mean).unwrap();
    assert_eq!(rewards[3].reward, -1.0);
    // Shares of 3/4 and 1/2 are one of 3/8.
    assert_eq!(crate::config::Aggregate::Product.of(&[0.5, 0.0]), -0.25);
    let scaled = |output| [Scale::Share, Scale::Clamp, Scale::Fifth].map(|scale| scale.of(output));
    assert_eq!(scaled(0.0), [0.0, 0.0, 0.0]);
    assert_eq!(scaled(-5.0)[1..], [-1.0, -1.0]);
    assert_eq!(scaled(7.5)[1..], [1.0, 1.5], "the published code has no limits");
    assert!((scaled(-5.0)[0] + 0.986_614_298).abs() < 1e-9);
}

#[test]
fn equal_model_scores_are_equal_whether_the_response_is_right_or_wrong() {
    let queries = [query("a", "7")];
    // Adding 1 and taking it away again leaves other last bits of some of these scores.
    for score in [-0.3, 0.7, -0.05, 0.1, 1.0 / 3.0, -1.7, 2.6] {
        let responses = [response("a", 0, &solution("7")), response("a", 1, &solution("8"))];
        let mut rewards = judged(&responses, &queries);
        for reward in &mut rewards {
            add_model_scores(reward, vec![score], crate::config::Aggregate::Min).unwrap();
        }
        let mut bench = Bench::new();
        bench.give("greedy", &rewards[..1]);
        let mut measured = |rewards: &[Reward]| {
            bench.give("rewards", rewards);
            bench.run("measure", json!({"greedy": "g", "rewards": "r", "s": [1]})).unwrap()
        };
        assert_eq!(measured(&rewards)["within_query_auc"], 0.5, "{score}");
        // The text decides, whichever is right.
        for right in [0, 1] {
            rewards[0].text_id = format!("{right:016x}");
            rewards[1].text_id = format!("{:016x}", 1 - right);
            let best = f64::from(1 - right);
            assert_eq!(measured(&rewards)["best_of_k"], json!({"2": best}), "{score}");
        }
    }
}

#[test]
fn scores_that_are_no_numbers_are_refused() {
    let (_, _, mut rewards) = small();
    for score in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let before = rewards[1].clone();
        let error = add_model_scores(&mut rewards[1], vec![0.5, score], crate::config::Aggregate::Min);
        let error = error.unwrap_err();
        assert_eq!(error.kind, FailureKind::Invalid);
        assert!(error.message.contains("step 2 of query `a`, sample 1, is"), "{error}");
        assert!(error.hint.unwrap().contains("reward_model"));
        assert_eq!(rewards[1], before);
    }
}
