//! Tables `accounts` and `api_keys`. Platform-wide: an account is above its offices, and a key is resolved before any
//! office is known.

use mi_kernel::{AccountId, ApiKeyId, Time, page::Page};
use mi_store::{Conn, DbResult, FromRow, PlatformConn, all, exec, optional, scalars};

use super::{Account, ApiKey};

#[derive(FromRow)]
struct HolderRow {
    #[sqlx(flatten)]
    key: ApiKey,
    administrator: bool,
}

pub(super) async fn account_insert(tx: &mut PlatformConn, account: &Account) -> DbResult<()> {
    let sql = "INSERT INTO accounts (id, name, administrator, created_at) VALUES ($1, $2, $3, $4)";
    exec!(tx, sql, account.id, &account.name, account.administrator, account.created_at).map(drop)
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
    Ok(exec!(tx, sql, account, i64::from(most))? == 1)
}

/// Counts one fewer.
pub(super) async fn discount(tx: &mut Conn, account: AccountId, what: Counted) -> DbResult<()> {
    let sql = match what {
        Counted::Offices => "UPDATE accounts SET office_count = office_count - 1 WHERE id = $1",
        Counted::ApiKeys => "UPDATE accounts SET key_count = key_count - 1 WHERE id = $1",
    };
    exec!(tx, sql, account).map(drop)
}

/// Whether the account is the administrator's, and micro-credits of its allowance that are given out; nobody else changes
/// that until the transaction ends. Called with an office's connection, too: accounts are above offices.
pub(super) async fn allowance_lock(tx: &mut Conn, account: AccountId) -> DbResult<Option<(bool, i64)>> {
    let sql = tx.pick(
        "SELECT administrator, credits_taken FROM accounts WHERE id = $1",
        "SELECT administrator, credits_taken FROM accounts WHERE id = $1 FOR NO KEY UPDATE",
    );
    optional!(tx, sql, account)
}

/// Changes how many are given out.
pub(super) async fn allowance_take(tx: &mut Conn, account: AccountId, amount: i64) -> DbResult<()> {
    exec!(tx, "UPDATE accounts SET credits_taken = credits_taken + $2 WHERE id = $1", account, amount).map(drop)
}

/// How many offices and API keys the account has; none: there is no such account.
pub(super) async fn counts(conn: &mut PlatformConn, account: AccountId) -> DbResult<Option<(i64, i64)>> {
    optional!(conn, "SELECT office_count, key_count FROM accounts WHERE id = $1", account)
}

pub(super) async fn account_get(conn: &mut PlatformConn, id: AccountId) -> DbResult<Option<Account>> {
    optional!(conn, "SELECT id, name, administrator, created_at FROM accounts WHERE id = $1", id)
}

pub(super) async fn administrator(conn: &mut PlatformConn) -> DbResult<Option<Account>> {
    // As the index of it says it, by which the one row is found.
    let sql = conn.pick(
        "SELECT id, name, administrator, created_at FROM accounts WHERE administrator = 1",
        "SELECT id, name, administrator, created_at FROM accounts WHERE administrator",
    );
    optional!(conn, sql)
}

pub(super) async fn account_list(conn: &mut PlatformConn, page: &Page<AccountId>) -> DbResult<Vec<Account>> {
    let sql = "SELECT id, name, administrator, created_at FROM accounts WHERE id > $1 ORDER BY id LIMIT $2";
    all!(conn, sql, page.after.unwrap_or(AccountId::MIN), page.fetch())
}

pub(super) async fn key_insert(tx: &mut PlatformConn, key: &ApiKey, sha256: &[u8]) -> DbResult<()> {
    let sql = "INSERT INTO api_keys (id, account_id, name, prefix, sha256, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
    exec!(tx, sql, key.id, key.account_id, &key.name, &key.prefix, sha256, key.created_at).map(drop)
}

pub(super) async fn key_get(conn: &mut PlatformConn, id: ApiKeyId) -> DbResult<Option<ApiKey>> {
    optional!(conn, "SELECT id, account_id, name, prefix, created_at, revoked_at FROM api_keys WHERE id = $1", id)
}

/// The key with this hash, and whether its account is the administrator's.
pub(super) async fn key_by_hash(conn: &mut PlatformConn, sha256: &[u8]) -> DbResult<Option<(ApiKey, bool)>> {
    let sql = "SELECT k.id, k.account_id, k.name, k.prefix, k.created_at, k.revoked_at, a.administrator
         FROM api_keys k JOIN accounts a ON a.id = k.account_id WHERE k.sha256 = $1";
    let row: Option<HolderRow> = optional!(conn, sql, sha256)?;
    Ok(row.map(|row| (row.key, row.administrator)))
}

pub(super) async fn key_list(
    conn: &mut PlatformConn,
    account: AccountId,
    page: &Page<ApiKeyId>,
) -> DbResult<Vec<ApiKey>> {
    let sql = "SELECT id, account_id, name, prefix, created_at, revoked_at FROM api_keys
         WHERE account_id = $1 AND id > $2 ORDER BY id LIMIT $3";
    all!(conn, sql, account, page.after.unwrap_or(ApiKeyId::MIN), page.fetch())
}

/// Revokes; false: somebody did already.
pub(super) async fn key_revoke(tx: &mut PlatformConn, id: ApiKeyId, now: Time) -> DbResult<bool> {
    Ok(exec!(tx, "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", id, now)? == 1)
}

/// Keys revoked at this time and later, of whatever account.
pub(super) async fn key_revoked_since(conn: &mut PlatformConn, time: Time) -> DbResult<Vec<ApiKeyId>> {
    scalars!(conn, "SELECT id FROM api_keys WHERE revoked_at >= $1", time)
}
