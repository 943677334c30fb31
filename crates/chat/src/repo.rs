//! Tables `chats` and `messages`.

use mi_kernel::{AgentId, MessageId, OfficeId, Time};
use mi_store::{Db, DbResult, OfficeConn, all, delete_some, exec, optional, scalar};
use mi_tenancy::Author;
use sqlx::FromRow;
use uuid::{Builder, Uuid};

use super::model::{Conversation, Message};

#[derive(FromRow)]
struct Row {
    seq: i64,
    id: MessageId,
    sender: String,
    sender_id: Option<AgentId>,
    recipient: String,
    recipient_id: Option<AgentId>,
    body: String,
    cause: String,
    depth: i32,
    sent_at: Time,
}

fn author(id: Option<AgentId>, name: String) -> Author {
    id.map_or_else(Author::operator, |id| Author::agent(id, name))
}

impl From<Row> for Message {
    fn from(row: Row) -> Self {
        Self {
            seq: row.seq,
            id: row.id,
            from: author(row.sender_id, row.sender),
            to: (!row.recipient.is_empty()).then(|| author(row.recipient_id, row.recipient)),
            body: row.body,
            time: row.sent_at,
            cause: row.cause,
            depth: row.depth,
        }
    }
}

/// The next place in the office's order, and an id that is the greatest so far; none: the office is gone. Whoever has them
/// is waited for by all other senders until the transaction ends.
pub(super) async fn chat_advance(tx: &mut OfficeConn) -> DbResult<Option<(i64, MessageId)>> {
    let sql = "INSERT INTO chats (office_id, seq, last_id) SELECT id, 1, $2 FROM offices WHERE id = $1
         ON CONFLICT (office_id) DO UPDATE SET seq = chats.seq + 1 RETURNING seq, last_id";
    let next: Option<(i64, Uuid)> = optional!(tx, sql, Uuid::nil())?;
    let Some((seq, last)) = next else { return Ok(None) };
    let id = after(last, MessageId::new());
    exec!(tx, "UPDATE chats SET last_id = $2 WHERE office_id = $1", id)?;
    Ok(Some((seq, id)))
}

/// The fresh id; when the clocks of two processes differ, one of the millisecond after the last.
fn after(last: Uuid, fresh: MessageId) -> MessageId {
    if fresh.0 > last {
        return fresh;
    }
    let milliseconds = u64::try_from(last.as_u128() >> 80).unwrap_or(u64::MAX);
    let mut random = [0; 10];
    random.copy_from_slice(&fresh.0.as_bytes()[6..]);
    MessageId(Builder::from_unix_timestamp_millis(milliseconds + 1, &random).into_uuid())
}

/// The place of the newest message; 0: there is none.
pub(super) async fn chat_end(conn: &mut OfficeConn) -> DbResult<i64> {
    let end: Option<i64> = scalar!(conn, "SELECT seq FROM chats WHERE office_id = $1")?;
    Ok(end.unwrap_or_default())
}

/// Deletes the row of the office's order; its messages must be gone.
pub(super) async fn chat_delete(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "DELETE FROM chats WHERE office_id = $1").map(drop)
}

pub(super) async fn message_insert(tx: &mut OfficeConn, message: &Message) -> DbResult<()> {
    let to = message.to.as_ref();
    let sql = "INSERT INTO messages
         (office_id, seq, id, sender, sender_id, recipient, recipient_id, body, cause, depth, sent_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    exec!(
        tx,
        sql,
        message.seq,
        message.id,
        &message.from.name,
        message.from.agent_id,
        to.map_or("", |to| to.name.as_str()),
        to.and_then(|to| to.agent_id),
        &message.body,
        &message.cause,
        message.depth,
        message.time
    )
    .map(drop)
}

pub(super) async fn message_get(conn: &mut OfficeConn, id: MessageId) -> DbResult<Option<Message>> {
    let row: Option<Row> = optional!(conn, "SELECT * FROM messages WHERE office_id = $1 AND id = $2", id)?;
    Ok(row.map(Message::from))
}

/// Messages after a place, oldest first, whoever may see them.
pub(super) async fn message_after(conn: &mut OfficeConn, seq: i64, limit: i64) -> DbResult<Vec<Message>> {
    let sql = "SELECT * FROM messages WHERE office_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let rows: Vec<Row> = all!(conn, sql, seq, limit)?;
    Ok(rows.into_iter().map(Message::from).collect())
}

/// A conversation's messages before a place, newest first. What two wrote each other is read from both ends, each by its
/// own index.
pub(super) async fn message_list(
    conn: &mut OfficeConn,
    conversation: &Conversation,
    before: i64,
    limit: i32,
) -> DbResult<Vec<Message>> {
    let limit = i64::from(limit);
    let rows: Vec<Row> = match conversation {
        Conversation::Group => {
            let sql = "SELECT * FROM messages WHERE office_id = $1 AND recipient = '' AND seq < $2
                 ORDER BY seq DESC LIMIT $3";
            all!(conn, sql, before, limit)?
        }
        Conversation::With(name) => {
            let sql = "SELECT * FROM (SELECT * FROM messages WHERE office_id = $1 AND recipient = $4 AND seq < $2
                 ORDER BY seq DESC LIMIT $3) received
                 UNION ALL
                 SELECT * FROM (SELECT * FROM messages WHERE office_id = $1 AND sender = $4 AND recipient <> ''
                 AND seq < $2 ORDER BY seq DESC LIMIT $3) sent
                 ORDER BY seq DESC LIMIT $3";
            all!(conn, sql, before, limit, name)?
        }
        Conversation::Between { id, name, other } => {
            let sql =
                "SELECT * FROM (SELECT * FROM messages WHERE office_id = $1 AND recipient = $4 AND recipient_id = $5
                 AND sender = $6 AND seq < $2 ORDER BY seq DESC LIMIT $3) received
                 UNION ALL
                 SELECT * FROM (SELECT * FROM messages WHERE office_id = $1 AND sender = $4 AND sender_id = $5
                 AND recipient = $6 AND recipient <> '' AND seq < $2 ORDER BY seq DESC LIMIT $3) sent
                 ORDER BY seq DESC LIMIT $3";
            all!(conn, sql, before, limit, name, id, other)?
        }
    };
    Ok(rows.into_iter().map(Message::from).collect())
}

/// Deletes some of the office's messages, in a transaction of its own; true: there may be more.
pub(super) async fn message_clear_some(db: &Db, office_id: OfficeId) -> DbResult<bool> {
    let mut tx = db.office(office_id).begin().await?;
    let sql = "DELETE FROM messages WHERE office_id = $1 AND seq IN
         (SELECT seq FROM messages WHERE office_id = $1 ORDER BY seq LIMIT $2)";
    let more = delete_some(&mut tx, &[sql]).await?;
    tx.commit().await?;
    Ok(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_whatever_the_clocks_say() {
        let fresh = MessageId::new();
        assert_eq!(after(Uuid::nil(), fresh), fresh);
        let ahead = Builder::from_unix_timestamp_millis(4_000_000_000_000, &[0xff; 10]).into_uuid();
        let mut last = ahead;
        for _ in 0..100 {
            let next = after(last, MessageId::new()).0;
            assert!(next > last, "{next} after {last}");
            assert_eq!((next.get_version_num(), next.get_variant()), (7, uuid::Variant::RFC4122));
            last = next;
        }
        assert_eq!(last.as_u128() >> 80, 4_000_000_000_100);
        assert_eq!(after(fresh.0, fresh).0.as_u128() >> 80, (fresh.0.as_u128() >> 80) + 1);
    }
}
