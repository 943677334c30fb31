//! The pure half of the scheduler: from what should be and what is seen to the one next step. No IO; time is passed in.

use std::time::Duration;

use mi_kernel::{Time, backoff::Backoff};
use mi_runtime::Instance;

use crate::agents::{Agent, Desired, State};

/// An instance that has not reported for this long after its start is given up.
pub const START_LIMIT: Duration = Duration::from_secs(60);
/// An instance that was silent for this long is given up.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// An agent that runs elsewhere and was silent for this long is offline.
pub const OFFLINE_AFTER: Duration = Duration::from_secs(120);
/// An instance that ran for this long was healthy: its end starts a new count of failures.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// Nothing else happening, an instance that waits for something is looked at this often, and what is under way twice as often
/// as that.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// After this many ends in a row the agent is `Failed`.
pub const MAX_FAILURES: i32 = 10;
/// After this many failed backups in a row a fire is given up, or goes on without one when it is forced.
pub const MAX_BACKUP_FAILURES: i32 = 5;
/// Waits between instances that end.
pub const RESTART_BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

/// What to do next for one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedAction {
    /// Nothing, until something changes.
    Rest,
    /// Nothing, until this time.
    Wait(Time),
    /// Nothing, until this time, or for as long as signs of life go on.
    Listen(Time),
    /// End what runs and start an instance of the current generation. The text says what was lost, if anything was.
    Launch {
        /// Why an earlier instance is missing.
        lost: Option<&'static str>,
    },
    /// End what runs, then record this state.
    Halt(State),
    /// End what is left of the instance and record that it failed.
    GiveUp {
        /// What happened to it.
        reason: String,
        /// Whether it ended by itself, or was only not heard of.
        ended: bool,
    },
    /// Hand the running instance a token for a new key: the one it had was revoked.
    Enrol,
    /// End what runs, back the workspace up, and remove the agent.
    Release,
    /// Record what is seen of an agent that runs elsewhere.
    Observe(State),
    /// Remove an agent that runs elsewhere: there is nothing to end and nothing to back up.
    Dismiss,
}

/// The next action. Safe to ask again at any time: an action that was done is not planned again.
pub fn plan(agent: &Agent, office_active: bool, seen: Option<&Instance>, now: Time) -> PlannedAction {
    if agent.external {
        return elsewhere(agent, office_active, now);
    }
    let settled = |state: State| match agent.state == state && agent.observed_generation == agent.generation {
        true if seen.is_none() => PlannedAction::Rest,
        _ => PlannedAction::Halt(state),
    };
    match agent.desired {
        Desired::Fire { .. } => match agent.state {
            State::Terminating { retry_at: Some(at), .. } if at > now => PlannedAction::Wait(at),
            _ => PlannedAction::Release,
        },
        Desired::Stop if matches!(agent.state, State::Failed { .. }) && seen.is_none() => PlannedAction::Rest,
        Desired::Stop => settled(State::Stopped),
        Desired::Pause => settled(agent.state.clone()),
        Desired::Run if !office_active => settled(State::Suspended),
        Desired::Run => run(agent, seen, now),
    }
}

fn elsewhere(agent: &Agent, office_active: bool, now: Time) -> PlannedAction {
    if matches!(agent.desired, Desired::Fire { .. }) {
        return PlannedAction::Dismiss;
    }
    let silent_at = agent.last_seen_at.unwrap_or(agent.created_at) + OFFLINE_AFTER;
    let state = match office_active {
        _ if agent.desired == Desired::Pause => agent.state.clone(),
        false => State::Suspended,
        true if silent_at > now => State::Online,
        true => State::Offline,
    };
    match agent.state == state && agent.observed_generation == agent.generation {
        false => PlannedAction::Observe(state),
        true if state == State::Online => PlannedAction::Listen(silent_at),
        true => PlannedAction::Rest,
    }
}

fn run(agent: &Agent, seen: Option<&Instance>, now: Time) -> PlannedAction {
    let (instance, generation, since) = match &agent.state {
        State::Failed { .. } if seen.is_none() => return PlannedAction::Rest,
        State::Failed { .. } => return PlannedAction::Halt(agent.state.clone()),
        State::BackingOff { retry_at, .. } if *retry_at > now => return PlannedAction::Wait(*retry_at),
        State::Pending
        | State::Stopped
        | State::Suspended
        | State::Paused { .. }
        | State::BackingOff { .. }
        // What only external agents are.
        | State::Online
        | State::Offline
        // A fire that was taken back; the row says Run, so it runs.
        | State::Terminating { .. } => return PlannedAction::Launch { lost: None },
        State::Starting {
            instance,
            generation,
            since,
        }
        | State::Running {
            instance,
            generation,
            since,
        } => (*instance, *generation, *since),
    };
    match seen {
        _ if generation != agent.generation => PlannedAction::Launch { lost: None },
        None => PlannedAction::Launch { lost: Some("the platform was restarted") },
        Some(seen) if seen.id != instance => PlannedAction::Launch { lost: None },
        Some(Instance { altered: true, .. }) => {
            PlannedAction::Launch { lost: Some("somebody changed what it runs on") }
        }
        Some(Instance { exit: Some(reason), .. }) => PlannedAction::GiveUp { reason: reason.clone(), ended: true },
        Some(Instance { exit: None, waiting, up_since, .. }) => {
            let keyless = agent.public_key.is_none();
            let token_until = agent.enrol_sha256.as_ref().and(agent.enrol_expires_at);
            let needs_token = match agent.state {
                // Its key was revoked, perhaps before it had said that it runs.
                _ if agent.enrol_sha256.is_none() => true,
                State::Running { .. } => false,
                // One that waited for long finds a token that is still good.
                _ => token_until.is_some_and(|until| until <= now),
            };
            if keyless && needs_token {
                return PlannedAction::Enrol;
            }
            let silence = |limit: Duration, problem: &str| PlannedAction::GiveUp {
                reason: format!("{problem} {} seconds", limit.as_secs()),
                ended: false,
            };
            match agent.state {
                State::Running { .. } => match agent.last_seen_at.unwrap_or(since).max(since) + SILENCE_LIMIT {
                    until if until > now => PlannedAction::Listen(until),
                    _ => silence(SILENCE_LIMIT, "was silent for"),
                },
                _ if waiting.is_some() => {
                    let latest = now + PATIENCE;
                    PlannedAction::Wait(token_until.filter(|_| keyless).map_or(latest, |until| until.min(latest)))
                }
                _ => match since.max(up_since.unwrap_or(since)) + START_LIMIT {
                    until if until > now => PlannedAction::Wait(until),
                    _ => silence(START_LIMIT, "did not report ready within"),
                },
            }
        }
    }
}

/// What is recorded of an instance that was given up: the new state and count of failures.
///
/// Only instances that ended by themselves lead to `Failed`. One that is not heard of may be well, and the way to it broken:
/// it is replaced for ever, at the slowest pace, so that an outage of the gateway leaves no agent behind.
pub fn after_failure(agent: &Agent, reason: &str, ended: bool, now: Time) -> (State, i32) {
    let healthy = matches!(agent.state, State::Running { since, .. } if since + HEALTHY_AFTER <= now);
    let failures = if healthy { 1 } else { agent.failures.saturating_add(1) };
    let failures = if ended { failures } else { failures.min(MAX_FAILURES - 1) };
    let state = if failures >= MAX_FAILURES {
        State::Failed { reason: format!("{reason}; given up after {failures} tries in a row") }
    } else {
        State::BackingOff { retry_at: now + RESTART_BACKOFF.after(failures.unsigned_abs()), reason: reason.to_owned() }
    };
    (state, failures)
}

#[cfg(test)]
mod tests {
    use mi_kernel::{AgentId, BackupId, InstanceId, OfficeId};

    use super::*;
    use crate::agents::Spec;

    fn at(second: i64) -> Time {
        Time::from_timestamp(1_700_000_000 + second, 0).expect("in range")
    }

    fn agent(desired: Desired, state: State) -> Agent {
        Agent {
            id: AgentId::new(),
            office_id: OfficeId::new(),
            name: "analyst".into(),
            external: false,
            hired_by: String::new(),
            lineage: Vec::new(),
            spec: Spec::default(),
            desired,
            generation: 2,
            restore_from: None,
            state,
            failures: 0,
            restarts: 0,
            observed_generation: 2,
            public_key: Some(vec![7; 32]),
            enrol_sha256: None,
            enrol_expires_at: None,
            last_seen_at: None,
            budget: None,
            budget_version: 0,
            budget_reached: String::new(),
            broke: String::new(),
            has_model: true,
            trouble: String::new(),
            revision: 1,
            created_at: at(0),
        }
    }

    fn started(instance: InstanceId, generation: i64) -> State {
        State::Starting { instance, generation, since: at(0) }
    }

    fn running(instance: InstanceId, generation: i64) -> State {
        State::Running { instance, generation, since: at(0) }
    }

    fn seen(id: InstanceId, exit: Option<&str>) -> Instance {
        Instance { exit: exit.map(str::to_owned), ..Instance::up(id) }
    }

    #[test]
    fn a_wanted_agent_is_launched_watched_and_replaced() {
        let id = InstanceId::new();
        let (alive, dead, other) =
            (seen(id, None), seen(id, Some("exited with code 1")), seen(InstanceId::new(), None));
        let launch = PlannedAction::Launch { lost: None };
        let lost = PlannedAction::Launch { lost: Some("the platform was restarted") };
        let gave_up = PlannedAction::GiveUp { reason: "exited with code 1".into(), ended: true };
        let backing_off = State::BackingOff { retry_at: at(10), reason: String::new() };
        let failed = State::Failed { reason: "tired".into() };
        let cases = [
            (State::Pending, None, 0, launch.clone()),
            (State::Stopped, None, 0, launch.clone()),
            (State::Suspended, None, 0, launch.clone()),
            (backing_off.clone(), None, 5, PlannedAction::Wait(at(10))),
            (backing_off, None, 10, launch.clone()),
            (started(id, 2), Some(&alive), 30, PlannedAction::Wait(at(60))),
            (
                started(id, 2),
                Some(&alive),
                60,
                PlannedAction::GiveUp { reason: "did not report ready within 60 seconds".into(), ended: false },
            ),
            (started(id, 2), Some(&dead), 1, gave_up.clone()),
            (started(id, 2), None, 1, lost.clone()),
            (started(id, 1), Some(&alive), 1, launch.clone()),
            (running(id, 2), Some(&alive), 30, PlannedAction::Listen(at(60))),
            (
                running(id, 2),
                Some(&alive),
                61,
                PlannedAction::GiveUp { reason: "was silent for 60 seconds".into(), ended: false },
            ),
            (running(id, 2), Some(&dead), 1, gave_up),
            (running(id, 2), None, 1, lost),
            (running(id, 2), Some(&other), 1, launch.clone()),
            (running(id, 1), Some(&alive), 1, launch),
            (failed.clone(), None, 99, PlannedAction::Rest),
            (failed.clone(), Some(&alive), 99, PlannedAction::Halt(failed)),
        ];
        for (state, seen, now, expected) in cases {
            assert_eq!(
                plan(&agent(Desired::Run, state.clone()), true, seen, at(now)),
                expected,
                "{state:?} {seen:?} {now}"
            );
        }
    }

    #[test]
    fn an_instance_without_a_key_is_handed_a_token_once_and_replaced_when_it_makes_no_use_of_it() {
        let id = InstanceId::new();
        let mut agent = agent(Desired::Run, running(id, 2));
        agent.public_key = None;
        assert_eq!(plan(&agent, true, Some(&seen(id, None)), at(1)), PlannedAction::Enrol);
        agent.enrol_sha256 = Some(vec![1]);
        assert_eq!(plan(&agent, true, Some(&seen(id, None)), at(1)), PlannedAction::Listen(at(60)));
        let given_up = PlannedAction::GiveUp { reason: "was silent for 60 seconds".into(), ended: false };
        assert_eq!(plan(&agent, true, Some(&seen(id, None)), at(60)), given_up);
        // One whose key was revoked after it had enrolled it, and before it said that it runs.
        (agent.state, agent.enrol_sha256) = (started(id, 2), None);
        assert_eq!(plan(&agent, true, Some(&seen(id, None)), at(1)), PlannedAction::Enrol);
    }

    #[test]
    fn an_instance_that_waits_is_waited_for_and_finds_a_token_that_is_good() {
        let id = InstanceId::new();
        let waiting = Instance { waiting: Some("no node has room".into()), ..seen(id, None) };
        let mut agent = agent(Desired::Run, started(id, 2));
        assert_eq!(plan(&agent, true, Some(&waiting), at(500)), PlannedAction::Wait(at(560)));
        agent.public_key = None;
        agent.enrol_sha256 = Some(vec![1]);
        agent.enrol_expires_at = Some(at(510));
        assert_eq!(plan(&agent, true, Some(&waiting), at(500)), PlannedAction::Wait(at(510)));
        assert_eq!(plan(&agent, true, Some(&waiting), at(510)), PlannedAction::Enrol);
        // Its time counts from when it could run.
        agent.enrol_expires_at = Some(at(800));
        let up = Instance { up_since: Some(at(500)), ..seen(id, None) };
        assert_eq!(plan(&agent, true, Some(&up), at(510)), PlannedAction::Wait(at(560)));
        let given_up = PlannedAction::GiveUp { reason: "did not report ready within 60 seconds".into(), ended: false };
        assert_eq!(plan(&agent, true, Some(&up), at(560)), given_up);
    }

    #[test]
    fn an_instance_that_somebody_changed_is_replaced() {
        let id = InstanceId::new();
        let altered = Instance { altered: true, ..seen(id, None) };
        let launch = PlannedAction::Launch { lost: Some("somebody changed what it runs on") };
        for state in [started(id, 2), running(id, 2)] {
            assert_eq!(plan(&agent(Desired::Run, state), true, Some(&altered), at(1)), launch);
        }
    }

    #[test]
    fn heartbeats_keep_an_instance() {
        let id = InstanceId::new();
        let mut agent = agent(Desired::Run, running(id, 2));
        agent.last_seen_at = Some(at(50));
        assert_eq!(plan(&agent, true, Some(&seen(id, None)), at(100)), PlannedAction::Listen(at(110)));
    }

    #[test]
    fn an_unwanted_instance_ends_whatever_it_was_doing() {
        let id = InstanceId::new();
        let alive = seen(id, None);
        for state in [State::Pending, started(id, 2), running(id, 2)] {
            assert_eq!(
                plan(&agent(Desired::Stop, state.clone()), true, Some(&alive), at(0)),
                PlannedAction::Halt(State::Stopped)
            );
            assert_eq!(
                plan(&agent(Desired::Run, state), false, Some(&alive), at(0)),
                PlannedAction::Halt(State::Suspended)
            );
        }
        assert_eq!(plan(&agent(Desired::Stop, State::Stopped), true, None, at(0)), PlannedAction::Rest);
        assert_eq!(plan(&agent(Desired::Run, State::Suspended), false, None, at(0)), PlannedAction::Rest);
        let mut behind = agent(Desired::Stop, State::Stopped);
        behind.observed_generation = 1;
        assert_eq!(plan(&behind, true, None, at(0)), PlannedAction::Halt(State::Stopped));
    }

    #[test]
    fn a_paused_agent_ends_and_rests_whatever_its_office_does() {
        let alive = seen(InstanceId::new(), None);
        let paused = State::Paused { reason: "LOOP_DETECTED: round and round".into() };
        let mut subject = agent(Desired::Pause, paused.clone());
        for active in [true, false] {
            assert_eq!(plan(&subject, active, None, at(0)), PlannedAction::Rest);
            assert_eq!(plan(&subject, active, Some(&alive), at(0)), PlannedAction::Halt(paused.clone()));
        }
        subject.observed_generation = 1;
        assert_eq!(plan(&subject, true, None, at(0)), PlannedAction::Halt(paused.clone()));
        subject.external = true;
        for active in [true, false] {
            assert_eq!(plan(&subject, active, None, at(0)), PlannedAction::Observe(paused.clone()));
        }
        subject.observed_generation = 2;
        for (active, now) in [(true, 1), (true, 500), (false, 1)] {
            assert_eq!(plan(&subject, active, None, at(now)), PlannedAction::Rest);
        }

        // Somebody starts it again.
        subject.desired = Desired::Run;
        assert_eq!(plan(&subject, true, None, at(1)), PlannedAction::Observe(State::Online));
        assert_eq!(plan(&subject, false, None, at(1)), PlannedAction::Observe(State::Suspended));
        subject.external = false;
        assert_eq!(plan(&subject, true, None, at(1)), PlannedAction::Launch { lost: None });
        assert_eq!(plan(&subject, false, None, at(1)), PlannedAction::Halt(State::Suspended));
    }

    #[test]
    fn a_fire_goes_on_from_any_state_and_waits_only_for_its_retry() {
        let fire = Desired::Fire { force: false, backup_id: BackupId::new() };
        let id = InstanceId::new();
        let waiting = State::Terminating { retry_at: Some(at(10)), reason: String::new() };
        for state in [State::Pending, running(id, 2), State::Stopped, State::Suspended] {
            assert_eq!(plan(&agent(fire, state), false, None, at(0)), PlannedAction::Release);
        }
        assert_eq!(plan(&agent(fire, waiting.clone()), true, None, at(9)), PlannedAction::Wait(at(10)));
        assert_eq!(plan(&agent(fire, waiting), true, None, at(10)), PlannedAction::Release);
    }

    #[test]
    fn an_agent_elsewhere_is_only_observed() {
        let fire = Desired::Fire { force: false, backup_id: BackupId::new() };
        let observe = PlannedAction::Observe;
        let cases = [
            (Desired::Run, State::Online, true, 119, PlannedAction::Listen(at(120))),
            (Desired::Run, State::Online, true, 120, observe(State::Offline)),
            (Desired::Run, State::Offline, true, 120, PlannedAction::Rest),
            (Desired::Run, State::Offline, true, 119, observe(State::Online)),
            (Desired::Run, State::Online, false, 1, observe(State::Suspended)),
            (Desired::Run, State::Offline, false, 500, observe(State::Suspended)),
            (Desired::Run, State::Suspended, false, 500, PlannedAction::Rest),
            (Desired::Run, State::Suspended, true, 119, observe(State::Online)),
            (Desired::Run, State::Suspended, true, 500, observe(State::Offline)),
            (fire, State::Terminating { retry_at: None, reason: String::new() }, true, 1, PlannedAction::Dismiss),
            (fire, State::Terminating { retry_at: None, reason: String::new() }, false, 1, PlannedAction::Dismiss),
        ];
        for (desired, state, active, now, expected) in cases {
            let mut agent = agent(desired, state.clone());
            agent.external = true;
            assert_eq!(plan(&agent, active, None, at(now)), expected, "{state:?} {active} {now}");
        }
        let mut behind = agent(Desired::Run, State::Online);
        (behind.external, behind.observed_generation) = (true, 1);
        assert_eq!(plan(&behind, true, None, at(1)), PlannedAction::Observe(State::Online));
        (behind.observed_generation, behind.last_seen_at) = (2, Some(at(100)));
        assert_eq!(plan(&behind, true, None, at(219)), PlannedAction::Listen(at(220)));
    }

    #[test]
    fn ten_failures_in_a_row_are_the_end_and_health_resets_the_count() {
        let mut subject = agent(Desired::Run, started(InstanceId::new(), 2));
        let mut waits = Vec::new();
        for _ in 0..9 {
            let (state, failures) = after_failure(&subject, "exited with code 1", true, at(0));
            let State::BackingOff { retry_at, .. } = state else { panic!("{state:?}") };
            waits.push((retry_at - at(0)).num_seconds());
            subject.failures = failures;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        let (state, failures) = after_failure(&subject, "exited with code 1", true, at(0));
        let reason = "exited with code 1; given up after 10 tries in a row".into();
        assert_eq!((state, failures), (State::Failed { reason }, 10));

        subject.failures = 50;
        let (state, failures) = after_failure(&subject, "was silent", false, at(0));
        assert_eq!((state, failures), (State::BackingOff { retry_at: at(60), reason: "was silent".into() }, 9));

        subject.failures = 9;
        subject.state = running(InstanceId::new(), 2);
        assert_eq!(after_failure(&subject, "x", true, at(60)).1, 1);
        assert_eq!(after_failure(&subject, "x", true, at(59)).1, 10);
    }
}
