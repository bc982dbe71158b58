//! The folder in front of a bucket, when the bucket is collected, checked or copied to.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Deletes all but some results, as if two days had passed.
async fn collect(store: &Store, needed: &[&Manifest]) -> Collected {
    let inventory = store.inventory().await.unwrap();
    let needed: BTreeSet<ActionKey> = needed.iter().map(|manifest| manifest.key).collect();
    let plan = inventory.plan(&needed, SystemTime::now() + 2 * DAY, DAY);
    store.collect(&inventory, &plan).await.unwrap()
}

/// Sets when a file of the tier was used last.
fn used(store: &Store, object: &str, ago: Duration) {
    let times =
        std::fs::FileTimes::new().set_accessed(SystemTime::now() - ago).set_modified(SystemTime::now() - ago);
    std::fs::File::open(in_tier(store, object).unwrap()).unwrap().set_times(times).unwrap();
}

fn blob(manifest: &Manifest) -> String {
    layout::blob(&manifest.outputs["out"].digest)
}

#[tokio::test]
async fn a_collection_takes_from_the_tier_what_goes_from_the_bucket() {
    let shared = Shared::new();
    let store = shared.on("mine").await;
    let (kept, gone) = (publish(&store, 1, "kept").await, publish(&store, 2, "gone").await);
    let orphan = put(&store, "left by a killed step").await;
    let collected = collect(&store, &[&kept]).await;
    assert_eq!((collected.results, collected.blobs), (1, 1));
    assert!(
        in_tier(&store, &blob(&kept)).is_some() && in_tier(&store, &layout::manifest(&kept.key)).is_some()
    );
    for object in [blob(&gone), layout::manifest(&gone.key), layout::blob(&orphan.digest)] {
        assert!(in_tier(&store, &object).is_none(), "{object}");
    }
    assert!(collected.tier_bytes > 4 + orphan.size, "with the manifest: {collected:?}");
    assert_eq!(store.lookup(&kept.key).await.unwrap(), Some(kept.clone()));
    assert_eq!(store.lookup(&gone.key).await.unwrap(), None, "deleted is deleted, here too");
    assert_eq!(store.read(&kept.outputs["out"].digest).await.unwrap(), b"kept");
}

#[tokio::test]
async fn a_collection_takes_from_the_tier_what_another_machine_has_deleted() {
    let shared = Shared::new();
    let (mine, yours) = (shared.on("mine").await, shared.on("yours").await);
    let made = publish(&mine, 1, "content").await;
    assert!(yours.lookup(&made.key).await.unwrap().is_some());
    yours.read(&made.outputs["out"].digest).await.unwrap();
    collect(&mine, &[]).await;
    assert!(in_tier(&yours, &blob(&made)).is_some(), "nobody told that machine");
    assert_eq!(collect(&yours, &[]).await.blobs, 0);
    assert!(in_tier(&yours, &blob(&made)).is_none());
    assert_eq!(yours.lookup(&made.key).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_young_or_on_its_way_to_the_bucket_stays_in_the_tier() {
    let shared = Shared::new();
    let store = shared.on("mine").await;
    let young = put(&store, "of a step that still runs").await;
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&BTreeSet::new(), SystemTime::now(), DAY);
    assert!(plan.is_empty(), "{plan:?}");
    // A publisher that was killed.
    let pending = manifest(1, &[("out", young)], "run");
    let note = store.folder().unwrap().join(layout::pending(&pending.key));
    std::fs::create_dir_all(note.parent().unwrap()).unwrap();
    std::fs::write(&note, pending.to_stored().unwrap()).unwrap();
    collect(&store, &[]).await;
    assert_eq!(store.lookup(&pending.key).await.unwrap(), Some(pending.clone()));
    assert_eq!(shared.bucket().await.lookup(&pending.key).await.unwrap(), Some(pending));
}

#[tokio::test]
async fn a_blob_that_is_published_again_during_a_collection_stays_in_the_tier() {
    let shared = Shared::new();
    let store = shared.on("mine").await;
    let old = publish(&store, 1, "content").await;
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&BTreeSet::new(), SystemTime::now() + 2 * DAY, DAY);
    let new = manifest(2, &[("again", old.outputs["out"])], "run");
    store.publish(new.clone()).await.unwrap();
    store.collect(&inventory, &plan).await.unwrap();
    assert!(in_tier(&store, &blob(&old)).is_some());
    assert_eq!(store.lookup(&new.key).await.unwrap(), Some(new));
}

#[tokio::test]
async fn a_tier_is_made_smaller_by_what_was_used_least_lately_and_loses_nothing() {
    let shared = Shared::new();
    let store = shared.on("mine").await;
    let mut made = Vec::new();
    for (number, days) in [(1, 3), (2, 1), (3, 2)] {
        made.push(publish(&store, number, &format!("content {number}")).await);
        used(&store, &blob(&made[made.len() - 1]), days * DAY);
    }
    let only_here = put(&store, "not in the bucket").await;
    used(&store, &layout::blob(&only_here.digest), 9 * DAY);
    let wanted = Shrunk { files: 2, bytes: 18, kept_bytes: 9 + only_here.size };
    assert_eq!(store.shrink(9 + only_here.size, true).await.unwrap(), Some(wanted));
    let there = |manifest: &Manifest| in_tier(&store, &blob(manifest)).is_some();
    assert!(made.iter().all(there), "a plan changes nothing");
    assert_eq!(store.shrink(9 + only_here.size, false).await.unwrap(), Some(wanted));
    assert_eq!(made.iter().map(there).collect::<Vec<_>>(), [false, true, false]);
    // Nothing is left to delete that the bucket has.
    let all = store.shrink(0, false).await.unwrap().unwrap();
    assert_eq!((all.files, all.kept_bytes), (1, only_here.size));
    assert_eq!(store.read(&only_here.digest).await.unwrap(), b"not in the bucket");
    for manifest in &made {
        assert_eq!(store.lookup(&manifest.key).await.unwrap().as_ref(), Some(manifest));
        store.read(&manifest.outputs["out"].digest).await.unwrap();
        assert!(there(manifest), "fetched again");
    }
    assert_eq!(shared.bucket().await.shrink(0, false).await.unwrap(), None, "there is no folder");
}

#[tokio::test]
async fn a_retired_output_leaves_the_tier_too() {
    let shared = Shared::new();
    let store = shared.on("mine").await;
    let made = publish(&store, 1, "large").await;
    let outputs = BTreeMap::from([(made.key, BTreeSet::from(["out".to_owned()]))]);
    assert_eq!(store.retire(&outputs, "run").await.unwrap().blobs, 1);
    assert!(in_tier(&store, &blob(&made)).is_none());
    assert_eq!(store.lookup(&made.key).await.unwrap(), Some(made));
}

/// Changes the bucket's object and leaves the tier as it is.
async fn flip_in_bucket(shared: &Shared, object: &str) {
    flip(&shared.bucket().await, object).await;
}

/// Changes the tier's file and leaves the bucket as it is.
fn flip_in_tier(store: &Store, object: &str) {
    let path = in_tier(store, object).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn verification_sends_again_what_is_lost_in_the_bucket_and_sound_in_the_tier() {
    let shared = Shared::new();
    let store = shared.on("mine").await;
    let (damaged, missing) = (publish(&store, 1, "damaged").await, publish(&store, 2, "missing").await);
    let sound = publish(&store, 3, "sound").await;
    flip_in_bucket(&shared, &blob(&damaged)).await;
    shared.objects.delete(&ObjectPath::from(blob(&missing))).await.unwrap();
    let digest = |manifest: &Manifest| manifest.outputs["out"].digest;
    let found = store.verify().await.unwrap();
    assert!(found.is_sound(), "{found:?}");
    assert_eq!(
        found.repaired.iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([&digest(&damaged), &digest(&missing)])
    );
    let bucket = shared.bucket().await;
    assert_eq!(names(&bucket, "quarantine/blobs").await.len(), 1, "the damaged one was moved aside");
    for (manifest, text) in [(&damaged, "damaged"), (&missing, "missing"), (&sound, "sound")] {
        assert_eq!(bucket.lookup(&manifest.key).await.unwrap().as_ref(), Some(manifest));
        assert_eq!(bucket.read(&digest(manifest)).await.unwrap(), text.as_bytes());
    }
    assert_eq!(
        store.verify().await.unwrap(),
        Verification { blobs: 3, bytes: 19, ..Verification::default() }
    );
}

#[tokio::test]
async fn verification_throws_a_damaged_copy_away_and_it_is_fetched_again() {
    let shared = Shared::new();
    let store = shared.on("mine").await;
    let made = publish(&store, 1, "content").await;
    let digest = made.outputs["out"].digest;
    flip_in_tier(&store, &blob(&made));
    let found = store.verify().await.unwrap();
    assert!(found.is_sound() && found.repaired.is_empty(), "{found:?}");
    assert_eq!(found.copies, [digest]);
    assert!(in_tier(&store, &blob(&made)).is_none());
    assert_eq!(store.read(&digest).await.unwrap(), b"content");
    assert!(in_tier(&store, &blob(&made)).is_some());
}

#[tokio::test]
async fn what_is_damaged_in_both_places_is_lost() {
    let shared = Shared::new();
    let store = shared.on("mine").await;
    let made = publish(&store, 1, "content").await;
    let digest = made.outputs["out"].digest;
    flip_in_tier(&store, &blob(&made));
    flip_in_bucket(&shared, &blob(&made)).await;
    let found = store.verify().await.unwrap();
    assert!(!found.is_sound());
    assert_eq!((found.corrupt, found.copies, found.repaired), (vec![digest], vec![digest], vec![]));
    assert_eq!(found.incomplete, [(made.key, "step-1".to_owned())]);
    assert_eq!(store.lookup(&made.key).await.unwrap(), None);
}

#[tokio::test]
async fn a_retired_output_is_not_taken_back_by_a_copy_in_a_tier() {
    let shared = Shared::new();
    let (mine, yours) = (shared.on("mine").await, shared.on("yours").await);
    let made = publish(&mine, 1, "large").await;
    yours.read(&made.outputs["out"].digest).await.unwrap();
    let outputs = BTreeMap::from([(made.key, BTreeSet::from(["out".to_owned()]))]);
    mine.retire(&outputs, "run").await.unwrap();
    let found = yours.verify().await.unwrap();
    assert!(found.is_sound() && found.repaired.is_empty(), "{found:?}");
    assert!(names(&shared.bucket().await, layout::BLOBS).await.is_empty());
}
