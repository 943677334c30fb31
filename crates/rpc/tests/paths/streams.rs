//! What becomes of open streams when the platform shuts down.

use std::sync::atomic::Ordering;

use mi_testkit::until;
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    on_both_paths,
    stage::{LONG, Side, operator, watch},
};

on_both_paths! { open_streams_end_with_unavailable_at_shutdown, a_stream_that_ends_by_itself_ends_well }

async fn open_streams_end_with_unavailable_at_shutdown(side: Side) {
    let mut streams = Vec::new();
    for _ in 0..3 {
        let opened = side.client(operator(false)).watch_activity(watch("goes quiet")).await;
        let mut stream = opened.expect("begins").into_inner();
        assert!(stream.message().await.expect("the first").is_some());
        streams.push(stream);
    }
    let stopping = tokio::spawn({
        let tasks = side.tasks.clone();
        async move { tasks.stop(LONG).await }
    });
    for mut stream in streams {
        let ended = tokio::time::timeout(LONG, stream.message()).await.expect("in time").expect_err("ends");
        assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
        assert!(ended.get_details_retry_info().is_some());
    }
    until("the handlers are dropped", LONG, async || match side.feed.hanging.load(Ordering::SeqCst) {
        0 => Ok(Some(())),
        hanging => Err(format!("{hanging} hang")),
    })
    .await;
    assert_eq!(stopping.await.expect("no panic"), None);
}

async fn a_stream_that_ends_by_itself_ends_well(side: Side) {
    let opened = side.client(operator(false)).watch_activity(watch("ends")).await;
    let mut stream = opened.expect("begins").into_inner();
    assert!(stream.message().await.expect("the first").is_some());
    assert_eq!(stream.message().await.expect("the end"), None);
}
