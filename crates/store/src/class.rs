//! What the failures of both databases mean to a caller: one table of codes for each.

use std::io;

use sqlx::postgres::PgDatabaseError;

/// What a database failure means to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Unique,
    /// The database or a connection to it is gone, it has no room for another one, or it did not get there in time.
    Unavailable,
    /// As `Unavailable`; besides, the server at the other end takes no writes any more, or ends: every connection to it
    /// is to be given up for a new one.
    Lost,
    /// Lost a race that the database settled; the whole transaction may be tried again.
    Aborted,
    Full,
    /// A fault of ours, or damage.
    Other,
}

/// SQLSTATE, whole or its first two characters, which are its class; the longer one decides. What is not here is a
/// fault of ours: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
const SQLSTATE: &[(&str, Class)] = &[
    // Connections that broke, or could not be made.
    ("08", Class::Unavailable),
    ("23505", Class::Unique),
    // A standby, or a server that was made read-only.
    ("25006", Class::Lost),
    // The session was ended for a transaction that did nothing, or took too long.
    ("25P03", Class::Unavailable),
    ("25P04", Class::Unavailable),
    // The password was changed, or who may connect.
    ("28", Class::Unavailable),
    // The database is gone, while it is being restored.
    ("3D000", Class::Unavailable),
    ("40", Class::Aborted),
    // It is not known whether the statement was done.
    ("40003", Class::Unavailable),
    // Too many connections, memory, limits of the server.
    ("53", Class::Unavailable),
    ("53100", Class::Full),
    // The database takes no connections; it is used by what keeps others away; a lock was not to be had in time.
    ("55000", Class::Unavailable),
    ("55006", Class::Unavailable),
    ("55P03", Class::Unavailable),
    // An operator, or a limit of time, ended the statement, the session, or the server.
    ("57", Class::Unavailable),
    ("57P01", Class::Lost),
    ("57P02", Class::Lost),
    // The server cannot read or write its files.
    ("58000", Class::Unavailable),
    ("58030", Class::Unavailable),
];

/// SQLite's primary result codes: <https://www.sqlite.org/rescode.html>
const SQLITE: &[(u32, Class)] = &[
    (5, Class::Unavailable),  // BUSY
    (6, Class::Unavailable),  // LOCKED
    (7, Class::Unavailable),  // NOMEM
    (8, Class::Unavailable),  // READONLY: the file system was mounted anew after an error, or rights were taken away.
    (9, Class::Unavailable),  // INTERRUPT
    (10, Class::Unavailable), // IOERR
    (13, Class::Full),        // FULL
    (14, Class::Unavailable), // CANTOPEN: no file descriptor is left, or the directory is away.
    (15, Class::Unavailable), // PROTOCOL: the lock on the log was not to be had.
    (11, Class::Other),       // CORRUPT: nothing that is tried again will help.
    (26, Class::Other),       // NOTADB
];

impl Class {
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Unavailable,
            sqlx::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => Self::Full,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) => Self::Unavailable,
            sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
                Some(error) => Self::of_sqlstate(error.code()),
                None if error.is_unique_violation() => Self::Unique,
                None => error.code().and_then(|code| code.parse().ok()).map_or(Self::Other, Self::of_sqlite),
            },
            _ => Self::Other,
        }
    }

    fn of_sqlstate(code: &str) -> Self {
        let found = |key: &str| SQLSTATE.iter().find(|(known, _)| *known == key).map(|(_, class)| *class);
        found(code).or_else(|| found(code.get(..2)?)).unwrap_or(Self::Other)
    }

    /// The class of a code, which may be an extended one: those have the primary one in the low byte.
    fn of_sqlite(code: u32) -> Self {
        SQLITE.iter().find(|(known, _)| *known == code & 0xff).map_or(Self::Other, |(_, class)| *class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_postgres_has_its_class() {
        let expected: [(Class, &[&str]); 6] = [
            (Class::Unique, &["23505"]),
            (
                Class::Unavailable,
                &[
                    "08000", "08001", "08003", "08004", "08006", "08007", "08P01", "25P03", "25P04", "28000", "28P01",
                    "3D000", "40003", "53000", "53200", "53300", "53400", "55000", "55006", "55P03", "57000", "57014",
                    "57P03", "57P04", "57P05", "58000", "58030",
                ],
            ),
            (Class::Lost, &["25006", "57P01", "57P02"]),
            (Class::Aborted, &["40000", "40001", "40002", "40P01"]),
            (Class::Full, &["53100"]),
            (
                Class::Other,
                &[
                    "0A000", "21000", "22001", "22003", "22021", "22P02", "22P05", "23502", "23503", "23514", "25001",
                    "25P01", "25P02", "34000", "3F000", "42501", "42601", "42703", "42P01", "42P05", "54000", "54001",
                    "55P02", "58P01", "P0001", "XX000", "XX001", "XX002", "", "5",
                ],
            ),
        ];
        for (class, codes) in expected {
            for code in codes {
                assert_eq!(Class::of_sqlstate(code), class, "{code}");
            }
        }
    }

    #[test]
    fn every_code_of_sqlite_has_its_class() {
        let expected: [(Class, &[u32]); 3] = [
            // Extended ones among them: BUSY_SNAPSHOT, READONLY_DBMOVED, IOERR_WRITE, IOERR_FSYNC, CANTOPEN_ISDIR.
            (Class::Unavailable, &[5, 6, 7, 8, 9, 10, 14, 15, 517, 1032, 778, 1034, 526]),
            (Class::Full, &[13]),
            // CORRUPT_INDEX, CONSTRAINT_FOREIGNKEY, and a code that there is not.
            (Class::Other, &[1, 4, 11, 17, 18, 19, 20, 21, 25, 26, 779, 787, 255]),
        ];
        for (class, codes) in expected {
            for code in codes {
                assert_eq!(Class::of_sqlite(*code), class, "{code}");
            }
        }
    }

    #[test]
    fn what_the_driver_says_itself_has_its_class() {
        let io = |kind: io::ErrorKind| sqlx::Error::Io(kind.into());
        for (error, class) in [
            (sqlx::Error::PoolTimedOut, Class::Unavailable),
            (sqlx::Error::PoolClosed, Class::Unavailable),
            (sqlx::Error::WorkerCrashed, Class::Unavailable),
            (io(io::ErrorKind::ConnectionReset), Class::Unavailable),
            (io(io::ErrorKind::StorageFull), Class::Full),
            (sqlx::Error::RowNotFound, Class::Other),
            (sqlx::Error::ColumnNotFound("x".into()), Class::Other),
        ] {
            assert_eq!(Class::of(&error), class, "{error}");
        }
    }
}
