//! Collection and retirement, on every kind of store.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

macro_rules! care {
    (everywhere { $($name:ident),* $(,)? } without_tier { $($plain:ident),* $(,)? }) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Store::open("memory://").await.unwrap()).await;
            })*
            $(#[tokio::test]
            async fn $plain() {
                super::$plain(&super::Store::open("memory://").await.unwrap()).await;
            })*
        }

        mod on_disk {
            $(#[tokio::test]
            async fn $name() {
                let folder = tempfile::tempdir().unwrap();
                super::$name(&super::Store::open(folder.path().to_str().unwrap()).await.unwrap()).await;
            })*
            $(#[tokio::test]
            async fn $plain() {
                let folder = tempfile::tempdir().unwrap();
                super::$plain(&super::Store::open(folder.path().to_str().unwrap()).await.unwrap()).await;
            })*
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn in_a_bucket() {
            let Some(server) = servers::Server::moto() else { return };
            let folder = tempfile::tempdir().unwrap();
            let mut number = 0;
            for tier in [TierFolder::Off, TierFolder::Below(folder.path().to_owned())] {
                $(
                    number += 1;
                    $name(&bucket(&server, number, tier.clone()).await).await;
                )*
            }
            $(
                number += 1;
                $plain(&bucket(&server, number, TierFolder::Off).await).await;
            )*
        }
    };
}

care! {
    everywhere {
        results_that_nobody_needs_go_with_what_only_they_name,
        what_is_young_stays,
        a_result_whose_outputs_stay_costs_nothing_and_stays,
        a_blob_that_is_named_again_is_spared,
        an_unreadable_manifest_goes_when_it_is_old,
        debris_goes_and_a_lease_that_is_held_stays,
        a_retired_output_is_gone_and_its_result_is_found,
        shared_content_is_not_retired,
        retired_content_that_is_needed_is_a_miss,
        a_result_that_misses_more_than_was_retired_is_a_miss,
    }
    without_tier {
        blobs_without_a_result_go,
        retired_results_are_collected_with_their_notes,
    }
}

/// Two days from now: everything is old.
fn later() -> SystemTime {
    SystemTime::now() + 2 * DAY
}

fn keys(manifests: &[&Manifest]) -> BTreeSet<ActionKey> {
    manifests.iter().map(|manifest| manifest.key).collect()
}

/// Collects all old results but these.
async fn collect(store: &Store, needed: &[&Manifest]) -> (Collection, Collected) {
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&keys(needed), later(), DAY);
    let collected = store.collect(&inventory, &plan).await.unwrap();
    (plan, collected)
}

async fn results_that_nobody_needs_go_with_what_only_they_name(store: &Store) {
    let (shared, lone) = (put(store, "shared").await, put(store, "lone").await);
    let kept = manifest(1, &[("a", shared)], "one");
    let gone = manifest(2, &[("a", shared), ("b", lone)], "two");
    for manifest in [&kept, &gone] {
        store.publish(manifest.clone()).await.unwrap();
    }
    let (plan, collected) = collect(store, &[&kept]).await;
    let [unneeded] = plan.results.as_slice() else { panic!("{plan:?}") };
    assert_eq!((unneeded.key, unneeded.run.as_str(), unneeded.bytes), (gone.key, "two", 4));
    assert_eq!((plan.needed, plan.kept_bytes, plan.bytes()), (1, 6, 4));
    assert_eq!((collected.results, collected.blobs, collected.bytes), (1, 1, 4));
    assert!(store.lookup(&kept.key).await.unwrap().is_some());
    assert!(store.lookup(&gone.key).await.unwrap().is_none());
    assert!(matches!(store.read(&lone.digest).await, Err(StoreError::Missing { .. })));
    assert!(collect(store, &[&kept]).await.0.is_empty(), "nothing is left to do");
}

async fn what_is_young_stays(store: &Store) {
    let young = publish(store, 1, "young").await;
    put(store, "of a step that still runs").await;
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&BTreeSet::new(), SystemTime::now(), DAY);
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(plan.young, 1);
    assert!(store.lookup(&young.key).await.unwrap().is_some());
}

async fn a_result_whose_outputs_stay_costs_nothing_and_stays(store: &Store) {
    let shard = publish(store, 1, "rows").await;
    let (rows, more) = (shard.outputs["out"], put(store, "more rows").await);
    let whole = manifest(2, &[("a", rows), ("b", more)], "run");
    store.publish(whole.clone()).await.unwrap();
    let (plan, _) = collect(store, &[&whole]).await;
    assert_eq!((plan.needed, plan.free, plan.results.len()), (1, 1, 0));
    assert!(store.lookup(&shard.key).await.unwrap().is_some());
}

async fn a_blob_that_is_named_again_is_spared(store: &Store) {
    let old = publish(store, 1, "content").await;
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&BTreeSet::new(), later(), DAY);
    // Published between the plan and the deletion, by a writer that found the blob.
    let new = manifest(2, &[("again", old.outputs["out"])], "run");
    store.publish(new.clone()).await.unwrap();
    let collected = store.collect(&inventory, &plan).await.unwrap();
    assert_eq!((collected.results, collected.blobs, collected.spared), (1, 0, 1));
    assert_eq!(store.lookup(&new.key).await.unwrap(), Some(new));
}

async fn blobs_without_a_result_go(store: &Store) {
    let kept = publish(store, 1, "kept").await;
    let orphan = put(store, "left by a step that was killed").await;
    let (plan, collected) = collect(store, &[&kept]).await;
    assert_eq!((plan.orphaned, collected.blobs), (orphan.size, 1));
}

async fn an_unreadable_manifest_goes_when_it_is_old(store: &Store) {
    let damaged = publish(store, 1, "content").await;
    let object = layout::manifest(&damaged.key);
    flip(store, &object).await;
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&keys(&[&damaged]), SystemTime::now(), DAY);
    assert_eq!((plan.unreadable_kept, plan.unreadable.len()), (vec![object], 0));
    let (plan, _) = collect(store, &[&damaged]).await;
    assert_eq!((plan.unreadable.len(), plan.blobs.len()), (1, 1), "it marks nothing");
    assert_eq!(names(store, layout::MANIFESTS).await, [""; 0]);
}

async fn debris_goes_and_a_lease_that_is_held_stays(store: &Store) {
    for name in ["quarantine/blobs/ab/cd.1-2-3", "tmp/x", "leases/dead/0000000001"] {
        overwrite(store, name, b"x".to_vec()).await;
    }
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&BTreeSet::new(), SystemTime::now(), DAY);
    assert!(plan.is_empty());
    let (plan, _) = collect(store, &[]).await;
    assert_eq!(plan.debris.len(), 3);
    for folder in [layout::QUARANTINE, layout::TEMPORARY, layout::LEASES] {
        assert_eq!(names(store, folder).await, [""; 0]);
    }
}

/// A result with a policy and the state of an optimizer.
async fn trained(store: &Store, number: i64) -> Manifest {
    let policy = put(store, &format!("policy {number}")).await;
    let optimizer = put(store, &format!("large {number}")).await;
    let manifest = manifest(number, &[("policy", policy), ("optimizer/state", optimizer)], "run");
    store.publish(manifest.clone()).await.unwrap();
    manifest
}

async fn retire(store: &Store, manifest: &Manifest) -> Freed {
    let outputs = BTreeSet::from(["optimizer/state".to_owned(), "no such output".to_owned()]);
    store.retire(&BTreeMap::from([(manifest.key, outputs)]), "run").await.unwrap()
}

async fn a_retired_output_is_gone_and_its_result_is_found(store: &Store) {
    let result = trained(store, 1).await;
    assert_eq!(retire(store, &result).await, Freed { results: 1, blobs: 1, bytes: 7 });
    assert_eq!(store.lookup(&result.key).await.unwrap(), Some(result.clone()));
    let gone = result.outputs["optimizer/state"].digest;
    assert!(matches!(store.read(&gone).await, Err(StoreError::Missing { .. })));
    assert!(store.verify().await.unwrap().is_sound());
    assert_eq!(store.stat().await.unwrap().retired, 7);
    assert_eq!(retire(store, &result).await, Freed::default(), "once is enough");
}

async fn shared_content_is_not_retired(store: &Store) {
    let result = trained(store, 1).await;
    let other = manifest(2, &[("copy", result.outputs["optimizer/state"])], "run");
    store.publish(other.clone()).await.unwrap();
    assert_eq!(retire(store, &result).await, Freed { results: 1, blobs: 0, bytes: 0 });
    assert!(store.lookup(&other.key).await.unwrap().is_some());
    // What the other names goes with it.
    let (plan, _) = collect(store, &[&result]).await;
    assert_eq!((plan.results.len(), plan.blobs.len()), (1, 1));
    assert!(store.lookup(&result.key).await.unwrap().is_some());
}

async fn retired_content_that_is_needed_is_a_miss(store: &Store) {
    let (one, two) = (trained(store, 1).await, trained(store, 2).await);
    retire(store, &one).await;
    retire(store, &two).await;
    let recalled = store.recall(&one.outputs["optimizer/state"].digest).await.unwrap();
    assert_eq!(recalled, [one.key]);
    assert!(store.lookup(&one.key).await.unwrap().is_none());
    assert!(store.lookup(&two.key).await.unwrap().is_some());
    assert_eq!(names(store, layout::QUARANTINE).await, [""; 0], "nothing is damaged");
    // Computed again, it is whole.
    let again = trained(store, 1).await;
    assert_eq!(again, one);
    assert!(store.read(&one.outputs["optimizer/state"].digest).await.is_ok());
}

async fn a_result_that_misses_more_than_was_retired_is_a_miss(store: &Store) {
    let result = trained(store, 1).await;
    retire(store, &result).await;
    delete(store, &layout::blob(&result.outputs["policy"].digest)).await;
    assert!(store.lookup(&result.key).await.unwrap().is_none());
}

async fn retired_results_are_collected_with_their_notes(store: &Store) {
    let (kept, gone) = (trained(store, 1).await, trained(store, 2).await);
    for result in [&kept, &gone] {
        retire(store, result).await;
    }
    // Retired, but its blob was not deleted: the process was killed in between.
    put(store, "large 1").await;
    let (plan, _) = collect(store, &[&kept]).await;
    assert_eq!((plan.results.len(), plan.blobs.len()), (1, 2));
    assert_eq!(store.retired().await.unwrap().into_keys().collect::<Vec<_>>(), [kept.key]);
    assert!(store.lookup(&kept.key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_blob_that_a_writer_finds_becomes_young() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).await.unwrap();
    let (found, other) = (put(&store, "found again").await, put(&store, "other").await);
    for blob in [&found, &other] {
        let path = folder.path().join(layout::blob(&blob.digest));
        std::fs::File::open(path).unwrap().set_modified(SystemTime::now() - 9 * DAY).unwrap();
    }
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&BTreeSet::new(), SystemTime::now(), DAY);
    assert_eq!(plan.blobs.len(), 2);
    put(&store, "found again").await;
    let collected = store.collect(&inventory, &plan).await.unwrap();
    assert_eq!((collected.blobs, collected.spared), (1, 1));
    assert!(store.read(&found.digest).await.is_ok());
}

#[tokio::test]
async fn a_result_that_a_run_finds_while_it_is_collected_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).await.unwrap();
    let (found, seen) = (trained(&store, 1).await, trained(&store, 2).await);
    retire(&store, &found).await;
    for name in [layout::MANIFESTS, layout::BLOBS, layout::RETIRED] {
        for object in names(&store, name).await {
            let file = std::fs::File::open(folder.path().join(object)).unwrap();
            file.set_modified(SystemTime::now() - 9 * DAY).unwrap();
        }
    }
    let inventory = store.inventory().await.unwrap();
    let plan = inventory.plan(&BTreeSet::new(), SystemTime::now(), DAY);
    assert_eq!(plan.results.len(), 2);
    // A run relies on the one; somebody looks at the other.
    assert!(store.renewing().lookup(&found.key).await.unwrap().is_some());
    assert!(store.lookup(&seen.key).await.unwrap().is_some());
    let collected = store.collect(&inventory, &plan).await.unwrap();
    assert_eq!((collected.results, collected.blobs, collected.spared), (1, 2, 1));
    assert_eq!(store.lookup(&found.key).await.unwrap(), Some(found.clone()));
    assert!(store.read(&found.outputs["policy"].digest).await.is_ok());
    assert_eq!(store.retired().await.unwrap().into_keys().collect::<Vec<_>>(), [found.key]);
    assert_eq!(store.lookup(&seen.key).await.unwrap(), None);
}

#[tokio::test]
async fn the_clock_of_the_store_is_asked_for_and_leaves_nothing() {
    let store = Store::open("memory://").await.unwrap();
    assert!(store.now().await.unwrap() <= SystemTime::now());
    assert_eq!(names(&store, layout::TEMPORARY).await, [""; 0]);
}
