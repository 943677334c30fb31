//! Database failures, classified once, near the driver.

use std::fmt;

use mi_kernel::{Error, ErrorKind};

/// Result with [`DbError`].
pub type DbResult<T> = std::result::Result<T, DbError>;

/// A database failure. Converts into [`Error`] by its class.
#[derive(Debug)]
pub struct DbError(sqlx::Error);

/// What a database failure means to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Unique,
    /// The database or a connection to it is gone, it has no room for another one, or it did not get there in time.
    Unavailable,
    /// Lost a race that the database settled; the whole transaction may be tried again.
    Aborted,
    Full,
    Other,
}

impl DbError {
    fn class(&self) -> Class {
        match &self.0 {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Class::Unavailable,
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => Class::Full,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) => Class::Unavailable,
            sqlx::Error::Database(error) if error.is_unique_violation() => Class::Unique,
            sqlx::Error::Database(error) => match error.code().as_deref() {
                // Postgres, SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html
                Some("40001" | "40P01") => Class::Aborted,
                Some("53100" | "53200") => Class::Full,
                // 55000 and 3D000: the database takes no connections, or is gone, while it is being restored.
                Some("53300" | "55000" | "3D000" | "57P01" | "57P02" | "57P03") => Class::Unavailable,
                // A limit of the connection (see `LIMITS`): for a lock, a statement, a transaction that did nothing.
                Some("55P03" | "57014" | "25P03") => Class::Unavailable,
                Some(code) if code.len() == 5 && code.starts_with("08") => Class::Unavailable,
                // SQLite, primary result code in the low byte: https://www.sqlite.org/rescode.html
                Some(code) if code.len() != 5 => match code.parse::<u32>().map(|code| code & 0xff) {
                    Ok(5 | 6) => Class::Unavailable, // BUSY, LOCKED
                    Ok(13) => Class::Full,           // FULL
                    _ => Class::Other,
                },
                _ => Class::Other,
            },
            _ => Class::Other,
        }
    }

    /// Turns a violated uniqueness into the caller's own error, and any other failure into its class's.
    pub fn unique_or(self, business: impl FnOnce() -> Error) -> Error {
        match self.class() {
            Class::Unique => business(),
            _ => self.into(),
        }
    }
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        match error.class() {
            Class::Unavailable => {
                Self::unavailable("the database cannot be reached or is held up at the moment; try again")
                    .caused_by(error)
            }
            Class::Aborted => {
                Self::new(ErrorKind::Aborted, "CONFLICT", "another change was faster; read again and retry")
                    .caused_by(error)
            }
            Class::Full => Self::exhausted(
                "STORAGE_FULL",
                "the platform's database has no space left; nothing was changed",
                std::time::Duration::from_secs(30),
            )
            .caused_by(error),
            Class::Unique | Class::Other => Self::internal(error),
        }
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database: {}", self.0)
    }
}

// Display already prints the driver's error, so `source` starts below it.
impl std::error::Error for DbError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}
