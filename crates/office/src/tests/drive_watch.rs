//! Whoever follows the drive's changes.

use mi_kernel::{OfficeId, receipt::sha256_hex};
use mi_proto::v1::{ChangeType, WatchChangesRequest};
use mi_store::on;
use mi_testkit::on_both;
use tonic::Code;

use super::harness::{Harness, LONG};

on_both! { a_watch_goes_on_where_it_was_left, a_watch_ends_with_its_office }

async fn a_watch_goes_on_where_it_was_left(harness: Harness) {
    let office = harness.create("Mine").await.id;
    // More than one read brings, written as uploads write them.
    let (db, id) = (harness.db().await, OfficeId::parse(&office).expect("an id"));
    let mut tx = db.office(id).begin().await.expect("begins");
    for sql in [
        "INSERT INTO drive_usage (office_id, revision, bytes, files) VALUES ($1, 450, 0, 450)",
        "WITH RECURSIVE n (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n WHERE number < 450)
         INSERT INTO drive_changes
             (office_id, revision, kind, path, size, sha256, content_type, modified_at, modified_by)
         SELECT $1, number, 'created', 'f' || number, 0, $2, 'text/plain', $3, 'operator' FROM n",
    ] {
        let at = mi_kernel::Clock::now(&harness.clock);
        let written = on!(tx, |c| {
            let query = sqlx::query(sql).bind(id.0);
            let query = if sql.contains("$2") { query.bind(sha256_hex(b"")).bind(at) } else { query };
            query.execute(&mut *c).await.map(drop)
        });
        written.expect("writes");
    }
    tx.commit().await.expect("commits");
    let watch = async |after_cursor| {
        let request = WatchChangesRequest { office_id: office.clone(), after_cursor };
        harness.drive(&harness.owner).watch_changes(request).await.expect("opens").into_inner()
    };
    // What a database had that was restored since is waited for by nobody.
    let ahead = WatchChangesRequest { office_id: office.clone(), after_cursor: Some(451) };
    let refused = harness.drive(&harness.owner).watch_changes(ahead).await.expect_err("ahead of all there is");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("the newest cursor is 450"), "{refused:?}");
    let (mut all, mut some, mut new) = (watch(Some(0)).await, watch(Some(400)).await, watch(None).await);
    harness.put(&office, "last", b"").await;
    for (stream, first) in [(&mut all, 1), (&mut some, 401), (&mut new, 451)] {
        for expected in first..=451 {
            let change = stream.message().await.expect("open").expect("endless").change.expect("always there");
            let path = if expected == 451 { "last".to_owned() } else { format!("f{expected}") };
            assert_eq!((change.cursor, change.revision, change.path), (expected, expected, path));
        }
    }
    harness.remove(&office, "last").await;
    for stream in [&mut all, &mut some, &mut new] {
        let change = stream.message().await.expect("open").expect("endless").change.expect("always there");
        assert_eq!((change.cursor, change.r#type()), (452, ChangeType::Deleted));
    }
}

async fn a_watch_ends_with_its_office(harness: Harness) {
    let office = harness.create("One").await.id;
    harness.put(&office, "a", b"").await;
    let request = WatchChangesRequest { office_id: office.clone(), after_cursor: Some(0) };
    let mut watch = harness.drive(&harness.owner).watch_changes(request).await.expect("opens").into_inner();
    let change = watch.message().await.expect("open").expect("endless").change.expect("always there");
    assert_eq!(change.path, "a");
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
    let end = tokio::time::timeout(LONG, watch.message()).await.expect("in time").expect_err("ends");
    assert_eq!((end.code(), end.message()), (Code::NotFound, format!("office {office:?} not found").as_str()));
}
