//! Limits as clients meet them.

use std::{num::NonZeroU32, time::Duration};

use mi_gateway::{GatewayConfig, Limits};
use mi_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::fake::{Edge, bearer, hang};

fn edge(burst: u32, concurrent: usize) -> Edge {
    Edge::with(GatewayConfig {
        limits: Limits { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(burst).expect("not zero"), concurrent },
        ..Default::default()
    })
}

fn assert_limited(status: &Status, reason: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status.get_details_error_info().expect("always there").reason, reason);
    let retry = status.get_details_retry_info().expect("says when").retry_delay.expect("set");
    assert!(!retry.is_zero() && retry <= Duration::from_secs(1), "{retry:?}");
}

#[tokio::test]
async fn a_principal_that_calls_too_often_is_told_when_to_come_back() {
    let edge = edge(3, 10);
    edge.world.operator("mi_a");
    let other = edge.world.operator("mi_b");
    for _ in 0..3 {
        edge.who("Bearer mi_a").await.expect("within limits");
    }
    assert_limited(&edge.who("Bearer mi_a").await.expect_err("too many"), "RATE_LIMITED");
    assert_eq!(edge.who("Bearer mi_b").await.expect("untouched"), other);
}

#[tokio::test]
async fn open_calls_and_streams_count_until_they_end() {
    let edge = edge(100, 2);
    edge.world.operator("mi_a");
    let request = bearer(v1::WatchActivityRequest::default(), "mi_a");
    let stream = edge.activity().watch_activity(request).await.expect("opened").into_inner();
    let mut client = edge.activity();
    let hung = tokio::spawn(async move { client.list_activity(bearer(hang(), "mi_a")).await });
    edge.world.inside(2).await;
    assert_limited(&edge.who("Bearer mi_a").await.expect_err("a third"), "TOO_MANY_CALLS");
    drop(stream);
    edge.who("Bearer mi_a").await.expect("the stream has ended");
    hung.abort();
    edge.world.inside(0).await;
}

#[tokio::test]
async fn a_client_that_disappears_releases_its_permit() {
    let edge = edge(1000, 1);
    edge.world.operator("mi_a");
    let mut client = edge.connected().await;
    let hung = tokio::spawn(async move { client.list_activity(bearer(hang(), "mi_a")).await });
    edge.world.inside(1).await;
    assert_limited(&edge.who("Bearer mi_a").await.expect_err("a second"), "TOO_MANY_CALLS");
    hung.abort();
    // The handler is dropped with the call, and the permit with it.
    edge.world.inside(0).await;
    edge.who("Bearer mi_a").await.expect("free again");
}
