//! Rows that are read or written many at a time go to the database as one JSON text: what takes long is the round trip,
//! not the row.

use mi_kernel::Time;
use serde::Serialize;

use crate::DbResult;

/// The text to bind.
pub fn json_text<T: Serialize + ?Sized>(rows: &T) -> DbResult<String> {
    Ok(serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(error.into()))?)
}

/// A time in such a row: as SQLite keeps it, and as Postgres reads it.
pub fn time_text(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, false)
}
