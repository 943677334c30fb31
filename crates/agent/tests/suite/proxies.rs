//! The platform's proxies, as far as an agent can tell: the fake model behind them, and servers of the tests' own.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::body::Body;

use crate::platform::Platform;

/// What came for the proxies.
pub(crate) struct Proxies {
    /// Who serves models.
    pub(crate) model: Mutex<Option<SocketAddr>>,
    /// Path and query of each request with a good token, and the task that it was for.
    pub(crate) asked: Mutex<Vec<(String, Option<String>)>>,
    /// Parts of the answer of `/llm/slow`, which ends with this.
    pub(crate) parts: Mutex<Option<mpsc::Receiver<&'static str>>>,
    /// Requests and answers that are under way.
    pub(crate) open: Arc<watch::Sender<usize>>,
}

impl Default for Proxies {
    fn default() -> Self {
        Self {
            model: Mutex::default(),
            asked: Mutex::default(),
            parts: Mutex::default(),
            open: Arc::new(watch::Sender::new(0)),
        }
    }
}

/// A request or an answer that is under way.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(proxies: &Proxies) -> Self {
        proxies.open.send_modify(|count| *count += 1);
        Self(proxies.open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Platform {
    /// Answers a request for one of the proxies.
    pub(crate) async fn proxied(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let said = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        if let Err(refused) = self.known(said("authorization")) {
            return answer(StatusCode::UNAUTHORIZED, refused.message().to_owned());
        }
        let (path, task) = (parts.uri.path_and_query().expect("a path").as_str(), said("mi-task-id"));
        self.proxies.asked.lock().expect("lock").push((path.to_owned(), task.map(str::to_owned)));
        let open = Open::new(&self.proxies);
        match parts.uri.path() {
            "/llm/hang" => std::future::pending().await,
            "/llm/slow" => {
                let pieces = self.proxies.parts.lock().expect("lock").take().expect("parts");
                let pieces = ReceiverStream::new(pieces).map(move |piece| {
                    let _ = &open;
                    Ok::<_, std::io::Error>(Bytes::from(piece))
                });
                let pieces = http_body_util::StreamBody::new(pieces.map(|piece| piece.map(http_body::Frame::data)));
                Response::new(Body::new(pieces))
            }
            path if path.starts_with("/llm/echo") || path.starts_with("/proxy/") || path == "/mcp" => {
                let body = body.collect().await.expect("whole").to_bytes();
                let headers: Value = parts
                    .headers
                    .iter()
                    .filter(|(name, _)| *name != header::AUTHORIZATION)
                    .map(|(name, value)| (name.to_string(), value.to_str().expect("text").into()))
                    .collect::<serde_json::Map<_, _>>()
                    .into();
                let whole = parts.uri.path_and_query().map(ToString::to_string);
                let body = String::from_utf8_lossy(&body);
                let echo = json!({
                    "method": parts.method.as_str(), "path": whole, "headers": headers, "body": body,
                });
                let mut response = answer(StatusCode::CREATED, echo.to_string());
                response.headers_mut().insert("x-of-the-vendor", header::HeaderValue::from_static("kept"));
                response
            }
            _ => self.ask_model(parts, body).await,
        }
    }

    /// `/llm/PROVIDER/PATH` is PATH of the model.
    async fn ask_model(&self, parts: http::request::Parts, body: Body) -> Response<Body> {
        let model = self.proxies.model.lock().expect("lock").expect("a model");
        let path = parts.uri.path_and_query().expect("a path").as_str();
        let path = path.splitn(4, '/').nth(3).expect("a provider");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let body = body.collect().await.expect("whole").to_bytes();
        let request = http.request(parts.method, format!("http://{model}/{path}")).body(body);
        let answered = request.header("content-type", "application/json").send().await.expect("answers");
        Response::<reqwest::Body>::from(answered).map(Body::new)
    }
}

fn answer(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response
}
