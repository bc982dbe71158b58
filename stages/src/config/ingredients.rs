//! Parts of keys that are only there where a setting is not the usual one.

use bstar_cache::Ingredient;

/// Ingredients that are always there, and those that are set.
pub(super) fn ingredients<'a>(
    always: impl IntoIterator<Item = (&'a str, Ingredient)>,
    set: impl IntoIterator<Item = (&'a str, Option<Ingredient>)>,
) -> Ingredient {
    let set = set.into_iter().filter_map(|(name, value)| Some((name, value?)));
    Ingredient::Map(always.into_iter().chain(set).map(|(name, value)| (name.to_owned(), value)).collect())
}
