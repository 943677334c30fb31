//! What is said about a task: progress, comments and artifacts. Here all of them are notes; those of the first and the last
//! kind begin with a word in brackets.

use mi_kernel::Error;
use serde_json::{Value, json};
use tonic::Status;

use super::{
    Reply, answer,
    ask::Ask,
    fields::Fields,
    list::{self, Window},
    shape::{Both, entries, text},
    tasks,
};

/// Most notes of a task that are read.
const MOST_NOTES: usize = 1000;
/// Most files that a completion names because artifacts did.
const MOST_FILES: usize = 50;
/// Longest word of an event.
const MOST_EVENT: usize = 32;
const ARTIFACT: &str = "artifact";

/// The notes of a task, told apart, oldest first.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) logs: Vec<Value>,
    pub(super) comments: Vec<Value>,
    pub(super) artifacts: Vec<Value>,
}

impl Notes {
    /// Tells notes apart.
    pub(super) fn of(notes: &[Value]) -> Self {
        let mut told = Self::default();
        for note in notes {
            let base = || {
                Both::default()
                    .with("id", note["id"].clone())
                    .with("agent", note["author"].clone())
                    .with("createdAt", note["time"].clone())
                    .with("timestamp", note["time"].clone())
            };
            let body = text(&note["body"]);
            match marked(body) {
                Some((ARTIFACT, said)) if let Ok(artifact @ Value::Object(_)) = serde_json::from_str(said) => {
                    let shown = ["kind", "path", "label"]
                        .into_iter()
                        .fold(base(), |shown, name| shown.with(name, text(&artifact[name])));
                    told.artifacts.push(shown.done());
                }
                Some((event, said)) => told.logs.push(base().with("event", event).with("message", said).done()),
                None => told.comments.push(base().with("message", body).done()),
            }
        }
        told
    }
}

/// The event and the rest of a note such as `[progress] half done`.
fn marked(body: &str) -> Option<(&str, &str)> {
    let (event, rest) = body.strip_prefix('[')?.split_once("] ")?;
    is_event(event).then_some((event, rest))
}

fn is_event(word: &str) -> bool {
    (1..=MOST_EVENT).contains(&word.len())
        && word.bytes().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || b"_.-".contains(&letter))
}

/// All notes of the task that the path names.
pub(super) async fn all(ask: &Ask) -> Result<Notes, Status> {
    let window = Window { offset: 0, limit: MOST_NOTES };
    let page = list::walk(ask, "TaskService/ListTaskNotes", tasks::of(ask), "notes", window, list::any).await?;
    Ok(Notes::of(&page.entries))
}

/// Adds a note.
pub(super) async fn add(ask: &Ask, body: String) -> Result<Value, Status> {
    let mut request = tasks::of(ask);
    request["body"] = body.into();
    ask.call("TaskService/AddTaskNote", request).await
}

/// Adds a note that is made of the body.
async fn send(
    ask: &mut Ask,
    text: impl FnOnce(&Fields) -> Result<String, Error> + Send + 'static,
) -> Result<Value, Status> {
    let mut request = tasks::of(ask);
    let convert = move |body: &Fields| {
        request["body"] = text(body)?.into();
        Ok(request)
    };
    Ok(ask.send("TaskService/AddTaskNote", convert).await?.0)
}

fn message(body: &Fields) -> Result<&str, Error> {
    match body.text("message")? {
        text if text.trim().is_empty() => Err(Error::invalid("message", "must not be blank")),
        text => Ok(text),
    }
}

pub(super) async fn log(mut ask: Ask) -> Reply {
    let note = |body: &Fields| {
        let event = match body.text("event")? {
            "" => "progress",
            event => event,
        };
        if !is_event(event) || event == ARTIFACT {
            return Err(Error::invalid("event", "must be a short word in small letters, such as progress"));
        }
        Ok(format!("[{event}] {}", message(body)?))
    };
    send(&mut ask, note).await?;
    Ok(answer::none())
}

/// A comment is its sender's, whatever agent the body names.
pub(super) async fn comment(mut ask: Ask) -> Reply {
    send(&mut ask, |body| Ok(message(body)?.to_owned())).await?;
    Ok(answer::none())
}

pub(super) async fn add_artifact(mut ask: Ask) -> Reply {
    let note = |body: &Fields| {
        let path = body.text("path")?;
        if path.trim().is_empty() {
            return Err(Error::invalid("path", "must not be blank"));
        }
        let kind = Some(body.text("kind")?).filter(|kind| !kind.is_empty()).unwrap_or("file");
        Ok(format!("[{ARTIFACT}] {}", json!({"kind": kind, "path": path, "label": body.text("label")?})))
    };
    let added = send(&mut ask, note).await?;
    let mut told = Notes::of(&[added["note"].clone()]);
    Ok(answer::found(&told.artifacts.pop().unwrap_or_default()))
}

pub(super) async fn artifacts(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    let task = tasks::find(&ask).await?;
    let page = window.cut(artifacts_of(&task, all(&ask).await?.artifacts));
    Ok(answer::list(page.entries, page.total))
}

/// What was added as an artifact, and what the task was completed with besides.
pub(super) fn artifacts_of(task: &Value, added: Vec<Value>) -> Vec<Value> {
    let mut artifacts = added;
    for path in entries(&task["artifacts"]) {
        if !artifacts.iter().any(|known| known["path"] == *path) {
            let file = Both::default()
                .with("kind", "file")
                .with("path", path.clone())
                .with("label", "")
                .with("agent", task["worker"].clone())
                .maybe("createdAt", &task["finished_at"]);
            artifacts.push(file.done());
        }
    }
    artifacts
}

/// Files of the drive that were added as artifacts: a completion names them.
pub(super) async fn finished_files(ask: &Ask) -> Result<Vec<String>, Status> {
    let notes = all(ask).await?;
    let mut paths: Vec<String> = Vec::new();
    for artifact in notes.artifacts.iter().filter(|artifact| artifact["kind"] == "file").take(MOST_FILES) {
        let path = text(&artifact["path"]).to_owned();
        if !paths.contains(&path) && is_there(ask, &path).await? {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Whether the drive has such a file. A path that is none in a drive is no file of it.
async fn is_there(ask: &Ask, path: &str) -> Result<bool, Status> {
    match ask.call("DriveService/StatFile", json!({"office_id": ask.office(), "path": path})).await {
        Ok(_) => Ok(true),
        Err(refused) if matches!(refused.code(), tonic::Code::NotFound | tonic::Code::InvalidArgument) => Ok(false),
        Err(refused) => Err(refused),
    }
}
