//! The folder in front of a bucket, when the bucket is collected, checked or copied to.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A bucket, in memory, as seen from machines with folders of their own.
struct Shared {
    objects: Arc<InMemory>,
    folder: tempfile::TempDir,
}

impl Shared {
    fn new() -> Self {
        Self { objects: Arc::new(InMemory::new()), folder: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, tier: TierFolder) -> Store {
        let endpoint = Endpoint { address: "http://server".to_owned(), variable: None };
        let objects: Arc<dyn Objects> = self.objects.clone();
        Store::open_remote("s3://bucket", objects, endpoint, IMPATIENT, &tier).await.unwrap()
    }

    async fn on(&self, machine: &str) -> Store {
        self.open(TierFolder::Below(self.folder.path().join(machine))).await
    }

    /// The bucket itself.
    async fn bucket(&self) -> Store {
        self.open(TierFolder::Off).await
    }
}

/// Deletes all but some results, as if two days had passed.
async fn collect(store: &Store, needed: &[&Manifest]) -> Collected {
    let inventory = store.inventory().await.unwrap();
    let needed: BTreeSet<ActionKey> = needed.iter().map(|manifest| manifest.key).collect();
    let plan = inventory.plan(&needed, SystemTime::now() + 2 * DAY, DAY);
    store.collect(&inventory, &plan).await.unwrap()
}

/// Sets when a file of the tier was used last.
fn used(store: &Store, object: &str, ago: Duration) {
    let times = std::fs::FileTimes::new()
        .set_accessed(SystemTime::now() - ago)
        .set_modified(SystemTime::now() - ago);
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
    assert!(in_tier(&store, &blob(&kept)).is_some() && in_tier(&store, &layout::manifest(&kept.key)).is_some());
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
