//! Compressed bodies: which ones are read, and which answers are compressed.

use std::{convert::Infallible, future::Future, sync::Mutex};

use http::{Extensions, HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use mi_rpc::{HttpRequest, HttpResponse};
use tonic::body::Body;
use tower::{ServiceExt, service_fn};
use tower_http::{
    CompressionLevel,
    compression::{Compression, Predicate, predicate::SizeAbove},
    decompression::RequestDecompression,
};

/// What a shorter answer would save is not worth the work, in bytes.
const WORTH: u16 = 1024;
/// What is compressed: whole messages. Streams would wait for each other's bytes, and files are as they are.
const COMPRESSED: [&[u8]; 2] = [b"application/json", b"application/proto"];

/// The encodings that are read.
pub(crate) const READ: &str = "gzip, zstd, identity";

/// Has a request answered, without its encoding, and its answer encoded as it accepts.
pub(crate) async fn settled<F>(request: HttpRequest, answer: impl FnOnce(HttpRequest) -> F + Send) -> HttpResponse
where
    F: Future<Output = HttpResponse> + Send,
{
    // Called once; the type of a service says otherwise.
    let answer = Mutex::new(Some(answer));
    let inner = service_fn(|request: Request<_>| {
        let answer = answer.lock().ok().and_then(|mut answer| answer.take());
        async move {
            Ok::<_, Infallible>(match answer {
                Some(answer) => answer(request.map(Body::new)).await,
                None => HttpResponse::default(),
            })
        }
    });
    let is_whole = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| COMPRESSED.contains(&kind.as_bytes()))
    };
    let read = RequestDecompression::new(inner).pass_through_unaccepted(true);
    let service = Compression::new(read).quality(CompressionLevel::Fastest);
    let service = service.compress_when(SizeAbove::new(WORTH).and(is_whole));
    let response = service.oneshot(request).await.unwrap_or_else(|never| match never {});
    response.map(Body::new)
}

/// The encoding of a body that nobody here reads.
pub(crate) fn unknown(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(header::CONTENT_ENCODING).filter(|encoding| encoding.as_bytes() != b"identity")
}
