//! What the platform answers to the tools of a model.

use std::sync::Arc;

use mi_kernel::receipt::sha256_hex;
use mi_proto::v1::{
    Agent, ChatMessage, CreateTaskRequest, CreateTaskResponse, DownloadFileRequest, DownloadFileResponse, File,
    GetTaskRequest, GetTaskResponse, HireAgentRequest, HireAgentResponse, ListFilesRequest, ListFilesResponse,
    ListMessagesRequest, ListMessagesResponse, ListTaskNotesRequest, ListTaskNotesResponse, ListTasksRequest,
    ListTasksResponse, SendMessageRequest, SendMessageResponse, StatFileRequest, StatFileResponse, Task, TaskNote,
    TaskStatus, VerifyTaskRequest, VerifyTaskResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

use crate::platform::Platform;

impl Platform {
    /// Answers a call of a tool; the agent's requests are kept as text.
    pub(crate) async fn tool(self: Arc<Self>, name: &str, request: http::Request<Body>) -> http::Response<Body> {
        match name {
            "ListTaskNotes" => {
                let note = TaskNote { author: "operator".into(), body: "Be brief.".into(), ..TaskNote::default() };
                self.answer(request, |_: ListTaskNotesRequest| ListTaskNotesResponse {
                    notes: vec![note.clone()],
                    ..Default::default()
                })
                .await
            }
            "ListTasks" => {
                self.answer(request, |request: ListTasksRequest| {
                    let tasks = self.tasks.lock().expect("lock").clone();
                    let asked = |task: &Task| {
                        let status = request.statuses.is_empty() || request.statuses.contains(&task.status);
                        let context = request.context_id.is_empty() || request.context_id == task.context_id;
                        task.parent_id == request.parent_id && status && context
                    };
                    let mut tasks: Vec<_> = tasks.into_iter().filter(asked).collect();
                    tasks.reverse();
                    let most = usize::try_from(request.page_size.expect("says how many")).expect("positive");
                    let next_page_token = if tasks.len() > most { "more".into() } else { String::new() };
                    tasks.truncate(most);
                    ListTasksResponse { tasks, next_page_token }
                })
                .await
            }
            "GetTask" => {
                self.answer(request, |request: GetTaskRequest| {
                    let tasks = self.tasks.lock().expect("lock");
                    GetTaskResponse { task: tasks.iter().find(|task| task.id == request.task_id).cloned() }
                })
                .await
            }
            "CreateTask" => {
                self.answer(request, |request: CreateTaskRequest| {
                    let mut tasks = self.tasks.lock().expect("lock");
                    let task = Task {
                        id: format!("sub-{}", tasks.len() + 1),
                        title: request.title,
                        description: request.description,
                        kind: request.kind,
                        parent_id: request.parent_id,
                        depends_on: request.depends_on,
                        assigned_agent: request.assigned_agent,
                        status: TaskStatus::Queued.into(),
                        ..Task::default()
                    };
                    tasks.push(task.clone());
                    CreateTaskResponse { task: Some(task) }
                })
                .await
            }
            "VerifyTask" => {
                self.answer(request, |request: VerifyTaskRequest| {
                    self.heard(format!("verified {}: {} {}", request.task_id, request.approve, request.note));
                    VerifyTaskResponse::default()
                })
                .await
            }
            "SendMessage" => {
                self.answer(request, |request: SendMessageRequest| {
                    self.heard(format!("to {:?}: {}", request.to_agent, request.body));
                    SendMessageResponse::default()
                })
                .await
            }
            "ListMessages" => {
                self.answer(request, |request: ListMessagesRequest| {
                    let body = format!("{:?} {:?}", request.with_agent, request.limit);
                    let message = ChatMessage { from: "bob".into(), body, ..ChatMessage::default() };
                    ListMessagesResponse { messages: vec![message] }
                })
                .await
            }
            "HireAgent" => {
                self.answer(request, |request: HireAgentRequest| {
                    self.heard(format!("hire {} as {}", request.name, request.role));
                    HireAgentResponse { agent: Some(Agent { name: request.name, ..Agent::default() }) }
                })
                .await
            }
            "StatFile" => {
                let find = |request: StatFileRequest| {
                    let file = self.file(&request.path).ok_or_else(|| Status::not_found("there is no such file"));
                    std::future::ready(file.map(|file| StatFileResponse { file: Some(file) }))
                };
                self.unary(request, find).await
            }
            "ListFiles" => {
                self.answer(request, |request: ListFilesRequest| {
                    let paths: Vec<_> = self.files.lock().expect("lock").keys().cloned().collect();
                    let paths = paths.iter().filter(|path| path.starts_with(&request.prefix));
                    let files = paths.filter_map(|path| self.file(path)).collect();
                    ListFilesResponse { files, ..Default::default() }
                })
                .await
            }
            "DownloadFile" => {
                let download = tower::service_fn(|request: Request<DownloadFileRequest>| {
                    let request = request.into_inner();
                    let (send, answers) = tokio::sync::mpsc::channel(1);
                    let content = self.files.lock().expect("lock").get(&request.path).cloned().unwrap_or_default();
                    let start = usize::try_from(request.offset).expect("positive").min(content.len());
                    let answer = DownloadFileResponse {
                        file: self.file(&request.path),
                        chunk: content[start..].to_vec().into(),
                    };
                    send.try_send(Ok(answer)).expect("room");
                    async { Ok::<_, Status>(Response::new(ReceiverStream::new(answers))) }
                });
                Grpc::new(ProstCodec::default()).server_streaming(download, request).await
            }
            name => panic!("unexpected call of {name}"),
        }
    }

    async fn answer<Q, A>(&self, request: http::Request<Body>, answer: impl Fn(Q) -> A) -> http::Response<Body>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        self.unary(request, |asked| std::future::ready(Ok(answer(asked)))).await
    }

    fn heard(&self, what: String) {
        self.heard.lock().expect("lock").push(what);
    }

    fn file(&self, path: &str) -> Option<File> {
        let files = self.files.lock().expect("lock");
        let content = files.get(path)?;
        let (size, sha256) = (content.len() as i64, sha256_hex(content));
        Some(File { path: path.into(), size, sha256, revision: 7, ..File::default() })
    }
}
