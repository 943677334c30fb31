//! Refused calls and credentials on their way to the feed of the office they were aimed at.
//!
//! A refusal changes nothing, so it needs no transaction; but a stranger can cause as many as they like. The same one is
//! therefore told once, and then at most once a minute with how often it happened: what is kept here is bounded by what
//! can be told apart, not by who knocks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_kernel::{
    Clock, Error, EventId, OfficeId, Result, Time,
    event::{Category, Event},
};
use serde_json::json;
use tokio::sync::Notify;

/// How soon a refusal is told.
const SOON: Duration = Duration::from_millis(200);
/// How long the same one is only counted after it was told.
const QUIET: Duration = Duration::from_secs(60);
/// Different refusals kept at once, and of one office, so that one that is flooded leaves room for the others. More are
/// dropped.
const MOST: usize = 4096;
const MOST_OF_OFFICE: usize = 64;

/// What was refused. Equal ones are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// In whose feed it belongs.
    pub office_id: OfficeId,
    /// The agent it concerns; empty: none.
    pub agent: String,
    /// Type of the event.
    pub kind: &'static str,
    /// A sentence for people.
    pub summary: String,
    /// Where the call came from, or what was called.
    pub detail: String,
}

#[derive(Debug, Default)]
struct Count {
    /// How often since it was last told.
    untold: u64,
    told_at: Option<Time>,
    trace_id: String,
}

/// The refusals of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: Mutex<HashMap<Refusal, Count>>,
    wake: Notify,
}

impl Refusals {
    fn counts(&self) -> MutexGuard<'_, HashMap<Refusal, Count>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note.
    pub fn note(&self, refusal: Refusal, trace_id: &str) {
        let mut counts = self.counts();
        if !counts.contains_key(&refusal) {
            let of_office = counts.keys().filter(|known| known.office_id == refusal.office_id).count();
            if counts.len() >= MOST || of_office >= MOST_OF_OFFICE {
                tracing::debug!(target: "mi::rpc", office = %refusal.office_id, "too many refusals to tell them all");
                return;
            }
        }
        let count = counts.entry(refusal).or_default();
        count.untold += 1;
        if count.untold == 1 {
            trace_id.clone_into(&mut count.trace_id);
        }
        self.0.wake.notify_one();
    }

    /// What is to be told now, as events; it is not told again.
    pub fn due(&self, now: Time) -> Vec<Event> {
        let mut events = Vec::new();
        self.counts().retain(|refusal, count| {
            if count.told_at.is_some_and(|at| at + QUIET > now) {
                return true;
            }
            if count.untold == 0 {
                return false;
            }
            events.push(event(refusal, count, now));
            *count = Count { told_at: Some(now), ..Count::default() };
            true
        });
        events
    }

    /// Tells them for ever. What cannot be delivered is lost after a line in the log: the feed cannot be reached, and a
    /// refusal is no reason to fill memory.
    pub async fn deliver<F>(self, clock: Arc<dyn Clock>, mut deliver: impl FnMut(Vec<Event>) -> F)
    where
        F: Future<Output = Result<(), Error>>,
    {
        loop {
            let counted = self.counts().values().any(|count| count.untold > 0);
            // Something that was told a moment ago was refused again: its minute has to pass.
            let pause = if counted { Duration::from_secs(1) } else { Duration::MAX };
            let _ = tokio::time::timeout(pause, self.0.wake.notified()).await;
            tokio::time::sleep(SOON).await;
            let events = self.due(clock.now());
            if events.is_empty() {
                continue;
            }
            let number = events.len();
            if let Err(error) = deliver(events).await {
                tracing::warn!(target: "mi::rpc", error = %error.chain(), number, "refusals did not reach the feed");
            }
        }
    }
}

fn event(refusal: &Refusal, count: &Count, now: Time) -> Event {
    let times = if count.untold == 1 { String::new() } else { format!(" ({} times)", count.untold) };
    Event {
        id: EventId::new(),
        office_id: refusal.office_id,
        agent: refusal.agent.clone(),
        category: Category::Security,
        kind: refusal.kind.to_owned(),
        summary: format!("{}{times}", refusal.summary),
        time: now,
        metadata: json!({ "detail": refusal.detail, "count": count.untold }),
        trace_id: count.trace_id.clone(),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests join what they spawn")]
mod tests {
    use mi_kernel::SystemClock;

    use super::*;

    fn refusal(office_id: OfficeId, agent: &str) -> Refusal {
        Refusal {
            office_id,
            agent: agent.into(),
            kind: "access.refused",
            summary: "refused".into(),
            detail: "GetOffice".into(),
        }
    }

    #[test]
    fn the_same_is_told_once_and_then_counted_for_a_minute() {
        let (refusals, office, now) = (Refusals::default(), OfficeId::new(), SystemClock.now());
        let told = |at: Time| -> Vec<(String, String, serde_json::Value)> {
            let events = refusals.due(at);
            events.into_iter().map(|event| (event.agent, event.summary, event.metadata["count"].clone())).collect()
        };
        refusals.note(refusal(office, "a"), "t1");
        assert_eq!(told(now), [("a".into(), "refused".into(), json!(1))]);
        for _ in 0..1000 {
            refusals.note(refusal(office, "a"), "t2");
        }
        refusals.note(refusal(office, "b"), "t3");
        assert_eq!(told(now + Duration::from_secs(59)), [("b".into(), "refused".into(), json!(1))]);
        let later = now + QUIET;
        assert_eq!(told(later), [("a".into(), "refused (1000 times)".into(), json!(1000))]);
        // A quiet minute later nothing is kept.
        assert_eq!(told(later + QUIET), []);
        assert!(refusals.counts().is_empty());
    }

    #[test]
    fn a_flood_of_different_ones_is_bounded() {
        let refusals = Refusals::default();
        for _ in 0..MOST + 100 {
            refusals.note(refusal(OfficeId::new(), ""), "");
        }
        assert_eq!(refusals.counts().len(), MOST);
        let (refusals, office) = (Refusals::default(), OfficeId::new());
        for number in 0..MOST_OF_OFFICE + 100 {
            refusals.note(refusal(office, &number.to_string()), "");
        }
        refusals.note(refusal(OfficeId::new(), ""), "");
        assert_eq!(refusals.counts().len(), MOST_OF_OFFICE + 1);
    }

    #[tokio::test]
    async fn they_are_delivered() {
        let (refusals, office) = (Refusals::default(), OfficeId::new());
        let (sent, mut told) = tokio::sync::mpsc::channel(8);
        let delivering = refusals.clone().deliver(SystemClock::shared(), move |events| {
            let sent = sent.clone();
            async move { sent.send(events).await.map_err(Error::internal) }
        });
        let delivering = tokio::spawn(delivering);
        refusals.note(refusal(office, "a"), "trace");
        let events = tokio::time::timeout(Duration::from_secs(10), told.recv()).await.expect("in time").expect("sent");
        let [event] = &events[..] else { panic!("{events:?}") };
        assert_eq!((event.office_id, event.category, event.trace_id.as_str()), (office, Category::Security, "trace"));
        delivering.abort();
    }
}
