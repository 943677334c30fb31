//! Colleagues: messages to and from them, and hiring.

use mi_proto::v1::{HireAgentRequest, ListMessagesRequest, SendMessageRequest};
use serde::Deserialize;
use uuid::Uuid;

use super::{Answer, Shared, refused};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Send {
    body: String,
    #[serde(default)]
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    #[serde(default)]
    with: String,
    limit: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hire {
    name: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    model_tier: String,
    #[serde(default)]
    system_prompt: String,
}

pub(super) async fn send(shared: &Shared, asked: Send) -> Answer {
    let request = SendMessageRequest {
        office_id: shared.office_id.clone(),
        to_agent: asked.to,
        body: asked.body,
        request_id: Uuid::new_v4().to_string(),
    };
    shared.client.chat().send_message(request).await.map_err(refused)?;
    Ok("sent".into())
}

pub(super) async fn read(shared: &Shared, asked: Read) -> Answer {
    let request = ListMessagesRequest {
        office_id: shared.office_id.clone(),
        with_agent: asked.with,
        limit: Some(asked.limit.unwrap_or(20)),
        before_id: String::new(),
    };
    let messages = shared.client.chat().list_messages(request).await.map_err(refused)?.into_inner().messages;
    let lines: Vec<_> = messages.iter().map(|message| format!("{}: {}", message.from, message.body)).collect();
    Ok(if lines.is_empty() { "(none)".into() } else { lines.join("\n") })
}

pub(super) async fn hire(shared: &Shared, asked: Hire) -> Answer {
    let request = HireAgentRequest {
        office_id: shared.office_id.clone(),
        name: asked.name,
        role: asked.role,
        model_tier: asked.model_tier,
        system_prompt: asked.system_prompt,
        request_id: Uuid::new_v4().to_string(),
        ..HireAgentRequest::default()
    };
    let agent = shared.client.agents().hire_agent(request).await.map_err(refused)?.into_inner().agent;
    Ok(format!("hired {}", agent.map(|agent| agent.name).unwrap_or_default()))
}
