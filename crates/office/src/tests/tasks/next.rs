//! The next task with the report, and work as a stream.

use mi_kernel::Actor;
use mi_proto::v1::{
    BatchCompleteTasksRequest, ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, FailTaskRequest,
    ReleaseTaskRequest, RenewLeaseRequest, Task, TaskKind, TaskStatus, WorkTasksRequest, WorkTasksResponse,
    work_tasks_request::Message, work_tasks_response::Answer,
};
use mi_testkit::on_both;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::{many, reason, request, seconds};
use crate::tests::harness::{Harness, LONG};

on_both! {
    a_report_claims_the_next_task_in_the_same_transaction,
    a_refused_report_claims_nothing,
    what_a_report_claims_is_what_the_worker_may_take,
    a_batch_of_completions_claims_whatever_is_refused,
    a_worker_is_sent_as_many_tasks_as_it_holds,
    a_worker_hears_what_became_of_each_report,
    a_worker_without_room_gets_more_when_a_lease_runs_out,
    a_stream_that_starts_badly_is_refused,
    a_stream_that_is_lost_leaves_the_tasks_to_its_worker,
    whoever_ends_a_stream_hears_of_all_that_is_its_own,
}

/// Moments at which a stream is ended while a task is created.
const ROUNDS: usize = 100;

fn completion(office: &str, task: &Task, claim_next: Option<ClaimTasksRequest>) -> CompleteTaskRequest {
    CompleteTaskRequest {
        office_id: office.into(),
        task_id: task.id.clone(),
        lease_id: task.lease_id.clone(),
        result: "done".into(),
        claim_next,
        ..Default::default()
    }
}

fn next(max_tasks: i32) -> Option<ClaimTasksRequest> {
    Some(ClaimTasksRequest { max_tasks: Some(max_tasks), lease: seconds(90), ..Default::default() })
}

/// Whether the status refuses this field.
fn refused_for(status: Status, field: &str) {
    let details = status.get_details_bad_request().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!((status.code(), details.field_violations[0].field.as_str()), (Code::InvalidArgument, field));
}

fn titles(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|task| task.title.as_str()).collect()
}

async fn a_report_claims_the_next_task_in_the_same_transaction(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    for title in ["first", "second", "third", "fourth"] {
        harness.new_task(&office, title).await;
    }
    let first = harness.claim(&worker, &office).await.expect("there");
    let answer =
        harness.tasks(&worker).complete_task(completion(&office, &first, next(2))).await.expect("taken").into_inner();
    assert_eq!(answer.task.expect("always there").status(), TaskStatus::Done);
    assert_eq!(titles(&answer.claimed), ["second", "third"]);
    let [second, third] = &answer.claimed[..] else { panic!("two") };
    assert_eq!((second.status(), second.attempt), (TaskStatus::Running, 1));
    assert_ne!(second.lease_id, third.lease_id);

    // A task that failed for now is the next one again, as it keeps its place.
    let report = FailTaskRequest {
        office_id: office.clone(),
        task_id: second.id.clone(),
        lease_id: second.lease_id.clone(),
        error: "it broke".into(),
        retryable: true,
        claim_next: next(1),
        ..Default::default()
    };
    let answer = harness.tasks(&worker).fail_task(report).await.expect("taken").into_inner();
    assert_eq!(titles(&answer.claimed), ["second"]);
    assert_eq!(answer.claimed[0].attempt, 2);

    // The same report again answers the same, and claims what there is.
    let again = completion(&office, &first, next(5));
    let answer = harness.tasks(&worker).complete_task(again.clone()).await.expect("known").into_inner();
    assert_eq!(titles(&answer.claimed), ["fourth"]);
    let answer = harness.tasks(&worker).complete_task(again).await.expect("known").into_inner();
    assert_eq!((answer.task.expect("always there").id, answer.claimed), (first.id, Vec::new()));

    // What was waited for is there as soon as it is free.
    let before = harness.new_task(&office, "before").await;
    let depends_on = vec![before.id.clone()];
    let after = CreateTaskRequest { depends_on, ..request(&office, "after") };
    harness.create_task(&harness.owner, after).await.expect("creates");
    let before = harness.claim(&worker, &office).await.expect("there");
    let answer =
        harness.tasks(&worker).complete_task(completion(&office, &before, next(1))).await.expect("taken").into_inner();
    assert_eq!(titles(&answer.claimed), ["after"]);
}

async fn a_refused_report_claims_nothing(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.new_task(&office, "first").await;
    let second = harness.new_task(&office, "second").await;
    let first = harness.claim(&worker, &office).await.expect("there");
    harness.release(&worker, &office, &first).await.expect("holds");
    let late = harness.tasks(&worker).complete_task(completion(&office, &first, next(1))).await.expect_err("too late");
    assert_eq!((late.code(), reason(&late).as_str()), (Code::Aborted, "LEASE_LOST"));
    assert_eq!(harness.status_of(&office, &second.id).await, TaskStatus::Queued);

    let first = harness.claim(&worker, &office).await.expect("there");
    let foreign = ClaimTasksRequest { office_id: harness.active("Other").await, ..Default::default() };
    let waits = ClaimTasksRequest { wait: seconds(1), ..Default::default() };
    let many = ClaimTasksRequest { max_tasks: Some(101), ..Default::default() };
    for (claim, field) in [(foreign, "claim_next.office_id"), (waits, "claim_next.wait"), (many, "max_tasks")] {
        let refused = harness.tasks(&worker).complete_task(completion(&office, &first, Some(claim))).await;
        refused_for(refused.expect_err("refused"), field);
    }
    assert_eq!(harness.status_of(&office, &first.id).await, TaskStatus::Running);
}

async fn what_a_report_claims_is_what_the_worker_may_take(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, _) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    let only = ClaimTasksRequest { kinds: vec![TaskKind::Review.into()], ..Default::default() };
    let kept = CreateTaskRequest { assigned_agent: "other".into(), ..request(&office, "kept") };
    let first = harness.new_task(&office, "first").await;
    harness.create_task(&harness.owner, kept).await.expect("creates");
    harness.new_task(&office, "plain").await;
    let review = CreateTaskRequest { kind: TaskKind::Review.into(), ..request(&office, "review") };
    harness.create_task(&harness.owner, review).await.expect("creates");
    let claimed = harness.claim(&worker, &office).await.expect("there");
    assert_eq!(claimed.id, first.id);
    let answer = harness
        .tasks(&worker)
        .complete_task(completion(&office, &claimed, Some(only)))
        .await
        .expect("taken")
        .into_inner();
    assert_eq!(titles(&answer.claimed), ["review"]);
    let review = completion(&office, &answer.claimed[0], next(9));
    let answer = harness.tasks(&worker).complete_task(review).await.expect("taken").into_inner();
    assert_eq!(titles(&answer.claimed), ["plain"]);
}

async fn a_batch_of_completions_claims_whatever_is_refused(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.tasks(&harness.owner).batch_create_tasks(many(&office, 5)).await.expect("creates");
    let claim = ClaimTasksRequest { office_id: office.clone(), max_tasks: Some(3), ..Default::default() };
    let held = harness.claim_with(&worker, claim).await.expect("claims");
    harness.release(&worker, &office, &held[2]).await.expect("holds");
    let requests: Vec<_> = held.iter().map(|task| completion(&office, task, None)).collect();
    let batch =
        BatchCompleteTasksRequest { office_id: office.clone(), requests: requests.clone(), claim_next: next(9) };
    let answer = harness.tasks(&worker).batch_complete_tasks(batch).await.expect("taken").into_inner();
    let reasons: Vec<&str> = answer.results.iter().map(|result| result.reason.as_str()).collect();
    assert_eq!(reasons, ["", "", "LEASE_LOST"]);
    assert_eq!(answer.claimed.len(), 3);
    assert!(answer.claimed.iter().any(|task| task.id == held[2].id));

    let requests = vec![CompleteTaskRequest { claim_next: next(1), ..requests[0].clone() }];
    let batch = BatchCompleteTasksRequest { office_id: office.clone(), requests, claim_next: None };
    refused_for(harness.tasks(&worker).batch_complete_tasks(batch).await.expect_err("refused"), "claim_next");
}

/// A worker's stream.
struct Stream {
    send: mpsc::Sender<WorkTasksRequest>,
    answers: Streaming<WorkTasksResponse>,
}

impl Stream {
    async fn open(harness: &Harness, by: &Actor, start: ClaimTasksRequest) -> Result<Self, Status> {
        let (send, messages) = mpsc::channel(100);
        send.send(WorkTasksRequest { message: Some(Message::Start(start)) }).await.expect("open");
        let answers = harness.tasks(by).work_tasks(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { send, answers })
    }

    async fn say(&self, message: Message) {
        self.send.send(WorkTasksRequest { message: Some(message) }).await.expect("open");
    }

    async fn hear(&mut self) -> Answer {
        let answer = tokio::time::timeout(LONG, self.answers.message()).await.expect("in time").expect("no error");
        answer.expect("it goes on").answer.expect("something")
    }

    async fn claimed(&mut self) -> Vec<Task> {
        match self.hear().await {
            Answer::Claimed(claimed) => claimed.tasks,
            Answer::Reported(outcome) => panic!("{outcome:?}"),
        }
    }

    /// Of the next report: the task's status, and why it was refused.
    async fn reported(&mut self) -> (String, TaskStatus, String) {
        match self.hear().await {
            Answer::Reported(outcome) => {
                (outcome.task_id, outcome.task.map_or(TaskStatus::Unspecified, |task| task.status()), outcome.reason)
            }
            Answer::Claimed(claimed) => panic!("{claimed:?}"),
        }
    }
}

fn start(office: &str, max_tasks: i32) -> ClaimTasksRequest {
    ClaimTasksRequest { office_id: office.into(), max_tasks: Some(max_tasks), ..Default::default() }
}

async fn a_worker_is_sent_as_many_tasks_as_it_holds(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let mut stream = Stream::open(&harness, &worker, start(&office, 2)).await.expect("opens");
    // Whoever waits is sent what comes.
    let first = harness.new_task(&office, "first").await;
    let held = stream.claimed().await;
    assert_eq!(held.iter().map(|task| &task.id).collect::<Vec<_>>(), [&first.id]);
    for title in ["second", "third", "fourth"] {
        harness.new_task(&office, title).await;
    }
    assert_eq!(titles(&stream.claimed().await), ["second"]);
    // The next one comes with the report's answer, and no more than there is room for.
    stream.say(Message::Complete(completion(&office, &held[0], None))).await;
    assert_eq!(stream.reported().await, (first.id.clone(), TaskStatus::Done, String::new()));
    let third = stream.claimed().await;
    assert_eq!(titles(&third), ["third"]);
    let failed = FailTaskRequest {
        task_id: third[0].id.clone(),
        lease_id: third[0].lease_id.clone(),
        error: "it broke".into(),
        ..Default::default()
    };
    stream.say(Message::Fail(failed)).await;
    assert_eq!(stream.reported().await, (third[0].id.clone(), TaskStatus::Failed, String::new()));
    let fourth = stream.claimed().await;
    assert_eq!(titles(&fourth), ["fourth"]);
    // Whoever says nothing more hears the last answers, and gets nothing new.
    harness.new_task(&office, "fifth").await;
    stream.say(Message::Complete(completion(&office, &fourth[0], None))).await;
    let Stream { send, mut answers } = stream;
    drop(send);
    let mut last = Vec::new();
    while let Some(answer) = answers.message().await.expect("no error") {
        last.extend(answer.answer);
    }
    assert!(matches!(&last[0], Answer::Reported(outcome) if outcome.task_id == fourth[0].id), "{last:?}");
}

async fn a_worker_hears_what_became_of_each_report(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    for title in ["first", "second", "third"] {
        harness.new_task(&office, title).await;
    }
    let mut stream = Stream::open(&harness, &worker, start(&office, 2)).await.expect("opens");
    let held = stream.claimed().await;
    assert_eq!(titles(&held), ["first", "second"]);
    let (first, second) = (&held[0], &held[1]);

    let renewal = RenewLeaseRequest {
        office_id: String::new(),
        task_id: first.id.clone(),
        lease_id: first.lease_id.clone(),
        lease: seconds(100),
    };
    stream.say(Message::Renew(renewal)).await;
    assert_eq!(stream.reported().await, (first.id.clone(), TaskStatus::Running, String::new()));

    // What is refused is refused alone, and keeps its place.
    let blank = CompleteTaskRequest { result: " ".into(), ..completion(&office, first, None) };
    stream.say(Message::Complete(blank)).await;
    let invalid = |id: &str| (id.to_owned(), TaskStatus::Unspecified, "INVALID_ARGUMENT".to_owned());
    assert_eq!(stream.reported().await, invalid(&first.id));
    stream.say(Message::Complete(completion(&office, first, next(1)))).await;
    assert_eq!(stream.reported().await, invalid(&first.id));
    let foreign = CompleteTaskRequest { office_id: harness.active("Other").await, ..completion(&office, first, None) };
    stream.say(Message::Complete(foreign)).await;
    assert_eq!(stream.reported().await, invalid(&first.id));
    stream.say(Message::Start(start(&office, 5))).await;
    assert_eq!(stream.reported().await, invalid(""));
    let lease_id = first.lease_id.clone();
    stream.say(Message::Complete(CompleteTaskRequest { lease_id, ..completion(&office, second, None) })).await;
    assert_eq!(stream.reported().await, (second.id.clone(), TaskStatus::Unspecified, "LEASE_LOST".to_owned()));

    // What is given back is the next one again.
    let (task_id, lease_id) = (first.id.clone(), first.lease_id.clone());
    stream.say(Message::Release(ReleaseTaskRequest { office_id: office.clone(), task_id, lease_id })).await;
    assert_eq!(stream.reported().await, (first.id.clone(), TaskStatus::Queued, String::new()));
}

async fn a_worker_without_room_gets_more_when_a_lease_runs_out(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.new_task(&office, "first").await;
    let mut stream = Stream::open(&harness, &worker, ClaimTasksRequest { lease: seconds(1), ..start(&office, 1) })
        .await
        .expect("opens");
    assert_eq!(titles(&stream.claimed().await), ["first"]);
    harness.new_task(&office, "second").await;
    // Nobody tells the platform that the worker lost its first one.
    assert_eq!(titles(&stream.claimed().await), ["second"]);
}

async fn a_stream_that_starts_badly_is_refused(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let waits = ClaimTasksRequest { wait: seconds(1), ..start(&office, 1) };
    let kind = ClaimTasksRequest { kinds: vec![99], ..start(&office, 1) };
    for (bad, field) in [(start(&office, 0), "max_tasks"), (waits, "start.wait"), (kind, "start.kinds")] {
        refused_for(Stream::open(&harness, &worker, bad).await.err().expect("refused"), field);
    }
    let (send, messages) = mpsc::channel(1);
    let none = completion(&office, &Task::default(), None);
    send.send(WorkTasksRequest { message: Some(Message::Complete(none)) }).await.expect("open");
    let refused = harness.tasks(&worker).work_tasks(ReceiverStream::new(messages)).await.expect_err("refused");
    refused_for(refused, "start");
    // An agent of another office finds none.
    let other = harness.active("Other").await;
    let stranger = harness.agent(&other, "stranger", false, &[]);
    let refused = Stream::open(&harness, &stranger, start(&office, 1)).await.err().expect("refused");
    assert_eq!(refused.code(), Code::NotFound);
    // Whoever is stopped is told so, as by ClaimTasks.
    for member in &mut harness.scheduler.known().members {
        member.working = false;
    }
    let mut stream = Stream::open(&harness, &worker, start(&office, 1)).await.expect("opens");
    let ended = stream.answers.message().await.expect_err("refused");
    assert_eq!(reason(&ended), "AGENT_NOT_WORKING");
}

async fn a_stream_that_is_lost_leaves_the_tasks_to_its_worker(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.new_task(&office, "first").await;
    let mut stream = Stream::open(&harness, &worker, start(&office, 1)).await.expect("opens");
    let held = stream.claimed().await;
    drop(stream);
    // It is still its own, and nobody else's.
    let other = harness.agent(&office, "other", false, &[]);
    assert_eq!(harness.claim(&other, &office).await, None);
    assert_eq!(harness.complete(&worker, &office, &held[0], "done").await.expect("holds").status(), TaskStatus::Done);
    // And what comes next is nobody's whose stream is gone.
    harness.new_task(&office, "second").await;
    assert_eq!(titles(&harness.claim(&other, &office).await.into_iter().collect::<Vec<_>>()), ["second"]);
}

async fn whoever_ends_a_stream_hears_of_all_that_is_its_own(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    for round in 0..ROUNDS {
        let Stream { send, mut answers } = Stream::open(&harness, &worker, start(&office, 1)).await.expect("opens");
        // At any moment of its being claimed.
        let ends = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            drop(send);
        };
        let (task, ()) = tokio::join!(harness.new_task(&office, "task"), ends);
        let mut sent = Vec::new();
        while let Some(answer) = answers.message().await.expect("no error") {
            match answer.answer {
                Some(Answer::Claimed(claimed)) => sent.extend(claimed.tasks),
                other => panic!("{other:?}"),
            }
        }
        // What was claimed for a claim that was given up is given back.
        let wait = ClaimTasksRequest { office_id: office.clone(), wait: seconds(10), ..Default::default() };
        let held = match sent.pop() {
            Some(held) => held,
            None => {
                let claimed = harness.claim_with(&worker, wait).await.expect("claims");
                claimed.into_iter().next().unwrap_or_else(|| panic!("it is lost, round {round}"))
            }
        };
        assert_eq!(held.id, task.id);
        harness.complete(&worker, &office, &held, "done").await.expect("holds");
    }
}
