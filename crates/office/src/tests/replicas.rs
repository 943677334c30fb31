//! Several office roles over one Postgres, at the same work at the same moment.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mi_kernel::secret::Secret;
use mi_proto::{
    internal::v1::{
        ResolveApiKeyRequest, WatchRevokedApiKeysRequest, credential_service_client::CredentialServiceClient,
    },
    v1::{SuspendOfficeRequest, office_service_client::OfficeServiceClient},
};
use mi_rpc::{RoleClient, Transport};
use mi_store::on;
use mi_testkit::{Backend, OnBackend, until};
use ring::digest;
use tonic::Code;

use super::{
    chat::to_group,
    credits::START,
    harness::{Client, Harness, LONG},
    metering::{call, spender},
    peer::Mood,
    retention::DAY,
};

/// The credentials of another process, as a gateway that is connected to it asks for them.
fn credentials(process: &Transport) -> CredentialServiceClient<RoleClient> {
    CredentialServiceClient::new(RoleClient::new(process.clone(), "gateway"))
}

async fn resolves(process: &Transport, secret: &Secret) -> Code {
    let sha256 = digest::digest(&digest::SHA256, secret.expose().as_bytes()).as_ref().to_vec();
    let asked = credentials(process).resolve_api_key(ResolveApiKeyRequest { sha256: sha256.into() }).await;
    asked.err().map_or(Code::Ok, |status| status.code())
}

/// A second is what docs/SECURITY.md promises; the gateway itself needs nothing of it, since it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_one_revokes_is_told_and_refused_by_another_within_a_second() {
    let harness = Harness::on(Backend::Postgres).await;
    let twin = harness.twin().await;
    let mut told = credentials(&twin)
        .watch_revoked_api_keys(WatchRevokedApiKeysRequest { since: None })
        .await
        .expect("opens")
        .into_inner();
    assert_eq!(told.message().await.expect("goes on").expect("goes on").api_key_ids, Vec::<String>::new());
    for _ in 0..5 {
        let (key, secret) = harness.create_key(&harness.owner, "").await.expect("creates");
        assert_eq!(resolves(&twin, &secret).await, Code::Ok);
        harness.revoke(&harness.owner, &key.id).await.expect("revokes");
        let revoked = Instant::now();
        assert_eq!(resolves(&twin, &secret).await, Code::Unauthenticated);
        let message = tokio::time::timeout(LONG, told.message()).await.expect("told").expect("goes on");
        assert_eq!(message.expect("goes on").api_key_ids, [key.id]);
        assert!(revoked.elapsed() < Duration::from_millis(900), "told after {:?}", revoked.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_settle_at_once_is_debited_once() {
    let harness = Harness::on(Backend::Postgres).await;
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let calls: Vec<_> = (0..40).map(|_| call(&office, spender(&agent, &[]), 10)).collect();
    for call in &calls {
        harness.reserve_call(call).await.expect("enough");
    }
    assert_eq!(harness.money(&office).await, (START, 400));
    let (one, two) = (harness.resources().await.credits, harness.resources().await.credits);
    harness.clock.advance(Duration::from_secs(301));
    // The process of the harness sweeps as well.
    let (first, second) = tokio::join!(one.expire_due(), two.expire_due());
    first.and(second).expect("both go on");
    assert_eq!(harness.money(&office).await, (START - 400, 0));
    let ledger = harness.ledger(&harness.owner, &office, 100).await.expect("lists");
    assert_eq!(ledger.iter().map(|entry| entry.amount).collect::<Vec<_>>(), [-10; 40]);
}

/// One process's push hangs and fails at last; meanwhile another one got through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_fails_late_does_not_hide_one_that_got_through() {
    let harness = Arc::new(Harness::on(Backend::Postgres).await);
    let twin = harness.twin().await;
    let office = harness.create("Mine").await.id;
    let fine = harness.conditions(&office).await;
    assert!(fine.iter().all(|condition| condition.ok), "{fine:?}");
    harness.scheduler.be(Mood::FailsLate);
    let (suspending, id) = (harness.clone(), office.clone());
    let suspend = tokio::spawn(async move {
        let request = SuspendOfficeRequest { office_id: id };
        suspending.offices(&suspending.owner).suspend_office(request).await.map(drop)
    });
    until("the push hangs", LONG, async || Ok::<_, String>((harness.scheduler.known().refused == 1).then_some(())))
        .await;
    let mut other = OfficeServiceClient::new(Client(twin, Arc::new(harness.owner.clone())));
    let resume = mi_proto::v1::ResumeOfficeRequest { office_id: office.clone() };
    other.resume_office(resume).await.expect("gets through");
    harness.scheduler.known().go_on.notify_one();
    suspend.await.expect("no panic").expect("was written");
    assert_eq!(harness.conditions(&office).await, fine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_forget_at_once_is_told_once() {
    let harness = Harness::on(Backend::Postgres).await;
    let office = harness.create("Mine").await.id;
    for number in 0..7 {
        harness.say(&harness.owner, to_group(&office, &format!("old {number}"))).await.expect("sends");
    }
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    // Both have read what is old when the first one deletes it.
    let mut held = harness.tables().await.platform().begin().await.expect("begins");
    on!(held, |c| sqlx::query("SELECT 1 FROM messages FOR UPDATE").execute(&mut *c).await.map(drop)).expect("locks");
    let mut watching = harness.postgres().await;
    let both = async { tokio::join!(harness.forget(&office), harness.forget(&office)) };
    let lets_go = async {
        until_waiting(&mut watching, 2).await;
        held.commit().await.expect("lets go");
    };
    tokio::join!(both, lets_go);
    assert_eq!(harness.forgotten(&office).await, [("messages".to_owned(), 7)]);
}

/// Waits until so many transactions wait for a lock.
pub(super) async fn until_waiting(watching: &mut sqlx::PgConnection, count: i64) {
    until("they wait for a lock", LONG, async || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut *watching).await.expect("reads");
        if waiting >= count { Ok(Some(())) } else { Err(format!("{waiting} of {count}")) }
    })
    .await;
}
