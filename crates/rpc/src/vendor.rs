//! Refusals as the vendors of models word theirs, so that their SDKs understand ours.

use http::{HeaderName, HeaderValue, StatusCode, header};
use mi_kernel::{Error, ErrorKind};
use serde_json::{Value, json};
use tonic::{Status, body::Body};

use crate::{HttpResponse, status::from_status};

/// Header of the stable word for programs, as in `ErrorInfo` of RPCs.
pub const REASON_HEADER: &str = "mi-reason";
/// What SDKs of OpenAI and Anthropic go by before all else: whether the same request is worth sending again.
const SHOULD_RETRY: &str = "x-should-retry";

/// Whose SDK reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Anthropic's messages.
    Anthropic,
    /// OpenAI's, and of all who took them over.
    OpenAi,
    /// Google's.
    Gemini,
}

impl Form {
    /// By what a request asks for. What belongs to nobody is answered as by OpenAI.
    pub fn of_path(path: &str) -> Self {
        if path.contains("/v1beta/") || path.contains("/v1/models/") {
            Self::Gemini
        } else if path.contains("/messages") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }

    /// What a body says that refuses.
    pub fn body(self, error: &Error) -> Value {
        let (status, message) = (http_status(error), error.message.as_str());
        match self {
            Self::Anthropic => {
                let error = json!({"type": anthropic(status), "message": message, "code": error.reason});
                json!({"type": "error", "error": error})
            }
            Self::OpenAi => json!({"error": {"message": message, "type": openai(status), "code": error.reason}}),
            Self::Gemini => json!({"error": {
                "code": status.as_u16(),
                "message": message,
                "status": crate::guard::code_name(Some(&(crate::status::code(error.kind) as i32).into())),
                "details": [{
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": error.reason,
                    "domain": "mi",
                }],
            }}),
        }
    }
}

/// The whole answer that refuses a request.
pub fn refusal(form: Form, error: &Error) -> HttpResponse {
    match error.kind {
        ErrorKind::Internal => tracing::error!(target: "mi::rpc", error = %error.chain(), "internal error"),
        ErrorKind::Unavailable => tracing::warn!(target: "mi::rpc", error = %error.chain(), "unavailable"),
        _ => tracing::debug!(target: "mi::rpc", error = %error.chain(), "refused"),
    }
    let mut response = HttpResponse::new(Body::new(axum::body::Body::from(form.body(error).to_string())));
    *response.status_mut() = http_status(error);
    let is_final = is_final(response.status());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static(REASON_HEADER), HeaderValue::from_static(error.reason));
    if is_final {
        headers.insert(HeaderName::from_static(SHOULD_RETRY), HeaderValue::from_static("false"));
    } else if let Some(after) = error.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    response
}

/// What kept a request from the role, if that is what an answer says: the transport and the guard speak gRPC.
pub fn not_reached(response: &HttpResponse) -> Option<Error> {
    Status::from_header_map(response.headers()).map(|status| from_status(&status))
}

/// Whether the same request would be refused again.
fn is_final(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT)
}

/// The status of an error.
pub fn http_status(error: &Error) -> StatusCode {
    match (error.kind, error.reason) {
        (_, "OUT_OF_CREDITS" | "BUDGET_REACHED") => StatusCode::PAYMENT_REQUIRED,
        (_, "MESSAGE_TOO_LARGE") => StatusCode::PAYLOAD_TOO_LARGE,
        (ErrorKind::Invalid, _) => StatusCode::BAD_REQUEST,
        (ErrorKind::NotFound, _) => StatusCode::NOT_FOUND,
        (ErrorKind::AlreadyExists | ErrorKind::Aborted, _) => StatusCode::CONFLICT,
        (ErrorKind::PermissionDenied | ErrorKind::FailedPrecondition, _) => StatusCode::FORBIDDEN,
        (ErrorKind::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
        (ErrorKind::Exhausted, _) => StatusCode::TOO_MANY_REQUESTS,
        (ErrorKind::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        (ErrorKind::DeadlineExceeded, _) => StatusCode::GATEWAY_TIMEOUT,
        (ErrorKind::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn anthropic(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

fn openai(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "insufficient_quota",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn each_vendor_reads_its_own_shape() {
        let broke = Error::new(ErrorKind::Exhausted, "OUT_OF_CREDITS", "no credits");
        for (path, body) in [
            (
                "/llm/anthropic/v1/messages",
                json!({"type": "error", "error":
                    {"type": "billing_error", "message": "no credits", "code": "OUT_OF_CREDITS"}}),
            ),
            (
                "/llm/openai/v1/responses",
                json!({"error": {"message": "no credits", "type": "insufficient_quota", "code": "OUT_OF_CREDITS"}}),
            ),
            (
                "/llm/gemini/v1beta/models/x:generateContent",
                json!({"error": {"code": 402, "message": "no credits", "status": "RESOURCE_EXHAUSTED", "details": [{
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "OUT_OF_CREDITS", "domain": "mi"}]}}),
            ),
        ] {
            let response = refusal(Form::of_path(path), &broke);
            assert_eq!(response.status().as_u16(), 402);
            assert_eq!(response.headers()[SHOULD_RETRY], "false");
            assert_eq!(response.headers()[REASON_HEADER], "OUT_OF_CREDITS");
            let bytes = response.into_body().collect().await.expect("whole").to_bytes();
            assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON"), body);
        }
    }

    #[test]
    fn only_what_may_pass_is_worth_a_retry() {
        for (error, status, retry, after) in [
            (Error::invalid("n", "is wrong"), 400, Some("false"), None),
            (Error::denied("no"), 403, Some("false"), None),
            (Error::precondition("INTEGRATION_DISABLED", "no"), 403, Some("false"), None),
            (Error::exhausted("RATE_LIMITED", "slow down", Duration::from_millis(200)), 429, None, Some("1")),
            (Error::unavailable("away"), 503, None, Some("1")),
            (Error::internal("bug"), 500, None, None),
        ] {
            let response = refusal(Form::OpenAi, &error);
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("ASCII"));
            assert_eq!(
                (response.status().as_u16(), header(SHOULD_RETRY), header("retry-after")),
                (status, retry, after),
                "{error}"
            );
        }
    }
}
