//! Agents, which that product calls employees.

use mi_kernel::Error;
use mi_rpc::status;
use serde_json::{Value, json};
use tonic::Status;

use super::{
    Reply, answer,
    ask::Ask,
    fields::{Fields, parted, time},
    integrations,
    list::{self, Window},
    shape::{Both, entries, hex, phase, text},
};

/// Most lines of a log in one answer.
const MOST_LINES: usize = 10_000;
/// Lines without a number.
const LINES: usize = 100;
/// Most integrations that a hire may name.
const MOST_INTEGRATIONS: usize = 64;
/// How many events are searched for an agent's last failure.
const LOOK_BACK: usize = 200;

pub(super) async fn list(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    let request = json!({"office_id": ask.office()});
    let page = list::walk(&ask, "AgentService/ListAgents", request, "agents", window, list::any).await?;
    Ok(answer::list(page.entries.iter().map(shown).collect(), page.total))
}

/// Hires. What that client does after it, to enable a provider and promote to it, finds it done when the hire named one.
pub(super) async fn hire(mut ask: Ask) -> Reply {
    let office = ask.office().to_owned();
    let (hired, body) = ask.send("AgentService/HireAgent", move |body| hiring(&office, body)).await?;
    let name = text(&hired["agent"]["name"]).to_owned();
    let wanted = toggles(&body).map_err(status)?;
    for (integration, enabled) in &wanted {
        integrations::set(&ask, integration, &name, *enabled).await?;
    }
    if wanted.is_empty() {
        return Ok(answer::found(&shown(&hired["agent"])));
    }
    Ok(answer::found(&shown(&find(&ask, &name).await?)))
}

fn hiring(office: &str, body: &Fields) -> Result<Value, Error> {
    toggles(body)?;
    Ok(json!({
        "office_id": office,
        "name": body.text("name")?,
        "role": body.text("role")?,
        "model_tier": body.text("modelTier")?,
        "provider": body.text("provider")?,
        "skills": body.texts("skills")?,
        "system_prompt": body.text("systemPrompt")?,
        "env": body.map("env")?,
        "restore_from_backup": body.id("restoreFromBackup")?,
    }))
}

/// Which integrations a hire turns on and off.
fn toggles(body: &Fields) -> Result<Vec<(String, bool)>, Error> {
    let wrong = || Error::invalid("integrations", "must be an object of integrations and true or false, at most 64");
    match body.get("integrations") {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) if map.len() <= MOST_INTEGRATIONS => {
            let entry = |(name, flag): (&String, &Value)| Some((name.clone(), flag.as_bool()?));
            map.iter().map(|pair| entry(pair).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// An agent of the office.
async fn find(ask: &Ask, name: &str) -> Result<Value, Status> {
    Ok(ask.call("AgentService/GetAgent", json!({"office_id": ask.office(), "name": name})).await?["agent"].take())
}

pub(super) async fn get(ask: Ask) -> Reply {
    Ok(answer::found(&shown(&find(&ask, ask.part(1)).await?)))
}

pub(super) async fn update(mut ask: Ask) -> Reply {
    let mut agent = find(&ask, ask.part(1)).await?;
    let body = ask.fields().await?;
    if body.get("role").is_some_and(|role| *role != agent["role"]) {
        return Err(status(Error::invalid("role", "stays as it was hired; fire the agent and hire another")));
    }
    let (mut wanted, mut mask) = (json!({}), Vec::new());
    for (name, ours) in [("skills", "skills"), ("systemPrompt", "system_prompt"), ("env", "env")] {
        if body.get(name).is_some() {
            mask.push(ours.to_owned());
        }
    }
    wanted["skills"] = json!(body.texts("skills").map_err(status)?);
    wanted["system_prompt"] = json!(body.text("systemPrompt").map_err(status)?);
    wanted["env"] = json!(body.map("env").map_err(status)?);
    let (tier, provider) = (body.text("modelTier").map_err(status)?, body.text("provider").map_err(status)?);
    if !mask.is_empty() {
        agent = change(&ask, &wanted, mask).await?;
    }
    if !tier.is_empty() || !provider.is_empty() {
        agent = promoted(&ask, tier, provider).await?;
    }
    Ok(answer::found(&shown(&agent)))
}

async fn change(ask: &Ask, wanted: &Value, mask: Vec<String>) -> Result<Value, Status> {
    let request = json!({"office_id": ask.office(), "name": ask.part(1), "agent": wanted});
    Ok(ask.change("AgentService/UpdateAgent", &request, mask).await?["agent"].take())
}

async fn promoted(ask: &Ask, tier: &str, provider: &str) -> Result<Value, Status> {
    let request = json!({"office_id": ask.office(), "name": ask.part(1), "model_tier": tier, "provider": provider});
    Ok(ask.call("AgentService/PromoteAgent", request).await?["agent"].take())
}

pub(super) async fn fire(ask: Ask) -> Reply {
    let force = ask.query("force") == Some("true");
    let request = json!({"office_id": ask.office(), "name": ask.part(1), "force": force});
    ask.call("AgentService/FireAgent", request).await?;
    Ok(answer::none())
}

pub(super) async fn logs(ask: Ask) -> Reply {
    let given = ask.number("tail")?.or(ask.number("limit")?).unwrap_or(LINES);
    let request = json!({"office_id": ask.office(), "agent": ask.part(1), "limit": given.clamp(1, MOST_LINES)});
    let answer = ask.call("LogService/ListLogs", request).await?;
    let lines: Vec<&str> = entries(&answer["lines"]).iter().map(|line| text(&line["text"])).collect();
    Ok(answer::found(&json!({"logs": lines.join("\n"), "pod": ask.part(1)})))
}

pub(super) async fn activity(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    let categories = ask.query("category").map(parted).unwrap_or_default();
    let mut request = json!({"office_id": ask.office(), "agent": ask.part(1), "categories": categories});
    if let Some(since) = ask.query("since") {
        request["start_time"] = time("since", since).map_err(status)?.to_rfc3339().into();
    }
    let page = list::walk(&ask, "ActivityService/ListActivity", request, "events", window, list::any).await?;
    Ok(answer::list(page.entries.iter().map(event).collect(), page.total))
}

pub(super) async fn promote(mut ask: Ask) -> Reply {
    let (office, name) = (ask.office().to_owned(), ask.part(1).to_owned());
    let request = move |body: &Fields| {
        let (tier, provider) = (body.text("modelTier")?, body.text("provider")?);
        Ok(json!({"office_id": office, "name": name, "model_tier": tier, "provider": provider}))
    };
    let (promoted, _) = ask.send("AgentService/PromoteAgent", request).await?;
    Ok(answer::found(&shown(&promoted["agent"])))
}

pub(super) async fn set_skills(mut ask: Ask) -> Reply {
    let agent = find(&ask, ask.part(1)).await?;
    let body = ask.fields().await?;
    let (add, remove) = (body.texts("add").map_err(status)?, body.texts("remove").map_err(status)?);
    let before: Vec<String> = entries(&agent["skills"]).iter().map(|skill| text(skill).to_owned()).collect();
    let mut skills: Vec<String> = before.iter().filter(|skill| !remove.contains(skill)).cloned().collect();
    for skill in add {
        if !skills.contains(&skill) {
            skills.push(skill);
        }
    }
    // Each change of an agent restarts it.
    let agent = match skills == before {
        true => agent,
        false => change(&ask, &json!({"skills": skills}), vec!["skills".to_owned()]).await?,
    };
    Ok(answer::found(&shown(&agent)))
}

pub(super) async fn lifecycle(mut ask: Ask) -> Reply {
    find(&ask, ask.part(1)).await?;
    let rpc = match ask.fields().await?.text("action").map_err(status)? {
        "start" => "StartAgent",
        "stop" => "StopAgent",
        "restart" => "RestartAgent",
        _ => return Err(status(Error::invalid("action", "must be start, stop or restart"))),
    };
    let request = json!({"office_id": ask.office(), "name": ask.part(1)});
    ask.call(&format!("AgentService/{rpc}"), request).await?;
    Ok(answer::none())
}

pub(super) async fn presence(ask: Ask) -> Reply {
    let agent = find(&ask, ask.part(1)).await?;
    let status = &agent["status"];
    let is_online = status["phase"] == "AGENT_PHASE_RUNNING";
    let presence = Both::default().with("online", is_online).maybe("lastSeen", &status["last_seen_at"]);
    Ok(answer::found(&presence.done()))
}

/// The last failure in the agent's feed; else what its state says; else nothing.
pub(super) async fn last_error(ask: Ask) -> Reply {
    let agent = find(&ask, ask.part(1)).await?;
    let categories = ["lifecycle", "task"];
    let request = json!({
        "office_id": ask.office(), "agent": ask.part(1), "categories": categories, "page_size": LOOK_BACK});
    let feed = ask.call("ActivityService/ListActivity", request).await?;
    let is_failure = |event: &&Value| [".failed", ".crashed"].iter().any(|end| text(&event["type"]).ends_with(end));
    if let Some(event) = entries(&feed["events"]).iter().find(is_failure) {
        return Ok(answer::found(&json!({"error": event["summary"], "timestamp": event["time"]})));
    }
    let message = text(&agent["status"]["message"]);
    let said = if message.is_empty() { json!({}) } else { json!({"error": message}) };
    Ok(answer::found(&said))
}

pub(super) async fn rotate(ask: Ask) -> Reply {
    ask.call("AgentService/RotateAgentIdentity", json!({"office_id": ask.office(), "name": ask.part(1)})).await?;
    Ok(answer::none())
}

/// An agent. That product tells two types apart: those that it runs itself, and those that run elsewhere.
pub(super) fn shown(agent: &Value) -> Value {
    let kind = if agent["employee_type"] == "EMPLOYEE_TYPE_EXTERNAL" { "external" } else { "kubernetes" };
    let status = &agent["status"];
    let status = Both::default()
        .with("phase", phase(&status["phase"]))
        .with("ready", status["ready"] == true)
        .with("message", text(&status["message"]))
        .maybe("lastSeen", &status["last_seen_at"])
        .with("restarts", status["restarts"].clone());
    Both::default()
        .with("id", agent["id"].clone())
        .with("name", agent["name"].clone())
        .with("role", agent["role"].clone())
        .with("modelTier", agent["model_tier"].clone())
        .with("modelProvider", agent["provider"].clone())
        .with("employeeType", kind)
        .with("skills", agent["skills"].clone())
        .with("systemPrompt", agent["system_prompt"].clone())
        .with("env", agent["env"].clone())
        .with("status", status.done())
        .with("spawnedBy", agent["hired_by"].clone())
        .with("publicKey", hex(&agent["public_key"]))
        .with("createdAt", agent["created_at"].clone())
        .done()
}

fn event(event: &Value) -> Value {
    let mut shown = json!({
        "id": event["id"],
        "category": event["category"],
        "type": event["type"],
        "summary": event["summary"],
        "timestamp": event["time"],
    });
    if event["metadata"].is_object() {
        shown["metadata"] = event["metadata"].clone();
    }
    shown
}
