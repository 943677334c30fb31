//! Database failures, classified once, near the driver.

use std::fmt;

use mi_kernel::{Error, ErrorKind};

use crate::class::Class;

/// Result with [`DbError`].
pub type DbResult<T> = std::result::Result<T, DbError>;

/// A database failure. Converts into [`Error`] by its class.
#[derive(Debug)]
pub struct DbError(sqlx::Error);

impl DbError {
    /// Turns a violated uniqueness into the caller's own error, and any other failure into its class's.
    pub fn unique_or(self, business: impl FnOnce() -> Error) -> Error {
        match Class::of(&self.0) {
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
        match Class::of(&error.0) {
            Class::Unavailable | Class::Lost => {
                Self::unavailable("the database cannot be reached or is held up at the moment; try again")
                    .caused_by(error)
            }
            Class::Aborted => {
                Self::new(ErrorKind::Aborted, "CONFLICT", "another change was faster; read again and retry")
                    .by_platform()
                    .caused_by(error)
            }
            Class::Full => Self::exhausted(
                "STORAGE_FULL",
                "the platform's database has no space left; nothing was changed. Deleting files, backups or agents makes \
                 room, and so does a larger disk",
                std::time::Duration::from_secs(30),
            )
            .by_platform()
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
