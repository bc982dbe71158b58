//! A result in the store is never wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::{Space, results, tiny_results};

/// The stored file of a digest.
fn blob(space: &Space, digest: &str) -> PathBuf {
    space.store().join("blobs").join(&digest[..2]).join(&digest[2..])
}

fn overwrite(path: &PathBuf, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("a blob");
    change(&mut bytes);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("writable");
    std::fs::write(path, bytes).expect("a damaged blob");
}

#[test]
fn a_flipped_byte_is_found_when_a_step_reads_it_and_computed_again() {
    let space = Space::with_tiny();
    let results_before = tiny_results();
    overwrite(&blob(&space, &results_before["iteration[0].filter.dataset"]), |bytes| bytes[10] ^= 1);
    // A changed learning rate makes `train` read the damaged dataset.
    let change = ["iterations=1", "iteration.train.training.learning_rate=0.002"];
    let healed = space.tiny(&change);
    let clean = Space::with_tiny().tiny(&change).summary();
    assert_eq!(results(&healed.summary()), results(&clean));
    assert_eq!(
        results(&healed.summary())["iteration[0].filter.dataset"],
        results_before["iteration[0].filter.dataset"]
    );
    let warned = healed.events().iter().any(|event| event["event"] == "note" && event["level"] == "warn");
    assert!(warned, "{}", healed.stdout);
}

#[test]
fn a_deleted_blob_is_a_miss_and_computed_again() {
    let space = Space::with_tiny();
    let digest = &tiny_results()["iteration[1].filter.dataset"];
    std::fs::remove_file(blob(&space, digest)).expect("removed");
    let summary = space.tiny(&[]).summary();
    assert_eq!(summary["executed"], 1);
    assert_eq!(results(&summary), tiny_results());
}

#[test]
fn verify_finds_damage_and_the_next_run_repairs_it() {
    let space = Space::with_tiny();
    overwrite(&blob(&space, &tiny_results()["iteration[1].evaluate.metrics"]), |bytes| bytes.truncate(3));
    let found = space.run(&["cache", "verify"]);
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    assert!(found.stdout.contains("damaged"), "{}", found.stdout);
    assert_eq!(results(&space.tiny(&[]).summary()), tiny_results());
    assert_eq!(space.run(&["cache", "verify"]).code, Some(0));
}
