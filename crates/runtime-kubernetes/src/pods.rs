//! What a pod says of an agent, in words for people. Nothing here lasts: it is read anew from each version of the pod.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use mi_kernel::{InstanceId, Time};

use crate::{
    agent::CONTAINER,
    labels::{BACKUP_ID, INSTANCE_ID, id_in},
};

/// A pod of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodView {
    /// The instance that it is for.
    pub(crate) instance: Option<InstanceId>,
    /// Whether it is for a backup and not for the agent.
    pub(crate) saves: bool,
    /// By when it should have ended, once somebody asked for that.
    pub(crate) ends_by: Option<Time>,
    /// Where it is.
    pub(crate) node: Option<String>,
    /// Why it does not run.
    pub(crate) waiting: Option<String>,
    /// Since when it runs.
    pub(crate) up_since: Option<Time>,
    /// The run of its container that ended last.
    pub(crate) ended: Option<EndedRun>,
}

/// A run of a container that ended, of which the log can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EndedRun {
    /// How many there were before.
    pub(crate) number: i32,
    /// Whether another one has begun since.
    pub(crate) previous: bool,
}

impl PodView {
    pub(crate) fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let container = status.and_then(container_of);
        let running = container.and_then(|it| it.state.as_ref()?.running.as_ref());
        let started_at = running.and_then(|running| running.started_at.as_ref());
        Self {
            instance: id_in(pod.metadata.annotations.as_ref(), INSTANCE_ID),
            saves: pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(BACKUP_ID)),
            ends_by: pod.metadata.deletion_timestamp.as_ref().and_then(|time| time_of(&time.0)),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            waiting: status.map_or_else(|| Some("it was not looked at yet".to_owned()), waiting),
            up_since: started_at.and_then(|time| time_of(&time.0)),
            ended: container.and_then(ended),
        }
    }
}

fn time_of(time: &k8s_openapi::jiff::Timestamp) -> Option<Time> {
    Time::from_timestamp_micros(time.as_microsecond())
}

fn container_of(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.as_deref()?.iter().find(|it| it.name == CONTAINER)
}

fn ended(container: &ContainerStatus) -> Option<EndedRun> {
    let has_ended = |state: Option<&ContainerState>| state.is_some_and(|state| state.terminated.is_some());
    match (has_ended(container.state.as_ref()), has_ended(container.last_state.as_ref())) {
        (true, _) => Some(EndedRun { number: container.restart_count, previous: false }),
        (false, true) => Some(EndedRun { number: container.restart_count - 1, previous: true }),
        (false, false) => None,
    }
}

/// Why a pod does not run; none: it does.
fn waiting(status: &PodStatus) -> Option<String> {
    let phase = status.phase.as_deref().unwrap_or_default();
    if phase == "Failed" {
        let reason = status.reason.as_deref().unwrap_or("Failed");
        let said = status.message.as_deref().unwrap_or("nothing is known of the cause");
        return Some(match reason {
            "Evicted" => format!("its node threw it out, and Kubernetes makes it anew (Evicted: {said})"),
            _ => format!("its pod failed, and Kubernetes makes it anew ({reason}: {said})"),
        });
    }
    if phase == "Unknown" {
        let said = status.message.as_deref().or(status.reason.as_deref()).unwrap_or("no reason is given");
        return Some(format!("nothing is heard of its node (Unknown: {said})"));
    }
    if let Some(container) = container_of(status) {
        return of_container(container);
    }
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    match scheduled.filter(|condition| condition.status != "True") {
        Some(condition) => {
            let said = condition.message.as_deref().unwrap_or("no reason is given");
            Some(format!("no node takes its pod (Unschedulable: {said})"))
        }
        None if phase == "Running" => None,
        None => Some("its pod is being prepared".to_owned()),
    }
}

fn of_container(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(ended) = &state.terminated {
        return Some(format!("its container ended ({})", end_of(ended)));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or("Waiting");
    let said = waiting.message.as_deref().unwrap_or_default();
    let behind = if said.is_empty() { String::new() } else { format!(": {said}") };
    Some(match reason {
        "ContainerCreating" | "PodInitializing" => "its container is being made".to_owned(),
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            format!("the image {:?} cannot be had ({reason}{behind})", container.image)
        }
        "CrashLoopBackOff" => {
            let how = last.map(|ended| format!(", last time with {}", end_of(ended))).unwrap_or_default();
            format!("its container keeps ending{how}; Kubernetes starts it again, later each time (CrashLoopBackOff)")
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            format!("its container cannot be started ({reason}{behind})")
        }
        _ => format!("its container waits ({reason}{behind})"),
    })
}

fn end_of(ended: &ContainerStateTerminated) -> String {
    match ended.reason.as_deref() {
        Some("OOMKilled") => "OOMKilled: it used more memory than it may".to_owned(),
        Some(reason) if reason != "Error" && reason != "Completed" => {
            format!("{reason}, exit code {}", ended.exit_code)
        }
        _ => format!("exit code {}", ended.exit_code),
    }
}
