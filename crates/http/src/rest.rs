//! REST: the public RPCs by the paths of their `google.api.http` annotations, in JSON.
//!
//! Names are in snake_case, errors are those of `google.rpc`, and files and backups are bytes.

pub(crate) mod bind;
#[cfg(test)]
mod bind_tests;
mod conditions;
mod download;
pub(crate) mod events;
pub(crate) mod query;
pub(crate) mod routes;
pub(crate) mod template;
mod upload;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as HttpMethod, StatusCode, header};
use mi_kernel::{Error, ErrorKind};
use mi_rpc::{HttpRequest, HttpResponse, status};
use prost::Message;
use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value};
use tonic::{Status, body::Body};

use self::{
    bind::Asked,
    conditions::Write,
    events::Shape,
    query::Query,
    routes::{Form, Route},
};
use crate::{
    body,
    byte_path::{BytePath, Caller},
    json::{self, Style},
    refusal::{self, invalid, json_answer},
};

/// The longest path that is looked at, in bytes: every one that leads somewhere is shorter.
const MAX_PATH: usize = 8 << 10;
/// Header in which a client says how long it waits, in seconds.
const TIMEOUT: &str = "x-server-timeout";

/// Answers a request.
pub(crate) async fn serve(gateway: &BytePath, request: HttpRequest) -> HttpResponse {
    let wants_body = request.method() != HttpMethod::HEAD;
    let response = answer(gateway, request).await.unwrap_or_else(|refused| refused);
    if wants_body { response } else { without_body(response) }
}

/// The head of an answer, with what it says of the body that is left out.
pub(crate) fn without_body(response: HttpResponse) -> HttpResponse {
    let (mut head, body) = response.into_parts();
    if let Some(length) = http_body::Body::size_hint(&body).exact() {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    HttpResponse::from_parts(head, Body::empty())
}

async fn answer(gateway: &BytePath, request: HttpRequest) -> Result<HttpResponse, HttpResponse> {
    let (mut parts, body) = request.into_parts();
    if parts.method == HttpMethod::HEAD {
        // Only GET has parts.
        parts.headers.remove(header::RANGE);
    }
    let refuse = |refused: Status| refusal::rest(&refused);
    let query = Query::parse(parts.uri.query()).map_err(refuse)?;
    let path = Some(parts.uri.path()).filter(|path| path.len() <= MAX_PATH);
    let Some((place, values)) = path.and_then(routes::find) else {
        let text = "there is nothing at this path; /openapi.json lists what there is";
        return Err(refusal::rest(&status(Error::new(ErrorKind::NotFound, "NOT_FOUND", text))));
    };
    let Some(route) = place.route(&parts.method) else {
        return Err(refusal::not_for(&parts.method, &place.allowed()));
    };
    let caller = match deadline(&parts.headers).map_err(refuse)? {
        Some(limit) => Caller::of(&parts).within(limit),
        None => Caller::of(&parts),
    };
    let asked = Asked::new(route, &values, query).map_err(refuse)?;
    // Only what was asked on a condition has failed for one.
    let is_conditional = [header::IF_MATCH, header::IF_NONE_MATCH].iter().any(|name| parts.headers.contains_key(name));
    let refuse = |refused: Status| match refusal::rest_status(&refused) {
        StatusCode::PRECONDITION_FAILED if !is_conditional => refusal::rest_as(&refused, StatusCode::CONFLICT),
        code => refusal::rest_as(&refused, code),
    };
    let served = match &route.form {
        Form::Unary => unary(gateway, caller, asked, parts.headers, body).await,
        Form::Events(_) => {
            let shape = Shape::of(&parts.headers);
            let message = async move {
                let mut message = body::in_time(asked.message(&parts.headers, body)).await?;
                events::resume(route, &parts.headers, &mut message)?;
                Ok(wire(&message))
            };
            let answer = gateway.open(caller, &route.method.path, futures::stream::once(message)).await;
            answer.map(|answer| events::streamed(route, shape, answer))
        }
        Form::Download { .. } => download::serve(gateway, &caller, &asked, &parts.headers, body).await,
        Form::Upload { .. } => upload::serve(gateway, caller, asked, parts.headers, body).await,
    };
    served.map_err(refuse)
}

async fn unary(
    gateway: &BytePath,
    caller: Caller,
    asked: Asked,
    headers: HeaderMap,
    body: Body,
) -> Result<HttpResponse, Status> {
    let route = asked.route;
    let message = async move {
        let mut message = asked.message(&headers, body).await?;
        on_condition(&headers, &mut message)?;
        Ok(wire(&message))
    };
    let answer = gateway.unary(caller, &route.method.path, message).await?;
    respond(route, answer)
}

/// The one answer of a call.
fn respond(route: &Route, message: Bytes) -> Result<HttpResponse, Status> {
    let decoded = DynamicMessage::decode(route.method.output.clone(), message);
    let message = answered(route, decoded.map_err(|error| Status::internal(error.to_string()))?);
    let mut response = json_answer(json::written(&message, Style::Plain).map_err(status)?);
    if let Some(etag) = download::revision(&message) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// What is answered of a message: the field that the route names, or all where there is a list besides, as of what was claimed with
/// a report: its tasks must not be lost.
fn answered(route: &Route, message: DynamicMessage) -> DynamicMessage {
    let named = route.response.as_ref().filter(|_| !message.fields().any(|(field, _)| field.is_list()));
    let field = named.and_then(|field| message.get_field(field).as_message().cloned());
    field.unwrap_or(message)
}

fn wire(message: &DynamicMessage) -> Bytes {
    message.encode_to_vec().into()
}

/// Where a change takes the revision that it is made over, the headers of HTTP name it as well.
fn on_condition(headers: &HeaderMap, message: &mut DynamicMessage) -> Result<(), Status> {
    let descriptor = message.descriptor();
    let field = |name, kind| descriptor.get_field_by_name(name).filter(|field| field.kind() == kind);
    let (Some(revision), Some(force)) = (field("if_revision", Kind::Int64), field("force", Kind::Bool)) else {
        return Ok(());
    };
    let Some(write) = Write::of(headers)? else {
        return Ok(());
    };
    if message.has_field(&revision) || message.has_field(&force) {
        return Err(invalid("query", "names a condition, and so do the headers; send one of the two"));
    }
    match write {
        Write::Revision(number) => message.set_field(&revision, Value::I64(number)),
        Write::Any => message.set_field(&force, Value::Bool(true)),
    }
    Ok(())
}

/// How long the client waits.
fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let seconds = value.to_str().ok().and_then(|text| text.parse::<f64>().ok());
    let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|limit| !limit.is_zero());
    limit.map(Some).ok_or_else(|| invalid(TIMEOUT, "must be seconds, such as `30` or `0.5`"))
}

/// The status of an answer that says nothing but that.
fn bare(code: StatusCode) -> HttpResponse {
    let mut response = HttpResponse::new(Body::empty());
    *response.status_mut() = code;
    response
}
