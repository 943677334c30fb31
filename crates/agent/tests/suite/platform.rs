//! A platform that does what the test wants, and remembers what the agent asked of it.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use mi_kernel::{
    receipt::{self, Receipt, sha256_hex},
    text::drive_path,
};
use mi_proto::v1::{
    Agent, AppendLogsRequest, AppendLogsResponse, Backup, ClaimTasksRequest, CompleteTaskRequest, CompleteTaskResponse,
    ConnectAgentRequest, ConnectAgentResponse, EnrolAgentRequest, EnrolAgentResponse, FailTaskRequest,
    FailTaskResponse, File, GetAgentRequest, GetAgentResponse, LoadWorkspaceRequest, LoadWorkspaceResponse, LogLine,
    ReleaseTaskRequest, ReleaseTaskResponse, RenewLeaseRequest, RenewLeaseResponse, SaveWorkspaceHeader,
    SaveWorkspaceRequest, SaveWorkspaceResponse, Task, TaskKind, UploadFileRequest, UploadFileResponse,
    save_workspace_request, upload_file_request::Part,
};
use mi_testkit::until;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Code, Request, Response, Status, Streaming, body::Body, server::Grpc, transport::Server};
use tonic_prost::ProstCodec;

use crate::proxies::Proxies;
pub(crate) use crate::running::{Running, config, limited, working};

pub(crate) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What the platform does with the agent's calls, and what it has seen of them.
#[derive(Default)]
pub(crate) struct Platform {
    pub(crate) enrolments_refused: AtomicUsize,
    pub(crate) enrolment_code: Option<Code>,
    /// How the sessions end, first to last; after these they last.
    pub(crate) session_ends: Mutex<Vec<Code>>,
    /// Log streams to break before their first answer.
    pub(crate) log_streams_broken: AtomicUsize,
    pub(crate) public_key: Mutex<Vec<u8>>,
    pub(crate) sessions: Mutex<Vec<ConnectAgentRequest>>,
    pub(crate) batches: Mutex<Vec<(i64, Vec<LogLine>)>>,
    /// Whether there is a batch.
    pub(crate) said: watch::Sender<bool>,
    pub(crate) connections: AtomicUsize,
    /// All unary calls and uploads, by the last part of their paths.
    pub(crate) calls: Mutex<Vec<String>>,
    /// Tasks to be claimed.
    pub(crate) queue: Mutex<VecDeque<Task>>,
    pub(crate) queued: Notify,
    pub(crate) added: AtomicUsize,
    /// What the next calls answer instead, by the last part of their paths; they are remembered nevertheless.
    pub(crate) refusals: Mutex<Vec<(&'static str, Code, &'static str)>>,
    /// What the streams of work began with.
    pub(crate) claims: Mutex<Vec<ClaimTasksRequest>>,
    /// Reports that came on them, by the names of the calls.
    pub(crate) streamed: Mutex<Vec<&'static str>>,
    /// Breaks them.
    pub(crate) broken: Notify,
    /// Tasks that come on one that the agent has closed.
    pub(crate) late: Mutex<Vec<Task>>,
    pub(crate) completions: Mutex<Vec<CompleteTaskRequest>>,
    pub(crate) failures: Mutex<Vec<FailTaskRequest>>,
    pub(crate) releases: Mutex<Vec<ReleaseTaskRequest>>,
    /// The agent's role.
    pub(crate) role: &'static str,
    /// Tasks that the agent has created.
    pub(crate) tasks: Mutex<Vec<Task>>,
    /// What its tools asked for otherwise.
    pub(crate) heard: Mutex<Vec<String>>,
    /// The drive.
    pub(crate) files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// The backup that the agent was hired from, and how often it is cut off on its way.
    pub(crate) backup: Mutex<Vec<u8>>,
    pub(crate) loads_broken: AtomicUsize,
    /// Workspaces that came whole.
    pub(crate) saved: Mutex<Vec<(SaveWorkspaceHeader, Vec<u8>)>>,
    /// What came for the proxies, and who serves models.
    pub(crate) proxies: Proxies,
}

impl Platform {
    /// The refusal that is next for this call.
    pub(crate) fn refusal(&self, call: &str) -> Result<(), Status> {
        let mut refusals = self.refusals.lock().expect("lock");
        match refusals.iter().position(|(name, ..)| *name == call) {
            Some(index) => {
                let (_, code, message) = refusals.remove(index);
                Err(Status::new(code, message))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn refuse(&self, call: &'static str, code: Code, message: &'static str) {
        self.refusals.lock().expect("lock").push((call, code, message));
    }

    pub(crate) fn take(&self, kinds: &[i32], most: i32) -> Vec<Task> {
        let (mut tasks, mut queue) = (Vec::new(), self.queue.lock().expect("lock"));
        while tasks.len() < usize::try_from(most).expect("positive")
            && let Some(index) = queue.iter().position(|task| kinds.contains(&task.kind))
        {
            tasks.extend(queue.remove(index));
        }
        tasks
    }

    async fn upload(&self, request: Request<Streaming<UploadFileRequest>>) -> Result<UploadFileResponse, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(Part::Header(header)) = first else { return Err(Status::invalid_argument("no header")) };
        self.refusal("UploadFile")?;
        assert!(!header.request_id.is_empty(), "{header:?}");
        drive_path("path", &header.path).map_err(|error| Status::invalid_argument(error.message))?;
        let mut content = Vec::new();
        while let Some(message) = parts.message().await? {
            let Some(Part::Chunk(chunk)) = message.part else { return Err(Status::invalid_argument("no chunk")) };
            assert!(chunk.len() <= 1 << 20);
            content.extend_from_slice(&chunk);
        }
        let mut files = self.files.lock().expect("lock");
        let file = File {
            path: header.path.clone(),
            size: content.len() as i64,
            sha256: sha256_hex(&content),
            revision: 100 + files.len() as i64,
            ..File::default()
        };
        files.insert(header.path, content);
        Ok(UploadFileResponse { file: Some(file) })
    }

    /// Streams the backup, or half of it.
    fn load(
        &self,
        request: &Request<LoadWorkspaceRequest>,
    ) -> Result<Response<Answers<LoadWorkspaceResponse>>, Status> {
        self.authenticate(request)?;
        self.refusal("LoadWorkspace")?;
        let archive = self.backup.lock().expect("lock").clone();
        let backup = Some(Backup { size_bytes: archive.len() as i64, ..Backup::default() });
        let mut answers = vec![Ok(LoadWorkspaceResponse { backup, ..LoadWorkspaceResponse::default() })];
        let chunks = archive
            .chunks(10_000)
            .map(|chunk| Ok(LoadWorkspaceResponse { backup: None, chunk: chunk.to_vec().into() }));
        answers.extend(chunks);
        let left = self.loads_broken.load(Ordering::Relaxed);
        if left > 0 {
            self.loads_broken.store(left - 1, Ordering::Relaxed);
            answers.truncate(answers.len() / 2);
            answers.push(Err(Status::unavailable("broken")));
        }
        let (send, receive) = mpsc::channel(answers.len());
        answers.into_iter().for_each(|answer| send.try_send(answer).expect("room"));
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn take_workspace(
        &self,
        request: Request<Streaming<SaveWorkspaceRequest>>,
    ) -> Result<SaveWorkspaceResponse, Status> {
        assert!(request.metadata().get("authorization").is_none());
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(save_workspace_request::Part::Header(header)) = first else { panic!("no header") };
        if header.token != "save" {
            return Err(Status::unauthenticated("the token is not valid"));
        }
        let mut archive = Vec::new();
        while let Some(message) = parts.message().await? {
            let Some(save_workspace_request::Part::Chunk(chunk)) = message.part else {
                return Err(Status::invalid_argument("no chunk"));
            };
            assert!(chunk.len() <= 1 << 20);
            archive.extend_from_slice(&chunk);
        }
        self.saved.lock().expect("lock").push((header, archive));
        self.refusal("SaveWorkspace")?;
        Ok(SaveWorkspaceResponse::default())
    }

    fn enrol(&self, request: EnrolAgentRequest) -> Result<EnrolAgentResponse, Status> {
        if let Some(code) = self.enrolment_code {
            return Err(Status::new(code, "the token is not valid"));
        }
        let left = self.enrolments_refused.load(Ordering::Relaxed);
        if left > 0 {
            self.enrolments_refused.store(left - 1, Ordering::Relaxed);
            return Err(Status::unavailable("starting"));
        }
        if request.token != "token" {
            return Err(Status::unauthenticated("the token is not valid"));
        }
        *self.public_key.lock().expect("lock") = request.public_key.to_vec();
        let agent =
            Agent { name: "analyst".into(), role: self.role.into(), model_tier: "sonnet".into(), ..Agent::default() };
        Ok(EnrolAgentResponse { agent: Some(agent) })
    }

    /// Checks the token of a call the way the gateway does.
    pub(crate) fn authenticate<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.known(request.metadata().get("authorization").and_then(|value| value.to_str().ok()))
    }

    /// The same, of a header.
    pub(crate) fn known(&self, bearer: Option<&str>) -> Result<(), Status> {
        let token =
            bearer.and_then(|value| value.strip_prefix("Bearer ")).ok_or(Status::unauthenticated("no token"))?;
        mi_client::eddsa::install();
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&["mi"]);
        let key = DecodingKey::from_ed_der(&self.public_key.lock().expect("lock"));
        jsonwebtoken::decode::<serde_json::Value>(token, &key, &rules)
            .map(|_| ())
            .map_err(|error| Status::unauthenticated(error.to_string()))
    }

    async fn connect(
        self: Arc<Self>,
        request: Request<Streaming<ConnectAgentRequest>>,
    ) -> Result<Response<Answers<ConnectAgentResponse>>, Status> {
        self.authenticate(&request)?;
        let mut messages = request.into_inner();
        let hello = messages.message().await?.ok_or(Status::invalid_argument("no first message"))?;
        self.sessions.lock().expect("lock").push(hello);
        let (send, answers) = mpsc::channel(4);
        send.send(Ok(ConnectAgentResponse::default())).await.expect("open");
        let mut ends = self.session_ends.lock().expect("lock");
        let end = (!ends.is_empty()).then(|| ends.remove(0));
        drop(ends);
        tokio::spawn(async move {
            match end {
                Some(code) => {
                    // Not before the agent had something to say.
                    let _ = self.said.subscribe().wait_for(|said| *said).await;
                    let _ = send.send(Err(Status::new(code, "as the test wants it"))).await;
                }
                None => while let Ok(Some(_)) = messages.message().await {},
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn append(
        self: Arc<Self>,
        request: Request<Streaming<AppendLogsRequest>>,
    ) -> Result<Response<Answers<AppendLogsResponse>>, Status> {
        self.authenticate(&request)?;
        let mut messages = request.into_inner();
        let (send, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok(Some(batch)) = messages.message().await {
                assert_eq!(batch.source, "instance");
                let durable_index = batch.first_index + batch.lines.len() as i64 - 1;
                self.batches.lock().expect("lock").push((batch.first_index, batch.lines));
                self.said.send_replace(true);
                let left = self.log_streams_broken.load(Ordering::Relaxed);
                if left > 0 {
                    self.log_streams_broken.store(left - 1, Ordering::Relaxed);
                    return;
                }
                let _ = send.send(Ok(AppendLogsResponse { durable_index })).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn call(self: Arc<Self>, request: http::Request<Body>) -> Result<http::Response<Body>, Infallible> {
        if ["/llm/", "/proxy/", "/mcp"].iter().any(|root| request.uri().path().starts_with(root)) {
            return Ok(self.proxied(request).await);
        }
        let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        if !matches!(name.as_str(), "ConnectAgent" | "AppendLogs") {
            self.calls.lock().expect("lock").push(name.clone());
        }
        Ok(match name.as_str() {
            "EnrolAgent" => {
                let enrol = tower::service_fn(|request: Request<EnrolAgentRequest>| {
                    assert!(request.metadata().get("authorization").is_none());
                    ready(self.enrol(request.into_inner()).map(Response::new))
                });
                Grpc::new(ProstCodec::default()).unary(enrol, request).await
            }
            "ConnectAgent" => {
                let connect = tower::service_fn(|request| self.clone().connect(request));
                Grpc::new(ProstCodec::default()).streaming(connect, request).await
            }
            "AppendLogs" => {
                let append = tower::service_fn(|request| self.clone().append(request));
                Grpc::new(ProstCodec::default()).streaming(append, request).await
            }
            "GetAgent" => {
                let agent = Agent { name: "analyst".into(), model_tier: "sonnet".into(), ..Agent::default() };
                self.unary(request, |_: GetAgentRequest| ready(Ok(GetAgentResponse { agent: Some(agent.clone()) })))
                    .await
            }
            "LoadWorkspace" => {
                let load = tower::service_fn(|request: Request<LoadWorkspaceRequest>| ready(self.load(&request)));
                Grpc::new(ProstCodec::default()).server_streaming(load, request).await
            }
            "SaveWorkspace" => {
                let save = tower::service_fn(|request| {
                    let platform = self.clone();
                    async move { platform.take_workspace(request).await.map(Response::new) }
                });
                Grpc::new(ProstCodec::default()).client_streaming(save, request).await
            }
            "UploadFile" => {
                let upload = tower::service_fn(|request| {
                    let platform = self.clone();
                    async move { platform.upload(request).await.map(Response::new) }
                });
                Grpc::new(ProstCodec::default()).client_streaming(upload, request).await
            }
            "WorkTasks" => {
                let work = tower::service_fn(|request| self.clone().work(request));
                Grpc::new(ProstCodec::default()).streaming(work, request).await
            }
            "RenewLease" => {
                let answer =
                    |_: RenewLeaseRequest| ready(self.refusal("RenewLease").map(|()| RenewLeaseResponse::default()));
                self.unary(request, answer).await
            }
            "CompleteTask" => {
                self.unary(request, |request: CompleteTaskRequest| {
                    self.completions.lock().expect("lock").push(request);
                    ready(self.refusal("CompleteTask").map(|()| CompleteTaskResponse::default()))
                })
                .await
            }
            "FailTask" => {
                self.unary(request, |request: FailTaskRequest| {
                    self.failures.lock().expect("lock").push(request);
                    ready(self.refusal("FailTask").map(|()| FailTaskResponse::default()))
                })
                .await
            }
            "ReleaseTask" => {
                self.unary(request, |request: ReleaseTaskRequest| {
                    self.releases.lock().expect("lock").push(request);
                    ready(self.refusal("ReleaseTask").map(|()| ReleaseTaskResponse::default()))
                })
                .await
            }
            name => self.clone().tool(name, request).await,
        })
    }

    /// Answers a unary call of an agent.
    pub(crate) async fn unary<Q, A, F>(
        &self,
        request: http::Request<Body>,
        answer: impl Fn(Q) -> F,
    ) -> http::Response<Body>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
        F: Future<Output = Result<A, Status>>,
    {
        let service = tower::service_fn(|request: Request<Q>| {
            let answer = self.authenticate(&request).map(|()| answer(request.into_inner()));
            async { Ok(Response::new(answer?.await?)) }
        });
        Grpc::new(ProstCodec::default()).unary(service, request).await
    }

    /// Serves on a free port; answers the endpoint.
    pub(crate) async fn serve(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let platform = self.clone();
        let counted = platform.clone();
        let incoming = TcpListenerStream::new(listener).map(move |stream| {
            counted.connections.fetch_add(1, Ordering::Relaxed);
            stream
        });
        let service = tower::service_fn(move |request| platform.clone().call(request));
        tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
        endpoint
    }

    pub(crate) fn texts(&self) -> Vec<(i64, String)> {
        let batches = self.batches.lock().expect("lock");
        let numbered = batches
            .iter()
            .flat_map(|(first, lines)| (*first..).zip(lines).map(|(index, line)| (index, line.text.clone())));
        numbered.collect()
    }

    /// Puts a task into the queue; answers its id.
    pub(crate) fn add(&self, task: Task) -> String {
        let task = self.numbered(task);
        let id = task.id.clone();
        self.queue.lock().expect("lock").push_back(task);
        self.queued.notify_waiters();
        id
    }

    pub(crate) fn numbered(&self, task: Task) -> Task {
        let id = format!("task-{}", 1 + self.added.fetch_add(1, Ordering::Relaxed));
        let lease_id = format!("lease of {id}");
        Task { id, lease_id, title: "A task".into(), attempt: 1, ..task }
    }

    /// Puts a command task into the queue; answers its id.
    pub(crate) fn command(&self, script: &str) -> String {
        self.add(Task { kind: TaskKind::Command.into(), description: script.into(), ..Task::default() })
    }

    /// Waits for the completion of a task, and checks its receipt.
    pub(crate) async fn completion(&self, id: &str) -> (CompleteTaskRequest, Receipt) {
        let completion = until(&format!("{id} is completed"), LONG, async || {
            let completions = self.completions.lock().expect("lock");
            match completions.iter().find(|completion| completion.task_id == id) {
                Some(completion) => Ok(Some(completion.clone())),
                None => Err(format!("failures: {:?}", self.failures.lock().expect("lock"))),
            }
        })
        .await;
        let key = self.public_key.lock().expect("lock").clone();
        let receipt = receipt::verify(&completion.receipt, &key).expect("a good receipt");
        assert_eq!(receipt.task_id, id);
        assert_eq!(receipt.result_sha256, sha256_hex(completion.result.as_bytes()));
        let paths: Vec<_> = receipt.artifacts.iter().map(|artifact| artifact.path.clone()).collect();
        assert_eq!(paths, completion.artifacts);
        (completion, receipt)
    }

    /// Waits for the failure of a task.
    pub(crate) async fn failure(&self, id: &str) -> FailTaskRequest {
        until(&format!("{id} has failed"), LONG, async || {
            let failures = self.failures.lock().expect("lock");
            match failures.iter().find(|failure| failure.task_id == id) {
                Some(failure) => Ok(Some(failure.clone())),
                None => Err(format!("completions: {:?}", self.completions.lock().expect("lock"))),
            }
        })
        .await
    }
}
