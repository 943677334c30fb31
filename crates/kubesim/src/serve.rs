//! HTTP: from a request to what is done, with the faults that it meets.

use std::{future, io, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, Request as HttpRequest, Response, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use crate::{
    answer::{Answer, Call, answer, forbidden},
    discovery,
    faults::Fault,
    partial::Shape,
    record::Request,
    refusal::Refusal,
    route::{self, Asked, Query},
    shared::Core,
    watch,
    write::Writer,
};

type Body = BoxBody<Bytes, io::Error>;

/// Bytes of the largest body.
const MOST_BYTES: usize = 3 * 1024 * 1024;

/// Serves until it is dropped.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else { continue };
        // Small answers would otherwise wait for the client's acknowledgement.
        let _ = stream.set_nodelay(true);
        let core = core.clone();
        let service = hyper::service::service_fn(move |request| handle(core.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // A client may come back on its connection after any time.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            // How a connection ends is the client's business, or that of a fault.
            let _ = connection.await;
        });
    }
}

fn header(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn disconnect() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "disconnected on demand")
}

async fn handle(core: Arc<Core>, request: HttpRequest<Incoming>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let query = Query::of(&parts.uri);
    let asked = route::resource(&parts.method, &parts.uri, &query);
    let note = note(&parts, &query, asked.as_ref().and_then(|asked| asked.as_ref().ok()));
    let (latency, fault) = core.faults().meet(&note, !query.text("continue").is_empty());
    let id = core.remember(note.clone());
    sleep(latency).await;
    match &fault {
        Some(Fault::Disconnect) => return Err(disconnect()),
        Some(Fault::Hang) => return future::pending().await,
        _ => {}
    }
    let shape = Shape::accepted(header(&parts.headers, header::ACCEPT));
    let body = match Limited::new(body, MOST_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let refusal = Refusal::new(413, "RequestEntityTooLarge", format!("Request entity too large: {error}"));
            return Ok(respond(&core, id, shape, Err(refusal)));
        }
    };
    let asked = match asked {
        Some(Ok(asked)) => asked,
        Some(Err(refusal)) => return Ok(respond(&core, id, shape, Err(refusal))),
        None => return Ok(respond(&core, id, Shape::Whole, document(parts.uri.path(), fault))),
    };
    let refused = match &fault {
        Some(Fault::Status(code)) => Some(Refusal::server(*code)),
        Some(Fault::Throttle(seconds)) => Some(Refusal::server(429).retry_after(*seconds)),
        Some(Fault::Forbid) => Some(forbidden(&asked)),
        _ => None,
    };
    if let Some(refusal) = refused {
        return Ok(respond(&core, id, shape, Err(refusal)));
    }
    if asked.verb == "watch" {
        let left = match fault {
            Some(Fault::BreakWatch(left)) => Some(left),
            _ => None,
        };
        let hang = fault == Some(Fault::HangWatch);
        return Ok(match watch::open(&core, &asked, &query, shape, hang, left) {
            Ok(lines) => {
                core.answered(id, 200);
                json_response(200, StreamBody::new(lines.map_ok(Frame::data)).boxed())
            }
            Err(refusal) => respond(&core, id, shape, Err(refusal)),
        });
    }
    let call = Call {
        by: writer(&asked, &query, &note),
        asked: &asked,
        query: &query,
        content_type: &note.content_type,
        body: &body,
    };
    let stale = core.stale();
    let answered = core.change(|world| answer(world, &call, stale, fault == Some(Fault::LosePage)));
    if fault == Some(Fault::LoseAnswer) {
        return Err(disconnect());
    }
    Ok(respond(&core, id, shape, answered))
}

fn note(parts: &http::request::Parts, query: &Query, asked: Option<&Asked>) -> Request {
    let text = |of: fn(&Asked) -> &str| asked.map(of).unwrap_or_default().to_owned();
    let method = parts.method.as_str().to_lowercase();
    Request {
        verb: asked.map_or(method, |asked| asked.verb.to_owned()),
        group: text(|asked| asked.kind.group),
        resource: text(|asked| asked.kind.resource),
        subresource: text(|asked| &asked.subresource),
        namespace: text(|asked| &asked.namespace),
        name: text(|asked| &asked.name),
        address: parts.uri.to_string(),
        user_agent: header(&parts.headers, header::USER_AGENT).to_owned(),
        field_manager: query.text("fieldManager").to_owned(),
        content_type: header(&parts.headers, header::CONTENT_TYPE).to_owned(),
        status: 0,
    }
}

/// Who writes: the manager that is named, else the first word of the user agent. Who applies has to name one.
fn writer(asked: &Asked, query: &Query, note: &Request) -> Writer {
    let applies = note.content_type.starts_with("application/apply-patch");
    let agent = note.user_agent.split('/').next().filter(|agent| !agent.is_empty()).unwrap_or("unknown");
    let name = match query.text("fieldManager") {
        "" if applies => "",
        "" => agent,
        named => named,
    };
    Writer {
        name: name.to_owned(),
        subresource: asked.subresource.clone(),
        dry_run: query.text("dryRun") == "All",
        force: query.flag("force"),
    }
}

fn document(path: &str, fault: Option<Fault>) -> Result<Answer, Refusal> {
    match fault {
        Some(Fault::Status(code)) => return Err(Refusal::server(code)),
        Some(Fault::Throttle(seconds)) => return Err(Refusal::server(429).retry_after(seconds)),
        _ => {}
    }
    if matches!(path, "/healthz" | "/livez" | "/readyz") {
        return Ok(Answer::Text("ok".to_owned()));
    }
    discovery::document(path).map(|document| Answer::Object(200, document)).ok_or_else(Refusal::no_such_path)
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn respond(core: &Core, id: u64, shape: Shape, answered: Result<Answer, Refusal>) -> Response<Body> {
    match answered {
        Ok(Answer::Object(status, object)) => {
            core.answered(id, status);
            json_response(status, full(shape.show(object).to_string()))
        }
        Ok(Answer::Text(text)) => {
            core.answered(id, 200);
            let mut response = Response::new(full(text));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
        Err(refusal) => {
            core.answered(id, refusal.code);
            let status: Value = refusal.status();
            let mut response = json_response(refusal.code, full(status.to_string()));
            if let Some(seconds) = refusal.retry_after_seconds() {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        }
    }
}

fn json_response(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
