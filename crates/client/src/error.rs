//! What can go wrong on this side of the wire, and how a status reads for people.

use std::{error::Error as _, io, path::PathBuf};

use thiserror::Error;
use tonic::{Code, Status, transport};
use tonic_types::StatusExt;

/// Result with [`ClientError`].
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// A failed call, or something that kept it from being sent.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The endpoint cannot be used.
    #[error("endpoint {endpoint:?} is no URL such as http://127.0.0.1:7400")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        source: transport::Error,
    },
    /// The API key cannot be sent.
    #[error("the API key holds characters that no key has; copy it again")]
    Credential,
    /// The key file is no key.
    #[error("key file {}: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key file cannot be read or written.
    #[error("key file {}: {source}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key cannot sign.
    #[error("the key cannot sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    /// The platform answered with an error, or could not be reached.
    #[error("{}", message(.0))]
    Status(Box<Status>),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl ClientError {
    /// The gRPC code, if the platform answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            _ => None,
        }
    }

    /// Whether there was no connection: nobody listens there, or the way to it is broken.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Status(status) if unreachable(status).is_some())
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Status(status) => hint(status),
            _ => None,
        }
    }
}

/// The sentence for people.
fn message(status: &Status) -> String {
    if let Some(cause) = unreachable(status) {
        return format!("the platform cannot be reached: {cause}");
    }
    match (status.code(), status.message()) {
        (code, "") => code.description().to_owned(),
        (_, text) => text.to_owned(),
    }
}

/// Why there was no connection; none when there was one.
fn unreachable(status: &Status) -> Option<String> {
    let mut cause = status.source().filter(|source| source.is::<transport::Error>())?;
    // The innermost error is the one that says something: "connection refused" rather than "transport error".
    while let Some(next) = cause.source() {
        cause = next;
    }
    Some(cause.to_string())
}

/// The platform's word for why it refused, such as `OFFICE_NOT_ACTIVE`; empty: it gave none.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

fn hint(status: &Status) -> Option<&'static str> {
    if unreachable(status).is_some() {
        return Some("start the platform with `mi up`, or name another one with --endpoint or MI_ENDPOINT");
    }
    match (reason(status).as_str(), status.code()) {
        ("INTEGRATION_NOT_CONFIGURED", _) => Some(
            "`mi integrations set-secret INTEGRATION SECRET < FILE` sets its key; `mi integrations list` shows which",
        ),
        ("OFFICE_NOT_ACTIVE", _) => {
            Some("`mi colonies status ID` says what it waits for; `mi colonies resume ID` ends a suspension")
        }
        ("OUT_OF_CREDITS", _) => {
            Some("the administrator gives more: `mi credits grant --colony COLONY 1 --reason TEXT`")
        }
        (_, Code::Unauthenticated) => Some("log in with `mi login`, or pass a key with --api-key or MI_API_KEY"),
        (_, Code::Unimplemented) => Some("the platform is older than this client, or the endpoint is not a platform"),
        (_, Code::Unavailable) => Some("try again in a moment; `mi status` shows which part is down"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::{Client, Credential};

    #[test]
    fn a_reason_brings_its_hint() {
        let details = ErrorDetails::with_error_info("INTEGRATION_NOT_CONFIGURED", "mi", []);
        let status = Status::with_error_details(Code::FailedPrecondition, "office has no secret for openai", details);
        let error = ClientError::from(status);
        assert_eq!(error.to_string(), "office has no secret for openai");
        assert!(error.hint().expect("known reason").contains("secret"));
        assert_eq!(ClientError::from(Status::not_found("agent \"x\" not found")).hint(), None);
    }

    #[tokio::test]
    async fn a_refused_connection_says_so_and_what_to_do() {
        // A port that was free a moment ago: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("port").port();
        let client = Client::connect(&format!("http://127.0.0.1:{port}"), Credential::None).expect("well-formed");
        let error = client.offices().list().await.expect_err("nobody listens");
        assert_eq!(error.code(), Some(Code::Unavailable));
        assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
        assert!(error.hint().expect("known").contains("mi up"));
    }

    #[tokio::test]
    async fn a_bad_endpoint_is_named() {
        let error = Client::connect("not a url", Credential::None).expect_err("refused");
        assert!(error.to_string().contains("\"not a url\""), "{error}");
    }
}
