//! What the graders accept and refuse.

mod cases;
mod fuzz;
mod official;
mod shared;

use super::*;
use crate::config::AnswerStyle;

fn accepts(gold: &str, answer: &str, conventions: &Conventions) -> bool {
    math(gold, answer, conventions).correct
}

#[test]
fn conventions_can_be_switched() {
    let usual = Conventions::default();
    let changes: [(Conventions, &str, &str); 10] = [
        (Conventions { percent: Percent::Sign, ..usual }, "50\\%", "0.5"),
        (Conventions { percent: Percent::Hundredth, ..usual }, "50\\%", "50"),
        (Conventions { list_order: true, ..usual }, "1, 2", "2, 1"),
        (Conventions { rounding: Rounding { digits: u32::MAX, relative: 0.0 }, ..usual }, "1/3", "0.333333"),
        (Conventions { unevaluated: false, ..usual }, "5", "2+3"),
        (Conventions { unevaluated: false, ..usual }, "\\frac{1}{2}", "\\frac{2}{4}"),
        (Conventions { unevaluated: false, ..usual }, "4", "2^2"),
        (Conventions { names_ignored: false, ..usual }, "x=5", "y=5"),
        (Conventions { base_optional: false, ..usual }, "2516_8", "2516"),
        (Conventions { names_ignored: false, ..usual }, "x_1=5", "x_2=5"),
    ];
    for (changed, gold, answer) in changes {
        assert!(accepts(gold, answer, &usual), "{gold} and {answer}");
        assert!(!accepts(gold, answer, &changed), "{gold} and {answer} under {changed:?}");
    }
    let loose = Conventions { brackets: false, units_ignored: true, ..usual };
    for (gold, answer) in [("(1,2)", "[1,2]"), ("5 cm", "5 m")] {
        assert!(!accepts(gold, answer, &usual), "{gold} and {answer}");
        assert!(accepts(gold, answer, &loose), "{gold} and {answer}");
    }
}

#[test]
fn strict_arithmetic_still_takes_finished_numbers() {
    let strict = Conventions { unevaluated: false, ..Conventions::default() };
    for (gold, answer) in
        [("\\frac{1}{2}", "0.5"), ("1\\frac{1}{2}", "3/2"), ("-\\frac{3}{4}", "-3/4"), ("5", "x=5")]
    {
        assert!(accepts(gold, answer, &strict), "{gold} and {answer}");
    }
}

#[test]
fn answers_are_found_where_the_style_says() {
    let response = "so \\boxed{3}\n\n#### 4\n\n# Answer\n\n5\n";
    let found = |style| find(response, style).map(std::borrow::Cow::into_owned);
    assert_eq!(found(AnswerStyle::Section).as_deref(), Some("5"));
    assert_eq!(found(AnswerStyle::Hashes).as_deref(), Some("4"));
    assert_eq!(found(AnswerStyle::Boxed).as_deref(), Some("3"));
    assert_eq!(found(AnswerStyle::Any).as_deref(), Some("5"));
    for style in [AnswerStyle::Section, AnswerStyle::Hashes, AnswerStyle::Boxed] {
        assert_eq!(find("it is 7", style), None);
    }
    assert_eq!(find("it is 7 apples", AnswerStyle::Any).as_deref(), Some("7"));
    assert_eq!(find("", AnswerStyle::Any), None);
}

#[test]
fn boxes_are_joined_where_they_belong_together() {
    let boxed = |text| find(text, AnswerStyle::Boxed).map(std::borrow::Cow::into_owned).unwrap_or_default();
    assert_eq!(boxed("\\boxed{1} and $\\boxed{2}$"), "1, 2");
    assert_eq!(boxed("\\boxed{1}, \\boxed{2}, \\text{ and } \\boxed{3}"), "1, 2, 3");
    assert_eq!(boxed("$x = \\boxed{1}$ or $x = \\boxed{2}$"), "1 or 2");
    assert_eq!(boxed("First \\boxed{1} then \\boxed{2}"), "2");
    assert_eq!(boxed("\\boxed{1}. And so we go on, and find \\boxed{2}"), "2");
    assert_eq!(boxed("\\boxed{\\frac{1}{\\sqrt{2}}}"), "\\frac{1}{\\sqrt{2}}");
    assert_eq!(boxed("\\boxed{\\{1\\}}"), "\\{1\\}");
    assert_eq!(boxed("\\boxed{5"), "5");
    assert_eq!(boxed("\\boxed 5 apples"), "5");
}

#[test]
fn a_later_announcement_counts() {
    let usual = Conventions::default();
    let cases = [
        ("7", "The answer is 5. No, the answer is 7.", true),
        ("7", "\\boxed{5}. Final Answer: The final answer is $7$. I hope it is correct.", true),
        ("5", "\\boxed{5}. So the answer is clear.", true),
        ("7", "# Answer\n\n5\n\n# Answer\n\n7", true),
        ("7", "I think # Answer is 4.\n\n# Answer\n\n7", true),
        ("5", "<think>\\boxed{5}</think> It is \\boxed{6}.", false),
        ("5", "The answer is 5.<|im_end|><|im_start|>user What is 6?", true),
        ("42", "The answer is 41, no wait, it is 42.", true),
        ("3", "Jane has 5 and gives 2 away, so 3 are left", true),
        ("12", "Final answer: the area is $12$ square units.", true),
    ];
    let wrong: Vec<_> =
        cases.iter().filter(|(gold, response, right)| accepts(gold, response, &usual) != *right).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn choices_are_named_by_letter_label_or_text() {
    let labels = |labels: [&str; 4]| -> Vec<(String, String)> {
        let texts = ["a planet", "the moon", "A star", "the sun"];
        labels.iter().zip(texts).map(|(label, text)| ((*label).to_owned(), text.to_owned())).collect()
    };
    let letters = labels(["A", "B", "C", "D"]);
    let digits = labels(["1", "2", "3", "4"]);
    for right in [
        "B",
        "(B)",
        "b",
        "Final answer: (B)",
        "Final Answer: B.",
        "The answer is B",
        "The answer is (B) the moon",
        "So the answer is **B**.",
        "The moon",
        "\\boxed{B}",
        "I think so.\nFinal answer: [B]",
        "The answer is the moon.",
        "Final answer: (B), not (C)",
        "Final answer: B, because C is no moon",
        "Final answer: B; a planet is larger",
        "Final answer: (B), (C) is wrong",
        "Final answer: B\nC is wrong",
        "B is the best choice",
    ] {
        assert!(choose(&letters, "B", right).correct, "{right}");
        assert!(choose(&digits, "2", right).correct, "{right}");
    }
    assert!(choose(&digits, "2", "Final answer: 2").correct);
    for wrong in
        ["A", "(C)", "Final answer: both", "The answer is unclear", "", "A planet is no moon", "B or C: C"]
    {
        assert!(!choose(&letters, "B", wrong).correct, "{wrong}");
    }
    for hedged in [
        "Final answer: (B) or (C)",
        "Final answer: B, C",
        "Final answer: B; C",
        "Final answer: (B), and D",
        "Final answer: (B) / (A)",
        "Final answer: (B) & (2)",
        "Final answer: B, or A",
        "Final answer: B is wrong",
        "Final answer: (B) is not right",
        "(B) is incorrect",
    ] {
        assert!(!choose(&letters, "B", hedged).correct, "{hedged}");
    }
    // Its own words, not what is said of it.
    let words = ["is not soluble", "cannot melt"].map(|text| (text[..1].to_owned(), text.to_owned()));
    assert!(choose(&words, "i", "Final answer: (A) is not soluble").correct);
    assert!(choose(&words, "c", "The answer is (B) cannot melt.").correct);
    assert!(!choose(&letters, "Z", "B").correct);
    assert_eq!(choose(&letters, "A", "Final answer: The").reason, "no choice found");
}

#[test]
fn the_exact_grader_compares_characters_after_the_last_marker() {
    let judged = |gold, response| judge(gold, response, Grader::Exact, &Conventions::default()).correct;
    assert!(judged("5", "# Answer\n\n4\n\n# Answer\n\n5"));
    assert!(judged("5", "5"));
    assert!(!judged("5", "5.0"));
    assert!(!judged("5", "# Answer\n\n5 "));
}
