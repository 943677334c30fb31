//! The example offices, as the repository has them: each of them gets its work done, whatever happens meanwhile.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use mi_e2e::World;
use mi_kernel::page::MAX_PAGE_SIZE;
use mi_proto::v1::ListActivityRequest;
use mi_testkit::{
    Arrangement, Backend, Platform,
    model::{FakeModel, ModelApi, team},
    on_both,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

on_both! { a_program_is_built, a_pipeline_outlives_the_platform, a_team_finds_out }

/// Longer than a lease, several times over.
const LIMIT: Duration = Duration::from_secs(180);

/// `mi` for a program that reads what it prints.
fn mi(platform: &Platform) -> Command {
    let mut command = Command::new(mi_testkit::platform::binary());
    command
        .args(["-o", "json"])
        .env("MI_CONFIG_DIR", platform.config_dir())
        .env("MI_ENDPOINT", platform.endpoint())
        .env("MI_API_KEY", platform.admin_key())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// `mi apply` of an example.
fn apply(platform: &Platform, example: &str, more: &[&str]) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").join(example).join("office.yaml");
    let mut command = mi(platform);
    command.arg("apply").arg("-f").arg(file).args(more);
    command
}

/// What was applied, once it is.
async fn applied(output: impl Future<Output = std::io::Result<Output>>) -> Value {
    let output = tokio::time::timeout(LIMIT, output).await.expect("ends by itself").expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The keys of the tasks with their results.
fn results(applied: &Value) -> Vec<(&str, &str)> {
    let tasks = applied["tasks"].as_array().expect("tasks").iter();
    tasks
        .map(|it| {
            assert_eq!(it["task"]["status"], "TASK_STATUS_DONE", "{it}");
            (it["key"].as_str().expect("a key"), it["task"]["result"].as_str().expect("a result"))
        })
        .collect()
}

fn actions(applied: &Value) -> Vec<&str> {
    applied["changes"].as_array().expect("changes").iter().map(|it| it["action"].as_str().expect("one")).collect()
}

async fn a_program_is_built(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let first = applied(apply(&world.platform, "build-farm", &["--wait"]).output()).await;
    let results = results(&first);
    assert_eq!(results.len(), 7);
    assert_eq!(results[5], ("test-numbers", "exit code: 0\n--- stdout\n3 tests passed\n"));
    assert_eq!(actions(&first), ["created"; 14]);
    let again = applied(apply(&world.platform, "build-farm", &["--wait"]).output()).await;
    assert_eq!(actions(&again), ["unchanged"; 14]);
    assert_eq!(again["tasks"], first["tasks"]);
}

async fn a_pipeline_outlives_the_platform(backend: Backend) {
    // Whose endpoint stays, so that whoever watches finds it again.
    let mut world = World::start(backend, Arrangement::FourProcesses).await;
    let created = applied(apply(&world.platform, "pipeline", &[]).output()).await;
    assert_eq!(actions(&created), ["created"; 24]);
    let office = created["changes"][0]["id"].as_str().expect("an id").to_owned();
    let report = created["changes"][23]["id"].as_str().expect("an id");
    let mut watch = mi(&world.platform);
    watch.args(["tasks", "watch", "--colony", &office, report]).stdout(Stdio::piped());
    let mut watch = watch.spawn().expect("starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let first = lines.next_line().await.expect("readable").expect("a line");
    // Where the work stands at each of these moments is left to chance on purpose.
    for millis in [0, 300, 700] {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        world.crash().await;
    }
    let watched = async {
        let mut last = first;
        while let Some(line) = lines.next_line().await.expect("readable") {
            last = line;
        }
        last
    };
    let last: Value =
        serde_json::from_str(&tokio::time::timeout(LIMIT, watched).await.expect("ends by itself")).expect("JSON");
    assert_eq!((&last["task"]["id"], &last["task"]["status"]), (&report.into(), &"TASK_STATUS_DONE".into()));
    let waited = applied(apply(&world.platform, "pipeline", &["--wait"]).output()).await;
    let results = results(&waited);
    assert_eq!(results.len(), 20);
    let said = "19 tasks ran before this one: the squares of 1000 numbers add up to 333833500\n";
    assert_eq!(results[19], ("report", format!("exit code: 0\n--- stdout\n{said}").as_str()));
    let request = ListActivityRequest {
        office_id: office,
        categories: vec!["task".into()],
        page_size: Some(MAX_PAGE_SIZE),
        ..Default::default()
    };
    let page = world.admin.activity().list_activity(request).await.expect("answers").into_inner();
    assert_eq!(page.next_page_token, "");
    assert_eq!(page.events.iter().filter(|event| event.r#type == "task.completed").count(), 20);
}

async fn a_team_finds_out(backend: Backend) {
    let model = FakeModel::scripted((Ipv4Addr::LOCALHOST, 0).into(), team::reply).await;
    let platform = Platform::builder().backend(backend).arg("--model-api").arg("openai").arg("--model-url");
    let world = World::on(platform.arg(model.url(ModelApi::OpenAi)).start().await).await;
    let applied = applied(apply(&world.platform, "research-team", &["--wait"]).output()).await;
    let results = results(&applied);
    let findings = |question: &str| {
        format!(
            "Report on {question}\n{question}: background was looked into.\n\
             {question}: open questions was looked into."
        )
    };
    let expect = [
        ("tides", findings("Why do the tides differ from place to place?")),
        ("glass", findings("Why is glass transparent?")),
        ("summary", "Finding: Sum up what the team found was looked into.".to_owned()),
    ];
    assert_eq!(results, expect.each_ref().map(|(key, result)| (*key, result.as_str())));
}
