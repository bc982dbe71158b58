//! All times here are those of a paused clock, but on a real server.

use std::collections::BTreeMap;
use std::sync::Mutex;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use proptest::prelude::*;

use super::super::tests::{bucket, servers};
use super::super::{Endpoint, Inner, Patient, Retries, TierFolder};
use super::*;
use crate::action::{Action, Ingredient};

const TTL: Duration = Duration::from_secs(30);
const OPTIONS: LeaseOptions = LeaseOptions { ttl: TTL };

fn key(number: i64) -> ActionKey {
    let config = Ingredient::map([("number", Ingredient::from(number))]);
    Action { stage: "stage".to_owned(), version: 1, config, seed: None, inputs: BTreeMap::new() }.key()
}

fn holder(host: &str, work: &str) -> Holder {
    Holder { host: host.to_owned(), work: work.to_owned(), ..Holder::default() }
}

/// The same objects, seen over a network of that latency.
fn far(objects: &Arc<InMemory>, latency: Duration) -> Store {
    let config = ThrottleConfig {
        wait_get_per_call: latency,
        wait_put_per_call: latency,
        wait_list_per_call: latency,
        wait_delete_per_call: latency,
        ..ThrottleConfig::default()
    };
    let throttled: Arc<dyn ObjectStore> = Arc::new(ThrottledStore::new(Arc::clone(objects), config));
    let location = "memory://";
    let endpoint = Endpoint { address: location.to_owned(), variable: None };
    // Leases are small objects: nothing of them goes past `objects`.
    let near = Patient::new(Arc::<InMemory>::clone(objects), Retries::default(), endpoint);
    Store {
        inner: Arc::new(Inner { objects: throttled, ..Inner::remote(location, near, None) }),
        renews: false,
    }
}

async fn store() -> Store {
    Store::open("memory://").await.unwrap()
}

async fn objects(store: &Store) -> Vec<String> {
    store.list(layout::LEASES).await.unwrap().into_iter().map(|(name, _)| name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_is_held_by_one_until_it_is_released() {
    let store = store().await;
    let mut first = store.lease(&key(1), &holder("a", ""), OPTIONS);
    let mut second = store.lease(&key(1), &holder("b", ""), OPTIONS);
    let lease = first.attempt().await.unwrap().unwrap();
    assert!(second.attempt().await.unwrap().is_none());
    assert_eq!(second.held_by().unwrap().host, "a");
    let mut other = store.lease(&key(2), &holder("b", ""), OPTIONS);
    assert!(other.attempt().await.unwrap().is_some(), "another key is free");
    lease.release().await.unwrap();
    assert_eq!(second.observe().await.unwrap(), Standing::Free);
    let lease = second.attempt().await.unwrap().unwrap();
    lease.release().await.unwrap();
    assert!(objects(&store).await.iter().all(|name| name.contains(&key(2).to_string())));
}

#[tokio::test(start_paused = true)]
async fn a_living_holder_keeps_the_key_for_any_time() {
    let store = store().await;
    let lease = store.lease(&key(1), &holder("a", ""), OPTIONS).attempt().await.unwrap().unwrap();
    // Promised by the holder, not by who waits.
    let hasty = LeaseOptions { ttl: Duration::from_secs(1) };
    let mut second = store.lease(&key(1), &holder("b", ""), hasty);
    for _ in 0..100 {
        assert!(second.attempt().await.unwrap().is_none());
        tokio::time::sleep(TTL / 2).await;
    }
    assert!(!lease.is_lost());
    lease.release().await.unwrap();
    assert_eq!(objects(&store).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_loses_the_key_to_one_of_those_who_wait() {
    let store = store().await;
    drop(store.lease(&key(1), &holder("dead", ""), OPTIONS).attempt().await.unwrap().unwrap());
    let mut waiting = [1, 2, 3].map(|_| store.lease(&key(1), &holder("b", ""), OPTIONS));
    for request in &mut waiting {
        assert!(request.attempt().await.unwrap().is_none());
    }
    tokio::time::sleep(TTL - Duration::from_millis(1)).await;
    for request in &mut waiting {
        assert!(request.attempt().await.unwrap().is_none(), "it may still live");
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut held = Vec::new();
    for request in &mut waiting {
        held.extend(request.attempt().await.unwrap());
    }
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].tenure.generation, 2);
    held.pop().unwrap().release().await.unwrap();
    assert_eq!(objects(&store).await, [""; 0], "the dead holder's claim is gone too");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_comes_back_notices_and_takes_nothing_from_its_successors() {
    let store = store().await;
    let paused = store.lease(&key(1), &holder("paused", ""), OPTIONS).attempt().await.unwrap().unwrap();
    paused.heart.abort();
    let mut request = store.lease(&key(1), &holder("thief", ""), OPTIONS);
    assert!(request.attempt().await.unwrap().is_none());
    tokio::time::sleep(TTL).await;
    let thief = request.attempt().await.unwrap().unwrap();
    assert!(!paused.tenure.beat(1).await.unwrap(), "it finds that it has lost");
    thief.release().await.unwrap();
    // A third gets the same generation as the one that was paused.
    let third = store.lease(&key(1), &holder("third", ""), OPTIONS).attempt().await.unwrap().unwrap();
    let before = objects(&store).await;
    paused.release().await.unwrap();
    assert_eq!(objects(&store).await, before);
    tokio::time::sleep(TTL).await;
    assert!(!third.is_lost());
}

#[tokio::test(start_paused = true)]
async fn whoever_has_the_lock_of_a_holder_need_not_wait_for_it() {
    let store = store().await;
    drop(store.lease(&key(1), &holder("host", "folder"), OPTIONS).attempt().await.unwrap().unwrap());
    for other in [holder("host", "elsewhere"), holder("other", "folder"), holder("host", "")] {
        assert!(store.lease(&key(1), &other, OPTIONS).attempt().await.unwrap().is_none());
    }
    let same = store.lease(&key(1), &holder("host", "folder"), OPTIONS).attempt().await.unwrap();
    assert_eq!(same.unwrap().tenure.generation, 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_found_out_about() {
    let store = store().await;
    let claim = Claim { token: "mine".to_owned(), ttl_ms: 1, holder: Holder::default() };
    let path = claim_path(&key(1), 1);
    assert!(store.claim(&path, &claim).await.unwrap());
    assert!(store.claim(&path, &claim).await.unwrap(), "the repeated request finds its own claim");
    let other = Claim { token: "other".to_owned(), ..claim };
    assert!(!store.claim(&path, &other).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_read_expires() {
    let store = store().await;
    store.objects().put(&claim_path(&key(1), 7), b"{".to_vec().into()).await.unwrap();
    let mut request = store.lease(&key(1), &holder("b", ""), OPTIONS);
    // The first generation was free, and given back when the seventh was seen.
    assert!(request.attempt().await.unwrap().is_none());
    assert_eq!(objects(&store).await.len(), 1);
    tokio::time::sleep(TTL).await;
    request.attempt().await.unwrap().unwrap().release().await.unwrap();
    assert_eq!(objects(&store).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_server_every_key_has_one_holder_at_a_time_and_a_silent_one_is_replaced() {
    let Some(server) = servers::Server::moto() else { return };
    let store = bucket(&server, 1, TierFolder::Off).await;
    let histories = Arc::new(Mutex::new(vec![History::default(); 8]));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (store, histories) = (store.clone(), Arc::clone(&histories));
        tasks.spawn(async move {
            for index in 0..8 {
                want(&store, index, Duration::from_millis(20), &mut [Fate::Works(0)].into_iter(), &histories)
                    .await;
            }
        });
    }
    tasks.join_all().await;
    let executions: Vec<usize> = histories.lock().unwrap().iter().map(|history| history.executions).collect();
    assert_eq!(executions, [1; 8]);
    assert_eq!(objects(&store).await, [""; 0]);
    let options = LeaseOptions { ttl: Duration::from_millis(600) };
    let dead = store.lease(&key(0), &holder("dead", ""), options).attempt().await.unwrap().unwrap();
    let mut request = store.lease(&key(0), &holder("b", ""), options);
    assert!(request.attempt().await.unwrap().is_none());
    tokio::time::sleep(2 * options.ttl).await;
    assert!(request.attempt().await.unwrap().is_none(), "it lives");
    drop(dead);
    let lease = loop {
        match request.attempt().await.unwrap() {
            Some(lease) => break lease,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    assert_eq!(lease.tenure.generation, 2);
    lease.release().await.unwrap();
    assert_eq!(objects(&store).await, [""; 0]);
}

/// What befalls the holder of a lease while it works.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It works for so many seconds, which may be longer than the lease lasts without renewal.
    Works(u64),
    /// It is gone without a word.
    Dies,
    /// It stands still for so many seconds, longer than the lease lasts, and goes on.
    Pauses(u64),
}

/// A process: its latency in milliseconds, how often it looks, and what befalls it each time it holds.
type Process = (u64, u64, Vec<Fate>);

/// What happened to a key.
#[derive(Debug, Default, Clone)]
struct History {
    executions: usize,
    deaths: usize,
    /// Leases that are held by processes that are neither dead nor paused.
    holders: usize,
    published: bool,
}

fn process(fates: BoxedStrategy<Fate>) -> impl Strategy<Value = Process> {
    (1_u64..400, 50_u64..8000, prop::collection::vec(fates, 0..4))
}

/// All processes want all keys; each key's history in the end, and what is left of the leases.
fn play(processes: &[Process], keys: usize) -> (Vec<History>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let memory = Arc::new(InMemory::new());
        let histories = Arc::new(Mutex::new(vec![History::default(); keys]));
        let mut tasks = tokio::task::JoinSet::new();
        for (number, (latency, poll, fates)) in processes.iter().cloned().enumerate() {
            let store = far(&memory, Duration::from_millis(latency));
            let histories = Arc::clone(&histories);
            tasks.spawn(async move {
                let mut fates = fates.into_iter();
                for index in (0..keys).map(|index| (index + number) % keys) {
                    let work = want(&store, index, Duration::from_millis(poll), &mut fates, &histories);
                    if !work.await {
                        return;
                    }
                }
            });
        }
        tasks.join_all().await;
        let histories = histories.lock().unwrap().clone();
        (histories, objects(&far(&memory, Duration::ZERO)).await)
    })
}

/// One process gets one key done, by itself or by another; false when it died.
async fn want(
    store: &Store,
    index: usize,
    poll: Duration,
    fates: &mut impl Iterator<Item = Fate>,
    histories: &Mutex<Vec<History>>,
) -> bool {
    let change = |change: &dyn Fn(&mut History)| change(&mut histories.lock().unwrap()[index]);
    let published = || histories.lock().unwrap()[index].published;
    let mut request = store.lease(&key(index as i64), &Holder::default(), OPTIONS);
    while !published() {
        let Some(mut lease) = request.attempt().await.unwrap() else {
            tokio::time::sleep(poll).await;
            continue;
        };
        if published() {
            lease.release().await.unwrap();
            return true;
        }
        change(&|history| {
            history.executions += 1;
            history.holders += 1;
            assert_eq!(history.holders, 1, "two living holders of key {index}");
        });
        match fates.next().unwrap_or(Fate::Works(1)) {
            Fate::Works(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            Fate::Dies => {
                change(&|history| (history.holders, history.deaths) = (0, history.deaths + 1));
                return false;
            }
            Fate::Pauses(seconds) => {
                lease.heart.abort();
                change(&|history| (history.holders, history.deaths) = (0, history.deaths + 1));
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                lease.heart = tokio::spawn(Arc::clone(&lease.tenure).live());
                tokio::time::sleep(Duration::from_secs(1)).await;
                change(&|history| (history.published, history.holders) = (true, history.holders + 1));
            }
        }
        change(&|history| {
            history.published = true;
            history.holders = history.holders.saturating_sub(1);
        });
        lease.release().await.unwrap();
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn when_nobody_dies_every_key_is_executed_once(
        processes in prop::collection::vec(process((0_u64..200).prop_map(Fate::Works).boxed()), 1..7),
        keys in 1_usize..5,
    ) {
        let (histories, left) = play(&processes, keys);
        for history in histories {
            prop_assert_eq!((history.executions, history.published), (1, true));
        }
        prop_assert_eq!(left, Vec::<String>::new());
    }

    #[test]
    fn a_death_or_a_pause_costs_at_most_one_more_execution(
        mut processes in prop::collection::vec(process(prop_oneof![
            4 => (0_u64..100).prop_map(Fate::Works),
            2 => Just(Fate::Dies),
            2 => (31_u64..200).prop_map(Fate::Pauses),
        ].boxed()), 1..7),
        keys in 1_usize..5,
    ) {
        // One that nothing befalls.
        processes.push((20, 1000, Vec::new()));
        for history in play(&processes, keys).0 {
            prop_assert!(history.published);
            prop_assert!(history.executions <= 1 + history.deaths, "{:?}", history);
        }
    }
}
