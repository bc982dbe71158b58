//! What was read of small objects that rarely change: reading all of them again costs a list.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;

use super::{CONCURRENCY, Store, StoreError};

/// Objects of one kind, by name.
pub(super) struct Known<T>(Mutex<HashMap<String, (ObjectMeta, Arc<T>)>>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Known<T> {
    fn get(&self, listed: &ObjectMeta) -> Option<Arc<T>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Time and size alone do not tell an object from the one that replaced it in the same second.
        let (read, value) = known.get(listed.location.as_ref()).filter(|(read, _)| read.e_tag.is_some())?;
        (read == listed).then(|| Arc::clone(value))
    }

    /// Takes over what there is now; the rest is forgotten.
    fn set(&self, all: HashMap<String, (ObjectMeta, Arc<T>)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

impl Store {
    /// All objects below a folder, by name, that `read` makes something of; those that this process has read
    /// and that have not changed since are not read again.
    pub(super) async fn read_known<T: Send + Sync, F>(
        &self,
        folder: &str,
        known: &Known<T>,
        read: impl Fn(String) -> F + Sync,
    ) -> Result<Vec<(String, Arc<T>)>, StoreError>
    where
        F: Future<Output = Result<Option<T>, StoreError>> + Send,
    {
        let prefix = ObjectPath::from(folder);
        let listed = self.objects().list(Some(&prefix)).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(StoreError::objects(|| format!("list {folder}")))?;
        let read = &read;
        let all: Vec<(ObjectMeta, Option<Arc<T>>)> = stream::iter(listed)
            .map(|meta| async move {
                let value = match known.get(&meta) {
                    Some(value) => Some(value),
                    None => read(meta.location.as_ref().to_owned()).await?.map(Arc::new),
                };
                Ok::<_, StoreError>((meta, value))
            })
            .buffer_unordered(CONCURRENCY)
            .boxed()
            .try_collect()
            .await?;
        let all = all.into_iter().filter_map(|(meta, value)| Some((meta, value?)));
        let all: HashMap<_, _> =
            all.map(|(meta, value)| (meta.location.as_ref().to_owned(), (meta, value))).collect();
        let read = all.iter().map(|(name, (_, value))| (name.clone(), Arc::clone(value))).collect();
        known.set(all);
        Ok(read)
    }
}
