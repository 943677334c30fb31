//! A client of the protocol over gRPC, with as much of its messages as the tests look at.

use mi_e2e::World;
use prost::Message;
use tonic::{
    Code, Request,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

pub(super) const COMPLETED: i32 = 3;

#[derive(Clone, PartialEq, Message)]
struct SendMessageRequest {
    #[prost(string, tag = "1")]
    tenant: String,
    #[prost(message, optional, tag = "2")]
    message: Option<Said>,
}

#[derive(Clone, PartialEq, Message)]
struct Said {
    #[prost(string, tag = "1")]
    message_id: String,
    #[prost(int32, tag = "4")]
    role: i32,
    #[prost(message, repeated, tag = "5")]
    parts: Vec<Part>,
    #[prost(message, optional, tag = "6")]
    metadata: Option<prost_types::Struct>,
}

#[derive(Clone, PartialEq, Message)]
struct Part {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct SendMessageResponse {
    #[prost(message, optional, tag = "1")]
    task: Option<Task>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Task {
    #[prost(message, optional, tag = "3")]
    status: Option<Status>,
    #[prost(message, repeated, tag = "4")]
    artifacts: Vec<Artifact>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    state: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Artifact {
    #[prost(message, repeated, tag = "4")]
    parts: Vec<Part>,
}

impl Task {
    pub(super) fn state(&self) -> i32 {
        self.status.as_ref().map(|status| status.state).unwrap_or_default()
    }

    pub(super) fn result(&self) -> String {
        self.artifacts
            .first()
            .and_then(|artifact| artifact.parts.first())
            .map(|part| part.text.clone())
            .unwrap_or_default()
    }
}

async fn call(
    world: &World,
    method: &'static str,
    key: Option<&str>,
    message: SendMessageRequest,
) -> Result<SendMessageResponse, tonic::Status> {
    let endpoint = Endpoint::from_shared(world.platform.endpoint().to_owned()).expect("a URL");
    let mut client: Grpc<Channel> = Grpc::new(endpoint.connect().await.expect("connected"));
    client.ready().await.expect("ready");
    let mut request = Request::new(message);
    if let Some(key) = key {
        let value = MetadataValue::try_from(format!("Bearer {key}")).expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    let path = http::uri::PathAndQuery::from_static(method);
    client.unary(request, path, ProstCodec::default()).await.map(tonic::Response::into_inner)
}

fn message(tenant: &str, id: &str, script: &str) -> SendMessageRequest {
    let kind = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("command".into())) };
    let said = Said {
        message_id: id.into(),
        role: 1,
        parts: vec![Part { text: script.into() }],
        metadata: Some(prost_types::Struct { fields: [("mi.kind".into(), kind)].into() }),
    };
    SendMessageRequest { tenant: tenant.into(), message: Some(said) }
}

/// Has a script run, as the administrator.
pub(super) async fn send(world: &World, tenant: &str, id: &str, script: &str) -> Task {
    let sent =
        call(world, "/lf.a2a.v1.A2AService/SendMessage", Some(world.platform.admin_key()), message(tenant, id, script));
    sent.await.expect("sent").task.expect("a task")
}

/// How one is refused who is unknown, one who names nobody, and one who calls what is not there.
pub(super) async fn refused(world: &World, office: &str) -> [Code; 3] {
    const SEND: &str = "/lf.a2a.v1.A2AService/SendMessage";
    let key = Some(world.platform.admin_key());
    let nobody = format!("{office}/nobody");
    [
        call(world, SEND, None, message(office, "m", "true")).await.expect_err("unknown").code(),
        call(world, SEND, key, message(&nobody, "m", "true")).await.expect_err("nobody").code(),
        call(world, "/lf.a2a.v1.A2AService/Nothing", key, message(office, "m", "true"))
            .await
            .expect_err("no call")
            .code(),
    ]
}
