//! `mi-bench kills-worker ENDPOINT OFFICE AGENT KEY_FILE NOTES`: claims and completes one task after the other until it
//! is killed. Says on standard output that it has its first one.

use std::{path::Path, time::Duration};

use mi_proto::v1::{ClaimTasksRequest, CompleteTaskRequest};
use nix::sys::{prctl, signal::Signal};
use tonic::Code;

use super::notes::{self, Note};
use crate::{Result, customer};

/// The first argument.
pub(crate) const NAME: &str = "kills-worker";
/// The shortest that the platform grants.
pub(super) const LEASE: Duration = Duration::from_secs(1);
/// How long it waits for a task.
const WAIT: i64 = 20;
/// The most that the work on a task takes.
const WORK: Duration = Duration::from_millis(20);

/// Works until it is killed, at the latest with the process that started it.
pub(crate) async fn run(args: &[String]) -> Result {
    let [endpoint, office_id, agent, key_file, notes] = args else {
        return Err(format!("usage: mi-bench {NAME} ENDPOINT OFFICE AGENT KEY_FILE NOTES").into());
    };
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let client = customer::connect(endpoint, agent.parse()?, Path::new(key_file))?;
    let notes = notes::open(Path::new(notes))?;
    let mut told = false;
    loop {
        let claim = ClaimTasksRequest {
            office_id: office_id.clone(),
            wait: Some(prost_types::Duration { seconds: WAIT, nanos: 0 }),
            lease: Some(LEASE.try_into()?),
            ..Default::default()
        };
        for task in client.tasks().claim_tasks(claim).await?.into_inner().tasks {
            if !std::mem::replace(&mut told, true) {
                println!("{}", task.id);
            }
            tokio::time::sleep(WORK.mul_f64(fastrand::f64())).await;
            let request = CompleteTaskRequest {
                office_id: office_id.clone(),
                task_id: task.id.clone(),
                lease_id: task.lease_id.clone(),
                result: "done".into(),
                ..Default::default()
            };
            match client.tasks().complete_task(request).await {
                Ok(_) => Note { task: task.id, lease: task.lease_id, attempt: task.attempt }.add_to(&notes)?,
                // The machine is slow, and somebody else has it now.
                Err(status) if status.code() == Code::Aborted => {}
                Err(status) => return Err(status.into()),
            }
        }
    }
}
