//! Tables `chats` and `messages`.

use mi_kernel::{MessageId, OfficeId, Time};
use mi_store::{Db, DbResult, OfficeConn, delete_some, on};
use sqlx::FromRow;
use uuid::{Builder, Uuid};

use super::model::{Conversation, Message, Party};

#[derive(FromRow)]
struct Row {
    seq: i64,
    id: Uuid,
    sender: String,
    sender_id: Option<Uuid>,
    recipient: String,
    recipient_id: Option<Uuid>,
    body: String,
    cause: String,
    depth: i32,
    sent_at: Time,
}

fn party(id: Option<Uuid>, name: String) -> Party {
    match id {
        Some(id) => Party::Agent { id: id.into(), name },
        None => Party::Operator,
    }
}

impl From<Row> for Message {
    fn from(row: Row) -> Self {
        Self {
            seq: row.seq,
            id: row.id.into(),
            from: party(row.sender_id, row.sender),
            to: (!row.recipient.is_empty()).then(|| party(row.recipient_id, row.recipient)),
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
    let office = tx.office_id();
    let next: Option<(i64, Uuid)> = on!(tx, |c| {
        sqlx::query_as(
            "INSERT INTO chats (office_id, seq, last_id) SELECT id, 1, $2 FROM offices WHERE id = $1
             ON CONFLICT (office_id) DO UPDATE SET seq = chats.seq + 1 RETURNING seq, last_id",
        )
        .bind(office.0)
        .bind(Uuid::nil())
        .fetch_optional(&mut *c)
        .await
    })?;
    let Some((seq, last)) = next else { return Ok(None) };
    let id = after(last, MessageId::new());
    on!(tx, |c| {
        sqlx::query("UPDATE chats SET last_id = $2 WHERE office_id = $1")
            .bind(office.0)
            .bind(id.0)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
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
    let office = conn.office_id();
    let end: Option<(i64,)> = on!(conn, |c| {
        sqlx::query_as("SELECT seq FROM chats WHERE office_id = $1").bind(office.0).fetch_optional(&mut *c).await
    })?;
    Ok(end.map_or(0, |(seq,)| seq))
}

/// Deletes the row of the office's order; its messages must be gone.
pub(super) async fn chat_delete(tx: &mut OfficeConn) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| sqlx::query("DELETE FROM chats WHERE office_id = $1").bind(office.0).execute(&mut *c).await.map(drop))?;
    Ok(())
}

pub(super) async fn message_insert(tx: &mut OfficeConn, message: &Message) -> DbResult<()> {
    let office = tx.office_id();
    let to = message.to.as_ref();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO messages
             (office_id, seq, id, sender, sender_id, recipient, recipient_id, body, cause, depth, sent_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(office.0)
        .bind(message.seq)
        .bind(message.id.0)
        .bind(message.from.name())
        .bind(message.from.agent_id().map(|id| id.0))
        .bind(to.map_or("", Party::name))
        .bind(to.and_then(Party::agent_id).map(|id| id.0))
        .bind(&message.body)
        .bind(&message.cause)
        .bind(message.depth)
        .bind(message.time)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

pub(super) async fn message_get(conn: &mut OfficeConn, id: MessageId) -> DbResult<Option<Message>> {
    let office = conn.office_id();
    let row: Option<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT * FROM messages WHERE office_id = $1 AND id = $2")
            .bind(office.0)
            .bind(id.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(row.map(Message::from))
}

/// Messages after a place, oldest first, whoever may see them.
pub(super) async fn message_after(conn: &mut OfficeConn, seq: i64, limit: i64) -> DbResult<Vec<Message>> {
    let office = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT * FROM messages WHERE office_id = $1 AND seq > $2 ORDER BY seq LIMIT $3")
            .bind(office.0)
            .bind(seq)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?;
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
    let office = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| match conversation {
        Conversation::Group => {
            sqlx::query_as(
                "SELECT * FROM messages WHERE office_id = $1 AND recipient = '' AND seq < $2
                 ORDER BY seq DESC LIMIT $3",
            )
            .bind(office.0)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(&mut *c)
            .await
        }
        Conversation::With(name) => {
            sqlx::query_as(
                "SELECT * FROM (SELECT * FROM messages WHERE office_id = $1 AND recipient = $4 AND seq < $2
                 ORDER BY seq DESC LIMIT $3) received
                 UNION ALL
                 SELECT * FROM (SELECT * FROM messages WHERE office_id = $1 AND sender = $4 AND recipient <> ''
                 AND seq < $2 ORDER BY seq DESC LIMIT $3) sent
                 ORDER BY seq DESC LIMIT $3",
            )
            .bind(office.0)
            .bind(before)
            .bind(i64::from(limit))
            .bind(name)
            .fetch_all(&mut *c)
            .await
        }
        Conversation::Between { id, name, other } => {
            sqlx::query_as(
                "SELECT * FROM (SELECT * FROM messages WHERE office_id = $1 AND recipient = $4 AND recipient_id = $5
                 AND sender = $6 AND seq < $2 ORDER BY seq DESC LIMIT $3) received
                 UNION ALL
                 SELECT * FROM (SELECT * FROM messages WHERE office_id = $1 AND sender = $4 AND sender_id = $5
                 AND recipient = $6 AND recipient <> '' AND seq < $2 ORDER BY seq DESC LIMIT $3) sent
                 ORDER BY seq DESC LIMIT $3",
            )
            .bind(office.0)
            .bind(before)
            .bind(i64::from(limit))
            .bind(name)
            .bind(id.0)
            .bind(other)
            .fetch_all(&mut *c)
            .await
        }
    })?;
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
