//! One line for each RPC: a request that the platform would take from whoever may call it.

use std::collections::BTreeSet;

use mi_proto::{
    rules::{self, MethodRule, POOL},
    v1::Caller,
};
use prost_reflect::{DynamicMessage, MessageDescriptor};

use super::harness::Place;

/// What a call that is let in uses up: each such call gets one of its own.
#[derive(Clone, Copy)]
pub(super) enum Spends {
    Nothing,
    Office,
    Agent,
    Backup,
}

/// A request to one RPC of `mi.v1`.
pub(super) struct Case {
    rpc: &'static str,
    /// JSON, in which `{office}`, `{agent}`, `{backup}`, `{account}` and `{key}` stand for what the caller is after.
    request: &'static str,
    pub(super) spends: Spends,
}

const fn case(rpc: &'static str, request: &'static str) -> Case {
    Case { rpc, request, spends: Spends::Nothing }
}

impl Case {
    const fn spends(self, spends: Spends) -> Self {
        Self { spends, ..self }
    }
}

/// Streams among them answer with a first message at once. What is harmless is done in earnest; the rest gets as far as
/// a mistake that is noticed only after the caller was let in, such as a name that is taken.
const CASES: &[Case] = &[
    case("AccessService/CreateAccount", r#"{"name": "another"}"#),
    case("AccessService/CreateApiKey", r#"{"account_id": "{account}", "name": "another"}"#),
    case("AccessService/CreateInvite", r#"{"office_id": "{office}"}"#),
    case(
        "AccessService/EnrolAgent",
        r#"{"office_id": "{office}", "token": "guess", "public_key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}"#,
    ),
    case("AccessService/Heartbeat", r#"{"office_id": "{office}"}"#),
    case(
        "AccessService/JoinOffice",
        r#"{"code": "AAAAAA", "name": "joiner", "public_key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}"#,
    ),
    case("AccessService/ListAccounts", "{}"),
    case("AccessService/ListApiKeys", r#"{"account_id": "{account}"}"#),
    case("AccessService/RotateMasterKey", "{}"),
    case("AccessService/RevokeApiKey", r#"{"api_key_id": "{key}"}"#),
    case("AccessService/WhoAmI", "{}"),
    case("ActivityService/GetActivityHead", r#"{"office_id": "{office}"}"#),
    case("ActivityService/ListActivity", r#"{"office_id": "{office}"}"#),
    case("ActivityService/WatchActivity", r#"{"office_id": "{office}", "after_cursor": 0}"#),
    case(
        "AgentService/ConnectAgent",
        r#"{"office_id": "{office}", "instance_id": "00000000-0000-0000-0000-000000000007"}"#,
    ),
    case("AgentService/DeleteBackup", r#"{"office_id": "{office}", "backup_id": "{backup}"}"#).spends(Spends::Backup),
    case("AgentService/DownloadBackup", r#"{"office_id": "{office}", "backup_id": "{backup}"}"#),
    case("AgentService/ExecAgent", r#"{"start": {"office_id": "{office}", "name": "{agent}", "command": []}}"#),
    case("AgentService/FireAgent", r#"{"office_id": "{office}", "name": "{agent}"}"#).spends(Spends::Agent),
    case("AgentService/GetAgent", r#"{"office_id": "{office}", "name": "{agent}"}"#),
    case("AgentService/HireAgent", r#"{"office_id": "{office}", "name": "{agent}"}"#),
    case("AgentService/ListAgents", r#"{"office_id": "{office}"}"#),
    case("AgentService/ListBackups", r#"{"office_id": "{office}"}"#),
    case("AgentService/ListModelTiers", "{}"),
    case("AgentService/ListRoles", "{}"),
    case("AgentService/LoadWorkspace", r#"{"office_id": "{office}", "name": "{agent}"}"#),
    case("AgentService/PromoteAgent", r#"{"office_id": "{office}", "name": "{agent}", "model_tier": "nonsense"}"#),
    case("AgentService/RestartAgent", r#"{"office_id": "{office}", "name": "{agent}"}"#),
    case("AgentService/RotateAgentIdentity", r#"{"office_id": "{office}", "name": "{agent}"}"#).spends(Spends::Agent),
    case(
        "AgentService/SaveWorkspace",
        r#"{"header": {"office_id": "{office}", "agent_id": "00000000-0000-7000-8000-000000000007", "token": "guess"}}"#,
    ),
    case(
        "AgentService/ServeExec",
        r#"{"take": {"office_id": "{office}", "exec_id": "00000000-0000-7000-8000-000000000007"}}"#,
    ),
    case("AgentService/StartAgent", r#"{"office_id": "{office}", "name": "{agent}"}"#),
    case("AgentService/StopAgent", r#"{"office_id": "{office}", "name": "{agent}"}"#),
    case("AgentService/UpdateAgent", r#"{"office_id": "{office}", "name": "{agent}", "update_mask": "nonsense"}"#),
    case("AgentService/WatchAgents", r#"{"office_id": "{office}"}"#),
    case("ChatService/ListMessages", r#"{"office_id": "{office}"}"#),
    case("ChatService/SendMessage", r#"{"office_id": "{office}", "body": " "}"#),
    case("ChatService/WatchMessages", r#"{"office_id": "{office}", "after_id": "nonsense"}"#),
    case("DriveService/DeleteFile", r#"{"office_id": "{office}", "path": "nothing", "force": true}"#),
    case("DriveService/DownloadFile", r#"{"office_id": "{office}", "path": "nothing"}"#),
    case("DriveService/ListChanges", r#"{"office_id": "{office}"}"#),
    case("DriveService/ListFiles", r#"{"office_id": "{office}"}"#),
    case("DriveService/StatFile", r#"{"office_id": "{office}", "path": "nothing"}"#),
    case("DriveService/UploadFile", r#"{"header": {"office_id": "{office}", "path": "../nothing"}}"#),
    case("DriveService/WatchChanges", r#"{"office_id": "{office}", "after_cursor": -1}"#),
    case("CreditService/GetBalance", r#"{"office_id": "{office}"}"#),
    case("CreditService/GetUsage", r#"{"office_id": "{office}", "group_by": "USAGE_GROUP_AGENT"}"#),
    case("CreditService/GrantCredits", r#"{"office_id": "{office}", "amount": 1, "reason": "a test"}"#),
    case("CreditService/ListLedgerEntries", r#"{"office_id": "{office}"}"#),
    case("CreditService/SetAgentBudget", r#"{"office_id": "{office}", "agent": "{agent}", "amount": 1000000000000}"#),
    case(
        "IntegrationService/DeleteIntegrationSecret",
        r#"{"office_id": "{office}", "integration": "github", "name": "token"}"#,
    ),
    case("IntegrationService/ListAgentIntegrations", r#"{"office_id": "{office}", "agent": "{agent}"}"#),
    case("IntegrationService/ListIntegrations", r#"{"office_id": "{office}"}"#),
    case(
        "IntegrationService/SetAgentIntegration",
        r#"{"office_id": "{office}", "agent": "{agent}", "integration": "github", "enabled": false}"#,
    ),
    case(
        "IntegrationService/SetIntegrationSecret",
        r#"{"office_id": "{office}", "integration": "github", "name": "nonsense", "value": "x"}"#,
    ),
    case(
        "LogService/AppendLogs",
        r#"{"office_id": "{office}", "source": "matrix", "first_index": 1,
            "lines": [{"stream": "LOG_STREAM_AGENT", "text": "a line"}]}"#,
    ),
    case("LogService/ListLogs", r#"{"office_id": "{office}", "agent": "{agent}"}"#),
    case("LogService/TailLogs", r#"{"office_id": "{office}", "agent": "{agent}"}"#),
    case("OfficeService/CreateOffice", r#"{"name": "Another"}"#),
    case("OfficeService/DeleteOffice", r#"{"office_id": "{office}"}"#).spends(Spends::Office),
    case("OfficeService/GetOffice", r#"{"office_id": "{office}"}"#),
    case("OfficeService/GetOfficeSettings", r#"{"office_id": "{office}"}"#),
    case("OfficeService/GetOfficeStatus", r#"{"office_id": "{office}"}"#),
    case("OfficeService/ListOffices", "{}"),
    case("OfficeService/ResumeOffice", r#"{"office_id": "{office}"}"#),
    case("OfficeService/SuspendOffice", r#"{"office_id": "{office}"}"#).spends(Spends::Office),
    case("OfficeService/VerifyOffice", r#"{"office_id": "{office}"}"#),
    case(
        "OfficeService/UpdateOfficeSettings",
        r#"{"office_id": "{office}", "settings": {"max_agents": 40}, "update_mask": "maxAgents"}"#,
    ),
    case(
        "TaskService/AddTaskNote",
        r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007", "body": "a note"}"#,
    ),
    case("TaskService/BatchCompleteTasks", r#"{"office_id": "{office}"}"#),
    case("TaskService/BatchCreateTasks", r#"{"office_id": "{office}"}"#),
    case("TaskService/CancelTask", r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007"}"#),
    case("TaskService/ClaimTasks", r#"{"office_id": "{office}"}"#),
    case(
        "TaskService/CompleteTask",
        r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007", "lease_id": "00000000-0000-7000-8000-000000000007"}"#,
    ),
    case("TaskService/CreateTask", r#"{"office_id": "{office}", "title": " "}"#),
    case(
        "TaskService/FailTask",
        r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007", "lease_id": "00000000-0000-7000-8000-000000000007"}"#,
    ),
    case("TaskService/GetTask", r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007"}"#),
    case("TaskService/GetTaskStats", r#"{"office_id": "{office}"}"#),
    case(
        "TaskService/ListTaskNotes",
        r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007"}"#,
    ),
    case("TaskService/ListTasks", r#"{"office_id": "{office}"}"#),
    case(
        "TaskService/ReleaseTask",
        r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007", "lease_id": "00000000-0000-7000-8000-000000000007"}"#,
    ),
    case(
        "TaskService/RenewLease",
        r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007", "lease_id": "00000000-0000-7000-8000-000000000007"}"#,
    ),
    case("TaskService/RetryTask", r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007"}"#),
    case("TaskService/AssignTask", r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007"}"#),
    case(
        "TaskService/VerifyTask",
        r#"{"office_id": "{office}", "task_id": "00000000-0000-7000-8000-000000000007", "approve": true}"#,
    ),
    case("TaskService/WatchTasks", r#"{"office_id": "{office}", "after_cursor": -1}"#),
    case("TaskService/WorkTasks", r#"{"start": {"office_id": "{office}", "max_tasks": 0}}"#),
];

/// Nobody from outside gets as far as an internal RPC, whatever is sent.
const INTERNAL: Case = case("", "{}");

/// An RPC with the request that it is called with.
pub(super) struct Row {
    pub(super) rule: &'static MethodRule,
    pub(super) case: &'static Case,
    input: MessageDescriptor,
}

impl Row {
    /// Whether the rule lists one of these kinds of caller.
    pub(super) fn lists(&self, kinds: &[Caller]) -> bool {
        kinds.iter().any(|kind| self.rule.callers.contains(kind))
    }

    /// Whether the request names a certain agent. If not, an RPC of agents concerns the one that calls.
    pub(super) fn names_agent(&self) -> bool {
        self.case.request.contains("{agent}")
    }

    /// What the request is about and that may be somebody else's; none: it is about nothing of anybody.
    pub(super) fn subject(&self) -> Option<&'static str> {
        let subjects = [("{office}", "office"), ("{account}", "account"), ("{key}", "api_key")];
        let named = |&&(placeholder, _): &&(&str, _)| self.case.request.contains(placeholder);
        subjects.iter().find(named).map(|(_, kind)| *kind)
    }

    /// The request, about what is in this place.
    pub(super) fn request(&self, place: &Place) -> DynamicMessage {
        let json = place.fill(self.case.request);
        let mut reader = serde_json::Deserializer::from_str(&json);
        DynamicMessage::deserialize(self.input.clone(), &mut reader)
            .unwrap_or_else(|error| panic!("the case of {} does not fit its request: {error}", self.rule.path))
    }
}

/// Every RPC of the descriptor set, by path.
///
/// # Panics
/// When one has no case or lists no caller, and when a case is of no RPC.
pub(super) fn rows() -> Vec<Row> {
    let methods = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut known = BTreeSet::new();
    let mut missing = Vec::new();
    let mut rows = Vec::new();
    for method in methods {
        let rule = rules::rule(&format!("/{}/{}", method.parent_service().full_name(), method.name()));
        let rule = rule.expect("rules are made of the same descriptors");
        assert!(!rule.callers.is_empty(), "{} lists no caller in its access rule", rule.path);
        let case = match rule.path.strip_prefix("/mi.v1.") {
            Some(rpc) => CASES.iter().find(|case| case.rpc == rpc),
            None => Some(&INTERNAL),
        };
        let Some(case) = case else {
            missing.push(rule.path);
            continue;
        };
        known.insert(case.rpc);
        let row = Row { rule, case, input: method.input() };
        let of_offices = row.lists(&[Caller::Owner, Caller::Member, Caller::Self_, Caller::Ancestor]);
        assert!(!of_offices || row.subject() == Some("office"), "the case of {} must name an office", rule.path);
        row.request(&Place::nowhere());
        rows.push(row);
    }
    assert!(missing.is_empty(), "no case in matrix/cases.rs for {missing:?}: each RPC needs one line there");
    let stale: Vec<_> = CASES.iter().map(|case| case.rpc).filter(|rpc| !known.contains(rpc)).collect();
    assert!(stale.is_empty(), "matrix/cases.rs has cases of RPCs that do not exist: {stale:?}");
    rows.sort_by_key(|row| row.rule.path);
    rows
}

#[test]
fn every_rpc_has_a_case_and_a_rule() {
    let rows = rows();
    assert_eq!(rows.len(), rules::all().count());
}
