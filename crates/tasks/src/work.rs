//! What workers do: claim, renew, release, complete, fail.

use std::{collections::HashSet, time::Duration};

use mi_credits::out_of_credits;
use mi_kernel::{Error, LeaseId, Result, TaskId, page::MAX_PAGE_BYTES};
use mi_tenancy::{Author, State as OfficeState};

use super::{
    batch::Batch,
    model::{
        Assignee, Due, Ended, Kind, Lease, MAX_TITLE, MAX_WAITS, Progress, Report, ReportKind, Spec, State, Task,
        TaskTransition, VERIFY_LIMIT, Work, finished, lease_lost,
    },
    receipts,
    repo::{self, Asked, Wanted},
};

/// What the platform is called where a creator has a name.
const PLATFORM: &str = "platform";

/// Somebody who looks for work.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) by: Author,
    /// What it can use; none: anything.
    pub(crate) tools: Option<Vec<String>>,
    /// Empty: any.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) most: usize,
    pub(crate) lease: Duration,
}

impl Claim {
    /// Whether it may be this task, which is queued.
    pub(crate) fn takes(&self, task: &Task) -> bool {
        let agent = self.by.agent_id;
        let tools = self.tools.as_ref();
        (self.kinds.is_empty() || self.kinds.contains(&task.spec.kind))
            && task.progress.assigned.as_ref().is_none_or(|assigned| Some(assigned.id) == agent)
            && task.spec.excluded.is_none_or(|excluded| Some(excluded) != agent)
            && tools.is_none_or(|tools| task.spec.required_tools.iter().all(|tool| tools.contains(tool)))
    }

    fn wanted(&self, limit: usize) -> Wanted {
        Wanted {
            kinds: self.kinds.iter().map(|kind| kind.as_str()).collect(),
            agents: self.by.agent_id.into_iter().collect(),
            shared: false,
            tools: self.tools.clone(),
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
        }
    }
}

/// What these may claim. `spare`: how many operations may take something from the queue before.
pub(super) fn wanted(claims: &[&Claim], spare: usize) -> Wanted {
    // One more tells whether that is all.
    let limit = claims.iter().map(|claim| claim.most).sum::<usize>() + spare + 1;
    match claims {
        [] => Wanted::default(),
        [claim] => claim.wanted(limit),
        _ => Wanted {
            agents: claims.iter().filter_map(|claim| claim.by.agent_id).collect(),
            shared: true,
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            ..Wanted::default()
        },
    }
}

/// A claim that is served.
pub(super) struct Offer<'a> {
    pub(super) claim: &'a Claim,
    pub(super) trace_id: &'a str,
    /// Whether there may be something for it that was there before the transaction.
    pub(super) looks: bool,
}

/// The report that gives a task back which was claimed for somebody who is no longer there.
pub(super) fn give_back(task: &Task, by: &Author) -> Option<Report> {
    let State::Running(lease) = task.state() else { return None };
    Some(Report {
        task_id: task.id,
        lease_id: Some(lease.id),
        by: by.clone(),
        owner: false,
        what: ReportKind::Released,
        signed: Box::new(Ok(None)),
        next: None,
    })
}

/// What an agent is told that is to take no work.
pub(super) fn not_working() -> Error {
    let text = "the agent is stopped or paused; it takes no work until it is started again";
    Error::precondition("AGENT_NOT_WORKING", text)
}

impl Batch<'_> {
    /// Whether who claims was stopped or paused since.
    pub(super) fn is_stopped(&self, claim: &Claim) -> bool {
        let (Some(agent), Some(roster)) = (claim.by.agent_id.map(|id| id.to_string()), &self.roster) else {
            return false;
        };
        match roster.iter().find(|member| member.agent_id == agent) {
            Some(member) => !member.working,
            None => claim
                .by
                .agent_id
                .is_some_and(|id| self.freshness.asked.is_some() && self.freshness.is_gone(id, self.now)),
        }
    }

    /// Hands out what there is, to the first in line first.
    pub(super) async fn offer(&mut self, offers: &[Offer<'_>]) -> Result<Vec<Vec<Task>>> {
        let mut got: Vec<Vec<TaskId>> = vec![Vec::new(); offers.len()];
        let mut taken = HashSet::new();
        let mut first = self.claimable();
        if let Some(last) = self.truncated {
            // Behind it there may be what comes before a task that is new.
            first.retain(|id| self.get(*id).is_ok_and(|task| task.place() <= last));
        }
        self.hand_out(&first, offers, &mut got, &mut taken)?;
        if self.truncated.is_some() {
            // What leads the queue is not for everybody: whoever got less than there may be looks on its own.
            for (place, offer) in offers.iter().enumerate() {
                if offer.looks && got[place].len() < offer.claim.most {
                    self.write().await?;
                    let limit = offer.claim.most + taken.len();
                    let asked = Asked { wanted: offer.claim.wanted(limit), ..Asked::default() };
                    let found = repo::task_prefetch(self.way.tx()?, &asked).await?;
                    self.insert_claimable(found.claimable);
                    self.hand_out(&self.claimable(), &offers[place..=place], &mut got[place..=place], &mut taken)?;
                }
            }
            self.hand_out(&self.claimable(), offers, &mut got, &mut taken)?;
        }
        let mut claimed = Vec::with_capacity(offers.len());
        for (offer, ids) in offers.iter().zip(got) {
            let mut tasks = Vec::with_capacity(ids.len());
            for id in ids {
                let length = offer.claim.lease;
                let lease = Lease { id: LeaseId::new(), expires_at: self.now + length, length };
                tasks.push(
                    self.transition(id, TaskTransition::Claim(lease, offer.claim.by.clone()), offer.trace_id)?.clone(),
                );
            }
            claimed.push(tasks);
        }
        Ok(claimed)
    }

    fn hand_out(
        &self,
        offered: &[TaskId],
        offers: &[Offer<'_>],
        got: &mut [Vec<TaskId>],
        taken: &mut HashSet<TaskId>,
    ) -> Result<()> {
        let length = |id: &TaskId| self.get(*id).map_or(0, Task::length);
        let mut lengths: Vec<usize> = got.iter().map(|ids| ids.iter().map(length).sum()).collect();
        for id in offered {
            let task = self.get(*id)?;
            if taken.contains(id) {
                continue;
            }
            // What does not fit into an answer is not claimed: its lease would run out unseen.
            let free = |place: &usize| {
                let (claim, got) = (offers[*place].claim, got[*place].len());
                let fits = got == 0 || lengths[*place] + task.length() <= MAX_PAGE_BYTES;
                got < claim.most && fits && claim.takes(task)
            };
            if let Some(place) = (0..offers.len()).find(free) {
                lengths[place] += task.length();
                got[place].push(*id);
                taken.insert(*id);
            }
        }
        Ok(())
    }

    /// Takes a report. The same one again answers the same.
    pub(super) async fn report(&mut self, report: &Report, trace_id: &str) -> Result<Task> {
        let id = report.task_id;
        let task = self.get(id)?.clone();
        let ended = report.lease_id.map(|lease_id| Ended { lease_id, report: report.what.digest() });
        if let (Some(known), Some(ended)) = (&task.progress.ended, &ended)
            && known.lease_id == ended.lease_id
        {
            return if known == ended { Ok(task) } else { Err(lease_lost()) };
        }
        match report.lease_id {
            Some(lease_id) => {
                task.progress.held(lease_id)?;
                // Who knows somebody else's lease does not hold it.
                if !report.owner && task.holder() != Some(&report.by) {
                    return Err(lease_lost());
                }
            }
            None if !report.owner => return Err(Error::invalid("lease_id", "is required")),
            None => {
                if let (State::Done { work }, ReportKind::Completed { work: again }) = (task.state(), &report.what)
                    && (&work.result, &work.artifacts) == (&again.result, &again.artifacts)
                {
                    return Ok(task);
                }
                if let (State::Failed, ReportKind::Failed { error, retryable: false, .. }) =
                    (task.state(), &report.what)
                    && task.progress.error == *error
                {
                    return Ok(task);
                }
                if task.state().is_final() {
                    return Err(finished(task.state()));
                }
            }
        }
        match &report.what {
            ReportKind::Renewed { lease: length } => {
                let lease_id = report.lease_id.ok_or_else(|| Error::invalid("lease_id", "is required"))?;
                let lease = Lease { id: lease_id, expires_at: self.now + *length, length: *length };
                self.transition(id, TaskTransition::Renew(lease), trace_id)?;
            }
            ReportKind::Released => self.release(id, ended, trace_id).await?,
            ReportKind::Completed { work } => self.complete(task, report, work.clone(), ended, trace_id).await?,
            ReportKind::Failed { error, retryable, loop_detected } => {
                self.transition(
                    id,
                    TaskTransition::Fail { error: error.clone(), retryable: *retryable, ended },
                    trace_id,
                )?;
                self.reconsider(id, trace_id).await?;
                // Everybody reads why an agent was paused.
                let said = if task.is_private() { "its task ended in a loop" } else { error.as_str() };
                if *loop_detected && let Some(worker) = task.progress.worker.filter(|worker| worker.agent_id.is_some())
                {
                    self.loops.push((worker.name, said.to_owned()));
                }
            }
        }
        Ok(self.get(id)?.clone())
    }

    /// Gives a task back. One with open subtasks waits for them and comes back to whom it was with; not for ever.
    pub(super) async fn release(&mut self, id: TaskId, ended: Option<Ended>, trace_id: &str) -> Result<()> {
        let parents_work = self.open_subtask(id).await?.is_some();
        // Whoever was stopped, fired or suspended did not choose to wait.
        let waits = parents_work && ended.is_some();
        if waits && self.get(id)?.progress.waits >= MAX_WAITS {
            let error = format!("it was given back {MAX_WAITS} times to wait for subtasks, and has open ones again");
            self.transition(id, TaskTransition::Fail { error, retryable: false, ended }, trace_id)?;
            return Ok(());
        }
        let worker = self.get(id)?.progress.worker.clone().filter(|_| parents_work);
        let keep_for = worker.and_then(|worker| Some(Assignee { id: worker.agent_id?, name: worker.name }));
        self.transition(id, TaskTransition::Release { ended, keep_for, waits }, trace_id)?;
        self.reconsider(id, trace_id).await
    }

    async fn complete(
        &mut self,
        task: Task,
        report: &Report,
        mut work: Work,
        ended: Option<Ended>,
        trace_id: &str,
    ) -> Result<()> {
        if let Some(subtask) = self.open_subtask(task.id).await? {
            let seen = self.standing(subtask)?;
            let text = match seen.hangs_on {
                None => format!("subtask {subtask} is open: wait for all of them, or release the task meanwhile"),
                Some(_) => format!(
                    "subtask {subtask} is open and does not go on by itself: {}; have that tried again, cancel the subtask, or \
                     fail the task",
                    seen.text
                ),
            };
            return Err(Error::precondition("SUBTASKS_OPEN", text));
        }
        if let Some(subject) = task.spec.verifies {
            self.load(vec![subject]).await?;
            // Work that is no longer kept has its verdict.
            if self.get(subject).is_ok_and(|work| matches!(work.state(), State::Verifying { .. })) {
                let text = format!("task {subject} has no verdict yet: call VerifyTask first");
                return Err(Error::precondition("VERDICT_MISSING", text));
            }
        }
        work.public_key = receipts::check(self, &task, report, &work).await?;
        // An operator who completes what others hold has judged it already.
        let is_own = report.lease_id.is_some() || task.holder() == Some(&report.by);
        let verified = task.spec.verification_required || self.office.settings.verify_by_peer;
        // Whoever were to judge an answer to a direct message would have to read that.
        let judged = task.spec.verifies.is_none() && !task.is_private();
        let verified = verified && judged && is_own;
        let verify_until = verified.then(|| self.now + VERIFY_LIMIT);
        let result = work.result.clone();
        self.transition(task.id, TaskTransition::Complete { work, ended, verify_until }, trace_id)?;
        if verified {
            self.ask_for_review(&task, &result, trace_id);
        }
        Ok(())
    }

    /// Creates the task of judging work: for anybody but the worker.
    fn ask_for_review(&mut self, task: &Task, result: &str, trace_id: &str) {
        const SHOWN: usize = 64 << 10;
        let shown = &result[..result.floor_char_boundary(SHOWN)];
        let description = format!(
            "Judge the work on task {}, then call VerifyTask for it.\n\nThe task: {}\n\n{}\n\nThe result:\n{shown}",
            task.id, task.spec.title, task.spec.description
        );
        let title: String = format!("Verify: {}", task.spec.title).chars().take(MAX_TITLE).collect();
        let spec = Spec {
            title,
            description,
            kind: Kind::Review,
            priority: task.spec.priority,
            parent: None,
            depends_on: Vec::new(),
            required_tools: Vec::new(),
            max_attempts: task.spec.max_attempts,
            verification_required: false,
            created_by: PLATFORM.into(),
            creator: None,
            cause: format!("task/{}", task.id),
            verifies: Some(task.id),
            answers: None,
            excluded: task.progress.worker.as_ref().and_then(|worker| worker.agent_id),
            request: None,
            context: None,
            created_at: self.now,
        };
        let progress = Progress::new(State::Queued, None, task.progress.depth + 1, self.moment());
        self.insert(Task { id: TaskId::new(), cursor: 0, spec, progress }, trace_id);
    }

    /// Ends what has no time left, and puts off what has, since the platform was away.
    pub(super) async fn expire(&mut self, ids: &[TaskId]) -> Result<()> {
        // The process was held up between its look at deadlines and this: what it missed is not counted yet. It looks again.
        if !self.sweep_clock.is_current(self.now) {
            return Ok(());
        }
        for id in ids {
            let Ok(task) = self.get(*id) else { continue };
            let step = match (task.due(self.moment()), task.state()) {
                (Due::No, _) => continue,
                (Due::Later(by), _) => TaskTransition::Postpone(by),
                (Due::Yes, State::Queued) => TaskTransition::Cancel("nobody answered in time".into()),
                (Due::Yes, _) => TaskTransition::Expire,
            };
            self.transition(*id, step, "")?;
            self.reconsider(*id, "").await?;
        }
        Ok(())
    }

    /// Gives back everything that is being worked on.
    pub(super) async fn release_all(&mut self, trace_id: &str) -> Result<()> {
        loop {
            const PAGE: i64 = 1000;
            let rows = repo::task_in(self.way.tx()?, "running", PAGE).await?;
            let found = self.insert_loaded(rows);
            self.prepare(&found).await?;
            for id in &found {
                self.release(*id, None, trace_id).await?;
            }
            self.settle().await?;
            self.write().await?;
            if i64::try_from(found.len()) != Ok(PAGE) {
                return Ok(());
            }
        }
    }

    /// Whether work may be taken.
    pub(super) fn works(&self) -> Result<()> {
        match self.office.state {
            OfficeState::Active if self.metered && self.available <= 0 => Err(out_of_credits(self.available)),
            OfficeState::Active => Ok(()),
            OfficeState::Deleting => Err(OfficeState::deleting()),
            OfficeState::Provisioning | OfficeState::Suspended => {
                Err(Error::precondition("OFFICE_NOT_ACTIVE", "the office is not active; resume it first"))
            }
        }
    }
}
