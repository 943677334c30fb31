//! What the feed says of each task.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mi_proto::v1::ActivityEvent;
use prost_types::value::Kind;

use super::notes::Note;
use crate::{Result, latency::Latency};

/// The lives of tasks, event by event.
pub(super) struct Ledger {
    lease: Duration,
    tasks: BTreeMap<String, Life>,
    done: usize,
    ran_out: usize,
    /// From the end of a lease until the transaction began that queued the task again, and until the one that claimed it.
    pub(super) queued: Latency,
    pub(super) claimed: Latency,
}

#[derive(Default)]
struct Life {
    /// When the lease ends that it is under, or that it was lost under.
    lease_end: Option<Duration>,
    lost: bool,
    /// The attempt of each completion.
    completions: Vec<i32>,
}

impl Ledger {
    /// Of tasks that are claimed for so long and never longer.
    pub(super) fn new(lease: Duration) -> Result<Self> {
        let (queued, claimed) = (Latency::new()?, Latency::new()?);
        Ok(Self { lease, tasks: BTreeMap::new(), done: 0, ran_out: 0, queued, claimed })
    }

    /// Takes the next event about a task.
    pub(super) fn enter(&mut self, event: &ActivityEvent) -> Result {
        let time: Duration = since_epoch(event)?;
        let (task, attempt) = subject(event).ok_or_else(|| format!("{event:?} is about no task"))?;
        let life = self.tasks.entry(task.to_owned()).or_default();
        let late = |end: Option<Duration>| {
            let late = end.and_then(|end| time.checked_sub(end));
            late.ok_or_else(|| format!("{event:?}: before a lease has ended"))
        };
        match event.r#type.as_str() {
            "task.created" => {}
            "task.claimed" => {
                if std::mem::take(&mut life.lost) {
                    self.claimed.record(late(life.lease_end)?);
                }
                life.lease_end = Some(time + self.lease);
            }
            "task.attempt_failed" => {
                self.queued.record(late(life.lease_end)?);
                self.ran_out += 1;
                life.lost = true;
            }
            // Its worker died while it waited, and the platform knew before it had the answer.
            "task.released" => life.lease_end = None,
            "task.completed" => {
                self.done += usize::from(life.completions.is_empty());
                life.completions.push(attempt);
            }
            other => return Err(format!("{other} of a task that is claimed and completed: {}", event.summary).into()),
        }
        Ok(())
    }

    /// How many tasks are done.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// How many leases ran out.
    pub(super) fn ran_out(&self) -> usize {
        self.ran_out
    }

    /// How many of these tasks were not completed, or more than once; and how many others there are.
    pub(super) fn not_once(&self, tasks: &BTreeSet<String>) -> usize {
        let once = |task: &&String| self.tasks.get(*task).is_some_and(|life| life.completions.len() == 1);
        let strange = self.tasks.keys().filter(|task| !tasks.contains(*task)).count();
        tasks.len() - tasks.iter().filter(once).count() + strange
    }

    /// How many notes tell of a completion that was none.
    pub(super) fn contradicts(&self, notes: &[Note]) -> usize {
        let says = |note: &Note| self.tasks.get(&note.task).is_some_and(|life| life.completions == [note.attempt]);
        notes.iter().filter(|note| !says(note)).count()
    }
}

fn since_epoch(event: &ActivityEvent) -> Result<Duration> {
    let time = event.time.ok_or("an event without its time")?;
    Ok(Duration::new(time.seconds.try_into()?, time.nanos.try_into()?))
}

/// The task and its attempt.
fn subject(event: &ActivityEvent) -> Option<(&str, i32)> {
    let fields = &event.metadata.as_ref()?.fields;
    match (fields.get("task_id")?.kind.as_ref()?, fields.get("attempt")?.kind.as_ref()?) {
        (Kind::StringValue(task), Kind::NumberValue(attempt)) => Some((task, *attempt as i32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Timestamp, Value};

    use super::*;

    /// An event so many milliseconds after the start.
    fn event(task: &str, millis: i64, kind: &str, attempt: i32) -> ActivityEvent {
        let value = |kind| Value { kind: Some(kind) };
        let fields = [
            ("task_id".to_owned(), value(Kind::StringValue(task.into()))),
            ("attempt".to_owned(), value(Kind::NumberValue(attempt.into()))),
        ];
        ActivityEvent {
            r#type: format!("task.{kind}"),
            time: Some(Timestamp { seconds: 100 + millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 }),
            metadata: Some(Struct { fields: fields.into() }),
            ..Default::default()
        }
    }

    fn ledger(events: &[ActivityEvent]) -> Result<Ledger> {
        let mut ledger = Ledger::new(Duration::from_secs(1))?;
        events.iter().try_for_each(|event| ledger.enter(event))?;
        Ok(ledger)
    }

    #[test]
    fn a_lease_that_ran_out_is_measured_from_its_end() {
        let ledger = ledger(&[
            event("a", 0, "created", 0),
            event("a", 10, "claimed", 1),
            event("a", 20, "released", 1),
            event("a", 500, "claimed", 1),
            event("a", 1800, "attempt_failed", 2),
            event("a", 1900, "claimed", 2),
            event("a", 2000, "completed", 2),
        ])
        .expect("a life");
        let near = |latency: &Latency, millis: f64| (latency.millis(1.0) - millis).abs() < 1.0;
        assert!(near(&ledger.queued, 300.0), "{}", ledger.queued.millis(1.0));
        assert!(near(&ledger.claimed, 400.0), "{}", ledger.claimed.millis(1.0));
        assert_eq!((ledger.done(), ledger.ran_out()), (1, 1));
    }

    #[test]
    fn what_is_not_completed_once_is_counted() {
        let twice = ledger(&[
            event("once", 0, "completed", 1),
            event("twice", 0, "completed", 1),
            event("twice", 5, "completed", 2),
            event("never", 5, "claimed", 1),
            event("strange", 5, "completed", 1),
        ])
        .expect("lives");
        let tasks = ["once", "twice", "never", "missing"].map(str::to_owned).into();
        assert_eq!(twice.not_once(&tasks), 4);
        assert_eq!(twice.done(), 3);
        let note = |task: &str, attempt| Note { task: task.into(), lease: "l".into(), attempt };
        assert_eq!(twice.contradicts(&[note("once", 1), note("once", 2), note("never", 1), note("twice", 1)]), 3);
    }

    #[test]
    fn what_must_not_happen_is_an_error() {
        let failed = |events: &[ActivityEvent]| ledger(events).err().expect("refused").to_string();
        let early = failed(&[event("a", 0, "claimed", 1), event("a", 999, "attempt_failed", 2)]);
        assert!(early.ends_with("before a lease has ended"), "{early}");
        assert!(failed(&[event("a", 0, "failed", 1)]).starts_with("task.failed of a task"));
    }
}
