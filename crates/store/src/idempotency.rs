//! A creating call that is sent again with the same `request_id` answers what it created the first time.
//!
//! Tasks keep their requests themselves, for as long as their office is there.
//!
//! A request is its caller's, not an office's: an operator who uses an id again in another office is told so.

use std::time::Duration;

use mi_kernel::{Error, Result, Time};
use uuid::Uuid;

use crate::{Arm, Conn, Db, DbResult, delete_before, exec, optional, scalar};

/// How long a request is remembered.
pub const RETENTION: Duration = Duration::from_secs(48 * 3600);
const MAX_REQUEST_ID: usize = 128;

/// A creating request: who sent it under which id, and what it said.
#[derive(Debug)]
pub struct Request {
    scope: String,
    request_id: String,
    digest: Vec<u8>,
}

impl Request {
    /// Describes a request; none when it carries no id. `scope` names caller and method, `content` is the encoded message.
    ///
    /// # Errors
    /// `Invalid` when the id is too long.
    pub fn new(scope: String, request_id: &str, content: &[u8]) -> Result<Option<Self>> {
        if request_id.is_empty() {
            return Ok(None);
        }
        if request_id.len() > MAX_REQUEST_ID || request_id.chars().any(char::is_control) {
            return Err(Error::invalid(
                "request_id",
                format!("must have at most {MAX_REQUEST_ID} bytes and no control characters; a UUID is best"),
            ));
        }
        Ok(Some(Self {
            scope,
            request_id: request_id.to_owned(),
            digest: ring::digest::digest(&ring::digest::SHA256, content).as_ref().to_vec(),
        }))
    }

    /// Who sent it under which id.
    pub fn key(&self) -> String {
        format!("{}/{}", self.scope, self.request_id)
    }

    /// SHA-256 of what it said.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// What the first such request created, if there was one. A twin that is served at this moment is waited for.
    ///
    /// # Errors
    /// `Invalid` when the id was used with other content.
    pub async fn replayed(&self, tx: &mut Conn) -> Result<Option<Uuid>> {
        // SQLite's one writer is the lock; Postgres takes one that the end of the transaction releases.
        if let Arm::Postgres(_) = tx.arm() {
            exec!(tx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", self.key())?;
        }
        let sql = "SELECT digest, resource FROM idempotency WHERE scope = $1 AND request_id = $2";
        let first: Option<(Vec<u8>, Uuid)> = optional!(tx, sql, &self.scope, &self.request_id)?;
        match first {
            None => Ok(None),
            Some((digest, resource)) if digest == self.digest => Ok(Some(resource)),
            Some(_) => Err(Self::reused()),
        }
    }

    /// Remembers what the request created, in the transaction that creates it and has asked [`Request::replayed`].
    pub async fn remember(&self, tx: &mut Conn, resource: Uuid, now: Time) -> DbResult<()> {
        let sql = "INSERT INTO idempotency (scope, request_id, digest, resource, created_at)
             VALUES ($1, $2, $3, $4, $5)";
        exec!(tx, sql, &self.scope, &self.request_id, &self.digest, resource, now).map(drop)
    }

    /// The refusal of an id that was used with other content.
    pub fn reused() -> Error {
        Error::invalid("request_id", "was used before with another content; choose a fresh one for another request")
    }
}

/// Whether a request is remembered under this id, whatever it said: for a caller who does not know all of its content yet.
pub async fn used(conn: &mut Conn, scope: &str, request_id: &str) -> DbResult<bool> {
    let sql = "SELECT resource FROM idempotency WHERE scope = $1 AND request_id = $2";
    let resource: Option<Uuid> = scalar!(conn, sql, scope, request_id)?;
    Ok(resource.is_some())
}

/// Forgets requests older than the retention time, whoever sent them, in parts.
pub async fn sweep(db: &Db, now: Time) -> DbResult<()> {
    let sql = "DELETE FROM idempotency WHERE (scope, request_id) IN
         (SELECT scope, request_id FROM idempotency WHERE created_at < $1 ORDER BY created_at LIMIT $2)";
    delete_before(db, sql, now - RETENTION).await
}
