//! Results that are copied from store to store when some of their outputs are retired.

use std::collections::BTreeSet;

use super::*;

/// A result with a policy and the state of an optimizer, which another result may share.
async fn trained(store: &Store, number: i64, optimizer: &str) -> Manifest {
    let policy = put(store, &format!("policy {number}")).await;
    let optimizer = put(store, optimizer).await;
    let made = manifest(number, &[("policy", policy), ("optimizer", optimizer)], "run");
    store.publish(made.clone()).await.unwrap();
    made
}

async fn retire(store: &Store, manifest: &Manifest) {
    let outputs = BTreeMap::from([(manifest.key, BTreeSet::from(["optimizer".to_owned()]))]);
    assert_eq!(store.retire(&outputs, "run 1").await.unwrap().results, 1);
}

/// Stores in pairs: folders, a bucket, a bucket behind a folder; from and to.
async fn places(shared: &[Shared; 4]) -> Vec<(Store, Store)> {
    let [one, two, three, four] = shared;
    let disk = async |name: &str| Store::open(one.folder.path().join(name).to_str().unwrap()).await.unwrap();
    vec![
        (disk("a").await, disk("b").await),
        (disk("c").await, one.bucket().await),
        (disk("d").await, two.on("tier").await),
        (three.bucket().await, disk("e").await),
        (four.on("tier").await, disk("f").await),
    ]
}

#[tokio::test]
async fn a_result_with_a_retired_output_is_copied_with_the_note() {
    let shared = std::array::from_fn(|_| Shared::new());
    for (from, to) in places(&shared).await {
        let (made, whole) = (trained(&from, 1, "large").await, trained(&from, 2, "other").await);
        retire(&from, &made).await;
        let copied = from.copy_to(&to, |_| true).await.unwrap();
        assert_eq!((copied.results, copied.incomplete, copied.blobs), (2, 0, 3), "{from:?} → {to:?}");
        assert_eq!(to.lookup(&made.key).await.unwrap(), Some(made.clone()), "{from:?} → {to:?}");
        assert_eq!(to.lookup(&whole.key).await.unwrap(), Some(whole.clone()));
        let note = &to.retired().await.unwrap()[&made.key];
        assert_eq!((note.by.as_str(), note.outputs.len()), ("run 1", 1));
        assert_eq!(note.outputs["optimizer"], made.outputs["optimizer"]);
        assert!(to.verify().await.unwrap().is_sound());
        assert_eq!(from.copy_to(&to, |_| true).await.unwrap().skipped, 2, "{from:?} → {to:?}");
        // Needed after all, it is a miss there, as it would be here.
        let recalled = to.recall(&made.outputs["optimizer"].digest).await.unwrap();
        assert_eq!(recalled, [made.key]);
        assert_eq!(to.lookup(&made.key).await.unwrap(), None);
        assert_eq!(trained(&to, 1, "large").await, made);
        assert!(to.read(&made.outputs["optimizer"].digest).await.is_ok());
    }
}

#[tokio::test]
async fn what_was_retired_where_it_is_copied_to_stays_retired() {
    let shared = std::array::from_fn(|_| Shared::new());
    for (from, to) in places(&shared).await {
        let made = trained(&from, 1, "large").await;
        from.copy_to(&to, |_| true).await.unwrap();
        retire(&to, &made).await;
        let copied = from.copy_to(&to, |_| true).await.unwrap();
        assert_eq!(copied, Copied { skipped: 1, ..Copied::default() }, "{from:?} → {to:?}");
        assert_eq!(to.lookup(&made.key).await.unwrap(), Some(made.clone()));
        // And back: what is whole here stays whole.
        assert_eq!(to.copy_to(&from, |_| true).await.unwrap().skipped, 1);
        assert!(from.read(&made.outputs["optimizer"].digest).await.is_ok());
        assert!(from.retired().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_retired_output_that_another_result_still_has_is_copied() {
    let shared = std::array::from_fn(|_| Shared::new());
    for (from, to) in places(&shared).await {
        let (made, other) = (trained(&from, 1, "shared").await, trained(&from, 2, "shared").await);
        retire(&from, &made).await;
        from.copy_to(&to, |_| true).await.unwrap();
        for result in [&made, &other] {
            assert_eq!(to.lookup(&result.key).await.unwrap().as_ref(), Some(result));
        }
        assert!(to.read(&made.outputs["optimizer"].digest).await.is_ok());
        assert!(to.retired().await.unwrap().is_empty(), "it is whole there");
    }
}

#[tokio::test]
async fn a_result_that_lost_more_than_was_retired_is_not_copied() {
    let shared = std::array::from_fn(|_| Shared::new());
    for (from, to) in places(&shared).await {
        let made = trained(&from, 1, "large").await;
        retire(&from, &made).await;
        delete(&from, &layout::blob(&made.outputs["policy"].digest)).await;
        let copied = from.copy_to(&to, |_| true).await.unwrap();
        assert_eq!((copied.results, copied.incomplete), (0, 1));
        assert_eq!(to.lookup(&made.key).await.unwrap(), None);
    }
}

#[tokio::test]
async fn only_objects_that_are_new_or_changed_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    for location in ["memory://", folder.path().to_str().unwrap()] {
        let store = Store::open(location).await.unwrap();
        let known = Known::default();
        let read = std::sync::Mutex::new(Vec::new());
        let all = async || {
            let (store, read) = (&store, &read);
            let note = |object: String| async move {
                read.lock().unwrap().push(object.clone());
                Ok(Some(store.fetch(&ObjectPath::from(object)).await?.unwrap_or_default()))
            };
            let mut all = store.read_known("notes", &known, note).await.unwrap();
            all.sort_unstable();
            let texts = all.iter().map(|(_, text)| String::from_utf8_lossy(text).into_owned());
            (texts.collect::<Vec<_>>().join(" "), std::mem::take(&mut *read.lock().unwrap()).len())
        };
        let put = async |name: &str, text: &str| {
            store.put_object(&format!("notes/{name}"), text.as_bytes().to_vec()).await.unwrap();
        };
        put("a", "one").await;
        put("b", "two").await;
        assert_eq!(all().await, ("one two".to_owned(), 2));
        assert_eq!(all().await, ("one two".to_owned(), 0));
        put("b", "2nd").await;
        put("c", "new").await;
        assert_eq!(all().await, ("one 2nd new".to_owned(), 2), "same size, same second");
        store.delete_object("notes/a").await.unwrap();
        assert_eq!(all().await, ("2nd new".to_owned(), 0));
    }
}
