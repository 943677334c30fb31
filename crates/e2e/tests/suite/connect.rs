//! The Connect protocol as any HTTP client speaks it: JSON and protobuf, streams, refusals, and what is no request at all.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mi_e2e::{LIMIT, World};
use mi_proto::v1;
use mi_testkit::{Arrangement, Backend, on_both};
use prost::Message;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const JSON: (&str, &str) = ("content-type", "application/json");
const STREAM: (&str, &str) = ("content-type", "application/connect+json");

/// A client of HTTP/1.1 with the administrator's key.
struct Web {
    client: Client<HttpConnector, Full<Bytes>>,
    world: World,
    bearer: String,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The status, the code and the reason of a refusal.
    fn refused(&self) -> (u16, String, Option<String>) {
        let error = self.json();
        let reason = error["details"][0]["debug"]["reason"].as_str().map(str::to_owned);
        (self.status.as_u16(), error["code"].as_str().unwrap_or_default().to_owned(), reason)
    }
}

impl Web {
    async fn start(backend: Backend, arrangement: Arrangement) -> Self {
        let world = World::start(backend, arrangement).await;
        let bearer = format!("Bearer {}", world.platform.admin_key());
        Self { client: Client::builder(TokioExecutor::new()).build_http(), world, bearer }
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.world.platform.endpoint()));
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", &self.bearer);
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        timeout(LIMIT, self.client.request(request)).await.expect("in time").expect("answered")
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let (head, body) = self.open(method, path, headers, body).await.into_parts();
        let body = timeout(LIMIT, body.collect()).await.expect("in time").expect("whole").to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// A unary call in JSON.
    async fn call(&self, path: &str, request: &Value) -> Answer {
        self.send(Method::POST, &format!("/mi.v1.{path}"), &[JSON], request.to_string()).await
    }

    async fn office(&self, name: &str) -> String {
        let created = self.call("OfficeService/CreateOffice", &json!({"name": name})).await;
        created.json()["office"]["id"].as_str().expect("an id").to_owned()
    }
}

fn envelope(flags: u8, message: &[u8]) -> Bytes {
    let mut envelope = BytesMut::new();
    envelope.put_u8(flags);
    envelope.put_u32(u32::try_from(message.len()).expect("short"));
    envelope.put_slice(message);
    envelope.freeze()
}

/// The messages of a stream that has ended, in JSON, each with its flags.
fn envelopes(mut body: &[u8]) -> Vec<(u8, Value)> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let length = u32::from_be_bytes(body[1..5].try_into().expect("four bytes")) as usize;
        found.push((body[0], serde_json::from_slice(&body[5..5 + length]).expect("JSON")));
        body = &body[5 + length..];
    }
    found
}

on_both! { an_office_and_its_tasks_in_json, streams_go_both_ways }

async fn an_office_and_its_tasks_in_json(backend: Backend) {
    let web = Web::start(backend, Arrangement::OneProcess).await;
    let created = web.call("OfficeService/CreateOffice", &json!({"name": "Über & Söhne"})).await;
    assert_eq!(
        (created.status, &created.headers["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    let office = created.json()["office"].clone();
    assert_eq!((&office["name"], &office["status"]), (&json!("Über & Söhne"), &json!("OFFICE_STATUS_ACTIVE")));
    assert!(office["createdAt"].as_str().is_some_and(|time| time.ends_with('Z')), "{office}");
    let id = office["id"].as_str().expect("an id");

    // Both spellings are read, and a read may be a GET.
    for spelling in ["officeId", "office_id"] {
        let got = web.call("OfficeService/GetOffice", &json!({spelling: id})).await;
        assert_eq!(got.json(), json!({"office": office}), "{spelling}");
    }
    let message = STANDARD_NO_PAD.encode(json!({"officeId": id}).to_string());
    let path = format!("/mi.v1.OfficeService/GetOffice?connect=v1&encoding=json&base64=1&message={message}");
    let got = web.send(Method::GET, &path, &[], "").await;
    assert_eq!((got.status, got.json()), (StatusCode::OK, json!({"office": office})));
    let change = web.send(Method::GET, "/mi.v1.OfficeService/DeleteOffice?message=%7B%7D&encoding=json", &[], "").await;
    assert_eq!((change.status, &change.headers["allow"]), (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap()));

    // What has its default is absent, and numbers of 64 bits are text.
    let task = json!({"officeId": id, "title": "count", "kind": "TASK_KIND_RESEARCH", "dependsOn": [], "priority": 0});
    let created = web.call("TaskService/CreateTask", &task).await.json();
    assert_eq!((&created["task"]["status"], created["task"].get("cost")), (&json!("TASK_STATUS_QUEUED"), None));
    let balance = web.call("CreditService/GetBalance", &json!({"officeId": id})).await.json();
    assert_eq!(balance["balance"]["balance"], "10000000");

    // The same in protobuf.
    let request = v1::GetOfficeRequest { office_id: id.to_owned() }.encode_to_vec();
    let proto = [("content-type", "application/proto")];
    let got = web.send(Method::POST, "/mi.v1.OfficeService/GetOffice", &proto, request).await;
    assert_eq!(got.headers["content-type"], "application/proto");
    let got = v1::GetOfficeResponse::decode(got.body).expect("a message").office.expect("an office");
    assert_eq!((got.id.as_str(), got.name.as_str()), (id, "Über & Söhne"));
}

async fn streams_go_both_ways(backend: Backend) {
    let web = Web::start(backend, Arrangement::OneProcess).await;
    let office = web.office("streams").await;

    // A client's stream: a file in two parts.
    let upload = [
        envelope(0, json!({"header": {"officeId": office, "path": "notes/a.txt"}}).to_string().as_bytes()),
        envelope(0, json!({"chunk": "aGVsbG8g"}).to_string().as_bytes()),
        envelope(0, json!({"chunk": "d29ybGQ="}).to_string().as_bytes()),
    ];
    let answer = web.send(Method::POST, "/mi.v1.DriveService/UploadFile", &[STREAM], upload.concat()).await;
    assert_eq!((answer.status, &answer.headers["content-type"]), (StatusCode::OK, &STREAM.1.parse().unwrap()));
    let found = envelopes(&answer.body);
    assert_eq!((found.len(), found[0].0, &found[0].1["file"]["size"]), (2, 0, &json!("11")), "{found:?}");
    assert_eq!(found[1], (2, json!({})));

    // Half a message is no message, and half a file is none.
    let header = json!({"header": {"officeId": office, "path": "notes/half.txt"}}).to_string();
    let half = [&envelope(0, header.as_bytes())[..], &upload[1][..9]].concat();
    let answer = web.send(Method::POST, "/mi.v1.DriveService/UploadFile", &[STREAM], half).await;
    let found = envelopes(&answer.body);
    assert_eq!(
        (found.len(), found[0].0, &found[0].1["error"]["code"]),
        (1, 2, &json!("invalid_argument")),
        "{found:?}"
    );

    // A server's stream: the file, then how it ended.
    let asked = envelope(0, json!({"officeId": office, "path": "notes/a.txt"}).to_string().as_bytes());
    let answer = web.send(Method::POST, "/mi.v1.DriveService/DownloadFile", &[STREAM], asked).await;
    let found = envelopes(&answer.body);
    let chunks: Vec<_> = found.iter().filter_map(|(_, message)| message["chunk"].as_str()).collect();
    assert_eq!((chunks, found.last()), (vec!["aGVsbG8gd29ybGQ="], Some(&(2, json!({})))));

    // A watch brings what happens while it is open, and ends with its time.
    let asked = envelope(0, json!({"officeId": office}).to_string().as_bytes());
    let headers = [STREAM, ("connect-timeout-ms", "3000")];
    let mut watch = web.open(Method::POST, "/mi.v1.TaskService/WatchTasks", &headers, asked).await;
    web.call("TaskService/CreateTask", &json!({"officeId": office, "title": "seen"})).await;
    let mut seen = BytesMut::new();
    while let Some(frame) = timeout(LIMIT, watch.frame()).await.expect("in time") {
        seen.extend_from_slice(frame.expect("whole").data_ref().expect("data"));
    }
    let found = envelopes(&seen);
    assert_eq!((found[0].0, &found[0].1["task"]["title"]), (0, &json!("seen")), "{found:?}");
    let (flags, end) = found.last().expect("an end");
    assert_eq!((*flags, &end["error"]["code"]), (2, &json!("deadline_exceeded")));

    // Refused before it began: as a stream that ends at once.
    let missing = envelope(0, json!({"officeId": uuid::Uuid::nil()}).to_string().as_bytes());
    let answer = web.send(Method::POST, "/mi.v1.TaskService/WatchTasks", &[STREAM], missing).await;
    let found = envelopes(&answer.body);
    assert_eq!((answer.status, found[0].0, &found[0].1["error"]["code"]), (StatusCode::OK, 2, &json!("not_found")));
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let web = Web::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let office = web.office("mine").await;
    let deep = format!("{{\"name\": {}{}}}", "[".repeat(500), "]".repeat(500));
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(9 << 20));
    for (body, status, code, words) in [
        ("", 400, "invalid_argument", "EOF"),
        ("{", 400, "invalid_argument", "EOF"),
        ("[]", 400, "invalid_argument", "map"),
        ("{\"nam\": \"x\"}", 400, "invalid_argument", "no field `nam`; there are `name`, `request_id`"),
        ("{\"name\": \"x\", \"name\": \"y\"}", 400, "invalid_argument", "`name` is there twice"),
        ("{\"name\": 5}", 400, "invalid_argument", "integer `5`"),
        ("{\"name\": \"x\"} {}", 400, "invalid_argument", "trailing"),
        ("{\"name\": \"\u{0}\"}", 400, "invalid_argument", "control character"),
        (&deep, 400, "invalid_argument", "recursion limit"),
        (&long, 429, "resource_exhausted", "8388608 bytes"),
        ("{\"name\": \"\"}", 400, "invalid_argument", "name"),
    ] {
        let answer = web.send(Method::POST, "/mi.v1.OfficeService/CreateOffice", &[JSON], body.to_owned()).await;
        let (number, told, _) = answer.refused();
        assert_eq!((number, told.as_str()), (status, code), "{:.40}: {:?}", body, answer.body);
        assert!(answer.json()["message"].as_str().expect("a sentence").contains(words), "{:?}", answer.body);
    }
    let grant = json!({"officeId": office, "amount": "9223372036854775808", "reason": "too many"});
    let answer = web.call("CreditService/GrantCredits", &grant).await;
    assert_eq!(answer.refused().1, "invalid_argument", "{:?}", answer.body);

    for (path, headers, status, told) in [
        ("OfficeService/Nope", vec![JSON], 404, Some("unimplemented")),
        ("AgentService/", vec![JSON], 404, Some("unimplemented")),
        ("OfficeService/ListOffices", vec![("content-type", "text/plain")], 415, Some("unknown")),
        ("OfficeService/ListOffices", vec![STREAM], 415, Some("unknown")),
        ("TaskService/WatchTasks", vec![JSON], 415, Some("unknown")),
        ("OfficeService/ListOffices", vec![JSON, ("content-encoding", "br")], 501, Some("unimplemented")),
        ("OfficeService/ListOffices", vec![JSON, ("content-encoding", "gzip")], 400, Some("invalid_argument")),
        ("OfficeService/ListOffices", vec![JSON, ("connect-timeout-ms", "soon")], 400, Some("invalid_argument")),
        ("OfficeService/ListOffices", vec![JSON, ("connect-timeout-ms", "0")], 504, Some("deadline_exceeded")),
        ("OfficeService/ListOffices", vec![JSON, ("authorization", "")], 401, Some("unauthenticated")),
        ("OfficeService/ListOffices", vec![JSON, ("authorization", "Bearer mi_nobody")], 401, Some("unauthenticated")),
        // Whatever else is shown.
        ("OfficeService/ListOffices?access_token=mi_x", vec![JSON], 401, Some("unauthenticated")),
        ("OfficeService/ListOffices", vec![("content-type", "Application/JSON")], 200, None),
        ("OfficeService/GetOffice", vec![("content-type", "application/proto")], 400, Some("invalid_argument")),
    ] {
        let answer = web.send(Method::POST, &format!("/mi.v1.{path}"), &headers, "{}").await;
        assert_eq!(answer.status.as_u16(), status, "{path} {headers:?}: {:?}", answer.body);
        if let Some(told) = told {
            assert_eq!(answer.refused().1, told, "{path} {headers:?}: {:?}", answer.body);
        }
    }
    // Roles speak to each other elsewhere.
    let answer = web.send(Method::POST, "/mi.internal.v1.CredentialService/ResolveApiKey", &[JSON], "{}").await;
    assert_eq!(answer.refused(), (404, "unimplemented".into(), None));

    // What is another's is as missing as what never was.
    let stranger = web.call("AccessService/CreateAccount", &json!({"name": "stranger"})).await.json();
    let bearer = format!("Bearer {}", stranger["secret"].as_str().expect("a key"));
    let unknown = uuid::Uuid::nil().to_string();
    let mut answers = Vec::new();
    for id in [&office, &unknown] {
        let headers = [JSON, ("authorization", bearer.as_str())];
        let body = json!({"officeId": id}).to_string();
        let answer = web.send(Method::POST, "/mi.v1.OfficeService/GetOffice", &headers, body).await;
        assert_eq!(answer.refused(), (404, "not_found".into(), Some("NOT_FOUND".into())));
        let mut told = answer.json();
        for detail in told["details"].as_array_mut().expect("details") {
            detail["value"] = Value::Null;
        }
        answers.push(told.to_string().replace(id.as_str(), "ID"));
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn bodies_are_compressed_as_both_sides_say() {
    let web = Web::start(Backend::Sqlite, Arrangement::ProcessPerRole).await;
    for number in 0..30 {
        web.office(&format!("office number {number}")).await;
    }
    let list = "/mi.v1.OfficeService/ListOffices";
    let plain = web.send(Method::POST, list, &[JSON], "{}").await;
    assert!(plain.body.len() > 4000 && !plain.headers.contains_key("content-encoding"));
    // An empty object, as `gzip` writes it.
    let gzipped: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0, 0x43, 0xbf, 0xa6, 0xa3, 2, 0, 0, 0];
    for encoding in ["gzip", "zstd"] {
        let headers = [JSON, ("content-encoding", "gzip"), ("accept-encoding", encoding)];
        let answer = web.send(Method::POST, list, &headers, gzipped).await;
        assert_eq!(
            (answer.status, answer.headers["content-encoding"].as_bytes()),
            (StatusCode::OK, encoding.as_bytes())
        );
        assert!(answer.body.len() < plain.body.len() / 3, "{encoding}: {}", answer.body.len());
    }
}

#[tokio::test]
async fn each_door_says_no_in_its_own_form() {
    let web = Web::start(Backend::Sqlite, Arrangement::OneProcess).await;
    for (path, reason) in [
        ("/mi.v1.OfficeService/ListOffices", "/code"),
        ("/v1/offices", "/error/status"),
        ("/api/v1/offices", "/code"),
        ("/mcp", "/error/code"),
    ] {
        let packed = web.send(Method::POST, path, &[JSON, ("content-encoding", "br")], "{}").await;
        let shown = web.send(Method::POST, &format!("{path}?access_token=mi_x"), &[JSON], "{}").await;
        let unread = if path.starts_with("/mi.") { 501 } else { 415 };
        assert_eq!((packed.status.as_u16(), shown.status.as_u16()), (unread, 401), "{path}");
        assert_eq!(packed.headers["accept-encoding"], "gzip, zstd, identity", "{path}");
        for refused in [packed.json(), shown.json()] {
            assert!(refused.pointer(reason).is_some(), "{path}: {refused}");
        }
    }
}

#[tokio::test]
async fn only_pages_that_may_read_an_answer() {
    let web = Web::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let path = "/mi.v1.OfficeService/ListOffices";
    for (origin, may) in [("http://localhost:5173", true), ("https://evil.example", false)] {
        let asked = [
            ("origin", origin),
            ("authorization", ""),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,connect-protocol-version"),
        ];
        let preflight = web.send(Method::OPTIONS, path, &asked, "").await;
        let answer = web.send(Method::POST, path, &[JSON, ("origin", origin)], "{}").await;
        // The same for gRPC-Web.
        let grpc = [("content-type", "application/grpc-web+proto"), ("origin", origin)];
        let grpc = web.send(Method::POST, path, &grpc, &[0, 0, 0, 0, 0][..]).await;
        assert_eq!((answer.status, grpc.status), (StatusCode::OK, StatusCode::OK));
        let exposed = grpc.headers["access-control-expose-headers"].to_str().expect("text");
        assert!(exposed.contains("grpc-status-details-bin") && exposed.contains("etag"), "{exposed}");
        for headers in [&preflight.headers, &answer.headers, &grpc.headers] {
            let told = headers.get("access-control-allow-origin").map(|value| value.to_str().expect("text"));
            assert_eq!(told, may.then_some(origin));
            assert!(!headers.contains_key("access-control-allow-credentials"));
        }
        let allowed = preflight.headers["access-control-allow-headers"].to_str().expect("text");
        assert!(allowed.contains("authorization") && allowed.contains("connect-protocol-version"), "{allowed}");
    }
}

/// Sends these bytes and reads until the other side closes or has said so much.
async fn raw(world: &World, bytes: &str) -> String {
    let address = world.platform.endpoint().strip_prefix("http://").expect("plaintext");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(bytes.as_bytes()).await.expect("sent");
    let mut said = vec![0; 4096];
    let length = timeout(LIMIT, stream.read(&mut said)).await.expect("in time").expect("read");
    String::from_utf8_lossy(&said[..length]).into_owned()
}

#[tokio::test]
async fn requests_of_a_strange_shape_end_there() {
    let web = Web::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let head = "POST /mi.v1.OfficeService/ListOffices HTTP/1.1\r\nhost: mi\r\ncontent-type: application/json\r\n";
    for (rest, status) in [
        ("content-length: 2\r\ncontent-length: 30\r\n\r\n{}", "400"),
        // The chunks count, and nothing else, as RFC 9112 has it.
        ("content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "401"),
        ("transfer-encoding: gzip\r\n\r\n{}", "400"),
        ("transfer-encoding: chunked\r\n\r\nzz\r\n", "401"),
        // Nobody's body is waited for.
        ("content-length: 1000000\r\n\r\n", "401"),
    ] {
        let said = raw(&web.world, &format!("{head}{rest}")).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{rest:?}: {said}");
    }
    // A connection is not used again while half a request is on it.
    let said = raw(&web.world, &format!("{head}content-length: 1000000\r\n\r\n")).await;
    assert!(said.contains("connection: close"), "{said}");
    // A body that stops is given up with the call's time.
    let bearer = &web.bearer;
    let half = format!("{head}authorization: {bearer}\r\nconnect-timeout-ms: 300\r\ncontent-length: 100\r\n\r\n{{\"pa");
    let said = raw(&web.world, &half).await;
    assert!(said.starts_with("HTTP/1.1 504") && said.contains("deadline_exceeded"), "{said}");
    // The platform is as it was.
    let listed = web.call("OfficeService/ListOffices", &json!({})).await;
    assert_eq!((listed.status, listed.json()), (StatusCode::OK, json!({})));
}
