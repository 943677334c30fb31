//! The example offices, as the repository has them: each of them gets its work done, whatever happens meanwhile.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use mi_client::{Client, Credential, list_all};
use mi_e2e::{World, refusal};
use mi_kernel::{page::MAX_PAGE_SIZE, secret::Secret};
use mi_pgserver::Server;
use mi_proto::v1::{self, ActivityEvent, ListActivityRequest};
use mi_testkit::{
    Arrangement, Backend, Platform,
    model::{FakeModel, INPUT_TOKENS, ModelApi, OUTPUT_TOKENS, team},
    on_both, until,
};
use prost_types::value::Kind;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use tonic::Code;

use crate::verify::{holes, verify};

on_both! { a_program_is_built, a_pipeline_outlives_the_platform, a_team_finds_out }

/// Longer than a lease, several times over.
const LIMIT: Duration = Duration::from_secs(180);
/// The last task of the pipeline, with its result.
const REPORT: (&str, &str) = (
    "report",
    "exit code: 0\n--- stdout\n19 tasks ran before this one: the squares of 1000 numbers add up to 333833500\n",
);
/// A call that cannot be answered says so long before this.
const ANSWER: Duration = Duration::from_secs(15);

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

/// The feed says of each task that it was completed, and says it once.
async fn each_is_completed_once(world: &World, applied: &Value) {
    let office = applied["changes"][0]["id"].as_str().expect("an id");
    let tasks = applied["tasks"].as_array().expect("tasks").iter();
    let mut expected: Vec<&str> = tasks.map(|it| it["task"]["id"].as_str().expect("an id")).collect();
    expected.sort_unstable();
    until("the feed has each completion once", LIMIT, async || {
        let request = ListActivityRequest {
            office_id: office.into(),
            categories: vec!["task".into()],
            page_size: Some(MAX_PAGE_SIZE),
            ..Default::default()
        };
        let page = world.admin.activity().list_activity(request).await.map_err(|status| status.to_string())?;
        let page = page.into_inner();
        assert_eq!(page.next_page_token, "");
        let completed = page.events.iter().filter(|event| event.r#type == "task.completed");
        let mut found: Vec<String> = completed.map(task_id).collect();
        found.sort_unstable();
        if found == expected { Ok(Some(())) } else { Err(format!("{found:?}")) }
    })
    .await;
}

fn task_id(event: &ActivityEvent) -> String {
    match event.metadata.as_ref().and_then(|metadata| metadata.fields["task_id"].kind.as_ref()) {
        Some(Kind::StringValue(id)) => id.clone(),
        other => panic!("{other:?} is no id"),
    }
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
    let mut world = World::start(backend, Arrangement::ProcessPerRole).await;
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
    assert_eq!((results.len(), results[19]), (20, REPORT));
    each_is_completed_once(&world, &waited).await;
}

/// Calls that the roles answer from their databases, one that writes among them.
async fn all_are_unavailable(world: &World, office: &str) {
    let office_id = office.to_owned();
    let create = v1::CreateTaskRequest { office_id: office_id.clone(), title: "never".into(), ..Default::default() };
    let list = v1::ListAgentsRequest { office_id: office_id.clone(), ..Default::default() };
    let read = ListActivityRequest { office_id, ..Default::default() };
    let (mut tasks, mut agents, mut activity) = (world.admin.tasks(), world.admin.agents(), world.admin.activity());
    let answers =
        async { tokio::join!(tasks.create_task(create), agents.list_agents(list), activity.list_activity(read)) };
    let answers = tokio::time::timeout(ANSWER, answers).await.expect("no call hangs");
    let codes = [refusal(answers.0).0, refusal(answers.1).0, refusal(answers.2).0];
    assert_eq!(codes, [Code::Unavailable; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_outlives_postgres() {
    let mut server = Server::start().expect("starts");
    let platform = Platform::builder().postgres(server.url()).arrangement(Arrangement::ProcessPerRole);
    let world = World::on(platform.start().await).await;
    let created = applied(apply(&world.platform, "pipeline", &[]).output()).await;
    assert_eq!(actions(&created), ["created"; 24]);
    let office = created["changes"][0]["id"].as_str().expect("an id");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    // Where the work stands at each of these moments is left to chance on purpose.
    for millis in [0, 300, 700, 1000] {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        server.kill9().expect("killed");
        let mut put = mi(&world.platform);
        put.args(["files", "put", "--colony", office, file, "kept", "--force"]);
        let put = tokio::spawn(put.output());
        all_are_unavailable(&world, office).await;
        server.start_again().expect("recovers");
        // It was not answered at first, and tried again.
        let put = put.await.expect("not aborted").expect("ran");
        assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    }
    let waited = applied(apply(&world.platform, "pipeline", &["--wait"]).output()).await;
    let results = results(&waited);
    assert_eq!((results.len(), results[19]), (20, REPORT));
    each_is_completed_once(&world, &waited).await;
    let (code, checks) = verify(&world, office).await;
    assert_eq!((code, holes(&checks)), (0, vec![]));
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
    let key = Credential::ApiKey(Secret::new(world.platform.admin_key()));
    let admin = world.owner.with_credential(key).expect("good");
    let office = admin.offices().list().await.expect("lists").remove(0).id;
    every_micro_credit_is_explained(&admin, &office, &model).await;
}

/// What the model server was asked, at the catalogue's prices, is what the ledger has for models; with the time for which
/// agents ran it is all that is gone, and usage adds up to the same however it is grouped.
async fn every_micro_credit_is_explained(owner: &Client, office: &str, model: &FakeModel) {
    let balance = async || {
        let request = v1::GetBalanceRequest { office_id: office.into(), agent: String::new() };
        owner.credits().get_balance(request).await.map(|it| it.into_inner().balance.expect("answered"))
    };
    let now = until("nothing is set aside any more", LIMIT, async || {
        balance().await.map(|now| (now.reserved == 0).then_some(now))
    })
    .await;
    let tiers = owner.agents().list_model_tiers(v1::ListModelTiersRequest {}).await.expect("lists");
    let tiers = tiers.into_inner().model_tiers;
    let asked = model.requests();
    let costs = asked.iter().map(|request| {
        let id = request.body["model"].as_str().expect("a model");
        let tier = tiers.iter().find(|tier| tier.model_id == id).expect("a tier's model");
        let tokens = |count: u64| i64::try_from(count).expect("small");
        let sum = tokens(INPUT_TOKENS) * tier.input_price + tokens(OUTPUT_TOKENS) * tier.output_price;
        sum.div_euclid(1_000_000) + i64::from(sum % 1_000_000 > 0)
    });
    let entries = list_all(async |page_token| {
        let request = v1::ListLedgerEntriesRequest { office_id: office.into(), page_size: Some(200), page_token };
        let page = owner.credits().list_ledger_entries(request).await?.into_inner();
        Ok((page.entries, page.next_page_token))
    });
    let entries = entries.await.expect("lists");
    let of = |reference: &str| -> Vec<i64> {
        entries.iter().filter(|it| it.reference.starts_with(reference)).map(|it| it.amount).collect()
    };
    let calls = of("call/");
    assert_eq!((calls.len(), -calls.iter().sum::<i64>()), (asked.len(), costs.sum::<i64>()));
    assert_eq!(entries.iter().map(|it| it.amount).sum::<i64>(), now.balance);
    let spent = -entries.iter().map(|it| it.amount).filter(|amount| *amount < 0).sum::<i64>();
    for group in [v1::UsageGroup::Agent, v1::UsageGroup::Model, v1::UsageGroup::Task, v1::UsageGroup::Day] {
        let request = v1::GetUsageRequest { office_id: office.into(), group_by: group.into(), ..Default::default() };
        let usages = owner.credits().get_usage(request).await.expect("answers").into_inner().usages;
        let sums = usages.iter().fold((0, 0), |(amount, calls), it| (amount + it.amount, calls + it.calls));
        assert_eq!(sums, (spent, i64::try_from(asked.len()).expect("few")), "{group:?}: {usages:?}");
    }
}
