//! Files and chat.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{Program, names, start};

#[tokio::test]
async fn files_go_up_and_come_down_as_they_are() {
    let (_world, program) = start().await;
    let office = program.office("Drive").await;
    let files = format!("{office}/files");
    let changes = async |since: &Value| program.get(&format!("{files}/_changes?since={since}")).await.ok();
    assert_eq!(changes(&json!(0)).await, json!({"events": [], "serverTime": 0}));
    // Longer than a message of an upload, and not a multiple of one.
    let long: Vec<u8> = (0..1_300_001_u32).map(|place| (place % 251) as u8).collect();
    assert_eq!(program.upload(&files, "long.bin", &long).await.ok(), json!(null));
    assert_eq!(program.upload(&files, "reports/Müller 1.md", b"eins").await.ok(), json!(null));
    assert_eq!(program.upload(&files, "empty", b"").await.ok(), json!(null));
    let listed = program.get(&files).await;
    assert_eq!(names(&listed.ok()), ["empty", "long.bin", "reports/Müller 1.md"]);
    assert_eq!((listed.header("x-total-count"), &listed.ok()[1]["size"]), (Some("3"), &json!(1_300_001)));
    assert!(listed.ok()[0]["modifiedAt"].is_string(), "{listed:?}");
    assert_eq!(names(&program.get(&format!("{files}?limit=1&offset=1")).await.ok()), ["long.bin"]);
    let down = program.get(&format!("{files}/long.bin")).await;
    assert_eq!((down.status, down.header("content-length")), (200, Some("1300001")));
    assert!(down.bytes == long, "{} bytes came back", down.bytes.len());
    for spelled in ["reports/M%C3%BCller%201.md", "reports%2FM%C3%BCller%201.md"] {
        let down = program.get(&format!("{files}/{spelled}")).await;
        assert_eq!((&*down.bytes, down.header("content-type")), (&b"eins"[..], Some("text/markdown")));
        assert_eq!(down.header("x-content-type-options"), Some("nosniff"));
    }
    assert_eq!(program.get(&format!("{files}/empty")).await.bytes.len(), 0);

    let seen = changes(&json!(0)).await;
    let told = |seen: &Value| {
        let events = seen["events"].as_array().expect("a list").iter();
        events
            .map(|it| format!("{} {}", it["type"].as_str().expect("text"), it["name"].as_str().expect("text")))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&seen), ["created long.bin", "created reports/Müller 1.md", "created empty"]);
    assert!(seen["events"][0]["timestamp"].as_i64().is_some_and(|time| time > 1_700_000_000_000), "{seen}");
    assert_eq!(program.upload(&files, "empty", b"not any more").await.ok(), json!(null));
    assert_eq!(program.delete(&format!("{files}/long.bin")).await.ok(), json!(null));
    let later = changes(&seen["serverTime"]).await;
    assert_eq!(told(&later), ["modified empty", "deleted long.bin"]);
    assert_eq!(changes(&later["serverTime"]).await, json!({"events": [], "serverTime": later["serverTime"]}));
    // A clock of the client's own, in whole milliseconds.
    let millis = later["events"][0]["timestamp"].as_i64().expect("a number") - 1;
    assert_eq!(*told(&changes(&json!(millis)).await).last().expect("one"), "deleted long.bin");
    assert_eq!(changes(&json!(4_102_444_800_000_i64)).await["events"], json!([]));
    assert_eq!(program.get(&format!("{files}/_changes?since=soon")).await.refused(), (400, "INVALID_ARGUMENT".into()));
    assert_eq!(program.get(&format!("{files}/long.bin")).await.refused(), (404, "NOT_FOUND".into()));
    assert_eq!(program.delete(&format!("{files}/long.bin")).await.refused(), (404, "NOT_FOUND".into()));

    // More than one answer has: what is left comes with the next, none is missed and none comes twice.
    let mut since = later["serverTime"].clone();
    for place in 0..12 {
        assert_eq!(program.upload(&files, &format!("many/{place:02}"), b"x").await.ok(), json!(null));
        let found = changes(&since).await;
        assert_eq!(told(&found), [format!("created many/{place:02}")]);
        since = found["serverTime"].clone();
    }
}

#[tokio::test]
async fn forms_that_are_none_change_nothing() {
    let (_world, program) = start().await;
    let office = program.office("Forms").await;
    let files = format!("{office}/files");
    let multipart = "multipart/form-data; boundary=XyZ";
    let part = |name: &str, file: &str| {
        format!("--XyZ\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\nx\r\n--XyZ--\r\n")
    };
    for (content_type, body, what) in [
        ("application/json", "{}".to_owned(), "no form"),
        ("multipart/form-data", part("file", "; filename=\"a\""), "no boundary"),
        (multipart, String::new(), "nothing"),
        (multipart, part("other", "; filename=\"a\""), "another field"),
        (multipart, part("file", ""), "no name"),
        (multipart, "--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx".into(), "no end"),
        (multipart, part("file", "; filename=\"../../etc/passwd\""), "out of the drive"),
        (multipart, part("file", "; filename=\"/etc/passwd\""), "absolute"),
        (multipart, part("file", &format!("; filename=\"{}\"", "x".repeat(2000))), "a long name"),
    ] {
        let answer = program.raw("POST", &files, &[("content-type", content_type)], body.into()).await;
        assert_eq!(answer.refused().0, 400, "{what}: {answer:?}");
    }
    // What never becomes a part is not kept as it comes.
    let endless = "a".repeat(1 << 20);
    for (start, what) in [
        ("", "what comes before the parts"),
        ("--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"", "a head"),
    ] {
        let body = format!("{start}{endless}").into();
        let answer = program.raw("POST", &files, &[("content-type", multipart)], body).await;
        assert_eq!(answer.refused().0, 400, "{what}: {answer:?}");
        let said = answer.json()["message"].to_string();
        assert!(said.contains("neither the file nor the end of a head"), "{what}: {said}");
    }
    for name in ["..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "a%00b"] {
        assert_eq!(program.get(&format!("{files}/{name}")).await.refused(), (400, "INVALID_ARGUMENT".into()), "{name}");
        assert_eq!(
            program.delete(&format!("{files}/{name}")).await.refused(),
            (400, "INVALID_ARGUMENT".into()),
            "{name}"
        );
    }
    assert_eq!(program.get(&files).await.ok(), json!([]));
}

#[tokio::test]
async fn an_answer_is_no_larger_than_one_takes() {
    let (_world, program) = start().await;
    let tasks = format!("{}/tasks", program.office("Large").await);
    for number in 0..18 {
        let task = json!({"title": format!("task {number}"), "description": "x".repeat(250 << 10)});
        program.post(&tasks, task).await.ok();
    }
    let refused = program.get(&format!("{tasks}?limit=18")).await;
    assert_eq!(refused.refused(), (400, "INVALID_ARGUMENT".into()));
    assert!(refused.json()["message"].to_string().contains("ask for fewer entries"), "{refused:?}");
    let fewer = program.get(&format!("{tasks}?limit=10&offset=8")).await;
    assert_eq!((fewer.ok().as_array().map(Vec::len), fewer.header("x-total-count")), (Some(10), Some("18")));
}

/// An open stream of messages.
async fn listen(program: &Program, office: &str, last: Option<&str>) -> hyper::body::Incoming {
    let mut request = http::Request::get(format!("{}{office}/xmtp/stream", program.endpoint))
        .header("authorization", format!("Bearer {}", program.key));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let request = request.body(Full::<Bytes>::default()).expect("a request");
    let (head, body) = program.http.request(request).await.expect("answered").into_parts();
    assert_eq!(
        (head.status.as_u16(), head.headers["content-type"].to_str().expect("text")),
        (200, "text/event-stream")
    );
    body
}

/// The next message of a stream.
async fn heard(stream: &mut hyper::body::Incoming, buffer: &mut String) -> Value {
    let next = async {
        loop {
            if let Some((event, rest)) =
                buffer.split_once("\n\n").map(|(event, rest)| (event.to_owned(), rest.to_owned()))
            {
                *buffer = rest;
                if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                    let message: Value = serde_json::from_str(data).expect("JSON");
                    assert!(event.contains(&format!("id: {}", message["id"].as_str().expect("an id"))), "{event}");
                    return message;
                }
                continue;
            }
            let frame = stream.frame().await.expect("goes on").expect("whole").into_data().expect("data");
            buffer.push_str(std::str::from_utf8(&frame).expect("text"));
        }
    };
    tokio::time::timeout(mi_e2e::LIMIT, next).await.expect("in time")
}

#[tokio::test]
async fn chat_in_the_group_and_beside_it() {
    let (_world, program) = start().await;
    let office = program.office("Talk").await;
    program.agent(&office, "bob").await;
    let groups = program.get(&format!("{office}/xmtp/groups")).await.ok();
    assert_eq!((names(&groups), &groups[0]["members"]), (vec!["Talk"], &json!(["bob"])));
    let group = format!("{office}/xmtp/groups/{}", groups[0]["id"].as_str().expect("an id"));
    let (mut stream, mut buffer) = (listen(&program, &office, None).await, String::new());
    let sent = program.post(&format!("{group}/send"), json!({"from": "me", "body": "hello all"})).await.ok();
    let direct = json!({"from": "me", "to": "bob", "body": "hello bob"});
    let direct = program.post(&format!("{office}/xmtp/send"), direct).await.ok();
    let first = heard(&mut stream, &mut buffer).await;
    let told = ["id", "from_agent", "to_agent", "body"].map(|name| first[name].clone());
    assert_eq!(told, [sent["messageId"].clone(), json!("operator"), json!(""), json!("hello all")]);
    assert!(first["created_at"].as_i64().is_some_and(|time| time > 1_700_000_000_000), "{first}");
    let second = heard(&mut stream, &mut buffer).await;
    assert_eq!((&second["id"], &second["to_agent"]), (&direct["messageId"], &json!("bob")));
    let (mut again, mut buffer) = (listen(&program, &office, first["id"].as_str()).await, String::new());
    assert_eq!(heard(&mut again, &mut buffer).await, second);
    let messages = program.get(&format!("{group}/messages?limit=10")).await.ok();
    assert_eq!(messages, json!([first]));
    assert_eq!(program.get(&format!("{office}/xmtp/groups/other/messages")).await.refused(), (404, "NOT_FOUND".into()));
    let nowhere = program.post(&format!("{office}/xmtp/send"), json!({"body": "to whom?"})).await;
    assert_eq!(nowhere.refused(), (400, "INVALID_ARGUMENT".into()));
    let blank = program.post(&format!("{group}/send"), json!({"body": " "})).await;
    assert_eq!(blank.refused(), (400, "INVALID_ARGUMENT".into()));
}
