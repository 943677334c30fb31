//! Compressed messages, and messages that are too large however they come.

use mi_proto::v1::ListActivityRequest;
use tonic::{Code, codec::CompressionEncoding};
use tonic_types::StatusExt;

use crate::{
    on_both_paths,
    stage::{Side, operator},
};

on_both_paths! {
    requests_are_read_in_either_encoding_and_answered_as_asked,
    a_message_is_too_large_however_it_comes,
}

const ENCODINGS: [(CompressionEncoding, &str); 2] =
    [(CompressionEncoding::Gzip, "gzip"), (CompressionEncoding::Zstd, "zstd")];

async fn requests_are_read_in_either_encoding_and_answered_as_asked(side: Side) {
    for (encoding, name) in ENCODINGS {
        let caller = operator(false);
        let key = caller.key();
        let mut client = side.client(caller).send_compressed(encoding);
        // It does not say that it reads any.
        let plain = client.list_activity(ListActivityRequest::default()).await.expect("read");
        assert_eq!(plain.metadata().get("grpc-encoding"), None);
        let mut client = client.accept_compressed(encoding);
        let answer = client.list_activity(ListActivityRequest::default()).await.expect("read");
        assert_eq!(answer.metadata().get("grpc-encoding").and_then(|value| value.to_str().ok()), Some(name));
        assert_eq!([&plain.get_ref().events[0].id, &answer.get_ref().events[0].id], [&key, &key]);
    }
}

async fn a_message_is_too_large_however_it_comes(side: Side) {
    let zeros = ListActivityRequest { agent: "\0".repeat((4 << 20) + 1), ..Default::default() };
    let fits = ListActivityRequest { agent: "\0".repeat((4 << 20) - 16), ..Default::default() };
    let plain = side.client(operator(false));
    let clients = ENCODINGS.map(|(encoding, name)| (plain.clone().send_compressed(encoding), name));
    for (mut client, how) in clients.into_iter().chain([(plain, "plain")]) {
        let refused = client.list_activity(zeros.clone()).await.expect_err("too large");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{how}: {refused:?}");
        assert_eq!(refused.get_details_error_info().expect("always there").reason, "MESSAGE_TOO_LARGE", "{how}");
        assert!(refused.message().contains("4194304 bytes"), "{how}: {}", refused.message());
        client.list_activity(fits.clone()).await.expect("it fits");
    }
}
