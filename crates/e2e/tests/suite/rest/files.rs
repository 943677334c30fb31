//! Files as bytes: whole and in part, on condition, and cut.

use http::Method;
use mi_e2e::World;
use mi_testkit::{Arrangement, Backend, on_both};
use serde_json::json;

use super::{client::Rest, office};

on_both! {
    files_are_bytes,
}

const MIB: usize = 1 << 20;

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 7 & 0xff).expect("a byte")).collect()
}

async fn files_are_bytes(backend: Backend) {
    let arrangement = match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    };
    let world = World::start(backend, arrangement).await;
    let rest = Rest::of_account(&world, "north").await;
    let id = office(&rest, "Drive").await;
    let path = |path: &str| format!("/v1/offices/{id}/files/{path}");
    let sent = content(5 * MIB + 123);
    let put = async |name: &str, headers: &[(&str, &str)], content: &[u8]| {
        rest.send(Method::PUT, &path(name), headers, content).await
    };

    let html = [("content-type", "text/html; charset=utf-8")];
    let written = put("reports/a%20b/%E4%BD%A0.html", &html, &sent).await;
    let file = written.ok();
    let revision = file["revision"].as_str().expect("a number").to_owned();
    let etag = format!("\"{revision}\"");
    assert_eq!((&file["path"], &file["size"]), (&json!("reports/a b/你.html"), &json!(sent.len().to_string())));
    assert_eq!(written.header("etag"), Some(etag.as_str()));
    let about = rest.get(&format!("/v1/offices/{id}/file-info/reports/a%20b/%E4%BD%A0.html")).await;
    assert_eq!(about.ok(), file);

    // A slash may be written either way; nothing else leads to the file.
    let target = path("reports%2Fa%20b/%E4%BD%A0.html");
    let whole = rest.get(&target).await;
    assert!(whole.status == 200 && whole.body == sent, "{} {}", whole.status, whole.body.len());
    let day = "Www, dd Mmm yyyy hh:mm:ss GMT".len();
    assert_eq!(whole.header("last-modified").map(str::len), Some(day));
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("content-length", sent.len().to_string().as_str()),
        ("etag", etag.as_str()),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("content-disposition", "attachment; filename*=UTF-8''%E4%BD%A0.html"),
    ] {
        assert_eq!(whole.header(name), Some(value), "{name}");
    }
    let head = rest.empty(Method::HEAD, &target).await;
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, whole.header("content-length")));

    let size = sent.len();
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        (format!("bytes=100-{}", 3 * MIB), 100, 3 * MIB + 1),
        (format!("bytes={}-", size - 10), size - 10, size),
        ("bytes=-7".to_owned(), size - 7, size),
        (format!("bytes=0-{}", size * 2), 0, size),
    ] {
        let part = rest.send(Method::GET, &target, &[("range", &range)], &[]).await;
        assert!(part.status == 206 && part.body == sent[from..to], "{range}: {} {}", part.status, part.body.len());
        assert_eq!(part.header("content-range"), Some(format!("bytes {from}-{}/{size}", to - 1).as_str()));
        assert_eq!(part.header("etag"), Some(etag.as_str()));
    }
    for range in [format!("bytes={size}-"), format!("bytes={}-", size + 1), "bytes=-0".to_owned()] {
        let none = rest.send(Method::GET, &target, &[("range", &range)], &[]).await;
        assert_eq!(none.refusal(), (416, "INVALID_ARGUMENT".into(), "RANGE_NOT_SATISFIABLE".into()), "{range}");
        assert_eq!(none.header("content-range"), Some(format!("bytes */{size}").as_str()));
    }
    for (headers, status) in [
        (&[("if-none-match", etag.as_str())][..], 304),
        (&[("if-none-match", "\"0\"")], 200),
        (&[("if-match", etag.as_str())], 200),
        (&[("if-match", "\"0\"")], 412),
        (&[("range", "bytes=0-1"), ("if-range", etag.as_str())], 206),
        (&[("range", "bytes=0-1"), ("if-range", "\"0\"")], 200),
        (&[("range", "bytes=0-1,5-6")], 200),
    ] {
        let answer = rest.send(Method::GET, &target, headers, &[]).await;
        assert_eq!(answer.status, status, "{headers:?}");
        assert_eq!(
            answer.body.len(),
            match status {
                304 => 0,
                206 => 2,
                412 => answer.body.len(),
                _ => size,
            }
        );
    }

    // Who writes over something says over what.
    let name = "reports/a b/你.html".replace(' ', "%20").replace('你', "%E4%BD%A0");
    for (headers, status) in [(&[][..], 409), (&[("if-none-match", "*")], 412), (&[("if-match", "\"999999\"")], 412)] {
        let refused = put(&name, headers, b"new").await;
        let expected = (status, "FAILED_PRECONDITION".into(), "REVISION_CONFLICT".into());
        assert_eq!(refused.refusal(), expected, "{headers:?}");
    }
    // What is uploaded is stored as it comes, or not at all.
    let refused = put("packed", &[("content-encoding", "gzip")], b"\x1f\x8b").await;
    assert_eq!(refused.refusal().0, 415, "{}", refused.text());
    for headers in [&[("if-match", "*")][..], &[("if-match", "\"1\", \"2\"")], &[("if-none-match", "\"1\"")]] {
        let refused = put(&name, headers, b"new").await;
        assert_eq!(refused.refusal(), (400, "INVALID_ARGUMENT".into(), "INVALID_ARGUMENT".into()), "{headers:?}");
    }
    let over = put(&name, &[("if-match", etag.as_str())], b"new").await.ok();
    assert_eq!((&over["size"], &over["content_type"]), (&json!("3"), &json!("application/octet-stream")));
    let forced = put(&format!("{name}?force=true&request_id=once"), &[], b"").await.ok();
    let again = put(&format!("{name}?force=true&request_id=once"), &[], b"").await.ok();
    assert_eq!((&forced["size"], &forced), (&json!("0"), &again));
    let empty = rest.get(&target).await;
    assert_eq!((empty.status, empty.body.len(), empty.header("content-length")), (200, 0, Some("0")));
    let none = rest.send(Method::GET, &target, &[("range", "bytes=0-")], &[]).await;
    assert_eq!((none.status, none.header("content-range")), (416, Some("bytes */0")));

    // A name may have a colon, and what looks like a verb.
    assert_eq!(put("log/12:30:download", &[], b"x").await.ok()["path"], "log/12:30:download");
    assert_eq!(rest.get(&path("log/12:30:download")).await.body, b"x");

    // What stops before its end is no file, and leaves the one that is there.
    let line = format!("PUT {}", path("cut?force=true"));
    for framing in ["content-length: 1000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n5\r\n"] {
        let request = format!("{}{framing}01234", rest.head(&line));
        let answer = rest.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("body broke off"), "{answer}");
        assert_eq!(rest.get(&path("cut")).await.status, 404);
    }

    for (bad, status) in [
        ("", 400),
        ("a//b", 400),
        ("../a", 400),
        ("a/../../b", 400),
        ("..%2Fa", 400),
        ("%2Fetc%2Fpasswd", 400),
        ("./a", 400),
        ("a%00b", 400),
        ("a%5Cb", 400),
        ("a%", 400),
        ("%FF", 400),
    ] {
        let refused = put(bad, &[], b"x").await;
        assert_eq!((refused.status, refused.fields()), (status, vec!["path".to_owned()]), "{bad}: {}", refused.text());
    }
    let refused = put("zipped", &[("content-encoding", "br")], b"x").await;
    assert_eq!(refused.refusal().0, 415, "{}", refused.text());

    let refused = rest.empty(Method::DELETE, &target).await;
    assert_eq!(refused.refusal().0, 409);
    let revision = format!("\"{}\"", forced["revision"].as_str().expect("a number"));
    let deleted = rest.send(Method::DELETE, &target, &[("if-match", &revision)], &[]).await;
    assert_eq!(deleted.ok(), json!({}));
    assert_eq!(rest.get(&target).await.refusal(), (404, "NOT_FOUND".into(), "NOT_FOUND".into()));
}
