//! `kills`: workers are killed with SIGKILL again and again, and every task is done once all the same.
//!
//! A worker is a process of its own, an agent from outside that works through the gateway under the shortest lease there
//! is. It notes what was accepted from it; the feed says what became of the tasks. In the end both are held against each
//! other, and the feed tells how late tasks were queued again whose worker was dead.

mod ledger;
mod notes;
mod worker;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    env,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures::future::try_join_all;
use mi_kernel::AgentId;
use mi_proto::v1::{BatchCreateTasksRequest, CreateTaskRequest, GetTaskStatsRequest, TaskStatus, WatchActivityRequest};
use mi_testkit::{Backend, Platform};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::{Notify, watch},
};

use self::ledger::Ledger;
use crate::{
    Result,
    customer::Customer,
    queue::name_of,
    report::{Goal, Table},
};

pub(crate) use self::worker::{NAME as WORKER, run as work};

/// Names a smaller number of kills than [`KILLS`], and a seed to repeat a run with.
const KILLS_SETTING: &str = "MI_BENCH_KILLS";
const SEED_SETTING: &str = "MI_BENCH_SEED";
const KILLS: usize = 10_000;
const WORKERS: u64 = 8;
/// A worker dies within this time after its first claim was answered: it is then in the middle of one of a few tasks.
const LIFE: Duration = Duration::from_millis(40);
/// The longest that workers are killed for, and that the work that is left then may take, on each database.
const KILLING: Duration = Duration::from_secs(330);
const REST: Duration = Duration::from_secs(90);
/// Tasks that are created at once, and how few are left then: more than leases of dead workers hold.
const BATCH: usize = 100;
const FEW: usize = 1000;
/// The most that the platform takes. A task that loses its worker this often would fail.
const ATTEMPTS: i32 = 100;

pub(crate) async fn run() -> Result<Table> {
    let kills = setting(KILLS_SETTING)?.unwrap_or(KILLS);
    let seed = setting(SEED_SETTING)?.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("kills: {kills} on each database, {SEED_SETTING}={seed}");
    let mut table = Table::new("kills");
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let platform = Platform::builder().backend(backend).start().await;
        let customer = Customer::open(platform.endpoint(), platform.admin_key(), 100).await?;
        let run = Run::new(customer, kills).await?;
        let start = Instant::now();
        run.to_the_end(seed).await?;
        run.report(&mut table, backend, start.elapsed()).await?;
    }
    Ok(table)
}

fn setting<T: std::str::FromStr<Err: Into<crate::Error>>>(name: &str) -> Result<Option<T>> {
    match env::var(name) {
        Ok(given) => Ok(Some(given.parse().map_err(|error: T::Err| format!("{name}={given}: {}", error.into()))?)),
        Err(_) => Ok(None),
    }
}

/// What all parts of a run share.
struct Run {
    customer: Customer,
    /// The most kills there are to be, and those there were.
    wanted: usize,
    killed: AtomicUsize,
    /// The tasks there are to be done.
    created: Mutex<BTreeSet<String>>,
    ledger: Mutex<Ledger>,
    /// How many tasks are done.
    done: watch::Sender<usize>,
    /// Nobody is killed any more.
    over: Notify,
    /// Of each worker, who it is and where its key lies.
    identities: Vec<(AgentId, PathBuf)>,
    notes: PathBuf,
    _dir: TempDir,
}

impl Run {
    async fn new(customer: Customer, wanted: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut identities = Vec::new();
        for number in 0..WORKERS {
            let key_file = dir.path().join(format!("{number}.key"));
            identities.push((customer.join(&format!("worker-{number}"), &key_file).await?, key_file));
        }
        let notes = dir.path().join("notes");
        std::fs::File::create(&notes)?;
        Ok(Self {
            customer,
            wanted,
            killed: AtomicUsize::new(0),
            created: Mutex::default(),
            ledger: Mutex::new(Ledger::new(worker::LEASE)?),
            done: watch::Sender::new(0),
            over: Notify::new(),
            identities,
            notes,
            _dir: dir,
        })
    }

    /// Kills workers, lets the last ones do the rest, and returns when the feed has told all.
    async fn to_the_end(&self, seed: u64) -> Result {
        let work = async {
            let start = Instant::now();
            let crew = self.identities.iter().zip(seed..).map(|((agent, key), seed)| {
                let rng = Rng::with_seed(seed);
                self.killed_again_and_again(*agent, key, rng, start)
            });
            let crew = async {
                let last = try_join_all(crew).await;
                self.over.notify_one();
                last
            };
            let (last, ()) = tokio::try_join!(crew, self.fill())?;
            tokio::time::timeout(REST, self.finish()).await.map_err(|_| {
                let (done, all) = (*self.done.borrow(), lock(&self.created).len());
                format!("{done} of {all} tasks were done {} s after the last kill", REST.as_secs())
            })??;
            drop(last);
            Ok(())
        };
        tokio::select! {
            done = work => done,
            failed = self.follow() => match failed? {},
        }
    }

    /// One worker after the other, each killed, until that happened often enough. The last one lives on.
    async fn killed_again_and_again(&self, agent: AgentId, key: &Path, mut rng: Rng, start: Instant) -> Result<Child> {
        loop {
            let mut worker = self.start_worker(agent, key).await?;
            if start.elapsed() > KILLING || self.killed.fetch_add(1, Ordering::Relaxed) >= self.wanted {
                self.killed.fetch_min(self.wanted, Ordering::Relaxed);
                return Ok(worker);
            }
            tokio::time::sleep(LIFE.mul_f64(rng.f64())).await;
            worker.start_kill()?;
            let status = worker.wait().await?;
            if status.signal() != Some(nix::libc::SIGKILL) {
                return Err(format!("a worker ended by itself: {status}").into());
            }
        }
    }

    /// Starts a worker and returns when it has work; killed when dropped.
    async fn start_worker(&self, agent: AgentId, key: &Path) -> Result<Child> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(WORKER).arg(self.customer.client.endpoint()).arg(&self.customer.office).arg(agent.to_string());
        command.arg(key).arg(&self.notes);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let output = child.stdout.take().ok_or("a worker has no output")?;
        BufReader::new(output).lines().next_line().await?.ok_or("a worker ended before it had work")?;
        Ok(child)
    }

    /// Creates tasks whenever few are left, until nobody is killed any more.
    async fn fill(&self) -> Result {
        let mut done = self.done.subscribe();
        loop {
            self.create(BATCH).await?;
            let created = lock(&self.created).len();
            tokio::select! {
                few = done.wait_for(|done| created - done < FEW) => drop(few?),
                () = self.over.notified() => return Ok(()),
            }
        }
    }

    async fn create(&self, count: usize) -> Result {
        let task = CreateTaskRequest { title: "bench".into(), max_attempts: Some(ATTEMPTS), ..Default::default() };
        let request = BatchCreateTasksRequest { office_id: self.customer.office.clone(), requests: vec![task; count] };
        let tasks = self.customer.client.tasks().batch_create_tasks(request).await?.into_inner().tasks;
        lock(&self.created).extend(tasks.into_iter().map(|task| task.id));
        Ok(())
    }

    /// Waits until all is done, and the feed has told all that happened until then.
    async fn finish(&self) -> Result {
        let mut done = self.done.subscribe();
        let all = lock(&self.created).len();
        done.wait_for(|done| *done == all).await?;
        // The feed is in the order in which things happened: what comes last is preceded by all the rest.
        self.create(1).await?;
        done.wait_for(|done| *done == all + 1).await?;
        Ok(())
    }

    /// Enters what the feed says into the ledger.
    async fn follow(&self) -> Result<Infallible> {
        let request = WatchActivityRequest {
            office_id: self.customer.office.clone(),
            categories: vec!["task".into()],
            after_cursor: Some(0),
            ..Default::default()
        };
        let mut feed = self.customer.client.activity().watch_activity(request).await?.into_inner();
        loop {
            let event = feed.message().await?.and_then(|message| message.event).ok_or("the feed ended")?;
            let done = {
                let mut ledger = lock(&self.ledger);
                ledger.enter(&event)?;
                ledger.done()
            };
            self.done.send_if_modified(|known| std::mem::replace(known, done) != done);
        }
    }

    async fn report(&self, table: &mut Table, backend: Backend, took: Duration) -> Result {
        let request = GetTaskStatsRequest { office_id: self.customer.office.clone() };
        let stats = self.customer.client.tasks().get_task_stats(request).await?.into_inner().stats;
        let counts = stats.ok_or("an answer without its counts")?.counts;
        let done: i32 = counts.iter().filter(|count| count.status() == TaskStatus::Done).map(|count| count.count).sum();
        let notes = notes::read(&self.notes)?;
        let (created, ledger) = (lock(&self.created), lock(&self.ledger));
        let not_done = created.len().abs_diff(usize::try_from(done)?);
        let killed = self.killed.load(Ordering::Relaxed);

        let name = name_of(backend);
        let mut row = |what: &str, unit: &str, value: f64, goal: Option<Goal>| {
            let what = format!("{name}: {what}");
            match goal {
                Some(goal) => table.goal(&what, unit, &[value], goal),
                None => table.row(&what, unit, &[value]),
            }
        };
        let none = Some(Goal::AtMost(0.0));
        let second = Some(Goal::AtMost(1000.0));
        row("workers killed", "kills", killed as f64, Some(Goal::AtLeast(self.wanted as f64)));
        row("kills and restarts", "/s", killed as f64 / took.as_secs_f64(), None);
        row("tasks", "tasks", created.len() as f64, None);
        row("tasks that are not done in the end", "tasks", not_done as f64, none);
        row("tasks whose completion the feed does not tell once", "tasks", ledger.not_once(&created) as f64, none);
        row("completions that workers noted", "notes", notes.len() as f64, None);
        row("tasks noted under two leases", "tasks", notes::twice(&notes) as f64, none);
        row("noted completions of another attempt than the feed's", "notes", ledger.contradicts(&notes) as f64, none);
        row("leases that ran out", "leases", ledger.ran_out() as f64, None);
        row("from the end of a lease to the queue, p99", "ms", ledger.queued.millis(0.99), second);
        row("the same, at most", "ms", ledger.queued.millis(1.0), second);
        row("from the end of a lease to the next claim, p99", "ms", ledger.claimed.millis(0.99), None);
        row("the same, at most", "ms", ledger.claimed.millis(1.0), None);
        Ok(())
    }
}

// What the locks guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
