//! A large installation on Postgres: rows for every table by what its columns are, and statistics of them.

use std::time::Duration;

use mi_store::DbTarget;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::Plans;
use crate::{TestDb, until};

/// What columns hold: `table.column`, and SQL over the number `g` of a row.
pub(super) type Values<'a> = &'a [(&'a str, &'a str)];

/// For broken code, not for slow machines.
const LIMIT: Duration = Duration::from_secs(60);
/// Rows of a table.
const ROWS: u32 = 20_000;
/// Half of them are of one office, the rest of this many others; but where an office has few rows.
const OFFICES: u32 = 200;
/// The id of the office with most rows.
pub(super) const LARGE: &str = "md5('office0')::uuid";

/// Columns of tables: whether they may be null, whether they are alone a unique key or end one.
const COLUMNS: &str = "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, NULL), a.attnotnull,
         EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indnatts = 1 AND i.indkey[0] = a.attnum),
         EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique
             AND i.indkey[i.indnatts - 1] = a.attnum)
     FROM pg_class c JOIN pg_attribute a
         ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' ORDER BY c.relname, a.attnum";

/// Drops what a made-up row would break.
const NO_CHECKS: &str = "DO $$ DECLARE c record; BEGIN
     FOR c IN SELECT conrelid::regclass AS on_table, conname FROM pg_constraint
         WHERE connamespace = current_schema()::regnamespace AND contype = 'c' LOOP
         EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.on_table, c.conname);
     END LOOP;
 END $$";

/// What is known of a table does not depend on when the server found time to look at it.
const NO_AUTOVACUUM: &str = "DO $$ DECLARE t record; BEGIN
     FOR t IN SELECT oid::regclass AS name FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' LOOP
         EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', t.name);
     END LOOP;
 END $$";

/// A connection of the tables' owner, whom no trigger holds up.
pub(super) async fn owner(database: &TestDb) -> PgConnection {
    let (Some(url), DbTarget::Postgres { schema, .. }) = (database.url(), database.target()) else {
        panic!("not Postgres");
    };
    let mut owner = PgConnection::connect(url).await.expect("connects");
    let set =
        format!("SET search_path = {schema}; SET session_replication_role = replica; SET synchronous_commit = off");
    owner.execute(AssertSqlSafe(set)).await.expect("sets");
    owner.execute(NO_AUTOVACUUM).await.expect("sets");
    owner
}

/// Fails when the schema has other functions than these: they hold statements.
pub(super) async fn only_functions(owner: &mut PgConnection, known: &[&str]) {
    let sql = "SELECT proname::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
         AND proname <> 'office_wall' ORDER BY proname";
    let mut found: Vec<String> = sqlx::query_scalar(sql).fetch_all(owner).await.expect("lists functions");
    found.dedup();
    let mut known = known.to_vec();
    known.sort_unstable();
    known.dedup();
    assert_eq!(found, known, "the functions of the schema, with the statements in them, are those of `functions`");
}

/// Fills the tables that offices fill.
pub(super) async fn fill(owner: &mut PgConnection, plans: &Plans<'_>) {
    owner.execute(NO_CHECKS).await.expect("drops checks");
    let columns: Vec<(String, String, String, bool, bool, bool)> =
        sqlx::query_as(COLUMNS).fetch_all(&mut *owner).await.expect("lists columns");
    for table in columns.chunk_by(|a, b| a.0 == b.0).filter(|table| !plans.is_few(&table[0].0)) {
        let name = &table[0].0;
        let mut names = Vec::new();
        let mut values = Vec::new();
        for (_, column, kind, required, alone, last) in table {
            let told = format!("{name}.{column}");
            let told = plans.values.iter().find(|(known, _)| *known == told);
            names.push(format!("{column:?}"));
            values.push(match told {
                Some((_, value)) => (*value).to_owned(),
                None if column == "office_id" && !alone => {
                    let few = plans.few_per_office.iter().any(|(few, _)| few == name);
                    let office = if few { "g / 5" } else { "CASE WHEN g % 2 = 0 THEN 0 ELSE g % OFFICES END" };
                    format!("md5('office' || {})::uuid", office.replace("OFFICES", &OFFICES.to_string()))
                }
                None if column == "office_id"
                    || column == "id" && ["offices", "removed_offices"].contains(&name.as_str()) =>
                {
                    "md5('office' || g)::uuid".to_owned()
                }
                None if *required => value(kind, *last),
                None => format!("CASE WHEN g % 20 = 0 THEN {} END", value(kind, *last)),
            });
        }
        let insert = format!(
            "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM generate_series(0, {}) AS g ON CONFLICT DO NOTHING",
            names.join(", "),
            values.join(", "),
            ROWS - 1
        );
        let filled = owner.execute(AssertSqlSafe(insert)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(filled.rows_affected() > u64::from(ROWS / 2), "{name} has {} rows", filled.rows_affected());
    }
    analyse(owner).await;
}

pub(super) async fn analyse(owner: &mut PgConnection) {
    // As long as somebody may see what was there before, such as a transaction that is about to be rolled back, a page does not
    // count as visible to all, and other plans are the cheapest.
    until("nobody sees an old state", LIMIT, async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut *owner).await.expect("counts");
        if count == 0 { Ok(Some(())) } else { Err(count) }
    })
    .await;
    owner.execute("VACUUM ANALYZE").await.expect("analyses");
}

/// What a column of this type holds: something else in each row, or in each few.
fn value(kind: &str, unique: bool) -> String {
    let (id, number) = if unique { ("g", "g") } else { ("g / 5", "g % 100") };
    match kind {
        "uuid" => format!("md5('row' || {id})::uuid"),
        "text" => format!("'v' || {number}"),
        "bigint" | "integer" | "smallint" => number.to_owned(),
        "bytea" => format!("decode(md5('row' || {id}), 'hex')"),
        "boolean" => "g % 50 = 0".to_owned(),
        "timestamp with time zone" => "timestamptz '2026-01-01' + g * interval '1 minute'".to_owned(),
        "jsonb" | "json" => "'{}'".to_owned(),
        "xid8" => format!("({number})::text::xid8"),
        other => panic!("what a column of type {other} may hold is to be said here"),
    }
}

/// A value of this type for a parameter of a custom plan.
pub(super) fn parameter(kind: &str, is_json: bool) -> &'static str {
    match kind {
        "uuid" => LARGE,
        "text" if is_json => "'[]'",
        "text" => "'v1'",
        "bigint" | "integer" | "smallint" => "100",
        "bytea" => "'x'",
        "boolean" => "false",
        "timestamp with time zone" => "timestamptz '2026-01-02'",
        "jsonb" | "json" => "'[]'",
        _ => "NULL",
    }
}
