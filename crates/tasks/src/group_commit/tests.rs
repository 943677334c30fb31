//! What shares a transaction, and who is told.

use mi_kernel::TaskId;
use mi_tenancy::Author;

use super::{command::TASK, transaction::roster, *};
use crate::{
    members::Reconcile,
    model::{Report, ReportKind},
};

impl GroupCommit {
    /// Whether nothing is under way for an office, and no more room is held than by claims that wait; else what is.
    pub(crate) fn rests(&self, office_id: OfficeId) -> std::result::Result<(), String> {
        let waiting = match self.lock().get(&office_id) {
            Some(pending) if pending.running => return Err("a task drives what is pending".into()),
            Some(pending) if !pending.ops.is_empty() => {
                return Err(format!("{} operations are pending, and nobody drives them", pending.ops.len()));
            }
            Some(pending) => pending.waiting.len(),
            None => 0,
        };
        let free = MAX_WAITING_BYTES / 2 - waiting * TASK;
        match self.waiting.take(office_id, free) {
            Some(_) => Ok(()),
            None => Err(format!("more room is held than {waiting} claims that wait need")),
        }
    }
}

fn pending_op(command: TaskCommand) -> PendingOp {
    PendingOp { command, roster: None, trace_id: String::new(), answer: oneshot::channel().0, _share: None }
}

#[test]
fn a_transaction_takes_in_what_fits_and_deadlines_first() {
    let reconcile = || pending_op(TaskCommand::Reconcile(Reconcile::default()));
    let mut pending = PendingOps::default();
    for _ in 0..5000 {
        pending.push(reconcile());
    }
    pending.push(pending_op(TaskCommand::Expire(vec![TaskId::new(); 48])));
    let first = pending.pop();
    assert!(matches!(&first[0].command, TaskCommand::Expire(ids) if ids.len() == 48));
    assert_eq!((first.len(), pending.ops.len()), (2001, 3000));
    assert_eq!([pending.pop().len(), pending.pop().len(), pending.pop().len()], [2048, 952, 0]);
    // What is too large for any is one of its own.
    pending.push(pending_op(TaskCommand::Expire(vec![TaskId::new(); 5000])));
    pending.push(reconcile());
    assert_eq!([pending.pop().len(), pending.pop().len(), pending.pop().len()], [1, 1, 0]);
}

#[test]
fn a_look_at_the_agents_goes_by_the_newest_that_are_known() {
    let [old, new, other] = std::array::from_fn(|_| Roster::default());
    let with = |command, roster: &Roster| PendingOp { roster: Some(roster.clone()), ..pending_op(command) };
    // A further page of an earlier look is behind a later one.
    let ops = [
        with(TaskCommand::Reconcile(Reconcile::default()), &new),
        with(TaskCommand::Reconcile(Reconcile::default()), &old),
        with(TaskCommand::Settle, &other),
    ];
    let is = |found: Option<Roster>, expected: &Roster| Arc::ptr_eq(&found.expect("some"), expected);
    assert!(is(roster(Some(new.clone()), &ops, &[]), &new));
    assert!(is(roster(None, &ops, &[]), &old));
    assert!(is(roster(None, &[pending_op(TaskCommand::Settle)], &ops[2..]), &other));
    assert!(roster(None, &[pending_op(TaskCommand::Settle)], &[]).is_none());
}

#[test]
fn what_waits_is_bounded_in_all_offices_together() {
    let commits = GroupCommit { waiting: Budget::new(90 * TASK), ..GroupCommit::default() };
    let report = || {
        TaskCommand::Report(Report {
            next: None,
            task_id: TaskId::new(),
            lease_id: None,
            by: Author::operator(),
            owner: true,
            what: ReportKind::Released,
            signed: Box::new(Ok(None)),
        })
    };
    let ops = |count: usize| (0..count).map(|_| report()).collect::<Vec<_>>();
    let (first, second) = (OfficeId::new(), OfficeId::new());
    let busy = |office, count| {
        let error = commits.admit(office, &ops(count)).map(|_| ()).expect_err("no room");
        assert!(error.reason == "QUEUE_BUSY" && error.retry_after.is_some(), "{error:?}");
    };
    let held = commits.admit(first, &ops(45)).expect("half of all").expect("takes room");
    busy(first, 1);
    // Another office is not held up by it, and what has to be done anyhow is.
    let other = commits.admit(second, &ops(20)).expect("there is room");
    busy(second, 6);
    assert!(commits.admit(first, &[TaskCommand::Expire(vec![TaskId::new(); 1000])]).expect("always").is_none());
    let pending = PendingOp { _share: Some(held.clone()), ..pending_op(report()) };
    drop(held);
    busy(first, 1);
    drop(pending);
    drop(other);
    commits.admit(second, &ops(45)).expect("all was given back");
}

#[test]
fn who_waits_is_told_also_while_a_transaction_is_under_way() {
    let (commits, office) = (GroupCommit::default(), OfficeId::new());
    assert!(!commits.kick(office), "nothing is pending");
    commits.lock().insert(office, PendingOps { running: true, ..PendingOps::default() });
    assert!(commits.kick(office));
    assert!(commits.lock()[&office].kicked, "kept until those who wait are back");
    commits.lock().insert(office, PendingOps::default());
    assert!(!commits.kick(office), "nobody waits");
}
