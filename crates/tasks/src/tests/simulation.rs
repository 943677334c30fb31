//! The queue under whatever may happen, in virtual time: two or three processes of the real code over one database, with
//! faults at its seam (errors before and after the commit, delays), processes that die at any await and start again, and
//! clients that give up, ask again and send what is too late. A seed says all of it; the same one has the same story.
//!
//! `clients` has what clients were told, `rows` what each commit made of the rows: that both say the same, and what else must
//! hold of them, is looked at with every commit and every answer. `memory` compares what processes keep. From time to time
//! nothing goes wrong for a while ([`Simulation::calm`]): then nothing may wait that need not.
//!
//! `MI_SIM_SEEDS=5000` tries as many, on all processors; `MI_TEST_SEED=17` tries one and tells its story.

mod calls;
mod calm;
mod clients;
mod faults;
mod memory;
mod rows;
mod steps;
mod streams;
mod watch;
mod world;

use std::{
    collections::BTreeMap,
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use chrono::TimeDelta;
use fastrand::Rng;
use futures::{StreamExt, stream::FuturesUnordered};
use mi_kernel::{Clock, OfficeId, Time};
use mi_proto::v1;
use tonic::Status;

pub(super) use self::calls::request;
use self::{
    calls::{Ask, Call, OWNER, ask},
    clients::named,
    faults::{Patient, Rates},
    streams::Streams,
    watch::Watch,
    world::{Ground, World},
};
use crate::{Tasks, model::State};

/// Seeds that once showed something, as long as the steps are chosen as they were then.
const KEPT: &[u64] = &[];
/// Seeds of the ordinary suite.
const SEEDS: u64 = 24;
/// Steps between two calm times.
const STEPS: usize = 40;
const CALMS: usize = 2;
/// How late anything may be while things go wrong: failures are tried again after a second or, of the feed, five.
const MARGIN: TimeDelta = TimeDelta::seconds(20);
/// How late when nothing does.
const CALM_MARGIN: TimeDelta = TimeDelta::seconds(2);

type Answered = (u64, Option<Result<Vec<v1::Task>, Status>>);

/// A call under way.
struct Flight {
    call: Call,
    /// When it should be answered, but for margins.
    due: Time,
    /// It was sent when nothing went wrong, and nothing has since.
    calm: bool,
}

/// One simulation.
struct Simulation<'a> {
    world: World,
    random: &'a mut Rng,
    flights: FuturesUnordered<Pin<Box<dyn Future<Output = Answered>>>>,
    calls: BTreeMap<u64, Flight>,
    sent: u64,
    watch: Watch,
    streams: Streams,
    /// How many tasks were asked for.
    created: usize,
    /// Somebody went since it was calm, perhaps before it told others of what it did.
    shaken: bool,
}

/// Something wrong, or how many of each thing were acknowledged.
type Outcome = Result<BTreeMap<&'static str, usize>, String>;

impl Simulation<'_> {
    /// All of it.
    async fn run(&mut self) {
        for _ in 0..CALMS {
            for _ in 0..STEPS {
                self.step().await;
                let pause = match self.random.u32(..10) {
                    0..=3 => 0,
                    4..=7 => self.random.u64(1..40),
                    _ => self.random.u64(40..900),
                };
                self.go_on(Duration::from_millis(pause)).await;
                self.world.book().overdue(MARGIN);
                self.check_memory();
                if self.world.book().wrong.is_some() {
                    return;
                }
            }
            self.calm().await;
        }
        self.finish().await;
    }

    /// Sends a call to a process that is there; what nobody can be asked is not asked.
    fn send_call(&mut self, call: Call) {
        let alive: Vec<usize> =
            (0..self.world.processes.len()).filter(|place| self.world.processes[*place].is_some()).collect();
        if alive.is_empty() {
            return;
        }
        let place = alive[self.random.usize(..alive.len())];
        let Some(process) = &self.world.processes[place] else { return };
        let call = Call { process: place, ..call };
        let calm = self.world.is_calm();
        let gives_up = !calm && self.random.u32(..1000) < self.world.rates.given_up;
        let looks = gives_up.then(|| self.random.u32(1..16));
        self.sent += 1;
        let (number, tasks, by) = (self.sent, process.tasks.clone(), self.world.actor(call.by));
        let (dies, what) = (process.background.shutdown(), call.ask.clone());
        {
            let mut book = self.world.book();
            book.clients.sends(&call);
            let again = if call.again { " again" } else { "" };
            let who = if call.by == OWNER { "owner".to_owned() } else { format!("a{}", call.by) };
            book.tell(&format!("{who}: {}{again} of p{place}", named(&call.ask)));
        }
        let due = self.world.clock.now() + call.ask.waits();
        self.calls.insert(number, Flight { call, due, calm });
        self.flights.push(Box::pin(async move {
            let asked = Patient { call: Box::pin(ask(tasks, by, what)), looks };
            tokio::select! {
                biased;
                () = dies.cancelled() => (number, None),
                answer = asked => (number, answer),
            }
        }));
    }

    /// Time goes on.
    async fn go_on(&mut self, pause: Duration) {
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        loop {
            let now = self.world.clock.now();
            if let Some(process) = self.world.processes.iter().flatten().next() {
                self.watch.at(process, self.world.office, &self.world.owner);
            }
            tokio::select! {
                biased;
                Some((number, answer)) = self.flights.next() => {
                    let Some(flight) = self.calls.remove(&number) else { continue };
                    let calm = flight.calm && self.world.is_calm();
                    let mut book = self.world.book();
                    late(&mut book, &flight, self.world.clock.now(), if calm { CALM_MARGIN } else { MARGIN });
                    book.heard(flight.call, answer, calm);
                }
                message = self.watch.next() => self.watch.heard(message, &mut self.world.book()),
                heard = self.streams.next(now) => {
                    let calm = self.world.is_calm();
                    self.streams.heard(heard, &mut self.world.book(), calm);
                }
                () = &mut pause => break,
            }
        }
        let now = self.world.clock.now();
        let mut book = self.world.book();
        self.calls.values().for_each(|flight| late(&mut book, flight, now, MARGIN));
        self.streams.late(&mut book, now, MARGIN);
    }

    /// Asks, and waits for the answer.
    async fn ask(&mut self, ask: Ask, by: usize) {
        self.send(ask, by);
        let number = self.sent;
        for _ in 0..1000 {
            if !self.calls.contains_key(&number) {
                return;
            }
            self.go_on(Duration::from_millis(5)).await;
        }
    }

    /// Whoever is there goes on with the work until every task has ended.
    async fn finish(&mut self) {
        self.world.be_calm(true);
        self.streams.end_all(&mut self.world.book());
        for agent in 0..self.world.agents.len() {
            self.world.registry.members()[agent].working = true;
            self.world.set_working(agent, true).await;
        }
        for _ in 0..60 {
            self.round().await;
            let is_open = self.world.book().tasks.values().any(|task| !task.state().is_final());
            if !is_open || self.world.book().wrong.is_some() {
                break;
            }
        }
        self.go_on(calm::LONG).await;
        for _ in 0..30 {
            if !self.calls.is_empty() {
                self.go_on(Duration::from_secs(1)).await;
            }
        }
        self.check_calm().await;
        let mut book = self.world.book();
        let open = book.tasks.values().find(|task| !task.state().is_final());
        if let Some(task) = open {
            let text = format!("{:?} does not come to an end: it is {:?}", task.spec.title, task.state());
            book.fault(text);
        }
        if let Some(flight) = self.calls.values().next() {
            book.fault(format!("{} is never answered", named(&flight.call.ask)));
        }
    }

    /// Everybody takes what there is and completes it; the owner decides where that is needed.
    async fn round(&mut self) {
        let open: Vec<_> = self.world.book().tasks.values().filter(|task| !task.state().is_final()).cloned().collect();
        for task in open {
            let (office_id, task_id) = (self.world.office.to_string(), task.id.to_string());
            match task.state() {
                State::Verifying { .. } => self.ask(self.verify(task.id, true), OWNER).await,
                // Nobody has both the name and the tools.
                State::Queued if task.progress.assigned.is_some() && !task.spec.required_tools.is_empty() => {
                    self.ask(self.cancel(task.id), OWNER).await;
                }
                State::Blocked { hangs_on: Some(_), .. } => self.ask(self.cancel(task.id), OWNER).await,
                State::Running(lease) => {
                    let by = task.holder().and_then(|worker| worker.agent_id);
                    let agent = self.world.agents.iter().position(|agent| Some(agent.agent_id) == by);
                    let lease_id = lease.id.to_string();
                    let known = self.world.book().clients.holds(lease.id);
                    // Others were claimed for clients that gave up: their leases run out.
                    let Some(agent) = agent.filter(|_| known) else { continue };
                    if let Some(subject) = task.spec.verifies {
                        self.ask(self.verify(subject, true), OWNER).await;
                    }
                    let result = "at last".to_owned();
                    let complete =
                        v1::CompleteTaskRequest { office_id, task_id, lease_id, result, ..Default::default() };
                    self.ask(Ask::Complete(complete.clone()), agent).await;
                    // A whole with parts waits for them.
                    let (office_id, task_id, lease_id) = (complete.office_id, complete.task_id, complete.lease_id);
                    self.ask(Ask::Release(v1::ReleaseTaskRequest { office_id, task_id, lease_id }), agent).await;
                }
                _ => {}
            }
        }
        for agent in 0..self.world.agents.len() {
            let (office_id, max_tasks) = (self.world.office.to_string(), Some(100));
            self.ask(Ask::Claim(v1::ClaimTasksRequest { office_id, max_tasks, ..Default::default() }), agent).await;
        }
        self.go_on(Duration::from_secs(1)).await;
    }
}

/// Nothing waits for longer than it asked to.
fn late(book: &mut rows::Book, flight: &Flight, now: Time, margin: TimeDelta) {
    if now > flight.due + margin {
        let late = (now - flight.due).num_milliseconds();
        book.fault(format!("{} of p{} is {late} ms late", named(&flight.call.ask), flight.call.process));
    }
}

/// Runs one simulation: what came of it, and its story.
fn simulate(ground: &Ground, seed: u64) -> (Outcome, Vec<String>) {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.expect("a runtime").block_on(live(ground, seed))));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        (Err(format!("it panicked: {text}")), Vec::new())
    })
}

async fn live(ground: &Ground, seed: u64) -> (Outcome, Vec<String>) {
    let mut random = Rng::with_seed(seed);
    let (rates, processes) = (Rates::choose(&mut random), random.usize(2..4));
    let mut world = World::new(ground, seed, rates, processes).await.expect("a database without faults");
    world.book().tell(&format!("{processes} processes, {rates:?}"));
    let (flights, calls, watch, streams) = Default::default();
    let mut simulation =
        Simulation { world, random: &mut random, flights, calls, sent: 0, watch, streams, created: 0, shaken: false };
    simulation.run().await;
    world = simulation.world;
    let book = world.book.clone();
    if let Some(name) = world.end().await {
        book.lock().expect("nobody panicked").fault(format!("the task {name:?} panicked"));
    }
    let mut book = book.lock().expect("nobody panicked");
    let story = std::mem::take(&mut book.story);
    match book.wrong.take() {
        Some(wrong) => (Err(wrong), story),
        None => (Ok(std::mem::take(&mut book.clients.acknowledged)), story),
    }
}

/// One process in which nothing goes wrong, and an office in use.
pub(super) fn quietly(test: impl AsyncFnOnce(Tasks, OfficeId)) {
    let (ground, rates) = (Ground::new(), Rates { fails: 0, slow: 0, given_up: 0, dies: 0 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let world = World::new(&ground, 0, rates, 1).await.expect("a database without faults");
        let process = world.processes[0].as_ref().expect("it has started");
        test(process.tasks.clone(), world.office).await;
        let wrong = world.book().wrong.take();
        assert_eq!((wrong, world.end().await), (None, None));
    });
}

/// What is printed of a simulation that failed: how to run it again, and its last steps.
fn report(seed: u64, wrong: &str, story: &[String]) -> String {
    const SHOWN: usize = 40;
    let end = story.iter().position(|line| line.contains("WRONG")).map_or(story.len(), |at| at + 1);
    let shown = story[end.saturating_sub(SHOWN)..end].join("\n");
    format!("seed {seed}: {wrong}\n{shown}\nagain: MI_TEST_SEED={seed} cargo nextest run -p mi-tasks simulation")
}

/// Runs these seeds on so many threads; what was acknowledged in all of them together.
fn simulate_all(seeds: &[u64], threads: usize) -> Result<BTreeMap<&'static str, usize>, String> {
    let next = AtomicU64::new(0);
    let work = || {
        let (ground, mut all) = (Ground::new(), BTreeMap::new());
        while let Some(seed) = usize::try_from(next.fetch_add(1, Relaxed)).ok().and_then(|place| seeds.get(place)) {
            let (outcome, story) = simulate(&ground, *seed);
            let acknowledged = outcome.map_err(|wrong| {
                next.store(u64::MAX / 2, Relaxed);
                report(*seed, &wrong, &story)
            })?;
            acknowledged.into_iter().for_each(|(what, count)| *all.entry(what).or_default() += count);
        }
        Ok::<BTreeMap<&'static str, usize>, String>(all)
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = BTreeMap::new();
        for thread in running {
            thread
                .join()
                .expect("panics are caught")?
                .into_iter()
                .for_each(|(what, count)| *all.entry(what).or_default() += count);
        }
        Ok(all)
    })
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|given| given.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn the_queue_keeps_its_word_whatever_happens() {
    if let Some(seed) = number("MI_TEST_SEED") {
        let (outcome, story) = simulate(&Ground::new(), seed);
        println!("{}", story.join("\n"));
        println!("{:?}", outcome.unwrap_or_else(|wrong| panic!("{}", report(seed, &wrong, &story))));
        return;
    }
    let (seeds, threads) = match number("MI_SIM_SEEDS") {
        Some(seeds) => (seeds, thread::available_parallelism().map_or(1, Into::into)),
        None => (SEEDS, 1),
    };
    let seeds: Vec<u64> = KEPT.iter().copied().chain(0..seeds).collect();
    let acknowledged = simulate_all(&seeds, threads).unwrap_or_else(|text| panic!("{text}"));
    println!("{} seeds: {acknowledged:?}", seeds.len());
    for what in [
        "create",
        "claim",
        "renew",
        "release",
        "complete",
        "fail",
        "cancel",
        "retry",
        "verify",
        "assign",
        "claim next",
        "over a stream",
    ] {
        assert!(
            acknowledged.get(what).is_some_and(|count| *count > 0),
            "no {what} was acknowledged in any of them: nothing is shown of it"
        );
    }
}

#[test]
fn a_seed_says_all() {
    let ground = Ground::new();
    let stories: Vec<(Outcome, Vec<String>)> = (0..2).map(|_| simulate(&ground, 7)).collect();
    let first = stories[0].1.iter().zip(&stories[1].1).find(|(one, other)| one != other);
    assert_eq!(first, None, "the stories part here");
    assert_eq!(stories[0].0, stories[1].0);
}
