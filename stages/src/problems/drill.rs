//! Drills: plain arithmetic in the form of steps.
//!
//! A document lists expressions, and its completion works them out as a solution would. Loss is taken
//! on completions only, so what is learnt is to copy the next expression and to compute it: the two
//! skills of every step.

use super::dice::Dice;
use crate::record::Example;

/// Expressions a document.
const FACTS: usize = 4;

/// One expression as `(left, operation, right, result)`.
fn fact(dice: &mut Dice) -> (i64, char, i64, i64) {
    match dice.below(5) {
        0 => {
            let (left, right) = (dice.number(1..=50), dice.number(1..=9));
            (left, '+', right, left + right)
        }
        1 => {
            let (one, other) = (dice.number(4..=25), dice.number(4..=25));
            let (small, large) = (one.min(other), one.max(other));
            if dice.chance(0.5) { (one, '+', other, one + other) } else { (large, '-', small, large - small) }
        }
        2 => {
            let (left, right) = (dice.number(2..=6), dice.number(2..=6));
            (left, '*', right, left * right)
        }
        3 => {
            let (few, number) = (dice.number(2..=3), dice.number(2..=20));
            if dice.chance(0.5) { (few, '*', number, few * number) } else { (number, '*', few, few * number) }
        }
        _ => {
            let (parts, each) = (dice.number(2..=6), dice.number(2..=8));
            (parts * each, '/', parts, each)
        }
    }
}

/// One document.
pub(super) fn document(dice: &mut Dice) -> Example {
    let facts: Vec<_> = (0..FACTS).map(|_| fact(dice)).collect();
    let question: Vec<String> =
        facts.iter().map(|(left, sign, right, _)| format!("{left} {sign} {right} .")).collect();
    let steps: Vec<String> =
        facts.iter().map(|(left, sign, right, result)| format!("{left} {sign} {right} = {result}")).collect();
    let answer = facts.last().map_or(0, |(_, _, _, result)| *result);
    Example {
        prompt: format!("# Question\n\n{}\n\n# Solution\n\n", question.join(" ")),
        completion: format!("{}\n\n# Answer\n\n{answer}", steps.join("\n\n")),
        query_id: None,
        sample_index: None,
        reward: None,
    }
}
