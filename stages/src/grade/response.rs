//! The parts of a response: its answer and its steps.

/// What precedes the answer in a response.
pub const ANSWER_MARKER: &str = "# Answer\n\n";

/// What separates the steps of a response.
pub const STEP_SEPARATOR: &str = "\n\n";

/// The text after the last answer marker, trimmed; `None` without a marker or an answer.
#[must_use]
pub fn extract(response: &str) -> Option<&str> {
    let (_, answer) = response.rsplit_once(ANSWER_MARKER)?;
    let answer = answer.trim();
    (!answer.is_empty()).then_some(answer)
}

/// The pieces of a response: one a step, each with the separator after it, the answer with the last.
/// Joined, they are the response.
#[must_use]
pub fn steps(response: &str) -> Vec<&str> {
    let mut pieces: Vec<&str> = response.split_inclusive(STEP_SEPARATOR).collect();
    // The answer belongs to the last step: "12 - 5 = 7\n\n# Answer\n\n7" is one piece.
    if let Some(answer) = pieces.iter().rposition(|piece| piece.starts_with("# Answer"))
        && let Some(kept) = answer.checked_sub(1)
    {
        let start: usize = pieces[..kept].iter().map(|piece| piece.len()).sum();
        pieces.truncate(kept);
        pieces.push(&response[start..]);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_answer_follows_the_last_marker() {
        assert_eq!(extract("1 + 1 = 2\n\n# Answer\n\n2"), Some("2"));
        assert_eq!(extract("# Answer\n\n3\n\n# Answer\n\n 4 \n"), Some("4"));
        assert_eq!(extract("1 + 1 = 2"), None);
        assert_eq!(extract("# Answer\n\n"), None);
        assert_eq!(extract("# Answer 4"), None);
    }

    #[test]
    fn the_answer_belongs_to_the_last_step() {
        let response = "first 3 * 4 = 12\n\nthen 12 - 5 = 7\n\n# Answer\n\n7";
        let pieces = steps(response);
        assert_eq!(pieces, ["first 3 * 4 = 12\n\n", "then 12 - 5 = 7\n\n# Answer\n\n7"]);
        assert_eq!(steps("3 * 4 = 12"), ["3 * 4 = 12"]);
        assert_eq!(steps("# Answer\n\n7"), ["# Answer\n\n", "7"]);
        assert!(steps("").is_empty());
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_response(text in "([a-z0-9]{0,3}|\n\n|\n|# Answer\n\n){0,12}") {
            prop_assert_eq!(steps(&text).concat(), text);
        }
    }
}
