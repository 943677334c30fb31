//! A public key is one agent's on the whole installation: whoever holds one key is never two agents.

use futures::future::join_all;
use mi_kernel::{AgentId, Clock, ErrorKind, InviteId, OfficeId, SystemClock, Time, public_key::key_id};
use mi_store::{Db, DbResult, Step, on};
use mi_testkit::{TestDb, on_both};
use tonic::Code;
use uuid::Uuid;

use super::harness::Harness;
use crate::{
    MIGRATIONS,
    agents::{keys, revoked_keys},
};

on_both! {
    a_key_that_an_agent_has_or_had_is_no_other_agents,
    of_many_who_show_one_key_at_once_one_gets_it,
    an_upgrade_keeps_agents_that_share_a_key_and_lets_in_no_more,
}

const KEY: [u8; 32] = [1; 32];
const OTHER_KEY: [u8; 32] = [2; 32];
const NEW_KEY: [u8; 32] = [3; 32];

async fn a_key_that_an_agent_has_or_had_is_no_other_agents(harness: Harness) {
    let elsewhere = harness.open_office(1).await;
    harness.admit(harness.office, InviteId::new(), "first", KEY).await.expect("a fresh key");
    let hosted = harness.running("hosted").await;
    harness.enrol(harness.office, &harness.token(&hosted), OTHER_KEY).await.expect("a fresh key");

    let invites = [(harness.office, InviteId::new()), (elsewhere, InviteId::new())];
    for key in [KEY, OTHER_KEY] {
        for (office, invite) in invites {
            let refused = harness.admit(office, invite, "second", key).await.expect_err("another agent's");
            assert_eq!((refused.kind, refused.reason), (ErrorKind::AlreadyExists, "KEY_IN_USE"));
        }
    }
    // A hosted one is told the same, and its token is as good as before.
    let other = harness.running("other").await;
    let refused = harness.enrol(harness.office, &harness.token(&other), KEY).await.expect_err("another agent's");
    assert_eq!((refused.code(), refused.message()), (Code::AlreadyExists, keys::in_use().message.as_str()));
    harness.enrol(harness.office, &harness.token(&other), NEW_KEY).await.expect("a fresh key");

    // Nor is it once it is dead.
    let office = harness.office.to_string();
    harness.scheduler.rotate(&harness.owner("RotateAgentIdentity"), &office, "hosted").await.expect("rotates");
    harness.fire("first", false).await;
    for key in [KEY, OTHER_KEY] {
        let refused =
            harness.admit(harness.office, invites[0].1, "second", key).await.expect_err("was another agent's");
        assert_eq!((refused.kind, refused.reason), (ErrorKind::AlreadyExists, "KEY_IN_USE"));
    }
    // What was refused used up nothing.
    for ((office, invite), key) in invites.into_iter().zip([[4; 32], [5; 32]]) {
        harness.admit(office, invite, "second", key).await.expect("a fresh key");
    }
}

async fn of_many_who_show_one_key_at_once_one_gets_it(harness: Harness) {
    let elsewhere = harness.open_office(1).await;
    let names: Vec<String> = (0..8).map(|number| format!("robo-{number}")).collect();
    let offices = [harness.office, elsewhere].into_iter().cycle();
    let joining = offices.zip(&names).map(|(office, name)| harness.admit(office, InviteId::new(), name, KEY));
    let answers = join_all(joining).await;
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).map(|error| error.reason).collect();
    assert_eq!(refused, ["KEY_IN_USE"; 7]);
    assert_eq!((harness.rows("agents").await, harness.rows("agent_keys").await), (1, 1));
}

async fn an_upgrade_keeps_agents_that_share_a_key_and_lets_in_no_more(database: TestDb) {
    let before: Vec<Step> = MIGRATIONS.iter().copied().filter(|step| step.version < 117).collect();
    let old = Db::open(database.target(), &before).await.expect("opens");
    let (office, now) = (OfficeId::new(), SystemClock.now());
    let mut tx = old.platform().begin().await.expect("begins");
    let made = on!(tx, |c| {
        sqlx::query(
            "INSERT INTO offices (id, account_id, version, active, removing, settings) VALUES ($1, $2, 1, $3, $4, '{}')",
        )
        .bind(office.0)
        .bind(Uuid::now_v7())
        .bind(true)
        .bind(false)
        .execute(&mut *c)
        .await
        .map(drop)
    });
    made.expect("writes");
    for name in ["one", "two"] {
        let made = on!(tx, |c| {
            sqlx::query(
                "INSERT INTO agents (id, office_id, name, hired_by, lineage, spec, desired, generation, state, phase,
                 failures, restarts, observed_generation, public_key, revision, created_at)
                 VALUES ($1, $2, $3, '', '[]', '{}', '{}', 1, '{}', 'running', 0, 0, 1, $4, 1, $5)",
            )
            .bind(AgentId::new().0)
            .bind(office.0)
            .bind(name)
            .bind(&KEY[..])
            .bind(now)
            .execute(&mut *c)
            .await
            .map(drop)
        });
        made.expect("writes");
    }
    revoke(tx.within(office), &key_id(&OTHER_KEY), now).await.expect("writes");
    tx.commit().await.expect("commits");
    old.close().await;

    let new = Db::open(database.target(), MIGRATIONS).await.expect("opens");
    let mut conn = new.platform().read().await.expect("connects");
    let agents: Result<i64, _> =
        on!(conn, |c| sqlx::query_scalar("SELECT count(*) FROM agents").fetch_one(&mut *c).await);
    assert_eq!(agents.expect("reads"), 2);
    let lived = [
        revoked_keys::key_lived(&mut conn, &key_id(&OTHER_KEY)).await.expect("reads"),
        revoked_keys::key_lived(&mut conn, &key_id(&NEW_KEY)).await.expect("reads"),
    ];
    assert_eq!(lived, [true, false]);
    drop(conn);
    let take = async |key: [u8; 32]| {
        let mut tx = new.office(office).begin().await.expect("begins");
        let took = keys::key_take(&mut tx, AgentId::new(), &key).await;
        took.map_err(|error| error.unique_or(keys::in_use).reason)
    };
    assert_eq!(take(KEY).await, Err("KEY_IN_USE"));
    assert_eq!(take(NEW_KEY).await, Ok(()));
}

/// Writes a revoked key as earlier versions did.
async fn revoke(tx: &mut mi_store::OfficeConn, key_id: &str, now: Time) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO former_keys (agent_id, key_id, office_id, agent, revoked_at) VALUES ($1, $2, $3, 'gone', $4)",
        )
        .bind(AgentId::new().0)
        .bind(key_id)
        .bind(office.0)
        .bind(now)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}
