//! What clients do next, by chance.

use std::time::Duration;

use mi_kernel::TaskId;
use mi_proto::v1;

use super::{
    Simulation,
    calls::{Ask, Call, OWNER, seconds},
    clients::Held,
    rows::lease_of,
    world::AGENTS,
};

impl Simulation<'_> {
    /// The next step: somebody asks for something, or something happens to a process or an agent.
    pub(super) async fn step(&mut self) {
        if self.chance(self.world.rates.dies) {
            return self.shake().await;
        }
        let agent = self.random.usize(..AGENTS);
        let (by, ask) = match self.random.u32(..100) {
            0..=20 => self.create(),
            21 => return self.pay(agent).await,
            22..=43 => (agent, Some(Ask::Claim(self.claim_request()))),
            44..=47 => return self.stream_step(agent),
            48..=64 => {
                let claim_next = self.claim_next();
                self.report(|office_id, task_id, lease_id, number| {
                    let result = format!("result {number}");
                    let known = v1::CompleteTaskRequest { office_id, task_id, lease_id, ..Default::default() };
                    Ask::Complete(v1::CompleteTaskRequest { result, claim_next, ..known })
                })
            }
            65..=70 => {
                let (retryable, claim_next) = (self.random.u32(..4) > 0, self.claim_next());
                self.report(|office_id, task_id, lease_id, number| {
                    let error = format!("error {number}");
                    let known = v1::FailTaskRequest { office_id, task_id, lease_id, ..Default::default() };
                    Ask::Fail(v1::FailTaskRequest { error, retryable, claim_next, ..known })
                })
            }
            71..=75 => self.report(|office_id, task_id, lease_id, _| {
                Ask::Release(v1::ReleaseTaskRequest { office_id, task_id, lease_id })
            }),
            76..=81 => {
                let lease = self.lease();
                self.report(|office_id, task_id, lease_id, _| {
                    Ask::Renew(v1::RenewLeaseRequest { office_id, task_id, lease_id, lease })
                })
            }
            82..=84 => (OWNER, self.some_task().map(|id| self.cancel(id))),
            85..=87 => (OWNER, self.some_task().map(|id| self.retry(id))),
            88..=89 => {
                let approve = self.random.bool();
                (OWNER, self.some_task().map(|id| self.verify(id, approve)))
            }
            90 => {
                let assigned_agent = if self.random.bool() { format!("a{agent}") } else { String::new() };
                let (office_id, some) = (self.world.office.to_string(), self.some_task());
                let ask = |id: TaskId| v1::AssignTaskRequest { office_id, task_id: id.to_string(), assigned_agent };
                (OWNER, some.map(|id| Ask::Assign(ask(id))))
            }
            _ => {
                self.ask_again();
                return;
            }
        };
        let Some(ask) = ask else { return };
        let unary = if self.random.bool() { self.send_on_stream(ask, by) } else { Some(ask) };
        if let Some(ask) = unary {
            self.send(ask, by);
        }
    }

    pub(super) fn chance(&mut self, thousandths: u32) -> bool {
        self.random.u32(..1000) < thousandths
    }

    /// A process dies or stops, or starts again, or hears nothing of the others; an agent is paused, or works again.
    async fn shake(&mut self) {
        let place = self.random.usize(..self.world.processes.len());
        let agent = self.random.usize(..AGENTS);
        match self.random.u32(..10) {
            0..=6 if self.world.processes[place].is_some() => {
                self.shaken = true;
                if self.random.u32(..3) > 0 { self.world.kill(place) } else { self.world.stop(place) }
            }
            7 => self.world.set_deaf(place, self.random.bool()),
            8 => {
                let working = !self.world.registry.members()[agent].working;
                if !working {
                    let id = self.world.agents[agent].agent_id;
                    self.world.book().clients.paused.insert(id);
                }
                self.world.set_working(agent, working).await;
            }
            _ => {}
        }
        // Some process is always there before long.
        let away: Vec<usize> =
            (0..self.world.processes.len()).filter(|place| self.world.processes[*place].is_none()).collect();
        for place in away {
            if self.random.bool() {
                // The database may be away; another try comes.
                let _ = self.world.start(place).await;
            }
        }
    }

    /// A process is asked which task pays for what an agent does, and remembers where that one belongs.
    async fn pay(&mut self, agent: usize) {
        let place = self.random.usize(..self.world.processes.len());
        let Some(process) = &self.world.processes[place] else { return };
        let (tasks, id) = (process.tasks.clone(), self.world.agents[agent].agent_id);
        // What the database refuses says nothing.
        let Ok(Some(payer)) = tasks.payer(self.world.office, id, None).await else { return };
        let mut book = self.world.book();
        let changes = book.history.get(&payer.task_id).into_iter().flatten();
        let holders = changes.filter_map(|change| change.task.holder()?.agent_id);
        if !holders.into_iter().any(|holder| holder == id) {
            let text = format!("a{agent} is to be paid by {:?}, which it never held", book.name(payer.task_id));
            book.fault(text);
        }
    }

    /// Sends once more what was sent before, at whatever process.
    fn ask_again(&mut self) {
        let unsure = self.world.book().clients.unsure.len();
        if unsure > 0 {
            let place = self.random.usize(..unsure);
            let call = self.world.book().clients.unsure.swap_remove(place);
            self.send_call(call);
        }
    }

    pub(super) fn send(&mut self, ask: Ask, by: usize) {
        self.send_call(Call { ask, by, process: 0, again: false });
    }

    fn lease(&mut self) -> Option<prost_types::Duration> {
        seconds(Duration::from_millis(self.random.u64(1000..6000)))
    }

    /// What a report may claim.
    fn claim_next(&mut self) -> Option<v1::ClaimTasksRequest> {
        self.random.bool().then(|| v1::ClaimTasksRequest { wait: None, ..self.claim_request() })
    }

    pub(super) fn claim_request(&mut self) -> v1::ClaimTasksRequest {
        let most = if self.random.u32(..4) == 0 { 30_000 } else { 5000 };
        let wait = (self.random.u32(..10) < 4).then(|| Duration::from_millis(self.random.u64(300..most)));
        let kinds = if self.random.u32(..6) == 0 { vec![v1::TaskKind::Code.into()] } else { Vec::new() };
        v1::ClaimTasksRequest {
            office_id: self.world.office.to_string(),
            kinds,
            max_tasks: Some(self.random.i32(1..4)),
            wait: wait.and_then(seconds),
            lease: self.lease(),
        }
    }

    fn create(&mut self) -> (usize, Option<Ask>) {
        let count = if self.random.u32(..4) == 0 { self.random.usize(2..6) } else { 1 };
        let by = if self.random.u32(..3) == 0 { self.random.usize(..AGENTS) } else { OWNER };
        let requests = (0..count).map(|place| self.request(place, by)).collect();
        (by, Some(Ask::Create(requests)))
    }

    /// A request for a task, the one at this place of its batch.
    fn request(&mut self, place: usize, by: usize) -> v1::CreateTaskRequest {
        self.created += 1;
        let title = format!("t{}", self.created);
        let mut request = v1::CreateTaskRequest {
            office_id: self.world.office.to_string(),
            request_id: title.clone(),
            title,
            priority: Some(self.random.i32(0..4) * 10),
            max_attempts: Some(self.random.i32(1..4)),
            verification_required: self.random.u32(..12) == 0,
            ..Default::default()
        };
        if self.random.u32(..5) == 0 {
            request.kind = v1::TaskKind::Code.into();
        }
        if self.random.u32(..10) == 0 {
            request.required_tools = vec!["gpu".into()];
        }
        if self.random.u32(..10) == 0 {
            request.assigned_agent = format!("a{}", self.random.usize(..AGENTS));
        }
        if place > 0 && self.random.bool() {
            request.depends_on.push(format!("#{}", self.random.usize(..place)));
        } else if self.random.u32(..4) == 0 {
            request.depends_on.extend(self.some_task().map(|id| id.to_string()));
        }
        // An agent adds parts only to what it works on.
        if by == OWNER && self.random.u32(..6) == 0 {
            request.parent_id = self.some_task().map(|id| id.to_string()).unwrap_or_default();
        }
        request
    }

    /// A report under a lease: mostly one that is good, of its holder; sometimes one that is over, by anybody.
    fn report(&mut self, ask: impl FnOnce(String, String, String, usize) -> Ask) -> (usize, Option<Ask>) {
        let stale = self.random.u32(..8) == 0;
        let some: Vec<Held> = {
            let book = self.world.book();
            let is_good =
                |held: &&Held| book.tasks.get(&held.task).is_some_and(|task| lease_of(task) == Some(held.lease));
            let held = &book.clients.held;
            held.iter().filter(|held| stale || is_good(held)).cloned().collect()
        };
        if some.is_empty() {
            return (OWNER, None);
        }
        let held = &some[self.random.usize(..some.len())];
        let by = if stale && self.random.bool() { self.random.usize(..AGENTS) } else { held.agent };
        // The same report twice is one; another one under the same lease is refused.
        let number = self.random.usize(..2);
        (by, Some(ask(self.world.office.to_string(), held.task.to_string(), held.lease.to_string(), number)))
    }

    pub(super) fn some_task(&mut self) -> Option<TaskId> {
        let count = self.world.book().clients.tasks.len();
        if count == 0 {
            return None;
        }
        // Mostly one of the newest: the older ones are finished.
        let place = if self.random.u32(..4) > 0 {
            self.random.usize(count.saturating_sub(6)..count)
        } else {
            self.random.usize(..count)
        };
        Some(self.world.book().clients.tasks[place])
    }

    pub(super) fn cancel(&self, id: TaskId) -> Ask {
        let (office_id, task_id) = (self.world.office.to_string(), id.to_string());
        Ask::Cancel(v1::CancelTaskRequest { office_id, task_id, reason: "no use".into() })
    }

    fn retry(&self, id: TaskId) -> Ask {
        Ask::Retry(v1::RetryTaskRequest { office_id: self.world.office.to_string(), task_id: id.to_string() })
    }

    pub(super) fn verify(&self, id: TaskId, approve: bool) -> Ask {
        let (office_id, task_id) = (self.world.office.to_string(), id.to_string());
        let note = if approve { "" } else { "not good" };
        Ask::Verify(v1::VerifyTaskRequest { office_id, task_id, approve, note: note.into(), attempt: None })
    }
}
