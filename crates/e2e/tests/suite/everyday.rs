//! The Rust SDK in the few lines that its documentation has.

use mi_client::{ClientError, reason};
use mi_e2e::{LIMIT, World};
use mi_proto::v1::{CreateTaskRequest, TaskKind, TaskStatus};
use mi_testkit::{Arrangement, Backend};
use tokio::time::timeout;
use tonic::Code;

#[tokio::test]
async fn an_office_an_agent_and_its_work_in_one_line_each() {
    let mut world = World::start(Backend::Sqlite, Arrangement::ProcessPerRole).await;
    let client = world.owner.clone();
    let office = client.offices().create("My Colony").await.expect("created");
    assert_eq!(client.offices().get(&office.id).await.expect("there"), office);
    assert_eq!(client.offices().list().await.expect("listed"), std::slice::from_ref(&office));
    let hired = client.agents().hire(&office.id, "analyst").await.expect("hired");
    let running = timeout(LIMIT, client.agents().running(&office.id, "analyst")).await.expect("in time").expect("runs");
    assert_eq!(
        (running.id.as_str(), client.agents().list(&office.id).await.expect("listed").len()),
        (hired.id.as_str(), 1)
    );

    let task = timeout(LIMIT, client.tasks().run(&office.id, "echo hello")).await.expect("in time").expect("ran");
    assert_eq!((task.status(), task.title.as_str(), task.worker.as_str()), (TaskStatus::Done, "echo hello", "analyst"));
    assert!(task.result.contains("hello"), "{}", task.result);
    let failed = timeout(LIMIT, client.tasks().run(&office.id, "exit 3")).await.expect("in time").expect("ran");
    assert_eq!(failed.status(), TaskStatus::Failed);

    // Whoever waits goes on while the platform is away, which comes back at the same address.
    let request = CreateTaskRequest {
        office_id: office.id.clone(),
        title: "slow".into(),
        kind: TaskKind::Command.into(),
        description: "sleep 1; echo late".into(),
        ..Default::default()
    };
    let slow = client.tasks().create_as(request).await.expect("created");
    let waiting = tokio::spawn({
        let (client, office, slow) = (client.clone(), office.id.clone(), slow.id.clone());
        async move { client.tasks().finished(&office, &slow).await }
    });
    world.crash().await;
    let done = timeout(LIMIT, waiting).await.expect("in time").expect("joined").expect("done");
    assert_eq!((done.id.as_str(), done.status()), (slow.id.as_str(), TaskStatus::Done));

    client.agents().fire(&office.id, "analyst").await.expect("fired");
    let refused = client.tasks().finished(&office.id, &uuid::Uuid::nil().to_string()).await.expect_err("no such task");
    assert_eq!(refused.code(), Some(Code::NotFound));
    let refused = client.offices().create("").await.expect_err("no name");
    assert!(
        matches!(&refused, ClientError::Status(status) if reason(status.as_ref()) == "INVALID_ARGUMENT"),
        "{refused}"
    );
    client.offices().delete(&office.id).await.expect("deleted");
}
