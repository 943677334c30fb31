//! Roles that know a few credentials and tell who called them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{StreamExt, stream};
use mi_base::Tasks;
use mi_gateway::{Backends, Gateway, GatewayConfig};
use mi_kernel::{AccountId, AgentId, ApiKeyId, OfficeId, SystemClock};
use mi_proto::{
    internal::v1::{
        self as internal, agent_registry_service_server as registry, credential_service_server as credentials,
        ingest_service_server as ingest,
    },
    v1::{self, activity_service_client::ActivityServiceClient, activity_service_server as activity},
};
use mi_rpc::{
    Caller, Connections, Guard, HttpCaller, PrincipalKey, Refusals, Transport, compressed,
    server::{self, Listener},
};
use prost_types::Timestamp;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tonic::{
    Request, Response, Status,
    service::Routes,
    transport::{Channel, Endpoint},
};

/// What the fake roles know and saw.
pub(crate) struct World {
    pub(crate) api_keys: Mutex<HashMap<Vec<u8>, v1::Principal>>,
    pub(crate) agents: Mutex<HashMap<(String, String), internal::ResolveAgentKeyResponse>>,
    pub(crate) lookups: AtomicUsize,
    pub(crate) down: AtomicBool,
    pub(crate) models_down: AtomicBool,
    /// What was revoked, as the roles tell whoever asks.
    pub(crate) dead_api_keys: Mutex<Vec<String>>,
    pub(crate) dead_agent_keys: Mutex<Vec<internal::AgentKeyName>>,
    /// Since when they were asked for it, each by its own clock.
    pub(crate) questions: Mutex<Vec<(&'static str, i64)>>,
    /// They do not say.
    pub(crate) silent: AtomicBool,
    pub(crate) revoked_api_keys: broadcast::Sender<String>,
    pub(crate) revoked_agent_keys: broadcast::Sender<internal::AgentKeyName>,
    pub(crate) reported: watch::Sender<Vec<internal::ReportRefusedCredentialRequest>>,
    /// Calls that are inside the handler now.
    pub(crate) inside: watch::Sender<usize>,
}

/// The services of all roles.
#[derive(Clone)]
pub(crate) struct Fake(pub(crate) Arc<World>);

/// An agent that the fake scheduler knows.
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) kid: String,
    pub(crate) pair: Ed25519KeyPair,
}

/// A gateway with its fakes. Dropping it leaves the tasks running, which end with the test.
pub(crate) struct Edge {
    pub(crate) gateway: Gateway,
    pub(crate) world: Arc<World>,
    pub(crate) tasks: Tasks,
}

impl Edge {
    /// Roles in this process.
    pub(crate) fn local() -> Self {
        Self::with(GatewayConfig::default())
    }

    pub(crate) fn with(config: GatewayConfig) -> Self {
        let (tasks, world) = (Tasks::new(), World::new());
        let key = PrincipalKey::random();
        let role = |name| Transport::local(guard(name, &world, &key, &tasks));
        let models = Some(Transport::local(guard("models", &world, &key, &tasks).with_http(models(&world))));
        let backends =
            Backends { office: role("office"), scheduler: role("scheduler"), activity: role("activity"), models };
        let gateway = mi_gateway::build(config, backends, SystemClock::shared(), Refusals::default(), &tasks);
        Self { gateway, world, tasks }
    }

    /// Roles in this process, and none for models.
    pub(crate) fn without_models() -> Self {
        let (tasks, world) = (Tasks::new(), World::new());
        let key = PrincipalKey::random();
        let role = |name| Transport::local(guard(name, &world, &key, &tasks));
        let backends =
            Backends { office: role("office"), scheduler: role("scheduler"), activity: role("activity"), models: None };
        let (config, clock) = (GatewayConfig::default(), SystemClock::shared());
        Self { gateway: mi_gateway::build(config, backends, clock, Refusals::default(), &tasks), world, tasks }
    }

    /// Roles behind one listener.
    pub(crate) async fn remote(config: GatewayConfig) -> Self {
        let (tasks, world) = (Tasks::new(), World::new());
        let key = PrincipalKey::random();
        let url = serve(&tasks, guard("remote", &world, &key, &tasks).with_http(models(&world))).await;
        let role = Transport::remote("roles", &url, None, key, SystemClock::shared()).expect("a URL");
        let backends =
            Backends { office: role.clone(), scheduler: role.clone(), activity: role.clone(), models: Some(role) };
        let gateway = mi_gateway::build(config, backends, SystemClock::shared(), Refusals::default(), &tasks);
        Self { gateway, world, tasks }
    }

    /// The gateway's own listener.
    pub(crate) async fn listen(&self) -> String {
        serve(&self.tasks, self.gateway.clone()).await
    }

    /// A client over the gateway's own listener.
    pub(crate) async fn connected(&self) -> ActivityServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(self.listen().await).expect("a URL");
        ActivityServiceClient::new(endpoint.connect().await.expect("listens"))
    }

    /// A client in this process.
    pub(crate) fn activity(&self) -> ActivityServiceClient<Gateway> {
        ActivityServiceClient::new(self.gateway.clone())
    }

    /// Calls with this `authorization` header; answers who the role saw, as [`mi_kernel::Actor::key`] has it.
    pub(crate) async fn who(&self, authorization: &str) -> Result<String, Status> {
        let mut request = Request::new(v1::ListActivityRequest::default());
        let value = authorization.parse().expect("a header value");
        request.metadata_mut().insert("authorization", value);
        Ok(seen(self.activity().list_activity(request).await?).summary)
    }
}

/// What the fake activity role saw of the call.
pub(crate) fn seen(response: Response<v1::ListActivityResponse>) -> v1::ActivityEvent {
    response.into_inner().events.pop().expect("the fake answers with one event")
}

/// Adds the header to a request.
pub(crate) fn bearer<T>(message: T, credential: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {credential}").parse().expect("a header value");
    request.metadata_mut().insert("authorization", value);
    request
}

/// Asks the fake to keep the call inside its handler.
pub(crate) fn hang() -> v1::ListActivityRequest {
    v1::ListActivityRequest { agent: "hang".into(), ..Default::default() }
}

async fn serve<S>(tasks: &Tasks, service: S) -> String
where
    S: tower::Service<mi_rpc::HttpRequest, Response = mi_rpc::HttpResponse, Error = std::convert::Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let socket = server::bind("test", ([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("bound"));
    let listener = Listener { name: "test", socket, tls: None, http1: true, connections: Connections::default() };
    server::serve(tasks, listener, service);
    url
}

fn guard(name: &'static str, world: &Arc<World>, key: &PrincipalKey, tasks: &Tasks) -> Guard {
    let fake = Fake(world.clone());
    let routes = Routes::new(credentials::CredentialServiceServer::new(fake.clone()))
        .add_service(registry::AgentRegistryServiceServer::new(fake.clone()))
        .add_service(ingest::IngestServiceServer::new(fake.clone()))
        .add_service(compressed!(activity::ActivityServiceServer::new(fake)));
    // Methods that the tests need no answer of: the status names the caller and the path.
    let told = |request: axum::extract::Request| async move {
        let caller = request.extensions().get::<Caller>().expect("the guard puts it there");
        let told = format!("{} {}", caller.actor.key(), request.uri().path());
        Status::already_exists(told).into_http::<axum::body::Body>()
    };
    let routes = routes.into_axum_router().fallback(told);
    Guard::new(name, Routes::from(routes), key.clone(), SystemClock::shared(), tasks.clone(), Refusals::default())
}

/// A models role that tells what it got: the caller, the method, where to, the headers, and the body. A body `endless` is
/// answered with one that does not end.
fn models(world: &Arc<World>) -> axum::Router {
    let world = world.clone();
    axum::Router::new().fallback(async move |request: axum::extract::Request| {
        if world.models_down.load(Ordering::SeqCst) {
            return Status::unavailable("down, as asked").into_http();
        }
        let (head, body) = request.into_parts();
        let caller = head.extensions.get::<HttpCaller>().expect("the guard puts it there").actor.key();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("a whole body");
        if body == "endless" {
            let first = stream::iter([Ok::<_, Status>(bytes::Bytes::from("first"))]);
            return http::Response::new(axum::body::Body::from_stream(first.chain(stream::pending())));
        }
        let headers: std::collections::BTreeMap<_, _> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        let told = json!({
            "caller": caller,
            "method": head.method.as_str(),
            "uri": head.uri.path_and_query().expect("a path").as_str(),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
        });
        let mut response = http::Response::new(axum::body::Body::from(told.to_string()));
        *response.status_mut() = http::StatusCode::from_u16(529).expect("a status");
        response
    })
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            api_keys: Mutex::default(),
            agents: Mutex::default(),
            lookups: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            models_down: AtomicBool::new(false),
            dead_api_keys: Mutex::default(),
            dead_agent_keys: Mutex::default(),
            questions: Mutex::default(),
            silent: AtomicBool::new(false),
            revoked_api_keys: broadcast::Sender::new(16),
            revoked_agent_keys: broadcast::Sender::new(16),
            reported: watch::Sender::default(),
            inside: watch::Sender::new(0),
        })
    }

    /// A new account with this key; answers what [`Edge::who`] says of it.
    pub(crate) fn operator(&self, secret: &str) -> String {
        let account = AccountId::new();
        let principal = v1::Principal {
            kind: v1::PrincipalKind::Operator.into(),
            account_id: account.to_string(),
            api_key_id: ApiKeyId::new().to_string(),
            ..Default::default()
        };
        self.api_keys.lock().expect("unpoisoned").insert(sha256(secret), principal);
        format!("account:{account}")
    }

    pub(crate) fn api_key_id(&self, secret: &str) -> String {
        self.api_keys.lock().expect("unpoisoned")[&sha256(secret)].api_key_id.clone()
    }

    pub(crate) fn revoke(&self, secret: &str) {
        let key = self.api_keys.lock().expect("unpoisoned").remove(&sha256(secret)).expect("known");
        self.dead_api_keys.lock().expect("unpoisoned").push(key.api_key_id);
    }

    /// Takes the agent's key from it.
    pub(crate) fn rotate(&self, agent: &Agent) {
        let key = internal::AgentKeyName { agent_id: agent.id.to_string(), key_id: agent.kid.clone() };
        let known = self.agents.lock().expect("unpoisoned").remove(&(key.agent_id.clone(), key.key_id.clone()));
        assert!(known.is_some());
        self.dead_agent_keys.lock().expect("unpoisoned").push(key);
    }

    pub(crate) fn agent(&self) -> Agent {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("own key");
        let public = pair.public_key().as_ref().to_vec();
        let hex: String = digest(&SHA256, &public).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let (id, kid) = (AgentId::new(), format!("k{hex}"));
        let principal = v1::Principal {
            kind: v1::PrincipalKind::Agent.into(),
            office_id: OfficeId::new().to_string(),
            agent_id: id.to_string(),
            agent: "analyst".into(),
            ..Default::default()
        };
        let known = internal::ResolveAgentKeyResponse { principal: Some(principal), public_key: public.into() };
        self.agents.lock().expect("unpoisoned").insert((id.to_string(), kid.clone()), known);
        Agent { id, kid, pair }
    }

    pub(crate) async fn inside(&self, calls: usize) {
        let mut inside = self.inside.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(10), inside.wait_for(|now| *now == calls)).await;
        assert!(waited.is_ok(), "there are never {calls} calls inside");
    }

    /// Notes since when a role is asked what was revoked; until when it tells, unless it does not.
    pub(crate) fn tells(&self, role: &'static str, since: Option<Timestamp>) -> Result<Option<Timestamp>, Status> {
        let mut questions = self.questions.lock().expect("unpoisoned");
        questions.push((role, since.map_or(0, |since| since.seconds)));
        match self.silent.load(Ordering::SeqCst) {
            true => Err(Status::unavailable("as meant")),
            false => self.up().map(|()| Some(Timestamp { seconds: questions.len() as i64, nanos: 0 })),
        }
    }

    /// Refuses while the fakes are down.
    pub(crate) fn up(&self) -> Result<(), Status> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(Status::unavailable("as meant")),
            false => Ok(()),
        }
    }
}

impl Agent {
    pub(crate) fn header(&self) -> Value {
        json!({"alg": "EdDSA", "typ": "JWT", "kid": self.kid})
    }

    pub(crate) fn claims(&self) -> Value {
        let now = mi_kernel::Clock::now(&SystemClock).timestamp();
        json!({"iss": self.id.to_string(), "aud": "mi", "iat": now, "exp": now + 240, "jti": "1"})
    }

    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = self.pair.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The first two parts of a token.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn sha256(text: &str) -> Vec<u8> {
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}
