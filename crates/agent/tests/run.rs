//! The agent against a platform that loses answers, loses streams and changes its mind.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use mi_agent::{AgentConfig, AgentError};
use mi_kernel::{AgentId, secret::Secret};
use mi_proto::v1::{
    Agent, AppendLogsRequest, AppendLogsResponse, ConnectAgentRequest, ConnectAgentResponse, EnrolAgentRequest,
    EnrolAgentResponse, LogLine,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Code, Request, Response, Status, Streaming, body::Body, server::Grpc, transport::Server};
use tonic_prost::ProstCodec;

type Answers<T> = ReceiverStream<Result<T, Status>>;

/// What the platform does with the agent's calls, and what it has seen of them.
#[derive(Default)]
struct Platform {
    enrolments_refused: AtomicUsize,
    enrolment_code: Option<Code>,
    /// How the sessions end, first to last; after these they last.
    session_ends: Mutex<Vec<Code>>,
    /// Log streams to break before their first answer.
    log_streams_broken: AtomicUsize,
    public_key: Mutex<Vec<u8>>,
    sessions: Mutex<Vec<ConnectAgentRequest>>,
    batches: Mutex<Vec<(i64, Vec<LogLine>)>>,
    connections: AtomicUsize,
}

impl Platform {
    fn enrol(&self, request: EnrolAgentRequest) -> Result<EnrolAgentResponse, Status> {
        if let Some(code) = self.enrolment_code {
            return Err(Status::new(code, "the token is not valid"));
        }
        let left = self.enrolments_refused.load(Ordering::Relaxed);
        if left > 0 {
            self.enrolments_refused.store(left - 1, Ordering::Relaxed);
            return Err(Status::unavailable("starting"));
        }
        assert_eq!(request.token, "token");
        *self.public_key.lock().expect("lock") = request.public_key.to_vec();
        let agent = Agent { model_tier: "sonnet".into(), ..Agent::default() };
        Ok(EnrolAgentResponse { agent: Some(agent) })
    }

    /// Checks the token of a call the way the gateway does.
    fn authenticate<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
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
                    while self.batches.lock().expect("lock").is_empty() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
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
        Ok(match request.uri().path() {
            "/mi.v1.AccessService/EnrolAgent" => {
                let enrol = tower::service_fn(|request: Request<EnrolAgentRequest>| {
                    assert!(request.metadata().get("authorization").is_none());
                    std::future::ready(self.enrol(request.into_inner()).map(Response::new))
                });
                Grpc::new(ProstCodec::default()).unary(enrol, request).await
            }
            "/mi.v1.AgentService/ConnectAgent" => {
                let connect = tower::service_fn(|request| self.clone().connect(request));
                Grpc::new(ProstCodec::default()).streaming(connect, request).await
            }
            "/mi.v1.LogService/AppendLogs" => {
                let append = tower::service_fn(|request| self.clone().append(request));
                Grpc::new(ProstCodec::default()).streaming(append, request).await
            }
            path => panic!("unexpected call of {path}"),
        })
    }

    /// Serves on a free port; answers the endpoint.
    async fn serve(self: &Arc<Self>) -> String {
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

    fn texts(&self) -> Vec<(i64, String)> {
        let batches = self.batches.lock().expect("lock");
        let numbered = batches
            .iter()
            .flat_map(|(first, lines)| (*first..).zip(lines).map(|(index, line)| (index, line.text.clone())));
        numbered.collect()
    }
}

fn config(endpoint: String, dir: &tempfile::TempDir) -> AgentConfig {
    AgentConfig {
        ca: None,
        endpoint,
        office_id: "office".into(),
        agent_id: AgentId::new(),
        agent_name: "analyst".into(),
        generation: 7,
        instance_id: "instance".into(),
        enrol_token: Secret::new("token"),
        identity_dir: dir.path().to_owned(),
        new_identity: false,
    }
}

async fn limited<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("ends in time")
}

const READY: &str = "ready: analyst generation 7, model sonnet";

#[tokio::test]
async fn survives_lost_calls_on_one_connection_and_leaves_when_it_is_no_longer_wanted() {
    let platform = Arc::new(Platform {
        enrolments_refused: AtomicUsize::new(2),
        session_ends: Mutex::new(vec![Code::Unavailable, Code::Aborted]),
        log_streams_broken: AtomicUsize::new(1),
        ..Platform::default()
    });
    let dir = tempfile::tempdir().expect("temp dir");
    let config = config(platform.serve().await, &dir);
    limited(mi_agent::run(config, std::future::pending())).await.expect("no longer wanted is no error");

    let sessions = platform.sessions.lock().expect("lock").clone();
    let hello = ConnectAgentRequest { office_id: "office".into(), generation: 7, instance_id: "instance".into() };
    assert_eq!(sessions, [hello.clone(), hello]);
    // The batch whose answer was lost came again under its own number, with nothing before or after it changed.
    let texts = platform.texts();
    assert_eq!(texts.iter().filter(|line| **line == (1, READY.to_owned())).count(), 2, "{texts:?}");
    assert_eq!(texts.last(), Some(&(2, "stopping".to_owned())));
    assert_eq!(platform.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn stops_when_told_and_says_so() {
    let platform = Arc::new(Platform::default());
    let dir = tempfile::tempdir().expect("temp dir");
    let config = config(platform.serve().await, &dir);
    let seen = platform.clone();
    let stop = async move {
        while seen.texts().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    limited(mi_agent::run(config, stop)).await.expect("stopped");
    assert_eq!(platform.texts(), [(1, READY.to_owned()), (2, "stopping".to_owned())]);
}

#[tokio::test]
async fn a_refused_token_is_fatal() {
    let platform = Arc::new(Platform { enrolment_code: Some(Code::Unauthenticated), ..Platform::default() });
    let dir = tempfile::tempdir().expect("temp dir");
    let config = config(platform.serve().await, &dir);
    let error = limited(mi_agent::run(config, std::future::pending())).await.expect_err("fatal");
    assert!(matches!(error, AgentError::Enrolment(_)));
    assert_eq!(error.to_string(), "enrolment was refused: the token is not valid");
}
