//! Watching messages: one order for everybody, from wherever a client stands.

use std::{slice, sync::Arc};

use futures::future::join_all;
use mi_kernel::Actor;
use mi_proto::v1::{
    ChatMessage, SendMessageRequest, WatchMessagesRequest, WatchMessagesResponse,
    chat_service_client::ChatServiceClient,
};
use mi_testkit::{Backend, OnBackend, on_both};
use tonic::{Code, Streaming};

use super::{
    chat::to_group,
    harness::{Client, Harness, LONG},
};

on_both! {
    everybody_sees_one_order_and_resumes_anywhere_in_it,
    a_watch_begins_now_unless_told_where,
    agents_watch_what_is_theirs,
    who_never_reads_keeps_nobody_waiting_and_misses_nothing,
    a_watch_ends_with_its_office,
}

/// Messages as they come to one watcher.
struct Watch(Streaming<WatchMessagesResponse>);

impl Watch {
    async fn open(mut chat: ChatServiceClient<Client>, office: &str, after: Option<&str>) -> Self {
        let request = WatchMessagesRequest { office_id: office.into(), after_id: after.map(str::to_owned) };
        Self(chat.watch_messages(request).await.expect("opens").into_inner())
    }

    async fn next(&mut self) -> ChatMessage {
        let next = tokio::time::timeout(LONG, self.0.message()).await.expect("in time");
        next.expect("no error").expect("goes on").message.expect("always there")
    }

    async fn take(&mut self, count: usize) -> Vec<ChatMessage> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(self.next().await);
        }
        messages
    }
}

impl Harness {
    async fn watch_chat(&self, actor: &Actor, office: &str, after: Option<&str>) -> Watch {
        Watch::open(self.chat(actor), office, after).await
    }
}

async fn everybody_sees_one_order_and_resumes_anywhere_in_it(harness: Harness) {
    const EACH: usize = 25;
    let office = harness.create("One").await.id;
    let senders: Vec<Actor> = ["a", "b", "c"].iter().map(|name| harness.agent(&office, name, true, &[])).collect();
    let mut watches = Vec::new();
    for after in [None, Some(""), Some("")] {
        watches.push(harness.watch_chat(&harness.owner, &office, after).await);
    }
    let sending = join_all(senders.iter().map(async |sender| {
        for number in 0..EACH {
            harness.say(sender, to_group(&office, &number.to_string())).await.expect("sends");
        }
    }));
    let (seen, _) = tokio::join!(join_all(watches.iter_mut().map(|watch| watch.take(EACH * 3))), sending);
    let order = &seen[0];
    assert!(seen.iter().all(|other| other == order), "{seen:?}");
    assert!(order.is_sorted_by(|a, b| a.id < b.id));
    for name in ["a", "b", "c"] {
        let own: Vec<&str> = order.iter().filter(|m| m.from == name).map(|m| m.body.as_str()).collect();
        assert_eq!(own, (0..EACH).map(|number| number.to_string()).collect::<Vec<_>>());
    }
    for (place, message) in order.iter().enumerate() {
        let mut resumed = harness.watch_chat(&harness.owner, &office, Some(&message.id)).await;
        assert_eq!(resumed.take(order.len() - place - 1).await, order[place + 1..]);
    }
    // Nothing was left over.
    let last = harness.say(&harness.owner, to_group(&office, "last")).await.expect("sends");
    for watch in &mut watches {
        assert_eq!(watch.next().await, last);
    }
}

async fn a_watch_begins_now_unless_told_where(harness: Harness) {
    let office = harness.create("One").await.id;
    let mut early = harness.watch_chat(&harness.owner, &office, None).await;
    let first = harness.say(&harness.owner, to_group(&office, "first")).await.expect("sends");
    let mut late = harness.watch_chat(&harness.owner, &office, None).await;
    let mut from_start = harness.watch_chat(&harness.owner, &office, Some("")).await;
    let second = harness.say(&harness.owner, to_group(&office, "second")).await.expect("sends");
    assert_eq!(early.take(2).await, [first.clone(), second.clone()]);
    assert_eq!(late.take(1).await, slice::from_ref(&second));
    assert_eq!(from_start.take(2).await, [first, second.clone()]);
    // A restart of the platform changes nothing in that.
    let mut harness = harness;
    harness.crash().await;
    let mut resumed = harness.watch_chat(&harness.owner, &office, Some(&second.id)).await;
    let third = harness.say(&harness.owner, to_group(&office, "third")).await.expect("sends");
    assert!(third.id > second.id);
    assert_eq!(resumed.take(1).await, [third]);
    for bad in ["x", "019aa0b4-7c1e-7d0a-b3a5-0a1b2c3d4e5f"] {
        let request = WatchMessagesRequest { office_id: office.clone(), after_id: Some(bad.into()) };
        let status = harness.chat(&harness.owner).watch_messages(request).await.expect_err(bad);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("after_id is not the id of a message of yours"), "{status}");
    }
}

async fn agents_watch_what_is_theirs(harness: Harness) {
    let office = harness.create("One").await.id;
    let [a, b, c] = ["a", "b", "c"].map(|name| harness.agent(&office, name, true, &[]));
    let mut watches = Vec::new();
    for reader in [&a, &b, &c, &harness.owner] {
        watches.push(harness.watch_chat(reader, &office, Some("")).await);
    }
    let mut sent = Vec::new();
    for (from, to) in [(&a, "b"), (&b, "a"), (&b, "c"), (&harness.owner, "a"), (&c, "operator"), (&c, "")] {
        let request = SendMessageRequest { to_agent: to.into(), ..to_group(&office, "x") };
        sent.push(harness.say(from, request).await.expect("sends"));
    }
    let theirs: [&[usize]; 4] = [&[0, 1, 3, 5], &[0, 1, 2, 5], &[2, 4, 5], &[0, 1, 2, 3, 4, 5]];
    for (watch, places) in watches.iter_mut().zip(theirs) {
        let expected: Vec<ChatMessage> = places.iter().map(|place| sent[*place].clone()).collect();
        assert_eq!(watch.take(expected.len()).await, expected);
    }
}

async fn who_never_reads_keeps_nobody_waiting_and_misses_nothing(harness: Harness) {
    const COUNT: usize = 120;
    let office = harness.create("One").await.id;
    let mut lazy = harness.watch_chat(&harness.owner, &office, Some("")).await;
    let mut eager = harness.watch_chat(&harness.owner, &office, Some("")).await;
    let body = "x".repeat(60_000);
    let mut sent = Vec::new();
    for number in 0..COUNT {
        let message = harness.say(&harness.owner, to_group(&office, &format!("{number} {body}"))).await.expect("sends");
        assert_eq!(eager.next().await, message);
        sent.push(message.id);
    }
    let late: Vec<String> = lazy.take(COUNT).await.into_iter().map(|message| message.id).collect();
    assert_eq!(late, sent);
}

async fn a_watch_ends_with_its_office(harness: Harness) {
    let office = harness.create("One").await.id;
    let mut watch = harness.watch_chat(&harness.owner, &office, None).await;
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
    let end = tokio::time::timeout(LONG, watch.0.message()).await.expect("in time").expect_err("ends");
    assert_eq!((end.code(), end.message()), (Code::NotFound, format!("office {office:?} not found").as_str()));
}

#[tokio::test]
async fn what_another_process_sends_is_seen_too() {
    let harness = Harness::on(Backend::Postgres).await;
    let office = harness.create("One").await.id;
    let twin = harness.twin().await;
    let other = || ChatServiceClient::new(Client(twin.clone(), Arc::new(harness.owner.clone())));
    let mut watches =
        [harness.watch_chat(&harness.owner, &office, None).await, Watch::open(other(), &office, None).await];
    let here = async {
        for number in 0..20 {
            harness.say(&harness.owner, to_group(&office, &format!("here {number}"))).await.expect("sends");
        }
    };
    let there = async {
        for number in 0..20 {
            other().send_message(to_group(&office, &format!("there {number}"))).await.expect("sends");
        }
    };
    let [one, two] = &mut watches;
    let (one, two, (), ()) = tokio::join!(one.take(40), two.take(40), here, there);
    assert_eq!(one, two);
    assert!(one.is_sorted_by(|a, b| a.id < b.id));
}
