//! Tasks: the queue that an office's agents share.
//!
//! A request is checked ([`rules`]), put among the office's pending operations ([`group_commit`]) and done there in a
//! transaction with whatever else is asked of the queue at that moment ([`batch`]). Every change of a task goes through
//! [`model::Progress::transition`].

mod batch;
mod blockers;
mod consequences;
mod create;
mod cycles;
mod decide;
mod group_commit;
mod grpc;
mod members;
mod memory;
mod model;
mod notes;
mod part;
mod payer;
mod receipts;
mod reconcile;
mod repo;
mod retention;
mod rules;
mod settle;
mod status_counts;
mod sweep;
mod sweep_clock;
#[cfg(test)]
mod tests;
pub mod wake;
mod watch;
mod wire;
mod work;
mod worker;

use std::{collections::HashSet, sync::Arc, time::Duration};

use mi_credits::Credits;
use mi_kernel::{
    AgentActor, AgentId, Clock, Error, LeaseId, OfficeId, Result, TaskId, Time,
    page::{MAX_PAGE_BYTES, Page},
    text,
};
use mi_proto::{
    internal::v1::{Member, PauseAgentRequest, agent_registry_service_client::AgentRegistryServiceClient},
    v1,
};
use mi_rpc::{Access, RoleClient, convert::time};
use mi_store::{Db, OfficeConn, Topic, idempotency};
use mi_tenancy::{Author, Offices, Quotas, RoleContext};
use moka::sync::Cache;
use prost::Message;
use tokio::sync::Notify;

use self::{
    batch::Roster,
    decide::{Decision, Verdict},
    group_commit::{Answer, GroupCommit, Patience, TaskCommand, unanswered},
    members::{Reconcile, RosterFreshness},
    memory::Memories,
    model::{Assignee, Report, ReportKind, Signed, Task},
    work::{Claim, not_working},
};
pub use self::{create::LOOP_DEPTH, members::Members, model::Cause, retention::TaskHistory};

/// Offices whose agents are remembered, to notice when they change.
const ROSTERS: u64 = 10_000;
/// Agents of which it is remembered what they ended last.
const ENDED: u64 = 100_000;
/// Tasks of which the top of the tree is remembered.
const ROOTS: u64 = 100_000;
/// How long the scheduler is asked who there is to take a task, when one that is queued is read.
const ASKED: Duration = Duration::from_millis(250);
/// How often a pause is asked for while the scheduler cannot be reached.
const PAUSE_TRIES: u32 = 5;
/// What the change bus tells of when an office's tasks changed.
const TOPIC: &str = "tasks";

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
    credits: Credits,
    group_commit: GroupCommit,
    memories: Memories,
    /// The agents that each office's queue was last reconciled with.
    rosters: Cache<OfficeId, Roster>,
    /// What follows from the task that each agent ended last. Another process does not know: a loop is met later then.
    ended: Cache<AgentId, (Time, Cause)>,
    /// The task at the top of each one's tree, which never changes.
    roots: Cache<(OfficeId, TaskId), TaskId>,
}

/// What queues go by.
pub struct Deps {
    /// Who works in an office.
    pub members: Members,
    /// The scheduler's registry, which pauses agents and tells of revoked keys.
    pub registry: AgentRegistryServiceClient<RoleClient>,
    /// What work is paid with.
    pub credits: Credits,
    /// How much may be open.
    pub quotas: Quotas,
}

/// A task as its reader sees it, and its places in lists.
struct Shown {
    id: TaskId,
    cursor: i64,
    task: v1::Task,
}

/// A report on a task, under the lease that it names.
type Reported = (TaskId, Option<LeaseId>, ReportKind);

impl Tasks {
    /// Queues of these offices. `background` runs what goes on without a call.
    pub fn new(context: RoleContext, offices: Offices, deps: Deps, background: mi_base::Tasks) -> Self {
        let Deps { members, registry, credits, quotas } = deps;
        let RoleContext { db, clock, outbox } = context;
        let (group_commit, memories, rosters) = (GroupCommit::default(), Memories::default(), Cache::new(ROSTERS));
        let (ended, roots) = (Cache::new(ENDED), Cache::new(ROOTS));
        Self {
            db,
            clock,
            outbox,
            offices,
            members,
            registry,
            background,
            quotas,
            credits,
            group_commit,
            memories,
            rosters,
            ended,
            roots,
        }
    }

    /// The office's agents; when they changed since the last time, the queue is told first.
    async fn roster(&self, office_id: OfficeId) -> Result<Roster> {
        let roster = self.members.list(office_id).await?;
        let known = self.rosters.get(&office_id);
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &roster) && known != roster) {
            self.rosters.insert(office_id, roster.clone());
            drop(self.enqueue(office_id, vec![TaskCommand::Reconcile(Reconcile::default())], Some(&roster), "")?);
        }
        Ok(roster)
    }

    /// Looks at the agents again, for those who are gone: the one that was told of, if any, surely is unless it is there.
    async fn reconcile(&self, office_id: OfficeId, told: Option<AgentId>) -> Result<()> {
        let freshness = RosterFreshness { asked: Some(self.clock.now()), told };
        self.members.forget(office_id);
        let roster = self.members.list(office_id).await?;
        self.rosters.insert(office_id, roster.clone());
        self.submit(office_id, vec![TaskCommand::Reconcile(Reconcile::new(freshness))], Some(&roster), "").await?;
        Ok(())
    }

    /// What was asked in one operation.
    async fn one(&self, access: &Access, command: TaskCommand, roster: Option<&Roster>) -> Answer {
        let answers = self.submit(access.office_id(), vec![command], roster, access.trace_id()).await?;
        answers.into_iter().next().unwrap_or_else(|| Err(unanswered()))
    }

    /// Creates tasks, all of them or none; `office` is the id of the office as the request has it.
    async fn create(&self, access: &Access, office: &str, requests: &[v1::CreateTaskRequest]) -> Answer {
        let office_id = access.office_id();
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
                name => self.assignee(office_id, name).await.map(Some),
            };
            if !request.request_id.is_empty() && !replays.insert(&request.request_id) {
                return Err(Error::invalid("request_id", "is that of another task of the batch, too"));
            }
            let content = v1::CreateTaskRequest { office_id: office.to_owned(), ..request.clone() }.encode_to_vec();
            let request_id = idempotency::Request::new(access.key(), &request.request_id, &content)?;
            news.push(rules::new(request, place, assigned, request_id)?);
        }
        let roster = match requests.iter().any(about_agents) {
            true => Some(self.roster(office_id).await?),
            false => None,
        };
        self.one(access, TaskCommand::Create(news, Author::of(access)), roster.as_ref()).await
    }

    /// Claims tasks; `patience` is what the call has left, less than which is waited.
    async fn claim(&self, access: &Access, request: &v1::ClaimTasksRequest, patience: Duration) -> Answer {
        let wait = rules::wait(request.wait.as_ref())?.min(patience);
        let (roster, claim) = self.claimed_by(access, request).await?;
        let claim = claim.ok_or_else(not_working)?;
        let waits = if wait.is_zero() { Patience::None } else { Patience::Waits };
        let command = TaskCommand::Claim(claim, waits);
        let mut answers = self.enqueue(access.office_id(), vec![command], roster.as_ref(), access.trace_id())?;
        let mut answer = answers.pop().ok_or_else(unanswered)?;
        if waits == Patience::None {
            return self.heard(answer.await);
        }
        match tokio::time::timeout(wait, &mut answer).await {
            Ok(answered) => self.heard(answered),
            Err(_) => {
                // What was sent until now is taken; whoever sends later notices.
                answer.close();
                answer.try_recv().unwrap_or_else(|_| Ok(Vec::new()))
            }
        }
    }

    /// What a request claims, and the office's agents if one of them asks; no claim: it is to take no work.
    async fn claimed_by(
        &self,
        access: &Access,
        request: &v1::ClaimTasksRequest,
    ) -> Result<(Option<Roster>, Option<Claim>)> {
        let most = rules::most(request.max_tasks)?;
        let lease = rules::lease(request.lease.as_ref())?;
        let kinds = request.kinds.iter().map(|value| rules::kind("kinds", *value));
        let kinds = kinds.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let (mut roster, mut tools) = (None, None);
        if let Some(agent) = access.agent() {
            let (members, member) = self.member(agent).await?;
            if !member.working {
                return Ok((Some(members), None));
            }
            (roster, tools) = (Some(members), Some(member.tools));
        }
        Ok((roster, Some(Claim { by: Author::of(access), tools, kinds, most, lease })))
    }

    /// What is claimed together with a report; `office` is the id of the office as the request has it.
    async fn next(
        &self,
        access: &Access,
        office: &str,
        request: Option<&v1::ClaimTasksRequest>,
    ) -> Result<(Option<Roster>, Option<Claim>)> {
        let Some(request) = request else { return Ok((None, None)) };
        if !request.office_id.is_empty() && request.office_id != office {
            return Err(Error::invalid("claim_next.office_id", "differs from that of the report; leave it out"));
        }
        if request.wait.is_some() {
            let text = "cannot be given: a report is answered at once; where nothing was claimed, wait with ClaimTasks";
            return Err(Error::invalid("claim_next.wait", text));
        }
        self.claimed_by(access, request).await
    }

    /// The calling agent, as the scheduler knows it now if need be: it may have been hired a moment ago.
    async fn member(&self, agent: &AgentActor) -> Result<(Roster, Member)> {
        let id = agent.agent_id.to_string();
        let find = |members: &[Member]| members.iter().find(|member| member.agent_id == id).cloned();
        let mut members = self.roster(agent.office_id).await?;
        if find(&members).is_none() {
            self.members.forget(agent.office_id);
            members = self.roster(agent.office_id).await?;
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

    /// Which of the reports are signed as they have to be, and the office's agents if an agent signs; those are asked for
    /// anew when it signed with a key that is not theirs yet: it may have enrolled that a moment ago.
    async fn signed(&self, access: &Access, reports: &[Reported]) -> Result<(Option<Roster>, Vec<Signed>)> {
        let check = |member: Option<&Member>| -> Vec<Signed> {
            let signed = |work| receipts::signed(member, work);
            reports.iter().map(|(.., what)| what.work().map_or(Ok(None), signed)).collect()
        };
        let completes = reports.iter().any(|(.., what)| what.work().is_some());
        let Some(agent) = access.agent().filter(|_| completes) else {
            return Ok((None, check(None)));
        };
        let (roster, member) = self.member(agent).await?;
        let signed = check(Some(&member));
        let is_doubtful = |(.., what): &Reported| what.work().is_some_and(|work| !work.receipt.is_empty());
        if !reports.iter().zip(&signed).any(|(report, signed)| signed.is_err() && is_doubtful(report)) {
            return Ok((Some(roster), signed));
        }
        self.members.forget(agent.office_id);
        let (roster, member) = self.member(agent).await?;
        Ok((Some(roster), check(Some(&member))))
    }

    /// Reports as commands, all of one office, and the office's agents if one of them signs.
    async fn reports(&self, access: &Access, reports: Vec<Reported>) -> Result<(Option<Roster>, Vec<TaskCommand>)> {
        let (roster, signed) = self.signed(access, &reports).await?;
        let report = |((task_id, lease_id, what), signed)| {
            let signed = Box::new(signed);
            let (by, owner) = (Author::of(access), access.is_owner());
            TaskCommand::Report(Report { task_id, lease_id, by, owner, what, signed, next: None })
        };
        Ok((roster, reports.into_iter().zip(signed).map(report).collect()))
    }

    /// Takes one report and claims what comes next: the task that was reported on, and what was claimed.
    async fn report_and_claim(
        &self,
        access: &Access,
        reported: Reported,
        (members, next): (Option<Roster>, Option<Claim>),
    ) -> Result<(Task, Vec<Task>)> {
        let (signers, mut ops) = self.reports(access, vec![reported]).await?;
        if let Some(TaskCommand::Report(report)) = ops.first_mut() {
            report.next = next.map(Box::new);
        }
        let roster = signers.or(members);
        let answers = self.submit(access.office_id(), ops, roster.as_ref(), access.trace_id()).await?;
        let mut tasks = answers.into_iter().next().unwrap_or_else(|| Err(unanswered()))?.into_iter();
        let task = tasks.next().ok_or_else(unanswered)?;
        Ok((task, tasks.collect()))
    }

    async fn decide(&self, access: &Access, task: &str, what: Verdict) -> Result<Task> {
        let task_id = TaskId::parse(task)?;
        let command = TaskCommand::Decide(Decision { task_id, by: Author::of(access), owner: access.is_owner(), what });
        let decided = self.one(access, command, None).await?;
        decided.into_iter().next().ok_or_else(|| Error::not_found("task", task_id))
    }

    async fn get(&self, access: &Access, task: &str) -> Result<Task> {
        let id = TaskId::parse(task)?;
        let found = repo::task_get_all(&mut self.db.office(access.office_id()).read().await?, &[id]).await?;
        found.into_iter().next().ok_or_else(|| Error::not_found("task", id))
    }

    /// A task as its reader sees it, with what it cost.
    async fn show(&self, access: &Access, task: Task) -> Result<v1::Task> {
        let mut conn = self.db.office(access.office_id()).read().await?;
        let shown = self.shown(&mut conn, vec![task], access).await?;
        let told = self.told(conn, access.office_id(), shown).await?;
        told.into_iter().next().ok_or_else(unanswered)
    }

    /// Tasks of which those that are queued say why nobody takes them, where that does not change by itself.
    async fn told(&self, mut conn: OfficeConn, office_id: OfficeId, shown: Vec<Shown>) -> Result<Vec<v1::Task>> {
        let mut tasks: Vec<_> = shown.into_iter().map(|shown| shown.task).collect();
        let is_queued = |task: &&mut v1::Task| task.status() == v1::TaskStatus::Queued;
        if !tasks.iter_mut().any(|task| is_queued(&task)) {
            return Ok(tasks);
        }
        let broke = self.credits.broke(&mut conn).await?;
        // Nobody is asked while a connection is held.
        drop(conn);
        let members = match broke {
            Some(_) => Roster::default(),
            // Without the scheduler there is less to say, and who reads is not kept waiting for it.
            None => match tokio::time::timeout(ASKED, self.members.list(office_id)).await {
                Ok(Ok(members)) => members,
                Ok(Err(_)) | Err(_) => Roster::default(),
            },
        };
        for task in tasks.iter_mut().filter(is_queued) {
            if let Some(why) = broke.as_ref().map(Error::again).or_else(|| members::unable(&members, task)) {
                wire::waits(task, &why);
            }
        }
        Ok(tasks)
    }

    async fn list(&self, access: &Access, request: &v1::ListTasksRequest) -> Result<(Vec<v1::Task>, String)> {
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
            context: rules::context(&request.context_id)?.unwrap_or_default(),
        };
        let since = request.updated_after.as_ref().map(|given| time("updated_after", given)).transpose()?;
        let mut conn = self.db.office(access.office_id()).read().await?;
        let length = |shown: &Shown| shown.task.encoded_len();
        let (shown, next) = match request.order_by.as_str() {
            "" if since.is_some() => {
                return Err(Error::invalid("updated_after", "needs `updated_at desc` as `order_by`"));
            }
            "" => {
                let page = Page::parse(request.page_size, &request.page_token)?;
                let rows = repo::task_list(&mut conn, &filter, &page).await?;
                page.finish_within(self.shown(&mut conn, rows, access).await?, MAX_PAGE_BYTES, length, |shown| shown.id)
            }
            "updated_at desc" => {
                let page = Page::parse(request.page_size, &request.page_token)?;
                let late = repo::task_list_late(&mut conn, &filter, since, &page).await?;
                let rows = self.shown(&mut conn, late.tasks, access).await?;
                let (shown, next) = page.finish_within(rows, MAX_PAGE_BYTES, length, |shown| shown.cursor);
                let rest = late.looked_until.map(|cursor| Page::token(&cursor)).unwrap_or_default();
                (shown, if next.is_empty() { rest } else { next })
            }
            _ => return Err(Error::invalid("order_by", "must be `updated_at desc`, or empty")),
        };
        Ok((self.told(conn, access.office_id(), shown).await?, next))
    }

    /// Tasks as their reader sees them, with what they cost.
    async fn shown(&self, conn: &mut OfficeConn, rows: Vec<Task>, access: &Access) -> Result<Vec<Shown>> {
        let costs = self.credits.task_costs(conn, &rows.iter().map(|task| task.id).collect::<Vec<_>>()).await?;
        let show = |task: Task| {
            let (id, cursor) = (task.id, task.cursor);
            let cost = costs.get(&id).copied().unwrap_or_default();
            Shown { id, cursor, task: v1::Task { cost, ..wire::task(task, access) } }
        };
        Ok(rows.into_iter().map(show).collect())
    }

    /// An office's tasks changed: whoever watches them looks again.
    fn changed(&self, office_id: OfficeId) {
        self.db.notify(Topic::of(office_id, TOPIC));
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
