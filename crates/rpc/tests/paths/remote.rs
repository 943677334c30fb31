//! What only the network can do: strangers at the door, forged tokens, and roles that come and go.

use std::{net::SocketAddr, time::Duration};

use mi_base::Tasks;
use mi_kernel::{Actor, Clock, ErrorKind};
use mi_proto::v1::activity_service_client::ActivityServiceClient;
use mi_rpc::{PrincipalKey, Transport, principal::PRINCIPAL_HEADER, server};
use mi_testkit::{ManualClock, until};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::stage::{Client, Feed, LONG, list, operator, serve, to, watch};

/// A call as anybody on the network can send it, with this principal token.
async fn call(address: SocketAddr, token: Option<&str>) -> Result<String, Status> {
    let channel = Channel::from_shared(format!("http://{address}")).expect("a URL").connect().await.expect("connects");
    let mut request = list("answers");
    if let Some(token) = token {
        request.metadata_mut().insert(PRINCIPAL_HEADER, token.parse().expect("ASCII"));
    }
    let answer = ActivityServiceClient::new(channel).list_activity(request).await?.into_inner();
    Ok(answer.events[0].id.clone())
}

#[tokio::test]
async fn only_own_fresh_tokens_are_let_in() {
    let (key, clock, tasks) = (PrincipalKey::random(), ManualClock::new(), Tasks::new());
    let address = serve(&Feed::default(), &key, &clock, &tasks, "127.0.0.1:0").await;
    let actor = operator(false);
    let token = key.sign(&actor, clock.now());
    assert_eq!(call(address, Some(&token)).await.expect("ours"), actor.key());

    let forged = PrincipalKey::random().sign(&operator(true), clock.now());
    let (claims, tag) = token.split_once('.').expect("two parts");
    let (other_claims, _) = forged.split_once('.').expect("two parts");
    let swapped = format!("{other_claims}.{tag}");
    let unsigned = format!("{claims}.");
    for bad in [None, Some(""), Some("nonsense"), Some(&*forged), Some(&*swapped), Some(&*unsigned), Some(claims)] {
        let refused = call(address, bad).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Unauthenticated, "{bad:?}");
        assert_eq!(refused.get_details_error_info().expect("always there").reason, "UNAUTHENTICATED");
    }
    // A minute and the allowed difference between two clocks.
    clock.advance(Duration::from_secs(90));
    call(address, Some(&token)).await.expect("just fresh");
    clock.advance(Duration::from_secs(1));
    assert_eq!(call(address, Some(&token)).await.expect_err("expired").code(), Code::Unauthenticated);
    tasks.stop(LONG).await;
}

#[tokio::test]
async fn a_stream_needs_a_token_too_and_anonymous_is_not_enough() {
    let (key, clock, tasks) = (PrincipalKey::random(), ManualClock::new(), Tasks::new());
    let address = serve(&Feed::default(), &key, &clock, &tasks, "127.0.0.1:0").await;
    let channel = Channel::from_shared(format!("http://{address}")).expect("a URL").connect().await.expect("connects");
    let refused = ActivityServiceClient::new(channel).watch_activity(watch("goes quiet")).await.expect_err("no token");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let anonymous = key.sign(&Actor::Anonymous, clock.now());
    assert_eq!(call(address, Some(&anonymous)).await.expect_err("nobody").code(), Code::Unauthenticated);
    tasks.stop(LONG).await;
}

#[tokio::test]
async fn a_role_that_is_down_is_unavailable_and_works_again_once_it_is_up() {
    let (key, clock, feed) = (PrincipalKey::random(), ManualClock::new(), Feed::default());
    let first = Tasks::new();
    let address = serve(&feed, &key, &clock, &first, "127.0.0.1:0").await;
    let actor = std::sync::Arc::new(operator(false));
    let client = ActivityServiceClient::new(Client(to(address, &key, &clock), actor.clone()));
    let ask = async || client.clone().list_activity(list("answers")).await.map(|answer| answer.into_inner().events);
    // Every connection of the pool is made, so that every one of them has to notice.
    for _ in 0..8 {
        assert_eq!(ask().await.expect("up")[0].id, actor.key());
    }
    let mut tasks = first;
    for round in 0..2 {
        assert_eq!(tasks.stop(LONG).await, None);
        for _ in 0..8 {
            let down = ask().await.expect_err("down");
            assert_eq!(down.code(), Code::Unavailable, "{round}: {down:?}");
            assert!(down.get_details_retry_info().is_some());
        }
        tasks = Tasks::new();
        serve(&feed, &key, &clock, &tasks, &address.to_string()).await;
        for _ in 0..8 {
            let up = until("it is up again", LONG, async || ask().await.map(Some)).await;
            assert_eq!(up[0].id, actor.key());
        }
    }
    tasks.stop(LONG).await;
}

#[tokio::test]
async fn a_port_in_use_and_a_bad_url_are_named() {
    let taken = server::bind("--listen", "127.0.0.1:0".parse().expect("an address")).await.expect("binds");
    let address = taken.local_addr().expect("bound");
    let error = server::bind("--metrics-listen", address).await.expect_err("in use");
    assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "CANNOT_LISTEN"));
    let (flag, address) = (error.message.contains("--metrics-listen"), error.message.contains(&address.to_string()));
    assert!(flag && address, "{error}");
    let remote = Transport::remote("activity", "no url", None, PrincipalKey::random(), ManualClock::new().shared());
    assert_eq!(remote.err().expect("refused").field, Some("activity"));
}
