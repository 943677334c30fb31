//! The role under test with everything around it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use mi_base::Tasks;
use mi_catalogue::{Catalogue, Catalogues};
use mi_kernel::{Actor, AgentActor, AgentId, OfficeId, SystemClock, secret::Secret};
use mi_models::{Limits, ModelsConfig};
use mi_proto::{
    internal::v1::{
        self as internal, agent_registry_service_server::AgentRegistryServiceServer,
        metering_service_server::MeteringServiceServer, secret_service_server::SecretServiceServer,
    },
    v1,
};
use mi_rpc::{Guard, HttpResponse, PrincipalKey, Refusals, Transport};
use mi_testkit::until;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

use crate::roles::{Roles, World};

/// Far longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// The office's key at each provider.
pub(crate) const KEY: &str = "sk-of-the-office";

/// A request as the provider got it.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// What the provider does.
pub(crate) enum Does {
    Answers(Response),
    Hangs,
}

/// A provider on loopback.
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    state: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    does: Mutex<VecDeque<Does>>,
    got: Mutex<Vec<Got>>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (address, state) = (listener.local_addr().expect("bound"), Arc::new(Shared::default()));
        let routes = Router::new().fallback(answer).with_state(state.clone());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.expect("serves") });
        Self { address, state, server }
    }
}

async fn answer(State(state): State<Arc<Shared>>, request: axum::extract::Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("whole").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("text");
    state.got.lock().expect("lock").push(Got {
        method: head.method,
        uri: head.uri.to_string(),
        headers: head.headers,
        body,
    });
    let does = state.does.lock().expect("lock").pop_front();
    match does {
        Some(Does::Answers(response)) => response,
        Some(Does::Hangs) => std::future::pending().await,
        None => panic!("nothing was said of what to do with this"),
    }
}

/// A whole answer.
pub(crate) fn whole(status: u16, body: impl ToString) -> Does {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
    Does::Answers(response)
}

/// The pieces of an answer, as the test sends them; its end cuts it off if that is an error.
pub(crate) type Pieces = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// A streamed answer.
pub(crate) fn stream() -> (Pieces, Does) {
    let (pieces, body) = mpsc::channel(64);
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(body)));
    response.headers_mut().insert("content-type", "text/event-stream; charset=utf-8".parse().expect("a value"));
    (pieces, Does::Answers(response))
}

/// A streamed answer that is there already.
pub(crate) async fn streamed(events: &[Value]) -> Does {
    let (pieces, does) = stream();
    for event in events {
        pieces.send(Ok(data(event))).await.expect("room");
    }
    does
}

/// One event.
pub(crate) fn data(event: &Value) -> Bytes {
    match event.as_str() {
        Some(text) => format!("data: {text}\n\n").into(),
        None => format!("data: {event}\n\n").into(),
    }
}

/// An answer as a client got it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

/// See the module.
pub(crate) struct Stage {
    pub(crate) provider: Provider,
    pub(crate) world: Arc<World>,
    pub(crate) agent: AgentActor,
    pub(crate) catalogues: Catalogues,
    pub(crate) tasks: Tasks,
    role: Transport,
}

impl Stage {
    pub(crate) async fn new(does: impl IntoIterator<Item = Does>) -> Self {
        Self::with(Limits::default(), does).await
    }

    pub(crate) async fn with(limits: Limits, does: impl IntoIterator<Item = Does>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let provider = Provider::start().await;
        provider.state.does.lock().expect("lock").extend(does);
        let (world, tasks, key) = (Arc::new(World::default()), Tasks::new(), PrincipalKey::random());
        let roles = Roles(world.clone());
        let guard = |name, routes| {
            Guard::new(name, routes, key.clone(), SystemClock::shared(), tasks.clone(), Refusals::default())
        };
        let office =
            Routes::new(MeteringServiceServer::new(roles.clone())).add_service(SecretServiceServer::new(roles.clone()));
        let scheduler = Routes::new(AgentRegistryServiceServer::new(roles));
        let catalogues = Catalogues::new(catalogue(provider.address));
        let config = ModelsConfig {
            catalogues: catalogues.clone(),
            office: Transport::local(guard("office", office)),
            scheduler: Transport::local(guard("scheduler", scheduler)),
            limits,
        };
        let http = mi_models::build(config, &tasks).expect("builds");
        let role = Transport::local(guard("models", Routes::default()).with_http(http));
        let agent = AgentActor { office_id: OfficeId::new(), agent_id: AgentId::new(), name: "analyst".into() };
        let stage = Self { provider, world, agent, catalogues, tasks, role };
        stage.hired("sonnet", "anthropic");
        for provider in ["anthropic", "openai", "gemini"] {
            stage.secret(provider, "api_key", KEY);
        }
        stage
    }

    /// Says what the agent was hired for. What was said before is remembered for a second.
    pub(crate) fn hired(&self, tier: &str, provider: &str) {
        self.spender(|spender| {
            let agent = v1::Agent { model_tier: tier.into(), provider: provider.into(), ..Default::default() };
            spender.agent = Some(agent);
            spender.integrations = vec![provider.to_owned()];
        });
    }

    pub(crate) fn spender(&self, change: impl FnOnce(&mut internal::GetSpenderResponse)) {
        let mut spender = self.world.spender.lock().expect("lock");
        change(spender.get_or_insert_with(|| internal::GetSpenderResponse {
            working: true,
            lineage: vec!["the-hirer".into()],
            ..Default::default()
        }));
    }

    pub(crate) fn secret(&self, provider: &str, name: &str, value: &str) {
        let mut secrets = self.world.secrets.lock().expect("lock");
        secrets.entry(provider.into()).or_default().insert(name.into(), value.into());
    }

    pub(crate) fn does(&self, does: Does) {
        self.provider.state.does.lock().expect("lock").push_back(does);
    }

    /// Sends, and has the head of the answer.
    pub(crate) async fn open(&self, path: &str, headers: &[(&str, &str)], body: impl ToString) -> HttpResponse {
        self.send(Actor::Agent(self.agent.clone()), Method::POST, path, headers, body.to_string()).await
    }

    pub(crate) async fn send(
        &self,
        actor: Actor,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> HttpResponse {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(tonic::body::Body::new(Body::from(body))).expect("a request");
        let answered = self.role.call(Arc::new(actor), request);
        tokio::time::timeout(LONG, answered).await.expect("answered in time")
    }

    /// Sends, and has all of the answer.
    pub(crate) async fn post(&self, path: &str, body: impl ToString) -> Answer {
        read(self.open(path, &[], body).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let actor = Actor::Agent(self.agent.clone());
        read(self.send(actor, Method::GET, path, &[], String::new()).await).await
    }

    /// What the provider got.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.provider.state.got.lock().expect("lock").clone()
    }

    /// What was set aside.
    pub(crate) fn reserved(&self) -> Vec<internal::ReserveCreditsRequest> {
        self.world.reserved.lock().expect("lock").clone()
    }

    /// The settlements, once there are so many.
    pub(crate) async fn settled(&self, number: usize) -> Vec<internal::SettleCreditsRequest> {
        until("the calls are settled", LONG, async || {
            let settled = self.world.settled.lock().expect("lock").clone();
            Ok::<_, Infallible>((settled.len() >= number).then_some(settled))
        })
        .await
    }

    /// The one settlement there is once everything has ended.
    pub(crate) async fn only_settled(&self) -> internal::SettleCreditsRequest {
        self.settled(1).await;
        assert_eq!(self.tasks.stop(LONG).await, None);
        let settled = self.world.settled.lock().expect("lock").clone();
        assert_eq!(settled.len(), 1, "{settled:?}");
        assert_eq!(settled[0].call_id, self.reserved()[0].call_id);
        settled.into_iter().next().expect("one")
    }
}

/// Reads an answer to its end, which must be one.
pub(crate) async fn read(response: HttpResponse) -> Answer {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(LONG, body.collect()).await.expect("ends in time").expect("whole").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("text");
    Answer { status: head.status.as_u16(), headers: head.headers, body }
}

/// Three vendors at one address, with prices that are easy to add up: 3 micro-credits for a token in, 15 for one out.
fn catalogue(address: SocketAddr) -> Catalogue {
    let mut text = String::new();
    for (name, api, path) in [
        ("anthropic", "anthropic", ""),
        ("openai", "openai", "/v1"),
        ("gemini", "gemini", ""),
        ("keyless", "openai", "/v1"),
        ("open", "openai", "/v1\"\nopen = true\naliases = [\"open-too\"]#"),
    ] {
        text += &format!("[[provider]]\nname = \"{name}\"\napi = \"{api}\"\nbase_url = \"http://{address}{path}\"\n");
    }
    for (provider, id, most) in [
        ("anthropic", "claude-x", 100),
        ("anthropic", "claude-y", 100),
        ("openai", "gpt-x", 100),
        ("openai", "embed-x", 0),
        ("gemini", "gemini-x", 100),
        ("keyless", "gpt-x", 100),
        ("open", "gpt-x", 100),
    ] {
        text += &format!(
            "[[model]]\nprovider = \"{provider}\"\nid = \"{id}\"\nmax_output = {most}\n[model.price]\n\
             input = 3_000_000\noutput = 15_000_000\ncache_read = 1_000_000\n"
        );
    }
    for (name, provider, model) in [
        ("sonnet", "anthropic", "claude-x"),
        ("gpt", "openai", "gpt-x"),
        ("embed", "openai", "embed-x"),
        ("gem", "gemini", "gemini-x"),
        ("keyless", "keyless", "gpt-x"),
        ("open", "open", "gpt-x"),
    ] {
        text += &format!("[[tier]]\nname = \"{name}\"\nprovider = \"{provider}\"\nmodel = \"{model}\"\n");
    }
    for name in ["anthropic", "openai", "gemini", "keyless"] {
        text += &format!(
            "[[integration]]\nname = \"{name}\"\ncategory = \"model\"\ndescription = \"d\"\n\
             [[integration.secret]]\nname = \"api_key\"\nenv = \"KEY\"\ndescription = \"d\"\n"
        );
    }
    text += &format!(
        "[[integration]]\nname = \"forge\"\naliases = [\"smithy\"]\ncategory = \"code\"\ndescription = \"d\"\n\
         [[integration.secret]]\nname = \"token\"\nenv = \"FORGE_TOKEN\"\ndescription = \"d\"\n\
         [integration.broker]\nbase_url = \"http://{address}/api\"\nheader = \"Authorization\"\n\
         value = \"Token {{token}}\"\n\
         allow = [{{ methods = [\"GET\", \"POST\"], path = \"/repos/**\" }}, {{ methods = [\"GET\"], path = \"/user\" }}]\n"
    );
    text += "[[tool]]\nprovider = \"anthropic\"\nname = \"web_search\"\nprice = 10_000\n";
    Catalogue::parse(&text).expect("a catalogue")
}

/// Gives the installation a key of its own.
pub(crate) fn with_key(stage: &Stage, provider: &str, key: &str) {
    let mut catalogue = Catalogue::clone(&stage.catalogues.current());
    let found = catalogue.providers.iter_mut().find(|known| known.name == provider).expect("known");
    found.key = Some(Secret::new(key));
    stage.catalogues.replace(catalogue);
}
