//! What a remote server said when it did not do what it was asked, in words for people.
//!
//! The errors of `object_store` hold whole addresses and answers; only what helps is taken over, and
//! nothing that could be a secret.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use object_store::Error as ObjectError;

/// Where the server is, and which variable said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Without user names and passwords.
    pub address: String,
    /// The environment variable that names it; none for Amazon's own.
    pub variable: Option<&'static str>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// No connection.
    Unreachable,
    /// Errors of the server, answers that were cut off, or none at all; it may work later.
    Unsteady,
    /// There is no such bucket.
    NoBucket,
    /// The credentials are not known to the server, or not right.
    Credentials,
    /// The credentials are right, and do not suffice.
    Denied,
    /// This machine's clock and the server's differ too much.
    Clock,
    /// The bucket is in another region.
    Region,
    /// The request is refused for another reason.
    Refused,
}

/// A failed operation on a remote store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFailure {
    /// The server.
    pub endpoint: Endpoint,
    /// What is wrong.
    pub problem: Problem,
    /// What the server or the operating system said, for example `503 SlowDown`.
    pub said: String,
    /// How often it was tried.
    pub tries: u32,
    /// For how long it was tried.
    pub waited: Duration,
}

impl fmt::Display for RemoteFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint: Endpoint { address, .. }, said, .. } = self;
        match self.problem {
            Problem::Unreachable => write!(formatter, "{address} cannot be reached: {said}"),
            Problem::Unsteady => write!(formatter, "{address} does not answer as it should: {said}"),
            Problem::NoBucket => write!(formatter, "{address} has no such bucket"),
            Problem::Credentials => write!(formatter, "{address} does not accept the credentials: {said}"),
            Problem::Denied => write!(formatter, "{address} denies access: {said}"),
            Problem::Clock => write!(formatter, "{address} has another time than this machine: {said}"),
            Problem::Region => write!(formatter, "{address} says that the region is wrong: {said}"),
            Problem::Refused => write!(formatter, "{address} refuses: {said}"),
        }?;
        if self.tries > 1 {
            write!(formatter, " (tried {} times in {:.0?})", self.tries, self.waited)?;
        }
        Ok(())
    }
}

impl std::error::Error for RemoteFailure {}

impl RemoteFailure {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self.problem {
            Problem::Unreachable => match self.endpoint.variable {
                Some(variable) => format!("is {variable} right, and does the server run?"),
                None => {
                    "check the network; for a server that is not Amazon's, set AWS_ENDPOINT_URL".to_owned()
                }
            },
            Problem::Unsteady => "run the same command again later: finished steps stay".to_owned(),
            Problem::NoBucket => "make the bucket first, or check the name of the store".to_owned(),
            Problem::Credentials => {
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN: wrong or expired"
                    .to_owned()
            }
            Problem::Denied => {
                "these credentials need to list the bucket, and to read, write and delete objects in it"
                    .to_owned()
            }
            Problem::Clock => "set this machine's clock".to_owned(),
            Problem::Region => "set AWS_REGION to the region of the bucket".to_owned(),
            Problem::Refused => return None,
        };
        Some(hint)
    }
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// Never.
    Permanent,
    /// Perhaps; of an error of unknown kind.
    Unknown,
    /// Likely.
    Transient,
}

/// No answer, or no further part of one, within the time that is waited for it.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:.0?}")]
pub(super) struct Stalled(pub(super) Duration);

/// An answer that ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off")]
pub(super) struct CutOff;

pub(super) fn generic(source: impl std::error::Error + Send + Sync + 'static) -> ObjectError {
    ObjectError::Generic { store: "remote", source: Box::new(source) }
}

/// The status and the error code of an answer, as `object_store` words them: its own type for them is
/// not public.
fn answer(error: &ObjectError) -> Option<(u16, String)> {
    let text = error.to_string();
    let (_, rest) = text.split_once("status code: ")?;
    let status = rest.get(..3)?.parse().ok()?;
    let code = rest.split_once("<Code>").and_then(|(_, rest)| Some(rest.split_once("</Code>")?.0));
    let reason = || rest.get(4..).and_then(|rest| rest.split(':').next()).unwrap_or_default();
    Some((status, code.unwrap_or_else(reason).trim().chars().take(60).collect()))
}

/// Whether the answer is that another writer is at work on the same object, which says nothing about
/// whether there is one.
pub(super) fn is_conflict(error: &ObjectError) -> bool {
    matches!(answer(error), Some((409, code)) if code.contains("Conflict") || code.contains("OperationAborted"))
}

fn is<E: std::error::Error + 'static>(error: &ObjectError) -> bool {
    let mut next = error.source();
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// What lies deepest: further up, the same is said again with addresses.
fn deepest(error: &ObjectError) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string().chars().take(200).collect()
}

pub(super) fn nature(error: &ObjectError) -> Nature {
    match error {
        _ if is_conflict(error) => Nature::Transient,
        ObjectError::Generic { .. } => match answer(error) {
            Some((500.. | 429 | 408, code)) if code != "NotImplemented" => Nature::Transient,
            Some((400, code)) if code == "RequestTimeout" => Nature::Transient,
            Some(_) => Nature::Permanent,
            None if is::<Stalled>(error) || is::<CutOff>(error) || is::<std::io::Error>(error) => {
                Nature::Transient
            }
            None if is::<object_store::client::HttpError>(error) => Nature::Transient,
            None if error.to_string().contains("without LOCATION") => Nature::Permanent,
            None => Nature::Unknown,
        },
        _ => Nature::Permanent,
    }
}

fn problem(error: &ObjectError) -> (Problem, String) {
    let http = || {
        let mut next = error.source();
        while let Some(source) = next {
            if let Some(http) = source.downcast_ref::<object_store::client::HttpError>() {
                return Some(http.kind());
            }
            next = source.source();
        }
        None
    };
    match answer(error) {
        Some((status, code)) => {
            let problem = match (status, code.as_str()) {
                (_, "NoSuchBucket") => Problem::NoBucket,
                (_, "RequestTimeTooSkewed") => Problem::Clock,
                (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") | (301 | 307, _) => Problem::Region,
                (
                    _,
                    "InvalidAccessKeyId"
                    | "SignatureDoesNotMatch"
                    | "ExpiredToken"
                    | "InvalidToken"
                    | "NotSignedUp"
                    | "AuthFailure",
                )
                | (401, _) => Problem::Credentials,
                (403, _) => Problem::Denied,
                (500.. | 429 | 408, _) | (_, "RequestTimeout") => Problem::Unsteady,
                _ => Problem::Refused,
            };
            (problem, format!("{status} {code}").trim().to_owned())
        }
        None if error.to_string().contains("without LOCATION") => (Problem::Region, "redirected".to_owned()),
        None if http() == Some(object_store::client::HttpErrorKind::Connect) => {
            (Problem::Unreachable, deepest(error))
        }
        None if nature(error) == Nature::Permanent => (Problem::Refused, deepest(error)),
        None => (Problem::Unsteady, deepest(error)),
    }
}

/// The error of the last try, in words for people. What callers decide on stays as it is: that there is
/// no object, that there is one already, and that a condition is not met.
pub(super) fn told(error: ObjectError, endpoint: &Endpoint, tries: u32, waited: Duration) -> ObjectError {
    let (problem, said) = match &error {
        ObjectError::NotFound { .. } => match problem(&error) {
            (Problem::NoBucket, said) => (Problem::NoBucket, said),
            _ => return error,
        },
        ObjectError::AlreadyExists { .. }
        | ObjectError::Precondition { .. }
        | ObjectError::NotModified { .. } => return error,
        _ => problem(&error),
    };
    let failure = Box::new(RemoteFailure { endpoint: endpoint.clone(), problem, said, tries, waited });
    match error {
        ObjectError::PermissionDenied { path, .. } => ObjectError::PermissionDenied { path, source: failure },
        _ => ObjectError::Generic { store: "remote", source: failure },
    }
}
