//! Invites: a code lets one agent in, for a day, whatever fails on the way; and guessing is no way in.

use std::time::Duration;

use mi_kernel::{Actor, InviteId, OfficeId};
use mi_proto::v1::{Agent, CreateInviteRequest, Invite, JoinOfficeRequest, SuspendOfficeRequest};
use mi_rpc::{SOURCE_HEADER, convert};
use mi_store::{Db, on};
use mi_testkit::on_both;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{harness::Harness, peer::Mood};
use crate::MIGRATIONS;

on_both! {
    a_code_lets_one_agent_in_and_is_shown_once,
    a_code_is_good_for_a_day,
    what_is_wrong_with_a_request_leaves_the_code_as_it_was,
    nothing_is_lost_between_the_code_and_the_agent,
    wrong_codes_are_limited_by_source,
    wrong_codes_are_limited_altogether,
    only_the_owner_invites_and_only_into_an_active_office,
    a_deleted_office_lets_nobody_in,
    no_two_invites_have_one_code,
}

const KEY: [u8; 32] = [1; 32];
const OTHER_KEY: [u8; 32] = [2; 32];

impl Harness {
    async fn invite(&self, actor: &Actor, office: &str) -> Result<Invite, Status> {
        let request = CreateInviteRequest { office_id: office.into() };
        Ok(self.access(actor).create_invite(request).await?.into_inner().invite.expect("always there"))
    }

    async fn join_from(&self, source: &str, code: &str, name: &str, key: &[u8]) -> Result<Agent, Status> {
        let message = JoinOfficeRequest { code: code.into(), name: name.into(), public_key: key.to_vec().into() };
        let mut request = Request::new(message);
        request.metadata_mut().insert(SOURCE_HEADER, source.parse().expect("a value"));
        let joined = self.access(&Actor::Anonymous).join_office(request).await?;
        Ok(joined.into_inner().agent.expect("always there"))
    }

    async fn join(&self, code: &str, name: &str) -> Result<Agent, Status> {
        self.join_from("127.0.0.2", code, name, &KEY).await
    }
}

/// A code that is none of these.
fn another(invites: &[&Invite]) -> String {
    let codes = ["AAAAAA", "BBBBBB", "CCCCCC"];
    let free = codes.into_iter().find(|code| invites.iter().all(|invite| invite.code != *code));
    free.expect("fewer than three invites").to_owned()
}

fn assert_wrong(refused: &Status) {
    let text = "the invite code is unknown, used or expired";
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, text));
}

fn wait_of(refused: &Status) -> Duration {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.get_details_error_info().expect("always there").reason, "TOO_MANY_GUESSES");
    refused.get_details_retry_info().expect("says when").retry_delay.expect("set")
}

async fn a_code_lets_one_agent_in_and_is_shown_once(harness: Harness) {
    let office = harness.create("Open").await.id;
    let invite = harness.invite(&harness.owner, &office).await.expect("made");
    let shape = |c: char| "ABCDEFGHJKLMNPQRSTUVWXYZ23456789".contains(c);
    assert!(invite.code.len() == 6 && invite.code.chars().all(shape), "{}", invite.code);
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(invite.expires_at, Some(convert::timestamp(mi_kernel::Clock::now(&harness.clock) + day)));

    let agent = harness.join(&format!(" {} ", invite.code.to_lowercase()), "Robo").await.expect("joins");
    let admitted = harness.scheduler.known().admitted[&invite.id].clone();
    assert_eq!((&admitted.office_id, admitted.name.as_str(), &admitted.public_key[..]), (&office, "robo", &KEY[..]));
    assert_eq!(agent.id, admitted.agent_id());
    assert_eq!(harness.join(&invite.code, "robo").await.expect("sent again").id, agent.id);
    assert_wrong(&harness.join(&invite.code, "other").await.expect_err("used"));
    assert_wrong(&harness.join_from("127.0.0.2", &invite.code, "robo", &OTHER_KEY).await.expect_err("used"));
    assert_wrong(&harness.join(&another(&[&invite]), "robo").await.expect_err("unknown"));

    harness.until_events(&office, &["office.created", "credit.granted", "office.activated", "invite.created"]).await;
    let events = harness.activity.known().events.clone();
    assert_eq!(
        (events[3].category.as_str(), &events[3].metadata["invite_id"]),
        ("security", &invite.id.clone().into())
    );
    assert!(!format!("{events:?}").contains(&invite.code));
}

async fn a_code_is_good_for_a_day(harness: Harness) {
    let office = harness.create("Open").await.id;
    let (first, second) = (
        harness.invite(&harness.owner, &office).await.expect("made"),
        harness.invite(&harness.owner, &office).await.expect("made"),
    );
    harness.clock.advance(Duration::from_secs(24 * 3600 - 1));
    harness.join(&first.code, "robo").await.expect("just in time");
    harness.clock.advance(Duration::from_secs(1));
    assert_wrong(&harness.join(&second.code, "late").await.expect_err("expired"));
    assert_wrong(&harness.join(&first.code, "robo").await.expect_err("asked again too late"));
}

async fn what_is_wrong_with_a_request_leaves_the_code_as_it_was(harness: Harness) {
    let office = harness.create("Open").await.id;
    let (first, second) = (
        harness.invite(&harness.owner, &office).await.expect("made"),
        harness.invite(&harness.owner, &office).await.expect("made"),
    );
    harness.join(&first.code, "robo").await.expect("joins");
    // More often than wrong codes are taken: none of these is one.
    for _ in 0..20 {
        for (code, name, key, field) in [
            (second.code.as_str(), "no name", &KEY[..], "name"),
            (&second.code, "robo", &KEY[..31], "public_key"),
            (&second.code, "robo", &[], "public_key"),
            (&second.code, "robo", &[0; 32], "public_key"),
            ("ABC", "robo", &KEY, "code"),
            ("ABCDE1", "robo", &KEY, "code"),
        ] {
            let refused = harness.join_from("127.0.0.2", code, name, key).await.expect_err(field);
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert_eq!(refused.get_details_bad_request().expect("names it").field_violations[0].field, field);
        }
        let refused = harness.join(&second.code, "robo").await.expect_err("a name is unique");
        assert_eq!(refused.code(), Code::AlreadyExists);
    }
    harness.join(&second.code, "other").await.expect("as good as before");
}

async fn nothing_is_lost_between_the_code_and_the_agent(mut harness: Harness) {
    let office = harness.create("Open").await.id;
    let invite = harness.invite(&harness.owner, &office).await.expect("made");
    for mood in [Mood::Fails, Mood::AnswersGetLost] {
        harness.scheduler.be(mood);
        for _ in 0..20 {
            let refused = harness.join(&invite.code, "robo").await.expect_err("as asked");
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        }
        assert_eq!(harness.scheduler.known().admitted.len(), usize::from(mood == Mood::AnswersGetLost));
        harness.crash().await;
    }
    harness.scheduler.be(Mood::Works);
    let agent = harness.join(&invite.code, "robo").await.expect("joins");
    assert_eq!(agent.id, harness.scheduler.known().admitted[&invite.id].agent_id());
    assert_wrong(&harness.join(&invite.code, "thief").await.expect_err("used"));
    assert_eq!(harness.scheduler.known().admitted.len(), 1);
}

async fn wrong_codes_are_limited_by_source(harness: Harness) {
    let office = harness.create("Open").await.id;
    let invite = harness.invite(&harness.owner, &office).await.expect("made");
    let wrong = another(&[&invite]);
    for _ in 0..10 {
        assert_wrong(&harness.join(&wrong, "robo").await.expect_err("unknown"));
    }
    harness.clock.advance(Duration::from_secs(20));
    // The good code does not help now: nothing tells it from a guess.
    for code in [&wrong, &invite.code] {
        assert_eq!(wait_of(&harness.join(code, "robo").await.expect_err("limited")), Duration::from_secs(40));
    }
    harness.join_from("127.0.0.3", &invite.code, "robo", &KEY).await.expect("another source");
    harness.clock.advance(Duration::from_secs(40));
    assert_wrong(&harness.join(&wrong, "robo").await.expect_err("unknown"));
}

async fn wrong_codes_are_limited_altogether(harness: Harness) {
    let office = harness.create("Open").await.id;
    let invite = harness.invite(&harness.owner, &office).await.expect("made");
    let wrong = another(&[&invite]);
    for number in 0..100 {
        let refused = harness.join_from(&format!("127.0.1.{number}"), &wrong, "robo", &KEY).await.expect_err("unknown");
        assert_wrong(&refused);
    }
    let refused = harness.join(&invite.code, "robo").await.expect_err("limited");
    assert_eq!(wait_of(&refused), Duration::from_secs(60));
    harness.clock.advance(Duration::from_secs(60));
    harness.join(&invite.code, "robo").await.expect("joins");
}

async fn only_the_owner_invites_and_only_into_an_active_office(harness: Harness) {
    let office = harness.create("Closed").await.id;
    let (stranger, _) = harness.account("Stranger").await;
    let (foreign, unknown) = (office.clone(), OfficeId::new().to_string());
    for id in [foreign, unknown] {
        let refused = harness.invite(&stranger, &id).await.expect_err("foreign");
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, &*format!("office {id:?} not found")));
    }
    assert_eq!(harness.invite(&Actor::Anonymous, &office).await.expect_err("nobody").code(), Code::Unauthenticated);
    let suspend = SuspendOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).suspend_office(suspend).await.expect("suspends");
    let refused = harness.invite(&harness.owner, &office).await.expect_err("suspended");
    assert_eq!(refused.get_details_error_info().expect("always there").reason, "OFFICE_NOT_ACTIVE");
}

async fn a_deleted_office_lets_nobody_in(harness: Harness) {
    let (office, other) = (harness.create("Gone").await.id, harness.create("Kept").await.id);
    let gone = harness.invite(&harness.owner, &office).await.expect("made");
    let kept = harness.invite(&harness.owner, &other).await.expect("made");
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
    assert_wrong(&harness.join(&gone.code, "late").await.expect_err("gone"));
    harness.join(&kept.code, "robo").await.expect("untouched");
}

async fn no_two_invites_have_one_code(harness: Harness) {
    let db = Db::open(harness.target(), MIGRATIONS).await.expect("opens");
    let mut inserted = Vec::new();
    for name in ["First", "Second"] {
        let office_id: OfficeId = harness.create(name).await.id.parse().expect("an id");
        let now = mi_kernel::Clock::now(&harness.clock);
        let sql = "INSERT INTO invites (id, office_id, code_sha256, created_at, expires_at) VALUES ($1, $2, $3, $4, $4)
                   ON CONFLICT DO NOTHING";
        let mut tx = db.office(office_id).begin().await.expect("begins");
        let done = on!(tx, |c| {
            let query = sqlx::query(sql).bind(InviteId::new().0).bind(office_id.0).bind(b"one hash".as_slice());
            query.bind(now).execute(&mut *c).await.map(|done| done.rows_affected() == 1)
        });
        inserted.push(done.expect("inserts"));
        tx.commit().await.expect("commits");
    }
    assert_eq!(inserted, [true, false]);
}
