//! The role with its peers, and what every test asks of it.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use mi_base::{Tasks, disk_reserve::DiskReserve};
use mi_catalogue::{Catalogue, Catalogues};
use mi_kernel::{AccountId, Actor, AgentActor, ApiKeyId, Clock, secret::Secret};
use mi_proto::{
    internal::v1::{
        Ability, ApplyOfficeRequest, Member, ResolveApiKeyRequest,
        agent_registry_service_client::AgentRegistryServiceClient, credential_service_client::CredentialServiceClient,
        metering_service_client::MeteringServiceClient, secret_service_client::SecretServiceClient,
    },
    v1::{
        CreateAccountRequest, CreateOfficeRequest, DeleteOfficeRequest, GetOfficeRequest, Office, OfficeStatus,
        access_service_client::AccessServiceClient, chat_service_client::ChatServiceClient,
        credit_service_client::CreditServiceClient, drive_service_client::DriveServiceClient,
        integration_service_client::IntegrationServiceClient, office_service_client::OfficeServiceClient,
        task_service_client::TaskServiceClient,
    },
};
use mi_rpc::{Guard, HttpRequest, HttpResponse, PrincipalKey, RoleClient, Transport, convert};
use mi_store::{Db, DbTarget};
use mi_testkit::{Backend, ManualClock, OnBackend, TestDb, until};
use mi_vault::{FileKeys, KeyWrapper};
use ring::digest;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tonic::{
    Code, Status,
    codegen::{BoxFuture, Service},
};

use super::{faulty::Faulty, peer::Peer};
use crate::{Accounts, CreditRules, DriveLimits, OfficeConfig, Peers, Quotas, Resources, RoleContext};

/// Far longer than anything here takes.
pub(super) const LONG: Duration = Duration::from_secs(30);

/// How much a drive may hold here.
pub(super) const LIMITS: DriveLimits = DriveLimits { file_bytes: 8 << 20, office_bytes: 12 << 20 };

/// The role over a database of its own, and the peers beside it.
pub(super) struct Harness {
    database: TestDb,
    tables: OnceCell<Db>,
    pub(super) clock: ManualClock,
    pub(super) scheduler: Peer,
    pub(super) activity: Peer,
    pub(super) accounts: Accounts,
    /// Where the master keys are.
    pub(super) keys: TempDir,
    /// Where the content of files is.
    pub(super) objects: Faulty,
    /// What is given up on a full disk.
    pub(super) reserve: DiskReserve,
    transport: Transport,
    tasks: Tasks,
    /// Of the next process that starts.
    pub(super) quotas: Quotas,
    /// Likewise.
    pub(super) credit_rules: CreditRules,
    /// An operator whose account exists.
    pub(super) owner: Actor,
}

/// Calls the role as one actor.
#[derive(Clone)]
pub(super) struct Client(pub(super) Transport, pub(super) Arc<Actor>);

impl Service<HttpRequest> for Client {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<HttpResponse, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let Self(transport, actor) = self.clone();
        Box::pin(async move { Ok(transport.call(actor, request).await) })
    }
}

impl OnBackend for Harness {
    async fn on(backend: Backend) -> Self {
        Self::over(TestDb::plain(backend).await).await
    }
}

impl Harness {
    /// Over this database.
    pub(super) async fn over(database: TestDb) -> Self {
        let (clock, tasks) = (ManualClock::new(), Tasks::new());
        let (scheduler, activity) = (Peer::default(), Peer::default());
        let keys = tempfile::tempdir().expect("made");
        let wrapper = Arc::new(FileKeys::new(keys.path().join("master.key")));
        let (objects, reserve) = (Faulty::default(), DiskReserve::default());
        let limits @ (quotas, credit_rules) = (Quotas::default(), CreditRules::default());
        let (accounts, transport) =
            start(&database, clock.shared(), [&scheduler, &activity], wrapper, (&objects, &reserve), limits, &tasks)
                .await
                .expect("builds");
        let (owner, tables) = (Actor::Anonymous, OnceCell::new());
        let mut harness = Self {
            database,
            tables,
            clock,
            scheduler,
            activity,
            accounts,
            keys,
            objects,
            reserve,
            transport,
            tasks,
            quotas,
            credit_rules,
            owner,
        };
        harness.owner = harness.account("Owner").await.0;
        harness
    }
}

fn config(
    database: &TestDb,
    master_keys: Arc<dyn KeyWrapper>,
    (objects, reserve): (&Faulty, &DiskReserve),
    (quotas, credits): (Quotas, CreditRules),
) -> OfficeConfig {
    OfficeConfig {
        database: database.target().clone(),
        master_keys,
        objects: Arc::new(objects.clone()),
        drive: LIMITS,
        quotas,
        credits,
        reserve: reserve.clone(),
        catalogues: Catalogues::new(Catalogue::built_in().expect("good")),
    }
}

async fn start(
    database: &TestDb,
    clock: Arc<dyn Clock>,
    [scheduler, activity]: [&Peer; 2],
    master_keys: Arc<dyn KeyWrapper>,
    (objects, reserve): (&Faulty, &DiskReserve),
    limits: (Quotas, CreditRules),
    tasks: &Tasks,
) -> mi_kernel::Result<(Accounts, Transport)> {
    let peers = Peers { scheduler: scheduler.transport(&clock), activity: activity.transport(&clock) };
    let config = config(database, master_keys, (objects, reserve), limits);
    let role = crate::build(config, peers, clock.clone(), tasks).await?;
    let guard = Guard::new("office", role.routes, PrincipalKey::random(), clock, tasks.clone(), Default::default());
    Ok((role.accounts, Transport::local(guard)))
}

impl Harness {
    /// The process dies, and its background work with it; another one starts over the same database and peers.
    pub(super) async fn crash(&mut self) {
        self.end().await;
        self.start_again().await;
    }

    /// A connection to Postgres that is not the role's.
    pub(super) async fn postgres(&self) -> sqlx::PgConnection {
        <sqlx::PgConnection as sqlx::Connection>::connect(self.database.url().expect("Postgres"))
            .await
            .expect("connects")
    }

    /// A connection to the role's tables, as another process may write to them, of all offices.
    pub(super) async fn other_process(&self) -> sqlx::PgConnection {
        let mut conn = self.postgres().await;
        let scope = "SET search_path = mi_test; SET mi.scope = 'platform'";
        sqlx::Executor::execute(&mut conn, scope).await.expect("sets");
        conn
    }

    /// Where the role's tables are.
    pub(super) fn target(&self) -> &DbTarget {
        self.database.target()
    }

    /// What offices have, without a process around it.
    pub(super) async fn resources(&self) -> Resources {
        let clock = self.clock.shared();
        let keys = Arc::new(FileKeys::new(self.master_key_file()));
        let config = config(&self.database, keys, (&self.objects, &self.reserve), (self.quotas, self.credit_rules));
        let registry = AgentRegistryServiceClient::new(RoleClient::new(self.scheduler.transport(&clock), "office"));
        let context = self.context(clock).await;
        Resources::open(config, &context, &registry, &Tasks::new()).await.expect("opens")
    }

    /// What resources work with, by this clock.
    pub(super) async fn context(&self, clock: Arc<dyn Clock>) -> RoleContext {
        RoleContext { db: self.tables().await.clone(), clock, outbox: Arc::default() }
    }

    /// The process dies.
    pub(super) async fn end(&self) {
        assert_eq!(self.tasks.stop(LONG).await, None);
    }

    /// A process starts.
    pub(super) async fn start_again(&mut self) {
        self.start_with(Arc::new(FileKeys::new(self.master_key_file()))).await.expect("builds");
    }

    /// A process starts with these master keys, or does not.
    pub(super) async fn start_with(&mut self, keys: Arc<dyn KeyWrapper>) -> mi_kernel::Result<()> {
        self.tasks = Tasks::new();
        let peers = [&self.scheduler, &self.activity];
        let started = start(
            &self.database,
            self.clock.shared(),
            peers,
            keys,
            (&self.objects, &self.reserve),
            (self.quotas, self.credit_rules),
            &self.tasks,
        )
        .await;
        (self.accounts, self.transport) = started?;
        Ok(())
    }

    /// Calls another process over the same database and peers, which runs beside this one until it is dropped.
    pub(super) async fn beside(&self, actor: &Actor) -> (TaskServiceClient<Client>, Tasks) {
        self.beside_by(self.clock.shared(), actor).await
    }

    /// The same with a clock of its own.
    pub(super) async fn beside_by(&self, clock: Arc<dyn Clock>, actor: &Actor) -> (TaskServiceClient<Client>, Tasks) {
        let (tasks, keys) = (Tasks::new(), Arc::new(FileKeys::new(self.master_key_file())));
        let started = start(
            &self.database,
            clock,
            [&self.scheduler, &self.activity],
            keys,
            (&self.objects, &self.reserve),
            (self.quotas, self.credit_rules),
            &tasks,
        )
        .await;
        let client = Client(started.expect("builds").1, Arc::new(actor.clone()));
        (TaskServiceClient::new(client), tasks)
    }

    pub(super) fn master_key_file(&self) -> PathBuf {
        self.keys.path().join("master.key")
    }

    /// The tables themselves, opened once.
    pub(super) async fn tables(&self) -> &Db {
        self.tables.get_or_init(|| self.db()).await
    }

    /// The tables themselves.
    pub(super) async fn db(&self) -> Db {
        Db::open(self.database.target(), crate::MIGRATIONS).await.expect("opens")
    }

    pub(super) fn integrations(&self, actor: &Actor) -> IntegrationServiceClient<Client> {
        IntegrationServiceClient::new(Client(self.transport.clone(), Arc::new(actor.clone())))
    }

    /// What the models role and the scheduler ask for secrets.
    pub(super) fn secret_service(&self) -> SecretServiceClient<RoleClient> {
        self.secret_service_for("models")
    }

    pub(super) fn secret_service_for(&self, role: &str) -> SecretServiceClient<RoleClient> {
        SecretServiceClient::new(RoleClient::new(self.transport.clone(), role))
    }

    /// The process begins to end.
    pub(super) fn begin_to_end(&self) {
        self.tasks.shutdown().cancel();
    }

    pub(super) fn chat(&self, actor: &Actor) -> ChatServiceClient<Client> {
        ChatServiceClient::new(Client(self.transport.clone(), Arc::new(actor.clone())))
    }

    pub(super) fn credits(&self, actor: &Actor) -> CreditServiceClient<Client> {
        CreditServiceClient::new(Client(self.transport.clone(), Arc::new(actor.clone())))
    }

    /// Another process over the same database and with the same peers; only where there can be one.
    pub(super) async fn twin(&self) -> Transport {
        let keys = Arc::new(FileKeys::new(self.master_key_file()));
        start(
            &self.database,
            self.clock.shared(),
            [&self.scheduler, &self.activity],
            keys,
            (&self.objects, &self.reserve),
            (self.quotas, self.credit_rules),
            &self.tasks,
        )
        .await
        .expect("builds")
        .1
    }

    pub(super) fn tasks(&self, actor: &Actor) -> TaskServiceClient<Client> {
        TaskServiceClient::new(Client(self.transport.clone(), Arc::new(actor.clone())))
    }

    /// An agent that joined the office, or that the platform runs; with tools.
    pub(super) fn agent(&self, office: &str, name: &str, hosted: bool, tools: &[&str]) -> Actor {
        let agent = AgentActor {
            office_id: office.parse().expect("an id"),
            agent_id: mi_kernel::AgentId::new(),
            name: name.into(),
        };
        self.scheduler.known().members.push(Member {
            agent_id: agent.agent_id.to_string(),
            name: name.into(),
            tools: tools.iter().map(ToString::to_string).collect(),
            public_key: Default::default(),
            hosted,
            working: true,
            ability: Ability::Unspecified.into(),
        });
        Actor::Agent(agent)
    }

    pub(super) fn offices(&self, actor: &Actor) -> OfficeServiceClient<Client> {
        OfficeServiceClient::new(Client(self.transport.clone(), Arc::new(actor.clone())))
    }

    /// Meters as the scheduler and the models role do.
    pub(super) fn metering(&self) -> MeteringServiceClient<RoleClient> {
        MeteringServiceClient::new(RoleClient::new(self.transport.clone(), "models"))
    }

    pub(super) fn drive(&self, actor: &Actor) -> DriveServiceClient<Client> {
        DriveServiceClient::new(Client(self.transport.clone(), Arc::new(actor.clone())))
    }

    pub(super) fn access(&self, actor: &Actor) -> AccessServiceClient<Client> {
        AccessServiceClient::new(Client(self.transport.clone(), Arc::new(actor.clone())))
    }

    /// A fresh account as its operator, and the secret of its first key.
    pub(super) async fn account(&self, name: &str) -> (Actor, String) {
        let request = CreateAccountRequest { name: name.into() };
        let created = self.access(&administrator()).create_account(request).await.expect("creates").into_inner();
        let account = created.account.expect("always there");
        let resolved = self.resolve(&created.secret).await.expect("a good key");
        assert!(matches!(resolved, Actor::Operator { account_id, .. } if account_id.to_string() == account.id));
        (resolved, created.secret)
    }

    /// Whose key this is, as the gateway asks.
    pub(super) async fn resolve(&self, secret: &str) -> Result<Actor, Status> {
        let sha256 = digest::digest(&digest::SHA256, secret.as_bytes()).as_ref().to_vec();
        let client = RoleClient::new(self.transport.clone(), "gateway");
        let request = ResolveApiKeyRequest { sha256: sha256.into() };
        let answer = CredentialServiceClient::new(client).resolve_api_key(request).await?.into_inner();
        Ok(convert::actor(&answer.principal.expect("always there")).expect("own form"))
    }

    /// The code with which this secret is refused; OK: it is not.
    pub(super) async fn refusal(&self, secret: &Secret) -> Code {
        self.resolve(secret.expose()).await.err().map_or(Code::Ok, |status| status.code())
    }

    /// Creates an office of the owner.
    pub(super) async fn create(&self, name: &str) -> Office {
        let request = CreateOfficeRequest { name: name.into(), request_id: String::new() };
        let created = self.offices(&self.owner).create_office(request).await.expect("creates");
        created.into_inner().office.expect("always there")
    }

    /// Asks for the office's deletion.
    pub(super) async fn delete(&self, office: &str) {
        let request = DeleteOfficeRequest { office_id: office.into() };
        self.offices(&self.owner).delete_office(request).await.expect("begins");
    }

    pub(super) async fn get(&self, office: &str) -> Result<Office, Status> {
        let request = GetOfficeRequest { office_id: office.into() };
        let answer = self.offices(&self.owner).get_office(request).await?;
        Ok(answer.into_inner().office.expect("always there"))
    }

    /// Waits for a status of the office; none: until it is gone.
    pub(super) async fn until_status(&self, office: &str, expected: Option<OfficeStatus>) {
        until("the office has the status", LONG, async || {
            let found = match self.get(office).await {
                Ok(office) => Some(office.status()),
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => return Err(status.to_string()),
            };
            if found == expected { Ok(Some(())) } else { Err(format!("{found:?} instead of {expected:?}")) }
        })
        .await;
    }

    /// Waits until both peers keep the office as this tells.
    pub(super) async fn until_applied(&self, office: &str, shows: impl Fn(&ApplyOfficeRequest) -> bool) {
        until("both peers keep the newest office", LONG, async || {
            let copies = [&self.scheduler, &self.activity].map(|peer| peer.known().offices.get(office).cloned());
            match copies.iter().all(|copy| copy.as_ref().is_some_and(&shows)) {
                true => Ok(Some(())),
                false => Err(format!("{copies:?}")),
            }
        })
        .await;
    }

    /// Waits until the feed has these types of events of the office, in this order, and no others.
    pub(super) async fn until_events(&self, office: &str, expected: &[&str]) {
        until("the feed has all events", LONG, async || {
            let known = self.activity.known();
            let of_office = known.events.iter().filter(|event| event.office_id.to_string() == office);
            let kinds: Vec<&str> = of_office.map(|event| event.kind.as_str()).collect();
            if kinds == expected { Ok(Some(())) } else { Err(format!("{kinds:?}")) }
        })
        .await;
    }

    /// Waits until the peer was asked in vain at least once more than by now.
    pub(super) async fn until_refused(&self, peer: &Peer, before: usize) {
        until("the peer was asked", LONG, async || {
            let refused = peer.known().refused;
            if refused > before { Ok(Some(())) } else { Err(format!("{refused} refused")) }
        })
        .await;
    }
}

/// The administrator, as the gateway would name it.
pub(super) fn administrator() -> Actor {
    Actor::Operator { account_id: AccountId::new(), api_key_id: ApiKeyId::new(), administrator: true }
}
