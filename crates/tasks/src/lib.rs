//! Tasks: the queue that an office's agents share.
//!
//! A request is checked ([`rules`]), put into the office's lane ([`lane`]) and done there in a transaction with whatever
//! else is asked of the queue at that moment ([`batch`]). Every change of a task goes through [`model::Progress::step`].

mod batch;
mod circles;
mod create;
mod decide;
pub mod grpc;
mod lane;
mod members;
mod model;
mod notes;
mod notices;
mod obstacles;
mod part;
mod presence;
mod receipts;
mod reconcile;
mod repo;
mod retention;
mod rules;
mod settle;
mod sweep;
mod tally;
pub mod wake;
mod watch;
mod wire;
mod work;

use std::{collections::HashSet, sync::Arc, time::Duration};

use mi_base::signals::Signals;
use mi_kernel::{
    AgentId, Clock, Error, OfficeId, Result, TaskId, Time,
    page::{MAX_PAGE_BYTES, Page},
    receipt, text,
};
use mi_proto::{
    internal::v1::{Member, PauseAgentRequest, agent_registry_service_client::AgentRegistryServiceClient},
    v1,
};
use mi_rpc::{Caller, Entry, RoleClient};
use mi_store::{Db, idempotency};
use mi_tenancy::{Offices, Quotas};
use moka::future::Cache;
use prost::Message;
use tokio::sync::Notify;

use self::{
    batch::Roster,
    decide::{Decision, Verdict},
    lane::{Answer, Lanes, Op, Patience, unanswered},
    model::{Assignee, Task, Worker},
    notices::Notices,
    reconcile::Reconcile,
    work::{Certainty, Claim, Report, What, not_working},
};
pub use self::{
    create::{Cause, LOOP_DEPTH},
    members::Members,
    retention::TaskHistory,
};

/// Offices whose agents are remembered, to notice when they change.
const ROSTERS: u64 = 10_000;
/// Agents of which it is remembered what they ended last.
const ENDED: u64 = 100_000;
/// How often a pause is asked for while the scheduler cannot be reached.
const PAUSE_TRIES: u32 = 5;

/// The queues of all offices.
#[derive(Clone)]
pub struct Tasks {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    offices: Offices,
    members: Members,
    registry: AgentRegistryServiceClient<RoleClient>,
    background: mi_base::Tasks,
    quotas: Quotas,
    lanes: Lanes,
    /// Wakes those who watch an office's tasks.
    signals: Signals<OfficeId>,
    notices: Notices,
    /// The agents that each office's queue was last reconciled with.
    rosters: Cache<OfficeId, Roster>,
    /// What follows from the task that each agent ended last. Another process does not know: a loop is met later then.
    ended: Cache<AgentId, (Time, Cause)>,
}

/// What the queues are made of.
pub struct Parts {
    /// Where their tables are.
    pub db: Db,
    /// What time it is, where the database has no clock of its own.
    pub clock: Arc<dyn Clock>,
    /// Woken when there are new events.
    pub outbox: Arc<Notify>,
    /// Whose queues these are.
    pub offices: Offices,
    /// Who works in an office.
    pub members: Members,
    /// The scheduler, which pauses agents and tells of dead keys.
    pub registry: AgentRegistryServiceClient<RoleClient>,
    /// What runs in the background.
    pub background: mi_base::Tasks,
    /// How much an office may have.
    pub quotas: Quotas,
}

/// Who calls, in an office.
#[derive(Debug, Clone)]
struct Seat {
    office_id: OfficeId,
    by: Worker,
    owner: bool,
}

impl Seat {
    /// Whether it may read what the task says: what was written to one agent alone is that one's and the operators'.
    fn reads(&self, task: &Task) -> bool {
        let agent = task.progress.assigned.as_ref().map(|assigned| assigned.id);
        !task.is_private() || self.owner || (agent.is_some() && agent == self.by.agent_id)
    }
}

impl Tasks {
    /// Queues made of these.
    pub fn new(parts: Parts) -> Self {
        let Parts { db, clock, outbox, offices, members, registry, background, quotas } = parts;
        let (lanes, signals, notices) = (Lanes::default(), Signals::new(), Notices::default());
        let rosters = Cache::new(ROSTERS);
        let ended = Cache::new(ENDED);
        Self {
            db,
            clock,
            outbox,
            offices,
            members,
            registry,
            background,
            quotas,
            lanes,
            signals,
            notices,
            rosters,
            ended,
        }
    }

    /// Lets the caller into the office.
    async fn seat(&self, caller: &Caller, office: &str) -> Result<Seat> {
        let office_id = OfficeId::parse(office)?;
        let owner = self.offices.owner(office_id).await?;
        let entry = caller.enter(office_id, owner)?;
        let by = worker(caller, &entry);
        Ok(Seat { office_id, by, owner: entry == Entry::Owner })
    }

    /// The office's agents; when they changed since the last time, the queue is told first.
    async fn roster(&self, office_id: OfficeId) -> Result<Roster> {
        let roster = self.members.list(office_id).await?;
        let known = self.rosters.get(&office_id).await;
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &roster) && known != roster) {
            self.rosters.insert(office_id, roster.clone()).await;
            drop(self.enqueue(office_id, vec![Op::Reconcile(Reconcile::default())], Some(&roster), "")?);
        }
        Ok(roster)
    }

    /// Looks at the agents again, for those who are gone: the one that was told of, if any, surely is unless it is there.
    async fn reconcile(&self, office_id: OfficeId, told: Option<AgentId>) -> Result<()> {
        let certainty = Certainty { asked: Some(self.clock.now()), told };
        self.members.forget(office_id).await;
        let roster = self.members.list(office_id).await?;
        self.rosters.insert(office_id, roster.clone()).await;
        self.submit(office_id, vec![Op::Reconcile(Reconcile::new(certainty))], Some(&roster), "").await?;
        Ok(())
    }

    /// What was asked in one operation.
    async fn one(&self, seat: &Seat, op: Op, roster: Option<&Roster>, trace_id: &str) -> Answer {
        self.submit(seat.office_id, vec![op], roster, trace_id).await?.pop().unwrap_or_else(|| Err(unanswered()))
    }

    async fn create(&self, caller: &Caller, office: &str, requests: &[v1::CreateTaskRequest]) -> Answer {
        let seat = self.seat(caller, office).await?;
        let about_agents =
            |request: &v1::CreateTaskRequest| !request.assigned_agent.is_empty() || !request.required_tools.is_empty();
        let (mut news, mut replays) = (Vec::with_capacity(requests.len()), HashSet::new());
        for (place, request) in requests.iter().enumerate() {
            if !request.office_id.is_empty() && request.office_id != office {
                return Err(Error::invalid(
                    "office_id",
                    "of a task differs from the batch's; a batch is of one office",
                ));
            }
            let assigned = match request.assigned_agent.as_str() {
                "" => Ok(None),
                name => self.assignee(seat.office_id, name).await.map(Some),
            };
            if !request.request_id.is_empty() && !replays.insert(&request.request_id) {
                return Err(Error::invalid("request_id", "is that of another task of the batch, too"));
            }
            let content = v1::CreateTaskRequest { office_id: office.to_owned(), ..request.clone() }.encode_to_vec();
            let request_id = idempotency::Request::new(caller.actor.key(), &request.request_id, &content)?;
            news.push(rules::new(request, place, assigned, request_id)?);
        }
        let roster = match requests.iter().any(about_agents) {
            true => Some(self.roster(seat.office_id).await?),
            false => None,
        };
        self.one(&seat, Op::Create(news, seat.by.clone()), roster.as_ref(), &caller.trace_id).await
    }

    /// Claims; `patience` is what the call has left, less than which is waited.
    async fn claim(
        &self,
        caller: &Caller,
        request: &v1::ClaimTasksRequest,
        patience: Duration,
    ) -> Result<(Seat, Vec<Task>)> {
        let seat = self.seat(caller, &request.office_id).await?;
        let most = rules::most(request.max_tasks)?;
        let lease = rules::lease(request.lease.as_ref())?;
        let wait = rules::wait(request.wait.as_ref())?.min(patience);
        let kinds = request.kinds.iter().map(|value| rules::kind("kinds", *value));
        let kinds = kinds.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let (mut roster, mut tools) = (None, None);
        if seat.by.agent_id.is_some() {
            let (members, member) = self.member(&seat).await?;
            if !member.working {
                return Err(not_working());
            }
            (roster, tools) = (Some(members), Some(member.tools));
        }
        let claim = Claim { by: seat.by.clone(), tools, kinds, most, lease };
        let waits = if wait.is_zero() { Patience::None } else { Patience::Waits };
        let op = Op::Claim(claim, waits);
        let mut answers = self.enqueue(seat.office_id, vec![op], roster.as_ref(), &caller.trace_id)?;
        let mut answer = answers.pop().ok_or_else(unanswered)?;
        if waits == Patience::None {
            return Ok((seat, self.heard(answer.await)?));
        }
        let tasks = match tokio::time::timeout(wait, &mut answer).await {
            Ok(answered) => self.heard(answered)?,
            Err(_) => {
                // What was sent until now is taken; whoever sends later notices.
                answer.close();
                answer.try_recv().unwrap_or_else(|_| Ok(Vec::new()))?
            }
        };
        Ok((seat, tasks))
    }

    /// The calling agent, as the scheduler knows it now if need be: it may have been hired a moment ago.
    async fn member(&self, seat: &Seat) -> Result<(Roster, Member)> {
        let id = seat.by.agent_id.map(|id| id.to_string()).unwrap_or_default();
        let find = |members: &[Member]| members.iter().find(|member| member.agent_id == id).cloned();
        let mut members = self.roster(seat.office_id).await?;
        if find(&members).is_none() {
            self.members.forget(seat.office_id).await;
            members = self.roster(seat.office_id).await?;
        }
        let member = find(&members).ok_or_else(|| Error::unauthenticated("the agent was fired"))?;
        Ok((members, member))
    }

    /// The agent that a task is to be kept for.
    async fn assignee(&self, office_id: OfficeId, name: &str) -> Result<Assignee> {
        let name = text::lookup_name("assigned_agent", name)?;
        let member = self.members.find(office_id, &name).await?;
        Ok(Assignee { name, id: member.agent_id.parse()? })
    }

    /// The office's agents, asked for anew when the caller signed with a key that is not theirs yet: it may have enrolled
    /// that a moment ago.
    async fn signers(&self, seat: &Seat, reports: &[(TaskId, Option<mi_kernel::LeaseId>, What)]) -> Result<Roster> {
        let (roster, member) = self.member(seat).await?;
        let is_known = |receipt: &str| receipt::verify(receipt, &member.public_key).is_ok();
        let is_signed = |(.., what): &(_, _, What)| match what {
            What::Completed { work } => work.receipt.is_empty() || is_known(&work.receipt),
            _ => true,
        };
        if reports.iter().all(is_signed) {
            return Ok(roster);
        }
        self.members.forget(seat.office_id).await;
        self.roster(seat.office_id).await
    }

    /// Takes reports, all of one office: each is answered for itself.
    async fn report(
        &self,
        caller: &Caller,
        seat: &Seat,
        reports: Vec<(TaskId, Option<mi_kernel::LeaseId>, What)>,
    ) -> Result<Vec<Answer>> {
        let completes = reports.iter().any(|(.., what)| matches!(what, What::Completed { .. }));
        let roster = match completes && seat.by.agent_id.is_some() {
            true => Some(self.signers(seat, &reports).await?),
            false => None,
        };
        let report = |(task_id, lease_id, what)| {
            Op::Report(Report { task_id, lease_id, by: seat.by.clone(), owner: seat.owner, what })
        };
        let ops = reports.into_iter().map(report).collect();
        self.submit(seat.office_id, ops, roster.as_ref(), &caller.trace_id).await
    }

    async fn decide(&self, caller: &Caller, office: &str, task: &str, what: Verdict) -> Result<(Seat, Task)> {
        let seat = self.seat(caller, office).await?;
        let task_id = TaskId::parse(task)?;
        let op = Op::Decide(Decision { task_id, by: seat.by.clone(), owner: seat.owner, what });
        let decided = self.one(&seat, op, None, &caller.trace_id).await?;
        let task = decided.into_iter().next().ok_or_else(|| Error::not_found("task", task_id))?;
        Ok((seat, task))
    }

    async fn get(&self, caller: &Caller, office: &str, task: &str) -> Result<(Seat, Task)> {
        let office = self.offices.get(caller, office).await?;
        let seat = self.seat(caller, &office.id.to_string()).await?;
        let id = TaskId::parse(task)?;
        let found = repo::task_get_all(&mut self.db.office(office.id).read().await?, &[id]).await?;
        Ok((seat, found.into_iter().next().ok_or_else(|| Error::not_found("task", id))?))
    }

    async fn list(&self, caller: &Caller, request: &v1::ListTasksRequest) -> Result<(Vec<v1::Task>, String)> {
        let office = self.offices.get(caller, &request.office_id).await?;
        let seat = self.seat(caller, &request.office_id).await?;
        let page = Page::parse(request.page_size, &request.page_token)?;
        let parent = match request.parent_id.as_str() {
            "" => None,
            id => Some(TaskId::parse(id).map_err(|error| Error::invalid("parent_id", error.message))?),
        };
        let filter = repo::Filter {
            statuses: request.statuses.iter().map(|value| rules::status(*value)).collect::<Result<_>>()?,
            agent: match request.assigned_agent.as_str() {
                "" => String::new(),
                name => text::lookup_name("assigned_agent", name)?,
            },
            parent,
        };
        let rows = repo::task_list(&mut self.db.office(office.id).read().await?, &filter, &page).await?;
        let shown: Vec<_> = rows.into_iter().map(|task| (task.id, wire::task(task, &seat))).collect();
        let (shown, next) = page.finish_within(shown, MAX_PAGE_BYTES, |(_, task)| task.encoded_len(), |(id, _)| *id);
        Ok((shown.into_iter().map(|(_, task)| task).collect(), next))
    }

    /// After a transaction that woke agents.
    pub fn woken(&self, office_id: OfficeId) {
        self.changed(office_id);
        self.kick(office_id);
    }

    /// Has an agent paused that goes in circles.
    pub fn pause(&self, office_id: OfficeId, agent: String, message: String) {
        let tasks = self.clone();
        self.background.spawn("task-pause", async move {
            let request = PauseAgentRequest {
                office_id: office_id.to_string(),
                agent,
                reason: "LOOP_DETECTED".into(),
                message,
                trace_id: String::new(),
            };
            for tries in 1..=PAUSE_TRIES {
                match tasks.registry.clone().pause_agent(request.clone()).await {
                    Ok(_) => break,
                    Err(error) => tracing::warn!(target: "mi::tasks", %error, tries, "an agent in a loop is not paused yet"),
                }
                tokio::time::sleep(Duration::from_secs(u64::from(tries))).await;
            }
            if let Err(error) = tasks.reconcile(office_id, None).await {
                tracing::warn!(target: "mi::tasks", error = %error.chain(), "a paused agent's tasks wait for their leases");
            }
        });
    }
}

/// The caller as a worker.
fn worker(caller: &Caller, entry: &Entry) -> Worker {
    match entry {
        Entry::Member(agent) => Worker { name: agent.name.clone(), agent_id: Some(agent.agent_id), api_key_id: None },
        Entry::Owner => Worker {
            name: text::OPERATOR.into(),
            agent_id: None,
            api_key_id: match caller.actor {
                mi_kernel::Actor::Operator { api_key_id, .. } => Some(api_key_id),
                _ => None,
            },
        },
    }
}
