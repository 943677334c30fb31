//! Who works in an office, as the scheduler tells: asked at most about once a second, however many want to know, and once for
//! all offices whose agents do not change. What is known may be old: see [`RosterFreshness`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta};
use mi_base::shared_answer::{Answered, SharedAnswer};
use mi_kernel::{AgentId, Error, OfficeId, Result, TaskId, Time, text};
use mi_proto::{
    internal::v1::{
        Ability, ListChangedRostersRequest, ListChangedRostersResponse, ListMembersRequest, Member,
        agent_registry_service_client::AgentRegistryServiceClient,
    },
    v1,
};
use mi_rpc::{RoleClient, status::from_status};
use moka::sync::Cache;
use tokio::time::{Instant, timeout};

/// How long an answer is used: whoever was fired or paused is taken for a worker at most this much longer.
const FRESH: Duration = Duration::from_secs(1);
/// How long it is used while the scheduler, asked within [`FRESH`], says that nothing changed in the office.
const KEPT: Duration = Duration::from_secs(60);
/// How long to wait for the scheduler to say what changed, before offices are asked for one by one.
const QUESTION: Duration = Duration::from_secs(2);
/// Offices that are remembered at a time.
const CAPACITY: u64 = 10_000;
/// How old a roster may be, and how far apart the clocks: who is younger may be missing on it and there all the same.
const YOUNG: TimeDelta = TimeDelta::seconds(5);
/// How far the hour of a hire and that of a question after it may be apart, though the one came before the other.
const APART: TimeDelta = TimeDelta::seconds(2);

type Answer = std::result::Result<Arc<Vec<Member>>, tonic::Status>;

/// The agents of all offices.
#[derive(Clone)]
pub struct Members {
    registry: AgentRegistryServiceClient<RoleClient>,
    known: Cache<OfficeId, Arc<SharedAnswer<Answer>>>,
    changes: Arc<Changes>,
}

impl Members {
    /// As the scheduler's registry tells.
    pub fn new(registry: AgentRegistryServiceClient<RoleClient>) -> Self {
        let known = Cache::builder().max_capacity(CAPACITY).build();
        Self { changes: Arc::new(Changes::new(registry.clone())), registry, known }
    }

    /// The office's agents, by name. Who asks while another waits for the answer gets the same one.
    ///
    /// # Errors
    /// What the scheduler answers.
    pub async fn list(&self, office_id: OfficeId) -> Result<Arc<Vec<Member>>> {
        let known = self.known.get_with(office_id, Arc::default);
        let stands = async |known: Answered<Answer>| {
            let age = known.asked.elapsed();
            known.answer.is_ok()
                && (age <= FRESH || (age <= KEPT && self.changes.none_since(office_id, known.asked).await))
        };
        let ask = || {
            let members = self.clone();
            async move { members.ask(office_id).await }
        };
        let answer = known.get(stands, ask).await;
        answer.map_err(|status| from_status(&status))
    }

    async fn ask(&self, office_id: OfficeId) -> Answer {
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

/// In which offices agents changed, as the scheduler tells.
struct Changes {
    registry: AgentRegistryServiceClient<RoleClient>,
    /// Whether it could be told.
    last: SharedAnswer<bool>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// When the scheduler answered last, by its database's clock, and what it had seen: the next answer goes on from there.
    seen: (i64, String),
    /// When it told of an office last. What was told longer than [`KEPT`] ago is forgotten.
    offices: HashMap<OfficeId, Instant>,
    /// The same, of all.
    all: Option<Instant>,
}

impl Told {
    /// A change is told once, and was not there yet for whoever asked for the office's agents any time before the answer.
    fn take(&mut self, answer: ListChangedRostersResponse) {
        let now = Instant::now();
        self.offices.retain(|_, at| at.elapsed() <= KEPT);
        let offices = answer.office_ids.iter().filter_map(|id| OfficeId::parse(id).ok());
        self.offices.extend(offices.map(|office_id| (office_id, now)));
        self.seen = (answer.now_ms, answer.position);
        self.all = if answer.all { Some(now) } else { self.all };
    }

    fn none_since(&self, office_id: OfficeId, asked: Instant) -> bool {
        let told = self.offices.get(&office_id).into_iter().chain(&self.all);
        told.into_iter().all(|told| *told <= asked)
    }
}

impl Changes {
    fn new(registry: AgentRegistryServiceClient<RoleClient>) -> Self {
        Self { registry, last: SharedAnswer::default(), told: Mutex::default() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the scheduler, asked within [`FRESH`], has told of no change in the office since then.
    async fn none_since(self: &Arc<Self>, office_id: OfficeId, asked: Instant) -> bool {
        let stands = async |known: Answered<bool>| known.holds_for(FRESH);
        let ask = || {
            let changes = self.clone();
            async move { changes.ask().await }
        };
        self.last.get(stands, ask).await && self.told().none_since(office_id, asked)
    }

    async fn ask(&self) -> bool {
        let (since_ms, position) = self.told().seen.clone();
        let mut registry = self.registry.clone();
        let question = registry.list_changed_rosters(ListChangedRostersRequest { since_ms, position });
        let answer =
            timeout(QUESTION, question).await.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
        match answer {
            Ok(answer) => {
                self.told().take(answer.into_inner());
                true
            }
            Err(status) => {
                tracing::debug!(target: "mi::tasks", error = status.message(), "offices are asked for one by one");
                false
            }
        }
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
    use tokio::time::advance;

    use super::*;
    use crate::tests::registry::Registry;

    #[tokio::test(start_paused = true)]
    async fn offices_whose_agents_do_not_change_are_asked_about_together() {
        let registry = Registry::default();
        let members = Members::new(registry.client(Arc::new(SystemClock)));
        let offices = [(); 3].map(|()| OfficeId::new());
        let [a, b, c] = offices.map(|office| office.to_string());
        let tells = |position: &str, office_ids: &[&String], all| {
            let (office_ids, position) = (office_ids.iter().map(ToString::to_string).collect(), position.into());
            registry.asked().changed = Some(ListChangedRostersResponse { office_ids, now_ms: 1, all, position });
        };
        // Lists the agents of all offices; whose were asked for, and since when changes were.
        let list = async |after: Duration| {
            advance(after).await;
            for office in offices {
                members.list(office).await.expect("told");
            }
            let mut asked = registry.asked();
            (std::mem::take(&mut asked.listed), std::mem::take(&mut asked.since))
        };
        let (later, soon) = (FRESH + Duration::from_millis(1), FRESH / 2);
        let all = || vec![a.clone(), b.clone(), c.clone()];
        let since = |now_ms, position: &str| vec![(now_ms, position.to_owned())];

        assert_eq!(list(soon).await, (all(), vec![]));
        assert_eq!(list(soon).await, (vec![], vec![]));
        tells("first", &[], true);
        assert_eq!(list(later).await, (all(), since(0, "")), "it cannot know yet what changed before");
        tells("second", &[], false);
        assert_eq!(list(later).await, (vec![], since(1, "first")));
        assert_eq!(list(soon).await, (vec![], vec![]));
        tells("third", &[&b], false);
        registry.members().push(Member { name: "new".into(), ..Member::default() });
        assert_eq!(list(soon + later).await, (vec![b.clone()], since(1, "second")));
        assert_eq!(members.list(offices[1]).await.expect("told")[0].name, "new");
        tells("fourth", &[], false);
        assert_eq!(list(later).await, (vec![], since(1, "third")));
        tells("fifth", &[&c, &a], false);
        assert_eq!(list(later).await, (vec![a.clone(), c.clone()], since(1, "fourth")));
        // What has gone unseen for long is asked for again, and so is everything that nobody tells of.
        tells("sixth", &[], false);
        assert_eq!(list(KEPT + soon).await, (all(), vec![]));
        registry.asked().changed = None;
        assert_eq!(list(later).await, (all(), since(1, "fifth")), "whoever waits meanwhile shares that, too");
        members.forget(offices[2]);
        assert_eq!(list(soon).await, (vec![c.clone()], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_is_told_once_concerns_whoever_asked_before_the_answer() {
        let (office, other, mut told) = (OfficeId::new(), OfficeId::new(), Told::default());
        let asked = Instant::now();
        advance(Duration::from_millis(1)).await;
        let office_ids = vec![office.to_string()];
        told.take(ListChangedRostersResponse { office_ids, ..ListChangedRostersResponse::default() });
        let after = Instant::now();
        assert_eq!([asked, after].map(|asked| told.none_since(office, asked)), [false, true]);
        assert!(told.none_since(other, asked));
    }

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
