//! What earlier versions kept in the drive is there after an upgrade.

use mi_drive::{FileRow, file_get_all};
use mi_kernel::{Clock, OfficeId, SystemClock};
use mi_store::{Db, Step, on};
use mi_testkit::{TestDb, on_both};
use uuid::Uuid;

use crate::MIGRATIONS;

on_both! { files_stay_when_their_twins_are_let_in }

async fn files_stay_when_their_twins_are_let_in(database: TestDb) {
    let before: Vec<Step> = MIGRATIONS.iter().copied().filter(|step| step.version < 180).collect();
    let old = Db::open(database.target(), &before).await.expect("opens");
    let (office, account, now) = (OfficeId::new(), Uuid::now_v7(), SystemClock.now());
    let mut tx = old.platform().begin().await.expect("begins");
    let sha256 = "0".repeat(64);
    let statements: [&'static str; 4] = [
        "INSERT INTO accounts (id, name, administrator, created_at) VALUES ($2, 'ann', false, $3)",
        "INSERT INTO offices (id, account_id, name, state, settings, version, applied_version, conditions, created_at,
         updated_at) VALUES ($1, $2, 'Mine', 'active', '{}', 1, 1, '[]', $3, $3)",
        "INSERT INTO drive_blobs (office_id, sha256, object) VALUES ($1, $4, $2)",
        "INSERT INTO drive_files (office_id, path, folded, size, sha256, revision, content_type, modified_at, modified_by)
         VALUES ($1, 'Docs/Read.md', 'docs/read.md', 5, $4, 7, 'text/plain', $3, 'ann')",
    ];
    for sql in statements {
        on!(tx, |c| {
            sqlx::query(sql).bind(office.0).bind(account).bind(now).bind(&sha256).execute(&mut *c).await.map(drop)
        })
        .expect("writes");
    }
    tx.commit().await.expect("commits");
    old.close().await;

    let new = Db::open(database.target(), MIGRATIONS).await.expect("opens");
    let kept = FileRow {
        path: "Docs/Read.md".into(),
        size: 5,
        sha256,
        revision: 7,
        content_type: "text/plain".into(),
        modified_at: now,
        modified_by: "ann".into(),
    };
    let twin = FileRow { path: "docs/read.md".into(), revision: 8, ..kept.clone() };
    let mut tx = new.office(office).begin().await.expect("begins");
    let sql =
        "INSERT INTO drive_files (office_id, path, size, sha256, revision, content_type, modified_at, modified_by)
               VALUES ($1, $2, 5, $3, 8, 'text/plain', $4, 'ann')";
    let written = on!(tx, |c| {
        let query = sqlx::query(sql).bind(office.0).bind(&twin.path).bind(&twin.sha256).bind(now);
        query.execute(&mut *c).await.map(drop)
    });
    written.expect("writes");
    let paths = [twin.path.clone(), kept.path.clone()];
    let mut files = file_get_all(&mut tx, &paths).await.expect("reads");
    files.sort_by(|one, other| one.path.cmp(&other.path));
    assert_eq!(files, [kept, twin]);
    // A file still has its content: neither goes without the other.
    let gone = on!(tx, |c| sqlx::query("DELETE FROM drive_blobs").execute(&mut *c).await.map(drop));
    assert!(gone.is_err(), "the content of a file was deleted");
}
