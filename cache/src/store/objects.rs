//! Blobs on any object store, and small named objects.

use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStoreExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::local::{hash, make_read_only};
use super::{Store, StoreError, blocking, layout};
use crate::digest::{BLOCK, Digest};
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
        let failed = || format!("read {path}");
        match self.objects().get(path).await {
            Ok(object) => Ok(Some(object.bytes().await.map_err(StoreError::objects(failed))?.into())),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError::objects(failed)(error)),
        }
    }

    pub(super) async fn has_object(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        match self.objects().head(&blob_path(&artifact.digest)).await {
            Ok(meta) => Ok(meta.size == artifact.size),
            Err(ObjectError::NotFound { .. }) => Ok(false),
            Err(error) => Err(StoreError::objects(|| format!("look for blob {}", artifact.digest))(error)),
        }
    }

    pub(super) async fn upload_bytes(&self, bytes: Vec<u8>) -> Result<Artifact, StoreError> {
        let artifact = Artifact { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        if !self.has_object(&artifact).await? {
            self.objects()
                .put(&blob_path(&artifact.digest), bytes.into())
                .await
                .map_err(StoreError::objects(|| format!("store blob {}", artifact.digest)))?;
        }
        Ok(artifact)
    }

    pub(super) async fn upload_file(&self, source: &Path) -> Result<Artifact, StoreError> {
        let path = source.to_owned();
        let artifact =
            blocking(move || hash(&path).map_err(StoreError::io(|| format!("read {}", path.display()))))
                .await?;
        if self.has_object(&artifact).await? {
            return Ok(artifact);
        }
        let mut writer = BufWriter::new(self.inner.objects.clone(), blob_path(&artifact.digest));
        let sent = send(source, &mut writer).await.and_then(|found| {
            let changed = || std::io::Error::other("the file changed while it was stored");
            if found == artifact.digest { Ok(()) } else { Err(changed()) }
        });
        let done = match sent {
            Ok(()) => writer.shutdown().await,
            Err(error) => {
                // Nothing is visible under the final name; a failed abort leaves only parts behind.
                let _parts = writer.abort().await;
                Err(error)
            }
        };
        let attempt = || format!("store {} as blob {}", source.display(), artifact.digest);
        done.map(|()| artifact).map_err(StoreError::io(attempt))
    }

    pub(super) async fn download_bytes(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let bytes = self.fetch(&blob_path(digest)).await?.ok_or(StoreError::Missing { digest: *digest })?;
        let found = Digest::of(&bytes);
        if found == *digest { Ok(bytes) } else { Err(self.corrupt_object(digest, found).await) }
    }

    /// Streams a blob to `write`, block by block; gives its size. The content is only known to be right
    /// when this has succeeded.
    pub(super) async fn download(
        &self,
        digest: &Digest,
        mut write: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<u64, StoreError> {
        let failed = || format!("read blob {digest}");
        let mut stream = match self.objects().get(&blob_path(digest)).await {
            Ok(object) => object.into_stream(),
            Err(ObjectError::NotFound { .. }) => return Err(StoreError::Missing { digest: *digest }),
            Err(error) => return Err(StoreError::objects(failed)(error)),
        };
        let mut hasher = blake3::Hasher::new();
        while let Some(block) = stream.next().await {
            let block = block.map_err(StoreError::objects(failed))?;
            hasher.update(&block);
            write(&block).map_err(StoreError::io(|| format!("write blob {digest}")))?;
        }
        let found = Digest::from_hasher(&hasher);
        if found == *digest { Ok(hasher.count()) } else { Err(self.corrupt_object(digest, found).await) }
    }

    pub(super) async fn download_file(&self, digest: &Digest, target: &Path) -> Result<(), StoreError> {
        let attempt = || format!("write blob {digest} to {}", target.display());
        let folder = target.parent().unwrap_or(Path::new("."));
        let mut file = std::fs::create_dir_all(folder)
            .and_then(|()| tempfile::Builder::new().prefix(".bstar-").suffix(".tmp").tempfile_in(folder))
            .map_err(StoreError::io(attempt))?;
        self.download(digest, |block| std::io::Write::write_all(&mut file, block)).await?;
        make_read_only(file.path())
            .and_then(|()| Ok(file.into_temp_path().persist(target)?))
            .map_err(StoreError::io(attempt))
    }

    /// Moves an object to where it is never looked for. Failing to do so is only reported: the caller
    /// is already on its way to report the damage.
    pub(super) async fn quarantine(&self, object: &str) {
        let aside = layout::quarantined(object);
        match self.objects().rename(&ObjectPath::from(object), &ObjectPath::from(aside.as_str())).await {
            Ok(()) => tracing::warn!(object, aside, "moved a damaged object aside"),
            Err(ObjectError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(object, %error, "cannot move a damaged object aside"),
        }
    }

    async fn corrupt_object(&self, digest: &Digest, found: Digest) -> StoreError {
        self.quarantine(&layout::blob(digest)).await;
        StoreError::Corrupt { digest: *digest, found }
    }
}

fn blob_path(digest: &Digest) -> ObjectPath {
    ObjectPath::from(layout::blob(digest))
}

/// Sends a file; gives the digest of what was sent.
async fn send(source: &Path, writer: &mut BufWriter) -> std::io::Result<Digest> {
    let mut file = tokio::fs::File::open(source).await?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block).await? {
            0 => return Ok(Digest::from_hasher(&hasher)),
            read => {
                hasher.update(&block[..read]);
                writer.write_all(&block[..read]).await?;
            }
        }
    }
}
