//! The office of a connection comes before the values of a statement, and a connection of the platform has none.

use mi_kernel::{AgentId, OfficeId};
use mi_store::{Db, FromRow, all, exec, one, optional, scalar, scalar_one, scalars};
use mi_testkit::{TestDb, on_both};

on_both! { the_office_comes_first, rows_and_columns_are_read }

async fn the_office_comes_first(database: TestDb) {
    let db = Db::open(database.target(), &[]).await.expect("opens");
    let (office, other) = (OfficeId::new(), OfficeId::new());
    let mut conn = db.office(office).read().await.expect("a connection");
    let both = conn.pick("SELECT $1, $2", "SELECT $1::uuid, $2::bigint");
    assert_eq!(one!(conn, both, 7_i64).ok(), Some((office, 7_i64)));
    let mut conn = db.platform().read().await.expect("a connection");
    assert_eq!(one!(conn, both, other, 8_i64).ok(), Some((other, 8_i64)));
    assert_eq!(one!(conn.within(office), both, 9_i64).ok(), Some((office, 9_i64)));
}

#[derive(Debug, PartialEq, Eq, FromRow)]
struct Lease {
    name: String,
    holder: String,
}

async fn rows_and_columns_are_read(database: TestDb) {
    let db = Db::open(database.target(), &[]).await.expect("opens");
    let mut tx = db.platform().begin().await.expect("a transaction");
    let (first, second) = (AgentId::new(), AgentId::new());
    for holder in [first, second] {
        let sql = "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)";
        let done = exec!(tx, sql, format!("lease {holder}"), holder.to_string(), mi_kernel::Time::UNIX_EPOCH);
        assert_eq!(done.expect("writes"), 1);
    }
    let lease = |holder: AgentId| Lease { name: format!("lease {holder}"), holder: holder.to_string() };
    let rows: Vec<Lease> = all!(tx, "SELECT name, holder FROM leases ORDER BY name").expect("reads");
    assert_eq!(rows, [lease(first), lease(second)]);
    let names: Vec<String> = scalars!(tx, "SELECT name FROM leases ORDER BY name").expect("reads");
    assert_eq!(names, [lease(first).name, lease(second).name]);
    let find = "SELECT name, holder FROM leases WHERE holder = $1";
    let found: Option<Lease> = optional!(tx, find, second.to_string()).expect("reads");
    assert_eq!(found, Some(lease(second)));
    let nobody: Option<String> = scalar!(tx, find, "nobody").expect("reads");
    assert_eq!(nobody, None);
    let count: i64 = scalar_one!(tx, "SELECT count(*) FROM leases").expect("reads");
    assert_eq!(count, 2);
    assert_eq!(exec!(tx, "DELETE FROM leases").expect("deletes"), 2);
}
