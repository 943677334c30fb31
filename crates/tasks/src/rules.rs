//! What requests about tasks have to look like.

use std::{collections::BTreeSet, time::Duration};

use mi_kernel::{Error, LeaseId, Result, TaskId, receipt::MAX_RECEIPT, text::drive_path};
use mi_proto::v1::{CompleteTaskRequest, CreateTaskRequest, TaskKind, TaskStatus};
use mi_rpc::Access;
use mi_store::idempotency;

use super::model::{Asked, Assignee, Kind, LEASE, MAX_TITLE, New, Reference, Task, Work};

/// Longest description and result, in bytes.
const MAX_TEXT: usize = 256 << 10;
/// Longest error, note and reason, in bytes.
const MAX_NOTE: usize = 64 << 10;
const MAX_DEPENDENCIES: usize = 1000;
const MAX_TOOLS: usize = 32;
const MAX_TOOL: usize = 64;
const MAX_ARTIFACTS: usize = 1000;
/// Longest name of a conversation, in bytes.
const MAX_CONTEXT: usize = 128;
/// Most tasks of a batch.
pub(super) const MAX_BATCH: usize = 1000;
/// Most dependencies of all the tasks of a batch together.
const MAX_LINKS: usize = 10_000;
const MAX_CLAIMS: i32 = 100;
const MAX_WAIT: Duration = Duration::from_secs(300);
const LEASES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Whether the caller may read what a task says: what was written to one agent alone is that one's and the operators'.
pub(super) fn may_read(access: &Access, task: &Task) -> bool {
    let kept_for = task.progress.assigned.as_ref().map(|assigned| assigned.id);
    !task.is_private() || access.agent().is_none_or(|agent| kept_for == Some(agent.agent_id))
}

/// Text that both databases keep as it is.
fn text(field: &'static str, text: &str, most: usize) -> Result<String> {
    if text.len() > most {
        let hint = "put what is larger into the drive";
        return Err(Error::invalid(field, format!("has {} bytes, and at most {most} fit; {hint}", text.len())));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "must not contain NUL"));
    }
    Ok(text.to_owned())
}

fn not_blank(field: &'static str, given: &str, most: usize) -> Result<String> {
    if given.trim().is_empty() {
        return Err(Error::invalid(field, "must not be blank"));
    }
    text(field, given, most)
}

/// A note, or the body of a report.
pub(super) fn note(field: &'static str, given: &str) -> Result<String> {
    not_blank(field, given, MAX_NOTE)
}

/// A reason, which may be empty.
pub(super) fn reason(field: &'static str, given: &str) -> Result<String> {
    text(field, given, MAX_NOTE)
}

fn title(given: &str) -> Result<String> {
    let title = given.trim();
    if title.is_empty() || title.chars().nth(MAX_TITLE).is_some() || title.chars().any(char::is_control) {
        let text = format!("must have 1 to {MAX_TITLE} characters, none of them a control character");
        return Err(Error::invalid("title", text));
    }
    Ok(title.to_owned())
}

fn number(field: &'static str, given: Option<i32>, default: i32, within: std::ops::RangeInclusive<i32>) -> Result<i32> {
    let value = given.unwrap_or(default);
    match within.contains(&value) {
        true => Ok(value),
        false => Err(Error::invalid(field, format!("must be between {} and {}", within.start(), within.end()))),
    }
}

/// A kind of the wire; none: unspecified.
///
/// # Errors
/// `Invalid`, naming the field, for numbers that mean nothing.
pub(super) fn kind(field: &'static str, value: i32) -> Result<Option<Kind>> {
    match TaskKind::try_from(value) {
        Ok(TaskKind::Unspecified) => Ok(None),
        Ok(TaskKind::General) => Ok(Some(Kind::General)),
        Ok(TaskKind::Code) => Ok(Some(Kind::Code)),
        Ok(TaskKind::Research) => Ok(Some(Kind::Research)),
        Ok(TaskKind::Review) => Ok(Some(Kind::Review)),
        Ok(TaskKind::Command) => Ok(Some(Kind::Command)),
        Err(_) => Err(Error::invalid(field, "is none of TASK_KIND_GENERAL, _CODE, _RESEARCH, _REVIEW and _COMMAND")),
    }
}

/// A status by its name in the database.
///
/// # Errors
/// `Invalid` for one that is none.
pub(super) fn status(value: i32) -> Result<&'static str> {
    match TaskStatus::try_from(value) {
        Ok(TaskStatus::Blocked) => Ok("blocked"),
        Ok(TaskStatus::Queued) => Ok("queued"),
        Ok(TaskStatus::Running) => Ok("running"),
        Ok(TaskStatus::Verifying) => Ok("verifying"),
        Ok(TaskStatus::Done) => Ok("done"),
        Ok(TaskStatus::Failed) => Ok("failed"),
        Ok(TaskStatus::Cancelled) => Ok("cancelled"),
        Ok(TaskStatus::Unspecified) | Err(_) => Err(Error::invalid("statuses", "holds a value that is no status")),
    }
}

fn reference(field: &'static str, given: &str, place: usize) -> Result<Reference> {
    if let Some(number) = given.strip_prefix('#') {
        return match number.parse::<usize>() {
            Ok(before) if before < place => Ok(Reference::Place(before)),
            _ => Err(Error::invalid(field, format!("{given:?} is no task before this one in the batch"))),
        };
    }
    TaskId::parse(given).map(Reference::Id).map_err(|error| Error::invalid(field, error.message))
}

/// Checks that a batch is one that a transaction takes.
///
/// # Errors
/// `Invalid`, naming the field that is too long.
pub(super) fn batch(requests: &[CreateTaskRequest]) -> Result<()> {
    if requests.is_empty() || requests.len() > MAX_BATCH {
        return Err(Error::invalid("requests", format!("must hold 1 to {MAX_BATCH} tasks")));
    }
    let links: usize = requests.iter().map(|request| request.depends_on.len()).sum();
    if links > MAX_LINKS {
        let text = format!("has {links} entries in all tasks of the batch, and at most {MAX_LINKS} fit");
        return Err(Error::invalid("depends_on", format!("{text}; send fewer tasks at a time")));
    }
    Ok(())
}

/// A task to create, the one at this place of its batch. Who it is for is looked up by the caller.
pub(super) fn new(
    request: &CreateTaskRequest,
    place: usize,
    assigned: Result<Option<Assignee>>,
    request_id: Option<idempotency::Request>,
) -> Result<New> {
    let kind = kind("kind", request.kind)?.unwrap_or(Kind::General);
    let description = match kind {
        Kind::Command => not_blank("description", &request.description, MAX_TEXT)?,
        _ => text("description", &request.description, MAX_TEXT)?,
    };
    if request.depends_on.len() > MAX_DEPENDENCIES {
        let text = format!("has {} entries, and at most {MAX_DEPENDENCIES} fit", request.depends_on.len());
        return Err(Error::invalid("depends_on", format!("{text}; let a task in between collect them")));
    }
    let (mut depends_on, mut seen) = (Vec::with_capacity(request.depends_on.len()), BTreeSet::new());
    for given in &request.depends_on {
        let other = reference("depends_on", given, place)?;
        if !seen.insert(other) {
            return Err(Error::invalid("depends_on", format!("names {given} twice")));
        }
        depends_on.push(other);
    }
    let parent = match request.parent_id.as_str() {
        "" => None,
        given => Some(reference("parent_id", given, place)?),
    };
    Ok(New {
        title: title(&request.title)?,
        description,
        kind,
        priority: number("priority", request.priority, 50, 0..=100)?,
        assigned,
        parent,
        depends_on,
        required_tools: tools(&request.required_tools)?,
        max_attempts: number("max_attempts", request.max_attempts, 3, 1..=100)?,
        verification_required: request.verification_required,
        request: request_id.map(|id| Asked { key: id.key(), digest: hex::encode(id.digest()) }),
        context: context(&request.context_id)?,
    })
}

/// The conversation that is meant; none: none in particular.
///
/// # Errors
/// `Invalid` for what is too long or has control characters.
pub(super) fn context(given: &str) -> Result<Option<String>> {
    match given {
        "" => Ok(None),
        given if given.len() > MAX_CONTEXT || given.chars().any(char::is_control) => {
            let text = format!("must have at most {MAX_CONTEXT} bytes and no control characters");
            Err(Error::invalid("context_id", text))
        }
        given => Ok(Some(given.to_owned())),
    }
}

fn tools(given: &[String]) -> Result<Vec<String>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if given.len() > MAX_TOOLS
        || given.iter().any(|tool| tool.is_empty() || tool.len() > MAX_TOOL || !tool.chars().all(plain))
    {
        let text = format!("holds at most {MAX_TOOLS} names of 1 to {MAX_TOOL} letters, digits and - _ . / :");
        return Err(Error::invalid("required_tools", text));
    }
    let mut tools = given.to_vec();
    tools.sort_unstable();
    tools.dedup();
    Ok(tools)
}

fn duration(field: &'static str, given: &prost_types::Duration) -> Result<Duration> {
    // Checked here: the conversion cannot negate the least of all numbers.
    if given.seconds < 0 || given.nanos < 0 {
        return Err(Error::invalid(field, "must not be negative"));
    }
    Duration::try_from(*given).map_err(|_| Error::invalid(field, "is out of range"))
}

/// How long a lease is to be.
pub(super) fn lease(given: Option<&prost_types::Duration>) -> Result<Duration> {
    let lease = given.map(|given| duration("lease", given)).transpose()?.unwrap_or(LEASE);
    match LEASES.contains(&lease) {
        true => Ok(lease),
        false => Err(Error::invalid("lease", "must be between 1 s and 1 h")),
    }
}

/// How long a claim waits; longer than the most is as long as that.
pub(super) fn wait(given: Option<&prost_types::Duration>) -> Result<Duration> {
    Ok(given.map(|given| duration("wait", given)).transpose()?.unwrap_or_default().min(MAX_WAIT))
}

/// How many tasks are claimed at once.
pub(super) fn most(given: Option<i32>) -> Result<usize> {
    Ok(usize::try_from(number("max_tasks", given, 1, 1..=MAX_CLAIMS)?).unwrap_or(1))
}

/// A lease that may be left out.
pub(super) fn lease_id(given: &str) -> Result<Option<LeaseId>> {
    match given {
        "" => Ok(None),
        given => LeaseId::parse(given).map(Some),
    }
}

/// What came out.
pub(super) fn work(request: &CompleteTaskRequest) -> Result<Work> {
    if request.artifacts.len() > MAX_ARTIFACTS {
        return Err(Error::invalid("artifacts", format!("holds at most {MAX_ARTIFACTS} paths")));
    }
    request.artifacts.iter().try_for_each(|path| drive_path("artifacts", path).map(drop))?;
    let mut sorted: Vec<&String> = request.artifacts.iter().collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid("artifacts", format!("names {:?} twice", pair[0])));
    }
    if request.receipt.len() > MAX_RECEIPT {
        return Err(Error::invalid("receipt", format!("has at most {MAX_RECEIPT} bytes")));
    }
    Ok(Work {
        result: not_blank("result", &request.result, MAX_TEXT)?,
        artifacts: request.artifacts.clone(),
        receipt: request.receipt.clone(),
        public_key: String::new(),
    })
}
