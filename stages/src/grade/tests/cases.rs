//! Tables of answers by kind: `= reference`, then `+ accepted` and `- refused` answers; `⏎` is a line's end.

use super::accepts;
use crate::grade::Conventions;

fn check(table: &str) {
    let conventions = Conventions::default();
    let mut gold = String::new();
    let mut wrong = Vec::new();
    for line in table.lines() {
        let line = line.replace('⏎', "\n");
        let Some((mark, text)) = line.split_once(' ') else { panic!("`{line}` is no line of a table") };
        match mark {
            "=" => gold = text.to_owned(),
            "+" | "-" => {
                if accepts(&gold, text, &conventions) != (mark == "+") {
                    wrong.push(format!("{mark} {gold} ||| {text}"));
                }
            }
            _ => panic!("`{line}` is no line of a table"),
        }
    }
    assert!(wrong.is_empty(), "judged wrongly:\n{}", wrong.join("\n"));
}

/// The references and answers of all tables.
pub(super) fn answers() -> Vec<String> {
    let lines = TABLES.iter().flat_map(|table| table.lines());
    let texts = lines.filter_map(|line| line.get(2..)).map(|text| text.replace('⏎', "\n"));
    texts.filter(|text| text.contains(char::is_alphanumeric)).collect()
}

macro_rules! tables {
    ($($name:ident $file:literal)*) => {
        const TABLES: &[&str] = &[$(include_str!($file)),*];
        $(#[test]
        fn $name() {
            check(include_str!($file));
        })*
    };
}

tables! {
    algebra_is_equal_by_value "algebra.txt"
    bases_count_where_they_are_written "bases.txt"
    equations_are_equal_up_to_a_factor "equations.txt"
    fractions_are_equal_however_they_are_written "fractions.txt"
    functions_are_equal_by_value "functions.txt"
    intervals_and_inequalities_are_sets "intervals.txt"
    lists_have_no_order_and_tuples_have "lists.txt"
    matrices_are_equal_by_cell "matrices.txt"
    numbers_are_equal_by_value "numbers.txt"
    percent_is_a_sign_or_a_hundredth "percent.txt"
    ratios_and_times_are_read "ratios_and_times.txt"
    answers_are_found_in_responses "responses.txt"
    surds_and_complex_numbers_are_equal_by_value "surds_and_complex.txt"
    texts_are_equal_by_their_words "text.txt"
    units_are_converted_or_ignored "units.txt"
}
