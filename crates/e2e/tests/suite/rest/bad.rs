//! Requests that are wrong, and what is said of them.

use http::Method;
use mi_e2e::World;
use mi_testkit::{Arrangement, Backend};
use serde_json::json;

use super::{client::Rest, office};

#[tokio::test]
async fn wrong_requests_are_refused_in_words() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let rest = Rest::of_account(&world, "north").await;
    let id = office(&rest, "Bad").await;
    let tasks = format!("/v1/offices/{id}/tasks");
    let json = [("content-type", "application/json")];

    let deep = format!("{}{}", r#"{"title":["#.repeat(1000), "]}".repeat(1000));
    let huge = format!(r#"{{"title":"{}"}}"#, "x".repeat(9 << 20));
    let large = format!(r#"{{"title":"{}"}}"#, "x".repeat(5 << 20));
    for (body, status, field) in [
        ("{\"title\":", 400, "body"),
        ("[]", 400, "body"),
        ("null", 400, "body"),
        (r#"{"title":"a"}{"title":"b"}"#, 400, "body"),
        (r#"{"title":"a","title":"b"}"#, 400, "body"),
        (r#"{"titel":"a"}"#, 400, "body"),
        (r#"{"title":"a","priority":9223372036854775808}"#, 400, "body"),
        (r#"{"title":"a","kind":"TASK_KIND_NONSENSE"}"#, 400, "body"),
        (r#"{"title":"a","office_id":"other"}"#, 400, "office_id"),
        (r#"{"title":" "}"#, 400, "title"),
        (&deep, 400, "body"),
        (&large, 413, ""),
        (&huge, 413, ""),
    ] {
        let answer = rest.send(Method::POST, &tasks, &json, body.as_bytes()).await;
        assert_eq!(answer.refusal().0, status, "{}", answer.text());
        assert_eq!(answer.fields().first().map_or("", String::as_str), field, "{}", answer.text());
        assert!(answer.body.len() < 2000, "{}", answer.text());
    }
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "application/xml", "application/json; charset=utf-16"]
    {
        let answer = rest.send(Method::POST, &tasks, &[("content-type", content_type)], b"{}").await;
        assert_eq!(
            answer.refusal(),
            (415, "INVALID_ARGUMENT".into(), "UNSUPPORTED_MEDIA_TYPE".into()),
            "{content_type}"
        );
    }

    for (method, path, status) in [
        (Method::GET, "/v1", 404),
        (Method::GET, "/v1/", 404),
        (Method::GET, "/v1/nothing", 404),
        (Method::GET, "/v1//offices", 404),
        (Method::GET, "/v1/offices/", 404),
        (Method::GET, "/v1/../v1/offices", 404),
        (Method::GET, "/v1/offices/../../mi.v1.OfficeService/ListOffices", 404),
        (Method::GET, "/v1/%6Fffices", 404),
        (Method::GET, "/v1/offices/%", 400),
        (Method::GET, "/v1/offices/..", 400),
        (Method::GET, "/v1/offices/a%2Fb", 400),
        (Method::GET, "/v1/offices/%E4%BD%A0", 400),
        (Method::GET, "/v1/offices?nonsense=1", 400),
        (Method::GET, "/v1/offices?page_size=x", 400),
        (Method::GET, "/v1/offices?page_size=1&page_size=2", 400),
        (Method::GET, "/v1/offices?access_token=mi_secret", 401),
        (Method::GET, "/v1/offices?API_KEY=mi_secret", 401),
        (Method::PUT, "/v1/offices", 405),
        (Method::POST, "/v1/offices/x:nonsense", 405),
    ] {
        let answer = rest.empty(method.clone(), path).await;
        assert_eq!(answer.refusal().0, status, "{method} {path}: {}", answer.text());
        assert!(!answer.text().contains("mi_secret"), "{}", answer.text());
    }

    // Nobody who is not known is told what is wrong with a request, nor is its body waited for.
    let nobody = rest.unknown();
    let answer = nobody.send(Method::POST, &tasks, &json, b"{").await;
    assert_eq!(answer.refusal(), (401, "UNAUTHENTICATED".into(), "UNAUTHENTICATED".into()));
    let waiting =
        format!("POST {tasks} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n");
    let answer = nobody.raw(waiting.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let timed = rest.send(Method::GET, "/v1/offices", &[("x-server-timeout", "soon")], &[]).await;
    assert_eq!((timed.refusal().0, timed.fields()), (400, vec!["x-server-timeout".to_owned()]));

    // Two lengths, or a length and chunks that disagree, are how one request is smuggled in another.
    let line = format!("POST {tasks}");
    let smuggled = "GET /v1/whoami HTTP/1.1\r\nhost: a\r\n\r\n";
    for framing in [
        "content-length: 2\r\ncontent-length: 40\r\n\r\n{}",
        "content-length: 2, 40\r\n\r\n{}",
        "content-length: -1\r\n\r\n{}",
        "content-length: +2\r\n\r\n{}",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nzz\r\n{}",
    ] {
        let head = rest.head(&line).replace("connection: close\r\n", "content-type: application/json\r\n");
        let answer = rest.raw(format!("{head}{framing}{smuggled}").as_bytes()).await;
        assert!(!answer.contains("HTTP/1.1 2"), "{framing:?}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{framing:?}: {answer}");
    }
    // A body that stops is no request.
    let head = rest.head(&line);
    let stopped =
        format!("{head}content-type: application/json\r\ncontent-length: 100\r\n\r\n{}", r#"{"title":"never"}"#);
    let answer = rest.raw(stopped.as_bytes()).await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    // The platform is as it was.
    assert_eq!(rest.get(&tasks).await.ok()["tasks"], json!([]));
}
