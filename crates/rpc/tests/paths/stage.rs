//! The role under test: an activity feed that answers what the request's `agent` asks for.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream};
use mi_base::Tasks;
use mi_kernel::{AccountId, Actor, AgentActor, AgentId, ApiKeyId, Error, OfficeId};
use mi_proto::{
    internal::v1::{
        AppendCapturedLogsRequest, AppendCapturedLogsResponse, AppendEventsRequest, AppendEventsResponse,
        ingest_service_server::{IngestService, IngestServiceServer},
    },
    v1::{
        ActivityEvent, GetActivityHeadRequest, GetActivityHeadResponse, ListActivityRequest, ListActivityResponse,
        WatchActivityRequest, WatchActivityResponse,
        activity_service_client::ActivityServiceClient,
        activity_service_server::{ActivityService, ActivityServiceServer},
    },
};
use mi_rpc::{
    Caller, Connections, Guard, HttpRequest, HttpResponse, PrincipalKey, Refusals, Transport, compressed,
    server::{self, Listener},
    status,
};
use mi_testkit::ManualClock;
use tonic::{Request, Response, Status, codegen::Service, service::Routes};

/// Far longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// A deadline that a test waits for.
pub(crate) const SHORT: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Feed {
    /// Calls that hang at this moment.
    pub(crate) hanging: Arc<AtomicUsize>,
}

/// Counts a call as hanging until it is dropped.
struct Hang(Arc<AtomicUsize>);

impl Hang {
    fn new(feed: &Feed) -> Self {
        feed.hanging.fetch_add(1, Ordering::SeqCst);
        Self(feed.hanging.clone())
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn hang<T>(hang: Hang) -> T {
    let _hang = hang;
    std::future::pending().await
}

type Watch = Pin<Box<dyn Stream<Item = Result<WatchActivityResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ActivityService for Feed {
    type WatchActivityStream = Watch;

    async fn get_activity_head(
        &self,
        _: Request<GetActivityHeadRequest>,
    ) -> Result<Response<GetActivityHeadResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    /// Answers who called, as one event: its id is the caller, its trace the call's.
    async fn list_activity(
        &self,
        request: Request<ListActivityRequest>,
    ) -> Result<Response<ListActivityResponse>, Status> {
        let caller = Caller::of(&request)?;
        match request.get_ref().agent.as_str() {
            "hangs" => return hang(Hang::new(self)).await,
            "fails" => return Err(status(Error::exhausted("AS_ASKED", "as asked", Duration::from_secs(7)))),
            _ => {}
        }
        let event = ActivityEvent { id: caller.actor.key(), trace_id: caller.trace_id, ..ActivityEvent::default() };
        Ok(Response::new(ListActivityResponse { events: vec![event], ..ListActivityResponse::default() }))
    }

    /// Sends one message and then nothing more.
    async fn watch_activity(
        &self,
        request: Request<WatchActivityRequest>,
    ) -> Result<Response<Self::WatchActivityStream>, Status> {
        match request.get_ref().agent.as_str() {
            "hangs" => return hang(Hang::new(self)).await,
            "ends" => {
                return Ok(Response::new(Box::pin(stream::iter([Ok(WatchActivityResponse::default())]))));
            }
            _ => {}
        }
        let first = stream::iter([Ok(WatchActivityResponse::default())]);
        let endless = hang(Hang::new(self)).into_stream();
        Ok(Response::new(Box::pin(first.chain(endless))))
    }
}

#[tonic::async_trait]
impl IngestService for Feed {
    async fn append_events(
        &self,
        request: Request<AppendEventsRequest>,
    ) -> Result<Response<AppendEventsResponse>, Status> {
        let limit = request.metadata().get("grpc-timeout").and_then(|limit| limit.to_str().ok());
        Err(Status::aborted(limit.unwrap_or("none")))
    }

    async fn append_captured_logs(
        &self,
        _: Request<AppendCapturedLogsRequest>,
    ) -> Result<Response<AppendCapturedLogsResponse>, Status> {
        Err(Status::aborted("not asked"))
    }
}

/// Calls as one actor.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) Transport, pub(crate) Arc<Actor>);

impl Service<HttpRequest> for Client {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let Self(transport, actor) = self.clone();
        async move { Ok(transport.call(actor, request).await) }.boxed()
    }
}

/// The role and the way to it.
pub(crate) struct Side {
    pub(crate) transport: Transport,
    pub(crate) feed: Feed,
    pub(crate) tasks: Tasks,
}

impl Side {
    pub(crate) async fn local() -> Self {
        let (feed, tasks, clock) = (Feed::default(), Tasks::new(), ManualClock::new());
        let transport = Transport::local(guard(&feed, &PrincipalKey::random(), &clock, &tasks));
        Self { transport, feed, tasks }
    }

    pub(crate) async fn remote() -> Self {
        let (feed, tasks, clock, key) = (Feed::default(), Tasks::new(), ManualClock::new(), PrincipalKey::random());
        let address = serve(&feed, &key, &clock, &tasks, "127.0.0.1:0").await;
        Self { transport: to(address, &key, &clock), feed, tasks }
    }

    /// The way to a role that refuses with the deadline it was given.
    pub(crate) fn ingest() -> Transport {
        let routes = Routes::new(IngestServiceServer::new(Feed::default()));
        let (key, clock, tasks) = (PrincipalKey::random(), ManualClock::new(), Tasks::new());
        Transport::local(Guard::new("activity", routes, key, clock.shared(), tasks.clone(), Refusals::default()))
    }

    pub(crate) fn client(&self, actor: Actor) -> ActivityServiceClient<Client> {
        ActivityServiceClient::new(Client(self.transport.clone(), Arc::new(actor)))
    }
}

pub(crate) fn guard(feed: &Feed, key: &PrincipalKey, clock: &ManualClock, tasks: &Tasks) -> Guard {
    let routes = Routes::new(compressed!(ActivityServiceServer::new(feed.clone())));
    Guard::new("activity", routes, key.clone(), clock.shared(), tasks.clone(), Refusals::default())
}

/// Serves the role over the network.
pub(crate) async fn serve(
    feed: &Feed,
    key: &PrincipalKey,
    clock: &ManualClock,
    tasks: &Tasks,
    address: &str,
) -> SocketAddr {
    let socket = server::bind("--listen", address.parse().expect("an address")).await.expect("binds");
    let address = socket.local_addr().expect("bound");
    let listener = Listener { name: "activity", socket, tls: None, http1: false, connections: Connections::default() };
    server::serve(tasks, listener, guard(feed, key, clock, tasks));
    address
}

/// The way to a role at this address.
pub(crate) fn to(address: SocketAddr, key: &PrincipalKey, clock: &ManualClock) -> Transport {
    Transport::remote("activity", &format!("http://{address}"), None, key.clone(), clock.shared()).expect("a URL")
}

pub(crate) fn operator(administrator: bool) -> Actor {
    Actor::Operator { account_id: AccountId::new(), api_key_id: ApiKeyId::new(), administrator }
}

pub(crate) fn agent() -> Actor {
    Actor::Agent(AgentActor { office_id: OfficeId::new(), agent_id: AgentId::new(), name: "analyst".into() })
}

/// A request whose answer the feed knows by this word.
pub(crate) fn list(word: &str) -> Request<ListActivityRequest> {
    Request::new(ListActivityRequest { agent: word.into(), ..ListActivityRequest::default() })
}

/// As [`list`], for a stream.
pub(crate) fn watch(word: &str) -> Request<WatchActivityRequest> {
    Request::new(WatchActivityRequest { agent: word.into(), ..WatchActivityRequest::default() })
}
