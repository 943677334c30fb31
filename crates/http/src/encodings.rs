//! Compressed bodies and messages: which ones are read, and which answers are compressed.

use std::{convert::Infallible, future::Future, io::Read, sync::Mutex};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{Extensions, HeaderMap, Method, Request, StatusCode, Version, header};
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
/// What is compressed: whole messages. Streams would wait for each other's bytes, and files, which are attachments, are as they
/// are: their parts and their length are of that.
const COMPRESSED: [&[u8]; 2] = [b"application/json", b"application/proto"];

/// The encodings that are read, and what is said of others.
pub(crate) const READ: &str = "gzip, zstd, identity";
pub(crate) const UNREAD: &str =
    "the encoding is not read here, but gzip, zstd and identity; what is uploaded is taken as it is";

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
        let is_message = headers.get(header::CONTENT_TYPE).is_some_and(|kind| COMPRESSED.contains(&kind.as_bytes()));
        is_message && !headers.contains_key(header::CONTENT_DISPOSITION)
    };
    let read = RequestDecompression::new(inner).pass_through_unaccepted(true);
    let service = Compression::new(read).quality(CompressionLevel::Fastest);
    let service = service.compress_when(SizeAbove::new(WORTH).and(is_whole));
    let response = service.oneshot(request).await.unwrap_or_else(|never| match never {});
    response.map(Body::new)
}

/// How the compressed messages of a stream are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    /// By its name in a header.
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// A message, if it is one of at most so many bytes.
    pub(crate) fn read(self, message: &[u8], limit: usize) -> std::io::Result<Option<Bytes>> {
        let mut whole = Vec::new();
        // One more, which tells that there is more.
        let most = limit as u64 + 1;
        match self {
            Self::Gzip => MultiGzDecoder::new(message).take(most).read_to_end(&mut whole)?,
            Self::Zstd => zstd::Decoder::new(message)?.take(most).read_to_end(&mut whole)?,
        };
        Ok((whole.len() <= limit).then(|| whole.into()))
    }
}

/// Whether the body of a request is read here. What is uploaded is stored as it comes: who says that it is encoded means it to
/// be stored otherwise.
pub(crate) fn is_read(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(encoding) = encodings.next().filter(|encoding| encoding.as_bytes() != b"identity") else {
        return encodings.next().is_none();
    };
    let is_form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/"));
    let is_upload = request.method() == Method::PUT || is_form;
    Encoding::of(encoding.as_bytes()).is_some() && encodings.next().is_none() && !is_upload
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn a_message_is_bounded_by_what_it_becomes() {
        let zeros = [0; 5000];
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&zeros).expect("in memory");
        let gzip = gzip.finish().expect("in memory");
        let zstd = zstd::encode_all(&zeros[..], 1).expect("in memory");
        for (name, message) in [("gzip", gzip), ("zstd", zstd)] {
            let encoding = Encoding::of(name.as_bytes()).expect("known");
            assert_eq!(encoding.read(&message, 5000).expect("whole").as_deref(), Some(&zeros[..]), "{name}");
            assert_eq!(encoding.read(&message, 4999).expect("whole"), None, "{name}");
            assert!(encoding.read(&message[..message.len() - 5], 5000).is_err(), "{name}");
            // What is compressed in parts is all of them.
            let twice = [&message[..], &message].concat();
            assert_eq!(encoding.read(&twice, 10_000).expect("whole").map(|whole| whole.len()), Some(10_000), "{name}");
        }
        assert_eq!(Encoding::of(b"br"), None);
    }
}
