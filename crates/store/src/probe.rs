//! A live check of the row-level security between offices in the database: what nobody, and an office that does not
//! exist, can see.

use mi_kernel::{
    OfficeId, Result,
    isolation::{IsolationCheck, IsolationState},
};
use sqlx::{AssertSqlSafe, FromRow};

use crate::{Arm, Conn, Db, DbError, service_role};

/// Tables that hold rows of offices. Made anew each time: also one that a hand has made or changed since the start.
const TABLES: &str = "SELECT c.relname::text AS name, c.relrowsecurity AND c.relforcerowsecurity
    AND (SELECT count(*) = 1 AND bool_and(pg_get_expr(p.polqual, p.polrelid) LIKE '%mi.scope%')
        FROM pg_policy p WHERE p.polrelid = c.oid) AS forced
    FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
    AND (c.relname IN ('offices', 'removed_offices') OR EXISTS (SELECT FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attname = 'office_id' AND NOT a.attisdropped)) ORDER BY c.relname";

#[derive(FromRow)]
struct Table {
    name: String,
    forced: bool,
}

impl Db {
    /// Reads every table of offices' rows from the wrong side, with no predicate. `role` names the service.
    ///
    /// # Errors
    /// Failures of the database; what is found is no error.
    pub async fn run_isolation_checks(&self, role: &str) -> Result<Vec<IsolationCheck>> {
        let Some(pool) = self.postgres_pool() else {
            return Ok(vec![IsolationCheck {
                layer: "database",
                probe: format!("{role}: rows as another office"),
                state: IsolationState::Absent,
                detail: "SQLite has no row-level security: queries bind their office by type".into(),
            }]);
        };
        let working = service_role::verify(pool).await;
        let mut checks = vec![IsolationCheck {
            layer: "database",
            probe: format!("{role}: the working role is held by policies"),
            state: if working.is_ok() { IsolationState::Holds } else { IsolationState::Hole },
            detail: working.map_or_else(|error| error.message, |()| "no owner, no superuser, no bypass".into()),
        }];
        let tables: Vec<Table> = sqlx::query_as(TABLES).fetch_all(pool).await.map_err(DbError::from)?;
        for table in tables {
            let stranger = seen(self.office(OfficeId::new()).read().await?, &table.name).await?;
            let nobody = seen(self.unscoped().await?, &table.name).await?;
            let filled = seen(self.platform().read().await?, &table.name).await?;
            let (state, detail) = match (stranger || nobody, table.forced) {
                (true, _) => (IsolationState::Hole, "rows of other offices are seen"),
                (false, false) => (IsolationState::Hole, "row-level security is off, not forced, or replaced"),
                (false, true) if filled => (IsolationState::Holds, "nothing is seen of the rows there are"),
                (false, true) => (IsolationState::Holds, "row-level security is forced; there is no row yet"),
            };
            let probe = format!("{role}.{}: rows as another office", table.name);
            checks.push(IsolationCheck { layer: "database", probe, state, detail: detail.into() });
        }
        Ok(checks)
    }
}

/// Whether any row is there for this connection.
async fn seen(conn: impl Into<Conn>, table: &str) -> Result<bool> {
    let mut conn: Conn = conn.into();
    let Arm::Postgres(conn) = conn.arm() else {
        return Ok(false);
    };
    // The name comes from the catalogue and is quoted as one.
    let sql = format!("SELECT EXISTS (SELECT FROM \"{}\")", table.replace('"', "\"\""));
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await.map_err(DbError::from)?)
}
