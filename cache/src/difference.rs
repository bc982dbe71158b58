//! How two executions differ: the explanation of a miss, made from what the keys are made of.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::action::{Action, Ingredient};

/// One ingredient that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// A path in the settings (`training.updates`, `argv[2]`), `version`, `seed`, or `input NAME`.
    pub ingredient: String,
    /// The stored execution's, as text.
    pub stored: String,
    /// This execution's, as text.
    pub wanted: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} → {}", self.ingredient, self.stored, self.wanted)
    }
}

impl fmt::Display for Ingredient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => formatter.write_str("none"),
            Self::Bool(value) => value.fmt(formatter),
            Self::Int(value) => value.fmt(formatter),
            Self::Unsigned(value) => value.fmt(formatter),
            Self::Float(value) => value.fmt(formatter),
            Self::Text(value) => write!(formatter, "{value:?}"),
            Self::Digest(value) => formatter.write_str(&value.short()),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(formatter, "[{}]", items.join(", "))
            }
            Self::Map(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                write!(formatter, "{{{}}}", fields.join(", "))
            }
        }
    }
}

impl Action {
    /// Where this execution differs from a stored one, settings first; empty when the keys are equal.
    #[must_use]
    pub fn differences(&self, stored: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        compare("", &stored.config, &self.config, &mut found);
        let mut note = |ingredient: String, stored: Option<String>, wanted: Option<String>| {
            if stored != wanted {
                let text = |side: Option<String>| side.unwrap_or_else(|| "none".to_owned());
                found.push(Difference { ingredient, stored: text(stored), wanted: text(wanted) });
            }
        };
        note("stage".to_owned(), Some(stored.stage.clone()), Some(self.stage.clone()));
        note("version".to_owned(), Some(stored.version.to_string()), Some(self.version.to_string()));
        note(
            "seed".to_owned(),
            stored.seed.map(|seed| seed.to_string()),
            self.seed.map(|seed| seed.to_string()),
        );
        let names: BTreeSet<&String> = stored.inputs.keys().chain(self.inputs.keys()).collect();
        for name in names {
            let short = |action: &Self| action.inputs.get(name).map(crate::Digest::short);
            note(format!("input {name}"), short(stored), short(self));
        }
        found
    }
}

fn compare(path: &str, stored: &Ingredient, wanted: &Ingredient, found: &mut Vec<Difference>) {
    if stored == wanted {
        return;
    }
    if let (Ingredient::Map(before), Ingredient::Map(after)) = (stored, wanted) {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let side = |fields: &std::collections::BTreeMap<String, Ingredient>| {
                fields.get(name).cloned().unwrap_or(Ingredient::Absent)
            };
            compare(&inner, &side(before), &side(after), found);
        }
        return;
    }
    if let (Ingredient::List(before), Ingredient::List(after)) = (stored, wanted)
        && before.len() == after.len()
        && before.iter().zip(after).any(|(before, after)| before == after)
    {
        for (index, (before, after)) in before.iter().zip(after).enumerate() {
            compare(&format!("{path}[{index}]"), before, after, found);
        }
        return;
    }
    found.push(Difference {
        ingredient: if path.is_empty() { "settings".to_owned() } else { path.to_owned() },
        stored: stored.to_string(),
        wanted: wanted.to_string(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn action(updates: i64, dataset: &[u8]) -> Action {
        Action {
            stage: "sft".to_owned(),
            version: 1,
            config: Ingredient::map([("training", Ingredient::map([("updates", updates.into())]))]),
            seed: Some(1),
            inputs: [("dataset".to_owned(), Digest::of(dataset))].into(),
        }
    }

    #[test]
    fn differences_name_settings_by_path_and_inputs_by_name() {
        let texts = |one: &Action, other: &Action| -> Vec<String> {
            one.differences(other).iter().map(ToString::to_string).collect()
        };
        let stored = action(10, b"a");
        assert!(texts(&stored, &stored).is_empty());
        assert_eq!(texts(&action(11, b"a"), &stored), ["training.updates 10 → 11"]);
        let (a, b) = (Digest::of(b"a").short(), Digest::of(b"b").short());
        assert_eq!(texts(&action(10, b"b"), &stored), [format!("input dataset {a} → {b}")]);
        let list = |items: [i64; 2]| Action {
            config: Ingredient::map([("l", items.to_vec().into())]),
            ..stored.clone()
        };
        assert_eq!(texts(&list([1, 3]), &list([1, 2])), ["l[1] 2 → 3"]);
        assert_eq!(texts(&list([3, 4]), &list([1, 2])), ["l [1, 2] → [3, 4]"], "nothing in common");
        let unseeded = Action { seed: None, ..stored.clone() };
        assert_eq!(texts(&unseeded, &stored), ["seed 1 → none"]);
    }
}
