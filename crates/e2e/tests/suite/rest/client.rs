//! A client that sends what it is told, byte for byte.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mi_e2e::World;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Requests with one credential, or none.
#[derive(Clone)]
pub(crate) struct Rest {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    key: Option<String>,
}

/// What came back, whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Rest {
    pub(crate) fn new(base: &str, key: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, base: base.to_owned(), key: Some(key.to_owned()) }
    }

    /// The same without a credential.
    pub(crate) fn unknown(&self) -> Self {
        Self { key: None, ..self.clone() }
    }

    /// As an operator of a new account.
    pub(crate) async fn of_account(world: &World, name: &str) -> Self {
        let admin = Self::new(world.platform.endpoint(), world.platform.admin_key());
        let made = admin.json(Method::POST, "/v1/accounts", &json!({"name": name})).await.ok();
        Self { key: made["secret"].as_str().map(str::to_owned), ..admin }
    }

    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(Full::from(body.to_vec())).expect("a request");
        self.client.request(request).await.expect("answered")
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let (head, body) = self.open(method, path, headers, body).await.into_parts();
        let body = body.collect().await.expect("whole").to_bytes().to_vec();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) async fn json(&self, method: Method, path: &str, body: &Value) -> Answer {
        self.send(method, path, &[("content-type", "application/json")], body.to_string().as_bytes()).await
    }

    pub(crate) async fn empty(&self, method: Method, path: &str) -> Answer {
        self.send(method, path, &[], &[]).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.empty(Method::GET, path).await
    }

    /// Writes these bytes to a connection, ends its half of it, and reads what comes until the other end closes.
    pub(crate) async fn raw(&self, request: &[u8]) -> String {
        let address = self.base.strip_prefix("http://").expect("plain HTTP");
        let mut connection = TcpStream::connect(address).await.expect("connected");
        connection.write_all(request).await.expect("written");
        connection.shutdown().await.expect("ended");
        let mut answer = Vec::new();
        // Whoever sends nonsense may be cut off.
        let _ = connection.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The head of a request for [`Self::raw`], whose length and end are the caller's.
    pub(crate) fn head(&self, line: &str) -> String {
        let key = self.key.as_deref().unwrap_or_default();
        format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n")
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON of an answer that went well.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The status, the code of gRPC and the reason of an answer that did not.
    pub(crate) fn refusal(&self) -> (u16, String, String) {
        let body: Value =
            serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}: {}", self.status, self.text()));
        let error = &body["error"];
        assert_eq!(error["code"], self.status, "{body}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        let info = error["details"].as_array().and_then(|details| {
            details.iter().find(|detail| detail["@type"] == "type.googleapis.com/google.rpc.ErrorInfo").cloned()
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (self.status, text(&error["status"]), text(&info.unwrap_or_default()["reason"]))
    }

    /// The fields that an answer names as wrong.
    pub(crate) fn fields(&self) -> Vec<String> {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let details = body["error"]["details"].as_array().cloned().unwrap_or_default();
        let violations = details.iter().filter_map(|detail| detail["fieldViolations"].as_array()).flatten();
        violations.filter_map(|violation| violation["field"].as_str().map(str::to_owned)).collect()
    }
}
