//! Programs of the hosted product, which know nothing of this one but its address: plain HTTP, as their client sends it.

mod agents;
mod offices;
mod refusals;
mod rest;
mod tasks;

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mi_e2e::{LIMIT, World};
use mi_proto::v1;
use mi_testkit::{Arrangement, Backend, until};
use serde_json::{Value, json};

/// Longest that that client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program with a key.
#[derive(Clone)]
struct Program {
    http: Client<HttpConnector, Full<Bytes>>,
    endpoint: String,
    key: String,
}

/// What it is answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    bytes: Bytes,
}

impl Answer {
    /// What an answer that went well has in it; null for nothing.
    #[track_caller]
    fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// As that client does: JSON where the type says so, and nothing else.
    #[track_caller]
    fn json(&self) -> Value {
        match self.header("content-type") {
            Some("application/json") => serde_json::from_slice(&self.bytes).expect("JSON, as its type says"),
            None => {
                assert_eq!((self.status, self.bytes.len()), (204, 0), "nothing is 204 without a body");
                Value::Null
            }
            Some(other) => panic!("{other} is no type that this client reads"),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// Status and code of a refusal, which is whole.
    #[track_caller]
    fn refused(&self) -> (u16, String) {
        let body = self.json();
        assert!(self.status >= 400, "{}: {body}", self.status);
        assert!(body["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        assert_eq!((&body["error"], body.as_object().map(serde_json::Map::len)), (&body["message"], Some(3)), "{body}");
        (self.status, body["code"].as_str().expect("text").to_owned())
    }
}

impl Program {
    /// A program of an account of its own.
    async fn start(world: &World, account: &str) -> Self {
        let request = v1::CreateAccountRequest { name: account.into() };
        let made = world.admin.access().create_account(request).await.expect("created").into_inner();
        Self::with(world, &made.secret)
    }

    fn with(world: &World, key: &str) -> Self {
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { http, endpoint: world.platform.endpoint().to_owned(), key: key.to_owned() }
    }

    /// Sends what it is given, as it is.
    async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.endpoint));
        if !self.key.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.key));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("a request");
        let answered = async {
            let (head, body) = self.http.request(request).await.expect("answered").into_parts();
            Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                bytes: body.collect().await.expect("whole").to_bytes(),
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("{method} {path} took too long"))
    }

    async fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], Bytes::new()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.raw("DELETE", path, &[], Bytes::new()).await
    }

    /// Without a body and its type, as that client sends many.
    async fn post_nothing(&self, path: &str) -> Answer {
        self.raw("POST", path, &[], Bytes::new()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.raw("POST", path, &[("content-type", "application/json")], body.to_string().into()).await
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.raw("PATCH", path, &[("content-type", "application/json")], body.to_string().into()).await
    }

    /// A file as a form, as `fetch` writes it.
    async fn upload(&self, path: &str, name: &str, content: &[u8]) -> Answer {
        let head = format!(
            "--XyZ\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nfirst\r\n--XyZ\r\nContent-Disposition: form-data; \
             name=\"file\"; filename=\"{name}\"\r\nContent-Type: text/markdown\r\n\r\n"
        );
        let body = [head.as_bytes(), content, b"\r\n--XyZ--\r\n"].concat();
        self.raw("POST", path, &[("content-type", "multipart/form-data; boundary=XyZ")], body.into()).await
    }

    /// A new office, by its path.
    async fn office(&self, name: &str) -> String {
        let office = self.post("/api/v1/offices", json!({"name": name})).await.ok();
        format!("/api/v1/offices/{}", office["id"].as_str().expect("an id"))
    }

    /// An agent that runs, by its path.
    async fn agent(&self, office: &str, name: &str) -> String {
        self.post(&format!("{office}/employees"), json!({"name": name})).await.ok();
        let agent = format!("{office}/employees/{name}");
        self.until(&agent, "it runs", |agent| agent["status"]["phase"] == "Running").await;
        agent
    }

    /// What is at a path, once it is as wanted.
    async fn until(&self, path: &str, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{path}: {what}"), LIMIT, async || {
            let found = self.get(path).await;
            if found.status == 200 && is_wanted(&found.json()) {
                return Ok(Some(found.json()));
            }
            Err(String::from_utf8_lossy(&found.bytes).into_owned())
        })
        .await
    }
}

/// A platform and a program.
async fn start() -> (World, Program) {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let program = Program::start(&world, "from elsewhere").await;
    (world, program)
}

/// The names of a list's entries.
#[track_caller]
fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a bare list").iter().map(|entry| entry["name"].as_str().expect("a name")).collect()
}
