//! What can go wrong with the store, and what helps.

use std::error::Error;
use std::io;

use super::remote::failure::RemoteFailure;
use crate::digest::Digest;
use crate::manifest::Unusable;

/// A failed operation on the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The location names something that is not a folder.
    #[error("cannot open the store `{location}`: it is not a folder")]
    NotAFolder {
        /// As given.
        location: String,
    },
    /// The location cannot be understood.
    #[error("cannot open the store `{location}`: it is not a path, a `file://` or an `s3://` address")]
    InvalidLocation {
        /// As given.
        location: String,
    },
    /// A kind of storage that this version does not speak to.
    #[error("cannot open the store `{location}`: `{scheme}://` is not supported")]
    Unsupported {
        /// As given.
        location: String,
        /// The part before `://`.
        scheme: String,
    },
    /// The environment does not say who asks.
    #[error("cannot open the store `{location}`: {missing}")]
    NoCredentials {
        /// As given.
        location: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The server lets a second writer replace an object even where it is told not to.
    #[error("cannot open the store `{location}`: {endpoint} ignores or refuses conditional writes")]
    NoConditionalPut {
        /// As given.
        location: String,
        /// The server.
        endpoint: String,
    },
    /// The store was made by a later version.
    #[error("cannot open the store `{location}`: it has format {found}, this version knows format {known}")]
    NewerFormat {
        /// As given.
        location: String,
        /// In the store.
        found: u64,
        /// The latest that this version knows.
        known: u64,
    },
    /// The store's format file says nothing.
    #[error("cannot open the store `{location}`: {marker} is damaged")]
    DamagedMarker {
        /// As given.
        location: String,
        /// The file's name.
        marker: &'static str,
    },
    /// A blob's content is not what its name says. It has been moved aside.
    #[error("blob {digest} is damaged: its content has the digest {found}")]
    Corrupt {
        /// The blob that was asked for.
        digest: Digest,
        /// What its content hashes to.
        found: Digest,
    },
    /// A blob is not in the store.
    #[error("blob {digest} is not in the store")]
    Missing {
        /// The blob that was asked for.
        digest: Digest,
    },
    /// A manifest that could not be read back is not published.
    #[error("cannot publish the manifest of `{step}`: {reason}")]
    Unpublishable {
        /// The step's name.
        step: String,
        /// Why not.
        #[source]
        reason: Unusable,
    },
    /// The name of an object is not a relative path with plain segments, or is the store's own.
    #[error("`{name}` cannot be the name of an object in the store")]
    InvalidName {
        /// As given.
        name: String,
    },
    /// The operating system refused.
    #[error("cannot {attempt}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The server of a remote store refused, or could not be reached.
    #[error("cannot {attempt}")]
    Remote {
        /// What was attempted.
        attempt: String,
        /// The reason.
        #[source]
        source: Box<RemoteFailure>,
    },
    /// The object store refused.
    #[error("cannot {attempt}")]
    Objects {
        /// What was attempted.
        attempt: String,
        /// The reason.
        #[source]
        source: Box<object_store::Error>,
    },
}

impl StoreError {
    /// Names what was attempted: `.map_err(StoreError::io(|| format!("read {path}")))`.
    pub(crate) fn io<A: Into<String>>(attempt: impl FnOnce() -> A) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { attempt: attempt().into(), source }
    }

    /// Names what was attempted on the object store.
    pub(crate) fn objects<A: Into<String>>(
        attempt: impl FnOnce() -> A,
    ) -> impl FnOnce(object_store::Error) -> Self {
        use object_store::Error::{Generic, PermissionDenied};
        move |error| {
            let attempt = attempt().into();
            let (Generic { source: reason, .. } | PermissionDenied { source: reason, .. }) = &error else {
                return Self::Objects { attempt, source: Box::new(error) };
            };
            match reason.downcast_ref::<RemoteFailure>() {
                Some(failure) => Self::Remote { attempt, source: Box::new(failure.clone()) },
                None => Self::Objects { attempt, source: Box::new(error) },
            }
        }
    }

    /// The damaged blob, when that is what went wrong.
    #[must_use]
    pub fn is_corrupt(&self) -> Option<&Digest> {
        if let Self::Corrupt { digest, .. } = self { Some(digest) } else { None }
    }

    /// The blob that is damaged or missing, when that is what went wrong: executing the step that
    /// made it again brings it back.
    #[must_use]
    pub fn lost_blob(&self) -> Option<&Digest> {
        if let Self::Corrupt { digest, .. } | Self::Missing { digest } = self { Some(digest) } else { None }
    }

    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotAFolder { .. } => "give the path of a folder, or of one that does not exist yet",
            Self::InvalidLocation { .. } => {
                "write a path, `file:///absolute/path`, `s3://bucket/prefix` or `memory://`"
            }
            Self::Unsupported { .. } => {
                "use a folder, `s3://bucket/prefix`, or `memory://`; other storage often has an S3 interface: \
                 name it by AWS_ENDPOINT_URL"
            }
            Self::NoCredentials { .. } => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles are not read: `aws configure \
                 export-credentials` prints them); on a machine of Amazon's that has a role, set \
                 AWS_EC2_METADATA_DISABLED=false"
            }
            Self::NoConditionalPut { .. } => {
                "writers could replace each other's results: use a server that honours `If-None-Match: *`, \
                 or a folder"
            }
            Self::NewerFormat { .. } => "update bstar, or use another store",
            Self::DamagedMarker { .. } => {
                "use another store, or delete that file if the folder is a store of this version"
            }
            Self::Corrupt { .. } | Self::Missing { .. } => {
                "run the same command again: the step that made the blob is executed again"
            }
            Self::Unpublishable { .. } | Self::InvalidName { .. } => return None,
            Self::Remote { source, .. } => return source.hint(),
            Self::Io { .. } | Self::Objects { .. } => return self.io_kind().and_then(io_hint),
        };
        Some(hint.to_owned())
    }

    /// The kind of the first operating system error in the chain of sources.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return Some(io.kind());
            }
            next = error.source();
        }
        None
    }
}

fn io_hint(kind: io::ErrorKind) -> Option<String> {
    let hint = match kind {
        io::ErrorKind::StorageFull => {
            "the disk is full: free some space and run the same command again; finished steps stay"
        }
        io::ErrorKind::QuotaExceeded => {
            "the disk quota is used up: free some space and run the same command again; finished steps stay"
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied: check who owns the file or folder, or use another store"
        }
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: use another store",
        io::ErrorKind::NotADirectory => "a part of the path is a file: remove it, or use another path",
        io::ErrorKind::IsADirectory => "a folder is in the way: remove it, or use another path",
        _ => return None,
    };
    Some(hint.to_owned())
}
