//! The life of an office and its agents, from creation to deletion, on both databases and in both arrangements.

use std::fs;

use mi_e2e::{World, refusal};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, on_both, until};
use ring::digest;
use tonic::Code;

on_both! { one_process, a_process_per_role }

async fn one_process(backend: Backend) {
    journey(World::start(backend, Arrangement::OneProcess).await).await;
}

async fn a_process_per_role(backend: Backend) {
    journey(World::start(backend, Arrangement::ProcessPerRole).await).await;
}

async fn journey(mut world: World) {
    let office = world.office("My Colony").await;
    let hired = world.hire(&office, "analyst").await.expect("hired");
    assert_eq!((hired.model_tier.as_str(), hired.provider.as_str(), hired.generation), ("sonnet", "anthropic", 1));
    let running = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!(running.id, hired.id);
    assert_eq!(running.public_key.len(), 32);
    assert_eq!(running.employee_type(), v1::EmployeeType::Process);
    logs(&world, &office).await;

    // The workspace survives promotion, stop, restart and suspension.
    let file = world.workspace(&running).join("notes.txt");
    fs::write(&file, "remember the milk").expect("written");
    let promoted = world.promote(&office, "analyst", "opus").await.expect("promoted");
    assert_eq!((promoted.model_tier.as_str(), promoted.generation), ("opus", 2));
    let running = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((running.model_tier.as_str(), running.id), ("opus", hired.id.clone()));
    let by_name = || v1::StopAgentRequest { office_id: office.clone(), name: "analyst".into() };
    world.owner.agents().stop_agent(by_name()).await.expect("stopped");
    world.settled(&office, "analyst", AgentPhase::Stopped).await;
    let again = v1::RestartAgentRequest { office_id: office.clone(), name: "analyst".into() };
    world.owner.agents().restart_agent(again).await.expect("restarted");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    suspend_and_resume(&world, &office).await;
    // Whatever else its first instance said is there by now: its lines are numbered, and others came after it.
    let lines = lines(&world, &office).await.expect("listed");
    let ready = lines.iter().filter(|line| line.text.starts_with("ready: analyst generation 1,")).count();
    assert_eq!(ready, 1, "it says so once: {lines:?}");

    // Everything comes back after the platform is killed.
    world.crash().await;
    // Until the platform has looked, the agent is still what it was.
    world.happened(&office, "analyst", "agent.restarted").await;
    let back = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((back.id.as_str(), back.model_tier.as_str()), (hired.id.as_str(), "opus"));
    assert_eq!(fs::read_to_string(&file).expect("kept"), "remember the milk");

    // Fired with a backup that has what it says, and hired again from it.
    world.fire(&office, "analyst").await.expect("fired");
    world.gone(&office, "analyst").await;
    assert!(!file.exists());
    let backups = world.backups(&office).await;
    let [backup] = backups.as_slice() else { panic!("one backup: {backups:?}") };
    assert_eq!(backup.agent, "analyst");
    check_download(&world, &office, backup).await;
    let request = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "successor".into(),
        restore_from_backup: backup.id.clone(),
        ..Default::default()
    };
    let successor = world.hire_as(request).await.expect("hired");
    world.settled(&office, "successor", AgentPhase::Running).await;
    let restored = world.workspace(&successor).join("notes.txt");
    assert_eq!(fs::read_to_string(restored).expect("restored"), "remember the milk");

    feed(&world, &office, &hired.id).await;
    delete(&world, &office, &backup.id).await;
    world.platform.stop().await;
}

/// All lines of its log, in order.
async fn lines(world: &World, office: &str) -> Result<Vec<v1::LogLine>, tonic::Status> {
    let request = v1::ListLogsRequest { office_id: office.into(), agent: "analyst".into(), ..Default::default() };
    Ok(world.owner.logs().list_logs(request).await?.into_inner().lines)
}

async fn logs(world: &World, office: &str) {
    let lines = until("its first line is in the log", mi_e2e::LIMIT, async || {
        let lines = lines(world, office).await?;
        Ok::<_, tonic::Status>((!lines.is_empty()).then_some(lines))
    })
    .await;
    let first = lines.iter().map(|line| (line.sequence, line.stream(), line.text.as_str())).collect::<Vec<_>>();
    assert_eq!(first, [(1, v1::LogStream::Agent, "ready: analyst generation 1, model sonnet")]);
}

async fn suspend_and_resume(world: &World, office: &str) {
    let request = v1::SuspendOfficeRequest { office_id: office.into() };
    let suspended = world.owner.offices().suspend_office(request).await.expect("suspended").into_inner();
    assert_eq!(suspended.office.expect("answered").status(), v1::OfficeStatus::Suspended);
    assert_eq!(refusal(world.hire(office, "late").await), (Code::FailedPrecondition, "OFFICE_NOT_ACTIVE".to_owned()));
    world.settled(office, "analyst", AgentPhase::Suspended).await;
    let request = v1::ResumeOfficeRequest { office_id: office.into() };
    world.owner.offices().resume_office(request).await.expect("resumed");
    world.settled(office, "analyst", AgentPhase::Running).await;
}

async fn check_download(world: &World, office: &str, backup: &v1::Backup) {
    let request = v1::DownloadBackupRequest { office_id: office.into(), backup_id: backup.id.clone() };
    let mut stream = world.owner.agents().download_backup(request).await.expect("opened").into_inner();
    let first = stream.message().await.expect("read").expect("a first message");
    assert_eq!(first.backup.as_ref(), Some(backup));
    let mut bytes = first.chunk.to_vec();
    while let Some(message) = stream.message().await.expect("read") {
        bytes.extend_from_slice(&message.chunk);
    }
    let hash = digest::digest(&digest::SHA256, &bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((i64::try_from(bytes.len()).expect("small"), hex), (backup.size_bytes, backup.sha256.clone()));
}

/// Every change once, in an order that tells the story, each with its own id and cursor.
async fn feed(world: &World, office: &str, agent_id: &str) {
    world.happened(office, "successor", "agent.running").await;
    let feed = world.feed(office).await;
    let cursors: Vec<i64> = feed.iter().map(|event| event.cursor).collect();
    assert_eq!(cursors, (1..=i64::try_from(feed.len()).expect("short")).collect::<Vec<_>>());
    let mut ids: Vec<&str> = feed.iter().map(|event| event.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), feed.len());
    let story: Vec<&str> = feed
        .iter()
        .filter(|event| event.agent == "analyst" && event.category == "lifecycle")
        .map(|event| event.r#type.as_str())
        .collect();
    assert_eq!(
        story,
        [
            "agent.hired",
            "agent.running",
            "agent.promoted",
            "agent.running",
            "agent.stop_requested",
            "agent.stopped",
            "agent.restart_requested",
            "agent.running",
            "agent.suspended",
            "agent.running",
            "agent.restarted",
            "agent.running",
            "agent.fire_requested",
            "agent.backed_up",
            "agent.fired",
        ]
    );
    let hired = feed.iter().find(|event| event.r#type == "agent.hired").expect("in the story");
    let metadata = hired.metadata.as_ref().expect("has details");
    assert!(format!("{metadata:?}").contains(agent_id), "{metadata:?}");
    assert_eq!(hired.trace_id.len(), 32);
    let own: Vec<&str> =
        feed.iter().filter(|event| event.agent.is_empty()).map(|event| event.r#type.as_str()).collect();
    assert_eq!(own, ["office.created", "credit.granted", "office.activated", "office.suspended", "office.resumed"]);
}

async fn delete(world: &World, office: &str, backup: &str) {
    let request = || v1::DeleteOfficeRequest { office_id: office.into() };
    world.owner.offices().delete_office(request()).await.expect("deleted");
    until("the office is gone", mi_e2e::LIMIT, async || match world.get_office(office).await {
        Err(status) if status.code() == Code::NotFound => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await;
    let not_found = (Code::NotFound, "NOT_FOUND".to_owned());
    assert_eq!(refusal(world.owner.offices().delete_office(request()).await), not_found);
    assert_eq!(refusal(world.agent(office, "successor").await), not_found);
    assert_eq!(refusal(world.hire(office, "late").await), not_found);
    let request = v1::DownloadBackupRequest { office_id: office.into(), backup_id: backup.into() };
    assert_eq!(refusal(world.owner.agents().download_backup(request).await), not_found);
    let request = v1::ListActivityRequest { office_id: office.into(), ..Default::default() };
    assert_eq!(refusal(world.owner.activity().list_activity(request).await), not_found);
    assert_eq!(world.homes(), Vec::<std::path::PathBuf>::new());
}
