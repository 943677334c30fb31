//! Connections plan by indexes, whatever a table held when they did.

use mi_store::{Arm, Db};
use mi_testkit::{TestDb, on_both};

on_both! { plans_are_stable }

async fn plans_are_stable(database: TestDb) {
    let db = Db::open(database.target(), &[]).await.expect("opens");
    let mut conn = db.platform().read().await.expect("a connection");
    match conn.arm() {
        Arm::Sqlite(c) => {
            let options: Vec<String> =
                sqlx::query_scalar("PRAGMA compile_options").fetch_all(&mut *c).await.expect("answers");
            for wanted in ["ENABLE_QPSG", "DEFAULT_MEMSTATUS=0"] {
                let found = options.iter().any(|option| option == wanted);
                assert!(found, "SQLite was not built as .cargo/config.toml says: {options:?}");
            }
        }
        Arm::Postgres(c) => {
            let sql = "SELECT array_agg(current_setting(name) ORDER BY place)
                 FROM unnest(ARRAY['enable_seqscan', 'enable_sort', 'jit'])
                 WITH ORDINALITY AS s (name, place)";
            let settings: Vec<String> = sqlx::query_scalar(sql).fetch_one(&mut *c).await.expect("answers");
            assert_eq!(settings, ["off", "off", "off"]);
        }
    }
}
