//! Judging public data, where it is at hand: `$BSTAR_SHARED`, or the folder `shared` beside the checkout.

use serde_json::Value;

use crate::at_hand::shared;
use crate::grade::{
    Conventions, choice_letter, choice_prompt, choose, math, mathd_form, official, prm800k_form,
};

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn labelled_cases_are_judged_as_labelled() {
    let Some(text) = shared("grader_cases.jsonl") else { return };
    let conventions = Conventions::default();
    let (mut right, mut undisputed, mut false_accepts) = (0, 0, 0);
    let rows = rows(&text);
    for row in &rows {
        let correct =
            math(row["gold"].as_str().unwrap(), row["pred"].as_str().unwrap(), &conventions).correct;
        let expected = row["expected"].as_bool().unwrap();
        right += usize::from(correct == expected);
        if row["disputed"] == false {
            undisputed += 1;
            false_accepts += usize::from(correct && !expected);
        }
    }
    assert!(right * 1000 >= rows.len() * 985, "{right} of {}", rows.len());
    assert_eq!(false_accepts, 0, "of {undisputed} undisputed rows");
}

#[test]
fn official_vectors_are_met() {
    let Some(text) = shared("grader_vectors.json") else { return };
    let vectors: Vec<Value> = serde_json::from_str(&text).unwrap();
    for row in &vectors {
        let field = |name: &str| row[name].as_str().unwrap();
        let (given, truth) = (field("given"), field("gt"));
        assert_eq!(mathd_form(given), field("mathd_given"), "{given}");
        assert_eq!(mathd_form(truth), field("mathd_gt"), "{truth}");
        assert_eq!(prm800k_form(given), field("prm800k_given"), "{given}");
        assert_eq!(prm800k_form(truth), field("prm800k_gt"), "{truth}");
        assert_eq!(official(given, truth), row["ok"].as_bool().unwrap(), "{given} and {truth}");
    }
}

#[test]
fn references_of_math_are_equal_to_themselves() {
    let Some(text) = shared("math/math500_prm800k_test.jsonl") else { return };
    let conventions = Conventions::default();
    for row in rows(&text) {
        let gold = row["answer"].as_str().unwrap();
        assert!(official(gold, gold), "{gold}");
        for response in [
            gold.to_owned(),
            format!("${gold}$"),
            format!("Therefore, the answer is $\\boxed{{{gold}}}$."),
            format!("The answer is ${gold}$."),
            format!("work\n\n# Answer\n\n{gold}"),
        ] {
            assert!(math(gold, &response, &conventions).correct, "{gold} in {response}");
        }
    }
}

#[test]
fn solutions_of_gsm8k_give_their_answers() {
    let Some(text) = shared("gsm8k/test.jsonl") else { return };
    let conventions = Conventions::default();
    let rows = rows(&text);
    for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
        let solution = row["answer"].as_str().unwrap();
        let answer = solution.rsplit("#### ").next().unwrap();
        assert!(math(answer, solution, &conventions).correct, "{answer}");
        let other = next["answer"].as_str().unwrap().rsplit("#### ").next().unwrap();
        assert_eq!(
            math(other, solution, &conventions).correct,
            answer.replace(',', "") == other.replace(',', "")
        );
    }
}

/// A row of ARC: the question, its (label, text) pairs, and the position of the right one.
fn arc(row: &Value) -> (String, Vec<(String, String)>, usize) {
    let list = |name: &str| {
        row["choices"][name].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned())
    };
    let choices: Vec<(String, String)> = list("label").zip(list("text")).collect();
    let right = choices.iter().position(|(label, _)| row["answerKey"] == label.as_str()).unwrap();
    (row["question"].as_str().unwrap().to_owned(), choices, right)
}

#[test]
fn every_question_of_arc_can_be_answered_right_and_wrong() {
    for (file, count, digits) in [("test", 1172, 22), ("dev", 299, 4), ("train", 1119, 23)] {
        let Some(text) = shared(&format!("arc/arc_challenge_{file}.jsonl")) else { return };
        let rows = rows(&text);
        assert_eq!(rows.len(), count);
        let mut digit_keys = 0;
        for row in &rows {
            let (question, choices, right) = arc(row);
            let key = &choices[right].0;
            digit_keys += usize::from(key.starts_with(|first: char| first.is_ascii_digit()));
            let prompt = choice_prompt(&question, &choices);
            for (position, (label, words)) in choices.iter().enumerate() {
                let letter = choice_letter(position).unwrap();
                assert!(prompt.contains(&format!("\n({letter}) {}", words.trim())), "{prompt}");
                for response in [
                    format!("Because it is so.\n\nFinal answer: ({letter})"),
                    format!("Final answer: {letter}"),
                    format!("Final answer: {label}"),
                    format!("The other ones are wrong. The answer is ({letter}) {words}"),
                    format!("({letter})"),
                    label.clone(),
                ] {
                    let verdict = choose(&choices, key, &response);
                    assert_eq!(
                        verdict.correct,
                        position == right,
                        "{response} to {question}: {}",
                        verdict.reason
                    );
                }
            }
        }
        assert_eq!(digit_keys, digits, "{file}");
    }
}
