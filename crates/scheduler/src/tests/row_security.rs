//! On Postgres a row of one office is not there for another, whatever the query says.

use mi_store::Db;
use mi_testkit::{Backend, RowSecurity, TestDb};

#[tokio::test]
async fn without_a_predicate_nothing_of_another_office_is_there() {
    let database = TestDb::new(Backend::Postgres, "scheduler").await;
    let db = Db::open(database.target(), crate::MIGRATIONS).await.expect("opens");
    let rows = RowSecurity::plant(&database, &["cluster"]).await;
    assert_eq!(rows.holes(&db).await, Vec::<String>::new());
}
