//! What shares a transaction, and who is told.

use super::{op::TASK, *};
use crate::{
    model::Worker,
    work::{Report, What},
};

fn ticket(op: Op) -> Ticket {
    Ticket { op, roster: None, trace_id: String::new(), answer: oneshot::channel().0, _share: None }
}

#[test]
fn a_transaction_takes_in_what_fits_and_deadlines_first() {
    let reconcile = || ticket(Op::Reconcile(Reconcile::default()));
    let mut lane = Lane::default();
    for _ in 0..5000 {
        lane.push(reconcile());
    }
    lane.push(ticket(Op::Expire(vec![TaskId::new(); 48])));
    let first = lane.pop();
    assert!(matches!(&first[0].op, Op::Expire(ids) if ids.len() == 48));
    assert_eq!((first.len(), lane.tickets.len()), (2001, 3000));
    assert_eq!([lane.pop().len(), lane.pop().len(), lane.pop().len()], [2048, 952, 0]);
    // What is too large for any is one of its own.
    lane.push(ticket(Op::Expire(vec![TaskId::new(); 5000])));
    lane.push(reconcile());
    assert_eq!([lane.pop().len(), lane.pop().len(), lane.pop().len()], [1, 1, 0]);
}

#[test]
fn a_look_at_the_agents_goes_by_the_newest_that_are_known() {
    let [old, new, other] = std::array::from_fn(|_| Roster::default());
    let with = |op, roster: &Roster| Ticket { roster: Some(roster.clone()), ..ticket(op) };
    // A further page of an earlier look is behind a later one.
    let tickets = [
        with(Op::Reconcile(Reconcile::default()), &new),
        with(Op::Reconcile(Reconcile::default()), &old),
        with(Op::Settle, &other),
    ];
    let is = |found: Option<Roster>, expected: &Roster| Arc::ptr_eq(&found.expect("some"), expected);
    assert!(is(roster(Some(new.clone()), &tickets, &[]), &new));
    assert!(is(roster(None, &tickets, &[]), &old));
    assert!(is(roster(None, &[ticket(Op::Settle)], &tickets[2..]), &other));
    assert!(roster(None, &[ticket(Op::Settle)], &[]).is_none());
}

#[test]
fn what_waits_is_bounded_in_all_offices_together() {
    let lanes = Lanes { waiting: Budget::new(90 * TASK), ..Lanes::default() };
    let report = || {
        Op::Report(Report {
            task_id: TaskId::new(),
            lease_id: None,
            by: Worker { name: "operator".into(), agent_id: None, api_key_id: None },
            owner: true,
            what: What::Released,
        })
    };
    let ops = |count: usize| (0..count).map(|_| report()).collect::<Vec<_>>();
    let (first, second) = (OfficeId::new(), OfficeId::new());
    let busy = |office, count| {
        let error = lanes.admit(office, &ops(count)).map(|_| ()).expect_err("no room");
        assert!(error.reason == "QUEUE_BUSY" && error.retry_after.is_some(), "{error:?}");
    };
    let held = lanes.admit(first, &ops(45)).expect("half of all").expect("takes room");
    busy(first, 1);
    // Another office is not held up by it, and what has to be done anyhow is.
    let other = lanes.admit(second, &ops(20)).expect("there is room");
    busy(second, 6);
    assert!(lanes.admit(first, &[Op::Expire(vec![TaskId::new(); 1000])]).expect("always").is_none());
    let ticket = Ticket { _share: Some(held.clone()), ..ticket(report()) };
    drop(held);
    busy(first, 1);
    drop(ticket);
    drop(other);
    lanes.admit(second, &ops(45)).expect("all was given back");
}

#[test]
fn who_waits_is_told_also_while_a_transaction_is_under_way() {
    let (lanes, office) = (Lanes::default(), OfficeId::new());
    assert!(!lanes.kick(office), "there is no lane");
    lanes.lock().insert(office, Lane { running: true, ..Lane::default() });
    assert!(lanes.kick(office));
    assert!(lanes.lock()[&office].kicked, "kept until those who wait are back");
    lanes.lock().insert(office, Lane::default());
    assert!(!lanes.kick(office), "nobody waits");
}
