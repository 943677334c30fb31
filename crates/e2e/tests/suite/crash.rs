//! kill -9 of the platform at any moment: everything converges, nothing is doubled or lost.

use std::{fs, time::Duration};

use mi_e2e::World;
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, on_both, until};
use tonic::Code;

on_both! { during_hire, during_promote, during_fire, during_delete }

/// Moments after the call was sent at which the platform dies. Not waits for a condition: where the work stands at each
/// of them is left to chance on purpose.
const MOMENTS: [u64; 5] = [0, 2, 6, 15, 40];

async fn kill_after(world: &mut World, millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    world.crash().await;
}

async fn during_hire(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Crash").await;
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let name = format!("agent-{round}");
        let request = v1::HireAgentRequest {
            office_id: office.clone(),
            name: name.clone(),
            request_id: name.clone(),
            ..Default::default()
        };
        let mut client = world.owner.agents();
        let sent = request.clone();
        let call = tokio::spawn(async move { client.hire_agent(sent).await });
        kill_after(&mut world, moment).await;
        let _ = call.await;
        // The client does not know what became of its call, and sends it again.
        let agent = world.hire_as(request).await.expect("answered");
        let running = world.settled(&office, &name, AgentPhase::Running).await;
        assert_eq!(running.id, agent.id);
        world.happened(&office, &name, "agent.running").await;
        assert_eq!(world.count(&office, &name, "agent.hired").await, 1);
    }
    assert_eq!(world.homes().len(), MOMENTS.len());
}

async fn during_promote(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Crash").await;
    let agent = world.hire(&office, "analyst").await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    let file = world.workspace(&agent).join("kept");
    fs::write(&file, "x").expect("written");
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let tier = ["opus", "haiku"][round % 2];
        world.promote(&office, "analyst", tier).await.expect("promoted");
        kill_after(&mut world, moment).await;
        let running = world.settled(&office, "analyst", AgentPhase::Running).await;
        assert_eq!((running.model_tier.as_str(), running.id.as_str()), (tier, agent.id.as_str()));
        assert!(file.exists());
    }
    world.happened(&office, "analyst", "agent.promoted").await;
    until("each promotion is in the feed", mi_e2e::LIMIT, async || {
        let count = world.count(&office, "analyst", "agent.promoted").await;
        if count == MOMENTS.len() { Ok(Some(())) } else { Err(count) }
    })
    .await;
}

async fn during_fire(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Crash").await;
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let name = format!("agent-{round}");
        let agent = world.hire(&office, &name).await.expect("hired");
        world.settled(&office, &name, AgentPhase::Running).await;
        // Enough that the archive takes a moment.
        let bytes: Vec<u8> = (0..4_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(world.workspace(&agent).join("data"), bytes).expect("written");
        world.fire(&office, &name).await.expect("fired");
        kill_after(&mut world, moment).await;
        world.gone(&office, &name).await;
        world.happened(&office, &name, "agent.fired").await;
        let backups = world.backups(&office).await;
        assert_eq!(backups.iter().filter(|backup| backup.agent == name).count(), 1);
        assert!(backups.iter().all(|backup| backup.size_bytes > 100_000), "{backups:?}");
        assert_eq!(world.count(&office, &name, "agent.fired").await, 1);
        assert_eq!(world.count(&office, &name, "agent.backed_up").await, 1);
    }
    assert_eq!(world.homes(), Vec::<std::path::PathBuf>::new());
}

async fn during_delete(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    for moment in MOMENTS {
        let office = world.office("Doomed").await;
        for name in ["one", "two"] {
            world.hire(&office, name).await.expect("hired");
        }
        world.settled(&office, "one", AgentPhase::Running).await;
        let request = v1::DeleteOfficeRequest { office_id: office.clone() };
        world.owner.offices().delete_office(request).await.expect("deleted");
        kill_after(&mut world, moment).await;
        until("the office is gone", mi_e2e::LIMIT, async || match world.get_office(&office).await {
            Err(status) if status.code() == Code::NotFound => Ok(Some(())),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    assert_eq!(world.homes(), Vec::<std::path::PathBuf>::new());
    let objects = world.platform.data_dir().join("objects");
    let left: Vec<_> = walk(&objects);
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
