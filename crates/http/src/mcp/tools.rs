//! The tools: which calls of the API each makes, and what of their fields it takes and answers.
//!
//! What a field is for, and who may call what, is not here: the API says so itself.

/// What a tool does to the world, for clients that ask before some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Reads,
    /// Makes something, each time anew.
    Adds,
    /// Changes something, in a way that can be changed back.
    Changes,
    /// Takes something away, or ends it.
    Destroys,
}

/// How a tool is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By its calls, whose answers are put together.
    Calls,
    /// By its call, and then it may wait for the task to be finished.
    Task,
    ReadFile,
    WriteFile,
}

/// One tool.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// For a model that has to choose.
    pub(crate) description: &'static str,
    /// RPCs. Who may not use the first has no such tool, and of the others each is made for those who may use it.
    pub(crate) calls: &'static [&'static str],
    /// Which fields of the requests it takes, besides `office_id`; first those that are needed.
    pub(crate) takes: &'static [&'static str],
    /// How many of these are needed.
    pub(crate) needs: usize,
    pub(crate) effect: Effect,
    pub(crate) way: Way,
    /// Where the rest of what was cut is.
    pub(crate) rest: &'static str,
}

impl Spec {
    const fn new(name: &'static str, title: &'static str, effect: Effect, calls: &'static [&'static str]) -> Self {
        Self { name, title, description: "", calls, takes: &[], needs: 0, effect, way: Way::Calls, rest: LARGER }
    }

    const fn says(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    const fn takes(mut self, needs: usize, takes: &'static [&'static str]) -> Self {
        self.needs = needs;
        self.takes = takes;
        self
    }

    const fn by(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    const fn rest(mut self, rest: &'static str) -> Self {
        self.rest = rest;
        self
    }
}

/// Where more is of what a tool cut that takes `max_bytes`.
pub(crate) const LARGER: &str = "call again with a larger max_bytes";

/// Fields of answers that no model has a use for.
pub(crate) const LEFT_OUT: [&str; 10] = [
    "public_key",
    "sandbox",
    "restarts",
    "receipt",
    "receipt_public_key",
    "prev_hash",
    "hash",
    "trace_id",
    "account_id",
    "api_key_id",
];

/// Defaults of ours, where the API has none or a larger one.
pub(crate) const DEFAULTS: [(&str, &str); 1] = [("group_by", "USAGE_GROUP_AGENT")];

use Effect::{Adds, Changes, Destroys, Reads};

/// All tools, in the order in which they are listed.
pub(crate) const TOOLS: [Spec; 25] = [
    Spec::new("whoami", "Who am I", Reads, &["/mi.v1.AccessService/WhoAmI"])
        .says("Says who you are to the platform: an operator, or an agent with its name and office."),
    Spec::new("list_offices", "List offices", Reads, &["/mi.v1.OfficeService/ListOffices"])
        .says("Lists your offices with their ids. An office is an isolated workspace with its own agents, tasks, files and credits.")
        .takes(0, &["page_size", "page_token"]),
    Spec::new("create_office", "Create an office", Adds, &["/mi.v1.OfficeService/CreateOffice"])
        .says("Creates an office. It becomes OFFICE_STATUS_ACTIVE by itself; then agents can be hired into it.")
        .takes(1, &["name", "request_id"]),
    Spec::new(
        "get_office",
        "Look at an office",
        Reads,
        &["/mi.v1.OfficeService/GetOffice", "/mi.v1.OfficeService/GetOfficeStatus"],
    )
    .says("Shows an office at a glance: its status and what blocks it, agents by phase, tasks by status, drive, quotas and credits."),
    Spec::new("list_agents", "List agents", Reads, &["/mi.v1.AgentService/ListAgents"])
        .says("Lists the agents of an office by name, with phase, role and model tier.")
        .takes(0, &["page_size", "page_token"])
        .rest("get_agent has all of one agent"),
    Spec::new("get_agent", "Look at an agent", Reads, &["/mi.v1.AgentService/GetAgent"])
        .says("Shows one agent. It works when status.phase is AGENT_PHASE_RUNNING and status.observed_generation equals generation.")
        .takes(1, &["name"]),
    Spec::new("hire_agent", "Hire an agent", Adds, &["/mi.v1.AgentService/HireAgent"])
        .says("Hires an AI agent into an office; it starts by itself within seconds. list_catalogue has roles and model tiers.")
        .takes(
            1,
            &[
                "name",
                "role",
                "model_tier",
                "provider",
                "skills",
                "system_prompt",
                "command",
                "env",
                "restore_from_backup",
                "request_id",
            ],
        ),
    Spec::new("promote_agent", "Promote an agent", Changes, &["/mi.v1.AgentService/PromoteAgent"])
        .says("Moves an agent to another model tier or provider. It restarts and keeps its workspace.")
        .takes(1, &["name", "model_tier", "provider"]),
    Spec::new("fire_agent", "Fire an agent", Destroys, &["/mi.v1.AgentService/FireAgent"])
        .says("Fires an agent: its workspace is backed up and then deleted, its open tasks return to the queue.")
        .takes(1, &["name", "force"]),
    Spec::new("get_logs", "Read an agent's log", Reads, &["/mi.v1.LogService/ListLogs"])
        .says("Reads the last lines that an agent printed or said, or those of a time range, oldest first.")
        .takes(1, &["agent", "limit", "start_time", "end_time"]),
    Spec::new("list_activity", "List what happened", Reads, &["/mi.v1.ActivityService/ListActivity"])
        .says("Lists what happened in an office, newest first: hires, tasks, messages, files, credits, security.")
        .takes(0, &["agent", "categories", "start_time", "end_time", "page_size", "page_token"]),
    Spec::new(
        "list_catalogue",
        "List roles and model tiers",
        Reads,
        &["/mi.v1.AgentService/ListRoles", "/mi.v1.AgentService/ListModelTiers"],
    )
    .says("Lists the roles and the model tiers by which agents can be hired. Prices are micro-credits for a million tokens."),
    Spec::new("create_task", "Create a task", Adds, &["/mi.v1.TaskService/CreateTask"])
        .says(
            "Gives work to the agents of an office. With wait, answers when the task is finished. TASK_KIND_COMMAND runs \
             `description` as a shell script, without a model.",
        )
        .takes(
            1,
            &[
                "title",
                "description",
                "kind",
                "assigned_agent",
                "priority",
                "parent_id",
                "depends_on",
                "required_tools",
                "max_attempts",
                "verification_required",
                "request_id",
            ],
        )
        .by(Way::Task),
    Spec::new("list_tasks", "List tasks", Reads, &["/mi.v1.TaskService/ListTasks"])
        .says("Lists the tasks of an office, newest first.")
        .takes(0, &["statuses", "assigned_agent", "parent_id", "page_size", "page_token"])
        .rest("get_task has all of one task"),
    Spec::new("get_task", "Look at a task", Reads, &["/mi.v1.TaskService/GetTask"])
        .says("Shows one task with its result. With wait, answers when it is finished.")
        .takes(1, &["task_id"])
        .by(Way::Task),
    Spec::new("cancel_task", "Cancel a task", Destroys, &["/mi.v1.TaskService/CancelTask"])
        .says("Cancels a task that is not finished, and its open subtasks.")
        .takes(1, &["task_id", "reason"]),
    Spec::new("retry_task", "Retry a task", Changes, &["/mi.v1.TaskService/RetryTask"])
        .says("Puts a failed or cancelled task back into the queue, with a fresh set of attempts.")
        .takes(1, &["task_id"]),
    Spec::new("verify_task", "Judge a task", Changes, &["/mi.v1.TaskService/VerifyTask"])
        .says("Accepts the work on a TASK_STATUS_VERIFYING task, or rejects it with a note. Nobody judges work of their own.")
        .takes(1, &["task_id", "approve", "note", "attempt"]),
    Spec::new("list_files", "List files", Reads, &["/mi.v1.DriveService/ListFiles"])
        .says("Lists the files of an office's drive by path.")
        .takes(0, &["prefix", "page_size", "page_token"]),
    Spec::new("read_file", "Read a file", Reads, &["/mi.v1.DriveService/DownloadFile"])
        .says("Reads a file of the drive, or a part of it: as text, or in base64 what is no text. Goes on at next_offset.")
        .takes(1, &["path", "offset", "length"])
        .by(Way::ReadFile),
    Spec::new("write_file", "Write a file", Destroys, &["/mi.v1.DriveService/UploadFile"])
        .says("Writes a file of the drive, whole. Over an existing one give the revision that you read as if_revision, or force.")
        .takes(1, &["path", "content_type", "if_revision", "force", "request_id"])
        .by(Way::WriteFile),
    Spec::new("delete_file", "Delete a file", Destroys, &["/mi.v1.DriveService/DeleteFile"])
        .says("Deletes a file of the drive. Give the revision that you read as if_revision, or force.")
        .takes(1, &["path", "if_revision", "force"]),
    Spec::new("send_message", "Send a message", Adds, &["/mi.v1.ChatService/SendMessage"])
        .says("Sends a message to an agent, who is given a task to answer it, to `operator`, or to the office's group.")
        .takes(1, &["body", "to_agent", "request_id"]),
    Spec::new("list_messages", "Read messages", Reads, &["/mi.v1.ChatService/ListMessages"])
        .says("Reads a conversation, newest first: the office's group, or that with one agent.")
        .takes(0, &["with_agent", "limit", "before_id"]),
    Spec::new(
        "get_credits",
        "Look at credits",
        Reads,
        &["/mi.v1.CreditService/GetBalance", "/mi.v1.CreditService/GetUsage"],
    )
    .says("Shows what an office may spend and, to its owner, what was used. Amounts are micro-credits: 1000000 are one credit.")
    .takes(0, &["group_by", "start_time", "end_time"]),
];
