//! A task that goes on with a conversation.

use mi_agent::ModelApi;
use mi_proto::v1::{Task, TaskKind, TaskStatus};

use crate::models::{Harness, complete};

#[tokio::test]
async fn a_model_reads_what_was_said_before_in_its_conversation() {
    let harness = Harness::new(ModelApi::OpenAi, [complete()]).await;
    let before = |n: usize, context: &str| Task {
        id: format!("task-0{n}"),
        title: format!("question {n}"),
        description: format!("What is {n}?"),
        result: format!("It is {n}."),
        context_id: context.into(),
        status: TaskStatus::Done.into(),
        ..Task::default()
    };
    let mut tasks: Vec<Task> = (10..22).map(|n| before(n, "talk")).collect();
    tasks.push(before(22, "another"));
    // Created since: what its result will be nobody knew then.
    tasks.push(Task { id: "task-9".into(), ..before(23, "talk") });
    *harness.platform.tasks.lock().expect("lock") = tasks;
    let (kind, context_id) = (TaskKind::General.into(), "talk".into());
    let id = harness.platform.add(Task { kind, context_id, description: "And now?".into(), ..Task::default() });
    harness.platform.completion(&id).await;
    let first = harness.model.requests()[0].texts()[1].clone();
    let said: String = (12..22)
        .map(|n| {
            format!(
                "\nEarlier in this conversation: question {n}\nWhat is {n}?\ntask-0{n} (\"question {n}\") is done:\nIt is {n}.\n"
            )
        })
        .collect();
    assert_eq!(first, format!("Task: A task\nId: {id}, attempt 1\n\nAnd now?\n{said}\nNote by operator: Be brief.\n"));
    harness.agent.stop().await;
}
