//! Statements as the repositories write them: a text for both databases, and its values.
//!
//! `exec!` changes rows, `all!`, `optional!` and `one!` read whole rows, `scalars!`, `scalar!` and `scalar_one!` their first
//! column. On an [`OfficeConn`](crate::OfficeConn) the office is `$1` and the values count from `$2`; on other connections
//! they count from `$1`. Each text is prepared once a connection. Where the dialects differ, the text is what
//! [`Conn::pick`](crate::Conn::pick) answers.

/// Runs a statement; how many rows it changed: `exec!(tx, "DELETE FROM notes WHERE office_id = $1 AND id = $2", id)`.
///
/// # Errors
/// A [`DbError`](crate::DbError) when the database fails, as all of these macros.
#[macro_export]
macro_rules! exec {
    ($conn:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::statement!(
            $conn, $sql, [$($value),*], query, execute, |done| done.rows_affected().cast_signed()
        )
    };
}

/// Reads every row: a `Vec` of what is [`FromRow`](crate::sqlx::FromRow).
#[macro_export]
macro_rules! all {
    ($conn:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::statement!($conn, $sql, [$($value),*], query_as, fetch_all)
    };
}

/// Reads the row, if there is one: an `Option` of what is [`FromRow`](crate::sqlx::FromRow).
#[macro_export]
macro_rules! optional {
    ($conn:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::statement!($conn, $sql, [$($value),*], query_as, fetch_optional)
    };
}

/// Reads the row that is always there: what is [`FromRow`](crate::sqlx::FromRow).
#[macro_export]
macro_rules! one {
    ($conn:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::statement!($conn, $sql, [$($value),*], query_as, fetch_one)
    };
}

/// Reads the first column of every row: a `Vec` of it.
#[macro_export]
macro_rules! scalars {
    ($conn:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::statement!($conn, $sql, [$($value),*], query_scalar, fetch_all)
    };
}

/// Reads the first column of the row, if there is one: an `Option` of it.
#[macro_export]
macro_rules! scalar {
    ($conn:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::statement!($conn, $sql, [$($value),*], query_scalar, fetch_optional)
    };
}

/// Reads the first column of the row that is always there.
#[macro_export]
macro_rules! scalar_one {
    ($conn:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::statement!($conn, $sql, [$($value),*], query_scalar, fetch_one)
    };
}

/// Runs sqlx's own query on Postgres, for values of which SQLite has no kind, such as arrays; none on SQLite, which has a text
/// of its own then: `on_postgres!(conn, |c| sqlx::query("...").bind(ids).execute(&mut *c).await)`.
#[macro_export]
macro_rules! on_postgres {
    ($conn:expr, |$c:ident| $body:expr) => {
        match $conn.watched() {
            (_, $crate::Arm::Sqlite(_)) => None,
            (eviction, $crate::Arm::Postgres($c)) => Some(eviction.heed($body).map_err($crate::DbError::from)),
        }
    };
}

/// One statement, compiled once for each database. The values are evaluated where it runs, and so once.
#[doc(hidden)]
#[macro_export]
macro_rules! statement {
    ($conn:expr, $sql:expr, $values:tt, $query:ident, $run:ident $(, $answer:expr)?) => {{
        let sql: &'static str = $sql;
        match $conn.statement() {
            (runner, arm, office) => match arm {
                $crate::Arm::Sqlite(conn) => {
                    runner.run($crate::bound!($crate::sqlx::$query(sql), office, $values).$run(conn)).await
                        $(.map($answer))?
                }
                $crate::Arm::Postgres(conn) => {
                    runner.run($crate::bound!($crate::sqlx::$query(sql), office, $values).$run(conn)).await
                        $(.map($answer))?
                }
            }
            .map_err($crate::DbError::from),
        }
    }};
}

/// The query with the office, if there is one, and the values.
#[doc(hidden)]
#[macro_export]
macro_rules! bound {
    ($query:expr, $office:ident, [$($value:expr),*]) => {{
        let query = $query;
        let query = match $office {
            Some(office) => query.bind(office),
            None => query,
        };
        query $(.bind($value))*
    }};
}
