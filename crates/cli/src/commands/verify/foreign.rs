//! The neighbour's agent reads what is not its office's: every RPC that only reads, taken from the descriptor set.

use mi_proto::rules::{self, POOL};
use prost::bytes::{Buf, BufMut};
use prost_reflect::{DynamicMessage, Value};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

use super::{Report, neighbour::Neighbour};
use crate::failure::Failure;

/// How RPCs begin that only read. Others are left alone: where a layer is missing they would do what they say.
const READING: [&str; 6] = ["Get", "List", "Watch", "Tail", "Download", "Stat"];

pub(super) async fn probe(report: &mut Report, neighbour: &Neighbour, office_id: &str) -> Result<(), Failure> {
    let mut paths: Vec<&'static str> = rules::all().map(|rule| rule.path).filter(|path| reads(path)).collect();
    paths.sort_unstable();
    for path in paths {
        let Some(request) = request(path, office_id) else { continue };
        let outcome = match call(neighbour, path, request).await {
            Ok(()) => Ok("it was answered".to_owned()),
            Err(status) if status.code() == Code::NotFound => Err("NOT_FOUND".to_owned()),
            Err(status) => Ok(format!("{:?}: {}", status.code(), status.message())),
        };
        report.refused("calls", format!("{} as an agent of another colony", path.trim_start_matches('/')), outcome);
    }
    Ok(())
}

fn reads(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    path.starts_with("/mi.v1.") && READING.iter().any(|verb| method.starts_with(verb))
}

/// A request about this office; none: the RPC is about no office.
fn request(path: &str, office_id: &str) -> Option<Vec<u8>> {
    let (service, method) = path.trim_start_matches('/').split_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    let input = service.methods().find(|found| found.name() == method)?.input();
    let field = input.get_field_by_name("office_id")?;
    let mut message = DynamicMessage::new(input);
    message.set_field(&field, Value::String(office_id.to_owned()));
    Some(prost::Message::encode_to_vec(&message))
}

async fn call(neighbour: &Neighbour, path: &'static str, request: Vec<u8>) -> Result<(), Status> {
    let mut grpc = Grpc::new(neighbour.client.wire());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    // A stream says that it is refused at once, or it is not.
    let mut answers = grpc.server_streaming(Request::new(request), path, Bytes).await?.into_inner();
    let first = tokio::time::timeout(std::time::Duration::from_secs(5), answers.message()).await;
    match first {
        Ok(Err(status)) => Err(status),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}
