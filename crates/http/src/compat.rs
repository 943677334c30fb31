//! The routes of the hosted product that people come from: they change the base URL of their programs, nothing else.
//!
//! `routes.rs` is the table. Each request becomes one or a few calls of the public API as its sender; what differs is names
//! and shapes: lists are bare arrays, nothing is 204 without a body, errors are `{error, message, code}`, and fields of two
//! words have both spellings.

mod agents;
mod answer;
mod ask;
mod backups;
mod changes;
mod chat;
mod credits;
mod fields;
mod files;
mod integrations;
mod invites;
mod list;
mod offices;
mod routes;
mod shape;
mod task_notes;
mod tasks;

#[cfg(test)]
mod tests;

use std::time::Duration;

use mi_rpc::{HttpRequest, HttpResponse};
use tonic::Status;

pub(crate) use self::answer::refused;
use crate::byte_path::BytePath;

/// What a handler answers.
type Reply = Result<HttpResponse, Status>;
/// How long a request may take, but for streams and uploads: less than that client waits, which is 30 s.
const LIMIT: Duration = Duration::from_secs(25);

/// Whether a path is one of these.
pub(crate) fn serves(path: &str) -> bool {
    path == "/healthz" || path == "/api" || path.starts_with("/api/")
}

/// Answers a request.
pub(crate) async fn serve(gateway: &BytePath, request: HttpRequest) -> HttpResponse {
    let found = match routes::find(request.method(), request.uri().path()) {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let ask = ask::Ask::new(gateway.clone(), request, found.parts);
    (found.handler)(ask).await.unwrap_or_else(|refused| answer::refused(&refused))
}
