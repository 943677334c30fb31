//! How each resource looks in a table.

pub(crate) mod tasks;

use mi_kernel::credits;
use mi_proto::v1::{
    Account, ActivityEvent, Agent, AgentPhase, AgentStatus, ApiKey, Backup, Change, ChatMessage, File, Invite, LogLine,
    ModelTier, Office, OfficeSettings, OfficeStatus, OfficeStatusReport, Principal, Quota, Role, WatchAgentsResponse,
};

use crate::{
    output::{pairs, resource},
    text::{precise_time, size, time, word, word_if_any},
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

resource!(
    Office, "colonies", |it| {
        "ID" => it.id,
        "NAME" => it.name,
        "STATUS" => office_status(it.status()),
        "CREATED" => time(it.created_at.as_ref()),
    }
    wide { "UPDATED" => time(it.updated_at.as_ref()) }
    id { it.id }
    name { it.name }
);

/// `open_tasks 3 of 100000`, and so on.
pub(crate) fn quotas(quotas: &[Quota]) -> String {
    let amount = |name: &str, value: i64| if name.ends_with("_bytes") { size(value) } else { value.to_string() };
    let shown = |it: &Quota| format!("{} {} of {}", it.name, amount(&it.name, it.used), amount(&it.name, it.limit));
    listed(quotas.iter().map(shown), ", ", "")
}

/// The texts with a separator between them, or what is said of none.
fn listed(texts: impl Iterator<Item = String>, separator: &str, none: &str) -> String {
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { none.to_owned() } else { texts.join(separator) }
}

resource!(OfficeStatusReport, "reports", |it| {
    "STATUS" => office_status(it.status()),
    "CONDITIONS" => listed(
        it.conditions.iter().map(|it| format!("{}: {}", it.r#type, if it.ok { "ok" } else { &it.message })),
        "; ",
        "",
    ),
    "AGENTS" => listed(it.agents.iter().map(|it| format!("{} {}", it.count, phase(it.phase()))), ", ", "none"),
    "TASKS" => listed(it.tasks.iter().map(|it| format!("{} {}", it.count, tasks::status(it.status()))), ", ", "none"),
    "FILES" => match it.drive_files {
        0 => "none".to_owned(),
        count => format!("{count}, {}", size(it.drive_bytes)),
    },
    "QUOTAS" => quotas(&it.quotas),
    "CREDITS" => it.balance.as_ref().map(|it| credits::shown(it.balance)).unwrap_or_default(),
});

fn kept_for(time: Option<&prost_types::Duration>) -> String {
    match time {
        None | Some(prost_types::Duration { seconds: 0, .. }) => "0 (keep all)".to_owned(),
        Some(time) => time.to_string(),
    }
}

fn count(value: Option<i32>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

// By the names that `--set` takes.
resource!(OfficeSettings, "settings", |it| {
    "allow_agent_hiring" => it.allow_agent_hiring,
    "max_agents" => count(it.max_agents),
    "max_hire_depth" => count(it.max_hire_depth),
    "hires_per_10_minutes" => count(it.hires_per_10_minutes),
    "default_model_tier" => it.default_model_tier,
    "default_provider" => it.default_provider,
    "idle_fire_after" => it.idle_fire_after.as_ref().map(|after| format!("{}s", after.seconds)).unwrap_or_default(),
    "verification" => word_if_any(it.verification().as_str_name(), "VERIFICATION_"),
    "model_budget_per_task" => credits::shown(it.model_budget_per_task),
    "finished_task_retention" => kept_for(it.finished_task_retention.as_ref()),
    "drive_change_retention" => kept_for(it.drive_change_retention.as_ref()),
    "message_retention" => kept_for(it.message_retention.as_ref()),
    "allow_any_model" => it.allow_any_model,
});

/// What was last seen of an agent.
fn seen(agent: &Agent) -> AgentStatus {
    agent.status.clone().unwrap_or_default()
}

/// The phase, with the platform's word for why it is in it or does not get on, if it has one.
fn phase_and_word(agent: &Agent) -> String {
    let seen = seen(agent);
    let phase = phase(seen.phase());
    match reason_word(&seen.message) {
        Some(word) => format!("{phase} ({word})"),
        None => phase,
    }
}

/// The word for programs with which a reason of the platform begins.
pub(crate) fn reason_word(reason: &str) -> Option<&str> {
    let (word, _) = reason.split_once(": ")?;
    (word.contains('_') && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')).then_some(word)
}

/// A running agent that has yet to reach its newest generation says so.
fn behind(agent: &Agent) -> &'static str {
    let seen = seen(agent);
    if seen.observed_generation < agent.generation && seen.phase() == AgentPhase::Running { "*" } else { "" }
}

fn env(agent: &Agent) -> String {
    let mut env: Vec<String> = agent.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.sort();
    env.join(", ")
}

resource!(
    Agent, "agents", |it| {
        "NAME" => it.name,
        "PHASE" => phase_and_word(it) + behind(it),
        "TYPE" => word(it.employee_type().as_str_name(), "EMPLOYEE_TYPE_"),
        "MODEL" => it.model_tier,
        "PROVIDER" => it.provider,
        "ROLE" => it.role,
        "ID" => it.id,
    }
    wide {
        "READY" => seen(it).ready,
        "GENERATION" => format!("{}/{}", seen(it).observed_generation, it.generation),
        "RESTARTS" => seen(it).restarts,
        "HIRED BY" => it.hired_by,
        "LAST SEEN" => time(seen(it).last_seen_at.as_ref()),
        "CREATED" => time(it.created_at.as_ref()),
    }
    details {
        pairs! {
            "ID" => it.id,
            "NAME" => it.name,
            "PHASE" => phase(seen(it).phase()),
            "READY" => seen(it).ready,
            "MESSAGE" => seen(it).message,
            "TYPE" => word_if_any(it.employee_type().as_str_name(), "EMPLOYEE_TYPE_"),
            "MODEL" => it.model_tier,
            "PROVIDER" => it.provider,
            "ROLE" => it.role,
            "SKILLS" => it.skills.join(", "),
            "SYSTEM PROMPT" => it.system_prompt,
            "COMMAND" => it.command,
            "ENV" => env(it),
            "HIRED BY" => it.hired_by,
            "BUDGET" => it.budget.map(credits::shown).unwrap_or_default(),
            "PUBLIC KEY" => hex::encode(&it.public_key),
            "GENERATION" => format!("{} ({} observed)", it.generation, seen(it).observed_generation),
            "RESTARTS" => seen(it).restarts,
            "LAST SEEN" => time(seen(it).last_seen_at.as_ref()),
            "CREATED" => time(it.created_at.as_ref()),
        }
    }
    id { it.id }
    name { it.name }
);

/// The agent that a change is about.
fn changed(change: &WatchAgentsResponse) -> Agent {
    change.agent.clone().unwrap_or_default()
}

resource!(
    WatchAgentsResponse, "agents", |it| {
        "NAME" => format!("{:<20}", changed(it).name),
        "PHASE" => match it.deleted {
            true => format!("{:<11}", "gone"),
            false => format!("{:<11}", phase(seen(&changed(it)).phase())),
        },
        "GENERATION" => format!("{}/{}", seen(&changed(it)).observed_generation, changed(it).generation),
        "MODEL" => changed(it).model_tier,
        "MESSAGE" => seen(&changed(it)).message,
    }
    id { it.agent.as_ref()?.id }
    name { it.agent.as_ref()?.name }
);

resource!(
    Backup, "backups", |it| {
        "ID" => it.id,
        "AGENT" => it.agent,
        "SIZE" => size(it.size_bytes),
        "CREATED" => time(it.created_at.as_ref()),
        "SHA-256" => it.sha256,
    }
    id { it.id }
);

resource!(
    File, "files", |it| {
        "PATH" => it.path,
        "SIZE" => size(it.size),
        "REVISION" => it.revision,
        "MODIFIED" => time(it.modified_at.as_ref()),
        "BY" => it.modified_by,
    }
    wide { "TYPE" => it.content_type, "SHA-256" => it.sha256 }
    details { Self::COLUMNS.iter().chain(Self::WIDE).copied().zip([it.row(), it.wide()].concat()).collect() }
    id { it.path }
);

resource!(Change, "changes", |it| {
    "CURSOR" => it.cursor,
    "TIME" => precise_time(it.time.as_ref()),
    "BY" => it.agent,
    "CHANGE" => word_if_any(it.r#type().as_str_name(), "CHANGE_TYPE_"),
    "PATH" => it.path,
});

resource!(
    Role, "roles", |it| {
        "NAME" => it.name,
        "MODEL" => it.model_tier,
        "SKILLS" => it.skills.join(", "),
        "DESCRIPTION" => it.description,
    }
    id { it.name }
);

resource!(
    ModelTier, "model tiers", |it| {
        "NAME" => it.name,
        "PROVIDER" => it.provider,
        "MODEL" => it.model_id,
        "INPUT/MTOK" => credits::shown(it.input_price),
        "OUTPUT/MTOK" => credits::shown(it.output_price),
    }
    wide { "PROVIDERS" => it.providers.join(", ") }
    id { it.name }
);

resource!(LogLine, "log lines", |it| {
    "TIME" => precise_time(it.time.as_ref()),
    "STREAM" => format!("{:<6}", word_if_any(it.stream().as_str_name(), "LOG_STREAM_")),
    "TEXT" => it.text,
});

resource!(
    ActivityEvent, "events", |it| {
        "TIME" => precise_time(it.time.as_ref()),
        "TYPE" => format!("{:<18}", it.r#type),
        "AGENT" => format!("{:<12}", it.agent),
        "SUMMARY" => it.summary,
    }
    id { it.id }
);

resource!(
    ChatMessage, "messages", |it| {
        "TIME" => precise_time(it.time.as_ref()),
        "FROM" => it.from,
        "TO" => if it.to_agent.is_empty() { "the group" } else { &it.to_agent },
        "BODY" => it.body,
    }
    id { it.id }
);

resource!(
    ApiKey, "API keys", |it| {
        "ID" => it.id,
        "NAME" => it.name,
        "PREFIX" => it.prefix,
        "ACCOUNT" => it.account_id,
        "CREATED" => time(it.created_at.as_ref()),
        "REVOKED" => time(it.revoked_at.as_ref()),
    }
    id { it.id }
    name { it.name }
);

// The code is shown: whoever asked for it gives it to the agent.
resource!(
    Invite, "invites", |it| { "CODE" => it.code, "EXPIRES" => time(it.expires_at.as_ref()), "ID" => it.id }
    id { it.code }
);

resource!(
    Account, "accounts", |it| { "ID" => it.id, "NAME" => it.name, "CREATED" => time(it.created_at.as_ref()) }
    id { it.id }
    name { it.name }
);

resource!(
    Principal, "principals", |it| {
        "KIND" => word_if_any(it.kind().as_str_name(), "PRINCIPAL_KIND_"),
        "ACCOUNT" => it.account_id,
        "API KEY" => it.api_key_id,
        "COLONY" => it.office_id,
        "AGENT" => it.agent,
    }
    details { Self::COLUMNS.iter().copied().zip(it.row()).filter(|(_, value)| !value.is_empty()).collect() }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_may_begin_with_a_word_for_programs() {
        for (reason, word) in [
            ("OUT_OF_CREDITS: grant some", Some("OUT_OF_CREDITS")),
            ("BUDGET_REACHED: the budget: all of it", Some("BUDGET_REACHED")),
            ("exited with code 1: no such file", None),
            ("HTTP: what else", None),
            ("", None),
        ] {
            assert_eq!(reason_word(reason), word, "{reason}");
        }
    }
}
