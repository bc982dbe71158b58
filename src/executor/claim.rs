//! The exclusive right to execute a key.
//!
//! Among the processes that share a work root it is a kernel lock, which ends with its process. In a store
//! that is no folder of this machine, a lease keeps other machines out too. A step whose key
//! somebody else executes gives its resources back and is asked for again when that has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bstar_cache::{ActionKey, Holder, Lease, LeaseOptions, LeaseRequest, Standing, Store, timestamp};

use super::work::{Lock, WorkRoot};
use super::{Shared, Trouble};
use crate::event::Event;

/// How long a waiting step waits before it looks again: at first, and in the end.
struct Patience {
    first: Duration,
    last: Duration,
}

/// Looking at a folder costs microseconds.
const NEAR: Patience = Patience { first: Duration::from_millis(5), last: Duration::from_millis(100) };
/// Every look at an object store costs requests.
const FAR: Patience = Patience { first: Duration::from_millis(100), last: Duration::from_secs(2) };

/// How long giving a lease back may take: if it fails, the lease expires.
const RELEASE: Duration = Duration::from_secs(10);

/// What a run remembers of the keys it wants.
pub(super) struct Claims {
    holder: Holder,
    options: LeaseOptions,
    /// What has been seen of leases that others hold.
    requests: Mutex<BTreeMap<ActionKey, LeaseRequest>>,
    /// Keys that the user has been told about.
    told: Mutex<BTreeSet<ActionKey>>,
}

/// The right to execute a key.
#[derive(Debug)]
pub(super) struct Claim {
    lease: Option<Lease>,
    /// Held longer than the lease: whoever has it knows that a lease of the same work root is dead.
    _lock: Lock,
}

impl Claims {
    /// For a run in a work root.
    pub(super) fn new(run: &str, host: &str, work: &WorkRoot, ttl: Duration) -> std::io::Result<Self> {
        let holder = Holder {
            host: host.to_owned(),
            pid: std::process::id(),
            run: run.to_owned(),
            work: work.identity()?,
            started: timestamp(SystemTime::now()),
        };
        let (requests, told) = (Mutex::default(), Mutex::default());
        Ok(Self { holder, options: LeaseOptions { ttl }, requests, told })
    }

    /// Goes on with what was seen before, or begins anew.
    fn request(&self, store: &Store, key: &ActionKey) -> LeaseRequest {
        let known = lock(&self.requests).remove(key);
        known.unwrap_or_else(|| store.lease(key, &self.holder, self.options))
    }

    fn remember(&self, key: &ActionKey, request: LeaseRequest) {
        lock(&self.requests).insert(*key, request);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries to get the right to execute a key; `None` when somebody else has it.
pub(super) async fn claim(shared: &Shared, name: &str, key: &ActionKey) -> Result<Option<Claim>, Trouble> {
    let locked = shared.work.claim(key);
    let locked = locked.map_err(|error| Trouble::io("lock a scratch folder".to_owned(), error))?;
    let Some(locked) = locked else {
        tell(shared, key, || {
            format!("{name}: another run is executing the same step; its result will be used")
        });
        return Ok(None);
    };
    if shared.store.local_root().is_some() {
        return Ok(Some(Claim { lease: None, _lock: locked }));
    }
    let mut request = shared.claims.request(&shared.store, key);
    let lease = request.attempt().await?;
    if lease.is_none() {
        let holder = request.held_by().cloned().unwrap_or_default();
        tell(shared, key, || {
            let Holder { host, pid, run, .. } = holder;
            format!(
                "{name}: run {run} (process {pid} on {host}) is executing the same step; its result will be \
                 used"
            )
        });
        shared.claims.remember(key, request);
        return Ok(None);
    }
    Ok(Some(Claim { lease, _lock: locked }))
}

/// Returns when it is worth trying again: the result is there, or nobody executes the key any more.
pub(super) async fn wait(shared: &Shared, key: &ActionKey) {
    let patience = if shared.store.local_root().is_some() { NEAR } else { FAR };
    let mut pause = patience.first;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(patience.last);
        // An error is met again, and told of, when the step is asked for again.
        let over = match shared.store.lookup(key).await {
            Ok(None) => is_free(shared, key).await,
            Ok(Some(_)) | Err(_) => true,
        };
        if over {
            return;
        }
    }
}

async fn is_free(shared: &Shared, key: &ActionKey) -> bool {
    // Held for the moment in which the lease is looked at.
    let _lock = match shared.work.claim(key) {
        Ok(None) => return false,
        Ok(Some(lock)) => lock,
        Err(_) => return true,
    };
    if shared.store.local_root().is_some() {
        return true;
    }
    let mut request = shared.claims.request(&shared.store, key);
    let standing = request.observe().await;
    shared.claims.remember(key, request);
    !matches!(standing, Ok(Standing::Held))
}

fn tell(shared: &Shared, key: &ActionKey, message: impl FnOnce() -> String) {
    if lock(&shared.claims.told).insert(*key) {
        (shared.events)(Event::Note { level: "info", message: message() });
    }
}

impl Claim {
    /// Gives the right back.
    pub(super) async fn release(self) {
        let Some(lease) = self.lease else { return };
        if lease.is_lost() {
            tracing::debug!("another process took over while this one was silent");
        }
        match tokio::time::timeout(RELEASE, lease.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot give a lease back; it will expire"),
            Err(_) => tracing::debug!("giving a lease back takes too long; it will expire"),
        }
    }
}
