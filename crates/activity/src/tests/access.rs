//! Who gets in.

use mi_kernel::{AccountId, OfficeId};
use mi_proto::v1::{AppendLogsRequest, ListActivityRequest, ListLogsRequest, TailLogsRequest, WatchActivityRequest};
use tonic::{Code, Status};

use super::*;

on_both! {
    strangers_cannot_tell_an_office_from_none,
    owners_and_members_read_and_only_members_append,
    an_older_version_of_an_office_changes_nothing,
}

/// What each RPC of the role answers this caller about this office; none: it let them in.
async fn answers(world: &World, actor: &Actor, office_id: OfficeId) -> Vec<(&'static str, Option<Status>)> {
    let office_id = office_id.to_string();
    let (mut activity, mut logs) = (world.activity(actor), world.logs(actor));
    let list = ListActivityRequest {
        office_id: office_id.clone(),
        // Wrong as well: that must not show to strangers.
        page_token: "nonsense".into(),
        ..Default::default()
    };
    let watch = WatchActivityRequest { office_id: office_id.clone(), ..Default::default() };
    let list_logs = ListLogsRequest { office_id: office_id.clone(), agent: "analyst".into(), ..Default::default() };
    let tail = TailLogsRequest { office_id: office_id.clone(), agent: "analyst".into(), ..Default::default() };
    let append = AppendLogsRequest { office_id, source: "run".into(), first_index: 1, lines: vec![line("x")] };
    let appended = match logs.append_logs(futures::stream::iter([append])).await {
        Ok(answers) => answers.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    vec![
        ("ListActivity", activity.list_activity(list).await.err()),
        ("WatchActivity", activity.watch_activity(watch).await.err()),
        ("ListLogs", logs.list_logs(list_logs).await.err()),
        ("TailLogs", logs.tail_logs(tail).await.err()),
        ("AppendLogs", appended.err()),
    ]
}

async fn strangers_cannot_tell_an_office_from_none(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, _) = world.office().await;
    let (other_office, _) = world.office().await;
    let (removed, its_owner) = world.office().await;
    world.remove(removed).await;
    let stranger = owner(AccountId::new());
    let foreign_agent = agent(other_office, "analyst");
    let nowhere = OfficeId::new();
    for (actor, office_id) in [
        (&stranger, office_id),
        (&foreign_agent, office_id),
        (&stranger, nowhere),
        (&its_owner, removed),
        (&agent(removed, "analyst"), removed),
    ] {
        for (rpc, status) in answers(&world, actor, office_id).await {
            let status = status.unwrap_or_else(|| panic!("{rpc} let {actor:?} in"));
            let expected = format!("office {:?} not found", office_id.to_string());
            assert_eq!((status.code(), status.message()), (Code::NotFound, expected.as_str()), "{rpc} {actor:?}");
        }
    }
}

async fn owners_and_members_read_and_only_members_append(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let codes = |answers: Vec<(&'static str, Option<Status>)>| {
        answers.into_iter().map(|(_, status)| status.map_or(Code::Ok, |status| status.code())).collect::<Vec<_>>()
    };
    let as_owner = codes(answers(&world, &owner, office_id).await);
    assert_eq!(as_owner, [Code::InvalidArgument, Code::Ok, Code::Ok, Code::Ok, Code::PermissionDenied]);
    let as_member = codes(answers(&world, &agent(office_id, "analyst"), office_id).await);
    assert_eq!(as_member, [Code::InvalidArgument, Code::Ok, Code::Ok, Code::Ok, Code::Ok]);
}

async fn an_older_version_of_an_office_changes_nothing(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, first, second) = (OfficeId::new(), AccountId::new(), AccountId::new());
    world.apply(office_id, first, 3).await;
    world.apply(office_id, second, 2).await;
    let enter = async |account| {
        let request =
            ListLogsRequest { office_id: office_id.to_string(), agent: "analyst".into(), ..Default::default() };
        world.logs(&owner(account)).list_logs(request).await.is_ok()
    };
    assert!(enter(first).await && !enter(second).await);
    world.apply(office_id, second, 4).await;
    assert!(!enter(first).await && enter(second).await);
}
