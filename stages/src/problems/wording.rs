//! Names, things and phrases; and what two problems that differ in names only have in common.

use std::collections::HashMap;

/// Who problems are about.
pub(super) const NAMES: [&str; 8] = ["Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana"];
/// What problems are about.
pub(super) const ITEMS: [&str; 6] = ["apples", "books", "coins", "eggs", "pens", "stones"];

/// The question with names and things replaced by placeholders in the order of their first appearance:
/// equal for two problems exactly if one is a renaming of the other.
#[must_use]
pub fn canonical(question: &str) -> String {
    let mut names = HashMap::new();
    let mut items = HashMap::new();
    let mut canonical = String::with_capacity(question.len());
    for (index, word) in question.split(' ').enumerate() {
        if index > 0 {
            canonical.push(' ');
        }
        if NAMES.contains(&word) {
            let next = names.len();
            canonical.push_str(&format!("NAME{}", names.entry(word).or_insert(next)));
        } else if ITEMS.contains(&word) {
            let next = items.len();
            canonical.push_str(&format!("ITEM{}", items.entry(word).or_insert(next)));
        } else {
            canonical.push_str(word);
        }
    }
    canonical
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamings_have_the_same_canonical_form() {
        let first = "Ann has 3 pens . Ben has 2 more than Ann .";
        let second = "Gus has 3 eggs . Ann has 2 more than Gus .";
        assert_eq!(canonical(first), canonical(second));
        assert_eq!(canonical(first), "NAME0 has 3 ITEM0 . NAME1 has 2 more than NAME0 .");
    }

    #[test]
    fn different_roles_have_different_canonical_forms() {
        let about_first = "Ann has 3 pens . Ben has 2 more than Ann . Dan has 4 more than Ann .";
        let about_second = "Ann has 3 pens . Ben has 2 more than Ann . Dan has 4 more than Ben .";
        assert_ne!(canonical(about_first), canonical(about_second));
        assert_ne!(canonical("Ann has 3 pens ."), canonical("Ann has 4 pens ."));
    }
}
