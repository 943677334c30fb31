//! Colleagues: messages to and from them, and hiring.

use mi_proto::v1::{HireAgentRequest, ListMessagesRequest, SendMessageRequest};
use uuid::Uuid;

use super::{Answer, CHAT_SEND, Shared, refused};

tool!(Send, CHAT_SEND, "Send a message to the office's group, or to one agent or the operator.", {
    body: String = "string", "The message.";
    #[serde(default)] to: String = "string?", "Name of an agent, or operator; the group by default.";
});

tool!(Read, "chat_read", "Read the newest messages, newest first.", {
    #[serde(default)] with: String = "string?", "Name of an agent, or operator; the group by default.";
    limit: Option<i32> = "integer?", "How many; 20 by default.";
});

tool!(Hire, "hire_agent", "Hire an agent into the office, if the office allows that.", {
    name: String = "string", "Lower-case letters, digits and dashes.";
    #[serde(default)] role: String = "string?", "A role, such as engineer or research-analyst.";
    #[serde(default)] model_tier: String = "string?", "A model tier.";
    #[serde(default)] system_prompt: String = "string?", "Instructions for it.";
});

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
