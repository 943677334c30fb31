//! Tables `accounts` and `api_keys`. Platform-wide: an account is above its offices, and a key is resolved before any
//! office is known.

use mi_kernel::{AccountId, ApiKeyId, Time, page::Page};
use mi_store::{Conn, DbResult, PlatformConn, on};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Account, ApiKey};

#[derive(FromRow)]
struct AccountRow {
    id: Uuid,
    name: String,
    administrator: bool,
    created_at: Time,
}

impl From<AccountRow> for Account {
    fn from(row: AccountRow) -> Self {
        Self { id: row.id.into(), name: row.name, administrator: row.administrator, created_at: row.created_at }
    }
}

#[derive(FromRow)]
struct KeyRow {
    id: Uuid,
    account_id: Uuid,
    name: String,
    prefix: String,
    created_at: Time,
    revoked_at: Option<Time>,
}

impl From<KeyRow> for ApiKey {
    fn from(row: KeyRow) -> Self {
        Self {
            id: row.id.into(),
            account_id: row.account_id.into(),
            name: row.name,
            prefix: row.prefix,
            created_at: row.created_at,
            revoked_at: row.revoked_at,
        }
    }
}

#[derive(FromRow)]
struct HolderRow {
    #[sqlx(flatten)]
    key: KeyRow,
    administrator: bool,
}

pub(super) async fn account_insert(tx: &mut PlatformConn, account: &Account) -> DbResult<()> {
    on!(tx, |c| {
        sqlx::query("INSERT INTO accounts (id, name, administrator, created_at) VALUES ($1, $2, $3, $4)")
            .bind(account.id.0)
            .bind(&account.name)
            .bind(account.administrator)
            .bind(account.created_at)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// What is counted of an account.
#[derive(Debug, Clone, Copy)]
pub(super) enum Counted {
    /// Offices.
    Offices,
    /// API keys that are not revoked.
    ApiKeys,
}

/// Counts one more, unless the account has as many as it may; false: it has. The row stays locked, so that of two at once
/// the second sees the first. Called with an office's connection, too: accounts are above offices.
pub(super) async fn count(tx: &mut Conn, account: AccountId, what: Counted, most: u32) -> DbResult<bool> {
    let sql = match what {
        Counted::Offices => "UPDATE accounts SET office_count = office_count + 1 WHERE id = $1 AND office_count < $2",
        Counted::ApiKeys => "UPDATE accounts SET key_count = key_count + 1 WHERE id = $1 AND key_count < $2",
    };
    Ok(on!(tx, |c| {
        let counted = sqlx::query(sql).bind(account.0).bind(i64::from(most)).execute(&mut *c).await;
        counted.map(|done| done.rows_affected() == 1)
    })?)
}

/// Counts one fewer.
pub(super) async fn discount(tx: &mut Conn, account: AccountId, what: Counted) -> DbResult<()> {
    let sql = match what {
        Counted::Offices => "UPDATE accounts SET office_count = office_count - 1 WHERE id = $1",
        Counted::ApiKeys => "UPDATE accounts SET key_count = key_count - 1 WHERE id = $1",
    };
    on!(tx, |c| sqlx::query(sql).bind(account.0).execute(&mut *c).await.map(drop))?;
    Ok(())
}

/// How many offices and API keys the account has; none: there is no such account.
pub(super) async fn counts(conn: &mut PlatformConn, account: AccountId) -> DbResult<Option<(i64, i64)>> {
    Ok(on!(conn, |c| {
        sqlx::query_as("SELECT office_count, key_count FROM accounts WHERE id = $1")
            .bind(account.0)
            .fetch_optional(&mut *c)
            .await
    })?)
}

pub(super) async fn account_get(conn: &mut PlatformConn, id: AccountId) -> DbResult<Option<Account>> {
    let row: Option<AccountRow> = on!(conn, |c| {
        sqlx::query_as("SELECT id, name, administrator, created_at FROM accounts WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(row.map(Account::from))
}

pub(super) async fn administrator(conn: &mut PlatformConn) -> DbResult<Option<Account>> {
    let row: Option<AccountRow> = on!(conn, |c| {
        sqlx::query_as("SELECT id, name, administrator, created_at FROM accounts WHERE administrator")
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(row.map(Account::from))
}

pub(super) async fn account_list(conn: &mut PlatformConn, page: &Page<AccountId>) -> DbResult<Vec<Account>> {
    let rows: Vec<AccountRow> = on!(conn, |c| {
        sqlx::query_as("SELECT id, name, administrator, created_at FROM accounts WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(page.after.map_or(Uuid::nil(), |id| id.0))
            .bind(page.fetch())
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(Account::from).collect())
}

pub(super) async fn key_insert(tx: &mut PlatformConn, key: &ApiKey, sha256: &[u8]) -> DbResult<()> {
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO api_keys (id, account_id, name, prefix, sha256, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(key.id.0)
        .bind(key.account_id.0)
        .bind(&key.name)
        .bind(&key.prefix)
        .bind(sha256)
        .bind(key.created_at)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

pub(super) async fn key_get(conn: &mut PlatformConn, id: ApiKeyId) -> DbResult<Option<ApiKey>> {
    let row: Option<KeyRow> = on!(conn, |c| {
        sqlx::query_as("SELECT id, account_id, name, prefix, created_at, revoked_at FROM api_keys WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(row.map(ApiKey::from))
}

/// The key with this hash, and whether its account is the administrator's.
pub(super) async fn key_by_hash(conn: &mut PlatformConn, sha256: &[u8]) -> DbResult<Option<(ApiKey, bool)>> {
    let row: Option<HolderRow> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT k.id, k.account_id, k.name, k.prefix, k.created_at, k.revoked_at, a.administrator
             FROM api_keys k JOIN accounts a ON a.id = k.account_id WHERE k.sha256 = $1",
        )
        .bind(sha256)
        .fetch_optional(&mut *c)
        .await
    })?;
    Ok(row.map(|row| (row.key.into(), row.administrator)))
}

pub(super) async fn key_list(
    conn: &mut PlatformConn,
    account: AccountId,
    page: &Page<ApiKeyId>,
) -> DbResult<Vec<ApiKey>> {
    let rows: Vec<KeyRow> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT id, account_id, name, prefix, created_at, revoked_at FROM api_keys
             WHERE account_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(account.0)
        .bind(page.after.map_or(Uuid::nil(), |id| id.0))
        .bind(page.fetch())
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(ApiKey::from).collect())
}

/// Revokes; false: somebody did already.
pub(super) async fn key_revoke(tx: &mut PlatformConn, id: ApiKeyId, now: Time) -> DbResult<bool> {
    Ok(on!(tx, |c| {
        sqlx::query("UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
            .bind(id.0)
            .bind(now)
            .execute(&mut *c)
            .await
            .map(|done| done.rows_affected() == 1)
    })?)
}

/// Keys revoked at this time and later, of whatever account.
pub(super) async fn key_revoked_since(conn: &mut PlatformConn, time: Time) -> DbResult<Vec<ApiKeyId>> {
    let rows: Vec<(Uuid,)> = on!(conn, |c| {
        sqlx::query_as("SELECT id FROM api_keys WHERE revoked_at >= $1").bind(time).fetch_all(&mut *c).await
    })?;
    Ok(rows.into_iter().map(|(id,)| id.into()).collect())
}
