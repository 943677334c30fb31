//! The protocol as JSON-RPC 2.0: one request in each body, answered with one message, or with a stream of events.

use futures::StreamExt;
use http::{Method as HttpMethod, StatusCode, request::Parts};
use mi_rpc::HttpResponse;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tonic::{Status, body::Body};

use super::{MAX_BODY, errors, events, message, method, operations::Session, sent, value};
use crate::{
    body, json,
    methods::Method,
    refusal::{self, details_of, json_answer, not_for},
};

/// Answers a request; `tenant` is the one that its path names, if any.
pub(super) async fn serve(session: Result<Session, Status>, tenant: String, parts: &Parts, body: Body) -> HttpResponse {
    if parts.method != HttpMethod::POST {
        return not_for(&parts.method, "POST");
    }
    let session = match session {
        Ok(session) => session,
        // Others than those who are unknown, or in a hurry, are answered in the form of the protocol.
        Err(refused) if errors::json_rpc_code(&refused) == errors::json_rpc_code(&Status::internal("")) => {
            return refusal::mcp(&refused);
        }
        Err(refused) => return failed(&Value::Null, &refused),
    };
    let text = match body::in_time(body::whole(body, MAX_BODY)).await {
        Ok(text) => text,
        Err(refused) => return failed(&Value::Null, &errors::in_words(refused)),
    };
    let request = match json::parse(&text) {
        Ok(request) => request,
        Err(error) => {
            return refusal::json_rpc(StatusCode::OK, errors::PARSE_ERROR, &format!("this is no JSON: {error}"), None);
        }
    };
    let id = request["id"].clone();
    let refuse = |code: i32, text: &str| refusal::json_rpc(StatusCode::OK, code, text, Some(id.clone()));
    let is_id = id.is_string() || id.is_number();
    if !is_id || request["jsonrpc"] != "2.0" || !request["method"].is_string() {
        let text = "must be one object with `jsonrpc` \"2.0\", an `id`, a `method` and `params`";
        return refuse(errors::INVALID_REQUEST, text);
    }
    let name = request["method"].as_str().unwrap_or_default();
    let Some(method) = method(name) else {
        let text = format!("there is no method {name:?}; version 1.0 has SendMessage, GetTask, CancelTask and others");
        return refuse(errors::METHOD_NOT_FOUND, &text);
    };
    let asked = params(method, &tenant, &request["params"]);
    let name = name.to_owned();
    match (asked, method.server_streams) {
        (Err(refused), _) => failed(&id, &refused),
        (Ok(asked), false) => {
            let answered = session.unary(&name, &asked).await;
            match answered.and_then(|answer| sent(&message(&method.output, answer)?)) {
                Ok(result) => json_answer(json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string()),
                Err(refused) => failed(&id, &refused),
            }
        }
        (Ok(asked), true) => match session.stream(&name, &asked).await {
            Ok(answers) => events(answers.map(move |answer| {
                let result = answer.and_then(|answer| sent(&message(&method.output, answer)?));
                let said = match result {
                    Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
                    Err(refused) => error(&id, &refused),
                };
                format!("data: {said}\n\n")
            })),
            Err(refused) => failed(&id, &refused),
        },
    }
}

/// The message that the parameters of a request are.
fn params(method: &Method, tenant: &str, params: &Value) -> Result<Value, Status> {
    let mut request = match params {
        Value::Null => DynamicMessage::new(method.input.clone()),
        Value::Object(_) => {
            json::read_known(&method.input, params).map_err(mi_rpc::status).map_err(errors::in_words)?
        }
        _ => return Err(errors::invalid("params", "must be an object")),
    };
    super::rest::settle_tenant(&mut request, tenant)?;
    value(&request)
}

fn error(id: &Value, refused: &Status) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {
        "code": errors::json_rpc_code(refused),
        "message": refused.message(),
        "data": details_of(refused),
    }})
}

fn failed(id: &Value, refused: &Status) -> HttpResponse {
    json_answer(error(id, refused).to_string())
}
