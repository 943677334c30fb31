//! The one table from [`ErrorKind`] to gRPC codes, with the details of `google.rpc` that programs read.

use http::{HeaderMap, HeaderValue};
use mi_kernel::{Error, ErrorKind};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of all `ErrorInfo` details.
pub const DOMAIN: &str = "mi";
/// Reason of a message that is larger than is taken.
const TOO_LARGE: &str = "MESSAGE_TOO_LARGE";

/// The gRPC code of a kind.
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Aborted => Code::Aborted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    }
}

/// What goes on the wire. The cause goes to the operator's log instead.
pub fn status(error: Error) -> Status {
    match error.kind {
        ErrorKind::Internal => tracing::error!(target: "mi::rpc", error = %error.chain(), "internal error"),
        ErrorKind::Unavailable => tracing::warn!(target: "mi::rpc", error = %error.chain(), "unavailable"),
        _ => tracing::debug!(target: "mi::rpc", error = %error.chain(), "refused"),
    }
    unlogged(error)
}

/// What goes on the wire, for an error that is no news to the operator.
pub(crate) fn unlogged(error: Error) -> Status {
    let mut details = ErrorDetails::with_error_info(error.reason, DOMAIN, []);
    if let Some(field) = error.field {
        details.add_bad_request_violation(field, &error.message);
    }
    if let Some((kind, name)) = error.resource {
        details.set_resource_info(kind, name, "", &error.message);
    }
    if let Some(after) = error.retry_after {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code(error.kind), error.message, details)
}

/// A status of another role, taken over as our own error, so that it keeps its code and reason on the way through.
pub fn from_status(status: &Status) -> Error {
    if let Some(refused) = too_large(status) {
        return refused;
    }
    let kind = match status.code() {
        Code::InvalidArgument => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::ResourceExhausted => ErrorKind::Exhausted,
        Code::Aborted => ErrorKind::Aborted,
        Code::Unavailable | Code::Cancelled => {
            return Error::unavailable("a part of the platform cannot be reached").caused_by(status.clone());
        }
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Ok | Code::Unknown | Code::OutOfRange | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            return Error::internal(status.clone());
        }
    };
    let reason = status.get_details_error_info().map_or("REFUSED", |info| known_reason(&info.reason));
    Error {
        retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
        ..Error::new(kind, reason, status.message())
    }
}

/// What tonic says of a message that is larger than is taken, as we say it. With us each other status has details.
fn too_large(status: &Status) -> Option<Error> {
    let is_tonics = match status.code() {
        Code::OutOfRange => true,
        Code::ResourceExhausted => status.details().is_empty(),
        _ => false,
    };
    let text = || format!("a message is larger than is taken here; send less in one ({})", status.message());
    is_tonics.then(|| Error::new(ErrorKind::Exhausted, TOO_LARGE, text()))
}

/// Puts our own words into the head or the trailers of an answer in which tonic refuses a message that is too large: it
/// says OUT_OF_RANGE, or RESOURCE_EXHAUSTED when the message was compressed, without details.
pub fn mend_too_large(headers: &mut HeaderMap) {
    let refused = headers.get(Status::GRPC_STATUS).map(HeaderValue::as_bytes);
    if !matches!(refused, Some(b"11" | b"8")) {
        return;
    }
    let Some(refused) = Status::from_header_map(headers).as_ref().and_then(too_large) else { return };
    let mut own = HeaderMap::new();
    if status(refused).add_header(&mut own).is_ok() {
        headers.extend(own);
    }
}

/// Reasons are static; those that cross from role to role are few and listed here.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 11] = [
        "AGENT_TERMINATING",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "CONFLICT",
        "OFFICE_NOT_ACTIVE",
        "OUT_OF_CREDITS",
        "BUDGET_REACHED",
        TOO_LARGE,
    ];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("REFUSED")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn details_carry_reason_field_and_retry() {
        let wire = status(Error::invalid("name", "must not be blank"));
        assert_eq!((wire.code(), wire.message()), (Code::InvalidArgument, "name must not be blank"));
        let info = wire.get_details_error_info().expect("always there");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_ARGUMENT", "mi"));
        let request = wire.get_details_bad_request().expect("names the field");
        assert_eq!(request.field_violations[0].field, "name");

        let wire = status(Error::exhausted("RATE_LIMITED", "slow down", Duration::from_secs(2)));
        assert_eq!(wire.get_details_retry_info().expect("says when").retry_delay, Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_message_that_is_too_large_is_told_in_our_words() {
        let ours = status(Error::exhausted("QUEUE_BUSY", "too much is asked", Duration::from_millis(500)));
        for (said, code, reason) in [
            (
                Status::out_of_range("found 5 bytes, the limit is: 4 bytes"),
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
            ),
            (Status::resource_exhausted("size limit, of 4 bytes"), Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            (ours, Code::ResourceExhausted, "QUEUE_BUSY"),
            (status(Error::invalid("name", "must not be blank")), Code::InvalidArgument, "INVALID_ARGUMENT"),
        ] {
            let mut headers = said.clone().into_http::<()>().into_parts().0.headers;
            mend_too_large(&mut headers);
            let told = Status::from_header_map(&headers).expect("a status");
            assert_eq!((told.code(), told.get_details_error_info().expect("details").reason.as_str()), (code, reason));
            assert_eq!(headers.get_all("grpc-status").iter().count(), 1);
            assert!(told.message().contains(said.message()), "{}", told.message());
            if reason == "MESSAGE_TOO_LARGE" {
                let error = from_status(&said);
                assert_eq!((error.kind, error.reason), (ErrorKind::Exhausted, reason));
            }
        }
        let mut fine = HeaderMap::new();
        mend_too_large(&mut fine);
        assert!(fine.is_empty());
    }

    #[test]
    fn the_cause_stays_inside() {
        let wire = status(Error::internal("password=hunter2"));
        assert!(!format!("{wire:?}").contains("hunter2"));
    }
}
