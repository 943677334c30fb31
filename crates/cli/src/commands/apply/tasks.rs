//! The tasks of a file.

use std::collections::BTreeMap;

use mi_client::{ClientError, retry};
use mi_kernel::receipt::sha256_hex;
use mi_proto::v1::{CreateTaskRequest, ListTasksRequest, Task, TaskStatus};
use prost_types::Timestamp;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt;

use super::{Action, Report, Work, file};
use crate::{
    answer::{ask, resource},
    commands::{
        run::report::Ran,
        tasks::{finish, get},
    },
    failure::Failure,
    rows,
};

/// How much of a result the table shows, in characters.
const RESULT_SHOWN: usize = 100;

/// A task that was waited for.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) key: String,
    pub(super) task: Task,
}

impl Work<'_> {
    /// Creates the tasks that are not there; answers those of the file in its order, none in a dry run.
    pub(super) async fn tasks(&self, office_id: Option<&str>, report: &mut Report) -> Result<Vec<Task>, Failure> {
        let tasks = &self.file.tasks;
        let keys = self.file.keys().map_err(|problem| problem.told("the file"))?;
        let order = self.file.orders().map_err(|problem| problem.told("the file"))?.creation;
        let office_id = match office_id {
            Some(office_id) if !self.is_dry => office_id,
            known => {
                let action = if known.is_some() { Action::ToCreateUnlessThere } else { Action::ToCreate };
                order.iter().for_each(|index| report.add("task", &tasks[*index].key.value, action, ""));
                return Ok(Vec::new());
            }
        };
        let newest = self.newest(office_id).await?;
        let mut created: BTreeMap<usize, Task> = BTreeMap::new();
        for index in order {
            let task = &tasks[index];
            let id = |key: &str| created[&keys[key]].id.clone();
            let request = request(office_id, &self.file.run, task, id);
            let answered = self.create_task(&request, &task.key.value).await?;
            let is_new = moment(answered.created_at.as_ref()) > newest;
            let action = if is_new { Action::Created } else { Action::Unchanged };
            report.add("task", &task.key.value, action, &answered.id);
            created.insert(index, answered);
        }
        Ok(created.into_values().collect())
    }

    /// When the colony's newest task was created: what is newer was created by this command.
    async fn newest(&self, office_id: &str) -> Result<Option<(i64, i32)>, Failure> {
        let request =
            ListTasksRequest { office_id: office_id.to_owned(), page_size: Some(1), ..ListTasksRequest::default() };
        Ok(ask!(self.context, tasks.list_tasks(request))
            .await?
            .tasks
            .first()
            .and_then(|task| moment(task.created_at.as_ref())))
    }

    async fn create_task(&self, request: &CreateTaskRequest, key: &str) -> Result<Task, Failure> {
        let answer = retry(async || self.context.client.tasks().create_task(request.clone()).await).await;
        let refused = |status: Status| {
            let failure = Failure::new(format!("task {key:?}: {}", ClientError::from(status.clone())));
            match is_reused(&status) {
                true => Failure::new(format!("task {key:?} was created before and says something else now"))
                    .hint("tasks are not changed: give the file another `run:` to create them all anew"),
                false => failure,
            }
        };
        resource(answer.map_err(refused)?, |answer| answer.task)
    }

    /// Waits until each task is finished or can never start, or the time is up; answers how many were not done.
    pub(super) async fn finish(
        &self,
        office_id: &str,
        tasks: Vec<Task>,
        end: Option<Instant>,
        report: &mut Report,
    ) -> Result<usize, Failure> {
        let given = &self.file.tasks;
        let keys = self.file.keys().map_err(|problem| problem.told("the file"))?;
        let order = self.file.orders().map_err(|problem| problem.told("the file"))?.completion;
        let mut ended: BTreeMap<usize, Task> = BTreeMap::new();
        for index in order {
            let status = |key: &str| ended[&keys[key]].status();
            let waits = given[index].depends_on.iter().any(|key| status(&key.value) != TaskStatus::Done);
            let key = &given[index].key.value;
            let parts = given.iter().filter(|it| it.parent.as_ref().is_some_and(|parent| parent.value == *key));
            let is_open = parts.into_iter().any(|part| !finish::is_finished(status(&part.key.value)));
            // Nothing that this waits for will change that.
            let is_stuck = waits || is_open;
            let finished = match is_stuck {
                true => None,
                false => finish::finished_by(self.context, office_id, &tasks[index], end).await?,
            };
            let task = match finished {
                Some(task) => task,
                None => get(self.context, office_id, &tasks[index].id).await?,
            };
            report.is_late |= !is_stuck && !finish::is_finished(task.status());
            ended.insert(index, task);
        }
        let undone = ended.values().filter(|task| task.status() != TaskStatus::Done).count();
        let named = ended.into_iter().map(|(index, task)| Finished { key: given[index].key.value.clone(), task });
        report.finished.extend(named);
        Ok(undone)
    }
}

/// Whether the platform remembers another task by this request id.
fn is_reused(status: &Status) -> bool {
    let violations = status.get_details_bad_request().map(|it| it.field_violations).unwrap_or_default();
    violations.iter().any(|violation| violation.field == "request_id")
}

fn moment(time: Option<&Timestamp>) -> Option<(i64, i32)> {
    time.map(|time| (time.seconds, time.nanos))
}

/// The call that creates the task once: its request id follows from the office, the run and the key.
fn request(office_id: &str, run: &str, task: &file::Task, id: impl Fn(&str) -> String) -> CreateTaskRequest {
    let key = &task.key.value;
    CreateTaskRequest {
        office_id: office_id.to_owned(),
        title: task.title.clone().unwrap_or_else(|| key.clone()),
        description: task.description.clone(),
        kind: task.kind as i32,
        priority: task.priority,
        assigned_agent: task.agent.clone(),
        parent_id: task.parent.as_ref().map(|parent| id(&parent.value)).unwrap_or_default(),
        depends_on: task.depends_on.iter().map(|key| id(&key.value)).collect(),
        required_tools: task.required_tools.clone(),
        max_attempts: task.max_attempts,
        verification_required: task.verification_required,
        // Lengths keep the parts apart.
        request_id: sha256_hex(format!("{office_id}/{}/{run}/{key}", run.len()).as_bytes()),
        ..CreateTaskRequest::default()
    }
}

impl Finished {
    pub(super) fn row(&self) -> Vec<String> {
        let task = &self.task;
        let attempt = format!("{}/{}", task.attempt, task.max_attempts);
        vec![self.key.clone(), rows::tasks::status(task.status()), task.worker.clone(), attempt, self.summary()]
    }

    /// The last line that a command printed; else the first line of the result, or of why there is none.
    fn summary(&self) -> String {
        let task = &self.task;
        let text = match task.status() {
            TaskStatus::Done => &task.result,
            _ if task.error.is_empty() => &task.blocked_reason,
            _ => &task.error,
        };
        let is_said = |line: &&str| !line.trim().is_empty();
        let line = match Ran::read(text) {
            Some(ran) => {
                let printed = if ran.exit_code == 0 { ran.stdout } else { ran.stderr };
                printed.text.lines().rfind(is_said).or(text.lines().next())
            }
            None => text.lines().find(is_said),
        };
        line.unwrap_or_default().chars().take(RESULT_SHOWN).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mi_proto::v1::TaskKind;

    use super::*;

    #[test]
    fn a_task_is_created_once_for_each_office_run_and_key() {
        let text = "office: {name: x}\ntasks:\n  - {key: a}\n  - {key: b, kind: command, description: make, agent: w, \
                    parent: a, depends_on: [a], priority: 0, max_attempts: 1, required_tools: [git], title: B}\n";
        // Its parts are looked at alone: the whole would never be done.
        let file: file::File = serde_saphyr::from_str(text).expect("YAML");
        let sent = |office: &str, run: &str, index: usize| {
            request(office, run, &file.tasks[index], |key| format!("id of {key}"))
        };
        let expect = CreateTaskRequest {
            office_id: "o".into(),
            title: "B".into(),
            description: "make".into(),
            kind: TaskKind::Command.into(),
            priority: Some(0),
            assigned_agent: "w".into(),
            parent_id: "id of a".into(),
            depends_on: vec!["id of a".into()],
            required_tools: vec!["git".into()],
            max_attempts: Some(1),
            verification_required: false,
            request_id: sent("o", "1", 1).request_id,
            context_id: String::new(),
        };
        assert_eq!(sent("o", "1", 1), expect);
        assert_eq!(sent("o", "1", 0).title, "a");
        let ids = [("o", "1", 0), ("o", "1", 1), ("o", "2", 0), ("p", "1", 0), ("o", "1/1", 0)]
            .map(|(office, run, index)| sent(office, run, index).request_id);
        assert_eq!(BTreeSet::from(ids.clone()).len(), 5, "{ids:?}");
    }

    #[test]
    fn a_result_is_summed_up_in_a_line() {
        let summary = |status: TaskStatus, result: &str, error: &str| {
            let (result, error, blocked_reason) = (result.into(), error.into(), "waits".into());
            let task = Task { status: status.into(), result, error, blocked_reason, ..Task::default() };
            Finished { key: String::new(), task }.summary()
        };
        assert_eq!(summary(TaskStatus::Done, "exit code: 0\n--- stdout\na\nb\n\n--- stderr\nc\n", ""), "b");
        assert_eq!(summary(TaskStatus::Done, "exit code: 0\n", ""), "exit code: 0");
        assert_eq!(summary(TaskStatus::Done, "\nAll is well.\nMore", "before"), "All is well.");
        assert_eq!(summary(TaskStatus::Failed, "", "exit code: 2\n--- stdout\na\n--- stderr\nno\n"), "no");
        assert_eq!(summary(TaskStatus::Blocked, "", ""), "waits");
        assert_eq!(summary(TaskStatus::Failed, "", &"x".repeat(200)), "x".repeat(100));
    }
}
