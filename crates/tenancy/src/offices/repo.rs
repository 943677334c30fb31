//! Table `offices`. An office is its own scope: the row is the one whose id is the office.

use mi_kernel::{AccountId, OfficeId, Time, page::Page};
use mi_store::{DbError, DbResult, OfficeConn, PlatformConn, on};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{Condition, Office, State};
use crate::Settings;

/// The row, for statements that read it beside something else.
#[derive(FromRow)]
pub struct Row {
    id: Uuid,
    account_id: Uuid,
    name: String,
    state: String,
    settings: Json<Settings>,
    version: i64,
    applied_version: i64,
    conditions: Json<Vec<Condition>>,
    created_at: Time,
    updated_at: Time,
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Provisioning => "provisioning",
        State::Active => "active",
        State::Suspended => "suspended",
        State::Deleting => "deleting",
    }
}

impl TryFrom<Row> for Office {
    type Error = DbError;
    fn try_from(row: Row) -> DbResult<Self> {
        let all = [State::Provisioning, State::Active, State::Suspended, State::Deleting];
        let state = all.into_iter().find(|state| state_name(*state) == row.state);
        Ok(Self {
            id: row.id.into(),
            account_id: row.account_id.into(),
            name: row.name,
            state: state.ok_or_else(|| sqlx::Error::Decode(format!("office state {:?}", row.state).into()))?,
            settings: row.settings.0,
            version: row.version,
            applied_version: row.applied_version,
            conditions: row.conditions.0,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Writes a new office.
pub async fn office_insert(tx: &mut OfficeConn, office: &Office) -> DbResult<()> {
    let id = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO offices
             (id, account_id, name, state, settings, version, applied_version, conditions, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(id.0)
        .bind(office.account_id.0)
        .bind(&office.name)
        .bind(state_name(office.state))
        .bind(Json(&office.settings))
        .bind(office.version)
        .bind(office.applied_version)
        .bind(Json(&office.conditions))
        .bind(office.created_at)
        .bind(office.updated_at)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

async fn one(conn: &mut OfficeConn, sql: &'static str) -> DbResult<Option<Office>> {
    let id = conn.office_id();
    let row: Option<Row> = on!(conn, |c| sqlx::query_as(sql).bind(id.0).fetch_optional(&mut *c).await)?;
    row.map(Office::try_from).transpose()
}

/// The office; none: there is no such office, or not any more.
pub async fn office_get(conn: &mut OfficeConn) -> DbResult<Option<Office>> {
    one(conn, "SELECT * FROM offices WHERE id = $1").await
}

/// The office, which nobody else changes until the transaction ends. Rows that belong to it may still be written.
pub async fn office_lock(tx: &mut OfficeConn) -> DbResult<Option<Office>> {
    let sql = tx.pick("SELECT * FROM offices WHERE id = $1", "SELECT * FROM offices WHERE id = $1 FOR NO KEY UPDATE");
    one(tx, sql).await
}

/// Offices of one account, or of all, after a key. Spans offices: an account owns several.
pub async fn office_list(
    conn: &mut PlatformConn,
    owner: Option<AccountId>,
    page: &Page<OfficeId>,
) -> DbResult<Vec<Office>> {
    let after = page.after.map_or(Uuid::nil(), |id| id.0);
    let rows: Vec<Row> = on!(conn, |c| match owner {
        Some(owner) => {
            sqlx::query_as("SELECT * FROM offices WHERE id > $1 AND account_id = $3 ORDER BY id LIMIT $2")
                .bind(after)
                .bind(page.fetch())
                .bind(owner.0)
                .fetch_all(&mut *c)
                .await
        }
        None => {
            sqlx::query_as("SELECT * FROM offices WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(after)
                .bind(page.fetch())
                .fetch_all(&mut *c)
                .await
        }
    })?;
    rows.into_iter().map(Office::try_from).collect()
}

/// Every office of an account. Spans offices: who acts for the account may enter them all.
pub async fn office_ids(conn: &mut PlatformConn, owner: AccountId) -> DbResult<Vec<OfficeId>> {
    let rows: Vec<(Uuid,)> = on!(conn, |c| {
        sqlx::query_as("SELECT id FROM offices WHERE account_id = $1 ORDER BY id")
            .bind(owner.0)
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(|(id,)| id.into()).collect())
}

/// Offices after one of which other roles do not know everything yet. Spans offices: it finds the ones to work on.
pub async fn office_unfinished(
    conn: &mut PlatformConn,
    after: Option<OfficeId>,
    limit: i64,
) -> DbResult<Vec<OfficeId>> {
    let rows: Vec<(Uuid,)> = on!(conn, |c| {
        sqlx::query_as("SELECT id FROM offices WHERE applied_version < version AND id > $1 ORDER BY id LIMIT $2")
            .bind(after.map_or(Uuid::nil(), |id| id.0))
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(|(id,)| id.into()).collect())
}

/// Writes everything that can change. The row must be locked.
pub async fn office_update(tx: &mut OfficeConn, office: &Office) -> DbResult<()> {
    let id = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "UPDATE offices SET state = $2, settings = $3, version = $4, applied_version = $5, conditions = $6,
             updated_at = $7 WHERE id = $1",
        )
        .bind(id.0)
        .bind(state_name(office.state))
        .bind(Json(&office.settings))
        .bind(office.version)
        .bind(office.applied_version)
        .bind(Json(&office.conditions))
        .bind(office.updated_at)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// Deletes the row; false: somebody did already.
pub async fn office_delete(tx: &mut OfficeConn) -> DbResult<bool> {
    let id = tx.office_id();
    Ok(on!(tx, |c| {
        let deleted = sqlx::query("DELETE FROM offices WHERE id = $1").bind(id.0).execute(&mut *c).await;
        deleted.map(|done| done.rows_affected() == 1)
    })?)
}
