//! One office on a scheduler of its own, and what every test asks of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::TryStreamExt;
use mi_catalogue::{Catalogue, Catalogues};
use mi_kernel::{AccountId, Actor, AgentActor, AgentId, ApiKeyId, Clock, InstanceId, OfficeId, Time, event::Event};
use mi_proto::{
    internal::v1::{ApplyOfficeRequest, office_replica_service_server::OfficeReplicaService},
    rules,
    v1::{FireAgentRequest, HireAgentRequest, OfficeSettings, OfficeStatus},
};
use mi_rpc::{Caller, Refusals};
use mi_runtime::{Place, fake::FakeRuntime};
use mi_store::{Db, on, outbox};
use mi_testkit::{Backend, ManualClock, OnBackend, TestDb};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};
use tonic::Request;

use super::treasury::Treasury;
use crate::{
    MIGRATIONS, Scheduler,
    agents::{Agent, Phase, State, repo},
    backups::Backup,
    liveness, offices, reconcile,
    shards::Shards,
};

/// Long enough for any wait that is not meant to fail.
pub(super) const LONG: Duration = Duration::from_secs(30);
/// Trace of every call of a test.
pub(super) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A scheduler over a database of its own, with a runtime in memory and a clock that stands still.
pub(super) struct Harness {
    pub(super) database: TestDb,
    pub(super) clock: ManualClock,
    pub(super) runtime: Arc<FakeRuntime>,
    pub(super) objects: Arc<InMemory>,
    pub(super) scheduler: Arc<Scheduler>,
    /// The office role.
    pub(super) treasury: Treasury,
    pub(super) account: AccountId,
    pub(super) office: OfficeId,
    /// What was refused to callers of this harness.
    pub(super) refusals: Refusals,
}

/// Settings under which agents may hire freely.
pub(super) fn free_hiring() -> OfficeSettings {
    OfficeSettings {
        allow_agent_hiring: true,
        max_agents: Some(100),
        max_hire_depth: Some(16),
        hires_per_10_minutes: Some(1000),
        default_model_tier: "sonnet".into(),
        ..OfficeSettings::default()
    }
}

impl OnBackend for Harness {
    async fn on(backend: Backend) -> Self {
        let database = TestDb::plain(backend).await;
        let clock = ManualClock::new();
        let (runtime, objects) = (Arc::new(FakeRuntime::default()), Arc::new(InMemory::new()));
        let treasury = Treasury::default();
        let scheduler = scheduler(&database, &clock, &runtime, objects.clone(), &treasury).await;
        let mut harness = Self {
            database,
            clock,
            runtime,
            objects,
            scheduler,
            treasury,
            account: AccountId::new(),
            office: OfficeId::new(),
            refusals: Refusals::default(),
        };
        harness.office = harness.open_office(1).await;
        harness
    }
}

/// A scheduler as after a fresh start of the platform, without its background tasks.
async fn scheduler(
    database: &TestDb,
    clock: &ManualClock,
    runtime: &Arc<FakeRuntime>,
    objects: Arc<dyn ObjectStore>,
    treasury: &Treasury,
) -> Arc<Scheduler> {
    replica(database, clock, runtime, objects, treasury, Shards::alone(), "test").await
}

/// The same, with shards and a name of its own.
pub(super) async fn replica(
    database: &TestDb,
    clock: &ManualClock,
    runtime: &Arc<FakeRuntime>,
    objects: Arc<dyn ObjectStore>,
    treasury: &Treasury,
    shards: Shards,
    holder: &str,
) -> Arc<Scheduler> {
    Arc::new(Scheduler {
        db: Db::open(database.target(), MIGRATIONS).await.expect("opens"),
        clock: clock.shared(),
        catalogues: Catalogues::new(Catalogue::built_in().expect("built in")),
        runtime: runtime.clone(),
        objects,
        reserve: mi_base::disk_reserve::DiskReserve::default(),
        agent_endpoint: crate::AgentEndpoint { url: "http://127.0.0.1:7400".into(), ca: None },
        holder: holder.into(),
        outbox: tokio::sync::Notify::new(),
        queue: reconcile::Queue::default(),
        shards: Arc::new(shards),
        seen: liveness::Seen::default(),
        failure_backoff: mi_base::failure_backoff::FailureBackoff::new(reconcile::RETRY),
        execs: Arc::default(),
        saving: crate::workspaces::Saving::default(),
        metering: treasury.client(clock.shared()),
        secrets: treasury.secrets(clock.shared()),
        tasks: mi_base::Tasks::new(),
    })
}

impl Harness {
    /// The process dies: a new scheduler over the same database, object storage and workspaces; no instance is left.
    pub(super) async fn crash(&mut self) {
        self.runtime.lose_everything();
        self.restart_with(self.objects.clone()).await;
    }

    /// A new scheduler whose object storage is reached through this.
    pub(super) async fn restart_with(&mut self, objects: Arc<dyn ObjectStore>) {
        self.scheduler = scheduler(&self.database, &self.clock, &self.runtime, objects, &self.treasury).await;
    }

    /// Finishes the removal of hidden backups, as the sweep of a process does that ends then.
    pub(super) async fn sweep_backups(&self) -> mi_kernel::Result<()> {
        let Scheduler { db, clock, .. } = &*self.scheduler;
        let lease = mi_store::lease::Lease::new(db.clone(), clock.clone(), "sweep", crate::sweep::LEASE);
        let (outcome, scheduler) = (std::sync::OnceLock::new(), &self.scheduler);
        let swept = &outcome;
        let sweep = async |lease| drop(swept.set(scheduler.sweep_backups(&lease).await));
        lease.until_end(std::future::pending(), sweep).await;
        outcome.into_inner().expect("it came to its end")
    }

    /// A further active office of the same account, under [`free_hiring`].
    pub(super) async fn open_office(&self, version: i64) -> OfficeId {
        let office = OfficeId::new();
        self.apply(office, version, true, free_hiring()).await;
        office
    }

    /// What the office role pushes.
    pub(super) async fn apply(&self, office: OfficeId, version: i64, active: bool, settings: OfficeSettings) {
        let status = if active { OfficeStatus::Active } else { OfficeStatus::Suspended };
        let request = ApplyOfficeRequest {
            office_id: office.to_string(),
            account_id: self.account.to_string(),
            version,
            status: status.into(),
            settings: Some(settings),
        };
        let handler = offices::grpc::Handler::new(self.scheduler.clone());
        handler.apply_office(Request::new(request)).await.expect("applied");
    }

    /// The office's owner, calling this method of AgentService.
    pub(super) fn owner(&self, method: &str) -> Caller {
        let actor = Actor::Operator { account_id: self.account, api_key_id: ApiKeyId::new(), administrator: false };
        caller(method, actor, &self.refusals)
    }

    /// An operator of another account, calling this method of AgentService.
    pub(super) fn stranger(&self, method: &str) -> Caller {
        let (account_id, api_key_id) = (AccountId::new(), ApiKeyId::new());
        caller(method, Actor::Operator { account_id, api_key_id, administrator: false }, &self.refusals)
    }

    /// This agent, calling this method of AgentService.
    pub(super) fn member(&self, agent: &Agent, method: &str) -> Caller {
        caller(method, Actor::Agent(actor_of(agent)), &self.refusals)
    }

    /// A request to hire in the harness's office.
    pub(super) fn hiring(&self, name: &str) -> HireAgentRequest {
        HireAgentRequest { office_id: self.office.to_string(), name: name.into(), ..HireAgentRequest::default() }
    }

    /// Hires for the owner; nothing is started yet.
    pub(super) async fn hire(&self, name: &str) -> Agent {
        let hired = self.scheduler.hire(&self.owner("HireAgent"), self.hiring(name)).await;
        hired.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Hires for the owner, starts the instance and reports it ready.
    pub(super) async fn running(&self, name: &str) -> Agent {
        let hired = self.hire(name).await;
        self.settle(hired.id).await;
        self.ready(hired.id).await
    }

    /// Works on the agent until it rests; answers when to look again.
    pub(super) async fn settle(&self, id: AgentId) -> Option<Time> {
        self.scheduler.settle(id).await
    }

    /// Reports the newest instance ready.
    pub(super) async fn ready(&self, id: AgentId) -> Agent {
        let agent = self.agent(id).await;
        let instance = instance_of(&agent);
        let caller = self.member(&agent, "ConnectAgent");
        self.scheduler.report_ready(&caller, &actor_of(&agent), instance).await.expect("ready")
    }

    /// Waits out what the agent waits for, and works on.
    pub(super) async fn settle_after_waiting(&self, id: AgentId) {
        if let Some(time) = self.settle(id).await {
            self.clock.set(time);
            self.settle(id).await;
        }
    }

    /// The row; it must be there.
    pub(super) async fn agent(&self, id: AgentId) -> Agent {
        self.find(id).await.expect("the agent is there")
    }

    /// The row; none: it is gone.
    pub(super) async fn find(&self, id: AgentId) -> Option<Agent> {
        let mut conn = self.scheduler.db.platform().read().await.expect("connects");
        repo::agent_find(&mut conn, id).await.expect("reads")
    }

    /// Phase of the agent; none: it is gone.
    pub(super) async fn phase(&self, id: AgentId) -> Option<Phase> {
        self.find(id).await.map(|agent| agent.phase())
    }

    /// Fires for the owner; nothing is ended yet.
    pub(super) async fn fire(&self, name: &str, force: bool) -> Agent {
        self.scheduler.fire(&self.owner("FireAgent"), self.firing(name, force)).await.expect("fires")
    }

    /// A request to fire in the harness's office.
    pub(super) fn firing(&self, name: &str, force: bool) -> FireAgentRequest {
        FireAgentRequest { office_id: self.office.to_string(), name: name.into(), force }
    }

    /// Every event so far, oldest first.
    pub(super) async fn events(&self) -> Vec<Event> {
        let mut conn = self.scheduler.db.platform().read().await.expect("connects");
        let sql = "SELECT CAST(event AS text) FROM outbox ORDER BY position";
        let rows: Vec<String> = on!(conn, |c| sqlx::query_scalar(sql).fetch_all(&mut *c).await).expect("reads");
        rows.iter().flat_map(|row| outbox::events(row).expect("events")).map(|(event, _)| event).collect()
    }

    /// How many events of each type this agent has.
    pub(super) async fn event_counts(&self, name: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for event in self.events().await.into_iter().filter(|event| event.agent == name) {
            *counts.entry(event.kind).or_default() += 1;
        }
        counts
    }

    /// All backups of the harness's office, newest first.
    pub(super) async fn backups(&self) -> Vec<Backup> {
        let page = mi_kernel::page::Page { size: 200, after: None };
        let caller = self.owner("ListBackups");
        let listed = self.scheduler.list_backups(&caller, &self.office.to_string(), &page).await;
        listed.expect("lists").0
    }

    /// Everything in object storage.
    pub(super) async fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let found: Vec<_> = self.objects.list(None).try_collect().await.expect("lists");
        let mut objects = Vec::new();
        for object in found {
            let bytes = self.objects.get(&object.location).await.expect("there").bytes().await.expect("reads");
            objects.push((object.location.to_string(), bytes.to_vec()));
        }
        objects
    }

    /// How many rows a table has.
    pub(super) async fn rows(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        let mut conn = self.scheduler.db.platform().read().await.expect("connects");
        on!(conn, |c| sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *c).await).expect("reads")
    }

    /// Now, as the scheduler sees it.
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }
}

/// Where the agent runs.
pub(super) fn place(agent: &Agent) -> Place {
    Place { office_id: agent.office_id, agent_id: agent.id }
}

/// The instance that the row names.
pub(super) fn instance_of(agent: &Agent) -> InstanceId {
    match agent.state {
        State::Starting { instance, .. } | State::Running { instance, .. } => instance,
        ref other => panic!("no instance is wanted: {other:?}"),
    }
}

fn caller(method: &str, actor: Actor, refusals: &Refusals) -> Caller {
    let rule = rules::rule(&format!("/mi.v1.AgentService/{method}"));
    Caller {
        actor,
        rule: rule.unwrap_or_else(|| panic!("no method {method}")),
        trace_id: TRACE.into(),
        refusals: refusals.clone(),
    }
}

/// Counts as [`Harness::event_counts`] gives them.
pub(super) fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect()
}

/// The agent as a caller.
pub(super) fn actor_of(agent: &Agent) -> AgentActor {
    AgentActor { office_id: agent.office_id, agent_id: agent.id, name: agent.name.clone() }
}
