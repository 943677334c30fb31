//! Streams of work.

use std::time::Duration;

use futures::{StreamExt, channel::mpsc, poll};
use mi_kernel::{Actor, AgentActor};
use mi_proto::v1::{
    ClaimTasksRequest, CompleteTaskRequest, Task, TaskKind, WorkTasksRequest, WorkTasksResponse,
    work_tasks_request::Message, work_tasks_response::Answer,
};
use mi_rpc::Caller;
use tokio::time::timeout;
use tonic::Status;

use super::{
    order::create,
    simulation::{quietly, request},
};

fn answer(next: Option<Result<WorkTasksResponse, Status>>) -> Option<Answer> {
    next.expect("it goes on").expect("no error").answer
}

#[test]
fn reports_that_wait_for_one_answer_do_not_hold_up_their_stream() {
    quietly(async |tasks, office| {
        let members = tasks.members.list(office).await.expect("told");
        let agent_id = members[0].agent_id.parse().expect("an id");
        let agent = Actor::Agent(AgentActor { office_id: office, agent_id, name: members[0].name.clone() });
        let caller = Caller::of(&request((), &agent, "WorkTasks")).expect("one is given");
        let office_id = office.to_string();
        let access = tasks.offices.enter(&caller, &office_id).await.expect("works there");
        let make = async |title| {
            let commands = vec![create(title, TaskKind::General, 0)];
            tasks.submit(office, commands, None, "").await.expect("has room");
        };
        make("first").await;
        make("second").await;

        let (send, messages) = mpsc::unbounded();
        let wanted = ClaimTasksRequest { office_id, max_tasks: Some(2), ..ClaimTasksRequest::default() };
        let mut answers = Box::pin(tasks.work_for(access, wanted, messages).expect("begins"));
        let Some(Answer::Claimed(claimed)) = answer(answers.next().await) else { panic!("there are tasks") };
        let [first, second] = &claimed.tasks[..] else { panic!("two") };
        let complete = |task: &Task| {
            let (task_id, lease_id) = (task.id.clone(), task.lease_id.clone());
            let report = CompleteTaskRequest { task_id, lease_id, result: "done".into(), ..Default::default() };
            send.unbounded_send(Ok(WorkTasksRequest { message: Some(Message::Complete(report)) })).expect("hears");
        };
        // The second report asks who works there while the first one makes room for more work, which asks that, too.
        complete(first);
        assert!(poll!(answers.next()).is_pending());
        tasks.members.forget(office);
        complete(second);
        let mut next =
            async || answer(timeout(Duration::from_secs(60), answers.next()).await.expect("it is not stuck"));
        for _ in 0..2 {
            let Some(Answer::Reported(outcome)) = next().await else { panic!("there is nothing to claim") };
            assert_eq!(outcome.reason, "");
        }
        make("third").await;
        let Some(Answer::Claimed(claimed)) = next().await else { panic!("there is a task") };
        assert_eq!(claimed.tasks.iter().map(|task| task.title.as_str()).collect::<Vec<_>>(), ["third"]);
    });
}
