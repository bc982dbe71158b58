//! What variants are called.

/// For each path the shortest end that no other path has; `with` is left out.
pub(super) fn tails(paths: &[&str]) -> Vec<String> {
    let parts = |path: &str| -> Vec<String> {
        path.split('.').filter(|part| *part != "with").map(str::to_owned).collect()
    };
    let all: Vec<Vec<String>> = paths.iter().map(|path| parts(path)).collect();
    let tail = |index: usize| {
        let own = &all[index];
        let unique = |length: &usize| {
            let end = &own[own.len() - length..];
            all.iter().enumerate().all(|(other, path)| other == index || !path.ends_with(end))
        };
        let length = (1..=own.len()).find(unique).unwrap_or(own.len());
        own[own.len() - length..].join(".")
    };
    (0..all.len()).map(tail).collect()
}

/// What is appended to the names of steps that a variant does not share: `n_star=2,seed=1`. It has no
/// `/`, which begins the name of a shard.
pub(super) fn tag(variant: &str, seed: u64, seeds: bool) -> String {
    let variant: String = variant
        .replace(" · ", ",")
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| if c == '/' { '_' } else { c })
        .collect();
    match (variant.is_empty(), seeds) {
        (_, false) => variant,
        (true, true) => format!("seed={seed}"),
        (false, true) => format!("{variant},seed={seed}"),
    }
}

/// Whether `name` is what a pattern with `*` (any text) and `?` (one character) stands for.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = rest.as_str();
            let mut ends = name.char_indices().map(|(at, _)| &name[at..]).chain([""]);
            ends.any(|end| matches(rest, end))
        }
        Some(first) => {
            let mut characters = name.chars();
            let next = characters.next();
            next.is_some_and(|c| first == '?' || first == c) && matches(rest.as_str(), characters.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_called_by_its_shortest_unambiguous_end() {
        assert_eq!(tails(&["iteration.search.with.n_star", "iterations"]), ["n_star", "iterations"]);
        assert_eq!(
            tails(&["iteration.explore.with.samples", "iteration.responses.with.samples", "samples"]),
            ["explore.samples", "responses.samples", "samples"]
        );
    }

    #[test]
    fn tags_have_no_spaces_and_no_slashes() {
        assert_eq!(tag("no_rm · n_star=2", 1, false), "no_rm,n_star=2");
        assert_eq!(tag("data=a/b c", 3, true), "data=a_bc,seed=3");
        assert_eq!(tag("", 3, true), "seed=3");
    }

    #[test]
    fn stars_and_question_marks_match() {
        assert!(matches("no_*", "no_rm") && matches("*", "") && matches("n?_*=2", "no_rm · n_star=2"));
        assert!(!matches("no", "no_rm") && !matches("?", "") && matches("K=é?", "K=éx"));
    }
}
