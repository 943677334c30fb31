//! `mi.v1.ChatService`.

use futures::TryStreamExt;
use mi_proto::v1::{self, chat_service_server::ChatService};
use mi_rpc::{Reply, convert, handle, outgoing, status};
use prost::Message as _;
use tonic::{Request, codegen::BoxStream};

use super::{Chat, model::Message};

/// Messages that wait for a client; each may be as long as messages get.
const BUFFER: usize = 16;

fn to_wire(message: Message) -> v1::ChatMessage {
    v1::ChatMessage {
        id: message.id.to_string(),
        from: message.from.name,
        to_agent: message.to.map(|to| to.name).unwrap_or_default(),
        body: message.body,
        time: Some(convert::timestamp(message.time)),
        cause: message.cause,
        depth: message.depth,
    }
}

#[tonic::async_trait]
impl ChatService for Chat {
    async fn send_message(&self, request: Request<v1::SendMessageRequest>) -> Reply<v1::SendMessageResponse> {
        handle!(request, |caller, body| {
            let message = self.send(&caller, &body, &body.encode_to_vec()).await?;
            v1::SendMessageResponse { message: Some(to_wire(message)) }
        })
    }

    async fn list_messages(&self, request: Request<v1::ListMessagesRequest>) -> Reply<v1::ListMessagesResponse> {
        handle!(request, |caller, body| {
            let messages = self.list(&caller, &body).await?;
            v1::ListMessagesResponse { messages: messages.into_iter().map(to_wire).collect() }
        })
    }

    type WatchMessagesStream = BoxStream<v1::WatchMessagesResponse>;

    async fn watch_messages(&self, request: Request<v1::WatchMessagesRequest>) -> Reply<Self::WatchMessagesStream> {
        handle!(request, |caller, body| {
            let messages = self.watch(&caller, &body).await?;
            let answers = messages.map_ok(|message| v1::WatchMessagesResponse { message: Some(to_wire(message)) });
            outgoing(&self.background, BUFFER, answers.map_err(status))
        })
    }
}
