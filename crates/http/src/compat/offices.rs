//! Offices, their settings and their state.

use std::time::Duration;

use http::StatusCode;
use mi_kernel::Error;
use serde_json::{Value, json};

use super::{
    Reply, answer,
    ask::Ask,
    list::{self, Window},
    shape::{Both, credits, entries, int, micro, text, word},
};

/// How long a new office is waited for: that client hires into it at once.
const PROVISIONING: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// A setting: its name there, ours, and what kind of value it is.
struct Setting {
    theirs: &'static str,
    ours: &'static str,
    kind: Kind,
}

/// How a setting's value is written.
#[derive(Clone, Copy)]
enum Kind {
    Flag,
    Number,
    Text,
    /// `600s`.
    Duration,
    /// `none` or `peer`.
    Verification,
    /// Micro-credits here, credits there.
    Credits,
}

const VERIFICATION: &str = "VERIFICATION_";

const fn setting(theirs: &'static str, ours: &'static str, kind: Kind) -> Setting {
    Setting { theirs, ours, kind }
}

const SETTINGS: [Setting; 13] = [
    setting("allowAgentHiring", "allow_agent_hiring", Kind::Flag),
    setting("maxEmployees", "max_agents", Kind::Number),
    setting("maxHireDepth", "max_hire_depth", Kind::Number),
    setting("hiresPer10Minutes", "hires_per_10_minutes", Kind::Number),
    setting("defaultModelTier", "default_model_tier", Kind::Text),
    setting("defaultProvider", "default_provider", Kind::Text),
    setting("idleFireAfter", "idle_fire_after", Kind::Duration),
    setting("verification", "verification", Kind::Verification),
    setting("modelBudgetPerTask", "model_budget_per_task", Kind::Credits),
    setting("finishedTaskRetention", "finished_task_retention", Kind::Duration),
    setting("driveChangeRetention", "drive_change_retention", Kind::Duration),
    setting("messageRetention", "message_retention", Kind::Duration),
    setting("allowAnyModel", "allow_any_model", Kind::Flag),
];

impl Setting {
    fn write(&self, ours: &Value) -> Value {
        match self.kind {
            Kind::Flag | Kind::Number | Kind::Text | Kind::Duration => ours.clone(),
            Kind::Verification => word(ours, VERIFICATION).into(),
            Kind::Credits => credits(int(ours)),
        }
    }

    fn read(&self, theirs: &Value) -> Result<Value, Error> {
        let wrong = |what: &str| Err(Error::invalid(self.theirs, format!("must be {what}")));
        match self.kind {
            Kind::Flag if !theirs.is_boolean() => wrong("true or false"),
            Kind::Number if !theirs.is_i64() => wrong("a whole number"),
            Kind::Text if !theirs.is_string() => wrong("a string"),
            Kind::Duration if !theirs.is_string() => wrong("a duration such as \"600s\""),
            Kind::Verification => match theirs.as_str() {
                Some(word @ ("none" | "peer")) => Ok(format!("{VERIFICATION}{}", word.to_uppercase()).into()),
                _ => wrong("none or peer"),
            },
            Kind::Credits => Ok(micro(self.theirs, theirs)?.to_string().into()),
            Kind::Flag | Kind::Number | Kind::Text | Kind::Duration => Ok(theirs.clone()),
        }
    }
}

/// Whether the platform serves, for whoever asks.
pub(super) async fn health(ask: Ask) -> Reply {
    let answer = ask.raw("/grpc.health.v1.Health/Check").await?;
    // SERVING is 1 in the first field.
    if *answer == [8, 1] {
        return Ok(answer::found(&json!({"status": "ok"})));
    }
    Ok(answer::plain(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the platform does not serve yet"))
}

pub(super) async fn list(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    let page = list::walk(&ask, "OfficeService/ListOffices", json!({}), "offices", window, list::any).await?;
    Ok(answer::list(page.entries.iter().map(shown).collect(), page.total))
}

pub(super) async fn create(mut ask: Ask) -> Reply {
    let (made, _) = ask.send("OfficeService/CreateOffice", |body| Ok(json!({"name": body.text("name")?}))).await?;
    let mut office = made["office"].clone();
    let id = text(&office["id"]).to_owned();
    let give_up = tokio::time::Instant::now() + PROVISIONING;
    while is_provisioning(&office) && tokio::time::Instant::now() < give_up {
        tokio::time::sleep(LOOK).await;
        office = ask.call("OfficeService/GetOffice", json!({"office_id": id})).await?["office"].take();
    }
    Ok(answer::found(&shown(&office)))
}

fn is_provisioning(office: &Value) -> bool {
    office["status"] == "OFFICE_STATUS_PROVISIONING"
}

pub(super) async fn get(ask: Ask) -> Reply {
    let office = ask.call("OfficeService/GetOffice", json!({"office_id": ask.office()})).await?;
    Ok(answer::found(&shown(&office["office"])))
}

pub(super) async fn delete(ask: Ask) -> Reply {
    change(ask, "DeleteOffice").await
}

pub(super) async fn suspend(ask: Ask) -> Reply {
    change(ask, "SuspendOffice").await
}

pub(super) async fn resume(ask: Ask) -> Reply {
    change(ask, "ResumeOffice").await
}

async fn change(ask: Ask, rpc: &str) -> Reply {
    ask.call(&format!("OfficeService/{rpc}"), json!({"office_id": ask.office()})).await?;
    Ok(answer::none())
}

pub(super) async fn status(ask: Ask) -> Reply {
    let answer = ask.call("OfficeService/GetOfficeStatus", json!({"office_id": ask.office()})).await?;
    Ok(answer::found(&state(&answer["status"])))
}

pub(super) async fn settings(ask: Ask) -> Reply {
    let answer = ask.call("OfficeService/GetOfficeSettings", json!({"office_id": ask.office()})).await?;
    Ok(answer::found(&all(&answer["settings"])))
}

pub(super) async fn update_settings(mut ask: Ask) -> Reply {
    let asked = json!({"office_id": ask.office()});
    let before = ask.call("OfficeService/GetOfficeSettings", asked).await?;
    let (settings, mask) = changed(&ask.fields().await?.0).map_err(mi_rpc::status)?;
    if mask.is_empty() {
        return Ok(answer::found(&all(&before["settings"])));
    }
    let request = json!({"office_id": ask.office(), "settings": settings});
    let after = ask.change("OfficeService/UpdateOfficeSettings", &request, mask).await?;
    Ok(answer::found(&all(&after["settings"])))
}

/// An office.
pub(super) fn shown(office: &Value) -> Value {
    Both::default()
        .with("id", office["id"].clone())
        .with("name", office["name"].clone())
        .with("ownerId", office["account_id"].clone())
        .with("status", word(&office["status"], "OFFICE_STATUS_"))
        .with("createdAt", office["created_at"].clone())
        .done()
}

/// An office's state: how far it is, what is the matter, and both halves that that product looks at.
pub(super) fn state(report: &Value) -> Value {
    let wrong: Vec<&Value> = entries(&report["conditions"]).iter().filter(|it| it["ok"] == false).collect();
    let said = |condition: &&Value| format!("{}: {}", text(&condition["type"]), text(&condition["message"]));
    let told: Vec<String> = wrong.iter().map(said).collect();
    let (phase, message) = match &*word(&report["status"], "OFFICE_STATUS_") {
        "active" if told.is_empty() => ("ready", String::new()),
        "active" => ("degraded", told.join("; ")),
        "provisioning" => ("provisioning", told.join("; ")),
        "suspended" => ("degraded", "the office is suspended; resume it".to_owned()),
        "deleting" => ("degraded", "the office is being deleted".to_owned()),
        other => ("failed", format!("the office is {other}")),
    };
    let ready = json!({"ready": phase == "ready"});
    let mut state = json!({"phase": phase, "operator": ready, "ingress": ready});
    if !message.is_empty() {
        state["message"] = message.into();
    }
    state
}

/// All settings.
pub(super) fn all(settings: &Value) -> Value {
    SETTINGS.iter().map(|setting| (setting.theirs.to_owned(), setting.write(&settings[setting.ours]))).collect()
}

/// What is to be changed, and the mask of it.
pub(super) fn changed(given: &serde_json::Map<String, Value>) -> Result<(Value, Vec<String>), Error> {
    let (mut settings, mut mask) = (json!({}), Vec::new());
    for (name, value) in given {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.theirs == name) else {
            let known: Vec<&str> = SETTINGS.iter().map(|setting| setting.theirs).collect();
            let text = format!("has no `{name}`; there are {}", known.join(", "));
            return Err(Error::invalid("settings", text));
        };
        settings[setting.ours] = setting.read(value)?;
        mask.push(setting.ours.to_owned());
    }
    Ok((settings, mask))
}
