//! Rows that are read or written many at a time go to the database as one JSON text: what takes long is the round trip,
//! not the row.

use mi_kernel::Time;
use serde::Serialize;

use crate::{Db, DbResult, OfficeConn, exec};

/// Rows that one statement deletes: what goes in parts lets others write in between.
const PART: i64 = 1000;

/// The text to bind.
pub fn json_text<T: Serialize + ?Sized>(rows: &T) -> DbResult<String> {
    Ok(serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(error.into()))?)
}

/// A time in such a row: as SQLite keeps it, and as Postgres reads it.
pub fn time_text(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, false)
}

/// Deletes a part of the office's rows by the first of these statements that finds any: `$1` is the office, `$2` the most
/// that it may delete. False: there is nothing left.
///
/// # Errors
/// When the database fails.
pub async fn delete_some(tx: &mut OfficeConn, statements: &[&'static str]) -> DbResult<bool> {
    for sql in statements {
        if exec!(tx, *sql, PART)? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes the rows of before a time, whosever they are: part by part, each in a transaction of its own. `$1` is the time,
/// `$2` the most that the statement may delete.
///
/// # Errors
/// When the database fails. What was deleted until then is.
pub async fn delete_before(db: &Db, sql: &'static str, time: Time) -> DbResult<()> {
    loop {
        let mut tx = db.platform().begin().await?;
        let deleted = exec!(tx, sql, time, PART)?;
        tx.commit().await?;
        if deleted < PART {
            return Ok(());
        }
    }
}
