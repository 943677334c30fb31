//! Every step from every state.

use mi_kernel::{Clock, SystemClock};

use super::*;
use crate::sweep_clock::SweepClock;

fn work() -> Work {
    Work { result: "r".into(), artifacts: Vec::new(), receipt: String::new(), public_key: String::new() }
}

fn held(id: LeaseId, until: Time) -> Lease {
    Lease { id, expires_at: until, length: Duration::from_secs(10) }
}

/// On a platform that was never away.
fn moment(now: Time) -> Moment {
    SweepClock::default().at(now)
}

fn steps(now: Time, lease: LeaseId) -> Vec<(&'static str, TaskTransition)> {
    let worker = Author { name: "a".into(), agent_id: Some(AgentId::new()), api_key_id: None };
    let complete = |until| TaskTransition::Complete { work: work(), ended: None, verify_until: until };
    let fail = |retryable| TaskTransition::Fail { error: "e".into(), retryable, ended: None };
    vec![
        ("block", TaskTransition::Block { reason: "b".into(), hangs_on: None }),
        ("free", TaskTransition::Free { stalled: String::new() }),
        ("claim", TaskTransition::Claim(held(lease, now), worker)),
        ("renew", TaskTransition::Renew(held(lease, now))),
        ("release", TaskTransition::Release { ended: None, keep_for: None, waits: false }),
        ("expire", TaskTransition::Expire),
        ("complete", complete(None)),
        ("submit", complete(Some(now))),
        ("fail", fail(false)),
        ("fail, again", fail(true)),
        ("cancel", TaskTransition::Cancel("c".into())),
        ("retry", TaskTransition::Retry { depth: 0 }),
        ("accept", TaskTransition::Accept),
        ("reject", TaskTransition::Reject("n".into())),
        ("unassign", TaskTransition::Unassign),
        ("assign", TaskTransition::Assign(Some(Assignee { name: "b".into(), id: AgentId::new() }))),
        ("postpone", TaskTransition::Postpone(1)),
    ]
}

/// Every step from every state, with one attempt used of three.
#[test]
fn every_transition() {
    let (now, lease) = (SystemClock.now(), LeaseId::new());
    let states = [
        State::Blocked { reason: "x".into(), hangs_on: None },
        State::Queued,
        State::Running(held(lease, now)),
        State::Verifying { work: work(), until: now },
        State::Done { work: work() },
        State::Failed,
        State::Cancelled,
    ];
    let mut table = String::new();
    for state in states {
        for (name, step) in steps(now, lease) {
            let mut progress = Progress { attempt: 1, ..Progress::new(state.clone(), None, 0, moment(now)) };
            let before = progress.clone();
            let after = match progress.transition(step, 3, moment(now)) {
                Ok(()) => format!("{} ({})", progress.state.as_str(), progress.attempt),
                Err(error) => {
                    assert_eq!(progress, before, "a refused step changes nothing");
                    error.reason.to_owned()
                }
            };
            table += &format!("{:<10} {name:<12} {after}\n", state.as_str());
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn what_was_written_before_waits_and_absences_were_counted_is_read() {
    let now = SystemClock.now();
    let lease = Lease { length: LEASE, ..held(LeaseId::new(), now) };
    let progress = Progress::new(State::Running(lease), None, 0, moment(now));
    let mut row = serde_json::to_value(&progress).expect("JSON");
    let fields = row.as_object_mut().expect("an object");
    for field in ["waits", "away", "postponed"] {
        assert_eq!(fields.remove(field), Some(0.into()));
    }
    assert!(fields["state"].as_object_mut().expect("an object").remove("length").is_some());
    assert_eq!(serde_json::from_value::<Progress>(row).expect("reads"), progress);
}

#[test]
fn why_subtasks_hang_is_told_until_the_work_on_it_ends() {
    let (now, id) = (SystemClock.now(), LeaseId::new());
    let worker = Author { name: "a".into(), agent_id: None, api_key_id: None };
    let mut progress = Progress::new(State::Queued, None, 0, moment(now));
    let mut seen = Vec::new();
    for step in [
        TaskTransition::Free { stalled: "why".into() },
        TaskTransition::Unassign,
        TaskTransition::Claim(held(id, now), worker),
        TaskTransition::Renew(held(id, now)),
        TaskTransition::Release { ended: None, keep_for: None, waits: true },
    ] {
        progress.transition(step, 3, moment(now)).expect("may be");
        seen.push(progress.stalled.clone());
    }
    assert_eq!(seen, ["why", "why", "why", "why", ""]);
}

#[test]
fn attempts_run_out_and_a_retry_gives_new_ones() {
    let now = SystemClock.now();
    let at = moment(now);
    let mut progress = Progress::new(State::Queued, None, 0, at);
    let worker = Author { name: "a".into(), agent_id: None, api_key_id: None };
    let mut seen = Vec::new();
    for round in 0..5 {
        if round == 3 {
            progress.transition(TaskTransition::Retry { depth: 0 }, 2, at).expect("failed before");
        }
        let lease = held(LeaseId::new(), now);
        if progress.transition(TaskTransition::Claim(lease, worker.clone()), 2, at).is_ok() {
            let attempt = progress.attempt;
            progress.transition(TaskTransition::Expire, 2, at).expect("runs");
            seen.push((attempt, progress.state.as_str(), progress.attempt));
        }
    }
    assert_eq!(seen, [(1, "queued", 2), (2, "failed", 2), (3, "queued", 4), (4, "failed", 4)]);
}
