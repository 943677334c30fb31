//! The one error type that services answer with: a kind, a stable reason for programs, a sentence for people.
//!
//! The cause is for the operator's log and never crosses the wire.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

/// What kind of failure it is. One table in `mi-rpc` maps these to gRPC codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong, whatever the state of the system.
    Invalid,
    /// No such thing, or not for this caller.
    NotFound,
    /// The thing to create is there already.
    AlreadyExists,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// The caller is not known.
    Unauthenticated,
    /// Right request, wrong state; something has to change first.
    FailedPrecondition,
    /// A limit is reached; later it may work.
    Exhausted,
    /// Somebody else was faster; read again and retry.
    Aborted,
    /// A part of the platform cannot be reached; the same call may work in a moment.
    Unavailable,
    /// It took longer than the caller allowed.
    DeadlineExceeded,
    /// A fault of ours.
    Internal,
}

impl ErrorKind {
    fn fault(self) -> Fault {
        match self {
            Self::Unavailable | Self::DeadlineExceeded | Self::Internal => Fault::Platform,
            Self::Invalid
            | Self::NotFound
            | Self::AlreadyExists
            | Self::PermissionDenied
            | Self::Unauthenticated
            | Self::FailedPrecondition
            | Self::Exhausted
            | Self::Aborted => Fault::Caller,
        }
    }
}

/// Whose doing a failure is. What shares its work with others, such as a transaction, goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller asked for something that it cannot have: nobody else is concerned.
    Caller,
    /// The platform, or what it stands on, could not do its part, whoever had asked.
    Platform,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as services report it. A clone has the same cause.
#[derive(Debug, Clone)]
pub struct Error {
    /// Decides the code on the wire.
    pub kind: ErrorKind,
    /// Follows from the kind, unless [`Error::by_platform`] says otherwise.
    pub fault: Fault,
    /// Stable, upper-case word for programs.
    pub reason: &'static str,
    /// A sentence for the caller; holds nothing the caller may not see.
    pub message: String,
    /// The field of the request that is wrong.
    pub field: Option<&'static str>,
    /// Type and name of the thing that is missing or doubled.
    pub resource: Option<(&'static str, String)>,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
    /// What went wrong underneath.
    pub source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with nothing but kind, reason and message.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            fault: kind.fault(),
            reason,
            message: message.into(),
            field: None,
            resource: None,
            retry_after: None,
            source: None,
        }
    }

    /// A field of the request is wrong; `problem` completes the sentence that starts with the field's name.
    pub fn invalid(field: &'static str, problem: impl fmt::Display) -> Self {
        Self { field: Some(field), ..Self::new(ErrorKind::Invalid, "INVALID_ARGUMENT", format!("{field} {problem}")) }
    }

    /// There is no such thing, or it is not the caller's: the two must not be told apart.
    pub fn not_found(resource: &'static str, name: impl fmt::Display) -> Self {
        let name = name.to_string();
        Self {
            resource: Some((resource, name.clone())),
            ..Self::new(ErrorKind::NotFound, "NOT_FOUND", format!("{resource} {name:?} not found"))
        }
    }

    /// The thing to create is there already.
    pub fn already_exists(resource: &'static str, name: impl fmt::Display) -> Self {
        let name = name.to_string();
        Self {
            resource: Some((resource, name.clone())),
            ..Self::new(ErrorKind::AlreadyExists, "ALREADY_EXISTS", format!("{resource} {name:?} exists already"))
        }
    }

    /// The state does not allow it.
    pub fn precondition(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, reason, message)
    }

    /// The caller may not do this.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PermissionDenied, "PERMISSION_DENIED", message)
    }

    /// The credential is missing or wrong.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unauthenticated, "UNAUTHENTICATED", message)
    }

    /// A limit is reached.
    pub fn exhausted(reason: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Exhausted, reason, message) }
    }

    /// A part of the platform cannot be reached.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(ErrorKind::Unavailable, "UNAVAILABLE", message) }
    }

    /// A fault of ours; the caller learns only that.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(ErrorKind::Internal, "INTERNAL", "internal error; the platform's log has the details")
            .caused_by(source)
    }

    /// Says that the caller could not have done better, where the kind leaves that open: a race that the database
    /// settled, a disk that is full.
    pub fn by_platform(mut self) -> Self {
        self.fault = Fault::Platform;
        self
    }

    /// The same error for one more caller; the cause stays with the first.
    pub fn again(&self) -> Self {
        Self { source: None, ..self.clone() }
    }

    /// Attaches the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Whether the same call may succeed if simply sent again.
    pub fn retryable(&self) -> bool {
        match self.kind {
            ErrorKind::Unavailable | ErrorKind::Aborted | ErrorKind::Exhausted | ErrorKind::DeadlineExceeded => true,
            ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::PermissionDenied
            | ErrorKind::Unauthenticated
            | ErrorKind::FailedPrecondition
            | ErrorKind::Internal => false,
        }
    }

    /// Message and all causes, for the operator's log.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_it_is_does_not_hang_on_a_cause() {
        let refused = Error::invalid("receipt", "is not signed").caused_by("bad padding");
        assert_eq!((refused.fault, Error::internal("bug").fault), (Fault::Caller, Fault::Platform));
        let full = Error::exhausted("STORAGE_FULL", "no space", Duration::from_secs(30));
        assert_eq!((full.fault, full.by_platform().fault), (Fault::Caller, Fault::Platform));
    }

    #[test]
    fn one_more_caller_hears_the_same_without_the_cause() {
        let full = Error::exhausted("STORAGE_FULL", "no space", Duration::from_secs(30)).by_platform();
        let full = Error { field: Some("content"), resource: Some(("file", "a".into())), ..full }.caused_by("ENOSPC");
        let again = full.again();
        assert_eq!((again.kind, again.fault, again.reason), (ErrorKind::Exhausted, Fault::Platform, "STORAGE_FULL"));
        assert_eq!((again.field, again.resource.clone()), (full.field, full.resource.clone()));
        assert_eq!((again.retry_after, again.chain()), (full.retry_after, "no space".to_owned()));
    }
}
