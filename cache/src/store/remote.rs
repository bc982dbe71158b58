//! A store on a server: buckets, and what stands between them and the steps of a run.
//!
//! - [`s3`]: what a location and the environment say about a bucket.
//! - [`retry`]: failing operations are tried again; [`failure`]: what is said when that did not help.
//! - [`transfer`]: blobs to and from the server, in parts, verified.
//! - [`tier`]: the folder in front, which is read first and holds what is not on the server yet.

pub(crate) mod failure;
pub(crate) mod retry;
pub(crate) mod s3;
pub(crate) mod tier;
pub(crate) mod transfer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStoreExt, PutMode};
use tokio::sync::Semaphore;

use super::{FORMAT, Marker, StoreError, check_marker, layout};
use crate::digest::Digest;
use retry::Patient;
use tier::Tier;
use transfer::ROOM;

/// A blob that was seen on the server is not asked for again before it is published, for so long.
const REMEMBERED: Duration = Duration::from_secs(600);

/// When a store is opened, people wait for it.
const OPENING: Duration = Duration::from_secs(30);

/// A store on a server.
pub(crate) struct Remote {
    pub(crate) objects: Patient,
    pub(crate) tier: Option<Tier>,
    /// MiB of parts that may be in memory.
    room: Arc<Semaphore>,
    /// Blobs that this process has seen on the server, and when.
    seen: Mutex<HashMap<Digest, Instant>>,
}

impl Remote {
    pub(crate) fn new(objects: Patient, tier: Option<Tier>) -> Self {
        Self { objects, tier, room: Arc::new(Semaphore::new(ROOM)), seen: Mutex::default() }
    }

    fn saw(&self, digest: &Digest) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, Instant::now());
    }

    /// A blob was deleted.
    pub(crate) fn forget(&self, digest: &Digest) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    fn has_seen(&self, digest: &Digest) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(digest).is_some_and(|when| when.elapsed() < REMEMBERED)
    }
}

/// Reads the marker of the store in a bucket, or makes it, and makes sure that the server tells the
/// second writer of an object that it is not the first: everything rests on that.
pub(super) async fn probe(location: &str, objects: &Patient) -> Result<(), StoreError> {
    let objects = objects.for_at_most(OPENING);
    let path = ObjectPath::from(layout::MARKER);
    let attempt = || format!("open the store `{location}`");
    let read = async || {
        let stored = transfer::fetch(&objects, &path).await.map_err(StoreError::objects(attempt))?;
        match &stored {
            // It may have been changed on the way.
            Some(read) if check_marker(location, read).is_err() => {
                transfer::fetch(&objects, &path).await.map_err(StoreError::objects(attempt))
            }
            _ => Ok(stored),
        }
    };
    let mut stored = read().await?;
    if stored.as_ref().is_some_and(|stored| is_cut_off(stored)) {
        let whole = Marker::text(FORMAT);
        objects.put(&path, whole.clone().into()).await.map_err(StoreError::objects(attempt))?;
        stored = Some(whole);
    }
    if let Some(stored) = &stored {
        check_marker(location, stored)?;
    }
    let marker = stored.clone().unwrap_or_else(|| Marker::text(FORMAT));
    for _ in 0..2 {
        match objects.put_once(&path, &marker.clone().into(), PutMode::Create).await {
            Err(ObjectError::AlreadyExists { .. }) if stored.is_some() => return Ok(()),
            Err(ObjectError::AlreadyExists { .. }) => {
                let made = read().await?;
                return check_marker(location, &made.filter(|made| !is_cut_off(made)).unwrap_or(marker));
            }
            // These credentials may read, which is enough for some.
            Err(ObjectError::PermissionDenied { .. }) if stored.is_some() => return Ok(()),
            Err(error) => {
                let error = StoreError::objects(attempt)(error);
                let refused = |failure: &failure::RemoteFailure| failure.said.contains("NotImplemented");
                let unconditional = matches!(&error, StoreError::Remote { source, .. } if refused(source));
                return Err(if unconditional { no_conditions(location, &objects) } else { error });
            }
            // The first time, this may have made the marker; twice cannot be.
            Ok(_) => {}
        }
    }
    Err(no_conditions(location, &objects))
}

/// Whether a marker is the beginning of one: a server that stores half of it may be one that is stopped at the
/// wrong time. The next who opens the store completes it.
fn is_cut_off(stored: &[u8]) -> bool {
    let whole = Marker::text(FORMAT);
    stored.len() < whole.len() && whole.starts_with(stored)
}

fn no_conditions(location: &str, objects: &Patient) -> StoreError {
    StoreError::NoConditionalPut {
        location: location.to_owned(),
        endpoint: objects.endpoint().address.clone(),
    }
}
