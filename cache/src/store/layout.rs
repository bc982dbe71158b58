//! The names of objects in the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use object_store::path::Path;

use super::StoreError;
use crate::action::ActionKey;
use crate::digest::Digest;

/// States the format of the store.
pub(crate) const MARKER: &str = "bstar-store.json";
/// Content, by digest.
pub(crate) const BLOBS: &str = "blobs";
/// Manifests, by action key.
pub(crate) const MANIFESTS: &str = "manifests";
/// Records of runs.
pub(crate) const RUNS: &str = "runs";
/// Damaged objects.
pub(crate) const QUARANTINE: &str = "quarantine";
/// Blobs that are being written, on local stores.
pub(crate) const TEMPORARY: &str = "tmp";
/// Who executes which key.
pub(crate) const LEASES: &str = "leases";
/// Outputs that were deleted on purpose, by the key of their result.
pub(crate) const RETIRED: &str = "retired";
/// Manifests that are on their way to a bucket, in the folder in front of it.
pub(crate) const PENDING: &str = "pending";

/// `blobs/ab/cdef…`
pub(crate) fn blob(digest: &Digest) -> String {
    let hex = digest.to_string();
    format!("{BLOBS}/{}/{}", &hex[..2], &hex[2..])
}

/// `manifests/ab/cdef….json`
pub(crate) fn manifest(key: &ActionKey) -> String {
    let hex = key.to_string();
    format!("{MANIFESTS}/{}/{}.json", &hex[..2], &hex[2..])
}

/// `leases/KEY`
pub(crate) fn leases(key: &ActionKey) -> String {
    format!("{LEASES}/{key}")
}

/// `retired/KEY.json`
pub(crate) fn retired(key: &ActionKey) -> String {
    format!("{RETIRED}/{key}.json")
}

/// The key of the note stored under `object`, if that is the name of one.
pub(crate) fn parse_retired(object: &str) -> Option<ActionKey> {
    object.strip_prefix(RETIRED)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()
}

/// `pending/abcdef….json`
pub(crate) fn pending(key: &ActionKey) -> String {
    format!("{PENDING}/{key}.json")
}

/// The digest of the blob stored under `object`, if that is a blob's name.
pub(crate) fn parse_blob(object: &str) -> Option<Digest> {
    let digest: Digest = joined(object.strip_prefix(BLOBS)?)?.parse().ok()?;
    (blob(&digest) == object).then_some(digest)
}

/// The key of the manifest stored under `object`, if that is a manifest's name.
pub(crate) fn parse_manifest(object: &str) -> Option<ActionKey> {
    let key: ActionKey = joined(object.strip_prefix(MANIFESTS)?.strip_suffix(".json")?)?.parse().ok()?;
    (manifest(&key) == object).then_some(key)
}

/// `/ab/cdef` → `abcdef`
fn joined(name: &str) -> Option<String> {
    let (head, tail) = name.strip_prefix('/')?.split_once('/')?;
    Some(format!("{head}{tail}"))
}

/// A new name for a damaged object.
pub(crate) fn quarantined(object: &str) -> String {
    format!("{QUARANTINE}/{}", unique(object))
}

/// A new name for a manifest that another takes the place of.
pub(crate) fn superseded(object: &str) -> String {
    format!("{QUARANTINE}/superseded/{}", unique(object))
}

/// The name of an object, made different from all names before.
fn unique(object: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{object}.{now}-{}-{number}", std::process::id())
}

/// The path of an object that the caller names; not one of the store's own.
pub(crate) fn named(name: &str) -> Result<Path, StoreError> {
    let invalid = || StoreError::InvalidName { name: name.to_owned() };
    let path = Path::parse(name).map_err(|_| invalid())?;
    let first = name.split('/').next().unwrap_or_default();
    let own = [MARKER, BLOBS, MANIFESTS, QUARANTINE, TEMPORARY, LEASES, RETIRED, PENDING];
    if first.is_empty() || own.contains(&first) || path.as_ref() != name { Err(invalid()) } else { Ok(path) }
}
