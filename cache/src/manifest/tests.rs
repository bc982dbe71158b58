use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::action::Ingredient;

fn artifact(content: &str) -> Artifact {
    Artifact { digest: Digest::of(content.as_bytes()), size: content.len() as u64 }
}

fn manifest(outputs: &[(&str, &str)]) -> Manifest {
    let action = Action {
        stage: "train".to_owned(),
        version: 1,
        config: Ingredient::map([("rate", Ingredient::from(0.1 + 0.2))]),
        seed: Some(7),
        inputs: BTreeMap::new(),
    };
    let outputs = outputs.iter().map(|(path, content)| ((*path).to_owned(), artifact(content))).collect();
    let metrics =
        Map::from_iter([("loss".to_owned(), Value::from(1.0 / 3.0)), ("wall_s".to_owned(), 2.5.into())]);
    let provenance = Provenance { step: "model".to_owned(), wall_s: 2.5, ..Provenance::default() };
    Manifest::new(action, outputs, metrics, provenance)
}

#[test]
fn file_output_is_the_file_at_exactly_that_path() {
    let manifest = manifest(&[("model/a", "1"), ("rows.jsonl", "22")]);
    assert_eq!(manifest.under("rows.jsonl", false), Some(artifact("22")));
    assert_eq!(manifest.files("rows.jsonl", false), [(String::new(), artifact("22"))]);
    for absent in ["rows", "model", "", "model/"] {
        assert_eq!(manifest.under(absent, false), None, "{absent}");
        assert_eq!(manifest.files(absent, false), [], "{absent}");
    }
}

#[test]
fn folder_output_is_the_tree_of_all_files_below() {
    let manifest =
        manifest(&[("model/a", "1"), ("model/b/c", "22"), ("models/a", "333"), ("model.json", "4")]);
    let files = vec![("a".to_owned(), artifact("1")), ("b/c".to_owned(), artifact("22"))];
    assert_eq!(manifest.files("model", true), files);
    assert_eq!(manifest.files("model/", true), files);
    assert_eq!(manifest.under("model", true), Some(Artifact { digest: tree_digest(&files), size: 3 }));
    assert_eq!(manifest.under("mod", true), None);
    assert_eq!(manifest.under("model.json", true), None, "a file is not a folder");
    assert_eq!(manifest.files("", true).len(), 4);
}

#[test]
fn shared_content_counts_once() {
    assert_eq!(manifest(&[("a", "xyz"), ("b", "xyz"), ("c", "4")]).size(), 4);
}

#[test]
fn tree_digest_is_pinned_and_depends_on_names_and_contents_only() {
    let tree = |files: &[(&str, &str)]| {
        tree_digest(
            &files.iter().map(|(path, content)| ((*path).to_owned(), artifact(content))).collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        tree(&[("a", "1"), ("b", "2")]).to_string(),
        "749a63667c5e643b0a8dd0aac0f515ac54279980525466f1d4610f053a1de30f"
    );
    assert_eq!(tree(&[("a", "1"), ("b", "2")]), tree(&[("b", "2"), ("a", "1")]));
    assert_ne!(tree(&[("a", "1"), ("b", "2")]), tree(&[("a", "2"), ("b", "1")]));
    assert_ne!(tree(&[("a", "1")]), tree(&[("b", "1")]));
    assert_ne!(tree(&[("a", "1")]), artifact("1").digest);
}

#[test]
fn stored_text_is_json_that_reads_back_equal() {
    let manifest = manifest(&[("a", "1")]);
    let text = manifest.to_stored().unwrap();
    assert_eq!(Manifest::from_stored(text.as_bytes(), &manifest.key).unwrap(), manifest);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["key"], manifest.key.to_string());
    assert_eq!(json["outputs"]["a"]["size"], 1);
}

#[test]
fn fields_of_a_later_version_are_ignored_and_absent_provenance_is_empty() {
    let manifest = manifest(&[("a", "1")]);
    let mut json = serde_json::to_value(&manifest).unwrap();
    json["later"] = "x".into();
    json["outputs"]["a"]["later"] = 1.into();
    json["provenance"]["later"] = Value::Null;
    assert_eq!(serde_json::from_value::<Manifest>(json.clone()).unwrap(), manifest);
    json["provenance"] = serde_json::json!({"step": "only"});
    assert_eq!(serde_json::from_value::<Manifest>(json).unwrap().provenance.step, "only");
}

#[test]
fn another_key_or_format_is_refused() {
    let sound = manifest(&[]);
    let read = |manifest: &Manifest, key| {
        Manifest::from_stored(manifest.to_stored().unwrap().as_bytes(), &key).unwrap_err().to_string()
    };
    let other = Action { version: 2, ..sound.action.clone() };
    assert!(read(&sound, other.key()).contains("belongs to the key"));
    assert!(
        read(&Manifest { key: other.key(), ..sound.clone() }, other.key()).contains("its action has the key")
    );
    assert!(read(&Manifest { format: 9, ..sound.clone() }, sound.key).contains("format 9"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let manifest = manifest(&[("a", "1"), ("b", "2")]);
        let text = manifest.to_stored().unwrap().into_bytes();
        let at = at.index(text.len());
        prop_assert!(Manifest::from_stored(&text[..at], &manifest.key).is_err());
        let mut changed = text;
        changed[at] ^= flip;
        prop_assert!(Manifest::from_stored(&changed, &manifest.key).is_err());
    }
}

#[test]
fn timestamps_are_rfc_3339() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (951_868_800, "2000-03-01T00:00:00Z"),
        (1_709_164_800, "2024-02-29T00:00:00Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
    }
}
