//! Reading: history backwards from anywhere, and everything in order from anywhere on.

use futures::Stream;
use mi_kernel::{
    Error, MessageId, OfficeId, Result,
    page::{self, MAX_PAGE_BYTES, bounded},
    text,
};
use mi_proto::v1::{ListMessagesRequest, WatchMessagesRequest};
use mi_rpc::{Access, Caller};
use mi_store::{Batch, OfficeConn, Topic};
use mi_tenancy::offices::repo::office_get;

use super::{
    Chat, TOPIC,
    model::{Conversation, Message},
    repo, retention,
};

const DEFAULT_LIMIT: i32 = 50;
const MAX_LIMIT: i32 = 200;
/// What a message has besides its body, at most.
const AROUND_BODY: usize = 512;
/// Messages that a watch reads, and holds, at a time; each may be as long as messages get.
const BATCH: i64 = 16;

impl Chat {
    /// A part of a conversation, newest first.
    pub(super) async fn list(&self, caller: &Caller, request: &ListMessagesRequest) -> Result<Vec<Message>> {
        let (access, office) = self.offices.get(caller, &request.office_id).await?;
        let office_id = office.id;
        let limit = bounded("limit", request.limit, DEFAULT_LIMIT, MAX_LIMIT)?;
        let with = match request.with_agent.as_str() {
            "" => None,
            name => Some(text::lookup_name("with_agent", name)?),
        };
        let conversation = match (&with, access.agent()) {
            (None, _) => Conversation::Group,
            (Some(with), None) => Conversation::With(with.clone()),
            (Some(with), Some(agent)) => {
                Conversation::Between { id: agent.agent_id, name: agent.name.clone(), other: with.clone() }
            }
        };
        let mut conn = self.db.office(office_id).read().await?;
        let before = match request.before_id.as_str() {
            "" => i64::MAX,
            id => match place_of(&mut conn, &access, "before_id", id).await {
                // Before what is no longer kept there is nothing.
                Err(error) if error.reason == "CURSOR_EXPIRED" => return Ok(Vec::new()),
                place => place?,
            },
        };
        let mut messages = repo::message_list(&mut conn, &conversation, before, limit).await?;
        drop(conn);
        let fit = page::fitting(&messages, MAX_PAGE_BYTES, |message| message.body.len() + AROUND_BODY);
        messages.truncate(fit);
        // With agents that were fired there is still what was said; with nobody there is nothing to say.
        if let Some(name) = with.filter(|name| messages.is_empty() && before == i64::MAX && name != text::OPERATOR) {
            self.members.find(office_id, &name).await?;
        }
        Ok(messages)
    }

    /// Messages that the caller may see, from a place on, for ever. Holds one batch at a time and reads the next when that
    /// is handed on, so a slow reader costs no more than that.
    pub(super) async fn watch(
        &self,
        caller: &Caller,
        request: &WatchMessagesRequest,
    ) -> Result<impl Stream<Item = Result<Message>> + Send + use<>> {
        let (access, office) = self.offices.get(caller, &request.office_id).await?;
        let office_id = office.id;
        // Before the end is looked up, so that nothing falls between.
        let chat = self.db.listen(Topic::of(office_id, TOPIC));
        let mut conn = self.db.office(office_id).read().await?;
        let mut position = match request.after_id.as_deref() {
            None => repo::chat_end(&mut conn).await?,
            Some("") => retention::beginning(&mut conn).await?,
            Some(id) => place_of(&mut conn, &access, "after_id", id).await?,
        };
        drop(conn);
        let db = self.db.clone();
        Ok(chat.follow(async move || {
            let mut found = news(&mut db.office(office_id).read().await?, office_id, position).await?;
            position = found.last().map_or(position, |last| last.seq);
            let more = i64::try_from(found.len()) == Ok(BATCH);
            found.retain(|message| message.is_for(&access));
            Ok(Batch { found, more })
        }))
    }
}

/// What comes after a place, as long as there is an office.
async fn news(conn: &mut OfficeConn, office_id: OfficeId, position: i64) -> Result<Vec<Message>> {
    let rows = repo::message_after(conn, position, BATCH).await?;
    if rows.is_empty() && office_get(conn).await?.is_none() {
        return Err(Error::not_found("office", office_id));
    }
    retention::refuse_gap(position, &rows)?;
    Ok(rows)
}

/// The place of a message that the caller has seen.
async fn place_of(conn: &mut OfficeConn, access: &Access, field: &'static str, id: &str) -> Result<i64> {
    let unknown = || Error::invalid(field, "is not the id of a message of yours; give one that this service answered");
    let id = MessageId::parse(id).map_err(|_| unknown())?;
    match repo::message_get(conn, id).await? {
        Some(message) if message.is_for(access) => Ok(message.seq),
        None if retention::is_gone(conn, id).await? => Err(retention::gone()),
        _ => Err(unknown()),
    }
}
