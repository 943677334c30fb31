//! Invites: a code lets one agent in, for a day, whatever fails on the way; and guessing is no way in.

use std::time::Duration;

use mi_kernel::{Actor, InviteId, OfficeId};
use mi_proto::v1::{Agent, CreateInviteRequest, Invite, JoinOfficeRequest, SuspendOfficeRequest};
use mi_rpc::{SOURCE_HEADER, convert};
use mi_store::{Db, on};
use mi_testkit::on_both;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{peer::Mood, stage::Stage};
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

impl Stage {
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

async fn a_code_lets_one_agent_in_and_is_shown_once(stage: Stage) {
    let office = stage.create("Open").await.id;
    let invite = stage.invite(&stage.owner, &office).await.expect("made");
    let shape = |c: char| "ABCDEFGHJKLMNPQRSTUVWXYZ23456789".contains(c);
    assert!(invite.code.len() == 6 && invite.code.chars().all(shape), "{}", invite.code);
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(invite.expires_at, Some(convert::timestamp(mi_kernel::Clock::now(&stage.clock) + day)));

    let agent = stage.join(&format!(" {} ", invite.code.to_lowercase()), "Robo").await.expect("joins");
    let admitted = stage.scheduler.known().admitted[&invite.id].clone();
    assert_eq!((&admitted.office_id, admitted.name.as_str(), &admitted.public_key[..]), (&office, "robo", &KEY[..]));
    assert_eq!(agent.id, admitted.agent_id());
    assert_eq!(stage.join(&invite.code, "robo").await.expect("sent again").id, agent.id);
    assert_wrong(&stage.join(&invite.code, "other").await.expect_err("used"));
    assert_wrong(&stage.join_from("127.0.0.2", &invite.code, "robo", &OTHER_KEY).await.expect_err("used"));
    assert_wrong(&stage.join(&another(&[&invite]), "robo").await.expect_err("unknown"));

    stage.until_events(&office, &["office.created", "office.activated", "invite.created"]).await;
    let events = stage.activity.known().events.clone();
    assert_eq!(
        (events[2].category.as_str(), &events[2].metadata["invite_id"]),
        ("security", &invite.id.clone().into())
    );
    assert!(!format!("{events:?}").contains(&invite.code));
}

async fn a_code_is_good_for_a_day(stage: Stage) {
    let office = stage.create("Open").await.id;
    let (first, second) = (
        stage.invite(&stage.owner, &office).await.expect("made"),
        stage.invite(&stage.owner, &office).await.expect("made"),
    );
    stage.clock.advance(Duration::from_secs(24 * 3600 - 1));
    stage.join(&first.code, "robo").await.expect("just in time");
    stage.clock.advance(Duration::from_secs(1));
    assert_wrong(&stage.join(&second.code, "late").await.expect_err("expired"));
    assert_wrong(&stage.join(&first.code, "robo").await.expect_err("asked again too late"));
}

async fn what_is_wrong_with_a_request_leaves_the_code_as_it_was(stage: Stage) {
    let office = stage.create("Open").await.id;
    let (first, second) = (
        stage.invite(&stage.owner, &office).await.expect("made"),
        stage.invite(&stage.owner, &office).await.expect("made"),
    );
    stage.join(&first.code, "robo").await.expect("joins");
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
            let refused = stage.join_from("127.0.0.2", code, name, key).await.expect_err(field);
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert_eq!(refused.get_details_bad_request().expect("names it").field_violations[0].field, field);
        }
        let refused = stage.join(&second.code, "robo").await.expect_err("a name is unique");
        assert_eq!(refused.code(), Code::AlreadyExists);
    }
    stage.join(&second.code, "other").await.expect("as good as before");
}

async fn nothing_is_lost_between_the_code_and_the_agent(mut stage: Stage) {
    let office = stage.create("Open").await.id;
    let invite = stage.invite(&stage.owner, &office).await.expect("made");
    for mood in [Mood::Fails, Mood::AnswersGetLost] {
        stage.scheduler.be(mood);
        for _ in 0..20 {
            let refused = stage.join(&invite.code, "robo").await.expect_err("as asked");
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        }
        assert_eq!(stage.scheduler.known().admitted.len(), usize::from(mood == Mood::AnswersGetLost));
        stage.crash().await;
    }
    stage.scheduler.be(Mood::Works);
    let agent = stage.join(&invite.code, "robo").await.expect("joins");
    assert_eq!(agent.id, stage.scheduler.known().admitted[&invite.id].agent_id());
    assert_wrong(&stage.join(&invite.code, "thief").await.expect_err("used"));
    assert_eq!(stage.scheduler.known().admitted.len(), 1);
}

async fn wrong_codes_are_limited_by_source(stage: Stage) {
    let office = stage.create("Open").await.id;
    let invite = stage.invite(&stage.owner, &office).await.expect("made");
    let wrong = another(&[&invite]);
    for _ in 0..10 {
        assert_wrong(&stage.join(&wrong, "robo").await.expect_err("unknown"));
    }
    stage.clock.advance(Duration::from_secs(20));
    // The good code does not help now: nothing tells it from a guess.
    for code in [&wrong, &invite.code] {
        assert_eq!(wait_of(&stage.join(code, "robo").await.expect_err("limited")), Duration::from_secs(40));
    }
    stage.join_from("127.0.0.3", &invite.code, "robo", &KEY).await.expect("another source");
    stage.clock.advance(Duration::from_secs(40));
    assert_wrong(&stage.join(&wrong, "robo").await.expect_err("unknown"));
}

async fn wrong_codes_are_limited_altogether(stage: Stage) {
    let office = stage.create("Open").await.id;
    let invite = stage.invite(&stage.owner, &office).await.expect("made");
    let wrong = another(&[&invite]);
    for number in 0..100 {
        let refused = stage.join_from(&format!("127.0.1.{number}"), &wrong, "robo", &KEY).await.expect_err("unknown");
        assert_wrong(&refused);
    }
    let refused = stage.join(&invite.code, "robo").await.expect_err("limited");
    assert_eq!(wait_of(&refused), Duration::from_secs(60));
    stage.clock.advance(Duration::from_secs(60));
    stage.join(&invite.code, "robo").await.expect("joins");
}

async fn only_the_owner_invites_and_only_into_an_active_office(stage: Stage) {
    let office = stage.create("Closed").await.id;
    let (stranger, _) = stage.account("Stranger").await;
    let (foreign, unknown) = (office.clone(), OfficeId::new().to_string());
    for id in [foreign, unknown] {
        let refused = stage.invite(&stranger, &id).await.expect_err("foreign");
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, &*format!("office {id:?} not found")));
    }
    assert_eq!(stage.invite(&Actor::Anonymous, &office).await.expect_err("nobody").code(), Code::Unauthenticated);
    let suspend = SuspendOfficeRequest { office_id: office.clone() };
    stage.offices(&stage.owner).suspend_office(suspend).await.expect("suspends");
    let refused = stage.invite(&stage.owner, &office).await.expect_err("suspended");
    assert_eq!(refused.get_details_error_info().expect("always there").reason, "OFFICE_NOT_ACTIVE");
}

async fn a_deleted_office_lets_nobody_in(stage: Stage) {
    let (office, other) = (stage.create("Gone").await.id, stage.create("Kept").await.id);
    let gone = stage.invite(&stage.owner, &office).await.expect("made");
    let kept = stage.invite(&stage.owner, &other).await.expect("made");
    stage.delete(&office).await;
    stage.until_status(&office, None).await;
    assert_wrong(&stage.join(&gone.code, "late").await.expect_err("gone"));
    stage.join(&kept.code, "robo").await.expect("untouched");
}

async fn no_two_invites_have_one_code(stage: Stage) {
    let db = Db::open(stage.target(), MIGRATIONS).await.expect("opens");
    let mut inserted = Vec::new();
    for name in ["First", "Second"] {
        let office_id: OfficeId = stage.create(name).await.id.parse().expect("an id");
        let now = mi_kernel::Clock::now(&stage.clock);
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
