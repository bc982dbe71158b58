//! What every store does, whatever it is kept on.

use super::*;

/// Runs all functions, each on a store of its own that `$open` makes from a number.
macro_rules! all {
    ($open:expr, $($name:ident),*) => {{
        let mut number = 0;
        $({
            number += 1;
            eprintln!(concat!("· ", stringify!($name)));
            super::$name(&$open(number).await).await;
        })*
        assert!(number > 0);
    }};
}

macro_rules! conformance {
    (
        everywhere { $($name:ident),* $(,)? }
        where_writes_are_atomic { $($atomic:ident),* $(,)? }
        without_tier { $($plain:ident),* $(,)? }
    ) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(&super::Store::open("memory://").await.unwrap()).await;
            })*
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $atomic() {
                super::$atomic(&super::Store::open("memory://").await.unwrap()).await;
            })*
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $plain() {
                super::$plain(&super::Store::open("memory://").await.unwrap()).await;
            })*
        }

        mod on_disk {
            async fn open(folder: &tempfile::TempDir) -> super::Store {
                super::Store::open(folder.path().to_str().unwrap()).await.unwrap()
            }

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(&open(&tempfile::tempdir().unwrap()).await).await;
            })*
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $atomic() {
                super::$atomic(&open(&tempfile::tempdir().unwrap()).await).await;
            })*
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $plain() {
                super::$plain(&open(&tempfile::tempdir().unwrap()).await).await;
            })*
        }

        /// A server takes long to start: one test runs all functions.
        mod on_s3 {
            use super::super::bucket;
            use super::super::servers::Server;
            use super::super::TierFolder;

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn moto() {
                let Some(server) = Server::moto() else { return };
                let open = async |number| bucket(&server, number, TierFolder::Off).await;
                all!(open, $($name,)* $($atomic,)* $($plain),*);
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn moto_behind_a_tier() {
                let Some(server) = Server::moto() else { return };
                let folder = tempfile::tempdir().unwrap();
                let tier = super::TierFolder::Below(folder.path().to_owned());
                let open = async |number| bucket(&server, number, tier.clone()).await;
                all!(open, $($name,)* $($atomic),*);
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn s3s() {
                let Some(server) = Server::s3s() else { return };
                let open = async |number| bucket(&server, number, TierFolder::Off).await;
                all!(open, $($name,)* $($plain),*);
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn s3s_behind_a_tier() {
                let Some(server) = Server::s3s() else { return };
                let folder = tempfile::tempdir().unwrap();
                let tier = super::TierFolder::Below(folder.path().to_owned());
                let open = async |number| bucket(&server, number, tier.clone()).await;
                all!(open, $($name),*);
            }
        }
    };
}

conformance! {
    everywhere {
        bytes_read_back,
        files_of_any_length_read_back,
        equal_content_is_stored_once,
        adopted_file_is_stored,
        absent_source_is_an_error,
        missing_blob_is_missing,
        materialised_file_is_the_content,
        materialising_replaces_what_was_there,
        damaged_blob_is_set_aside_when_read,
        damaged_blob_is_set_aside_when_materialised,
        published_manifest_is_looked_up,
        absent_manifest_is_a_miss,
        second_publisher_adopts,
        manifest_with_a_missing_blob_is_a_miss,
        manifest_with_a_shortened_blob_is_a_miss,
        truncated_manifest_is_a_miss_and_replaced,
        changed_manifest_is_a_miss,
        misfiled_manifest_is_a_miss,
        publishing_replaces_an_unusable_manifest,
        publishing_without_blobs_is_refused,
        publishing_under_a_foreign_key_is_refused,
        unknown_objects_are_ignored,
        verification_of_a_sound_store_finds_nothing,
        verification_finds_all_damage,
        objects_read_back_and_are_listed,
        names_of_the_store_are_refused,
    }
    where_writes_are_atomic { racing_publishers_agree }
    without_tier { stat_counts }
}

async fn bytes_read_back(store: &Store) {
    for bytes in [Vec::new(), b"content".to_vec(), vec![0; 1 << 20]] {
        let artifact = store.put_bytes(bytes.clone()).await.unwrap();
        assert_eq!(artifact, Artifact { digest: Digest::of(&bytes), size: bytes.len() as u64 });
        assert_eq!(store.read(&artifact.digest).await.unwrap(), bytes);
    }
}

async fn files_of_any_length_read_back(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for length in [0, 1, 1 << 18, (1 << 18) + 1, 25 << 20] {
        let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let artifact = store.put_file(&path).await.unwrap();
        assert_eq!(artifact, Artifact { digest: Digest::of(&bytes), size: length });
        assert!(store.read(&artifact.digest).await.unwrap() == bytes, "{length} bytes");
        assert!(path.exists());
    }
}

async fn equal_content_is_stored_once(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "content").unwrap();
    let first = put(store, "content").await;
    assert_eq!(put(store, "content").await, first);
    assert_eq!(store.put_file(&path).await.unwrap(), first);
    assert_eq!(store.adopt_file(&path).await.unwrap(), first);
    assert_eq!(names(store, "blobs").await.len(), 1);
}

async fn adopted_file_is_stored(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "content").unwrap();
    let artifact = store.adopt_file(&path).await.unwrap();
    assert_eq!(artifact, Artifact { digest: Digest::of(b"content"), size: 7 });
    assert_eq!(store.read(&artifact.digest).await.unwrap(), b"content");
}

async fn absent_source_is_an_error(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    for error in [
        store.put_file(&folder.path().join("none")).await.unwrap_err(),
        store.adopt_file(&folder.path().join("none")).await.unwrap_err(),
        store.put_file(folder.path()).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        assert!(error.to_string().starts_with("cannot read "), "{error}");
    }
    assert!(names(store, "blobs").await.is_empty());
}

async fn missing_blob_is_missing(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let absent = Artifact { digest: Digest::of(b"absent"), size: 6 };
    let target = folder.path().join("target");
    for error in [
        store.read(&absent.digest).await.unwrap_err(),
        store.materialise(&absent, &target).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Missing { digest } if digest == absent.digest), "{error:?}");
        assert_eq!(error.lost_blob(), Some(&absent.digest));
        assert_eq!(error.is_corrupt(), None);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

async fn materialised_file_is_the_content(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let artifact = put(store, "content").await;
    for name in ["file", "new/folder/file", "new/folder/again"] {
        let target = folder.path().join(name);
        store.materialise(&artifact, &target).await.unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"content");
        assert!(target.metadata().unwrap().permissions().readonly());
    }
    assert_eq!(
        std::fs::read_dir(folder.path().join("new/folder")).unwrap().count(),
        2,
        "nothing is left over"
    );
}

async fn materialising_replaces_what_was_there(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    std::fs::write(&target, "older and longer").unwrap();
    let (one, other) = (put(store, "one").await, put(store, "other").await);
    for (artifact, expected) in [(one, "one"), (one, "one"), (other, "other"), (one, "one")] {
        store.materialise(&artifact, &target).await.unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), expected);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }
    assert_eq!(store.read(&other.digest).await.unwrap(), b"other");
    let in_the_way = folder.path().join("folder");
    std::fs::create_dir_all(in_the_way.join("full")).unwrap();
    let error = store.materialise(&one, &in_the_way).await.unwrap_err();
    assert!(error.hint().unwrap().contains("folder is in the way"), "{error:?}");
}

/// After `error`, the damage has been moved aside and the result can be made again.
async fn expect_recovery(store: &Store, manifest: &Manifest, error: &StoreError) {
    let digest = manifest.outputs["out"].digest;
    assert_eq!(error.is_corrupt(), Some(&digest), "{error:?}");
    assert_eq!(error.lost_blob(), Some(&digest));
    assert_eq!(names(store, "quarantine/blobs").await.len(), 1);
    assert!(names(store, "blobs").await.is_empty());
    assert_eq!(store.lookup(&manifest.key).await.unwrap(), None);
    assert_eq!(put(store, "content").await.digest, digest);
    assert!(!store.publish(manifest.clone()).await.unwrap().adopted);
    assert_eq!(store.lookup(&manifest.key).await.unwrap().as_ref(), Some(manifest));
    assert_eq!(store.read(&digest).await.unwrap(), b"content");
}

async fn damaged_blob_is_set_aside_when_read(store: &Store) {
    let manifest = publish(store, 1, "content").await;
    let digest = manifest.outputs["out"].digest;
    flip(store, &layout::blob(&digest)).await;
    let error = store.read(&digest).await.unwrap_err();
    expect_recovery(store, &manifest, &error).await;
}

async fn damaged_blob_is_set_aside_when_materialised(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let manifest = publish(store, 1, "content").await;
    let output = manifest.outputs["out"];
    store.materialise(&output, &target).await.unwrap();
    std::fs::remove_file(&target).unwrap();
    flip(store, &layout::blob(&output.digest)).await;
    let error = store.materialise(&output, &target).await.unwrap_err();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left over");
    expect_recovery(store, &manifest, &error).await;
}

async fn published_manifest_is_looked_up(store: &Store) {
    let mut made = manifest(1, &[("a", put(store, "1").await), ("b/c", put(store, "2").await)], "run");
    made.metrics.insert("accuracy".to_owned(), (2.0 / 3.0).into());
    made.provenance.wall_s = 0.1 + 0.2;
    assert_eq!(
        store.publish(made.clone()).await.unwrap(),
        Published { manifest: made.clone(), adopted: false }
    );
    assert_eq!(store.lookup(&made.key).await.unwrap(), Some(made.clone()));
    let empty = manifest(2, &[], "run");
    store.publish(empty.clone()).await.unwrap();
    assert_eq!(store.lookup(&empty.key).await.unwrap(), Some(empty.clone()));
    let mut all = vec![made, empty];
    all.sort_by_key(|manifest| manifest.key);
    assert_eq!(store.manifests().await.unwrap(), all);
}

async fn absent_manifest_is_a_miss(store: &Store) {
    assert_eq!(store.lookup(&action(1).key()).await.unwrap(), None);
    publish(store, 1, "content").await;
    assert_eq!(store.lookup(&action(2).key()).await.unwrap(), None);
}

async fn second_publisher_adopts(store: &Store) {
    let first = publish(store, 1, "first").await;
    let second = manifest(1, &[("out", put(store, "second").await)], "other run");
    assert_eq!(store.publish(second).await.unwrap(), Published { manifest: first.clone(), adopted: true });
    assert_eq!(store.lookup(&first.key).await.unwrap(), Some(first));
}

async fn racing_publishers_agree(store: &Store) {
    for round in 0..20 {
        let publishers: Vec<_> = (0..8)
            .map(|publisher| {
                let store = store.clone();
                tokio::spawn(async move {
                    let output = put(&store, &format!("{round} {publisher}")).await;
                    let made = manifest(round, &[("out", output)], &publisher.to_string());
                    store.publish(made).await.unwrap()
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for publisher in publishers {
            outcomes.push(publisher.await.unwrap());
        }
        assert_eq!(outcomes.iter().filter(|outcome| !outcome.adopted).count(), 1);
        assert!(outcomes.iter().all(|outcome| outcome.manifest == outcomes[0].manifest));
    }
}

async fn expect_miss_then_republish(store: &Store, manifest: &Manifest) {
    assert_eq!(store.lookup(&manifest.key).await.unwrap(), None);
    assert_eq!(names(store, "quarantine/manifests").await.len(), 1);
    assert!(names(store, "manifests").await.is_empty());
    put(store, "content").await;
    assert!(!store.publish(manifest.clone()).await.unwrap().adopted);
    assert_eq!(store.lookup(&manifest.key).await.unwrap().as_ref(), Some(manifest));
}

async fn manifest_with_a_missing_blob_is_a_miss(store: &Store) {
    let manifest = publish(store, 1, "content").await;
    delete(store, &layout::blob(&manifest.outputs["out"].digest)).await;
    expect_miss_then_republish(store, &manifest).await;
}

async fn manifest_with_a_shortened_blob_is_a_miss(store: &Store) {
    let manifest = publish(store, 1, "content").await;
    overwrite(store, &layout::blob(&manifest.outputs["out"].digest), b"conten".to_vec()).await;
    expect_miss_then_republish(store, &manifest).await;
    assert_eq!(store.read(&manifest.outputs["out"].digest).await.unwrap(), b"content");
}

async fn truncated_manifest_is_a_miss_and_replaced(store: &Store) {
    let manifest = publish(store, 1, "content").await;
    let object = layout::manifest(&manifest.key);
    let mut text = content(store, &object).await;
    text.truncate(text.len() / 2);
    overwrite(store, &object, text).await;
    expect_miss_then_republish(store, &manifest).await;
}

async fn changed_manifest_is_a_miss(store: &Store) {
    let manifest = publish(store, 1, "content").await;
    flip(store, &layout::manifest(&manifest.key)).await;
    expect_miss_then_republish(store, &manifest).await;
}

async fn misfiled_manifest_is_a_miss(store: &Store) {
    let manifest = publish(store, 1, "content").await;
    let text = content(store, &layout::manifest(&manifest.key)).await;
    let other = action(2).key();
    overwrite(store, &layout::manifest(&other), text).await;
    assert_eq!(store.lookup(&other).await.unwrap(), None);
    assert_eq!(store.lookup(&manifest.key).await.unwrap(), Some(manifest));
}

async fn publishing_replaces_an_unusable_manifest(store: &Store) {
    let manifest = publish(store, 1, "content").await;
    overwrite(store, &layout::manifest(&manifest.key), b"{".to_vec()).await;
    assert!(!store.publish(manifest.clone()).await.unwrap().adopted);
    assert_eq!(store.lookup(&manifest.key).await.unwrap(), Some(manifest));
}

async fn publishing_without_blobs_is_refused(store: &Store) {
    let absent = Artifact { digest: Digest::of(b"absent"), size: 6 };
    let error = store.publish(manifest(1, &[("out", absent)], "run")).await.unwrap_err();
    assert_eq!(error.lost_blob(), Some(&absent.digest));
    assert!(names(store, "manifests").await.is_empty());
}

async fn publishing_under_a_foreign_key_is_refused(store: &Store) {
    let foreign = Manifest { key: action(2).key(), ..manifest(1, &[], "run") };
    let error = store.publish(foreign).await.unwrap_err();
    assert!(matches!(error, StoreError::Unpublishable { .. }), "{error:?}");
    let mut unreadable = manifest(1, &[], "run");
    unreadable.provenance.wall_s = f64::NAN;
    assert!(matches!(store.publish(unreadable).await, Err(StoreError::Unpublishable { .. })));
    assert!(names(store, "manifests").await.is_empty());
}

async fn unknown_objects_are_ignored(store: &Store) {
    let manifest = publish(store, 1, "content").await;
    for object in
        ["blobs/ab/readme", "blobs/readme", "manifests/ab/cdef.json", "manifests/readme", "tmp/torn"]
    {
        overwrite(store, object, b"x".to_vec()).await;
    }
    assert_eq!(store.manifests().await.unwrap(), [manifest]);
    assert_eq!(store.stat().await.unwrap().blobs, 1);
    assert!(store.verify().await.unwrap().is_sound());
}

async fn stat_counts(store: &Store) {
    assert_eq!(store.stat().await.unwrap(), Stat::default());
    publish(store, 1, "shared").await;
    publish(store, 2, "shared").await;
    let mut other = manifest(3, &[("out", put(store, "other").await)], "run");
    other.action.stage = "other".to_owned();
    other.key = other.action.key();
    store.publish(other).await.unwrap();
    put(store, "belongs to nothing").await;
    for name in ["runs/a/run.json", "runs/a/events.jsonl", "runs/b/run.json"] {
        store.put_object(name, b"{}".to_vec()).await.unwrap();
    }
    let stat = store.stat().await.unwrap();
    assert_eq!((stat.manifests, stat.blobs, stat.bytes, stat.runs), (3, 3, 29, 2));
    let stages = [("other", 1, 5), ("stage", 2, 6)];
    let stages = stages.map(|(stage, manifests, bytes)| (stage.to_owned(), StageStat { manifests, bytes }));
    assert_eq!(stat.stages, BTreeMap::from(stages));
}

async fn verification_of_a_sound_store_finds_nothing(store: &Store) {
    assert_eq!(store.verify().await.unwrap(), Verification::default());
    publish(store, 1, "content").await;
    publish(store, 2, "more").await;
    let outcome = store.verify().await.unwrap();
    assert!(outcome.is_sound());
    assert_eq!((outcome.blobs, outcome.bytes), (2, 11));
}

async fn verification_finds_all_damage(store: &Store) {
    let sound = publish(store, 1, "sound").await;
    let damaged = publish(store, 2, "damaged").await;
    let gone = publish(store, 3, "gone").await;
    let cut = publish(store, 4, "cut").await;
    flip(store, &layout::blob(&damaged.outputs["out"].digest)).await;
    delete(store, &layout::blob(&gone.outputs["out"].digest)).await;
    overwrite(store, &layout::manifest(&cut.key), Vec::new()).await;
    let outcome = store.verify().await.unwrap();
    assert!(!outcome.is_sound());
    assert_eq!((outcome.blobs, outcome.bytes), (3, 8));
    assert_eq!(outcome.corrupt, [damaged.outputs["out"].digest]);
    let mut incomplete = vec![(damaged.key, "step-2".to_owned()), (gone.key, "step-3".to_owned())];
    incomplete.sort();
    assert_eq!(outcome.incomplete, incomplete);
    assert_eq!(outcome.unreadable, [layout::manifest(&cut.key)]);
    for (manifest, usable) in [(&sound, true), (&damaged, false), (&gone, false), (&cut, false)] {
        assert_eq!(store.lookup(&manifest.key).await.unwrap().is_some(), usable);
    }
    assert!(store.verify().await.unwrap().is_sound(), "lookups have set the rest aside");
}

async fn objects_read_back_and_are_listed(store: &Store) {
    assert_eq!(store.get_object("runs/a/run.json").await.unwrap(), None);
    assert_eq!(store.list_objects("runs").await.unwrap(), Vec::<String>::new());
    for name in ["runs/b/run.json", "runs/a/run.json", "runs/ab/run.json", "runs/a/steps/one.json"] {
        store.put_object(name, b"old".to_vec()).await.unwrap();
        store.put_object(name, name.as_bytes().to_vec()).await.unwrap();
        assert_eq!(store.get_object(name).await.unwrap().unwrap(), name.as_bytes());
    }
    let all = ["runs/a/run.json", "runs/a/steps/one.json", "runs/ab/run.json", "runs/b/run.json"];
    assert_eq!(store.list_objects("runs").await.unwrap(), all);
    assert_eq!(store.list_objects("runs/a/").await.unwrap(), all[..2]);
}

async fn names_of_the_store_are_refused(store: &Store) {
    for name in
        ["", "/", "blobs/ab/cd", "manifests", "bstar-store.json", "quarantine/x", "../x", "runs//x", "/runs"]
    {
        for error in
            [store.put_object(name, Vec::new()).await.unwrap_err(), store.get_object(name).await.unwrap_err()]
        {
            assert!(matches!(error, StoreError::InvalidName { .. }), "{name}: {error:?}");
        }
    }
}
