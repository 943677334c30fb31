//! Tasks that a model works on: through both wire formats, and whatever the model and its server do.

use std::{sync::Arc, time::Duration};

use mi_agent::{ModelApi, ModelConfig};
use mi_kernel::receipt::{Artifact, Command, sha256_hex};
use mi_proto::v1::{FailTaskRequest, Task, TaskKind, TaskStatus};
use mi_testkit::{
    model::{self, FakeModel, Reply},
    until,
};
use serde_json::json;
use tonic::Code;

use crate::platform::{LONG, Platform, Running, config};

pub(crate) const ALL: [ModelApi; 3] = [ModelApi::OpenAi, ModelApi::Anthropic, ModelApi::Gemini];

/// A platform with an agent that has a model.
pub(crate) struct Harness {
    pub(crate) platform: Arc<Platform>,
    pub(crate) model: FakeModel,
    pub(crate) agent: Running,
    dir: tempfile::TempDir,
}

impl Harness {
    pub(crate) async fn new(api: ModelApi, replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::changed(api, FakeModel::start(replies).await, |_| {}).await
    }

    async fn changed(api: ModelApi, model: FakeModel, change: impl FnOnce(&mut ModelConfig)) -> Self {
        let platform = Arc::new(Platform { role: "leader", ..Platform::default() });
        let dir = tempfile::tempdir().expect("temp dir");
        let mut config = config(platform.serve().await, &dir);
        *platform.proxies.model.lock().expect("lock") = Some(model.address());
        let mut own = ModelConfig {
            api,
            provider: "some-provider".into(),
            id: "a-model".into(),
            steps: 20,
            limit: LONG,
            tokens: 100_000,
        };
        change(&mut own);
        config.work.model = Some(own);
        Self { platform, model, agent: Running::start(config), dir }
    }

    /// Puts a task for the model into the queue; answers its id.
    pub(crate) fn task(&self) -> String {
        self.platform.add(Task { kind: TaskKind::General.into(), description: "Do it.".into(), ..Task::default() })
    }

    /// What the tools answered last, in the conversation of the last request.
    fn answers(&self) -> Vec<String> {
        let texts = self.model.requests().pop().expect("asked").texts();
        texts.into_iter().skip(2).filter(|text| !text.is_empty()).collect()
    }

    pub(crate) async fn failure(self) -> FailTaskRequest {
        let failure = self.platform.failure(&self.task()).await;
        self.agent.stop().await;
        failure
    }

    async fn result(self) -> String {
        let result = self.platform.completion(&self.task()).await.0.result;
        self.agent.stop().await;
        result
    }
}

pub(crate) fn complete() -> Reply {
    Reply::call("complete_task", json!({ "result": "all done" }))
}

fn bad(name: &str, arguments: &str) -> Reply {
    Reply::Answer { text: String::new(), calls: vec![(name.into(), arguments.into())] }
}

#[tokio::test]
async fn a_model_works_with_tools_and_completes_with_a_receipt() {
    for api in ALL {
        let harness = Harness::new(
            api,
            [
                Reply::calls(&[
                    ("shell", json!({ "command": "echo hé; exit 3" })),
                    ("write_file", json!({ "path": "notes/a.txt", "content": "noted" })),
                ]),
                Reply::Answer {
                    text: "Now the drive.".into(),
                    calls: vec![("drive_write".into(), json!({ "path": "out.txt", "content": "out" }).to_string())],
                },
                Reply::call("complete_task", json!({ "result": "all done", "artifacts": ["out.txt"] })),
            ],
        )
        .await;
        let id = harness.task();
        let (completion, receipt) = harness.platform.completion(&id).await;
        assert_eq!(completion.result, "all done");
        assert_eq!(receipt.commands, [Command { sha256: sha256_hex(b"echo h\xc3\xa9; exit 3"), exit_code: 3 }]);
        let artifact = Artifact { path: "out.txt".into(), revision: 7, sha256: sha256_hex(b"out") };
        assert_eq!(receipt.artifacts, [artifact]);
        let noted = std::fs::read_to_string(harness.dir.path().join("workspace/notes/a.txt"));
        assert_eq!(noted.expect("written"), "noted");

        let requests = harness.model.requests();
        assert_eq!(requests.len(), 3);
        let path = match api {
            ModelApi::OpenAi => "/v1/chat/completions",
            ModelApi::Anthropic => "/v1/messages",
            ModelApi::Gemini => "/v1beta/models/a-model:streamGenerateContent?alt=sse",
        };
        let asked = harness.platform.proxies.asked.lock().expect("lock").clone();
        // Each with a token that the platform knows, and for this task.
        assert_eq!(asked, vec![(format!("/llm/some-provider{path}"), Some(id.clone())); 3]);
        let named = api == ModelApi::Gemini;
        assert!(requests.iter().all(|request| named || request.body["model"] == "a-model"));
        let first = requests[0].texts();
        assert!(first[0].contains("Your name: analyst\nYour role: leader\n"), "{}", first[0]);
        let task = format!("Task: A task\nId: {id}, attempt 1\n\nDo it.\n\nNote by operator: Be brief.\n");
        assert_eq!(first[1], task);
        let said = ["exit code: 3\n--- stdout\nhé\n", "wrote 5 bytes", "Now the drive."];
        assert_eq!(harness.answers(), [said[0], said[1], said[2], "wrote out.txt (3 bytes, revision 100)"]);
        harness.agent.stop().await;
    }
}

#[tokio::test]
async fn the_log_says_nothing_of_what_is_for_one_reader() {
    let said = || ("chat_send", json!({ "body": "marker", "to": "bob" }));
    let replies = [
        Reply::calls(&[("shell", json!({ "command": "echo marker; echo marker >&2" })), said()]),
        Reply::call("complete_task", json!({ "result": "marker" })),
        Reply::call("fail_task", json!({ "error": "marker" })),
        Reply::calls(&[said()]),
        complete(),
    ];
    let harness = Harness::new(ModelApi::OpenAi, replies).await;
    let answer = || {
        let (kind, cause) = (TaskKind::General.into(), "message/1".into());
        harness.platform.add(Task { kind, cause, description: "marker".into(), ..Task::default() })
    };
    harness.platform.completion(&answer()).await;
    harness.platform.failure(&answer()).await;
    harness.platform.completion(&harness.task()).await;
    harness.agent.stop().await;

    let lines: Vec<_> = harness.platform.texts().into_iter().map(|(_, text)| text).collect();
    assert!(lines.iter().all(|line| !line.contains("marker")), "{lines:?}");
    let length = said().1.to_string().len();
    for line in [
        &*format!("task task-1: chat_send ({length} bytes)"),
        "task task-1: done",
        "task task-2: failed",
        &*format!("task task-3: chat_send ({length} bytes)"),
        "task task-3: complete_task {\"result\":\"all done\"}",
    ] {
        assert!(lines.iter().any(|known| known == line), "{line:?} in {lines:?}");
    }
}

#[tokio::test]
async fn every_tool_reaches_the_office() {
    let calls = [
        ("create_task", json!({ "title": "Part", "description": "true", "kind": "command", "depends_on": ["x"] })),
        ("create_task", json!({ "title": "Beside", "description": "", "subtask": false, "assigned_agent": "bob" })),
        ("task_status", json!({ "task_id": "sub-1" })),
        ("chat_send", json!({ "body": "hello", "to": "bob" })),
        ("chat_read", json!({ "with": "bob" })),
        ("hire_agent", json!({ "name": "eve", "role": "engineer" })),
        ("verify_task", json!({ "task_id": "sub-2", "approve": false, "note": "thin" })),
        ("drive_list", json!({ "prefix": "a" })),
        ("drive_read", json!({ "path": "a/b", "offset": 1 })),
        ("list_files", json!({})),
        ("write_file", json!({ "path": "f", "content": "text" })),
        ("read_file", json!({ "path": "f", "offset": 2 })),
        ("read_file", json!({ "path": "../f" })),
    ];
    let harness = Harness::new(ModelApi::OpenAi, [Reply::calls(&calls), complete()]).await;
    harness.platform.files.lock().expect("lock").insert("a/b".into(), b"content".to_vec());
    let id = harness.task();
    harness.platform.completion(&id).await;
    let expected = [
        "created task sub-1",
        "created task sub-2",
        "sub-1 (\"Part\") is queued",
        "sent",
        "bob: \"bob\" Some(20)",
        "hired eve",
        "rejected",
        "a/b (7 bytes, revision 7)",
        "revision 7\nontent",
        "(empty)",
        "wrote 4 bytes",
        "xt",
        "error: \"../f\" is not in the workspace: give a path below it, without ..",
    ];
    assert_eq!(harness.answers(), expected);
    let heard = harness.platform.heard.lock().expect("lock").clone();
    assert_eq!(heard, ["to \"bob\": hello", "hire eve as engineer", "verified sub-2: false thin"]);
    let tasks = harness.platform.tasks.lock().expect("lock").clone();
    assert_eq!([&*tasks[0].parent_id, &*tasks[1].parent_id], [&*id, ""]);
    assert_eq!((tasks[0].kind(), &*tasks[0].depends_on), (TaskKind::Command, ["x".to_owned()].as_slice()));
    assert_eq!((tasks[1].kind(), &*tasks[1].assigned_agent), (TaskKind::General, "bob"));
    harness.agent.stop().await;
}

#[tokio::test]
async fn what_keeps_a_task_from_being_done_is_told_to_the_model() {
    let blank = Reply::call("complete_task", json!({ "result": " \n" }));
    let missing = Reply::call("complete_task", json!({ "result": "x", "artifacts": ["nowhere"] }));
    let harness = Harness::new(ModelApi::Anthropic, [blank, missing, complete(), complete()]).await;
    // On the stream, and in the call that tells why.
    for _ in 0..2 {
        harness.platform.refuse("CompleteTask", Code::FailedPrecondition, "it has open subtasks");
    }
    harness.platform.completion(&harness.task()).await;
    until("it is completed again", LONG, async || {
        let count = harness.platform.completions.lock().expect("lock").len();
        if count == 3 { Ok(Some(())) } else { Err(count) }
    })
    .await;
    assert_eq!(
        harness.answers(),
        [
            "error: the result is blank: say what came out",
            "error: nowhere: there is no such file",
            "error: it has open subtasks"
        ]
    );
    harness.agent.stop().await;
}

#[tokio::test]
async fn a_task_waits_for_its_subtasks_and_sees_their_results() {
    let harness = Harness::changed(
        ModelApi::OpenAi,
        FakeModel::scripted("127.0.0.1:0".parse().expect("an address"), model::team::reply).await,
        |_| {},
    )
    .await;
    let id = harness.task();
    until("it is given back", LONG, async || {
        let releases = harness.platform.releases.lock().expect("lock");
        Ok::<_, String>(releases.iter().any(|release| release.task_id == id).then_some(()))
    })
    .await;
    let mut tasks = harness.platform.tasks.lock().expect("lock").clone();
    let titles: Vec<_> = tasks.iter().map(|task| task.title.clone()).collect();
    assert_eq!(titles, ["A task: background", "A task: open questions"]);
    for task in &mut tasks {
        (task.status, task.result) = (TaskStatus::Done.into(), format!("Finding: {} is known.", task.title));
        // Of the task that comes back, which the platform here gives another id.
        task.parent_id = "task-2".into();
    }
    *harness.platform.tasks.lock().expect("lock") = tasks;
    let result = harness.platform.completion(&harness.task()).await.0.result;
    assert_eq!(result, "Report on A task\nA task: background is known.\nA task: open questions is known.");
    harness.agent.stop().await;
}

#[tokio::test]
async fn waiting_for_nothing_is_said() {
    let harness = Harness::new(ModelApi::OpenAi, [Reply::call("wait_for_subtasks", json!({})), complete()]).await;
    harness.platform.completion(&harness.task()).await;
    assert_eq!(harness.answers(), ["no subtask is open"]);
    harness.agent.stop().await;
}

#[tokio::test]
async fn an_open_subtask_is_waited_for_however_many_finished_ones_are_newer() {
    let wait = || Reply::call("wait_for_subtasks", json!({}));
    let harness = Harness::new(ModelApi::OpenAi, [wait(), wait(), complete()]).await;
    let part = |n: usize| {
        let status = if n == 0 { TaskStatus::Running } else { TaskStatus::Done };
        Task { id: format!("sub-{n}"), parent_id: "task-1".into(), status: status.into(), ..Task::default() }
    };
    *harness.platform.tasks.lock().expect("lock") = (0..60).map(part).collect();
    let id = harness.task();
    until("it is given back", LONG, async || {
        let releases = harness.platform.releases.lock().expect("lock");
        Ok::<_, String>(releases.iter().any(|release| release.task_id == id).then_some(()))
    })
    .await;
    for task in &mut *harness.platform.tasks.lock().expect("lock") {
        (task.status, task.parent_id) = (TaskStatus::Done.into(), "task-2".into());
    }
    harness.platform.completion(&harness.task()).await;
    let requests = harness.model.requests();
    let newest = "These are the newest subtasks only; task_status tells of the others.";
    let first = requests[1].last();
    let shown = first.lines().filter(|line| line.starts_with("Subtask ")).count();
    assert!(first.contains(newest) && shown == 50, "{first}");
    assert!(
        harness.answers()[0].starts_with(&format!("no subtask is open\n{newest}\nsub-10 ")),
        "{:?}",
        harness.answers()
    );
    harness.agent.stop().await;
}

#[tokio::test]
async fn a_task_is_done_when_the_model_says_so_with_a_tool_and_never_by_what_it_just_says() {
    for api in ALL {
        let remarks = ["I shall look.", "Now I'll write the report.", "Yes, that is my result."].map(Reply::text);
        let [one, two, three] = remarks;
        let harness = Harness::new(api, [one, two, Reply::call("list_files", json!({})), three, complete()]).await;
        let id = harness.task();
        assert_eq!(harness.platform.completion(&id).await.0.result, "all done");
        let told = harness.model.requests().iter().map(|request| request.last()).collect::<Vec<_>>();
        let reminded = |text: &String| text.starts_with("Nobody reads what you say without calling a tool.");
        assert_eq!(told.iter().map(reminded).collect::<Vec<_>>(), [false, true, true, false, true], "{told:?}");
        harness.agent.stop().await;

        let texts = ["It is 42.", "The result is 42.", "Yes, that is my result."].map(Reply::text);
        let failure = Harness::new(api, texts.into_iter().chain([complete()])).await.failure().await;
        let error =
            "the model makes no sense: it calls no tool, 3 times in a row; it last said:\nYes, that is my result.";
        assert_eq!((&*failure.error, failure.retryable), (error, true));
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_no_result_and_its_last_call_is_not_done() {
    let cut = |text: &str, calls: &[(&str, &str)]| Reply::AtLimit {
        text: text.into(),
        calls: calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect(),
    };
    for api in ALL {
        let whole = json!({ "path": "a", "content": "whole" }).to_string();
        // The second looks whole, too.
        let calls = [("write_file", &*whole), ("complete_task", "{\"result\": \"half\"}")];
        let replies =
            [cut("The report: fir", &[]), cut("", &calls), cut("", &[("write_file", "{\"path\": ")]), complete()];
        // Blank text is no content of a turn with calls.
        let blank = Reply::Answer { text: " \n".into(), calls: vec![("list_files".into(), "{}".into())] };
        let harness = Harness::new(api, replies.into_iter().take(2).chain([blank, complete()])).await;
        let id = harness.task();
        assert_eq!(harness.platform.completion(&id).await.0.result, "all done");
        let answers = harness.answers();
        assert_eq!(answers[0], "The report: fir");
        assert!(answers[1].starts_with("Your answer was cut off at the model's length limit"), "{answers:?}");
        assert_eq!(answers[2], "wrote 5 bytes");
        assert!(
            answers[3].starts_with("error: not done: your answer was cut off at the model's length"),
            "{answers:?}"
        );
        if api != ModelApi::OpenAi {
            assert_eq!(answers[4..], ["a (5 bytes)"], "no blank text is sent back");
        }
        harness.agent.stop().await;

        let endless = std::iter::repeat_with(|| cut("", &[("write_file", "{\"path\": ")])).take(5);
        let failure = Harness::new(api, endless).await.failure().await;
        let error = "the model makes no sense: its answers are cut off at its length limit, 3 times in a row";
        assert_eq!((&*failure.error, failure.retryable), (error, true));
    }
}

#[tokio::test]
async fn one_answer_does_not_do_any_number_of_things() {
    let calls: Vec<_> = (0..18).map(|n| ("shell", json!({ "command": format!("echo {n} >> f") }))).collect();
    let harness = Harness::new(ModelApi::OpenAi, [Reply::calls(&calls), complete()]).await;
    harness.platform.completion(&harness.task()).await;
    let done = std::fs::read_to_string(harness.dir.path().join("workspace/f")).expect("written");
    assert_eq!(done, (0..16).map(|n| format!("{n}\n")).collect::<String>());
    let refused = "error: not done: one answer had more calls than are done at once. Call again.";
    assert_eq!(harness.answers()[15..], ["exit code: 0\n", refused, refused]);
    harness.agent.stop().await;
}

#[tokio::test]
async fn a_model_that_fails_says_why() {
    let call = Reply::call("fail_task", json!({ "error": "no such question", "retryable": false }));
    let failure = Harness::new(ModelApi::Anthropic, [call]).await.failure().await;
    assert_eq!((&*failure.error, failure.retryable), ("no such question", false));
}

#[tokio::test]
async fn nonsense_is_corrected_twice_and_then_fails() {
    let nothing = || Reply::text(" ");
    for api in ALL {
        let failure = Harness::new(api, [nothing(), nothing(), nothing(), complete()]).await.failure().await;
        assert_eq!(failure.error, "the model makes no sense: it answers nothing, 3 times in a row");
        assert!(failure.retryable);
        let unknown = || bad("fly", "{}");
        let failure = Harness::new(api, [unknown(), bad("shell", "{\"x\":1}"), unknown()]).await.failure().await;
        assert_eq!(failure.error, "the model makes no sense: it calls tools as nobody can, 3 times in a row");

        let harness = Harness::new(api, [bad("shell", "{\"command\": "), nothing(), complete()]).await;
        harness.platform.completion(&harness.task()).await;
        let texts = harness.answers();
        // Google's format has no arguments that are no JSON.
        let problem = if api == ModelApi::Gemini { "missing field" } else { "EOF" };
        let error = format!("error: the arguments of shell are not as its schema says: {problem}");
        assert!(texts[0].starts_with(&error), "{texts:?}");
        assert!(texts[1].starts_with("Your answer was empty."), "{texts:?}");
        harness.agent.stop().await;
    }
}

#[tokio::test]
async fn the_same_call_with_the_same_answer_is_a_loop() {
    let call = || Reply::call("shell", json!({ "command": "echo again" }));
    let failure = Harness::new(ModelApi::OpenAi, std::iter::repeat_with(call).take(10)).await.failure().await;
    let error = "LOOP_DETECTED: shell was called 5 times with the same arguments and the same result";
    assert_eq!(failure.error, error);
    assert_eq!((failure.retryable, failure.loop_detected), (false, true));

    // A clock that is watched goes on.
    let watch = || Reply::call("shell", json!({ "command": "echo x >> f; wc -l < f" }));
    let calls = std::iter::repeat_with(watch).take(6).chain([complete()]);
    assert_eq!(Harness::new(ModelApi::OpenAi, calls).await.result().await, "all done");
}

#[tokio::test]
async fn steps_tokens_and_time_are_bounded() {
    let work = |index| Reply::call("write_file", json!({ "path": "f", "content": format!("{index}") }));
    let endless = || (0..100).map(work);
    let limited = async |change: fn(&mut ModelConfig)| {
        let model = FakeModel::start(endless()).await;
        let failure = Harness::changed(ModelApi::OpenAi, model, change).await.failure().await;
        assert!(!failure.retryable);
        failure.error
    };
    assert_eq!(limited(|config| config.steps = 4).await, "the 4 steps of a task are used up");
    // A request is a few thousand bytes, and the server says of each that it was 110 tokens.
    let model = FakeModel::start(endless()).await;
    let harness = Harness::changed(ModelApi::OpenAi, model, |config| config.tokens = 300).await;
    let failure = harness.platform.failure(&harness.task()).await;
    assert_eq!((&*failure.error, failure.retryable), ("the 300 tokens of a task are used up", false));
    assert_eq!(harness.model.requests().len(), 0, "what cannot be paid is not asked");
    harness.agent.stop().await;
    assert_eq!(limited(|config| config.tokens = 4000).await, "the 4000 tokens of a task are used up");
    let hangs = FakeModel::start([Reply::Hang]).await;
    let change = |config: &mut ModelConfig| config.limit = Duration::from_secs(1);
    let failure = Harness::changed(ModelApi::Anthropic, hangs, change).await.failure().await;
    assert_eq!(failure.error, "the 1 s that a model may work on a task are used up");
}

#[tokio::test]
async fn a_server_that_is_busy_or_breaks_off_is_asked_again() {
    for api in ALL {
        let replies = [Reply::Refuse { status: 429, retry_after: Some(1) }, Reply::Cut, Reply::Overloaded, complete()];
        let harness = Harness::new(api, replies).await;
        harness.platform.completion(&harness.task()).await;
        let requests = harness.model.requests();
        // Longer than it waits by itself the first time.
        assert!(requests[1].at - requests[0].at >= Duration::from_secs(1), "it asked to be left alone");
        assert_eq!(requests.len(), 4);
        assert!(requests.iter().all(|request| request.body == requests[0].body));
        harness.agent.stop().await;
    }
}

#[tokio::test]
async fn answers_that_break_off_are_paid_for() {
    for api in ALL {
        let model = FakeModel::start(std::iter::repeat_n(Reply::Cut, 5)).await;
        let harness = Harness::changed(api, model, |config| config.tokens = 4000).await;
        let failure = harness.platform.failure(&harness.task()).await;
        assert_eq!((&*failure.error, failure.retryable), ("the 4000 tokens of a task are used up", false));
        assert!((1..5).contains(&harness.model.requests().len()), "{}", harness.model.requests().len());
        harness.agent.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_stays_away_or_refuses_is_a_reason() {
    let busy = || Reply::Refuse { status: 503, retry_after: None };
    let failure = Harness::new(ModelApi::OpenAi, std::iter::repeat_with(busy).take(5)).await.failure().await;
    let error = "the model server failed 5 times: 503 Service Unavailable: \
                 {\"error\":{\"message\":\"the model refuses with 503\"}}";
    assert_eq!((&*failure.error, failure.retryable), (error, true));

    let long = Reply::Refuse { status: 429, retry_after: Some(3600) };
    let failure = Harness::new(ModelApi::Anthropic, [long]).await.failure().await;
    assert!(failure.error.starts_with("the model server failed 1 times: 429"), "{}", failure.error);

    let refused = Reply::Refuse { status: 401, retry_after: None };
    let failure = Harness::new(ModelApi::Anthropic, [refused]).await.failure().await;
    assert!(failure.error.starts_with("the model server refuses: 401 Unauthorized"), "{}", failure.error);
    assert!(!failure.retryable);
}

#[tokio::test]
async fn a_stop_gives_back_what_the_model_works_on() {
    let harness = Harness::new(ModelApi::OpenAi, [Reply::Hang]).await;
    let id = harness.task();
    until("the model is asked", LONG, async || Ok::<_, String>(harness.model.requests().pop())).await;
    harness.agent.stop().await;
    let releases = harness.platform.releases.lock().expect("lock").clone();
    assert_eq!(releases.iter().map(|release| &*release.task_id).collect::<Vec<_>>(), [&*id]);
}
