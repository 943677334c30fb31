//! Calls by path and dynamic message, and what their answers mean.

use std::fmt;

use http::uri::PathAndQuery;
use mi_client::Credential;
use mi_e2e::LIMIT;
use mi_kernel::{Clock, SystemClock};
use mi_proto::v1::Caller;
use mi_testkit::until;
use prost_reflect::{DynamicMessage, prost::Message};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Bytes, tokio_stream},
    transport::Channel,
};
use tonic_types::StatusExt;

use super::{cases::Row, harness::Place};

/// The first message of an answer, or the refusal.
pub(super) type Answer = Result<Bytes, Status>;

/// What an answer means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The request was looked at, whatever came of it.
    LetIn,
    /// PERMISSION_DENIED.
    Denied,
    /// NOT_FOUND: what the request is about is not there for the caller.
    NotFound,
    /// UNAUTHENTICATED: the platform does not know the caller.
    Unauthenticated,
    /// UNIMPLEMENTED, as for any method that does not exist.
    NoSuchRpc,
    /// An answer that no RPC may give here.
    Broken(Code),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LetIn => f.pad("yes"),
            Self::Denied => f.pad("no"),
            Self::NotFound => f.pad("not found"),
            Self::Unauthenticated => f.pad("who?"),
            Self::NoSuchRpc => f.pad("no RPC"),
            Self::Broken(code) => f.pad(&format!("{code:?}")),
        }
    }
}

impl Outcome {
    /// Of an answer to this RPC, where a caller whom the platform does not know is told `unknown`, if that is one.
    pub(super) fn of(answer: &Answer, row: &Row, unknown: &Answer, no_such: &Answer) -> Self {
        let Err(status) = answer else {
            return Self::LetIn;
        };
        match status.code() {
            Code::PermissionDenied => Self::Denied,
            Code::Unauthenticated if shape(answer) == shape(unknown) => Self::Unauthenticated,
            // The secret that the request itself carries was looked at, or there were too many of that.
            Code::Unauthenticated | Code::ResourceExhausted if row.lists(&[Caller::Anyone]) => Self::LetIn,
            Code::Unimplemented if shape(answer) == shape(no_such) => Self::NoSuchRpc,
            Code::NotFound => {
                let missing = status.get_details_resource_info().map(|info| info.resource_type);
                match row.subject() {
                    Some(subject) if missing.as_deref().is_none_or(|missing| missing == subject) => Self::NotFound,
                    _ => Self::LetIn,
                }
            }
            Code::InvalidArgument | Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => Self::LetIn,
            code => Self::Broken(code),
        }
    }
}

/// All that tells one refusal from another: code, message and details.
fn shape(answer: &Answer) -> (Code, String) {
    match answer {
        Ok(message) => (Code::Ok, message.escape_ascii().to_string()),
        Err(status) => (status.code(), format!("{} {}", status.message(), status.details().escape_ascii())),
    }
}

/// The same, but for the ids that the request named.
pub(super) fn shape_at(answer: &Answer, place: &Place) -> (Code, String) {
    let (code, text) = shape(answer);
    (code, place.mask(&text))
}

/// Calls an RPC with one message and reads the first of its answer.
pub(super) async fn call(channel: &Channel, path: &str, message: &DynamicMessage, credential: &Credential) -> Answer {
    let path: PathAndQuery = path.parse().expect("paths of the descriptors are paths");
    let bytes = Bytes::from(message.encode_to_vec());
    until(&format!("{path} is answered"), LIMIT, async || {
        let mut request = Request::new(tokio_stream::once(bytes.clone()));
        if let Some(bearer) = bearer(credential) {
            request.metadata_mut().insert("authorization", bearer.parse().expect("ASCII"));
        }
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.map_err(|error| error.to_string())?;
        let answer = match grpc.streaming(request, path.clone(), Raw).await {
            Ok(response) => response.into_inner().message().await,
            Err(status) => Err(status),
        };
        match answer {
            Ok(message) => Ok(Some(Ok(message.unwrap_or_default()))),
            // Strangers share a bucket that a walk over every RPC empties.
            Err(status) if is_limited(&status) => Err(status.to_string()),
            Err(status) => Ok(Some(Err(status))),
        }
    })
    .await
}

fn is_limited(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == "RATE_LIMITED")
}

fn bearer(credential: &Credential) -> Option<String> {
    let secret = match credential {
        Credential::None => return None,
        Credential::ApiKey(key) => key.expose().to_owned(),
        Credential::Agent { agent_id, key } => {
            key.current().token(*agent_id, SystemClock.now()).expect("a key that was loaded signs")
        }
    };
    Some(format!("Bearer {secret}"))
}

/// Messages as the bytes that they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length)))
    }
}
