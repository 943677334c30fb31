//! Deadlines end what hangs, alike on both paths, and the handler is dropped with its call.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use mi_proto::internal::v1::{AppendEventsRequest, ingest_service_client::IngestServiceClient};
use mi_rpc::RoleClient;
use mi_testkit::until;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::{
    on_both_paths,
    stage::{LONG, SHORT, Side, list, operator, watch},
};

on_both_paths! {
    a_hung_call_ends_at_its_deadline,
    a_stream_that_does_not_begin_ends_at_its_deadline,
    a_stream_that_goes_quiet_ends_at_its_deadline,
    a_call_without_a_deadline_is_not_cut_off,
    a_deadline_that_does_not_parse_is_refused,
}

fn assert_exceeded(status: &Status, started: Instant) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let info = status.get_details_error_info().expect("always there");
    assert_eq!(info.reason, "DEADLINE_EXCEEDED");
    assert!(started.elapsed() >= SHORT, "{:?}", started.elapsed());
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
}

async fn nothing_hangs(side: &Side) {
    until("the handler is dropped", LONG, async || match side.feed.hanging.load(Ordering::SeqCst) {
        0 => Ok(Some(())),
        hanging => Err(format!("{hanging} hang")),
    })
    .await;
}

async fn a_hung_call_ends_at_its_deadline(side: Side) {
    for _ in 0..3 {
        let mut request = list("hangs");
        request.set_timeout(SHORT);
        let started = Instant::now();
        let late = side.client(operator(false)).list_activity(request).await.expect_err("hangs");
        assert_exceeded(&late, started);
        nothing_hangs(&side).await;
    }
}

async fn a_stream_that_does_not_begin_ends_at_its_deadline(side: Side) {
    let mut request = watch("hangs");
    request.set_timeout(SHORT);
    let started = Instant::now();
    let late = side.client(operator(false)).watch_activity(request).await.expect_err("hangs");
    assert_exceeded(&late, started);
    nothing_hangs(&side).await;
}

async fn a_stream_that_goes_quiet_ends_at_its_deadline(side: Side) {
    let mut request = watch("goes quiet");
    request.set_timeout(SHORT);
    let started = Instant::now();
    let mut stream = side.client(operator(false)).watch_activity(request).await.expect("begins").into_inner();
    assert!(stream.message().await.expect("the first").is_some());
    assert_eq!(side.feed.hanging.load(Ordering::SeqCst), 1);
    let late = stream.message().await.expect_err("goes quiet");
    assert_exceeded(&late, started);
    nothing_hangs(&side).await;
}

async fn a_call_without_a_deadline_is_not_cut_off(side: Side) {
    let mut client = side.client(operator(false));
    let mut stream = client.watch_activity(watch("goes quiet")).await.expect("begins").into_inner();
    assert!(stream.message().await.expect("the first").is_some());
    let more = tokio::time::timeout(2 * SHORT, stream.message()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(side.feed.hanging.load(Ordering::SeqCst), 1);
    // A client that goes away frees the handler.
    drop(stream);
    nothing_hangs(&side).await;
}

async fn a_deadline_that_does_not_parse_is_refused(side: Side) {
    let mut request = list("answers");
    request.metadata_mut().insert("grpc-timeout", "soon".parse().expect("ASCII"));
    let refused = side.client(operator(false)).list_activity(request).await.expect_err("no time");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let violations = refused.get_details_bad_request().expect("names the field").field_violations;
    assert_eq!(violations[0].field, "grpc-timeout");
}

/// Calls between roles are never without a deadline.
#[tokio::test]
async fn a_role_waits_half_a_minute_for_another_or_as_long_as_its_caller_says() {
    let mut client = IngestServiceClient::new(RoleClient::new(Side::ingest(), "office"));
    let mut request = Request::new(AppendEventsRequest::default());
    let refused = client.append_events(request).await.expect_err("refuses");
    assert_eq!((refused.code(), refused.message()), (Code::Aborted, "30000000u"));
    request = Request::new(AppendEventsRequest::default());
    request.set_timeout(Duration::from_secs(2));
    let refused = client.append_events(request).await.expect_err("refuses");
    assert_eq!((refused.code(), refused.message()), (Code::Aborted, "2000000u"));
}
