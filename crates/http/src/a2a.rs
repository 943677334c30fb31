//! The Agent2Agent protocol, version 1.0: each agent of an office, and the office as a whole, for agents of elsewhere.
//!
//! A message to an agent becomes a task that is kept for it, and the task of the protocol is that task. There are three ways to
//! say the same: gRPC, JSON-RPC and REST. Whichever is taken, the request becomes a message of the protocol ([`METHODS`]), is
//! answered by [`operations`], and the answer is written as it was asked.

mod card;
mod errors;
mod grpc;
mod issuer;
mod json_rpc;
mod message;
mod operations;
mod rest;
mod task;
mod tenant;

use std::sync::{Arc, LazyLock};

use futures::{Stream, StreamExt};
use http::{HeaderMap, Method as HttpMethod};
use http_body::Frame;
use http_body_util::StreamBody;
use mi_rpc::{HttpRequest, HttpResponse};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage};
use serde_json::Value;
use tonic::{Status, body::Body};

pub use self::issuer::{CardIssuer, CardKey};
use self::{operations::Session, tenant::Place};
use crate::{
    byte_path::{BytePath, Caller},
    json::{self, Style},
    mcp::Who,
    methods::Method,
    refusal,
    rest::events::{kept_alive, stream_of},
};

/// Where JSON-RPC is, and below which all agents are.
const PATH: &str = "/a2a";
/// Where gRPC has its methods.
const GRPC: &str = "/lf.a2a.v1.A2AService/";
/// Where the key is that cards are signed with.
const KEYS: &str = "/.well-known/jwks.json";
/// Where a card is, below an agent's address.
const CARD: &str = "/.well-known/agent-card.json";
/// Header that says which version a client speaks.
const VERSION: &str = "a2a-version";
/// Largest request, in bytes.
const MAX_BODY: usize = 4 << 20;

/// Whether a path is of this protocol, over plain HTTP.
pub(crate) fn serves(path: &str) -> bool {
    // At the root there is no card, and it is said where cards are.
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) || [KEYS, CARD].contains(&path)
}

/// Whether a path is of this protocol, over gRPC.
pub(crate) fn serves_grpc(path: &str) -> bool {
    path.starts_with(GRPC)
}

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(mi_proto::A2A_DESCRIPTORS).expect("the descriptor set is produced by the build")
});

/// The methods of the protocol.
static METHODS: LazyLock<Vec<(MethodDescriptor, Method)>> = LazyLock::new(|| {
    let methods = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.map(|method| (method.clone(), Method::of(&method))).collect()
});

/// The method of this name.
fn method(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|(method, _)| method.name() == name).map(|(_, method)| method)
}

/// The door.
#[derive(Clone)]
pub(crate) struct A2a {
    gateway: BytePath,
    issuer: Arc<CardIssuer>,
}

impl A2a {
    pub(crate) fn new(gateway: BytePath, issuer: CardIssuer) -> Self {
        Self { gateway, issuer: Arc::new(issuer) }
    }

    /// Answers a request for a path that [`serves`] knows.
    pub(crate) async fn serve(&self, request: HttpRequest) -> HttpResponse {
        if request.uri().path() == KEYS {
            return match *request.method() {
                HttpMethod::GET => refusal::json_answer(self.issuer.keys().to_string()),
                _ => refusal::not_for(request.method(), "GET"),
            };
        }
        let (parts, body) = request.into_parts();
        let Some(place) = Place::of(parts.uri.path()) else {
            return refusal::rest(&errors::nothing_there());
        };
        let session = self.session(Caller::of(&parts), &parts.headers).await;
        match place.rest.as_str() {
            "" => json_rpc::serve(session, place.tenant, &parts, body).await,
            CARD => match session {
                Ok(session) => card::serve(&session, &place.tenant, &parts.method).await,
                Err(refused) => refusal::rest(&refused),
            },
            rest => match session {
                Ok(session) => self::rest::serve(session, &place.tenant, rest, &parts, body).await,
                Err(refused) => refusal::rest(&refused),
            },
        }
    }

    /// Answers a call over gRPC.
    pub(crate) async fn serve_grpc(&self, request: HttpRequest) -> HttpResponse {
        grpc::serve(self, request).await
    }

    /// Whoever asks, once it is known who that is, and that both speak the same.
    async fn session(&self, caller: Caller, headers: &HeaderMap) -> Result<Session, Status> {
        Who::ask(&self.gateway, caller.clone()).await?;
        if let Some(version) = headers.get(VERSION) {
            let version = version.to_str().unwrap_or_default().trim();
            // Versions of one minor number are the same to clients; nothing at all is taken for the one that there is.
            let is_spoken = version.is_empty() || version == "1" || version == "1.0" || version.starts_with("1.0.");
            if !is_spoken {
                return Err(errors::version(version));
            }
        }
        Ok(Session { gateway: self.gateway.clone(), caller, issuer: self.issuer.clone() })
    }
}

/// A message of the protocol as a value: names in snake_case, and every field that cannot be absent.
fn value(message: &DynamicMessage) -> Result<Value, Status> {
    json::as_value(message, Style::Plain).map_err(mi_rpc::status)
}

/// A value as a message of the protocol.
fn message(descriptor: &MessageDescriptor, value: Value) -> Result<DynamicMessage, Status> {
    DynamicMessage::deserialize(descriptor.clone(), value).map_err(|error| Status::internal(error.to_string()))
}

/// A message of the protocol, in JSON as it is sent.
fn sent(message: &DynamicMessage) -> Result<Value, Status> {
    let mut value = json::as_value(message, Style::Canonical).map_err(mi_rpc::status)?;
    if message.descriptor().name() == "ListTasksResponse" {
        // These are there also when they have nothing to say.
        for (name, empty) in
            [("tasks", Value::from(Vec::<Value>::new())), ("nextPageToken", "".into()), ("totalSize", 0.into())]
        {
            if value.get(name).is_none() {
                value[name] = empty;
            }
        }
    }
    Ok(value)
}

/// An answer in events, each of them a text in JSON, with a comment wherever nothing is said for long.
fn events(texts: impl Stream<Item = String> + Send + 'static) -> HttpResponse {
    let pieces = kept_alive(texts.map(|text| text.into()));
    let frames = pieces.map(|piece| Ok::<_, Status>(Frame::data(piece)));
    stream_of(Body::new(StreamBody::new(frames)), "text/event-stream")
}
