//! What browsers send: gRPC-Web, and everything that is not gRPC at all.

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use mi_rpc::{HttpRequest, HttpResponse};
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::Layer;

use crate::Grpc;

/// What the content types of gRPC-Web begin with.
const WEB: &str = "application/grpc-web";

/// The edge behind gRPC-Web.
pub(crate) type Web = GrpcWebService<Grpc>;

/// What kind of request it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// gRPC proper: the hot path.
    Grpc,
    /// gRPC-Web.
    Web,
    /// Nothing we speak.
    Other,
}

impl Traffic {
    pub(crate) fn of(request: &HttpRequest) -> Self {
        if request.method() != Method::POST {
            return Self::Other;
        }
        match request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
            Some(b"application/grpc" | b"application/grpc+proto") => Self::Grpc,
            // The spellings that tonic-web knows; it would pass others on undecoded.
            Some(
                b"application/grpc-web"
                | b"application/grpc-web+proto"
                | b"application/grpc-web-text"
                | b"application/grpc-web-text+proto",
            ) => Self::Web,
            Some(other) if other.starts_with(b"application/grpc+") || other.starts_with(b"application/grpc;") => {
                Self::Grpc
            }
            _ => Self::Other,
        }
    }
}

/// Has a call answered in its own form, binary or text, unless it asks for another one: tonic-web goes by `accept` alone, and
/// takes everything but the text's own name for binary.
pub(crate) fn settle_form(headers: &mut HeaderMap) {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let asked = accepted.split(',').map(|one| one.split(';').next().unwrap_or_default().trim());
    let asked = asked.filter(|one| one.starts_with(WEB)).map(HeaderValue::try_from).find_map(Result::ok);
    if let Some(form) = asked.or_else(|| headers.get(CONTENT_TYPE).cloned()) {
        headers.insert(ACCEPT, form);
    }
}

/// The edge as gRPC-Web sees it.
pub(crate) fn layered(grpc: Grpc) -> Web {
    GrpcWebLayer::new().layer(grpc)
}

/// The answer to what is not gRPC.
pub(crate) fn refusal(method: &Method) -> HttpResponse {
    const TEXT: &str = "This is the gRPC endpoint of mi. Call it with the `mi` command, grpcurl or gRPC-Web.\n";
    let status = if *method == Method::POST { StatusCode::UNSUPPORTED_MEDIA_TYPE } else { StatusCode::NOT_FOUND };
    let mut response = HttpResponse::new(Body::new(axum::body::Body::from(TEXT)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
