//! Tries the row-level security between offices on Postgres: rows of two offices in every table of a service, read and
//! written from the wrong side with the predicate left out.

use std::fmt::Display;

use mi_kernel::OfficeId;
use mi_store::{Arm, Conn, Db, DbTarget};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::TestDb;

/// Tables of every service that hold nothing of an office.
const COMMON: [&str; 3] = ["_sqlx_migrations", "idempotency", "leases"];
/// Tables whose rows are offices themselves.
const OFFICES: [&str; 2] = ["offices", "removed_offices"];

/// The tables of a service, with a row of each of two offices in each.
pub struct RowSecurity {
    owner: PgConnection,
    tables: Vec<Table>,
    offices: [OfficeId; 2],
}

struct Table {
    name: String,
    /// The column that says whose a row is.
    office: &'static str,
    /// Names and types of all columns that can be written.
    columns: Vec<(String, String)>,
}

impl Table {
    /// Adds a row of this office.
    fn insert(&self, office: OfficeId) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let values = self.columns.iter().map(|(name, kind)| match kind.as_str() {
            _ if name == self.office => format!("'{office}'"),
            "uuid" => "gen_random_uuid()".into(),
            // Some texts are unique.
            "text" => "gen_random_uuid()::text".into(),
            "jsonb" | "json" => "'{}'".into(),
            "bigint" | "integer" | "smallint" => "1".into(),
            "boolean" => "false".into(),
            // And so are some hashes.
            "bytea" => "uuid_send(gen_random_uuid())".into(),
            "timestamp with time zone" => "now()".into(),
            "xid8" => "pg_current_xact_id()".into(),
            "ARRAY" => "'{}'".into(),
            other => panic!("{}.{name} is of type {other}: say here what a row may have in it", self.name),
        });
        let values: Vec<String> = values.collect();
        format!("INSERT INTO {} ({}) VALUES ({})", self.name, names.join(", "), values.join(", "))
    }
}

impl RowSecurity {
    /// Finds the tables in the catalogue and adds the rows. `officeless` are the service's own tables that hold nothing
    /// of an office.
    ///
    /// # Panics
    /// For a table without a column `office_id` that is not listed, besides failures of the database.
    pub async fn plant(database: &TestDb, officeless: &[&str]) -> Self {
        let (Some(url), DbTarget::Postgres { schema, .. }) = (database.url(), database.target()) else {
            panic!("SQLite has no row-level security");
        };
        let mut owner = PgConnection::connect(url).await.expect("connects");
        // No triggers: rows without what they refer to.
        let set = format!("SET search_path = {schema}; SET session_replication_role = replica");
        owner.execute(AssertSqlSafe(set)).await.expect("sets");
        let offices = [OfficeId::new(), OfficeId::new()];
        let mut tables = Vec::new();
        let names = "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace
                     AND relkind IN ('r', 'p') ORDER BY relname";
        let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut owner).await.expect("lists tables");
        for name in names.into_iter().filter(|name| !COMMON.iter().chain(officeless).any(|known| known == name)) {
            let columns: Vec<(String, String)> = sqlx::query_as(
                "SELECT column_name::text, data_type::text FROM information_schema.columns
                 WHERE table_schema = current_schema() AND table_name = $1
                 AND is_identity = 'NO' AND is_generated = 'NEVER' ORDER BY ordinal_position",
            )
            .bind(&name)
            .fetch_all(&mut owner)
            .await
            .expect("lists columns");
            let office = match columns.iter().any(|(column, _)| column == "office_id") {
                true => "office_id",
                false if OFFICES.contains(&name.as_str()) => "id",
                false => panic!("the table {name} has no office_id and is not said to hold nothing of an office"),
            };
            let table = Table { name, office, columns };
            for id in offices {
                owner.execute(AssertSqlSafe(table.insert(id))).await.expect("plants");
            }
            tables.push(table);
        }
        assert!(!tables.is_empty(), "no table of an office is there");
        Self { owner, tables, offices }
    }

    /// The two offices.
    pub fn offices(&self) -> [OfficeId; 2] {
        self.offices
    }

    /// Changes something as the owner.
    pub async fn breach(&mut self, sql: &'static str) {
        self.owner.execute(sql).await.expect("breaches");
    }

    /// Every way in which a row is there, or can be changed, for whom it should not; and where the right ones see less
    /// than they should.
    pub async fn holes(&self, db: &Db) -> Vec<String> {
        let mut holes = Holes(Vec::new());
        let [a, b] = self.offices;
        for table in &self.tables {
            for (who, mut conn, expected) in [
                ("office a", db.office(a).read().await.expect("begins").into(), vec![a.0]),
                ("office b", db.office(b).read().await.expect("begins").into(), vec![b.0]),
                ("the platform", db.platform().read().await.expect("begins").into(), vec![a.0, b.0]),
                ("nobody", db.unscoped().await.expect("connects"), vec![]),
            ] {
                let sql = format!("SELECT {office} FROM {} ORDER BY {office}", table.name, office = table.office);
                let seen = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(postgres(&mut conn)).await;
                holes.unless(seen.as_ref().ok() == Some(&expected), table, who, format_args!("reads {seen:?}"));
            }
            holes.look_for_writes(db, table, self.offices).await;
        }
        holes.0
    }
}

struct Holes(Vec<String>);

impl Holes {
    fn unless(&mut self, right: bool, table: &Table, who: &str, what: impl Display) {
        if !right {
            self.0.push(format!("{}: {who} {what}", table.name));
        }
    }

    /// Office b, then nobody, tries to change rows of office a. Nothing of it stays.
    async fn look_for_writes(&mut self, db: &Db, table: &Table, [a, b]: [OfficeId; 2]) {
        let (name, office) = (&table.name, table.office);
        let touch = format!("UPDATE {name} SET {office} = {office} WHERE {office} = '{a}'");
        let delete = format!("DELETE FROM {name} WHERE {office} = '{a}'");
        let give = format!("UPDATE {name} SET {office} = '{a}' WHERE {office} = '{b}'");
        // What it is, and whether it has to be refused: where there is no row to change, nothing is.
        let tries = [(table.insert(a), true, true), (touch, false, false), (delete, false, false), (give, true, false)];
        for (sql, refused, refused_to_nobody) in tries {
            let conn = db.office(b).begin().await.expect("begins");
            self.look_for_write(&mut conn.into_conn(), table, "office b", &sql, refused).await;
            let mut conn = db.unscoped().await.expect("connects");
            postgres(&mut conn).execute("BEGIN").await.expect("begins");
            self.look_for_write(&mut conn, table, "nobody", &sql, refused_to_nobody).await;
            postgres(&mut conn).execute("ROLLBACK").await.expect("rolls back");
        }
    }

    async fn look_for_write(&mut self, conn: &mut Conn, table: &Table, who: &str, sql: &str, refused: bool) {
        let outcome = postgres(conn).execute(AssertSqlSafe(sql.to_owned())).await;
        let right = match &outcome {
            Ok(done) => !refused && done.rows_affected() == 0,
            Err(error) => refused && error.to_string().contains("violates row-level security policy"),
        };
        self.unless(right, table, who, format_args!("got {outcome:?} for {sql}"));
    }
}

fn postgres(conn: &mut Conn) -> &mut PgConnection {
    match conn.arm() {
        Arm::Postgres(conn) => conn,
        Arm::Sqlite(_) => panic!("SQLite has no row-level security"),
    }
}
