//! Integrations: which there are, their secrets, and who uses them.

use mi_kernel::Error;
use mi_rpc::status;
use serde_json::{Value, json};
use tonic::Status;

use super::{
    Reply, answer,
    ask::Ask,
    fields::Fields,
    list::Window,
    shape::{Both, entries, int, text, word},
};

const STATUS: &str = "INTEGRATION_STATUS_";

async fn all(ask: &Ask) -> Result<Value, Status> {
    let answer = ask.call("IntegrationService/ListIntegrations", json!({"office_id": ask.office()})).await?;
    Ok(answer["integrations"].clone())
}

pub(super) async fn list(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    let page = window.cut(entries(&all(&ask).await?).iter().map(shown).collect());
    Ok(answer::list(page.entries, page.total))
}

/// The integration that the path names, by its name or another that is taken for it.
async fn find(ask: &Ask) -> Result<Value, Status> {
    let name = ask.part(1);
    let all = all(ask).await?;
    let found =
        entries(&all).iter().find(|it| it["name"] == name || entries(&it["aliases"]).iter().any(|it| it == name));
    found.cloned().ok_or_else(|| status(Error::not_found("integration", name)))
}

pub(super) async fn set_secret(mut ask: Ask) -> Reply {
    let integration = find(&ask).await?;
    let secrets = given(&integration, &ask.fields().await?).map_err(status)?;
    for (name, value) in secrets {
        let request = json!({
            "office_id": ask.office(), "integration": integration["name"], "name": name, "value": value});
        ask.call("IntegrationService/SetIntegrationSecret", request).await?;
    }
    Ok(answer::none())
}

/// The secrets that a body sets: each by its name or by its variable, or the one that is needed as `key`.
pub(super) fn given(integration: &Value, body: &Fields) -> Result<Vec<(String, String)>, Error> {
    let secrets = entries(&integration["secrets"]);
    let main = secrets.iter().find(|secret| secret["required"] == true).or(secrets.first());
    let mut named = Vec::new();
    for (name, value) in &body.0 {
        let own = secrets.iter().find(|secret| secret["name"] == **name || secret["env"] == **name);
        let secret = own.or(main.filter(|_| name == "key"));
        let Some(secret) = secret else {
            let known: Vec<&str> = secrets.iter().map(|secret| text(&secret["name"])).collect();
            let problem = format!("`{name}` is none of {}; there are {}", text(&integration["name"]), known.join(", "));
            return Err(Error::invalid("secret", problem));
        };
        let Some(value) = value.as_str().filter(|value| !value.is_empty()) else {
            return Err(Error::invalid("secret", format!("`{name}` must be a string that is not empty")));
        };
        named.push((text(&secret["name"]).to_owned(), value.to_owned()));
    }
    if named.is_empty() {
        return Err(Error::invalid("key", "is missing"));
    }
    Ok(named)
}

pub(super) async fn delete_secrets(ask: Ask) -> Reply {
    let integration = find(&ask).await?;
    for secret in entries(&integration["secrets"]).iter().filter(|secret| secret["updated_at"].is_string()) {
        let request = json!({"office_id": ask.office(), "integration": integration["name"], "name": secret["name"]});
        ask.call("IntegrationService/DeleteIntegrationSecret", request).await?;
    }
    Ok(answer::none())
}

/// Turns an integration on for an agent, or off; without a body on.
pub(super) async fn toggle(mut ask: Ask) -> Reply {
    let (office, integration, agent) = (ask.office().to_owned(), ask.part(1).to_owned(), ask.part(2).to_owned());
    let request = move |body: &Fields| {
        let enabled = body.flag("enabled")?.unwrap_or(true);
        Ok(json!({"office_id": office, "integration": integration, "agent": agent, "enabled": enabled}))
    };
    ask.send("IntegrationService/SetAgentIntegration", request).await?;
    Ok(answer::none())
}

/// Turns an integration on for an agent, or off.
pub(super) async fn set(ask: &Ask, integration: &str, agent: &str, enabled: bool) -> Result<(), Status> {
    let request = json!({"office_id": ask.office(), "integration": integration, "agent": agent, "enabled": enabled});
    ask.call("IntegrationService/SetAgentIntegration", request).await.map(drop)
}

pub(super) async fn of_agent(ask: Ask) -> Reply {
    let request = json!({"office_id": ask.office(), "agent": ask.part(1)});
    let answer = ask.call("IntegrationService/ListAgentIntegrations", request).await?;
    let shown = |it: &Value| {
        Both::default()
            .with("id", it["name"].clone())
            .with("name", it["name"].clone())
            .with("category", it["category"].clone())
            .with("status", word(&it["status"], STATUS))
            .with("enabled", it["enabled"].clone())
            .with("envVars", it["env"].clone())
            .done()
    };
    let integrations: Vec<Value> = entries(&answer["integrations"]).iter().map(shown).collect();
    Ok(answer::found(&json!({"integrations": integrations, "rev": int(&answer["revision"])})))
}

/// The models to hire by, one line for each provider that serves one.
pub(super) async fn models(ask: Ask) -> Reply {
    let wanted = ask.query("provider");
    let integrations = all(&ask).await?;
    let is_configured = |provider: &str| {
        let found = entries(&integrations).iter().find(|it| it["name"] == provider);
        found.is_some_and(|it| it["configured"] == true)
    };
    let tiers = ask.call("AgentService/ListModelTiers", json!({})).await?;
    let mut models = Vec::new();
    for tier in entries(&tiers["model_tiers"]) {
        for provider in entries(&tier["providers"]).iter().map(text) {
            if wanted.is_none_or(|wanted| wanted == provider) {
                models.push(json!({
                    "provider": provider,
                    "model_id": tier["model_id"],
                    "name": tier["name"],
                    "available": is_configured(provider),
                }));
            }
        }
    }
    Ok(answer::found(&models.into()))
}

pub(super) fn shown(integration: &Value) -> Value {
    let secrets = entries(&integration["secrets"]);
    let required: Vec<&Value> = secrets.iter().filter(|it| it["required"] == true).map(|it| &it["name"]).collect();
    let secret = |it: &Value| {
        json!({
            "name": it["name"], "description": it["description"], "env": it["env"], "required": it["required"],
            "set": it["updated_at"].is_string(),
        })
    };
    Both::default()
        .with("id", integration["name"].clone())
        .with("name", integration["name"].clone())
        .with("description", integration["description"].clone())
        .with("category", integration["category"].clone())
        .with("status", word(&integration["status"], STATUS))
        .with("configured", integration["configured"].clone())
        .with("aliases", integration["aliases"].clone())
        .with("requiredSecrets", json!(required))
        .with("secrets", secrets.iter().map(secret).collect::<Vec<_>>())
        .done()
}
