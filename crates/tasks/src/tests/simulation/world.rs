//! A small world: a few processes over one database, their agents, the feed, and the time.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, SubsecRound};
use mi_credits::{CreditRules, Credits};
use mi_kernel::{AccountId, Actor, AgentActor, AgentId, ApiKeyId, Clock, Error, OfficeId, Result, Time};
use mi_proto::internal::v1::{Ability, Member};
use mi_store::{Db, DbTarget, Step, exec, lease::Lease, outbox, simulated::Disk};
use mi_tenancy::{Offices, Quotas, RoleContext};
use tempfile::TempDir;
use tokio::{sync::Notify, time::Instant};

use super::{
    faults::{Fate, Quiet, Rates},
    rows::Book,
};
use crate::{
    Deps, Members, Tasks, repo,
    tests::{active_office, registry::Registry},
};

/// How often processes tell each other what changed.
const TOLD_EVERY: Duration = Duration::from_millis(10);
/// What every agent has, one of them alone has the second one.
const TOOLS: [&str; 2] = ["git", "gpu"];
pub(super) const AGENTS: usize = 4;

/// The time that tokio has, which goes on when nobody has anything to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct VirtualClock(Instant);

impl VirtualClock {
    pub(super) fn beginning() -> Time {
        DateTime::from_timestamp(2_000_000_000, 0).expect("a constant within range")
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Time {
        (Self::beginning() + (Instant::now() - self.0)).trunc_subsecs(6)
    }
}

/// A database that one simulation after another begins anew in.
pub(super) struct Ground {
    pub(super) disk: Disk,
    deletes: Vec<&'static str>,
    _directory: TempDir,
}

impl Ground {
    /// A file with the tables of the office role, whose migrations are its own.
    pub(super) fn new() -> Self {
        let directory = TempDir::with_prefix("mi-simulation-").expect("a temporary directory can be made");
        let path = directory.path().join("test.db");
        let mut steps = migrations();
        steps.sort_by_key(|step| step.version);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tables = runtime.block_on(async {
            let db = Db::open(&DbTarget::Sqlite { path: path.clone() }, &steps).await.expect("migrates");
            let mut conn = db.platform().read().await.expect("reads");
            let sql = "SELECT name FROM sqlite_master WHERE type = 'table'
                 AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '_sqlx_%' AND name <> 'task_sweeps'";
            let tables: Vec<String> = mi_store::scalars!(conn, sql).expect("lists");
            drop(conn);
            db.close().await;
            tables
        });
        // Once a thread.
        let delete = |table: String| -> &'static str { format!("DELETE FROM {table}").leak() };
        let deletes = tables.into_iter().map(delete).collect();
        Self { disk: Disk::open(path), deletes, _directory: directory }
    }

    /// Nothing is left of the simulation before.
    async fn clear(&self, db: &Db) -> Result<()> {
        let mut tx = db.platform().begin().await?;
        exec!(tx, "PRAGMA defer_foreign_keys = ON")?;
        for delete in &self.deletes {
            exec!(tx, *delete)?;
        }
        exec!(tx, "UPDATE task_sweeps SET swept_at = NULL, away = 0, back_at = NULL")?;
        Ok(tx.commit().await?)
    }
}

/// What the office role brings its tables up to date with.
fn migrations() -> Vec<Step> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../office/migrations/sqlite");
    let files = std::fs::read_dir(folder).expect("the office role has migrations");
    let step = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.expect("can be listed").path();
        let name = path.file_stem().expect("has a name").to_str().expect("is ASCII").to_owned();
        let (version, name) = name.split_once('_').expect("a number and a name");
        // Once a process: what migrations are made of lives for ever.
        let sqlite = std::fs::read_to_string(&path).expect("can be read").leak();
        Step { version: version.parse().expect("a number"), name: name.to_owned().leak(), sqlite, postgres: "" }
    };
    files.map(step).collect()
}

/// One process of the office role, as far as the queue goes.
pub(super) struct Process {
    pub(super) tasks: Tasks,
    pub(super) background: mi_base::Tasks,
    fate: Arc<Fate>,
    /// Which start it was.
    number: u64,
}

/// How a process hears of what others changed.
#[derive(Clone)]
struct Ear {
    number: u64,
    db: Db,
    /// Its connection is away: what it is not told, it never is.
    deaf: bool,
}

/// The world.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rates: Rates,
    pub(super) office: OfficeId,
    pub(super) owner: Actor,
    pub(super) agents: Vec<AgentActor>,
    pub(super) registry: Registry,
    pub(super) book: Arc<Mutex<Book>>,
    pub(super) clock: VirtualClock,
    /// None: it is away.
    pub(super) processes: Vec<Option<Process>>,
    /// Where they tell each other what changed.
    told: Arc<Mutex<Vec<Ear>>>,
    /// What runs beside them.
    beside: mi_base::Tasks,
    disk: Disk,
    calm: Arc<AtomicBool>,
    started: u64,
}

impl World {
    /// An office in use, and nobody at work yet.
    pub(super) async fn new(ground: &Ground, seed: u64, rates: Rates, processes: usize) -> Result<Self> {
        let clock = VirtualClock(Instant::now());
        let quiet = Db::simulated(&ground.disk, Arc::new(Quiet));
        ground.clear(&quiet).await?;
        let (office, account) = (OfficeId::new(), AccountId::new());
        let registry = Registry::default();
        let agents: Vec<AgentActor> = (0..AGENTS).map(|number| agent(office, number)).collect();
        for (number, agent) in agents.iter().enumerate() {
            registry.members().push(Member {
                agent_id: agent.agent_id.to_string(),
                name: agent.name.clone(),
                tools: TOOLS[..if number == 0 { 2 } else { 1 }].iter().map(ToString::to_string).collect(),
                public_key: Default::default(),
                hosted: false,
                working: true,
                ability: Ability::Unspecified.into(),
            });
        }
        found(&quiet, office, account, clock.now()).await?;
        let book = Arc::new(Mutex::new(Book::new(office, clock, quiet)));
        let (beside, told) = (mi_base::Tasks::new(), Arc::<Mutex<Vec<Ear>>>::default());
        beside.spawn("told", exchange(told.clone()));
        let mut world = Self {
            seed,
            rates,
            office,
            owner: Actor::Operator { account_id: account, api_key_id: ApiKeyId::new(), administrator: false },
            agents,
            registry,
            book,
            clock,
            processes: (0..processes).map(|_| None).collect(),
            told,
            beside,
            disk: ground.disk.clone(),
            calm: Arc::new(AtomicBool::new(true)),
            started: 0,
        };
        for place in 0..processes {
            world.start(place).await?;
        }
        world.be_calm(false);
        Ok(world)
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ears(&self) -> MutexGuard<'_, Vec<Ear>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process hears nothing of the others any more, or does again: then it may have missed anything.
    pub(super) fn set_deaf(&self, place: usize, deaf: bool) {
        let Some(process) = &self.processes[place] else { return };
        for ear in self.ears().iter_mut().filter(|ear| ear.number == process.number && ear.deaf != deaf) {
            ear.deaf = deaf;
            if !deaf {
                ear.db.tell(None);
            }
        }
    }

    /// From now on nothing goes wrong by itself, or it does again.
    pub(super) fn be_calm(&self, calm: bool) {
        self.calm.store(calm, Relaxed);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Relaxed)
    }

    /// Who calls as this one.
    pub(super) fn actor(&self, by: usize) -> Actor {
        self.agents.get(by).map_or_else(|| self.owner.clone(), |agent| Actor::Agent(agent.clone()))
    }

    /// A process starts; it does not where the database fails at once.
    pub(super) async fn start(&mut self, place: usize) -> Result<()> {
        self.started += 1;
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.started);
        let fate = Arc::new(Fate::new(seed, self.rates, self.calm.clone(), self.book.clone()));
        let db = Db::simulated(&self.disk, fate.clone());
        let background = mi_base::Tasks::new();
        let clock: Arc<dyn Clock> = Arc::new(self.clock);
        let wake = Arc::new(Notify::new());
        let context = RoleContext { db: db.clone(), clock: clock.clone(), outbox: wake.clone() };
        let (registry, offices) = (self.registry.client(clock.clone()), Offices::new(db.clone()));
        let rules = CreditRules { metered: false, ..CreditRules::default() };
        let credits = Credits::new(context.clone(), offices.clone(), registry.clone(), background.clone(), rules);
        let members = Members::new(registry.clone());
        let deps = Deps { members, registry, credits, quotas: Quotas::default() };
        let tasks = Tasks::new(context, offices, deps, background.clone());
        tasks.start().await?;
        let lease = outbox::lease(db.clone(), clock);
        background.spawn("relay", relay((db.clone(), lease), wake, fate.clone(), self.book.clone()));
        self.ears().push(Ear { number: self.started, db: db.clone(), deaf: false });
        // It may have missed what was told before it listened.
        db.tell(None);
        self.processes[place] = Some(Process { tasks, background, fate, number: self.started });
        self.book().tell(&format!("p{place} starts"));
        Ok(())
    }

    /// A process dies, in the middle of whatever it does.
    pub(super) fn kill(&mut self, place: usize) {
        let Some(process) = self.processes[place].take() else { return };
        process.fate.die();
        process.background.shutdown().cancel();
        self.ears().retain(|ear| ear.number != process.number);
        self.book().tell(&format!("p{place} dies"));
    }

    /// The next answer of the database to a commit of this process is lost.
    pub(super) fn lose_answer(&self, place: usize) {
        if let Some(process) = &self.processes[place] {
            process.fate.lose_answer();
        }
    }

    /// A process ends in order, which takes a while; another one may start meanwhile.
    pub(super) fn stop(&mut self, place: usize) {
        let Some(process) = self.processes[place].take() else { return };
        let book = self.book.clone();
        self.beside.spawn_to_end("stop", async move {
            if let Some(name) = process.background.stop(Duration::from_secs(5)).await {
                let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                book.fault(format!("the task {name:?} panicked"));
            }
        });
        self.book().tell(&format!("p{place} stops"));
    }

    /// The agents change: processes learn of it when what they know is too old.
    pub(super) async fn set_working(&self, agent: usize, working: bool) {
        self.registry.members()[agent].working = working;
        self.book().tell(&format!("a{agent} {}", if working { "works" } else { "is paused" }));
        for process in self.processes.iter().flatten() {
            process.tasks.members.forget(self.office);
        }
    }

    /// Everything ends; the name of a task that panicked.
    pub(super) async fn end(self) -> Option<&'static str> {
        let mut panicked = None;
        for process in self.processes.iter().flatten() {
            panicked = panicked.or(process.background.stop(Duration::from_secs(5)).await);
        }
        self.beside.stop(Duration::from_secs(5)).await.or(panicked)
    }
}

fn agent(office_id: OfficeId, number: usize) -> AgentActor {
    AgentActor { office_id, agent_id: AgentId::new(), name: format!("a{number}") }
}

/// An account with an office that is in use.
async fn found(db: &Db, id: OfficeId, account_id: AccountId, now: Time) -> Result<()> {
    let mut tx = db.platform().begin().await?;
    let sql = "INSERT INTO accounts (id, name, administrator, created_at) VALUES ($1, 'Owner', FALSE, $2)";
    exec!(tx, sql, account_id, now)?;
    tx.commit().await?;
    let mut tx = db.office(id).begin().await?;
    mi_tenancy::offices::repo::office_insert(&mut tx, &active_office(id, account_id, now)).await?;
    repo::queue_insert(&mut tx).await?;
    exec!(tx, "INSERT INTO balances (office_id, balance, entries) VALUES ($1, 0, 0)")?;
    tx.commit().await?;
    Ok(())
}

/// Each process hears what the others tell.
async fn exchange(processes: Arc<Mutex<Vec<Ear>>>) {
    loop {
        tokio::time::sleep(TOLD_EVERY).await;
        let processes = processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for from in &processes {
            for topic in from.db.untold() {
                let others = processes.iter().filter(|to| to.number != from.number && !to.deaf);
                others.for_each(|to| to.db.tell(Some(topic.clone())));
            }
        }
    }
}

/// Delivers to the feed, which may fail before and after it took events in.
async fn relay((db, lease): (Db, Lease), wake: Arc<Notify>, fate: Arc<Fate>, book: Arc<Mutex<Book>>) {
    let failed = |error| Error::unavailable("the feed cannot be reached").caused_by(error);
    let deliver = |events| {
        let (fate, book) = (fate.clone(), book.clone());
        async move {
            fate.befalls(20).await.map_err(failed)?;
            book.lock().unwrap_or_else(PoisonError::into_inner).feed(events);
            fate.befalls(20).await.map_err(failed)
        }
    };
    outbox::relay(db, lease, &wake, deliver).await;
}
