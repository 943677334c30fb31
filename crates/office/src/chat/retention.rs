//! Messages that are kept no longer: always the oldest, so that a place to go on from is complete or refused.

use mi_kernel::{Clock, Error, MessageId, OfficeId, Result, Time};
use mi_store::{Db, DbResult, OfficeConn, on};

use super::{model::Message, repo};
use crate::retention::{bound, expired, record};

/// Messages that one transaction deletes.
const PART: i64 = 1000;

/// Deletes the oldest messages that are kept no longer: how many, and whether there may be more.
pub(crate) async fn forget_some(db: &Db, office_id: OfficeId, clock: &dyn Clock) -> Result<(usize, bool)> {
    let mut tx = db.office(office_id).begin().await?;
    let Some(bound) = bound(&mut tx, clock, |settings| settings.message_retention_seconds).await? else {
        return Ok((0, false));
    };
    let oldest = message_oldest(&mut tx).await?;
    let full = i64::try_from(oldest.len()) == Ok(PART);
    let old: Vec<i64> = oldest.iter().take_while(|(_, at)| *at < bound.before).map(|(seq, _)| *seq).collect();
    let Some(last) = old.last() else { return Ok((0, false)) };
    message_delete(&mut tx, *last).await?;
    let more = full && old.len() == oldest.len();
    record(tx, "messages", old.len(), bound).await?;
    Ok((old.len(), more))
}

/// The place before the oldest message that is kept.
pub(super) async fn beginning(conn: &mut OfficeConn) -> Result<i64> {
    // In this order: whatever is written in between has a place after the end.
    let end = repo::chat_end(conn).await?;
    let oldest = repo::message_after(conn, 0, 1).await?;
    Ok(oldest.first().map_or(end, |message| message.seq - 1))
}

/// Whether an id that no message has is from before the oldest that is kept. Ids grow with the places.
pub(super) async fn is_gone(conn: &mut OfficeConn, id: MessageId) -> Result<bool> {
    let end = repo::chat_end(conn).await?;
    let oldest = repo::message_after(conn, 0, 1).await?;
    Ok(oldest.first().map_or(end > 0, |oldest| oldest.seq > 1 && id < oldest.id))
}

/// Refuses to go on after a place when messages behind it are gone. Places have no gaps, so the first one tells.
pub(super) fn refuse_gap(position: i64, messages: &[Message]) -> Result<()> {
    match messages.first() {
        Some(first) if first.seq > position + 1 => Err(gone()),
        _ => Ok(()),
    }
}

/// The refusal of a place before the oldest message that is kept.
pub(super) fn gone() -> Error {
    expired("messages after this one are no longer kept, as the office's message_retention says; begin anew".into())
}

async fn message_oldest(tx: &mut OfficeConn) -> DbResult<Vec<(i64, Time)>> {
    let office = tx.office_id();
    Ok(on!(tx, |c| {
        sqlx::query_as("SELECT seq, sent_at FROM messages WHERE office_id = $1 ORDER BY seq LIMIT $2")
            .bind(office.0)
            .bind(PART)
            .fetch_all(&mut *c)
            .await
    })?)
}

/// Deletes the messages up to this place.
async fn message_delete(tx: &mut OfficeConn, last: i64) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM messages WHERE office_id = $1 AND seq <= $2")
            .bind(office.0)
            .bind(last)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}
