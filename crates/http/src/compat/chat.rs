//! Chat: the office's one group, direct messages, and a stream of both.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use mi_kernel::Error;
use mi_rpc::{HttpResponse, status};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::{Status, body::Body};

use super::{
    Reply, answer,
    ask::{Ask, plain},
    fields::Fields,
    list::{self, Window},
    shape::{Both, entries, micros, text},
};
use crate::methods::Method;

/// The id of the group. An office has one.
const GROUP: &str = "office";
/// Members of the group that are shown.
const MOST_MEMBERS: usize = 1000;
/// How long a stream says nothing before it says that it is still there: what stands between gives up silent ones.
const SILENCE: Duration = Duration::from_secs(15);

pub(super) async fn groups(ask: Ask) -> Reply {
    let request = json!({"office_id": ask.office()});
    let office = ask.call("OfficeService/GetOffice", request.clone()).await?["office"].take();
    let window = Window { offset: 0, limit: MOST_MEMBERS };
    let agents = list::walk(&ask, "AgentService/ListAgents", request, "agents", window, list::any).await?;
    let members: Vec<&Value> = agents.entries.iter().map(|agent| &agent["name"]).collect();
    let group = Both::default()
        .with("id", GROUP)
        .with("name", office["name"].clone())
        .with("members", json!(members))
        .with("createdAt", office["created_at"].clone());
    Ok(answer::list(vec![group.done()], Some(1)))
}

/// The group's id, or the office's, names the group.
fn known(ask: &Ask) -> Result<(), Status> {
    let group = ask.part(1);
    let is_known = group == GROUP || group == ask.office();
    is_known.then_some(()).ok_or_else(|| status(Error::not_found("group", group)))
}

pub(super) async fn group_messages(ask: Ask) -> Reply {
    let limit = Window::of(&ask)?.limit;
    let answer = ask.call("ChatService/ListMessages", json!({"office_id": ask.office(), "limit": limit})).await?;
    known(&ask)?;
    Ok(answer::list(entries(&answer["messages"]).iter().map(message).collect(), None))
}

pub(super) async fn send_to_group(mut ask: Ask) -> Reply {
    if let Err(refused) = known(&ask) {
        ask.call("OfficeService/GetOffice", json!({"office_id": ask.office()})).await?;
        return Err(refused);
    }
    post(&mut ask, |_| Ok(String::new())).await
}

pub(super) async fn send(mut ask: Ask) -> Reply {
    let to = |body: &Fields| match body.either(["to", "agentId"])? {
        "" => Err(Error::invalid("to", "is missing: an agent's name")),
        name => Ok(name.to_owned()),
    };
    post(&mut ask, to).await
}

/// Sends in the caller's own name, whoever the body says that it is from.
async fn post(ask: &mut Ask, to: impl FnOnce(&Fields) -> Result<String, Error> + Send + 'static) -> Reply {
    let office = ask.office().to_owned();
    let request = move |body: &Fields| {
        Ok(json!({"office_id": office, "to_agent": to(body)?, "body": body.either(["body", "content"])?}))
    };
    let (sent, _) = ask.send("ChatService/SendMessage", request).await?;
    Ok(answer::found(&json!({"messageId": sent["message"]["id"]})))
}

/// Messages as they come, as server-sent events; with `Last-Event-ID` from there on.
pub(super) async fn stream(ask: Ask) -> Reply {
    let mut request = json!({"office_id": ask.office()});
    if let Some(last) = ask.headers.get("last-event-id").and_then(|value| value.to_str().ok()) {
        request["after_id"] = last.into();
    }
    let (answer, method) = ask.open("ChatService/WatchMessages", &request).await?;
    let events = events(answer.messages(), method).map(|event| Ok::<_, Status>(Frame::data(event)));
    let mut response = HttpResponse::new(Body::new(StreamBody::new(events)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Messages as events: one that opens the stream, then one each, and the reason when it ends.
fn events<S>(messages: S, method: &'static Method) -> impl Stream<Item = Bytes> + Send + 'static
where
    S: Stream<Item = Result<Bytes, Status>> + Send + 'static,
{
    let opening = stream::once(async { Bytes::from_static(b": open\n\n") });
    let rest = stream::unfold(Some(Box::pin(messages)), move |left| async move {
        let mut messages = left?;
        match timeout(SILENCE, messages.next()).await {
            Err(_) => Some((Bytes::from_static(b": still here\n\n"), Some(messages))),
            Ok(None) => None,
            Ok(Some(read)) => match read.and_then(|bytes| plain(method, &bytes)) {
                Ok(told) => {
                    let shown = message(&told["message"]);
                    let event = format!("id: {}\ndata: {shown}\n\n", text(&shown["id"]));
                    Some((event.into(), Some(messages)))
                }
                Err(refused) => {
                    let error = json!({"error": refused.message(), "message": refused.message()});
                    Some((format!("event: error\ndata: {error}\n\n").into(), None))
                }
            },
        }
    });
    opening.chain(rest)
}

/// A message. Its time is in milliseconds; versions of that client differ in what they call the text.
pub(super) fn message(message: &Value) -> Value {
    let time = micros(&message["time"]).unwrap_or_default() / 1000;
    Both::default()
        .with("id", message["id"].clone())
        .with("fromAgent", message["from"].clone())
        .with("toAgent", message["to_agent"].clone())
        .with("body", message["body"].clone())
        .with("content", message["body"].clone())
        .with("createdAt", time)
        .done()
}
