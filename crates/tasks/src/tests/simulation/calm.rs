//! Times in which nothing goes wrong: what was begun comes to its end then, and nobody waits who need not.

use std::time::Duration;

use mi_kernel::Clock;
use mi_proto::v1;

use super::{
    CALM_MARGIN, Simulation,
    calls::{Ask, OWNER, seconds},
    late, memory,
    rows::Book,
    world::AGENTS,
};
use crate::{
    model::{State, Task},
    repo,
};

/// The time within which what failed before is tried again, of all but the feed.
const SHORT: Duration = Duration::from_secs(3);
/// The same with the feed.
pub(super) const LONG: Duration = Duration::from_secs(6);

impl Simulation<'_> {
    /// Nothing goes wrong for a while.
    pub(super) async fn calm(&mut self) {
        self.world.be_calm(true);
        self.streams.read_all(self.world.clock.now());
        for place in 0..self.world.processes.len() {
            if self.world.processes[place].is_none() {
                self.world.start(place).await.expect("a database without faults");
            }
            self.world.set_deaf(place, false);
        }
        if std::mem::take(&mut self.shaken) {
            // What somebody did and did not live to tell is heard of with the next change, or after a minute.
            self.make_tasks(1);
        }
        self.go_on(SHORT).await;
        self.comes_to(Self::waiting).await;
        let unsure = std::mem::take(&mut self.world.book().clients.unsure);
        unsure.into_iter().for_each(|call| self.send_call(call));
        self.check_wakes().await;
        self.go_on(LONG).await;
        self.check_calm().await;
        self.world.be_calm(false);
    }

    /// Who waits, at whatever process, is given what another one is asked to create: also when that was committed and its
    /// answer lost, and when those who wait could not be told at once.
    async fn check_wakes(&mut self) {
        self.everybody_waits().await;
        let place = self.random.usize(..self.world.processes.len());
        self.world.set_deaf(place, true);
        self.make_tasks(AGENTS);
        self.go_on(Duration::from_millis(200)).await;
        self.world.set_deaf(place, false);
        self.comes_to(Self::waiting).await;

        self.everybody_waits().await;
        self.world.be_calm(false);
        self.make_tasks(AGENTS);
        self.world.be_calm(true);
        if let Some(flight) = self.calls.get(&self.sent) {
            self.world.lose_answer(flight.call.process);
        }
        self.comes_to(Self::waiting).await;
    }

    async fn everybody_waits(&mut self) {
        for agent in 0..AGENTS {
            let (office_id, wait) = (self.world.office.to_string(), seconds(LONG));
            self.send(Ask::Claim(v1::ClaimTasksRequest { office_id, wait, ..Default::default() }), agent);
        }
        self.go_on(Duration::from_millis(300)).await;
    }

    /// The owner has tasks made.
    fn make_tasks(&mut self, count: usize) {
        let office_id = self.world.office.to_string();
        let request = |number| {
            let (office_id, title) = (office_id.clone(), format!("t{number}"));
            v1::CreateTaskRequest { office_id, request_id: title.clone(), title, ..Default::default() }
        };
        let requests = (self.created + 1..=self.created + count).map(request).collect();
        self.created += count;
        self.send(Ask::Create(requests), OWNER);
    }

    /// What must hold when nothing has gone wrong for a while.
    pub(super) async fn check_calm(&mut self) {
        let now = self.world.clock.now();
        {
            let mut book = self.world.book();
            book.tell("all is calm");
            self.calls.values().for_each(|flight| late(&mut book, flight, now, CALM_MARGIN));
            self.streams.late(&mut book, now, CALM_MARGIN);
            book.overdue(CALM_MARGIN);
            book.check_whole();
        }
        let left = async {
            let db = self.world.book().db.clone();
            let mut conn = db.platform().read().await?;
            Ok::<_, mi_kernel::Error>(repo::office_of_consequences(&mut conn).await?)
        };
        if !left.await.expect("a database without faults").is_empty() {
            self.world.book().fault("what follows from changes is left undone".into());
        }
        self.comes_to(Self::waiting).await;
        self.comes_to(Self::behind).await;
        self.comes_to(Self::restless).await;
        self.check_memory();
    }

    /// What is not so yet is so soon after the second for which failures pause: `what` says what is wrong.
    async fn comes_to(&mut self, what: fn(&Self, &Book) -> Option<String>) {
        let mut found = None;
        for _ in 0..150 {
            found = what(self, &self.world.book());
            if found.is_none() {
                return;
            }
            self.go_on(Duration::from_millis(10)).await;
        }
        if let Some(text) = found {
            self.world.book().fault(text);
        }
    }

    /// Somebody waits for what is there.
    fn waiting(&self, book: &Book) -> Option<String> {
        let is_free = |task: &&Task| {
            *task.state() == State::Queued
                && task.progress.assigned.is_none()
                && task.spec.excluded.is_none()
                && task.spec.required_tools.is_empty()
        };
        let task = book.tasks.values().find(is_free)?;
        let waits = |ask: &Ask| matches!(ask, Ask::Claim(ask) if ask.kinds.is_empty());
        let mut waiting = self.calls.values().map(|flight| &flight.call).filter(|call| waits(&call.ask));
        let call = waiting.find(|call| self.world.registry.members()[call.by].working)?;
        Some(format!("a{} waits at p{} for work, and {:?} waits to be taken", call.by, call.process, task.spec.title))
    }

    /// Who follows what changed has not heard of all of it.
    fn behind(&self, book: &Book) -> Option<String> {
        let (fed, all) = (book.fed, book.events.len());
        let feed = (fed != all).then(|| format!("the feed has {fed} of {all} events"));
        feed.or_else(|| self.watch.missed(book).map(|missed| format!("who watches has seen {missed}")))
    }

    /// A process does something.
    fn restless(&self, _: &Book) -> Option<String> {
        let mut processes = self.world.processes.iter().flatten();
        let text = processes.find_map(|process| memory::restless(&process.tasks, self.world.office))?;
        Some(format!("a process does not come to rest: {text}"))
    }

    /// What processes remember is what the rows say.
    pub(super) fn check_memory(&self) {
        let mut book = self.world.book();
        for (place, process) in self.world.processes.iter().enumerate() {
            if let Some(text) = process.as_ref().and_then(|process| memory::differs(&process.tasks, &book)) {
                book.fault(format!("the memory of p{place} is wrong: {text}"));
            }
        }
    }
}
