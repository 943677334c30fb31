//! Messages that are kept no longer.

use mi_kernel::{Error, MessageId, Result};
use mi_store::OfficeConn;
use mi_tenancy::retention::{Log, expired};

use super::{model::Message, repo};

/// The messages of an office.
pub const HISTORY: Log = Log {
    entries: "messages",
    kept_for: |settings| settings.message_retention_seconds,
    oldest: "SELECT seq, sent_at FROM messages WHERE office_id = $1 ORDER BY seq LIMIT $2",
    delete: "DELETE FROM messages WHERE office_id = $1 AND seq <= $2",
};

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
