//! Compressed messages: which encodings are read, and which one an answer goes in.

use http::{HeaderMap, HeaderValue};
pub use tonic::codec::CompressionEncoding::{Gzip, Zstd};

/// How the messages of this request, or of this answer, are compressed.
const ENCODING: &str = "grpc-encoding";
/// What the caller reads.
const ACCEPTED: &str = "grpc-accept-encoding";

/// A generated server that reads compressed messages, up to the same size as others once they are decompressed, and answers
/// in the encoding that [`negotiate`] left in the request. Every server goes through here.
#[macro_export]
macro_rules! compressed {
    ($server:expr) => {
        $server
            .accept_compressed($crate::compression::Gzip)
            .accept_compressed($crate::compression::Zstd)
            .send_compressed($crate::compression::Gzip)
            .send_compressed($crate::compression::Zstd)
    };
}

/// Leaves one encoding among those that the caller reads, for the answer: the request's own, or else the first that we
/// know, which may be none. Libraries list what they are able to read with every call, `identity` first; a client that
/// compresses what it sends, or puts an encoding first, asks for it.
pub fn negotiate(headers: &mut HeaderMap) {
    let listed = headers.get(ACCEPTED).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let listed = || listed.split(',').filter_map(|name| known(name.trim()));
    let sent = headers.get(ENCODING).and_then(|value| value.to_str().ok()).and_then(known);
    let chosen = listed().find(|name| *name != IDENTITY && Some(*name) == sent).or_else(|| listed().next());
    match chosen.filter(|name| *name != IDENTITY) {
        Some(name) => headers.insert(ACCEPTED, HeaderValue::from_static(name)),
        None => headers.remove(ACCEPTED),
    };
}

const IDENTITY: &str = "identity";

fn known(name: &str) -> Option<&'static str> {
    [IDENTITY, "gzip", "zstd"].into_iter().find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_as_the_client_asks() {
        for (sent, listed, chosen) in [
            // What grpcio and C++ send with every call, and what they send when they compress.
            (None, Some("identity, deflate, gzip"), None),
            (Some("gzip"), Some("identity, deflate, gzip"), Some("gzip")),
            // Tonic and Java.
            (None, Some("gzip,identity"), Some("gzip")),
            (None, Some("zstd,gzip,identity"), Some("zstd")),
            (Some("zstd"), Some("gzip,zstd,identity"), Some("zstd")),
            (None, Some("gzip"), Some("gzip")),
            // It does not read what it sends, or sends what we do not know.
            (Some("gzip"), None, None),
            (Some("zstd"), Some("identity,gzip"), None),
            (Some("snappy"), Some("snappy,gzip"), Some("gzip")),
            (Some("identity"), Some("gzip,identity"), Some("gzip")),
            (None, Some("br"), None),
            (None, None, None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(ENCODING, sent), (ACCEPTED, listed)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            negotiate(&mut headers);
            let left = headers.get(ACCEPTED).map(|value| value.to_str().expect("ASCII"));
            assert_eq!(left, chosen, "{sent:?} {listed:?}");
        }
    }
}
