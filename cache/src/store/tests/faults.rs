//! Nothing is lost, nothing is wrong, and nothing waits for ever when calls to a server fail.
//!
//! Time is virtual: it passes when all wait, so that the real patience is tried out in no time.

use std::time::Duration;

use super::faulty::{Fault, Faulty};
use super::*;

const ALL: [Fault; 6] = [Fault::Busy, Fault::Lost, Fault::Torn, Fault::Hang, Fault::Cut, Fault::Flip];

/// Longer than one part, and than two.
const BIG: usize = (17 << 20) + 5;

async fn open(objects: &Arc<Faulty>, tier: Option<&Path>) -> Result<Store, StoreError> {
    let endpoint = Endpoint { address: "http://faulty".to_owned(), variable: None };
    let tier = tier.map_or(TierFolder::Off, |folder| TierFolder::Below(folder.to_owned()));
    let objects: Arc<dyn Objects> = objects.clone();
    Store::open_remote("s3://bucket", objects, endpoint, Retries::default(), &tier).await
}

/// What the server really has, seen without faults.
async fn truth(objects: &Arc<Faulty>) -> Store {
    objects.now(|_| None);
    open(objects, None).await.unwrap()
}

/// One host publishes, another reads.
async fn work(objects: &Arc<Faulty>, with_tier: bool, big: bool) -> Result<Vec<Manifest>, StoreError> {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tier = |folder: &tempfile::TempDir| with_tier.then(|| folder.path().to_owned());
    let store = open(objects, tier(&one).as_deref()).await?;
    let mut published = Vec::new();
    let contents = if big { vec!["b".repeat(BIG)] } else { vec!["first".to_owned(), "second".to_owned()] };
    for (number, text) in contents.iter().enumerate() {
        let file = one.path().join("output");
        std::fs::write(&file, text).unwrap();
        let output = store.adopt_file(&file).await?;
        let made = manifest(number as i64, &[("out", output)], "run");
        published.push(store.publish(made).await?.manifest);
    }
    drop(store);
    let store = open(objects, tier(&other).as_deref()).await?;
    for (made, text) in published.iter().zip(&contents) {
        assert_eq!(store.lookup(&made.key).await?.as_ref(), Some(made));
        let target = other.path().join("input");
        store.materialise(&made.outputs["out"], &target).await?;
        assert!(std::fs::read_to_string(&target).unwrap() == *text);
    }
    if !big {
        let all = store.verify().await?;
        assert!(all.is_sound() && all.blobs == 2, "{all:?}");
        assert_eq!(store.stat().await?.manifests, 2);
    }
    Ok(published)
}

async fn expect_all_there(objects: &Arc<Faulty>, published: &[Manifest], what: &str) {
    let store = truth(objects).await;
    for made in published {
        assert_eq!(store.lookup(&made.key).await.unwrap().as_ref(), Some(made), "{what}");
        store.read(&made.outputs["out"].digest).await.unwrap();
    }
    assert!(store.verify().await.unwrap().is_sound(), "{what}");
    assert!(names(&store, "quarantine/blobs").await.is_empty(), "{what}");
}

/// Every call of a piece of work fails once in every way.
async fn every_call_fails_once(with_tier: bool, big: bool, faults: &[Fault]) {
    let counted = Faulty::new(|_| None);
    work(&counted, with_tier, big).await.unwrap();
    assert!(counted.calls() > 10);
    for &fault in faults {
        for number in 0..counted.calls() {
            let what = format!("call {number} of {}: {fault:?}", counted.calls());
            let objects = Faulty::new(move |call| (call == number).then_some(fault));
            let published =
                work(&objects, with_tier, big).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            expect_all_there(&objects, &published, &what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_call_may_fail_once() {
    every_call_fails_once(false, false, &ALL).await;
}

#[tokio::test(start_paused = true)]
async fn every_call_may_fail_once_behind_a_tier() {
    every_call_fails_once(true, false, &ALL).await;
}

#[tokio::test(start_paused = true)]
async fn every_call_for_a_file_in_parts_may_fail_once() {
    every_call_fails_once(true, true, &[Fault::Lost, Fault::Torn, Fault::Flip]).await;
}

#[tokio::test(start_paused = true)]
async fn most_calls_may_fail() {
    for fault in ALL {
        for with_tier in [false, true] {
            // A publisher whose every manifest is torn gives up at some point, and so does who never gets an answer.
            let bad = if matches!(fault, Fault::Torn | Fault::Hang) { 1 } else { 3 };
            let often = move |call: usize| (call.wrapping_mul(2_654_435_761) >> 9) % 4 < bad;
            let objects = Faulty::new(move |call| often(call).then_some(fault));
            let outcome = work(&objects, with_tier, false).await;
            match (fault, outcome) {
                // What comes wrong three times out of four is not believed, or not used.
                (Fault::Flip, Err(error)) => {
                    assert!(!matches!(error, StoreError::Missing { .. }), "{error:?}");
                }
                (_, outcome) => expect_all_there(&objects, &outcome.unwrap(), &format!("{fault:?}")).await,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_in_an_error_and_what_was_made_is_sent_later() {
    for fault in [Fault::Busy, Fault::Hang] {
        let folder = tempfile::tempdir().unwrap();
        let objects = Faulty::new(|_| None);
        let store = open(&objects, Some(folder.path())).await.unwrap();
        let output = put(&store, "content").await;
        let made = manifest(1, &[("out", output)], "run");
        objects.now(move |_| Some(fault));
        let begun = tokio::time::Instant::now();
        let error = store.publish(made.clone()).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Remote { source, .. } if source.problem == Problem::Unsteady),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains("finished steps stay"));
        assert!(begun.elapsed() > Duration::from_secs(60) && begun.elapsed() < Duration::from_secs(400));
        assert!(open(&objects, Some(folder.path())).await.is_err());
        drop(store);

        assert_eq!(truth(&objects).await.lookup(&made.key).await.unwrap(), None);
        let again = open(&objects, Some(folder.path())).await.unwrap();
        again.flush().await.unwrap();
        expect_all_there(&objects, std::slice::from_ref(&made), "later").await;
        assert_eq!(std::fs::read_dir(again.folder().unwrap().join("pending")).unwrap().count(), 0);
        assert_eq!(again.lookup(&made.key).await.unwrap(), Some(made));
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_whose_blob_was_lost_before_it_was_sent_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Faulty::new(|_| None);
    let store = open(&objects, Some(folder.path())).await.unwrap();
    let made = manifest(1, &[("out", put(&store, "content").await)], "run");
    objects.now(|_| Some(Fault::Busy));
    store.publish(made.clone()).await.unwrap_err();
    objects.now(|_| None);
    std::fs::remove_file(in_tier(&store, &layout::blob(&made.outputs["out"].digest)).unwrap()).unwrap();
    let again = open(&objects, Some(folder.path())).await.unwrap();
    again.flush().await.unwrap();
    assert_eq!(again.lookup(&made.key).await.unwrap(), None);
    assert_eq!(std::fs::read_dir(again.folder().unwrap().join("pending")).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn objects_may_show_late() {
    for with_tier in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let objects = Faulty::delayed(Duration::from_secs(5), |_| None);
        let store = open(&objects, with_tier.then_some(folder.path())).await.unwrap();
        let made = publish(&store, 1, "content").await;
        let second = store.publish(made.clone()).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(second.is_err() || second.unwrap().adopted);
        expect_all_there(&objects, std::slice::from_ref(&made), "late").await;
        // A manifest that is seen before its blobs is looked at again, not thrown away.
        let other = open(&objects, None).await.unwrap();
        let blob = ObjectPath::from(layout::blob(&made.outputs["out"].digest));
        objects.hide(&blob, Duration::from_millis(300));
        assert_eq!(other.lookup(&made.key).await.unwrap(), Some(made));
    }
}

#[tokio::test(start_paused = true)]
async fn damage_on_the_server_is_still_damage() {
    let objects = Faulty::new(|_| None);
    let store = open(&objects, None).await.unwrap();
    let made = publish(&store, 1, "content").await;
    let blob = layout::blob(&made.outputs["out"].digest);
    flip(&store, &blob).await;
    let before = objects.calls();
    let error = store.read(&made.outputs["out"].digest).await.unwrap_err();
    assert!(error.is_corrupt().is_some(), "{error:?}");
    assert!(objects.calls() - before >= 3, "read twice, then moved aside");
    assert_eq!(names(&store, "quarantine/blobs").await.len(), 1);
}

/// When a run finds an old result, the bucket has it written again, once an hour, from wherever it is found.
#[tokio::test]
async fn an_old_result_that_a_run_finds_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Faulty::new(|_| None);
    let published = {
        let store = open(&objects, Some(folder.path())).await.unwrap();
        publish(&store, 1, "content").await
    };
    let object = layout::manifest(&published.key);
    let path = ObjectPath::from(object.as_str());
    let written = async || objects.inner.head(&path).await.unwrap().e_tag;
    for tier in [None, Some(folder.path())] {
        let store = open(&objects, tier).await.unwrap();
        objects.age(Duration::ZERO);
        let before = written().await;
        let (finds, looks) = (store.renewing(), &store);
        assert!(finds.lookup(&published.key).await.unwrap().is_some());
        objects.age(Duration::from_secs(7200));
        if let Some(copy) = in_tier(&store, &object) {
            let calls = objects.calls();
            assert!(finds.lookup(&published.key).await.unwrap().is_some());
            assert_eq!(objects.calls(), calls, "the copy is young: the bucket is not asked");
            let old = std::time::SystemTime::now() - Duration::from_secs(7200);
            std::fs::File::open(copy).unwrap().set_modified(old).unwrap();
        }
        assert!(looks.lookup(&published.key).await.unwrap().is_some());
        assert_eq!(written().await, before, "who only looks changes nothing");
        assert_eq!(finds.lookup(&published.key).await.unwrap().as_ref(), Some(&published));
        let after = written().await;
        assert_ne!(after, before);
        if tier.is_some() {
            assert!(finds.lookup(&published.key).await.unwrap().is_some());
            assert_eq!(written().await, after, "and the copy is young again");
        }
    }
}
