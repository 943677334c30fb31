//! The card of an agent: what it is called, what it can do, and where it is reached.
//!
//! It is for those who may ask the agent for anything: whom a company has hired is nobody else's business.

use std::iter;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method as HttpMethod, header};
use mi_rpc::HttpResponse;
use serde_json::{Value, json};
use tonic::Status;

use super::{PATH, errors, issuer::public_jwk, message, method, operations::Session, sent, tenant::Tenant};
use crate::refusal::{self, not_for};

/// Names the part of a card that has the agent's own key.
const IDENTITY: &str = "urn:mi:agent-identity";

/// Answers a request for a card.
pub(super) async fn serve(session: &Session, tenant: &str, asked: &HttpMethod) -> HttpResponse {
    if *asked != HttpMethod::GET {
        return not_for(asked, "GET");
    }
    let card = match Tenant::parse(tenant) {
        Ok(tenant) => of(session, &tenant).await,
        Err(refused) => Err(refused),
    };
    match card {
        Ok(card) => {
            let mut response = refusal::json_answer(card.to_string());
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=60"));
            response
        }
        Err(refused) => refusal::rest(&refused),
    }
}

/// The card of an agent, or of an office, signed.
async fn of(session: &Session, tenant: &Tenant) -> Result<Value, Status> {
    let (name, version, about, skills, extensions) = match &tenant.agent {
        Some(agent) => {
            let request = json!({"office_id": tenant.office_id, "name": agent});
            let agent = session.call("AgentService/GetAgent", &request).await?["agent"].take();
            let about = match agent["role"].as_str().unwrap_or_default() {
                "" => "An agent of an office.".to_owned(),
                role => format!("An agent of an office, hired as {role}."),
            };
            let identity = key(&agent).map(|raw| {
                json!({
                    "uri": IDENTITY,
                    "description": "The key that the agent itself signs the receipts of its work with, as JWK",
                    "params": public_jwk(&raw),
                })
            });
            (agent["name"].clone(), agent["generation"].clone(), about, agent["skills"].clone(), identity)
        }
        None => {
            let request = json!({"office_id": tenant.office_id});
            let office = session.call("OfficeService/GetOffice", &request).await?["office"].take();
            let about = "An office of agents: whichever of them is free does the work.".to_owned();
            (office["name"].clone(), "1".into(), about, Value::Null, None)
        }
    };
    let work = json!({
        "id": "work",
        "name": "Work",
        "description": "Does what a message asks for, as one task, and answers with the result and the files that it made.",
        "tags": ["task"],
    });
    let own = skills.as_array().into_iter().flatten().map(|skill| {
        json!({"id": skill, "name": skill, "description": format!("Knows {}", skill.as_str().unwrap_or_default()), "tags": [skill]})
    });
    let skills: Vec<Value> = iter::once(work).chain(own).collect();
    let at = |binding: &str, url: String| json!({"url": url, "protocolBinding": binding, "tenant": tenant.text(), "protocolVersion": "1.0"});
    let issuer = &session.issuer;
    let card = json!({
        "name": name,
        "description": about,
        "version": version,
        "supportedInterfaces": [
            at("JSONRPC", issuer.at(PATH)),
            at("HTTP+JSON", issuer.at(PATH)),
            at("GRPC", issuer.authority()),
        ],
        "capabilities": {
            "streaming": true,
            "pushNotifications": false,
            "extendedAgentCard": false,
            "extensions": extensions.into_iter().collect::<Vec<_>>(),
        },
        "securitySchemes": {"bearer": {"httpAuthSecurityScheme": {
            "scheme": "Bearer",
            "description": "An API key of the office's account, or the token of an agent of the office",
        }}},
        "securityRequirements": [{"schemes": {"bearer": {"list": []}}}],
        "defaultInputModes": ["text/plain", "application/json"],
        "defaultOutputModes": ["text/plain"],
        "skills": skills,
    });
    // As a reader has it that leaves out what is empty: that is what is signed.
    let descriptor = &method("GetExtendedAgentCard").ok_or_else(errors::no_extended_card)?.output;
    let mut card = without_empty(sent(&message(descriptor, card)?)?).unwrap_or_default();
    card["signatures"] = json!([issuer.sign(&card)?]);
    Ok(card)
}

/// The public key of an agent, if it has enrolled one.
fn key(agent: &Value) -> Option<Vec<u8>> {
    let raw = STANDARD.decode(agent["public_key"].as_str()?).ok()?;
    (!raw.is_empty()).then_some(raw)
}

/// A value without texts, lists and objects that are empty: verifiers leave those out before they compare.
fn without_empty(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then_some(Value::String(text)),
        Value::Array(values) => {
            let values: Vec<_> = values.into_iter().filter_map(without_empty).collect();
            (!values.is_empty()).then_some(Value::Array(values))
        }
        Value::Object(fields) => {
            let fields: serde_json::Map<_, _> =
                fields.into_iter().filter_map(|(name, value)| Some((name, without_empty(value)?))).collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        other => Some(other),
    }
}
