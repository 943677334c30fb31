//! A call of a public RPC in JSON, for doors whose requests are no RPCs of themselves.

use bytes::Bytes;
use futures::stream;
use mi_rpc::status;
use serde_json::Value;
use tonic::Status;

use crate::{
    byte_path::{Answer, BytePath, Caller},
    json,
    methods::{self, Method},
};

impl BytePath {
    /// Calls a unary RPC by its path, such as `/mi.v1.TaskService/GetTask`, and answers with names in snake_case and every
    /// field that cannot be absent.
    pub(crate) async fn call(&self, caller: &Caller, path: &str, request: &Value) -> Result<Value, Status> {
        let method = find(path)?;
        let message = json::to_wire(&method.input, request.to_string().as_bytes()).map_err(status)?;
        let answer = self.unary(caller.clone(), path, async move { Ok::<Bytes, Status>(message) }).await?;
        json::value(&method.output, &answer).map_err(status)
    }

    /// The same for an RPC that answers a stream.
    pub(crate) async fn watch(&self, caller: &Caller, path: &str, request: &Value) -> Result<Watch, Status> {
        let method = find(path)?;
        let message = json::to_wire(&method.input, request.to_string().as_bytes()).map_err(status)?;
        let answer = self.open(caller.clone(), path, stream::iter([Ok::<Bytes, Status>(message)])).await?;
        Ok(Watch { method, answer })
    }
}

fn find(path: &str) -> Result<&'static Method, Status> {
    methods::find(path).ok_or_else(|| Status::unimplemented(format!("there is no `{path}`")))
}

/// What a stream answers, as values.
pub(crate) struct Watch {
    method: &'static Method,
    answer: Answer,
}

impl Watch {
    /// The next value; none: the stream ended well.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Status> {
        let message = self.answer.next().await?;
        message.map(|message| json::value(&self.method.output, &message).map_err(status)).transpose()
    }
}
