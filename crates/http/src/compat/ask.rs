//! A request on its way through a handler, and the calls that it becomes.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::HeaderMap;
use mi_kernel::Error;
use mi_rpc::{HttpRequest, status};
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tonic::{Status, body::Body};

use super::{LIMIT, fields::Fields};
use crate::{
    body,
    byte_path::{Answer, BytePath, Caller, MAX_MESSAGE},
    json,
    methods::{self, Method},
};

/// A request.
pub(super) struct Ask {
    gateway: BytePath,
    caller: Caller,
    parts: Vec<String>,
    query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    /// Behind a lock only because a body may not be shared, and a request is while a handler calls.
    body: Mutex<Option<Body>>,
    until: Instant,
}

impl Ask {
    pub(super) fn new(gateway: BytePath, request: HttpRequest, parts: Vec<String>) -> Self {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let query: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let caller = Caller::of(&head);
        Self {
            gateway,
            caller,
            parts,
            query,
            headers: head.headers,
            body: Mutex::new(Some(body)),
            until: Instant::now() + LIMIT,
        }
    }

    /// What the path says at one of its open places.
    pub(super) fn part(&self, place: usize) -> &str {
        self.parts.get(place).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn office(&self) -> &str {
        self.part(0)
    }

    /// A parameter of the query; absent or empty: none.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A parameter that is a number.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<usize>, Status> {
        let wrong = |_| status(Error::invalid(name, "must be a whole number that is not negative"));
        self.query(name).map(|text| text.parse().map_err(wrong)).transpose()
    }

    /// Who asks, for as long as is left.
    fn caller(&self) -> Caller {
        self.caller.clone().within(self.until.saturating_duration_since(Instant::now()))
    }

    /// Calls an RPC, such as `TaskService/GetTask`.
    pub(super) async fn call(&self, rpc: &str, request: Value) -> Result<Value, Status> {
        self.gateway.call(&self.caller(), &format!("/mi.v1.{rpc}"), &request).await
    }

    /// Calls an RPC with what is made of the body, which nobody reads before the gateway has let its sender in. Answers the
    /// body too.
    pub(super) async fn send(
        &mut self,
        rpc: &str,
        convert: impl FnOnce(&Fields) -> Result<Value, Error> + Send + 'static,
    ) -> Result<(Value, Fields), Status> {
        let method = method(rpc)?;
        let read = Arc::new(OnceLock::new());
        let (kept, body) = (read.clone(), self.take_body());
        let message = async move {
            let fields = fields(body).await?;
            let request = convert(&fields).map_err(status)?;
            // Nobody else has it.
            let _ = kept.set(fields);
            json::to_wire(&method.input, request.to_string().as_bytes()).map_err(status)
        };
        let answer = self.gateway.unary(self.caller(), &method.path, message).await?;
        let fields = Arc::into_inner(read).and_then(OnceLock::into_inner).unwrap_or_default();
        Ok((plain(method, &answer)?, fields))
    }

    /// The body, after a call has shown that the gateway lets its sender in.
    pub(super) async fn fields(&mut self) -> Result<Fields, Status> {
        let late = |_| Status::deadline_exceeded("the body came too slowly");
        timeout_at(self.until, fields(self.take_body())).await.map_err(late)?
    }

    /// Calls an RPC that changes the fields in its mask. JSON cannot write every mask: it has no `_` before a digit.
    pub(super) async fn change(&self, rpc: &str, request: &Value, mask: Vec<String>) -> Result<Value, Status> {
        let method = method(rpc)?;
        let mut message = json::read(&method.input, request.to_string().as_bytes()).map_err(status)?;
        let internal = |error: &dyn std::error::Error| status(Error::internal(error.to_string()));
        let field = method.input.get_field_by_name("update_mask");
        let kind = field.as_ref().map(prost_reflect::FieldDescriptor::kind);
        let Some(descriptor) = kind.as_ref().and_then(prost_reflect::Kind::as_message) else {
            return Err(Status::internal("the RPC has no mask"));
        };
        let mut paths = DynamicMessage::new(descriptor.clone());
        paths.transcode_from(&prost_types::FieldMask { paths: mask }).map_err(|error| internal(&error))?;
        message.set_field_by_name("update_mask", prost_reflect::Value::Message(paths));
        let bytes: Bytes = message.encode_to_vec().into();
        let answer = self.gateway.unary(self.caller(), &method.path, async move { Ok(bytes) }).await?;
        plain(method, &answer)
    }

    /// Opens a stream, which may last as long as it likes.
    pub(super) async fn open(&self, rpc: &str, request: &Value) -> Result<(Answer, &'static Method), Status> {
        let method = method(rpc)?;
        let message = json::to_wire(&method.input, request.to_string().as_bytes()).map_err(status)?;
        let messages = futures::stream::once(async move { Ok(message) });
        Ok((self.gateway.open(self.caller.clone(), &method.path, messages).await?, method))
    }

    /// Calls an RPC with a stream of messages, which may take as long as it likes.
    pub(super) async fn stream<S>(&self, method: &'static Method, messages: S) -> Result<Value, Status>
    where
        S: futures::Stream<Item = Result<Bytes, Status>> + Send + 'static,
    {
        let mut answer = self.gateway.open(self.caller.clone(), &method.path, messages).await?;
        plain(method, &answer.only().await?)
    }

    /// The body as it is.
    pub(super) fn take_body(&mut self) -> Body {
        self.body.get_mut().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(Body::empty)
    }

    /// Calls a method that is not of this API, with an empty message.
    pub(super) async fn raw(&self, path: &str) -> Result<Bytes, Status> {
        self.gateway.unary(self.caller(), path, async { Ok(Bytes::new()) }).await
    }
}

/// An RPC by its name.
pub(super) fn method(rpc: &str) -> Result<&'static Method, Status> {
    methods::find(&format!("/mi.v1.{rpc}")).ok_or_else(|| Status::unimplemented(format!("there is no `{rpc}`")))
}

/// A message in JSON.
pub(super) fn plain(method: &Method, message: &[u8]) -> Result<Value, Status> {
    json::value(&method.output, message).map_err(status)
}

async fn fields(body: Body) -> Result<Fields, Status> {
    let text = body::whole(body, MAX_MESSAGE).await?;
    Fields::read(&text).map_err(status)
}
