//! Who gets which task, and when.

use std::collections::BTreeSet;

use mi_proto::v1::ClaimTasksRequest;
use mi_testkit::on_both;

use super::{many, request, seconds};
use crate::tests::stage::Stage;

on_both! { everything_is_claimed_once, a_claim_waits_for_work }

async fn everything_is_claimed_once(stage: Stage) {
    let office = stage.active("Work").await;
    let tasks =
        stage.tasks(&stage.owner).batch_create_tasks(many(&office, 200)).await.expect("creates").into_inner().tasks;
    let workers: Vec<_> = (0..8).map(|n| stage.agent(&office, &format!("w{n}"), false, &[])).collect();
    let working = workers.iter().map(async |worker| {
        let mut done = Vec::new();
        while let Some(task) = stage.claim(worker, &office).await {
            stage.complete(worker, &office, &task, "done").await.expect("completes");
            done.push(task.id);
        }
        done
    });
    let done: Vec<String> = futures::future::join_all(working).await.into_iter().flatten().collect();
    let ids: BTreeSet<&String> = tasks.iter().map(|task| &task.id).collect();
    assert_eq!(done.len(), 200);
    assert_eq!(done.iter().collect::<BTreeSet<_>>(), ids);
}

async fn a_claim_waits_for_work(stage: Stage) {
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let claim = ClaimTasksRequest { office_id: office.clone(), wait: seconds(60), ..Default::default() };
    let waiting = stage.claim_with(&worker, claim);
    let creating = async {
        tokio::task::yield_now().await;
        stage.create_task(&stage.owner, request(&office, "Now")).await.expect("creates")
    };
    let (claimed, created) = tokio::join!(waiting, creating);
    assert_eq!(claimed.expect("claims").pop().expect("woken").id, created.id);
}
