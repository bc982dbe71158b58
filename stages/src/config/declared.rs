//! What a command declares that it writes.

use std::collections::BTreeMap;
use std::fmt;

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::kind::Kind;

/// One entry of `outputs`: `scores.jsonl`, `model/`, or `scores.jsonl: rewards`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The path below the output folder, as written: that of a folder ends in `/`.
    pub path: String,
    /// What the file holds, or every file of the folder; unchecked where it is not said.
    pub kind: Option<Kind>,
}

impl Declared {
    /// The path without the mark of a folder.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.trim_end_matches('/')
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn folder(&self) -> bool {
        self.path.ends_with('/')
    }

    /// Key material. A kind is part of it: what is stored under the key was checked.
    pub(super) fn identity(&self) -> Ingredient {
        match self.kind {
            None => self.path.as_str().into(),
            Some(kind) => {
                Ingredient::map([("path", self.path.as_str().into()), ("kind", kind.name().into())])
            }
        }
    }
}

impl Serialize for Declared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(kind) = self.kind else { return self.path.serialize(serializer) };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.path, &kind)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Declared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Declared;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a path or `path: kind`")
            }
            fn visit_str<E: de::Error>(self, path: &str) -> Result<Declared, E> {
                Ok(Declared { path: path.to_owned(), kind: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Declared, A::Error> {
                let mut entries = entries(map)?;
                match (entries.pop(), entries.is_empty()) {
                    (Some(entry), true) => Ok(entry),
                    _ => Err(de::Error::custom("expected one `path: kind` an item")),
                }
            }
        }
        deserializer.deserialize_any(One)
    }
}

fn entries<'de, A: MapAccess<'de>>(mut map: A) -> Result<Vec<Declared>, A::Error> {
    let mut entries = Vec::new();
    while let Some((path, kind)) = map.next_entry()? {
        entries.push(Declared { path, kind });
    }
    Ok(entries)
}

/// What [`read`] reads.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "describes what is written in files")]
pub(super) enum Entries {
    List(Vec<Entry>),
    Mapping(BTreeMap<String, Option<Kind>>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "describes what is written in files")]
pub(super) enum Entry {
    Path(String),
    Kind(BTreeMap<String, Option<Kind>>),
}

/// Reads a list of entries, or one mapping of paths to kinds.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Declared>, D::Error> {
    struct All;
    impl<'de> Visitor<'de> for All {
        type Value = Vec<Declared>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of paths, or a mapping of paths to kinds")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Declared>, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                all.push(item);
            }
            Ok(all)
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<Declared>, A::Error> {
            entries(map)
        }
    }
    deserializer.deserialize_any(All)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stage::StageConfig;

    fn command(outputs: serde_json::Value) -> Result<StageConfig, String> {
        let with = json!({"argv": ["x"], "outputs": outputs});
        StageConfig::parse("command", with).unwrap().map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_a_list_of_mappings_and_a_mapping_mean_the_same() {
        let list = command(json!(["a", {"b/": "rewards"}])).unwrap();
        let mapping = command(json!({"a": null, "b/": "rewards"})).unwrap();
        assert_eq!(list, mapping);
        let names: Vec<(String, bool)> =
            list.stage().outputs().into_iter().map(|output| (output.path, output.folder)).collect();
        assert_eq!(names, [("a".to_owned(), false), ("b".to_owned(), true)]);
        let written = serde_json::to_value(&list).unwrap();
        assert_eq!(written["with"]["outputs"], json!(["a", {"b/": "rewards"}]));
        assert_eq!(serde_json::from_value::<StageConfig>(written).unwrap(), list);
    }

    #[test]
    fn a_kind_is_part_of_the_identity_and_its_absence_changes_nothing() {
        let plain = command(json!(["a"])).unwrap();
        let Ingredient::Map(fields) = plain.stage().identity() else { panic!("a map") };
        assert_eq!(fields["outputs"], vec!["a".to_owned()].into());
        let identity = |outputs| command(outputs).unwrap().stage().identity();
        assert_ne!(identity(json!([{"a": "json"}])), identity(json!(["a"])));
        assert_ne!(identity(json!([{"a": "json"}])), identity(json!([{"a": "jsonl"}])));
        assert_ne!(identity(json!(["a: json"])), identity(json!([{"a": "json"}])));
    }

    #[test]
    fn an_unknown_kind_is_refused_by_its_path() {
        let error = command(json!(["b", {"a": "reward"}])).unwrap_err();
        assert!(error.starts_with("outputs[1].a: unknown variant `reward`"), "{error}");
        assert!(command(json!([{"a": "json", "b": "json"}])).is_err());
        assert!(command(json!(["a", 1])).is_err());
    }
}
