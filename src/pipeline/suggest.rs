//! "Did you mean …?"

use serde_json::Value;

/// The candidate that was probably meant by `word`: few edits away, or the only one it begins.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().filter(|candidate| *candidate != word).collect();
    let folded = word.to_lowercase();
    let limit = word.chars().count().max(3) / 3;
    let by_edits = candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min();
    if let Some((_, candidate)) = by_edits {
        return Some(candidate);
    }
    let mut begun = candidates.iter().filter(|candidate| folded.len() >= 3 && candidate.starts_with(&folded));
    match (begun.next(), begun.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// A hint: the nearest candidate, or all of them after `otherwise`, or nothing when there are none.
pub(crate) fn hint(word: &str, candidates: &[&str], otherwise: &str) -> Option<String> {
    if let Some(candidate) = nearest(word, candidates.iter().copied()) {
        return Some(format!("did you mean `{candidate}`?"));
    }
    (!candidates.is_empty()).then(|| format!("{otherwise}: {}", list(candidates.iter().copied())))
}

/// Most names in a list for people.
const LIST: usize = 20;

/// Names in backticks, separated by commas.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(LIST);
    names.truncate(LIST);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

/// What a value is, for "expected …, found …".
pub(crate) fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("the number `{value}`"),
        Value::String(value) => format!("the text `{value}`"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_name() {
        let fields = ["temperature", "samples", "top_k", "top_p", "max_tokens"];
        assert_eq!(nearest("temprature", fields), Some("temperature"));
        assert_eq!(nearest("smaples", fields), Some("samples"));
        assert_eq!(nearest("maxtokens", fields), Some("max_tokens"));
        assert_eq!(nearest("Samples", fields), Some("samples"));
        assert_eq!(nearest("temp", fields), Some("temperature"));
        assert_eq!(nearest("learning_rate", fields), None);
        assert_eq!(nearest("top", fields), None, "two names begin so");
    }
}
