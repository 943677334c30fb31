//! MCP at `/mcp`, by the protocol's own SDK: tools and resources over the public API, for assistants and for agents.
//!
//! Each request stands for itself: it is authenticated, answered and forgotten, both in the revisions of the protocol that
//! begin with `initialize` and in those that have no beginning.

mod answer;
mod arguments;
mod files;
mod handler;
mod origin;
mod resources;
mod schema;
mod tool_set;
mod tools;
mod wait;
mod who;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use mi_rpc::{HttpRequest, HttpResponse};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use serde_json::Value;
use tokio::time::timeout;
use tonic::body::Body;

use self::handler::Handler;
pub(crate) use self::{wait::is_finished, who::Who};
use crate::{
    Origins, body,
    byte_path::{BytePath, Caller},
    json, refusal,
};

/// Where it is.
pub(crate) const PATH: &str = "/mcp";
/// Largest request, in bytes.
const MAX_BODY: usize = 4 << 20;
/// How long a request may take to come in.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// Between signs of life on a stream that has nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Codes of JSON-RPC.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;

/// The server.
#[derive(Clone)]
pub(crate) struct Mcp {
    gateway: BytePath,
    origins: Arc<Origins>,
    http: StreamableHttpService<Handler, NeverSessionManager>,
}

impl Mcp {
    /// A server whose tools call this gateway. Pages of these origins may use it, besides those of this machine.
    pub(crate) fn new(gateway: BytePath, origins: Origins) -> Self {
        let handler = Handler::new(gateway.clone());
        // Which hosts and origins are fine is decided here: the SDK knows fixed names only.
        let config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .with_sse_keep_alive(Some(KEEP_ALIVE))
            .with_max_request_body_bytes(MAX_BODY)
            .disable_allowed_hosts();
        let http = StreamableHttpService::new(move || Ok(handler.clone()), Arc::default(), config);
        Self { gateway, origins: Arc::new(origins), http }
    }

    /// Answers a request for [`PATH`].
    pub(crate) async fn serve(&self, request: HttpRequest) -> HttpResponse {
        let request = match self.admitted(request).await {
            Ok(request) => request,
            Err(refused) => return *refused,
        };
        let (is_json, text) = (has_json(request.headers()), request.body().clone());
        let response = self.http.handle(request.map(Full::new)).await;
        if is_json && response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            // So the SDK says that it is JSON but no message of the protocol.
            let id = serde_json::from_slice(&text).ok().and_then(|message: Value| message.get("id").cloned());
            let message = "this is no request of JSON-RPC 2.0 as MCP has them: `jsonrpc`, `method` and, for all but \
                           notifications, `id`; one in each body";
            return refusal::json_rpc(StatusCode::BAD_REQUEST, INVALID_REQUEST, message, id);
        }
        response.map(Body::new)
    }

    /// A request of somebody who is let in, read to its end; else the answer to it.
    async fn admitted(&self, request: HttpRequest) -> Result<Request<Bytes>, Box<HttpResponse>> {
        let (mut parts, body) = request.into_parts();
        if !origin::may(&self.origins, &parts) {
            let message = "pages of this origin may not use this server; whoever runs it can allow them";
            return Err(refusal::json_rpc(StatusCode::FORBIDDEN, INVALID_REQUEST, message, None).into());
        }
        let refused = |status| Box::new(refusal::mcp(&status));
        let who = Who::ask(&self.gateway, Caller::of(&parts)).await.map_err(refused)?;
        parts.extensions.insert(Arc::new(who));
        let text = match timeout(BODY_LIMIT, body::whole(body, MAX_BODY)).await {
            Ok(whole) => whole.map_err(refused)?,
            Err(_) => {
                let message = format!("the request did not come in within {} s", BODY_LIMIT.as_secs());
                return Err(refusal::json_rpc(StatusCode::REQUEST_TIMEOUT, INVALID_REQUEST, &message, None).into());
            }
        };
        if parts.method == Method::POST
            && has_json(&parts.headers)
            && let Err(error) = json::check(&text)
        {
            let message = format!("this is no JSON: {error}");
            return Err(refusal::json_rpc(StatusCode::BAD_REQUEST, PARSE_ERROR, &message, None).into());
        }
        Ok(Request::from_parts(parts, text))
    }
}

/// Whether a body is said to be JSON.
fn has_json(headers: &http::HeaderMap) -> bool {
    let name = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    name.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}
