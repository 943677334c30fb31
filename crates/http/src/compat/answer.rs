//! Answers in the form of that product.

use http::{HeaderName, HeaderValue, StatusCode, header};
use mi_rpc::HttpResponse;
use serde_json::{Value, json};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;

use crate::refusal;

/// How many there are in all, beside a page of a list.
pub(super) const TOTAL: HeaderName = HeaderName::from_static("x-total-count");

/// An answer with something in it.
pub(super) fn found(value: &Value) -> HttpResponse {
    refusal::json_answer(value.to_string())
}

/// A page of a list, and how many entries the list has if that is known.
pub(super) fn list(entries: Vec<Value>, total: Option<usize>) -> HttpResponse {
    let mut response = found(&Value::Array(entries));
    if let Some(total) = total {
        response.headers_mut().insert(TOTAL, HeaderValue::from(total));
    }
    response
}

/// An answer with nothing in it. That client reads JSON wherever the content type says so.
pub(super) fn none() -> HttpResponse {
    let mut response = HttpResponse::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// What a call was refused with.
pub(crate) fn refused(status: &Status) -> HttpResponse {
    let reason = status.get_details_error_info().map(|info| info.reason);
    let code = match (status.code(), reason.as_deref()) {
        // Final for that client, which waits and tries again at 409: somebody has to set a secret first.
        (Code::FailedPrecondition, Some("INTEGRATION_NOT_CONFIGURED")) => StatusCode::BAD_REQUEST,
        (Code::FailedPrecondition, _) => StatusCode::CONFLICT,
        _ => refusal::rest_status(status),
    };
    let name = reason.unwrap_or_else(|| refusal::name(status.code()).to_owned());
    let mut response = plain(code, &name, status.message());
    let headers = response.headers_mut();
    if code == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
        // Whole seconds, and never at once.
        headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
    }
    response
}

/// An error. The sentence is there twice: some versions of that client show one, some the other.
pub(super) fn plain(code: StatusCode, name: &str, text: &str) -> HttpResponse {
    let mut response = found(&json!({"error": text, "message": text, "code": name}));
    *response.status_mut() = code;
    response
}
