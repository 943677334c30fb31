//! The neighbour's agent reads what is not its office's: every RPC that only reads, taken from the descriptor set.

use mi_proto::rules::{self, POOL};
use prost_reflect::{DynamicMessage, Value};
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

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
fn request(path: &str, office_id: &str) -> Option<DynamicMessage> {
    let (service, method) = path.trim_start_matches('/').split_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    let input = service.methods().find(|found| found.name() == method)?.input();
    let field = input.get_field_by_name("office_id")?;
    let mut message = DynamicMessage::new(input);
    message.set_field(&field, Value::String(office_id.to_owned()));
    Some(message)
}

async fn call(neighbour: &Neighbour, path: &'static str, request: DynamicMessage) -> Result<(), Status> {
    let mut grpc = Grpc::new(neighbour.client.wire());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    // What is answered is not looked at. A stream says that it is refused at once, or it is not.
    let codec = ProstCodec::<DynamicMessage, ()>::default();
    let mut answers = grpc.server_streaming(Request::new(request), path, codec).await?.into_inner();
    let first = tokio::time::timeout(std::time::Duration::from_secs(5), answers.message()).await;
    match first {
        Ok(Err(status)) => Err(status),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
