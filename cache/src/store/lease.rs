//! Leases: of all processes that share a store, one at a time executes a key.
//!
//! ```text
//! leases/KEY/0000000001         who holds the key; written once, by put-if-absent
//! leases/KEY/0000000001.TOKEN   a counter that the holder raises while it lives
//! ```
//!
//! The highest generation holds the key. An observer never compares the clocks of two machines: it
//! watches, by its own clock, whether what it reads changes within the time that the holder promised;
//! if not, it takes over by creating the next generation. Nothing depends on a lease but the number of
//! executions: publishing is idempotent, so a holder that was paused and comes back does no harm.
//!
//! The counter has a name of its own, so that a holder that lost its lease without knowing writes over
//! nothing of its successors. Whoever creates a claim looks once more whether it still holds what it was
//! based on: a first generation that no later one exists, a later one that the one it took over
//! from was not released meanwhile.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Store, StoreError, layout};
use crate::action::ActionKey;
use crate::digest::Digest;

/// How many signs of life a holder gives in the time after which it counts as dead.
const BEATS: u32 = 3;

/// Who executes a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// The machine's name.
    pub host: String,
    /// The process on that machine.
    pub pid: u32,
    /// The run.
    pub run: String,
    /// What identifies the folder in which the holder has locked the key; empty without such a lock.
    /// Who holds that lock knows that an earlier holder with the same folder on the same host is dead.
    pub work: String,
    /// When it started: RFC 3339, UTC.
    pub started: String,
}

/// How leases are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseOptions {
    /// A holder that gives no sign of life for this long loses the lease.
    pub ttl: Duration,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30) }
    }
}

/// The content of a claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claim {
    token: String,
    ttl_ms: u64,
    holder: Holder,
}

impl Claim {
    fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

/// Whether a key can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody holds it.
    Free,
    /// Its holder has been silent for too long, or is known to be dead.
    Expired,
    /// Somebody holds it.
    Held,
}

/// An attempt to get a lease, and what it has seen of the holder so far: keep it while waiting.
#[derive(Debug)]
pub struct LeaseRequest {
    store: Store,
    key: ActionKey,
    holder: Holder,
    options: LeaseOptions,
    seen: Option<Seen>,
}

/// The sign of life that was last seen, and when it was first seen.
#[derive(Debug)]
struct Seen {
    generation: u64,
    claim: Claim,
    beat: Option<Vec<u8>>,
    since: Instant,
}

/// The right to execute a key. Dropped, it gives no more signs of life and expires; better is
/// [`Lease::release`].
#[derive(Debug)]
pub struct Lease {
    tenure: Arc<Tenure>,
    heart: JoinHandle<()>,
}

/// What a holder and its heartbeat share.
#[derive(Debug)]
struct Tenure {
    store: Store,
    key: ActionKey,
    generation: u64,
    token: String,
    interval: Duration,
    lost: AtomicBool,
}

impl Store {
    /// Asks for the lease on a key in the name of `holder`. Nothing happens before
    /// [`LeaseRequest::attempt`].
    #[must_use]
    pub fn lease(&self, key: &ActionKey, holder: &Holder, options: LeaseOptions) -> LeaseRequest {
        LeaseRequest { store: self.clone(), key: *key, holder: holder.clone(), options, seen: None }
    }

    /// Creates an object; whether it was absent. An answer that was lost is found out about by `mine`.
    async fn claim(&self, path: &ObjectPath, claim: &Claim) -> Result<bool, StoreError> {
        let attempt = || format!("write {path}");
        let bytes = serde_json::to_vec(claim)
            .map_err(|error| StoreError::Io { attempt: attempt(), source: error.into() })?;
        let put = self.objects().put_opts(path, bytes.into(), PutMode::Create.into()).await;
        let Err(error) = put else { return Ok(true) };
        // A request that is repeated after its answer was lost finds what it has written itself.
        let stored = self.read_claim(path).await;
        match (stored, error) {
            (Ok(Some(stored)), _) if stored.token == claim.token => Ok(true),
            (_, ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => Ok(false),
            (_, error) => Err(StoreError::objects(attempt)(error)),
        }
    }

    /// A claim that cannot be read is somebody's all the same.
    async fn read_claim(&self, path: &ObjectPath) -> Result<Option<Claim>, StoreError> {
        let Some(bytes) = self.fetch(path).await? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| Claim {
            token: Digest::of(&bytes).to_string(),
            ttl_ms: 0,
            holder: Holder::default(),
        })))
    }

    /// The claims on a key, the highest generation last, and the beats.
    async fn claims(&self, key: &ActionKey) -> Result<(Vec<u64>, Vec<(u64, String)>), StoreError> {
        let folder = layout::leases(key);
        let (mut claims, mut beats) = (Vec::new(), Vec::new());
        for (name, _) in self.list(&folder).await? {
            let name = name.strip_prefix(&folder).and_then(|name| name.strip_prefix('/'));
            match name.map(|name| name.split_once('.').map_or((name, None), |(n, token)| (n, Some(token)))) {
                Some((number, None)) => claims.extend(number.parse::<u64>()),
                Some((number, Some(token))) => {
                    beats.extend(number.parse().map(|number: u64| (number, token.to_owned())));
                }
                None => {}
            }
        }
        claims.sort_unstable();
        Ok((claims, beats))
    }
}

impl LeaseRequest {
    /// Tries to get the lease, at once: `None` when somebody else holds it. Ask again later with the same
    /// request: it remembers how long the holder has been silent. The caller must hold the lock in
    /// the folder that [`Holder::work`] names.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn attempt(&mut self) -> Result<Option<Lease>, StoreError> {
        let standing = if self.seen.is_some() { self.observe().await? } else { Standing::Free };
        let predecessor = match (standing, &self.seen) {
            (Standing::Held, _) => return Ok(None),
            (Standing::Expired, Some(seen)) => Some((seen.generation, seen.claim.token.clone())),
            (Standing::Free | Standing::Expired, _) => None,
        };
        let generation = predecessor.as_ref().map_or(1, |(generation, _)| generation + 1);
        let ttl = self.options.ttl;
        let claim = Claim {
            token: token(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            holder: self.holder.clone(),
        };
        let path = claim_path(&self.key, generation);
        if !self.store.claim(&path, &claim).await? {
            // Begins to watch whoever was faster.
            let standing = self.observe().await?;
            let again = standing == Standing::Expired && predecessor.is_none();
            return if again { Box::pin(self.attempt()).await } else { Ok(None) };
        }
        if !self.confirmed(generation, predecessor.as_ref()).await? {
            self.store.remove(&path).await?;
            self.observe().await?;
            return Ok(None);
        }
        let tenure = Arc::new(Tenure {
            store: self.store.clone(),
            key: self.key,
            generation,
            token: claim.token,
            interval: ttl / BEATS,
            lost: AtomicBool::new(false),
        });
        let heart = tokio::spawn(Arc::clone(&tenure).live());
        Ok(Some(Lease { tenure, heart }))
    }

    /// Looks whether the key can be had, without trying to. The caller must hold the lock in the folder
    /// that [`Holder::work`] names.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn observe(&mut self) -> Result<Standing, StoreError> {
        let (claims, beats) = self.store.claims(&self.key).await?;
        let Some(generation) = claims.last().copied() else {
            self.seen = None;
            return Ok(Standing::Free);
        };
        let Some(claim) = self.store.read_claim(&claim_path(&self.key, generation)).await? else {
            // Released since it was listed.
            self.seen = None;
            return Ok(Standing::Held);
        };
        let beats = beats.contains(&(generation, claim.token.clone()));
        let path = beat_path(&self.key, generation, &claim.token);
        let beat = if beats { self.store.fetch(&path).await? } else { None };
        let own = &self.holder;
        let dead = !own.work.is_empty() && (&claim.holder.work, &claim.holder.host) == (&own.work, &own.host);
        let unchanged = self.seen.as_ref().filter(|seen| {
            (seen.generation, &seen.claim.token, &seen.beat) == (generation, &claim.token, &beat)
        });
        let since = unchanged.map_or_else(Instant::now, |seen| seen.since);
        // A holder may promise to come back later than this process would; one that cannot be
        // understood promises nothing.
        let ttl = if claim.ttl_ms == 0 { self.options.ttl } else { claim.ttl() };
        self.seen = Some(Seen { generation, claim, beat, since });
        Ok(if dead || since.elapsed() >= ttl { Standing::Expired } else { Standing::Held })
    }

    /// Who held the key when it was last looked at.
    #[must_use]
    pub fn held_by(&self) -> Option<&Holder> {
        self.seen.as_ref().map(|seen| &seen.claim.holder)
    }

    /// Whether a claim just created is still based on what was seen before.
    async fn confirmed(
        &self,
        generation: u64,
        predecessor: Option<&(u64, String)>,
    ) -> Result<bool, StoreError> {
        let (claims, _) = self.store.claims(&self.key).await?;
        if claims.last() != Some(&generation) {
            return Ok(false);
        }
        let Some((generation, token)) = predecessor else { return Ok(true) };
        let stored = self.store.read_claim(&claim_path(&self.key, *generation)).await?;
        Ok(stored.is_some_and(|claim| claim.token == *token))
    }
}

impl Lease {
    /// Whether another process has taken over because this one seemed dead. It may go on: the
    /// first to publish wins, and the other adopts.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.tenure.lost.load(Ordering::Relaxed)
    }

    /// Gives the key back.
    ///
    /// # Errors
    /// When the store cannot be used: then the lease expires.
    pub async fn release(mut self) -> Result<(), StoreError> {
        self.heart.abort();
        // It must not write anything after this.
        drop((&mut self.heart).await);
        self.tenure.end().await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

impl Tenure {
    /// Gives signs of life until the lease is lost.
    async fn live(self: Arc<Self>) {
        let mut beat: u64 = 0;
        loop {
            tokio::time::sleep(self.interval).await;
            beat += 1;
            match self.beat(beat).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::debug!(key = %self.key, "lost a lease: this process was silent for too long");
                    self.lost.store(true, Ordering::Relaxed);
                    return;
                }
                Err(error) => tracing::debug!(key = %self.key, %error, "cannot renew a lease"),
            }
        }
    }

    /// One sign of life; false when the lease is lost.
    async fn beat(&self, beat: u64) -> Result<bool, StoreError> {
        let path = beat_path(&self.key, self.generation, &self.token);
        let (claims, _) = self.store.claims(&self.key).await?;
        if claims.last() != Some(&self.generation) {
            self.store.remove(&path).await?;
            return Ok(false);
        }
        let attempt = || format!("write {path}");
        let text = beat.to_string().into_bytes();
        self.store.objects().put(&path, text.into()).await.map_err(StoreError::objects(attempt))?;
        Ok(true)
    }

    /// Deletes this claim and those before it, the highest last: while it is there, nobody can begin
    /// with the first generation.
    async fn end(&self) -> Result<(), StoreError> {
        let (claims, beats) = self.store.claims(&self.key).await?;
        let path = claim_path(&self.key, self.generation);
        // Another process may have taken over, released, and left the name to a third.
        let stored = self.store.read_claim(&path).await?;
        if stored.is_some_and(|claim| claim.token == self.token) {
            for earlier in claims.iter().filter(|generation| **generation < self.generation) {
                self.store.remove(&claim_path(&self.key, *earlier)).await?;
            }
            self.store.remove(&path).await?;
        }
        for (generation, token) in beats {
            if generation < self.generation || token == self.token {
                self.store.remove(&beat_path(&self.key, generation, &token)).await?;
            }
        }
        Ok(())
    }
}

fn claim_path(key: &ActionKey, generation: u64) -> ObjectPath {
    ObjectPath::from(format!("{}/{generation:010}", layout::leases(key)))
}

fn beat_path(key: &ActionKey, generation: u64, token: &str) -> ObjectPath {
    ObjectPath::from(format!("{}/{generation:010}.{token}", layout::leases(key)))
}

/// A text that nobody else makes.
pub(super) fn token() -> String {
    // Seeded by the operating system, and different each time.
    let random = [(); 2].map(|()| RandomState::new().hash_one(std::process::id()));
    format!("{:016x}{:016x}", random[0], random[1])
}

#[cfg(test)]
mod tests;
