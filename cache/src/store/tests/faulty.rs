//! A store in memory that fails as told.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::Instant;

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// 503, and nothing was done.
    Busy,
    /// All was done, and the connection broke before the answer.
    Lost,
    /// A write stores the first half, and fails; other calls as [`Fault::Busy`].
    Torn,
    /// No answer, ever.
    Hang,
    /// A body ends in the middle; other calls as [`Fault::Busy`].
    Cut,
    /// A body has a wrong bit; other calls succeed.
    Flip,
}

/// Decides what goes wrong, by the number of the call.
type Decide = Box<dyn Fn(usize) -> Option<Fault> + Send + Sync>;

pub(super) struct Faulty {
    pub(super) inner: Arc<InMemory>,
    decide: Mutex<Arc<Decide>>,
    calls: AtomicUsize,
    /// Objects that are read were written so much earlier.
    age: Mutex<Duration>,
    /// New objects are visible so much later.
    delay: Duration,
    visible: Mutex<HashMap<Path, Instant>>,
}

impl Faulty {
    pub(super) fn new(decide: impl Fn(usize) -> Option<Fault> + Send + Sync + 'static) -> Arc<Self> {
        Self::delayed(Duration::ZERO, decide)
    }

    pub(super) fn delayed(
        delay: Duration,
        decide: impl Fn(usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let decide: Decide = Box::new(decide);
        Arc::new(Self {
            inner: Arc::new(InMemory::new()),
            decide: Mutex::new(Arc::new(decide)),
            calls: AtomicUsize::new(0),
            age: Mutex::default(),
            delay,
            visible: Mutex::default(),
        })
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Changes what goes wrong from now on.
    pub(super) fn now(&self, decide: impl Fn(usize) -> Option<Fault> + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Arc::new(Box::new(decide));
    }

    /// All objects are so old.
    pub(super) fn age(&self, age: Duration) {
        *self.age.lock().unwrap() = age;
    }

    /// Nobody sees the object before the time has passed.
    pub(super) fn hide(&self, path: &Path, time: Duration) {
        self.visible.lock().unwrap().insert(path.clone(), Instant::now() + time);
    }

    /// Counts a call; hangs and fails without effect where that is its fate.
    async fn begin(&self) -> Result<Option<Fault>> {
        let decide = Arc::clone(&self.decide.lock().unwrap());
        let fault = decide(self.calls.fetch_add(1, Ordering::SeqCst));
        match fault {
            Some(Fault::Busy) => Err(busy()),
            Some(Fault::Hang) => std::future::pending().await,
            fault => Ok(fault),
        }
    }

    fn end<T>(fault: Option<Fault>, value: T) -> Result<T> {
        match fault {
            None | Some(Fault::Flip) => Ok(value),
            Some(_) => Err(broken()),
        }
    }

    fn made(&self, path: &Path, existed: bool) {
        if !existed && !self.delay.is_zero() {
            self.hide(path, self.delay);
        }
    }

    fn hidden(&self, path: &Path) -> bool {
        self.visible.lock().unwrap().get(path).is_some_and(|when| *when > Instant::now())
    }
}

fn busy() -> Error {
    let text =
        "Server returned non-2xx status code: 503 Service Unavailable: <Error><Code>SlowDown</Code></Error>";
    Error::Generic { store: "faulty", source: text.into() }
}

fn broken() -> Error {
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    Error::Generic { store: "faulty", source: Box::new(broken) }
}

impl fmt::Display for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("faulty")
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.begin().await?;
        let existed = self.inner.head(path).await.is_ok();
        if fault == Some(Fault::Torn) {
            let bytes = Bytes::from(payload);
            self.inner.put_opts(path, bytes.slice(..bytes.len() / 2).into(), options).await?;
            return Err(broken());
        }
        let put = self.inner.put_opts(path, payload, options).await?;
        self.made(path, existed);
        Self::end(fault, put)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented {
            operation: "put_multipart_opts".to_owned(),
            implementer: "Faulty".to_owned(),
        })
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.begin().await?;
        let head = options.head;
        let mut got = self.inner.get_opts(path, options).await?;
        got.meta.last_modified -= *self.age.lock().unwrap();
        if self.hidden(path) {
            return Err(Error::NotFound { path: path.to_string(), source: "not yet".into() });
        }
        if matches!(fault, Some(Fault::Lost | Fault::Torn)) || (head && fault == Some(Fault::Cut)) {
            return Err(broken());
        }
        if head || !matches!(fault, Some(Fault::Cut | Fault::Flip)) {
            return Ok(got);
        }
        let (meta, range, attributes, extensions) =
            (got.meta.clone(), got.range.clone(), got.attributes.clone(), got.extensions.clone());
        let mut bytes = got.bytes().await?.to_vec();
        let middle = bytes.len() / 2;
        // Networks do not change the same bit each time.
        let other = self.calls() % bytes.len().max(1);
        match (fault, bytes.get_mut(other)) {
            (Some(Fault::Cut), _) => bytes.truncate(middle),
            (_, Some(byte)) => *byte ^= 1,
            (_, None) => {}
        }
        let body = stream::once(async move { Ok(Bytes::from(bytes)) }).boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Stands for one call however it is polled: the fault strikes before anything is deleted.
        let decide = Arc::clone(&self.decide.lock().unwrap());
        match decide(self.calls.fetch_add(1, Ordering::SeqCst)) {
            None | Some(Fault::Flip) => self.inner.delete_stream(paths),
            Some(Fault::Hang) => stream::pending().boxed(),
            Some(_) => stream::once(async { Err(busy()) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let decide = Arc::clone(&self.decide.lock().unwrap());
        let now = Instant::now();
        let hidden: Vec<Path> = {
            let visible = self.visible.lock().unwrap();
            visible.iter().filter(|(_, when)| **when > now).map(|(path, _)| path.clone()).collect()
        };
        let objects = self
            .inner
            .list(prefix)
            .try_filter(move |meta| std::future::ready(!hidden.contains(&meta.location)));
        match decide(self.calls.fetch_add(1, Ordering::SeqCst)) {
            None | Some(Fault::Flip) => objects.boxed(),
            Some(Fault::Hang) => objects.take(1).chain(stream::pending()).boxed(),
            Some(_) => objects.take(1).chain(stream::once(async { Err(broken()) })).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.begin().await?;
        Self::end(fault, self.inner.list_with_delimiter(prefix).await?)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.begin().await?;
        self.inner.copy_opts(from, to, options).await?;
        Self::end(fault, ())
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let fault = self.begin().await?;
        Self::end(fault, self.inner.create_multipart(path).await?)
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        index: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let fault = self.begin().await?;
        if fault == Some(Fault::Torn) {
            let bytes = Bytes::from(data);
            self.inner.put_part(path, id, index, bytes.slice(..bytes.len() / 2).into()).await?;
            return Err(broken());
        }
        Self::end(fault, self.inner.put_part(path, id, index, data).await?)
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let fault = self.begin().await?;
        let existed = self.inner.head(path).await.is_ok();
        let put = self.inner.complete_multipart(path, id, parts).await?;
        self.made(path, existed);
        Self::end(fault, put)
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let fault = self.begin().await?;
        self.inner.abort_multipart(path, id).await?;
        Self::end(fault, ())
    }
}
