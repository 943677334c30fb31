//! Whoever follows the drive's changes.

use mi_drive::{Change as Row, Kind, repo};
use mi_kernel::{OfficeId, receipt::sha256_hex};
use mi_proto::v1::{ChangeType, WatchChangesRequest};
use mi_testkit::on_both;
use tonic::Code;

use super::stage::{LONG, Stage};

on_both! { a_watch_goes_on_where_it_was_left, a_watch_ends_with_its_office }

async fn a_watch_goes_on_where_it_was_left(stage: Stage) {
    let office = stage.create("Mine").await.id;
    // More than one read brings, written as uploads write them.
    let (db, id) = (stage.db().await, OfficeId::parse(&office).expect("an id"));
    let mut tx = db.office(id).begin().await.expect("begins");
    for number in 1..=450 {
        let revision = repo::usage_change(&mut tx, 0, 1).await.expect("counts");
        assert_eq!(revision, number);
        let file = repo::FileRow {
            path: format!("f{number}"),
            size: 0,
            sha256: sha256_hex(b""),
            revision,
            content_type: "text/plain".into(),
            modified_at: mi_kernel::Clock::now(&stage.clock),
            modified_by: "operator".into(),
        };
        repo::change_insert(&mut tx, &Row { kind: Kind::Created, file }, None).await.expect("writes");
    }
    tx.commit().await.expect("commits");
    let watch = async |after_cursor| {
        let request = WatchChangesRequest { office_id: office.clone(), after_cursor };
        stage.drive(&stage.owner).watch_changes(request).await.expect("opens").into_inner()
    };
    let (mut all, mut some, mut new) = (watch(Some(0)).await, watch(Some(400)).await, watch(None).await);
    stage.put(&office, "last", b"").await;
    for (stream, first) in [(&mut all, 1), (&mut some, 401), (&mut new, 451)] {
        for expected in first..=451 {
            let change = stream.message().await.expect("open").expect("endless").change.expect("always there");
            let path = if expected == 451 { "last".to_owned() } else { format!("f{expected}") };
            assert_eq!((change.cursor, change.revision, change.path), (expected, expected, path));
        }
    }
    stage.remove(&office, "last").await;
    for stream in [&mut all, &mut some, &mut new] {
        let change = stream.message().await.expect("open").expect("endless").change.expect("always there");
        assert_eq!((change.cursor, change.r#type()), (452, ChangeType::Deleted));
    }
}

async fn a_watch_ends_with_its_office(stage: Stage) {
    let office = stage.create("One").await.id;
    stage.put(&office, "a", b"").await;
    let request = WatchChangesRequest { office_id: office.clone(), after_cursor: Some(0) };
    let mut watch = stage.drive(&stage.owner).watch_changes(request).await.expect("opens").into_inner();
    let change = watch.message().await.expect("open").expect("endless").change.expect("always there");
    assert_eq!(change.path, "a");
    stage.delete(&office).await;
    stage.until_status(&office, None).await;
    let end = tokio::time::timeout(LONG, watch.message()).await.expect("in time").expect_err("ends");
    assert_eq!((end.code(), end.message()), (Code::NotFound, format!("office {office:?} not found").as_str()));
}
