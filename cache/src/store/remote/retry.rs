//! Patience with a remote store: what fails for the moment is tried again, and nothing waits for ever.
//!
//! All operations of a remote store go through [`Patient`], so callers see only errors that stayed. The
//! client below it does not try anything again by itself: two layers would multiply.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as ObjectError, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartId, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::{Instant, timeout};

use super::failure::{CutOff, Endpoint, Nature, Stalled, generic, is_conflict, nature, told};

/// How long failing operations on a remote store are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// From the last progress to giving up; there are at least two attempts.
    pub total: Duration,
    /// An attempt without progress for so long has failed.
    pub stall: Duration,
    /// The pause after the first failure; it doubles up to fifty times its length.
    pub pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(150),
            stall: Duration::from_secs(30),
            pause: Duration::from_millis(200),
        }
    }
}

impl Retries {
    /// The default, given up after `BSTAR_RETRY_SECONDS` where that is set.
    pub(crate) fn of_environment() -> Self {
        let default = Self::default();
        let seconds = std::env::var("BSTAR_RETRY_SECONDS").ok().and_then(|text| text.parse().ok());
        let Some(seconds) = seconds.filter(|seconds| (0.0..1e6).contains(seconds)) else { return default };
        let total = Duration::from_secs_f64(seconds);
        let stall = default.stall.min(total.max(Duration::from_secs(1)));
        Self { total, stall, ..default }
    }
}

/// The slowest upload that is waited for, in bytes a second: an upload shows its progress only in the end.
const SLOWEST: u64 = 64 << 10;
/// How often an error of unknown kind is met before it is believed.
const DOUBTS: u32 = 3;
/// Deletions at a time.
const DELETIONS: usize = 16;

/// What a store must be able to do to hold results.
pub(crate) trait Objects: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Objects for T {}

/// A store whose operations are tried again when they fail for the moment. Clones share it.
#[derive(Clone)]
pub(crate) struct Patient {
    inner: Arc<dyn Objects>,
    retries: Retries,
    endpoint: Arc<Endpoint>,
}

/// One operation's failures so far.
struct Failures {
    since: Instant,
    tries: u32,
    pause: Duration,
}

impl Patient {
    pub(crate) fn new(inner: Arc<dyn Objects>, retries: Retries, endpoint: Endpoint) -> Self {
        Self { inner, retries, endpoint: Arc::new(endpoint) }
    }

    /// The same store, given up after `total`.
    pub(crate) fn for_at_most(&self, total: Duration) -> Self {
        let total = self.retries.total.min(total);
        let retries = Retries { total, stall: self.retries.stall.min(total / 3), ..self.retries };
        Self { retries, ..self.clone() }
    }

    pub(crate) fn retries(&self) -> Retries {
        self.retries
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn failures(&self) -> Failures {
        Failures { since: Instant::now(), tries: 0, pause: self.retries.pause }
    }

    /// Waits before the next attempt, or gives up.
    async fn after(&self, error: ObjectError, failures: &mut Failures) -> Result<()> {
        failures.tries += 1;
        let waited = failures.since.elapsed();
        let hopeless = match nature(&error) {
            Nature::Permanent => true,
            Nature::Unknown => failures.tries >= DOUBTS,
            Nature::Transient => false,
        };
        // A large part may take longer than that: it too gets a second attempt.
        let late = failures.tries > 1 && waited + failures.pause > self.retries.total;
        if hopeless || late {
            return Err(told(error, &self.endpoint, failures.tries, waited));
        }
        if failures.tries == 5 {
            let error = told(error, &self.endpoint, failures.tries, waited).to_string();
            tracing::warn!("still trying: {error}");
        } else {
            tracing::debug!(%error, tries = failures.tries, "trying again");
        }
        tokio::time::sleep(jittered(failures.pause)).await;
        failures.pause = (failures.pause * 2).min(self.retries.pause * 50);
        Ok(())
    }

    /// Carries out an operation until it succeeds or has failed for good. The operation is told whether
    /// an attempt before this one may have had an effect.
    pub(crate) async fn persist<T, F: Future<Output = Result<T>> + Send>(
        &self,
        limit: Duration,
        operation: impl Fn(bool) -> F + Send,
    ) -> Result<T> {
        let mut failures = self.failures();
        loop {
            let error = match timeout(limit, operation(failures.tries > 0)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => generic(Stalled(limit)),
            };
            self.after(error, &mut failures).await?;
        }
    }

    /// How long sending so many bytes may take.
    fn limit(&self, bytes: usize) -> Duration {
        self.retries.stall + Duration::from_secs(bytes as u64 / SLOWEST)
    }

    /// The result of a write whose answer was lost: the object is there, with exactly this content.
    async fn ours(&self, location: &Path, payload: &PutPayload) -> Result<Option<PutResult>> {
        let found = self.inner.get(location).await?;
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        if found.meta.size != payload.content_length() as u64 {
            return Ok(None);
        }
        let found = found.bytes().await?;
        let mut rest = &found[..];
        let same = payload.iter().all(|block| match rest.strip_prefix(&block[..]) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        });
        Ok((same && rest.is_empty()).then(|| PutResult { e_tag, version, extensions: Default::default() }))
    }

    /// One attempt at writing under a condition, without a second look at who was first.
    pub(crate) async fn put_once(
        &self,
        location: &Path,
        payload: &PutPayload,
        mode: PutMode,
    ) -> Result<PutResult> {
        self.persist(self.limit(payload.content_length()), |_| {
            self.inner.put_opts(location, payload.clone(), mode.clone().into())
        })
        .await
    }

    /// Whether there is an object of that size, for all that can be found out soon.
    pub(crate) async fn holds(&self, location: &Path, size: u64) -> bool {
        let found = self.for_at_most(self.retries.stall).head(location).await;
        found.is_ok_and(|meta| meta.size == size)
    }

    /// A body that goes on where it was cut off.
    fn resuming(
        &self,
        location: Path,
        e_tag: Option<String>,
        range: Range<u64>,
        body: BoxStream<'static, Result<Bytes>>,
    ) -> BoxStream<'static, Result<Bytes>> {
        let body = Body {
            store: self.clone(),
            location,
            e_tag,
            next: range.start,
            end: range.end,
            rest: Some(body),
            failures: self.failures(),
        };
        stream::try_unfold(body, |mut body| async move { Ok(body.block().await?.map(|block| (block, body))) })
            .boxed()
    }

    /// A listing that goes on after the last object it gave.
    fn listing(&self, prefix: Option<Path>, after: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing =
            Listing { store: self.clone(), objects: None, prefix, after, failures: self.failures() };
        stream::try_unfold(listing, |mut listing| async move {
            Ok(listing.object().await?.map(|object| (object, listing)))
        })
        .boxed()
    }
}

struct Body {
    store: Patient,
    location: Path,
    e_tag: Option<String>,
    next: u64,
    end: u64,
    /// None after it broke off.
    rest: Option<BoxStream<'static, Result<Bytes>>>,
    failures: Failures,
}

impl Body {
    async fn block(&mut self) -> Result<Option<Bytes>> {
        let stall = self.store.retries.stall;
        loop {
            let more = async {
                let mut rest = match self.rest.take() {
                    Some(rest) => rest,
                    None => self.reopened().await?,
                };
                let block = rest.try_next().await?;
                self.rest = Some(rest);
                Ok(block)
            };
            let error = match timeout(stall, more).await {
                Ok(Ok(Some(block))) if self.next + block.len() as u64 <= self.end => {
                    self.next += block.len() as u64;
                    self.failures = self.store.failures();
                    return Ok(Some(block));
                }
                Ok(Ok(None)) if self.next == self.end => return Ok(None),
                Ok(Ok(_)) => generic(CutOff),
                Ok(Err(error)) => error,
                Err(_) => generic(Stalled(stall)),
            };
            self.rest = None;
            self.store.after(error, &mut self.failures).await?;
        }
    }

    async fn reopened(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let range = Some(GetRange::Bounded(self.next..self.end));
        let options = GetOptions { range, if_match: self.e_tag.clone(), ..GetOptions::default() };
        Ok(self.store.inner.get_opts(&self.location, options).await?.into_stream())
    }
}

struct Listing {
    store: Patient,
    objects: Option<BoxStream<'static, Result<ObjectMeta>>>,
    prefix: Option<Path>,
    after: Option<Path>,
    failures: Failures,
}

impl Listing {
    async fn object(&mut self) -> Result<Option<ObjectMeta>> {
        loop {
            let inner = &self.store.inner;
            let objects = self.objects.get_or_insert_with(|| match &self.after {
                Some(after) => inner.list_with_offset(self.prefix.as_ref(), after),
                None => inner.list(self.prefix.as_ref()),
            });
            let error = match timeout(self.store.retries.stall, objects.next()).await {
                Ok(Some(Ok(object))) => {
                    self.after = Some(object.location.clone());
                    self.failures = self.store.failures();
                    return Ok(Some(object));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => error,
                Err(_) => generic(Stalled(self.store.retries.stall)),
            };
            self.objects = None;
            self.store.after(error, &mut self.failures).await?;
        }
    }
}

/// Half to all of a pause, so that those who failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1024;
    pause.mul_f64(0.5 + chance as f64 / 2048.0)
}

impl fmt::Display for Patient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.endpoint.address)
    }
}

impl fmt::Debug for Patient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Patient").field(&self.endpoint.address).finish()
    }
}

#[async_trait]
impl ObjectStore for Patient {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let limit = self.limit(payload.content_length());
        let (payload, options) = (&payload, &options);
        let refused = self
            .persist(limit, |again| async move {
                match self.inner.put_opts(location, payload.clone(), options.clone()).await {
                    // An earlier attempt may have succeeded, and only its answer was lost.
                    Err(error @ (ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }))
                        if again && !is_conflict(&error) =>
                    {
                        Ok(Err(error))
                    }
                    result => result.map(Ok),
                }
            })
            .await?;
        match refused {
            Ok(put) => Ok(put),
            Err(error) => self.persist(limit, |_| self.ours(location, payload)).await?.ok_or(error),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let stall = self.retries.stall;
        let got = self.persist(stall, |_| self.inner.get_opts(location, options.clone())).await?;
        if options.head {
            return Ok(got);
        }
        let (e_tag, range) = (got.meta.e_tag.clone(), got.range.clone());
        let (meta, attributes, extensions) =
            (got.meta.clone(), got.attributes.clone(), got.extensions.clone());
        let body = self.resuming(location.clone(), e_tag, range.clone(), got.into_stream());
        Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    store.persist(store.retries.stall, |_| store.inner.delete(&location)).await?;
                    Ok(location)
                }
            })
            .buffered(DELETIONS)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.persist(self.retries.stall * 4, |_| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        // The server copies up to 5 GB before it answers.
        self.persist(self.retries.stall * 4, |_| self.inner.copy_opts(from, to, options.clone())).await
    }
}

#[async_trait]
impl MultipartStore for Patient {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.persist(self.retries.stall, |_| self.inner.create_multipart(path)).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        index: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let data = &data;
        self.persist(self.limit(data.content_length()), |_| {
            self.inner.put_part(path, id, index, data.clone())
        })
        .await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let parts = &parts;
        self.persist(self.retries.stall * 4, |_| self.inner.complete_multipart(path, id, parts.clone())).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.persist(self.retries.stall, |_| self.inner.abort_multipart(path, id)).await
    }
}
