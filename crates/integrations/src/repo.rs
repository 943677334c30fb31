//! Table `integration_secrets`.

use mi_kernel::Time;
use mi_store::{DbResult, OfficeConn, on};
use sqlx::FromRow;

use super::Kept;

#[derive(FromRow)]
struct Row {
    integration: String,
    name: String,
    updated_at: Time,
}

/// Which secrets there are; not what they are.
pub(super) async fn secret_list(conn: &mut OfficeConn) -> DbResult<Vec<Kept>> {
    let office_id = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT integration, name, updated_at FROM integration_secrets WHERE office_id = $1")
            .bind(office_id.0)
            .fetch_all(&mut *c)
            .await
    })?;
    let kept = |row: Row| Kept { integration: row.integration, name: row.name, updated_at: row.updated_at };
    Ok(rows.into_iter().map(kept).collect())
}

/// Writes a secret, in place of the one before.
pub(super) async fn secret_put(
    tx: &mut OfficeConn,
    integration: &str,
    name: &str,
    sealed: &[u8],
    now: Time,
) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO integration_secrets (office_id, integration, name, sealed, updated_at)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (office_id, integration, name)
             DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at",
        )
        .bind(office_id.0)
        .bind(integration)
        .bind(name)
        .bind(sealed)
        .bind(now)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// False: there was none.
pub(super) async fn secret_delete(tx: &mut OfficeConn, integration: &str, name: &str) -> DbResult<bool> {
    let office_id = tx.office_id();
    Ok(on!(tx, |c| {
        sqlx::query("DELETE FROM integration_secrets WHERE office_id = $1 AND integration = $2 AND name = $3")
            .bind(office_id.0)
            .bind(integration)
            .bind(name)
            .execute(&mut *c)
            .await
            .map(|done| done.rows_affected() == 1)
    })?)
}

/// Deletes all secrets of the office.
pub(super) async fn secret_clear(tx: &mut OfficeConn) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM integration_secrets WHERE office_id = $1")
            .bind(office_id.0)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}
