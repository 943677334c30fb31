//! A call of a public RPC in JSON, for doors whose requests are no RPCs of themselves.

use bytes::Bytes;
use mi_rpc::status;
use serde_json::Value;
use tonic::Status;

use crate::{
    byte_path::{BytePath, Caller},
    json, methods,
};

impl BytePath {
    /// Calls a unary RPC by its path, such as `/mi.v1.TaskService/GetTask`, and answers with names in snake_case and every
    /// field that cannot be absent.
    pub(crate) async fn call(&self, caller: &Caller, path: &str, request: &Value) -> Result<Value, Status> {
        let method = methods::find(path).ok_or_else(|| Status::unimplemented(format!("there is no `{path}`")))?;
        let message = json::to_wire(&method.input, request.to_string().as_bytes()).map_err(status)?;
        let answer = self.unary(caller.clone(), path, async move { Ok::<Bytes, Status>(message) }).await?;
        json::value(&method.output, &answer).map_err(status)
    }
}
