//! What only a store in a folder does.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::*;

async fn open(folder: &Path) -> Store {
    Store::open(folder.to_str().unwrap()).await.unwrap()
}

fn blob(store: &Store, digest: &Digest) -> PathBuf {
    store.local_root().unwrap().join(layout::blob(digest))
}

#[tokio::test]
async fn store_is_made_once_and_opened_by_path_and_by_address() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("new/store");
    let store = open(&root).await;
    assert_eq!(store.location(), root.to_str().unwrap());
    assert_eq!(store.local_root().unwrap(), root.canonicalize().unwrap());
    assert_eq!(fs::read_to_string(root.join("bstar-store.json")).unwrap(), "{\"format\":1}\n");
    let made = publish(&store, 1, "content").await;
    let again = Store::open(&format!("file://{}", root.display())).await.unwrap();
    assert_eq!(again.lookup(&made.key).await.unwrap(), Some(made));
}

#[tokio::test]
async fn memory_has_no_folder() {
    let store = Store::open("memory://").await.unwrap();
    assert_eq!((store.location(), store.local_root()), ("memory://", None));
}

#[tokio::test]
async fn locations_that_cannot_be_opened_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for (location, message, hint) in [
        ("gs://bucket/prefix", "`gs://` is not supported", "s3://bucket/prefix"),
        ("s3://", "not a path", "s3://bucket/prefix"),
        ("file://relative/path", "not a path", "file:///absolute"),
        (file, "not a folder", "path of a folder"),
        (&format!("{file}/below"), "make the folder", "is a file"),
    ] {
        let error = Store::open(location).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error:?}: {:?}", error.hint());
    }
}

#[tokio::test]
async fn later_format_is_refused_and_a_damaged_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("bstar-store.json");
    for (text, message) in [
        ("{\"format\": 2, \"more\": []}", "has format 2, this version knows format 1"),
        ("{\"format\": 0}", "damaged"),
        ("", "damaged"),
    ] {
        fs::write(&marker, text).unwrap();
        let error = Store::open(folder.path().to_str().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn blobs_are_read_only_and_temporary_files_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).await;
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    fs::write(&one, "one").unwrap();
    fs::write(&other, "other").unwrap();
    let artifacts = [
        put(&store, "bytes").await,
        store.put_file(&one).await.unwrap(),
        store.adopt_file(&other).await.unwrap(),
    ];
    for artifact in artifacts {
        assert!(blob(&store, &artifact.digest).metadata().unwrap().permissions().readonly());
    }
    assert!(one.exists() && !other.exists(), "put_file copies, adopt_file moves");
    let temporary = folder.path().join("store/tmp");
    let below: Vec<_> = fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(below.len(), 1, "the folder of this process, which is empty");
    assert_eq!(fs::read_dir(&below[0]).unwrap().count(), 0);
    drop(store);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn file_with_other_names_is_copied_when_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).await;
    let path = |name| folder.path().join(name);
    fs::write(path("file"), "linked").unwrap();
    fs::hard_link(path("file"), path("second name")).unwrap();
    let artifact = store.adopt_file(&path("file")).await.unwrap();
    fs::write(path("second name"), "LINKED").unwrap();
    assert_eq!(store.read(&artifact.digest).await.unwrap(), b"linked");

    fs::write(path("target"), "pointed at").unwrap();
    std::os::unix::fs::symlink(path("target"), path("symbolic link")).unwrap();
    let artifact = store.adopt_file(&path("symbolic link")).await.unwrap();
    assert!(blob(&store, &artifact.digest).symlink_metadata().unwrap().is_file());
    assert!(path("target").exists());
}

#[tokio::test]
async fn old_temporary_files_are_deleted_when_opened() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    put(&store, "content").await;
    let path = |name: &str| folder.path().join("tmp").join(name);
    fs::create_dir(path("killed")).unwrap();
    fs::create_dir(path("empty")).unwrap();
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    let age = |name: &str| fs::File::open(path(name)).unwrap().set_modified(two_days_ago).unwrap();
    for name in ["old", "new", "killed/old", "killed/new"] {
        fs::write(path(name), "torn").unwrap();
        if name.ends_with("old") {
            age(name);
        }
    }
    age("killed");
    age("empty");
    let again = open(folder.path()).await;
    assert!(!path("old").exists() && !path("killed/old").exists() && !path("empty").exists());
    assert!(path("new").exists() && path("killed/new").exists());
    assert_eq!(again.stat().await.unwrap().blobs, 1);
}

#[tokio::test]
async fn torn_files_of_a_killed_process_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let made = publish(&store, 1, "content").await;
    for object in [layout::blob(&made.outputs["out"].digest), layout::manifest(&made.key)] {
        fs::write(folder.path().join(format!("{object}#1")), "torn").unwrap();
    }
    let other = layout::manifest(&action(2).key());
    fs::create_dir_all(folder.path().join(&other).parent().unwrap()).unwrap();
    fs::write(folder.path().join(format!("{other}#1")), "torn").unwrap();
    assert_eq!(store.manifests().await.unwrap(), [made]);
    assert!(store.verify().await.unwrap().is_sound());
    publish(&store, 2, "other").await;
}

/// A blob is only verified once, as long as its file is not touched.
#[tokio::test]
async fn change_of_a_remembered_blob_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).await;
    let artifact = put(&store, "content").await;
    let path = blob(&store, &artifact.digest);
    let age = |seconds| {
        let file = fs::File::open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    let target = folder.path().join("target");
    age(100);
    store.materialise(&artifact, &target).await.unwrap();
    assert!(matches!(&store.inner.place, Place::Here(local) if local.remembers(&artifact.digest)));
    store.materialise(&artifact, &target).await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "CONTENT").unwrap();
    age(50);
    let error = store.materialise(&artifact, &target).await.unwrap_err();
    assert_eq!(error.is_corrupt(), Some(&artifact.digest));
}

#[test]
fn full_disk_is_recognised_anywhere_in_the_chain() {
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let deep = object_store::Error::Generic { store: "local", source: Box::new(full()) };
    for error in [StoreError::io(|| "write")(full()), StoreError::objects(|| "write")(deep)] {
        let hint = error.hint().unwrap();
        assert!(hint.starts_with("the disk is full") && hint.contains("the same command again"), "{hint}");
        assert!(error.source().is_some());
    }
    let denied = StoreError::io(|| "write")(std::io::ErrorKind::PermissionDenied.into());
    assert!(denied.hint().unwrap().starts_with("permission denied"));
    assert_eq!(StoreError::io(|| "write")(std::io::ErrorKind::TimedOut.into()).hint(), None);
}
