//! Who works in an office, as the scheduler tells: asked at most about once a second, however many want to know. What is
//! known may be old: see [`RosterFreshness`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta};
use mi_kernel::{AgentId, Error, OfficeId, Result, TaskId, Time, text};
use mi_proto::{
    internal::v1::{Ability, ListMembersRequest, Member, agent_registry_service_client::AgentRegistryServiceClient},
    v1,
};
use mi_rpc::{RoleClient, status::from_status};
use moka::sync::Cache;
use tokio::{sync::Mutex, time::Instant};

/// How long an answer is used: whoever was fired or paused is taken for a worker at most this much longer.
const FRESH: Duration = Duration::from_secs(1);
/// Offices that are remembered at a time.
const CAPACITY: u64 = 10_000;
/// How old a roster may be, and how far apart the clocks: who is younger may be missing on it and there all the same.
const YOUNG: TimeDelta = TimeDelta::seconds(5);
/// How far the hour of a hire and that of a question after it may be apart, though the one came before the other.
const APART: TimeDelta = TimeDelta::seconds(2);

/// The last answer of the scheduler, and when it came. Whoever asks holds the lock meanwhile, and others wait in order.
type Known = Arc<Mutex<Option<(Instant, std::result::Result<Arc<Vec<Member>>, tonic::Status>)>>>;

/// The agents of all offices.
#[derive(Clone)]
pub struct Members {
    registry: AgentRegistryServiceClient<RoleClient>,
    known: Cache<OfficeId, Known>,
}

impl Members {
    /// As the scheduler's registry tells.
    pub fn new(registry: AgentRegistryServiceClient<RoleClient>) -> Self {
        Self { registry, known: Cache::builder().max_capacity(CAPACITY).build() }
    }

    /// The office's agents, by name. Who asks while another waits for the answer gets the same one.
    ///
    /// # Errors
    /// What the scheduler answers.
    pub async fn list(&self, office_id: OfficeId) -> Result<Arc<Vec<Member>>> {
        let began = Instant::now();
        let known = self.known.get_with(office_id, Known::default);
        let mut known = known.lock().await;
        let answer = match known.take() {
            Some((at, answer)) if at >= began || answer.is_ok() && at.elapsed() <= FRESH => (at, answer),
            _ => {
                let answer = self.ask(office_id).await;
                (Instant::now(), answer)
            }
        };
        known.insert(answer).1.clone().map_err(|status| from_status(&status))
    }

    async fn ask(&self, office_id: OfficeId) -> std::result::Result<Arc<Vec<Member>>, tonic::Status> {
        let (mut registry, mut members) = (self.registry.clone(), Vec::new());
        let mut request = ListMembersRequest { office_id: office_id.to_string(), after_name: String::new() };
        loop {
            let page = registry.list_members(request.clone()).await?.into_inner();
            members.extend(page.members);
            request.after_name = page.next_after_name;
            if request.after_name.is_empty() {
                return Ok(Arc::new(members));
            }
        }
    }

    /// Asks anew the next time.
    pub fn forget(&self, office_id: OfficeId) {
        self.known.invalidate(&office_id);
    }

    /// The agent of this name, in whatever case it is written.
    ///
    /// # Errors
    /// `NotFound` when the office has none.
    pub async fn find(&self, office_id: OfficeId, name: &str) -> Result<Member> {
        let name = text::lookup_name("agent", name)?;
        let found = self.among(office_id, &BTreeSet::from([name.clone()])).await?;
        found.into_iter().next().ok_or_else(|| Error::not_found("agent", name))
    }

    /// The agents of these names, in lower case, as far as there are any.
    ///
    /// # Errors
    /// What the scheduler answers.
    pub async fn among(&self, office_id: OfficeId, names: &BTreeSet<String>) -> Result<Vec<Member>> {
        let pick = |members: &[Member]| -> Vec<Member> {
            members.iter().filter(|member| names.contains(&member.name)).cloned().collect()
        };
        let found = pick(&self.list(office_id).await?);
        if found.len() == names.len() {
            return Ok(found);
        }
        // One may have been hired since: whoever hires and then writes to the new one must not be told that there is none.
        self.forget(office_id);
        Ok(pick(&self.list(office_id).await?))
    }
}

/// Why none of the agents takes a task that is queued, if none of them does before somebody changes something; those who are
/// elsewhere, and operators, may take what they like.
pub(super) fn unable(members: &[Member], task: &v1::Task) -> Option<Error> {
    let is_command = task.kind() == v1::TaskKind::Command;
    let does = |member: &Member| match member.ability() {
        Ability::Unspecified => true,
        Ability::Commands => is_command,
        Ability::None => false,
    };
    let kept_for = members.iter().find(|member| member.name == task.assigned_agent);
    match kept_for {
        Some(agent) if !agent.working => {
            let text = format!(
                "agent {:?}, which it is kept for, is stopped or paused; start it, or assign another",
                agent.name
            );
            Some(Error::precondition("AGENT_NOT_WORKING", text))
        }
        Some(agent) if agent.ability() == Ability::None => {
            let text = format!(
                "agent {:?}, which it is kept for, runs a program instead of doing tasks; assign another",
                agent.name
            );
            Some(Error::precondition("AGENT_NOT_WORKING", text))
        }
        Some(agent) if !does(agent) => {
            Some(no_model(&format!("agent {:?}, which it is kept for, was started", agent.name)))
        }
        Some(_) => None,
        None => {
            let lacks = members.iter().any(|member| member.working && member.ability() == Ability::Commands);
            let is_stuck = task.assigned_agent.is_empty() && lacks && !members.iter().any(does);
            is_stuck.then(|| no_model("the agents here were started"))
        }
    }
}

fn no_model(who: &str) -> Error {
    let text = format!(
        "{who} without a model, and it takes one; set the key of a provider (`mi integrations set-secret`) and restart, or have a \
         command done"
    );
    Error::precondition("NO_MODEL", text)
}

/// Whether the agent was hired so short a time before, as its id tells, or later.
fn is_younger(agent: AgentId, than: TimeDelta, at: Time) -> bool {
    let hired = agent.0.get_timestamp().and_then(|time| {
        let (seconds, nanos) = time.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
    });
    hired.is_some_and(|hired| at - hired < than)
}

/// How fresh a roster is, which says whether an agent that is missing on it is gone; by default it may be old.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RosterFreshness {
    /// When the scheduler was asked for it, if that is known.
    pub(super) asked: Option<Time>,
    /// The agent whose end the scheduler told of before that.
    pub(super) told: Option<AgentId>,
}

impl RosterFreshness {
    /// Whether it was not just hired.
    pub(super) fn is_gone(self, agent: AgentId, now: Time) -> bool {
        let young = self.asked.map_or(is_younger(agent, YOUNG, now), |asked| is_younger(agent, APART, asked));
        self.told == Some(agent) || !young
    }
}

/// A look at the agents.
#[derive(Debug, Clone, Default)]
pub(super) struct Reconcile {
    pub(super) freshness: RosterFreshness,
    /// The last task that was looked at for its tools, with those; none: nothing was yet.
    pub(super) after: Option<(Vec<String>, TaskId)>,
}

impl Reconcile {
    pub(super) fn new(freshness: RosterFreshness) -> Self {
        Self { freshness, after: None }
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    #[test]
    fn what_nobody_takes_says_why() {
        let member = |name: &str, working: bool, ability: Ability| Member {
            name: name.into(),
            working,
            ability: ability.into(),
            ..Member::default()
        };
        let (plain, stopped) =
            (member("plain", true, Ability::Commands), member("stopped", false, Ability::Unspecified));
        let (thinks, program) = (member("thinks", true, Ability::Unspecified), member("program", true, Ability::None));
        let all = [plain.clone(), stopped, thinks, program.clone()];
        let few = [plain, program];
        let (general, command) = (v1::TaskKind::General, v1::TaskKind::Command);
        for (members, kind, agent, word) in [
            (&all[..], general, "plain", Some("NO_MODEL")),
            (&all, command, "plain", None),
            (&all, general, "stopped", Some("AGENT_NOT_WORKING")),
            (&all, general, "thinks", None),
            (&all, command, "program", Some("AGENT_NOT_WORKING")),
            (&all, general, "", None),
            (&few, general, "", Some("NO_MODEL")),
            (&few, command, "", None),
            // Whoever else there is, nobody here knows.
            (&few, general, "gone", None),
            (&[], general, "", None),
        ] {
            let task = v1::Task { kind: kind.into(), assigned_agent: agent.into(), ..v1::Task::default() };
            assert_eq!(unable(members, &task).map(|why| why.reason), word, "{kind:?} of {agent:?}");
        }
    }

    #[test]
    fn who_was_hired_after_the_question_is_not_gone() {
        let agent = AgentId::new();
        let hired = SystemClock.now();
        let at = |seconds| hired + TimeDelta::seconds(seconds);
        let asked = |seconds| RosterFreshness { asked: Some(at(seconds)), told: None };
        // The answer may arrive at any time.
        assert!(!asked(-10).is_gone(agent, at(60)));
        assert!(!asked(1).is_gone(agent, at(60)));
        assert!(asked(3).is_gone(agent, at(3)));
        assert!(RosterFreshness { asked: Some(at(0)), told: Some(agent) }.is_gone(agent, at(0)), "its end was told");
        assert!(!RosterFreshness::default().is_gone(agent, at(4)));
        assert!(RosterFreshness::default().is_gone(agent, at(6)));
    }
}
