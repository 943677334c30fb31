//! Tables `offices`, `removed_offices` and `hires`.

use mi_kernel::{AgentId, OfficeId, Time};
use mi_store::{Db, DbResult, OfficeConn, delete_some, on};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{HiringRules, Office};

#[derive(FromRow)]
struct Row {
    id: Uuid,
    account_id: Uuid,
    version: i64,
    active: bool,
    removing: bool,
    settings: Json<HiringRules>,
}

impl From<Row> for Office {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            account_id: row.account_id.into(),
            version: row.version,
            active: row.active,
            removing: row.removing,
            settings: row.settings.0,
        }
    }
}

async fn one(conn: &mut OfficeConn, sql: &'static str) -> DbResult<Option<Office>> {
    let id = conn.office_id();
    let row: Option<Row> = on!(conn, |c| sqlx::query_as(sql).bind(id.0).fetch_optional(&mut *c).await)?;
    Ok(row.map(Office::from))
}

pub(crate) async fn office_get(conn: &mut OfficeConn) -> DbResult<Option<Office>> {
    one(conn, "SELECT * FROM offices WHERE id = $1").await
}

/// The office, locked: hires of one office happen one after the other.
pub(crate) async fn office_lock(tx: &mut OfficeConn) -> DbResult<Option<Office>> {
    let sql = tx.pick("SELECT * FROM offices WHERE id = $1", "SELECT * FROM offices WHERE id = $1 FOR UPDATE");
    one(tx, sql).await
}

/// Makes the copy at least as new as this one; false: it was already, or the office was removed.
pub(crate) async fn office_apply(tx: &mut OfficeConn, office: &Office) -> DbResult<bool> {
    let id = tx.office_id();
    Ok(on!(tx, |c| {
        sqlx::query(
            "INSERT INTO offices (id, account_id, version, active, removing, settings) SELECT $1, $2, $3, $4, $5, $6
             WHERE NOT EXISTS (SELECT 1 FROM removed_offices WHERE id = $1)
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, active = excluded.active,
             settings = excluded.settings WHERE offices.version < excluded.version",
        )
        .bind(id.0)
        .bind(office.account_id.0)
        .bind(office.version)
        .bind(office.active)
        .bind(office.removing)
        .bind(Json(&office.settings))
        .execute(&mut *c)
        .await
        .map(|done| done.rows_affected() == 1)
    })?)
}

pub(crate) async fn office_begin_removal(tx: &mut OfficeConn) -> DbResult<()> {
    let id = tx.office_id();
    on!(tx, |c| sqlx::query("UPDATE offices SET removing = TRUE WHERE id = $1")
        .bind(id.0)
        .execute(&mut *c)
        .await
        .map(drop))?;
    Ok(())
}

/// Deletes some of what stays of agents that are gone, in a transaction of its own; true: there may be more.
pub(crate) async fn office_clear_some(db: &Db, office: OfficeId) -> DbResult<bool> {
    let mut tx = db.office(office).begin().await?;
    let statements = [
        "DELETE FROM former_keys WHERE office_id = $1 AND (agent_id, key_id) IN
         (SELECT agent_id, key_id FROM former_keys WHERE office_id = $1 LIMIT $2)",
        "DELETE FROM agent_keys WHERE office_id = $1 AND public_key IN
         (SELECT public_key FROM agent_keys WHERE office_id = $1 LIMIT $2)",
        "DELETE FROM admissions WHERE office_id = $1 AND invite_id IN
         (SELECT invite_id FROM admissions WHERE office_id = $1 LIMIT $2)",
        "DELETE FROM hires WHERE office_id = $1 AND agent_id IN
         (SELECT agent_id FROM hires WHERE office_id = $1 LIMIT $2)",
    ];
    let more = delete_some(&mut tx, &statements).await?;
    tx.commit().await?;
    Ok(more)
}

/// Removes the office, of which nothing else is left, for good; one that was never heard of is noted as removed, too.
pub(crate) async fn office_delete(tx: &mut OfficeConn) -> DbResult<()> {
    let id = tx.office_id();
    on!(tx, |c| sqlx::query("INSERT INTO removed_offices (id) VALUES ($1) ON CONFLICT (id) DO NOTHING")
        .bind(id.0)
        .execute(&mut *c)
        .await
        .map(drop))?;
    on!(tx, |c| sqlx::query("DELETE FROM offices WHERE id = $1").bind(id.0).execute(&mut *c).await.map(drop))?;
    Ok(())
}

/// Hires by agents since a time; older ones are forgotten.
pub(crate) async fn hire_count(tx: &mut OfficeConn, since: Time) -> DbResult<i64> {
    let id = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM hires WHERE office_id = $1 AND hired_at < $2")
            .bind(id.0)
            .bind(since)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    let (count,): (i64,) = on!(tx, |c| {
        sqlx::query_as("SELECT count(*) FROM hires WHERE office_id = $1").bind(id.0).fetch_one(&mut *c).await
    })?;
    Ok(count)
}

pub(crate) async fn hire_insert(tx: &mut OfficeConn, agent: AgentId, now: Time) -> DbResult<()> {
    let id = tx.office_id();
    on!(tx, |c| {
        sqlx::query("INSERT INTO hires (agent_id, office_id, hired_at) VALUES ($1, $2, $3)")
            .bind(agent.0)
            .bind(id.0)
            .bind(now)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}
