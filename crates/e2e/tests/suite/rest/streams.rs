//! Streams: events that a browser resumes, and lines.

use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mi_e2e::World;
use mi_testkit::{Arrangement, Backend, on_both};
use serde_json::{Value, json};

use super::{client::Rest, office};

on_both! {
    streams_go_on_where_they_were,
}

/// A stream that is read piece by piece.
struct Pieces {
    answer: Response<Incoming>,
    read: String,
}

impl Pieces {
    async fn open(rest: &Rest, path: &str, headers: &[(&str, &str)]) -> Self {
        let answer = rest.open(Method::GET, path, headers, &[]).await;
        assert_eq!(answer.status(), 200);
        Self { answer, read: String::new() }
    }

    /// What comes up to this; none: the stream ended before.
    async fn next(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((piece, rest)) = self.read.split_once(end) {
                let piece = piece.to_owned();
                self.read = rest.to_owned();
                return Some(piece);
            }
            let frame = self.answer.body_mut().frame().await?.expect("whole");
            let data = frame.into_data().expect("data");
            self.read.push_str(str::from_utf8(&data).expect("text"));
        }
    }

    /// The id and the data of the next event.
    async fn event(&mut self) -> (String, Value) {
        loop {
            let event = self.next("\n\n").await.expect("an event");
            if event.starts_with(':') || event.starts_with("retry:") {
                continue;
            }
            let line =
                |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
            return (line("id: "), serde_json::from_str(&line("data: ")).expect("JSON"));
        }
    }
}

async fn streams_go_on_where_they_were(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let rest = Rest::of_account(&world, "north").await;
    let id = office(&rest, "Streams").await;
    let path = |rest: &str| format!("/v1/offices/{id}{rest}");
    let say = async |body: &str| {
        let said = rest.json(Method::POST, &path("/messages"), &json!({"body": body})).await.ok();
        said["id"].as_str().expect("an id").to_owned()
    };
    let events = ("accept", "text/event-stream");
    let ids = [say("one").await, say("two").await, say("three").await];
    let mut stream = Pieces::open(&rest, &path("/messages:watch?after_id="), &[events]).await;
    let header =
        |stream: &Pieces, name| stream.answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(header(&stream, "content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(header(&stream, "cache-control").as_deref(), Some("no-cache, no-transform"));
    assert_eq!(stream.next("\n\n").await.as_deref(), Some("retry: 2000"));
    for (expected, body) in ids.iter().zip(["one", "two", "three"]) {
        let (id, message) = stream.event().await;
        assert_eq!((&id, &message["id"], &message["body"]), (expected, &json!(expected), &json!(body)));
    }
    let live = say("four").await;
    assert_eq!(stream.event().await.0, live);

    // A browser comes again with the same address and the last id that it saw.
    let last = [events, ("last-event-id", ids[1].as_str())];
    let mut resumed = Pieces::open(&rest, &path("/messages:watch?after_id="), &last).await;
    assert_eq!((resumed.event().await.0, resumed.event().await.0), (ids[2].clone(), live.clone()));

    let mut lines = Pieces::open(&rest, &path(&format!("/messages:watch?after_id={}", ids[2])), &[]).await;
    assert_eq!(header(&lines, "content-type").as_deref(), Some("application/x-ndjson"));
    let line: Value = serde_json::from_str(&lines.next("\n").await.expect("a line")).expect("JSON");
    assert_eq!((&line["id"], &line["body"]), (&json!(live), &json!("four")));

    // Cursors are numbers; where a message has more than the resource, its id is beside it.
    let task = rest.json(Method::POST, &path("/tasks"), &json!({"title": "a"})).await.ok();
    let mut tasks = Pieces::open(&rest, &path("/tasks:watch?after_cursor=0"), &[events]).await;
    let (cursor, first) = tasks.event().await;
    assert_eq!((&first["cursor"], &first["task"]["id"]), (&json!(cursor), &task["id"]));
    let second = rest.json(Method::POST, &path("/tasks"), &json!({"title": "b"})).await.ok();
    let last = [events, ("last-event-id", cursor.as_str())];
    let mut tasks = Pieces::open(&rest, &path("/tasks:watch?after_cursor=0"), &last).await;
    assert_eq!(tasks.event().await.1["task"]["id"], second["id"]);

    let bad = rest.send(Method::GET, &path("/tasks:watch"), &[events, ("last-event-id", "x")], &[]).await;
    assert_eq!((bad.refusal().0, bad.fields()), (400, vec!["last-event-id".to_owned()]));

    // What ends a stream is said in it.
    let keys = rest.get("/v1/api-keys").await.ok();
    let key = keys["api_keys"][0]["id"].as_str().expect("an id").to_owned();
    let admin = Rest::new(world.platform.endpoint(), world.platform.admin_key());
    let revoked = admin.empty(Method::POST, &format!("/v1/api-keys/{key}:revoke")).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let ended = stream.next("\n\n").await.expect("an event");
    let error = ended.strip_prefix("event: error\ndata: ").expect(&ended);
    let error: Value = serde_json::from_str(error).expect("JSON");
    assert_eq!((&error["error"]["code"], &error["error"]["status"]), (&json!(401), &json!("UNAUTHENTICATED")));
    assert_eq!(stream.next("\n\n").await, None);
    let ended: Value = serde_json::from_str(&lines.next("\n").await.expect("a line")).expect("JSON");
    assert_eq!(ended["error"]["status"], "UNAUTHENTICATED");
}
