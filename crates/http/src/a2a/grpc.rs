//! The protocol over gRPC.

use bytes::Buf;
use futures::StreamExt;
use mi_proto::codec::buffers;
use mi_rpc::{HttpRequest, HttpResponse, deadline, status};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::{
    Request, Response, Status,
    codec::{BufferSettings, Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, ServerStreamingService, UnaryService},
};

use super::{A2a, GRPC, MAX_BODY, message, method, operations::Session, value};
use crate::{byte_path::Caller, methods::Method};

/// Answers a call.
pub(super) async fn serve(door: &A2a, request: HttpRequest) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let Some(method) = parts.uri.path().strip_prefix(GRPC).and_then(method) else {
        return Status::unimplemented("there is no such method of lf.a2a.v1.A2AService").into_http();
    };
    let caller = match deadline::parse(&parts.headers) {
        Ok(Some(limit)) => Caller::of(&parts).within(limit),
        Ok(None) => Caller::of(&parts),
        Err(error) => return status(error).into_http(),
    };
    let session = match door.session(caller, &parts.headers).await {
        Ok(session) => session,
        Err(refused) => return refused.into_http(),
    };
    let mut grpc = Grpc::new(Messages(method.input.clone()))
        .max_decoding_message_size(MAX_BODY)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd);
    let request = http::Request::from_parts(parts, body);
    match method.server_streams {
        false => grpc.unary(Call(session, method), request).await,
        true => grpc.server_streaming(Call(session, method), request).await,
    }
}

/// A call of somebody who was let in.
struct Call(Session, &'static Method);

impl Call {
    fn name(&self) -> &'static str {
        self.1.path.strip_prefix(GRPC).unwrap_or_default()
    }
}

type Future<T> = std::pin::Pin<Box<dyn std::future::Future<Output = Result<Response<T>, Status>> + Send>>;

impl UnaryService<DynamicMessage> for Call {
    type Response = DynamicMessage;
    type Future = Future<DynamicMessage>;

    fn call(&mut self, request: Request<DynamicMessage>) -> Self::Future {
        let (session, output, name) = (self.0.clone(), self.1.output.clone(), self.name());
        Box::pin(async move {
            let answer = session.unary(name, &value(request.get_ref())?).await?;
            message(&output, answer).map(Response::new)
        })
    }
}

impl ServerStreamingService<DynamicMessage> for Call {
    type Response = DynamicMessage;
    type ResponseStream = futures::stream::BoxStream<'static, Result<DynamicMessage, Status>>;
    type Future = Future<Self::ResponseStream>;

    fn call(&mut self, request: Request<DynamicMessage>) -> Self::Future {
        let (session, output, name) = (self.0.clone(), self.1.output.clone(), self.name());
        Box::pin(async move {
            let answers = session.stream(name, &value(request.get_ref())?).await?;
            Ok(Response::new(answers.map(move |answer| message(&output, answer?)).boxed()))
        })
    }
}

/// Messages by their descriptor: what comes in is of this one, and what goes out has its own.
#[derive(Debug, Clone)]
struct Messages(MessageDescriptor);

impl Codec for Messages {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Messages {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(into).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for Messages {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        let broken = |error| super::errors::invalid("the message", &format!("is no {}: {error}", self.0.name()));
        DynamicMessage::decode(self.0.clone(), bytes).map(Some).map_err(broken)
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
