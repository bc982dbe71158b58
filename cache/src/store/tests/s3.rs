//! What only a store in a bucket does, with a server over HTTP.

use std::time::Duration;

use super::proxy::{Act, Proxy};
use super::servers::{Server, variables};
use super::*;

fn options(endpoint: &str, tier: Option<&Path>) -> StoreOptions {
    let tier = tier.map_or(TierFolder::Off, |folder| TierFolder::Below(folder.to_owned()));
    StoreOptions { tier, retries: IMPATIENT, variables: Some(variables(endpoint)) }
}

/// A proxy before a server with a bucket.
fn proxied() -> Option<(Server, Proxy)> {
    let server = Server::moto()?;
    server.make_bucket("bucket");
    let proxy = Proxy::before(server.address());
    Some((server, proxy))
}

fn remote(error: &StoreError) -> &RemoteFailure {
    let StoreError::Remote { source, .. } = error else { panic!("{error:?}") };
    source
}

#[tokio::test]
async fn what_is_wrong_with_a_bucket_is_told_with_a_hint() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("http://{free}");
    let error = Store::open_with("s3://bucket", options(&nowhere, None)).await.unwrap_err();
    assert_eq!(remote(&error).problem, Problem::Unreachable);
    assert!(remote(&error).to_string().starts_with(&format!("{nowhere} cannot be reached: ")), "{error:?}");
    assert!(error.hint().unwrap().contains("AWS_ENDPOINT_URL"));

    let Some(moto) = Server::moto() else { return };
    let error = Store::open_with("s3://other", options(&moto.endpoint(), None)).await.unwrap_err();
    assert_eq!(remote(&error).problem, Problem::NoBucket, "{error:?}");
    assert!(error.hint().unwrap().contains("make the bucket"));

    let Some(server) = Server::s3s() else { return };
    server.make_bucket("bucket");
    let endpoint = server.endpoint();
    let mut wrong = options(&endpoint, None);
    wrong.variables.as_mut().unwrap()[1].1 = "WRONGSECRET".to_owned();
    let error = Store::open_with("s3://bucket", wrong).await.unwrap_err();
    assert_eq!(remote(&error).problem, Problem::Credentials, "{error:?}");
    assert!(error.hint().unwrap().contains("AWS_SECRET_ACCESS_KEY"));
    let told = format!("{error:?} {error} {}", remote(&error));
    assert!(!told.contains("WRONGSECRET") && !told.contains("AKEXAMPLE"), "{told}");
    let store = Store::open_with("s3://bucket", options(&endpoint, None)).await.unwrap();
    let Place::There(remote) = &store.inner.place else { panic!("a store on a server") };
    assert!(!format!("{store:?} {:?}", remote.objects).contains("EXAMPLE"));
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_refused() {
    let Some((_server, proxy)) = proxied() else { return };
    proxy.now(|_, _| Act::Careless);
    let error = Store::open_with("s3://bucket/p", options(&proxy.endpoint(), None)).await.unwrap_err();
    assert!(matches!(error, StoreError::NoConditionalPut { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("If-None-Match"));
    let again = Store::open_with("s3://bucket/p", options(&proxy.endpoint(), None)).await.unwrap_err();
    assert!(matches!(again, StoreError::NoConditionalPut { .. }), "{again:?}");
    proxy.now(|_, _| Act::Pass);
    assert!(Store::open_with("s3://bucket/p", options(&proxy.endpoint(), None)).await.is_ok());
}

#[tokio::test]
async fn credentials_that_may_only_read_can_read() {
    let Some((_server, proxy)) = proxied() else { return };
    let store = Store::open_with("s3://bucket/p", options(&proxy.endpoint(), None)).await.unwrap();
    let made = publish(&store, 1, "content").await;
    proxy.now(
        |_, line| if line.starts_with("GET") || line.starts_with("HEAD") { Act::Pass } else { Act::Deny },
    );
    let store = Store::open_with("s3://bucket/p", options(&proxy.endpoint(), None)).await.unwrap();
    assert_eq!(store.lookup(&made.key).await.unwrap().as_ref(), Some(&made));
    assert_eq!(store.read(&made.outputs["out"].digest).await.unwrap(), b"content");
    let error = store.put_bytes(b"more".to_vec()).await.unwrap_err();
    assert_eq!(remote(&error).problem, Problem::Denied, "{error:?}");
    assert!(error.hint().unwrap().contains("write"));
    assert_eq!(
        proxy.requests().iter().filter(|line| line.starts_with("PUT")).count(),
        2,
        "never tried again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_asks_the_server_for_nothing_that_it_has() {
    let Some((_server, proxy)) = proxied() else { return };
    let (mine, yours, targets) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = async |folder: &Path| {
        Store::open_with("s3://bucket/p", options(&proxy.endpoint(), Some(folder))).await.unwrap()
    };
    let use_all = async |store: &Store, made: &[Manifest]| {
        for manifest in made {
            assert_eq!(store.lookup(&manifest.key).await.unwrap().as_ref(), Some(manifest));
            let output = manifest.outputs["out"];
            store.materialise(&output, &targets.path().join("out")).await.unwrap();
            store.read(&output.digest).await.unwrap();
        }
    };
    let store = open(mine.path()).await;
    let mut made = Vec::new();
    for number in 0..5 {
        made.push(publish(&store, number, &format!("content {number}")).await);
    }
    let work = store.folder().unwrap().join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("output"), "moved").unwrap();
    store.adopt_file(&work.join("output")).await.unwrap();
    assert!(!work.join("output").exists(), "outputs beside the tier are moved into it");
    drop(store);

    for (folder, first) in [(mine.path(), false), (yours.path(), true), (yours.path(), false)] {
        let store = open(folder).await;
        proxy.requests();
        use_all(&store, &made).await;
        let requests = proxy.requests();
        // A manifest, whether its blob is there, and the blob.
        assert_eq!(requests.len(), if first { 15 } else { 0 }, "{requests:?}");
        assert_eq!(store.manifests().await.unwrap().len(), 5);
        assert_eq!(proxy.requests().len(), 1, "the list");
    }
    // A store of the same name on another server is another store.
    let direct = options(
        &format!("http://localhost:{}", proxy.endpoint().rsplit(':').next().unwrap()),
        Some(mine.path()),
    );
    let elsewhere = Store::open_with("s3://bucket/p", direct).await.unwrap();
    assert_ne!(elsewhere.folder(), open(mine.path()).await.folder());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bad_network_loses_nothing() {
    let Some((server, proxy)) = proxied() else { return };
    let folder = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..(17 << 20) + 3).map(|index: u32| (index % 253) as u8).collect();
    for (round, act) in [Act::Busy, Act::Drop, Act::Lose, Act::Cut, Act::Stall].into_iter().enumerate() {
        let round = round as i64;
        // A stall takes as long as is waited for it: there are fewer of those.
        let every = if act == Act::Stall { 7 } else { 2 };
        proxy.now(move |number, _| if number % every == 1 { act } else { Act::Pass });
        let mut made = Vec::new();
        let location = format!("s3://bucket/round-{round}");
        for tier in [None, Some(folder.path())] {
            let store = Store::open_with(&location, options(&proxy.endpoint(), tier)).await.unwrap();
            let number = round * 10 + i64::from(tier.is_some());
            made.push(publish(&store, number, &format!("{act:?} {number}")).await);
            if tier.is_some() && act != Act::Stall {
                let file = folder.path().join("big");
                std::fs::write(&file, &big).unwrap();
                let output = store.adopt_file(&file).await.unwrap();
                made.push(
                    store.publish(manifest(number + 1, &[("out", output)], "run")).await.unwrap().manifest,
                );
            }
            for manifest in &made {
                assert_eq!(store.lookup(&manifest.key).await.unwrap().as_ref(), Some(manifest), "{act:?}");
                store.materialise(&manifest.outputs["out"], &folder.path().join("target")).await.unwrap();
            }
        }
        let direct = Store::open_with(&location, options(&server.endpoint(), None)).await.unwrap();
        for manifest in &made {
            assert_eq!(direct.lookup(&manifest.key).await.unwrap().as_ref(), Some(manifest), "{act:?}");
            direct.materialise(&manifest.outputs["out"], &folder.path().join("target")).await.unwrap();
        }
        assert!(direct.verify().await.unwrap().is_sound(), "{act:?}");
        assert!(direct.list("quarantine").await.unwrap().is_empty(), "{act:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_was_killed_is_succeeded_by_the_next_lookup() {
    let Some((server, proxy)) = proxied() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store =
        Store::open_with("s3://bucket", options(&proxy.endpoint(), Some(folder.path()))).await.unwrap();
    let made = manifest(1, &[("out", put(&store, "content").await)], "run");
    proxy.now(|_, line| if line.contains("/manifests/") { Act::Stall } else { Act::Pass });
    // Dropping the future while the manifest is on its way is what a kill does.
    let publishing = tokio::time::timeout(Duration::from_secs(1), store.publish(made.clone())).await;
    assert!(publishing.is_err());
    let pending = store.folder().unwrap().join("pending");
    assert_eq!(std::fs::read_dir(&pending).unwrap().count(), 1);
    proxy.now(|_, _| Act::Pass);
    assert_eq!(store.lookup(&made.key).await.unwrap(), Some(made.clone()));
    assert_eq!(std::fs::read_dir(&pending).unwrap().count(), 0);
    let other = Store::open_with("s3://bucket", options(&server.endpoint(), None)).await.unwrap();
    assert_eq!(other.lookup(&made.key).await.unwrap(), Some(made));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_copied_to_a_bucket_and_back() {
    let Some(server) = Server::s3s() else { return };
    server.make_bucket("bucket");
    let folder = tempfile::tempdir().unwrap();
    let disk = async |name: &str| Store::open(folder.path().join(name).to_str().unwrap()).await.unwrap();
    let tier = folder.path().join("tiers");
    for tier in [None, Some(tier.as_path())] {
        let with_tier = tier.is_some();
        let location = format!("s3://bucket/{with_tier}");
        let bucket = Store::open_with(&location, options(&server.endpoint(), tier)).await.unwrap();
        let (here, there) =
            (disk(&format!("here-{with_tier}")).await, disk(&format!("there-{with_tier}")).await);
        let made = [
            publish(&here, 1, "shared").await,
            publish(&here, 2, "shared").await,
            publish(&here, 3, "x").await,
        ];
        let lost = publish(&here, 4, "lost").await;
        flip(&here, &layout::blob(&lost.outputs["out"].digest)).await;
        let some = here.copy_to(&bucket, |manifest| manifest.key == made[2].key).await.unwrap();
        assert_eq!(some, Copied { results: 1, blobs: 1, bytes: 1, ..Copied::default() });
        let rest = here.copy_to(&bucket, |_| true).await.unwrap();
        assert_eq!((rest.results, rest.skipped, rest.incomplete), (2, 1, 1));
        let back = bucket.copy_to(&there, |_| true).await.unwrap();
        assert_eq!((back.results, back.skipped, back.incomplete), (3, 0, 0));
        assert_eq!(bucket.copy_to(&there, |_| true).await.unwrap().skipped, 3);
        for manifest in &made {
            assert_eq!(there.lookup(&manifest.key).await.unwrap().as_ref(), Some(manifest));
            there.read(&manifest.outputs["out"].digest).await.unwrap();
        }
        assert!(there.verify().await.unwrap().is_sound() && bucket.verify().await.unwrap().is_sound());
        if let Some(root) = bucket.folder() {
            assert!(
                !root.join(layout::blob(&made[2].outputs["out"].digest)).exists(),
                "no second copy on this machine"
            );
        }
    }
}
