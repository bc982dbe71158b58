//! Small named objects on any store, and blobs that go to and come from a server.

use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStoreExt};

use super::local::{hash, make_read_only};
use super::remote::{Remote, transfer};
use super::{Place, Store, StoreError, blocking, layout};
use crate::digest::Digest;
use crate::manifest::Artifact;

impl Store {
    /// Stores a small object under a name of the caller's choice, for example `runs/NAME/run.json`.
    /// An object of that name is replaced as a whole.
    ///
    /// # Errors
    /// When the name is not a relative path with plain segments, when it belongs to the store, or when
    /// writing fails.
    pub async fn put_object(&self, path: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let name = layout::named(path)?;
        self.objects()
            .put(&name, bytes.into())
            .await
            .map_err(StoreError::objects(|| format!("write {path}")))?;
        Ok(())
    }

    /// The object of that name, if there is one.
    ///
    /// # Errors
    /// When the name cannot be one of [`Store::put_object`], or when reading fails.
    pub async fn get_object(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.fetch(&layout::named(path)?).await
    }

    /// The names of all objects below the folder `prefix`, sorted.
    ///
    /// # Errors
    /// When the name cannot be one of [`Store::put_object`], or when reading fails.
    pub async fn list_objects(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.list(layout::named(prefix.trim_end_matches('/'))?.as_ref()).await?;
        Ok(listed.into_iter().map(|(name, _)| name).collect())
    }

    /// Names and sizes of the objects below a folder, sorted by name.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let prefix = ObjectPath::from(folder);
        let listed = self.objects().list(Some(&prefix));
        let mut listed: Vec<_> = listed
            .map_ok(|meta| (meta.location.as_ref().to_owned(), meta.size))
            .try_collect()
            .await
            .map_err(StoreError::objects(|| format!("list {folder}")))?;
        listed.sort_unstable();
        Ok(listed)
    }

    pub(super) async fn fetch(&self, path: &ObjectPath) -> Result<Option<Vec<u8>>, StoreError> {
        transfer::fetch(self.objects(), path).await.map_err(StoreError::objects(|| format!("read {path}")))
    }

    /// Deletes an object, if it is there.
    pub(super) async fn remove(&self, path: &ObjectPath) -> Result<(), StoreError> {
        if let (Some(digest), Place::There(remote)) = (layout::parse_blob(path.as_ref()), &self.inner.place) {
            remote.forget(&digest);
        }
        match self.objects().delete(path).await {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::objects(|| format!("delete {path}"))(error)),
        }
    }
}

impl Remote {
    /// [`Store::put_bytes`].
    pub(super) async fn store_bytes(&self, bytes: Vec<u8>) -> Result<Artifact, StoreError> {
        if let Some(tier) = &self.tier {
            let local = Arc::clone(tier.local());
            return blocking(move || local.put_bytes(&bytes)).await;
        }
        let artifact = Artifact { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        if self.has(&artifact).await? { Ok(artifact) } else { self.upload_bytes(bytes).await }
    }

    /// [`Store::put_file`], or [`Store::adopt_file`].
    pub(super) async fn store_file(&self, source: &Path, adopt: bool) -> Result<Artifact, StoreError> {
        let path = source.to_owned();
        if let Some(tier) = &self.tier {
            let local = Arc::clone(tier.local());
            return blocking(move || if adopt { local.adopt_file(&path) } else { local.put_file(&path) })
                .await;
        }
        let artifact =
            blocking(move || hash(&path).map_err(StoreError::io(|| format!("read {}", path.display()))))
                .await?;
        if !self.has(&artifact).await? {
            self.upload_file(source, &artifact).await?;
        }
        Ok(artifact)
    }

    /// [`Store::read`].
    pub(super) async fn content(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let Some(tier) = &self.tier else { return self.read(digest).await };
        let (local, digest) = (Arc::clone(tier.local()), *digest);
        let read = move || local.read(&digest);
        match blocking(read.clone()).await {
            Err(error) if error.lost_blob().is_some() => {
                self.fetch_into(tier, &digest, None).await?;
                blocking(read).await
            }
            result => result,
        }
    }

    /// [`Store::materialise`].
    pub(super) async fn materialise(&self, artifact: &Artifact, target: &Path) -> Result<(), StoreError> {
        let (digest, target) = (artifact.digest, target.to_owned());
        let Some(tier) = &self.tier else {
            let folder = target.parent().unwrap_or(Path::new("."));
            let file = self.download(&digest, Some(artifact.size), folder).await?;
            let attempt = || format!("write blob {digest} to {}", target.display());
            return make_read_only(file.path())
                .and_then(|()| Ok(file.into_temp_path().persist(&target)?))
                .map_err(StoreError::io(attempt));
        };
        let local = Arc::clone(tier.local());
        let (kept, place) = (Arc::clone(&local), target.clone());
        match blocking(move || kept.materialise(&digest, &place)).await {
            Err(error) if error.lost_blob().is_some() => {
                self.fetch_into(tier, &digest, Some(artifact.size)).await?;
                blocking(move || local.write_out(&digest, &target)).await
            }
            result => result,
        }
    }
}
