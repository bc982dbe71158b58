//! Whatever is judged: no panic, bounded work, and the laws of equality.

use proptest::prelude::*;

use super::cases::answers;
use crate::config::Grader;
use crate::grade::{
    Comparison, Conventions, Work, choose, clean, equal, equations, extract, judge, math, math_within,
    readings, steps, words,
};

const PIECES: &[&str] = &[
    "1",
    "2",
    "12",
    "0",
    "1,234",
    "0.5",
    ".",
    ",",
    ";",
    " ",
    "x",
    "y",
    "e",
    "i",
    "ab",
    "+",
    "-",
    "*",
    "/",
    "^",
    "_",
    "=",
    "<",
    "\\le ",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\\{",
    "\\}",
    "|",
    "\\frac",
    "\\frac{1}{2}",
    "\\sqrt",
    "\\sqrt[3]{",
    "\\pi",
    "\\infty",
    "\\cup",
    "\\pm",
    "\\text{",
    "\\text{ and }",
    " or ",
    "\\boxed{",
    "$",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "%",
    "^\\circ",
    "!",
    "\\sin",
    "\\log_2",
    " cm",
    "\\left",
    "\\right",
    ":",
    "°",
    "²",
    "√",
    "−",
    "é",
    "\n",
    "#### ",
    "# Answer\n\n",
    "The answer is ",
    "\\binom",
    "\\overline{3}",
    "e5",
    "\\",
    "\\begin{cases}",
    "\\in ",
    "\\mathbb{R}",
    "'",
    "~",
    " to ",
    "is",
    "\\pmod{",
    "(mod ",
    "^+",
    "\\ldots",
    "except ",
    "\\begin{vmatrix}",
    "\\end{vmatrix}",
    "C",
    " hours ",
    " minutes",
    "\\lfloor ",
    "⅓",
    "option A",
    "\\operatorname{cis}",
    "third",
    "pm",
    "^{9}",
    "a°nswer: ",
    " are ",
];

fn soup(length: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..length).prop_map(|pieces| pieces.concat())
}

/// An answer of the tables with some characters deleted, doubled or exchanged.
fn mutated() -> impl Strategy<Value = (String, String)> {
    let all = answers();
    let change = (any::<prop::sample::Index>(), 0..4_u8, any::<prop::sample::Index>());
    (prop::sample::select(all), prop::collection::vec(change, 1..6)).prop_map(|(original, changes)| {
        let mut characters: Vec<char> = original.chars().collect();
        for (at, kind, other) in changes {
            if characters.is_empty() {
                break;
            }
            let (at, other) = (at.index(characters.len()), other.index(characters.len()));
            match kind {
                0 => drop(characters.remove(at)),
                1 => characters.insert(at, characters[other]),
                2 => characters.swap(at, other),
                _ => characters.truncate(at.max(1)),
            }
        }
        (original, characters.into_iter().collect())
    })
}

fn judged_by_all(gold: &str, response: &str) {
    let conventions = Conventions::default();
    for grader in [Grader::Math, Grader::Official, Grader::Exact] {
        let _ = judge(gold, response, grader, &conventions);
    }
    drop((extract(response), equations(response), steps(response)));
    let _ = choose(&[("A".to_owned(), gold.to_owned())], "A", response);
}

fn work(gold: &str, response: &str) -> u32 {
    let conventions = Conventions::default();
    let comparison = Comparison { conventions: &conventions, work: Work::new() };
    let _ = math_within(gold, response, &comparison);
    comparison.work.spent()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_two_texts_can_be_judged(gold in any::<String>(), response in any::<String>()) {
        judged_by_all(&gold, &response);
        prop_assert!(equal(&gold, &gold, Grader::Math, &Conventions::default()));
    }

    #[test]
    fn any_pieces_of_latex_can_be_judged(gold in soup(24), response in soup(40)) {
        judged_by_all(&gold, &response);
        judged_by_all(&response, &response);
    }

    #[test]
    fn damaged_answers_can_be_judged((original, damaged) in mutated()) {
        judged_by_all(&original, &damaged);
        judged_by_all(&damaged, &original);
    }

    #[test]
    fn an_answer_is_equal_to_itself_in_a_box(answer in prop::sample::select(answers())) {
        let plain = !answer.contains('\n') && !answer.contains("boxed") && !answer.contains("nswer");
        prop_assume!(plain && !answer.contains("####") && !answer.contains("A: "));
        let balanced = answer.matches('{').count() == answer.matches('}').count();
        prop_assume!(balanced && !answer.contains('$'));
        let usual = Conventions::default();
        for response in [format!("So it is $\\boxed{{{answer}}}$."), format!("work\n\n# Answer\n\n{answer}")] {
            prop_assert!(math(&answer, &response, &usual).correct, "{}", response);
        }
    }

    #[test]
    fn equality_does_not_depend_on_the_side(
        a in prop::sample::select(answers()),
        b in prop::sample::select(answers()),
        (original, damaged) in mutated(),
    ) {
        // Where both are mathematics: a reference may not explain its letter, and its base counts.
        let symmetric = |text: &str| {
            !text.contains('_') && words::choice(text).is_none() && !readings(clean(text)).is_empty()
        };
        for (left, right) in [(a, b), (original, damaged)] {
            if symmetric(&left) && symmetric(&right) {
                let usual = Conventions::default();
                let (there, back) = (math(&left, &right, &usual), math(&right, &left, &usual));
                prop_assert_eq!(there.correct, back.correct, "{} and {}", left, right);
            }
        }
    }

    #[test]
    fn sums_and_products_are_what_they_are(a in -999..999_i64, b in 1..999_i64, c in -99..99_i64) {
        let usual = Conventions::default();
        let judged = |gold: &str, answer: String| math(gold, &answer, &usual).correct;
        let (sum, quotient) = ((a + c).to_string(), format!("\\frac{{{a}}}{{{b}}}"));
        let right = [
            judged(&sum, format!("\\boxed{{{a} + ({c})}}")),
            judged(&quotient, format!("{a}/{b}")),
            judged(&quotient, format!("\\frac{{{}}}{{{}}}", 3 * a, 3 * b)),
        ];
        let wrong = [
            judged(&quotient, format!("\\frac{{{}}}{{{b}}}", a + 1)),
            judged(&sum, (a + c + 1).to_string()),
        ];
        prop_assert_eq!((right, wrong), ([true; 3], [false; 2]));
    }

    #[test]
    fn thousands_commas_do_not_change_a_number(number in any::<u32>()) {
        let plain = number.to_string();
        let groups: Vec<String> = plain.as_bytes().rchunks(3).rev()
            .map(|group| String::from_utf8_lossy(group).into_owned()).collect();
        for separator in [",", "{,}", ",\\!", "\\,"] {
            let grouped = groups.join(separator);
            prop_assert!(equal(&grouped, &plain, Grader::Math, &Conventions::default()), "{}", grouped);
        }
    }
}

#[test]
fn deep_and_long_answers_end() {
    let deep = [
        "(",
        "{",
        "[",
        "-",
        "^",
        "\\frac{",
        "\\sqrt{",
        "|",
        "\\{",
        "\\left(",
        "x^{",
        "\\boxed{",
        "1+(",
        "\\sin ",
        "\\text{",
        "\\operatorname{cis}",
        "1 h 1 min ",
        "1 cm and ",
        "]1,",
        "1 is ",
        "(mod ",
        "a°nswer: ",
        "\\begin{vmatrix}1&2&3&4\\\\5&6&7&",
    ];
    for piece in deep {
        for count in [10, 60, 1000, 50_000] {
            let text = piece.repeat(count);
            judged_by_all(&text, "1");
            judged_by_all("1", &text);
            judged_by_all(&format!("{text}1"), &format!("{text}2"));
        }
    }
}

#[test]
fn work_has_a_bound_that_hard_answers_meet() {
    let list = |from: u32| -> String {
        let items: Vec<String> =
            (0..60).map(|at| format!("\\frac{{{}}}{{{}}}x^{{{at}}}", from + at, at + 7)).collect();
        items.join(", ")
    };
    let tower = "9^{9^{9^{9}}}";
    let hard = [
        (list(1), list(2)),
        ("(x+1)^{4000}".to_owned(), "(1+x)^{4000}".to_owned()),
        (tower.to_owned(), format!("{tower}+1")),
        ("10000!".to_owned(), "10001!".to_owned()),
        ("\\binom{100000}{50000}".to_owned(), "1".to_owned()),
        ("1e4000".to_owned(), "1e-4000".to_owned()),
        ("\\begin{pmatrix}1&x\\\\y&2\\end{pmatrix}^{16}".to_owned(), "1".to_owned()),
        (format!("{}1", "1+".repeat(700)), format!("{}1", "1+".repeat(699))),
        (format!("{}x", "\\sin".repeat(40)), format!("{}x", "\\cos".repeat(40))),
    ];
    for (gold, answer) in hard {
        assert!(work(&gold, &answer) <= 200_000, "{gold}");
    }
    // What people write takes next to nothing.
    assert!(work("\\frac{x+2}{7}", "\\frac{x}{7}+\\frac{2}{7}") < 200);
    assert_eq!(math("2^{1000}", "2^{1000}+1", &Conventions::default()).reason, "different values");
}
