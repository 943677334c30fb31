//! Tasks for the wire.

use mi_kernel::Error;
use mi_proto::v1;
use mi_rpc::{Access, convert::timestamp};
use mi_tenancy::Author;

use super::{
    model::{Kind, State, Task},
    rules,
    status_counts::StatusCounts,
};

fn kind(kind: Kind) -> v1::TaskKind {
    match kind {
        Kind::General => v1::TaskKind::General,
        Kind::Code => v1::TaskKind::Code,
        Kind::Research => v1::TaskKind::Research,
        Kind::Review => v1::TaskKind::Review,
        Kind::Command => v1::TaskKind::Command,
    }
}

fn status(state: &State) -> v1::TaskStatus {
    match state {
        State::Blocked { .. } => v1::TaskStatus::Blocked,
        State::Queued => v1::TaskStatus::Queued,
        State::Running(_) => v1::TaskStatus::Running,
        State::Verifying { .. } => v1::TaskStatus::Verifying,
        State::Done { .. } => v1::TaskStatus::Done,
        State::Failed => v1::TaskStatus::Failed,
        State::Cancelled => v1::TaskStatus::Cancelled,
    }
}

/// Tasks by status, for people who ask how it goes.
pub(crate) fn counts(status_counts: &StatusCounts) -> Vec<v1::TaskCount> {
    let named = |name: &str| v1::TaskStatus::from_str_name(&format!("TASK_STATUS_{}", name.to_uppercase()));
    let count = |(name, count): (&str, i64)| v1::TaskCount {
        status: named(name).unwrap_or_default().into(),
        count: count.try_into().unwrap_or(i32::MAX),
    };
    status_counts.counts().map(count).collect()
}

/// Has a task that is queued say why nobody takes it, before why its last attempt failed.
pub(super) fn waits(task: &mut v1::Task, why: &Error) {
    let before = if task.error.is_empty() { String::new() } else { format!("; the last attempt: {}", task.error) };
    task.error = format!("{}: {}{before}", why.reason, why.message);
}

/// A task, as this one may see it: the lease is shown to who holds it, and what a direct message says, with what came of
/// it, to whom it was written to and to operators.
pub(super) fn task(task: Task, viewer: &Access) -> v1::Task {
    let status = status(task.state());
    let holds = task.holder() == Some(&Author::of(viewer));
    let reads = rules::may_read(viewer, &task);
    let deadline = task.deadline();
    let spec = task.spec;
    let progress = task.progress;
    let mut wire = v1::Task {
        id: task.id.to_string(),
        title: spec.title,
        description: spec.description,
        kind: kind(spec.kind).into(),
        priority: spec.priority,
        status: status.into(),
        assigned_agent: progress.assigned.map(|assigned| assigned.name).unwrap_or_default(),
        parent_id: spec.parent.map(|id| id.to_string()).unwrap_or_default(),
        depends_on: spec.depends_on.iter().map(ToString::to_string).collect(),
        required_tools: spec.required_tools,
        attempt: progress.attempt,
        max_attempts: spec.max_attempts,
        error: match &progress.state {
            State::Queued | State::Running(_) if !progress.stalled.is_empty() => progress.stalled,
            _ => progress.error,
        },
        verification_required: spec.verification_required,
        created_by: spec.created_by,
        created_at: Some(timestamp(spec.created_at)),
        updated_at: Some(timestamp(progress.updated_at)),
        claimed_at: progress.claimed_at.map(timestamp),
        finished_at: progress.finished_at.map(timestamp),
        worker: progress.worker.map(|worker| worker.name).unwrap_or_default(),
        cause: spec.cause,
        depth: progress.depth,
        verifies_task_id: spec.verifies.map(|id| id.to_string()).unwrap_or_default(),
        context_id: spec.context.unwrap_or_else(|| task.id.to_string()),
        ..v1::Task::default()
    };
    match progress.state {
        State::Blocked { reason, hangs_on } => {
            wire.blocked_reason = reason;
            wire.hangs_on_task_id = hangs_on.map(|id| id.to_string()).unwrap_or_default();
        }
        State::Running(lease) => {
            wire.lease_expires_at = deadline.map(timestamp);
            wire.lease_id = if holds { lease.id.to_string() } else { String::new() };
        }
        State::Verifying { work, .. } | State::Done { work } => {
            wire.receipt_public_key = hex::decode(&work.public_key).unwrap_or_default().into();
            wire.result = work.result;
            wire.artifacts = work.artifacts;
            wire.receipt = work.receipt;
        }
        State::Queued | State::Failed | State::Cancelled => {}
    }
    if !reads {
        for text in [
            &mut wire.description,
            &mut wire.result,
            &mut wire.error,
            &mut wire.blocked_reason,
            // It has the commands.
            &mut wire.receipt,
        ] {
            text.clear();
        }
        wire.artifacts.clear();
        wire.receipt_public_key = Default::default();
    }
    wire
}
