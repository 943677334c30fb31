//! How many calls are under way, by office, agent and provider.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_kernel::{AgentActor, AgentId, Error, OfficeId, Result};

use crate::Limits;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Office(OfficeId),
    Agent(AgentId),
    Provider(String),
}

/// Counts calls. Clones share the counts.
#[derive(Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<HashMap<Key, usize>>>);

/// A call that is counted until this is dropped.
pub(crate) struct Slot {
    slots: Slots,
    keys: [Key; 3],
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call in.
    ///
    /// # Errors
    /// `Exhausted`, naming what has too many.
    pub(crate) fn take(&self, limits: &Limits, agent: &AgentActor, provider: &str) -> Result<Slot> {
        let keys = [Key::Office(agent.office_id), Key::Agent(agent.agent_id), Key::Provider(provider.to_owned())];
        let most = [limits.per_office, limits.per_agent, limits.per_provider];
        let mut counts = self.lock();
        for ((key, most), whose) in keys.iter().zip(most).zip(["the office", "the agent", "the provider"]) {
            if counts.get(key).is_some_and(|count| *count >= most) {
                let text = format!("{whose} has {most} calls of models under way already; wait for some to end");
                return Err(Error::exhausted("TOO_MANY_CALLS", text, Duration::from_secs(1)));
            }
        }
        for key in &keys {
            *counts.entry(key.clone()).or_default() += 1;
        }
        drop(counts);
        Ok(Slot { slots: self.clone(), keys })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.lock();
        for key in &self.keys {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_met_on_its_own_and_what_ends_makes_room() {
        let agent = |office_id| AgentActor { office_id, agent_id: AgentId::new(), name: "a".into() };
        let limits = Limits { per_office: 2, per_agent: 1, per_provider: 3, ..Limits::default() };
        let (slots, office) = (Slots::default(), OfficeId::new());
        let [a, b, c, d, e] = [office, office, office, OfficeId::new(), OfficeId::new()].map(agent);
        let refused = |agent| slots.take(&limits, agent, "p").map(|_| ()).expect_err("full").message;
        let first = slots.take(&limits, &a, "p").expect("room");
        assert!(refused(&a).starts_with("the agent has 1"), "its own limit");
        let _second = slots.take(&limits, &b, "p").expect("room");
        assert!(refused(&c).starts_with("the office has 2"));
        let _third = slots.take(&limits, &d, "p").expect("another office");
        assert!(refused(&e).starts_with("the provider has 3"));
        let _other = slots.take(&limits, &e, "q").expect("another provider");
        drop(first);
        slots.take(&limits, &c, "p").expect("room again");
        // A refusal counts nothing.
        assert_eq!(slots.lock().len(), 3 + 3 + 2);
    }
}
