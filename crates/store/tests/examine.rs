//! A database is looked at from outside, and left as it is.

use std::time::Duration;

use mi_kernel::ErrorKind;
use mi_store::examine::examine;
use mi_testkit::{TestDb, on_both};

on_both! { what_is_there_is_told_with_its_version }

async fn what_is_there_is_told_with_its_version(database: TestDb) {
    let found = examine(database.url()).await.expect("answers");
    let kind = if database.url().is_some() { "Postgres " } else { "SQLite " };
    let version = found.version.strip_prefix(kind).expect("named");
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    assert!(found.lacking.is_none() && found.latency < Duration::MAX, "{found:?}");
}

#[tokio::test]
async fn what_is_no_database_is_told() {
    let wrong = examine(Some("mysql://host/x")).await.expect_err("another kind");
    assert_eq!((wrong.kind, wrong.field), (ErrorKind::Invalid, Some("database")));
    let nobody = examine(Some("postgres://127.0.0.1:1/x")).await.expect_err("nobody listens");
    assert_eq!(nobody.kind, ErrorKind::Unavailable);
}
