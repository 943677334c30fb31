//! How each resource looks in a table.

pub(crate) mod tasks;

use mi_proto::v1::{
    Account, ActivityEvent, Agent, AgentPhase, AgentStatus, ApiKey, Backup, Change, ChangeType, ChatMessage,
    EmployeeType, File, Invite, LogLine, LogStream, ModelTier, Office, OfficeSettings, OfficeStatus,
    OfficeStatusReport, Principal, PrincipalKind, Quota, Role, Verification, WatchAgentsResponse,
};

use crate::{
    output::Resource,
    text::{precise_time, size, time, word},
};

/// `Running`, as the user documentation writes phases.
pub(crate) fn phase(phase: AgentPhase) -> String {
    let lower = word(phase.as_str_name(), "AGENT_PHASE_");
    let mut chars = lower.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

fn office_status(status: OfficeStatus) -> String {
    word(status.as_str_name(), "OFFICE_STATUS_")
}

impl Resource for Office {
    const TYPE: &'static str = "mi.v1.Office";
    const PLURAL: &'static str = "colonies";
    const COLUMNS: &'static [&'static str] = &["ID", "NAME", "STATUS", "CREATED"];
    const WIDE: &'static [&'static str] = &["UPDATED"];

    fn row(&self) -> Vec<String> {
        vec![self.id.clone(), self.name.clone(), office_status(self.status()), time(self.created_at.as_ref())]
    }

    fn wide(&self) -> Vec<String> {
        vec![time(self.updated_at.as_ref())]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

/// `open_tasks 3 of 100000`, and so on.
pub(crate) fn quotas(quotas: &[Quota]) -> String {
    let amount = |name: &str, value: i64| if name.ends_with("_bytes") { size(value) } else { value.to_string() };
    let shown = |it: &Quota| format!("{} {} of {}", it.name, amount(&it.name, it.used), amount(&it.name, it.limit));
    quotas.iter().map(shown).collect::<Vec<_>>().join(", ")
}

impl Resource for OfficeStatusReport {
    const TYPE: &'static str = "mi.v1.OfficeStatusReport";
    const PLURAL: &'static str = "reports";
    const COLUMNS: &'static [&'static str] = &["STATUS", "CONDITIONS", "AGENTS", "TASKS", "FILES", "QUOTAS"];

    fn row(&self) -> Vec<String> {
        let conditions: Vec<String> = self
            .conditions
            .iter()
            .map(|it| match it.ok {
                true => format!("{}: ok", it.r#type),
                false => format!("{}: {}", it.r#type, it.message),
            })
            .collect();
        let agents: Vec<String> = self.agents.iter().map(|it| format!("{} {}", it.count, phase(it.phase()))).collect();
        let agents = if agents.is_empty() { "none".to_owned() } else { agents.join(", ") };
        let tasks: Vec<String> = self
            .tasks
            .iter()
            .map(|it| format!("{} {}", it.count, word(it.status().as_str_name(), "TASK_STATUS_")))
            .collect();
        let tasks = if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") };
        let files = match self.drive_files {
            0 => "none".to_owned(),
            count => format!("{count}, {}", size(self.drive_bytes)),
        };
        vec![office_status(self.status()), conditions.join("; "), agents, tasks, files, quotas(&self.quotas)]
    }
}

/// A setting that the platform keeps and nothing goes by yet.
fn unheeded(value: &str) -> String {
    format!("{value} (no effect in this version)")
}

fn kept_for(time: Option<&prost_types::Duration>) -> String {
    match time {
        None | Some(prost_types::Duration { seconds: 0, .. }) => "0 (keep all)".to_owned(),
        Some(time) => time.to_string(),
    }
}

impl Resource for OfficeSettings {
    const TYPE: &'static str = "mi.v1.OfficeSettings";
    const PLURAL: &'static str = "settings";
    // By the names that `--set` takes.
    const COLUMNS: &'static [&'static str] = &[
        "allow_agent_hiring",
        "max_agents",
        "max_hire_depth",
        "hires_per_10_minutes",
        "default_model_tier",
        "default_provider",
        "idle_fire_after",
        "verification",
        "model_budget_per_task",
        "finished_task_retention",
        "drive_change_retention",
        "message_retention",
    ];

    fn row(&self) -> Vec<String> {
        let count = |value: Option<i32>| value.map(|value| value.to_string()).unwrap_or_default();
        vec![
            self.allow_agent_hiring.to_string(),
            count(self.max_agents),
            count(self.max_hire_depth),
            count(self.hires_per_10_minutes),
            self.default_model_tier.clone(),
            self.default_provider.clone(),
            self.idle_fire_after.as_ref().map(|after| unheeded(&after.to_string())).unwrap_or_default(),
            match self.verification() {
                Verification::Unspecified => String::new(),
                set => word(set.as_str_name(), "VERIFICATION_"),
            },
            unheeded(&self.model_budget_per_task.to_string()),
            kept_for(self.finished_task_retention.as_ref()),
            kept_for(self.drive_change_retention.as_ref()),
            kept_for(self.message_retention.as_ref()),
        ]
    }
}

impl Resource for Agent {
    const TYPE: &'static str = "mi.v1.Agent";
    const PLURAL: &'static str = "agents";
    const COLUMNS: &'static [&'static str] = &["NAME", "PHASE", "TYPE", "MODEL", "PROVIDER", "ROLE", "ID"];
    const WIDE: &'static [&'static str] = &["READY", "GENERATION", "RESTARTS", "HIRED BY", "LAST SEEN", "CREATED"];

    fn row(&self) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let behind = status.observed_generation < self.generation && status.phase() == AgentPhase::Running;
        vec![
            self.name.clone(),
            // A running agent that has yet to reach its newest generation says so.
            phase(status.phase()) + if behind { "*" } else { "" },
            word(self.employee_type().as_str_name(), "EMPLOYEE_TYPE_"),
            self.model_tier.clone(),
            self.provider.clone(),
            self.role.clone(),
            self.id.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let status = self.status.clone().unwrap_or_default();
        let kind = match self.employee_type() {
            EmployeeType::Unspecified => String::new(),
            kind => word(kind.as_str_name(), "EMPLOYEE_TYPE_"),
        };
        let mut env: Vec<String> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        env.sort();
        let mut details = vec![
            ("ID", self.id.clone()),
            ("NAME", self.name.clone()),
            ("PHASE", phase(status.phase())),
            ("READY", status.ready.to_string()),
            ("MESSAGE", status.message),
            ("TYPE", kind),
            ("MODEL", self.model_tier.clone()),
            ("PROVIDER", self.provider.clone()),
            ("ROLE", self.role.clone()),
            ("SKILLS", self.skills.join(", ")),
            ("SYSTEM PROMPT", self.system_prompt.clone()),
            ("ENV", env.join(", ")),
            ("HIRED BY", self.hired_by.clone()),
            ("PUBLIC KEY", hex::encode(&self.public_key)),
            ("GENERATION", format!("{} ({} observed)", self.generation, status.observed_generation)),
            ("RESTARTS", status.restarts.to_string()),
            ("LAST SEEN", time(status.last_seen_at.as_ref())),
            ("CREATED", time(self.created_at.as_ref())),
        ];
        details.retain(|(_, value)| !value.is_empty());
        details
    }

    fn wide(&self) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        vec![
            status.ready.to_string(),
            format!("{}/{}", status.observed_generation, self.generation),
            status.restarts.to_string(),
            self.hired_by.clone(),
            time(status.last_seen_at.as_ref()),
            time(self.created_at.as_ref()),
        ]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Resource for WatchAgentsResponse {
    const TYPE: &'static str = "mi.v1.WatchAgentsResponse";
    const PLURAL: &'static str = "agents";
    const COLUMNS: &'static [&'static str] = &["NAME", "PHASE", "GENERATION", "MODEL", "MESSAGE"];

    fn row(&self) -> Vec<String> {
        let agent = self.agent.clone().unwrap_or_default();
        let AgentStatus { phase: _, ref message, observed_generation, .. } = agent.status.clone().unwrap_or_default();
        let shown = match self.deleted {
            true => "gone".to_owned(),
            false => phase(agent.status.as_ref().map(AgentStatus::phase).unwrap_or_default()),
        };
        vec![
            format!("{:<20}", agent.name),
            format!("{shown:<11}"),
            format!("{observed_generation}/{}", agent.generation),
            agent.model_tier.clone(),
            message.clone(),
        ]
    }

    fn id(&self) -> Option<&str> {
        self.agent.as_ref().map(|agent| agent.id.as_str())
    }

    fn name(&self) -> Option<&str> {
        self.agent.as_ref().map(|agent| agent.name.as_str())
    }
}

impl Resource for Backup {
    const TYPE: &'static str = "mi.v1.Backup";
    const PLURAL: &'static str = "backups";
    const COLUMNS: &'static [&'static str] = &["ID", "AGENT", "SIZE", "CREATED", "SHA-256"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.agent.clone(),
            size(self.size_bytes),
            time(self.created_at.as_ref()),
            self.sha256.clone(),
        ]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Resource for File {
    const TYPE: &'static str = "mi.v1.File";
    const PLURAL: &'static str = "files";
    const COLUMNS: &'static [&'static str] = &["PATH", "SIZE", "REVISION", "MODIFIED", "BY"];
    const WIDE: &'static [&'static str] = &["TYPE", "SHA-256"];

    fn row(&self) -> Vec<String> {
        vec![
            self.path.clone(),
            size(self.size),
            self.revision.to_string(),
            time(self.modified_at.as_ref()),
            self.modified_by.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let (columns, cells) = (Self::COLUMNS.iter().chain(Self::WIDE), self.row().into_iter().chain(self.wide()));
        columns.copied().zip(cells).collect()
    }

    fn wide(&self) -> Vec<String> {
        vec![self.content_type.clone(), self.sha256.clone()]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.path)
    }
}

impl Resource for Change {
    const TYPE: &'static str = "mi.v1.Change";
    const PLURAL: &'static str = "changes";
    const COLUMNS: &'static [&'static str] = &["CURSOR", "TIME", "BY", "CHANGE", "PATH"];

    fn row(&self) -> Vec<String> {
        let kind = match self.r#type() {
            ChangeType::Unspecified => String::new(),
            kind => word(kind.as_str_name(), "CHANGE_TYPE_"),
        };
        vec![self.cursor.to_string(), precise_time(self.time.as_ref()), self.agent.clone(), kind, self.path.clone()]
    }
}

impl Resource for Role {
    const TYPE: &'static str = "mi.v1.Role";
    const PLURAL: &'static str = "roles";
    const COLUMNS: &'static [&'static str] = &["NAME", "MODEL", "SKILLS", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), self.model_tier.clone(), self.skills.join(", "), self.description.clone()]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Resource for ModelTier {
    const TYPE: &'static str = "mi.v1.ModelTier";
    const PLURAL: &'static str = "model tiers";
    const COLUMNS: &'static [&'static str] = &["NAME", "PROVIDER", "MODEL", "INPUT/MTOK", "OUTPUT/MTOK"];

    fn row(&self) -> Vec<String> {
        let credits = |micro: i64| format!("{}.{:02}", micro / 1_000_000, micro % 1_000_000 / 10_000);
        vec![
            self.name.clone(),
            self.provider.clone(),
            self.model_id.clone(),
            credits(self.input_price),
            credits(self.output_price),
        ]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Resource for LogLine {
    const TYPE: &'static str = "mi.v1.LogLine";
    const PLURAL: &'static str = "log lines";
    const COLUMNS: &'static [&'static str] = &["TIME", "STREAM", "TEXT"];

    fn row(&self) -> Vec<String> {
        let stream = match self.stream() {
            LogStream::Unspecified => String::new(),
            stream => word(stream.as_str_name(), "LOG_STREAM_"),
        };
        vec![precise_time(self.time.as_ref()), format!("{stream:<6}"), self.text.clone()]
    }
}

impl Resource for ActivityEvent {
    const TYPE: &'static str = "mi.v1.ActivityEvent";
    const PLURAL: &'static str = "events";
    const COLUMNS: &'static [&'static str] = &["TIME", "TYPE", "AGENT", "SUMMARY"];

    fn row(&self) -> Vec<String> {
        vec![
            precise_time(self.time.as_ref()),
            format!("{:<18}", self.r#type),
            format!("{:<12}", self.agent),
            self.summary.clone(),
        ]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Resource for ChatMessage {
    const TYPE: &'static str = "mi.v1.ChatMessage";
    const PLURAL: &'static str = "messages";
    const COLUMNS: &'static [&'static str] = &["TIME", "FROM", "TO", "BODY"];

    fn row(&self) -> Vec<String> {
        let to = if self.to_agent.is_empty() { "the group" } else { &self.to_agent };
        vec![precise_time(self.time.as_ref()), self.from.clone(), to.to_owned(), self.body.clone()]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Resource for ApiKey {
    const TYPE: &'static str = "mi.v1.ApiKey";
    const PLURAL: &'static str = "API keys";
    const COLUMNS: &'static [&'static str] = &["ID", "NAME", "PREFIX", "ACCOUNT", "CREATED", "REVOKED"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.prefix.clone(),
            self.account_id.clone(),
            time(self.created_at.as_ref()),
            time(self.revoked_at.as_ref()),
        ]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

// The code is shown: whoever asked for it gives it to the agent.
impl Resource for Invite {
    const TYPE: &'static str = "mi.v1.Invite";
    const PLURAL: &'static str = "invites";
    const COLUMNS: &'static [&'static str] = &["CODE", "EXPIRES", "ID"];

    fn row(&self) -> Vec<String> {
        vec![self.code.clone(), time(self.expires_at.as_ref()), self.id.clone()]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.code)
    }
}

impl Resource for Account {
    const TYPE: &'static str = "mi.v1.Account";
    const PLURAL: &'static str = "accounts";
    const COLUMNS: &'static [&'static str] = &["ID", "NAME", "CREATED"];

    fn row(&self) -> Vec<String> {
        vec![self.id.clone(), self.name.clone(), time(self.created_at.as_ref())]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Resource for Principal {
    const TYPE: &'static str = "mi.v1.Principal";
    const PLURAL: &'static str = "principals";
    const COLUMNS: &'static [&'static str] = &["KIND", "ACCOUNT", "API KEY", "COLONY", "AGENT"];

    fn row(&self) -> Vec<String> {
        let kind = match self.kind() {
            PrincipalKind::Unspecified => String::new(),
            kind => word(kind.as_str_name(), "PRINCIPAL_KIND_"),
        };
        vec![kind, self.account_id.clone(), self.api_key_id.clone(), self.office_id.clone(), self.agent.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut details: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        details.retain(|(_, value)| !value.is_empty());
        details
    }
}
