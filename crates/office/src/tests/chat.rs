//! Messages: who may send and read them, what is kept and told of them, and what is refused.

use std::slice;

use mi_kernel::{Actor, OfficeId, event::Category};
use mi_proto::{
    internal::v1::Member,
    v1::{
        ChatMessage, ListMessagesRequest, ResumeOfficeRequest, SendMessageRequest, SuspendOfficeRequest,
        WatchMessagesRequest,
    },
};
use mi_store::on;
use mi_testkit::on_both;
use prost::Message;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{harness::Harness, peer::Mood};

on_both! {
    what_is_sent_is_kept_listed_and_told_of_without_its_words,
    agents_see_the_group_and_their_own,
    strangers_see_nothing,
    a_name_is_taken_over_without_what_its_bearer_wrote,
    history_goes_back_page_by_page,
    long_history_comes_in_parts_that_clients_take,
    the_same_request_sends_once,
    a_suspended_office_is_read_and_not_written,
    what_cannot_be_sent_is_refused_by_field,
    whoever_was_hired_just_now_is_there,
    agents_that_do_not_work_do_not_write,
    a_deleted_office_takes_its_messages_along,
}

/// A message to the group.
pub(super) fn to_group(office: &str, body: &str) -> SendMessageRequest {
    SendMessageRequest { office_id: office.into(), body: body.into(), ..SendMessageRequest::default() }
}

pub(super) fn direct(office: &str, to: &str, body: &str) -> SendMessageRequest {
    SendMessageRequest { to_agent: to.into(), ..to_group(office, body) }
}

/// The reason and the field that a refusal names.
pub(super) fn refused(status: &Status) -> (Code, String, Option<String>) {
    let reason = status.get_details_error_info().expect("always there").reason;
    let field = status.get_details_bad_request().map(|bad| bad.field_violations[0].field.clone());
    (status.code(), reason, field)
}

fn invalid(field: &str) -> (Code, String, Option<String>) {
    (Code::InvalidArgument, "INVALID_ARGUMENT".into(), Some(field.into()))
}

fn bodies(messages: &[ChatMessage]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}

impl Harness {
    pub(super) async fn say(&self, actor: &Actor, request: SendMessageRequest) -> Result<ChatMessage, Status> {
        let answer = self.chat(actor).send_message(request).await?.into_inner();
        Ok(answer.message.expect("always there"))
    }

    async fn history(&self, actor: &Actor, office: &str, with: &str) -> Result<Vec<ChatMessage>, Status> {
        let request =
            ListMessagesRequest { office_id: office.into(), with_agent: with.into(), ..ListMessagesRequest::default() };
        Ok(self.chat(actor).list_messages(request).await?.into_inner().messages)
    }

    /// Rows of the office in the tables of chat.
    pub(super) async fn chat_rows(&self, office: &str) -> [i64; 2] {
        let (db, office_id) = (self.db().await, OfficeId::parse(office).expect("an id"));
        let mut counts = [0; 2];
        let tables =
            ["SELECT count(*) FROM chats WHERE office_id = $1", "SELECT count(*) FROM messages WHERE office_id = $1"];
        for (count, sql) in counts.iter_mut().zip(tables) {
            let mut conn = db.platform().read().await.expect("reads");
            *count = on!(conn, |c| sqlx::query_scalar(sql).bind(office_id.0).fetch_one(&mut *c).await).expect("counts");
        }
        counts
    }
}

async fn what_is_sent_is_kept_listed_and_told_of_without_its_words(harness: Harness) {
    let office = harness.create("One").await.id;
    let (analyst, _) = (harness.agent(&office, "analyst", true, &[]), harness.agent(&office, "bob", true, &[]));
    let time = Some(mi_rpc::convert::timestamp(mi_kernel::Clock::now(&harness.clock)));
    let expected = |id: &str, from: &str, to: &str, body: &str| ChatMessage {
        id: id.into(),
        from: from.into(),
        to_agent: to.into(),
        body: body.into(),
        time,
        cause: String::new(),
        depth: 0,
    };
    let words = "hello, \u{1b}[31mwörld\u{1b}[0m\n@nobody";
    let first = harness.say(&harness.owner, to_group(&office, words)).await.expect("sends");
    assert_eq!(first, expected(&first.id, "operator", "", words));
    let second = harness.say(&harness.owner, direct(&office, "Analyst", "only you")).await.expect("sends");
    assert_eq!(second, expected(&second.id, "operator", "analyst", "only you"));
    // What it may be answering was an operator's.
    let answer = |message: ChatMessage| ChatMessage { cause: format!("message/{}", second.id), depth: 1, ..message };
    let third = harness.say(&analyst, direct(&office, "OPERATOR", "done")).await.expect("sends");
    assert_eq!(third, answer(expected(&third.id, "analyst", "operator", "done")));
    let fourth = harness.say(&analyst, direct(&office, "bob", "psst")).await.expect("sends");
    assert_eq!(fourth, answer(expected(&fourth.id, "analyst", "bob", "psst")));
    assert!([&first, &second, &third, &fourth].is_sorted_by(|a, b| a.id < b.id));

    let history = async |with: &str| harness.history(&harness.owner, &office, with).await.expect("lists");
    assert_eq!(history("").await, slice::from_ref(&first));
    assert_eq!(history("Analyst").await, [fourth.clone(), third.clone(), second.clone()]);
    assert_eq!(history("bob").await, slice::from_ref(&fourth));
    assert_eq!(history("operator").await, [third.clone(), second.clone()]);

    let woken = ["message.sent", "task.created"];
    let told = [
        &["office.created", "credit.granted", "office.activated", "message.sent"],
        &woken[..],
        &["message.sent"],
        &woken[..],
    ];
    harness.until_events(&office, &told.concat()).await;
    let events = harness.activity.known().events.clone();
    let told: Vec<_> = events.iter().filter(|event| event.kind == "message.sent").collect();
    assert!(told.iter().all(|event| event.category == Category::Chat), "{told:?}");
    let brief: Vec<_> =
        told.iter().map(|event| (event.agent.as_str(), event.summary.as_str(), event.metadata.clone())).collect();
    let about =
        |message: &ChatMessage| json!({ "id": message.id, "to_agent": message.to_agent, "length": message.body.len() });
    assert_eq!(
        brief,
        [
            ("", "An operator wrote to the group", about(&first)),
            ("", "An operator wrote to \"analyst\"", about(&second)),
            ("analyst", "Agent \"analyst\" wrote to an operator", about(&third)),
            ("analyst", "Agent \"analyst\" wrote to \"bob\"", about(&fourth)),
        ]
    );
}

async fn agents_see_the_group_and_their_own(harness: Harness) {
    let office = harness.create("One").await.id;
    let [a, b, c] = ["a", "b", "c"].map(|name| harness.agent(&office, name, true, &[]));
    let sent =
        async |from: &Actor, to: &str, body: &str| harness.say(from, direct(&office, to, body)).await.expect("sends");
    sent(&harness.owner, "", "all").await;
    sent(&a, "b", "a to b").await;
    sent(&b, "a", "b to a").await;
    sent(&b, "c", "b to c").await;
    sent(&harness.owner, "a", "o to a").await;
    sent(&c, "operator", "c to o").await;
    sent(&c, "", "c to all").await;
    let cases: [(&Actor, &str, &[&str]); 15] = [
        (&a, "", &["c to all", "all"]),
        (&a, "b", &["b to a", "a to b"]),
        (&a, "c", &[]),
        (&a, "operator", &["o to a"]),
        (&a, "a", &[]),
        (&b, "a", &["b to a", "a to b"]),
        (&b, "C", &["b to c"]),
        (&b, "operator", &[]),
        (&c, "b", &["b to c"]),
        (&c, "a", &[]),
        (&c, "operator", &["c to o"]),
        (&harness.owner, "", &["c to all", "all"]),
        (&harness.owner, "a", &["o to a", "b to a", "a to b"]),
        (&harness.owner, "c", &["c to o", "b to c"]),
        (&harness.owner, "operator", &["c to o", "o to a"]),
    ];
    for (reader, with, expected) in cases {
        let listed = harness.history(reader, &office, with).await.expect("lists");
        assert_eq!(bodies(&listed), expected, "{reader:?} with {with:?}");
    }
}

async fn strangers_see_nothing(harness: Harness) {
    let (office, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    harness.agent(&office, "a", true, &[]);
    let message = harness.say(&harness.owner, direct(&office, "a", "secret")).await.expect("sends");
    let neighbour = harness.agent(&other, "neighbour", true, &[]);
    let (stranger, _) = harness.account("Stranger").await;
    for actor in [&stranger, &neighbour] {
        let mut chat = harness.chat(actor);
        let watch = WatchMessagesRequest { office_id: office.clone(), after_id: Some(String::new()) };
        for status in [
            harness.say(actor, to_group(&office, "let me in")).await.expect_err("foreign"),
            // Nothing of the request is judged before the office is entered.
            harness.say(actor, direct(&office, "nobody", "")).await.expect_err("foreign"),
            harness.history(actor, &office, "a").await.expect_err("foreign"),
            chat.watch_messages(watch).await.expect_err("foreign"),
        ] {
            assert_eq!(refused(&status), (Code::NotFound, "NOT_FOUND".into(), None));
        }
    }
    assert_eq!(harness.chat_rows(&office).await, [1, 1]);
    // Nor is a message of one office a place in another.
    let watch = WatchMessagesRequest { office_id: other, after_id: Some(message.id) };
    let status = harness.chat(&harness.owner).watch_messages(watch).await.expect_err("not of this office");
    assert_eq!(refused(&status), invalid("after_id"));
}

async fn a_name_is_taken_over_without_what_its_bearer_wrote(harness: Harness) {
    let office = harness.create("One").await.id;
    let first = harness.agent(&office, "analyst", true, &[]);
    harness.say(&first, direct(&office, "operator", "before")).await.expect("sends");
    let secret = harness.say(&harness.owner, direct(&office, "analyst", "for the first")).await.expect("sends");
    harness.scheduler.known().members.clear();
    let second = harness.agent(&office, "analyst", true, &[]);
    assert_eq!(harness.history(&second, &office, "operator").await.expect("lists"), []);
    let watch = WatchMessagesRequest { office_id: office.clone(), after_id: Some(secret.id) };
    let status = harness.chat(&second).watch_messages(watch).await.expect_err("not its own");
    assert_eq!(refused(&status), invalid("after_id"));
    let all = harness.history(&harness.owner, &office, "analyst").await.expect("lists");
    assert_eq!(bodies(&all), ["for the first", "before"]);
    // Whoever is gone for good still has a history; whoever never was has none.
    harness.scheduler.known().members.clear();
    assert_eq!(harness.history(&harness.owner, &office, "analyst").await.expect("lists"), all);
    let status = harness.history(&harness.owner, &office, "ghost").await.expect_err("never there");
    assert_eq!(refused(&status), (Code::NotFound, "NOT_FOUND".into(), None));
}

async fn history_goes_back_page_by_page(harness: Harness) {
    let office = harness.create("One").await.id;
    let agent = harness.agent(&office, "a", true, &[]);
    let mut sent = Vec::new();
    for number in 0..7 {
        let (from, to) = if number % 2 == 0 { (&harness.owner, "a") } else { (&agent, "operator") };
        sent.push(harness.say(from, direct(&office, to, &number.to_string())).await.expect("sends"));
        harness.say(from, to_group(&office, "in between")).await.expect("sends");
    }
    sent.reverse();
    for reader in [&harness.owner, &agent] {
        let with = if reader == &agent { "operator" } else { "a" };
        let (mut seen, mut before_id) = (Vec::new(), String::new());
        loop {
            let request = ListMessagesRequest {
                office_id: office.clone(),
                with_agent: with.into(),
                limit: Some(2),
                before_id: before_id.clone(),
            };
            let page = harness.chat(reader).list_messages(request).await.expect("lists").into_inner().messages;
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            before_id.clone_from(&last.id);
            seen.extend(page);
        }
        assert_eq!(seen, sent);
    }
    for (limit, before_id, field) in
        [(0, "", "limit"), (-1, "", "limit"), (1, "x", "before_id"), (1, &office, "before_id")]
    {
        let request = ListMessagesRequest {
            office_id: office.clone(),
            limit: Some(limit),
            before_id: before_id.into(),
            ..ListMessagesRequest::default()
        };
        let status = harness.chat(&harness.owner).list_messages(request).await.expect_err(field);
        assert_eq!(refused(&status), invalid(field));
    }
}

async fn long_history_comes_in_parts_that_clients_take(harness: Harness) {
    let office = harness.create("One").await.id;
    let mut sent = Vec::new();
    for n in 0..60 {
        let body = format!("{n:2}{}", "x".repeat((64 << 10) - 2));
        sent.push(harness.say(&harness.owner, to_group(&office, &body)).await.expect("sends").id);
    }
    sent.reverse();
    let mut request = ListMessagesRequest { office_id: office, limit: Some(200), ..Default::default() };
    let (mut parts, mut listed) = (Vec::new(), Vec::new());
    loop {
        let part = harness.chat(&harness.owner).list_messages(request.clone()).await.expect("lists").into_inner();
        assert!(part.encoded_len() < 3 << 20, "{}", part.encoded_len());
        let Some(last) = part.messages.last() else { break };
        request.before_id = last.id.clone();
        parts.push(part.messages.len());
        listed.extend(part.messages.into_iter().map(|message| message.id));
    }
    assert_eq!((parts, listed), (vec![47, 13], sent));
}

async fn the_same_request_sends_once(harness: Harness) {
    let office = harness.create("One").await.id;
    let agent = harness.agent(&office, "a", true, &[]);
    let request = SendMessageRequest { request_id: "r1".into(), ..direct(&office, "a", "once") };
    let first = harness.say(&harness.owner, request.clone()).await.expect("sends");
    let again = futures::future::join_all((0..8).map(|_| harness.say(&harness.owner, request.clone()))).await;
    assert!(again.iter().all(|answer| answer.as_ref().is_ok_and(|message| *message == first)), "{again:?}");
    // Also when the agent is gone and when nobody may write any more.
    harness.scheduler.known().members.clear();
    let suspend = SuspendOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).suspend_office(suspend).await.expect("suspends");
    assert_eq!(harness.say(&harness.owner, request.clone()).await.expect("again"), first);
    let other = SendMessageRequest { body: "twice".into(), ..request.clone() };
    let status = harness.say(&harness.owner, other).await.expect_err("another content");
    assert_eq!(refused(&status), invalid("request_id"));
    let long = SendMessageRequest { request_id: "x".repeat(129), ..request.clone() };
    assert_eq!(refused(&harness.say(&harness.owner, long).await.expect_err("long")), invalid("request_id"));
    harness
        .offices(&harness.owner)
        .resume_office(ResumeOfficeRequest { office_id: office.clone() })
        .await
        .expect("resumes");
    // A request is its caller's.
    let own = SendMessageRequest { request_id: "r1".into(), ..to_group(&office, "once") };
    harness.scheduler.known().members.push(Member { name: "a".into(), working: true, ..Member::default() });
    assert_ne!(harness.say(&agent, own).await.expect("another caller's").id, first.id);
    assert_eq!(harness.chat_rows(&office).await, [1, 2]);
}

async fn a_suspended_office_is_read_and_not_written(harness: Harness) {
    let office = harness.create("One").await.id;
    let agent = harness.agent(&office, "a", true, &[]);
    let message = harness.say(&agent, to_group(&office, "before")).await.expect("sends");
    harness
        .offices(&harness.owner)
        .suspend_office(SuspendOfficeRequest { office_id: office.clone() })
        .await
        .expect("suspends");
    for actor in [&agent, &harness.owner] {
        let status = harness.say(actor, to_group(&office, "after")).await.expect_err("suspended");
        assert_eq!(refused(&status), (Code::FailedPrecondition, "OFFICE_NOT_ACTIVE".into(), None));
        let text = "the office is suspended; its messages can be read, and sent again when it is resumed";
        assert_eq!(status.message(), text);
        assert_eq!(harness.history(actor, &office, "").await.expect("lists"), slice::from_ref(&message));
    }
    harness
        .offices(&harness.owner)
        .resume_office(ResumeOfficeRequest { office_id: office.clone() })
        .await
        .expect("resumes");
    harness.say(&agent, to_group(&office, "after")).await.expect("sends");
}

async fn what_cannot_be_sent_is_refused_by_field(harness: Harness) {
    let office = harness.create("One").await.id;
    let agent = harness.agent(&office, "a", true, &[]);
    let crowd: Vec<String> = (0..11).map(|number| format!("@m{number}")).collect();
    (0..11).for_each(|number| drop(harness.agent(&office, &format!("m{number}"), true, &[])));
    let missing = (Code::NotFound, "NOT_FOUND".to_owned(), None);
    let cases = [
        (&agent, to_group(&office, ""), invalid("body")),
        (&agent, to_group(&office, " \n\t"), invalid("body")),
        (&agent, to_group(&office, "a\0b"), invalid("body")),
        (&agent, to_group(&office, &"x".repeat(65_537)), invalid("body")),
        (&agent, to_group(&office, &"x".repeat(1 << 20)), invalid("body")),
        (&agent, to_group(&office, &crowd.join(" ")), invalid("body")),
        (&agent, direct(&office, "A", "to itself"), invalid("to_agent")),
        (&harness.owner, direct(&office, "operator", "to itself"), invalid("to_agent")),
        (&agent, direct(&office, "ghost", "x"), missing.clone()),
        (&agent, direct(&office, "no name", "x"), missing.clone()),
        (&harness.owner, direct(&office, "../x", "x"), missing.clone()),
        (&harness.owner, to_group("", "x"), invalid("office_id")),
        (&harness.owner, to_group("x", "x"), invalid("office_id")),
        (&harness.owner, to_group(&OfficeId::new().to_string(), "x"), missing),
    ];
    for (actor, request, expected) in cases {
        let shown = format!("{:.60}", format!("{request:?}"));
        assert_eq!(refused(&harness.say(actor, request).await.expect_err(&shown)), expected, "{shown}");
    }
    assert_eq!(harness.chat_rows(&office).await, [0, 0]);
    for good in ["x".repeat(65_536), crowd[..10].join(" "), "é".repeat(32_768)] {
        let sent = harness.say(&agent, to_group(&office, &good)).await.expect("as long as may be");
        assert_eq!(sent.body, good);
    }
}

async fn whoever_was_hired_just_now_is_there(harness: Harness) {
    let office = harness.create("One").await.id;
    harness.agent(&office, "a", true, &[]);
    // From here on the roster is known, and the next one is not in it.
    harness.say(&harness.owner, direct(&office, "a", "hello")).await.expect("sends");
    harness.agent(&office, "b", true, &[]);
    harness.say(&harness.owner, direct(&office, "b", "hello")).await.expect("sends");

    // Without the scheduler nobody can say who is there, and what calls nobody goes on.
    harness.scheduler.be(Mood::Fails);
    let status = harness.say(&harness.owner, direct(&office, "c", "hello")).await.expect_err("nobody knows");
    assert_eq!(status.code(), Code::Unavailable);
    harness.say(&harness.owner, to_group(&office, "hello")).await.expect("sends");
    harness.scheduler.be(Mood::Works);
    harness.agent(&office, "c", true, &[]);
    harness.say(&harness.owner, direct(&office, "c", "hello")).await.expect("sends");
}

async fn agents_that_do_not_work_do_not_write(harness: Harness) {
    let office = harness.create("One").await.id;
    let agent = harness.agent(&office, "a", true, &[]);
    harness.say(&agent, to_group(&office, "works")).await.expect("sends");
    let works = |working: bool| harness.scheduler.known().members[0].working = working;
    works(false);
    // What is known may be a second old; what comes next is asked anew.
    mi_testkit::until("it is refused", super::harness::LONG, async || {
        match harness.say(&agent, to_group(&office, "paused")).await {
            Ok(_) => Ok(None),
            Err(status) if refused(&status).1 == "AGENT_NOT_WORKING" => Ok(Some(())),
            Err(status) => Err(status.to_string()),
        }
    })
    .await;
    works(true);
    harness.say(&agent, to_group(&office, "works again")).await.expect("at once");
    // Others may write to it, whatever it does.
    works(false);
    harness.say(&harness.owner, direct(&office, "a", "wake up")).await.expect("sends");
}

async fn a_deleted_office_takes_its_messages_along(harness: Harness) {
    let (office, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    for id in [&office, &other] {
        for number in 0..3 {
            harness.say(&harness.owner, to_group(id, &number.to_string())).await.expect("sends");
        }
    }
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
    assert_eq!((harness.chat_rows(&office).await, harness.chat_rows(&other).await), ([0, 0], [1, 3]));
    let status = harness.say(&harness.owner, to_group(&office, "late")).await.expect_err("gone");
    assert_eq!(refused(&status).0, Code::NotFound);
}
