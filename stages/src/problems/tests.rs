use super::*;
use crate::config::Grader;
use crate::grade;

fn config() -> Problems {
    Problems {
        pretrain: 30_000,
        flawed: 5_000,
        sft: 200,
        train: 3_000,
        validation: 300,
        test: 300,
        steps: vec![3, 4],
    }
}

fn question(prompt: &str) -> &str {
    prompt
        .strip_prefix("# Question\n\n")
        .and_then(|rest| rest.strip_suffix("\n\n# Solution\n\n"))
        .expect("a prompt holds a question")
}

/// The numbers of a step and whether it is right.
fn arithmetic_holds(equation: &str) -> bool {
    let (sum, result) = equation.split_once('=').unwrap();
    let sign = sum.find(['+', '-', '*', '/']).unwrap();
    let (left, right): (i64, i64) = (sum[..sign].parse().unwrap(), sum[sign + 1..].parse().unwrap());
    let result: i64 = result.parse().unwrap();
    (0..=60).contains(&result)
        && match &sum[sign..=sign] {
            "+" => left + right == result,
            "-" => left - right == result,
            "*" => left * right == result,
            _ => right != 0 && left == right * result,
        }
}

#[test]
fn sets_of_the_real_size_do_not_overlap() {
    let sets = generate(&config(), 17).unwrap();
    let queries =
        |rows: &[Query]| rows.iter().map(|row| question(&row.prompt).to_owned()).collect::<Vec<_>>();
    let examples =
        |rows: &[Example]| rows.iter().map(|row| question(&row.prompt).to_owned()).collect::<Vec<_>>();
    let [test, validation, train] = [&sets.test, &sets.validation, &sets.train].map(|rows| queries(rows));
    let [sft, flawed, pretrain] = [&sets.sft, &sets.flawed, &sets.pretrain].map(|rows| examples(rows));
    assert_eq!([test.len(), validation.len(), train.len()], [300, 300, 3000]);
    assert_eq!([sft.len(), flawed.len(), pretrain.len()], [200, 5000, 30_000]);

    let renamings = |rows: &[String]| rows.iter().map(|row| canonical(row)).collect::<HashSet<_>>();
    let held_out: HashSet<String> = renamings(&test).union(&renamings(&validation)).cloned().collect();
    assert_eq!(held_out.len(), 600, "held-out problems are no renamings of each other");
    for seen in [&train, &sft, &flawed, &pretrain] {
        assert!(renamings(seen).is_disjoint(&held_out), "a held-out problem, or a renaming, is trained on");
    }
    assert_eq!(renamings(&train).len(), 3000);
    assert_eq!(renamings(&sft).len(), 200);
    assert!(renamings(&train).is_disjoint(&renamings(&sft)));

    let problems: Vec<HashSet<&String>> =
        [&train, &sft, &flawed, &pretrain].map(|rows| rows.iter().collect()).into();
    for (index, one) in problems.iter().enumerate() {
        for other in &problems[..index] {
            assert!(one.is_disjoint(other), "two sets share a problem");
        }
    }
}

#[test]
fn documents_hold_right_arithmetic() {
    let sets = generate(&Problems { pretrain: 3000, flawed: 2000, ..config() }, 3).unwrap();
    for row in sets.pretrain.iter().chain(&sets.flawed).chain(&sets.sft) {
        let steps = grade::steps(&row.completion);
        assert!((1..=4).contains(&steps.len()), "{}", row.completion);
        let equations = grade::equations(&row.completion);
        assert!(!equations.is_empty() && equations.iter().all(|step| arithmetic_holds(step)), "{row:?}");
        let answer = grade::extract(&row.completion).unwrap();
        assert!(steps.last().unwrap().contains(&format!("= {answer}\n\n# Answer\n\n{answer}")), "{row:?}");
    }
    let drills = sets
        .pretrain
        .iter()
        .filter(|row| !row.prompt.contains(" has ") && row.prompt.contains(['+', '/']))
        .count();
    assert!((700..1000).contains(&drills), "{drills} drills");
}

#[test]
fn queries_are_what_was_asked_for() {
    let sets = generate(&config(), 5).unwrap();
    assert_eq!(sets.train[17].id, "train-00017");
    assert_eq!(sets.sft[3].query_id.as_deref(), Some("sft-00003"));
    let four = sets.train.iter().filter(|query| query.tags["steps"] == "4").count();
    assert!((1350..1650).contains(&four), "{four} of 3000 have four steps");
    let share = sets.train.iter().filter(|query| query.tags["family"] == "share").count();
    assert!((400..600).contains(&share), "{share} of 3000 are shared");
    for query in &sets.train {
        assert!((0..=60).contains(&query.answer.parse::<i64>().unwrap()));
        assert!(!query.prompt.contains("  "));
    }
}

#[test]
fn the_seed_decides_everything() {
    let small = Problems { pretrain: 300, flawed: 100, train: 100, ..config() };
    let sets = generate(&small, 1).unwrap();
    assert_eq!(sets, generate(&small, 1).unwrap());
    assert_ne!(sets, generate(&small, 2).unwrap());
    let more = generate(&Problems { pretrain: 400, ..small }, 1).unwrap();
    assert_eq!(more.train, sets.train);
    assert_eq!(more.flawed, sets.flawed);
}

#[test]
fn too_many_problems_are_refused() {
    let config = Problems { train: 100_000, steps: vec![1], pretrain: 0, flawed: 0, ..config() };
    let error = generate(&config, 1).unwrap_err();
    assert!(error.message.contains("too few"), "{error}");
}

fn draw(steps: usize, dice: &mut Dice) -> WordProblem {
    loop {
        let family = dice.pick(&family::ALL);
        if let Some(problem) = family::draw(family, steps, dice) {
            return problem;
        }
    }
}

#[test]
fn gold_solutions_are_correct_and_diverse() {
    let mut dice = Dice::new(1, "gold");
    let mut distinct = 0;
    for problem in 0..400 {
        let problem = draw(3 + problem % 2, &mut dice);
        let query = problem.query("x".to_owned());
        let solutions: HashSet<String> = (0..64).map(|_| problem.plan.solution(&mut dice)).collect();
        for solution in &solutions {
            let answer = grade::extract(solution).unwrap();
            assert!(
                grade::equal(answer, &query.answer, Grader::Math, &grade::Conventions::default()),
                "{query:?}: {solution}"
            );
            assert_eq!(grade::steps(solution).len(), problem.plan.len());
        }
        distinct += solutions.len();
    }
    let mean = f64::from(u32::try_from(distinct).unwrap()) / 400.0;
    assert!((13.0..16.0).contains(&mean), "{mean} distinct solutions in 64");
}

#[test]
fn flawed_solutions_are_right_as_often_as_designed() {
    let mut dice = Dice::new(1, "flawed");
    for (steps, low, high) in [(1, 66, 76), (2, 42, 56), (3, 38, 48), (4, 32, 42)] {
        let right = (0..4000)
            .filter(|_| {
                let problem = draw(steps, &mut dice);
                let solution = problem.plan.flawed_solution(&mut dice);
                grade::extract(&solution) == Some(problem.plan.answer().to_string().as_str())
            })
            .count();
        assert!((low * 40..=high * 40).contains(&right), "{steps} steps: {right} of 4000 right");
    }
}
