//! Tells other processes over the same Postgres that something changed. What is told is a hint: whoever hears it reads
//! the tables, and whoever may have missed something is told so.

use sqlx::postgres::PgListener;

use crate::{Db, DbResult};

/// Hears what other processes tell on one channel.
#[derive(Debug)]
pub struct Listener(PgListener);

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Somebody's text.
    Text(String),
    /// The connection was away for a moment: anything may have been said meanwhile.
    Gap,
}

impl Db {
    /// Begins to listen; none: SQLite, where there are no other processes.
    pub async fn listen(&self, channel: &str) -> DbResult<Option<Listener>> {
        let Some(pool) = self.postgres_pool() else { return Ok(None) };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(channel).await?;
        Ok(Some(Listener(listener)))
    }

    /// Tells everybody who listens, this process included; nobody on SQLite. At most 8,000 bytes.
    pub async fn tell(&self, channel: &str, text: &str) -> DbResult<()> {
        if let Some(pool) = self.postgres_pool() {
            sqlx::query("SELECT pg_notify($1, $2)").bind(channel).bind(text).execute(pool).await?;
        }
        Ok(())
    }
}

impl Listener {
    /// The next text.
    pub async fn next(&mut self) -> DbResult<Heard> {
        Ok(match self.0.try_recv().await? {
            Some(heard) => Heard::Text(heard.payload().to_owned()),
            None => Heard::Gap,
        })
    }
}
