//! Results that leave the store.

use std::path::Path;

use bstar_cache::{Artifact, Digest, tree_digest};
use serde_json::Value;

use crate::support::{Outcome, Space, tiny_results};

fn export(space: &Space, result: &str, to: &str) -> Outcome {
    space.run(&["run", "export", "latest", result, to])
}

/// Files of a folder by their path in it.
fn files(folder: &Path) -> Vec<(String, Artifact)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let content = std::fs::read(&path).expect("a file");
            let name = path.strip_prefix(folder).expect("a path below").to_str().expect("a name").to_owned();
            files.push((name, Artifact { digest: Digest::of(&content), size: content.len() as u64 }));
        }
    }
    files
}

#[test]
fn a_policy_a_file_and_a_result_in_shards_are_copied_with_their_digests() {
    let (space, results) = (Space::with_tiny(), tiny_results());
    let policy = results.keys().rfind(|name| name.ends_with(".train.policy")).unwrap();
    let said = export(&space, policy, "final");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.starts_with("wrote final ("), "{}", said.stdout);
    assert_eq!(tree_digest(&files(&space.path().join("final"))).to_string(), results[policy]);
    let answer = space.run(&["model", "inspect", "final"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);

    let said = export(&space, "iteration[0].filter.dataset", "kept.jsonl");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let kept = std::fs::read(space.path().join("kept.jsonl")).unwrap();
    assert_eq!(Digest::of(&kept).to_string(), results["iteration[0].filter.dataset"]);

    let name = "iteration[0].responses.responses";
    let said = space.run(&["run", "export", "latest", name, "drawn", "--format", "json"]);
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    let drawn = files(&space.path().join("drawn"));
    assert!(drawn.len() > 1 && said["files"] == drawn.len(), "{said}");
    assert_eq!(said["digest"].as_str(), Some(results[name].as_str()));
    assert_eq!(tree_digest(&drawn).to_string(), results[name]);
}

#[test]
fn what_was_exported_is_the_users_own() {
    let space = Space::with_tiny();
    assert_eq!(export(&space, "setup.sft.policy", "mine").code, Some(0));
    for (name, _) in files(&space.path().join("mine")) {
        std::fs::write(space.path().join("mine").join(name), "changed").expect("a file one may write");
    }
    assert_eq!(space.run(&["cache", "verify"]).code, Some(0));
    // Nothing else is left where it was made.
    let left: Vec<_> =
        std::fs::read_dir(space.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn what_cannot_be_exported_is_said() {
    let space = Space::with_tiny();
    space.write("here", "mine");
    for (result, to, message) in [
        ("setup.sft.polic", "out", "did you mean `setup.sft.policy`?"),
        ("nothing.like.it", "out", "has no result `nothing.like.it`"),
        ("setup.sft.policy", "here", "here exists"),
        ("setup.sft.policy", "no/such/folder", "make the folder around it first"),
    ] {
        let said = export(&space, result, to);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(said.stderr.contains(message), "{}", said.stderr);
    }
    assert_eq!(std::fs::read_to_string(space.path().join("here")).unwrap(), "mine");
}
