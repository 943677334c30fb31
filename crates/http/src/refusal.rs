//! What a refused call says, in the form of each door.

use std::{fmt, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use mi_kernel::{Error, ErrorKind};
use mi_rpc::{HttpResponse, status::DOMAIN};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt, pb};

/// The messages that errors carry as details.
static DETAILS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // Made by the build of tonic-types; the test below reads from it.
    DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).expect("the descriptors of google.rpc are valid")
});

/// A detail of an error, such as `google.rpc.ErrorInfo`.
struct Detail {
    type_name: String,
    value: Vec<u8>,
    /// What it says; nothing when its type is unknown here.
    said: Option<Value>,
}

fn details(status: &Status) -> Vec<Detail> {
    let whole = pb::Status::decode(status.details()).unwrap_or_default();
    let one = |any: prost_types::Any| {
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
        let said = DETAILS.get_message_by_name(&type_name).and_then(|descriptor| {
            let message = DynamicMessage::decode(descriptor, any.value.as_slice()).ok()?;
            message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).ok()
        });
        Detail { type_name, value: any.value, said }
    };
    whole.details.into_iter().map(one).collect()
}

/// The name of a code, as gRPC writes it.
pub(crate) fn name(code: Code) -> &'static str {
    mi_rpc::guard::code_name(Some(&HeaderValue::from(code as i32)))
}

/// The stable word of an error.
pub(crate) fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// An error of the Connect protocol: the code in small letters, the message, and the details.
pub(crate) fn connect_error(status: &Status) -> Value {
    let details = details(status).into_iter().map(|detail| {
        let mut object = json!({"type": detail.type_name, "value": STANDARD_NO_PAD.encode(&detail.value)});
        if let Some(said) = detail.said {
            object["debug"] = said;
        }
        object
    });
    let mut error = json!({"code": connect_name(status.code())});
    if !status.message().is_empty() {
        error["message"] = status.message().into();
    }
    let details: Vec<Value> = details.collect();
    if !details.is_empty() {
        error["details"] = details.into();
    }
    error
}

fn connect_name(code: Code) -> String {
    match code {
        // The one that is spelled otherwise.
        Code::Cancelled => "canceled".to_owned(),
        code => name(code).to_lowercase(),
    }
}

/// The HTTP status of a code, by Connect's table.
pub(crate) fn connect_status(code: Code) -> StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The HTTP status of an error for REST: Google's table, but for what has a number of its own in HTTP.
pub(crate) fn rest_status(status: &Status) -> StatusCode {
    match reason(status).as_deref() {
        // Not 429, which clients send again and again.
        Some("OUT_OF_CREDITS" | "BUDGET_REACHED") => StatusCode::PAYMENT_REQUIRED,
        Some("MESSAGE_TOO_LARGE" | "FILE_TOO_LARGE") => StatusCode::PAYLOAD_TOO_LARGE,
        Some("METHOD_NOT_ALLOWED") => StatusCode::METHOD_NOT_ALLOWED,
        Some("RANGE_NOT_SATISFIABLE") => StatusCode::RANGE_NOT_SATISFIABLE,
        // What `If-Match` and `If-None-Match` become.
        Some("REVISION_CONFLICT") => StatusCode::PRECONDITION_FAILED,
        Some("UNSUPPORTED_MEDIA_TYPE") => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => connect_status(status.code()),
    }
}

/// An error as `google.rpc` has it in JSON.
pub(crate) fn rest_error(status: &Status, code: StatusCode) -> Value {
    json!({"error": {
        "code": code.as_u16(),
        "status": name(status.code()),
        "message": status.message(),
        "details": details_of(status),
    }})
}

/// The details of an error, each with its type.
pub(crate) fn details_of(status: &Status) -> Vec<Value> {
    let details = details(status).into_iter().map(|detail| {
        let mut object = match detail.said {
            Some(Value::Object(said)) => said,
            said => said.into_iter().map(|said| ("value".to_owned(), said)).collect::<Map<_, _>>(),
        };
        object.insert("@type".to_owned(), format!("type.googleapis.com/{}", detail.type_name).into());
        Value::Object(object)
    });
    details.collect()
}

/// A field of a request is wrong, or its body, or its query; `problem` completes the sentence that starts with the name.
pub(crate) fn invalid(field: &str, problem: impl fmt::Display) -> Status {
    let message = format!("{field} {problem}");
    let mut details = ErrorDetails::with_error_info("INVALID_ARGUMENT", DOMAIN, []);
    details.add_bad_request_violation(field, &message);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The answer to a call that a client of Connect makes, refused.
pub(crate) fn connect(status: &Status) -> HttpResponse {
    answer(status, connect_status(status.code()), &connect_error(status))
}

/// The answer to a request of REST, refused.
pub(crate) fn rest(status: &Status) -> HttpResponse {
    rest_as(status, rest_status(status))
}

/// The same with a status of its own.
pub(crate) fn rest_as(status: &Status, code: StatusCode) -> HttpResponse {
    answer(status, code, &rest_error(status, code))
}

/// The answer to a request by a method that its path is not for.
pub(crate) fn not_for(method: &Method, allowed: &str) -> HttpResponse {
    let text = format!("{method} is not for this path, where there are {allowed}");
    let mut response = rest(&mi_rpc::status(Error::new(ErrorKind::Invalid, "METHOD_NOT_ALLOWED", text)));
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// The code of an error in JSON-RPC that is none of the protocol's own.
pub(crate) const REFUSED: i32 = -32000;

/// The answer to a request of MCP that is refused before it is read.
pub(crate) fn mcp(status: &Status) -> HttpResponse {
    let code = rest_status(status);
    answer(status, code, &json_rpc_error(REFUSED, status.message(), None))
}

/// The answer to a request in JSON-RPC that is none, or not taken.
pub(crate) fn json_rpc(status: StatusCode, code: i32, message: &str, id: Option<Value>) -> HttpResponse {
    let mut response = json_answer(json_rpc_error(code, message, id).to_string());
    *response.status_mut() = status;
    response
}

/// Without an id, where that of the request is not known.
fn json_rpc_error(code: i32, message: &str, id: Option<Value>) -> Value {
    let mut error = json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}});
    if let Some(id) = id.filter(|id| id.is_string() || id.is_number()) {
        error["id"] = id;
    }
    error
}

fn answer(status: &Status, code: StatusCode, body: &Value) -> HttpResponse {
    let mut response = json_answer(body.to_string());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    if code == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    let passes = matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay).filter(|_| passes) {
        // Whole seconds, and never at once.
        headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
    }
    response
}

/// An answer in JSON.
pub(crate) fn json_answer(text: impl Into<Bytes>) -> HttpResponse {
    let mut response = HttpResponse::new(Body::new(axum::body::Body::from(text.into())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_door_says_the_same_in_its_own_form() {
        let invalid = mi_rpc::status(Error::invalid("name", "must not be blank"));
        let info = json!({"reason": "INVALID_ARGUMENT", "domain": "mi"});
        let request = json!({"fieldViolations": [{"field": "name", "description": "name must not be blank"}]});
        let typed = |name: &str, value: &Value| {
            let mut typed = value.clone();
            typed["@type"] = format!("type.googleapis.com/google.rpc.{name}").into();
            typed
        };
        let details = json!([typed("ErrorInfo", &info), typed("BadRequest", &request)]);
        let body = json!({"error": {
            "code": 400, "status": "INVALID_ARGUMENT", "message": "name must not be blank", "details": details}});
        assert_eq!(rest_error(&invalid, rest_status(&invalid)), body);

        let told = connect_error(&invalid);
        assert_eq!((&told["code"], &told["message"]), (&json!("invalid_argument"), &json!("name must not be blank")));
        assert_eq!(told["details"][0]["type"], "google.rpc.ErrorInfo");
        assert_eq!(told["details"][0]["debug"], info);
        let value = STANDARD_NO_PAD.decode(told["details"][0]["value"].as_str().expect("text")).expect("base64");
        assert_eq!(pb::ErrorInfo::decode(value.as_slice()).expect("as on the wire").reason, "INVALID_ARGUMENT");
    }

    #[test]
    fn what_http_has_a_number_for_keeps_it() {
        let after = Duration::from_millis(200);
        for (error, rest, connect, code, retry) in [
            (Error::exhausted("OUT_OF_CREDITS", "none left", after), 402, 429, "resource_exhausted", Some("1")),
            (Error::exhausted("RATE_LIMITED", "slow down", after), 429, 429, "resource_exhausted", Some("1")),
            (Error::precondition("OFFICE_NOT_ACTIVE", "it is suspended"), 400, 400, "failed_precondition", None),
            (Error::unauthenticated("no"), 401, 401, "unauthenticated", None),
        ] {
            let status = mi_rpc::status(error);
            for (response, number) in [(super::rest(&status), rest), (super::connect(&status), connect)] {
                assert_eq!(response.status().as_u16(), number, "{status}");
                let header =
                    |name| response.headers().get(name).map(|value: &HeaderValue| value.to_str().expect("text"));
                // Only what passes by itself is worth another try.
                assert_eq!(header(header::RETRY_AFTER), retry.filter(|_| number == 429), "{number}");
                assert_eq!(header(header::WWW_AUTHENTICATE), (number == 401).then_some("Bearer"));
            }
            assert_eq!(connect_error(&status)["code"], code);
        }
        assert_eq!(connect_error(&Status::cancelled("")), json!({"code": "canceled"}));
    }
}
