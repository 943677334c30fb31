//! Notes on tasks: written once, never changed.

use mi_kernel::event::{Category, Event};
use mi_kernel::{
    Error, NoteId, Result, TaskId, Time,
    page::{MAX_PAGE_BYTES, Page},
};
use mi_proto::v1;
use mi_rpc::{Access, convert::timestamp};
use mi_store::{DbResult, FromRow, OfficeConn, all, exec, idempotency, one, outbox, scalar_one};
use mi_tenancy::Author;
use prost::Message;

use super::{Tasks, repo, rules};

/// What a note has besides its body, at most.
const AROUND_BODY: usize = 256;

/// A note.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub(super) struct Note {
    id: NoteId,
    author: String,
    body: String,
    created_at: Time,
}

impl Note {
    pub(super) fn new(id: NoteId, author: &str, body: &str, now: Time) -> Self {
        Self { id, author: author.to_owned(), body: body.to_owned(), created_at: now }
    }
}

impl From<Note> for v1::TaskNote {
    fn from(note: Note) -> Self {
        Self { id: note.id.to_string(), author: note.author, body: note.body, time: Some(timestamp(note.created_at)) }
    }
}

impl Tasks {
    pub(super) async fn add_note(&self, access: &Access, request: &v1::AddTaskNoteRequest) -> Result<Note> {
        let (office_id, author) = (access.office_id(), Author::of(access));
        let task = self.get(access, &request.task_id).await?;
        let body = rules::note("body", &request.body)?;
        let scope = format!("{}/AddTaskNote", access.key());
        let replay = idempotency::Request::new(scope, &request.request_id, &request.encode_to_vec())?;
        let now = self.clock.now();
        let mut tx = self.db.office(office_id).begin().await?;
        // What is removed with the office is removed under this lock.
        repo::queue_open(&mut tx).await?.ok_or_else(|| Error::not_found("office", office_id))?;
        if let Some(replay) = &replay
            && let Some(known) = replay.replayed(&mut tx).await?
        {
            return Ok(note_get(&mut tx, task.id, known.into()).await?);
        }
        let note = Note::new(NoteId::new(), &author.name, &body, now);
        note_insert(&mut tx, task.id, &note).await?;
        if let Some(replay) = &replay {
            replay.remember(&mut tx, note.id.0, now).await?;
        }
        let summary = format!("Note by {} on task {:?}", note.author, task.spec.title);
        let event = Event::lifecycle(office_id, author.agent_name(), "task.noted", summary, now)
            .category(Category::Task)
            .with(serde_json::json!({ "task_id": task.id, "note_id": note.id }));
        outbox::push(&mut tx, &event.traced(access.trace_id())).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(note)
    }

    pub(super) async fn list_notes(
        &self,
        access: &Access,
        request: &v1::ListTaskNotesRequest,
    ) -> Result<(Vec<Note>, String)> {
        let task = self.get(access, &request.task_id).await?;
        let page = Page::parse(request.page_size, &request.page_token)?;
        // Among them are further messages to the agent alone.
        if !rules::may_read(access, &task) {
            return Ok((Vec::new(), String::new()));
        }
        let rows = note_list(&mut self.db.office(access.office_id()).read().await?, task.id, &page).await?;
        Ok(page.finish_within(rows, MAX_PAGE_BYTES, |note| note.body.len() + AROUND_BODY, |note| note.id))
    }
}

pub(super) async fn note_insert(tx: &mut OfficeConn, task: TaskId, note: &Note) -> DbResult<()> {
    let sql =
        "INSERT INTO task_notes (office_id, task_id, id, author, body, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
    exec!(tx, sql, task, note.id, &note.author, &note.body, note.created_at).map(drop)
}

/// How many notes on a task are by this author.
pub(super) async fn note_count(conn: &mut OfficeConn, task: TaskId, author: &str) -> DbResult<i64> {
    let sql = "SELECT count(*) FROM task_notes WHERE office_id = $1 AND task_id = $2 AND author = $3";
    scalar_one!(conn, sql, task, author)
}

async fn note_get(conn: &mut OfficeConn, task: TaskId, id: NoteId) -> DbResult<Note> {
    let sql = "SELECT id, author, body, created_at FROM task_notes WHERE office_id = $1 AND task_id = $2 AND id = $3";
    one!(conn, sql, task, id)
}

async fn note_list(conn: &mut OfficeConn, task: TaskId, page: &Page<NoteId>) -> DbResult<Vec<Note>> {
    let sql = "SELECT id, author, body, created_at FROM task_notes
         WHERE office_id = $1 AND task_id = $2 AND id > $3 ORDER BY id LIMIT $4";
    all!(conn, sql, task, page.after.unwrap_or(NoteId::MIN), page.fetch())
}
