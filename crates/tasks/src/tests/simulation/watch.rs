//! A client that watches the office's tasks, at whatever process there is, and goes on elsewhere where it stood.

use std::{collections::BTreeMap, pin::Pin};

use futures::{FutureExt, Stream, StreamExt, TryFutureExt};
use mi_kernel::{Actor, OfficeId, TaskId};
use mi_proto::v1::{self, task_service_server::TaskService};
use tonic::{Response, Status};

use super::{calls::request, rows::Book, world::Process};

type Messages = Pin<Box<dyn Stream<Item = Result<v1::WatchTasksResponse, Status>>>>;

/// What it has seen.
#[derive(Default)]
pub(super) struct Watch {
    messages: Option<Messages>,
    cursor: i64,
    seen: BTreeMap<TaskId, (i64, v1::TaskStatus)>,
}

impl Watch {
    /// Watches at this process, if nowhere else.
    pub(super) fn at(&mut self, process: &Process, office: OfficeId, owner: &Actor) {
        if self.messages.is_some() {
            return;
        }
        let body = v1::WatchTasksRequest {
            office_id: office.to_string(),
            after_cursor: Some(self.cursor),
            ..Default::default()
        };
        let (tasks, asked) = (process.tasks.clone(), request(body, owner, "WatchTasks"));
        let opened = async move { tasks.watch_tasks(asked).await.map(Response::into_inner) }.boxed();
        let ends = process.background.shutdown().cancelled_owned();
        self.messages = Some(opened.try_flatten_stream().take_until(ends).boxed_local());
    }

    /// What comes next; for ever nothing while it watches nowhere.
    pub(super) async fn next(&mut self) -> Option<Result<v1::WatchTasksResponse, Status>> {
        match &mut self.messages {
            Some(messages) => messages.next().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn heard(&mut self, message: Option<Result<v1::WatchTasksResponse, Status>>, book: &mut Book) {
        let Some(Ok(message)) = message else {
            self.messages = None;
            return;
        };
        let task = message.task.expect("always there");
        if message.cursor <= self.cursor {
            book.fault(format!("who watches is told of {:?} at {} after {}", task.title, message.cursor, self.cursor));
        }
        self.cursor = message.cursor;
        let id = TaskId::parse(&task.id).expect("the platform's own id");
        self.seen.insert(id, (message.cursor, task.status()));
    }

    /// What it has not seen as it last changed; none: nothing.
    pub(super) fn missed(&self, book: &Book) -> Option<String> {
        book.tasks.values().find_map(|task| match self.seen.get(&task.id) {
            Some((cursor, status)) if *cursor == task.cursor => {
                let name = format!("TASK_STATUS_{}", task.state().as_str().to_uppercase());
                (status.as_str_name() != name).then(|| format!("{:?} as {status:?}", task.spec.title))
            }
            Some((cursor, _)) => Some(format!("{:?} at {cursor} instead of {}", task.spec.title, task.cursor)),
            None => Some(format!("nothing of {:?}", task.spec.title)),
        })
    }
}
